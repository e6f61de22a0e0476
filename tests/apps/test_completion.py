"""Shell completion: the shell asks the command line for what may follow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

RUN = "import sys; sys.argv[0] = 'agelens'; from agelens.apps.cli import main; main()"


@pytest.mark.parametrize(
    ("line", "expected"),
    [("agelens pred", "predict"), ("agelens ser", "serve"), ("agelens predict --thresh", "--threshold")],
)
def test_bash_completes_commands_and_options(line: str, expected: str) -> None:
    asked = {
        "_AGELENS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == [expected], done.stderr
