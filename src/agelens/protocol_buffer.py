"""The encoding of protocol buffers, as far as reading and rewriting an ONNX file needs it.

ONNX files are read without the package ``onnx``, which the light half does not need. Field numbers are those
of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

__all__ = ["encoded", "fields", "has_external_data", "varint"]

Buffer = TypeVar("Buffer", bytes, memoryview)


def fields(message: Buffer) -> Iterator[tuple[int, Buffer, Buffer]]:
    """Iterate over the fields of a message.

    Yields:
        Number, whole encoding, and content: of a length-delimited field its bytes, of a whole number its
        encoding, else nothing.
    Raises:
        ValueError: Not a protocol buffer.
    """
    start = 0
    while start < len(message):
        key, position = _read_varint(message, start)
        content = message[:0]
        match key & 7:
            case 0:
                beginning = position
                _, position = _read_varint(message, position)
                content = message[beginning:position]
            case 1:
                position += 8
            case 2:
                length, position = _read_varint(message, position)
                content = message[position : position + length]
                position += length
            case 5:
                position += 4
            case _:
                raise ValueError("not a protocol buffer")
        if position > len(message):
            raise ValueError("not a whole protocol buffer")
        yield key >> 3, message[start:position], content
        start = position


def _read_varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message):
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:  # ten bytes at most
            break
    raise ValueError("not a whole protocol buffer")


def varint(value: int) -> bytes:
    """Encode a whole number."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encoded(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


# What the messages of an ONNX file hold of other messages, down to tensors.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


def has_external_data(model: bytes) -> bool:
    """Tell whether an ONNX model keeps any of its tensors in another file.

    Raises:
        ValueError: Not a protocol buffer.
    """
    waiting = [("model", memoryview(model))]
    while waiting:
        kind, message = waiting.pop()
        for number, _, content in fields(message):
            if kind == "tensor":
                named = number == _TENSOR_EXTERNAL_DATA
                if named or (number == _TENSOR_DATA_LOCATION and any(byte & 127 for byte in content)):
                    return True
            elif (part := _PARTS[kind].get(number)) is not None:
                waiting.append((part, content))
    return False
