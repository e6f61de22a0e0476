"""Counts of photos and of their outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agelens.inference.face import Photo

__all__ = ["Tally", "endings"]


@dataclass
class Tally:
    """Counts of photos and faces.

    Attributes:
        photos: Photos that were read, or tried.
        faces: Faces with an age.
        without_face: Photos without a face.
        failed: Photos that could not be used.
    """

    photos: int = 0
    faces: int = 0
    without_face: int = 0
    failed: int = 0

    @classmethod
    def of(cls, photo: Photo) -> Tally:
        """Count one photo."""
        failed = photo.error is not None
        return cls(1, len(photo.faces), int(not failed and not photo.faces), int(failed))

    def add(self, other: Tally) -> None:
        """Add the counts of other photos."""
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)

    def __str__(self) -> str:
        return (
            f"{self.photos} photos: {self.faces} faces, {self.without_face} without a face, "
            f"{self.failed} could not be used"
        )


def endings(paths: Iterable[Path]) -> str:
    """List the endings of files, the most frequent first: ``3 .txt, 1 .mov``."""
    count = Counter(path.suffix.lower() or "without an ending" for path in paths)
    return ", ".join(f"{number} {ending}" for ending, number in count.most_common())
