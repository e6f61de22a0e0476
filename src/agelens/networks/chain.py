"""Plain chains of convolutions, as papers write them: C64(3)-C32(3)-P-…, with the map after any of them.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agelens.errors import InputError
from agelens.networks.backbone import Backbone
from agelens.rehearsal import cut_channels

__all__ = ["Chain", "ChainBackbone", "normal_weights", "paper_chain", "parse_chain"]


def parse_chain(text: str) -> list[tuple[int, int]]:
    """Read a chain in the papers' notation.

    Args:
        text: Such as ``C64(3)-C32(3)x2-P``: 64 kernels of 3x3, twice 32 of 3x3, a 2x2 max-pool.
    Returns:
        (channels, kernel) of each layer; (0, 2) is a max-pool.
    Raises:
        ValueError: A word is none of these.
    """
    layers: list[tuple[int, int]] = []
    for word in text.split("-"):
        if word == "P":
            layers.append((0, 2))
            continue
        match = re.fullmatch(r"C(\d+)\((\d+)\)(?:x(\d+))?", word)
        if match is None:
            raise ValueError(f"{word!r} is no layer of a chain")
        channels, kernel, count = (int(number or 1) for number in match.groups())
        layers += [(channels, kernel)] * count
    return layers


class Chain(nn.Sequential):
    """A chain of layers whose convolutions are numbered, 1 = the first, blocks counted by all theirs.

    The map of a convolution is taken behind its batch norm and ReLU; inside a block there is none.

    Args:
        layers: Convolutions, batch norms, ReLUs, pools, residual blocks.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.ends: dict[int, int] = {}
        self._channels: dict[int, int] = {}
        number = 0
        for index, layer in enumerate(layers):
            convolutions = [module for module in layer.modules() if isinstance(module, nn.Conv2d)]
            number += len(convolutions)
            if convolutions:
                self._channels[number] = convolutions[-1].out_channels
            if number and (convolutions or isinstance(layer, nn.BatchNorm2d | nn.ReLU)):
                self.ends[number] = index + 1

    @property
    def out_channels(self) -> int:
        """Channels of the last map."""
        return self._channels[max(self._channels)]

    def channels(self, number: int) -> int:
        """Channels of the map of convolution ``number``.

        Raises:
            InputError: There is no such map.
        """
        self._check([number])
        return self._channels[number]

    def maps(self, images: Tensor, numbers: Sequence[int], *, whole: bool = False) -> list[Tensor]:
        """Compute the maps of some convolutions.

        Args:
            images: (B, 3, H, W).
            numbers: Convolutions.
            whole: Go on to the end, and put the last map behind the others; else no further than needed.
        Returns:
            (B, C, h, w) of each.
        Raises:
            InputError: There is no such map.
        """
        self._check(numbers)
        ends = [self.ends[number] for number in numbers]
        kept: dict[int, Tensor] = {}
        for done, layer in enumerate(self, start=1):
            if not whole and done > max(ends):
                break
            images = layer(images)
            if done in ends:
                kept[done] = images
        return [kept[end] for end in ends] + ([images] if whole else [])

    def before(self, number: int) -> Chain:
        """The layers before a convolution, as a chain of their own."""
        first = next(i for i in range(self.ends[number] - 1, -1, -1) if isinstance(self[i], nn.Conv2d))
        return Chain(*list(self)[:first])

    def _check(self, numbers: Sequence[int]) -> None:
        if not set(numbers) <= set(self.ends):
            known = ", ".join(map(str, self.ends))
            raise InputError(f"there are maps of the convolutions {known}, not of {list(numbers)}")


def paper_chain(text: str, width: float = 1.0) -> Chain:
    """Convolutions of stride 1 with batch norm and ReLU, 2x2 max-pools of stride 2 ([1], Appendix A, B).

    The convolutions keep their bias beside batch norm, as the size of the small student says (0.44 MB).

    Args:
        text: In the papers' notation, see :func:`parse_chain`.
        width: Factor of all channels.
    """
    layers: list[nn.Module] = []
    in_channels = 3
    for channels, kernel in parse_chain(text):
        if channels == 0:
            layers.append(nn.MaxPool2d(kernel))
            continue
        out_channels = cut_channels(max(1, round(channels * width)))
        layers.append(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        in_channels = out_channels
    return Chain(*layers)


class ChainBackbone(Backbone):
    """A chain, its map pooled to a grid, and fully connected layers with ReLU.

    Args:
        layers: Of the chain, in the papers' notation.
        grid: Side of the grid that the map is average-pooled to; 0: the map as it is.
        map_side: Side of the map as it is, which fixes the size of the images; used with ``grid`` 0.
        connected: Outputs of each fully connected layer.
        dropout: Of each fully connected layer's output.
        width: Factor of all channels and outputs.
    """

    def __init__(
        self,
        layers: str,
        *,
        grid: int = 1,
        map_side: int = 0,
        connected: Sequence[int] = (),
        dropout: float = 0.0,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.chain = paper_chain(layers, width)
        self.grid, self.map_side = grid, map_side
        features = self.chain.out_channels * (grid or map_side) ** 2
        top: list[nn.Module] = []
        for outputs in connected:
            scaled = cut_channels(max(1, round(outputs * width)))
            top += [nn.Linear(features, scaled), nn.ReLU(inplace=True)]
            top += [nn.Dropout(dropout)] if dropout else []
            features = scaled
        self.top = nn.Sequential(*top)
        self.num_features = features

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the chain's last map, (B, C, h, w)."""
        features: Tensor = self.chain(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, C) features."""
        return self._pooled(self.feature_map(images))

    def forward_with_maps(self, images: Tensor, numbers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Compute the features, and on the way the maps after some convolutions (1 = the first)."""
        *maps, last = self.chain.maps(images, numbers, whole=True)
        return self._pooled(last), maps

    def _pooled(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        if self.grid:
            if min(height, width) < self.grid:
                raise InputError(f"a map of {height}x{width} has no grid of {self.grid}x{self.grid}")
            # Windows of equal size, as the runtime's pooling has them; they overlap if sides do not divide.
            stride = (height // self.grid, width // self.grid)
            kernel = (height - (self.grid - 1) * stride[0], width - (self.grid - 1) * stride[1])
            features = F.avg_pool2d(features, kernel, stride)
        elif (height, width) != (self.map_side, self.map_side):
            raise InputError(
                f"images of this size leave a map of {height}x{width}; "
                f"the first connected layer was made for {self.map_side}x{self.map_side}"
            )
        connected: Tensor = self.top(features.flatten(1))
        return connected


_DEVIATION = 0.02  # of [1]


def normal_weights(network: nn.Module, width: float = 1.0) -> None:
    """Draw all weights from N(0, 0.02), biases 0 ([1], Appendix A and C); batch norms start at 1 and 0.

    A layer sums over inputs in proportion to the width: of a network of another width, the deviation is
    divided by its root, so that the outputs start as large as those of the paper's.

    Args:
        network: Filled in place; torch's generator is used.
        width: Factor of its channels.
    """
    deviation = _DEVIATION / width**0.5
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                with torch.no_grad():
                    module.bias.zero_()
