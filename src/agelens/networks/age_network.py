"""The age network: one backbone, two linear heads on its pooled feature, and how they become an age.

The head that decodes in training is the very object that is exported, so the two cannot drift apart.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.backbone import Backbone
from agelens.networks.backbones import make_backbone

__all__ = [
    "AgeHead",
    "AgeNetwork",
    "AnyNetwork",
    "Decoded",
    "Head",
    "HeadName",
    "MirroredNetwork",
    "Outputs",
    "PairedNetwork",
    "parameter_count",
]

HeadName = Literal["ldl", "reg"]


class Outputs(NamedTuple):
    """Outputs of a network for a batch, before decoding."""

    features: Tensor
    """(B, C) pooled features."""
    logits: Tensor | None
    """(B, K) logits z of the age distribution (Eq. 2 of [1]); None without the ``ldl`` head."""
    regressed: Tensor | None
    """(B,) regressed age s, normalised by the bins to 0...1 (Eq. 10); None without the ``reg`` head."""


class Decoded(NamedTuple):
    """Ages in years and the distribution over the age bins."""

    ldl: Tensor | None
    """(B,) expected age of the distribution at the training temperature (Eq. 18 of [1])."""
    reg: Tensor | None
    """(B,) regressed age in years (Eq. 19), as it comes: it may lie outside the bins."""
    age: Tensor
    """(B,) the estimate: the mean of both (Eq. 20) or the one there is, clipped to the bins' range."""
    distribution: Tensor | None
    """(B, K) distribution at the temperature asked for; None without the ``ldl`` head."""


class Head(nn.Module):
    """Features to outputs, and outputs to ages: the object that decodes in training is exported.

    A subclass implements ``heads``, ``forward`` and ``decode``; ``forward`` gives the logits z of a
    distribution softmax(z / temperature) over the bins even where the head computes something else, so that
    calibration, intervals and teachers work alike for every head.

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages of the distribution.
        tau: Temperature of training, which the estimate keeps.
    Raises:
        InputError: ``tau`` is not positive.
    """

    ages: Tensor

    step: float = 0.0
    """Height of the steps of the estimate, years: 1 where votes are counted. A rounding error moves such an
    estimate by a whole step."""

    def __init__(self, num_features: int, age_bins: AgeBins, tau: float) -> None:
        super().__init__()
        if not tau > 0:
            raise InputError(f"tau must be positive, not {tau}")
        self.num_features = num_features
        self.age_bins = age_bins
        self.tau = float(tau)
        # The bins belong to the configuration, not to the weights: they are not in the state dict.
        self.register_buffer("ages", torch.as_tensor(age_bins.ages, dtype=torch.float32), persistent=False)

    @property
    def heads(self) -> tuple[HeadName, ...]:
        """Estimates that it learns: ``ldl`` a distribution, ``reg`` an age, or both."""
        raise NotImplementedError

    @property
    def has_distribution(self) -> bool:
        """Whether the outputs have logits."""
        return True

    def decode(self, outputs: Outputs, temperature: float | None = None) -> Decoded:
        """Turn outputs into ages in years and a distribution, in float32.

        Args:
            outputs: Of ``forward``, or averages of such.
            temperature: Temperature of the returned distribution, > 0; None: ``tau``.
        Returns:
            The ages of each head, the estimate and the distribution.
        Raises:
            ValueError: ``temperature`` is not positive.
        """
        raise NotImplementedError

    def decoding(self, temperature: float | None, paired: bool = False) -> dict[str, str]:
        """The decoding in words, for the model card.

        Args:
            temperature: Of the distribution; None: ``tau``.
            paired: The outputs' regressed age comes from another network.
        """
        raise NotImplementedError


