"""The lowest allowed versions have no known hole where they parse input; the light half works with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What parses what strangers send, and its first version without a known hole.
PARSERS = {
    "h11": "0.16",
    "onnxruntime": "1.24.1",
    "pillow": "13.0",
    "pillow-heif": "1.3",
    "python-multipart": "0.0.27",
    "starlette": "0.49.1",
}
LIGHT = (
    "faces",
    "inference",
    "serve/test_answers.py",
    "serve/test_batching.py",
    "serve/test_refusals.py",
    "serve/test_sites.py",
    "test_model_file.py",
    "test_client.py",
)


def floors(requirements: list[str]) -> dict[str, str]:
    """The lowest version of each requirement, by name."""
    parsed = [re.match(r"([\w-]+)(?:\[.*\])?\s*[>~]=\s*([\d.]+)", text) for text in requirements]
    return {found[1]: found[2] for found in parsed if found}


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_what_parses_input_has_no_known_hole() -> None:
    declared = floors(DECLARED["dependencies"])
    for extra in ("serve", "heic"):
        declared |= floors(DECLARED["optional-dependencies"][extra])
    assert {
        name: declared[name] for name in PARSERS if version(declared[name]) < version(PARSERS[name])
    } == {}


@pytest.mark.slow
def test_the_light_half_works_with_the_lowest_versions(tmp_path: Path) -> None:
    declared = DECLARED["dependencies"] + DECLARED["optional-dependencies"]["serve"]
    lowest = floors(declared)
    assert len(lowest) == len(declared)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pinned = [f"{name}=={floor}" for name, floor in lowest.items()]
    tools = ["pytest", "pytest-timeout", "httpx", "hypothesis", "onnx"]
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned, *tools]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "connection" in done.stderr.lower():
        pytest.skip(f"the package index does not give them: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    chosen = ["-p", "no:cacheprovider", "-q", "-W", "ignore::DeprecationWarning"]
    command = [str(python), "-m", "pytest", *chosen, *(str(PROJECT / "tests" / path) for path in LIGHT)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    tested = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", tested.stdout)[0]) > 300
