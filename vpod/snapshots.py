"""Snapshots by name: which there are, where each is, and how one that is not here comes here.

A name is `NAME[:TAG]`. The tag `latest`, also meant when none is given, is the snapshot of that very tag if there is
one, else the highest version of that name on this machine, else what the built-in recipes call the latest. A path
(anything with a `/`, or ending in `.snap`) names a file instead.

    paths.snapshot_folder()                        paths.cache_folder()
    ├── alpine@3.23.snap     what is here          ├── <identity>.ram      RAM, sparse, read-only; workers map it
    ├── debian@13.snap                             └── <identity>.state    metadata and state, with their digest
    └── default              "debian:13"

A warm start reads the header of the `.snap` file (its identity), the small `.state` file, and looks at the `.ram` file
without reading it. Invariants:

- A `.ram` file is used only when its size is right and its modification time is the one made from its identity: writing
  to it, cutting it or copying it carelessly changes one of them, and then it is made again. (It is a whole number of
  seconds, so that archives and container images keep it.) Nothing guards against its owner, who could do anything.
- Both files appear by `rename`, the `.state` file last; one process expands a snapshot, the others wait for it.
- `vpod` never imports the builder: what must be built is built by the program `vpod-build`, which writes to
  `path_of(name)` and, for the default, calls `set_default`.

>>> cached = locate("alpine:3.23")                                                       # doctest: +SKIP
>>> machine = Machine.restore(cached.state, os.open(cached.ram_path, os.O_RDONLY))       # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vpod import paths, registry, snapshot
from vpod.errors import BuildError, SnapshotError, SnapshotNotFound
from vpod.registry import fetch_registry, is_name, publish

if TYPE_CHECKING:
    Progress = Callable[[int, int], None]

__all__ = [
    "RECIPES",
    "Cached",
    "Recipe",
    "catalog",
    "default",
    "fetch_registry",
    "local",
    "locate",
    "parse",
    "path_of",
    "prune",
    "publish",
    "pull",
    "remove",
    "set_default",
    "usage",
]


class Recipe(NamedTuple):
    """A built-in recipe: `key` is what `vpod-build` calls it; `aliases` are other tags that mean this one."""

    name: str
    tag: str
    key: str
    description: str
    has_python: bool
    aliases: tuple[str, ...] = ()


RECIPES = (
    Recipe("alpine", "3.23", "alpine-3.23", "Alpine Linux 3.23.0: busybox, musl, apk", False, ("latest",)),
    Recipe("alpine", "3.23-python", "alpine-3.23-python", "Alpine Linux 3.23 with Python 3, pip and requests", True),
    Recipe("alpine", "3.22", "alpine-3.22", "Alpine Linux 3.22.2: busybox, musl, apk", False),
    Recipe("alpine", "3.20", "alpine-3.20", "Alpine Linux 3.20.8: busybox, musl, apk", False),
    Recipe("debian", "13", "debian-13", "Debian 13 (trixie): apt, Python 3, pip, requests", True, ("trixie", "latest")),
)

VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,9}")
STATE_MAGIC = b"\x89VPODC\r\n"
STATE_HEADER = struct.Struct("<8s32s32sQII")  # magic; digest of all that follows; identity; sizes: RAM, metadata, state
COVERED = len(STATE_MAGIC) + 32  # where that digest ends, and what it covers begins
MAX_STATE_FILE = STATE_HEADER.size + snapshot.MAX_META + snapshot.MAX_STATE
EXPANDED = re.compile(r"([0-9a-f]{64})\.(ram|state)")


# --- names -----------------------------------------------------------------------------------------------------------


class Ref(NamedTuple):
    """A snapshot's name and tag, both checked."""

    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


def parse(ref: str) -> Ref:
    """`NAME[:TAG]` as name and tag, `latest` when none is given. Raises `SnapshotNotFound` for what is no name."""
    name, colon, tag = ref.partition(":")
    tag = tag if colon else "latest"
    if not is_name(name) or not is_name(tag):
        raise SnapshotNotFound(
            f"{ref[:200]!r} is not a snapshot's name: that is NAME or NAME:TAG, of a-z 0-9 . _ -, such as alpine:3.23"
        )
    return Ref(name, tag)


