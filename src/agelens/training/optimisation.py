"""The optimiser of a stage, and its rate and momentum step by step."""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from agelens.training.recipe import TrainSettings

__all__ = ["learning_rate", "make_optimizer", "momentum", "restore_state", "set_rate"]


def learning_rate(step: int, total: int, steps_per_epoch: int, settings: TrainSettings) -> float:
    """The rate of one step.

    Args:
        step: 0 … total - 1.
        total: Steps of the whole stage.
        steps_per_epoch: Steps of one epoch.
        settings: Schedule and its numbers.
    Returns:
        ``step``: rate × γ^(epoch // step_epochs). ``milestones``: rate × γ^(milestones passed). ``rates``:
        the last of ``rates`` whose epoch is reached. ``onecycle``: cosine from rate/25 up to the rate
        over the warm-up, then cosine down to ``last_rate`` of it (Smith & Topin's policy without its third
        phase).
    """
    rate = settings.scaled_rate
    if settings.schedule == "step":
        return rate * settings.gamma ** (step // steps_per_epoch // settings.step_epochs)
    if settings.schedule == "milestones":
        epoch = step // steps_per_epoch
        return rate * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.schedule == "rates":
        epoch = step // steps_per_epoch
        return [value for first, value in settings.rates if epoch >= first][-1] * settings.rate_factor
    peak = settings.warmup * (total - 1)
    if step < peak:
        return rate / 25 + (rate - rate / 25) * (1 - cos(pi * step / peak)) / 2
    share = (step - peak) / max(total - 1 - peak, 1)
    last = rate * settings.last_rate
    return last + (rate - last) * (1 + cos(pi * share)) / 2


def momentum(step: int, total: int, settings: TrainSettings) -> float | None:
    """The momentum of one step under OneCycle: as low as the rate is high.

    Args:
        step: 0 … total - 1.
        total: Steps of the whole stage.
        settings: ``cycle_momentum``, its first and its lowest value.
    Returns:
        Cosine from the first value down to the lowest over the warm-up, then up again, as PyTorch's
        OneCycleLR; None: the momentum does not change.
    """
    if settings.schedule != "onecycle" or settings.cycle_momentum is None:
        return None
    first, lowest = settings.cycle_momentum
    peak = settings.warmup * (total - 1)
    share = step / peak if step < peak else 1 - (step - peak) / max(total - 1 - peak, 1)
    return first - (first - lowest) * (1 - cos(pi * share)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None = None) -> None:
    """Set the rate of every group, by its share, and the momentum (Adam's first β) if there is one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None:
            group["momentum"] = momentum


def make_optimizer(
    network: nn.Module, settings: TrainSettings, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """Make the optimiser of what is not frozen; each group's ``share`` of the rate is 1 or the backbone's.

    Args:
        network: Of the parameters.
        settings: Kind and numbers.
        device: That trains: where its kernel is fused, all parameters are updated in one pass.
    """
    groups: list[dict[str, Any]] = []
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decoupled = settings.optimizer == "adamw"
    backbone = getattr(network, "backbone", None)
    of_backbone = set() if backbone is None else {id(p) for p in backbone.parameters()}
    shares = {name: settings.backbone_rate if id(p) in of_backbone else 1.0 for name, p in named}
    for share in dict.fromkeys(shares.values()):
        of_share = [p for name, p in named if shares[name] == share]
        if decoupled:
            groups.append({"params": [p for p in of_share if p.ndim > 1], "share": share})
            vectors = [p for p in of_share if p.ndim <= 1]
            groups.append({"params": vectors, "share": share, "weight_decay": 0.0})
        else:
            groups.append({"params": of_share, "share": share})
    rate, decay = settings.learning_rate, settings.weight_decay
    fused = (device is None or device.type in _FUSED) or None
    if decoupled:
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=fused)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=decay, fused=fused)
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused)


_FUSED = ("cpu", "cuda", "mps")


def restore_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what an optimiser keeps of each parameter.

    A tensor of a parameter's shape gets its order in memory too: fused kernels go along memory, and a file
    keeps rows only.

    Args:
        optimizer: Of the same parameters.
        tensors: ``index.key`` of each, as they were in its ``state_dict``.
    Raises:
        KeyError, ValueError, RuntimeError: They are of other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[str, Any] = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        if int(index) >= len(parameters):
            raise ValueError(f"no parameter {index}")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)
