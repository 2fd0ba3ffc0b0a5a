"""What a build says while it works: one line a step on standard error, and bars where a person watches.

    >>> report = Report()
    >>> with report.step("Fetching linux-image", total=112_012_420) as bar:
    ...     bar.advance(65536)
    ...     bar.done("linux-image 6.12.107, 112.0 MB")

Invariants: nothing goes to standard output; without a terminal there are no bars, no colour and no control
characters; `quiet` silences all but errors. A name that came from an archive is printed without its control
characters, so that no package can drive the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


def size(number: float) -> str:
    """Bytes for a reader: `3.5 MB` (decimal, as file managers and the snapshot limits count)."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def printable(text: str) -> str:
    """`text` without control characters and without whatever else a terminal might act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Bar:
    """One step under way. `advance` may be called from any thread."""

    def __init__(self, title: str, progress: Progress | None, task: TaskID | None) -> None:
        self._title = title
        self._progress = progress
        self._task = task
        self._result = title

    def advance(self, amount: float) -> None:
        """Add to what is done, in the unit of the step's total."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Say beside the bar what is being worked on; shown only where there is a bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{self._title} {escape(printable(text))[:60]}")

    def done(self, result: str) -> None:
        """The line that stands for this step once it is over."""
        self._result = result


class Report:
    """The place where steps are reported; one object for a whole build."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the build began."""
        return time.monotonic() - self._began

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Bar]:
        """A step with a bar while it runs (on a terminal) and a line when it has ended well."""
        began = time.monotonic()
        if self.quiet or not sys.stderr.isatty():
            bar = Bar(title, None, None)
            yield bar
        else:
            columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            with Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True) as progress:
                bar = Bar(title, progress, progress.add_task(escape(title), total=total))
                yield bar
        took = time.monotonic() - began
        self.line(f"{bar._result} ({took:.1f} s)" if took >= 0.05 else bar._result)

    def line(self, text: str) -> None:
        """One line to standard error, unless quiet."""
        if not self.quiet:
            self._console.print(escape(f"  {printable(text)}"))

    def error(self, text: str) -> None:
        """An error's message, quiet or not."""
        for line in text.splitlines():
            self._console.print(escape(printable(line)))
