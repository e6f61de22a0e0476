"""Files of a user that would hang, exhaust the memory or break a parser."""

from __future__ import annotations

import io
import json
import os
import threading
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agelens import stored_arrays
from agelens.apps.commands.serve import read_token
from agelens.data.geometry import crop_geometry
from agelens.data.manifest import read_manifest
from agelens.data.owner_files import read_lines, read_table
from agelens.data.pooled import read_record
from agelens.data.predictions import read_predictions
from agelens.errors import AgelensError, ModelFileError
from agelens.evaluation.published import read_published
from agelens.model_file import open_model_file
from agelens.reading import (
    SETTINGS_BYTES,
    open_at_once,
    parse_json,
    parse_toml,
    read_at_most,
    read_bytes,
    read_pipe,
    read_text,
)
from agelens.stored_arrays import read_arrays

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")


@pytest.fixture(params=["/dev/zero", "pipe"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "pipe":
        os.mkfifo(tmp_path / "pipe")
        return tmp_path / "pipe"
    return Path(request.param)


@pipes
@pytest.mark.parametrize(
    "reader",
    [open_model_file, read_lines, read_predictions, read_published, read_table, read_token],
)
def test_what_never_ends_is_refused(reader, endless: Path) -> None:
    with pytest.raises(AgelensError, match=f"{endless.name}.*is no regular file"):
        reader(endless)


@pipes
def test_a_pipe_without_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        open_at_once(tmp_path / "pipe") as handle,
        pytest.raises(OSError, match="nobody wrote to it within 0 seconds"),
    ):
        read_pipe(handle, 10, patience=0)


@pipes
def test_a_pipe_with_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = bytes(range(256)) * 1000  # more than a pipe holds
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    with open_at_once(tmp_path / "pipe") as handle:
        writer.start()
        assert read_pipe(handle, len(content), patience=600) == content
    writer.join()


@pipes
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_is_a_regular_file(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow")
    pipe = tmp_path / f"faces{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(AgelensError, match=f"faces{suffix}: cannot read: is no regular file"):
        read_manifest(pipe)


def test_the_largest_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (SETTINGS_BYTES + 1))
    with pytest.raises(OSError, match=f"has {SETTINGS_BYTES + 1} bytes; at most {SETTINGS_BYTES} are read"):
        read_text(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path, 10)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", 10)


def test_a_model_larger_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.onnx"
    with open(path, "wb") as handle:
        handle.truncate(2**32)
    with pytest.raises(ModelFileError, match=r"sparse\.onnx: cannot be read: has 4294967296 bytes; at most"):
        open_model_file(path)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{b = " * 30_000,
        "a = " + "1" * 100_000,
        ".".join("a" * 100_000) + " = 1",
        '"a" . ' * 50_000 + "a = 1",
        "[" + "a." * 100_000 + "a]",
        "a = " + "[" * 17 + "]" * 17,
    ],
    ids=["arrays", "tables", "digits", "keys", "quoted keys", "header", "one too many"],
)
def test_toml_that_no_recipe_needs(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested more than 16 deep|Exceeds the limit"):
        parse_toml(text)


def test_toml_within_the_bounds() -> None:
    """Brackets and dots in strings and comments are no nesting."""
    text = f'a = \'{"[" * 50}\' # {"[" * 50}\nb = """{"a." * 50}\\"{"{" * 50}"""\nc.d = [[1], {{e = 2}}]'
    table = parse_toml(text)
    assert table["a"] == "[" * 50
    assert table["b"] == "a." * 50 + '"' + "{" * 50
    assert table["c"] == {"d": [[1], {"e": 2}]}
    assert parse_toml("a = " + "[" * 16 + "]" * 16)


def test_json_that_is_nested_too_deep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json("[" * 100_000)
    (tmp_path / "folds.json").write_text("[" * 100_000)
    with pytest.raises(AgelensError, match=r"folds\.json: cannot be read: it is nested too deep"):
        read_record(tmp_path)


def test_a_geometry_of_a_huge_number(tmp_path: Path, monkeypatch) -> None:
    pd = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    points = [[0.5, 0.5]] * 5
    for size in (10**400, 1e400, 112.5, True, "112", [112], 2000):
        Path("geometry.json").write_text(json.dumps({"name": "x", "size": size, "template": points}))
        with pytest.raises(AgelensError, match=r"geometry\.json: is not a crop geometry"):
            crop_geometry(pd.DataFrame({"path": ["a.png"]}))


def arrays_file(path: Path, content: bytes) -> Path:
    """Write an .npz file with one array ``a``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stored:
        stored.writestr("a.npy", content)
    return path


def header(shape: str, kind: str = "'|u1'") -> bytes:
    out = io.BytesIO()
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    out.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return out.getvalue()


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {
        "floats": rng.random((3, 4)),
        "columns": np.asfortranarray(rng.random((3, 4)).astype(np.float32)),
        "names": np.array(["a", "bcd"]),
        "none": np.empty((0, 3)),
        "scalar": np.array(5),
    }
    np.savez_compressed(tmp_path / "a.npz", **given)
    read = read_arrays(tmp_path / "a.npz")
    assert read.keys() == given.keys()
    for name, array in given.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    assert list(read_arrays(tmp_path / "a.npz", ("names",))) == ["names"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header("(300000,)") + bytes(300_000), "expands to 300128 bytes; at most 1"),
        (header("(1000000000000,)") + bytes(10), "an array"),
        (header("(-2, -5)") + bytes(10), "negative"),
        (header("(10,)") + bytes(9), "an array|buffer"),
        (header("(1,)", "'|O'") + bytes(10), "objects"),
        (header("(1,)", "[" * 500 + "]" * 500), "damaged|header|nested|dtype"),
        (b"\x93NUMPY\x09\x00", "format"),
        (b"", "EOF|magic|damaged"),
    ],
    ids=["bomb", "huge", "negative", "short", "objects", "nested", "version", "empty"],
)
def test_arrays_that_ask_for_too_much(monkeypatch, tmp_path: Path, content: bytes, told: str) -> None:
    monkeypatch.setattr(stored_arrays, "_ALWAYS", 100_000)
    monkeypatch.setattr(stored_arrays, "_EXPANSION", 10)
    with pytest.raises(ValueError, match=told):
        read_arrays(arrays_file(tmp_path / "a.npz", content))


def test_arrays_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it holds no b"):
        read_arrays(arrays_file(tmp_path / "a.npz", header("(1,)") + b"1"), ("b",))


def test_a_limit_takes_no_memory_that_the_file_does_not_need(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(b"x" * 3_000_000)
    tracemalloc.start()
    try:
        assert read_bytes(path, 2**31) == b"x" * 3_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert read_at_most(io.BytesIO(b"abcdef"), 4) == b"abcd"
