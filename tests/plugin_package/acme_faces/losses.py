"""A loss of another package."""

from torch import Tensor
from torch.nn import functional as F

from agelens.objectives import Objective
from agelens.objectives.contract import Positive


def huber(predicted: Tensor, ages: Tensor, bin_ages: Tensor, *, delta: Positive = 1.0) -> Tensor:
    """Huber's loss of (B,) regressed and labelled ages, years."""
    return F.huber_loss(predicted, ages.clamp(bin_ages[0], bin_ages[-1]), delta=delta)


HUBER = Objective(huber, head="reg")
