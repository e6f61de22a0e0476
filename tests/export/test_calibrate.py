"""A new calibration of a model file: intervals that hold, weights and estimates that stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import InputError, OutputError, SplitError
from agelens.export.calibrate import calibrate
from agelens.export.degraded import DEGRADATIONS, degraded
from agelens.export.shift_fit import Faces, fit_shift
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.inference.estimator import AgeEstimator
from agelens.label_distribution import AgeBins, gaussian
from agelens.model_file import open_model_file
from agelens.terms import PERMISSIONS

SIDE = 24
BINS = AgeBins(0, 100)


def coloured(level: float, random: np.random.Generator, side: int = SIDE) -> NDArray[np.uint8]:
    """A crop of colour and texture whose mean brightness is ``level``."""
    texture = random.normal(0, 12, (side, side, 1)) + np.array([18.0, 0.0, -18.0])
    return np.clip(level + texture - texture.mean(), 0, 255).astype(np.uint8)


def folder(path: Path, count: int, error: float, bands: bool = False) -> Path:
    """Crops whose small model's estimate errs by a normal deviation of ``error`` years."""
    random = np.random.default_rng(count)
    path.mkdir()
    (path / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(SIDE).to_dict()), "utf-8")
    lines = ["path,age,age_low,age_high,split"]
    for number in range(count):
        estimate = random.uniform(25, 75)
        Image.fromarray(coloured(estimate * 2.55, random)).save(path / f"{number}.png")
        age = round(float(np.clip(random.normal(estimate, error), 0, 100)))
        label = f",{age // 10 * 10},{age // 10 * 10 + 9}" if bands else f"{age},,"
        lines.append(f"{number}.png,{label},{'train' if number % 6 == 0 else 'val'}")
    (path / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return path / "manifest.csv"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("sets")
    return folder(place / "own", 180, 8.0), folder(place / "bands", 90, 12.0, bands=True)


def test_one_command_from_two_manifests(sets: tuple[Path, Path], small_model: Path, tmp_path: Path) -> None:
    own, bands = sets
    out = tmp_path / "calibrated.onnx"
    told = CliRunner().invoke(
        app, ["calibrate", str(small_model), "--data", str(own), "--other", str(bands), "--out", str(out)]
    )
    assert told.exit_code == 0, told.output
    assert f"{bands}, degraded" in told.output
    _, card = open_model_file(out)
    assert card.calibration is not None
    assert card.calibration.shift is not None
    assert card.calibration.samples == 150
    assert card.provenance["calibrated"] == {
        "split": "val",
        "manifests": [{"data": ["own"], "images": 150}, {"data": ["bands"], "images": 75}],
    }
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert metadata["agelens.format_version"] == "2"

    random = np.random.default_rng(0)
    crops = np.stack([np.asarray(Image.fromarray(coloured(128, random)).resize((16, 16)))] * 2)
    crops[1] = np.asarray(
        Image.fromarray(crops[0]).filter(ImageFilter.GaussianBlur(2)).convert("L").convert("RGB")
    )
    before, after = (AgeEstimator(path).estimate_aligned(crops) for path in (small_model, out))
    np.testing.assert_array_equal(before[0], after[0])
    low, high = card.calibration.interval(after[1], BINS, 0.9)
    assert (high - low)[1] >= (high - low)[0]


def test_the_terms_are_those_of_the_strictest_set(
    sets: tuple[Path, Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    licence = {
        "code": "Apache-2.0",
        "data": "X",
        "permits": "attribution",
        "use": f"{PERMISSIONS['attribution']}; no",
    }
    model = make_model(licence=json.dumps(licence))

    def named(manifest: Path, name: str) -> Path:
        first, *rows = manifest.read_text("utf-8").splitlines()
        other = manifest.with_name(f"{name}.csv")
        other.write_text("\n".join([f"{first},dataset", *(f"{row},{name}" for row in rows)]), "utf-8")
        return other

    own, fairface, utkface = sets[0], named(sets[1], "fairface"), named(sets[1], "utkface")
    out = tmp_path / "m.onnx"
    assert calibrate(model, own, out, others=[fairface])[0].licence == licence
    card, _ = calibrate(model, own, out, others=[fairface, utkface])
    assert card.licence["permits"] == "research"
    assert card.licence["use"] == f"{PERMISSIONS['research']}; no"
    assert card.licence["data"].startswith("X; calibrated on UTKFace")
    assert open_model_file(out)[1].licence == card.licence


def test_the_first_manifest_is_covered_and_all_are_told(
    sets: tuple[Path, Path], small_model: Path, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    _, groups = calibrate(
        small_model, sets[0], tmp_path / "m.onnx", others=[sets[1]], progress=lambda *step: steps.append(step)
    )
    assert [(group.degraded, group.faces) for group in groups] == [
        (False, 150),
        (False, 75),
        (True, 150),
        (True, 75),
    ]
    assert groups[0].coverage_before < 0.8 < 0.89 <= groups[0].coverage_after <= 0.93
    # The network's distribution has a deviation of 5, its errors of 8.
    assert groups[0].width_before == pytest.approx(2 * 1.645 * 5, rel=0.02)
    assert groups[0].width_after == pytest.approx(2 * 1.645 * 8, rel=0.15)
    assert steps[-1] == (450, 450)


def test_rare_ages_weigh_more_than_their_number_and_the_weights_stay_positive() -> None:
    """A network that judges every tenth face, a child, to be 20: the child gains."""
    random = np.random.default_rng(0)
    ages = np.where(np.arange(600) % 10 == 0, 10.0, 25.0)
    mass = gaussian(np.where(ages == 10, 20.0, 25.0) + random.normal(0, 2, 600), BINS, 5.0)
    looks = random.normal(0, 1, (600, 4))
    fitted = fit_shift([Faces(mass, looks, ages, np.stack([ages, ages], axis=1))], BINS)
    assert all(usual.below >= 0 <= usual.above for usual in fitted.ranges)
    child = mass[ages == 10].mean(axis=0)
    corrected = fitted.corrected(child, BINS, np.zeros(4))
    assert corrected[:18].sum() > child[:18].sum() + 0.05


def test_a_soft_set_is_what_widens_soft_crops() -> None:
    """Errors are twice as large on the crops of low sharpness: its weight carries it."""
    random = np.random.default_rng(1)
    soft = np.arange(2000) % 2 == 1
    centres = random.uniform(30, 70, 2000)
    ages = np.round(centres + random.normal(0, np.where(soft, 10.0, 5.0)))
    looks = random.uniform(0, 1, (2000, 4))
    looks[soft, 0] -= 2
    mass = gaussian(centres, BINS, 5.0)
    bounds = np.stack([ages, ages], axis=1)
    sharp_faces, soft_faces = (
        Faces(mass[chosen], looks[chosen], ages[chosen], bounds[chosen]) for chosen in (~soft, soft)
    )
    fitted = fit_shift([sharp_faces, soft_faces], BINS)
    ratio = fitted.widening(soft_faces.appearance).mean() / fitted.widening(sharp_faces.appearance).mean()
    assert 2.5 < ratio < 5  # a Gaussian of twice the deviation is one at s = 4
    assert fitted.ranges[0].below > 5 * max(usual.above for usual in fitted.ranges)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_degraded_copy_has_the_form_of_a_crop_and_is_another(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = coloured(120, np.random.default_rng(0), side=64)
    function = DEGRADATIONS[kind]
    monkeypatch.setattr("agelens.export.degraded.DEGRADATIONS", {kind: function})
    one, again = (degraded(crop, np.random.default_rng(3)) for _ in range(2))
    assert one.shape == crop.shape
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - crop).mean() > 1


def test_what_cannot_be_used_is_said(sets: tuple[Path, Path], small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    with pytest.raises(SplitError, match=r"manifest\.csv: no rows with split 'test'"):
        calibrate(small_model, sets[0], out, split="test")
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(plain / "a.png")
    (plain / "manifest.csv").write_text("path,age\na.png,20\n", "utf-8")
    with pytest.raises(InputError, match="crops of an unknown geometry"):
        calibrate(small_model, plain / "manifest.csv", out, split="all")
    (plain / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(SIDE).to_dict()), "utf-8")
    with pytest.raises(SplitError, match="no row has a split; --split all takes all rows"):
        calibrate(small_model, plain / "manifest.csv", out)
    assert not out.exists()


def test_neither_the_model_nor_a_manifest_is_written_over(
    sets: tuple[Path, Path], small_model: Path, tmp_path: Path
) -> None:
    own, bands = sets
    model = tmp_path / "model.onnx"
    model.write_bytes(small_model.read_bytes())
    before = [path.read_bytes() for path in (model, own, bands)]
    for out in (model, own, bands):
        with pytest.raises(OutputError, match="is what this command reads"):
            calibrate(model, own, out, others=[bands])
    assert [path.read_bytes() for path in (model, own, bands)] == before
