"""What is measured, against what, in one run.

Why it exists: every claim of speed in this project is a ratio, and a ratio means something only if both sides ran the
same thing on the same machine at the same time of day. These modules make such runs:

    python -m benchmarks                  guest programs natively, under QEMU, under vpod with and without translation
    python -m benchmarks.start            building, creating a sandbox, the first command, memory when idle

Both are run from a checkout after ``pip install -e '.[dev]'``; docs/performance.md says how and shows a run. They need
what users of vpod don't: `qemu-system-riscv64` and PyPI's `ziglang`. Nothing in `vpod` or `vpod_builder` imports them.
"""

__all__ = ["BenchmarkError", "count"]


class BenchmarkError(Exception):
    """A benchmark could not be run; the message says what failed and what to do."""


def count(text: str) -> int:
    """A command line's whole number from 1 to 10,000; `ValueError` for anything else."""
    number = int(text)
    if not 1 <= number <= 10_000:
        raise ValueError(text)
    return number
