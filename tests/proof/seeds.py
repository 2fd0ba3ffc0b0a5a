"""The seed corpus: makes `corpus/FORMAT/NAME.OUTCOME`, files that are good, and such as are, or nearly were, harmful.

    python -m tests.proof.seeds          # writes the corpus anew

OUTCOME is what the format's subject makes of the file: `ok`, or the name of the exception it declares. Files whose
names begin with `once-` take their time, so they are only tried, and no mutants are made of them. Real tools make what
real tools can make (Python's `tarfile`, a real machine, `vpod.snapshot.write`, sequoia); the tricks are made by hand,
because no tool would.

Invariant: fewer than 1 MiB in all. A fault that is found becomes a line here, with the outcome it should have had.
"""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import zstandard

from tests.builder_parts import ar_of, deb_of, folder, hardlink, symlink, tar_of
from tests.elf_maker import assemble, make_elf
from tests.proof import subjects_builder as builder
from tests.proof import subjects_vpod as vpod_subjects
from vpod import fdt, protocol, snapshot, snapshots, wire
from vpod.boot import device_tree
from vpod.machine import STATE_HEADER, Machine

CORPUS = Path(__file__).parent / "corpus"
Seeds = Iterator[tuple[str, bytes]]


def elf_seeds() -> Seeds:
    code = (0x0000006F).to_bytes(4, "little")  # j .
    program = make_elf(code, symbols={"tohost": 0x8000_0800, "begin_signature": 0x8000_0000, "local": 1})
    yield "program.ok", program
    yield "two-segments.ok", make_elf(
        code, segments=[(1, 5, 176, 0x8000_0000, 0x8000_0000, 4, 4096, 4096), (1, 6, 176, 0, 0x8000_2000, 4, 64, 8)]
    )
    yield "cut-short.ProgramError", program[:100]
    yield "segments-overlap.ProgramError", make_elf(
        code, segments=[(1, 5, 176, 0, 0x8000_0000, 4, 4096, 8), (1, 5, 176, 0, 0x8000_0800, 4, 64, 8)]
    )
    yield "segment-beyond-the-address-space.ProgramError", make_elf(code, address=(1 << 64) - 8, size=1 << 63)
    yield "many-symbol-tables.ProgramError", _many_symbol_tables(program)


def _many_symbol_tables(program: bytes) -> bytes:
    """Every section header is the symbol table's: once, reading took time quadratic in the file's size."""
    at = int.from_bytes(program[40:48], "little")
    symbols = program[at + 64 : at + 128]
    sections = program[at : at + 64] + symbols + program[at + 128 : at + 192] + symbols * 40
    return program[:60] + struct.pack("<H", 43) + program[62:at] + sections


def bare_seeds() -> Seeds:
    exits = assemble(
        ("auipc", {"rd": "t0", "imm": 0}),
        ("addi", {"rd": "t1", "rs1": 0, "imm": 1}),
        ("sd", {"rs1": "t0", "rs2": "t1", "imm": 0x7F8}),
        ("jal", {"rd": 0, "imm": 0}),
    )
    symbols = {"tohost": 0x8000_07F8, "begin_signature": 0x8000_0000, "end_signature": 0x8000_0010}
    yield "spins.ok", make_elf((0x6F).to_bytes(4, "little"), symbols=symbols, size=4096)
    yield "talks.ok", make_elf(exits, symbols=symbols, size=4096)
    yield "no-tohost.ProgramError", make_elf(exits)
    yield "signature-outside.ProgramError", make_elf(exits, symbols={**symbols, "end_signature": 1 << 63})


def tree_seeds() -> Seeds:
    board = device_tree(256 << 20, "console=ttyS0")
    board.find("chosen").properties["rng-seed"] = bytes(64)
    blob = fdt.flatten(board)
    yield "board.ok", blob
    yield "cut-short.FdtError", blob[:-8]
    small = fdt.Node("", {"a": fdt.cells(1)}, [fdt.Node("b", {"a": b"x"}, [fdt.Node("c@1")])])
    yield "small.ok", fdt.flatten(small)
    deep = b"".join(fdt.cells(fdt.BEGIN_NODE) + b"a\0\0\0" for _ in range(2000))
    structure = fdt.cells(fdt.BEGIN_NODE, 0) + deep
    header = fdt.HEADER.pack(fdt.MAGIC, 56 + len(structure), 56, 56 + len(structure), 40, 17, 16, 0, 0, len(structure))
    yield "deep.FdtError", header + bytes(16) + structure


