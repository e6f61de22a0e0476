"""Writing whole files: the new one, or the old one and an error; never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from agelens.errors import OutputError
from agelens.files import is_leftover, refuse_to_overwrite, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "table.csv"
    with write_atomically(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (target.parent, ".csv")
        temporary.write_text("first")
        assert not target.exists()
    with write_atomically(str(target)) as temporary:
        temporary.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert names(target.parent) == ["table.csv"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("wrong")])
def test_what_stops_the_writer_passes_and_the_old_file_stays(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")

    def write_half() -> None:
        with write_atomically(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with (
        pytest.raises(OutputError, match=r"table\.csv: cannot write: No space left on device") as caught,
        write_atomically(target) as temporary,
    ):
        temporary.write_text("new")
    assert caught.value.path == str(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


_WRITERS = {
    "text": 'temporary.write_text("x" * 100_000)',
    "image": "Image.effect_noise((400, 400), 90).save(temporary)",
    "arrays": "np.savez(temporary, logits=np.zeros(100_000))",
    "table": 'pd.DataFrame({"age": range(100_000)}).to_csv(temporary, index=False)',
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("writer", _WRITERS)
def test_a_write_that_the_system_cuts_short(tmp_path: Path, writer: str) -> None:
    """Under RLIMIT_FSIZE the system takes the first bytes and refuses the rest, as a full disk does."""
    target = tmp_path / f"old{'.png' if writer == 'image' else '.npz' if writer == 'arrays' else '.csv'}"
    target.write_text("old")
    code = f"""
import resource, sys
import numpy as np, pandas as pd
from PIL import Image
from agelens.errors import OutputError
from agelens.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with write_atomically(sys.argv[1]) as temporary:
        {_WRITERS[writer]}
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, target], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (f"{target}: cannot write: File too large\n", "")
    assert target.read_text() == "old"
    assert names(tmp_path) == [target.name]


def test_a_folder_without_permission(
    unprivileged: Callable[[], AbstractContextManager[None]], open_folder: Path
) -> None:
    (open_folder / "table.csv").write_text("old")
    open_folder.chmod(0o555)
    with (
        unprivileged(),
        pytest.raises(OutputError, match=r"table\.csv: cannot write: Permission denied"),
        write_atomically(open_folder / "table.csv") as temporary,
    ):
        temporary.write_text("new")
    assert (open_folder / "table.csv").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    code = """
import os, signal, sys
from agelens.files import write_atomically
with write_atomically(sys.argv[1]) as temporary:
    temporary.write_text("x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, target], timeout=60, check=False)
        (left,) = tmp_path.iterdir()
        assert is_leftover(left)
        assert left.read_text() == "x" * 1000
    with write_atomically(target) as temporary:
        assert temporary == left
        assert temporary.read_bytes() == b""
        temporary.write_text("whole")
    assert (names(tmp_path), target.read_text()) == (["table.csv"], "whole")


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    with write_atomically(target) as first:
        first.write_text("first")
        with write_atomically(target) as second:
            second.write_text("second")
            assert first != second
            assert all(map(is_leftover, (first, second)))
        assert (target.read_text(), first.read_text()) == ("second", "first")
    assert (names(tmp_path), target.read_text()) == (["table.csv"], "first")


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_a_name_that_is_set_as_a_trap_is_not_written_to(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for trap in (Path.symlink_to, Path.hardlink_to):
        other.write_text("precious")
        trap(tmp_path / ".table.partial.csv", other)
        with write_atomically(tmp_path / "table.csv") as temporary:
            temporary.write_text("whole")
        assert (other.read_text(), (tmp_path / "table.csv").read_text()) == ("precious", "whole")
        (tmp_path / ".table.partial.csv").unlink()


def test_names_of_leftovers() -> None:
    for name in (".table.partial.csv", ".recipe.partial", ".a.b.0123abcd.csv", ".archive.partial.gz"):
        assert is_leftover(Path("folder") / name), name
    for name in ("table.csv", ".crops", ".gitignore", "ages.csv.partial", ".fold-01", ".partial.csv"):
        assert not is_leftover(Path("folder") / name), name


def test_folders_and_devices_are_not_replaced(tmp_path: Path) -> None:
    for target in (tmp_path, Path(os.devnull)):
        with pytest.raises(OutputError, match="is no regular file"), write_atomically(target):
            pytest.fail("begun")
    assert not Path(os.devnull).is_file()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file is no folder"),
        write_atomically(tmp_path / "file" / "a.csv"),
    ):
        pytest.fail("begun")


def test_a_missing_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "copy.csv") as temporary:
        temporary.write_bytes((tmp_path / "gone.csv").read_bytes())
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self.parent))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(OutputError, match=r"a\.svg: cannot write: No such file or directory"),
        write_atomically(tmp_path / "report" / "plots" / "a.svg"),
    ):
        pytest.fail("begun")


def test_a_file_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "read.csv").write_text("kept")
    (tmp_path / "link.csv").symlink_to(tmp_path / "read.csv")
    for out in (tmp_path / "read.csv", str(tmp_path / "link.csv"), tmp_path / "x" / ".." / "read.csv"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="is what this command reads: write to another file"):
            refuse_to_overwrite(out, [b"bytes", tmp_path / "gone.csv", "a\0b", str(tmp_path / "read.csv")])
    refuse_to_overwrite(tmp_path / "read.csv", [tmp_path / "gone.csv", None, b"read.csv"])
    refuse_to_overwrite(tmp_path / "new.csv", [tmp_path / "read.csv"])
    refuse_to_overwrite("a\0b", [tmp_path / "read.csv"])


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize(
    ("module", "step"), [(os, "open"), ("fcntl", "flock"), (os, "fstat"), (os, "ftruncate")]
)
def test_an_interrupt_while_the_name_is_claimed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, step: str
) -> None:
    import fcntl

    place = fcntl if module == "fcntl" else module
    real, opened = getattr(place, step), []

    def interrupted(*arguments: object) -> None:
        monkeypatch.undo()
        opened.append(real(*arguments))
        raise KeyboardInterrupt  # a signal comes when the step is done and nothing of it is noted yet

    monkeypatch.setattr(place, step, interrupted)
    with pytest.raises(KeyboardInterrupt), write_atomically(tmp_path / "table.csv"):
        raise AssertionError("never reached")
    assert len(opened) == 1
    if step == "open":
        os.close(opened[0])
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_the_temporary_file_of_the_next_writer_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may begin between our rename and our end."""
    real = os.replace
    with contextlib.ExitStack() as others:
        path = tmp_path / "table.csv"

        def renamed(source: object, target: object) -> None:
            monkeypatch.undo()
            real(source, target)
            others.enter_context(write_atomically(path)).write_text("second")

        monkeypatch.setattr(os, "replace", renamed)
        with write_atomically(path) as temporary:
            temporary.write_text("first")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert names(tmp_path) == ["table.csv"]
