"""Two teachers and one small student; the method is described in ``method.py``."""

from agelens.methods.ordinal_dark.classifier import ClassifierStage
from agelens.methods.ordinal_dark.hints import HintStage
from agelens.methods.ordinal_dark.method import OrdinalDark
from agelens.methods.ordinal_dark.ranker import RankerStage
from agelens.methods.ordinal_dark.settings import OrdinalDarkSettings, distillation_settings
from agelens.methods.ordinal_dark.student import StudentStage

__all__ = [
    "ClassifierStage",
    "HintStage",
    "OrdinalDark",
    "OrdinalDarkSettings",
    "RankerStage",
    "StudentStage",
    "distillation_settings",
]
