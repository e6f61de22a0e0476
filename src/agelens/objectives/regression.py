"""Objectives of a head that regresses the age."""

from __future__ import annotations

from torch import Tensor

__all__ = ["l1", "l2"]


def l1(predicted: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """Mean absolute error.

    Args:
        predicted: (B,) years.
        ages: (B,) labelled years, clamped to the bins.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in years.
    Raises:
        ValueError: Shapes disagree.
    """
    return _residual(predicted, ages, bin_ages).abs().mean()


def l2(predicted: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    """Mean squared error.

    Args:
        predicted: (B,) years.
        ages: (B,) labelled years, clamped to the bins.
        bin_ages: (K,) ages of the bins, years.
    Returns:
        () loss in years².
    Raises:
        ValueError: Shapes disagree.
    """
    return (_residual(predicted, ages, bin_ages) ** 2).mean()


def _residual(predicted: Tensor, ages: Tensor, bin_ages: Tensor) -> Tensor:
    if predicted.ndim != 1 or predicted.shape != ages.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and ages {tuple(ages.shape)} must be (B,)")
    return predicted - ages.clamp(bin_ages[0], bin_ages[-1])
