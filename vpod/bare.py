"""The bare runner: one ELF program on an empty machine, the way RISC-V test suites run.

    python -m vpod.bare PROGRAM [--signature FILE] [--max-instructions N] [--memory SIZE]

The machine is a hart in M-mode at the program's entry (a0 = 0, the hart's number; a1 = 0, no device tree), RAM at
0x8000_0000, and a CLINT at 0x0200_0000. The program talks to the host by HTIF, the host-target interface of Spike: it
stores a 64-bit word at its symbol `tohost`, the host clears the word, acts, and may answer at `fromhost`.

| device | command | the low 48 bits of `tohost` |
|---|---|---|
| 0 | 0 | with bit 0 set the program ends, and the rest is its exit code: `tohost = code << 1 or 1` |
| 0 | 0 | else a system call: the address of eight doublewords, number and arguments |
| 1 | 1 | a character for the console |
| 1 | 0 | a character is wanted; none ever comes |

The device is in bits 63:56, the command in bits 55:48. The result of a system call goes to its first doubleword, and
then 1 to `fromhost`. 64 is write(fd 1 or 2, address, length), 93 is exit(code); all others give -ENOSYS.

Exit codes: 0 passed; 1 to 255 the program's own (255 stands for every larger one); 2 usage; 124 the program did not
end: it used up --max-instructions, or waits for an interrupt that can't come; 125 vpod could not run it; 130
interrupted. What happened is said on standard error, so that a program's own 124 can be told from ours. The signature
is the memory from `begin_signature` to `end_signature`, one 32-bit word a line in hexadecimal, written when the program
ends by itself.

Invariants: what the program asks the host for is checked against RAM first and bounded by its size; the program's
output goes to standard output and error as it is, nothing else of the host can be reached.
"""

from __future__ import annotations

import argparse
import errno
import re
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vpod._cpu import EXIT_WFI, Cpu
from vpod.bus import RAM_BASE, Bus
from vpod.devices.clint import Clint
from vpod.elf import Program, parse
from vpod.errors import ProgramError

CLINT_BASE = 0x0200_0000
MAX_FILE = 1 << 30
MIN_MEMORY, MAX_MEMORY, DEFAULT_MEMORY = 4096, 4 << 30, 128 << 20
PATIENCE_NS = 3600 * 10**9  # a timer that is further away never comes

DEVICE_SYSCALL, DEVICE_CONSOLE = 0, 1
COMMAND_SYSCALL = 0
COMMAND_GETCHAR, COMMAND_PUTCHAR = 0, 1
SYS_WRITE, SYS_EXIT = 64, 93
U64 = (1 << 64) - 1

EXIT_UNFINISHED, EXIT_FAILED, EXIT_INTERRUPTED = 124, 125, 130

SLICE_MIN, SLICE_MAX = 1_000, 100_000  # instructions between two looks at tohost; short while the program talks


class Memory(Protocol):
    """The part of `vpod._cpu.Cpu` that HTIF needs: RAM by physical address, ValueError outside it."""

    def read(self, address: int, length: int) -> bytes: ...
    def write(self, address: int, data: bytes) -> None: ...


class Htif:
    """The host's side of the host-target interface, for the program whose `tohost` and `fromhost` are given."""

    def __init__(self, memory: Memory, tohost: int, fromhost: int | None, output: Callable[[int, bytes], None]) -> None:
        """`output(fd, data)` takes what the program writes; fd is 1 or 2."""
        self._memory = memory
        self._tohost = tohost
        self._fromhost = fromhost
        self._output = output
        self.exit_code: int | None = None
        if tohost % 8 or (fromhost or 0) % 8:
            raise ProgramError(f"tohost and fromhost must be aligned to 8 bytes; tohost is at {tohost:#x}")
        self._load(tohost, "tohost")

    def poll(self) -> bool:
        """Does what the program asks at the moment, if anything; whether it asked. Sets `exit_code` when it ended.

        Raises ProgramError for a request that HTIF doesn't have.
        """
        word = self._load(self._tohost, "tohost")
        if not word:
            return False
        self._store(self._tohost, 0)
        device, command, payload = word >> 56, word >> 48 & 0xFF, word & (1 << 48) - 1
        if device == DEVICE_SYSCALL and command == COMMAND_SYSCALL:
            if payload & 1:
                self.exit_code = payload >> 1
            else:
                self._system_call(payload)
        elif device == DEVICE_CONSOLE and command == COMMAND_PUTCHAR:
            self._output(1, bytes([payload & 0xFF]))
        elif device != DEVICE_CONSOLE or command != COMMAND_GETCHAR:
            raise ProgramError(f"tohost {word:#018x} asks for command {command} of device {device}, which HTIF lacks")
        return True

    def _system_call(self, block: int) -> None:
        number, fd, address, length = (
            self._load(block + offset, "the block of a system call") for offset in (0, 8, 16, 24)
        )
        if number == SYS_EXIT:
            self.exit_code = fd & 0xFFFF_FFFF
            return
        result = self._write(fd, address, length) if number == SYS_WRITE else -errno.ENOSYS
        self._store(block, result & U64)
        if self._fromhost is None:
            raise ProgramError("the program makes system calls but has no symbol fromhost for the answer")
        self._store(self._fromhost, 1)

    def _write(self, fd: int, address: int, length: int) -> int:
        if fd not in (1, 2):
            return -errno.EBADF
        try:
            data = self._memory.read(address, length)
        except (ValueError, OverflowError):
            return -errno.EFAULT
        self._output(fd, data)
        return length

    def _load(self, address: int, what: str) -> int:
        try:
            return int.from_bytes(self._memory.read(address, 8), "little")
        except (ValueError, OverflowError):
            raise ProgramError(f"{what} at {address:#x} is outside RAM") from None

    def _store(self, address: int, value: int) -> None:
        try:
            self._memory.write(address, value.to_bytes(8, "little"))
        except (ValueError, OverflowError):
            raise ProgramError(f"an answer to {address:#x} is outside RAM") from None


