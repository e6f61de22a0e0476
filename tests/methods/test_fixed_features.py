"""Regressors on fixed features: solved as their equations say, stored and exported as every network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.cross_decomposition import CCA

from agelens.data.crop_set import CropSet
from agelens.errors import InputError, RecipeError
from agelens.experiments.leaderboard import Suite
from agelens.experiments.train import train
from agelens.export.from_run import export_run
from agelens.inference.estimator import AgeEstimator
from agelens.label_distribution import AgeBins
from agelens.methods.fixed_features import FixedFeatures, Projection, canonical_direction, kernel_weights
from agelens.methods.ohrank import OrdinalHyperplanes
from agelens.networks.backbones import BACKBONES
from agelens.networks.gabor import GaborPyramid
from agelens.networks.kernel_head import gaussian_kernel
from agelens.networks.stored import load_network
from agelens.training.recipe import Recipe
from agelens.training.stage import run_on_crops

Array = NDArray[np.float64]
BINS = AgeBins(0, 80)
HEADS = {"svr": "reg", "cca": "reg", "kplsr": "reg", "ohrank": "ldl"}


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    ages = [number * 37 % 80 for number in range(120)]  # all of 0 … 79 among the first 90
    return make_crops(ages, 40, split=["train"] * 90 + ["val"] * 30)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(pretrained: bool = False) -> GaborPyramid:
        return GaborPyramid(orientations=1, input_size=32)

    monkeypatch.setitem(BACKBONES, "bif-small", make)


def _recipe(regressor: str, heads: str = "", size: int = 32, **settings: object) -> Recipe:
    table = {
        "name": "test",
        "age_bins": "0-80",
        "method": {"name": "fixed-features", "settings": {"regressor": regressor, **settings}},
        "network": {
            "backbone": "bif-small",
            "heads": [heads or HEADS[regressor]],
            "input_size": size,
        },
    }
    return Recipe.validate(table, "test")


@pytest.mark.parametrize(
    "regressor", [pytest.param(name, marks=[] if name == "kplsr" else pytest.mark.slow) for name in HEADS]
)
def test_it_is_solved_stored_exported_and_calibrated(regressor: str, manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe(regressor, components=40, centres=60)
    run = train(recipe, manifest, tmp_path / "run", cpu=True)
    (row,) = [dict(zip(*pair, strict=True)) for pair in [_rows(run.stage("regressor") / "log.csv")]]
    assert float(row["val MAE age"]) < 12  # the mean age errs by 20
    assert float(row["seconds"]) >= 0
    card = export_run(run, tmp_path / "model.onnx")
    assert card.calibration is not None
    network = load_network(run.network_file("regressor"))
    pixels = np.asarray(Image.open(manifest.parent / "100.png"))
    ours = run_on_crops(network, CropSet(pixels[None], np.zeros(1, np.float32), np.arange(1)), 32)
    (face,) = AgeEstimator(tmp_path / "model.onnx").estimate(pixels, aligned=True)
    assert face.age == pytest.approx(float(ours.age[0]), abs=1.0)  # resized by other code; votes are whole
    low, high = face.interval(0.9)
    assert 0 <= low < high <= 80
    finished = run.network_file("regressor").read_bytes()
    train(recipe, manifest, tmp_path / "run", resume=True, cpu=True)
    again = train(recipe, manifest, tmp_path / "again", cpu=True)
    assert again.network_file("regressor").read_bytes() == finished


def _rows(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def test_canonical_correlation_by_hand_and_by_scikit_learn() -> None:
    # z = (1, 2, 3), y = (10, 20, 40): slope 15, through the means 2 and 70 / 3.
    by_hand = canonical_direction(np.array([[1.0], [2.0], [3.0]]), np.array([10.0, 20.0, 40.0]), 0.0)
    np.testing.assert_allclose(by_hand, [15.0, 70 / 3 - 30])
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 5)) @ random.normal(size=(5, 5))
    ages = features @ random.normal(size=5) * 9 + random.normal(size=80) + 40
    found = canonical_direction(features, ages, 0.0)
    variate = CCA(1, scale=False).fit(features, ages).transform(features)[:, 0]
    assert abs(np.corrcoef(features @ found[:-1], variate)[0, 1]) == pytest.approx(1, abs=1e-9)
    exact = np.linalg.lstsq(np.column_stack([features, np.ones(80)]), ages, rcond=None)[0]
    np.testing.assert_allclose(found, exact)
    held = canonical_direction(features, ages, 1.0)
    # A ridge that is as large as the mean variance turns the direction, not the scale of the estimates.
    assert np.corrcoef(features @ held[:-1], ages)[0, 1] < np.corrcoef(features @ found[:-1], ages)[0, 1]
    residuals = ages - features @ held[:-1] - held[-1]
    assert residuals.mean() == pytest.approx(0, abs=1e-9)


def _kernel_pls(
    kernel: NDArray[np.float64], ages: NDArray[np.float64], directions: int
) -> NDArray[np.float64]:
    """Estimates of the training images by kernel partial least squares in its dual form, step by step."""
    count = len(ages)
    centre = np.eye(count) - np.ones((count, count)) / count
    left, rest = centre @ kernel @ centre, ages - ages.mean()
    said = np.full(count, ages.mean())
    for _ in range(directions):
        latent = left @ rest
        latent /= np.linalg.norm(latent)
        said += latent * (latent @ rest)
        rest = rest - latent * (latent @ rest)
        deflate = np.eye(count) - np.outer(latent, latent)
        left = deflate @ left @ deflate
    return said


@pytest.mark.parametrize("directions", [1, 3, 6])
def test_kernel_partial_least_squares_is_its_dual_form_where_all_are_centres(directions: int) -> None:
    random = np.random.default_rng(1)
    points = torch.as_tensor(random.normal(size=(25, 2)))
    ages = 30 + 10 * np.sin(points[:, 0].numpy()) + random.normal(size=25)
    kernel = gaussian_kernel(points, points, 2.0).numpy()
    found = kernel_weights(kernel, kernel, ages, directions)
    wanted = _kernel_pls(kernel, ages, directions)
    np.testing.assert_allclose(kernel @ found[:-1] + found[-1], wanted, atol=0.05)


def test_one_centre_and_more_directions_than_the_kernel_has() -> None:
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    kernel = gaussian_kernel(points, points[:1], 1.0)
    np.testing.assert_allclose(kernel[:, 0], [1.0, np.exp(-1)])
    found = kernel_weights(kernel.numpy(), np.ones((1, 1)), np.array([20.0, 50.0]), 10)
    slope = -30 / (1 - np.exp(-1))
    np.testing.assert_allclose(found, [slope, 20 - slope])


def test_the_projection_is_folded_and_leaves_out_what_never_changes() -> None:
    random = np.random.default_rng(2)
    features = random.normal(3, 2, (30, 6)).astype(np.float32)
    features[:, 2] = 5
    projection = Projection.fit(features, 4, seed=0)
    projected = projection(features)
    assert projected.shape == (30, 4)
    assert (projection.weights[:, 2] == 0).all()
    assert (projected**2).sum(1).mean() == pytest.approx(1, rel=0.05)
    weights, bias = projection.fold(random.normal(size=(3, 4)), np.arange(3.0))
    assert (weights.shape, bias.shape) == ((3, 6), (3,))
    inner = np.linalg.lstsq(projection.weights.T, weights.T, rcond=None)[0].T
    np.testing.assert_allclose(features @ weights.T + bias, projected @ inner.T + np.arange(3.0), atol=1e-9)
    assert Projection.fit(features[:3], 4, seed=0)(features).shape == (30, 2)


def test_votes_of_the_network_are_the_machines(manifest: Path, tmp_path: Path) -> None:
    recipe = _recipe("ohrank", components=20, tried=(1e-2,))
    run = train(recipe, manifest, tmp_path / "run", cpu=True)
    network = load_network(run.network_file("regressor"))
    pixels = np.stack([np.asarray(Image.open(manifest.parent / f"{n}.png")) for n in range(120)])
    ages = np.array([(n * 37) % 80 for n in range(120)], np.float32)
    crops = CropSet(pixels, ages, np.arange(120))
    stage = FixedFeatures(recipe, BINS).stages()[0]
    with torch.no_grad():
        features = stage._features(network.backbone, crops, np.arange(120))
    projection = Projection.fit(features[:90], 20, recipe.seed)
    machines = OrdinalHyperplanes(1e-2).fit(projection(features[:90]), ages[:90])
    assert len(machines.ages) == 80  # every age of the bins but the oldest
    wanted = machines.predict(projection(features))
    found = run_on_crops(network, crops, 32).age
    assert (found == wanted).mean() > 0.95  # an answer near the border may fall to either side
    assert np.abs(found - wanted).max() <= 1
    older = torch.sigmoid(network(torch.zeros(1, 3, 32, 32)).raw)
    assert older[0, 79] < 1e-6  # no training image is older than 79


def test_what_cannot_be_solved_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"network\.heads\]: the regressor 'svr' solves the head 'reg'"):
        FixedFeatures(_recipe("svr", heads="ldl"), BINS)
    for settings, match in (
        ({"centres": 5000}, r"settings\.centres"),
        ({"tried": [0.0]}, r"settings\.tried"),
        ({"epochs": 3}, r"settings\.epochs"),
    ):
        with pytest.raises(RecipeError, match=match):
            FixedFeatures(_recipe("kplsr", **settings), BINS)
    with pytest.raises(RecipeError, match=r"network\.input_size\]: bif-small reads images of 32 pixels"):
        train(_recipe("svr", size=40), manifest, tmp_path / "size", cpu=True)
    stage = FixedFeatures(_recipe("svr", tried=(0.1, 1.0)), BINS).stages()[0]
    with pytest.raises(RecipeError, match="chosen on the validation part, and there is none: one value"):
        stage.check_without_validation()
    FixedFeatures(_recipe("svr", tried=(1.0,)), BINS).stages()[0].check_without_validation()
    crops = CropSet(np.zeros((3, 32, 32, 3), np.uint8), np.full(3, 7, np.float32), np.arange(3))
    with pytest.raises(InputError, match="two ages or more; all training images are 7"):
        stage.solve(crops, crops, torch.device("cpu"))
    crops = CropSet(crops.pixels, np.array([7, np.nan, 8], np.float32), crops.rows)
    with pytest.raises(InputError, match="'svr' needs an exact age for every image: 1 of 3 in split train"):
        stage.look(crops, crops)


def test_a_suite_tunes_no_rate_of_it(tmp_path: Path) -> None:
    text = 'name = "a"\nrates = [0.1, 0.2]\n'
    text += "".join(f'[[system]]\nrecipe = "{name}"\n' for name in ("dex-utkface", "bif-lsvr-utkface"))
    (tmp_path / "suite.toml").write_text(text)
    suite = Suite.load(tmp_path / "suite.toml")
    assert [suite.rates_of(entry) for entry in suite.system] == [(0.1, 0.2), (None,)]
    assert suite.trainings() == 3
