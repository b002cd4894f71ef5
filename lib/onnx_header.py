"""What an ONNX file says of itself: metadata, inputs and outputs, read past its nodes and weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx

_GRAPH, _METADATA = 7, 14
"""Fields of `ModelProto` (onnx.proto)."""
_INPUT, _OUTPUT = 11, 12
"""Fields of `GraphProto`."""
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
"""Wire types (protobuf's encoding)."""


@dataclass(frozen=True)
class OnnxHeader:
    """All that is not arithmetic."""

    metadata_props: dict[str, str]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]


def read_onnx_header(path: Path) -> OnnxHeader:
    """Takes the time of a few reads, whatever the size of the weights. Raises ValueError where it is no ONNX file."""
    header = OnnxHeader({}, [], [])
    try:
        with path.open("rb") as file:
            for number, size in _fields(file, path.stat().st_size):
                if number == _METADATA:
                    entry = onnx.StringStringEntryProto.FromString(file.read(size))
                    header.metadata_props[entry.key] = entry.value
                elif number == _GRAPH:
                    _read_graph(file, file.tell() + size, header)
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ValueError(f"{path.name} is no ONNX file: truncated or foreign") from error
    return header


def _read_graph(file: BinaryIO, stop: int, header: OnnxHeader) -> None:
    for number, size in _fields(file, stop):
        if number in (_INPUT, _OUTPUT):
            value = onnx.ValueInfoProto.FromString(file.read(size))
            (header.inputs if number == _INPUT else header.outputs).append(value)


def _fields(file: BinaryIO, stop: int) -> Iterator[tuple[int, int]]:
    """(number, size) of each field with bytes, the file standing at its beginning; what is not read is passed over."""
    while file.tell() < stop:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size = _varint(file)
            end = file.tell() + size
            if end > stop:
                raise ValueError("a field is longer than what holds it")
            yield number, size
            file.seek(end)
        elif kind == _VARINT:
            _varint(file)
        elif kind in (_FIXED_64, _FIXED_32):
            file.seek(8 if kind == _FIXED_64 else 4, 1)
        else:
            raise ValueError("no such kind of field")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("the file ends in the middle of a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
