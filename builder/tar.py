"""Reading tar archives that may be hostile.

Python's `tarfile` forgives much and, on some supported versions, loops for ever on a negative offset. What a
build reads is little: ustar headers with GNU long names or pax records. So this reader accepts exactly that,
checks every length before it is used, and gives entries whose paths cannot leave the tree.

    >>> for entry in entries(inflate(data, limit=1 << 30, name="rootfs.tar.gz"), name="rootfs.tar.gz"):
    ...     print(entry.path, entry.kind)

Invariants: an entry's `path` is relative, without empty, `.` or `..` parts (`""` is the root itself); a hard
link's target likewise; `data` is a view into the archive, never longer than it; sparse files, negative numbers
and unknown types are refused. Sources: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from vpod.errors import VerificationFailed

MAX_ENTRIES = 400_000
MAX_PATH = 4095  # Linux PATH_MAX without its NUL
MAX_NAME = 255  # Linux NAME_MAX
_MAX_EXTENSION = 1 << 20  # bytes of one pax header or long name


class Kind(Enum):
    """What an entry is; the value is the file-type part of `st_mode`."""

    FILE = 0o100000
    DIRECTORY = 0o040000
    SYMLINK = 0o120000
    CHARACTER = 0o020000
    BLOCK = 0o060000
    FIFO = 0o010000
    HARDLINK = 0


_TYPES = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER, b"4": Kind.BLOCK, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip


@dataclass(slots=True)
class Entry:
    """One member. `target` is a symlink's text or a hard link's clean path; `device` is (major, minor)."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    data: memoryview
    target: str = ""
    device: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


def clean_path(path: str, name: str) -> str:
    """`./usr/bin/` → `usr/bin`; `VerificationFailed` naming archive `name` for a path that is not simply inside."""
    if path.startswith("/"):
        raise VerificationFailed(f"{name}: absolute path {path[:80]!r} in the archive; refused")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise VerificationFailed(f"{name}: path {path[:80]!r} in the archive climbs out of it; refused")
    longest = max(map(_length, parts), default=0)
    if "\0" in path or _length(path) > MAX_PATH or longest > MAX_NAME:
        raise VerificationFailed(f"{name}: path {path[:80]!r}… in the archive is not one Linux allows; refused")
    return "/".join(parts)


def _length(text: str) -> int:
    """Bytes, which is what Linux counts."""
    return len(text.encode("utf-8", "surrogateescape"))


