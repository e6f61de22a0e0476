"""VGG-16 with batch norm, the classifier teacher; at 64 px without its fifth pool.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
[2] Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from agelens.networks.chain import ChainBackbone
from agelens.rehearsal import cut_side

__all__ = ["VGG16", "vgg16_backbone", "vgg_keys"]

VGG16 = "C64(3)x2-P-C128(3)x2-P-C256(3)x3-P-C512(3)x3-P-C512(3)x3-P"
"""Configuration D of [2]."""


def vgg16_backbone(input_size: int, width: float = 1.0) -> ChainBackbone:
    """Convolutions, then F4096 twice with dropout, as in [2].

    Below 112 px the fifth pool is dropped ([1], Appendix A, for 64 x 64).

    Args:
        input_size: Side of the images, pixels; it fixes the first connected layer.
        width: Factor of all channels and outputs.
    """
    layers = VGG16 if input_size >= 112 else VGG16.removesuffix("-P")
    side = cut_side(input_size) // (32 if input_size >= 112 else 16)
    return ChainBackbone(layers, grid=0, map_side=side, connected=(4096, 4096), dropout=0.5, width=width)


def vgg_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the convolutional weights of torchvision's ``vgg16_bn`` to those of our chain.

    Args:
        state: torchvision's state dict.
    Returns:
        The state of ``ChainBackbone.chain``; the classifier, made for 224 px, is left out.
    """
    prefix = "features."
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
