"""Networks in files: weights as safetensors, and beside them the JSON that rebuilds the network.

A kind of network describes itself (``describe``) and is built again from its description (``rebuild``), both
beside its class; this file holds what all kinds share. No pickle is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Protocol, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from agelens.errors import CheckpointError, InputError, PluginError
from agelens.files import write_atomically
from agelens.networks.age_network import AgeNetwork
from agelens.networks.dlib_resnet import is_dlib_file
from agelens.networks.guided import GuidedStudent
from agelens.networks.heads import HeadedNetwork
from agelens.networks.identity import IdentityNetwork
from agelens.networks.pvp import PermutationNetwork
from agelens.plugins import resolve
from agelens.reading import NETWORK_BYTES, open_regular, parse_json, reason

__all__ = [
    "NETWORKS",
    "StoredNetwork",
    "described_by_us",
    "load_network",
    "read_tensors",
    "save_network",
    "write_tensors",
]


class StoredNetwork(Protocol):
    """A kind of network that can be stored."""

    kind: ClassVar[str]
    """Its key of ``NETWORKS``."""

    def describe(self) -> dict[str, Any]:
        """The JSON table, ``kind`` among it, that rebuilds the network but for its weights."""

    @classmethod
    def rebuild(cls, described: Mapping[str, Any]) -> Self:
        """Build a network as described, with weights of its own.

        Raises:
            KeyError, TypeError: The description lacks an entry, or one has another type.
        """


NETWORKS: dict[str, type[StoredNetwork]] = {
    "age": AgeNetwork,
    "guided": GuidedStudent,
    "headed": HeadedNetwork,
    "identity": IdentityNetwork,
    "permutation": PermutationNetwork,
}
"""The kinds of networks that are stored; one of another package names itself ``package.module:Class``."""


def save_network(network: nn.Module, path: str | Path, described: Mapping[str, Any] | None = None) -> None:
    """Write weights, and what rebuilds their network, into one safetensors file.

    Args:
        network: One of ``NETWORKS``, or any module if ``described`` is given.
        path: The file.
        described: The description; None: the network's own.
    Raises:
        OutputError: It cannot be written; an older file stays.
    """
    if described is None:
        kind: Any = network
        described = kind.describe()
    write_tensors(Path(path), network.state_dict(), described)


def load_network(path: str | Path) -> Any:
    """Build a network from the file that a finished stage left.

    Returns:
        The network in evaluation mode; an ``AgeNetwork`` unless the file describes another kind.
    Raises:
        CheckpointError: Missing, damaged, or not ours.
        PluginError: A part of another package is missing.
    """
    tensors, described = read_tensors(Path(path))
    try:
        kind = resolve("networks", str(described.get("kind", "age")), NETWORKS)
    except PluginError as error:
        raise CheckpointError(path, f"does not describe a network of ours: {error}") from error
    try:
        network: Any = kind.rebuild(described)
        network.load_state_dict(tensors)
    except (
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        AttributeError,
        InputError,
    ) as error:
        what = shorten(" ".join(str(error).split()), 300)
        raise CheckpointError(path, f"does not describe a network of ours: {what}") from error
    return network.eval()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON table into one safetensors file, atomically.

    Raises:
        OutputError: It cannot be written; an older file stays.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(plain, metadata={"json": json.dumps(metadata)}))  # failing as files fail


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        CheckpointError: Missing, damaged, or not written by us.
    """
    try:
        open_regular(path, NETWORK_BYTES).close()
        with safe_open(path, framework="pt") as handle:
            metadata = parse_json(handle.metadata()["json"])
            if not isinstance(metadata, dict):
                raise ValueError("its description is no table")
            return {name: handle.get_tensor(name) for name in handle.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(path, "is missing") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"is damaged or not ours: {reason(error)}") from error


def described_by_us(path: Path) -> bool:
    """Whether a file has the JSON of :func:`write_tensors`; others hold bare weights, those of dlib's too.

    Raises:
        CheckpointError: Missing or damaged.
    """
    try:
        open_regular(path, NETWORK_BYTES).close()
        if is_dlib_file(path):
            return False
        with safe_open(path, framework="pt") as handle:
            return "json" in (handle.metadata() or {})
    except FileNotFoundError as error:
        raise CheckpointError(path, "is missing") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is damaged or no safetensors file: {reason(error)}") from error
