"""Every command of ``docs/reproduce.md`` runs, in page order, on miniatures of the owners' data sets."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from agelens.apps import cli
from agelens.rehearsal import NOTICE, VARIABLE

pytest.importorskip("torch", reason="training needs the extra train")

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "reproduce.md"
HEADING = r"^###? (?P<title>[^\n]*)$"
BLOCK = re.compile(rf"{HEADING}|^```(?P<kind>sh|python)\n(?P<text>.*?)^```$", re.M | re.S)


def blocks() -> Iterator[tuple[str, str, str]]:
    """Title of the section, kind and text of every block that is run."""
    title = ""
    for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        title = found["title"] or title
        if found["kind"]:
            yield title, found["kind"], found["text"]


def test_every_table_and_figure_has_its_section() -> None:
    pages = {
        "LRN": (range(1, 12), range(3, 6)),
        "CEN": (range(1, 8), ()),
        "LAE": ((1, 2), (1, 2)),
        "Ordinal–dark": (["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"], range(3, 6)),
    }
    wanted = {f"{paper} Table {n}" for paper, (tables, _) in pages.items() for n in tables}
    wanted |= {f"{paper} Fig. {n}" for paper, (_, figures) in pages.items() for n in figures}
    wanted |= {"CEN Figs. 3 to 5", "LAE submission"}
    titles = set(re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.M))
    assert titles - {"The sets for LRN, CEN and LAE"} == wanted
    assert wanted - {title for title, _, _ in blocks()} == {"CEN Table 7"}  # the networks of LRN's Table 2


def run(line: str) -> tuple[int, str]:
    """Run a command in this process; exit code, and what it printed."""
    program, *arguments = shlex.split(line, comments=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            if program == "agelens":
                cli.app(arguments)
            else:
                script, *rest = arguments
                sys.argv = [script, *rest]
                runpy.run_path(str(PROJECT / script), run_name="__main__")
        except SystemExit as stopped:
            return int(stopped.code or 0), out.getvalue()
    return 0, out.getvalue()


@pytest.mark.slow
def test_every_command_of_the_page_runs(owners_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(owners_sets)
    monkeypatch.setenv(VARIABLE, "1")
    monkeypatch.setattr(sys, "argv", ["agelens"])
    done = 0
    for title, kind, text in blocks():
        if kind == "python":
            exec(compile(text, title, "exec"), {})
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if title == "LRN Table 6":  # the service's answers, which the page asks its reader for
                tested = pd.read_csv("morph/split.csv").query("split == 'test'")
                sources = tested["source"].map(os.path.basename)
                pd.DataFrame({"path": sources, "age": 30.0}).to_csv("facepp.csv", index=False)
            elif title == "LRN Fig. 4":
                Path("occluded").mkdir(exist_ok=True)
                for photo in pd.read_csv("imdb-wiki/manifest.csv")["source"][:2]:  # whose faces were found
                    shutil.copy(photo, "occluded")
            elif title == "LAE submission":
                shutil.copytree("MIVIA/training_caip_contest", "submission-test", dirs_exist_ok=True)
            began = time.perf_counter()
            code, told = run(line)
            if os.environ.get("REHEARSAL_TIMES"):  # how long each takes, for whoever writes the page
                shown = f"{time.perf_counter() - began:6.2f} s  {title}: {line[:90]}"
                print(shown, file=sys.__stderr__, flush=True)
            assert code == 0, f"{title}: {line}\n{told[-3000:]}"
            assert NOTICE in told or not line.startswith("agelens"), line
            done += 1
    assert done > 50
