"""Smaller model files: they agree with the larger one, say so, and refuse what they cannot use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import InputError, ModelFileError, OutputError, SplitError
from agelens.export.onnx_graph import export
from agelens.export.quantise import compress
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.inference.estimator import AgeEstimator
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import make_backbone
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD

DrawFace = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def manifest(make_crops: Callable[..., Path]) -> Path:
    split = ["val" if number % 3 == 0 else "train" for number in range(48)]
    return make_crops(range(0, 96, 2), 72, split=split)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = make_backbone("student-strided")
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, AgeBins(0, 100)))
    for _ in range(20):  # batch norms that have seen something
        network(torch.randn(32, 3, 64, 64))
    path = tmp_path_factory.mktemp("model") / "student.onnx"
    export(
        network.eval(),
        {
            "name": "student",
            "geometry": DEFAULT_GEOMETRY.with_size(64).to_dict(),
            "licence": {"use": "tests"},
            "provenance": {"data": "none"},
        },
        path,
        size=64,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=None,
    )
    return path


@pytest.mark.parametrize(("form", "limit", "change"), [("int8", 0.15, 3.0), ("float16", 0.235, 0.1)])
def test_smaller_files_say_nearly_the_same(
    model: Path,
    manifest: Path,
    tmp_path: Path,
    draw_face: DrawFace,
    form: str,
    limit: float,
    change: float,
) -> None:
    out = tmp_path / "small.onnx"
    done = compress(model, manifest, out, form=form, images=20)  # type: ignore[arg-type]
    assert out.stat().st_size == done.bytes_after < limit * 2**20
    assert done.bytes_before == model.stat().st_size
    assert done.images == 16
    faces = np.stack([draw_face(age, size=64, seed=99) for age in range(0, 90, 10)])
    before, after = (AgeEstimator(path).estimate_aligned(faces) for path in (model, out))
    assert np.abs(before[0] - after[0]).max() <= change
    assert np.abs(before[1] - after[1]).max() < 0.02
    np.testing.assert_allclose(after[1].sum(1), 1, atol=1e-4)
    assert done.largest_change <= change
    card = AgeEstimator(out).card
    assert card == done.card
    assert (card.name, card.licence) == (f"student-{form}", {"use": "tests"})
    facts = card.provenance["compressed"]
    assert facts["from"] == AgeEstimator(model).card.digest != card.digest
    assert facts["mae_after"] == round(done.mae_after, 4)
    assert facts.get("calibration_images") == (20 if form == "int8" else None)


def test_labels_that_are_bands_count_by_their_distance(model: Path, manifest: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(manifest)
    exact = compress(model, manifest, tmp_path / "exact.onnx", form="float16")
    rows["age_low"] = rows["age_high"] = rows.pop("age")  # a band of one age is that age
    narrow = manifest.with_name("narrow.csv")
    rows.to_csv(narrow, index=False)
    one = compress(model, narrow, tmp_path / "one.onnx", form="float16")
    assert (one.mae_before, one.mae_after) == pytest.approx((exact.mae_before, exact.mae_after), abs=1e-5)
    rows["age_low"], rows["age_high"] = 0, 120
    rows.to_csv(narrow, index=False)
    assert compress(model, narrow, tmp_path / "all.onnx", form="float16").mae_after == 0


def test_weights_and_activations_are_eight_bits(model: Path, manifest: Path, tmp_path: Path) -> None:
    compress(model, manifest, tmp_path / "int8.onnx", images=8)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    large = [t for t in graph.initializer if np.prod(t.dims) > 500]
    assert large
    assert {t.data_type for t in large} == {onnx.TensorProto.INT8}
    kernels = [t for t in graph.initializer if "weight_scale" in t.name and np.prod(t.dims) > 1]
    assert len(kernels) >= 14  # a scale a channel
    softmax = [node for node in graph.node if node.op_type == "Softmax"]
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    assert all(made_by[node.input[0]] not in ("DequantizeLinear", "QuantizeLinear") for node in softmax)


def test_models_and_data_that_cannot_be_used(model: Path, manifest: Path, tmp_path: Path) -> None:
    compress(model, manifest, tmp_path / "int8.onnx", images=8)
    out = tmp_path / "out.onnx"
    with pytest.raises(ModelFileError, match="quantised already"):
        compress(tmp_path / "int8.onnx", manifest, out)
    with pytest.raises(ModelFileError, match="cannot be read"):
        compress(tmp_path / "none.onnx", manifest, out)
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ModelFileError):
        compress(tmp_path / "text.onnx", manifest, out)
    with pytest.raises(InputError, match="images must be at least 1"):
        compress(model, manifest, out, images=0)
    with pytest.raises(SplitError, match="'test'"):
        compress(model, manifest, out, split="test")
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "manifest.csv").write_text("path,age,split\na.png,3,val\n")
    with pytest.raises(InputError, match="unknown geometry"):
        compress(model, lone / "manifest.csv", out)
    moved = DEFAULT_GEOMETRY.to_dict()
    moved["template"] = (np.array(moved["template"]) * 0.9).tolist()
    (lone / "geometry.json").write_text(json.dumps({**moved, "name": "other"}))
    with pytest.raises(InputError, match="geometry 'other'"):
        compress(model, lone / "manifest.csv", out)
    (lone / "geometry.json").write_text((manifest.parent / "geometry.json").read_text())
    with pytest.raises(SplitError, match="'train'"):
        compress(model, lone / "manifest.csv", out)
    assert not out.exists()


def test_the_command_prints_sizes_and_errors(model: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    arguments = ["quantise", str(model), "--data", str(manifest), "--out", str(out), "--to", "float16"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "MAE on val" in done.stdout
    assert "16 images" in done.stdout
    assert out.exists()
    failed = CliRunner().invoke(app, [*arguments[:-1], "int4"])
    assert failed.exit_code == 2


def test_the_model_is_not_written_over(model: Path, manifest: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(OutputError, match="is what this command reads"):
        compress(model, manifest, model)
    assert model.read_bytes() == before