def machine_state() -> bytes:
    """A real machine's, after a few instructions, with a byte waiting in each stream."""
    small = Machine(64 << 20)
    small.cpu.pc = 0x8000_0000
    small.ram.write(0x8000_0000, struct.pack("<I", 0x0000006F))
    small.slice(0.001, 100)
    for stream in (small.uart, small.agent):
        stream.send(b"x")
    return small.save()


def machine_seeds() -> Seeds:
    state = machine_state()
    yield "machine.ok", state
    _, _, length, _ = STATE_HEADER.unpack_from(state)
    text, hart = state[STATE_HEADER.size : STATE_HEADER.size + length], state[STATE_HEADER.size + length :]
    described = json.loads(text)

    def made(text: bytes, hart: bytes = hart) -> bytes:
        return STATE_HEADER.pack(b"vpodmach", 1, len(text), len(hart)) + text + hart

    described["devices"]["virtio0"]["queues"][0] |= {"enabled": True, "size": 128, "used": "%016x" % (0x8400_0000 - 2)}
    yield "ring-half-outside.SnapshotDamaged", made(json.dumps(described).encode())
    yield "deep.SnapshotDamaged", made(b"[" * 20_000)
    yield "long-number.SnapshotDamaged", made(text.replace(b'"memory":67108864', b'"memory":' + b"6" * 5000))
    yield "deep-hart.SnapshotDamaged", made(text, b"[" * 20_000)
    yield "hart-not-a-number.SnapshotDamaged", made(text, hart.replace(b'"priv": 3', b'"priv": NaN'))
    yield "lengths.SnapshotDamaged", state + b"x"


def snapshot_seeds() -> Seeds:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "x.snap")
        ram = bytearray(64 << 20)
        ram[0:8], ram[5000:5008], ram[3 << 20 : (3 << 20) + 4096] = b"snapshot", b"snapshot", bytes(range(256)) * 16
        snapshot.write(path, {"name": "tiny", "tag": "1", "nested": [1, {"a": None}]}, b"state", memoryview(ram))
        good = path.read_bytes()
    header = snapshot.Header._make(snapshot.HEADER.unpack_from(good))
    rest = good[snapshot.HEADER.size :]
    yield "tiny.ok", good
    yield "cut-short.SnapshotDamaged", good[:-1]
    yield "flipped.SnapshotDamaged", good[:300] + bytes([good[300] ^ 1]) + good[301:]
    yield "delta.SnapshotTooNew", header._replace(flags=1).pack() + rest
    yield "newer.SnapshotTooNew", header._replace(version=2).pack() + rest
    yield "huge-state.SnapshotDamaged", header._replace(state_size=1 << 63).pack() + rest
    yield "many-frames.SnapshotDamaged", header._replace(frame_count=1 << 60).pack() + rest
    meta = b'{"a":' * 20_000
    deep = header._replace(meta_size=len(meta), meta_digest=vpod_subjects._sha256(meta)).pack()
    yield "deep-metadata.SnapshotDamaged", deep + meta + rest[header.meta_size :]
    bomb = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(bytes(64 << 20))
    entry = snapshot.ENTRY.pack(0, len(bomb), (1).to_bytes(32, "little"), vpod_subjects._sha256(bomb))
    head = header._replace(meta_size=2, meta_digest=vpod_subjects._sha256(b"{}"), state_size=0, frame_count=1)
    head = head._replace(state_digest=vpod_subjects._sha256(b""), index_digest=vpod_subjects._sha256(entry))
    yield "bomb.SnapshotDamaged", head._replace(frames_size=len(bomb)).pack() + b"{}" + bomb + entry


def cache_seeds() -> Seeds:
    def made(meta: bytes, state: bytes = b"state") -> bytes:
        head = snapshots.STATE_HEADER.pack(
            snapshots.STATE_MAGIC, b"", bytes.fromhex(vpod_subjects.CACHE_ID), 64 << 20, len(meta), len(state)
        )
        covered = (head + meta + state)[snapshots.COVERED :]
        return snapshots.STATE_MAGIC + vpod_subjects._sha256(covered) + covered

    yield "good.ok", made(b'{"name": "tiny", "tag": "1"}')
    yield "damaged.ok", made(b"{}")[:-1]
    yield "no-json.ok", made(b'{"name"')
    yield "no-object.ok", made(b"[1]")
    yield "deep.ok", made(b"[" * 20_000)


