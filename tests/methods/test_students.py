"""The networks of two-teacher distillation: layers, sizes, maps, whitening."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from agelens.errors import InputError
from agelens.export.onnx_graph import export
from agelens.faces.alignment import DEFAULT_GEOMETRY
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeHead, AgeNetwork, HeadName, parameter_count
from agelens.networks.backbone import Backbone
from agelens.networks.backbones import make_backbone
from agelens.networks.chain import Chain, normal_weights, paper_chain, parse_chain
from agelens.networks.guided import GuidedStudent
from agelens.networks.pvp import PVP, PermutationNetwork
from agelens.networks.students import NORMAL, SMALL, StridedStudent, normal_student, small_student
from agelens.networks.vgg import VGG16, vgg16_backbone, vgg_keys
from agelens.networks.zca import PatchZCA, Whitened, fit_patch_zca
from agelens.training.transforms import IMAGENET_MEAN, IMAGENET_STD

LIMIT = 0.44 * 2**20


def _network(backbone: Backbone, classes: int, heads: tuple[HeadName, ...] = ("ldl",)) -> AgeNetwork:
    return AgeNetwork(backbone, AgeHead(backbone.num_features, AgeBins(0, classes - 1), heads))


def _megabytes(backbone: Backbone, classes: int) -> float:
    return 4 * parameter_count(_network(backbone, classes)) / 2**20


def test_layers_are_those_of_the_paper() -> None:
    convolutions = {
        NORMAL: [128, 96, 0, 96, 96, 96, 0, 96, 96, 0, 64, 64],
        SMALL: [64, 32, 0, 32, 32, 32, 0, 32, 32, 0, 16, 16, 64, 64],
        PVP: [192, 160, 0, 160, 160, 160, 0, 160, 0, 128, 128, 256],
        VGG16: [64, 64, 0, 128, 128, 0, *[256] * 3, 0, *[512] * 3, 0, *[512] * 3, 0],
    }
    for text, channels in convolutions.items():
        assert [wide for wide, _ in parse_chain(text)] == channels
    assert [kernel for wide, kernel in parse_chain(SMALL) if wide] == [3] * 9 + [1] * 2
    assert [kernel for wide, kernel in parse_chain(NORMAL) if wide] == [5] + [3] * 8
    with pytest.raises(ValueError, match="'D3' is no layer"):
        parse_chain("C3(3)-D3")


def test_sizes_are_those_the_paper_prints() -> None:
    assert parameter_count(small_student(3)) == 79_520
    assert round(_megabytes(small_student(3), 62), 4) == 0.4398
    assert [round(_megabytes(normal_student(), k), 2) for k in (62, 71)] == [263.40, 263.54]


@pytest.mark.parametrize("name", ["student-small", "student-small-1x1", "student-strided"])
def test_what_ships_fits_into_044_mb_as_a_file(name: str, tmp_path: Path) -> None:
    network = _network(make_backbone(name), 101, ("ldl", "reg")).eval()
    assert 4 * parameter_count(network) < LIMIT
    path = tmp_path / "student.onnx"
    export(
        network,
        {
            "name": name,
            "geometry": DEFAULT_GEOMETRY.with_size(64).to_dict(),
            "licence": {},
            "provenance": {"recipe": "x" * 6000},  # as long as cards are, calibration included
        },
        path,
        size=64,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=None,
    )
    assert path.stat().st_size < LIMIT


def test_vgg16_is_torchvisions() -> None:
    import torchvision

    theirs = torchvision.models.vgg16_bn(weights=None).eval()
    ours = vgg16_backbone(112).eval()
    ours.chain.load_state_dict(vgg_keys(theirs.state_dict()))
    images = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(ours.feature_map(images), theirs.features(images))
    assert (ours.num_features, ours(images).shape) == (4096, (1, 4096))
    assert not isinstance(vgg16_backbone(64, 0.1).chain[-1], nn.MaxPool2d)
    assert vgg16_backbone(64, 0.1).feature_map(torch.zeros(1, 3, 64, 64)).shape == (1, 51, 4, 4)


def test_images_of_another_size_are_told() -> None:
    with pytest.raises(InputError, match="map of 5x5; the first connected layer was made for 4x4"):
        make_backbone("vgg16-64@0.05")(torch.zeros(2, 3, 80, 80))
    with pytest.raises(InputError, match="grid of 3x3"):
        small_student(3)(torch.zeros(2, 3, 16, 16))
    with pytest.raises(InputError, match="takes images of 64 px, not \\(80, 80\\)"):
        StridedStudent()(torch.zeros(2, 3, 80, 80))
    assert small_student(2, 0.25)(torch.zeros(2, 3, 40, 40)).shape == (2, 64)


def test_names_scale_and_whiten() -> None:
    backbone = make_backbone("zca5:student-small@0.5")
    assert isinstance(backbone, Whitened)
    assert backbone.whitening.kernel == 5
    assert backbone.num_features == 128
    for name in ("zca4:student-small", "student-small@0", "resnet10@0.5", "student-huge"):
        with pytest.raises(InputError, match=name.split("@")[0].split(":")[0]):
            make_backbone(name)
    with pytest.raises(InputError, match="pretrained"):
        make_backbone("student-strided", pretrained=True)


@pytest.mark.parametrize("joint", ["connected", "conv"])
@pytest.mark.parametrize("trunk", ["pvp", "vgg16"])
def test_the_ranker_is_siamese_and_hints_need_one_face(trunk: str, joint: str) -> None:
    torch.manual_seed(0)
    network = PermutationNetwork(4, 12, 32, trunk=trunk, joint=joint, width=0.05)  # type: ignore[arg-type]
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(20):  # batch norms that have seen something, or nothing reaches the end
            network(images)
    network.eval()
    with torch.inference_mode():
        assert network(images).shape == (2, 12)
        torch.testing.assert_close(network(images)[1:], network(images[4:]))  # a sequence sees itself alone
        changed = network(images[[1, 0, 2, 3]])
        assert not torch.allclose(changed, network(images[:4]))
        early, late = network.maps(images[:1], [5, 8])
    assert early.shape[1] == network.chain.channels(5)
    expected = {"pvp": (16, 4), "vgg16": (8, 4)}[trunk]
    assert (early.shape[-1], late.shape[-1]) == expected
    if (trunk, joint) == ("pvp", "connected"):
        assert network.maps(images[:1], [9])[0].shape == (1, 13, 4, 4)
    if (trunk, joint) == ("pvp", "conv"):
        with pytest.raises(InputError, match="9"):
            network.maps(images[:1], [9])


def test_the_full_ranker_has_the_papers_layers() -> None:
    with torch.device("meta"):
        network = PermutationNetwork(8, 200, 64)
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
    assert linear == [(256 * 8 * 8, 4096), (8 * 4096, 1024), (1024, 200)]
    assert [network.chain.channels(n) for n in range(1, 10)] == [192, *[160] * 5, 128, 128, 256]


def test_weights_are_drawn_as_the_paper_says() -> None:
    torch.manual_seed(0)
    network = small_student()
    normal_weights(network)
    drawn = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    assert drawn.mean().abs() < 0.001
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
    assert all((m.bias == 0).all() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert all((m.weight == 1).all() for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("width", [0.25, 0.0625])
def test_a_narrow_ranker_starts_with_outputs_as_large_as_a_wide_one(width: float) -> None:
    def deviation(width: float) -> float:
        torch.manual_seed(0)
        network = PermutationNetwork(2, 50, 32, width=width)
        normal_weights(network, width)
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        return float(network(images).detach().std())

    assert deviation(width) == pytest.approx(deviation(0.125), rel=0.35)  # by N(0, 0.02): a factor of 2.8


def test_the_classifier_of_the_rankers_layers_has_both_connected_layers() -> None:
    with torch.device("meta"):
        backbone = make_backbone("pvp-64")
    linear = [(m.in_features, m.out_features) for m in backbone.modules() if isinstance(m, nn.Linear)]
    assert linear == [(256 * 8 * 8, 4096), (4096, 1024)]


def test_maps_come_on_the_way() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    for backbone, numbers, channels, sides in (
        (small_student(width=0.5), [5, 9], [16, 8], [32, 8]),
        (StridedStudent(), [1, 6, 11], [16, 32, 48], [32, 16, 8]),
        (make_backbone("zca3:student-strided"), [4, 12], [32, 96], [16, 8]),
    ):
        backbone.eval()
        with torch.inference_mode():
            features, maps = backbone.forward_with_maps(images, numbers)  # type: ignore[operator]
            torch.testing.assert_close(features, backbone(images))
        assert [m.shape[1] for m in maps] == channels
        assert [m.shape[2] for m in maps] == sides
    chain = paper_chain("C4(3)-P-C8(3)")
    assert isinstance(chain, Chain)
    with pytest.raises(InputError, match=r"convolutions 1, 2, not of \[3\]"):
        chain.maps(images, [3])
    with pytest.raises(InputError, match="not of"):
        StridedStudent().forward_with_maps(images, [3])  # inside a block


def test_what_no_hint_reaches_is_told_for_the_strided_student() -> None:
    guided = GuidedStudent(_network(StridedStudent(), 101), (6, 9), (40, 64))
    torch.stack([hint.sum() for hint in guided(torch.randn(4, 3, 64, 64)).hints]).sum().backward()
    told = {id(parameter) for part in guided.unguided() for parameter in part.parameters()}
    assert told == {id(parameter) for parameter in guided.parameters() if parameter.grad is None}


def test_a_guided_student_is_the_student_and_its_regressors() -> None:
    torch.manual_seed(0)
    student = _network(small_student(width=0.25), 101)
    guided = GuidedStudent(student, (5, 9), (40, 64)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        outputs = guided(images)
        torch.testing.assert_close(outputs.ages().logits, student.eval()(images).logits)
    assert [tuple(hint.shape) for hint in outputs.hints] == [(2, 40, 32, 32), (2, 64, 8, 8)]
    unguided = {id(p) for part in guided.unguided() for p in part.parameters()}
    trained = {name for name, p in guided.named_parameters() if id(p) not in unguided}
    assert {name.split(".")[0] for name in trained} == {"student", "regressors"}
    assert not any("head" in name or "chain.30" in name for name in trained)
    sum(hint.sum() for hint in guided.train()(images).hints).backward()
    with_gradient = {name for name, p in guided.named_parameters() if p.grad is not None}
    assert with_gradient == trained
    with pytest.raises(InputError, match="ResNet"):
        GuidedStudent(_network(make_backbone("resnet10-tiny"), 101), (5,), (8,))


def _correlated(count: int, side: int) -> torch.Tensor:
    """Smooth images whose channels and neighbours correlate, as photographs' do."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, side + 8, side + 8, generator=generator)
    smooth = nn.functional.avg_pool2d(noise, 5, 1, 2) * 3 + 0.3 * noise
    mix = torch.tensor([[1.0, 0.5, 0.3], [0.4, 1.0, 0.5], [0.2, 0.6, 1.0]])
    return (
        torch.einsum("oc,bchw->bohw", mix, smooth)[..., 4:-4, 4:-4]
        + torch.tensor([0.5, -0.2, 1.0])[:, None, None]
    )


