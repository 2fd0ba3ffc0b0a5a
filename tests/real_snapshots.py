"""Real snapshots for tests: made as a user makes them, with the very commands of the README, and kept between runs.

Why it exists: a test of the whole chain is worth what its snapshot is worth. Here each snapshot is made by `vpod-build`
(the default one by the first ``vpod run`` on a machine that has none) in a process of its own, and made again whenever
anything that goes into it has changed: agent, recipes, kernels, builder, board or core.

Invariants:

- Nothing of the user's is touched: the tests have a home of their own, ``$VPOD_HOME/tests`` or ``.pytest_cache/vpod``.
  Only the downloads, which are kept by digest, are shared with it.
- A build that fails is a failure. `Unavailable`, which skips, is raised only when a place the files come from can't be
  reached, and in CI (``CI=true``) only when nobody named such a place.
- Two runs of the tests at once make each snapshot once.

Example::

    path = make("alpine-3.23")                  # …/snapshots/alpine@3.23.snap; 20 s the first time, then at once
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from vpod import paths, snapshots

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD_SECONDS: Final = 900
_INPUTS: Final = (
    "builder/*.py",
    "builder/recipes/*.toml",
    "builder/agent/*.[ch]",
    "builder/agent/runner.py",
    "kernels/*",
    "vpod/_*.pxd",
    "vpod/_cpu.pyx",
    "vpod/isa.py",
    "vpod/devices/**/*.py",
    *(f"vpod/{name}.py" for name in ("boot", "bus", "fdt", "machine", "protocol", "snapshot")),
)


class Unavailable(Exception):
    """A snapshot can't be made here, because what it is made of can't be had; the message says what was tried."""


class Made(NamedTuple):
    """How a snapshot came to be: where it is, what the command that made it printed, in how many seconds, of what."""

    path: Path
    stdout: str
    stderr: str
    seconds: float
    fingerprint: str


def own_home(*, lean: bool = False) -> Path:
    """The tests' own VPOD_HOME, made if need be. Must be asked for before ``VPOD_HOME`` is pointed at it.

    `lean`: another one, in which the kernels that the user has built are, so that every recipe takes the lean one.
    """
    links = {"downloads": paths.download_folder()}
    if lean:
        links["kernels"] = paths.kernel_folder()
    chosen = os.environ.get("VPOD_HOME")
    base = Path(chosen).absolute() if chosen else ROOT / ".pytest_cache"
    home = base / (("tests" if chosen else "vpod") + ("-lean" if lean else ""))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, target in links.items():
        link = home / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return home


def fingerprint() -> str:
    """A digest of everything in this tree that goes into a snapshot."""
    digest = hashlib.sha256()
    for pattern in _INPUTS:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def make(key: str, *, keep: bool = False) -> Made:
    """The snapshot of recipe `key`, by ``vpod-build``. `keep`: use what is there, whatever has changed since."""
    recipe = next(each for each in snapshots.RECIPES if each.key == key)
    path = snapshots.path_of(f"{recipe.name}:{recipe.tag}")
    with paths.locked(paths.home() / ".tests.lock"):
        made = _known(_note(path), keep)
        if made is None:
            made = _run(key, [sys.executable, "-m", "vpod_builder", key], os.environ, lambda: path)
    return made


def make_default(*, keep: bool = False) -> Made:
    """The snapshot that the first ``vpod run -- uname -m`` makes where there is none, with ``VPOD_SOURCES`` unset.

    That is done in an empty home; then what it made becomes the default snapshot of the tests' home.
    """
    with paths.locked(paths.home() / ".tests.lock"):
        made = _known(_note(paths.home() / "first-run"), keep)
        if made is not None:
            return made
        empty = paths.home() / "first-run"
        shutil.rmtree(empty, ignore_errors=True)
        empty.mkdir(mode=0o700)
        for name in ("downloads", "kernels"):
            if (linked := paths.home() / name).is_symlink():
                (empty / name).symlink_to(linked.resolve())
        environ = {name: value for name, value in os.environ.items() if name != "VPOD_SOURCES"}
        command = [sys.executable, "-m", "vpod", "run", "--", "uname", "-m"]
        made = _run("debian-13", command, {**environ, "VPOD_HOME": str(empty)}, lambda: _adopt(empty))
        _write_note(_note(empty), made)
        shutil.rmtree(empty)
    return made


def _adopt(home: Path) -> Path:
    """Move the one snapshot of `home`, and its being the default, to the tests' home."""
    (found,) = (home / "snapshots").glob("*.snap")
    os.replace(home / "snapshots" / "default", paths.snapshot_folder() / "default")
    return found.replace(paths.snapshot_folder() / found.name)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _known(note: Path, keep: bool) -> Made | None:
    """What is known of a snapshot, if it is there and is what this tree would make."""
    try:
        known: dict[str, Any] = json.loads(note.read_bytes())
        made = Made(Path(known["path"]), known["stdout"], known["stderr"], known["seconds"], known["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None
    return made if made.path.exists() and (keep or made.fingerprint == fingerprint()) else None


def _write_note(note: Path, made: Made) -> None:
    with paths.writing(note) as file:
        file.write(json.dumps(made._asdict(), default=str).encode())


def _run(key: str, command: list[str], environ: Mapping[str, str], find: Callable[[], Path]) -> Made:
    """Make a snapshot by `command`, look where it is by `find`, and note how that went."""
    before = fingerprint()  # so that what changes meanwhile is noticed the next time
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
    )
    if done.returncode != 0:
        reason = _out_of_reach(key)
        if reason is None or _must_be_had(key):
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        raise Unavailable(f"the sources of {key} can't be had here: {reason}")
    made = Made(find(), done.stdout, done.stderr, time.monotonic() - began, before)
    _write_note(_note(made.path), made)
    return made


def _must_be_had(key: str) -> bool:
    """In CI what somebody has named as a source must work; Debian's mirror is named by apt's own configuration."""
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return in_ci and (bool(os.environ.get("VPOD_SOURCES")) or not key.startswith("alpine"))


def _out_of_reach(key: str) -> str | None:
    """Why the recipe's files can't be had: asked of the builder's own first steps. ``None`` if they can."""
    from vpod_builder import recipe, rootfs
    from vpod_builder.progress import Report
    from vpod_builder.sources import Fetcher

    from vpod.errors import SourceUnreachable

    try:
        rootfs.assemble(recipe.find(key), Fetcher(Report(quiet=True)), rootfs.Options())
    except SourceUnreachable as error:
        return str(error)
    except Exception:  # then it is that which failed, and the failed command has said so
        return None
    return None
