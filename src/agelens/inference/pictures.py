"""Pictures of the faces: the crops that the network saw, and photos with boxes and ages drawn in."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from agelens.faces.image import load_image
from agelens.files import write_atomically
from agelens.inference.face import Photo
from agelens.inference.writers import source_name

__all__ = ["draw_faces", "file_stem", "picture_name", "save_annotated", "save_faces"]

_COLOURS = ((255, 200, 0), (0, 0, 0))  # of boxes and letters


def picture_name(photo: Photo) -> str:
    """Name the pictures of a photo: the stem of its file, and eight digits that differ between folders."""
    return file_stem(source_name(photo))


def file_stem(name: str) -> str:
    """Name what is made of a file: its stem, and eight digits that differ between folders."""
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9._-]', '_', Path(name).stem)[:100]}-{digest}"


def save_faces(photo: Photo, folder: Path) -> list[Path]:
    """Save the crops of a photo's faces as PNG, numbered as in the rows of the predictions.

    Raises:
        OutputError: A file cannot be written.
    """
    paths = []
    for number, face in enumerate(photo.faces, start=1):
        if face.crop is not None:
            paths.append(folder / f"{picture_name(photo)}-{number}.png")
            with write_atomically(paths[-1]) as temporary:
                Image.fromarray(face.crop.pixels).save(temporary)
    return paths


def save_annotated(photo: Photo, folder: Path, level: float = 0.9) -> Path:
    """Save a photo as JPEG with box, number, age and interval of each face.

    Args:
        photo: The photo; its source is read again.
        folder: Where the picture goes.
        level: Coverage of the intervals.
    Raises:
        ImageError: The photo cannot be read again.
        OutputError: The file cannot be written.
    """
    image = load_image(photo.source)  # type: ignore[arg-type]  # it was read before
    picture = Image.fromarray(image.pixels)
    scale = picture.width / image.full_size[0]
    labels = []
    for number, face in enumerate(photo.faces, start=1):
        low, high = face.interval(level)
        box = None if face.box is None else tuple(side * scale for side in face.box)
        labels.append((box, f"{number}: {face.age:.0f} ({low:.0f} to {high:.0f})"))
    draw_faces(picture, labels)
    path = folder / f"{picture_name(photo)}.jpg"
    with write_atomically(path) as temporary:
        picture.save(temporary, quality=90)
    return path


def draw_faces(picture: Image.Image, faces: Iterable[tuple[tuple[float, ...] | None, str]]) -> None:
    """Draw boxes with their labels into a picture.

    Args:
        picture: RGB; it is changed.
        faces: Boxes in its pixels, and their texts; a label without a box stands in the corner.
    """
    from PIL import ImageDraw  # not needed by most

    draw = ImageDraw.Draw(picture)
    size = max(12, round(max(picture.size) / 60))
    for box, label in faces:
        x, y = 0.0, 0.0
        if box is not None:
            draw.rectangle(box, outline=_COLOURS[0], width=max(2, size // 8))
            x, y = box[0], box[1] - 1.3 * size
        place = draw.textbbox((max(0.0, x), max(0.0, y)), label, font_size=size)
        draw.rectangle(place, fill=_COLOURS[0])
        draw.text((place[0], max(0.0, y)), label, fill=_COLOURS[1], font_size=size)
