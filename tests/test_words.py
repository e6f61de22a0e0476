"""A docstring begins with a noun or a verb of the field."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "agelens"
OPENING = re.compile(r'"""(What|Who|Whoever|How)\b')


def test_no_docstring_begins_with_a_question() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}, line {number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if OPENING.search(line)
    ]
    assert found == []
