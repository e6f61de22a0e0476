"""A model file against the network it came from: ages, distributions, graph, metadata, size, failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from agelens.calibration import LEVEL_GRID, Calibration
from agelens.errors import InputError, ModelFileError, OutputError
from agelens.export import onnx_graph as exporting
from agelens.export.onnx_graph import OPSET, CardFields, export, weights_digest
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.model_file import ModelCard
from agelens.networks.age_network import AgeHead, AgeNetwork, HeadName, PairedNetwork
from agelens.networks.backbone import Backbone
from agelens.networks.backbones import LayeredBackbone
from agelens.networks.resnet import ResNet

SIZE = 40
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION = Calibration(0.7, LEVEL_GRID, LEVEL_GRID, 100, "val")


def fields(size: int = SIZE) -> CardFields:
    return CardFields(
        name="test",
        geometry=DEFAULT_GEOMETRY.with_size(size).to_dict(),
        licence={"use": "tests"},
        provenance={"data": "drawn"},
    )


def network_of(heads: tuple[HeadName, ...] = ("ldl", "reg"), backbone: Backbone | None = None) -> AgeNetwork:
    """A small network whose batch norms have seen data, as a trained one's have."""
    torch.manual_seed(0)
    backbone = backbone or ResNet((1, 1, 1), (8, 16, 32))
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, AgeBins(0, 100), heads))
    with torch.no_grad():
        for _ in range(30):
            network(2 * torch.randn(8, 3, SIZE, SIZE) + 0.3)
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        if network.head.ldl is not None:
            network.head.ldl.weight.mul_(10)  # ages far apart
    return network.eval()


