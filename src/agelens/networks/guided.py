"""A student with its guides: regressors that map its inner maps to a teacher's, for training only.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
[2] Romero et al., FitNets: hints for thin deep nets, ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from agelens.errors import InputError
from agelens.networks.age_network import AgeNetwork, Head, Outputs
from agelens.networks.chain import Chain, ChainBackbone
from agelens.networks.students import StridedStudent
from agelens.networks.zca import Whitened

__all__ = ["GuidedOutputs", "GuidedStudent", "HintSource"]


class GuidedOutputs(NamedTuple):
    """Outputs of a guided student for a batch."""

    features: Tensor
    """(B, C) pooled features."""
    logits: Tensor | None
    """(B, K), None without an ``ldl`` head."""
    regressed: Tensor | None
    """(B,), None without a ``reg`` head."""
    hints: tuple[Tensor, ...]
    """(B, C', h, w) output of each regressor for its guided layer."""

    def ages(self) -> Outputs:
        """The outputs of the student alone."""
        return Outputs(self.features, self.logits, self.regressed)


class GuidedStudent(nn.Module):
    """A student and a convolutional regressor for each guided layer ([1], Sec. III-D; [2]).

    A regressor is a 1 x 1 convolution, for the guided maps of [1] have their hints' height and width; where
    they do not, the loss resizes what it gives.

    Args:
        student: The student; with guided layers its backbone is a chain, whitened or not.
        guided: Guided convolutions, 1 = the first.
        hint_channels: Channels of each hint.
        rectified: Put a ReLU behind each regressor: hints are maps behind a ReLU.
    Raises:
        InputError: The backbone has no (such) numbered convolutions.
    """

    kind: ClassVar[str] = "guided"

    def __init__(
        self,
        student: AgeNetwork,
        guided: Sequence[int] = (),
        hint_channels: Sequence[int] = (),
        *,
        rectified: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.guided, self.hint_channels, self.rectified = tuple(guided), tuple(hint_channels), rectified
        self.regressors = nn.ModuleList(
            nn.Conv2d(chain_of(student).channels(number), channels, 1)
            for number, channels in zip(guided, hint_channels, strict=True)
        )

    @property
    def head(self) -> Head:
        """The student's head."""
        return self.student.head

    @property
    def backbone(self) -> nn.Module:
        """The student's backbone: what ``network.frozen`` and ``train.backbone_rate`` of a recipe mean."""
        return self.student.backbone

    def forward(self, images: Tensor) -> GuidedOutputs:
        """Map (B, 3, H, W) normalised images to ages and regressed hints."""
        if not self.guided:
            outputs: Outputs = self.student(images)
            return GuidedOutputs(*outputs, ())
        with_maps: Any = self.student.backbone.forward_with_maps  # chain_of() refused what has none
        features, maps = with_maps(images, self.guided)
        outputs = self.student.head(features)
        hints = (regressor(feature_map) for regressor, feature_map in zip(self.regressors, maps, strict=True))
        return GuidedOutputs(*outputs, tuple(hint.relu() if self.rectified else hint for hint in hints))

    def describe(self) -> dict[str, Any]:
        """The student's description, guided layers and channels: see :mod:`agelens.networks.stored`."""
        return {
            **self.student.describe(),
            "kind": self.kind,
            "guided": self.guided,
            "hint_channels": self.hint_channels,
            "rectified": self.rectified,
        }

    @classmethod
    def rebuild(cls, described: Mapping[str, Any]) -> Self:
        """Build student and regressors as described."""
        return cls(
            AgeNetwork.rebuild(described),
            described["guided"],
            described["hint_channels"],
            rectified=described.get("rectified", False),  # networks before the option have none
        )

    def unguided(self) -> list[nn.Module]:
        """The layers that no hint reaches: those behind the last guided one, and the head."""
        chain = chain_of(self.student)
        behind = list(chain)[max(chain.ends[number] for number in self.guided) :]
        backbone: Any = self.student.backbone
        inner = backbone.backbone if isinstance(backbone, Whitened) else backbone
        top: Any = inner.top if isinstance(inner, ChainBackbone) else inner.gdconv
        return [*behind, top, self.student.head]


class HintSource(nn.Module):
    """An age network in the ranker's place: a control that learned ages, not orders (ours).

    Args:
        network: Its backbone is a chain, whitened or not, such as a classifier's.
        input_size: Side of the images it was trained on, pixels.
    Raises:
        InputError: The backbone has no numbered convolutions.
    """

    def __init__(self, network: AgeNetwork, input_size: int) -> None:
        super().__init__()
        backbone = network.backbone
        self.whitening = backbone.whitening if isinstance(backbone, Whitened) else None
        self.chain = chain_of(network)
        self.input_size = input_size

    def maps(self, images: Tensor, numbers: list[int]) -> list[Tensor]:
        """Compute the hints: the maps after convolutions (1 = the first) of faces (B, 3, S, S)."""
        return self.chain.maps(images if self.whitening is None else self.whitening(images), numbers)


def chain_of(student: AgeNetwork) -> Chain:
    """The chain a student consists of, without its whitening.

    Raises:
        InputError: It is another kind of network.
    """
    backbone = student.backbone
    inner = backbone.backbone if isinstance(backbone, Whitened) else backbone
    if not isinstance(inner, ChainBackbone | StridedStudent):
        raise InputError(
            f"only a chain of numbered convolutions can be guided by hints, not a {type(inner).__name__}: "
            "take one of the students, or leave out the hint stage and set lambda_1 = 0"
        )
    return inner.chain
