"""``python -m benchmarks.start``: from a recipe to the first command's answer, and what an idle sandbox costs.

Why it exists: "instant" is vpod's second promise, and this is where it is measured: building a snapshot and its size,
creating a sandbox up to the first answer, the next commands, Python, the whole ``vpod run`` process, memory when idle.

Before snapshots are built, Alpine's root filesystem is booted from the firmware to its shell's prompt. Where the lean
kernel is (``vpod-build --kernel lean``), that and the builds are done with either, and the last one built is used.

Where the snapshot has Python there is one figure more: ``python3 -c pass`` as the first command after a restore, when
nothing is translated yet, with vpod's translator and without (`VPOD_JIT`), in turns.

How: everything goes through what users call (`Sandbox`, the commands ``vpod`` and ``vpod-build``), every answer is
checked, and medians stand beside the limits that the project sets itself. The snapshot is expanded before the clock
starts, as it is on every start but the first; the first sandbox, which may read it from the disk, has its own line.

    python -m benchmarks.start                                  alpine:3.23 and debian:13, whichever are here
    python -m benchmarks.start --build alpine-3.23 --json result.json
    python -m benchmarks.start --snapshot mine.snap --times 100

Exit code: 0; 2 for usage; 125 if something could not be measured or answered wrongly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from vpod_builder import kernel
from vpod_builder.progress import Report

from benchmarks import BenchmarkError, count
from benchmarks.engines import INTERPRETER, TRANSLATION, VPOD
from benchmarks.guest import Bare
from vpod import Sandbox, paths, snapshots
from vpod.errors import VpodError
from vpod.machine import Event, Machine

if TYPE_CHECKING:
    from vpod.snapshots import Cached

USUAL = ("alpine:3.23", "debian:13")
BUILD_LIMITS = {"alpine-3.23": (15.0, 40.0), "debian-13": (300.0, 90.0)}  # seconds, megabytes
BOOT_LIMITS = {kernel.STOCK: 1.5, kernel.LEAN: 0.4}  # seconds
LEAN_SHARE = {"alpine-3.23": 0.6}  # of the stock kernel's snapshot
BOOT_COMMAND_LINE = "console=ttyS0 quiet loglevel=0 rdinit=/bin/sh"
BOOT_PATIENCE = 60.0  # seconds
PROMPT = b"~ # "
PYTHON = "python3 -c pass"
PYTHON_GAIN = 2.0  # times as fast as interpreted
BOOTS = 5  # with each kernel
SETTLE = 2.0  # seconds that a sandbox is left alone before its memory is read
MAX_LOAD = 0.5  # processes that wanted a CPU in the minute before, above which figures are not worth quoting
MS, MB = 1e3, 1e-6


@dataclass(frozen=True)
class Figure:
    """One thing measured, some times: `values` in `unit`, and what its median must stay below, or reach at least."""

    snapshot: str
    what: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None
    least: float | None = None

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.values)

    @property
    def kept(self) -> bool:
        """The limits are kept, if there are any."""
        return (self.limit is None or self.median < self.limit) and (self.least is None or self.median >= self.least)

    def wanted(self) -> str:
        """The limits, for a table."""
        bounds = (("", self.limit), ("at least ", self.least))
        text = ", ".join(f"{word}{bound:g} {self.unit}".rstrip() for word, bound in bounds if bound is not None)
        return text if self.kept else f"[red]missed[/] {text}"


def timed(times: int, action: Callable[[], object]) -> tuple[float, ...]:
    """Milliseconds that each of `times` calls takes."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        took.append((time.perf_counter() - began) * MS)
    return tuple(took)