def entries(data: bytes | memoryview, *, name: str, cut: bool = False) -> Iterator[Entry]:
    """The members of an uncompressed archive, in order.

    `name` is for messages; `cut` says that the archive has no end mark, as those inside of Alpine's packages.
    Raises `VerificationFailed` for whatever is malformed, cut short or would escape.
    """
    view = memoryview(data)
    position = count = 0
    pax: dict[str, str] = {}
    long_name = long_link = ""
    while True:
        header = bytes(view[position : position + 512])
        if cut and not header:
            return
        if len(header) < 512:
            raise VerificationFailed(f"{name}: the archive ends without its end mark; it was cut short, fetch it again")
        if header == bytes(512):
            return
        count += 1
        if count > MAX_ENTRIES:
            raise VerificationFailed(f"{name}: more than {MAX_ENTRIES} members; refused")
        _check_sum(header, name)
        kind, size = header[156:157], _number(header[124:136], name)
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):  # these have no data, whatever `size` says
            size = 0
        if "size" in pax and kind not in (b"x", b"g", b"L", b"K"):
            size = _decimal(pax["size"], name)
        start = position + 512
        if size > len(view) - start:
            raise VerificationFailed(f"{name}: a member claims {size} bytes, more than the archive holds")
        position = start + -(-size // 512) * 512
        content = view[start : start + size]
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MAX_EXTENSION:
                raise VerificationFailed(f"{name}: an extension header of {size} bytes; refused")
            if kind == b"x":
                pax = _pax(bytes(content), name)
            elif kind == b"L":
                long_name = _text(bytes(content))
            elif kind == b"K":
                long_link = _text(bytes(content))
            continue
        yield _entry(header, content, pax, long_name, long_link, name)
        pax, long_name, long_link = {}, "", ""


def _entry(
    header: bytes, content: memoryview, pax: dict[str, str], long_name: str, long_link: str, name: str
) -> Entry:
    """One member from its ustar header and the extensions that came before it."""
    kind = _TYPES.get(header[156:157])
    if kind is None or any(key.startswith("GNU.sparse") for key in pax):
        raise VerificationFailed(f"{name}: a member of type {header[156:157]!r} (or sparse); this reader refuses those")
    path = pax.get("path") or long_name or _ustar_name(header)
    target = pax.get("linkpath") or long_link or _text(header[157:257])
    if kind is Kind.FILE and path.endswith("/"):  # the way of archives older than ustar to say "folder"
        kind = Kind.DIRECTORY
    if kind is Kind.HARDLINK:
        target = clean_path(target, name)
    elif kind is Kind.SYMLINK and (not target or len(target) > MAX_PATH or "\0" in target):
        raise VerificationFailed(f"{name}: symbolic link {path[:80]!r} has no usable target")
    device = (0, 0)
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        device = (_number(header[329:337], name), _number(header[337:345], name))
        if device[0] > 0xFFF or device[1] > 0xFFFFF:
            raise VerificationFailed(f"{name}: device number {device} of {path[:80]!r} is not one Linux has")
    uid = _decimal(pax["uid"], name) if "uid" in pax else _number(header[108:116], name)
    gid = _decimal(pax["gid"], name) if "gid" in pax else _number(header[116:124], name)
    mtime = _decimal(pax["mtime"].partition(".")[0], name) if "mtime" in pax else _number(header[136:148], name)
    mode = _number(header[100:108], name) & 0o7777
    if uid > 0xFFFFFFFE or gid > 0xFFFFFFFE:
        raise VerificationFailed(f"{name}: owner {uid}:{gid} of {path[:80]!r} is not one Linux has")
    data = content if kind is Kind.FILE else content[:0]
    return Entry(clean_path(path, name), kind, mode, uid, gid, min(mtime, 0xFFFFFFFF), data, target, device, pax)


def _ustar_name(header: bytes) -> str:
    """`prefix/name`; the prefix exists only where the magic says POSIX ustar (GNU keeps times there)."""
    text, prefix = _text(header[0:100]), ""
    if header[257:263] == b"ustar\0":
        prefix = _text(header[345:500])
    return f"{prefix}/{text}" if prefix else text


def _check_sum(header: bytes, name: str) -> None:
    """The header's checksum: its bytes added up, the checksum field itself counted as spaces."""
    if sum(header[:148]) + 8 * 0x20 + sum(header[156:]) != _number(header[148:156], name):
        raise VerificationFailed(f"{name}: a tar header's checksum is wrong; the archive is damaged, fetch it again")


def _number(raw: bytes, name: str) -> int:
    """Octal text, or GNU's base-256 for large values; negative ones are refused."""
    if raw[0] & 0x80:
        if raw[0] != 0x80:
            raise VerificationFailed(f"{name}: a negative number in a tar header; refused")
        return int.from_bytes(raw[1:], "big")
    text = raw.split(b"\0")[0].strip()
    if not text:
        return 0
    if any(digit not in b"01234567" for digit in text):
        raise VerificationFailed(f"{name}: {raw!r} in a tar header is no octal number")
    return int(text, 8)


def _decimal(text: str, name: str) -> int:
    """A non-negative decimal of a pax record."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise VerificationFailed(f"{name}: {text[:40]!r} in a pax header is no number")
    return int(text)


def _pax(raw: bytes, name: str) -> dict[str, str]:
    """Records of the form `length key=value\\n`, where the length counts itself (pax, "Extended Header")."""
    records: dict[str, str] = {}
    position = 0
    while position < len(raw):
        digits, space, _ = raw[position : position + 20].partition(b" ")
        if not space or not digits.isdigit():
            raise VerificationFailed(f"{name}: a malformed pax header")
        length = int(digits)
        record = raw[position + len(digits) + 1 : position + length]
        if length <= len(digits) + 1 or position + length > len(raw) or not record.endswith(b"\n"):
            raise VerificationFailed(f"{name}: a malformed pax header")
        key, _, value = record[:-1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


def _text(raw: bytes) -> str:
    """A NUL-ended field as text; bytes that are no UTF-8 survive a round trip."""
    return raw.split(b"\0")[0].decode("utf-8", "surrogateescape")
