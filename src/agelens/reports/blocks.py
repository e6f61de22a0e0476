"""The parts of a page as plain data: sections of text, tables, headline figures, drawings, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["Block", "Drawing", "Gallery", "Headlines", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Text:
    """A paragraph; ``warning`` sets it apart."""

    text: str
    warning: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Headlines:
    """A row of headline figures.

    Attributes:
        entries: Name, value and bounds (or ``""``) of each.
    """

    entries: tuple[tuple[str, str, str], ...]
    kind: ClassVar[str] = "headlines"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: Description.
        header: Names of the columns.
        rows: Cells of text, as many a row as the header. A cell ``5.02 [4.90, 5.14]`` shows its bounds
            softly, one that begins with ``too few`` as a whole.
        names: How many first columns name the row.
        note: Small print under it.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    note: str = ""
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{len(row)} cells under {len(self.header)} columns: {row}")


@dataclass(frozen=True)
class Drawing:
    """An inline figure; :func:`drawing` makes one.

    Attributes:
        name: Unique on the page.
        svg: From :func:`figure_svg` under that name.
        caption: Description in words, for readers without sight, too.
    """

    name: str
    svg: str
    caption: str
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Gallery:
    """Small pictures.

    Attributes:
        pictures: ``data:`` address and caption of each.
    """

    pictures: tuple[tuple[str, str], ...]
    kind: ClassVar[str] = "gallery"


Block = Text | Headlines | Table | Drawing | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the page under its own title."""

    title: str
    blocks: tuple[Block, ...]
