"""Ages from the max-pooled maps of a ranker by ordinal hyperplanes (Table VIII of [1]).

Every convolution's map is max-pooled to a 4 x 4 grid, 16 values a map; all of them together describe a face.
For each age k a linear support vector machine tells older faces from the others, an error costing the years
it is off ([2], absolute cost); the estimate is the age at the number of machines that say "older".

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
[2] Chang et al., Ordinal hyperplanes ranker with cost sensitivities for age estimation, CVPR 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.networks.chain import Chain
from agelens.networks.pvp import PermutationNetwork
from agelens.training.transforms import network_input

__all__ = ["PENALTIES", "OrdinalHyperplanes", "pooled_features"]

PENALTIES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Values of C that are tried."""

_CG_STEPS, _CG_SHARE, _HALVINGS = 10, 0.1, 12


def pooled_features(network: PermutationNetwork, crops: CropSet, batch: int = 64) -> NDArray[np.float32]:
    """Max-pool the maps of all convolutions that run per face.

    Args:
        network: A trained ranker.
        crops: N crops, resized to its input.
        batch: Crops at a time.
    Returns:
        (N, 16 · maps) float32.
    """
    chain: Chain = network.chain
    numbers, size = list(chain.ends), network.input_size
    device = next(network.parameters()).device
    rows = []
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            images = network_input(crops.crops(slice(start, start + batch)), size, device)
            maps = network.maps(images, numbers)
            rows.append(torch.cat([F.adaptive_max_pool2d(m, 4).flatten(1) for m in maps], 1).cpu().numpy())
    return np.concatenate(rows)


