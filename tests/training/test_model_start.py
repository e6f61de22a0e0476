"""A model file as a start: the weights that it holds come back, with its terms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import CheckpointError, ModelFileError
from agelens.experiments.teaching import start_path
from agelens.export.onnx_graph import export
from agelens.export.quantise import compress
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.model_file import open_model_file
from agelens.networks.age_network import AgeHead, AgeNetwork, AnyNetwork, MirroredNetwork
from agelens.networks.backbones import make_backbone
from agelens.training.model_start import read_model_weights
from agelens.training.recipe import Recipe
from agelens.training.run import Run
from agelens.training.start import check_start, start_terms, start_weights
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD

SIDE = 112  # dlib's network takes 103 px and more


def made(backbone: str, ages: AgeBins) -> AgeNetwork:
    torch.manual_seed(0)
    network = make_backbone(backbone)
    return AgeNetwork(network, AgeHead(network.num_features, ages, ["ldl"])).eval()


def written(network: AnyNetwork, path: Path, *, half: bool = False) -> Path:
    export(
        network,
        {
            "name": path.stem,
            "geometry": DEFAULT_GEOMETRY.with_size(SIDE).to_dict(),
            "licence": {"permits": "research", "data": "the tests' terms"},
            "provenance": {"data": "none"},
        },
        path,
        size=SIDE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=None,
        half=half,
    )
    return path


@pytest.fixture(scope="module")
def network() -> AgeNetwork:
    return made("dlib-resnet", AgeBins(0, 100))


@pytest.fixture(scope="module")
def model(network: AgeNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(network, tmp_path_factory.mktemp("start") / "dlib.onnx")


def recipe(*settings: str) -> Recipe:
    return Recipe.load("dlib-resnet-fairface", list(settings))


def test_weights_come_back_as_they_went(network: AgeNetwork, model: Path, tmp_path: Path) -> None:
    state = network.state_dict()
    started = start_weights(model, recipe(), AgeBins(0, 100))
    assert started.keys() == state.keys()
    assert all(torch.equal(started[name], state[name]) for name in state)
    halved = start_weights(written(network, tmp_path / "half.onnx", half=True), recipe(), AgeBins(0, 100))
    mirrored = start_weights(
        written(MirroredNetwork(network), tmp_path / "mirrored.onnx"), recipe(), AgeBins(0, 100)
    )
    assert all(torch.equal(mirrored[name], state[name]) for name in state)
    for name, value in state.items():
        assert halved[name].dtype == torch.float32
        assert torch.allclose(halved[name], value, rtol=1e-3, atol=1e-7), name


def test_weights_of_eight_bits_come_back_within_a_step(
    network: AgeNetwork, model: Path, tmp_path: Path, make_crops: Callable[..., Path]
) -> None:
    crops = make_crops([10.0, 30.0, 50.0, 70.0], SIDE, split=["train", "train", "val", "val"])
    compress(model, crops, tmp_path / "small.onnx")
    started = start_weights(tmp_path / "small.onnx", recipe(), AgeBins(0, 100))
    for name, value in network.state_dict().items():
        step = 2 * value.abs().max() / 254
        assert (started[name] - value).abs().max() <= step, name
    assert any(not torch.equal(started[name], value) for name, value in network.state_dict().items())


def test_a_head_of_other_ages_starts_anew_and_terms_are_the_models(network: AgeNetwork, model: Path) -> None:
    assert check_start(model, recipe(), AgeBins(0, 100)) == []
    (note,) = check_start(model, recipe(), AgeBins(0, 80))
    assert "0-100" in note
    assert "0-80" in note
    started = start_weights(model, recipe(), AgeBins(0, 80))
    assert len(started["head.ldl.bias"]) == 81
    assert torch.equal(started["backbone.stem.weight"], network.state_dict()["backbone.stem.weight"])
    terms = start_terms(model)
    assert (terms.permits, terms.text) == ("research", "the tests' terms")


def test_a_model_that_cannot_be_trained_on_is_told(tmp_path: Path) -> None:
    wanted = recipe("network.backbone=student-strided", "network.input_size=64")
    with pytest.raises(CheckpointError, match=r"batch norms.*start from its run"):
        start_weights(start_path("student-strided-fairface"), wanted, AgeBins(0, 100))
    with pytest.raises(CheckpointError, match="no network with the 58 weights"):
        start_weights(start_path("efficientnet-lite0-fairface"), recipe(), AgeBins(0, 100))
    (tmp_path / "text.onnx").write_text("no model", "utf-8")
    with pytest.raises(ModelFileError, match=r"text\.onnx"):
        start_weights(tmp_path / "text.onnx", recipe(), AgeBins(0, 100))


def test_a_shipped_ensembles_member_answers_as_it_does_in_the_file(portrait: Path) -> None:
    state = made("dlib-resnet", AgeBins(0, 100)).state_dict()
    path = start_path("dlib-ensemble-fairface")
    network = made("dlib-resnet", AgeBins(0, 100))
    network.load_state_dict(read_model_weights(path, state))
    ensemble = onnx.load(path)
    ensemble.graph.output.append(onnx.ValueInfoProto(name="0/age"))  # of its first member
    size = open_model_file(path)[1].geometry["size"]
    photo = Image.open(portrait).convert("RGB")
    boxes = [(160 + 4 * n, 60 + 4 * n, 300 - 4 * n, 200 - 4 * n) for n in range(8)]
    crops = np.stack([np.asarray(photo.crop(box).resize((size, size))) for box in boxes])
    session = onnxruntime.InferenceSession(ensemble.SerializeToString())
    (wanted,) = session.run(["0/age"], {"images": crops})
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        seen = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - mean) / std
        own = (torch.softmax(network(seen).logits, dim=1) @ torch.arange(101.0)).numpy()
    assert own == pytest.approx(wanted, abs=2)  # the file computes in 8 bits
    assert np.ptp(own) > 1


def test_train_takes_a_shipped_model_by_its_name(make_crops: Callable[..., Path], tmp_path: Path) -> None:
    crops = make_crops([4.0 * n for n in range(16)], SIDE, split=(["train"] * 3 + ["val"]) * 4)
    settings = ("train.epochs=1", "train.batch_size=4", f"network.input_size={SIDE}", "select=mae")
    extra = [part for setting in settings for part in ("--set", setting)]
    command = ["train", "dlib-resnet-fairface", "--data", str(crops), "--out", str(tmp_path / "run"), "--cpu"]
    chosen = ["--start", "dlib-ensemble-fairface", "--teacher", "student-strided-fairface-int8"]
    told = CliRunner().invoke(app, [*command, *chosen, *extra])
    assert told.exit_code == 0, told.output
    terms = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["terms"]["start"]
    assert terms["permits"] == "attribution"
    assert "Joo" in terms["text"]
    assert Run.open(tmp_path / "run").finished_stages() == ["student"]
