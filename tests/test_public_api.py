"""The public names: listed once, imported when used, and each with an example that runs."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import agelens

PROJECT = Path(__file__).parents[1]
INIT = PROJECT / "src" / "agelens" / "__init__.py"
REFERENCE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
NAMES = sorted(set(agelens.__all__) - {"__version__"})
SECTIONS = dict(re.findall(r"^::: agelens\.(\w+)\n(.*?)(?=^#|^::: |\Z)", REFERENCE, re.MULTILINE | re.DOTALL))
EXAMPLES = {
    name: re.findall(r"^```python\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    for name, body in SECTIONS.items()
}


def home(name: str) -> str:
    """The module that a public name is imported from."""
    return agelens._DEFINED_IN[name]


def public(name: str) -> object:
    """The object behind a public name; the test is skipped where its extra is missing."""
    try:
        return getattr(agelens, name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")


def test_names_are_listed_once() -> None:
    assert set(agelens._DEFINED_IN) == set(NAMES)
    assert list(agelens._DEFINED_IN) == sorted(agelens._DEFINED_IN)
    assert 20 <= len(NAMES) <= 30
    assert set(NAMES) <= set(dir(agelens))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == agelens._DEFINED_IN


@pytest.mark.parametrize("name", NAMES)
def test_name_is_public_where_it_is_defined(name: str) -> None:
    thing = public(name)
    assert name in importlib.import_module(home(name)).__all__
    assert getattr(thing, "__module__", None) == home(name)
    assert (getattr(thing, "__doc__", None) or "").strip()


def test_no_public_name_is_a_module() -> None:
    taken = {path.stem for path in INIT.parent.iterdir()}
    assert not taken & set(NAMES), "import would replace the name by the module"


def test_import_loads_nothing_else() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(INIT.parents[1])!r}); before = set(sys.modules); "
        "import agelens; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "agelens" in done.stdout.split()
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded <= sys.stdlib_module_names | {"agelens"}
    assert [name for name in done.stdout.split() if name.startswith("agelens.")] == []
    assert len(done.stdout.split()) < 5  # the standard library is not free either


def test_reference_shows_every_name() -> None:
    assert sorted(SECTIONS) == NAMES
    assert [name for name, examples in EXAMPLES.items() if len(examples) != 1] == []
    assert [name for name, (example,) in EXAMPLES.items() if f"agelens.{name}" not in example] == []


def test_readme_uses_public_names_and_leads_to_the_reference() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    used = set(re.findall(r"\bagelens\.(\w+)", "\n".join(blocks)))
    assert used
    assert used <= set(NAMES)
    assert "(docs/reference.md)" in readme


@pytest.fixture(scope="module")
def folder(reader_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder, to be written to."""
    return shutil.copytree(reader_folder, tmp_path_factory.mktemp("reference") / "folder")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The address of a running service."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [sys.executable, "-m", "agelens", "serve", "--port", address.partition(":")[2], "--no-page"]
    with open(folder / "serve.log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as service:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://{address}/readyz", timeout=5).close()
                    break
                time.sleep(0.1)
            yield address
        finally:
            service.terminate()


@pytest.mark.slow
def test_examples_run_in_the_order_of_the_page(folder: Path, address: str) -> None:
    pytest.importorskip("torch", reason="the examples train")
    parts = [f"print('== {name}')\nexec({example!r}, {{}})" for name, (example,) in EXAMPLES.items()]
    code = "\n".join(parts).replace("127.0.0.1:8000", address)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout.rpartition('== ')[2]}\n{done.stderr}"
    said = dict(re.findall(r"^== (\w+)\n(.*?)(?=^== |\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    silent = {name for name, text in said.items() if not text.strip()}
    assert silent <= {"MissingExtraError"}  # raised only where the extra is missing
