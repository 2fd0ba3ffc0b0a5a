"""Makes small RISC-V ELF files from instruction words: tests of the loader and the bare runner need no compiler.

make_elf(assemble(("addi", dict(rd="a0", rs1=0, imm=1)), ...), symbols={"tohost": 0x8000_1000}, size=0x2000)
"""

from __future__ import annotations

from vpod import disasm, elf, isa

BASE = 0x8000_0000


def assemble(*program: tuple[str, dict[str, int | str]]) -> bytes:
    """The machine code of (name, operands) pairs, as `vpod.disasm.encode` takes them."""
    words = ((isa.BY_NAME[name].length, disasm.encode(name, **operands)) for name, operands in program)
    return b"".join(word.to_bytes(length, "little") for length, word in words)


def make_elf(
    code: bytes,
    *,
    symbols: dict[str, int] | None = None,
    entry: int = BASE,
    address: int = BASE,
    size: int | None = None,
    segments: list[tuple[int, ...]] | None = None,
    kind: int = elf.TYPE_EXECUTABLE,
    machine: int = elf.MACHINE_RISCV,
    flags: int = 5,
    ident: bytes = b"\x7fELF\x02\x01\x01" + bytes(9),
) -> bytes:
    """One segment with `code` at `address` (of `size` bytes of memory), and a symbol table.

    `segments` replaces the one program header: tuples of type, flags, offset, vaddr, paddr, filesz, memsz, align.
    """
    code_at = elf.HEADER.size + elf.SEGMENT.size * (1 if segments is None else len(segments))
    if segments is None:
        segments = [(elf.SEGMENT_LOAD, 7, code_at, address, address, len(code), size or len(code), 4096)]
    names, table = b"\0", elf.SYMBOL.pack(0, 0, 0, 0, 0, 0)
    for name, value in (symbols or {}).items():
        table += elf.SYMBOL.pack(len(names), 0x11, 0, 1, value, 8)  # global objects; QEMU wants tohost's size
        names += name.encode() + b"\0"
    table_at = code_at + len(code)
    names_at = table_at + len(table)
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (0, elf.SECTION_SYMBOLS, 0, 0, table_at, len(table), 2, 1, 8, elf.SYMBOL.size),
        (0, 3, 0, 0, names_at, len(names), 0, 0, 1, 0),
    ]
    header = elf.HEADER.pack(
        ident, kind, machine, 1, entry, elf.HEADER.size, names_at + len(names), flags, elf.HEADER.size,
        elf.SEGMENT.size, len(segments), elf.SECTION.size, len(sections), 0,
    )  # fmt: skip
    headers = b"".join(elf.SEGMENT.pack(*segment) for segment in segments)
    return header + headers + code + table + names + b"".join(elf.SECTION.pack(*section) for section in sections)
