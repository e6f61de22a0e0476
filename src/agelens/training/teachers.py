"""Finished runs and model files as teachers: their ages mapped to the student's bins, their answers.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from agelens.errors import InputError, ModelFileError, RunError
from agelens.label_distribution import AgeBins
from agelens.model_file import open_model_file
from agelens.networks.age_network import AgeNetwork
from agelens.networks.stored import load_network
from agelens.training.recipe import Recipe
from agelens.training.run import locate_network
from agelens.training.transforms import pixels

__all__ = [
    "Answers",
    "ModelTeacher",
    "NetworkTeacher",
    "Teacher",
    "answer",
    "bins_matrix",
    "distillation_settings",
    "load_teacher",
    "named_without_folders",
    "resize_views",
    "teacher_facts",
    "with_teachers",
]

_SMALLEST = 1e-12  # a probability below it is taken for it


@dataclass(frozen=True)
class Answers:
    """What the teachers say of B faces, weighted.

    Attributes:
        distribution: (B, K) over the student's bins, softened.
        age: (B,) their estimates, years.
    """

    distribution: Tensor
    age: Tensor


class Teacher(Protocol):
    """Whoever knows ages and can be asked.

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
        """Move it to where the student is."""

    def said(self, views: Tensor, tau: float) -> Answers:
        """Its answers alone.

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

    def said(self, views: Tensor, tau: float) -> Answers:
        """The distribution softened, the age as the network decodes it."""
        outputs = self.network(views)
        logits = outputs.logits.float() / (self.network.head.tau * tau)
        years = self.network.head.decode(outputs).age
        return Answers(_moved(torch.softmax(logits, dim=1), self.to_bins), years)


class ModelTeacher:
    """A model file that teaches: of its run nothing is needed.

    Its graph is run by onnxruntime on the CPU. What it gives is a distribution of the file's calibrated
    temperature T; its logits are log p · T up to a constant, so that :meth:`said` means the same as for the
    network the file was made of.

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

    def said(self, views: Tensor, tau: float) -> Answers:
        """The distribution softened, the age as the file gives it."""
        age, distribution = self._session.run(None, {"images": pixels(views).cpu().numpy()})
        calibration = self.card.calibration
        temperature = self.card.tau if calibration is None else calibration.temperature
        logits = torch.from_numpy(distribution).clamp(min=_SMALLEST).log() * temperature
        soft = torch.softmax(logits / (self.card.tau * tau), dim=1).to(views.device)
        return Answers(_moved(soft, self.to_bins), torch.from_numpy(age).to(views.device))


def _moved(distribution: Tensor, to_bins: Tensor) -> Tensor:
    """Probabilities on the student's bins; in float32 also where autocast would multiply in bfloat16."""
    with torch.autocast(distribution.device.type, enabled=False):
        return distribution.float() @ to_bins


def answer(teachers: Sequence[Teacher], views: Tensor, tau: float) -> Answers:
    """Ask teachers about a view, each at its own input size.

    A teacher's logits are counted in units of the temperature it was trained with, so that τ softens what it
    *means*: softmax(a_d / (τ_d τ)). For a classifier trained at τ_d = 1 that is Eq. 2 of [1].

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
            said = teacher.said(resize_views(views, teacher.size), tau)
            soft, years = share * said.distribution, share * said.age
            distribution = soft if distribution is None else distribution + soft
            age = years if age is None else age + years
    if distribution is None or age is None:
        raise ValueError("no teachers")
    return Answers(distribution, age)


def resize_views(views: Tensor, size: int) -> Tensor:
    """Views (B, 3, S, S) at another size, anti-aliased; themselves where it is theirs."""
    if views.shape[-1] == size:
        return views
    resized = F.interpolate(views, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)


def bins_matrix(teacher: AgeBins, student: AgeBins) -> Tensor:
    """What moves a teacher's probabilities to the student's bins, one of which contains the other.

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


def names_model(path: str | Path) -> bool:
    """Tell whether a teacher's path means a model file, not a run."""
    return Path(path).suffix == ".onnx" and not Path(path).is_dir()


def load_teacher(path: str | Path, weight: float, bins: AgeBins) -> Teacher:
    """Load a finished run, or a model, as a teacher of ages.

    Args:
        path: See :func:`agelens.training.run.locate_network`, of a two-teacher run the classifier; or see
            :func:`names_model`.
        weight: Its weight.
        bins: The student's.
    Raises:
        RunError: Not a run, or its network has no distribution of ages.
        ModelFileError: Not a model file of ours.
        InputError: Its bins and the student's differ and neither contains the other.
    """
    if names_model(path):
        return ModelTeacher(path, weight, bins)
    run, file = locate_network(path, "classifier")
    network = load_network(file)
    if not isinstance(network, AgeNetwork) or "ldl" not in network.head.heads:
        raise RunError(file, "holds no age network with a distribution: it cannot teach dark knowledge")
    matrix = bins_matrix(network.head.age_bins, bins)
    network.eval().requires_grad_(False)
    return NetworkTeacher(network, run.recipe.network.input_size, weight, matrix)


