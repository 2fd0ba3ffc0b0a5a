"""What the package `vpod` reads from outside, each as a `Subject`: programs, trees, snapshots, catalogues, messages.

The list is the whole of it: ELF programs (`elf`, and `bare`, which also loads and starts them), flattened device trees
(`tree`), `.snap` files (`snapshot`) and the machine's state in them (`machine`, devices and hart included), the cache's
`.state` files (`cache`) and the `default` file, a registry's catalogue (`catalogue`), what a worker says (`worker`) and
what the guest's agent says (`agent`), whoever of the two was taken over.

Invariants: what a subject accepts also holds together: where there is a writer, what was read is written, read again
and the same; and each looks into its folder afterwards, where only what it said it would make may be.

    >>> SUBJECTS["elf"].parse(b"#!/bin/sh")
    Traceback (most recent call last):
    vpod.errors.ProgramError: not an ELF file: it begins with 23 21 2f 62
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from types import ModuleType

import vpod.devices.virtio.console
import vpod.devices.virtio.mmio
import vpod.devices.virtio.queue
from tests.proof.fuzzer import Subject, Violation, contained
from tests.proof.mutators import json_mutation, mutated
from vpod import bare, client, code, devices, elf, fdt, link, machine, protocol, registry, snapshot, snapshots, wire
from vpod.client import Client, Greeting, Transcript
from vpod.code import CodeResult
from vpod.devices import clint, fields, plic, rtc, uart
from vpod.errors import (
    AgentError,
    ProgramError,
    RegistryError,
    SandboxError,
    SnapshotDamaged,
    SnapshotError,
    SnapshotNotFound,
    SnapshotTooNew,
    VpodError,
)
from vpod.machine import Machine

RAM_SIZE = 64 << 20


def sources(*modules: ModuleType) -> tuple[str, ...]:
    """The source files of modules."""
    return tuple(str(module.__file__) for module in modules)


def promise(holds: object, what: str) -> None:
    """What a reader's callers rely on."""
    if not holds:
        raise Violation(what)


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder, in memory where that can be had, outside of which nothing may be touched meanwhile."""
    shared = Path("/dev/shm")
    where = shared if shared.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="vpod-files-", dir=where) as name, contained(name):
        yield Path(name)


def left_in(place: Path) -> dict[str, int]:
    """What is in a folder: `st_mode` by name."""
    return {path.relative_to(place).as_posix(): path.lstat().st_mode for path in place.rglob("*")}


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """These variables for the block, and none of vpod's others."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("VPOD_")]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- programs and trees ----------------------------------------------------------------------------------------------


def read_elf(data: bytes) -> None:
    """Parse, and load into a megabyte of RAM that notices what is stored outside of it."""
    program = elf.parse(data)
    base, size = 0x8000_0000, 1 << 20

    def write(address: int, piece: memoryview) -> None:
        promise(base <= address and address + len(piece) <= base + size, f"{len(piece)} bytes at {address:#x}")

    promise(sum(len(segment.data) for segment in program.segments) <= len(data) * len(program.segments), "more data")
    program.load(write, base, size)


def run_elf(data: bytes) -> None:
    """What `python -m vpod.bare --signature` does with a file, for a few thousand instructions."""
    result = bare.run(
        elf.parse(data), lambda fd, text: None, memory=1 << 20, max_instructions=2000, signature=True
    )
    promise(result.exit_code is not None or result.reason, "neither an exit code nor a reason")
    gc.collect(1)  # hart, bus and CLINT hold each other, and address space is what this process has little of


def read_tree(data: bytes) -> None:
    tree = fdt.parse(data)
    promise(fdt.parse(fdt.flatten(tree)) == tree, "the tree is another one after flatten and parse")


# --- snapshots -------------------------------------------------------------------------------------------------------


def read_snapshot(data: bytes) -> None:
    """Open, verify and expand; afterwards only the file and its RAM are there, and the RAM is the owner's to read."""
    with folder() as place:
        path, ram = place / "x.snap", place / "x.ram"
        path.write_bytes(data)
        try:
            with snapshot.Snapshot(path) as snap:
                promise(snap.id == snapshot.identity(path), "two identities")
                promise(snapshot._decode_meta("", snapshot._encode_meta(snap.meta)) == snap.meta, "metadata changed")
                snap.verify()
                snap.expand(ram)
                promise(ram.stat().st_size == snap.ram_size, "RAM of another size")
                promise(stat.S_IMODE(ram.stat().st_mode) == 0o400, "RAM that can be written to")
        finally:
            promise(set(left_in(place)) <= {"x.snap", "x.ram"}, f"left behind: {left_in(place)}")


