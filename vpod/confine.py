"""The cage: what a worker process may still ask of its host's kernel, which is next to nothing.

Why it exists: a guest that finds a fault in the emulator owns the worker, and what it owns must be worthless. `close`
takes everything from this process in layers, each of which holds by itself; docs/security.md has the argument, and the
reason for each call on the list.

Invariants:

- A layer that the host doesn't have is reported by `missing`, never passed over in silence.
- The filter names what is allowed. Whatever else is called, by whatever convention, kills the process.
- Memory is never made executable but the translator's, and that never while it is writable.
- Nothing in here needs a privilege.

Example::

    confine.close(Cage(memory=2 << 30, code=machine.cpu.code_memory, forks=False))
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import Final, NamedTuple

from vpod import _host

__all__ = ["CALLS", "FORKING", "LAYERS", "Cage", "close", "missing", "program", "tighten"]

LAYERS: Final = ("limits", "privileges", "landlock", "seccomp")

# Numbers by architecture: x86-64, and the generic ones of AArch64 (None: it has no such call).
CALLS: Final[dict[str, tuple[int | None, int | None]]] = {
    # the socket
    "recvmsg": (47, 212), "recvfrom": (45, 207), "sendto": (44, 206), "sendmsg": (46, 211),
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73), "close": (3, 57),
    "write": (1, 64),  # to the log
    # memory; mmap and mprotect are looked at more closely below
    "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233),
    # time, randomness, and what Python asks of itself
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "getrandom": (318, 278), "getrusage": (98, 165),
    "futex": (202, 98), "getpid": (39, 172), "gettid": (186, 178), "sched_yield": (24, 124),
    "rt_sigreturn": (15, 139), "rt_sigprocmask": (14, 135), "restart_syscall": (219, 128),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
FORKING: Final[dict[str, tuple[int | None, int | None]]] = {  # a template's, and a worker's until it is caged itself
    "setsid": (112, 157), "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "seccomp": (317, 277),
}  # fmt: skip
LOG: Final = 16 << 20  # bytes, up to which a log may be written
MMAP, MPROTECT, CLONE = (9, 222), (10, 226), (56, 220)
ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

MACHINE: Final = os.uname().machine
KILL, ALLOW = 0x8000_0000, 0x7FFF_0000
LOAD, TO_X, SUB, ADD_X, ALLOW_IF_EQUAL, IF_ABOVE, IF_BITS, RETURN = 0x20, 0x07, 0x14, 0x0C, 0x15, 0x25, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
PROT_EXEC, PROT_READ_EXEC = 4, 5
SIBLING = 0x0000_8000 | 17  # CLONE_PARENT | SIGCHLD


class Cage(NamedTuple):
    """What differs between workers: bytes of address space, the translator's memory (start and size; None: there is
    none), whether it is a template, which forks and whose forks are caged further, and whether there is a log."""

    memory: int
    code: tuple[int, int] | None
    forks: bool
    log: bool = False


def close(cage: Cage) -> tuple[str, ...]:
    """Put this process into the cage, by every layer that the host has; those that it hasn't, for `tighten`.

    Nothing can be imported afterwards, and not even asked what is missing.
    Raises OSError if a layer that is there can't be closed: then nothing may run.
    """
    absent = missing()
    _limit(cage)
    if "privileges" not in absent:
        _host.no_new_privileges()
        _host.drop_capabilities()
    if "landlock" not in absent:
        _host.restrict_files(*_landlock_rights(_host.landlock_version()))
    if "seccomp" not in absent:
        _host.filter_calls(program(MACHINE, cage))
    return absent


def tighten(cage: Cage, absent: tuple[str, ...]) -> None:
    """Close the cage of a template around a fork of it, which is not to fork. OSError, likewise."""
    _limit(cage)
    if "seccomp" not in absent:
        _host.filter_calls(program(MACHINE, cage))


def missing() -> tuple[str, ...]:
    """The layers that this host doesn't have."""
    if not sys.platform.startswith("linux"):
        return tuple(layer for layer in LAYERS if layer != "limits")
    absent = []
    if not _host.landlock_version():
        absent.append("landlock")
    if MACHINE not in ARCHITECTURES or not _host.can_filter_calls():
        absent.append("seccomp")
    return tuple(absent)


