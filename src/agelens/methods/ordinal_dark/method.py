"""Two teachers and one small student: ordinal knowledge as hints, dark knowledge as soft labels.

Four stages, each a network; a run trains those its recipe lists, in this order:

- *ranker*, teacher 1: a Siamese network that tells by which of K permutations n faces in age order were
  shuffled; a ranker of another run can take its place (``ranker_run``);
- *classifier*, teacher 2: a VGG-16 that classifies ages. Finished runs of any method or models, weighted,
  can take its place (``teachers``): so the arms share their teachers, and the best network teaches;
- *hint*: the student up to its guided layers learns the ranker's maps (Eq. 3);
- *student*: labels, hints and soft labels together, the weights of the two teachers annealed (Eq. 2).

The paper leaves open, and we read: how many sequences make an epoch (a setting); how the student's softmax
becomes an age (its expectation; the error of the most probable age is reported beside it).

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from agelens.errors import InputError, RecipeError
from agelens.label_distribution import AgeBins
from agelens.methods.ordinal_dark.classifier import ClassifierStage
from agelens.methods.ordinal_dark.hints import HintStage
from agelens.methods.ordinal_dark.ranker import RankerStage
from agelens.methods.ordinal_dark.settings import TEACHING_STAGE, OrdinalDarkSettings, StageName
from agelens.methods.ordinal_dark.stage import OrdinalDarkStage
from agelens.methods.ordinal_dark.student import StudentStage
from agelens.training.method import Method, TeacherSetting
from agelens.training.recipe import Recipe, TrainSettings, validated
from agelens.training.stage import Stage

__all__ = ["OrdinalDark"]


class OrdinalDark(Method):
    """The method: the stages its recipe lists.

    Args:
        recipe: Its ``method.settings`` are :class:`OrdinalDarkSettings`; ``network`` is the student.
        age_bins: The K ages.
        start: Weights of the student, in its hint stage where there is one; in a run of the classifier alone,
            of that; or None.
    Raises:
        RecipeError: An unknown setting or a value out of range; or a start that no stage would use.
    """

    settings_type = OrdinalDarkSettings
    teachers: ClassVar[Mapping[str, TeacherSetting]] = {
        "teachers": TeacherSetting(TEACHING_STAGE, models=True),
        "ranker_run": TeacherSetting("ranker", part="ranker"),
        "classifier_start": TeacherSetting(TEACHING_STAGE, part="start of the classifier"),
    }
    settings: OrdinalDarkSettings

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(recipe, age_bins, start)
        made: dict[StageName, type[OrdinalDarkStage]] = {
            "ranker": RankerStage,
            "classifier": ClassifierStage,
            "hint": HintStage,
            "student": StudentStage,
        }
        if start is not None and not self._starts:
            raise RecipeError(
                recipe.name,
                "method.settings.stages",
                "--start is of the student, or of a classifier that is trained alone, and there is neither",
                list(self.settings.stages),
            )
        self._stages: list[OrdinalDarkStage] = []
        for name in self.settings.stages:
            try:
                stage = made[name](self.settings, recipe, age_bins)
            except InputError as error:
                raise RecipeError(recipe.name, "method.settings.permutations", str(error)) from error
            if isinstance(stage, ClassifierStage | HintStage | StudentStage):
                stage.start = start
            validated(TrainSettings, stage.train_table, recipe.name, f"method.settings.{name}_train")
            self._stages.append(stage)

    @property
    def _starts(self) -> bool:
        """Whether a stage can start from given weights."""
        return self.settings.stages == ("classifier",) or bool({"hint", "student"} & {*self.settings.stages})

    @classmethod
    def missing_start(cls, recipe: Recipe, start: bool) -> str:
        """Name also the commands of the start of a classifier that is trained beside others."""
        settings = cls.validate(recipe)
        beside = "classifier" in settings.stages and settings.stages != ("classifier",)
        if beside and not (settings.classifier_start or settings.teachers):
            return str(settings.classifier_needs_start) or super().missing_start(recipe, start)
        return super().missing_start(recipe, start)

    def stages(self) -> Sequence[Stage]:
        """The stages in training order."""
        return self._stages
