"""One network of mean weights: against PyTorch, its calibration and terms, and what cannot be averaged."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.calibration import LEVEL_GRID, Calibration
from agelens.errors import AgelensError
from agelens.export.onnx_graph import CardFields, export
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.inference.shipped_models import model_path
from agelens.label_distribution import AgeBins
from agelens.model_file import open_model_file
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.networks.backbones import LayeredBackbone

SIZE = 32
MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)


def ancestor(width: int = 48) -> AgeNetwork:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, 64, 3, stride=2))
    network = AgeNetwork(LayeredBackbone(layers, 64), AgeHead(64, AgeBins(0, 100), ("ldl",)))
    assert network.head.ldl is not None
    with torch.no_grad():
        network.head.ldl.weight.mul_(20)
    return network.eval()


def written(
    network: AgeNetwork, path: Path, *, permits: str = "any", temperature: float = 2.0, half: bool = False
) -> Path:
    licence = {"code": "Apache-2.0", "data": f"{permits} data", "permits": permits, "use": f"{permits} use"}
    card = CardFields(
        name=path.stem,
        geometry=DEFAULT_GEOMETRY.with_size(SIZE).to_dict(),
        licence=licence,
        provenance={"data": "drawn"},
    )
    calibration = Calibration(temperature, LEVEL_GRID, LEVEL_GRID, 100, "val")
    export(network, card, path, size=SIZE, mean=MEAN, std=STD, calibration=calibration, half=half)
    return path


def trained_on(network: AgeNetwork, seed: int) -> AgeNetwork:
    descendant = copy.deepcopy(network)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in descendant.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    return descendant


def by_torch(
    network: AgeNetwork, crops: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.inference_mode():
        images = (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - 0.5) / 0.3
        outputs = network(images)
        return network.head.decode(outputs).age.numpy(), outputs.logits.numpy()


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint8]]:
    place, random = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    (place / "geometry.json").write_text(json.dumps(DEFAULT_GEOMETRY.with_size(SIZE).to_dict()), "utf-8")
    images = random.integers(0, 256, (60, SIZE, SIZE, 3), dtype=np.uint8)
    lines = ["path,age,split"]
    for number, image in enumerate(images):
        Image.fromarray(image).save(place / f"{number}.png")
        lines.append(f"{number}.png,{random.integers(20, 80)},test")
    (place / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return place / "manifest.csv", images


@pytest.mark.parametrize(("half", "temperature"), [(False, 2.0), (False, 0.8), (False, 1.0), (True, 0.8)])
def test_it_is_the_network_of_the_mean_weights_calibrated_anew(
    crops: tuple[Path, NDArray[np.uint8]], tmp_path: Path, half: bool, temperature: float
) -> None:  # the age is read off at 2
    manifest, images = crops
    networks = [trained_on(ancestor(), seed) for seed in (1, 2, 3)]
    models = [
        written(
            network,
            tmp_path / f"{seed}.onnx",
            half=half,
            temperature=temperature,
            permits="research" if seed == 2 else "any",
        )
        for seed, network in enumerate(networks)
    ]
    mean = ancestor()
    with torch.no_grad():
        for parts in zip(mean.parameters(), *(network.parameters() for network in networks), strict=True):
            parts[0].copy_(torch.stack(parts[1:]).mean(dim=0))
    out = tmp_path / "mean.onnx"
    command = ["ensemble", *map(str, models), "--weights", "--data", str(manifest), "--out", str(out)]
    told = CliRunner().invoke(app, [*command, "--split", "test"])
    assert told.exit_code == 0, told.output
    assert "mean of the weights of 3 models; mean error on test" in told.output
    session, card = open_model_file(out)
    ages, logits = by_torch(mean, images)
    said, mass = session.run(["age", "distribution"], {"images": images})
    assert said == pytest.approx(ages, abs=0.05 if half else 1e-3)
    assert max(np.abs(ages - by_torch(network, images)[0]).max() for network in networks) > 1
    assert card.licence["permits"] == "research"
    assert [member["name"] for member in card.provenance["weights_averaged"]] == ["0", "1", "2"]

    labels = np.array([int(line.split(",")[1]) for line in manifest.read_text("utf-8").splitlines()[1:]])
    for network, told in zip(networks, card.provenance["weights_averaged"], strict=True):
        error = np.abs(by_torch(network, images)[0] - labels).mean()
        assert told["error"] == pytest.approx(error, abs=0.05 if half else 1e-3)
    assert card.provenance["error"] == pytest.approx(np.abs(ages - labels).mean(), abs=0.05 if half else 1e-3)
    calibration = card.calibration
    assert calibration is not None
    assert card.decoding["distribution"] == f"softmax(logits / {calibration.temperature:.6g})"
    assert (calibration.split, calibration.samples) == ("test", 60)
    wanted = Calibration.fit(logits, labels, AgeBins(0, 100), "test")
    assert calibration.temperature == pytest.approx(wanted.temperature, rel=0.02)
    assert mass == pytest.approx(calibration.distribution(logits), abs=2e-3 if half else 1e-5)
    assert calibration.nominal_levels == pytest.approx(wanted.nominal_levels, abs=0.02)


def test_what_has_no_mean_weights_is_told(crops: tuple[Path, NDArray[np.uint8]], tmp_path: Path) -> None:
    manifest, _ = crops
    first, second = (written(trained_on(ancestor(), seed), tmp_path / f"{seed}.onnx") for seed in (1, 2))
    wider = written(ancestor(width=56), tmp_path / "wider.onnx")
    halved = written(trained_on(ancestor(), 3), tmp_path / "half.onnx", half=True)
    student = model_path("student-strided-fairface")
    out = tmp_path / "mean.onnx"
    command = ["ensemble", "--weights", "--data", str(manifest), "--out", str(out), "--split", "test"]
    for arguments, told in (
        ([first], "two models or more"),
        ([first, second, first], "is given twice"),
        ([first, student], "has crops of 64 px, and"),
        ([first, wider], "is not of the same network as"),
        ([first, halved], "is not of the same network as"),
        ([first, second, "--mirror"], "are for answers"),
        (["student-strided-fairface-int8", "student-strided-utkface-int8"], "its weights are in 8 bits"),
    ):
        answer = CliRunner().invoke(app, [*command, *map(str, arguments)])
        assert answer.exit_code != 0
        assert isinstance(answer.exception, AgelensError | SystemExit)
        assert re.search(told, " ".join(answer.output.split())), answer.output
    assert not out.exists()
    content = onnx.load(second)
    (axes,) = [tensor for tensor in content.graph.initializer if tensor.data_type == onnx.TensorProto.INT64]
    axes.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(axes)[::-1].copy(), axes.name))
    onnx.save(content, tmp_path / "turned.onnx")
    third = written(trained_on(ancestor(), 4), tmp_path / "4.onnx")
    answer = CliRunner().invoke(app, [*command, str(first), str(third), str(tmp_path / "turned.onnx")])
    assert f"turned.onnx: has another {axes.name} than " in " ".join(answer.output.split())
    assert not out.exists()


def test_networks_that_share_no_basin_are_told(crops: tuple[Path, NDArray[np.uint8]], tmp_path: Path) -> None:
    manifest, images = crops
    network = trained_on(ancestor(), 1)
    shuffled = copy.deepcopy(network)  # the same function, its channels in another order
    first, last = (shuffled.get_parameter(f"backbone.layers.{layer}.weight") for layer in (0, 2))
    with torch.no_grad():
        for parameter in (first, shuffled.get_parameter("backbone.layers.0.bias")):
            parameter.copy_(parameter.roll(7, 0))
        last.copy_(last.roll(7, 1))
    ages, _ = by_torch(network, images)
    lines = ["path,age,split", *(f"{number}.png,{age:.2f},val" for number, age in enumerate(ages))]
    (manifest.parent / "own.csv").write_text("\n".join(lines) + "\n", "utf-8")
    models = [written(one, tmp_path / f"{number}.onnx") for number, one in enumerate((network, shuffled))]
    out = tmp_path / "mean.onnx"
    command = ["ensemble", *map(str, models), "--weights", "--data", str(manifest.parent / "own.csv")]
    told = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert told.exit_code == 0, told.output
    assert re.search(
        r"mean error on val \d+\.\d+ years, theirs 0\.00\d, 0\.00\d; it errs more than each", told.output
    )
