"""Long runs on a real guest: does anything leak, get lost, or keep a processor busy?

    python tests/soak.py --short              what pytest runs (``test_soak.py``): about a minute
    python tests/soak.py --long               the main job's claims: 1 GiB, 10,000 commands, 50 sandboxes; minutes
    python tests/soak.py --long bulk idle     some of them
    python tests/soak.py --snapshot alpine:3.23 --short

Each part prints one line of what it measured and fails with an `AssertionError` that says what grew. Exit code 1 if any
failed. Linux only: it reads ``/proc``.

| part | what is done | what must hold |
|---|---|---|
| bulk | ``dd`` of zeros through `commands.run` into the host | every byte came: the digest is the host's own |
| many | ``commands.run("true")`` again and again in one sandbox | neither side grows: see `Footprint` |
| crowd | many sandboxes at once in one process | each answers for itself; their memory is reported; all end |
| idle | a sandbox nobody asks anything | uses no processor; its private memory is bounded |
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vpod import Sandbox

MiB: Final = 1 << 20
IDLE_LIMIT: Final = 60 * MiB  # the bound for an idle worker beyond the snapshot's shared pages


class Length(NamedTuple):
    """How much of everything."""

    bulk_mebibytes: int
    commands: int
    sandboxes: int
    idle_seconds: float


SHORT: Final = Length(bulk_mebibytes=64, commands=300, sandboxes=8, idle_seconds=3)
LONG: Final = Length(bulk_mebibytes=1024, commands=10_000, sandboxes=50, idle_seconds=10)


def bulk(snapshot: str | None, length: Length) -> str:
    """Zeros, of which only the count can be wrong, and then noise, of which everything can."""
    with Sandbox.create(snapshot) as box:
        size = length.bulk_mebibytes * MiB
        began = time.monotonic()
        r = box.commands.run(f"dd if=/dev/zero bs=1M count={length.bulk_mebibytes} 2>/dev/null")
        took = time.monotonic() - began
        assert r.exit_code == 0, r.stderr
        assert len(r.stdout_bytes) == size, f"{len(r.stdout_bytes)} bytes of {size} came"
        assert hashlib.sha256(r.stdout_bytes).digest() == _digest_of_zeros(size), "not all of them are zeros"
        del r
        noise = "head -c 5000000 /dev/urandom > /tmp/noise; sha256sum < /tmp/noise"
        theirs = box.commands.run(noise).stdout.split()[0]
        r = box.commands.run("for i in 1 2 3 4; do cat /tmp/noise; done; rm /tmp/noise")
        parts = [r.stdout_bytes[at : at + 5_000_000] for at in range(0, 20_000_000, 5_000_000)]
        assert [hashlib.sha256(part).hexdigest() for part in parts] == [theirs] * 4, "noise came changed"
    return f"{length.bulk_mebibytes} MiB arrived whole, {size / MiB / took:.0f} MiB/s"


def _digest_of_zeros(size: int) -> bytes:
    digest = hashlib.sha256()
    for _ in range(size // MiB):
        digest.update(bytes(MiB))
    return digest.digest()


class Footprint(NamedTuple):
    """What may grow. Sizes in bytes."""

    host_memory: int
    host_descriptors: int
    host_threads: int
    worker_memory: int
    guest_processes: int
    guest_memory: int
    agent_descriptors: int
    shell_descriptors: int


def footprint(box: Sandbox) -> Footprint:
    """Both sides of a sandbox, at rest."""
    ask = (
        "ls -d /proc/[0-9]* | wc -l; sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo;"
        " ls /proc/$PPID/fd | wc -l; ls /proc/$$/fd | wc -l"
    )
    processes, free, agent, shell = map(int, box.commands.run(ask).stdout.split())
    return Footprint(
        private_memory("self"),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        private_memory(box.link.pid),
        processes,
        -free << 10,
        agent,
        shell,
    )


def private_memory(process: int | str) -> int:
    """Bytes of memory that the process has written. Pages of the snapshot that it only reads are the page cache's."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(kilobytes) << 10 for kilobytes in re.findall(r"^Private_Dirty: *(\d+) kB$", text, re.MULTILINE))


