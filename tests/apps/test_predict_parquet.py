"""agelens predict --out NAME.parquet: the rows of the CSV, typed, resumable, flat in memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from agelens.apps import cli
from agelens.errors import InputError
from agelens.inference.estimator import AgeEstimator
from agelens.inference.parquet import read_paths, write_parquet, write_rows

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six aligned crops and a file that is no image."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (16, 16), (number * 40,) * 3).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], small_model: Path) -> Callable[..., tuple[int, str]]:
    """``predict(…)`` runs the command with the small model in this process: exit code, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.app(["predict", *map(str, arguments), "--model", str(small_model), "--aligned"])
        return int(stopped.value.code or 0), capsys.readouterr().err

    return run


def _cells(path: Path) -> list[dict[str, str | None]]:
    return [
        {name: None if value is None else str(value) for name, value in row.items()}
        for row in pq.read_table(path).to_pylist()
    ]


def test_it_has_the_rows_of_the_csv_with_their_types(
    predict: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path
) -> None:
    assert predict(folder, "--out", tmp_path / "ages.parquet")[0] == 1  # one image is none
    assert predict(folder, "--out", tmp_path / "ages.csv")[0] == 1
    table = pq.read_table(tmp_path / "ages.parquet")
    assert [str(table.schema.field(name).type) for name in ("path", "face", "age", "error")] == [
        *("string", "int32", "double", "string")
    ]
    with open(tmp_path / "ages.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == table.num_rows == 7
    for row, typed in zip(rows, table.to_pylist(), strict=True):
        for name, cell in row.items():
            value = typed[name]
            assert (value is None) == (cell == "")
            assert value is None or (float(cell) == value if isinstance(value, float) else str(value) == cell)


def test_it_resumes_to_the_same_table(
    predict: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    predict(folder, "--out", whole)
    answers = AgeEstimator.estimate_many

    def interrupted(self: AgeEstimator, sources: Iterator[Path], **options: bool) -> Iterator[object]:
        for number, source in enumerate(sources):
            if number == 3:
                raise KeyboardInterrupt
            yield from answers(self, [source], **options)

    with monkeypatch.context() as patched:
        patched.setattr(AgeEstimator, "estimate_many", interrupted)
        code, err = predict(folder, "--out", part, "--resume")
    assert (code, part.exists()) == (130, False)
    assert "3 photos are kept" in err
    assert predict(folder, "--out", part, "--resume")[0] == 1
    assert _cells(part) == _cells(whole)
    assert not list(tmp_path.glob("*.partial"))


def test_it_is_refused_where_it_cannot_be_written(
    predict: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(folder, "--format", "parquet") == (
        2,
        "error: --format parquet needs --out FILE: it is no text to print\n",
    )
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    code, err = predict(folder, "--out", tmp_path / "ages.parquet")
    assert code == 2
    assert "this needs pyarrow" in err
    assert "[parquet]" in err


def test_from_python(folder: Path, small_model: Path, tmp_path: Path) -> None:
    photos = AgeEstimator(small_model).estimate_many(sorted(folder.iterdir()), aligned=True)
    tally = write_parquet(photos, tmp_path / "ages.parquet", threshold=21)
    assert (tally.photos, tally.faces, tally.failed) == (7, 6, 1)
    assert read_paths(tmp_path / "ages.parquet") == [str(path) for path in sorted(folder.iterdir())]


def test_rows_come_in_groups_and_odd_names_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agelens.inference.parquet._GROUP", 4)
    entries = (json.dumps([{"path": f"{number}\\udcff.jpg", "face": 1, "age": 3.5}]) for number in range(10))
    with open(tmp_path / "rows.parquet", "wb") as handle:
        assert write_rows(entries, handle, {"settings": "{}"}) == 10
    stored = pq.ParquetFile(tmp_path / "rows.parquet")
    assert [stored.metadata.row_group(group).num_rows for group in range(3)] == [4, 4, 2]
    assert stored.schema_arrow.metadata[b"settings"] == b"{}"
    with pytest.raises(InputError, match="no Parquet file with a column 'path'"):
        read_paths(Path(__file__))
