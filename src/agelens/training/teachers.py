"""Finished runs and model files as teachers: soft labels over the student's age bins.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.errors import InputError, RunError
from agelens.label_distribution import AgeBins
from agelens.model_file import open_model_file
from agelens.networks.age_network import AgeNetwork
from agelens.networks.stored import load_network
from agelens.training.model_start import names_model
from agelens.training.run import locate_network
from agelens.training.transforms import pixels, resize_images

__all__ = [
    "ModelTeacher",
    "NetworkTeacher",
    "SoftLabels",
    "Teacher",
    "bins_matrix",
    "load_teacher",
    "mean_soft_labels",
]

_SMALLEST = 1e-12  # smaller probabilities are raised to it


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of B faces, weighted over the teachers.

    Attributes:
        distribution: (B, K) over the student's bins, softened.
        age: (B,) their estimates, years.
    """

    distribution: Tensor
    age: Tensor


class Teacher(Protocol):
    """A source of soft labels: a trained network or a model file.

    Attributes:
        size: Side of its input, pixels.
        weight: > 0; the teachers' weights are divided by their sum.
        digest: Of its weights.
    """

    size: int
    weight: float

    @property
    def digest(self) -> str:
        """See above."""

    def to(self, device: torch.device) -> None:
        """Move it to the student's device."""

    def soft_labels(self, views: Tensor, tau: float) -> SoftLabels:
        """Compute its soft labels alone.

        Args:
            views: (B, 3, size, size) normalised.
            tau: Softening τ > 0.
        """


@dataclass
class NetworkTeacher:
    """A frozen age network that teaches.

    Attributes:
        network: It has an ``ldl`` head.
        size: See :class:`Teacher`.
        weight: See :class:`Teacher`.
        to_bins: (K', K) moves its K' probabilities to the student's K bins.
    """

    network: AgeNetwork
    size: int
    weight: float
    to_bins: Tensor

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and of the matrix."""
        digest = hashlib.sha256()
        for tensor in (*self.network.state_dict().values(), self.to_bins):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> None:
        """Move the network and its matrix."""
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.to_bins = self.to_bins.to(device)

    def soft_labels(self, views: Tensor, tau: float) -> SoftLabels:
        """The distribution softened, the age as the network decodes it."""
        outputs = self.network(views)
        logits = outputs.logits.float() / (self.network.head.tau * tau)
        years = self.network.head.decode(outputs).age
        return SoftLabels(_moved(torch.softmax(logits, dim=1), self.to_bins), years)


class ModelTeacher:
    """A model file that teaches; its run is not needed.

    Its graph is run by onnxruntime on the CPU. Its output is a distribution at the file's calibrated
    temperature T; its logits are log p · T up to a constant, so that :meth:`soft_labels` means the same as
    for the network the file was made of.

    Args:
        model: A model file.
        weight: Its weight.
        bins: The student's.
    Raises:
        ModelFileError: No such file, or not one of ours.
        InputError: See :func:`bins_matrix`.
    """

    def __init__(self, model: str | Path, weight: float, bins: AgeBins) -> None:
        self._session, self.card = open_model_file(model, threads=torch.get_num_threads())
        self.size: int = self.card.geometry["size"]
        self.weight = weight
        self.to_bins = bins_matrix(self.card.age_bins, bins)

    @property
    def digest(self) -> str:
        """The digest in its card."""
        return self.card.digest

    def to(self, device: torch.device) -> None:
        """Keep the matrix where the views will be."""
        self.to_bins = self.to_bins.to(device)

    def soft_labels(self, views: Tensor, tau: float) -> SoftLabels:
        """The distribution softened, the age as the file gives it."""
        age, distribution = self._session.run(None, {"images": pixels(views).cpu().numpy()})
        calibration = self.card.calibration
        temperature = self.card.tau if calibration is None else calibration.temperature
        logits = torch.from_numpy(distribution).clamp(min=_SMALLEST).log() * temperature
        soft = torch.softmax(logits / (self.card.tau * tau), dim=1).to(views.device)
        return SoftLabels(_moved(soft, self.to_bins), torch.from_numpy(age).to(views.device))


def _moved(distribution: Tensor, to_bins: Tensor) -> Tensor:
    """Probabilities on the student's bins; in float32 also where autocast would multiply in bfloat16."""
    with torch.autocast(distribution.device.type, enabled=False):
        return distribution.float() @ to_bins


def mean_soft_labels(teachers: Sequence[Teacher], views: Tensor, tau: float) -> SoftLabels:
    """Compute the soft labels of a view, each teacher at its own input size.

    A teacher's logits are counted in units of the temperature it was trained with, so that τ softens its
    *meaning*: softmax(a_d / (τ_d τ)). For a classifier trained at τ_d = 1 that is Eq. 2 of [1].

    Args:
        teachers: At least one.
        views: (B, 3, S, S) normalised; resized (anti-aliased) where a teacher takes another size.
        tau: Softening τ > 0.
    Returns:
        The weighted means of distributions and ages, no gradient.
    """
    total = sum(teacher.weight for teacher in teachers)
    with torch.no_grad():
        distribution: Tensor | None = None
        age: Tensor | None = None
        for teacher in teachers:
            share = teacher.weight / total
            labels = teacher.soft_labels(resize_images(views, teacher.size), tau)
            soft, years = share * labels.distribution, share * labels.age
            distribution = soft if distribution is None else distribution + soft
            age = years if age is None else age + years
    if distribution is None or age is None:
        raise ValueError("no teachers")
    return SoftLabels(distribution, age)


def bins_matrix(teacher: AgeBins, student: AgeBins) -> Tensor:
    """Matrix that moves a teacher's probabilities to the student's bins, one of which contains the other.

    Ages the student has no bin for go to its nearest one, as training targets do; ages the teacher has no bin
    for get probability 0.

    Returns:
        (K', K) of zeros and ones, one 1 a row.
    Raises:
        InputError: Neither contains the other.
    """
    inside = student.minimum <= teacher.minimum and teacher.maximum <= student.maximum
    outside = teacher.minimum <= student.minimum and student.maximum <= teacher.maximum
    if not inside and not outside:
        raise InputError(f"a teacher of the ages {teacher} cannot teach a student of {student}")
    columns = [
        min(max(age, student.minimum), student.maximum) - student.minimum
        for age in range(teacher.minimum, teacher.maximum + 1)
    ]
    return F.one_hot(torch.tensor(columns), len(student)).float()


def load_teacher(path: str | Path, weight: float, bins: AgeBins, stage: str = "") -> Teacher:
    """Load a finished run, or a model, as a teacher of ages.

    Args:
        path: See :func:`agelens.training.run.locate_network`, or a model file.
        weight: Its weight.
        bins: The student's.
        stage: Stage of a run folder that teaches, if the run has it; else its best one.
    Raises:
        RunError: Not a run, or its network has no distribution of ages.
        ModelFileError: Not a model file of ours.
        InputError: Its bins and the student's differ and neither contains the other.
    """
    if names_model(path):
        return ModelTeacher(path, weight, bins)
    run, file = locate_network(path, stage)
    network = load_network(file)
    if not isinstance(network, AgeNetwork) or "ldl" not in network.head.heads:
        raise RunError(file, "holds no age network with a distribution: it cannot teach dark knowledge")
    matrix = bins_matrix(network.head.age_bins, bins)
    network.eval().requires_grad_(False)
    return NetworkTeacher(network, run.recipe.network.input_size, weight, matrix)
