"""The faces of known age that a head compares with: chosen from the training part, kept as features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.label_distribution import AgeBins
from agelens.networks.age_network import AgeNetwork
from agelens.networks.reference_heads import ReferenceHead
from agelens.training.transforms import network_input

__all__ = ["choose_references", "keep_references"]


def choose_references(crops: CropSet, age_bins: AgeBins, count: int, seed: int) -> CropSet:
    """Draw references for every bin: of its age, or of the nearest age that has images (the younger of two).

    Args:
        crops: N training crops.
        age_bins: The K ages; labels beyond them are clamped.
        count: References of each bin; of fewer images some are taken again.
        seed: Of the draw.
    Returns:
        K · count crops, youngest bin first; their ages are clamped to the bins.
    Raises:
        InputError: The reference set is empty, or all images have one age.
    """
    labelled = age_bins.index(crops.ages) if len(crops) else np.empty(0, np.int64)
    present = np.unique(labelled)
    if not len(present):
        raise InputError("the reference set is empty: no training image has an age")
    if len(present) < 2:
        age = age_bins.minimum + int(present[0])
        raise InputError(f"references need two ages or more; all training images are {age}")
    random = np.random.default_rng(seed)
    members = {age: random.permutation(np.flatnonzero(labelled == age)) for age in present}
    rows: list[NDArray[np.int64]] = []
    for bin_ in range(len(age_bins)):
        nearest = present[np.abs(present - bin_).argmin()]
        rows.append(np.resize(members[nearest], count))
    selected = np.concatenate(rows)
    ages = crops.ages[selected].clip(age_bins.minimum, age_bins.maximum)
    return replace(
        crops, ages=ages, rows=crops.rows[selected], subjects=None, bounds=None, deviations=None, sets=None
    )


def keep_references(network: AgeNetwork, references: CropSet, size: int, batch: int = 64) -> None:
    """Hand a network the features that it sees in its references, in place of those it had.

    Args:
        network: Its head is a ``ReferenceHead``; evaluated in evaluation mode and put back.
        references: Of :func:`choose_references`.
        size: Side the crops are resized to, pixels.
        batch: Crops at a time.
    """
    head = network.head
    assert isinstance(head, ReferenceHead)
    training = network.training
    network.eval()
    device = head.reference_ages.device
    with torch.no_grad():
        features = [
            network.backbone(
                network_input(references.crops(slice(start, start + batch)), size, device)
            ).float()
            for start in range(0, len(references), batch)
        ]
        head.refer(torch.cat(features), torch.from_numpy(references.ages).to(device))
    network.train(training)
