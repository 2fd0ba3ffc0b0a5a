"""What of the core the tests reached, as gcov counted it: lines, arms of the interpreter, rows of the table.

The core is all that `vpod/_cpu.pyx` and the translator's `vpod/_jit.pyx` include: every chapter, the generated decoder
too; what both include counts once. Only what ran as a hart counts: `_fpu.pyx`, the softfloat's test face, is a module
of its own with counts of its own. Each line that nothing reaches is excused below, by its text, or it is a difference.

Invariants: an excuse that isn't needed is a difference too (its line was reached, or is gone); a row of the table
counts as executed when its own line of the decoder was reached and the arm of its opcode too.

    line 301 of vpod/_cpu.pyx was never reached: return
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.proof.pieces import Outcome
from vpod import isa

MODULES = ("_cpu", "_jit")
LEAST = 95  # percent of the lines that must be reached, whatever is excused
ARM = "__pyx_f_4vpod_5_arms_do_"  # how Cython names the function `do_…` of vpod/_arms.pxd
NOT_A_LINE = re.compile(r'\s*(""".*|.*\bcimport\b.*|@property)?$')  # what Cython's glue code is charged to


@dataclass(frozen=True)
class Excuse:
    """A line that no test reaches, found by its text, and why that is so."""

    file: str
    text: str
    reason: str


UNUSED = "a form of the encoder that no emitter uses now; tests/test_x86.py compares it with what as makes"

EXCUSED = (
    Excuse(
        "vpod/_cpu.pyx",
        'raise MemoryError("cannot allocate the tables of decoded code")',
        "the host is out of memory",
    ),
    Excuse(
        "vpod/_exec_fp.pxd",
        "return 0",
        "the end of a chain over all operations: `fill_arms` sends only those here",
    ),
    Excuse("vpod/_x86.pxd", "put8(c, op >> 16)", UNUSED),
    Excuse("vpod/_x86.pxd", "elif room(c):", UNUSED),
    Excuse("vpod/_x86.pxd", "rex(c, 1, 0, 0, to, 0)", UNUSED),
    Excuse("vpod/_x86.pxd", "put8(c, 0xb8 | to & 7)", UNUSED),
    Excuse("vpod/_x86.pxd", "put64(c, value)", UNUSED),
    Excuse("vpod/_x86.pxd", "cdef inline void put64(Code* c, uint64_t value) noexcept nogil:", UNUSED),
    Excuse("vpod/_x86.pxd", "memcpy(c.at, &value, 8)", UNUSED),
    Excuse("vpod/_x86.pxd", "c.at += 8", UNUSED),
    Excuse("vpod/_x86.pxd", "put8(c, prefix)", UNUSED),
    Excuse(
        "vpod/_translator.pxd",
        "j.code.full = 1                                      # MAX_OUTS is more than MAX_TRACE needs",
        "no instruction has as many places to leave at",
    ),
)


@dataclass(frozen=True)
class Counts:
    """How often each executable line and each function of the core ran: `lines` by file, then by number."""

    lines: Mapping[str, Mapping[int, int]]
    functions: Mapping[str, int]
    sources: Mapping[str, list[str]]  # by file, the lines' texts

    def text(self, file: str, number: int) -> str:
        return self.sources[file][number - 1].strip()


# ---- what gcov says ------------------------------------------------------------------------------------------------


def read_counts(folder: Path) -> Counts:
    """The counts of the core built in `folder`, of both its modules. RuntimeError if gcov finds none."""
    lines: dict[str, Counter[int]] = {}
    functions: Counter[str] = Counter()
    sources: dict[str, list[str]] = {}
    for module in MODULES:
        for found in asked(folder, module):
            name = found["file"]
            if re.fullmatch(r"vpod/_\w+\.(pxd|pyx)", name):
                sources[name] = (folder / name).read_text().splitlines()
                lines.setdefault(name, Counter()).update(executable(found["lines"], sources[name]))
                functions.update({function["name"]: function["execution_count"] for function in found["functions"]})
    return Counts(lines, functions, sources)


