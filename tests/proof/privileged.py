"""Target `privileged`: random programs of M-, S- and U-mode on vpod and under QEMU; what each trap leaves is compared.

A program (privileged_draw.py) is a RAM image of some thousand episodes for the monitor (monitor.py). Both machines run
the same image; the log in RAM, which holds all integer registers and the trap CSRs at each trap and the page-table
entries after each episode, and the pages that were stored to must be equal, byte for byte.

Invariants: a difference is explained only by an entry of `KNOWN`; what follows an explained difference within its
episode is not compared, and what follows it later is compared without it. An unexplained one is made smaller while it
still differs, and shown as assembly.

    >>> run(seed=1, programs=1, episodes=20).differences
    ()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.machine_code import RAM, M, S
from tests.proof.board import Unfinished, on_qemu, on_vpod
from tests.proof.monitor import DATA, DATA_PAGES, HANDLERS, SETTINGS, USER, Episode, Image, Slot
from tests.proof.pieces import Form, Outcome, Piece
from tests.proof.privileged_draw import FENCES, UNREADABLE, Program, draw, implemented
from vpod import disasm, isa

PROGRAMS: dict[Form, tuple[int, int]] = {"short": (4, 15), "long": (40, 15)}  # pieces, and programs in each
EPISODES = 1500
LIMIT = 100_000_000  # instructions of one program
TRIALS = 80  # runs that shrinking may take

Record = dict[str, int]


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    count, programs = PROGRAMS[form]
    return [
        Piece("privileged", {"seed": 10_000 * seed + n * programs, "programs": programs}, seconds=900)
        for n in range(count)
    ]


# ---- known errors of QEMU 7 -----------------------------------------------------------------------------------------

AMO_CAUSES = {(6, 4), (7, 5), (15, 13), (15, 5)}  # (ours, QEMU's)


def amo_faults_as_a_load(episode: Episode, step: int, ours: Record, theirs: Record, fields: Sequence[str]) -> bool:
    """An AMO reads before it asks for the right to write: a load's cause, and A and D as each half has it."""
    if not episode.atomic or step != len(episode.steps) - 1:
        return False

    def explained(name: str) -> bool:
        if name in ("mcause", "scause"):
            return (ours[name], theirs[name]) in AMO_CAUSES
        if name == "x5":  # S's handler has looked at scause in t0
            return "scause" in fields
        return name.startswith("[") and ours[name] | 0xC0 == theirs[name] | 0xC0

    return all(map(explained, fields))


def tval_of_misaligned_access(episode: Episode, step: int, ours: Record, theirs: Record, fields: Sequence[str]) -> bool:
    """A misaligned access to no RAM is done in aligned pieces: tval is the piece's address."""
    return all(
        name in ("mtval", "stval")
        and ours[name[0] + "cause"] in (5, 7)
        and ours[name] & 7 != 0
        and 0 <= ours[name] - theirs[name] < 8
        for name in fields
    )


Explanation = Callable[[Episode, int, Record, Record, Sequence[str]], bool]
KNOWN: dict[str, tuple[Explanation, str]] = {
    "AMO faults as a load": (
        amo_faults_as_a_load,
        "AMOs never raise load exceptions: what their read half lacks is a store/AMO exception (unprivileged ISA, "
        "'Zaamo'; privileged ISA, table of mcause's synchronous exceptions)",
    ),
    "tval of a misaligned access fault": (
        tval_of_misaligned_access,
        "mtval is written with the faulting virtual address; for a misaligned access it may be that of the portion "
        "which caused the fault (privileged ISA, 'Machine Trap Value Register'), and both are portions of the access",
    ),
}


