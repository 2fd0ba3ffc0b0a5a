"""Operands on which floating point goes wrong: the corners by name, and random ones biased towards them.

Uniform random patterns almost never cancel, tie, underflow or saturate; these do, in most operand sets.

    >>> a, b, c = random_sets("d", 1000, random.Random(1))
"""

from __future__ import annotations

import random
import struct
from array import array

from tests.float_model import DOUBLE, FORMATS, Format


def specials(form: Format) -> list[int]:
    """Zeros, ones, the edges of the subnormals, the largest, infinities and NaNs, each in both signs; powers of two."""
    step, top = 1 << (form.precision - 1), form.infinity
    one = form.emax * step
    positive = [
        0, 1, 2, step // 2, step - 1, step, step + 1, 2 * step - 1, 2 * step,          # around the subnormals' end
        one - 1, one, one + 1, one + step // 2, one + step, one + step - 1,            # 1-, 1, 1+, 1.5, 2, 2-
        one - step, one - step - 1, one - form.precision * step,                       # 1/2, below it, 2**-p
        one + form.precision * step, one + (form.precision - 1) * step + 1,            # 2**p, 2**(p-1) + 1
        top - 1, top - step, top, form.nan, form.nan + 1, top + 1, form.nan - 1,       # max, infinity, both NaNs
    ]
    return [bits | sign for bits in positive for sign in (0, form.sign)]


def few_specials(form: Format) -> list[int]:
    """A handful for cubes."""
    step, top = 1 << (form.precision - 1), form.infinity
    one = form.emax * step
    positive = [0, 1, step - 1, step, one, one + 1, one + step - 1, top - 1, top]
    return [bits | sign for bits in positive for sign in (0, form.sign)] + [form.nan, form.nan - 1]


