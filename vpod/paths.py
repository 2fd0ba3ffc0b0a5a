"""Where vpod keeps its files, and how it puts them there: whole or not at all.

    VPOD_HOME set                  not set, Linux                  not set, macOS
    $VPOD_HOME/                    ~/.local/share/vpod/            ~/Library/Application Support/vpod/
    ├── snapshots/                 ├── snapshots/                  ├── snapshots/
    ├── kernels/                   └── kernels/                    └── kernels/
    ├── expanded/                  ~/.cache/vpod/                  ~/Library/Caches/vpod/
    └── downloads/                 └── expanded/  downloads/       └── expanded/  downloads/

(``XDG_DATA_HOME`` and ``XDG_CACHE_HOME`` move the Linux folders: XDG Base Directory Specification.) What stands under
``snapshots`` and ``kernels`` (those built here) is the user's; the other two can be deleted at any time and fill again
by themselves.

Invariants:

- A file that others may read appears by `rename` only, complete. What a killed process leaves behind begins with a dot,
  ends in ``.part`` and holds no lock any more; the next write to the same name sweeps it away.
- Folders are made readable by their owner alone, and a folder that every user may write to is refused: whoever can
  change a machine's memory on disk owns the machine.
- Importing this module costs nothing but the standard library's `os`: a warm start reads two small files and no more.

>>> with writing(download_folder() / "notes") as file:              # doctest: +SKIP
...     written = file.write(b"there at once, or never")
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vpod.errors import VpodError

__all__ = ["cache_folder", "download_folder", "home", "kernel_folder", "locked", "snapshot_folder", "writing"]


def home() -> Path:
    """The folder of everything worth keeping; ``VPOD_HOME``, or the platform's data folder. It may not exist yet."""
    return _chosen_home() or _platform_folder("XDG_DATA_HOME", ".local/share", "Library/Application Support")


def snapshot_folder() -> Path:
    """The folder of named snapshots, made if need be. Raises `VpodError` when it cannot be made or is open to all."""
    return _made(home() / "snapshots")


def kernel_folder() -> Path:
    """The folder of kernels that were built here, made if need be. Raises `VpodError`."""
    return _made(home() / "kernels")


def cache_folder() -> Path:
    """The folder of expanded machines, made if need be; may be deleted at any time. Raises `VpodError`."""
    return _made(_cache() / "expanded")


def download_folder() -> Path:
    """The folder of downloads, finished and unfinished, made if need be. Raises `VpodError`."""
    return _made(_cache() / "downloads")


def _cache() -> Path:
    return _chosen_home() or _platform_folder("XDG_CACHE_HOME", ".cache", "Library/Caches")


def _chosen_home() -> Path | None:
    chosen = os.environ.get("VPOD_HOME")
    return Path(os.path.abspath(os.path.expanduser(chosen))) if chosen else None


def _platform_folder(variable: str, linux: str, macos: str) -> Path:
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~"), macos, "vpod")
    named = os.environ.get(variable, "")
    # "If an implementation encounters a relative path in any of these variables it should … ignore it."
    base = named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), linux)
    return Path(base, "vpod")


def _made(folder: Path) -> Path:
    """`folder`, existing and not writable by everyone."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        mode = os.stat(folder).st_mode
    except OSError as error:
        why = error.strerror
        raise VpodError(f"{folder}: cannot be made or used ({why}); name a folder of yours in VPOD_HOME") from None
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise VpodError(f"{folder}: every user of this computer may write to it; run: chmod o-w '{folder}'")
    return folder


@contextmanager
def writing(path: str | os.PathLike[str], *, mode: int = 0o600, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that becomes `path` when the block ends well, and vanishes when it does not.

    The file stands beside its place (so `path`'s folder must exist), open for reading and writing, and is `mode` when
    it gets its name. `durable` waits for the disk before the rename, so that not even a power failure leaves a file
    with its name but without its contents. Two processes may write the same path at once: each puts a whole file, the
    last stays.

    Raises `OSError`, a full disk included; then `path` is as it was and nothing is left beside it.
    """
    path = Path(path)
    _sweep(path)
    file, temporary = _claimed(path)
    try:
        with file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
            os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _claimed(path: Path) -> tuple[BinaryIO, Path]:
    """A fresh temporary file for `path`, locked so that no `_sweep` takes it while its writer lives."""
    for _ in range(100):
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else a sweep came between creation and lock
            return file, temporary
        file.close()
    raise OSError(errno.EBUSY, "temporary files vanish as soon as they are made", str(path.parent))


def _sweep(path: Path) -> None:
    """Deletes what killed writers of `path` left behind: temporary files that nobody holds a lock on."""
    for name in filter(lambda name: _is_temporary(name, path.name), os.listdir(path.parent)):
        with suppress(OSError), open(path.with_name(name), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(file.name)


def _is_temporary(name: str, target: str) -> bool:
    middle = name[len(target) + 2 : -len(".part")]
    return name == f".{target}.{middle}.part" and len(middle) == 16 and "." not in middle


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds `path`, a lock file made for the purpose, against every other process and thread; waits for its turn.

    Its holder deletes the file at the end; those who wait notice, and make another. Raises `OSError` when it cannot be
    made.
    """
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_same(file, path):
                try:
                    yield
                finally:
                    if _is_same(file, path):
                        os.unlink(path)
                return


def _is_same(file: BinaryIO, path: str | os.PathLike[str]) -> bool:
    """Whether the open `file` is still the one that `path` names."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)
