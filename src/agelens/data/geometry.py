"""The geometry of prepared crops, wherever their manifest lies.

``prepare`` writes ``geometry.json`` into the folder above the crops. A manifest written elsewhere (``split
--out``, ``join``) still names those crops, so the geometry is read from where they are.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agelens.data.manifest import image_paths
from agelens.errors import InputError
from agelens.faces.alignment import CropGeometry
from agelens.reading import SETTINGS_BYTES, read_json, reason

__all__ = ["GEOMETRY_NAME", "crop_geometry", "require_geometry", "same_alignment"]

GEOMETRY_NAME = "geometry.json"

_LEVELS = 3  # of folders above a crop: out/crops/ab/<digest>.png


def crop_geometry(manifest: pd.DataFrame) -> CropGeometry | None:
    """Read the geometry of a manifest's crops.

    For each crop the nearest ``geometry.json`` in its folder or the two above it counts, and the one beside
    the manifest where there is none.

    Args:
        manifest: From ``read_manifest``.
    Returns:
        The geometry; None if none of the crops has one.
    Raises:
        InputError: A file is damaged, or the crops are of several geometries, or some have none.
    """
    beside = Path(manifest.attrs.get("root", ".")).absolute()
    folders: dict[Path | None, Path] = {}  # file of the geometry -> a crop's folder
    for folder in {path.parent: None for path in image_paths(manifest)}:
        above = (folder, *folder.parents)[:_LEVELS]
        files = (place / GEOMETRY_NAME for place in (*above, beside))
        folders.setdefault(next((file for file in files if file.is_file()), None), folder)
    read = {file: None if file is None else _read(file) for file in folders}
    geometries = list(read.values())
    for file, geometry in list(read.items())[1:]:
        if geometry != geometries[0]:
            first, *_ = folders
            raise InputError(
                f"crops of different geometries: {_text(geometries[0])} ({first or folders[None]}) and "
                f"{_text(geometry)} ({file or folders[None]}); prepare all of them with one geometry and size"
            )
    return geometries[0] if geometries else None


def require_geometry(manifest: pd.DataFrame, wanted: CropGeometry) -> None:
    """Refuse crops in which faces stand otherwise than a model was made for; their size may differ.

    Args:
        manifest: From ``read_manifest``.
        wanted: Of the model.
    Raises:
        InputError: The crops have another geometry, or an unknown one.
    """
    geometry = crop_geometry(manifest)
    if not same_alignment(geometry, wanted):
        name = "an unknown geometry" if geometry is None else f"the geometry {geometry.name!r}"
        place = manifest.attrs.get("path", "the manifest")
        raise InputError(f"{place}: crops of {name}, the model was made for {wanted.name!r}")


def same_alignment(one: CropGeometry | None, other: CropGeometry | None) -> bool:
    """Tell whether two geometries place the face alike, at any size of the crops."""
    return one is not None and other is not None and one.template == other.template


def _read(path: Path) -> CropGeometry:
    try:
        return CropGeometry.from_dict(read_json(path, SETTINGS_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not a crop geometry: {reason(error)}") from error


def _text(geometry: CropGeometry | None) -> str:
    return "unknown" if geometry is None else f"{geometry.name} at {geometry.size} px"
