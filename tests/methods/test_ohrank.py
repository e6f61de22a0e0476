"""Ordinal hyperplanes: they rank what can be ranked; the features are pooled maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.methods.ohrank import OrdinalHyperplanes, pooled_features
from agelens.networks.pvp import PermutationNetwork
from agelens.training.transforms import normalise


def test_machines_count_the_ages_below() -> None:
    random = np.random.default_rng(0)
    ages = random.choice([3, 13, 23, 33, 43, 63], 300).astype(np.float32) + 0.5
    features = np.stack([ages + random.normal(0, 0.2, 300), -2 * ages, random.normal(0, 1, 300)], axis=1)
    fitted = OrdinalHyperplanes(penalty=100.0).fit(features[:200], ages[:200])
    found = fitted.predict(features[200:])
    assert set(found) <= {3, 13, 23, 33, 43, 63}
    assert np.abs(found - np.floor(ages[200:])).mean() < 1.0
    assert fitted.weights.shape == (4, 5)
    with pytest.raises(InputError, match="all faces are 4"):
        OrdinalHyperplanes().fit(features[:5], np.full(5, 4.2))


def test_the_machines_are_those_of_liblinear() -> None:
    random = np.random.default_rng(0)
    ages = random.integers(20, 26, 300).astype(np.float64)
    features = 0.1 * np.outer(ages, random.normal(size=20)) + random.normal(5, 3, (300, 20))
    fitted = OrdinalHyperplanes(penalty=0.1, tolerance=1e-6).fit(features, ages)
    scaled = (features - features.mean(0)) / features.std(0)
    for position, age in enumerate(fitted.ages[:-1]):
        cost = np.abs(ages - age - 0.5) + 0.5
        machine = LinearSVC(C=0.1, dual=False, tol=1e-10, max_iter=100_000)
        machine.fit(scaled, ages > age, sample_weight=cost / cost.mean())
        expected = [*machine.coef_[0], *machine.intercept_]
        np.testing.assert_allclose(fitted.weights[:, position], expected, atol=2e-4)


def test_c_is_chosen_on_the_validation_part() -> None:
    random = np.random.default_rng(1)
    ages = random.integers(20, 40, 160).astype(np.float64)
    features = random.normal(0, 1, (160, 120))
    features[:, 0] += 0.2 * (ages - 30)  # one value tells, 119 tempt machines that fit too closely
    machines = OrdinalHyperplanes()
    found = machines.fit_best(features[:80], ages[:80], features[80:], ages[80:], (10.0, 1e-4))
    assert list(found) == [1e-4, 10.0]
    assert machines.penalty == min(found, key=lambda penalty: found[penalty])
    judged = np.abs(machines.predict(features[80:]) - ages[80:]).mean()
    assert judged == pytest.approx(found[machines.penalty])
    with pytest.raises(InputError, match="a C to choose"):
        machines.fit_best(features, ages, features, ages, ())


def test_features_are_sixteen_values_a_map() -> None:
    torch.manual_seed(0)
    network = PermutationNetwork(4, 6, 32, width=0.03).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = pooled_features(network, CropSet(pixels, np.zeros(5, np.float32), np.arange(5)), batch=2)
    maps = sum(network.chain.channels(number) for number in range(1, 10))
    assert found.shape == (5, 16 * maps)
    with torch.inference_mode():
        (first,) = network.maps(normalise(torch.from_numpy(pixels[3:4])), [1])
    assert found[3, 0] == pytest.approx(first[0, 0, :8, :8].max().item(), abs=1e-4)
