"""ONNX files read in pieces: what one says of itself, past its weights; or all of it, while others get turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

_GRAPH, _METADATA = 7, 14
"""Fields of `ModelProto` (onnx.proto)."""
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
"""Fields of `GraphProto`."""
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
"""Wire types (protobuf's encoding)."""


@dataclass(frozen=True)
class OnnxHeader:
    """All that is not arithmetic."""

    metadata_props: dict[str, str]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]


@dataclass(frozen=True)
class _Field:
    number: int
    begin: int
    """Where its tag stands."""
    value: int
    """Where its value begins, and the file stands."""
    end: int

    def read_value(self, file: BinaryIO) -> bytes:
        return file.read(self.end - self.value)

    def read_whole(self, file: BinaryIO) -> bytes:
        file.seek(self.begin)
        return file.read(self.end - self.begin)


def read_onnx_header(path: Path) -> OnnxHeader:
    """Takes the time of a few reads, whatever the size of the weights. Raises ValueError where it is no ONNX file."""
    header = OnnxHeader({}, [], [])
    with _opened(path) as file:
        for field in _fields(file, path.stat().st_size):
            if field.number == _METADATA:
                entry = onnx.StringStringEntryProto.FromString(field.read_value(file))
                header.metadata_props[entry.key] = entry.value
            elif field.number == _GRAPH:
                for inner in _fields(file, field.end):
                    if inner.number in (_INPUT, _OUTPUT):
                        value = onnx.ValueInfoProto.FromString(inner.read_value(file))
                        (header.inputs if inner.number == _INPUT else header.outputs).append(value)
    return header


def load_in_pieces(path: Path) -> onnx.ModelProto:
    """What `onnx.load_model` gives; each weight is read by itself, so that other Python threads do not wait for all.

    Raises ValueError where it is no ONNX file.
    """
    model, about_model, about_graph = onnx.ModelProto(), bytearray(), bytearray()
    with _opened(path) as file:
        for field in _fields(file, path.stat().st_size):
            if field.number != _GRAPH:
                about_model += field.read_whole(file)
                continue
            for inner in _fields(file, field.end):
                if inner.number == _INITIALIZER:
                    model.graph.initializer.add().ParseFromString(inner.read_value(file))
                else:
                    about_graph += inner.read_whole(file)
        model.MergeFromString(bytes(about_model))
        model.graph.MergeFromString(bytes(about_graph))
        if any(uses_external_data(tensor) for tensor in model.graph.initializer):
            load_external_data_for_model(model, str(path.parent))
    return model


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ValueError(f"{path.name} is no ONNX file: truncated or foreign") from error


def _fields(file: BinaryIO, stop: int) -> Iterator[_Field]:
    """The fields of a message that begins where the file stands; what is not read is passed over."""
    begin = file.tell()
    while begin < stop:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _varint(file)
            value = end = file.tell()
        elif kind in (_BYTES, _FIXED_64, _FIXED_32):
            size = _varint(file) if kind == _BYTES else 8 if kind == _FIXED_64 else 4
            value = file.tell()
            end = value + size
        else:
            raise ValueError("no such kind of field")
        if end > stop:
            raise ValueError("a field is longer than what holds it")
        yield _Field(number, begin, value, end)
        file.seek(end)
        begin = end


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
