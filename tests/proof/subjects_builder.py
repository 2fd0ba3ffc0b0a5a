"""What the builder (`vpod_builder`) reads from outside, each a `Subject`: archives, packages, indexes, keys, recipes.

The list is the whole of it: tar archives (`tar`: unpacked and packed again as the initramfs), compressed streams
(`inflate`), Debian packages (`deb`), package indexes and the set they resolve to (`packages`), signed releases
(`release`), Alpine's signed index (`apkindex`) and packages (`apk`), RSA keys (`key`), kernel modules (`module`) and
images (`image`), recipes (`recipe`). Nothing on the host reads a cpio archive: the builder only writes them.

Invariants: archives are unpacked in memory, so each subject's folder stays empty, which is looked at; what comes out of
the writer has only paths inside the tree, parents first, and no more devices and set-user-id files than went in.
Signatures and digests over a mutant are made anew, by throwaway keys, as whoever controls a mirror's key would.

    >>> SUBJECTS["tar"].parse(bytes(1024))
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import lzma
import re
import struct
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import format_datetime
from functools import lru_cache
from math import gcd, prod
from random import Random
from typing import Any

import pysequoia
import zstandard
from vpod_builder import (
    alpine,
    certificates,
    deb,
    deb822,
    debian,
    dpkg,
    inflate,
    kernel,
    recipe,
    resolve,
    rsa,
    tar,
    tree,
)
from vpod_builder.progress import Report
from vpod_builder.tar import Entry, Kind
from vpod_builder.tree import Tree

from tests.builder_parts import ar_of, tar_of  # imported first: it makes the tree's own vpod_builder importable
from tests.proof.fuzzer import Subject
from tests.proof.mutators import NUMBERS, mutated
from tests.proof.subjects_vpod import folder, left_in, promise, sources
from vpod import boot
from vpod.errors import BuildError, SourceError, VerificationFailed

LIMIT = 4 << 20  # bytes that anything may unpack to here, so that bombs are met before the memory is full


# --- tar -------------------------------------------------------------------------------------------------------------


def read_tar(data: bytes) -> None:
    """Unpack into a tree, and write that as the machine's initramfs."""
    with folder() as place:
        members = list(tar.entries(data, name="x.tar"))
        promise(sum(len(entry.data) for entry in members) <= len(data), "more contents than archive")
        made = Tree()
        made.unpack(members, name="x.tar")
        promise(made.size <= len(data), "a tree larger than its archive")
        check_cpio(made.cpio(), members)
        promise(not left_in(place), "files on the host")