@dataclass(frozen=True)
class Result:
    """How a run ended: `exit_code` is the program's own, or None when it did not end, and then `reason` says why."""

    exit_code: int | None
    reason: str
    signature: str


def run(
    program: Program,
    output: Callable[[int, bytes], None],
    *,
    memory: int = DEFAULT_MEMORY,
    max_instructions: int | None = None,
    signature: bool = False,
) -> Result:
    """Runs `program` to its end, in `memory` bytes of RAM: a multiple of 4096, at most 4 GiB.

    `output(fd, data)` takes what it writes; fd is 1 or 2. With `signature` the result has the program's signature if
    it ended. Raises ProgramError when the program can't be loaded or misuses HTIF.
    """
    bus = Bus()
    cpu = Cpu(bus, memory)
    bus.attach(CLINT_BASE, Clint(cpu, cpu.set_interrupt))
    tohost = program.symbols.get("tohost")
    if tohost is None:
        raise ProgramError("the program has no symbol tohost, so it could never say that it ended; link one in")
    begin, end = _signature_range(program, memory) if signature else (0, 0)
    program.load(cpu.write, RAM_BASE, memory)
    cpu.pc = program.entry
    htif = Htif(cpu, tohost, program.symbols.get("fromhost"), output)
    reason = _run_until_exit(cpu, htif, max_instructions)
    dump = _hex_words(cpu.read(begin, end - begin)) if signature and not reason else ""
    return Result(htif.exit_code, reason, dump)


def _run_until_exit(cpu: Cpu, htif: Htif, limit: int | None) -> str:
    """Runs until HTIF has the exit code; or says why that doesn't happen."""
    used, step = 0, SLICE_MIN
    while True:
        if limit is not None:
            step = min(step, limit - used)
        before = cpu.instret
        waits = cpu.run(step) == EXIT_WFI
        used += cpu.instret - before if waits else step
        asked = htif.poll()
        if htif.exit_code is not None:
            return ""
        if limit is not None and used >= limit:
            return f"it did not end within {limit} instructions; pc is {cpu.pc:#x}"
        if waits and not asked:
            nanoseconds = cpu.nanoseconds_to_timer()
            if not 0 <= nanoseconds <= PATIENCE_NS:
                return f"it waits for an interrupt that does not come; pc is {cpu.pc:#x}"
            time.sleep(nanoseconds / 1e9)
        step = SLICE_MIN if asked else min(2 * step, SLICE_MAX)


def _signature_range(program: Program, memory: int) -> tuple[int, int]:
    """Where the signature is, in whole words. Raises ProgramError unless all of it is RAM."""
    missing = [name for name in ("begin_signature", "end_signature") if name not in program.symbols]
    if missing:
        raise ProgramError(f"no signature can be written: the program has no symbol {' and no '.join(missing)}")
    begin, end = program.symbols["begin_signature"], program.symbols["end_signature"]
    end += (begin - end) % 4
    if not RAM_BASE <= begin <= end <= RAM_BASE + memory:
        raise ProgramError(f"the signature from {begin:#x} to {end:#x} is no range of RAM")
    return begin, end


def _hex_words(data: bytes) -> str:
    """One 32-bit little-endian word a line, eight hexadecimal digits each."""
    return "".join(f"{word:08x}\n" for (word,) in struct.iter_unpack("<I", data))


def _size(text: str) -> int:
    """The number of bytes that `text` means: 134217728, 128M, 1G."""
    found = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text.strip().upper().removesuffix("IB").removesuffix("B"))
    size = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]] if found else 0
    if not MIN_MEMORY <= size <= MAX_MEMORY or size % MIN_MEMORY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 4096 bytes up to 4G, such as 128M")
    return size


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of instructions")
    return int(text)


def _read_program(path: Path) -> Program:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ProgramError(f"larger than {MAX_FILE} bytes; strip its debugging information")
    return parse(data)


def _output(fd: int, data: bytes) -> None:
    stream = sys.stderr.buffer if fd == 2 else sys.stdout.buffer
    stream.write(data)
    stream.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code described at the top of this file."""
    parser = argparse.ArgumentParser("python -m vpod.bare", description="Run a bare-metal RISC-V ELF program (HTIF).")
    parser.add_argument("program", type=Path, metavar="ELF", help="a static riscv64 executable with a symbol tohost")
    parser.add_argument("--signature", type=Path, metavar="FILE", help="write begin_signature to end_signature there")
    parser.add_argument("--max-instructions", type=_count, metavar="N", help="give up after so many (exit code 124)")
    parser.add_argument("--memory", type=_size, default=DEFAULT_MEMORY, metavar="SIZE", help="RAM; 128M by default")
    options = parser.parse_args(arguments)

    def say(message: object) -> None:
        print(f"vpod.bare: {options.program}: {message}", file=sys.stderr)

    try:
        result = run(
            _read_program(options.program),
            _output,
            memory=options.memory,
            max_instructions=options.max_instructions,
            signature=options.signature is not None,
        )
        if result.exit_code is None:
            say(result.reason)
            return EXIT_UNFINISHED
        if options.signature:
            options.signature.write_text(result.signature)
    except (ProgramError, OSError, MemoryError) as error:
        say(error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if result.exit_code:
        say(f"failed with exit code {result.exit_code}")
    return min(result.exit_code, 255)


if __name__ == "__main__":
    sys.exit(main())
