"""Fleets on a stand-in for Ray: workers that die, photos that kill them, full disks, calls again.

``scripts/check_fleet.py`` does the same with real processes on a cluster of two nodes.
"""

from __future__ import annotations

import errno
import json
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from agelens.apps import cli
from agelens.errors import InputError, MissingExtraError, OutputError
from agelens.fleet import run, worker
from agelens.fleet.cluster import connected
from agelens.fleet.photos import list_photos
from agelens.fleet.run import predict_fleet
from agelens.inference.estimator import AgeEstimator

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


class DeadError(Exception):
    """The worker is gone."""


class RefusedError(Exception):
    """The task ended in an error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class Ray:
    """Does at once, in this process, what Ray's actors would do; ``kills`` says which calls kill one."""

    exceptions = SimpleNamespace(RayTaskError=RefusedError, RayError=(DeadError, RefusedError))

    def __init__(self, kills: Callable[[str, Sequence[Any]], bool] = lambda name, arguments: False) -> None:
        self.kills, self.started = kills, 0
        self.answers: dict[int, Any] = {}

    def put(self, value: Any) -> Any:
        return value

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def shutdown(self) -> None:
        """Nothing to end."""

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(remote=lambda *arguments: self._actor(kind(*arguments)))

    def _actor(self, made: Any) -> Any:
        self.started += 1
        dead = []

        def method(name: str) -> Any:
            def call(*arguments: Any) -> int:
                number = len(self.answers)
                try:
                    if dead or self.kills(name, arguments):
                        dead.append(True)
                        raise DeadError
                    self.answers[number] = getattr(made, name)(*arguments)
                except DeadError as error:
                    self.answers[number] = error
                except Exception as error:
                    self.answers[number] = RefusedError(error)
                return number

            return SimpleNamespace(remote=call)

        return SimpleNamespace(**{name: method(name) for name in ("ready", "partition", "entries", "write")})

    def wait(self, waiting: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return waiting[:1], waiting[1:]

    def get(self, number: int) -> Any:
        answer = self.answers[number]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Ten aligned crops, one file that is no image, and one that is missing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (16, 16), (number * 25,) * 3).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return [*(str(path) for path in sorted(folder.iterdir())), str(folder / "missing.png")]


@pytest.fixture
def fleet(
    monkeypatch: pytest.MonkeyPatch, small_model: Path, photos: list[str], tmp_path: Path
) -> Callable[..., run.FleetResult]:
    """``fleet(ray, …)`` runs the twelve photos, four a partition."""
    estimator = AgeEstimator(small_model)

    def start(ray: Ray, **options: Any) -> run.FleetResult:
        monkeypatch.setattr(run, "connected", lambda address: ray)
        given = {"photos": photos, "out": tmp_path / "out", "partition": 4, "aligned": True, **options}
        return predict_fleet(estimator=estimator, **given)

    return start


