"""Conditions laid over crops, and what they cost a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.data.manifest import read_manifest
from agelens.errors import InputError
from agelens.evaluation.conditions import CONDITIONS, under_condition
from agelens.evaluation.evaluate import evaluate_system
from agelens.evaluation.robustness import PLAIN, robustness, write_examples
from agelens.faces.alignment import ARCFACE_GEOMETRY, DEFAULT_GEOMETRY

SIDE = 64
LANDMARKS = np.asarray(DEFAULT_GEOMETRY.template) * SIDE


@pytest.fixture(scope="module")
def crop() -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    return np.asarray(Image.fromarray(random.integers(60, 200, (16, 16, 3), np.uint8)).resize((SIDE, SIDE)))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_changes_a_crop_and_is_the_same_every_time(
    crop: NDArray[np.uint8], condition: str
) -> None:
    before = crop.copy()
    found = under_condition(crop, condition, LANDMARKS, 3)
    assert (found.shape, found.dtype) == (crop.shape, crop.dtype)
    assert np.abs(found.astype(int) - crop).mean() > 1
    assert np.array_equal(found, under_condition(crop, condition, LANDMARKS, 3))
    assert np.array_equal(crop, before)
    other = under_condition(crop, condition, LANDMARKS, 4)
    assert np.array_equal(found, other) == (condition != "noisy")


def test_covered_parts_are_covered_and_others_are_not(crop: NDArray[np.uint8]) -> None:
    x, y = LANDMARKS.round().astype(int).T
    left, right, nose, mouth = [(y[k], x[k]) for k in range(4)]
    changed = {
        name: np.any(under_condition(crop, name, LANDMARKS) != crop, axis=2)
        for name in ("masked", "glasses", "sunglasses", "half")
    }
    assert changed["masked"][nose]
    assert changed["masked"][mouth]
    assert not changed["masked"][left]
    assert changed["sunglasses"][left]
    assert changed["sunglasses"][right]
    assert not changed["sunglasses"][mouth]
    assert not changed["glasses"][left]
    assert 0 < changed["glasses"].sum() < changed["sunglasses"].sum()
    assert changed["half"][left]
    assert not changed["half"][right]
    grey = under_condition(crop, "grey", LANDMARKS)
    assert np.ptp(grey.astype(int), axis=2).max() == 0
    assert under_condition(crop, "dark", LANDMARKS).mean() < crop.mean() / 2
    assert under_condition(crop, "turned", LANDMARKS)[0, 0].any()  # no black corners
    flat = under_condition(np.full((40, 40, 3), 128, np.uint8), "faded", LANDMARKS)
    assert np.array_equal(
        np.unique(flat), [140]
    )  # 255 (0.55 + 0.45 (128 / 255 - 0.5)) = 140.5, rounded to even


def _folder(path: Path, *, bands: bool = False, geometry: bool = True) -> Path:
    """Flat crops of different brightness: what the small model reads an age from."""
    random = np.random.default_rng(1)
    path.mkdir()
    if geometry:
        (path / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(24).to_dict()), "utf-8")
    lines = ["path,age,age_low,age_high,split"]
    for number in range(60):
        level = random.uniform(25, 75)
        texture = random.normal(0, 12, (24, 24, 1)) + np.array([18.0, 0.0, -18.0])
        image = np.clip(level * 2.55 + texture - texture.mean(), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(path / f"{number}.png")
        age = round(float(np.clip(random.normal(level, 5), 0, 100)))
        label = f",{age // 10 * 10},{age // 10 * 10 + 9}" if bands else f"{age},,"
        lines.append(f"{number}.png,{label},{'val' if number % 3 == 0 else 'test'}")
    (path / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return path / "manifest.csv"


@pytest.mark.parametrize("bands", [False, True])
def test_without_a_condition_the_figures_are_those_of_evaluate(
    small_model: Path, tmp_path: Path, bands: bool
) -> None:
    data = _folder(tmp_path / "own", bands=bands)
    plain, dark = robustness(small_model, data, conditions=["dark"], replicates=200)
    found = evaluate_system(str(small_model), read_manifest(data), "test", "aligned", by=[])
    known = found.results[0].metrics
    names = ("band distance", "band bias") if bands else ("MAE", "bias")
    assert (plain.condition, plain.images, plain.change) == (PLAIN, 40, None)
    assert plain.error.value == pytest.approx(known[names[0]].value, abs=1e-6)
    assert plain.bias == pytest.approx(known[names[1]].value, abs=1e-6)
    assert plain.coverage == pytest.approx(known["coverage(90%)"].value, abs=0.01 if bands else 1e-9)
    # The small model reads the age from the brightness: in the dark all look younger.
    assert dark.bias < plain.bias - 10
    assert dark.change is not None
    assert dark.change.low > 0
    assert dark.change.difference == pytest.approx(dark.error.value - plain.error.value)


def test_the_command_prints_writes_and_shows(small_model: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "own")
    arguments = ["robustness", str(small_model), "--data", str(data), "--conditions", "grey, masked"]
    written, shown = tmp_path / "found.json", tmp_path / "shown"
    told = CliRunner().invoke(app, [*arguments, "--json", str(written), "--examples", str(shown)])
    assert told.exit_code == 0, told.output
    lines = told.output.splitlines()
    assert lines[0].endswith("split test: 40 images")
    assert lines[1].split()[:2] == ["condition", "error,"]
    assert [line.split("  ")[0] for line in lines[2:]] == [PLAIN, "grey", "masked"]
    facts = json.loads(written.read_text("utf-8"))
    assert [row["condition"] for row in facts["conditions"]] == [PLAIN, "grey", "masked"]
    assert facts["conditions"][0]["change"] is None
    assert sorted(path.name for path in shown.iterdir()) == ["grey.png", "masked.png"]
    with Image.open(shown / "grey.png") as picture:
        assert picture.size == (24, 24)
    for wrong, message in (
        (["--conditions", "fog"], "there is no condition 'fog'; known: grey, dark"),
        (["--split", "train"], "no rows with split 'train'"),
    ):
        told = CliRunner().invoke(app, [*arguments, *wrong])
        assert told.exit_code == 2
        assert message in told.output


def test_crops_that_the_model_was_not_made_for_are_refused(small_model: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "own", geometry=False)
    with pytest.raises(InputError, match="crops of an unknown geometry, the model was made for 'agelens-v1'"):
        robustness(small_model, data)
    with pytest.raises(InputError, match="crops of an unknown geometry; agelens prepare"):
        write_examples(data, tmp_path / "shown", conditions=["grey"])
    other = ARCFACE_GEOMETRY.with_size(24)
    data.with_name("geometry.json").write_text(json.dumps(other.to_dict()), "utf-8")
    with pytest.raises(InputError, match=f"crops of the geometry '{other.name}', the model was made for"):
        robustness(small_model, data)


def test_the_help_names_all_conditions() -> None:
    told = " ".join(CliRunner().invoke(app, ["robustness", "--help"], terminal_width=200).output.split())
    assert f"Some of {', '.join(CONDITIONS)};" in told
