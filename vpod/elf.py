"""ELF programs for the bare machine: 64-bit, little-endian, RISC-V, linked to fixed addresses.

`parse` reads a file that may be hostile: every offset and count is checked against the file before it is used, the time
is linear in the file's size, and what is kept is bounded by it. It allocates nothing by a size that the file merely
claims: how much memory a segment takes is checked by `load` against the RAM that there is. Segments go to their
*physical* addresses (`p_paddr`), as a boot loader places them. Facts are from the System V ABI, chapters "Object Files"
and "Program Loading", and from the RISC-V ELF psABI.

    >>> parse(b"#!/bin/sh\\n")
    Traceback (most recent call last):
    ...
    vpod.errors.ProgramError: not an ELF file: it begins with 23 21 2f 62
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from vpod.errors import ProgramError

MAGIC = b"\x7fELF"
CLASS_64, LITTLE_ENDIAN = 2, 1
TYPE_EXECUTABLE = 2
MACHINE_RISCV = 243
FLAG_RVE = 8  # e_flags: only 16 integer registers
SEGMENT_LOAD, SEGMENT_INTERPRETER = 1, 3
SECTION_SYMBOLS = 2
SYMBOL_SECTION, SYMBOL_FILE = 3, 4  # types of symbols that name no place in the program
BINDING_LOCAL = 0

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")

MAX_NAMES = 64 << 20  # bytes of all symbol names together; names may overlap in the file, so it alone sets no bound


@dataclass(frozen=True)
class Segment:
    """`data` goes to the physical `address`; the rest of `size` bytes of memory from there is zero."""

    address: int
    size: int
    data: memoryview


@dataclass(frozen=True)
class Program:
    """A parsed file: where it starts, what it loads (ordered by address, none overlapping), and its symbols' values."""

    entry: int
    segments: tuple[Segment, ...]
    symbols: dict[str, int]

    def load(self, write: Callable[[int, memoryview], None], base: int, size: int) -> None:
        """Stores the segments by `write(address, data)` into RAM of `size` zero bytes from `base` on.

        Raises ProgramError, with nothing written, when a segment or the entry lies outside that RAM.
        """
        end = base + size
        for segment in self.segments:
            if segment.address < base or segment.address + segment.size > end:
                raise ProgramError(
                    f"a segment needs {segment.address:#x} to {segment.address + segment.size:#x}, RAM is {base:#x} to "
                    f"{end:#x}; link the program for {base:#x}, or give it more memory"
                )
        if not base <= self.entry < end or self.entry % 2:
            raise ProgramError(f"the entry {self.entry:#x} is no even address in RAM, which is {base:#x} to {end:#x}")
        for segment in self.segments:
            write(segment.address, segment.data)


def parse(data: bytes) -> Program:
    """The program in `data`, a whole ELF file. Raises ProgramError when it is damaged or not for this machine."""
    if data[:4] != MAGIC:
        raise ProgramError(f"not an ELF file: it begins with {data[:4].hex(' ') or 'nothing'}")
    if len(data) < HEADER.size:
        raise ProgramError(f"truncated: an ELF header has {HEADER.size} bytes, the file {len(data)}")
    view = memoryview(data)
    ident, kind, machine, _, entry, phoff, shoff, flags, _, phentsize, phnum, shentsize, shnum, _ = HEADER.unpack_from(
        view
    )
    _check_kind(ident, kind, machine, flags)
    segments = _segments(_table(view, "program header", phoff, phnum, phentsize, SEGMENT), view)
    if not segments:
        raise ProgramError("the file has no segment to load; link it into an executable")
    sections: list[tuple[int, ...]] = []
    if shoff:
        if not shnum:  # 0xff00 and more sections: section 0 says how many
            first = _slice(view, "section header", shoff, SECTION.size)
            shnum = SECTION.unpack(first)[5]
        sections = list(_table(view, "section header", shoff, shnum, shentsize, SECTION))
    return Program(entry, segments, _symbols(sections, view))


