"""Verification accuracy of trained weights on the people of a prepared manifest."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from agelens.data.crop_set import load_crops
from agelens.data.manifest import read_manifest
from agelens.data.splits import required_rows
from agelens.errors import InputError, ManifestError, RunError
from agelens.methods.verification import Verification, embed, verification_pairs, verify
from agelens.networks.backbones import load_backbone, make_backbone
from agelens.networks.stored import described_by_us, load_network
from agelens.training.run import Run

__all__ = ["verify_weights"]


def verify_weights(
    weights: str | Path,
    manifest: str | Path,
    *,
    backbone: str = "mobilefacenet",
    split: str = "val",
    size: int = 112,
    folds: int = 10,
    per_fold: int = 300,
) -> Verification:
    """Judge trained weights on the people of a prepared manifest.

    Args:
        weights: A run of identity pre-training (its input size is used), or a safetensors file of a bare
            backbone, whose features are the embedding.
        manifest: Aligned crops with the column ``subject``.
        backbone: What the bare file holds.
        split: Rows to judge on; ``all`` for every row.
        size: Side of the network's input for a bare file, pixels.
        folds: Largest number of folds.
        per_fold: Largest number of pairs of each kind a fold.
    Returns:
        Accuracy and AUC.
    Raises:
        RunError: The run has no finished identity network.
        CheckpointError: The file cannot be read or holds another network.
        ManifestError: No subjects.
        SplitError: No such rows.
        InputError: Too few people, or a file of a run in place of the run.
    """
    rows = required_rows(read_manifest(manifest, ages=False), split, manifest)
    if "subject" not in rows or (rows["subject"] == "").any():
        raise ManifestError(manifest, "verification needs the person of every image", column="subject")
    crops = load_crops(rows)
    assert crops.subjects is not None
    path = Path(weights)
    network: nn.Module
    if path.is_dir():
        run = Run.open(path)
        if not run.finished("identity"):
            raise RunError(path, "has no finished identity network")
        network = load_network(run.network_file("identity"))
        size = run.recipe.network.input_size
    elif described_by_us(path):
        raise InputError(f"{path}: pass the run folder, not a file of it")
    else:
        trunk = make_backbone(backbone)
        load_backbone(trunk, path)
        network = trunk
    network.to(memory_format=torch.channels_last)
    pairs = verification_pairs(crops.subjects, folds, per_fold)
    embeddings = embed(network, crops, size)
    return verify((embeddings[pairs.first] * embeddings[pairs.second]).sum(1), pairs)