def repair_snapshot(data: bytes, random: Random) -> bytes:
    """Sizes and digests made right for whatever lies between header and index; now and then another JSON or frame."""
    if len(data) < snapshot.HEADER.size:
        return data
    header = snapshot.Header._make(snapshot.HEADER.unpack_from(data))
    body = data[snapshot.HEADER.size :]
    meta_size, state_size = min(header.meta_size, len(body)), min(header.state_size, len(body))
    meta, rest = body[:meta_size], body[meta_size:]
    state, rest = rest[:state_size], rest[state_size:]
    if random.random() < 0.3:
        meta = _canonical(json_mutation(meta, random))
    index_size = min(header.frame_count * snapshot.ENTRY.size, len(rest))
    frames, index = rest[: len(rest) - index_size], rest[len(rest) - index_size :]
    if random.random() < 0.7:
        index = _repair_index(frames, index)
    fixed = header._replace(
        meta_size=len(meta), state_size=len(state), frames_size=len(frames), frame_count=len(index) // 72,
        meta_digest=_sha256(meta), state_digest=_sha256(state), index_digest=_sha256(index),
    )  # fmt: skip
    if random.random() < 0.7:
        fixed = fixed._replace(magic=snapshot.MAGIC, version=1, header_size=256, parent=bytes(32), reserved=bytes(32))
    if random.random() < 0.7:
        fixed = fixed._replace(ram_size=RAM_SIZE, flags=0)
    return fixed.pack() + meta + state + frames + index


