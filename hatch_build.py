"""Build hook: fetch the engine that lets the page estimate in the browser, and pack it into the wheel.

The files come from npm, as ``web/package-lock.json`` pins them, and are laid gzipped beside the page. Where
npm is missing or fails the build goes on; the page then shows its switch disabled, with the reason.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WEB = "web"
ENGINE = "src/agelens/serve/page/engine"
PACKAGE = "node_modules/onnxruntime-web"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
NPM_SECONDS = 300
SKIP = "AGELENS_WITHOUT_ENGINE"
"""Environment variable: any value but the empty one builds without the engine and without asking npm."""


class EngineHook(BuildHookInterface):  # type: ignore[type-arg]
    """Lays ``engine/`` beside the page's files, before a wheel or an editable install is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the engine's files unless those of the pinned version are there."""
        if self.target_name != "wheel":
            return
        reason = lay_engine(Path(self.root))
        if reason is not None:
            self.app.display_warning(f"agelens is built without estimation in the browser: {reason}")
        build_data["artifacts"].append(f"{ENGINE}/*")


def lay_engine(root: Path) -> str | None:
    """Make the engine's folder, with ``manifest.json`` in it.

    Args:
        root: The project's folder.
    Returns:
        None, or why there is no engine; the manifest says so, too.
    """
    engine, web = root / ENGINE, root / WEB
    manifest = engine / "manifest.json"
    lock = (web / "package-lock.json").read_bytes()
    digest = hashlib.sha256(lock).hexdigest()
    if _manifest(manifest).get("lock") == digest:
        return None
    version = json.loads(lock)["packages"][PACKAGE]["version"]
    shutil.rmtree(engine, ignore_errors=True)
    engine.mkdir(parents=True)
    reason = "it was left out on purpose" if os.environ.get(SKIP) else None
    if reason is None:
        with tempfile.TemporaryDirectory(prefix="agelens-engine-") as folder:
            try:
                package = _installed(web, version) or _fetched(web, Path(folder))
                files = [_pack(package, name, engine) for name in FILES]
            except EngineError as error:
                reason = str(error)
    found: dict[str, Any] = {"missing": reason}
    if reason is None:
        found = {"lock": digest, "onnxruntime-web": version, "files": files}
    manifest.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return reason


class EngineError(Exception):
    """The engine's files cannot be had."""


def _manifest(path: Path) -> dict[str, Any]:
    """Files that an earlier build left; empty if one is not whole."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = all((path.parent / f"{file['name']}.gz").is_file() for file in found.get("files", []))
    return found if whole else {}


def _installed(web: Path, version: str) -> Path | None:
    """The package in a developer's ``web/node_modules``, if it is of the pinned version."""
    package = web / PACKAGE
    try:
        found = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError):
        return None
    return package if found == version else None


def _fetched(web: Path, folder: Path) -> Path:
    """Run ``npm ci`` in a folder of its own: the project's stays as it was, even if it cannot be written."""
    npm = shutil.which("npm")
    if npm is None:
        raise EngineError("npm was not found when it was built")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(web / name, folder)
    command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"npm ci did not end within {NPM_SECONDS} s when it was built") from error
    except OSError as error:
        raise EngineError(f"npm could not be started when it was built ({error.strerror})") from error
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        why = told[0].strip() if told else f"exit code {done.returncode}"
        raise EngineError(f"npm ci failed when it was built ({why})")
    return folder / PACKAGE


def _pack(package: Path, name: str, engine: Path) -> dict[str, Any]:
    """Lay one file, gzipped; the same bytes every time."""
    try:
        content = (package / "dist" / name).read_bytes()
    except OSError as error:
        raise EngineError(f"onnxruntime-web has no file {name}") from error
    (engine / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    return {"name": name, "bytes": len(content)}
