"""The page's pipeline in JavaScript: constants and golden results are Python's, and the twin gives them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
TESTS = Path(__file__).parent / "twin"


@pytest.fixture(scope="module")
def twin() -> Any:
    """``scripts/twin.py``, which writes both files."""
    return _script("twin")


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_constants_are_pythons(twin: Any) -> None:
    assert twin.CONSTANTS.read_text(encoding="utf-8") == twin.constants_module(), "run scripts/twin.py"


def test_golden_results_are_pythons(twin: Any) -> None:
    wanted = json.loads(twin.GOLDEN.read_text(encoding="utf-8"))
    assert twin.differences(json.loads(json.dumps(twin.golden())), wanted) == [], "run scripts/twin.py"


def test_golden_tracks_are_pythons(twin: Any) -> None:
    script = _script("twin_clips")
    wanted = json.loads(script.GOLDEN.read_text(encoding="utf-8"))
    assert twin.differences(json.loads(json.dumps(script.golden())), wanted) == [], (
        "run scripts/twin_clips.py"
    )


def test_a_difference_is_told(twin: Any) -> None:
    wanted = json.loads(twin.GOLDEN.read_text(encoding="utf-8"))
    changed = json.loads(json.dumps(wanted))
    changed["mtcnn"][0]["faces"][0]["box"][2] += 0.5
    changed["quality"]["faces"][1]["warnings"] = []
    assert [told.partition(":")[0] for told in twin.differences(changed, wanted)] == [
        "/mtcnn/0/faces/0/box/2",
        "/quality/faces/1/warnings",
    ]


def test_the_twin_gives_the_golden_results() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node: the page's modules are tested without a browser by Node 20.19 or newer")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    numbers = tuple(map(int, re.findall(r"\d+", version)))
    if numbers < (20, 19):
        pytest.skip(f"node is {version.strip()}: the page's modules need 20.19 or newer")
    command = [node, "--test", *map(str, sorted(TESTS.glob("*.test.mjs")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"^# pass (\d+)", done.stdout, re.MULTILINE)[0]) >= 30