def test_whitened_patches_have_the_identity_as_covariance() -> None:
    images, epsilon = _correlated(200, 16), 1e-3
    whitening = fit_patch_zca(images, 3, epsilon, patches=196)
    columns = nn.functional.unfold(images, 3).transpose(1, 2).reshape(-1, 27).double()
    whitened = (columns - whitening.mean.double()) @ whitening.matrix.double()
    variances, directions = torch.linalg.eigh(whitening.matrix.double())
    expected = whitening.variances.double() / (whitening.variances.double() + epsilon)
    covariance = torch.cov(whitened.T)
    kept = whitening.variances > 100 * epsilon
    assert kept.sum() >= 9
    assert expected[kept].min() > 0.99
    # In the directions that are kept the covariance is the identity.
    basis = directions[:, variances.argsort(descending=True)][:, kept]
    found = basis.T @ covariance @ basis
    torch.testing.assert_close(found, torch.eye(len(found), dtype=torch.float64), atol=0.05, rtol=0)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.T, atol=1e-4, rtol=1e-4)  # zero-phase


def test_one_convolution_whitens_the_centre_of_every_patch() -> None:
    images = _correlated(50, 16)
    whitening = fit_patch_zca(images, 5)
    layer = PatchZCA(5)
    torch.testing.assert_close(layer(images), images)  # before it is fitted
    layer.set(whitening)
    out = layer(images)
    patch = images[3, :, 4:9, 6:11]
    by_hand = ((patch.flatten() - whitening.mean) @ whitening.matrix).reshape(3, 5, 5)[:, 2, 2]
    torch.testing.assert_close(out[3, :, 6, 8], by_hand, atol=1e-4, rtol=1e-4)
    assert out.shape == images.shape
    assert not list(layer.parameters())
    assert set(layer.state_dict()) == {"weight", "bias"}
    with pytest.raises(ValueError, match="patches of 5 x 5"):
        layer.set(fit_patch_zca(images, 3))
    for kernel, epsilon in ((4, 0.1), (17, 0.1), (3, 0.0)):
        with pytest.raises(ValueError, match=r"kernel|epsilon"):
            fit_patch_zca(images, kernel, epsilon)


def test_the_whitening_is_one_convolution_in_the_graph(tmp_path: Path) -> None:
    backbone = make_backbone("zca5:student-small@0.25")
    assert isinstance(backbone, Whitened)
    backbone.whitening.set(fit_patch_zca(_correlated(50, 16), 5))
    export(
        _network(backbone, 101).eval(),
        {
            "name": "w",
            "geometry": DEFAULT_GEOMETRY.with_size(64).to_dict(),
            "licence": {},
            "provenance": {},
        },
        tmp_path / "w.onnx",
        size=64,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        calibration=None,
    )
    graph = onnx.load(tmp_path / "w.onnx").graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert len(convolutions) == 12
    assert shapes[convolutions[0].input[1]] == [3, 3, 5, 5]
    assert not any(node.op_type == "Mul" for node in graph.node)  # the pixels' scale went into it