def _repair_index(frames: bytes, index: bytes) -> bytes:
    """The entries with the digests that their frames have, the last as long as is left."""
    entries = list(snapshot.ENTRY.iter_unpack(index[: len(index) // 72 * 72]))
    fixed, offset = [], 0
    for place, (number, size, pages, _) in enumerate(entries):
        if place == len(entries) - 1:
            size = min(len(frames) - offset, 0xFFFFFFFF)
        frame = frames[offset : offset + size]
        offset += size
        fixed.append(snapshot.ENTRY.pack(number, max(size, 0), pages, _sha256(frame)))
    return b"".join(fixed)


def _canonical(text: bytes) -> bytes:
    with suppress(ValueError, RecursionError, AttributeError):
        return snapshot._encode_meta(json.loads(text))
    return text


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- the machine's state ---------------------------------------------------------------------------------------------


def read_machine(data: bytes) -> None:
    """Restore, save, restore what was saved; then let the machine do something with the state it believes."""
    file = os.memfd_create("ram")
    try:
        os.ftruncate(file, RAM_SIZE)
        restored = Machine.restore(data, file)
        again = Machine.restore(restored.save(), file)
        promise(_timeless(again.save()) == _timeless(restored.save()), "a state that is another one once saved")
        for _ in range(3):
            if restored.stopped is None:
                restored.slice(0.001, 2000)
        restored.agent.send(b"x")
        restored.uart.send(b"x")
        restored.console.send(b"x")
        restored.service()
    finally:
        os.close(file)
        gc.collect()  # a machine and its devices know each other, and its address space goes with them


def _timeless(state: bytes) -> tuple[object, object]:
    """A saved state without the one thing that goes on by itself."""
    described, hart = machine._open_state(state)
    registers = json.loads(hart)
    for name in ("mtime", "mip"):  # mip: the timer's bits follow from the time
        del registers[name]
    return described, registers


def repair_machine(data: bytes, random: Random) -> bytes:
    """The two lengths made right; the border between the parts is kept where there is one."""
    head = machine.STATE_HEADER
    if len(data) < head.size:
        return data
    _, _, length, _ = head.unpack_from(data)
    length = min(length, len(data) - head.size)
    return head.pack(b"vpodmach", 1, length, len(data) - head.size - length) + data[head.size :]


def change_machine(data: bytes, random: Random) -> bytes:
    """One field of the devices' or the hart's JSON."""
    head = machine.STATE_HEADER
    if len(data) < head.size:
        return data
    _, _, length, _ = head.unpack_from(data)
    devices_, hart = data[head.size : head.size + length], data[head.size + length :]
    if random.random() < 0.6:
        devices_ = json_mutation(devices_, random)
    else:
        hart = json_mutation(hart, random)
    return head.pack(b"vpodmach", 1, len(devices_), len(hart)) + devices_ + hart


# --- cache and catalogue ---------------------------------------------------------------------------------------------


CACHE_ID = "ab" * 32


def read_cache(data: bytes) -> None:
    """A `.state` file beside a `.ram` file: what is believed, or `None`, which makes both anew."""
    with folder() as place:
        (place / f"{CACHE_ID}.state").write_bytes(data)
        ram = place / f"{CACHE_ID}.ram"
        ram.touch()
        os.truncate(ram, RAM_SIZE)
        os.utime(ram, (snapshots._stamp(CACHE_ID), snapshots._stamp(CACHE_ID)))
        found = snapshots._expanded(place, CACHE_ID, place / "x.snap")
        if found is not None:
            promise(type(found.meta) is dict and type(found.state) is bytes, "metadata that is no object")


def repair_cache(data: bytes, random: Random) -> bytes:
    """Sizes and digest, and the identity asked for."""
    head = snapshots.STATE_HEADER
    if len(data) < head.size:
        return data
    *_, size, meta_size, _ = head.unpack_from(data)
    rest = data[head.size :]
    meta, state = rest[:meta_size], rest[meta_size:]
    if random.random() < 0.6:
        meta = json_mutation(meta, random)
    size = RAM_SIZE if random.random() < 0.9 else size
    packed = head.pack(snapshots.STATE_MAGIC, b"", bytes.fromhex(CACHE_ID), size, len(meta), len(state)) + meta + state
    return snapshots.STATE_MAGIC + _sha256(packed[snapshots.COVERED :]) + packed[snapshots.COVERED :]


def read_catalogue(data: bytes) -> None:
    """What `vpod list` and `vpod pull` read, from a server and from a file; and what `vpod publish` adds to."""
    read: dict[str, list[dict[str, object]]] = {}
    for url in ("https://registry.example/vpod/catalog.json", "file:///srv/vpod/catalog.json"):
        with suppress(RegistryError):
            read[url] = registry._parse_catalog(data, url)
            for entry in read[url]:
                promise("/" not in f"{entry['name']}{entry['tag']}{entry['sha256']}", "a name that is a path")
                local = str(entry["url"]).startswith("file:")
                promise(not local or url.startswith("file:"), "a file URL from the network")
    with folder() as place, environment(VPOD_REGISTRY=f"file://{place}/catalog.json", VPOD_HOME=str(place)):
        (place / "catalog.json").write_bytes(data)
        entries = registry.fetch_registry()
        registry.publish(place, [])
        promise(len(registry.fetch_registry()) == len(entries), "publishing lost entries")
        promise(set(left_in(place)) == {"catalog.json"}, f"left behind: {left_in(place)}")


def read_default(data: bytes) -> None:
    """The file that names the default snapshot, in a home where nothing else is."""
    with folder() as place, environment(VPOD_HOME=str(place)):
        snapshots.paths.snapshot_folder().joinpath("default").write_bytes(data)
        promise(snapshots.local() == [], "a snapshot that is not there")
        with suppress(SnapshotNotFound):
            snapshots.remove("alpine")


# --- messages --------------------------------------------------------------------------------------------------------


def read_worker(data: bytes) -> None:
    """The frames of a worker, whole and in pieces; what a STOP says can be shown on a terminal."""
    frames = _fed(wire.Reader, data, wire.WireError)
    promise(sum(len(payload) for _, payload in frames) <= len(data), "more than was sent")
    for kind, payload in frames:
        if kind == wire.STOP:
            message = str(link.reason_of(payload, payload))
            promise(message.isprintable(), "a reason with control characters")
    wire.Reader().feed(data)


def read_agent(data: bytes) -> None:
    """The frames of an agent, whole and in pieces, as a command's and as a piece of code's answer and as a greeting."""
    frames = _fed(protocol.Parser, data, AgentError)
    for frame in frames:
        if frame.kind == protocol.Kind.READY:
            Greeting(frame.payload)
        if frame.kind == protocol.Kind.DONE:
            protocol.parse_done(frame.payload)
    caller = Client()
    transcript = Transcript(limit=1 << 16)
    caller.open(lambda item: transcript.accept(item) if isinstance(item, protocol.Frame) else None)
    try:
        caller.feed(data)
    except VpodError as error:
        caller.fail(error if isinstance(error, SandboxError) else SandboxError(str(error)))
        promise(isinstance(caller.failure, SandboxError), "a failure of another kind")
        raise
    promise(sum(map(len, transcript.stdout + transcript.stderr)) <= 1 << 16, "more output than the limit")
    promise(0 <= transcript.credit <= 4 * protocol.INITIAL_CREDIT, "credit without bound")
    result = CodeResult(transcript, 0.0)
    promise(isinstance(result.text, str) and isinstance(repr(result), str), "no text")


def _fed(reader: Callable[[], wire.Reader | protocol.Parser], data: bytes, error: type[Exception]) -> list[tuple]:
    """The frames of `data` fed at once; fed in pieces of seven bytes they must be the same."""
    whole: list[tuple] = []
    pieces: list[tuple] = []
    ended = [False, False]
    try:
        whole = list(reader().feed(data))
    except error:
        ended[0] = True
    one = reader()
    try:
        for at in range(0, len(data), 7):
            pieces += one.feed(data[at : at + 7])
    except error:
        ended[1] = True
    promise(ended[0] == ended[1] and (ended[0] or whole == pieces), "pieces make other frames than the whole")
    return whole


def repair_worker(data: bytes, random: Random) -> bytes:
    """Cut into frames again, as its lengths say, each length then made right."""
    return _reframed(data, struct.Struct("<IB"), random)


def repair_agent(data: bytes, random: Random) -> bytes:
    """As `repair_worker`; the id is mostly the first request's, and fields inside are sometimes made anew."""
    frames = _reframed(data, struct.Struct("<IBI"), random)
    if len(frames) >= 9 and random.random() < 0.5:
        frames = frames[:4] + bytes([random.choice(sorted(protocol.AGENT_KINDS))]) + frames[5:]
    return frames


def _reframed(data: bytes, head: struct.Struct, random: Random) -> bytes:
    pieces: list[bytes] = []
    while len(data) >= head.size:
        length, *more = head.unpack_from(data)
        payload = data[head.size : head.size + min(length, 4096)]
        if len(more) == 2 and random.random() < 0.8:
            more[1] = 1
        if random.random() < 0.1:
            payload = mutated(payload, random, payload)
        pieces.append(head.pack(len(payload), *more) + payload)
        data = data[head.size + min(length, 4096) :]
    return b"".join(pieces)


_SNAPSHOT_ERRORS = (SnapshotDamaged, SnapshotTooNew)
_MACHINE = sources(
    machine, devices, clint, fields, plic, rtc, uart,
    vpod.devices.virtio.console, vpod.devices.virtio.mmio, vpod.devices.virtio.queue,
)  # fmt: skip
SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("elf", read_elf, (ProgramError,), sources(elf)),
        Subject("bare", run_elf, (ProgramError,), sources(elf, bare), words=(b"tohost\0", b"fromhost\0")),
        Subject("tree", read_tree, (fdt.FdtError,), sources(fdt)),
        Subject("snapshot", read_snapshot, _SNAPSHOT_ERRORS, sources(snapshot), repair=repair_snapshot),
        Subject(
            "machine", read_machine, (SnapshotDamaged, SnapshotError), _MACHINE, (change_machine,), repair_machine
        ),
        Subject("cache", read_cache, (), sources(snapshots), repair=repair_cache),
        Subject("catalogue", read_catalogue, (RegistryError,), sources(registry), (json_mutation,)),
        Subject("default", read_default, (), sources(snapshots)),
        Subject("worker", read_worker, (wire.WireError,), sources(wire, link), repair=repair_worker),
        Subject("agent", read_agent, (SandboxError,), sources(protocol, client, code), repair=repair_agent),
    )
}  # fmt: skip
