"""The network that a finisher finishes."""

from __future__ import annotations

from collections.abc import Sequence

from agelens.errors import InputError
from agelens.networks.age_network import AgeHead, AgeNetwork
from agelens.training.stage import Finished

__all__ = ["network_to_finish", "stage_to_finish"]


def stage_to_finish(finished: Finished, earlier: Sequence[str]) -> tuple[str, float]:
    """Choose the stage whose ``ldl`` estimate errs least on the validation split.

    Args:
        finished: The stages before.
        earlier: Their names.
    Returns:
        The name, and its MAE in years; where all labels are bands the mean distance to them.
    Raises:
        InputError: None has an age network with the head ``ldl``.
    """
    errors = {}
    for name in earlier:
        judged = finished.validation(name).get("estimates", {}).get("ldl")
        if judged is not None:
            errors[name] = float(judged["MAE"] if "MAE" in judged else judged["band distance"])
    if not errors:
        raise InputError("a finisher finishes a network with the head 'ldl', and there is none")
    best = min(errors, key=lambda name: errors[name])
    return best, errors[best]


def network_to_finish(finished: Finished, name: str) -> tuple[AgeNetwork, AgeHead]:
    """Fetch a stage's network, frozen, and its head.

    Raises:
        InputError: The head is not an FC layer over the ages.
    """
    network: AgeNetwork = finished(name).eval().requires_grad_(False)
    if not isinstance(network.head, AgeHead):
        kind = type(network.head).__name__
        raise InputError(f"a finisher finishes an FC layer over the ages, not a {kind}")
    return network, network.head
