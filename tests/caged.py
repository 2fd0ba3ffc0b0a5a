"""A worker's process that runs arbitrary host code in its guest's stead: for tests/test_confine.py.

It goes the way of every worker, as the fork of a template, into the same cage. Where that would run the machine, this
one waits for the name of an attempt, makes it, and says what came of it, if it still can.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from vpod import wire, worker

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = 4096
MACHINES = {"x86_64": 0, "aarch64": 1}
COLUMN = MACHINES.get(os.uname().machine, 0)
EXECUTABLE = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # before the cage closes
BUFFER = ctypes.create_string_buffer(PAGE)
NAME = ctypes.create_string_buffer(b"/etc/passwd")
CODE = [(0, 0)]  # where translated code is, and its size


def call(x86: int, aarch64: int, *arguments: Any) -> Callable[[], object]:
    """A system call, by its number on either processor."""

    def attempt() -> int:
        whole = [ctypes.c_ulong(argument) if isinstance(argument, int) else argument for argument in arguments]
        return int(LIBC.syscall(ctypes.c_long((x86, aarch64)[COLUMN]), *whole))

    return attempt


def at(pointer: Any) -> int:
    return ctypes.addressof(pointer)


def by_int80() -> None:
    """getpid as a 32-bit program calls it, which has the number of writev on a 64-bit one."""
    EXECUTABLE[:8] = bytes.fromhex("b814000000cd80c3")
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(EXECUTABLE)))()


def protect(offset: int, size: int, rights: int) -> Callable[[], object]:
    """mprotect relative to the translator's memory."""
    return lambda: call(10, 226, CODE[0][0] + offset, size, rights)()


