"""The target `user` itself: that it agrees on sound machines, notices each kind of fault, and shows it small.

Faults are made by falsifying what the core hands over, one thing at a time, as a fault in the core would.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("unicorn", reason="the independent emulator: pip install unicorn (extra `test`)")

from tests.machine_code import assemble
from tests.proof import user
from tests.proof.drawing import draw
from tests.proof.programs import BOX, CODE, MIDDLE, SCRATCH, SCRATCH_SIZE, Item, Program, Reference, Unlinkable
from tests.proof.shrink import shrink
from tests.proof.user import KNOWN, Bench, Core, End, Known
from vpod import disasm, isa


def words(code: bytes) -> tuple[int, ...]:
    """The instructions of `code`."""
    found = []
    while code:
        length = isa.length(code[0])
        found.append(int.from_bytes(code[:length], "little"))
        code = code[length:]
    return tuple(found)


def program(source: str, **state: object) -> Program:
    """`source`, an instruction an item; s0 points to the middle of the scratch memory, s1 to its end."""
    offset = int(state.get("offset", 0))
    items = [Item(index, (word,)) for index, word in enumerate(words(assemble(source, CODE + offset).code))]
    x = [0] * 32
    x[8], x[9] = MIDDLE, SCRATCH + SCRATCH_SIZE
    return Program(tuple(items), x=tuple(x), f=(BOX,) * 32, singles=frozenset(range(32)), **state)  # type: ignore


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


# ---- sound machines -------------------------------------------------------------------------------------------------


def test_random_programs_agree_and_execute_every_row() -> None:
    outcome = user.run(seed=3, first=0, programs=700)
    assert outcome.differences == ()
    assert outcome.missing == ()
    assert outcome.counts["programs"] == 700
    assert outcome.counts["instructions"] > 1_000_000


def test_a_program_depends_on_its_numbers_alone() -> None:
    assert draw(3, 5000) == draw(3, 5000)
    assert draw(3, 5000) != draw(3, 5001)
    assert draw(3, 5000) != draw(4, 5000)


@pytest.mark.parametrize("paged", [False, True])
def test_instructions_that_retire_are_counted(bench: Bench, paged: bool) -> None:
    looping = program("li t0, 5; again: addi t0, t0, -1; bnez t0, again; ecall", paged=paged)
    verdict = bench.compare(looping)
    assert (verdict.differences, verdict.instructions) == ([], 11)  # an instruction that traps does not retire


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_known_error_of_the_oracle_shows(bench: Bench, known: Known) -> None:
    verdict = bench.compare(program(known.shows, offset=known.offset))
    assert verdict.known == known.name if known.explains else verdict.differences


def test_a_known_error_explains_nothing_else(bench: Bench) -> None:
    split = program("li t0, -1; sd t0, -4(s1); ecall")
    ours = bench.cores[False].run(split, split.image())
    theirs = bench.oracle.run(split, split.image())
    known = next(known for known in KNOWN if known.explains)
    assert known.explains is not None
    assert known.explains(split, ours, theirs)
    assert not known.explains(split, replace(ours, x=[*ours.x[:5], 1, *ours.x[6:]]), theirs)
    assert not known.explains(split, replace(ours, scratch=b"\1" + ours.scratch[1:]), theirs)


# ---- faults ---------------------------------------------------------------------------------------------------------


def flipped(values: list[int], index: int, bit: int) -> list[int]:
    return [value ^ (1 << bit if n == index else 0) for n, value in enumerate(values)]


FAULTS: dict[str, Callable[[End], End]] = {
    "cause": lambda end: replace(end, cause=end.cause ^ 1),
    "value": lambda end: replace(end, value=end.value + 1),
    "pc": lambda end: replace(end, pc=end.pc + 2),
    "fcsr": lambda end: replace(end, fcsr=end.fcsr ^ 16),
    "s4": lambda end: replace(end, x=flipped(end.x, 20, 63)),
    "zero": lambda end: replace(end, x=flipped(end.x, 0, 0)),
    "ft9": lambda end: replace(end, f=flipped(end.f, 29, 0)),
    "fa1": lambda end: replace(end, f=flipped(end.f, 11, 63)),  # of a single: no longer boxed
    "memory at 0x8000bfff": lambda end: replace(end, scratch=end.scratch[:-1] + bytes([end.scratch[-1] ^ 1])),
    "memory at 0x80004000": lambda end: replace(end, code=bytes([end.code[0] ^ 1]) + end.code[1:]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Core.end
    monkeypatch.setattr(Core, "end", lambda self, count: FAULTS[name](right(self, count)))
    monkeypatch.setattr(user, "STEPPED", 0)
    monkeypatch.setattr(user, "MOST_STEPPED", 0)
    outcome = user.run(seed=3, first=0, programs=3)
    assert len(outcome.differences) == 3
    for difference in outcome.differences:
        assert re.match(rf"program \d of seed 3, in U-mode under \w+: {name}: .*, Unicorn ", difference)


def pretend(monkeypatch: pytest.MonkeyPatch, wrong: str, right: str) -> None:
    """Make the core execute the row `wrong` where the program says `right`; nothing else differs."""
    honest = Core.run
    difference = isa.BY_NAME[wrong].match ^ isa.BY_NAME[right].match

    def run(self: Core, program: Program, image: bytes) -> End:
        lying = bytearray(image)
        at = program.offset
        places = []
        for word in words(program.link()):
            if isa.BY_NAME[right].length == 4 and isa.BY_NAME[right].matches(word):
                places.append(at)
                lying[at : at + 4] = (word ^ difference).to_bytes(4, "little")
            at += isa.length(word)
        end = honest(self, program, bytes(lying))
        code = bytearray(end.code)
        for place in places:
            if code[place : place + 4] == lying[place : place + 4]:
                code[place : place + 4] = image[place : place + 4]
        return replace(end, code=bytes(code))

    monkeypatch.setattr(Core, "run", run)
    monkeypatch.setattr(user, "STEPPED", 0)
    monkeypatch.setattr(user, "MOST_STEPPED", 0)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("mulhu", "mulhsu"),
        ("sltu", "slt"),
        ("lhu", "lh"),
        ("fnmsub.d", "fnmadd.d"),
        ("amomaxu.w", "amomax.w"),
        ("bge", "bgeu"),
    ],
)
def test_a_wrong_instruction_is_shrunk_to_itself(wrong: str, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, wrong, right)
    monkeypatch.setattr(user, "ENOUGH", 1)
    outcome = user.run(seed=3, first=0, programs=1000)
    (text,) = outcome.differences
    listing = re.findall(r"^0x[0-9a-f]+  [0-9a-f]+ +(\S+)", text, re.M)
    assert right in {re.sub(r"\.(aq|rl|aqrl)$", "", name) for name in listing}, text
    assert len(listing) <= 12, text
    seed, first = re.findall(r"piece user seed=(\d+) first=(\d+) programs=1$", text, re.M)[0]
    assert user.run(seed=int(seed), first=int(first), programs=1).differences == (text,)


def test_a_core_that_does_not_come_to_an_end_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user, "LIMIT", 100)
    looping = program("li t0, 500; again: addi t0, t0, -1; bnez t0, again; ecall")
    bench = Bench()
    assert bench.compare(looping).differences == []  # nor does the other, within the same bound
    monkeypatch.setattr(Bench, "ours", lambda *_: (_ for _ in ()).throw(user.Lost("the core: lost")))
    assert bench.compare(program("ecall")).differences == ["the core: lost"]


def test_stepping_is_compared_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    assert bench.stepped(program("nop; c.nop 0; ecall"), seen) == []
    assert seen == {"addi", "c.nop", "ecall"}
    right = Core.step
    monkeypatch.setattr(Core, "step", lambda *given: replace(right(*given), instructions=7, fcsr=1))
    assert bench.stepped(program("nop; c.nop 0; ecall"), seen) == ["fcsr: 0x0, stepped 0x1", "instret: 2, stepped 7"]


def test_memory_that_programs_cannot_write_is_looked_at() -> None:
    bench = Bench()
    bench.load(bytes(range(256)) * (user.TABLE_SIZE // 256))
    assert bench.unchanged() == []
    core = bench.cores[True]
    core.cpu.write(core.frames[user.TABLE + 0x3000], b"x")
    assert bench.unchanged() == ["the core (paged) changed the operands, which are read-only"]


# ---- programs -------------------------------------------------------------------------------------------------------


def test_jumps_find_their_items_and_what_is_left_of_them() -> None:
    jump = Item(0, words(assemble("jal ra, .").code), (Reference(0, 2),))
    nop, end = Item(1, words(assemble("nop").code)), Item(2, words(assemble("ecall").code))
    assert Program((jump, nop, end)).listing().splitlines()[0].endswith("jal ra, 0x80004008")
    assert Program((jump, end)).listing().splitlines()[0].endswith("jal ra, 0x80004004")
    assert Program((jump, nop, Item(3, end.words))).listing().splitlines()[0].endswith("jal ra, 0x80004008")
    with pytest.raises(Unlinkable):
        Program((jump, nop)).link()
    with pytest.raises(Unlinkable):
        Program((Item(0, jump.words, (Reference(0, 2, exact=True),)), nop, Item(3, end.words))).link()


def test_addresses_are_made_of_two_words() -> None:
    source = assemble("auipc t0, 0; addi t0, t0, 0").code
    there = [Item(n, words(assemble("nop").code)) for n in range(1, 700)]
    linked = Program((Item(0, words(source), (Reference(0, 600, address=True),)), *there)).link()
    upper, lower = (int.from_bytes(linked[at : at + 4], "little") for at in (0, 4))
    assert disasm.disassemble(upper) == "auipc t0, 0x1"
    assert disasm.disassemble(lower) == f"addi t0, t0, {8 + 599 * 4 - 0x1000}"


# ---- shrinking ------------------------------------------------------------------------------------------------------


def test_shrinking_keeps_what_matters() -> None:
    assert shrink(range(200), lambda items: {3, 70, 199} <= set(items)) == [3, 70, 199]
    assert shrink([5, 9, 6], lambda items: sum(items) >= 10, simpler=lambda item: [item - 1] * (item > 0)) == [1, 9]
    assert shrink("abc", lambda items: "b" in items and len(items) == 3, blank=lambda _: "-") == ["-", "b", "-"]


def test_shrinking_passes_over_what_makes_no_sense_and_ends() -> None:
    def fails(items: list[int]) -> bool:
        if len(items) % 2:
            raise Unlinkable("odd")
        return 4 in items

    assert 4 in shrink(range(8), fails, unfit=(Unlinkable,))
    asked: list[int] = []
    shrink(range(1000), lambda items: bool(asked.append(len(items))), tries=50)
    assert len(asked) == 50
