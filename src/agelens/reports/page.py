"""One self-contained HTML page: title, stamp, sections of text, tables and figures.

The page needs no network, no script and no other file, and prints well. A section holds blocks of plain
data; the template escapes every text of theirs, so that a group or a file may be called anything::

    page("Two systems", {"software": "agelens 0.1"}, [
        Section("Result", (
            Text("Smaller is better."),
            Table("MAE by system", ("system", "MAE"), (("a", "4.98 [4.77, 5.20]"),)),
            drawing("errors", figure, "Error of a against age."),
        )),
    ])
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agelens.files import write_atomically
from agelens.reports.blocks import Block, Drawing, Section

__all__ = [
    "drawing",
    "figure_svg",
    "page",
    "plot_style",
    "write_figure",
    "write_page",
]

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text: it can be searched and read out
    "svg.hashsalt": "agelens",  # the same figure gives the same bytes
    "text.parse_math": False,  # a group may be called $x
}


def page(title: str, stamp: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Make a self-contained HTML page.

    Args:
        title: Title and first heading.
        stamp: Name to value: what was measured on what, with what.
        sections: In order; more than one get a list of contents.
    Returns:
        The text of the page. What is no valid text (a file name of raw bytes) shows as ``?``.
    """
    text = _template().render(
        title=title,
        stamp=stamp,
        sections=[
            {"title": section.title, "blocks": [_shown(block) for block in section.blocks]}
            for section in sections
        ],
    )
    return text.encode("utf-8", errors="replace").decode("utf-8")


def write_page(path: str | Path, title: str, stamp: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Write :func:`page` to a file, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    text = page(title, stamp, sections)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw within this: the style of our figures, and no warning about a sign that the font lacks."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def figure_svg(figure: Figure, name: str) -> str:
    """Give a figure as SVG to stand inside a page, its ids made unique by ``name``.

    Args:
        figure: A :class:`matplotlib.figure.Figure` drawn within :func:`plot_style`.
        name: Letters, digits and hyphens; unique on the page.
    Returns:
        ``<svg …>…</svg>``.
    """
    return _inlined(_svg(figure), name)


def drawing(name: str, figure: Figure, caption: str, folder: str | Path | None = None) -> Drawing:
    """Make the block of a figure: :func:`figure_svg` with its caption.

    Args:
        name: Letters, digits and hyphens; unique on the page.
        figure: A :class:`matplotlib.figure.Figure` drawn within :func:`plot_style`.
        caption: What it shows, in words.
        folder: Write ``name.svg`` and ``name.png`` there too, as :func:`write_figure` does.
    Raises:
        OutputError: A file cannot be written.
    """
    svg = _svg(figure) if folder is None else write_figure(figure, folder, name)
    return Drawing(name, _inlined(svg, name), caption)


def write_figure(figure: Figure, folder: str | Path, name: str) -> str:
    """Write ``name.svg`` and ``name.png`` into a folder, each whole or not at all.

    Returns:
        The text of the SVG file.
    Raises:
        OutputError: A file cannot be written.
    """
    svg = _svg(figure)
    with write_atomically(Path(folder) / f"{name}.svg") as temporary:
        temporary.write_text(svg, encoding="utf-8", errors="replace")
    with plot_style(), write_atomically(Path(folder) / f"{name}.png") as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return svg


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with plot_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _inlined(svg: str, name: str) -> str:
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-labelledby="{name}-caption" ', 1)


def _shown(block: Block) -> object:
    if isinstance(block, Drawing):
        # Written by matplotlib, which escapes the texts in it.
        return {
            "kind": block.kind,
            "name": block.name,
            "svg": Markup(block.svg),
            "caption": block.caption,
        }
    return block


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("agelens", "reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2")