ATTEMPTS: dict[str, Callable[[], object]] = {
    # files
    "open a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "open, the old call": call(2, 56, at(NAME), 0, 0),
    "open by openat2": call(437, 437, 0, at(NAME), at(BUFFER), 24),
    "create a file": lambda: os.open("/tmp/caged", os.O_CREAT | os.O_WRONLY, 0o600),
    "look at a file": lambda: os.stat("/etc/passwd"),
    "look at a file by statx": call(332, 291, 0, at(NAME), 0, 0xFFF, at(BUFFER)),
    "list a folder": lambda: os.listdir("/"),
    "remove a file": lambda: os.unlink("/tmp/caged"),
    "make a folder": lambda: os.mkdir("/tmp/caged"),
    "rename a file": lambda: os.rename("/tmp/caged", "/tmp/caged2"),
    "link a file": lambda: os.symlink("/etc/passwd", "/tmp/caged"),
    "change a file's mode": lambda: os.chmod("/etc/passwd", 0o666),
    "change folder": lambda: os.chdir("/"),
    "a file in memory": lambda: os.memfd_create("caged"),
    "a file by its handle": call(304, 265, 0, at(BUFFER), 0),
    "watch files": call(294, 26, 0),
    "mount": call(165, 40, at(NAME), at(NAME), at(NAME), 0, 0),
    "a new kind of mount": call(428, 428, 0, at(NAME), 1),
    "another root": call(161, 51, at(NAME)),
    "another root, pivoted": call(155, 41, at(NAME), at(NAME)),
    "a pipe": lambda: os.pipe(),
    "another descriptor": lambda: os.dup(0),
    "splice": call(275, 76, 0, 0, 0, 0, 1, 0),
    # sockets
    "a TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "a Unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "a pair of sockets": lambda: socket.socketpair(),
    "a netlink socket": call(41, 198, 16, 3, 0),
    "connect the own socket": call(42, 203, 0, at(BUFFER), 16),
    "bind the own socket": call(49, 200, 0, at(BUFFER), 16),
    "an option of the own socket": call(54, 208, 0, 1, 2, at(BUFFER), 4),
    "push a key on the terminal": call(16, 29, 0, 0x5412, at(BUFFER)),
    # programs and processes
    "execute a program": lambda: os.execv("/bin/true", ["true"]),
    "execute by descriptor": call(322, 281, 0, at(NAME), 0, 0, 0),
    "fork": lambda: os.fork(),
    "fork, the old call": call(57, 220, 0),
    "fork a sibling": call(56, 220, 0x8000 | 17, 0, 0, 0, 0),
    "fork by clone3": call(435, 435, at(BUFFER), 64),
    "a thread": call(56, 220, 0x10F00, 0, 0, 0, 0),
    "signal the caller": lambda: os.kill(os.getppid(), 0),
    "signal everybody": lambda: os.kill(-1, 0),
    "signal a thread": call(234, 131, os.getpid(), os.getpid(), 0),
    "a process's descriptor": call(434, 434, os.getppid(), 0),
    "signal by descriptor": call(424, 424, 0, 9, 0, 0),
    "a descriptor of another process": call(438, 438, 0, 0, 0),
    "trace the caller": call(101, 117, 16, os.getppid(), 0, 0),
    "be traced": call(101, 117, 0, 0, 0, 0),
    "read the caller's memory": call(310, 270, os.getppid(), at(BUFFER), 1, at(BUFFER), 1, 0),
    "write the caller's memory": call(311, 271, os.getppid(), at(BUFFER), 1, at(BUFFER), 1, 0),
    "compare with the caller": call(312, 272, os.getpid(), os.getppid(), 0, 0, 0),
    "the caller's priority": call(141, 140, 0, os.getppid(), 19),
    "the caller's limits": call(302, 261, os.getppid(), 7, 0, at(BUFFER)),
    "the own limits": call(160, 164, 7, at(BUFFER)),
    "the own processor": call(203, 122, 0, 8, at(BUFFER)),
    "wait for a process": call(61, 260, -1 & (1 << 64) - 1, 0, 1, 0),
    # memory
    "map executable memory": lambda: mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "map memory to write and execute": lambda: mmap.mmap(-1, PAGE, prot=7),
    "make the heap executable": lambda: call(10, 226, at(BUFFER) & -PAGE, PAGE, 5)(),
    "make code writable and executable": protect(0, PAGE, 7),
    "make what is before code executable": protect(-PAGE, PAGE, 5),
    "make what is behind code executable": lambda: protect(CODE[0][1], PAGE, 5)(),
    "make more than code executable": lambda: protect(CODE[0][1] - PAGE, 2 * PAGE, 5)(),
    "make 4 GiB and code executable": protect(0, (1 << 32) + PAGE, 5),
    "protect by key": call(329, 288, at(BUFFER), PAGE, 5, 0xFFFF_FFFF),
    "shared memory": call(29, 194, 0, PAGE, 0o1600),
    "handle one's own page faults": call(323, 282, 0),
    "remap pages of a file": call(216, 234, at(BUFFER), PAGE, 0, 0, 0),
    "another process's pages": call(440, 440, 0, at(BUFFER), 1, 4, 0),
    # the kernel
    "io_uring": call(425, 425, 8, at(BUFFER)),
    "bpf": call(321, 280, 0, at(BUFFER), 64),
    "performance events": call(298, 241, at(BUFFER), 0, 0xFFFF_FFFF, 0xFFFF_FFFF, 0),
    "keys": call(250, 219, 0, 0xFFFF_FFFD, 0),
    "add a key": call(248, 217, at(NAME), at(NAME), at(BUFFER), 1, 0xFFFF_FFFD),
    "a name space": call(272, 97, 0x1000_0000),
    "another name space": call(308, 268, 0, 0),
    "another user": lambda: os.setuid(65534),
    "capabilities": call(126, 91, at(BUFFER), at(BUFFER)),
    "prctl": call(157, 167, 3, 0, 0, 0, 0),
    "another filter": call(317, 277, 1, 0, at(BUFFER)),
    "Landlock": call(444, 444, 0, 0, 1),
    "the kernel's log": call(103, 116, 3, at(BUFFER), PAGE),
    "a kernel module": call(175, 105, at(BUFFER), PAGE, at(NAME)),
    "another kernel": call(246, 104, 0, 0, 0, 0),
    "reboot": call(169, 142, 0, 0, 0, 0),
    "the clock": call(227, 112, 0, at(BUFFER)),
    "the host's name": call(170, 161, at(NAME), 4),
    "system information": call(63, 160, at(BUFFER)),
    "a timer": call(38, 103, 0, at(BUFFER), 0),
    "a call that is none": call(9999, 9999),
    # other conventions
    "x32's getpid": call(0x4000_0000 + 39, 9998),
    "a 32-bit call": by_int80,
    "raise a signal's handler": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
}
if COLUMN:
    del ATTEMPTS["x32's getpid"], ATTEMPTS["a 32-bit call"]


def serve(self: worker.Worker, machine: Any) -> str:
    """In place of `Worker.serve`: make the attempt that a CONSOLE frame names."""
    CODE[0] = machine.cpu.code_memory or (0, 0)
    self._socket.sendall(wire.encode(wire.START, os.getpid().to_bytes(4, "little")))
    while True:
        select.select([self._socket], [], [])
        frames = self._reader.feed(self._socket.recv(PAGE))
        for kind, payload in frames:
            if kind == wire.CONSOLE:
                return _made(payload.decode())


def _made(name: str) -> str:
    if name == "nothing":
        return "nothing was tried"
    try:
        answer = ATTEMPTS[name]()
    except OSError as error:
        return f"{name}: the kernel answered {error}"
    return f"{name}: it was done, and gave {answer}"


def main() -> None:
    worker.Worker.serve = serve  # type: ignore[method-assign]
    worker.main()


if __name__ == "__main__":
    sys.exit(main())
