"""Label diversity: many coarse codings of the age, learned side by side.

[1] Berg, Oskarsson and O'Connor, Deep ordinal regression with label diversity, ICPR 2020.
"""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from agelens.errors import InputError
from agelens.objectives.contract import age_index

__all__ = ["Codings", "label_diversity", "random_codings"]

Codings = Annotated[int, Field(ge=1)]
"""A number of codings or classes."""


@functools.lru_cache(maxsize=4)
def random_codings(ages: int, codings: int, classes: int, seed: int) -> Tensor:
    """Divide K ages into L classes, M times, each time at other borders ([1], Sec. 3.2).

    The paper leaves open how its random divisions are drawn; here L - 1 of the K - 1 borders are drawn, every
    set as likely as any other, so that no class is empty.

    Args:
        ages: K.
        codings: M.
        classes: L.
        seed: Of the borders.
    Returns:
        (M, K) int64 class of each age, 0 … L - 1, rising.
    Raises:
        InputError: More classes than ages.
    """
    if classes > ages:
        raise InputError(f"{classes} classes cannot divide {ages} ages")
    generator = torch.Generator().manual_seed(seed)
    borders = torch.zeros(codings, ages, dtype=torch.int64)
    for row in borders:
        row[1 + torch.randperm(ages - 1, generator=generator)[: classes - 1]] = 1
    return borders.cumsum(dim=1)


def label_diversity(
    scores: Tensor,
    ages: Tensor,
    bin_ages: Tensor,
    *,
    codings: Codings = 30,
    classes: Codings = 10,
    seed: int = 0,
) -> Tensor:
    """Sum over codings of the cross entropy of the label's class ([1], Sec. 3.2).

    Args:
        scores: (B, M, L) logits of the L classes of M codings.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        codings: M.
        classes: L.
        seed: Of the borders, see :func:`random_codings`.
    Returns:
        () loss in nats, summed over codings, averaged over the batch.
    Raises:
        ValueError: Shapes disagree.
    """
    if scores.shape != (len(ages), codings, classes):
        wanted = (len(ages), codings, classes)
        raise ValueError(f"scores {tuple(scores.shape)} for ages {tuple(ages.shape)}: they must be {wanted}")
    drawn = random_codings(len(bin_ages), codings, classes, seed).to(ages.device)
    labelled = drawn[:, age_index(ages, bin_ages)].T  # (B, M)
    return F.cross_entropy(scores.transpose(1, 2), labelled, reduction="none").sum(dim=1).mean()
