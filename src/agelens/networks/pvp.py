"""The ranker: one network for every face of a sequence, and one layer that sees them all.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from agelens.networks.chain import ChainBackbone, paper_chain, parse_chain
from agelens.networks.vgg import VGG16
from agelens.networks.zca import PatchZCA
from agelens.rehearsal import cut_channels, cut_side

__all__ = ["PVP", "TRUNKS", "Joint", "PermutationNetwork", "pvp_backbone"]

PVP = "C192(5)-C160(3)-P-C160(3)x3-P-C160(3)-P-C128(3)x2-C256(3)"
"""The convolutions of [1], Appendix A: nine, three pools."""

TRUNKS: dict[str, str] = {"pvp": PVP, "vgg16": VGG16}
"""Chains of the ranker; with VGG-16 the hints are its convolutions 4 and 10 (Table VII of [1])."""

Joint = Literal["connected", "conv"]


class PermutationNetwork(nn.Module):
    """Classifier of the permutation by which n faces in age order were shuffled ([1], Fig. 1, Appendix A).

    The paper's text and its braces differ in where the faces meet. ``joint = "connected"``, the text: all
    convolutions and F4096 run for each face, the n outputs of F4096 are concatenated before F1024; the hint
    of the ninth convolution is then computable for one face. ``joint = "conv"``, the braces: the maps before
    the last convolution are concatenated, C256, F4096 and F1024 see all faces.

    Args:
        length: n.
        permutations: K.
        input_size: Side of the images, pixels.
        trunk: A key of ``TRUNKS``. VGG-16 loses its fifth pool below 112 px.
        joint: Where the faces meet.
        width: Factor of all channels and outputs but K.
        zca: Kernel of the whitening in front, 0 = none.
    """

    kind: ClassVar[str] = "permutation"

    def __init__(
        self,
        length: int,
        permutations: int,
        input_size: int,
        *,
        trunk: str = "pvp",
        joint: Joint = "connected",
        width: float = 1.0,
        zca: int = 0,
    ) -> None:
        super().__init__()
        text = TRUNKS[trunk]
        if trunk == "vgg16" and input_size < 112:
            text = text.removesuffix("-P")
        self.settings: dict[str, Any] = {
            "length": length,
            "permutations": permutations,
            "input_size": input_size,
            "trunk": trunk,
            "joint": joint,
            "width": width,
            "zca": zca,
        }
        self.length, self.input_size = length, input_size
        self.whitening = PatchZCA(zca) if zca else None
        layers = parse_chain(text)
        last = max(index for index, (channels, _) in enumerate(layers) if channels)
        chain = paper_chain(text, width)
        self.chain = chain if joint == "connected" else chain.before(max(chain.ends))
        side = input_size
        for channels, kernel in layers:
            side = side if channels else side // kernel
        wide, narrow = (cut_channels(max(1, round(outputs * width))) for outputs in (4096, 1024))
        self.joint: nn.Module | None = None
        channels = self.chain.out_channels
        if joint == "conv":
            channels = cut_channels(max(1, round(layers[last][0] * width)))
            kernel = layers[last][1]
            self.joint = nn.Sequential(
                nn.Conv2d(length * self.chain.out_channels, channels, kernel, padding=kernel // 2),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                *(nn.MaxPool2d(pool) for _, pool in layers[last + 1 :]),
            )
        self.first = nn.Sequential(nn.Linear(channels * side * side, wide), nn.ReLU(inplace=True))
        joined = wide * length if joint == "connected" else wide
        self.last = nn.Sequential(
            nn.Linear(joined, narrow), nn.ReLU(inplace=True), nn.Linear(narrow, permutations)
        )

    def describe(self) -> dict[str, Any]:
        """Kind and the arguments it was made with: see :mod:`agelens.networks.stored`."""
        return {"kind": self.kind, **self.settings}

    @classmethod
    def rebuild(cls, described: Mapping[str, Any]) -> Self:
        """Build the network as described."""
        names = ("length", "permutations", "input_size", "trunk", "joint", "width", "zca")
        return cls(**{name: described[name] for name in names})

    def maps(self, images: Tensor, numbers: list[int]) -> list[Tensor]:
        """Compute the hints: the maps after convolutions (1 = the first) of single faces (B, 3, S, S)."""
        whitened = images if self.whitening is None else self.whitening(images)
        return self.chain.maps(whitened, numbers)

    def forward(self, images: Tensor) -> Tensor:
        """Map shuffled sequences to logits.

        Args:
            images: (B * n, 3, S, S), sequence after sequence.
        Returns:
            (B, K) logits of the permutations.
        """
        maps: Tensor = self.chain(images if self.whitening is None else self.whitening(images))
        if self.joint is not None:
            maps = self.joint(maps.reshape(-1, self.length * maps.shape[1], *maps.shape[2:]))
            connected = self.first(maps.flatten(1))
        else:
            connected = self.first(maps.flatten(1)).reshape(len(images) // self.length, -1)
        logits: Tensor = self.last(connected)
        return logits


def pvp_backbone(input_size: int, width: float = 1.0) -> ChainBackbone:
    """The ranker's layers before its softmax as a classifier's backbone (Table VII of [1]: PVP for both).

    Args:
        input_size: Side of the images, pixels.
        width: Factor of all channels and outputs.
    """
    side = cut_side(input_size) // 8
    return ChainBackbone(PVP, grid=0, map_side=side, connected=(4096, 1024), width=width)