class AgeHead(Head):
    """Label distribution and regression heads on one pooled feature (Eqs. 2 and 10 of [1]).

    Args:
        num_features: Length C of the feature vector.
        age_bins: The K ages of the distribution; they also normalise the regressed age.
        heads: Which of ``ldl`` and ``reg`` there are (Table 7 of [1] compares them).
        tau: Temperature of training, which the estimate keeps.
    Raises:
        InputError: ``heads`` is empty, repeats or names another head, or ``tau`` is not positive.
    """

    def __init__(
        self,
        num_features: int,
        age_bins: AgeBins,
        heads: Sequence[HeadName] = ("ldl", "reg"),
        tau: float = 2.0,
    ) -> None:
        super().__init__(num_features, age_bins, tau)
        if not heads or len(set(heads)) != len(heads) or not set(heads) <= {"ldl", "reg"}:
            raise InputError(f"heads must be 'ldl', 'reg' or both, not {tuple(heads)!r}")
        self.ldl = nn.Linear(num_features, len(age_bins)) if "ldl" in heads else None
        self.reg = nn.Linear(num_features, 1) if "reg" in heads else None

    @property
    def heads(self) -> tuple[HeadName, ...]:
        """The heads there are, ``ldl`` first."""
        present: list[HeadName] = []
        if self.ldl is not None:
            present.append("ldl")
        if self.reg is not None:
            present.append("reg")
        return tuple(present)

    @property
    def has_distribution(self) -> bool:
        """Whether there is an ``ldl`` head."""
        return self.ldl is not None

    def forward(self, features: Tensor) -> Outputs:
        """Apply the heads.

        Args:
            features: (B, C) pooled features.
        Returns:
            The features, logits and normalised regressed ages.
        """
        return Outputs(
            features=features,
            logits=None if self.ldl is None else self.ldl(features),
            regressed=None if self.reg is None else self.reg(features).squeeze(1),
        )

    def decode(self, outputs: Outputs, temperature: float | None = None) -> Decoded:
        """Turn outputs into ages in years and a distribution, in float32.

        Two temperatures are kept apart. The *estimate* always uses the training temperature ``tau``
        (Eq. 18 of [1]). The *distribution* is reported at ``temperature``, the calibrated one, or at ``tau``.
        Eq. 19 is applied as printed; only the final estimate is clipped to the range of the bins. The
        losses, which see the raw outputs, are not touched by the clipping.

        Args:
            outputs: Outputs with logits, regressed ages or both (they need not come from this head).
            temperature: Temperature of the returned distribution, > 0; None: ``tau``.
        Returns:
            The ages of each head, the estimate and the distribution.
        Raises:
            ValueError: ``outputs`` has neither logits nor regressed ages, or ``temperature`` is not positive.
        """
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        bins = self.age_bins
        ldl = reg = distribution = None
        if outputs.logits is not None:
            logits = outputs.logits.float()
            at_tau = torch.softmax(logits / self.tau, dim=1)
            ldl = at_tau @ self.ages
            distribution = at_tau if temperature is None else torch.softmax(logits / temperature, dim=1)
        if outputs.regressed is not None:
            reg = outputs.regressed.float() * (bins.maximum - bins.minimum) + bins.minimum
        if ldl is not None and reg is not None:
            age = (ldl + reg) / 2
        elif ldl is not None:
            age = ldl
        elif reg is not None:
            age = reg
        else:
            raise ValueError("outputs have neither logits nor regressed ages")
        return Decoded(ldl, reg, age.clamp(bins.minimum, bins.maximum), distribution)

    def decoding(self, temperature: float | None, paired: bool = False) -> dict[str, str]:
        """The decoding in words, for the model card."""
        both = paired or "reg" in self.heads
        return {
            "age": "mean of ldl and reg, clipped to the bins" if both else "ldl",
            "ldl": f"expected age of softmax(logits / {self.tau:g})",
            **({"reg": "regressed * (maximum - minimum) + minimum"} if both else {}),
            "distribution": f"softmax(logits / {self.tau if temperature is None else temperature:g})",
        }