def path_of(ref: str) -> Path:
    """Where the snapshot named exactly `ref` is kept, or would be. Raises `SnapshotNotFound` for what is no name."""
    return _path(parse(ref))


def _path(ref: Ref) -> Path:
    return paths.snapshot_folder() / f"{ref.name}@{ref.tag}.snap"  # no name contains "@"


def _named(folder: Path) -> list[Ref]:
    """The names of the snapshots in `folder`, in order."""
    refs = []
    for file in os.listdir(folder):
        name, at, tag = file.removesuffix(".snap").partition("@")
        if at and file.endswith(".snap") and is_name(name) and is_name(tag):
            refs.append(Ref(name, tag))
    return sorted(refs, key=lambda ref: (ref.name, _version(ref.tag), ref.tag))


def _version(tag: str) -> tuple[int, ...]:
    """`3.23` as (3, 23), to be compared; what is not a version is lower than all that are."""
    return tuple(map(int, tag.split("."))) if VERSION.fullmatch(tag) else ()


def _latest(refs: list[Ref], name: str) -> Ref | None:
    """What `name:latest` means among `refs`: that tag itself, or the highest version."""
    versions = [ref for ref in refs if ref.name == name and _version(ref.tag)]
    exact = Ref(name, "latest")
    return exact if exact in refs else max(versions, key=lambda ref: _version(ref.tag), default=None)


def _recipe(ref: Ref) -> Recipe | None:
    """The built-in recipe that makes `ref`."""
    for recipe in RECIPES:
        if recipe.name == ref.name and ref.tag in (recipe.tag, *recipe.aliases):
            return recipe
    return None


def _here(ref: Ref) -> Path | None:
    """The file of the snapshot that `ref` means on this machine, if it is here."""
    path = _path(ref)
    if path.exists():
        return path
    if ref.tag == "latest":
        found = _latest(_named(path.parent), ref.name)
        return _path(found) if found else None
    path = _path(_canonical(ref))
    return path if path.exists() else None


def _canonical(ref: Ref) -> Ref:
    """The proper name of `ref` where the built-in recipes have several: `debian:13` for `debian:trixie`."""
    recipe = _recipe(ref)
    return Ref(recipe.name, recipe.tag) if recipe else ref


# --- ready to run ----------------------------------------------------------------------------------------------------


class Cached(NamedTuple):
    """A snapshot that is ready to run: `meta`, `state`, and `ram_path`, a read-only file of its RAM to be mapped.

    `id` is its identity and `path` the `.snap` file that it came from.
    """

    id: str
    meta: dict[str, Any]
    state: bytes
    ram_path: Path
    path: Path


def locate(ref: str, *, fetch: bool = True, progress: Progress | None = None, quiet: bool = False) -> Cached:
    """The snapshot `ref`, `NAME[:TAG]` or a path, ready to run.

    When it is not here and `fetch` holds, it is pulled first; `progress` hears of bytes, while downloading and again
    while expanding; `quiet` silences a build. Raises `SnapshotNotFound`, and what `pull` and `Snapshot` raise.
    """
    if "/" in ref or ref.endswith(".snap"):
        return _ready(Path(ref), progress)
    path = _here(parse(ref))
    if path is None:
        if not fetch:
            raise SnapshotNotFound(f"{ref}: there is no such snapshot here; `vpod pull {ref}` gets it")
        path = pull(ref, progress, quiet=quiet)
    return _ready(path, progress)


def default(progress: Progress | None = None, *, quiet: bool = False) -> Cached:
    """The default snapshot, ready to run.

    It is the file `VPOD_SNAPSHOT`; else the one that was made the default (`set_default`); else one with Python among
    the built-in recipes' that is here, or in the registry; else what `vpod-build --default` makes. Raises as `locate`.
    """
    chosen = os.environ.get("VPOD_SNAPSHOT")
    if chosen:
        return _ready(Path(chosen), progress)
    path = _default_here()
    if path is None:
        with paths.locked(paths.snapshot_folder() / ".default.lock"):
            path = _default_here() or _default_from_registry(progress)
            if path is None:
                _build("--default", quiet)
                path = _default_here()
    if path is None:
        raise BuildError("vpod-build --default made no snapshot; its messages above say why")
    return _ready(path, progress)


