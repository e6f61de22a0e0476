"""The build: the engine beside the page, and the page in the wheel."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

pytest.importorskip("hatchling", reason="the build needs hatchling")

if not (PROJECT / "hatch_build.py").is_file():
    pytest.skip("no build hook: this is not a source tree", allow_module_level=True)


def test_the_wheel_holds_the_whole_page(tmp_path: Path) -> None:
    """Every file of the page and, where npm is left out, the reason why there is no engine."""
    left_out = shutil.ignore_patterns("engine", "node_modules", "__pycache__", "*.onnx")
    for name in ("src", "web"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=left_out)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, tmp_path)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    without = os.environ | {"AGELENS_WITHOUT_ENGINE": "1"}
    subprocess.run(command, cwd=tmp_path, env=without, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if name.startswith("agelens/serve/page/")}
        manifest = json.loads(opened.read("agelens/serve/page/engine/manifest.json"))
    page = PROJECT / "src" / "agelens" / "serve" / "page"
    laid = {path.relative_to(page) for path in page.rglob("*") if path.is_file()}
    wanted = {name.as_posix() for name in laid if name.parts[0] != "engine"} | {"engine/manifest.json"}
    assert packed == {f"agelens/serve/page/{name}" for name in wanted}
    assert manifest == {"missing": "it was left out on purpose"}


def test_engine_is_left_out_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", PROJECT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(PROJECT / "web", tmp_path / "web", ignore=shutil.ignore_patterns("node_modules"))
    manifest = tmp_path / module.ENGINE / "manifest.json"

    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.lay_engine(tmp_path) == "npm was not found when it was built"
    assert json.loads(manifest.read_text()) == {"missing": "npm was not found when it was built"}

    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network is unreachable' >&2\nexit 1\n")
    npm.chmod(0o755)
    reason = module.lay_engine(tmp_path)
    assert "npm ci failed" in reason
    assert "network is unreachable" in reason

    package = tmp_path / "web" / module.PACKAGE
    (package / "dist").mkdir(parents=True)
    version = json.loads((tmp_path / "web" / "package-lock.json").read_text())["packages"][module.PACKAGE]
    (package / "package.json").write_text(json.dumps({"version": version["version"]}))
    for name in module.FILES:
        (package / "dist" / name).write_bytes(name.encode())
    assert module.lay_engine(tmp_path) is None
    told = json.loads(manifest.read_text())
    assert [file["name"] for file in told["files"]] == list(module.FILES)
    packed = manifest.with_name(f"{module.FILES[1]}.gz").read_bytes()
    assert gzip.decompress(packed) == module.FILES[1].encode()
    stamp = manifest.stat().st_mtime_ns
    assert module.lay_engine(tmp_path) is None  # and nothing is done twice
    assert manifest.stat().st_mtime_ns == stamp
