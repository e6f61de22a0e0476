"""One file that averages several: their mean, its calibration and terms, and what cannot be averaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import InputError, ModelFileError, OutputError, SplitError
from agelens.export.ensemble import ensemble
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.faces.crops import resize_aligned
from agelens.inference.estimator import AgeEstimator
from agelens.inference.shipped_models import model_path
from agelens.label_distribution import AgeBins
from agelens.metrics import aar
from agelens.model_file import open_model_file

SIDE = 16
BINS = AgeBins(0, 100)
ModelMaker = Callable[..., Path]


def older(model: Path, factor: float, digest: str, **metadata: str) -> Path:
    """The small model with ages ``factor`` times as high."""
    content = onnx.load(model)
    (years,) = [tensor for tensor in content.graph.initializer if tensor.name == "years"]
    value = onnx.numpy_helper.to_array(years) * factor
    years.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, np.float32), "years"))
    told = {entry.key: entry.value for entry in content.metadata_props}
    told |= {"agelens.digest": digest * 64} | {f"agelens.{key}": text for key, text in metadata.items()}
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, told)
    path = model.with_name(f"older-{digest}.onnx")
    onnx.save(content, path)
    return path


@pytest.fixture(scope="module")
def pair(make_model: ModelMaker) -> tuple[Path, Path]:
    open_terms = json.dumps({"code": "Apache-2.0", "data": "ours", "permits": "any", "use": "any use"})
    research = {
        "code": "Apache-2.0",
        "data": "theirs",
        "permits": "research",
        "use": "non-commercial research only; not for decisions",
    }
    first = make_model(size=SIDE, name="plain", licence=open_terms)
    return first, older(make_model(size=SIDE), 1.4, "a", name="older", licence=json.dumps(research))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey crops whose age is about 1.2 times their brightness, so that the mean of both is right."""
    place, random = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    (place / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(SIDE).to_dict()), "utf-8")
    lines = ["path,age,split"]
    for number in range(120):
        level = random.uniform(50, 160)
        Image.fromarray(np.full((SIDE, SIDE, 3), level, np.uint8)).save(place / f"{number}.png")
        age = round(float(np.clip(random.normal(1.2 * level / 2.55, 3.0), 0, 100)))
        lines.append(f"{number}.png,{age},{'val' if number % 2 else 'test'}")
    (place / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return place / "manifest.csv"


def answers(model: Path, crops: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    session, _ = open_model_file(model)
    images = np.stack([np.asarray(Image.open(crops.with_name(f"{number}.png"))) for number in range(20)])
    ages, mass = session.run(["age", "distribution"], {"images": images})
    return ages.astype(np.float64), mass.astype(np.float64)


def test_it_answers_with_the_mean_of_its_models(pair: tuple[Path, Path], crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.onnx"
    told = CliRunner().invoke(app, ["ensemble", *map(str, pair), "--data", str(crops), "--out", str(out)])
    assert told.exit_code == 0, told.output
    assert "mean of plain and older" in told.output
    assert "terms: non-commercial research only; not for decisions" in told.output
    members, (ages, mass) = [answers(model, crops) for model in pair], answers(out, crops)
    assert ages == pytest.approx(np.mean([said for said, _ in members], axis=0), abs=1e-4)
    _, card = open_model_file(out)
    assert card.calibration is not None
    powered = np.mean([said for _, said in members], axis=0) ** (1 / card.calibration.temperature)
    assert mass == pytest.approx(powered / powered.sum(axis=1, keepdims=True), abs=1e-5)
    assert (card.name, card.licence["permits"]) == ("both", "research")
    assert card.licence["data"] == "ours; theirs"
    assert [member["name"] for member in card.provenance["members"]] == ["plain", "older"]
    assert card.provenance["data"] == "none"
    assert card.calibration.samples == 60
    (face,) = AgeEstimator(out).estimate(crops.with_name("0.png"), aligned=True)
    assert face.age == pytest.approx(ages[0], abs=1e-3)
    low, high = face.interval(0.9)
    assert low < face.age < high


@pytest.mark.parametrize("mirror", [False, True])
def test_the_better_model_may_have_the_larger_share(
    pair: tuple[Path, Path], crops: Path, tmp_path: Path, mirror: bool
) -> None:
    out = tmp_path / "both.onnx"
    command = ["ensemble", *map(str, pair), "--data", str(crops), "--out", str(out), "--shares", "3,1"]
    told = CliRunner().invoke(app, [*command, "--mirror"] if mirror else command)
    assert told.exit_code == 0, told.output
    assert "mean of 0.75 × plain and 0.25 × older" in told.output
    (first, second), (ages, mass) = [answers(model, crops) for model in pair], answers(out, crops)
    assert ages == pytest.approx(0.75 * first[0] + 0.25 * second[0], abs=1e-4)
    _, card = open_model_file(out)
    assert card.calibration is not None
    powered = (0.75 * first[1] + 0.25 * second[1]) ** (1 / card.calibration.temperature)
    assert mass == pytest.approx(powered / powered.sum(axis=1, keepdims=True), abs=1e-5)
    assert [member["share"] for member in card.provenance["members"]] == [0.75, 0.25]


def test_it_permits_no_more_than_the_crops_it_is_calibrated_on(
    pair: tuple[Path, Path], crops: Path, tmp_path: Path
) -> None:
    lines = crops.read_text("utf-8").splitlines()
    named = crops.with_name("named.csv")
    named.write_text("\n".join([f"{lines[0]},dataset", *(f"{line},utkface" for line in lines[1:])]), "utf-8")
    own = ensemble(pair[:1], crops, tmp_path / "own.onnx", mirror=True)
    card = ensemble(pair[:1], named, tmp_path / "theirs.onnx", mirror=True)
    assert (own.licence["permits"], card.licence["permits"]) == ("any", "research")
    assert card.licence["data"].startswith("ours; calibrated on ")
    assert card.provenance["calibrated"]["manifests"] == [{"data": ["utkface"], "images": 60}]


def test_a_model_and_its_mirror_image_share_their_weights(crops: Path, tmp_path: Path) -> None:
    model, out = "student-strided-fairface", tmp_path / "mirrored.onnx"
    faces = tmp_path / "faces"
    faces.mkdir()
    random, lines = np.random.default_rng(0), ["path,age,split"]
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(faces / f"{number}.png")
        lines.append(f"{number}.png,{5 * number},val")
    (faces / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (faces / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(64).to_dict()), "utf-8")
    card = ensemble([model], faces / "manifest.csv", out, mirror=True)
    assert card.decoding["views"] == "the crop and its mirror image"
    plain, _ = open_model_file(model_path(model))
    session, _ = open_model_file(out)
    images = np.stack([np.asarray(Image.open(faces / f"{number}.png")) for number in range(12)])
    flipped = np.ascontiguousarray(images[:, :, ::-1])
    ages = [plain.run(["age"], {"images": view})[0] for view in (images, flipped)]
    assert np.abs(ages[0] - ages[1]).max() > 0.01
    assert session.run(["age"], {"images": images})[0] == pytest.approx(np.mean(ages, axis=0), abs=1e-3)
    assert session.run(["age"], {"images": flipped})[0] == pytest.approx(np.mean(ages, axis=0), abs=1e-3)
    assert out.stat().st_size < 1.1 * model_path(model).stat().st_size


@pytest.mark.parametrize("mirror", [False, True])
def test_a_member_of_smaller_crops_sees_them_resized(tmp_path: Path, mirror: bool) -> None:
    models, out = ["student-strided-fairface", "efficientnet-lite0-fairface"], tmp_path / "both.onnx"
    random, lines = np.random.default_rng(0), ["path,age,split"]
    for number in range(20):
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{5 * number},val")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (tmp_path / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(128).to_dict()), "utf-8")
    card = ensemble(models, tmp_path / "manifest.csv", out, mirror=mirror)
    assert card.geometry["size"] == 96
    crops = [Image.open(tmp_path / f"{number}.png").resize((96, 96)) for number in range(20)]
    wanted = []
    for model, side in zip(models, (64, 96), strict=True):
        session, _ = open_model_file(model_path(model))
        seen = np.stack([resize_aligned(np.asarray(crop), side) for crop in crops])
        views = [seen, np.ascontiguousarray(seen[:, :, ::-1])] if mirror else [seen]
        wanted.append(np.mean([session.run(["age"], {"images": view})[0] for view in views], axis=0))
    assert np.abs(wanted[0] - wanted[1]).max() > 2
    session, _ = open_model_file(out)
    ages = session.run(["age"], {"images": np.stack([np.asarray(crop) for crop in crops])})[0]
    assert ages == pytest.approx(np.mean(wanted, axis=0), abs=0.1)  # the two resamplings round differently


@pytest.mark.parametrize("bands", [False, True])
def test_the_prior_is_taken_out_of_the_age_with_the_most_even_strength_that_costs_nothing(
    pair: tuple[Path, Path], tmp_path: Path, bands: bool
) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(SIDE).to_dict()), "utf-8")
    labels = {"train": 20 + random.exponential(15, 300).clip(0, 70), "val": random.uniform(30, 70, 80)}
    lines, images = ["path,age,age_low,age_high,split"], []
    for split, ages in labels.items():
        for number, age in enumerate(ages):
            level = (age - 3) * 2.55 / 1.2  # the mean of both is three years too young
            images.append(np.full((SIDE, SIDE, 3), level, np.uint8))
            Image.fromarray(images[-1]).save(tmp_path / f"{split}{number}.png")
            low = int(age) // 10 * 10
            label = f",{low},{low + 9}" if bands else f"{int(age)},,"
            lines.append(f"{split}{number}.png,{label},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    out = tmp_path / "both.onnx"
    command = ["ensemble", *map(str, pair), "--data", str(tmp_path / "manifest.csv"), "--out", str(out)]
    told = CliRunner().invoke(app, [*command, "--adjust"])
    assert told.exit_code == 0, told.output
    _, card = open_model_file(out)

    starts = labels["train"].astype(int) // 10 * 10 if bands else labels["train"].astype(int)
    counts = np.zeros(101)
    for start in starts:
        counts[start : start + (10 if bands else 1)] += 0.1 if bands else 1
    prior = gaussian_filter1d(counts, 2.0, mode="nearest") + 1 / 101
    seen = np.stack(images[300:])
    mean = np.mean(
        [open_model_file(model)[0].run(["distribution"], {"images": seen})[0] for model in pair], axis=0
    )
    own = labels["val"].astype(int)
    errors, merits, ages = [], [], []
    for strength in np.arange(11) / 10:
        mass = mean / prior**strength
        age = mass @ np.arange(101) / mass.sum(axis=1)
        ages.append(age)
        if bands:
            low = own // 10 * 10
            distance = np.maximum(np.maximum(low - age, age - low - 9), 0)
            errors.append(distance.mean())
            merits.append(-np.mean([distance[low == start].mean() for start in np.unique(low)]))
        else:
            errors.append(np.abs(age - own).mean())
            merits.append(aar(age, own).aar)
    free = [k for k in range(11) if errors[k] <= errors[0]]
    best = max(free, key=merits.__getitem__)
    assert best > 0, (errors, merits)
    assert card.provenance["prior_strength"] == pytest.approx(best / 10)
    assert f"prior^{best / 10:g}" in told.output
    session, _ = open_model_file(out)
    said, mass = session.run(["age", "distribution"], {"images": seen})
    assert said == pytest.approx(ages[best], abs=1e-2)
    assert card.calibration is not None
    powered = mean ** (1 / card.calibration.temperature)  # the distribution keeps the prior
    assert mass == pytest.approx(powered / powered.sum(axis=1, keepdims=True), abs=1e-4)


def test_what_cannot_be_averaged_is_told(
    pair: tuple[Path, Path], make_model: ModelMaker, crops: Path, tmp_path: Path
) -> None:
    first, second = pair
    out = tmp_path / "none.onnx"
    wider = DEFAULT_GEOMETRY.to_dict() | {"name": "wider", "size": SIDE}
    other = older(make_model(size=SIDE), 1.1, "b", geometry=json.dumps(wider))
    fewer = older(make_model(size=SIDE), 1.1, "c", age_bins="1-101")
    for models, told in (
        ([first], "two models or more, or one and its mirror image: not 1"),
        ([first, second, first], "is given twice"),
        ([first, other], "has geometry 'wider' .*, and .*onnx 'agelens-v1'"),
        ([first, fewer], "has age bins 1-101, and .*onnx 0-100"),
    ):
        with pytest.raises(InputError, match=told):
            ensemble(models, crops, out)
    for shares in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(InputError, match="shares must be one number above 0 for each of 2 models: not 1"):
            ensemble(pair, crops, out, shares=shares)
    command = ["ensemble", *map(str, pair), "--data", str(crops), "--out", str(out), "--shares", "2:1"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code != 0
    assert "like 2,1: not '2:1'" in answer.output
    content = onnx.load(second)
    content.opset_import[0].version = 19
    onnx.save(content, tmp_path / "newer.onnx")
    with pytest.raises(ModelFileError, match="another operator set"):
        ensemble([first, tmp_path / "newer.onnx"], crops, out)
    with pytest.raises(SplitError, match="train"):
        ensemble(pair, crops, out, split="train")
    with pytest.raises(SplitError, match="train"):
        ensemble(pair, crops, out, adjust=True)
    with pytest.raises(OutputError):
        ensemble(pair, crops, second)
    assert not out.exists()
