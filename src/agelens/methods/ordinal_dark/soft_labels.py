"""Soft labels of all training crops, computed once and kept beside the crops.

A resumed run, and one of another seed or student, reads them there. Their views are the same for all seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from agelens.data.crop_set import CropSet
from agelens.errors import CheckpointError, OutputError
from agelens.label_distribution import AgeBins
from agelens.networks.stored import read_tensors, write_tensors
from agelens.training.teachers import SoftLabels, Teacher, mean_soft_labels
from agelens.training.transforms import Augmentation, augment, normalise, resize_crops

__all__ = ["SoftLabelSettings", "kept_soft_labels"]

_VIEWS_SEED = 20_201
_FORMAT = 2  # raised whenever the same settings would give other soft labels
_BATCH = 256


@dataclass(frozen=True)
class SoftLabelSettings:
    """All that soft labels depend on besides crops and teachers.

    Attributes:
        bins: Of the student.
        views: Views of each crop that are averaged.
        tau: Softening τ.
        augmentation: Of the views; None: the first is the crop as it is, the second its mirror image.
        precision: ``bf16``: the teachers compute in bfloat16.
    """

    bins: AgeBins
    views: int
    tau: float
    augmentation: Augmentation | None
    precision: str


def kept_soft_labels(
    crops: CropSet, teachers: Sequence[Teacher], settings: SoftLabelSettings, device: torch.device
) -> SoftLabels:
    """Read the teachers' soft labels of N crops, or compute and keep them.

    Args:
        crops: The N training crops.
        teachers: On ``device``.
        settings: Views, softening, bins.
        device: Of the computation.
    Returns:
        Distributions (N, K) and ages (N,), averaged over the views, on the CPU.
    """
    file = _file(crops, teachers, settings)
    if file is not None and file.exists():
        try:
            kept, _ = read_tensors(file)
            return SoftLabels(kept["distribution"], kept["age"])
        except (CheckpointError, KeyError):
            pass  # damaged: computed again, and written anew
    distributions = torch.zeros(len(crops), len(settings.bins))
    years = torch.zeros(len(crops))
    largest = max(teacher.size for teacher in teachers)
    generator = torch.Generator().manual_seed(_VIEWS_SEED)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    for number in range(settings.views):
        for start in range(0, len(crops), _BATCH):
            rows = slice(start, start + _BATCH)
            block = torch.from_numpy(crops.crops(rows)).to(device)
            if settings.augmentation is None:
                view = normalise(resize_crops(block.flip(2) if number else block, largest))
            else:
                view = augment(block, settings.augmentation, largest, generator)
            with autocast:
                labels = mean_soft_labels(teachers, view, settings.tau)
            distributions[rows] += labels.distribution.float().cpu() / settings.views
            years[rows] += labels.age.float().cpu() / settings.views
    if file is not None:
        with contextlib.suppress(OutputError):  # a folder that cannot be written: computed again next time
            write_tensors(file, {"distribution": distributions, "age": years}, {})
    return SoftLabels(distributions, years)


def _file(crops: CropSet, teachers: Sequence[Teacher], settings: SoftLabelSettings) -> Path | None:
    """The file of these soft labels; None where no crops are stored."""
    if crops.stored is None:
        return None
    asked = {
        "teachers": [(teacher.digest, teacher.weight) for teacher in teachers],
        "format": _FORMAT,
        "bins": str(settings.bins),
        "views": settings.views,
        "tau": settings.tau,
        "augmentation": None if settings.augmentation is None else asdict(settings.augmentation),
        "precision": settings.precision,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + crops.rows.tobytes())
    return crops.stored.with_name(f"{crops.stored.stem}-answers-{digest.hexdigest()[:16]}.safetensors")
