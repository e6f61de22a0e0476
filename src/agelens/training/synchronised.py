"""Batch norms that see the batch of all processes, on any device and any backend of ``torch.distributed``.

PyTorch's own ``SyncBatchNorm`` runs on GPUs only. A synchronised batch norm here has the parameters and
buffers of the plain one, by the same names: what is stored and exported is the plain network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from agelens.errors import RecipeError

__all__ = ["synchronise"]


def synchronise(network: nn.Module, recipe: str) -> None:
    """Make the batch norms of a network see the batch of all processes while it trains.

    Means and variances are those of all processes' images, and so are their gradients (the gradient of the
    mean loss of all processes, once the processes' gradients are averaged). In evaluation mode nothing
    changes.

    Args:
        network: Changed in place: batch norms of PyTorch, and those of timm that have an activation.
        recipe: Name, for the message.
    Raises:
        RecipeError: A batch norm of another kind.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = type(module).forward is nn.modules.batchnorm._BatchNorm.forward
            activated = hasattr(module, "act") and hasattr(module, "drop")
            if not own and not activated:
                raise RecipeError(
                    recipe,
                    "train.sync_batch_norm",
                    f"{name} is a {type(module).__name__}, no plain batch norm",
                )
            of_kind = type(module)
            module.__class__ = type(of_kind.__name__, (_Synchronised, of_kind), {"activated": activated})


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Mixed into the class of a batch norm, before it."""

    activated: bool
    act: nn.Module
    drop: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            evaluated: Tensor = super().forward(images)
            return evaluated
        momentum = self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        centre = self.running_mean if self.running_mean is not None else images.new_zeros(images.shape[1])
        normed, mean, variance, count = _Normed.apply(images, self.weight, self.bias, centre, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        if self.activated:
            normed = self.act(self.drop(normed))
        found: Tensor = normed
        return found


class _Normed(torch.autograd.Function):
    """The normalisation by the mean and variance of all processes, with its gradient."""

    @staticmethod
    def forward(
        context: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, centre: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = _exact(images)
        places = [0, *range(2, values.ndim)]
        variance, mean = torch.var_mean(values, places, correction=0)
        own = values.numel() / values.shape[1]
        # Sums about the running mean, which all processes share: the square of the mean takes no digits from
        # the variance.
        exact = _of_sums(values)
        off, variance = (mean - centre).to(exact), variance.to(exact)
        sums = torch.cat([own * off, own * (variance + off**2), off.new_full((1,), own)])
        first, second, (count,) = torch.split(_summed(sums), [len(mean), len(mean), 1])
        off = first / count
        variance = (second / count - off**2).clamp_min(0).to(values.dtype)
        mean, count = (centre + off).to(values.dtype), count.to(values.dtype)
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        context.save_for_backward(images, weight, mean, inverse, count)
        context.has_bias = bias is not None
        context.mark_non_differentiable(mean, variance, count)
        normed = torch.addcmul(_along(shift, values), values, _along(scale, values)).to(images.dtype)
        return normed, mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, inverse, count = context.saved_tensors
        upper = _exact(gradient)
        places = [0, *range(2, upper.ndim)]
        normed = (_exact(images) - _along(mean, upper)) * _along(inverse, upper)
        exact = _of_sums(upper)
        of_bias, of_weight = (part.sum(places, dtype=exact) for part in (upper, upper * normed))
        along, across = (_summed(torch.cat([of_bias, of_weight])) / count).to(upper.dtype).chunk(2)
        of_bias, of_weight = of_bias.to(upper.dtype), of_weight.to(upper.dtype)
        scale = inverse if weight is None else inverse * weight
        of_images = (upper - _along(along, upper) - normed * _along(across, upper)) * _along(scale, upper)
        return (
            of_images.to(images.dtype),
            None if weight is None else of_weight,
            of_bias if context.has_bias else None,
            None,
            None,
        )


def _exact(images: Tensor) -> Tensor:
    """The images in float32, or in float64 as they are."""
    return images if images.dtype == torch.float64 else images.float()


def _of_sums(values: Tensor) -> torch.dtype:
    """The type that sums are made in: float64 on a CPU, as PyTorch's own batch norm does."""
    return torch.float64 if values.device.type == "cpu" else values.dtype


def _along(values: Tensor, images: Tensor) -> Tensor:
    """(C,) values in the shape that goes with images (B, C, ...)."""
    return values.view(1, -1, *(1 for _ in range(images.ndim - 2)))


def _summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes; itself where there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values
