"""A root filesystem in memory, and its cpio archive.

Packages and tarballs are unpacked into this tree instead of a folder: owners and device nodes need no root
rights, no symbolic link can lead onto the host, and the result is the same on every host.

    >>> tree = Tree()
    >>> tree.file("/etc/hostname", b"vpod\\n")
    >>> tree.symlink("/bin", "usr/bin")
    >>> tree.cpio()[:6]
    b'070701'

Invariants: keys are clean relative paths; every key's parent is a folder in the tree; two keys with the same
`Node` are hard links. Paths are looked up the way a kernel chrooted into the tree would: symbolic links in the
middle are followed *inside* the tree, at most `MAX_LINKS` of them, and `..` at the root is the root.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vpod.errors import BuildError, VerificationFailed

from .tar import MAX_PATH, Entry, Kind, clean_path

MAX_LINKS = 40  # Linux's own limit (path_resolution(7))
MAX_BYTES = 3 << 30  # of file contents in one tree: more than any machine's RAM that could hold it is useless
MAX_NAMES = 256 << 20  # bytes of all paths together: one short member may ask for two thousand folders above it


@dataclass(slots=True, eq=False)
class Node:
    """A file, folder, link or device. `data` is contents or, for a symbolic link, its target."""

    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


class Tree:
    """The filesystem being put together. Paths may be given with or without a leading slash."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {"": Node(Kind.DIRECTORY, 0o755)}
        self._bytes = 0
        self._names = 0

    def __iter__(self) -> Iterator[str]:
        """Every path in a fixed order, parents before children."""
        return iter(sorted(self._nodes))

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None

    @property
    def size(self) -> int:
        """Bytes of all file contents, hard links counted once."""
        return sum(len(node.data) for node in set(self._nodes.values()) if node.kind is Kind.FILE)

    def get(self, path: str, *, follow: bool = True) -> Node | None:
        """The node at `path`, or None; `follow` also follows a symbolic link in last place."""
        found = self._lookup(path, follow)
        return self._nodes.get(found) if found is not None else None

    def node(self, path: str) -> Node:
        """The file at `path`; `BuildError` if there is no such file."""
        node = self.get(path)
        if node is None or node.kind is not Kind.FILE:
            raise BuildError(f"the root filesystem has no file {path}, which this build needs")
        return node

    def read(self, path: str) -> bytes:
        """A file's contents; `BuildError` if there is no such file."""
        return self.node(path).data

    def glob(self, pattern: str) -> list[str]:
        """Paths that match a shell pattern (`*` also matches `/`), sorted."""
        pattern = pattern.lstrip("/")
        return [path for path in self if fnmatch.fnmatchcase(path, pattern)]

    def folder(self, path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0, mtime: int = 0) -> None:
        """Make a folder and those above it; one that is there gets the mode and owner given."""
        self._put(path, Node(Kind.DIRECTORY, mode, uid, gid, mtime))

    def file(self, path: str, data: bytes, mode: int = 0o644, *, uid: int = 0, gid: int = 0, mtime: int = 0) -> None:
        """Write a file, replacing what is there, with the folders above it."""
        self._put(path, Node(Kind.FILE, mode, uid, gid, mtime, data))

    def symlink(self, path: str, target: str, *, mtime: int = 0) -> None:
        """Make a symbolic link with `target` as its text."""
        self._put(path, Node(Kind.SYMLINK, 0o777, mtime=mtime, data=_encode(target)))

    def device(self, path: str, kind: Kind, major: int, minor: int, mode: int = 0o600) -> None:
        """Make a character or block device node."""
        self._put(path, Node(kind, mode, device=(major, minor)))

    def remove(self, path: str) -> None:
        """Take away what is at `path`, a folder with all that is in it; nothing there is no error."""
        found = self._lookup(path, follow=False)
        if not found:
            return
        for victim in [key for key in self._nodes if key == found or key.startswith(found + "/")]:
            del self._nodes[victim]

    def unpack(
        self, members: Iterable[Entry], *, name: str, skip: Sequence[str] = (), keep: Sequence[str] = ()
    ) -> list[str]:
        """Add an archive's members and give their paths in order, with a leading slash; the root itself is `/.`.

        `skip` are shell patterns of absolute paths not to add (`*` also matches `/`) unless a pattern of `keep` matches
        too; what is skipped is listed all the same. As dpkg does, a folder laid over a symbolic link to a folder keeps
        the link. Raises `VerificationFailed` for members that lay a link over a folder, hang below a file, or link to
        what is not there.
        """
        skipping, keeping = _patterns(skip), _patterns(keep)
        added: list[str] = []
        for entry in members:
            path = "/" + entry.path
            added.append(path if entry.path else "/.")
            if skipping.match(path) and not keeping.match(path):
                continue
            try:
                self._add(entry)
            except BuildError as error:
                raise VerificationFailed(f"{name}: {error}") from error
        return added

    def _add(self, entry: Entry) -> None:
        """One archive member into the tree."""
        if entry.kind is Kind.HARDLINK:
            target = self.get(entry.target, follow=False)
            if target is None or target.kind is not Kind.FILE:
                raise BuildError(f"/{entry.path} is a hard link to /{entry.target}, which is no file of the tree")
            self._put(entry.path, target)
            return
        data = _encode(entry.target) if entry.kind is Kind.SYMLINK else bytes(entry.data)
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise BuildError(f"more than {MAX_BYTES >> 20} MiB of files; refused")
        self._put(entry.path, Node(entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, data, entry.device))

    def _put(self, path: str, node: Node) -> None:
        """Place a node, making parents; what is there is replaced unless one of the two is a folder."""
        path = clean_path(path.lstrip("/"), "the root filesystem")
        parent, _, last = path.rpartition("/")
        above = self._made(parent)
        place = f"{above}/{last}" if above else last
        there = self._nodes.get(place)
        if node.kind is Kind.DIRECTORY and there is not None and there.kind is Kind.SYMLINK:
            behind = self.get(place)
            if behind is not None and behind.kind is Kind.DIRECTORY:
                return
        if there is not None and (there.kind is Kind.DIRECTORY) != (node.kind is Kind.DIRECTORY):
            raise BuildError(f"/{path} is a {node.kind.name.lower()} here and a {there.kind.name.lower()} before")
        self._set(place, node)

    def _made(self, path: str) -> str:
        """The key of the folder at the clean `path`, which is made, with those above it, where there is none."""
        there = self._nodes.get(path)
        if there is not None and there.kind is Kind.DIRECTORY:  # a key: so there is no link on the way
            return path
        key = ""
        for part in path.split("/"):
            key = f"{key}/{part}" if key else part
            there = self._nodes.get(key)
            if there is not None and there.kind is Kind.SYMLINK:
                found = self._lookup(key, follow=True)
                there = self._nodes.get(found) if found is not None else None
                if found is None or there is None:
                    raise BuildError(f"/{path} is a directory here and a symlink before, to what is not there")
                key = found
            if there is None:
                self._set(key, Node(Kind.DIRECTORY, 0o755))
            elif there.kind is not Kind.DIRECTORY:
                raise BuildError(f"something would lie below /{path}, in which /{key} is no folder")
        return key

    def _set(self, key: str, node: Node) -> None:
        """A node at the place that no link leads away from; links may have made it longer than Linux's paths are."""
        if key not in self._nodes:
            size = len(_encode(key))
            self._names += size
            if size > MAX_PATH or self._names > MAX_NAMES:
                raise BuildError(f"/{key[:80]}… is longer than a path may be, or all paths together are; refused")
        self._nodes[key] = node

    def _lookup(self, path: str, follow: bool) -> str | None:
        """The key that `path` leads to, symbolic links followed inside the tree; None where it leads nowhere.

        The key of a missing last part is given too (its parent exists), so that the caller can create it.
        """
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            key = "/".join([*done, part])
            node = self._nodes.get(key)
            if node is not None and node.kind is Kind.SYMLINK and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise BuildError(f"/{path}: more than {MAX_LINKS} symbolic links on the way; they go in a circle")
                target = _decode(node.data)
                if target.startswith("/"):
                    done = []
                todo += [step for step in reversed(target.split("/")) if step not in ("", ".")]
                continue
            if node is None and todo:
                return None
            done.append(part)
        return "/".join(done)

    def cpio(self) -> bytes:
        """The whole tree as an uncompressed `newc` cpio archive (kernel, driver-api/early-userspace/buffer-format).

        Reproducible: sorted, inode numbers counted from 1. Of hard links the last carries the contents.
        """
        names: dict[Node, list[str]] = {}
        for path in self:
            names.setdefault(self._nodes[path], []).append(path)
        inodes = {node: number for number, node in enumerate(names, 1)}
        pieces: list[bytes] = []
        for path in self:
            node = self._nodes[path]
            last = names[node][-1] == path
            links = len(names[node]) if node.kind is Kind.FILE else 1
            pieces.append(_record(path or ".", node, inodes[node], links, node.data if last else b""))
        pieces.append(_record("TRAILER!!!", Node(Kind.HARDLINK, 0), 0, 1, b""))
        return b"".join(pieces)


def _record(path: str, node: Node, inode: int, links: int, data: bytes) -> bytes:
    """One cpio record: 13 numbers in eight hex digits each, the name, the contents, both padded to four."""
    name = _encode(path) + b"\0"
    if len(data) > 0xFFFFFFFF:
        raise BuildError(f"/{path}: {len(data)} bytes do not fit a cpio archive")
    fields = (
        inode, node.kind.value | node.mode, node.uid, node.gid, links, node.mtime, len(data),
        0, 0, *node.device, len(name), 0,
    )  # fmt: skip
    head = b"070701" + b"".join(b"%08x" % number for number in fields) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _patterns(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for all of them; no pattern matches nothing."""
    return re.compile("|".join(fnmatch.translate(each) for each in patterns) or r"(?!)")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")