def set_default(ref: str) -> None:
    """Makes `ref`, which must be here, the default snapshot. Raises `SnapshotNotFound`."""
    name = parse(ref)
    if _here(name) is None:
        raise SnapshotNotFound(f"{ref}: is not here, so it cannot be the default; run: vpod pull {ref}")
    with paths.writing(paths.snapshot_folder() / "default") as file:
        file.write(f"{name}\n".encode())


def _marked() -> Ref | None:
    """The name that `set_default` wrote; None when there is none, or none that could be a name."""
    with suppress(FileNotFoundError, SnapshotNotFound), open(paths.snapshot_folder() / "default", "rb") as file:
        return parse(file.read(200).decode("ascii", "replace").strip())
    return None


def _with_python() -> list[Ref]:
    """The built-in recipes' snapshots that can be the default, because `code.run` works in them."""
    return [Ref(recipe.name, recipe.tag) for recipe in RECIPES if recipe.has_python]


def _default_here() -> Path | None:
    marked = _marked()
    candidates = ([marked] if marked else []) + _with_python()
    return next((path for path in map(_here, candidates) if path), None)


def _default_from_registry(progress: Progress | None) -> Path | None:
    url = registry.catalog_url()
    if url is None or (registry.offline() and not url.startswith("file:")):
        return None
    entries = {Ref(entry["name"], entry["tag"]): entry for entry in fetch_registry()}
    for ref in _with_python():
        if ref in entries:
            registry.download(entries[ref], _path(ref), progress)
            return _path(ref)
    return None


def _ready(path: Path, progress: Progress | None = None) -> Cached:
    """The snapshot in the file `path`, expanded in the cache."""
    folder = paths.cache_folder()
    cached = _expanded(folder, snapshot.identity(path), path)
    if cached:
        return cached
    with snapshot.Snapshot(path) as snap, paths.locked(folder / f"{snap.id}.lock"):
        cached = _expanded(folder, snap.id, path)  # another process may have been at it
        if cached is None:
            ram_path = folder / f"{snap.id}.ram"
            snap.expand(ram_path, progress)
            os.utime(ram_path, (_stamp(snap.id), _stamp(snap.id)))
            _write_state(folder / f"{snap.id}.state", snap)
            cached = Cached(snap.id, snap.meta, snap.state, ram_path, path)
    return cached


def _expanded(folder: Path, identity: str, path: Path) -> Cached | None:
    """What the cache has of the snapshot `identity`; None when anything is missing or not as it was written."""
    ram_path = folder / f"{identity}.ram"
    try:
        status = os.lstat(ram_path)
        with open(folder / f"{identity}.state", "rb") as file:
            data = file.read(MAX_STATE_FILE + 1)
    except FileNotFoundError:
        return None
    parts = _parse_state(data, identity)
    if parts is None or not stat.S_ISREG(status.st_mode) or status.st_mtime_ns != _stamp(identity) * 10**9:
        return None
    meta, state, ram_size = parts
    return Cached(identity, meta, state, ram_path, path) if status.st_size == ram_size else None


def _stamp(identity: str) -> int:
    """The modification time of the RAM of `identity`, in seconds: before 2005, when nothing of ours is written."""
    return int(identity[:8], 16) % (1 << 30)


def _write_state(path: Path, snap: snapshot.Snapshot) -> None:
    meta = json.dumps(snap.meta).encode()
    sizes = (snap.ram_size, len(meta), len(snap.state))
    unsigned = STATE_HEADER.pack(STATE_MAGIC, b"", bytes.fromhex(snap.id), *sizes) + meta + snap.state
    digest = hashlib.sha256(unsigned[COVERED:]).digest()
    with paths.writing(path) as file:
        file.write(STATE_MAGIC + digest + unsigned[COVERED:])


def _parse_state(data: bytes, identity: str) -> tuple[dict[str, Any], bytes, int] | None:
    """Metadata, state and size of RAM out of a `.state` file; None when it is not the whole one of `identity`."""
    if len(data) < STATE_HEADER.size or hashlib.sha256(data[COVERED:]).digest() != data[len(STATE_MAGIC) : COVERED]:
        return None
    magic, _, identity_there, ram_size, meta_size, state_size = STATE_HEADER.unpack_from(data)
    end = STATE_HEADER.size + meta_size
    if magic != STATE_MAGIC or identity_there.hex() != identity or len(data) != end + state_size:
        return None
    try:
        meta = json.loads(data[STATE_HEADER.size : end])
    except (ValueError, RecursionError):
        return None
    return (meta, data[end:], ram_size) if type(meta) is dict else None


