"""Settings of the two-teacher method, and the options of the command line that set them.

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agelens.errors import InputError
from agelens.methods.ordinal_dark.permutations import AGE_GROUPS
from agelens.networks.pvp import Joint

__all__ = ["TEACHING_STAGE", "OrdinalDarkSettings", "StageName", "distillation_settings"]

StageName = Literal["ranker", "classifier", "hint", "student"]

TEACHING_STAGE: StageName = "classifier"
"""Stage of a two-teacher run that teaches dark knowledge."""


class OrdinalDarkSettings(BaseModel):
    """Settings of the method; the defaults are the paper's (Appendix A and B).

    Attributes:
        stages: Stages that the run trains.
        length: n, faces of a sequence.
        permutations: K.
        sequences: Sequences an epoch of the ranker shows.
        groups: Age groups, both ends inside.
        inter: Share of inter-group sequences.
        inter_epochs: Epochs at the beginning that show inter-group sequences alone (ours; 0 in the paper).
            Faces of one group are hard to order: a ranker that sees few sequences stays at chance by them.
        curriculum: Inter-group sequences first, then inner-group ones; off: faces drawn from the whole set,
            and no groups.
        either_direction: Show a sequence from young to old or from old to young at random, so that a class is
            the unit of a permutation and its reverse. Off: a class is one of the two (ours).
        ranker: Its convolutions, ``pvp`` or ``vgg16``.
        joint: Where its faces meet, see :class:`PermutationNetwork`.
        classifier: Backbone of teacher 2: ``vgg16``, or ``vgg16-64`` for 64 px; ``pvp`` likewise (Table VII).
        classifier_pretrained: Start a VGG-16 from ImageNet's weights, as the paper does (downloaded); nobody
            publishes such weights for PVP, which starts at random.
        classifier_start: A finished run whose classifier this run's starts from (in the paper, from ImageNet
            on IMDB-WIKI and AFAD). A run that trains the classifier alone starts by ``--start``.
        classifier_needs_start: As ``needs_start`` of the recipe, for the classifier of a run that trains
            others too.
        width: Factor of the teachers' channels and outputs.
        zca: Side of the patches that are whitened in front of this run's teachers, odd; 0 = no whitening. The
            student's is in the name of its backbone (``zca5:student-small``).
        zca_epsilon: See :func:`fit_patch_zca`.
        initialise: ``normal``: all weights from N(0, 0.02), as the paper, the deviation divided by the root
            of the width; ``own``: as each network does.
        ranker_run: A finished run whose ranker teaches, in place of this run's; or, as a control, one whose
            age network is a chain of convolutions (a classifier): it then gives the hints.
        teachers: Finished runs, or model files, that teach dark knowledge in place of this run's
            classifier.
        weights: Of the teachers; empty: equal.
        views: 0: the teachers see each training view the student sees. Else their soft labels of so many
            views of every crop are averaged once, before the first epoch, and kept beside the crops for
            other runs.
        whole: Those views are the crop as it is and, with two, its mirror image, instead of training views:
            where these are spoilt (covered, noisy), the teachers need not answer for that.
        hint_layers: Convolutions of the ranker.
        guided_layers: Convolutions of the student.
        rectified: Put a ReLU behind the regressors of the hints, which are maps behind a ReLU; the paper does
            not say.
        label: Weight of the label's cross entropy; 1 in the paper.
        lambda_1: First weight λ₁ of the hints; ``lambda_1_fall`` is how much it falls at a time.
        lambda_2: First weight λ₂ of the soft labels, likewise.
        fall_every: Epochs between two falls; 0: both weights stay (Table IX).
        tau: τ, softens the teachers' distributions and the student's.
        head_tau: Temperature of the student's own distribution.
        expectation: Weight of the ℓ1 error of the expected age, in years, from the label and the teachers'
            age in equal parts (ours; 0 in the paper).
        regression: Weight of the ``reg`` head's ℓ1, where there is such a head, likewise (ours).
        ranker_train: Values of the ranker's stage in place of the recipe's ``train``; likewise the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    stages: tuple[StageName, ...] = ("ranker", "classifier", "hint", "student")
    length: int = Field(default=8, ge=2, le=10)
    permutations: int = Field(default=200, ge=2)
    sequences: int = Field(default=9_000, ge=1)
    groups: tuple[tuple[int, int], ...] = AGE_GROUPS
    inter: float = Field(default=1 / 9, ge=0, le=1)
    inter_epochs: int = Field(default=0, ge=0)
    curriculum: bool = True
    either_direction: bool = False
    ranker: Literal["pvp", "vgg16"] = "pvp"
    joint: Joint = "connected"
    classifier: str = "vgg16"
    classifier_pretrained: bool = False
    classifier_start: str = ""
    classifier_needs_start: str = ""
    width: float = Field(default=1.0, gt=0, le=4)
    zca: int = Field(default=5, ge=0, le=31)
    zca_epsilon: float = Field(default=0.01, gt=0)
    initialise: Literal["normal", "own"] = "normal"
    ranker_run: str = ""
    teachers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    views: int = Field(default=0, ge=0)
    whole: bool = False
    hint_layers: tuple[int, ...] = (5, 9)
    guided_layers: tuple[int, ...] = (5, 9)
    rectified: bool = False
    label: float = Field(default=1.0, ge=0)
    lambda_1: float = Field(default=0.1, ge=0)
    lambda_1_fall: float = Field(default=0.025, ge=0)
    lambda_2: float = Field(default=2.0, ge=0)
    lambda_2_fall: float = Field(default=0.5, ge=0)
    fall_every: float = Field(default=6.0, ge=0)
    tau: float = Field(default=2.0, gt=0)
    head_tau: float = Field(default=1.0, gt=0)
    expectation: float = Field(default=0.0, ge=0)
    regression: float = Field(default=4.0, ge=0)
    ranker_train: dict[str, Any] = Field(default_factory=dict)
    classifier_train: dict[str, Any] = Field(default_factory=dict)
    hint_train: dict[str, Any] = Field(default_factory=dict)
    student_train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> OrdinalDarkSettings:
        known: list[StageName] = ["ranker", "classifier", "hint", "student"]
        if not self.stages or [name for name in known if name in self.stages] != list(self.stages):
            raise ValueError(f"stages must be some of {', '.join(known)}, in this order")
        if len(self.hint_layers) != len(self.guided_layers) or not self.hint_layers:
            raise ValueError("hint_layers and guided_layers pair up, and there is at least one pair")
        if self.whole and not 1 <= self.views <= 2:
            raise ValueError(f"views must be 1 or 2 where they are whole, not {self.views}")
        if self.weights and len(self.weights) != len(self.teachers):
            raise ValueError(f"{len(self.weights)} weights for {len(self.teachers)} teachers")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("weights must be positive")
        if self.inter_epochs and not self.curriculum:
            raise ValueError("inter_epochs is a part of the curriculum, which is off")
        if self.classifier_start and ("classifier" not in self.stages or self.stages == ("classifier",)):
            raise ValueError(
                "classifier_start is for a run that trains the classifier and other stages; "
                "a classifier alone starts by --start"
            )
        if self.zca and self.zca % 2 == 0:
            raise ValueError("zca must be odd, or 0")
        return self


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