def start(name: str, label: str, times: int) -> list[Figure]:
    """All figures of one snapshot, a name or a path. Raises `VpodError`, `BenchmarkError` for a wrong answer."""
    cached = snapshots.locate(name)

    def create() -> None:
        with Sandbox.create(name) as box:
            _expect(box.commands.run("true").exit_code, 0, "true")

    first, *others = timed(times + 1, create)
    figures = [
        Figure(label, "create, first command: once", "ms", (first,)),
        Figure(label, "create, first command: again", "ms", tuple(others), 100.0),
    ]
    with Sandbox.create(name) as box:
        box.commands.run("true")
        again = timed(times, lambda: _expect(box.commands.run("true").exit_code, 0, "true"))
        figures.append(Figure(label, 'commands.run("true") again', "ms", again, 5.0))
        if box.python:
            box.code.run("1+1")
            code = timed(times, lambda: _expect(box.code.run("1+1").result, "2", "1+1"))
            figures.append(Figure(label, 'code.run("1+1")', "ms", code, 10.0))
        figures += _memory(label, box, cached)
        has_python = box.python
    if has_python:
        figures += python_after_restore(name, label, times)
    whole = timed(max(3, times // 3), lambda: _run_process(name))
    return [*figures, Figure(label, "vpod run -- true", "ms", whole, 300.0)]


def python_after_restore(name: str, label: str, times: int) -> list[Figure]:
    """``python3 -c pass`` as a new sandbox's first command: interpreted, translated, and the ratio of each pair."""
    took: dict[str, list[float]] = {INTERPRETER: [], VPOD: []}
    for _ in range(times):
        for engine, each in took.items():
            with _translation(engine), Sandbox.create(name) as box:
                began = time.perf_counter()
                _expect(box.commands.run(PYTHON).exit_code, 0, PYTHON)
                each.append((time.perf_counter() - began) * MS)
    ratios = tuple(slow / fast for slow, fast in zip(took[INTERPRETER], took[VPOD], strict=True))
    return [
        Figure(label, f"{PYTHON}: interpreted", "ms", tuple(took[INTERPRETER])),
        Figure(label, f"{PYTHON}: translated", "ms", tuple(took[VPOD])),
        Figure(label, f"{PYTHON}: times as fast", "", ratios, least=PYTHON_GAIN),
    ]


@contextmanager
def _translation(engine: str) -> Iterator[None]:
    """While it lasts, new sandboxes translate or interpret as `engine` does."""
    before = os.environ.get("VPOD_JIT")
    os.environ["VPOD_JIT"] = TRANSLATION[engine]
    try:
        yield
    finally:
        del os.environ["VPOD_JIT"]
        if before is not None:
            os.environ["VPOD_JIT"] = before


def _memory(label: str, box: Sandbox, cached: Cached) -> list[Figure]:
    """What the idle worker holds; nothing on systems without ``/proc``."""
    time.sleep(SETTLE)
    try:
        text = Path(f"/proc/{box.link.pid}/smaps").read_text()
    except OSError:
        return []
    resident, beyond, written = memory(text, str(cached.ram_path))
    return [
        Figure(label, "idle: resident", "MB", (resident * MB,)),
        Figure(label, "idle: beyond shared pages", "MB", (beyond * MB,), 60.0),
        Figure(label, "idle: guest memory written", "MB", (written * MB,)),
    ]


def memory(smaps: str, ram_path: str) -> tuple[int, int, int]:
    """From the text of ``/proc/PID/smaps`` (proc(5)), in bytes: resident; that without clean pages of the file
    `ram_path`, which all sandboxes share; pages of it that were written and so are the process's own.
    """
    resident = mapped = written = 0
    is_ram = False
    for line in smaps.splitlines():
        if header := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)", line):
            is_ram = header[1].removesuffix(" (deleted)") == ram_path
        elif field := re.fullmatch(r"(Rss|Anonymous):\s+(\d+) kB", line):
            size = int(field[2]) << 10
            if field[1] == "Rss":
                resident += size
                mapped += size if is_ram else 0
            elif is_ram:
                written += size
    return resident, resident - mapped + written, written


def kernels() -> tuple[str, ...]:
    """The kernels that are here: Debian's, and the lean one if it was built."""
    chosen = kernel.choose(kernel.STOCK).key
    return (kernel.STOCK,) if chosen == kernel.STOCK else (kernel.STOCK, chosen)


def boots(times: int) -> list[Figure]:
    """Alpine's root filesystem from the firmware's first instruction to its shell's prompt, with each kernel."""
    figures = []
    for key in kernels():
        bare = Bare.assemble(key, Report(quiet=True))
        took = tuple(each / MS for each in timed(times, lambda bare=bare: boot(bare)))
        figures.append(Figure("alpine, booted", f"firmware to prompt, {key}", "s", took, BOOT_LIMITS[key]))
    return figures


def boot(bare: Bare) -> None:
    """Boot to the prompt. Raises `BenchmarkError` if it doesn't come."""
    machine = Machine()
    heard = bytearray()
    machine.uart.output = heard.extend
    machine.load(bare.firmware, bare.kernel, bare.initrd, BOOT_COMMAND_LINE)
    event = machine.run(seconds=BOOT_PATIENCE, until=lambda: PROMPT in heard)
    if event is not Event.UNTIL:
        last = bytes(heard[-200:])
        raise BenchmarkError(f"{bare.kernel_name}: no prompt, but {event.value}; the last heard: {last!r}")


def build(recipe: str, target: Path) -> list[Figure]:
    """Make a snapshot with ``vpod-build``, sources downloaded before; how long that took and how large it is, with each
    kernel that is here. The last one stays in `target`.
    """
    figures = []
    sizes = []
    seconds, megabytes = BUILD_LIMITS.get(recipe, (None, None))
    for key in kernels():
        before = _downloads()
        took = _build_once(recipe, target, key)
        if _downloads() != before:  # it had to fetch something, which is not what is measured
            took = _build_once(recipe, target, key)
        sizes.append(target.stat().st_size)
        figures.append(Figure(recipe, f"build, {key}", "s", (took,), seconds))
        figures.append(Figure(recipe, f"snapshot file, {key}", "MB", (sizes[-1] * MB,), megabytes))
    if len(sizes) == 2:
        share = (sizes[1] / sizes[0],)
        figures.append(Figure(recipe, "snapshot file, lean's of stock's", "", share, LEAN_SHARE.get(recipe)))
    return figures


def _build_once(recipe: str, target: Path, key: str) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "vpod_builder", recipe, "--kernel", key, "-o", str(target)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        raise BenchmarkError(f"vpod-build {recipe} failed; its own message stands above")
    return time.perf_counter() - began


def _downloads() -> set[str]:
    """Names of the finished downloads that are kept by digest."""
    return {name for name in os.listdir(paths.download_folder()) if name.startswith("sha")}


def _run_process(name: str) -> None:
    """``vpod run -- true`` from nothing to its end."""
    command = [sys.executable, "-m", "vpod", "run", "-s", name, "--", "true"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    _expect(done.returncode, 0, f"vpod run -s {name} -- true: {done.stderr.strip()}")


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise BenchmarkError(f"{what}: the answer is {found!r}, not {wanted!r}")


def table(figures: Sequence[Figure]) -> Table:
    """For a terminal."""
    made = Table(box=None, pad_edge=False)
    for title in ("snapshot", "what"):
        made.add_column(title, no_wrap=True)
    for title in ("median", "least", "most", "limit", "times"):
        made.add_column(title, justify="right", no_wrap=True)
    for each in figures:
        digits = 1 if each.unit in ("ms", "MB") else 2
        values = (each.median, min(each.values), max(each.values))
        numbers = [f"{value:.{digits}f} {each.unit}".rstrip() for value in values]
        made.add_row(each.snapshot, each.what, *numbers, each.wanted(), str(len(each.values)))
    return made


def run(options: argparse.Namespace) -> list[Figure]:
    """Everything that the arguments ask for. Raises `BenchmarkError` and `VpodError`."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="vpod-bench-") as folder:
        names = {name: name for name in options.snapshot}  # a name or path, and what the table calls it
        if options.build:
            figures += boots(BOOTS)
        for number, recipe in enumerate(options.build):
            target = Path(folder, f"{number}.snap")
            figures += build(recipe, target)
            names[str(target)] = recipe
        if not names:
            here = {f"{row['name']}:{row['tag']}" for row in snapshots.local()}
            names = {name: name for name in USUAL if name in here}
        if not names:
            raise BenchmarkError(f"none of {', '.join(USUAL)} is on this machine: pass --build alpine-3.23")
        for name, label in names.items():
            figures += start(name, label, options.times)
    return figures


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        "python -m benchmarks.start", description="How soon a sandbox answers, what it costs."
    )
    made.add_argument("--snapshot", action="append", default=[], metavar="NAME", help="a name or file; may be repeated")
    made.add_argument("--build", action="append", default=[], metavar="RECIPE", help="make this first; may be repeated")
    made.add_argument("--times", type=count, default=30, metavar="N", help="of each (30)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there too")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    options = parser().parse_args(arguments)
    load = os.getloadavg()[0]  # before this run adds to it
    try:
        figures = run(options)
    except (BenchmarkError, VpodError) as error:
        print(f"benchmarks.start: {error}", file=sys.stderr)
        return 125
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table(figures))
    if load > MAX_LOAD:
        console.print(f"Disturbed: the load average was {load:.1f} before the run. Run it again on a quiet machine.")
    if options.json is not None:
        rows = [asdict(each) | {"median": each.median} for each in figures]
        record = {"host": platform.platform(), "python": platform.python_version(), "load": load, "figures": rows}
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