def catalogue_seeds() -> Seeds:
    entry = {
        "name": "alpine", "tag": "3.23", "url": "alpine.snap", "size": 100, "sha256": "0" * 64,
        "description": "Alpine", "has_python": False, "created": "2026-01-31T12:00:00Z",
    }  # fmt: skip

    def made(*entries: object, **more: object) -> bytes:
        return json.dumps({"format": 1, "snapshots": entries, **more}).encode()

    yield "one.ok", made(entry)
    yield "two.ok", made(entry, entry | {"tag": "3.22", "url": "https://other.example/x.snap", "more": [1]})
    yield "a-path.RegistryError", made(entry | {"name": "../x"})
    yield "twice.RegistryError", made(entry, entry)
    yield "bracket.RegistryError", made(entry | {"url": "http://[::1"})
    yield "escape-codes.RegistryError", made(entry | {"description": "\033[2J"})
    yield "size-true.RegistryError", made(entry | {"size": True})
    yield "long-number.RegistryError", made(entry).replace(b"100", b"9" * 5000)
    yield "deep.RegistryError", b'{"format":1,"snapshots":' + b"[" * 20_000
    yield "lone-surrogate.RegistryError", made(entry | {"note": "\ud800"})


def default_seeds() -> Seeds:
    yield "name.ok", b"debian:13\n"
    yield "a-path.ok", b"../../etc/passwd\n"
    yield "no-text.ok", b"\xff\0\n" * 100


def worker_seeds() -> Seeds:
    frames = [(wire.START, b""), (wire.AGENT, b"hello"), (wire.CONSOLE, b"\033[2Jx"), (wire.STATS, b'{"a": 1}')]
    yield "all.ok", b"".join(wire.encode(*each) for each in frames)
    yield "stop.ok", wire.encode(wire.STOP, b"guest: panic\nKernel panic - not \033[2Jsyncing")
    yield "unfinished.ok", wire.encode(wire.AGENT, b"hello")[:-1]
    yield "too-long.WireError", struct.pack("<IB", wire.MAX_PAYLOAD + 1, wire.AGENT)
    yield "kind.WireError", struct.pack("<IB", 0, 8)


def agent_seeds() -> Seeds:
    kind, tag = protocol.Kind, protocol.ResultTag
    lost = struct.pack("<i", 3) + protocol.fields((protocol.ExitTag.SESSION_LOST, b"killed"))
    result = protocol.fields((tag.RESULT, b"6"), (tag.ERROR_NAME, b"ValueError"), (tag.ERROR_VALUE, b"\xff"), (99, b""))
    said = [
        (kind.STARTED, struct.pack("<I", 7)), (kind.CREDIT, struct.pack("<I", 1 << 31)), (kind.STDOUT, b"out\n"),
        (kind.STDERR, b"err"), (kind.RESULT, result), (kind.EXIT, lost),
    ]  # fmt: skip
    yield "command.ok", b"".join(protocol.frame(which, 1, payload) for which, payload in said)
    ready = protocol.fields((protocol.ReadyTag.VERSION, struct.pack("<I", 1)), (protocol.ReadyTag.SHELL, b"/bin/\xff"))
    yield "ready.AgentError", protocol.frame(kind.READY, 0, ready)
    yield "done.AgentError", protocol.frame(kind.DONE, 1, struct.pack("<I", 2) + b"no such file")
    yield "error.UnknownUser", protocol.frame(kind.ERROR, 1, b"unknown user: x")
    yield "too-long.AgentError", struct.pack("<IBI", protocol.MAX_PAYLOAD + 1, kind.STDOUT, 1)
    yield "field-beyond.AgentError", protocol.frame(kind.RESULT, 1, struct.pack("<BI", 1, 1 << 31))
    yield "short-number.AgentError", protocol.frame(kind.CREDIT, 1, b"abc")


# --- the builder's ---------------------------------------------------------------------------------------------------


def _long_path(depth: int) -> bytes:
    return tar_of(("a/" * depth + "b", b"x"))