def program(machine: str, cage: Cage) -> bytes:
    """The seccomp filter for a processor, as `struct sock_filter`s."""
    column, audit = ARCHITECTURES[machine]
    allowed = {**CALLS, **FORKING} if cage.forks else CALLS
    lines = [(LOAD, 0, 0, ARCHITECTURE), (ALLOW_IF_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    for numbers in allowed.values():
        if (number := numbers[column]) is not None:
            lines += [(ALLOW_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    lines += _when(MMAP[column], _without_executing())
    lines += _when(MPROTECT[column], _executing_code(*cage.code) if cage.code else _without_executing())
    if cage.forks:
        lines += _when(CLONE[column], _cloning_a_sibling())
    lines.append((RETURN, 0, 0, KILL))
    return b"".join(struct.pack("<HBBI", code, true, false, k) for code, true, false, k in lines)


_Line = tuple[int, int, int, int]  # code, jump if true, jump if false, k


def _when(number: int, lines: list[_Line]) -> list[_Line]:
    """`lines`, which return, for one call only."""
    return [(ALLOW_IF_EQUAL, 0, len(lines), number), *lines]


def _argument(number: int, high: bool = False) -> _Line:
    return LOAD, 0, 0, ARGUMENTS + 8 * number + 4 * high


def _all_of(*tests: _Line | tuple[_Line, ...]) -> list[_Line]:
    """Allow if every comparison holds (its jumps are 0: go on, 1: kill), with what it needs before it."""
    lines = [line for test in tests for line in (test if isinstance(test[0], tuple) else (test,))]
    end = len(lines)
    resolved = []
    for at, (code, true, false, k) in enumerate(lines):
        compares = code in (ALLOW_IF_EQUAL, IF_ABOVE, IF_BITS)
        resolved.append((code, true * (end - at) if compares else 0, false * (end - at) if compares else 0, k))
    return [*resolved, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL)]


def _without_executing() -> list[_Line]:
    """mmap and mprotect: the third argument asks for no execution."""
    return _all_of(_argument(2), (IF_BITS, 1, 0, PROT_EXEC))


def _executing_code(start: int, size: int) -> list[_Line]:
    """mprotect: not executable, or readable and executable within the translator's memory, which lies within 4 GiB."""
    inside = _all_of(
        (ALLOW_IF_EQUAL, 0, 1, PROT_READ_EXEC),
        _argument(0, high=True), (ALLOW_IF_EQUAL, 0, 1, start >> 32),
        _argument(1, high=True), (ALLOW_IF_EQUAL, 0, 1, 0),
        _argument(0), (SUB, 0, 0, start & 0xFFFF_FFFF), (IF_ABOVE, 1, 0, size), (TO_X, 0, 0, 0),
        _argument(1), (IF_ABOVE, 1, 0, size), (ADD_X, 0, 0, 0), (IF_ABOVE, 1, 0, size),
    )  # fmt: skip
    return [_argument(2), (IF_BITS, 1, 0, PROT_EXEC), (RETURN, 0, 0, ALLOW), *inside]


def _cloning_a_sibling() -> list[_Line]:
    return _all_of(_argument(0, high=True), (ALLOW_IF_EQUAL, 0, 1, 0), _argument(0), (ALLOW_IF_EQUAL, 0, 1, SIBLING))


def _limit(cage: Cage) -> None:
    limits = {"RLIMIT_CORE": 0, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_FSIZE": LOG if cage.log else 0}
    if sys.platform.startswith("linux"):  # elsewhere every process has more address space than any bound from the start
        limits["RLIMIT_AS"] = cage.memory
    if not cage.forks:
        limits["RLIMIT_NPROC"] = 0
    for name, most in limits.items():
        if (number := getattr(resource, name, None)) is not None:
            _, hard = resource.getrlimit(number)
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (bound, bound))


def _landlock_rights(version: int) -> tuple[int, int, int]:
    """Every right to files, TCP and scopes that a version of Landlock knows."""
    files = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    return files, 3 if version >= 4 else 0, 3 if version >= 6 else 0
