"""The ELF loader: what it takes from a good file, and that it refuses each kind of bad one."""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from elf_maker import BASE, make_elf

from vpod import elf
from vpod.errors import ProgramError, VpodError

CODE = bytes(range(16))
LOAD = elf.SEGMENT_LOAD


def patched(data: bytes, offset: int, value: int, size: int) -> bytes:
    return data[:offset] + value.to_bytes(size, "little") + data[offset + size :]


class Ram:
    """RAM that remembers what was stored, and refuses what the loader must not store."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def write(self, address: int, data: memoryview) -> None:
        assert address >= BASE and address + len(data) <= BASE + len(self.data)
        self.data[address - BASE : address - BASE + len(data)] = data


def test_a_good_file() -> None:
    program = elf.parse(make_elf(CODE, symbols={"tohost": BASE + 0x1000, "main": BASE}, size=0x2000, entry=BASE + 4))
    assert program.entry == BASE + 4
    assert program.symbols == {"tohost": BASE + 0x1000, "main": BASE}
    (segment,) = program.segments
    assert (segment.address, segment.size, bytes(segment.data)) == (BASE, 0x2000, CODE)
    ram = Ram(0x2000)
    program.load(ram.write, BASE, 0x2000)
    assert ram.data == CODE + bytes(0x2000 - len(CODE))


def test_a_file_without_sections_has_no_symbols() -> None:
    stripped = patched(make_elf(CODE), 0x28, 0, 8)
    assert elf.parse(stripped).symbols == {}


def test_physical_addresses_count() -> None:
    offset = elf.HEADER.size + elf.SEGMENT.size
    program = elf.parse(make_elf(CODE, segments=[(LOAD, 5, offset, 0xFFFF_FFFF_8000_0000, BASE, 16, 16, 4096)]))
    assert program.segments[0].address == BASE


def test_a_global_symbol_wins_over_local_ones() -> None:
    data = make_elf(CODE, symbols={"a": 1, "b": 2, "c": 3})
    table = data.index(elf.SYMBOL.pack(1, 0x11, 0, 1, 1, 8))
    same_name = patched(patched(data, table + 24, 1, 4), table + 48, 1, 4)
    local_last = patched(same_name, table + 48 + 4, 0x01, 1)
    assert elf.parse(local_last).symbols == {"a": 2}


@pytest.mark.skipif(not shutil.which("riscv64-linux-gnu-gcc"), reason="needs riscv64-linux-gnu-gcc and its nm")
def test_symbols_are_those_of_nm(tmp_path: Path) -> None:
    program = tmp_path / "program"
    source = Path(__file__).parent / "programs" / "signature.S"
    script = source.with_name("link.ld")
    link = [
        "riscv64-linux-gnu-gcc",
        "-nostdlib",
        "-static",
        "-T",
        str(script),
        "-Wl,--build-id=none",
        str(source),
        "-o",
        str(program),
    ]
    subprocess.run(link, check=True, capture_output=True)
    listing = subprocess.run(["riscv64-linux-gnu-nm", program], check=True, capture_output=True, text=True).stdout
    nm = {name: int(value, 16) for value, _, name in map(str.split, listing.splitlines())}
    ours = elf.parse(program.read_bytes())
    assert {name: value for name, value in ours.symbols.items() if not name.startswith("$")} == {
        name: value for name, value in nm.items() if not name.startswith("$")
    }
    assert nm["_start"] == ours.entry


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ident": b"\x7fELF\x01\x01\x01" + bytes(9)}, "not a 64-bit"),
        ({"ident": b"\x7fELF\x02\x02\x01" + bytes(9)}, "little-endian"),
        ({"machine": 62}, "machine 62, not RISC-V"),
        ({"kind": 3}, "-no-pie"),
        ({"flags": 8}, "RV64E"),
        ({"segments": []}, "no segment to load"),
        ({"segments": [(3, 4, 64, 0, 0, 4, 4, 1)]}, "dynamic linker"),
        ({"segments": [(LOAD, 5, 0, BASE, BASE, 17, 16, 1)]}, "17 bytes for 16"),
        ({"segments": [(LOAD, 5, 1 << 40, BASE, BASE, 16, 16, 1)]}, "beyond the file"),
        ({"segments": [(LOAD, 5, 0, BASE, BASE, 16, 4097, 1), (LOAD, 5, 0, 0, BASE + 4096, 16, 16, 1)]}, "overlap"),
    ],
)
def test_files_for_other_machines_and_damaged_ones(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProgramError, match=complaint):
        elf.parse(make_elf(CODE, **options))


@pytest.mark.parametrize(
    ("offset", "value", "size", "complaint"),
    [
        (0x36, 55, 2, "program header has 56 bytes, the file says 55"),
        (0x38, 0xFFFF, 2, "program header at 0x40, .* beyond the file"),
        (0x20, (1 << 64) - 1, 8, "program header .* beyond the file"),
        (0x28, (1 << 64) - 8, 8, "section header .* beyond the file"),
        (0x3C, 0xFFFF, 2, "section header .* beyond the file"),
        (0x3A, 1, 2, "section header has 64 bytes"),
    ],
)
def test_damaged_headers(offset: int, value: int, size: int, complaint: str) -> None:
    with pytest.raises(ProgramError, match=complaint):
        elf.parse(patched(make_elf(CODE, symbols={"a": 1}), offset, value, size))


def section(data: bytes, number: int) -> int:
    return int(struct.unpack_from("<Q", data, 0x28)[0]) + number * elf.SECTION.size


@pytest.mark.parametrize(
    ("number", "field", "value", "complaint"),
    [
        (1, 40, 3, "names are in section 3 of 3"),
        (1, 32, 47, "not a multiple of 24"),
        (1, 32, 24 << 30, "symbol at .* beyond the file"),
        (1, 56, 16, "symbol has 24 bytes"),
        (2, 24, 1 << 60, "symbol names at .* beyond the file"),
        (2, 32, 2, "name at 1 of 2 doesn't end"),
    ],
)
def test_damaged_symbols(number: int, field: int, value: int, complaint: str) -> None:
    data = make_elf(CODE, symbols={"abc": 1})
    size = 4 if field == 40 else 8
    with pytest.raises(ProgramError, match=complaint):
        elf.parse(patched(data, section(data, number) + field, value, size))


def test_overlapping_symbol_names_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "MAX_NAMES", 1000)
    data = make_elf(CODE, symbols={"x" * 400: 1, "y" * 400: 2})
    assert len(elf.parse(data).symbols) == 2
    with pytest.raises(ProgramError, match="doesn't end"):
        elf.parse(make_elf(CODE, symbols={name * 400: 1 for name in "xyz"}))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"address": BASE - 4096}, "link the program for 0x80000000"),
        ({"size": 0x1001}, "needs 0x80000000 to 0x80001001"),
        ({"size": (1 << 64) - 1}, "give it more memory"),
        ({"address": (1 << 64) - 8}, "needs 0xfffffffffffffff8"),
        ({"entry": BASE + 0x1000}, "entry 0x80001000"),
        ({"entry": BASE + 1}, "no even address"),
    ],
)
def test_programs_that_do_not_fit_the_memory(options: dict[str, Any], complaint: str) -> None:
    ram = Ram(0x1000)
    with pytest.raises(ProgramError, match=complaint):
        elf.parse(make_elf(CODE, **options)).load(ram.write, BASE, 0x1000)
    assert not any(ram.data)


def test_every_truncation_is_refused_or_harmless() -> None:
    data = make_elf(CODE, symbols={"tohost": BASE})
    for length in range(len(data)):
        with pytest.raises(ProgramError):
            elf.parse(data[:length])


def test_random_damage_raises_nothing_else() -> None:
    good = make_elf(CODE, symbols={"tohost": BASE, "fromhost": BASE + 8})
    source = random.Random(7)
    started = time.monotonic()
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(source.randrange(1, 5)):
            data[source.randrange(len(data))] = source.choice((0, 1, 0x7F, 0xFF, source.randrange(256)))
        with contextlib.suppress(ProgramError):
            elf.parse(bytes(data)).load(Ram(0x4000).write, BASE, 0x4000)
    assert time.monotonic() - started < 30


def test_the_error_is_vpods_and_a_value_error() -> None:
    with pytest.raises(VpodError):
        elf.parse(b"")
    with pytest.raises(ValueError, match="not an ELF file: it begins with nothing"):
        elf.parse(b"")