# ---- running and comparing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The first unexplained one: where, and what both machines have; `step` -1 is memory after the end."""

    episode: int
    step: int
    fields: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name} {ours:#x} (QEMU {theirs:#x})" for name, ours, theirs in self.fields)


@dataclass(frozen=True)
class Compared:
    """What a program's two runs came to."""

    image: Image
    instructions: int
    memory: bytes
    difference: Difference | None
    explained: dict[int, str]  # by episode


def compare(program: Program, theirs: Program | None = None) -> Compared:
    """Run `program` on both machines; `theirs` is what QEMU is given instead, to see that differences are noticed."""
    image = program.image()
    other = theirs.image() if theirs else image
    ours = on_vpod(image.memory, length=image.used, limit=LIMIT)
    memory = on_qemu(other.memory, length=other.used).memory
    difference, explained = find_difference(image, ours.memory, memory)
    return Compared(image, ours.instructions, ours.memory, difference, explained)


def find_difference(image: Image, ours: bytes, theirs: bytes) -> tuple[Difference | None, dict[int, str]]:
    explained: dict[int, str] = {}
    if image.log_bytes(ours) != image.log_bytes(theirs):
        for n, episode in enumerate(image.episodes):
            found = first_difference(image, n, ours, theirs)
            if found is None:
                continue
            reason = explain(episode, found.step, image.records(ours, n), image.records(theirs, n), found)
            if reason is None:
                return found, explained
            explained[n] = reason
    start, end = DATA - RAM, DATA - RAM + (DATA_PAGES << 12)
    if ours[start:end] != theirs[start:end]:
        at = next(at for at in range(start, end, 8) if ours[at : at + 8] != theirs[at : at + 8])
        values = [int.from_bytes(memory[at : at + 8], "little") for memory in (ours, theirs)]
        return Difference(len(image.episodes) - 1, -1, ((f"[{RAM + at:#x}]", *values),)), explained  # type: ignore[arg-type]
    return None, explained


def first_difference(image: Image, n: int, ours: bytes, theirs: bytes) -> Difference | None:
    start, end = image.log_of[n] - RAM, image.log_end(n) - RAM
    if ours[start:end] == theirs[start:end]:
        return None
    for step, (mine, other) in enumerate(zip(image.records(ours, n), image.records(theirs, n), strict=True)):
        if mine != other:
            fields = tuple((name, mine[name], other[name]) for name in mine if mine[name] != other[name])
            return Difference(n, step, fields)
    raise AssertionError("the log differs where no record is")


def explain(
    episode: Episode, step: int, ours: Sequence[Record], theirs: Sequence[Record], found: Difference
) -> str | None:
    """The name of the known error that accounts for all of a record's differences, if any."""
    fields = [name for name, _, _ in found.fields]
    for reason, (applies, _) in KNOWN.items():
        if applies(episode, step, ours[step], theirs[step], fields):
            return reason
    return None


def settle(program: Program) -> tuple[Program, Compared, Counter[str]]:
    """Compare, and again without explained episodes while these might be what a later difference comes from."""
    reasons: Counter[str] = Counter()
    while True:
        compared = compare(program)
        found, explained = compared.difference, compared.explained
        if found is None or not explained:
            return program, compared, reasons + Counter(explained.values())
        reasons += Counter(explained.values())
        program = replace(program, episodes=tuple(e for n, e in enumerate(program.episodes) if n not in explained))


# ---- shrinking and showing ------------------------------------------------------------------------------------------


def differs(program: Program) -> bool:
    try:
        return settle(program)[1].difference is not None
    except Unfinished:
        return True  # a hang is a difference, too


def smaller(program: Program) -> Iterator[Program]:
    """Programs that leave one thing away, the largest first."""
    episodes = program.episodes
    for part in (2, 4, 8):
        size = -(-len(episodes) // part)
        if len(episodes) > 1 and size >= 1:
            for at in range(0, len(episodes), size):
                if rest := episodes[:at] + episodes[at + size :]:
                    yield replace(program, episodes=rest)
    if len(episodes) > 1:
        return
    (only,) = episodes
    for n in range(len(only.steps)):
        if len(only.steps) > 1:
            yield replace(program, episodes=(replace(only, steps=[*only.steps[:n], *only.steps[n + 1 :]]),))
    for n in range(len(only.pokes)):
        yield replace(program, episodes=(replace(only, pokes=only.pokes[:n] + only.pokes[n + 1 :]),))
    for step in only.steps:
        lines = program.slots[step.slot].lines
        for n in range(len(lines) - 1):
            if lines[n].startswith((".word", ".half", "jalr", "csrr")):  # the others depend on each other
                slots = list(program.slots)
                slots[step.slot] = replace(program.slots[step.slot], lines=(*lines[:n], *lines[n + 1 :]))
                yield replace(program, slots=tuple(slots))
    for name in only.settings:
        if name not in ("stvec", "mtvec", "pmpcfg2", "pmpaddr15", "medeleg", "satp"):
            kept = {other: value for other, value in only.settings.items() if other != name}
            yield replace(program, episodes=(replace(only, settings=kept),))


def shrink(program: Program, found: Difference) -> Program:
    """As small a program as `TRIALS` runs find that still differs."""
    trials = TRIALS
    for start in (program.episodes[found.episode : found.episode + 1], program.episodes[: found.episode + 1]):
        if differs(candidate := replace(program, episodes=start)):
            program = candidate
            break
    progress = True
    while progress and trials > 0:
        progress = False
        for candidate in smaller(program):
            trials -= 1
            if trials <= 0:
                break
            if differs(candidate):
                program, progress = candidate, True
                break
    return program


def assembly(slot: Slot) -> Iterator[str]:
    """A slot's lines, encoded ones as assembly."""
    for line in slot.lines:
        directive, _, number = line.partition(" ")
        yield disasm.disassemble(int(number, 0)) if directive in (".half", ".word") else line


def show(program: Program) -> str:
    """The program, shrunk, with the first difference."""
    _, compared, _ = settle(program)
    found = compared.difference
    if found is None:
        return f"program {program.seed}: a difference that does not come again"
    image, episode = compared.image, program.episodes[found.episode]
    lines = [f"program {program.seed}, {len(program.episodes)} episodes: {found}"]
    lines.append("  " + "; ".join(f"{name}={episode.setting(name):#x}" for name in SETTINGS if episode.setting(name)))
    lines.append("  " + "; ".join(f"x{n}={value:#x}" for n, value in enumerate(episode.registers, 1)))
    lines += [f"  poke [{poke.address:#x}] = {poke.value:#x}" for poke in episode.pokes]
    if program.prologue != "nop":
        lines.append(f"  first of all: {program.prologue}")
    for n, step in enumerate(episode.steps):
        mark = "-> " if n == found.step else "   "
        lines.append(f"  {mark}{'US?M'[step.mode]} at {image.pc(episode, step):#x}, mstatus |= {step.status:#x}:")
        lines += [f"         {line}" for line in assembly(program.slots[step.slot])]
    return "\n".join(lines)


# ---- what was reached -----------------------------------------------------------------------------------------------

EXCEPTIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15)  # 0 can't be with C, 11 only from M, the rest are reserved
INTERRUPTS = {1: "MS", 3: "M", 5: "MS", 7: "M", 9: "MS"}  # by the level they may be taken to; MEI has no source here


def expected() -> frozenset[str]:
    """The names of everything that a run should come by."""
    names = {f"{name} in {'US?M'[mode]}" for name in implemented() for mode in (S, M) if may(name, mode)}
    names |= {f"cause {cause} to {level}" for cause in EXCEPTIONS for level in "MS"} | {"cause 11 to M"}
    names |= {f"interrupt {cause} to {level}" for cause, levels in INTERRUPTS.items() for level in levels}
    names |= {f"interrupt {cause} to {level}, vectored" for cause, levels in INTERRUPTS.items() for level in levels}
    names |= {f"mret from M to {to}" for to in "USM"}
    names |= {f"sret from {source} to {to}" for source in "MS" for to in "US"}
    names |= {f"{fence} in {mode}" for fence in FENCES for mode in "MS"} | {"MPRV", "wfi in M", "wfi in S"}
    rows = [row.name for row in isa.ROWS if row.extension in ("Zicsr", "Privileged", "Zifencei")]
    return frozenset(names | {f"row {name}" for name in (*rows, "ecall", "ebreak", "c.ebreak")})


def may(name: str, mode: int) -> bool:
    """Whether `name` is worth expecting in `mode`: it is accessible there, and not left out."""
    number = disasm.CSR_NAMES
    found = next(key for key, value in number.items() if value == name)
    enabled = mode == M or "hpm" not in name  # mcounteren has no bits for them
    return found >> 8 & 3 <= mode and enabled and not (mode == M and name in UNREADABLE)


def reached(image: Image, memory: bytes) -> Iterator[str]:
    """What the log shows to have happened."""
    for n, episode in enumerate(image.episodes):
        handler = episode.setting("stvec") & ~3
        for step, record in zip(episode.steps, image.records(memory, n), strict=True):
            yield trap_name(record["mcause"], "M", record["vector"] != 0)
            last = record["mepc"]
            if last & ~0xFFF == HANDLERS:
                yield trap_name(record["scause"], "S", record["x29"] != handler + 4)
                last = record["sepc"]
            if last & ~USER in (image.end(episode, step) - length for length in (2, 4)):  # the slot ran to its end
                slot, mode = image.slots[step.slot], "US?M"[step.mode]
                yield from (f"{name} in {mode}" if name in implemented() else name for name in slot.covers)
                yield from (f"row {name}" for name in slot.rows)


def trap_name(cause: int, level: str, vectored: bool) -> str:
    if cause >> 63:
        return f"interrupt {cause & 63} to {level}{', vectored' * vectored}"
    return f"cause {cause} to {level}"


def run(seed: int, programs: int, episodes: int = EPISODES) -> Outcome:
    counts: Counter[str] = Counter()
    explained: Counter[str] = Counter()
    found: list[str] = []
    seen: set[str] = set()
    for n in range(seed, seed + programs):
        program = draw(n, episodes)
        try:
            settled, compared, reasons = settle(program)
        except Unfinished as error:
            found.append(f"program {n}: {error}")
            continue
        explained += reasons
        counts += Counter(
            instructions=compared.instructions, traps=sum(len(e.steps) for e in settled.episodes),
            episodes=len(settled.episodes), programs=1,
        )  # fmt: skip
        seen |= set(reached(compared.image, compared.memory))
        if compared.difference is not None:
            found.append(show(shrink(settled, compared.difference)))
    return Outcome(dict(counts), tuple(found), dict(explained), tuple(sorted(expected() - seen)))
