"""The correction of distributions by the look of the crop."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from agelens.calibration import LEVEL_GRID, Calibration
from agelens.faces.appearance import MEASURES
from agelens.inference.estimator import AgeEstimator
from agelens.inference.face import Face
from agelens.label_distribution import AgeBins, gaussian, interval
from agelens.shift import FARTHEST, ShiftCorrection, UsualRange

BINS = AgeBins(0, 100)
SHIFT = ShiftCorrection(
    base=0.1,
    ranges=(
        UsualRange(-1.2, -1.0, 0.3, 0.2),
        UsualRange(3.5, 4.0, 0.1, 0.0),
        UsualRange(0.4, 0.6, 0.0, 0.1),
        UsualRange(3.0, 4.0, 0.2, 0.25),
    ),
    ages=(0.0, 20.0, 100.0),
    log_factors=(0.5, -0.5, 0.0),
)
USUAL = np.array([-1.1, 3.7, 0.5, 3.5])
FLAT = replace(SHIFT, log_factors=(0.0, 0.0, 0.0))


def test_golden_widening() -> None:
    look = [
        -1.3,
        4.5,
        0.3,
        0.0,
    ]  # half a range too soft, one too rich in contrast, half too dark, grey: 3 ranges
    assert math.log(float(SHIFT.widening(look))) == pytest.approx(0.1 + 0.5 * 0.3 + 0.0 + 0.0 + 3 * 0.2)
    assert math.log(float(SHIFT.widening(USUAL))) == pytest.approx(0.1)
    assert math.log(float(SHIFT.widening([9.0, 3.7, 0.5, 3.5]))) == pytest.approx(0.1 + 0.2 * FARTHEST)


def test_golden_distribution() -> None:
    """Two ages: p = 0.8, 0.2 at s = 2 is 2/3, 1/3; a factor of 2 on the second makes them equal."""
    bins = AgeBins(0, 1)
    shift = replace(SHIFT, base=math.log(2), ages=(0.0, 1.0), log_factors=(0.0, 0.0))
    np.testing.assert_allclose(shift.corrected([0.8, 0.2], bins, USUAL), [2 / 3, 1 / 3], rtol=1e-6)
    doubled = replace(shift, log_factors=(0.0, math.log(2)))
    np.testing.assert_allclose(doubled.corrected([0.8, 0.2], bins, USUAL), [0.5, 0.5], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    measure=st.integers(0, len(MEASURES) - 1),
    sign=st.sampled_from([-1, 1]),
    steps=st.lists(st.floats(0, 6), min_size=2, max_size=2),
    age=st.floats(5, 95),
)
def test_a_crop_further_outside_never_gets_a_narrower_interval(
    measure: int, sign: int, steps: list[float], age: float
) -> None:
    near, far = USUAL.copy(), USUAL.copy()
    near[measure] += sign * min(steps)
    far[measure] += sign * max(steps)
    mass = gaussian(age, BINS, 5.0)
    widths = []
    for look in (near, far):
        low, high = interval(FLAT.corrected(mass, BINS, look), BINS, 0.9)
        widths.append(float(high - low))
    assert widths[1] >= widths[0] - 1e-4


def test_many_at_once_are_each_alone() -> None:
    random = np.random.default_rng(0)
    masses, looks = random.dirichlet(np.ones(101), 5), random.normal(USUAL, 1.0, (5, 4))
    together = SHIFT.corrected(masses, BINS, looks)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-6)
    for mass, look, row in zip(masses, looks, together, strict=True):
        np.testing.assert_allclose(SHIFT.corrected(mass, BINS, look), row, rtol=1e-6)


def test_a_certain_network_is_less_certain_and_finite() -> None:
    mass = np.eye(101)[40]
    corrected = SHIFT.corrected(mass, BINS, [-2.0, 3.7, 0.5, 0.0])
    assert np.isfinite(corrected).all()
    assert 0.5 < corrected[40] < 0.9


def test_survives_the_record_of_a_calibration() -> None:
    calibration = Calibration(1.0, LEVEL_GRID, LEVEL_GRID, 100, "val", SHIFT)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    old = Calibration(1.0, LEVEL_GRID, LEVEL_GRID, 100, "val")
    assert "shift" not in old.to_dict()
    assert Calibration.from_dict(old.to_dict()) == old


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "form 2 is unknown"),
        ({"version": None}, "form None"),
        ({"base": float("inf")}, "finite"),
        ({"base": "wide"}, "wide"),
        ({"ages": [0, 0, 5]}, "rise"),
        ({"ages": []}, "rise"),
        ({"log_factors": [0.0]}, "log_factor for each"),
        ({"log_factors": None}, "damaged"),
        ({"measures": {}}, "measures must be"),
        ({"measures": []}, "measures must be"),
        ({"measures": 3}, "damaged"),
    ],
)
def test_damage_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftCorrection.from_dict(SHIFT.to_dict() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 5.0}, "colour: its usual range"),
        ({"below": -0.1}, "colour: a weight"),
        ({"above": float("nan")}, "finite"),
    ],
)
def test_a_damaged_measure_is_named(change: dict[str, float], message: str) -> None:
    values = SHIFT.to_dict()
    values["measures"]["colour"] |= change
    with pytest.raises(ValueError, match=message):
        ShiftCorrection.from_dict(values)


@pytest.mark.parametrize("key", ["version", "base", "measures", "ages", "log_factors"])
def test_a_missing_key_is_named(key: str) -> None:
    values = SHIFT.to_dict()
    del values[key]
    with pytest.raises(ValueError, match=key):
        ShiftCorrection.from_dict(values)


def test_a_soft_grey_portrait_is_less_sure_than_without_the_correction(portrait: Path) -> None:
    """The committed portrait through the default model, with and without a correction in its calibration."""
    estimator = AgeEstimator()
    (face,) = estimator.estimate(portrait)
    assert face.crop is not None
    soft = Image.fromarray(face.crop.pixels).filter(ImageFilter.GaussianBlur(2)).convert("L").convert("RGB")
    calibration = estimator.card.calibration
    assert calibration is not None
    answers = []
    for shift in (None, FLAT):
        estimator.card = replace(estimator.card, calibration=replace(calibration, shift=shift))
        answers.append([*estimator.estimate(portrait), *estimator.estimate(soft, aligned=True)])
    (sharp, spoilt), (sharp_after, spoilt_after) = answers
    widths = [[high - low for low, high in map(Face.interval, faces)] for faces in answers]
    assert (sharp_after.age, spoilt_after.age) == (sharp.age, spoilt.age)
    assert widths[1][1] - widths[0][1] > 2 * (widths[1][0] - widths[0][0]) > 0
    assert spoilt_after.probability_at_least(18) < spoilt.probability_at_least(18)