# --- coming and going ------------------------------------------------------------------------------------------------


def pull(ref: str, progress: Progress | None = None, *, quiet: bool = False) -> Path:
    """Gets the snapshot `ref` from the registry, or, if no registry has it, makes it from its built-in recipe.

    Returns its file. What the registry has replaces what is here, unless it is the same; what only a recipe makes is
    made once (`remove` it to make it anew). `progress` hears of bytes downloaded; a build reports to standard error
    unless it is to be `quiet`.

    Raises `SnapshotNotFound` when nobody has it, `RegistryError`, `BuildError`, `SnapshotError`.
    """
    name = parse(ref)
    entry = _offered(name)
    if entry:
        path = _path(Ref(entry["name"], entry["tag"]))
        registry.download(entry, path, progress)
        return path
    path_here = _here(name)
    if path_here:
        return path_here
    recipe = _recipe(name)
    if recipe is None:
        raise SnapshotNotFound(f"{ref}: no registry and no recipe has it; `vpod list` shows what can be had")
    path = _path(Ref(recipe.name, recipe.tag))
    with paths.locked(path.with_name(f".{recipe.key}.lock")):
        if not path.exists():
            _build(recipe.key, quiet)
    if not path.exists():
        raise BuildError(f"vpod-build {recipe.key} did not make {path}; its messages above say why")
    return path


def _offered(ref: Ref) -> dict[str, Any] | None:
    """The registry's entry for `ref`; None without a registry, or when it is out of reach and `ref` is here."""
    url = registry.catalog_url()
    if url is None or (registry.offline() and not url.startswith("file:") and _here(ref)):
        return None
    entries = {Ref(entry["name"], entry["tag"]): entry for entry in fetch_registry()}
    latest = _latest(list(entries), ref.name) if ref.tag == "latest" else None
    return entries.get(latest or ref) or entries.get(_canonical(ref))


def _build(argument: str, quiet: bool) -> None:
    """Runs `vpod-build argument`, whose messages go to standard error: errors only if `quiet`. Raises `BuildError`."""
    import subprocess
    from importlib.util import find_spec

    if find_spec("vpod_builder") is None:
        raise BuildError(f"vpod-build {argument}: the builder is not installed; run: pip install vpod")
    # As `-m vpod_builder`, but without the current folder on the path: whatever lies there is not ours to run.
    program = "import sys; sys.path[:] = filter(None, sys.path)\nimport runpy; runpy.run_module('vpod_builder', None, "
    program += "'__main__', True)"
    command = [sys.executable, "-c", program, *(["-q"] if quiet else []), argument]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.__stderr__ or 2).returncode
    if code:
        raise BuildError(f"vpod-build {argument} failed with exit code {code}; its messages above say why")


def remove(ref: str) -> Path:
    """Deletes the snapshot `ref` and what is expanded of it; returns the path of the file that it was.

    Sandboxes running from it are not disturbed. Raises `SnapshotNotFound` when it is not here.
    """
    path = _here(parse(ref))
    if path is None:
        raise SnapshotNotFound(f"{ref}: there is no such snapshot here; `vpod list` shows what there is")
    before = _identities(path.parent)
    path.unlink(missing_ok=True)
    for identity in before - _identities(path.parent):
        _forget(identity)
    marked = _marked()
    if marked and _here(marked) is None:
        (path.parent / "default").unlink(missing_ok=True)
    return path


def _identities(folder: Path) -> set[str]:
    """The identities of the snapshots in `folder`, as far as they are any."""
    found = set()
    for ref in _named(folder):
        with suppress(SnapshotError, SnapshotNotFound, OSError):
            found.add(snapshot.identity(_path(ref)))
    return found


def _forget(identity: str) -> int:
    """Deletes what is expanded of `identity`; returns the bytes of disk that this frees."""
    freed = 0
    for suffix in ("state", "ram"):
        path = paths.cache_folder() / f"{identity}.{suffix}"
        with suppress(FileNotFoundError):
            freed += path.stat().st_blocks * 512
            path.unlink()
    return freed


