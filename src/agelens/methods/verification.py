"""Verification: do two photographs show the same person? Judged on people whom training never saw.

The form is LFW's ([1]): folds of pairs, disjoint in people; the threshold of a fold is fitted on all others.

[1] Huang, Ramesh, Berg, Learned-Miller, Labeled faces in the wild: a database for studying face recognition
    in unconstrained environments, 2007.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from agelens.data.crop_set import CropSet
from agelens.errors import InputError
from agelens.training.transforms import network_input

__all__ = ["Pairs", "Verification", "embed", "verification_pairs", "verify"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images to verify; the people of one fold are in no other.

    Attributes:
        first, second: (P,) images.
        same: (P,) whether both show one person.
        fold: (P,) 0 … folds - 1.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]


@dataclass(frozen=True)
class Verification:
    """Accuracy of a similarity in separating pairs of one person from pairs of two.

    Attributes:
        accuracy: Share of right answers, averaged over the folds; each fold is judged with the threshold that
            is best on all others.
        deviation: Standard deviation of the folds' accuracies.
        auc: Area under the ROC curve over all pairs.
        pairs: How many.
    """

    accuracy: float
    deviation: float
    auc: float
    pairs: int


def verification_pairs(subjects: NDArray[Any], folds: int = 10, per_fold: int = 300, seed: int = 0) -> Pairs:
    """Draw pairs of held-out people, as many of one person as of two, all within folds of people.

    The form of LFW's protocol (ten folds of 300 + 300 pairs, disjoint in people). A fold has fewer pairs if
    its people do not make as many of the same person. With fewer than 2 people a fold, there are fewer folds.

    Args:
        subjects: (N,) the person on each image.
        folds: Largest number of folds.
        per_fold: Largest number of pairs of each kind a fold.
        seed: Of the drawing.
    Returns:
        The pairs.
    Raises:
        InputError: Not two folds of two people with one pair of the same person each.
    """
    random = np.random.default_rng(seed)
    people = {name: np.flatnonzero(subjects == name) for name in np.unique(subjects)}
    names = sorted(people)
    random.shuffle(names)
    several = [name for name in names if len(people[name]) > 1]
    single = [name for name in names if len(people[name]) == 1]
    folds = min(folds, len(several), len(names) // 2)
    if folds < 2:
        raise InputError(
            "verification needs at least two people with two images each and two more people to tell them "
            f"from; there are {len(several)} with two images or more and {len(single)} with one"
        )
    rows: list[tuple[int, int, bool, int]] = []
    for fold in range(folds):
        members = [*several, *single][fold::folds]  # two or more, one of them with several images
        same = [
            (int(images[i]), int(images[j]))
            for images in (people[name] for name in members)
            for i in range(len(images))
            for j in range(i + 1, len(images))
        ]
        count = min(per_fold, len(same))
        rows += [(*same[k], True, fold) for k in random.choice(len(same), count, replace=False)]
        for _ in range(count):
            one, other = random.choice(len(members), 2, replace=False)
            pair = (int(random.choice(people[members[m]])) for m in (one, other))
            rows.append((*pair, False, fold))  # type: ignore[arg-type]
    first, second, same_person, of_fold = zip(*rows, strict=True)
    return Pairs(np.array(first), np.array(second), np.array(same_person), np.array(of_fold))


def verify(similarity: NDArray[np.float64], pairs: Pairs) -> Verification:
    """Judge the similarities of pairs.

    Args:
        similarity: (P,) larger = more alike.
        pairs: The P pairs.
    Returns:
        Accuracy with thresholds from the other folds, and AUC.
    Raises:
        ValueError: Shapes disagree.
    """
    if similarity.shape != pairs.same.shape:
        raise ValueError(f"similarity {similarity.shape} for {pairs.same.shape} pairs")
    accuracies = []
    for fold in np.unique(pairs.fold):
        held = pairs.fold == fold
        threshold = _best_threshold(similarity[~held], pairs.same[~held])
        accuracies.append(float(((similarity[held] >= threshold) == pairs.same[held]).mean()))
    return Verification(
        float(np.mean(accuracies)),
        float(np.std(accuracies)),
        float(roc_auc_score(pairs.same, similarity)),
        len(similarity),
    )


def _best_threshold(similarity: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold with most right answers, half-way between two neighbours."""
    order = np.argsort(similarity)
    values, sames = similarity[order], same[order]
    # Threshold after k values: those below are called different.
    right = np.concatenate([[0], np.cumsum(~sames)]) + np.concatenate([np.cumsum(sames[::-1])[::-1], [0]])
    edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    between = np.concatenate([[True], values[1:] > values[:-1], [True]])
    return float(edges[np.argmax(np.where(between, right, -1))])


def embed(network: nn.Module, crops: CropSet, size: int, batch: int = 256) -> NDArray[np.float64]:
    """Embed N crops and their mirror images, and add the two.

    Args:
        network: A backbone whose features are the embedding, or a network whose outputs have ``embeddings``.
        crops: N crops.
        size: Side of the network's input, pixels.
        batch: Crops at a time.
    Returns:
        (N, E) unit vectors.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            images = network_input(crops.crops(slice(start, start + batch)), size, device)
            both = []
            for view in (images, images.flip(3)):
                outputs = network(view)
                embeddings = getattr(outputs, "embeddings", outputs)
                both.append(F.normalize(embeddings.float()))
            vectors.append(F.normalize(both[0] + both[1]).cpu().double())
    network.train(training)
    return torch.cat(vectors).numpy()
