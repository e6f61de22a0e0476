"""Frame noise and yaw dependence of tables of frames."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from agelens.apps.cli import app
from agelens.errors import PredictionsError
from agelens.video.steadiness import read_frames, steadiness

OURS = """path,frame,person,age,shown,yaw
a,0,1,20,20,0
a,1,1,24,22,-5
a,2,1,31,22,25
a,0,2,50,,2
a,1,2,50,,3
b,0,1,40,40,50
"""
PEER = """path,frame,age
b,0,44
b,1,40
"""


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    (tmp_path / "ours.csv").write_text(OURS)
    (tmp_path / "peer.csv").write_text(PEER)
    return [tmp_path / "ours.csv", tmp_path / "peer.csv"]


def test_golden(tables: list[Path]) -> None:
    ours, peer = steadiness([read_frames(path) for path in tables])
    assert (ours.people, ours.frames) == (2, 5)  # a person with one frame has no noise
    first = np.abs(np.array([20, 24, 31]) - 25).mean()
    assert ours.deviation == pytest.approx(first / 2)
    assert ours.shown_deviation == pytest.approx(np.abs(np.array([20, 22, 22]) - 64 / 3).mean())
    ahead, turned = ours.yaw[0], ours.yaw[2]
    assert (ahead.people, ahead.frames, ahead.change) == (2, 4, 0)
    assert (turned.low, turned.high, turned.people, turned.frames) == (20, 30, 1, 1)
    assert turned.change == turned.apart == pytest.approx(31 - 22)
    assert math.isnan(turned.margin)
    assert (peer.people, peer.frames, peer.deviation, peer.shown_deviation) == (1, 2, 2, None)


def test_the_interval_of_a_change_is_over_people(tmp_path: Path) -> None:
    rows = [f"{path},30,0\n{path},{30 + change},25\n" for path, change in (("a", 1), ("b", 3), ("c", -2.5))]
    (tmp_path / "t.csv").write_text("path,age,yaw\n" + "".join(rows))
    (system,) = steadiness([read_frames(tmp_path / "t.csv")])
    assert system.yaw[2].change == pytest.approx(0.5)
    deviation = math.sqrt((0.5**2 + 2.5**2 + 3**2) / 2)
    assert system.yaw[2].margin == pytest.approx(1.96 * deviation / math.sqrt(3))
    assert "+0.50 ± 3.15 (3)" in CliRunner().invoke(app, ["video-report", str(tmp_path / "t.csv")]).stdout


def test_a_table_without_yaw_borrows_it(tmp_path: Path, tables: list[Path]) -> None:
    (tmp_path / "other.csv").write_text("path,frame,person,age\na,0,1,30\na,1,1,30\na,2,1,36\n")
    *_, other = steadiness([read_frames(path) for path in (*tables, tmp_path / "other.csv")])
    assert other.yaw[2].change == pytest.approx(6)
    (alone,) = steadiness([read_frames(tmp_path / "other.csv")])
    assert alone.yaw == ()


def test_a_folder_is_one_system(tmp_path: Path, tables: list[Path]) -> None:
    for number in range(2):
        (tmp_path / f"clip{number}.frames.csv").write_text(OURS.replace("\na,", f"\na{number},"))
    (both,) = steadiness([read_frames(tmp_path)])
    (one,) = steadiness([read_frames(tables[0])])
    assert (both.people, both.deviation) == (5, pytest.approx(one.deviation * 4 / 5))


def test_command(tables: list[Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["video-report", *map(str, tables), "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    head, ours, peer = done.stdout.splitlines()
    assert "frame noise" in head
    assert "yaw 20-30" in head
    assert "+9.00 (1)" in ours
    assert peer.split()[1:4] == ["1", "2", "2.00"]
    told = json.loads((tmp_path / "out.json").read_text())
    assert [system["people"] for system in told] == [2, 1]
    assert told[0]["yaw"][4]["change"] is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"path,years\na,3\n", "has no column 'age'"),
        (b"path,age\na,old\n", "row 1, column 'age': is no number"),
        (b"path,age,yaw\na,30,inf\n", "column 'yaw': is no number"),
        (b"path,age\na,\n", "has no frame with an age"),
        (b"", "has no column 'path'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(PredictionsError, match=told):
        read_frames(tmp_path / "t.csv")


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"has no file \*\.frames\.csv"):
        read_frames(tmp_path)
    with pytest.raises(PredictionsError, match="cannot be read"):
        read_frames(tmp_path / "none.csv")
