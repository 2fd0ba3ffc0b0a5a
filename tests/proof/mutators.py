"""Mutations: how an input becomes another one that is nearly as good, and wrong in one interesting place.

`mutated` stacks a few of them. The general ones know bytes, binary numbers of both orders, numbers in digits, and
pieces of the input itself or of another; `json_mutation` knows JSON, with everything that Python's reader takes and a
careless caller does not: huge integers, NaN, lone surrogates, keys that stand twice, nesting without end.

Invariant: everything drawn comes from the `Random` given.

    >>> mutated(b"size=17", Random(3), b"size=4", (b"name",))
    b'size=18446744073709551616'
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (
    0, 1, -1, 2, 7, 8, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 511, 512, 513, 1000, 1023, 1024, 4095, 4096, 4097,
    0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFF, 0x100000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x100000000,
    0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip
DIGITS = (
    b"0", b"-1", b"00", b"1e999", b"0x10", b"18446744073709551616", b"9" * 20, b"9" * 5000, b"7" * 11, "²".encode(),
)  # fmt: skip


def mutated(
    data: bytes, random: Random, other: bytes, words: Sequence[bytes] = (), own: Sequence[Mutation] = ()
) -> bytes:
    """`data` after one to eight mutations; `other` is spliced with, `words` are inserted, `own` know the format.

    Half of the mutants are made by `own` mutations alone, where there are any: the others seldom stay well-formed.
    """
    share = random.choice((0.2, 1.0)) if own else 0.0
    for _ in range(1 << random.randrange(4)):
        if random.random() < share:
            data = random.choice(own)(data, random)
        elif words and random.random() < 0.15:
            at = _place(data, random)
            word = random.choice(words)
            data = data[:at] + word + data[at + random.choice((0, len(word))) :]
        elif random.random() < 0.05:
            data = data[: _place(data, random)] + other[_place(other, random) :]
        else:
            data = random.choice(GENERAL)(data, random)
    return data


def _place(data: bytes, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _piece(data: bytes, random: Random) -> slice:
    """Some bytes: mostly few, sometimes many, sometimes a tar or page block."""
    at = _place(data, random)
    if random.random() < 0.2:
        at = at // 512 * 512
        return slice(at, at + 512 * random.choice((1, 1, 2, 8)))
    return slice(at, at + random.choice((1, 2, 3, 4, 8, 16, 32, 64, 1 + len(data) // 3)))


def flip_bit(data: bytes, random: Random) -> bytes:
    return _with(data, random.randrange(len(data)), lambda byte: byte ^ 1 << random.randrange(8)) if data else data


def set_byte(data: bytes, random: Random) -> bytes:
    value = random.choice((0, 0xFF, 0x80, 0x7F, 0x20, 0x0A, 0x2F, 0x2E, random.randrange(256)))
    return _with(data, random.randrange(len(data)), lambda _: value) if data else data


def _with(data: bytes, at: int, change: Callable[[int], int]) -> bytes:
    return data[:at] + bytes([change(data[at])]) + data[at + 1 :]


def binary_number(data: bytes, random: Random) -> bytes:
    """A number of 1, 2, 4 or 8 bytes, of either order, becomes an interesting one, or one near to what it was."""
    size = random.choice((1, 2, 4, 8))
    at = random.randrange(max(len(data) - size, 0) + 1)
    if random.random() < 0.7:
        at -= at % size
    order = "little" if random.random() < 0.5 else "big"
    was = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
    value = random.choice((random.choice(NUMBERS), was + random.choice((-1, 1, -8, 8)), len(data), was << 1))
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def number_in_digits(data: bytes, random: Random) -> bytes:
    """A number written in octal, decimal or hexadecimal digits becomes another, as wide as it was or not."""
    found = list(re.finditer(rb"[0-9]+|[0-9a-fA-F]{8,}", data[: 1 << 16]))
    if not found:
        return data
    match = random.choice(found)
    width = len(match[0])
    number = random.choice(NUMBERS)
    text = random.choice((b"%o" % number, b"%d" % number, b"%x" % number, random.choice(DIGITS)))
    if random.random() < 0.6:
        text = text.rjust(width, b"0")[-width:]
    return data[: match.start()] + text + data[match.end() :]


def truncate(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[: at // 512 * 512 if random.random() < 0.3 else at]


def leave_out(data: bytes, random: Random) -> bytes:
    piece = _piece(data, random)
    return data[: piece.start] + data[piece.stop :]


def repeat(data: bytes, random: Random) -> bytes:
    piece = _piece(data, random)
    return data[: piece.stop] + data[piece] * random.choice((1, 1, 2, 16, 300)) + data[piece.stop :]


def move(data: bytes, random: Random) -> bytes:
    piece, at = _piece(data, random), _place(data, random)
    return data[:at] + data[piece] + data[at + random.choice((0, piece.stop - piece.start)) :]


def insert(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + random.randbytes(random.choice((1, 2, 4, 16))) + data[at:]


def swap_line(data: bytes, random: Random) -> bytes:
    """Lines of a text: one goes, stands twice, or changes its place."""
    lines = data.split(b"\n")
    line = lines.pop(random.randrange(len(lines)))
    for _ in range(random.randrange(3)):
        lines.insert(random.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


GENERAL: tuple[Mutation, ...] = (
    flip_bit, flip_bit, set_byte, set_byte, binary_number, binary_number, number_in_digits, number_in_digits,
    truncate, leave_out, leave_out, repeat, move, insert, swap_line,
)  # fmt: skip


# --- JSON ------------------------------------------------------------------------------------------------------------


class Raw(int):
    """A value that is written as `text`, which `json.dumps` would never write."""

    text: str

    def __new__(cls, text: str) -> Raw:
        made = super().__new__(cls, 0)
        made.text = text
        return made

    def __repr__(self) -> str:
        return self.text


def _values(random: Random) -> Any:
    """Something that a field may hold and does not expect."""
    depth = random.choice((5, 400, 990, 100_000))
    return random.choice(
        (
            None, True, False, "", "x", "\ud800", "\0", "é" * 20, "0" * 300, "/" * 10, "ff", "zz", [], {}, [None],
            {"": 0}, 0.5, Raw("1e999"), Raw("NaN"), Raw("-Infinity"), Raw("9" * 4000), Raw("9" * 5000), Raw("-0"),
            "0" * 16, Raw("[" * depth + "]" * depth), Raw('{"a":' * depth + "0" + "}" * depth),
            *NUMBERS[:8], *NUMBERS[-9:], -(1 << 64), 1 << 64, random.getrandbits(64),
        )
    )  # fmt: skip


def json_mutation(data: bytes, random: Random) -> bytes:
    """One value or key of a JSON text becomes another; what is no JSON text stays what it is."""
    try:
        value = json.loads(data)
        return _dumped(_changed(value, random), random).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return data


def _changed(value: Any, random: Random) -> Any:
    """`value` with one thing changed, somewhere in it."""
    if isinstance(value, dict) and value and random.random() < 0.92:
        key = random.choice(sorted(value))
        what = random.random()
        if what < 0.1:
            del value[key]
        elif what < 0.15:
            value[random.choice((key.upper(), "", key + "x", "\ud800"))] = value[key]
        else:
            value[key] = _changed(value[key], random)
        return value
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        what = random.random()
        if what < 0.1:
            del value[at]
        elif what < 0.2:
            value += [value[at]] * random.choice((1, 2, 40))
        else:
            value[at] = _changed(value[at], random)
        return value
    if type(value) is int and random.random() < 0.4:
        return value ^ 1 << random.randrange(64)
    if isinstance(value, str) and value and random.random() < 0.4:
        return value[: random.randrange(len(value))] + random.choice(("", "0", "ff", "..", "/", value))
    return _values(random)


def _dumped(value: Any, random: Random) -> str:
    """JSON text, canonical or not; `Raw` values as they are, and now and then a key that stands twice."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}:{_dumped(each, random)}" for key, each in value.items()]
        return "{" + ",".join(items + items[:1] * (random.random() < 0.01)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_dumped(each, random) for each in value) + "]"
    return json.dumps(value, ensure_ascii=random.random() < 0.9)