class AgeNetwork(nn.Module):
    """A backbone and a head: normalised images to outputs; ``head.decode`` turns them into ages.

    Args:
        backbone: Images to features.
        head: Features to outputs.
    Raises:
        ValueError: The head expects another number of features than the backbone gives.
    """

    kind: ClassVar[str] = "age"

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        if backbone.num_features != head.num_features:
            raise ValueError(
                f"backbone gives {backbone.num_features} features, head expects {head.num_features}"
            )
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Outputs:
        """Map (B, 3, H, W) normalised images to outputs."""
        outputs: Outputs = self.head(self.backbone(images))
        return outputs

    def describe(self) -> dict[str, Any]:
        """Kind, backbone, age bins, heads and τ: see :mod:`agelens.networks.stored`."""
        return {
            "kind": self.kind,
            "backbone": self.backbone.name,
            "age_bins": str(self.head.age_bins),
            "heads": self.head.heads,
            "tau": self.head.tau,
        }

    @classmethod
    def rebuild(cls, described: Mapping[str, Any]) -> Self:
        """Build the network as described."""
        backbone = make_backbone(described["backbone"])
        bins = AgeBins.parse(described["age_bins"])
        return cls(backbone, AgeHead(backbone.num_features, bins, described["heads"], described["tau"]))


class PairedNetwork(nn.Module):
    """Two separately trained networks combined by Eq. 20 of [1] (the fifth row of its Table 7).

    The first gives the distribution, the second the regressed age; both see the same images. It has the
    interface of ``AgeNetwork`` (``forward``, ``head``), so it is evaluated and exported the same way.

    Args:
        distribution: A network with an ``ldl`` head; its head decodes both.
        regression: A network with a ``reg`` head.
    Raises:
        InputError: A head is missing, or the two differ in their age bins.
    """

    def __init__(self, distribution: AgeNetwork, regression: AgeNetwork) -> None:
        super().__init__()
        for name, network in (("ldl", distribution), ("reg", regression)):
            if not isinstance(network.head, AgeHead) or name not in network.head.heads:
                raise InputError(f"cannot pair networks: the one for {name!r} has no such head")
        if distribution.head.age_bins != regression.head.age_bins:
            raise InputError(
                "cannot pair networks with different age bins: "
                f"{distribution.head.age_bins} and {regression.head.age_bins}"
            )
        self.distribution = distribution
        self.regression = regression

    @property
    def head(self) -> Head:
        """The head that decodes: its bins are both networks', its ``tau`` the distribution's."""
        return self.distribution.head

    def forward(self, images: Tensor) -> Outputs:
        """Map (B, 3, H, W) normalised images to outputs; the features are concatenated."""
        first: Outputs = self.distribution(images)
        second: Outputs = self.regression(images)
        features = torch.cat((first.features, second.features), dim=1)
        return Outputs(features, first.logits, second.regressed)


class MirroredNetwork(nn.Module):
    """A network that sees each face twice, as it is and mirrored, and averages its outputs.

    Logits and regressed ages are averaged, then decoded as always. It costs twice the time of the network.
    It has the interface of ``AgeNetwork`` (``forward``, ``head``): it is evaluated and exported like one.

    Args:
        network: A trained network.
    """

    def __init__(self, network: AgeNetwork | PairedNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def head(self) -> Head:
        """The network's head."""
        return self.network.head

    def forward(self, images: Tensor) -> Outputs:
        """Map (B, 3, H, W) normalised images to outputs, the mean of both views."""
        outputs: Outputs = self.network(torch.cat((images, images.flip(3))))
        means: list[Any] = [None if part is None else _mean_of_halves(part) for part in outputs]
        return type(outputs)(*means)


AnyNetwork = AgeNetwork | PairedNetwork | MirroredNetwork
"""A network that maps images to outputs and has a head that decodes them."""


def _mean_of_halves(values: Tensor) -> Tensor:
    return values.reshape(2, -1, *values.shape[1:]).mean(dim=0)


def parameter_count(module: nn.Module) -> int:
    """Count the trainable numbers of a module (batch norm's running statistics are not among them)."""
    return sum(parameter.numel() for parameter in module.parameters())
