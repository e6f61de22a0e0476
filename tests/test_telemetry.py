"""Nothing leaves the machine: no telemetry, no file in the home folder, no socket beyond loopback."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SWITCH = "ORT_DISABLE_TELEMETRY"


def environment(home: str | Path, **more: str) -> dict[str, str]:
    """The variables of a child process with another home folder, as before agelens was imported here."""
    kept = {name: value for name, value in os.environ.items() if name not in (SWITCH, "XDG_CACHE_HOME")}
    return kept | {"HOME": str(home)} | more


def agelens(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "agelens", *map(str, arguments)]


@pytest.fixture
def traced(tmp_path: Path) -> tuple[list[str], Path]:
    """The beginning of a command whose sockets are recorded, and the record."""
    strace = shutil.which("strace")
    record = tmp_path / "sockets"
    command = [] if strace is None else [strace, "-f", "-qq", "-e", "trace=network", "-o", str(record)]
    if command and subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        command = []  # tracing is forbidden in some containers
    return command, record


def addresses(record: Path) -> set[str]:
    """The internet addresses that a recorded process bound or reached, names looked up included."""
    text = record.read_text(errors="replace") if record.exists() else ""
    return set(re.findall(r'inet_addr\("([^"]+)"\)', text)) | set(
        re.findall(r'inet_pton\(AF_INET6, "([^"]+)"', text)
    )


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0"), ("", "")])
def test_the_package_turns_telemetry_off_unless_the_user_has_set_it(
    given: str | None, expected: str, tmp_path: Path
) -> None:
    more = {} if given is None else {SWITCH: given}
    code = f"import agelens, os; print(repr(os.environ[{SWITCH!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path, **more),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == repr(expected)


def test_predict_leaves_no_trace(traced: tuple[list[str], Path], portrait: Path, tmp_path: Path) -> None:
    command, record = traced
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [*command, *agelens("predict", portrait)],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(home.rglob("*")) == []
    assert addresses(record) == set()


def test_serve_leaves_no_trace(
    traced: tuple[list[str], Path], portrait: Path, small_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    command, record = traced
    home = tmp_path / "home"
    home.mkdir()
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, *agelens("serve", "--port", "0", "--model", small_model)],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("agelens serves "), log.read_text()
        url = line.split()[-1]
        boundary = "frontier"
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        body += portrait.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(f"{url}/v1/estimate", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        os.killpg(process.pid, signal.SIGTERM)  # the tracer itself blocks it
        process.wait(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert list(home.rglob("*")) == []
    assert addresses(record) <= {"127.0.0.1"}
    if command:
        assert addresses(record) == {"127.0.0.1"}  # the record works: the service's own address is in it


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is a home that nobody can write to")
def test_a_home_that_cannot_be_written_says_nothing(portrait: Path) -> None:
    done = subprocess.run(
        agelens("predict", portrait),
        env=environment("/proc"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def first_imports(path: Path) -> list[str]:
    """The top packages that a file imports, in its order, imports inside functions last."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in [*tree.body, *(inner for outer in tree.body for inner in ast.walk(outer))]:
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((PROJECT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_agelens_before_onnxruntime(path: Path) -> None:
    names = first_imports(path)
    if "onnxruntime" in names:
        assert "agelens" in names[: names.index("onnxruntime")]


def test_the_page_reaches_its_own_server_only() -> None:
    pytest.importorskip("fastapi", reason="the service needs the extra serve")
    from agelens.serve import static

    policy = Path(static.__file__).read_text(encoding="utf-8")
    assert "default-src 'self'" in policy or "default-src 'none'" in policy
    assert "connect-src 'self' blob: data:" in policy
    page = PROJECT / "src" / "agelens" / "serve" / "page"
    for file in (path for path in page.rglob("*") if path.suffix in {".js", ".html", ".css"}):
        if "engine" not in file.relative_to(page).parts:
            hosts = re.findall(r"https?://([\w.-]+)", file.read_text(encoding="utf-8"))
            assert set(hosts) <= {"www.w3.org", "127.0.0.1", "localhost"}, file.name
