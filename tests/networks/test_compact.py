"""The compact networks: sizes as their papers print them, the age that SSR-Net's stages say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import parameter_count
from agelens.networks.backbones import make_backbone
from agelens.networks.heads import HEADS, age_network

BINS = AgeBins(0, 100)


def _numbers(backbone: str, head: str) -> int:
    """Weights, and the statistics of batch norm, as Keras counts them."""
    made = make_backbone(backbone)
    network = age_network(made, HEADS[head](made.num_features, BINS))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return parameter_count(network) + sum(2 * norm.num_features for norm in norms)


@pytest.mark.parametrize(
    ("backbone", "head", "numbers", "file", "printed"),
    [
        ("ssr-net", "stagewise", 40_915, 326_368, 0.32),
        ("compact-mobilenet", "reg", 226_309, 1_026_616, 1.0),
        ("compact-mobilenet-50", "reg", 842_421, 3_491_112, None),
        ("compact-densenet", "reg", 242_009, 1_055_832, 1.1),
        ("compact-densenet-13", "reg", 108_377, 496_048, None),
    ],
)
def test_the_numbers_are_those_of_the_authors_files(
    backbone: str, head: str, numbers: int, file: int, printed: float | None
) -> None:
    """The papers print the size of a Keras file: float32 numbers, and what HDF5 adds for each array.

    Numbers and bytes were counted in the authors' published files (MORPH 2).
    """
    assert _numbers(backbone, head) == numbers
    assert 60_000 < file - 4 * numbers < 165_000
    if printed is not None:  # to the digits printed; SSR-Net's 0.326 is cut, not rounded
        digits = len(str(printed).partition(".")[2])
        assert file / 1e6 == pytest.approx(printed, abs=0.5 * 10**-digits + 0.002)


@pytest.mark.parametrize(("head", "outputs"), [("reg", 81), ("ordinal", 100 * 81)])
def test_or_cnn_and_its_baseline_take_1_7_mib(head: str, outputs: int) -> None:
    layers = (75 * 20 + 20) + (20 * 49 * 40 + 40) + (40 * 121 * 80 + 80) + (80 * 80 + 80)
    numbers = _numbers("compact-or-cnn", head)
    assert numbers == layers + 4 * (20 + 40 + 80) + outputs
    assert round(4 * numbers / 2**20, 1) == 1.7


def test_c3ae_has_the_numbers_of_its_table() -> None:
    """Table 1 of the paper adds up to 36,377: one scale, no excitation, a bias in each convolution."""
    printed = 896 + 3 * 9248 + 4 * 128 + 1056 + 6156 + 13
    assert printed == 36_377
    backbone = make_backbone("c3ae")
    excitation = parameter_count(backbone.excite)
    biases, scales = 4 * 32, 2 * 512 * 12  # not here: batch norm follows; here: two scales more
    assert _numbers("c3ae", "cascade") == printed - biases + excitation + scales
    assert printed - biases == pytest.approx(printed, rel=0.02)


def test_the_compact_regressors_are_about_a_megabyte() -> None:
    mobilenet = _numbers("compact-mobilenet", "reg")
    # MobileNet of width 0.25 has 218,544 (Keras); 256 → 20; 2 · 2 · 20 → 32 → 1
    assert mobilenet == 218_544 + 256 * 20 + 20 + 80 * 32 + 32 + 33
    densenet = _numbers("compact-densenet", "reg")
    blocks = sum(
        (4 + 9 * 12) * channels for first in (24, 84, 144) for channels in range(first, first + 60, 12)
    )
    between = sum(4 * channels + channels**2 for channels in (84, 144)) + 4 * 204
    assert densenet == 3 * 24 * 9 + blocks + between + 204 * 128 + 128 + 128 * 32 + 32 + 33
    assert (
        0.9e6 < 4 * mobilenet < 4 * densenet < 1.0e6
    )  # bytes; the files printed as 1.0 and 1.1 MB are larger
    assert _numbers("compact-densenet-13", "reg") < densenet
    assert _numbers("compact-mobilenet-50", "reg") > 2 * mobilenet


@pytest.mark.parametrize(("name", "printed"), [("thin-age", 3.7e6), ("tiny-age", 0.94e6)])
def test_thin_and_tiny_age_net(name: str, printed: float) -> None:
    assert _numbers(name, "ldl") == pytest.approx(printed, rel=0.02)


def test_stages_say_an_age_digit_by_digit() -> None:
    head = HEADS["stagewise"](21, AgeBins(0, 100))
    features = torch.zeros(1, 21)
    features[0, 1] = 1.0  # stage 1: i = 1 of 3
    features[0, 9] = 0.5  # stage 2: half of i = 2
    features[0, 12] = 1.0  # … which its shift moves to 3
    features[0, 20] = 0.5  # stage 3 says nothing, whatever its width
    assert head(features).raw.item() == pytest.approx(101 * (1 / 3 + 3 * 0.5 / 9), rel=1e-6)
    features[0, 6] = 0.25  # Δ of stage 1 narrows the bins of all stages
    assert head(features).raw.item() == pytest.approx(101 * (1 / 3.75 + 3 * 0.5 / (3.75 * 3)), rel=1e-6)
    shifted = HEADS["stagewise"](21, AgeBins(20, 59))
    assert shifted(torch.zeros(1, 21)).raw.item() == 20.0
    with pytest.raises(InputError, match="21 features of the backbone ssr-net, not 8"):
        HEADS["stagewise"](8, BINS)


def test_the_cascade_starts_at_its_bins() -> None:
    head = HEADS["cascade"](8, BINS)
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    with torch.no_grad():
        head.linear.bias[2] = 100.0
    outputs = head(torch.ones(1, 8))
    assert outputs.raw.shape == (1, 13)
    assert head.decode(outputs).age.item() == pytest.approx(20.0)


def test_three_scales_share_their_weights() -> None:
    backbone = make_backbone("c3ae").eval()
    with torch.inference_mode():
        flat = backbone(torch.ones(1, 3, 64, 64)).reshape(3, -1)
    torch.testing.assert_close(
        flat[0], flat[1], atol=1e-4, rtol=1e-4
    )  # a plain image is the same at every scale
    torch.testing.assert_close(flat[0], flat[2], atol=1e-4, rtol=1e-4)
    assert backbone.num_features == 1536


@pytest.mark.parametrize("name", ["ssr-net", "c3ae", "compact-mobilenet", "compact-densenet", "tiny-age"])
def test_no_weights_are_published(name: str) -> None:
    with pytest.raises(InputError, match="nobody publishes"):
        make_backbone(name, pretrained=True)
