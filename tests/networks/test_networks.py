"""Backbones against the papers' tables; heads and decoding against loops that spell out the equations."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agelens.errors import CheckpointError, InputError
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import (
    AgeHead,
    AgeNetwork,
    Decoded,
    HeadName,
    Outputs,
    PairedNetwork,
    parameter_count,
)
from agelens.networks.backbone import Backbone
from agelens.networks.backbones import BACKBONES, load_backbone, make_backbone, resnet_keys
from agelens.networks.resnet import BasicBlock, ResNet
from agelens.training.transforms import normalise

MORPH = AgeBins(16, 77)  # k = 62
BINS = AgeBins(10, 14)


def small_network(
    heads: tuple[HeadName, ...] = ("ldl", "reg"), bins: AgeBins = BINS, tau: float = 2.0
) -> AgeNetwork:
    return AgeNetwork(ResNet((1, 1), (8, 16)), AgeHead(16, bins, heads, tau)).eval()


# --- backbones ---


@pytest.mark.parametrize(
    ("name", "printed"),
    [("resnet10", "4.9"), ("resnet18", "11.2"), ("resnet10-tiny", "1.2"), ("resnet18-tiny", "2.8")],
)
def test_parameter_counts_are_those_of_lrn_table_2(name: str, printed: str) -> None:
    backbone = make_backbone(name)
    network = AgeNetwork(backbone, AgeHead(backbone.num_features, MORPH))
    assert f"{parameter_count(network) / 1e6:.1f}" == printed


@pytest.mark.parametrize(
    ("name", "at_62", "at_101"),
    # Table 1 prints 5.7, 2.4 and 1.4: torchvision's networks reach these at the 101 ages of IMDB-WIKI,
    # on which LRN pre-trains, not at MORPH's 62.
    [("googlenet", "5.7", "5.7"), ("mobilenet-v2", "2.3", "2.4"), ("shufflenet-v2", "1.3", "1.4")],
)
def test_parameter_counts_of_lrn_table_1(name: str, at_62: str, at_101: str) -> None:
    backbone = make_backbone(name)
    counts = [
        f"{(parameter_count(backbone) + parameter_count(AgeHead(backbone.num_features, bins))) / 1e6:.1f}"
        for bins in (MORPH, AgeBins(0, 100))
    ]
    assert counts == [at_62, at_101]


OF_TWO_TEACHERS = {
    "vgg16",
    "vgg16-64",
    "pvp",
    "pvp-64",
    "student-normal",
    "student-small",
    "student-small-1x1",
    "student-small-3x3",
    "student-strided",
}
"""Networks of ordinal-dark distillation: other strides, or connected layers for one size (test_students)."""
WITHOUT_MAP = {
    "bif",
    "bif-std",
    "c3ae",
    "compact-densenet",
    "compact-densenet-13",
    "compact-mobilenet",
    "compact-mobilenet-50",
    "compact-or-cnn",
    "ssr-net",
}
"""Compact systems, and fixed filters, whose features are not the mean over one map."""
SHALLOW = {"ranking-cnn"}
"""Networks whose map is an eighth of the image."""


def test_the_names_of_the_backbones() -> None:
    papers = {"resnet10", "resnet18", "resnet10-tiny", "resnet18-tiny", "googlenet", "mobilenet-v2"}
    others = {"shufflenet-v2", "mobilefacenet", "thin-age", "tiny-age"}
    assert set(BACKBONES) >= papers | others | OF_TWO_TEACHERS | WITHOUT_MAP | SHALLOW


@pytest.mark.parametrize(
    "name",
    [
        *sorted(set(BACKBONES) - {"mobilefacenet", "dlib-resnet"} - OF_TWO_TEACHERS - WITHOUT_MAP - SHALLOW),
        "timm:resnet10t",
        "mobilenetv3_small_050",
    ],
)
def test_every_backbone_pools_its_map_at_the_smallest_size(name: str) -> None:
    backbone = make_backbone(name).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features, feature_map = backbone(images), backbone.feature_map(images)
    assert features.shape == (2, backbone.num_features)
    assert feature_map.shape[2] == feature_map.shape[3] <= 4
    if not name.startswith("mobilenetv3"):  # timm's has a layer after the pooling
        torch.testing.assert_close(feature_map.mean((2, 3)), features)


@pytest.mark.parametrize(("size", "side"), [(224, 7), (112, 4), (64, 2), (50, 2), (33, 2)])
def test_resnet_maps_have_stride_32(size: int, side: int) -> None:
    feature_map = make_backbone("resnet10-tiny").eval().feature_map(torch.randn(1, 3, size, size))
    assert feature_map.shape == (1, 256, side, side)


def test_features_are_the_mean_over_the_map() -> None:
    backbone = ResNet((1, 1), (8, 16)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        feature_map, features = backbone.feature_map(images), backbone(images)
    _, channels, height, width = feature_map.shape
    for image in range(2):
        for channel in range(channels):
            total = sum(float(feature_map[image, channel, y, x]) for y in range(height) for x in range(width))
            assert float(features[image, channel]) == pytest.approx(total / (height * width), abs=1e-5)


def test_resnet_starts_from_kaiming() -> None:
    backbone = make_backbone("resnet10")
    convolution = backbone.get_submodule("stages.3.0.conv2")
    assert isinstance(convolution, nn.Conv2d)
    assert float(convolution.weight.detach().std()) == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.02)


def test_zero_init_starts_every_block_as_its_shortcut() -> None:
    images = torch.randn(2, 8, 9, 9)
    for zeroed in (True, False):
        blocks = [
            m for m in ResNet((2,), (8,), zero_init_residual=zeroed).modules() if isinstance(m, BasicBlock)
        ]
        same = [torch.equal(block.eval()(images), images.relu()) for block in blocks]
        assert same == [zeroed, zeroed]


def test_resnet_refuses_blocks_without_widths() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1\) and widths \(8,\)"):
        ResNet((1, 1), (8,))


def test_torchvisions_resnet18_is_ours_by_other_names() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = make_backbone("resnet18").eval()
    ours.load_state_dict(resnet_keys(theirs.state_dict()))
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


def test_pretrained_googlenet_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.googlenet(
        weights=None, aux_logits=True, init_weights=False, transform_input=True
    ).eval()
    monkeypatch.setattr(
        torchvision.models.GoogLeNet_Weights, "get_state_dict", lambda self, **options: published.state_dict()
    )
    ours = make_backbone("googlenet", pretrained=True).eval()
    published.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), published(images))


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet-v2", "shufflenet-v2"])
def test_weights_that_cannot_be_fetched_are_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"{name}.*no network.*pretrained=False"):
        make_backbone(name, pretrained=True)


def test_timm_weights_that_cannot_be_fetched_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    with pytest.raises(InputError, match=r"resnet10t.*no network.*pretrained=False"):
        make_backbone("timm:resnet10t", pretrained=True)


@pytest.mark.parametrize(
    "name", ["resnet10", "resnet10-tiny", "resnet18-tiny", "mobilefacenet", "timm:vgg11.no_such_tag"]
)
def test_weights_nobody_publishes_are_an_error(name: str) -> None:
    with pytest.raises(InputError, match="pretrained weights"):
        make_backbone(name, pretrained=True)


@pytest.mark.parametrize(
    ("name", "close"), [("resnet-10-tiny", "resnet10-tiny"), ("timm:efficientnetb0", "efficientnet_b0")]
)
def test_an_unknown_name_lists_close_ones(name: str, close: str) -> None:
    with pytest.raises(InputError, match=rf"no backbone .*close: .*\b{close}\b"):
        make_backbone(name)


def test_a_transformer_takes_another_input_size_and_has_no_map() -> None:
    backbone = make_backbone("vit_tiny_patch16_224").eval()
    assert backbone(torch.randn(1, 3, 112, 112)).shape == (1, 192)
    with pytest.raises(InputError, match=r"no .* feature map"):
        backbone.feature_map(torch.randn(1, 3, 112, 112))


def test_mobilefacenet_loads_published_weights_strictly(shared: Path) -> None:
    backbone = make_backbone("mobilefacenet").eval()
    load_backbone(backbone, shared / "weights" / "mobilefacenet-ms1m.safetensors")
    assert parameter_count(backbone) == 999_936  # 1.02 million with the running statistics
    with torch.inference_mode():
        features = backbone(torch.randn(2, 3, 112, 112))
        assert features.shape == (2, backbone.num_features)
        assert bool(features.isfinite().all())
        with pytest.raises(InputError, match=r"112 px, not \(64, 64\)"):
            backbone(torch.randn(1, 3, 64, 64))


def test_load_backbone_takes_a_bare_backbone_or_a_whole_network(tmp_path: Path) -> None:
    trained = small_network()
    images = torch.randn(2, 3, 32, 32)
    for name, state in {"bare": trained.backbone.state_dict(), "whole": trained.state_dict()}.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        backbone = ResNet((1, 1), (8, 16)).eval()
        load_backbone(backbone, tmp_path / f"{name}.safetensors")
        torch.testing.assert_close(backbone(images), trained.backbone(images))


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [("tf_efficientnet_lite0", 127 / 255, 128 / 255), ("tf_mobilenetv3_small_minimal_100", 0.5, 0.5)],
)
def test_a_timm_network_is_fed_the_normalisation_of_its_weights(
    name: str, mean: float, deviation: float
) -> None:
    backbone = make_backbone(name).eval()
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    own = ((crops.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
    model = backbone.model
    with torch.inference_mode():
        features = model.forward_features(own)
        wanted = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(backbone(normalise(crops)), wanted, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(backbone.feature_map(normalise(crops)), features, rtol=1e-3, atol=1e-4)
    assert isinstance(make_backbone("mobilenetv3_small_050").model_input, torch.nn.Identity)


def test_load_backbone_takes_timms_names_without_counts_but_not_without_weights(tmp_path: Path) -> None:
    first, second = (make_backbone("mobilenetv3_small_050") for _ in range(2))
    weights = {
        key.removeprefix("model."): tensor + 0.25
        for key, tensor in first.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    save_file(weights, tmp_path / "timm.safetensors")
    load_backbone(second, tmp_path / "timm.safetensors")
    for key, tensor in weights.items():
        assert torch.equal(second.state_dict()[f"model.{key}"], tensor)
    del weights["conv_stem.weight"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match="weights of another network"):
        load_backbone(second, tmp_path / "less.safetensors")


def test_efficientnet_lite0_starts_from_its_published_weights(shared: Path) -> None:
    backbone = make_backbone("tf_efficientnet_lite0")
    path = shared / "weights" / "tf_efficientnet_lite0-imagenet.safetensors"
    load_backbone(backbone, path)
    published = load_file(path)
    loaded = backbone.state_dict()
    assert all(torch.equal(loaded[f"model.{key}"], tensor) for key, tensor in published.items())
    assert len(loaded) - len(published) == sum(key.endswith("num_batches_tracked") for key in loaded)


def test_load_backbone_says_what_is_wrong(tmp_path: Path) -> None:
    backbone = ResNet((1, 1), (8, 16))
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match="cannot read"):
        load_backbone(backbone, path)
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot read"):
        load_backbone(backbone, path)
    save_file(ResNet((1, 1), (8, 24)).state_dict(), path)
    with pytest.raises(CheckpointError, match="another network"):
        load_backbone(backbone, path)


# --- heads and decoding ---


def decode_in_loops(outputs: Outputs, bins: AgeBins, tau: float) -> list[float]:
    """LRN Eqs. 18 to 20, image by image, bin by bin."""
    assert outputs.logits is not None
    assert outputs.regressed is not None
    ages = []
    for logits, regressed in zip(outputs.logits.tolist(), outputs.regressed.tolist(), strict=True):
        weights = [math.exp(logit / tau) for logit in logits]
        expected = sum(weight / sum(weights) * age for weight, age in zip(weights, bins.ages, strict=True))
        scaled = (bins.maximum - bins.minimum) * regressed + bins.minimum
        ages.append((expected + scaled) / 2)
    return ages


def outputs_of(logits: list[list[float]] | None, regressed: list[float] | None) -> Outputs:
    return Outputs(
        torch.zeros(1, 16),
        None if logits is None else torch.tensor(logits),
        None if regressed is None else torch.tensor(regressed),
    )


def test_decoding_by_hand() -> None:
    head = AgeHead(16, AgeBins(20, 22), tau=2.0)
    # softmax((0, 2 ln 2, 0) / 2) = (1/4, 1/2, 1/4)
    decoded = head.decode(outputs_of([[0.0, 2 * math.log(2), 0.0]], [0.25]))
    assert decoded.distribution is not None
    torch.testing.assert_close(decoded.distribution, torch.tensor([[0.25, 0.5, 0.25]]))
    assert decoded.ldl is not None
    assert decoded.reg is not None
    assert [float(decoded.ldl), float(decoded.reg), float(decoded.age)] == pytest.approx([21.0, 20.5, 20.75])


def test_decoding_follows_the_equations() -> None:
    torch.manual_seed(0)
    network = small_network(tau=1.7)
    outputs = Outputs(torch.zeros(6, 16), 3 * torch.randn(6, len(BINS)), torch.rand(6))
    expected = decode_in_loops(outputs, BINS, 1.7)
    assert network.head.decode(outputs).age.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_distribution_may_have_its_own_temperature_but_not_the_estimate() -> None:
    head = small_network().head
    outputs = outputs_of([[0.0, 1.0, 4.0, 1.0, 2.0]], [0.3])
    plain, calibrated = head.decode(outputs), head.decode(outputs, temperature=0.5)
    assert torch.equal(plain.age, calibrated.age)
    assert calibrated.distribution is not None
    assert outputs.logits is not None
    torch.testing.assert_close(calibrated.distribution, torch.softmax(outputs.logits / 0.5, dim=1))
    assert plain.distribution is not None
    assert not torch.allclose(plain.distribution, calibrated.distribution, atol=0.05)
    torch.testing.assert_close(head.decode(outputs, temperature=head.tau), plain)


def test_only_the_estimate_is_clipped() -> None:
    decoded = small_network(("reg",)).head.decode(outputs_of(None, [-0.5, 0.5, 3.0]))
    assert decoded.reg is not None
    assert decoded.reg.tolist() == [8.0, 12.0, 22.0]
    assert decoded.age.tolist() == [10.0, 12.0, 14.0]


@pytest.mark.parametrize("heads", [("ldl",), ("reg",), ("reg", "ldl")])
def test_heads_there_are_not_give_nothing(heads: tuple[HeadName, ...]) -> None:
    network = small_network(heads)
    outputs = network(torch.randn(3, 3, 32, 32))
    decoded: Decoded = network.head.decode(outputs)
    assert (outputs.logits is not None) == (decoded.ldl is not None) == ("ldl" in heads)
    assert (decoded.distribution is not None) == ("ldl" in heads)
    assert (outputs.regressed is not None) == (decoded.reg is not None) == ("reg" in heads)
    assert decoded.age.shape == (3,)
    assert set(network.head.heads) == set(heads)


@pytest.mark.parametrize(
    ("heads", "tau"),
    [((), 2.0), (("ldl", "ldl"), 2.0), (("ranks",), 2.0), (("ldl",), 0.0), (("ldl",), math.nan)],
)
def test_unusable_settings_of_the_head(heads: tuple[HeadName, ...], tau: float) -> None:
    with pytest.raises(InputError, match=r"heads must be|tau must be"):
        AgeHead(16, BINS, heads, tau)


def test_mistakes_in_the_code_are_value_errors() -> None:
    head = small_network().head
    with pytest.raises(ValueError, match="neither"):
        head.decode(outputs_of(None, None))
    with pytest.raises(ValueError, match="temperature"):
        head.decode(outputs_of(None, [0.5]), temperature=0.0)
    with pytest.raises(ValueError, match="16 features, head expects 8"):
        AgeNetwork(ResNet((1, 1), (8, 16)), AgeHead(8, BINS))


def test_low_precision_outputs_are_decoded_in_float32() -> None:
    head = AgeHead(16, AgeBins(0, 100))
    logits = torch.randn(2, 101)
    decoded = head.decode(Outputs(torch.zeros(2, 16), logits.bfloat16(), torch.rand(2).bfloat16()))
    assert decoded.age.dtype == torch.float32
    assert decoded.distribution is not None
    torch.testing.assert_close(decoded.distribution.sum(1), torch.ones(2))


def test_a_state_dict_is_plain_tensors_and_restores_the_network(tmp_path: Path) -> None:
    first, second = small_network(), small_network()
    save_file(first.state_dict(), tmp_path / "network.safetensors")
    second.load_state_dict(load_file(tmp_path / "network.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    for ours, theirs in zip(first(images), second(images), strict=True):
        assert torch.equal(ours, theirs)
    assert "head.ages" not in first.state_dict()


def test_channels_last_changes_nothing() -> None:
    network = small_network()
    images = torch.randn(2, 3, 48, 48)
    plain = network(images)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for ours, theirs in zip(network(images.to(memory_format=torch.channels_last)), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_reach_every_parameter() -> None:
    network = small_network().train()
    outputs = network(torch.randn(4, 3, 32, 32))
    (outputs.logits.square().sum() + outputs.regressed.square().sum()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


# --- two networks, LRN Table 7's fifth row ---


def test_a_pair_is_the_mean_of_its_networks() -> None:
    distribution, regression = small_network(("ldl",)), small_network(("reg",))
    pair = PairedNetwork(distribution, regression).eval()
    images = torch.randn(3, 3, 32, 32)
    first = distribution.head.decode(distribution(images))
    second = regression.head.decode(regression(images))
    outputs = pair(images)
    decoded = pair.head.decode(outputs)
    assert outputs.features.shape == (3, 32)
    assert first.ldl is not None
    assert second.reg is not None
    torch.testing.assert_close(decoded.age, ((first.ldl + second.reg) / 2).clamp(10, 14))
    assert decoded.distribution is not None
    torch.testing.assert_close(decoded.distribution, first.distribution)


def test_a_pair_takes_each_head_from_its_own_network() -> None:
    both, other = small_network(), small_network()
    images = torch.randn(3, 3, 32, 32)
    outputs = PairedNetwork(both, other)(images)
    torch.testing.assert_close(outputs.logits, both(images).logits)
    torch.testing.assert_close(outputs.regressed, other(images).regressed)


def test_networks_that_do_not_pair() -> None:
    with pytest.raises(InputError, match="'ldl' has no such head"):
        PairedNetwork(small_network(("reg",)), small_network(("reg",)))
    with pytest.raises(InputError, match="'reg' has no such head"):
        PairedNetwork(small_network(("ldl",)), small_network(("ldl",)))
    with pytest.raises(InputError, match=r"different age bins: 10-14 and 0-100"):
        PairedNetwork(small_network(("ldl",)), small_network(("reg",), AgeBins(0, 100)))


def test_a_backbone_of_ones_own_needs_only_its_map() -> None:
    class Own(Backbone):
        num_features = 3

        def feature_map(self, images: Tensor) -> Tensor:
            return images

    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(AgeNetwork(Own(), AgeHead(3, BINS))(images).features, images.mean((2, 3)))