def _rows(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(out.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_every_photo_has_one_row_in_order(
    fleet: Callable[..., run.FleetResult], photos: list[str], tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    result = fleet(Ray(), report=lambda *counts: told.append(counts))
    rows = _rows(tmp_path / "out")
    assert [row["path"] for row in rows] == photos
    assert [row["age"] is None for row in rows] == [False] * 10 + [True] * 2
    assert all(row["error"] for row in rows[10:])
    assert (result.partitions, result.done_before) == (3, 0)
    assert (result.tally.photos, result.tally.faces, result.tally.failed) == (12, 10, 2)
    assert told[-1] == (12, 12)
    again = fleet(Ray())
    assert (again.done_before, again.tally.photos) == (3, 0)
    with pytest.raises(InputError, match="holds the partitions of other photos or settings"):
        fleet(Ray(), threshold=21)


def test_a_driver_that_was_killed_does_what_is_missing(
    fleet: Callable[..., run.FleetResult], photos: list[str], tmp_path: Path
) -> None:
    fleet(Ray())
    first, *_ = sorted((tmp_path / "out").glob("part-*"))
    before = first.stat().st_mtime_ns
    for lost in sorted((tmp_path / "out").glob("part-*"))[1:]:
        lost.unlink()
    (tmp_path / "out" / ".part-000001.partial.parquet").write_bytes(b"half")
    result = fleet(Ray())
    assert (result.done_before, result.tally.photos) == (1, 8)
    assert first.stat().st_mtime_ns == before
    assert [row["path"] for row in _rows(tmp_path / "out")] == photos


def test_a_worker_that_is_killed_loses_and_doubles_nothing(
    fleet: Callable[..., run.FleetResult], photos: list[str], tmp_path: Path
) -> None:
    calls = Counter[str]()

    def second_partition(name: str, arguments: Sequence[Any]) -> bool:
        calls[name] += 1
        return name == "partition" and calls[name] == 2

    ray = Ray(second_partition)
    fleet(ray, workers=1)
    assert ray.started == 2
    assert [row["path"] for row in _rows(tmp_path / "out")] == photos


def test_a_photo_that_kills_its_worker_is_a_row_with_an_error(
    fleet: Callable[..., run.FleetResult], photos: list[str], tmp_path: Path
) -> None:
    deadly = photos[5]
    result = fleet(Ray(lambda name, arguments: name in ("partition", "entries") and deadly in arguments[0]))
    rows = {row["path"]: row for row in _rows(tmp_path / "out")}
    assert list(rows) == photos
    assert "the worker that read it died, 2 times" in rows[deadly]["error"]
    assert [path for path, row in rows.items() if row["age"] is None] == [deadly, *photos[10:]]
    assert (result.tally.photos, result.tally.failed) == (12, 3)


def test_a_full_disk_leaves_the_other_partitions_and_is_told(
    fleet: Callable[..., run.FleetResult], photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = worker.write_partition

    def full(entries: Sequence[str], file: str) -> dict[str, int]:
        if "part-000001" in file:
            raise OutputError(file, f"cannot write: {errno.ENOSPC}")
        return written(entries, file)

    with monkeypatch.context() as patched:
        patched.setattr(worker, "write_partition", full)
        with pytest.raises(OutputError, match=r"part-000001.*partitions missing: 1; the same call goes on"):
            fleet(Ray())
    assert len(_rows(tmp_path / "out")) == 8
    assert fleet(Ray()).done_before == 2
    assert [row["path"] for row in _rows(tmp_path / "out")] == photos


def test_workers_that_cannot_start_or_always_die_end_the_run(
    fleet: Callable[..., run.FleetResult], photos: list[str]
) -> None:
    with pytest.raises(InputError, match="a worker cannot start"):
        fleet(Ray(lambda name, arguments: name == "ready"))
    with pytest.raises(OutputError, match="its workers died, again and again"):
        fleet(Ray(lambda name, arguments: name in ("partition", "write")))


def test_lists_folders_and_addresses(photos: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    assert list_photos(folder) == photos[:11]
    (folder / "list.txt").write_text("0.png\n\nmissing.png\r\n/elsewhere/a.jpg\nmemory://b/c.jpg\n")
    assert list_photos(folder / "list.txt") == [
        *(str(folder / "0.png"), str(folder / "missing.png"), "/elsewhere/a.jpg", "memory://b/c.jpg")
    ]
    import pyarrow as pa

    pq.write_table(pa.table({"path": ["1.png", "2.png"]}), folder / "list.parquet")
    assert list_photos(folder / "list.parquet") == [str(folder / "1.png"), str(folder / "2.png")]
    system = fsspec.filesystem("memory")
    system.pipe_file("/photos/a.png", b"")
    system.pipe_file("/photos/notes.md", b"")
    system.pipe_file("/photos/list.txt", b"a.png\n")
    assert list_photos("memory://photos") == ["memory:///photos/a.png"]
    assert list_photos("memory://photos/list.txt") == ["memory://photos/a.png"]
    for nothing in ("memory://empty", tmp_path / "no.txt", tmp_path / "no.parquet"):
        with pytest.raises(InputError):
            list_photos(nothing)


def test_photos_and_partitions_at_addresses(fleet: Callable[..., run.FleetResult], photos: list[str]) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/in/a.png", Path(photos[3]).read_bytes())
    names = ["memory:///in/a.png", "memory:///in/gone.png", photos[3]]
    fleet(Ray(), photos=names, out="memory://out")
    (file,) = (name for name in system.ls("/out", detail=False) if "part-" in name)
    rows = pq.read_table(system.open(file, "rb")).to_pylist()
    assert [row["path"] for row in rows] == names
    assert rows[0]["age"] == rows[2]["age"] is not None
    assert rows[1]["error"].startswith("cannot be read")
    assert fleet(Ray(), photos=names, out="memory://out").done_before == 1
    assert json.loads(system.cat_file("/out/fleet.json"))["photos"] == 3


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], small_model: Path) -> Callable[..., tuple[int, str]]:
    def call(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app(["predict", *map(str, arguments), "--model", str(small_model), "--engine", "ray"])
        return int(stopped.value.code or 0), capsys.readouterr().err

    return call


def test_the_command(
    predict: Callable[..., tuple[int, str]],
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, folder = tmp_path / "out", tmp_path / "photos"
    assert "needs one PATH of photos, and --out FOLDER" in predict(folder)[1]
    assert "goes on by itself" in predict(folder, "--out", out, "--resume")[1]
    with monkeypatch.context() as patched:
        patched.setattr(run, "connected", lambda address: Ray())
        code, err = predict(folder, "--out", out, "--aligned", "--partition", "5")
        assert (code, err.splitlines()[0]) == (
            1,
            "11 photos: 10 faces, 0 without a face, 1 could not be used, in 3 partitions",
        )
        code, err = predict(folder, "--out", out, "--aligned", "--partition", "5")
        assert (code, "3 partitions were done before" in err) == (0, True)
        predict(folder, "--out", "memory://of-command", "--aligned")
    assert len(fsspec.filesystem("memory").ls("/of-command")) == 2


def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", SimpleNamespace())
    with socket.socket() as taken:  # bound and not listening: refused at once
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="no answer"):
            connected(f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(InputError, match="HOST:PORT or auto"):
        connected("nowhere")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"\[fleet\]"):
        connected(None)