def check_cpio(data: bytes, members: list[Entry]) -> None:
    """The archive that the kernel will unpack: paths inside, parents first, nothing special that was not asked for."""
    folders, special, position = {"."}, 0, 0
    while True:
        promise(data[position : position + 6] == b"070701", "a record without its magic")
        numbers = [int(data[position + 6 + 8 * at : position + 14 + 8 * at], 16) for at in range(13)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name = data[position + 110 : position + 109 + name_size]
        position += 110 + name_size
        position += -position % 4 + size
        position += -position % 4
        if name == b"TRAILER!!!":
            break
        path = name.decode("utf-8", "surrogateescape")
        parts = path.split("/")
        promise(path == "." or not {"", ".", ".."} & set(parts), f"the path {path!r}")
        promise(len(name) <= tar.MAX_PATH and max(map(len, name.split(b"/"))) <= tar.MAX_NAME, "a path Linux drops")
        promise(len(parts) == 1 or "/".join(parts[:-1]) in folders, f"{path!r} before its folder")
        if mode & 0o170000 == Kind.DIRECTORY.value:
            folders.add(path)
        special += mode & 0o170000 in (Kind.CHARACTER.value, Kind.BLOCK.value) or bool(mode & 0o6000)
    asked = [entry for entry in members if entry.mode & 0o6000 or entry.kind in (Kind.CHARACTER, Kind.BLOCK)]
    links = sum(entry.kind is Kind.HARDLINK for entry in members)
    promise(special <= len(asked) + links, "devices or set-user-id files that nobody asked for")


def repair_tar(data: bytes, random: Random) -> bytes:
    """The checksum of every header made right; the end mark is put where it is missing."""
    blocks = bytearray(data)
    position = 0
    while position + 512 <= len(blocks):
        header = blocks[position : position + 512]
        if any(header):
            header[148:156] = b" " * 8
            blocks[position + 148 : position + 156] = b"%06o\0 " % sum(header)
        size = re.match(rb"[0-7]{1,11}", bytes(header[124:136]))
        position += 512 + -(-(int(size[0], 8) if size and header[156:157] in b"0\0xgLK7" else 0) // 512) * 512
    return bytes(blocks) if random.random() < 0.1 else bytes(blocks) + bytes(-len(blocks) % 512 + 1024)


FIELDS = {  # of a ustar header: offset, size, and what to put there
    "name": (0, 100, (b"../x", b"/etc/passwd", b"a/../../b", b"a", b"a/", b".", b"", b"a/b", b"etc", b"\xff\xfe")),
    "linkname": (157, 100, (b"../x", b"/", b"a", b".", b"..", b"a/b", b"", b"/etc", b"\xff", b"bin", b"bin/sh")),
    "prefix": (345, 155, (b"..", b"/", b"a", b"a/a/a", b"", b"\xff")),
    "type": (156, 1, (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V", b"\0")),
    "size": (124, 12, ()), "mode": (100, 8, (b"0006755\0", b"-000001\0")), "uid": (108, 8, ()), "gid": (116, 8, ()),
    "mtime": (136, 12, ()), "major": (329, 8, ()), "minor": (337, 8, ()),
    "magic": (257, 8, (b"ustar\x0000", b"ustar  \0")),
}  # fmt: skip


PAX_KEYS = ("path", "linkpath", "size", "uid", "gid", "mtime", "GNU.sparse.major", "APK-TOOLS.checksum.SHA1")


def change_tar(data: bytes, random: Random) -> bytes:
    """One field of one header becomes something hostile."""
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return data
    at = random.choice(headers)
    offset, size, values = FIELDS[random.choice(sorted(FIELDS))]
    number = random.choice(NUMBERS) % (1 << 8 * size - 1)
    digits = random.choice((b"%0*o\0" % (size - 1, number), number.to_bytes(size, "big"), b"\x80" + bytes(size - 1)))
    value = random.choice(values) if values and random.random() < 0.9 else digits
    return data[: at + offset] + value[:size].ljust(size, b"\0") + data[at + offset + size :]


def change_pax(data: bytes, random: Random) -> bytes:
    """A pax header or a long name before one of the members, with something hostile in it."""
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return data
    at = random.choice(headers)
    key = random.choice(PAX_KEYS)
    value = random.choice(
        (b"../x", b"/x", b"a/" * random.choice((9, 500, 2000)) + b"b", b"-1", b"9" * 19, b"9" * 25, b"\xff\xfe", b"0",
         b"1.5", b"zz", b"\0", b"n" * 300, "\u00e9".encode() * 200, b"%d" % random.choice(NUMBERS))
    )  # fmt: skip
    record = b" " + key.encode() + b"=" + value + b"\n"
    length = len(record) + 1
    while len(str(length)) + len(record) != length:
        length += 1
    kind, text = random.choice((("x", str(length).encode() + record), ("L", value + b"\0"), ("K", value + b"\0")))
    head = b"x".ljust(124, b"\0") + b"%011o\0" % len(text) + bytes(20) + kind.encode()
    block = head.ljust(257, b"\0") + b"ustar\x0000"
    return data[:at] + block.ljust(512, b"\0") + text + bytes(-len(text) % 512) + data[at:]


# --- compressed ------------------------------------------------------------------------------------------------------


def read_inflate(data: bytes) -> None:
    """As one stream, and as Alpine's members; neither gives more than it may."""
    for read in (_inflated, _members):
        try:
            promise(read(data) <= LIMIT, "more than the limit")
        except VerificationFailed:
            if read is _members:
                raise


def _inflated(data: bytes) -> int:
    return len(inflate.inflate(data, limit=LIMIT, name="x"))


def _members(data: bytes) -> int:
    return sum(len(content) for _, content in inflate.gzip_members(data, limit=LIMIT, name="x"))


def packed(data: bytes, suffix: str) -> bytes:
    """Compressed as the file name's suffix says."""
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".gz": lambda data: gzip.compress(data, 1, mtime=0),
        ".xz": lambda data: lzma.compress(data, preset=0),
        ".zst": zstandard.ZstdCompressor(level=1).compress,
        "": bytes,
    }
    return pack[suffix](data)


# --- Debian ----------------------------------------------------------------------------------------------------------


def read_deb(data: bytes) -> None:
    """Open, unpack, write dpkg's database and the certificate store, and the initramfs of it all."""
    with folder() as place:
        package = deb.Deb(data, name="x.deb")
        members = list(package.members())
        made = Tree()
        database = dpkg.Database(made, leave_out=("/usr/share/doc/*",), keep=("/usr/share/doc/*/copyright",))
        database.unpack(package)
        database.finish()
        check_cpio(made.cpio(), members)
        promise(not left_in(place), "files on the host")


def change_deb(data: bytes, random: Random) -> bytes:
    """One of the two inner archives is mutated, mended and packed again, in any of the four ways."""
    try:
        members = dict(deb._ar(memoryview(data), ""))
    except VerificationFailed:
        return data
    parts = []
    for name, content in members.items():
        stem, dot, suffix = name.partition(".tar")
        if dot and random.random() < 0.6:
            try:
                inner = inflate.inflate(content, limit=LIMIT, name="")
            except VerificationFailed:
                continue
            inner = repair_tar(mutated(inner, random, inner, CONTROL_WORDS, (change_tar, change_pax)), random)
            suffix = random.choice(("", ".gz", ".xz", ".zst")) if random.random() < 0.2 else suffix
            parts.append((f"{stem}.tar{suffix}", packed(inner, suffix if suffix in (".gz", ".xz", ".zst") else "")))
        else:
            parts.append((name, bytes(content)))
    return ar_of(*parts)


def read_packages(data: bytes) -> None:
    """An index as the archive gives it: every package looked at, and the set that the first ones need."""
    index = resolve.Index([data.decode("utf-8", "replace")])
    names = [*index.essential, *list(index._places)[:3]]
    packages = resolve.resolve(index, names)
    for package in packages:
        promise(package.size >= 0, "a negative size")
        promise(".." not in package.filename.split("/") and package.filename[:1] != "/", "a path that climbs")


@lru_cache(maxsize=1)
def _signing_key() -> pysequoia.Tsk:
    return pysequoia.Tsk.generate(user_id="Throwaway <t@example.invalid>")


NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def read_release(data: bytes) -> None:
    """A release's text, signed by a throwaway key; what is signed already is verified with Debian's keys."""
    if data.startswith(b"-----BEGIN"):
        keys, signed = debian.archive_keys(), data
    else:
        keys = [_signing_key().extract_certificate()]
        signed = bytes(pysequoia.sign(_signing_key().signer(), data, mode=pysequoia.SignatureMode.CLEAR))
    archive = debian.Archive.__new__(debian.Archive)
    archive.release = debian.verify_release(signed, keys, "trixie", where="InRelease", now=NOW)
    for sha256, size in archive.digests.values():
        promise(isinstance(sha256, str) and size >= 0, "a size that is none")


# --- Alpine ----------------------------------------------------------------------------------------------------------

KEY = "throwaway.rsa.pub"


class Site:
    """In `Fetcher`'s place: what a mirror under somebody's control answers, by the end of the URL."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.report = Report(quiet=True)

    def fetch_proved(
        self, name: str, urls: list[str], check: Callable[[bytes], None], limit: int, *, fixed: bool = False
    ) -> bytes:
        data = self.files["APKINDEX.tar.gz" if name == "APKINDEX.tar.gz" else "apk"]
        promise(len(data) <= limit and "\n" not in urls[0], "an address of two lines")
        check(data)
        return data


@lru_cache(maxsize=1)
def rsa_key() -> tuple[int, int]:
    """The primes of a throwaway RSA key: the same always, so worthless to everybody."""
    random = Random("throwaway")
    small = prod(range(3, 2000, 2))  # a common factor with it is found faster than Fermat's test fails

    def prime() -> int:
        while True:
            number = random.getrandbits(1024) | 1 << 1023 | 1 << 1022 | 1
            if gcd(number, small) > 1 or number % 65537 == 1:
                continue
            if all(pow(base, number - 1, number) == 1 for base in (2, 3, 5)):  # Fermat's test: enough for a test's key
                return number

    return prime(), prime()


def sign(data: bytes) -> bytes:
    """PKCS #1 v1.5 with SHA-1, as Alpine signs."""
    one, other = rsa_key()
    digest = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(data).digest()
    block = b"\0\1" + b"\xff" * (256 - 3 - len(digest)) + b"\0" + digest
    number = int.from_bytes(block, "big")
    halves = [pow(number, pow(65537, -1, prime - 1), prime) for prime in (one, other)]  # RFC 8017, section 5.2.1
    return (halves[1] + other * ((halves[0] - halves[1]) * pow(other, -1, one) % one)).to_bytes(256, "big")


def der(tag: int, content: bytes) -> bytes:
    """One DER value."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def public_key() -> bytes:
    """The throwaway key's public half, in DER (RFC 5280, SubjectPublicKeyInfo)."""
    numbers = [der(2, b"\0" + number.to_bytes(size, "big")) for number, size in ((prod(rsa_key()), 256), (65537, 3))]
    algorithm = der(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    return der(0x30, algorithm + der(3, b"\0" + der(0x30, b"".join(numbers))))


def pem(content: bytes) -> bytes:
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(content) + b"-----END PUBLIC KEY-----\n"


def cut(archive: bytes) -> bytes:
    """Without its end mark."""
    return archive[: len(archive.rstrip(b"\0")) // 512 * 512 + 512]


def apk_of(data: bytes) -> tuple[bytes, str]:
    """A package whose data member is the tar archive `data`, and its `C:` field."""
    body = gzip.compress(data, 1, mtime=0)
    info = f"pkgname = x\ndatahash = {hashlib.sha256(body).hexdigest()}\n".encode()
    control = gzip.compress(cut(tar_of((".PKGINFO", info), (".post-install", b"#!/bin/sh\n"))), 1, mtime=0)
    return control + body, "Q1" + base64.b64encode(hashlib.sha1(control).digest()).decode()


def add_packages(index: bytes, package: bytes) -> None:
    """What `vpod-build` does for `[apk]`: a signed index, the packages `x` and what they need, the script to run."""
    with folder() as place:
        made = Tree()
        made.file("/etc/apk/repositories", b"https://site.invalid/alpine/v3.23/main\n")
        made.file(f"/etc/apk/keys/{KEY}", pem(public_key()))
        made.file("/etc/apk/world", b"busybox\n")
        made.file("/lib/apk/db/installed", b"C:Q1x\nP:musl\nV:1.2.5-r22\np:so:libc.musl-riscv64.so.1=1\nF:lib\n\n")
        signed = gzip.compress(tar_of(("DESCRIPTION", b"test"), ("APKINDEX", index)), 1, mtime=0)
        signature = gzip.compress(cut(tar_of((f".SIGN.RSA.{KEY}", sign(signed)))), 1, mtime=0)
        site: Any = Site({"APKINDEX.tar.gz": signature + signed, "apk": package})
        alpine.add(made, ["x"], site)
        made.cpio()
        promise(not left_in(place), "files on the host")


INDEX = (
    "C:{digest}\nP:x\nV:1-r0\nA:riscv64\nS:1\nI:1\nD:so:libc.musl-riscv64.so.1 y\n\n"
    "C:{digest}\nP:y\nV:2-r0\np:z=2\n\n"
)


def read_apkindex(data: bytes) -> None:
    """The index in an attacker's hands: `C:` fields that say `Q1DIGEST` get the digest of the package there is."""
    package, digest = apk_of(tar_of(("usr/bin/x", b"ELF")))
    add_packages(data.replace(b"Q1DIGEST", digest.encode()), package)


def read_apk(data: bytes) -> None:
    """A package's contents in an attacker's hands."""
    package, digest = apk_of(data)
    add_packages(INDEX.format(digest=digest).encode(), package)


def read_key(data: bytes) -> None:
    key = rsa.PublicKey.from_pem(data, name="x.rsa.pub")
    promise(rsa.MIN_BITS <= key.modulus.bit_length() <= rsa.MAX_BITS, "a key of another size")
    for algorithm in ("sha1", "sha256"):
        key.verifies(bytes(range(256)), data, algorithm)
        promise(not key.verifies(b"", data, algorithm), "no signature at all")


def change_key(data: bytes, random: Random) -> bytes:
    """The DER inside is mutated."""
    match = re.search(rb"KEY-----\n(.*)-----END", data, re.DOTALL)
    try:
        inner = base64.b64decode(match[1] if match else b"")
    except ValueError:
        return data
    return pem(mutated(inner, random, inner))


# --- kernel and recipes ----------------------------------------------------------------------------------------------


def module_of(*lines: bytes) -> bytes:
    """A kernel module as far as the builder looks: a section table with `.modinfo`."""
    info, names = b"\0".join(lines) + b"\0", b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 1, 243, 1, 0, 0, table, 5, 64, 0, 0, 64, 3, 2)
    sections = ((0, 0, 0, 0), (1, 1, 64, len(info)), (10, 3, 64 + len(info), len(names)))
    rows = [struct.pack("<IIQQQQIIQQ", title, kind, 0, 0, at, size, 0, 0, 1, 0) for title, kind, at, size in sections]
    return header + info + names + b"".join(rows)


def read_module(data: bytes) -> None:
    """A module among others: what it needs is taken too, in an order that works."""
    kernel.modinfo(data, "x.ko")
    files = {"kernel/x.ko": memoryview(data), "kernel/y.ko.gz": memoryview(packed(module_of(b"depends="), ".gz"))}
    made = kernel.Kernel("6.12", b"", b"", [])
    description = kernel.Description("test", "trixie", ("main",), "linux", "Image", "opensbi", "fw", ("x",), ())
    kernel._take_modules(made, description, files)
    promise(len(made.boot) == len(set(made.boot)) == len(made.modules), "a module twice, or not at all")
    made.install(Tree())


def read_image(data: bytes) -> None:
    layout = boot.place(256 << 20, b"firmware", data, b"initrd")
    promise(layout.kernel_end <= layout.initrd < layout.initrd_end <= layout.tree, "parts of the machine overlap")


def read_recipe(data: bytes) -> None:
    with folder() as place:
        path = place / "x.toml"
        path.write_bytes(data)
        (place / "base.toml").write_text(BASE)
        found = recipe.load(path)
        promise("/" not in f"{found.name}{''.join(found.tags)}{found.kernel}", "a name that is a path")
        promise(set(left_in(place)) == {"x.toml", "base.toml"}, "other files")


BASE = """name = "base"
tags = ["1"]
summary = "what others are based on"
memory = "256M"
kernel = "debian-stock"
[debian]
suite = "trixie"
components = ["main"]
packages = ["bash"]
"""
RELEASE = f"Origin: Debian\nSuite: stable\nCodename: trixie\nDate: {format_datetime(NOW, usegmt=True)}\n"
CONTROL_WORDS = (
    b"Package: ", b"Version: ", b"Architecture: all\n", b"Depends: ", b" (>= 1)", b"\n ", b"\n\n", b"../", b"/etc/",
)  # fmt: skip
_PARTS = sources(deb, deb822, dpkg, certificates, tar, tree)
SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "tar", read_tar, (VerificationFailed, BuildError), sources(tar, tree), (change_tar, change_pax), repair_tar
        ),
        Subject("inflate", read_inflate, (VerificationFailed,), sources(inflate)),
        Subject("deb", read_deb, (VerificationFailed, BuildError), _PARTS, (change_deb,), words=CONTROL_WORDS),
        Subject(
            "packages", read_packages, (VerificationFailed, BuildError), sources(resolve, deb822), words=CONTROL_WORDS
        ),
        Subject(
            "release", read_release, (VerificationFailed,), sources(debian, deb822), words=(b"SHA256:\n ", b"Date: ")
        ),
        Subject("apkindex", read_apkindex, (SourceError, BuildError), sources(alpine)),
        Subject(
            "apk", read_apk, (SourceError, BuildError), sources(alpine, tar, tree), (change_tar, change_pax), repair_tar
        ),
        Subject("key", read_key, (VerificationFailed,), sources(rsa), (change_key,)),
        Subject("module", read_module, (VerificationFailed, BuildError), sources(kernel)),
        Subject("image", read_image, (BuildError,), sources(boot)),
        Subject("recipe", read_recipe, (BuildError,), sources(recipe)),
    )
}  # fmt: skip
