"""Parts of other packages by name: methods, objectives, networks, data sets and detectors without a fork.

A name is looked up in three places, in this order:

1. the literal dict of the room (``METHODS``, ``OBJECTIVES``, ``BACKBONES``, ``DATASETS``, ``DETECTORS``; for
   stored networks ``HEADS`` and ``NETWORKS``);
2. the entry points ``agelens.methods``, ``agelens.objectives``, ``agelens.backbones``,
   ``agelens.datasets`` and ``agelens.detectors`` of the installed packages;
3. the import system, where the name reads ``package.module:name``. The current folder is searched last, so
   that a file beside the recipe serves as well.

A package declares its parts in its ``pyproject.toml``::

    [project.entry-points."agelens.objectives"]
    huber = "my_losses:HUBER"

What was looked up in places 2 and 3 has an :class:`Origin`, which a run notes in ``run.json``: where the part
is missing later, the error names the package that brought it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agelens.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUPS", "Group", "Origin", "available", "is_importable_name", "origin", "require", "resolve"]

Group = Literal["methods", "objectives", "backbones", "heads", "networks", "datasets", "detectors"]

GROUPS: dict[Group, str] = {
    "methods": "method",
    "objectives": "objective",
    "backbones": "backbone",
    "heads": "head",
    "networks": "kind of network",
    "datasets": "data set",
    "detectors": "detector",
}
"""Group to the word that errors use; the entry points' group is ``agelens.<group>``."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Origin:
    """The package that a part came from.

    Attributes:
        group: A key of :data:`GROUPS`.
        name: As the recipe or the command line has it.
        package: Distribution, as ``pip install`` names it; the module where no distribution has it.
        version: Of the distribution; empty where there is none.
    """

    group: str
    name: str
    package: str
    version: str

    def to_dict(self) -> dict[str, str]:
        """The fields as JSON values."""
        return asdict(self)


def resolve(group: Group, name: str, literal: Mapping[str, Part]) -> Part:
    """Look a part up by name: the literal dict, then entry points, then ``package.module:name``.

    Args:
        group: A key of :data:`GROUPS`.
        name: Key of the dict, name of an entry point, or ``package.module:name``.
        literal: The room's own parts.
    Returns:
        The part.
    Raises:
        PluginError: There is no such part (the known ones are listed), two packages offer it under one
            name, or its package cannot be imported.
    """
    if name in literal:
        return literal[name]
    entry = _entry_point(group, name)
    if entry is not None:
        try:
            part: Part = entry.load()
        except Exception as error:  # whatever the package raises while it is imported
            raise PluginError(
                f"{GROUPS[group]} {name!r} of the package {_package(entry)} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        return part
    if is_importable_name(name):
        imported: Part = _imported(group, name)
        return imported
    raise PluginError(
        f"no {GROUPS[group]} {name!r}; there are {', '.join(available(group, literal))}; "
        f"an installed package offers others by the entry point agelens.{group}, and package.module:name "
        "names any other"
    )


def available(group: Group, literal: Iterable[str]) -> list[str]:
    """List the names of a group: the room's own in their order, then those of installed packages."""
    own = list(literal)
    return own + sorted({entry.name for entry in _entry_points(group)} - set(own))


def is_importable_name(name: str) -> bool:
    """Whether a name reads ``package.module:name``."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def origin(group: Group, name: str, literal: Iterable[str]) -> Origin | None:
    """The package that a part comes from; None for the room's own, and for names that lead nowhere.

    Raises:
        PluginError: Two packages offer the name.
    """
    if name in literal:
        return None
    entry = _entry_point(group, name)
    if entry is not None:
        if entry.dist is None:
            return Origin(group, name, entry.value.partition(":")[0], "")
        return Origin(group, name, entry.dist.name, entry.dist.version)
    if not is_importable_name(name):
        return None
    from importlib.metadata import packages_distributions, version

    module = name.partition(":")[0]
    owners = packages_distributions().get(module.partition(".")[0], [])
    if len(set(owners)) == 1:
        return Origin(group, name, owners[0], version(owners[0]))
    return Origin(group, name, module, "")  # a file of the user's own, or a namespace of several packages


def require(recorded: Iterable[Mapping[str, str]], made: str) -> None:
    """Check that the parts which a run recorded can still be looked up.

    Args:
        recorded: :meth:`Origin.to_dict` of each.
        made: The run or file that was made with them, for the message.
    Raises:
        PluginError: One is missing; the message names its package and version.
    """
    for values in recorded:
        group, name = values.get("group", ""), values.get("name", "")
        if group not in GROUPS:
            raise PluginError(f"{made}: was made with a part of an unknown kind: {dict(values)!r}")
        try:
            resolve(group, name, {})
        except PluginError as error:
            package, version = values.get("package", ""), values.get("version", "")
            shown = f"{package} {version}".strip()
            wanted = f"{package}=={version}" if version else package
            raise PluginError(
                f"{made}: was made with the {GROUPS[group]} {name!r} of the package {shown}, which is not "
                f"available here: install {wanted} ({error})"
            ) from error


def _entry_points(group: Group) -> list[EntryPoint]:
    from importlib.metadata import entry_points  # here: it costs time that a built-in part need not pay

    return list(entry_points(group=f"agelens.{group}"))


def _entry_point(group: Group, name: str) -> EntryPoint | None:
    offered = {(_package(entry), entry.value): entry for entry in _entry_points(group) if entry.name == name}
    if len(offered) > 1:
        packages = ", ".join(sorted({package for package, _ in offered}))
        raise PluginError(
            f"several packages offer the {GROUPS[group]} {name!r} ({packages}): "
            "name it as package.module:name"
        )
    return next(iter(offered.values()), None)


def _package(entry: EntryPoint) -> str:
    return entry.value if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _imported(group: Group, name: str) -> Any:
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module raises while it is imported
        raise PluginError(
            f"{GROUPS[group]} {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