# What may be a coincidence: caches of the guest's kernel, an allocator's arena, a kernel thread more or less.
ALLOWED: Final = Footprint(8 * MiB, 0, 0, 24 * MiB, 4, 16 * MiB, 0, 0)


def many(snapshot: str | None, length: Length) -> str:
    """Each kind of request over and over: what there is after the first few is what there must be at the end."""
    with Sandbox.create(snapshot) as box:
        ways: list[Callable[[], object]] = [
            lambda: box.commands.run("true"),
            lambda: box.commands.run(["true"]),
            lambda: box.commands.run("cat", stdin="some"),
        ]
        if box.python:
            ways.append(lambda: box.code.run("1 + 1"))
        for number in range(min(200, length.commands)):
            ways[number % len(ways)]()
        before = footprint(box)
        began = time.monotonic()
        for number in range(length.commands):
            ways[0 if number % 10 else number // 10 % len(ways)]()
        took = time.monotonic() - began
        after = footprint(box)
    for name, old, new, allowed in zip(Footprint._fields, before, after, ALLOWED, strict=True):
        assert new - old <= allowed, f"{name} grew from {old} to {new} in {length.commands} commands"
    grown = (after.worker_memory - before.worker_memory) / MiB
    return f"{length.commands} commands, {took / length.commands * 1000:.1f} ms each; the worker grew {grown:.1f} MiB"


def crowd(snapshot: str | None, length: Length) -> str:
    """All there at once, then all asked at once."""
    began = time.monotonic()
    boxes = [Sandbox.create(snapshot) for _ in range(length.sandboxes)]
    created = time.monotonic() - began
    answers: dict[int, str] = {}

    def ask(number: int, box: Sandbox) -> None:
        box.commands.run(f"echo {number} > /tmp/mine")
        answers[number] = box.commands.run("cat /tmp/mine; cat /proc/sys/kernel/random/uuid").stdout

    try:
        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(boxes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        memory = sum(private_memory(box.link.pid) for box in boxes)
    finally:
        for box in boxes:
            box.close()
    assert sorted(answers) == [*range(length.sandboxes)], f"only {len(answers)} of {length.sandboxes} answered"
    assert all(text.split()[0] == str(number) for number, text in answers.items()), "one answered for another"
    assert len({text.split()[1] for text in answers.values()}) == length.sandboxes, "two have the same randomness"
    left = [box.link.pid for box in boxes if os.path.exists(f"/proc/{box.link.pid}")]
    assert left == [], f"workers still there after close(): {left}"
    each = memory / MiB / length.sandboxes
    return f"{length.sandboxes} sandboxes, created in {created:.1f} s, {each:.1f} MiB of private memory each"


def idle(snapshot: str | None, length: Length) -> str:
    """After its first command, and a second to come to rest."""
    with Sandbox.create(snapshot) as box:
        box.commands.run("true")
        time.sleep(1)
        before = box.link.statistics()["cpu_seconds"]
        time.sleep(length.idle_seconds)
        used = box.link.statistics()["cpu_seconds"] - before
        private = private_memory(box.link.pid)
    assert used < 0.01 * length.idle_seconds + 0.02, f"{used:.3f} s of CPU in {length.idle_seconds:g} s of idling"
    assert private < IDLE_LIMIT, f"{private / MiB:.1f} MiB of private memory"
    percent = 100 * used / length.idle_seconds
    return (
        f"{used * 1000:.0f} ms of CPU in {length.idle_seconds:g} s ({percent:.1f} %), {private / MiB:.1f} MiB private"
    )


PARTS: Final[dict[str, Callable[[str | None, Length], str]]] = {
    "bulk": bulk,
    "many": many,
    "crowd": crowd,
    "idle": idle,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Long runs on a real guest.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--short", dest="length", action="store_const", const=SHORT)
    group.add_argument("--long", dest="length", action="store_const", const=LONG)
    parser.add_argument("--snapshot", metavar="NAME", help="in which snapshot (default: the default one)")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    failed = 0
    for name in options.parts or PARTS:
        try:
            print(f"{name:6}  {PARTS[name](options.snapshot, options.length)}", flush=True)
        except AssertionError as error:
            failed = 1
            print(f"{name:6}  FAILED: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
