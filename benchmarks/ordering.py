"""Order of unseen faces by rankers and by the ages of others; age in the maps of a ranker.

Sequences of eight validation faces across and within the age groups of Zhao et al. 2020, shuffled by the
permutations of the first ranker. A ranker answers by its own; a run or model file that estimates ages, by
the permutation that fits its ages best (the largest sum of place times age). ``--probe N`` fits a ridge
regression of age to the max-pooled map (4 x 4) of convolution N on the manifest's training part, its penalty
chosen by cross-validation there, and judges it on the validation part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch.nn import functional as F

from agelens.data.crop_set import CropSet, load_crops
from agelens.data.manifest import read_manifest
from agelens.label_distribution import AgeBins
from agelens.methods.ordinal_dark.permutations import SequenceSampler, shuffle_sequences
from agelens.networks.age_network import AgeNetwork
from agelens.networks.guided import HintSource
from agelens.networks.pvp import PermutationNetwork
from agelens.networks.stored import load_network, read_tensors
from agelens.training.run import locate_network
from agelens.training.teachers import load_teacher, names_model
from agelens.training.transforms import network_input

_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("systems", nargs="+", type=Path, help="runs or model files; the first is a ranker")
    parser.add_argument("--sequences", type=int, default=1000, help="of each kind")
    parser.add_argument("--probe", type=int, metavar="N", help="convolution whose map is probed for age")
    arguments = parser.parse_args()
    rows = read_manifest(arguments.manifest)
    train, val = (load_crops(rows[rows["split"] == name]) for name in ("train", "val"))
    first = read_tensors(locate_network(arguments.systems[0], "ranker")[1])[1]
    if first["kind"] != PermutationNetwork.kind:
        parser.error(f"{arguments.systems[0]} holds no ranker")
    permutations = np.array(first["set"])
    random = np.random.default_rng(0)
    sequences = {}
    for kind, share in (("across", 1.0), ("within", 0.0)):
        drawn = SequenceSampler(val.ages, first["length"], inter=share).epoch(arguments.sequences, random)
        labels = random.integers(len(permutations), size=len(drawn))
        sequences[kind] = shuffle_sequences(drawn, permutations, labels), labels
    for path in arguments.systems:
        told = []
        network = None if names_model(path) else load_network(locate_network(path, "ranker")[1])
        if isinstance(network, PermutationNetwork):
            answers = {
                kind: _ranked(network.eval(), val, shuffled) for kind, (shuffled, _) in sequences.items()
            }
        else:
            ages = _ages(path, val)
            told.append(f"MAE {np.abs(ages - val.ages).mean():.2f}")
            answers = {
                kind: _by_age(ages[shuffled], permutations) for kind, (shuffled, _) in sequences.items()
            }
        for kind, (_, labels) in sequences.items():
            right = (answers[kind] == labels).mean()
            told.append(
                f"{kind} {100 * right:.1f} ± {196 * (right * (1 - right) / len(labels)) ** 0.5:.1f} %"
            )
        if arguments.probe and network is not None:
            source = network
            if isinstance(network, AgeNetwork):
                run, _ = locate_network(path, "ranker")
                source = HintSource(network, run.recipe.network.input_size)
            error = _probe(source, arguments.probe, train, val)
            told.append(f"probe of convolution {arguments.probe}: MAE {error:.2f}")
        print(f"{path}: {', '.join(told)}", flush=True)


def _ranked(network: PermutationNetwork, crops: CropSet, shuffled: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) the permutations that a ranker says."""
    answers = []
    with torch.inference_mode():
        for rows in np.array_split(shuffled, max(1, len(shuffled) // 32)):
            images = network_input(crops.crops(rows.reshape(-1)), network.input_size)
            answers.append(network(images).argmax(1).numpy())
    return np.concatenate(answers)


def _ages(path: Path, crops: CropSet) -> NDArray[np.float64]:
    """(N,) years."""
    teacher = load_teacher(path, 1.0, AgeBins(0, 100), "student")
    found = []
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            images = network_input(crops.crops(slice(start, start + _BATCH)), teacher.size)
            found.append(teacher.soft_labels(images, 1.0).age.numpy())
    return np.concatenate(found).astype(np.float64)


def _by_age(ages: NDArray[np.float64], permutations: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) the permutations under which shuffled ages (M, n) rise most with the place in age order."""
    places = np.arange(permutations.shape[1])
    fits = np.stack([ages[:, permutation] @ places for permutation in permutations], axis=1)
    best: NDArray[np.int64] = fits.argmax(1)
    return best


def _probe(network: PermutationNetwork | HintSource, number: int, train: CropSet, val: CropSet) -> float:
    """MAE on ``val``, years, of ridge regression on one convolution's pooled map."""

    def features(crops: CropSet) -> NDArray[np.float32]:
        found = []
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                images = network_input(crops.crops(slice(start, start + _BATCH)), network.input_size)
                (maps,) = network.eval().maps(images, [number])
                found.append(F.adaptive_max_pool2d(maps, 4).flatten(1).numpy())
        return np.concatenate(found)

    fitted = features(train)
    centre, scale = fitted.mean(0), fitted.std(0) + 1e-6
    ridge = RidgeCV(np.logspace(0, 5, 11)).fit((fitted - centre) / scale, train.ages)
    return float(np.abs(ridge.predict((features(val) - centre) / scale) - val.ages).mean())


if __name__ == "__main__":
    main()
