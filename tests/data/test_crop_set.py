"""Decoded crops in a mapped file: kept, used again, refused where they do not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from agelens.data import crop_set
from agelens.data.crop_set import crop_side, load_crops
from agelens.data.manifest import read_manifest
from agelens.errors import InputError, ManifestError, OutputError

MakeCrops = Callable[..., pd.DataFrame]


@pytest.fixture
def make_crops(tmp_path: Path) -> MakeCrops:
    """``make_crops(count, side)`` writes crops of noise and reads their manifest."""

    def make(count: int = 5, side: int = 16) -> pd.DataFrame:
        random = np.random.default_rng(side)
        for number in range(count):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        table = pd.DataFrame(
            {
                "path": [f"{number}.png" for number in range(count)],
                "age": 3.0,
                "dataset": ["a" if number % 2 else "b" for number in range(count)],
            }
        )
        table.to_csv(tmp_path / "manifest.csv", index=False)
        return read_manifest(tmp_path / "manifest.csv")

    return make


def decoded(table: pd.DataFrame) -> np.ndarray:
    return np.stack([np.asarray(Image.open(table.attrs["root"] / path)) for path in table["path"]])


def test_crops_come_from_a_file_that_is_used_again(
    make_crops: MakeCrops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crop_set, "_BLOCK", 2 * 16 * 16 * 3)
    table, seen = make_crops(), []
    first = load_crops(table, progress=lambda *call: seen.append(call))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert isinstance(first.pixels, np.memmap)
    np.testing.assert_array_equal(first.crops(slice(0, None)), decoded(table))
    np.testing.assert_array_equal(first.crops(np.array([3, 3, 0])), decoded(table)[[3, 3, 0]])
    assert first.stored is not None
    assert first.stored.parent == table.attrs["root"] / ".crops"
    monkeypatch.setattr(crop_set, "_blocks", lambda *_: pytest.fail("decoded again"))
    again = load_crops(table)
    np.testing.assert_array_equal(again.crops(slice(0, None)), decoded(table))
    half = again.select(np.array([True, False, True, False, True]))
    assert half.sets is not None
    assert half.sets.tolist() == ["b", "b", "b"]
    np.testing.assert_array_equal(half.crops(np.array([1])), decoded(table)[[2]])


def test_the_cache_may_lie_elsewhere_and_other_crops_in_it_are_not_used(
    make_crops: MakeCrops, tmp_path: Path
) -> None:
    table, cache = make_crops(), tmp_path / "cache"
    stored = load_crops(table, cache=cache).stored
    assert stored is not None
    assert stored.parent == cache
    assert not (tmp_path / ".crops").exists()
    for damage in (np.zeros((5, 8, 8, 3), np.uint8), np.zeros((5, 16, 16, 3), np.int8), None):
        if damage is None:
            stored.write_bytes(b"\x93NUMPY")
        else:
            np.save(stored, damage)
        np.testing.assert_array_equal(load_crops(table, cache=cache).crops(slice(0, None)), decoded(table))


@pytest.mark.parametrize("limit", [2**30, 0])
def test_crops_that_are_not_kept(
    make_crops: MakeCrops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(crop_set, "_IN_MEMORY", limit)
    table = make_crops()
    crops = load_crops(table, cache=False)
    np.testing.assert_array_equal(crops.crops(slice(0, None)), decoded(table))
    assert isinstance(crops.pixels, np.memmap) == (limit == 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"{k}.png" for k in range(5)),
        "manifest.csv",
    ]


def test_crops_smaller_than_the_input_are_refused_with_the_size_that_helps(make_crops: MakeCrops) -> None:
    table = make_crops(side=128)
    with pytest.raises(
        InputError, match=r"128 px are smaller than .* 224 px: prepare them again with --size 256"
    ):
        crop_side(table, at_least=224)
    assert crop_side(table, at_least=128) == load_crops(table).side == 128


def test_crops_of_another_size_or_form_name_their_row(make_crops: MakeCrops, tmp_path: Path) -> None:
    table = make_crops()
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    with pytest.raises(ManifestError, match="row 4: crop is 8x8, the first is 16x16"):
        load_crops(table)
    assert not list((tmp_path / ".crops").iterdir())
    Image.new("RGB", (8, 9)).save(tmp_path / "0.png")
    with pytest.raises(ManifestError, match="row 1: crops must be square, not 8x9"):
        load_crops(table)


def test_a_folder_without_room_is_told_before_anything_is_decoded(
    make_crops: MakeCrops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int = 0
        used: int = 0
        free: int = 100

    def full(_: Any) -> Usage:
        return Usage()

    monkeypatch.setattr(shutil, "disk_usage", full)
    table, reads, read = make_crops(), [], crop_set.read_image
    monkeypatch.setattr(crop_set, "read_image", lambda path: (reads.append(path), read(path))[1])
    with pytest.raises(OutputError, match="--cache DIR names another folder"):
        load_crops(table, cache=tmp_path / "cache")
    assert len(reads) == 1  # the first one says how large they are


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from agelens.data.crop_set import crop_side, load_crops
from agelens.data.manifest import read_manifest

def resident():
    text = Path("/proc/self/status").read_text()
    kinds = ("RssAnon", "RssFile")
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(kinds)) / 1024

table = read_manifest(sys.argv[1])
load_crops(table.iloc[:300], cache=False)  # everything is imported and used once
before = resident()
crops = load_crops(table, cache=Path(sys.argv[2]))
after = resident()
random = np.random.default_rng(0)
for _ in range(60):
    crops.crops(random.integers(0, len(crops), 64))
print(after - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_resident_memory_does_not_hold_the_crops(tmp_path: Path) -> None:
    side, count = 160, 1500  # 115 MB decoded
    Image.new("RGB", (side, side), (9, 90, 200)).save(tmp_path / "0.png")
    for number in range(1, count):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    names = [f"{number}.png" for number in range(count)]
    pd.DataFrame({"path": names, "age": 3.0}).to_csv(tmp_path / "manifest.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "manifest.csv"), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    loaded, used = map(float, done.stdout.split())
    assert loaded < 40
    assert used < 40