def saturation_edges(form: Format) -> list[int]:
    """Values around each limit of the four integer types, and around one half, one, three halves."""
    edges = []
    for exponent in (-2, -1, 0, 1, 30, 31, 32, 52, 53, 62, 63, 64, 65):
        bits = (exponent + form.emax) << (form.precision - 1)
        edges += [bits, bits + 1, bits + 2, bits - 1, bits - 2, bits + (1 << (form.precision - 2)), bits + 3]
        if 0 <= exponent < form.precision - 1:                 # the integer's own last places: .25, .5, .75, 1.5 below
            unit = 1 << (form.precision - 1 - exponent)
            edges += [bits + unit * k // 4 for k in range(-6, 7)]
    return [bits | sign for bits in edges for sign in (0, form.sign)]


def narrowing_edges() -> list[int]:
    """Doubles around the ends of a single's range and of its subnormals, and around ties of its last place."""
    step = 1 << 29
    edges = []
    for exponent in (-151, -150, -149, -148, -127, -126, -125, 0, 126, 127, 128):
        bits = (exponent + DOUBLE.emax) << 52
        edges += [bits + step * k // 2 + d for k in (-2, -1, 0, 1, 2, 3) for d in (-1, 0, 1)]
    return [bits | sign for bits in edges for sign in (0, DOUBLE.sign)]


def integers() -> list[int]:
    """64-bit patterns around powers of two, which is where conversions from integers round, tie and change sign."""
    near = [(1 << k) + d for k in range(65) for d in (-2, -1, 0, 1, 2)]
    halfway = [((1 << 24) + k) << s | t for k in (0, 1, 3) for s in (1, 2, 39) for t in (0, 1)]
    halfway += [((1 << 53) + k << 10 | 1 << 9) + t for k in (0, 1, 2) for t in (-1, 0, 1)]
    return [value & (1 << 64) - 1 for x in near + halfway for value in (x, -x)]


def random_fraction(form: Format, rng: random.Random) -> int:
    """Uniform, sparse, or runs of ones and zeros: the last two make ties and long carries."""
    width = form.precision - 1
    kind = rng.randrange(4)
    if kind == 0:
        return rng.getrandbits(width)
    if kind == 1:
        return (1 << rng.randrange(width)) | (1 << rng.randrange(width))
    if kind == 2:
        return ((1 << width) - (1 << rng.randrange(width))) ^ (1 << rng.randrange(width))
    return ((1 << rng.randrange(width)) - 1) ^ (rng.getrandbits(4))


def random_set(form: Format, rng: random.Random, corners: list[int]) -> tuple[int, int, int]:
    """Three operands whose exponents bring their sum, product and fused sum near each other, or near the edges."""
    last = 2 * form.emax
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(corners), rng.getrandbits(form.width), rng.choice(corners)
    if kind == 1:
        return rng.getrandbits(form.width), rng.choice(corners), rng.getrandbits(form.width)
    reach = rng.choice((2, form.precision + 4, 2 * form.precision + 6))
    if kind == 2:                                              # products and quotients at both ends of the range
        first = rng.randrange(last + 1)
        edge = rng.choice((0, -form.precision, last)) + rng.randint(-3, 3)
        second = edge + form.emax - first if rng.getrandbits(1) else first + form.emax - edge
    elif kind == 3:                                            # sums of the smallest
        first, second = rng.randrange(4), rng.randrange(4)
    else:
        first = rng.randrange(last + 1)
        second = first + rng.randint(-reach, reach) if kind < 6 else form.emax + rng.randint(-reach, reach)
    third = first + second - form.emax + rng.randint(-reach, reach)
    a, b, c = (assemble(form, exponent, rng) for exponent in (first, second, third))
    if kind == 7:                                              # c cancels the rounded product but for a few last places
        c = (negated_product(form, a, b) + rng.randint(-1, 1)) & (2 * form.sign - 1)
    return a, b, c


def assemble(form: Format, exponent: int, rng: random.Random) -> int:
    """A finite number of that biased exponent, or the nearest that there is, of random sign and fraction."""
    biased = min(max(exponent, 0), 2 * form.emax)
    return (rng.getrandbits(1) * form.sign) | (biased << (form.precision - 1)) | random_fraction(form, rng)


def negated_product(form: Format, a: int, b: int) -> int:
    """About -(a * b), by the host's arithmetic: only the choice of an operand depends on it."""
    code, whole = ("<f", "<I") if form.width == 32 else ("<d", "<Q")
    x, y = (struct.unpack(code, struct.pack(whole, bits))[0] for bits in (a, b))
    try:
        return int(struct.unpack(whole, struct.pack(code, -(x * y)))[0])
    except OverflowError:
        return form.infinity


def random_sets(width: str, count: int, rng: random.Random) -> tuple[array[int], array[int], array[int]]:
    """Three arrays of `count` patterns of the format "s" or "d"."""
    form = FORMATS[width]
    corners = specials(form) + saturation_edges(form)
    sets = [random_set(form, rng, corners) for _ in range(count)]
    a, b, c = (array("Q", column) for column in zip(*sets, strict=True))
    return a, b, c


def random_integers(count: int, rng: random.Random) -> array[int]:
    """64-bit patterns of every length, many of them just beside a power of two or a tie."""
    corners = integers()
    result = array("Q")
    for _ in range(count):
        kind = rng.randrange(4)
        if kind == 0:
            result.append(rng.choice(corners))
        elif kind == 1:
            result.append(((rng.getrandbits(rng.randint(1, 30)) << rng.randrange(40)) + rng.getrandbits(2)) % (1 << 64))
        else:
            result.append((rng.getrandbits(rng.randint(1, 64)) * rng.choice((1, -1))) & (1 << 64) - 1)
    return result


def random_convertibles(width: str, count: int, rng: random.Random) -> array[int]:
    """Patterns of numbers from 2**-3 to 2**67 for conversions to integers, and the saturation edges."""
    form = FORMATS[width]
    corners = saturation_edges(form) + specials(form)
    result = array("Q")
    for _ in range(count):
        if rng.randrange(4) == 0:
            result.append(rng.choice(corners))
        else:
            result.append(assemble(form, form.emax + rng.randint(-3, 67), rng))
    return result


def random_narrowed(count: int, rng: random.Random) -> array[int]:
    """Doubles for conversion to single: half of them in or near its range, a quarter of those near a tie."""
    corners = narrowing_edges()
    result, _, _ = random_sets("d", count, rng)
    for k in range(0, count, 2):
        result[k] = (result[k] & ~(0x7FF << 52)) | (DOUBLE.emax + rng.randint(-155, 130)) << 52
        if k % 8 == 0:
            result[k] = rng.choice(corners) ^ rng.getrandbits(10) << rng.choice((0, 29, 32))
    return result
