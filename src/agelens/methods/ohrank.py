"""Ages from the max-pooled maps of a ranker by ordinal hyperplanes (Table VIII of [1]).

Every convolution's map is max-pooled to a 4 x 4 grid, 16 values a map; all of them together describe a face.
For each age k a linear support vector machine tells older faces from the others, an error costing the years
it is off ([2], absolute cost); the estimate is the age at the number of machines that say "older".

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
[2] Chang et al., Ordinal hyperplanes ranker with cost sensitivities for age estimation, CVPR 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from agelens.data.crops import CropSet
from agelens.errors import InputError
from agelens.networks.chain import Chain
from agelens.networks.pvp import PermutationNetwork
from agelens.training.transforms import network_input

__all__ = ["OrdinalHyperplanes", "pooled_features"]


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
    """OHRank: a linear machine for each age but the oldest.

    Args:
        penalty: C of the machines.
        seed: Of their solver.
    """

    def __init__(self, penalty: float = 1e-3, seed: int = 0) -> None:
        self.penalty, self.seed = penalty, seed

    def fit(self, features: NDArray[Any], ages: NDArray[Any]) -> OrdinalHyperplanes:
        """Fit to (N, D) features, standardised here, and (N,) ages in years.

        Raises:
            InputError: All faces have one age.
        """
        years = np.floor(ages).astype(np.int64)
        self.ages = np.unique(years)
        if len(self.ages) < 2:
            raise InputError(f"ordinal hyperplanes need two ages or more; all faces are {years[0]}")
        self.mean = features.mean(0)
        self.deviation = np.where(features.std(0) > 1e-8, features.std(0), 1.0)
        scaled = (features - self.mean) / self.deviation
        self.machines = []
        for age in self.ages[:-1]:
            # The years a wrong side costs: from the border between this age and the next one that there is.
            cost = np.abs(years - age - 0.5) + 0.5
            machine = LinearSVC(C=self.penalty, dual="auto", random_state=self.seed, max_iter=5000)
            self.machines.append(machine.fit(scaled, years > age, sample_weight=cost / cost.mean()))
        return self

    def predict(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Estimate the ages, (N,) years, of (N, D) features."""
        scaled = (features - self.mean) / self.deviation
        older = np.sum([machine.predict(scaled) for machine in self.machines], axis=0)
        found: NDArray[np.int64] = self.ages[older.astype(np.int64)]
        return found