def _check_kind(ident: bytes, kind: int, machine: int, flags: int) -> None:
    if ident[4] != CLASS_64 or ident[5] != LITTLE_ENDIAN:
        raise ProgramError("not a 64-bit little-endian ELF file; build it for riscv64")
    if machine != MACHINE_RISCV:
        raise ProgramError(f"built for ELF machine {machine}, not RISC-V ({MACHINE_RISCV})")
    if flags & FLAG_RVE:
        raise ProgramError("built for RV64E, which has 16 registers; build it for rv64gc")
    if kind != TYPE_EXECUTABLE:
        raise ProgramError(f"ELF type {kind} is not an executable at fixed addresses; link it with -static -no-pie")


def _slice(view: memoryview, what: str, offset: int, size: int) -> memoryview:
    if offset + size > len(view):
        raise ProgramError(f"damaged: {what} at {offset:#x}, {size} bytes, reaches beyond the file's {len(view)}")
    return view[offset : offset + size]


def _table(
    view: memoryview, what: str, offset: int, count: int, entry_size: int, entry: struct.Struct
) -> Iterator[tuple[int, ...]]:
    if count and entry_size != entry.size:
        raise ProgramError(f"damaged: a {what} has {entry.size} bytes, the file says {entry_size}")
    return entry.iter_unpack(_slice(view, what, offset, count * entry.size))


def _segments(headers: Iterator[tuple[int, ...]], view: memoryview) -> tuple[Segment, ...]:
    segments = []
    for kind, _, offset, _, address, file_size, memory_size, _ in headers:
        if kind == SEGMENT_INTERPRETER:
            raise ProgramError("the program wants a dynamic linker; link it with -static -no-pie")
        if kind != SEGMENT_LOAD or not memory_size:
            continue
        if file_size > memory_size:
            raise ProgramError(
                f"damaged: the segment at {address:#x} has {file_size} bytes for {memory_size} of memory"
            )
        segments.append(Segment(address, memory_size, _slice(view, "a segment", offset, file_size)))
    segments.sort(key=lambda segment: segment.address)
    for below, above in pairwise(segments):
        if below.address + below.size > above.address:
            raise ProgramError(f"damaged: the segments at {below.address:#x} and {above.address:#x} overlap")
    return tuple(segments)


def _symbols(sections: list[tuple[int, ...]], view: memoryview) -> dict[str, int]:
    """The values of the defined symbols; of several with one name, a global one's."""
    symbols: dict[str, int] = {}
    names_left = MAX_NAMES
    # "Currently, an object file may have only one section of each type": of tables that overlap each other in the file,
    # thousands could be listed, and reading them all would take time quadratic in its size.
    if sum(section[1] == SECTION_SYMBOLS for section in sections) > 1:
        raise ProgramError("damaged: the file has several symbol tables; ELF allows one")
    for _, kind, _, _, offset, size, link, _, _, entry_size in sections:
        if kind != SECTION_SYMBOLS:
            continue
        if link >= len(sections):
            raise ProgramError(f"damaged: the symbols' names are in section {link} of {len(sections)}")
        names = bytes(_slice(view, "symbol names", sections[link][4], sections[link][5]))
        count, rest = divmod(size, SYMBOL.size)
        if rest:
            raise ProgramError(f"damaged: {size} bytes of symbols are not a multiple of {SYMBOL.size}")
        for name_at, info, _, section, value, _ in _table(view, "symbol", offset, count, entry_size, SYMBOL):
            if not name_at or not section or info & 15 in (SYMBOL_SECTION, SYMBOL_FILE):
                continue
            end = names.find(b"\0", name_at, name_at + names_left)
            if end < 0:
                raise ProgramError(f"damaged: a symbol's name at {name_at} of {len(names)} doesn't end")
            names_left -= end - name_at
            name = names[name_at:end].decode("utf-8", "replace")
            if info >> 4 != BINDING_LOCAL or name not in symbols:
                symbols[name] = value
    return symbols
