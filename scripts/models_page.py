#!/usr/bin/env python3
"""Write the cards of the shipped models into docs/models.md, below its table.

Run it after a card changed; a test compares the page with the cards.
"""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "models.md"
ZOO = PROJECT / "src" / "agelens" / "inference" / "zoo"
MARK = "<!-- The cards follow; scripts/models_page.py writes them. -->\n"


def page() -> str:
    """The page: what is written by hand, then every card one level deeper."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{PAGE}: the line {MARK.strip()!r} is missing")
    return head + MARK + "".join(f"\n{card(path)}" for path in sorted(ZOO.glob("*.md")))


def card(path: Path) -> str:
    """A card as sections of the page: headings a level deeper, links within the page."""
    lines = []
    in_code = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            in_code = not in_code
        if not in_code and line.startswith("#"):
            line = "#" + line
        lines.append(line if in_code else re.sub(r"\]\(([\w-]+)\.md\)", r"](#\1)", line))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