def asked(folder: Path, module: str) -> list[dict[str, Any]]:
    """What gcov tells of each source file of a module."""
    data = list(folder.glob(f"build/temp.*/vpod/{module}.gcda"))
    if len(data) != 1:
        raise RuntimeError(f"{len(data)} files of {module}'s counts below {folder}/build, not one: was the core run?")
    done = subprocess.run(
        ["gcov", "--json-format", "--stdout", data[0].name],
        cwd=data[0].parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"gcov: {done.stderr.strip()}")
    files: list[dict[str, Any]] = json.loads(done.stdout)["files"]
    return files


def executable(records: list[dict[str, Any]], source: list[str]) -> dict[int, int]:
    """How often each line of `source` ran, summed over the C functions that it is part of.

    Cython makes C's `switch` of a chain of comparisons; then all that is charged to an `elif` is a `break` after its
    body, which may be dead code. So what leads into a line that was reached counts as reached. Cython's own functions
    (`__Pyx_…`), which it charges to any line, don't count.
    """
    counts: Counter[int] = Counter()
    for record in records:
        number = record["line_number"]
        glue = record.get("function_name", "").startswith("__Pyx_") and not record["count"]
        if number <= len(source) and not glue and not NOT_A_LINE.match(source[number - 1]):
            counts[number] += record["count"]
    for number in sorted(counts, reverse=True):
        if source[number - 1].rstrip().endswith(":"):
            counts[number] = max(counts[number], counts.get(number + 1, 0))
    return dict(counts)


# ---- rows and arms -------------------------------------------------------------------------------------------------


def rows_missed(counts: Counts) -> Iterator[str]:
    """The base rows of the instruction table of which no encoding was decoded, or whose arm never ran."""
    decoder = "vpod/_decode.pxd"
    reached = {counts.text(decoder, number) for number, count in counts.lines[decoder].items() if count}
    arms = "\n".join(counts.sources["vpod/_arms.pxd"])
    floating = counts.lines["vpod/_exec_fp.pxd"].items()
    shared = "\n".join(counts.text("vpod/_exec_fp.pxd", number) for number, count in floating if count)
    for row in isa.BASE_ROWS:
        decoded = any(f", {row.op}, " in text for text in reached)
        arm = re.search(rf"put\(arms, {row.op}, (do_\w+)\)", arms)
        if arm:
            executed = counts.functions.get(ARM + arm[1].removeprefix("do_"), 0) > 0
        else:  # one arm for all of its extension
            executed = "fp" not in row.flags or re.search(rf"\b{row.op}:", shared) is not None
        if not (decoded and executed):
            yield row.name


def arms_missed(counts: Counts) -> Iterator[str]:
    """The functions of the dispatch table that never ran."""
    for name, count in counts.functions.items():
        if name.startswith(ARM) and not count:
            yield "do_" + name.removeprefix(ARM)


# ---- the judgement -------------------------------------------------------------------------------------------------


def unreached(counts: Counts) -> list[tuple[str, int]]:
    return [(file, n) for file, lines in counts.lines.items() for n, count in sorted(lines.items()) if not count]


def judge(counts: Counts, excused: tuple[Excuse, ...] = EXCUSED) -> Outcome:
    """Lines that nothing reached and nobody excuses, excuses that nobody needs, and too low a share of all."""
    missed = unreached(counts)
    used = {(excuse.file, excuse.text) for excuse in excused}
    found = {(file, counts.text(file, number)) for file, number in missed}
    differences = [
        f"line {number} of {file} was never reached: {counts.text(file, number)}"
        for file, number in missed
        if (file, counts.text(file, number)) not in used
    ]
    differences += [f"an excuse that is not needed: {file}: {text}" for file, text in sorted(used - found)]
    differences += [f"an arm that never ran: {name}" for name in arms_missed(counts)]
    total = sum(map(len, counts.lines.values()))
    reached = total - len(missed)
    if reached * 100 < total * LEAST:
        differences.append(f"{reached} of {total} lines of the core were reached, less than {LEAST} %")
    arms = sum(name.startswith(ARM) for name in counts.functions)
    return Outcome(
        {"core lines": total, "core lines reached": reached, "arms": arms, "rows": len(isa.BASE_ROWS)},
        tuple(differences),
        missing=tuple(rows_missed(counts)),
    )


def outcome(folder: Path) -> Outcome:
    """The judgement of all that ran in `folder` so far."""
    return judge(read_counts(folder))