def one_convolution(first: nn.Module, heads: tuple[HeadName, ...] = ("ldl",)) -> AgeNetwork:
    layers = nn.Sequential(first, nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    return network_of(heads, LayeredBackbone(layers, 8))


def write(network: AgeNetwork | PairedNetwork, path: Path, **options: Any) -> ModelCard:
    settings: dict[str, Any] = {"size": SIZE, "mean": MEAN, "std": STD, "calibration": None} | options
    return export(network, fields(), path, **settings)


def run(path: Path, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    age, distribution = session.run(["age", "distribution"], {"images": crops})
    return age, distribution


def by_torch(
    network: AgeNetwork | PairedNetwork, crops: NDArray[np.uint8], temperature: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    images = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        outputs = network(images)
        age = network.head.decode(outputs).age
        return age.numpy(), torch.softmax(outputs.logits / temperature, dim=1).numpy()


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.fixture(scope="module")
def network() -> AgeNetwork:
    return network_of()


@pytest.fixture(scope="module")
def written(network: AgeNetwork, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return path, write(network, path, calibration=CALIBRATION)


@pytest.fixture(scope="module")
def half(network: AgeNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    write(network, path, half=True)
    return path


@pytest.fixture(scope="module")
def faces(draw_face: Callable[..., NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack([draw_face(age, SIZE, seed) for seed, age in enumerate((3, 20, 35, 50, 65, 80, 95))])


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_the_file_says_what_the_network_says(
    network: AgeNetwork, written: tuple[Path, ModelCard], faces: NDArray[np.uint8], batch: int
) -> None:
    age, distribution = run(written[0], faces[:batch])
    expected_age, expected_distribution = by_torch(network, faces[:batch], temperature=0.7)
    assert age.dtype == distribution.dtype == np.float32
    np.testing.assert_allclose(age, expected_age, atol=1e-3)
    np.testing.assert_allclose(distribution, expected_distribution, atol=1e-5)
    assert distribution.shape == (batch, 101)
    assert batch == 1 or age.std() > 0.5


def test_calibration_reaches_the_distribution_and_not_the_age(
    network: AgeNetwork, written: tuple[Path, ModelCard], half: Path, faces: NDArray[np.uint8]
) -> None:
    calibrated, plain = run(written[0], faces), run(half, faces)
    np.testing.assert_allclose(calibrated[0], plain[0], atol=0.05)
    np.testing.assert_allclose(plain[1], by_torch(network, faces, temperature=2.0)[1], atol=1e-3)
    assert calibrated[1].max() > 1.3 * plain[1].max()


def test_the_graph_is_lean(written: tuple[Path, ModelCard]) -> None:
    found = ops(written[0])
    assert found["BatchNormalization"] == 0
    assert found["Transpose"] == found["Cast"] == found["Sub"] == 1
    assert found["Conv"] == 1 + 3 * 2 + 2
    assert found["Mul"] == 1  # Eq. 19's: the scale of the pixels is in the first convolution
    assert sum(found.values()) < 45


def test_the_input_and_outputs_are_those_of_the_contract(written: tuple[Path, ModelCard]) -> None:
    session = onnxruntime.InferenceSession(written[0], providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert isinstance(images.shape[0], str)
    assert images.shape[1:] == [SIZE, SIZE, 3]
    assert [output.name for output in session.get_outputs()] == ["age", "distribution"]
    assert [opset.version for opset in onnx.load(written[0]).opset_import if not opset.domain] == [OPSET]


def test_the_card_is_in_the_file(written: tuple[Path, ModelCard]) -> None:
    path, card = written
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    read = ModelCard.from_metadata(session.get_modelmeta().custom_metadata_map, path)
    assert read == card
    assert read.calibration == CALIBRATION
    assert read.tau == 2.0
    assert read.age_bins == AgeBins(0, 100)
    assert read.normalisation["mean"] == list(MEAN)


def test_the_digest_is_of_the_weights_alone(written: tuple[Path, ModelCard]) -> None:
    path, card = written
    model = onnx.load(path)
    assert weights_digest(model) == card.digest
    assert len(card.digest) == 64
    onnx.helper.set_model_props(model, {"agelens.name": "another"})
    assert weights_digest(model) == card.digest
    tensor = next(tensor for tensor in model.graph.initializer if tensor.dims)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert weights_digest(model) != card.digest


def test_nothing_of_the_writing_machine_is_in_the_file(written: tuple[Path, ModelCard]) -> None:
    model = onnx.load(written[0])
    del model.graph.initializer[:]
    text = model.SerializeToString()
    for trace in (b".py", b"site-packages", str(Path(__file__).parents[2]).encode(), b"stack_trace"):
        assert trace not in text


def test_half_is_half_as_large_and_as_good(
    network: AgeNetwork, written: tuple[Path, ModelCard], half: Path, faces: NDArray[np.uint8]
) -> None:
    np.testing.assert_allclose(run(half, faces)[0], by_torch(network, faces, 2.0)[0], atol=0.02)
    stored = {
        tensor.data_type for tensor in onnx.load(half).graph.initializer if math.prod(tensor.dims) >= 1024
    }
    assert stored == {onnx.TensorProto.FLOAT16}
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert written[0].stat().st_size - half.stat().st_size > 1.6 * weights


def test_half_keeps_what_float16_cannot_hold() -> None:
    large, huge = np.full(2000, 3.0, np.float32), np.full(2000, 1e6, np.float32)
    graph = onnx.GraphProto(
        initializer=[numpy_helper.from_array(large, "large"), numpy_helper.from_array(huge, "huge")]
    )
    exporting.store_as_half(graph)
    assert {t.name: t.data_type for t in graph.initializer} == {
        "large.float16": onnx.TensorProto.FLOAT16,
        "huge": onnx.TensorProto.FLOAT,
    }
    assert [(node.op_type, list(node.output)) for node in graph.node] == [("Cast", ["large"])]


def test_a_pair_of_networks_is_one_file(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    pair = PairedNetwork(one_convolution(nn.Identity()), one_convolution(nn.Identity(), ("reg",))).eval()
    card = write(pair, tmp_path / "pair.onnx")
    age, distribution = run(tmp_path / "pair.onnx", faces)
    expected = by_torch(pair, faces, 2.0)
    np.testing.assert_allclose(age, expected[0], atol=1e-3)
    np.testing.assert_allclose(distribution, expected[1], atol=1e-5)
    assert "reg" in card.decoding
    assert ops(tmp_path / "pair.onnx")["Mul"] == 1


def test_ldl_alone_and_a_first_layer_that_is_no_convolution(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    class Square(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * images

    network = one_convolution(Square())
    card = write(network, tmp_path / "model.onnx")
    np.testing.assert_allclose(
        run(tmp_path / "model.onnx", faces)[0], by_torch(network, faces, 2.0)[0], atol=1e-3
    )
    assert "reg" not in card.decoding


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = one_convolution(nn.BatchNorm2d(3)).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    write(network, tmp_path / "model.onnx")
    assert network.training
    assert network.backbone.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": SIZE + 1}, "is not the geometry's"),
        ({"std": (0.2, 0.0, 0.2)}, "std positive"),
        ({"mean": (0.5,)}, "three values"),
    ],
)
def test_unusable_arguments(
    network: AgeNetwork, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write(network, tmp_path / "model.onnx", **options)


def test_a_network_without_a_distribution_has_no_model_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="distribution"):
        write(network_of(("reg",)), tmp_path / "model.onnx")


def test_a_network_that_onnx_cannot_express(tmp_path: Path) -> None:
    class Undecided(Backbone):
        num_features = 3

        def feature_map(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(ModelFileError, match=r"model\.onnx: the network cannot be exported"):
        write(AgeNetwork(Undecided(), AgeHead(3, AgeBins(0, 100))), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_disagrees_never_appears(
    network: AgeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(graph: onnx.GraphProto) -> None:
        kernel = next(tensor for tensor in graph.initializer if len(tensor.dims) == 4)
        kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * 1.05, kernel.name))

    path = tmp_path / "model.onnx"
    path.write_bytes(b"the older file")
    monkeypatch.setattr(exporting, "_fold_scale_into_convolution", spoil)
    with pytest.raises(ModelFileError, match="differs from the network"):
        write(network, path)
    assert path.read_bytes() == b"the older file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write(one_convolution(nn.Identity()), tmp_path / "file" / "model.onnx")
