"""``vpod doctor``: what this host offers and what is missing, each with its mend.

Why it exists: when something doesn't work, the reason is mostly one of a dozen, and each can be looked for. Every
check is one function below that returns one `Finding`; a newcomer adds a check by adding a function to `CHECKS`.

Invariants:

- No check changes anything but a temporary file that it removes, and none uses the network except that of the
  registry, and only when ``VPOD_REGISTRY`` names one.
- A check that fails in a way nobody foresaw is a finding too, not an end of the examination.

Example::

    for finding in examine():
        print(finding.state, finding.name, finding.found, finding.mend)
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TextIO

__all__ = ["CHECKS", "Finding", "examine", "show"]

NEEDED_DISK: Final = 3 << 30  # bytes: a build's downloads, its files, a snapshot and its expanded memory
NEEDED_MEMORY: Final = 1 << 30  # bytes: one guest with room for what the host does besides

APT: Final = Path("/etc/apt")


class Finding(NamedTuple):
    """What one check saw. `state` is ``ok``, ``note`` (something works less well) or ``missing`` (something can't)."""

    name: str
    state: str
    found: str
    mend: str = ""


def examine() -> list[Finding]:
    """Carry out every check, in order."""
    findings = []
    for name, check in CHECKS.items():
        try:
            state, found, mend = check()
        except Exception as error:  # an unforeseen failure of a check is what its user wants to see
            state, found, mend = "missing", f"{type(error).__name__}: {error}", "report this with the line before it"
        findings.append(Finding(name, state, found, mend))
    return findings


def show(findings: Sequence[Finding], stream: TextIO) -> None:
    """Print the findings for a reader, a mend below each that needs one; in colour on a terminal."""
    colours = {"ok": "32", "note": "33", "missing": "31"}
    coloured = stream.isatty() and "NO_COLOR" not in os.environ
    width = max(len(finding.name) for finding in findings)
    for name, state, found, mend in findings:
        word = f"\x1b[{colours[state]}m{state:7}\x1b[0m" if coloured else f"{state:7}"
        print(f"{word}  {name:{width}}  {found}", file=stream)
        if mend and state != "ok":
            print(f"{'':7}  {'':{width}}  -> {mend}", file=stream)


_Answer = tuple[str, str, str]


def _python() -> _Answer:
    found = f"{sys.version.split()[0]}, {sys.executable or 'no sys.executable'}"
    good = sys.version_info >= (3, 10) and bool(sys.executable) and sys.byteorder == "little"
    return "ok" if good else "missing", found, "run vpod with a CPython of 3.10 or later, on a little-endian host"


def _core() -> _Answer:
    """Three instructions in a machine of their own, then a loop for the speed."""
    from vpod._cpu import EXIT_WFI, Cpu
    from vpod.bus import RAM_BASE, Bus

    cpu = Cpu(Bus(), 64 << 20)
    program = (0x01500093, 0x001080B3, 0x10500073)  # addi x1, x0, 21; add x1, x1, x1; wfi
    cpu.write(RAM_BASE, b"".join(word.to_bytes(4, "little") for word in program))
    cpu.pc = RAM_BASE
    if cpu.run(1000) != EXIT_WFI or cpu.x(1) != 42:
        return "missing", f"the core computes 21 + 21 = {cpu.x(1)}", "build it again: pip install --force-reinstall ."
    cpu.write(RAM_BASE, bytes.fromhex("93801000") + bytes.fromhex("6ff0dfff"))  # addi x1, x1, 1; j back
    cpu.pc = RAM_BASE
    began = time.perf_counter()
    cpu.run(5_000_000)
    return "ok", f"computes; {5 / (time.perf_counter() - began):.0f} million instructions a second", ""


def _worker() -> _Answer:
    """Start one and give it a state that is none: it must say so, which takes all of its start but the machine."""
    import queue

    from vpod.errors import WorkerDied
    from vpod.link import Link

    began = time.perf_counter()
    link = Link()
    answer: object
    try:
        inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        link.open(inbox.put)
        with tempfile.TemporaryFile() as nothing:
            link.start(b"", nothing.fileno())
        answer = inbox.get(timeout=30)
    except WorkerDied as error:  # before it could even be asked
        answer = error
    finally:
        link.close()
    if isinstance(answer, WorkerDied) and "SnapshotDamaged" in str(answer):
        return "ok", f"starts in {(time.perf_counter() - began) * 1000:.0f} ms", ""
    return "missing", str(answer), "set VPOD_LOG=FILE, try again and read that file"


def _cage() -> _Answer:
    """By what a worker is confined here."""
    from vpod import confine

    absent = confine.missing()
    if not absent:
        return "ok", f"workers are confined by {', '.join(confine.LAYERS)}", ""
    mend = "a Linux kernel of 5.13 or later, in no container that forbids seccomp or Landlock, has them all"
    return "note", f"workers are confined without {', '.join(absent)}", mend


LIBRARIES = ("zstandard", "rich", "pysequoia", *(() if sys.version_info >= (3, 11) else ("tomli",)))


def _libraries() -> _Answer:
    from importlib.util import find_spec

    absent = [library for library in LIBRARIES if find_spec(library) is None]
    if absent:
        return "missing", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}"
    return "ok", "all installed", ""


