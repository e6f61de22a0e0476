"""Losses of faces that are compared with faces of known age: the references are the others of the batch.

[1] Shin, Lee and Kim, Moving window regression: a novel approach to ordinal regression, CVPR 2022 (MWR).
[2] Zhang et al., Quantifying facial age by posterior of age comparisons, BMVC 2017 (AP).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.objectives.contract import Positive

__all__ = ["ap", "log_ages", "mwr", "older", "pair_logits", "relative_ranks", "window_ranks"]

_OFFSETS = (
    -8.0,
    -4.0,
    -2.0,
    -1.0,
    -0.5,
    0.0,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
)  # of a window's middle from the face's own age, in half windows
_LAPSE = 0.01  # share of comparisons that are wrong, whatever the ages


def log_ages(ages: Tensor) -> Tensor:
    """Ages on the scale of the windows, ln(y + 1); [1] takes ln y, and has no face of age 0."""
    return torch.log1p(ages)


def relative_ranks(places: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Place of each face in a window ([1], Eq. 2): -1 at its lower reference, 1 at its upper one, clipped.

    Args:
        places: Of the faces, on the scale of :func:`log_ages`.
        lower: Of the lower references.
        upper: Of the upper ones, above the lower ones.
    Returns:
        ρ, of the shape that the three have in common.
    """
    return ((2 * places - lower - upper) / (upper - lower)).clamp(-1, 1)


def window_ranks(own: Tensor, lower: Tensor, upper: Tensor, last: Tensor) -> Tensor:
    """The network's ρ of faces between two references: tanh of a layer behind ReLU (a x + b y₁ + c y₂).

    Args:
        own: (…, H) a x of the faces.
        lower: (…, H) b y₁ of the lower references.
        upper: (…, H) c y₂ of the upper ones.
        last: (…, H) weights of the last layer.
    Returns:
        (…) -1 … 1.
    """
    return torch.tanh((torch.relu(own + lower + upper) * last).sum(dim=-1))


def mwr(scores: Tensor, ages: Tensor, bin_ages: Tensor, *, window: Positive = 0.2) -> Tensor:
    """Mean squared error of ρ over windows about each face ([1], Sec. 3.2).

    Each face has eleven windows, centred at 0, ±½, ±1, ±2, ±4 and ±8 half windows from its age. In the
    farther windows ρ is ±1; they teach in which direction a window must move. The references of a window are
    the other faces of the batch whose ages are nearest to its ends; several faces of the same age are
    averaged. A window without two different ages is left out; the loss is 0 if all are.

    Args:
        scores: (B, 4H): a x, b x, c x of :func:`window_ranks`, and its last layer, the same in every row.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        window: Half the width of a window on the scale of :func:`log_ages`.
    Returns:
        () loss.
    Raises:
        ValueError: Shapes disagree.
    """
    _check(scores, ages, 4)
    own, lower, upper, last = scores.chunk(4, dim=1)
    places = log_ages(ages.clamp(bin_ages[0], bin_ages[-1]))
    apart = (places[:, None] - places)[:, None]  # of the other faces, below the own age
    itself = torch.eye(len(ages), dtype=torch.bool, device=ages.device)[:, None]
    middles = window * torch.tensor(_OFFSETS, dtype=places.dtype, device=places.device)[None, :, None]
    far = [(apart + middles + end).abs().masked_fill(itself, torch.inf) for end in (-window, window)]
    first, second = (places[distance.argmin(dim=2)] for distance in far)  # (B, 11)
    wide = second > first
    with torch.autocast(scores.device.type, enabled=False):  # means, not products to be rounded
        near = [(distance == distance.amin(dim=2, keepdim=True)).to(scores.dtype) for distance in far]
        ends = [
            (weights / weights.sum(dim=2, keepdim=True)) @ part
            for weights, part in zip(near, (lower, upper), strict=True)
        ]
    ranks = window_ranks(own[:, None], ends[0], ends[1], last[:, None])[wide]
    wanted = relative_ranks(places[:, None].expand_as(first)[wide], first[wide], second[wide])
    return ((ranks - wanted) ** 2).sum() / max(len(ranks), 1)


def older(years: Tensor, softness: float) -> Tensor:
    """Probability that a face is called older than one so many years younger: 1 % + 98 % Φ(years / softness).

    Φ is the normal distribution; one comparison in a hundred is wrong either way, whatever the ages.

    Args:
        years: Differences of ages.
        softness: Years.
    Returns:
        Of the same shape.
    """
    return _LAPSE + (1 - 2 * _LAPSE) * 0.5 * (1 + torch.erf(years / (softness * 2**0.5)))


def pair_logits(
    first: Tensor, second: Tensor, others_first: Tensor, others_second: Tensor, last: Tensor
) -> Tensor:
    """Logits of "older than the reference": v·ReLU(a x + b r) - v·ReLU(a r + b x).

    Turned round, a pair has the opposite logit.

    Args:
        first: (B, H) a x of the faces.
        second: (B, H) b x.
        others_first: (M, H) a r of the references.
        others_second: (M, H) b r.
        last: (H,) v.
    Returns:
        (B, M).
    """
    ahead = torch.relu(first[:, None] + others_second)
    behind = torch.relu(second[:, None] + others_first)
    return ((ahead - behind) * last).sum(dim=2)


def ap(scores: Tensor, ages: Tensor, bin_ages: Tensor, *, softness: Positive = 3.0) -> Tensor:
    """Binary cross entropy of all comparisons of two faces of the batch ([2]).

    A few years apart are hard to tell: the targets are those of :func:`older`. [2] leaves out such pairs.

    Args:
        scores: (B, 3H): a x, b x and v of :func:`pair_logits`, v the same in every row.
        ages: (B,) labelled years.
        bin_ages: (K,) ages of the bins, years.
        softness: Years.
    Returns:
        () loss in nats; 0 of a face alone.
    Raises:
        ValueError: Shapes disagree.
    """
    _check(scores, ages, 3)
    first, second, last = scores.chunk(3, dim=1)
    logits = pair_logits(first, second, first, second, last.mean(dim=0))
    years = ages.clamp(bin_ages[0], bin_ages[-1])
    wanted = older(years[:, None] - years, softness)
    pairs = ~torch.eye(len(ages), dtype=torch.bool, device=ages.device)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * pairs
    return each.sum() / pairs.sum().clamp(min=1)


def _check(scores: Tensor, ages: Tensor, parts: int) -> None:
    if scores.ndim != 2 or len(scores) != len(ages) or scores.shape[1] % parts:
        raise ValueError(f"scores {tuple(scores.shape)} for ages {tuple(ages.shape)} must be (B, {parts}H)")