def prune() -> int:
    """Deletes what is expanded of snapshots that are no longer here; returns the bytes of disk that this frees.

    A snapshot used by its path and kept elsewhere is expanded again when it is next used.
    """
    kept = _identities(paths.snapshot_folder())
    found = {match[1] for match in map(EXPANDED.fullmatch, os.listdir(paths.cache_folder())) if match}
    return sum(_forget(identity) for identity in found - kept)


def usage() -> dict[str, int]:
    """Bytes of disk in use: `snapshots`, `expanded` (RAM and state in the cache) and `downloads`."""
    folders = {
        "snapshots": paths.snapshot_folder(),
        "expanded": paths.cache_folder(),
        "downloads": paths.download_folder(),
    }
    return {what: sum(_sizes(folder)) for what, folder in folders.items()}


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(parent, file)).st_blocks * 512


# --- lists -----------------------------------------------------------------------------------------------------------


def local() -> list[dict[str, Any]]:
    """The snapshots that are here, each with `name`, `tag`, `path`, `size` of the file in bytes, `default`, `damaged`;
    and, unless `damaged` says why not, `id`, `memory` in bytes, `description`, `has_python` and `created`."""
    path = None
    with suppress(SnapshotError):
        path = _default_here()
    rows = []
    for ref in _named(paths.snapshot_folder()):
        with suppress(FileNotFoundError, SnapshotNotFound):  # deleted meanwhile
            rows.append(_local_row(ref) | {"default": _path(ref) == path})
    return rows


def _local_row(ref: Ref) -> dict[str, Any]:
    path = _path(ref)
    row: dict[str, Any] = {"name": ref.name, "tag": ref.tag, "path": str(path), "size": path.stat().st_size}
    row |= {"id": None, "memory": None, "description": "", "has_python": None, "created": None, "damaged": None}
    try:
        with snapshot.Snapshot(path) as snap:
            row |= {"id": snap.id, "memory": snap.ram_size}
    except SnapshotError as error:
        return row | {"damaged": str(error)}
    description, created = snap.meta.get("description"), snap.meta.get("created")
    if registry.is_description(description):
        row["description"] = description
    if registry.is_time(created):
        row["created"] = created
    row["has_python"] = snap.meta.get("has_python") is True
    return row


def catalog() -> list[dict[str, Any]]:
    """Whatever can be had: what is here, what the registry has and what the built-in recipes make, one row a name.

    Each has `name`, `tag`, `description`, `has_python`, `created` (UTC, or None), `size` (of the file, in bytes, or
    None), `here`, `default` and `registry` (booleans), `recipe` (what `vpod-build` calls it, or None) and `damaged`.
    Raises `RegistryError`; with `VPOD_OFFLINE` a registry on the network is left out.
    """
    rows: dict[Ref, dict[str, Any]] = {}
    for recipe in RECIPES:
        row = _row(rows, Ref(recipe.name, recipe.tag))
        row |= {"description": recipe.description, "has_python": recipe.has_python, "recipe": recipe.key}
    url = registry.catalog_url()
    reachable = url and (url.startswith("file:") or not registry.offline())
    for entry in fetch_registry() if reachable else []:
        row = _row(rows, Ref(entry["name"], entry["tag"]))
        row |= {field: entry[field] for field in ("description", "has_python", "created", "size")} | {"registry": True}
    for entry in local():
        row = _row(rows, Ref(entry["name"], entry["tag"]))
        known = {field: value for field, value in entry.items() if field in row and value not in ("", None)}
        row |= known | {"here": True}
    return sorted(rows.values(), key=lambda row: (row["name"], _version(row["tag"]), row["tag"]))


def _row(rows: dict[Ref, dict[str, Any]], ref: Ref) -> dict[str, Any]:
    """The row of `ref` in `rows`, made if need be."""
    empty = {"name": ref.name, "tag": ref.tag, "description": "", "has_python": False, "created": None, "size": None}
    empty |= {"here": False, "default": False, "registry": False, "recipe": None, "damaged": None}
    return rows.setdefault(ref, empty)
