"""Arrays in .npz files, read without unpickling and without more memory than such a file may ask for."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from agelens.reading import TABLE_BYTES, open_regular

__all__ = ["read_arrays"]

_EXPANSION = 100  # times its own size that a file may expand to
_ALWAYS = 2**28  # bytes that every file may expand to
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_DAMAGE = (
    *(EOFError, KeyError, MemoryError, NotImplementedError, OverflowError, RuntimeError, SyntaxError),
    *(TypeError, UnicodeDecodeError, struct.error, zipfile.BadZipFile, zlib.error),
)


def read_arrays(path: str | Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read arrays of an .npz file.

    Args:
        path: The file.
        names: Those to read, all of which must be there; None: whatever it holds.
    Returns:
        The arrays by name.
    Raises:
        OSError: The file is missing, no regular file, or too large.
        ValueError: It is damaged, lacks an array, has one that must be unpickled, or expands to more than 256
            MiB and more than 100 times its size.
    """
    with open_regular(path, TABLE_BYTES) as handle:
        most = max(_ALWAYS, _EXPANSION * handle.seek(0, 2))
        try:
            with zipfile.ZipFile(handle) as stored:
                held = [name.removesuffix(".npy") for name in stored.namelist() if name.endswith(".npy")]
                wanted = held if names is None else names
                if missing := [name for name in wanted if name not in held]:
                    raise ValueError(f"it holds no {missing[0]}")
                entries = [stored.getinfo(f"{name}.npy") for name in wanted]
                if not {entry.compress_type for entry in entries} <= _COMPRESSIONS:
                    raise ValueError("it is compressed in another way than NumPy does")
                if (size := sum(entry.file_size for entry in entries)) > most:
                    raise ValueError(f"it expands to {size} bytes; at most {most} are read")
                arrays = {}
                for name, entry in zip(wanted, entries, strict=True):
                    with stored.open(entry) as content:
                        arrays[name] = _array(content, entry.file_size)
                return arrays
        except _DAMAGE as error:
            raise ValueError(f"it is damaged: {error or type(error).__name__}") from error


def _array(content: IO[bytes], size: int) -> NDArray[Any]:
    """Read an array whose header asks for no more memory than its file has bytes."""
    version = np.lib.format.read_magic(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"it is damaged: an array of the format {version}")
    shape, in_columns, kind = read_header(content)
    if kind.hasobject:
        raise ValueError("it is damaged: an array of objects")
    count = 1
    for side in shape:
        count *= side
    if not 0 <= count * kind.itemsize <= size:
        raise ValueError(f"it is damaged: an array {shape} in {size} bytes")
    data = bytearray(content.read(count * kind.itemsize))
    return np.ndarray(shape, kind, data, order="F" if in_columns else "C")