def tar_seeds() -> Seeds:
    members = [
        ("bin/", folder()), ("bin/sh", {"mode": 0o4755, "data": b"#!"}), ("etc/motd", b"hi"),
        ("lib", symlink("usr/lib")), ("usr/lib/", folder()), ("lib/x", b"by a link"), ("bin/ash", hardlink("bin/sh")),
        ("dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}), ("run/f", {"type": tarfile.FIFOTYPE}),
    ]  # fmt: skip
    for name, form in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        long = [] if name == "ustar" else [("n" * 90 + "/" + "m" * 90 + "/" + "\u00e9" * 40, b"long name")]
        yield f"{name}.ok", tar_of(*members, *long, format=form)
    yield "climbs.VerificationFailed", tar_of(("../x", b""))
    yield "absolute.VerificationFailed", tar_of(("/etc/passwd", b""))
    yield "climbs-in-the-middle.VerificationFailed", tar_of(("a/../../x", b""))
    yield "through-a-link-outside.ok", tar_of(("l", symlink("../../../../tmp")), ("tmp/", folder()), ("l/x", b"inside"))
    yield "through-an-absolute-link.ok", tar_of(("tmp/", folder()), ("l", symlink("/tmp")), ("l/x", b"in the tree"))
    yield "through-a-dangling-link.VerificationFailed", tar_of(("l", symlink("/nowhere")), ("l/x", b""))
    yield "links-in-a-circle.VerificationFailed", tar_of(("a", symlink("b")), ("b", symlink("a")), ("a/x", b""))
    yield "hard-link-outside.VerificationFailed", tar_of(("x", hardlink("../../etc/passwd")))
    yield "hard-link-to-a-link.VerificationFailed", tar_of(("l", symlink("/etc/passwd")), ("x", hardlink("l")))
    yield "hard-link-to-a-device.VerificationFailed", tar_of(
        ("d", {"type": tarfile.BLKTYPE, "devmajor": 8}), ("x", hardlink("d"))
    )
    yield "file-over-a-folder.VerificationFailed", tar_of(("a/", folder()), ("a", b""))
    yield "below-a-file.VerificationFailed", tar_of(("a", b""), ("a/b", b""))
    yield "sparse.VerificationFailed", tar_of(("a", {"type": b"S"}))
    yield "sparse-pax.VerificationFailed", tar_of(
        ("a", {"pax_headers": {"GNU.sparse.major": "1"}, "data": b"x"}), format=tarfile.PAX_FORMAT
    )
    yield "size-beyond.VerificationFailed", builder.repair_tar(
        tar_of(("a", b"x")).replace(b"00000000001\0", b"77777777777\0", 1), _never()
    )
    yield "negative-size.VerificationFailed", _field(tar_of(("a", b"x")), 124, b"\xff" * 12)
    yield "huge-mtime.ok", _field(tar_of(("a", b"x")), 136, b"\x80" + b"\xff" * 11)
    yield "once-deep.ok", _long_path(600)
    yield "too-deep.VerificationFailed", _long_path(2100)
    yield "once-deep-through-links.VerificationFailed", tar_of(
        ("a/" * 1900 + "l/", folder()), ("x", symlink("a/" * 1900 + "l")), ("x/" + "b/" * 1900 + "c", b"")
    )
    yield "long-in-bytes.VerificationFailed", tar_of(("\u00e9" * 200, b""))
    yield "no-end.VerificationFailed", tar_of(("a", b"x"))[:1024]


def _field(archive: bytes, offset: int, value: bytes) -> bytes:
    """The first header with another field and the checksum that fits."""
    header = bytearray(archive[:offset] + value + archive[offset + len(value) : 512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]


def _never() -> builder.Random:
    """Always the same draws."""
    return builder.Random(1)


def inflate_seeds() -> Seeds:
    text = bytes(range(256)) * 20
    yield "gzip.ok", gzip.compress(text, mtime=0)
    yield "two-gzips.ok", gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0)
    yield "xz.VerificationFailed", lzma.compress(text)  # good as one stream, and no member of Alpine's
    yield "zstd.VerificationFailed", zstandard.compress(text)
    yield "cut-short.VerificationFailed", gzip.compress(text, mtime=0)[:-5]
    yield "gzip-bomb.VerificationFailed", gzip.compress(bytes(40 << 20), mtime=0)
    yield "xz-bomb.VerificationFailed", lzma.compress(bytes(40 << 20))
    yield "zstd-bomb.VerificationFailed", zstandard.ZstdCompressor(level=1).compress(bytes(200 << 20))
    yield "xz-huge-dictionary.VerificationFailed", _dictionary(lzma.compress(b"x"))
    yield "many-members.ok", gzip.compress(b"", 9, mtime=0) * 2000


def _dictionary(stream: bytes) -> bytes:
    """The same xz stream claiming a 4 GiB dictionary (xz format 1.2.1, sections 3.1 and 5.3.1)."""
    size = (stream[12] + 1) * 4
    header = bytearray(stream[12 : 12 + size])
    at = header.index(0x21) + 2  # filter's id, size of its properties, properties
    header[at] = 40
    header[-4:] = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
    return stream[:12] + bytes(header) + stream[12 + size :]


CONTROL = "Package: hello\nVersion: 2.10-3\nArchitecture: riscv64\nDescription: a\n test\n"


def deb_seeds() -> Seeds:
    members = [("./usr/", folder()), ("./usr/bin/", folder()), ("./usr/bin/hello", {"mode": 0o755, "data": b"ELF"})]
    good = deb_of(
        CONTROL + "Multi-Arch: same\n", *members, ("./etc/hello", b"x"),
        preinst="#!/bin/sh\n", conffiles="/etc/hello\n", triggers="interest-noawait /usr/lib\ninterest other\n",
    )  # fmt: skip
    yield "hello.ok", good
    yield "certificates.ok", deb_of(
        CONTROL.replace("hello", "ca-certificates"), ("./usr/share/ca-certificates/m/A (B).crt", b"PEM"), postinst="#!"
    )
    yield "certificate-not-utf8.ok", deb_of(
        CONTROL.replace("hello", "ca-certificates"), ("./usr/share/ca-certificates/m/\udcff.crt", b"PEM"), postinst="#!"
    )
    yield "py-compile-not-utf8.ok", deb_of(CONTROL, ("./usr/lib/python3.\udcff/py_compile.py", b""))
    yield "climbs.VerificationFailed", deb_of(CONTROL, ("./../x", b""))
    yield "architecture-climbs.VerificationFailed", deb_of(
        CONTROL.replace("riscv64", "../../../../etc") + "Multi-Arch: same\n", *members
    )
    yield "conffile-missing.BuildError", deb_of(CONTROL, *members, conffiles="/etc/shadow\n")
    yield "no-control.VerificationFailed", ar_of(("debian-binary", b"2.0\n"), ("data.tar", tar_of()))
    bomb = lzma.compress(bytes(40 << 20), preset=0)
    yield "control-bomb.VerificationFailed", ar_of(
        ("debian-binary", b"2.0\n"), ("control.tar.xz", bomb), ("data.tar", tar_of())
    )
    yield "once-deep.ok", deb_of(CONTROL, ("./" + "a/" * 600 + "b", b""))


def packages_seeds() -> Seeds:
    def stanza(name: str, **more: str) -> str:
        fields = {"Package": name, "Version": "1.0-1", "Filename": f"pool/{name}.deb", "SHA256": "0" * 64, "Size": "10"}
        return "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in (fields | more).items())

    both = [stanza("a", Depends="b (>= 1.0~rc1) | c, d:any", Essential="yes"), stanza("b", Provides="d (= 1), e")]
    yield "two.ok", "\n".join(both).encode()
    yield "circle.ok", "\n".join([stanza("a", Depends="b"), stanza("b", Pre_Depends="a")]).encode()
    yield "conflict.BuildError", "\n".join([stanza("a", Depends="b"), stanza("b", Conflicts="a")]).encode()
    yield "climbs.VerificationFailed", stanza("a", Filename="pool/../../x").encode()
    yield "negative-size.VerificationFailed", stanza("a", Size="-1").encode()
    yield "long-version.VerificationFailed", stanza("a", Version="9" * 5000).encode()
    yield "epoch-no-number.VerificationFailed", stanza("a", Version="s:1").encode()
    yield "twice.VerificationFailed", stanza("a").encode() + b"Size: 1\n"


def release_seeds() -> Seeds:
    text = builder.RELEASE + "SHA256:\n " + "0" * 64 + " 1234 main/binary-riscv64/Packages.xz\n"
    yield "trixie.ok", text.encode()
    yield "no-decimal-size.ok", text.replace("1234", "\u00b2").encode()
    yield "long-size.ok", text.replace("1234", "9" * 5000).encode()
    date = "Date: Sat, 31 Jan 2026 12:00:00 GMT"
    yield "year-beyond.VerificationFailed", text.replace(date, f"Date: Sat, 31 Jan {10**30} 12:00:00 GMT").encode()
    yield "zone-beyond.VerificationFailed", text.replace(date, f"Date: Sat, 31 Jan 2026 12:00:00 +{10**30}").encode()
    yield "other-suite.VerificationFailed", text.replace("trixie", "sid").encode()
    yield "future.VerificationFailed", text.replace("2026", "2030").encode()
    key = builder.pysequoia.Tsk.generate(user_id="Stranger <s@example.invalid>")
    mode = builder.pysequoia.SignatureMode.CLEAR
    yield "strangers.VerificationFailed", bytes(builder.pysequoia.sign(key.signer(), text.encode(), mode=mode))


def apkindex_seeds() -> Seeds:
    index = builder.INDEX.format(digest="Q1DIGEST").encode()
    yield "two.ok", index
    yield "digest-no-base64.VerificationFailed", index.replace(b"Q1DIGEST", b"Q1A", 1)
    yield "priority-no-number.VerificationFailed", index.replace(b"p:z=2", b"p:z=2\nk:many")
    yield "name-climbs.VerificationFailed", index.replace(b"P:y", b"P:../y")
    yield "missing.BuildError", index.replace(b"P:y", b"P:w")
    chain = "".join(f"C:Q1DIGEST\nP:p{n}\nV:1\nD:p{n + 1}\n\n" for n in range(600))
    yield "once-long-chain.ok", (chain + "C:Q1DIGEST\nP:p600\nV:1\n\nC:Q1DIGEST\nP:x\nV:1\nD:p0\n\n").encode()


def apk_seeds() -> Seeds:
    pax = {"pax_headers": {"APK-TOOLS.checksum.SHA1": "00" * 20}, "data": b"ELF"}
    yield "package.ok", tar_of(
        ("usr/", folder(0o700)), ("usr/bin/x", pax), ("usr/bin/y", symlink("x")), format=tarfile.PAX_FORMAT
    )
    yield "digest-no-hex.VerificationFailed", tar_of(
        ("x", {"pax_headers": {"APK-TOOLS.checksum.SHA1": "zz"}}), format=tarfile.PAX_FORMAT
    )
    yield "not-utf8.ok", tar_of(("usr/\udcff", b""), ("usr/l", symlink("\udcff")))
    yield "climbs.VerificationFailed", tar_of(("../x", b""))


def key_seeds() -> Seeds:
    good = builder.public_key()
    yield "rsa.ok", builder.pem(good)
    modulus = prod(builder.rsa_key()).to_bytes(256, "big")
    yield "small.VerificationFailed", builder.pem(good.replace(modulus, bytes(256)))
    yield "cut-short.VerificationFailed", builder.pem(good[:-1])
    yield "beginnings.VerificationFailed", b"-----BEGIN PUBLIC KEY-----\n" * 700


def module_seeds() -> Seeds:
    good = builder.module_of(b"name=x", b"depends=y", b"alias=virtio:d00000001v*", b"alias=x\ny")
    yield "module.ok", good
    yield "missing.BuildError", builder.module_of(b"depends=z")
    yield "itself.BuildError", builder.module_of(b"depends=x")
    yield "cut-short.VerificationFailed", good[:-1]
    yield "not-elf.VerificationFailed", b"\x7fELX" + good[4:]
    count = 300
    rows = good[-192:] + struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 0, 4096, 0, 0, 1, 0) * (count - 3)
    many = good[:60] + struct.pack("<H", count) + good[62:-192] + rows
    yield "once-many-modinfos.VerificationFailed", many