def _files() -> _Answer:
    from vpod import paths

    folders = (paths.snapshot_folder(), paths.cache_folder(), paths.download_folder())
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return "missing", f"{folder}: {error.strerror}", "let VPOD_HOME name a folder that you may write to"
    free = min(shutil.disk_usage(folder).free for folder in folders)
    found = f"{paths.home()}, {free / 1e9:.1f} GB free"
    return "ok" if free >= NEEDED_DISK else "note", found, f"a build may need {NEEDED_DISK / 1e9:.1f} GB; make room"


def _memory() -> _Answer:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return "note", "this system doesn't say how much it has", f"{NEEDED_MEMORY >> 20} MiB a sandbox are enough"
    found = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free, {os.cpu_count()} processors"
    return "ok" if total >= NEEDED_MEMORY else "note", found, "close other programs; a guest takes what it uses"


def _builder() -> _Answer:
    from importlib.util import find_spec

    spec = find_spec("vpod_builder")
    if spec is None or spec.origin is None:
        return "missing", "vpod_builder is not installed", "pip install . in vpod's folder"
    if (
        shutil.which("vpod-build", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        is None
    ):
        return "note", "vpod-build is not on the path", f"add the folder of {sys.executable} to PATH"
    agent = Path(spec.origin).parent / "agent" / "vpod-agent"
    if not agent.is_file():
        return "missing", f"{agent} was not built", "pip install . again; its requirement ziglang compiles it"
    return "ok", "vpod-build and the guest's agent are here", ""


def _compiler() -> _Answer:
    for name in (os.environ.get("CC", "cc").split()[0], "cc", "gcc", "clang"):
        if found := shutil.which(name):
            return "ok", found, ""
    return (
        "note",
        "no C compiler",
        "only needed to install vpod from its sources: apt-get install gcc, or your system's",
    )


def _snapshots() -> _Answer:
    from vpod import snapshots

    rows = snapshots.local()
    damaged = [f"{row['name']}:{row['tag']}" for row in rows if row["damaged"]]
    if damaged:
        return "missing", f"damaged: {', '.join(damaged)}", f"vpod rmi {damaged[0]}, then pull or build it again"
    if rows:
        return "ok", ", ".join(f"{row['name']}:{row['tag']}" for row in rows), ""
    return "note", "none here", "the first vpod or Sandbox.create() makes the default one; vpod pull NAME another"


def _sources() -> _Answer:
    """Where a build would take its files from."""
    folders = os.environ.get("VPOD_SOURCES", "").split(":")
    places = [folder for folder in folders if folder and os.path.isdir(folder)]
    mirror = os.environ.get("VPOD_DEBIAN_MIRROR") or next(_apt_mirrors(), None)
    if mirror:
        places.append(mirror)
    if os.environ.get("VPOD_OFFLINE", "0") not in ("", "0"):
        return "note", "VPOD_OFFLINE is set", "builds use only folders in VPOD_SOURCES; unset it to use the network"
    if mirror is None:
        return "note", "no Debian mirror is configured", "builds need one: set VPOD_DEBIAN_MIRROR to a mirror's URL"
    return "ok", ", ".join(places), ""


def _apt_mirrors() -> Iterator[str]:
    """The URLs that apt's own configuration names, in either of its two formats."""
    for path in [APT / "sources.list", *sorted(APT.glob("sources.list.d/*"))]:
        try:
            lines = path.read_text(errors="replace")[: 1 << 20].splitlines()
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words and words[0] in ("deb", "URIs:"):
                yield from (word.split("@")[-1] for word in words[1:] if "://" in word)


def _registry() -> _Answer:
    from vpod import snapshots

    url = os.environ.get("VPOD_REGISTRY")
    if not url:
        return "ok", "none set; the built-in recipes are what can be had", ""
    count = len(snapshots.fetch_registry())
    return "ok", f"{url}: {count} snapshots", ""


def _terminal() -> _Answer:
    if not (os.isatty(0) and os.isatty(1)):
        return "ok", "standard input and output are no terminal; vpod runs as a filter", ""
    term = os.environ.get("TERM", "")
    mend = "set TERM to what your terminal is, such as xterm-256color"
    return "ok" if term not in ("", "dumb") else "note", f"TERM={term or 'unset'}", mend


CHECKS: Final[dict[str, Callable[[], _Answer]]] = {
    "Python": _python,
    "core": _core,
    "worker": _worker,
    "cage": _cage,
    "libraries": _libraries,
    "files": _files,
    "memory": _memory,
    "builder": _builder,
    "compiler": _compiler,
    "snapshots": _snapshots,
    "sources": _sources,
    "registry": _registry,
    "terminal": _terminal,
}