class OrdinalHyperplanes:
    """OHRank: a linear machine for each age but the oldest, all of them fitted at once.

    Each minimises ½‖w‖² + C Σ s max(0, 1 - y (w x + b))² with the bias as a weight like the others and the
    costs s in years, scaled to a mean of 1: squared hinge loss, as liblinear's machines. The matrix of the
    features is read once for all machines in each step of a truncated Newton method, on any device.

    Args:
        penalty: C of the machines.
        device: Where they are fitted, such as ``cuda``.
        tolerance: A fit ends where every machine's gradient is this share of that at zero.
        iterations: Most Newton steps.
    """

    weights: Tensor  # (D + 1, K) of the machines, after a fit

    def __init__(
        self,
        penalty: float = 1e-3,
        *,
        device: str | torch.device = "cpu",
        tolerance: float = 1e-3,
        iterations: int = 50,
    ) -> None:
        self.penalty, self.device = penalty, torch.device(device)
        self.tolerance, self.iterations = tolerance, iterations
        self.passes = 0
        """Times that the last fit read the matrix of the features."""

    def fit(self, features: NDArray[Any], ages: NDArray[Any]) -> OrdinalHyperplanes:
        """Fit to (N, D) features, standardised here, and (N,) ages in years.

        Raises:
            InputError: All faces have one age.
        """
        self._prepare(features, ages)
        self._solve(torch.zeros(self._scaled.shape[1], len(self.ages) - 1, device=self.device))
        del self._scaled
        return self

    def fit_best(
        self,
        features: NDArray[Any],
        ages: NDArray[Any],
        val_features: NDArray[Any],
        val_ages: NDArray[Any],
        penalties: Sequence[float] = PENALTIES,
    ) -> dict[float, float]:
        """Fit for every C, from the smallest on, each from the last one's machines; keep the best one's.

        Args:
            features: (N, D).
            ages: (N,) years.
            val_features: (M, D) of the validation part.
            val_ages: (M,) years.
            penalties: Values of C.
        Returns:
            C to MAE on the validation part, years.
        Raises:
            InputError: All faces have one age, or there is no C.
        """
        if not penalties:
            raise InputError("ordinal hyperplanes need a C to choose")
        self._prepare(features, ages)
        weights = torch.zeros(self._scaled.shape[1], len(self.ages) - 1, device=self.device)
        errors: dict[float, float] = {}
        best: Tensor = weights
        passes = 0
        for penalty in sorted(penalties):
            self.penalty = penalty
            self._solve(weights)
            passes += self.passes
            weights = self.weights
            errors[penalty] = float(np.abs(self.predict(val_features) - np.floor(val_ages)).mean())
            if errors[penalty] == min(errors.values()):
                best = weights
        self.penalty, self.weights, self.passes = min(errors, key=lambda c: errors[c]), best, passes
        del self._scaled
        return errors

    def predict(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Estimate the ages, (N,) years, of (N, D) features."""
        older = (self._standardised(features) @ self.weights > 0).sum(dim=1)
        ages: NDArray[np.int64] = self.ages[older.cpu().numpy()]
        return ages

    def _prepare(self, features: NDArray[Any], ages: NDArray[Any]) -> None:
        years = np.floor(ages).astype(np.int64)
        self.ages = np.unique(years)
        if len(self.ages) < 2:
            raise InputError(f"ordinal hyperplanes need two ages or more; all faces are {years[0]}")
        self.mean = features.mean(0)
        self.deviation = np.where(features.std(0) > 1e-8, features.std(0), 1.0)
        self._scaled = self._standardised(features)
        # The years a wrong side costs: from the border between this age and the next one that there is.
        borders = torch.as_tensor(self.ages[:-1] + 0.5, dtype=torch.float32, device=self.device)
        years_ = torch.as_tensor(years, dtype=torch.float32, device=self.device)[:, None]
        cost = (years_ - borders).abs() + 0.5
        self._cost, self._side = cost / cost.mean(0), torch.sign(years_ - borders)

    def _standardised(self, features: NDArray[Any]) -> Tensor:
        """(N, D + 1) float32 on the device, the last column ones."""
        scaled = torch.ones(len(features), features.shape[1] + 1, device=self.device)
        for start in range(0, len(features), 4096):  # no second copy of the whole matrix
            rows = (features[start : start + 4096] - self.mean) / self.deviation
            scaled[start : start + 4096, :-1] = torch.as_tensor(rows, dtype=torch.float32)
        return scaled

    def _solve(self, weights: Tensor) -> None:
        """Minimise the K losses from given (D + 1, K) weights, a column each."""
        x, side, cost = self._scaled, self._side, 2 * self.penalty * self._cost
        scores, self.passes = x @ weights, 2
        least = self.tolerance * (x.T @ (cost * side)).norm(dim=0)  # of the gradient at zero
        for _ in range(self.iterations):
            slack = (1 - side * scores).clamp(min=0)
            gradient = weights - x.T @ (cost * slack * side)
            self.passes += 1
            if bool((gradient.norm(dim=0) <= least).all()):
                break
            direction, moved = self._newton_direction(gradient, cost * (slack > 0))
            size = _line_search(weights, direction, scores, moved, side, cost / 2)
            weights, scores = weights + size * direction, scores + size * moved
        self.weights = weights

    def _newton_direction(self, gradient: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Solve H p = -g roughly by conjugate gradients, a column each; also give X p (N, K)."""
        x = self._scaled
        solution, residual = torch.zeros_like(gradient), -gradient
        moved = torch.zeros_like(active)
        step, square = residual.clone(), (residual**2).sum(0)
        goal = _CG_SHARE**2 * square
        for _ in range(_CG_STEPS):
            seen = x @ step
            curved = step + x.T @ (active * seen)
            self.passes += 2
            size = torch.where(square > goal, square / (step * curved).sum(0).clamp(min=1e-20), 0.0)
            solution, moved = solution + size * step, moved + size * seen
            residual = residual - size * curved
            last, square = square, (residual**2).sum(0)
            if bool((square <= goal).all()):
                break
            step = residual + (square / last.clamp(min=1e-30)) * step
        return solution, moved


def _line_search(
    weights: Tensor, direction: Tensor, scores: Tensor, moved: Tensor, side: Tensor, cost: Tensor
) -> Tensor:
    """(K,) the first of 1, ½, ¼, … that lowers each loss enough (Armijo), without reading the features."""

    def loss(size: Tensor) -> Tensor:
        slack = (1 - side * (scores + size * moved)).clamp(min=0)
        return 0.5 * ((weights + size * direction) ** 2).sum(0) + (cost * slack**2).sum(0)

    slack = (1 - side * scores).clamp(min=0)
    slope = (weights * direction).sum(0) - (2 * cost * slack * side * moved).sum(0)
    size = torch.ones_like(slope)
    before = loss(torch.zeros_like(slope))
    for _ in range(_HALVINGS):
        short = loss(size) <= before + 1e-4 * size * slope
        if bool(short.all()):
            break
        size = torch.where(short, size, size / 2)
    return size
