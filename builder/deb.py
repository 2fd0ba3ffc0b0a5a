"""Opening a `.deb`: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*` (deb(5)).

    >>> deb = Deb(path.read_bytes(), name="hello_2.10_riscv64.deb")
    >>> deb.control["Version"], [entry.path for entry in deb.members()][:2]
    ('2.10', ['usr', 'usr/bin'])

Invariants: what is larger than `MAX_CONTROL` or `MAX_DATA` when unpacked is refused; every member's length is
checked against the file; maintainer scripts are only kept as bytes, never run on the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vpod.errors import VerificationFailed

from . import deb822
from .inflate import inflate
from .tar import Entry, Kind, entries

MAX_CONTROL = 16 << 20
MAX_DATA = 1 << 30


class Deb:
    """One package: its control fields, its other control files, and its contents."""

    def __init__(self, data: bytes | memoryview, *, name: str) -> None:
        """`name` is for messages. Raises `VerificationFailed` for what is no sound Debian package."""
        self.name = name
        members = dict(_ar(memoryview(data), name))
        if bytes(members.get("debian-binary", b""))[:2] != b"2.":
            raise VerificationFailed(f"{name}: not a Debian package of format 2")
        self._data = self._member(members, "data.tar")
        control = inflate(self._member(members, "control.tar"), limit=MAX_CONTROL, name=name)
        #: control files by name: `postinst`, `md5sums`, `conffiles`, `triggers` …
        self.files: dict[str, tuple[bytes, int]] = {
            entry.path: (bytes(entry.data), entry.mode)
            for entry in entries(control, name=name)
            if entry.kind is Kind.FILE
        }
        if "control" not in self.files:
            raise VerificationFailed(f"{name}: has no control file")
        self.control = deb822.parse(self.text("control"), name)
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", self.control.get("Package", "")):
            raise VerificationFailed(f"{name}: its control file names no package")

    @property
    def package(self) -> str:
        """The package's name."""
        return self.control["Package"]

    def text(self, file: str) -> str:
        """A control file as text; empty where there is none."""
        return self.files.get(file, (b"", 0))[0].decode("utf-8", "replace")

    def members(self) -> Iterator[Entry]:
        """What the package puts onto the filesystem."""
        return entries(inflate(self._data, limit=MAX_DATA, name=self.name), name=self.name)

    def _member(self, members: dict[str, memoryview], stem: str) -> memoryview:
        for suffix in ("", ".gz", ".xz", ".zst"):
            if stem + suffix in members:
                return members[stem + suffix]
        raise VerificationFailed(f"{self.name}: has no {stem} that is plain, gzip, xz or zstd")


def _ar(view: memoryview, name: str) -> Iterator[tuple[str, memoryview]]:
    """The members of a common-format `ar` archive: a 60-byte header each, padded to even."""
    if bytes(view[:8]) != b"!<arch>\n":
        raise VerificationFailed(f"{name}: not a Debian package (no ar archive)")
    position = 8
    while position < len(view):
        header = bytes(view[position : position + 60])
        digits = header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not digits.isdigit():
            raise VerificationFailed(f"{name}: a damaged ar header; fetch it again")
        start, length = position + 60, int(digits)
        if length > len(view) - start:
            raise VerificationFailed(f"{name}: cut short; fetch it again")
        yield header[:16].rstrip(b" ").rstrip(b"/").decode("latin-1"), view[start : start + length]
        position = start + length + length % 2