def image_seeds() -> Seeds:
    image = struct.pack("<8xQQ32xI4x", 0x20_0000, 8 << 20, 0x0543_5352)
    yield "image.ok", image
    yield "huge.BuildError", struct.pack("<8xQQ32xI4x", 0x20_0000, (1 << 64) - 1, 0x0543_5352)
    yield "gzipped.BuildError", gzip.compress(image, mtime=0)


def recipe_seeds() -> Seeds:
    good = builder.BASE.encode()
    yield "recipe.ok", good
    yield "based.ok", good.partition(b"[debian]")[0] + b'based_on = "base"\n[apk]\npackages = ["bash"]\n'
    yield "based-on-itself.BuildError", good.partition(b"[debian]")[0] + b'based_on = "x"\n'
    yield "unknown-key.BuildError", b"colour = 1\n" + good
    yield "deep.BuildError", b"x = " + b"[" * 20_000
    yield "long-number.BuildError", good.replace(b'"256M"', b"9" * 5000)
    yield "long-hexadecimal.BuildError", good.replace(b'"256M"', b"0x" + b"f" * 5000)
    yield "a-path.BuildError", good.replace(b'"base"', b'"../base"')


SEEDS = {name.removesuffix("_seeds"): made for name, made in list(globals().items()) if name.endswith("_seeds")}


def main() -> None:
    """Write the corpus anew, all of it."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for format, made in SEEDS.items():
        place = CORPUS / format
        place.mkdir(parents=True)
        for name, data in made():
            (place / name).write_bytes(data)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


if __name__ == "__main__":
    main()
