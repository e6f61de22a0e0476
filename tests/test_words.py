"""A docstring begins with a noun or a verb of the field, in the package, its tests and its scripts."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "scripts", "benchmarks", "examples")
OPENING = re.compile(r'"""(What|Whatever|Which|Who|Whoever|Whose|How|Where|Why)\b')


def test_no_docstring_begins_with_a_question() -> None:
    found = [
        f"{path.relative_to(PROJECT)}, line {number}: {line.strip()}"
        for path in (
            PROJECT / "hatch_build.py",
            *(p for f in FOLDERS for p in sorted((PROJECT / f).rglob("*.py"))),
        )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if OPENING.search(line)
    ]
    assert found == []
