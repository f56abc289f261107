"""Where the programs and libraries of this process keep the addresses of the C library's functions that they call.

ELF's dynamic section leads to the relocations (System V ABI, chapter 5; the types are of x86-64's and AArch64's
supplements): the linker wrote the address of a named function into each place that is listed here.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_DYNAMIC: Final = 2  # type of a program header
_STRTAB, _SYMTAB, _RELA, _RELASZ, _PLTRELSZ, _JMPREL = 5, 6, 7, 8, 2, 23  # tags of the dynamic section
_ADDRESSES: Final = frozenset({1, 6, 7, 257, 1025, 1026})  # relocations that become a function's address
_OWN: Final = ("libc.so", "ld-linux", "linux-vdso", "libpthread.so")  # what these call, they call directly
_RELA_BYTES, _SYMBOL_BYTES = 24, 24


class _Loaded(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("count", ctypes.c_uint16),
    )


@contextmanager
def replaced(functions: dict[str, int]) -> Iterator[None]:
    """Let everything in this process but the C library call these addresses instead of the functions of that name."""
    undo = [(place, _exchange(place, functions[name])) for name, place in _places(frozenset(functions))]
    try:
        yield
    finally:
        for place, before in undo:
            _exchange(place, before)


def _places(names: frozenset[str]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []

    def look(loaded: ctypes._Pointer[_Loaded], _size: int, _data: object) -> int:
        part = loaded.contents
        if not any(own in (part.name or b"").decode() for own in _OWN):
            found.extend(_in_part(part, names))
        return 0

    iterate: Callable[..., int] = ctypes.CDLL(None).dl_iterate_phdr
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    iterate(kind(look), None)
    return found


def _in_part(part: _Loaded, names: frozenset[str]) -> Iterator[tuple[str, int]]:
    tags: dict[int, int] = {}
    for number in range(part.count):
        kind, _, _, virtual, _, _, size, _ = struct.unpack(
            "<IIQQQQQQ", ctypes.string_at(part.headers + 56 * number, 56)
        )
        if kind == _DYNAMIC:
            tags = dict(struct.iter_unpack("<qQ", ctypes.string_at(part.address + virtual, size)))
    for start, size in ((_RELA, _RELASZ), (_JMPREL, _PLTRELSZ)):
        if start not in tags:
            continue
        table = ctypes.string_at(_absolute(part, tags[start]), tags[size])
        for offset, about, _ in struct.iter_unpack("<QQq", table):
            if about & 0xFFFFFFFF in _ADDRESSES and (symbol := about >> 32):
                entry = _absolute(part, tags[_SYMTAB]) + _SYMBOL_BYTES * symbol
                text = int.from_bytes(ctypes.string_at(entry, 4), "little")
                name = ctypes.string_at(_absolute(part, tags[_STRTAB]) + text).decode()
                if name in names:
                    yield name, part.address + offset


def _absolute(part: _Loaded, address: int) -> int:
    return address if address >= part.address else part.address + address  # the linker has added it to most


def _exchange(place: int, address: int) -> int:
    page = place & -mmap.PAGESIZE
    protect: Callable[..., int] = ctypes.CDLL(None, use_errno=True).mprotect
    if protect(ctypes.c_void_p(page), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):  # read-only since it was linked
        raise OSError(ctypes.get_errno(), "mprotect")
    cell = ctypes.c_uint64.from_address(place)
    before, cell.value = cell.value, address
    return before
