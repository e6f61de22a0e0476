"""Maps of a trained network, read in PyTorch: class activation maps of every stage of a run, and gradients.

A class activation map weights the last feature map f by the head's weights: M_k(x, y) = Σ_c w_kc f_c(x, y)
([2], Eq. 2), so its mean over the map is the logit of age k without its bias. LRN shows it per generation
([1], Fig. 4). Gradient-based maps explain the estimate in years and come from captum.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020.
[2] Zhou et al., Learning deep features for discriminative localization, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agelens.errors import InputError, MissingExtraError, RunError
from agelens.explanation.maps import MapKind, StageMaps, check_age
from agelens.faces.alignment import CropGeometry
from agelens.networks.age_network import AgeHead, AgeNetwork, Head, MirroredNetwork
from agelens.training.run import Run, load_stage
from agelens.training.transforms import network_input

__all__ = ["RunExplainer", "age_stages", "class_activation_maps", "explain_stage"]

_STEPS = 32  # of integrated gradients


class RunExplainer:
    """Explains the estimates of every finished stage of a run.

    Args:
        folder: The run.
        kind: Of the maps; occlusion needs a model file.
        age: ``cam`` only: explain this age instead of the estimated one, years.
    Raises:
        InputError: No finished stage estimates ages.
        RunError: Not a run, or one on crops of unknown geometry.
    """

    def __init__(self, folder: str | Path, kind: MapKind = "cam", age: float | None = None) -> None:
        self._run, self._age = Run.open(folder), age
        run = self._run
        if not run.facts.get("geometry"):
            raise RunError(
                run.path, "was trained on crops of unknown geometry (no geometry.json beside them)"
            )
        geometry = CropGeometry.from_dict(run.facts["geometry"])
        self.geometry = geometry.with_size(run.recipe.network.input_size)
        self.name, self.kind = Path(folder).absolute().name, kind
        self._stages = age_stages(run)

    def __call__(self, crops: NDArray[np.uint8]) -> list[StageMaps]:
        """Explain (N, S, S, 3) crops, stage by stage."""
        return [explain_stage(self._run, stage, crops, self.kind, self._age) for stage in self._stages]


def age_stages(run: Run) -> list[str]:
    """List the finished stages whose network estimates ages (a ranker does not).

    Raises:
        InputError: There is none.
    """
    stages = [name for name in run.finished_stages() if "estimates" in run.read_json(name, "validation.json")]
    if not stages:
        raise InputError(f"{run.path}: no finished stage estimates ages; go on with agelens train --resume")
    return stages


def explain_stage(
    run: Run, stage: str, crops: NDArray[np.uint8], kind: MapKind = "cam", age: float | None = None
) -> StageMaps:
    """Explain the estimates of a finished stage for some crops.

    Args:
        run: The run.
        stage: One of :func:`age_stages`.
        crops: (N, S, S, 3) uint8 RGB in the run's geometry.
        kind: Which map.
        age: ``cam`` only: explain this age instead of the estimated one, years.
    Returns:
        Estimates, distributions and maps.
    Raises:
        InputError: ``age`` with another kind or outside the bins, or the network has no feature map that its
            head pools.
        MissingExtraError: A gradient-based map without captum.
        CheckpointError: The stage's network is missing or damaged.
    """
    network = load_stage(run, stage)
    images = network_input(crops, run.recipe.network.input_size)
    plain = network.network if isinstance(network, MirroredNetwork) else network
    if not isinstance(plain, AgeNetwork):
        raise InputError(f"{run.path}, {stage}: a {type(plain).__name__} has no map of its own")
    head = plain.head
    bins = head.age_bins
    check_age(age, kind, bins)
    with torch.no_grad():
        decoded = head.decode(network(images))
    wanted = decoded.age.numpy().astype(np.float64) if age is None else np.full(len(crops), float(age))
    index = bins.index(np.rint(wanted))
    makers: dict[MapKind, Callable[[Tensor], Tensor]] = {
        "cam": lambda views: class_activation_maps(plain, views, torch.from_numpy(index)),
        "gradcam": lambda views: _gradcam(plain, views),
        "integrated-gradients": lambda views: _integrated_gradients(plain, views),
    }
    if kind not in makers:
        raise InputError(f"a network gives maps of the kinds {', '.join(makers)}, not {kind}")
    make = makers[kind]
    maps = make(images)
    if isinstance(network, MirroredNetwork):  # its estimate is the mean of both views, so its map is, too
        maps = (maps + make(images.flip(3)).flip(2)) / 2
    of_class = kind == "cam" and head.has_distribution
    return StageMaps(
        stage=stage,
        bins=bins,
        ages=decoded.age.numpy().astype(np.float64),
        distribution=None
        if decoded.distribution is None
        else decoded.distribution.numpy().astype(np.float64),
        explained=bins.ages[index].astype(np.float64) if of_class else np.full(len(crops), np.nan),
        maps=maps.numpy().astype(np.float64),
    )


def class_activation_maps(network: AgeNetwork, images: Tensor, index: Tensor) -> Tensor:
    """Compute the class activation maps of chosen ages, Eq. 2 of [2].

    A network without the ``ldl`` head gives the map of its regressed age.

    Args:
        network: An age network whose backbone pools its last feature map globally.
        images: (B, 3, H, W) normalised.
        index: (B,) age bin of each.
    Returns:
        (B, h, w); the mean over the map plus the bias is the logit.
    Raises:
        InputError: The head does not see the mean of the feature map, or is not linear in it.
    """
    head = network.head
    if not isinstance(head, AgeHead):
        raise InputError(f"a {type(head).__name__} has no class activation map: use --maps gradcam")
    with torch.no_grad():
        features = _feature_map(network, images)
        if head.ldl is not None:
            weights = head.ldl.weight[index]
        else:
            assert head.reg is not None  # a head has one of them
            weights = head.reg.weight.expand(len(images), -1)
        return torch.einsum("bchw,bc->bhw", features, weights)


def _feature_map(network: AgeNetwork, images: Tensor) -> Tensor:
    """The last feature map, after a check that the head sees its mean."""
    backbone: Any = network.backbone
    try:
        features: Tensor = backbone.feature_map(images)
    except (AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{type(backbone).__name__} has no feature map: use --maps integrated-gradients or occlusion"
        ) from error
    pooled = backbone(images)
    if (
        features.ndim != 4
        or pooled.shape != features.shape[:2]
        or not torch.allclose(features.mean((2, 3)), pooled, rtol=1e-4, atol=1e-5)
    ):
        raise InputError(
            f"{type(backbone).__name__} does not pool its feature map globally, so it has no class "
            "activation map: use --maps integrated-gradients or occlusion"
        )
    return features


class _FeatureMap(nn.Module):
    """The backbone up to its last feature map, as a layer that captum can watch."""

    def __init__(self, network: AgeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.backbone.feature_map(images)
        return features


class _Years(nn.Module):
    """Images to the estimate in years, before it is clipped to the bins."""

    def __init__(self, network: AgeNetwork) -> None:
        super().__init__()
        self.feature_map = _FeatureMap(network)
        self.head = network.head

    def forward(self, images: Tensor) -> Tensor:
        return _years(self.head, self.feature_map(images).mean((2, 3)))


class _WholeYears(nn.Module):
    """As :class:`_Years`, of any backbone."""

    def __init__(self, network: AgeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return _years(self.network.head, self.network.backbone(images))


def _years(head: Head, features: Tensor) -> Tensor:
    decoded = head.decode(head(features))
    parts = [part for part in (decoded.ldl, decoded.reg) if part is not None]
    return torch.stack(parts).mean(0)


def _gradcam(network: AgeNetwork, images: Tensor) -> Tensor:
    _feature_map(network, images[:1])
    attributor = _captum()
    years = _Years(network)
    maps: Tensor = attributor.LayerGradCam(years, years.feature_map).attribute(images)
    return maps.detach().squeeze(1)


def _integrated_gradients(network: AgeNetwork, images: Tensor) -> Tensor:
    """Sum over the colours, its sign dropped: how much a pixel moved the estimate, years."""
    attributor = _captum().IntegratedGradients(_WholeYears(network))
    attributed: Tensor = attributor.attribute(
        images, baselines=torch.zeros_like(images), n_steps=_STEPS, internal_batch_size=_STEPS
    )
    return attributed.detach().sum(1).abs().float()


def _captum() -> Any:
    try:
        import captum.attr
    except ModuleNotFoundError as error:
        raise MissingExtraError("captum", "explain") from error
    return captum.attr