def distillation_settings(
    teachers: Sequence[str | Path],
    weights: Sequence[float] = (),
    ranker: str | Path | None = None,
    student: str | None = None,
) -> list[str]:
    """Name teachers and student as replacements of a recipe's values (``Recipe.load``).

    Args:
        teachers: Finished runs, or model files, that teach dark knowledge.
        weights: Of each of them; empty: equal.
        ranker: A finished run whose ranker gives hints.
        student: Backbone of the student.
    Returns:
        ``key=value`` of what was given.
    Raises:
        InputError: Other numbers of weights and teachers.
    """
    if weights and len(weights) != len(teachers):
        raise InputError(f"{len(weights)} weights for {len(teachers)} teachers")
    named: dict[str, Any] = {}
    if teachers:
        named["method.settings.teachers"] = [str(path) for path in teachers]
        named["method.settings.weights"] = list(weights)
    if ranker is not None:
        named["method.settings.ranker_run"] = str(ranker)
    if student is not None:
        named["network.backbone"] = student
    return [f"{key}={json.dumps(value)}" for key, value in named.items()]


def named_without_folders(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe's table for a model's card: runs and files by their names, not by where they lie here.

    Args:
        table: ``Recipe.model_dump()``; left as it is.
    """
    settings = dict(table["method"]["settings"])
    if settings.get("teachers"):
        settings["teachers"] = [Path(path).name for path in settings["teachers"]]
    if settings.get("ranker_run"):
        settings["ranker_run"] = Path(settings["ranker_run"]).name
    network = {**table["network"], "start": Path(table["network"].get("start") or "").name}
    return {**table, "method": {**table["method"], "settings": settings}, "network": network}


def teacher_facts(recipe: Recipe, geometry: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """What a run notes of the networks its recipe names as teachers, after a look at the crops they know.

    Args:
        recipe: Of any method; teachers are named in ``method.settings.teachers`` and ``.ranker_run``.
        geometry: Of the student's crops, as in ``run.json``.
    Returns:
        By name (of run and stage, or of a model; a number behind a name that was there) what each is:
        ``digest`` of its weights, and of its card ``data`` and ``data_terms``, which go into the student's.
    Raises:
        RunError: Not a run, or one trained on crops of another geometry.
        ModelFileError: Not a model of ours, or one of another geometry.
    """
    settings = recipe.method.settings
    named = [(str(path), "classifier") for path in settings.get("teachers", ())]
    named += [(str(path), "ranker") for path in [settings.get("ranker_run", "")] if path]
    facts: dict[str, dict[str, str]] = {}
    for path, preferred in named:
        if preferred == "classifier" and names_model(path):
            file_card = open_model_file(path)[1]
            if difference := _other_crops(file_card.geometry, geometry):
                raise ModelFileError(path, difference)
            data, terms = file_card.provenance.get("data", ""), file_card.licence.get("data", "")
            name, digest = file_card.name, file_card.digest
        else:
            run, file = locate_network(path, preferred)
            if difference := _other_crops(run.facts.get("geometry"), geometry):
                raise RunError(run.path, difference)
            try:
                content = file.read_bytes()
            except OSError as error:
                raise RunError(file, f"cannot be read: {error.strerror or error}") from error
            card, taught = run.recipe.card, run.facts.get("teachers")  # it may be a student itself
            data = with_teachers(card.data, taught, "data")
            terms = with_teachers(card.data_terms, taught, "data_terms")
            name, digest = f"{run.path.name}/{file.parent.name}", hashlib.sha256(content).hexdigest()
        known = {"digest": digest, "data": str(data), "data_terms": str(terms)}
        if known not in facts.values() or name not in facts:
            facts[name if name not in facts else f"{name} ({len(facts) + 1})"] = known
    return facts


def with_teachers(own: str, teachers: Mapping[str, Mapping[str, str]] | None, key: str) -> str:
    """A card's text on data or terms, with what the teachers' cards have beyond it.

    Args:
        own: The recipe's text.
        teachers: As :func:`teacher_facts` gives them.
        key: ``data`` or ``data_terms``.
    """
    further: dict[str, list[str]] = {}
    for name, known in (teachers or {}).items():
        if known.get(key) and known[key] not in own:
            further.setdefault(known[key], []).append(name)
    return "; ".join([own, *(f"taught by {' and '.join(names)}: {text}" for text, names in further.items())])


def _other_crops(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> str:
    """Say what differs between a teacher's crops and the student's; nothing where nothing does."""
    if theirs is not None and ours is not None and theirs["template"] == ours["template"]:
        return ""
    names = [None if known is None else known["name"] for known in (theirs, ours)]
    return f"teaches crops of the geometry {names[0]!r}, the student sees {names[1]!r}"
