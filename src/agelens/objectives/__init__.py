"""Objectives by name: losses of a network trained on labels, each with the head it trains.

To add one, write a function and its test, and add an entry to :data:`OBJECTIVES` and a row to the table of
``docs/methods/baseline.md``. Another package offers one by the entry point ``agelens.objectives``.
"""

from __future__ import annotations

from agelens.errors import PluginError
from agelens.objectives.adaptive import aldl, avdl, pml
from agelens.objectives.cascade import c3ae
from agelens.objectives.contract import Objective
from agelens.objectives.distribution import (
    adaptive_mean_residue,
    dex,
    dldl,
    dldl_v2,
    mean_variance,
    sord,
    unimodal_concentrated,
)
from agelens.objectives.diversity import label_diversity
from agelens.objectives.mixture import bridgenet, drf
from agelens.objectives.ordinal import coral, corn, megaage_posterior, or_cnn
from agelens.objectives.probabilistic import poe
from agelens.objectives.references import ap, mwr
from agelens.objectives.regression import l1, l2
from agelens.plugins import resolve

__all__ = ["OBJECTIVES", "Objective", "find_objective"]

OBJECTIVES: dict[str, Objective] = {
    "l1": Objective(l1, head="reg"),
    "l2": Objective(l2, head="reg"),
    "dex": Objective(dex),
    "dldl": Objective(dldl),
    "dldl-v2": Objective(dldl_v2),
    "sord": Objective(sord),
    "mean-variance": Objective(mean_variance),
    "adaptive-mean-residue": Objective(adaptive_mean_residue),
    "unimodal-concentrated": Objective(unimodal_concentrated),
    "or-cnn": Objective(or_cnn, head="ordinal"),
    "coral": Objective(coral, head="coral"),
    "corn": Objective(corn, head="corn"),
    "megaage-posterior": Objective(megaage_posterior, head="comparisons"),
    "label-diversity": Objective(label_diversity, head="codings"),
    "poe": Objective(poe, head="embedding"),
    "pml": Objective(pml, head="margin"),
    "avdl": Objective(avdl),
    "aldl": Objective(aldl, head="widths"),
    "ranking-cnn": Objective(or_cnn, head="ranking"),
    "arn": Objective(l2, head="anchored"),
    "drf": Objective(drf, head="forest"),
    "bridgenet": Objective(bridgenet, head="bridge"),
    "ap": Objective(ap, head="comparing"),
    "mwr": Objective(mwr, head="window"),
    "ssr-net": Objective(l1, head="stagewise"),
    "c3ae": Objective(c3ae, head="cascade"),
}
"""Name in ``method.settings.objective`` to the objective."""


def find_objective(name: str) -> Objective:
    """Look up an objective.

    Args:
        name: A key of :data:`OBJECTIVES`, an entry point ``agelens.objectives``, or ``package.module:name``.
    Raises:
        PluginError: There is none, its package cannot be imported, or it is no :class:`Objective`.
    """
    objective: object = resolve("objectives", name, OBJECTIVES)
    if not isinstance(objective, Objective):
        raise PluginError(
            f"objective {name!r} is a {type(objective).__name__}, not an agelens.objectives.Objective"
        )
    return objective
