"""The interface of a method: its settings, the stages they make, and what the generic code needs to know.

The epoch loop, recipes, teachers and commands know no method by name: a subclass of :class:`Method` declares
whether it learns ages or people, and which of its settings name teachers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import BaseModel
from torch import Tensor

from agelens.label_distribution import AgeBins
from agelens.training.recipe import Recipe, validated
from agelens.training.stage import Stage

__all__ = ["Learned", "Method", "TeacherSetting"]

Learned = Literal["ages", "subjects"]


@dataclass(frozen=True)
class TeacherSetting:
    """A setting of a method that names teachers: one path, or a list of paths; empty: none.

    Attributes:
        stage: Stage of a run folder that teaches, if the run has it; else its best one.
        models: Whether a path may name a model file in place of a run.
        part: Its part in training, for messages.
    """

    def paths(self, value: str | Sequence[str]) -> list[str]:
        """The paths of a value of this setting."""
        return [path for path in ([value] if isinstance(value, str) else value) if path]

    stage: str = ""
    models: bool = False
    part: str = "teacher"


class Method(ABC):
    """A method: settings of its own, and the stages they make; the last stage predicts.

    Args:
        recipe: Its ``method.settings`` are validated by ``settings_type``.
        age_bins: The K ages.
        start: Weights to start from, or None.
    Raises:
        RecipeError: An unknown setting or a value out of range.
    """

    settings_type: ClassVar[type[BaseModel]]
    """Model of ``method.settings`` in a recipe."""

    learns: ClassVar[Learned] = "ages"
    """Columns of the manifest that are learned: ``ages``, or the people of the column ``subject``."""

    teachers: ClassVar[Mapping[str, TeacherSetting]] = MappingProxyType({})
    """Keys of ``method.settings`` that name teachers: their data and terms go into the student's card."""

    has_epochs: ClassVar[bool] = True
    """Whether its stages are trained in epochs, so that a learning rate can be tuned."""

    settings: Any
    """The validated settings, of ``settings_type``."""

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        self.recipe, self.age_bins, self.start = recipe, age_bins, start
        self.settings = self.validate(recipe)

    @classmethod
    def validate(cls, recipe: Recipe) -> Any:
        """Validate ``method.settings`` of a recipe; default: by ``settings_type``.

        Raises:
            RecipeError: An unknown setting or a value out of range.
        """
        return validated(cls.settings_type, recipe.method.settings, recipe.name, "method.settings")

    @classmethod
    def missing_start(cls, recipe: Recipe, start: bool) -> str:
        """Name the commands that make the pre-trained weights that the recipe needs and was not given.

        Args:
            recipe: Of the run.
            start: Whether weights to start from are given.
        Returns:
            Empty: nothing is missing. Default: ``needs_start`` of the recipe, unless there is a start or the
            backbone's published weights are.
        """
        return "" if start or recipe.network.pretrained else recipe.needs_start

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages in training order, the same ones at each call."""
