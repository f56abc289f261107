"""Read what is needed of a .tflite file without TensorFlow: operators, constant tensors and where they lie.

A .tflite file is one FlatBuffer (https://flatbuffers.dev/internals/): a table starts with a signed distance
back to its vtable, which lists for each field the distance from the table's start, 0 for a missing field.
Field numbers below are those of TensorFlow's ``schema.fbs``. The file may come from an untrusted place, so
every read is checked against its end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from shared.errors import BundleError

_CUSTOM = 32  # BuiltinOperator.CUSTOM: an operator that the runtime does not have built in
_MAX_ENTRIES = 1 << 20  # of any vector of tables; real files have thousands
FLOAT32, INT32, INT8 = 0, 2, 9  # TensorType


@dataclass(frozen=True)
class Operator:
    """One kind of operator that a file uses."""

    builtin: int  # number in BuiltinOperator
    custom: str  # name, empty for a builtin
    version: int


@dataclass(frozen=True)
class Constant:
    """A tensor whose values are in the file.

    ``offset`` and ``scale_offset`` are places in the file in bytes; ``scales`` is the number of f32 scales at
    the latter (0: not quantized); ``zero_point_offset`` is the place of the first zero point, 0 if there is none.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size_bytes: int
    scale_offset: int
    scales: int
    axis: int  # the quantized dimension
    zero_point_offset: int = 0


def operators(model: bytes) -> list[Operator]:
    """Return the operator kinds of a .tflite file; raises BundleError where it is not one."""
    result = []
    for table in _root(model).tables(1):
        custom = table.text(1)
        builtin = max(table.int8(0), table.int32(3))
        result.append(Operator(builtin, custom if builtin == _CUSTOM else "", table.int32(2, 1)))
    return result


def custom_operators(model: bytes) -> list[str]:
    """Return the names of operators that are not built into the runtime (Flex operators among them)."""
    return sorted(op.custom or "unnamed" for op in operators(model) if op.builtin == _CUSTOM)


def constants(model: bytes) -> list[Constant]:
    """Return every constant tensor of every subgraph; raises BundleError where the file is damaged."""
    root = _root(model)
    places = [table.vector(0, 1) for table in root.tables(4)]
    result = []
    for subgraph in root.tables(2):
        for tensor in subgraph.tables(0):
            index = tensor.int32(2)
            if not 0 <= index < len(places):
                raise _damaged(f"tensor buffer {index} of {len(places)}")
            start, count = places[index]
            if count:
                result.append(_constant(tensor, start, count))
    return result


def scale_places(model: bytes) -> list[tuple[int, int]]:
    """Return place in bytes and number of the f32 scales of every quantized tensor, whether constant or computed."""
    places = []
    for subgraph in _root(model).tables(2):
        for tensor in subgraph.tables(0):
            quantization = tensor.table(4)
            place, count = quantization.vector(2, 4) if quantization else (0, 0)
            if count:
                places.append((place, count))
    return places


def _constant(tensor: _Table, start: int, size_bytes: int) -> Constant:
    shape = tuple(tensor.ints(0))
    scale_offset, scales, axis, zero_point_offset = 0, 0, 0, 0
    if quantization := tensor.table(4):
        scale_offset, scales = quantization.vector(2, 4)
        axis = quantization.int32(6)
        zero_point_offset = quantization.vector(3, 8)[0]
    return Constant(
        tensor.text(3), shape, tensor.int8(1), start, size_bytes, scale_offset, scales, axis, zero_point_offset
    )


def _root(model: bytes) -> _Table:
    if model[4:8] != b"TFL3":
        raise BundleError(
            "bundle-not-tflite",
            f"not a TFLite file: bytes 4 to 8 are {model[4:8]!r}, expected b'TFL3'",
            "convert again",
        )
    return _Table(model, _u32(model, 0))


def _damaged(what: str) -> BundleError:
    return BundleError("bundle-damaged-tflite", f"damaged TFLite file: {what}", "fetch or convert the bundle again")


def _unpack(data: bytes, layout: struct.Struct, place: int) -> int:
    if not 0 <= place <= len(data) - layout.size:
        raise _damaged(f"reference to byte {place} of {len(data)}")
    return int(layout.unpack_from(data, place)[0])


_I8, _U16, _I32, _U32 = (struct.Struct(code) for code in ("<b", "<H", "<i", "<I"))


def _u32(data: bytes, place: int) -> int:
    return _unpack(data, _U32, place)


class _Table:
    """One FlatBuffer table: typed access to its fields by number."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        self._vtable = place - _unpack(data, _I32, place)
        self._fields = (_unpack(data, _U16, self._vtable) - 4) // 2

    def _field(self, number: int) -> int:
        if number >= self._fields:
            return 0
        distance = _unpack(self._data, _U16, self._vtable + 4 + 2 * number)
        return self._place + distance if distance else 0

    def _target(self, number: int) -> int:
        place = self._field(number)
        return place + _u32(self._data, place) if place else 0

    def int8(self, number: int) -> int:
        place = self._field(number)
        return _unpack(self._data, _I8, place) if place else 0

    def int32(self, number: int, default: int = 0) -> int:
        place = self._field(number)
        return _unpack(self._data, _I32, place) if place else default

    def table(self, number: int) -> _Table | None:
        place = self._target(number)
        return _Table(self._data, place) if place else None

    def vector(self, number: int, item_bytes: int) -> tuple[int, int]:
        """Return the place of a vector's first item and the number of items (0, 0 if it is missing)."""
        place = self._target(number)
        if not place:
            return 0, 0
        count = _u32(self._data, place)
        if place + 4 + count * item_bytes > len(self._data):
            raise _damaged(f"{count} items at byte {place} end after the file")
        return place + 4, count

    def tables(self, number: int) -> list[_Table]:
        start, count = self.vector(number, 4)
        if count > _MAX_ENTRIES:
            raise _damaged(f"{count} entries in one list, at most {_MAX_ENTRIES} expected")
        places = range(start, start + 4 * count, 4)
        return [_Table(self._data, place + _u32(self._data, place)) for place in places]

    def ints(self, number: int) -> list[int]:
        start, count = self.vector(number, 4)
        return [_unpack(self._data, _I32, start + 4 * i) for i in range(count)]

    def text(self, number: int) -> str:
        start, count = self.vector(number, 1)
        return self._data[start : start + count].decode("utf-8", "replace")
