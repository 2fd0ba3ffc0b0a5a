"""What F and D instructions compute, said with exact fractions: the oracle of `test_softfloat.py`.

Written from IEEE 754-2019 and the RISC-V unprivileged specification, and on purpose nothing like the implementation: a
value is a `Fraction`, a result is the multiple of a quantum on the right side of it, found by integer division. It is
slow (about 10 microseconds an operation) and has no special paths. NaNs and infinities are told apart by name.

    >>> evaluate("fadd.d", RNE, 0x3FF0000000000000, 0x3CA0000000000000)         # 1 + 2**-53
    (4607182418800017408, 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

RNE, RTZ, RDN, RUP, RMM = range(5)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16

MODES = {RNE: "RNE", RTZ: "RTZ", RDN: "RDN", RUP: "RUP", RMM: "RMM"}


@dataclass(frozen=True)
class Format:
    """A binary interchange format: IEEE 754-2019, section 3.4."""

    width: int
    precision: int

    @property
    def emax(self) -> int:
        return (1 << (self.width - self.precision - 1)) - 1

    @property
    def emin(self) -> int:
        return 1 - self.emax

    @property
    def sign(self) -> int:
        return 1 << (self.width - 1)

    @property
    def infinity(self) -> int:
        return (2 * self.emax + 1) << (self.precision - 1)

    @property
    def nan(self) -> int:
        return self.infinity | 1 << (self.precision - 2)


SINGLE = Format(32, 24)
DOUBLE = Format(64, 53)
FORMATS = {"s": SINGLE, "d": DOUBLE}


@dataclass(frozen=True)
class Datum:
    """A decoded pattern: kind is "qnan", "snan", "inf" or "number"; a number has its exact value."""

    kind: str
    negative: bool
    value: Fraction
    bits: int

    @property
    def is_nan(self) -> bool:
        return self.kind in ("qnan", "snan")

    @property
    def is_zero(self) -> bool:
        return self.kind == "number" and self.value == 0


def decode(form: Format, bits: int) -> Datum:
    negative = bool(bits & form.sign)
    biased, fraction = divmod(bits & (form.sign - 1), 1 << (form.precision - 1))
    if biased == 2 * form.emax + 1:
        quiet = fraction >> (form.precision - 2)
        return Datum("inf" if fraction == 0 else "qnan" if quiet else "snan", negative, Fraction(0), bits)
    if biased == 0:
        value = Fraction(fraction) * power(form.emin - form.precision + 1)
    else:
        value = Fraction((1 << (form.precision - 1)) + fraction) * power(biased - form.emax - form.precision + 1)
    return Datum("number", negative, -value if negative else value, bits)


def power(exponent: int) -> Fraction:
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def floor_log2(value: Fraction) -> int:
    """The largest e with 2**e <= value, which is positive."""
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if power(guess) <= value else guess - 1


def to_multiple(value: Fraction, quantum: Fraction, negative: bool, rm: int) -> tuple[int, bool]:
    """The positive value as a number of quanta in rounding mode rm, and whether that is exact."""
    scaled = value / quantum
    count, rest = divmod(scaled.numerator, scaled.denominator)
    twice = 2 * rest - scaled.denominator
    up = {
        RNE: twice > 0 or (twice == 0 and count % 2 == 1),
        RTZ: False,
        RDN: negative,
        RUP: not negative,
        RMM: twice >= 0,
    }[rm]
    return (count + (1 if up and rest else 0)), rest == 0


def encode(form: Format, value: Fraction, zero_negative: bool, rm: int) -> tuple[int, int]:
    """The value rounded: pattern and flags. An exact zero takes the sign given."""
    if value == 0:
        return form.sign if zero_negative else 0, 0
    negative, size = value < 0, abs(value)
    sign = form.sign if negative else 0
    exponent = floor_log2(size)
    unbounded, exact = to_multiple(size, power(exponent - form.precision + 1), negative, rm)
    if unbounded * power(exponent - form.precision + 1) >= power(form.emax + 1):
        away = rm in (RNE, RMM) or rm == (RDN if negative else RUP)
        return sign | (form.infinity if away else form.infinity - 1), OF | NX
    tiny = unbounded * power(exponent - form.precision + 1) < power(form.emin)
    exponent = max(exponent, form.emin)
    count, exact = to_multiple(size, power(exponent - form.precision + 1), negative, rm)
    flags = 0 if exact else NX | (UF if tiny else 0)
    # count has at most precision + 1 bits; as a pattern its leading one is one step of the exponent field
    return sign | (((exponent - form.emin) << (form.precision - 1)) + count), flags


def invalid(form: Format) -> tuple[int, int]:
    return form.nan, NV


def quieted(form: Format, *data: Datum) -> tuple[int, int]:
    return form.nan, NV if any(x.kind == "snan" for x in data) else 0


def add(form: Format, rm: int, x: Datum, y: Datum) -> tuple[int, int]:
    if x.is_nan or y.is_nan:
        return quieted(form, x, y)
    if x.kind == "inf" and y.kind == "inf":
        return (x.bits, 0) if x.negative == y.negative else invalid(form)
    if x.kind == "inf" or y.kind == "inf":
        return (x.bits if x.kind == "inf" else y.bits), 0
    zero_negative = x.negative if x.is_zero and y.is_zero and x.negative == y.negative else rm == RDN
    return encode(form, x.value + y.value, zero_negative, rm)


def multiply(form: Format, rm: int, x: Datum, y: Datum) -> tuple[int, int]:
    negative = x.negative != y.negative
    if x.is_nan or y.is_nan:
        return quieted(form, x, y)
    if x.kind == "inf" or y.kind == "inf":
        return invalid(form) if x.is_zero or y.is_zero else (form.infinity | (form.sign if negative else 0), 0)
    return encode(form, x.value * y.value, negative, rm)


def divide(form: Format, rm: int, x: Datum, y: Datum) -> tuple[int, int]:
    negative = x.negative != y.negative
    sign = form.sign if negative else 0
    if x.is_nan or y.is_nan:
        return quieted(form, x, y)
    if x.kind == "inf":
        return invalid(form) if y.kind == "inf" else (sign | form.infinity, 0)
    if y.kind == "inf":
        return sign, 0
    if y.is_zero:
        return invalid(form) if x.is_zero else (sign | form.infinity, DZ)
    return encode(form, x.value / y.value, negative, rm)


def square_root(form: Format, rm: int, x: Datum) -> tuple[int, int]:
    if x.is_nan:
        return quieted(form, x)
    if x.is_zero or (x.kind == "inf" and not x.negative):
        return x.bits, 0
    if x.negative:
        return invalid(form)
    # Scale by an even power of two to an integer with far more root bits than are kept; a root that isn't whole lies
    # strictly between two integers, so the half between them rounds as the root does.
    scale = 2 * (2 * form.precision - form.emin)
    scaled = x.value * power(scale)
    assert scaled.denominator == 1
    root = isqrt(scaled.numerator)
    value = Fraction(root) if root * root == scaled.numerator else Fraction(2 * root + 1, 2)
    return encode(form, value / power(scale // 2), False, rm)


def multiply_add(form: Format, rm: int, x: Datum, y: Datum, z: Datum) -> tuple[int, int]:
    zero_times_infinity = {x.is_zero, y.is_zero} == {True, False} and "inf" in (x.kind, y.kind)
    if x.is_nan or y.is_nan or z.is_nan:
        result, flags = quieted(form, x, y, z)
        return result, flags | (NV if zero_times_infinity else 0)
    if zero_times_infinity:
        return invalid(form)
    negative = x.negative != y.negative
    if "inf" in (x.kind, y.kind):
        if z.kind == "inf" and z.negative != negative:
            return invalid(form)
        return form.infinity | (form.sign if negative else 0), 0
    if z.kind == "inf":
        return z.bits, 0
    product = x.value * y.value
    zero_negative = negative if product == 0 and z.is_zero and z.negative == negative else rm == RDN
    return encode(form, product + z.value, zero_negative, rm)


def extreme(form: Format, x: Datum, y: Datum, largest: bool) -> tuple[int, int]:
    flags = NV if "snan" in (x.kind, y.kind) else 0
    numbers = [d for d in (x, y) if not d.is_nan]
    if not numbers:
        return form.nan, flags
    numbers.sort(key=lambda d: (order(d), not d.negative))
    return numbers[-1 if largest else 0].bits, flags


def order(x: Datum) -> Fraction:
    """A place on the number line; infinities beyond every finite number."""
    return power(2000) * (-1 if x.negative else 1) if x.kind == "inf" else x.value


def compare(name: str, x: Datum, y: Datum) -> tuple[int, int]:
    if x.is_nan or y.is_nan:
        return 0, NV if name != "feq" or "snan" in (x.kind, y.kind) else 0
    left, right = order(x), order(y)
    return int({"feq": left == right, "flt": left < right, "fle": left <= right}[name]), 0


def classify(form: Format, x: Datum) -> tuple[int, int]:
    if x.is_nan:
        return 1 << (8 if x.kind == "snan" else 9), 0
    if x.kind == "inf":
        rank = 3
    elif x.is_zero:
        rank = 0
    else:
        rank = 1 if abs(x.value) < power(form.emin) else 2
    return 1 << (3 - rank if x.negative else 4 + rank), 0


INTEGERS = {"w": (32, True), "wu": (32, False), "l": (64, True), "lu": (64, False)}


def to_integer(rm: int, x: Datum, width: int, signed: bool) -> tuple[int, int]:
    least, most = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    flags = 0
    if x.is_nan or x.kind == "inf":
        result, flags = (least if x.negative and not x.is_nan else most), NV
    else:
        size, exact = to_multiple(abs(x.value), Fraction(1), x.negative, rm)
        result = -size if x.negative else size
        if not least <= result <= most:
            result, flags = (least if x.negative else most), NV
        elif not exact:
            flags = NX
    result &= (1 << width) - 1
    if width == 32 and result >> 31:
        result |= 0xFFFFFFFF00000000                   # every 32-bit result is sign-extended, unsigned ones too
    return result, flags


def from_integer(form: Format, rm: int, bits: int, width: int, signed: bool) -> tuple[int, int]:
    value = bits & ((1 << width) - 1)
    if signed and value >> (width - 1):
        value -= 1 << width
    return encode(form, Fraction(value), False, rm)


def evaluate(op: str, rm: int, a: int, b: int = 0, c: int = 0) -> tuple[int, int]:
    """The pattern and the flags of one instruction; arguments as for `vpod._fpu.evaluate`."""
    head, _, tail = op.rpartition(".")
    if op in ("fcvt.s.d", "fcvt.d.s"):
        source, target = (DOUBLE, SINGLE) if op == "fcvt.s.d" else (SINGLE, DOUBLE)
        x = decode(source, a & (2 * source.sign - 1))
        if x.is_nan:
            return quieted(target, x)
        if x.kind == "inf":
            return target.infinity | (target.sign if x.negative else 0), 0
        return encode(target, x.value, x.negative, rm)
    if tail in INTEGERS:
        return from_integer(FORMATS[head[-1]], rm, a, *INTEGERS[tail])
    form = FORMATS[tail]
    mask = 2 * form.sign - 1
    x, y, z = decode(form, a & mask), decode(form, b & mask), decode(form, c & mask)
    if head.startswith("fcvt."):
        return to_integer(rm, x, *INTEGERS[head[5:]])
    if head in ("feq", "flt", "fle"):
        return compare(head, x, y)
    if head in ("fmin", "fmax"):
        return extreme(form, x, y, head == "fmax")
    if head == "fsub":
        return add(form, rm, x, decode(form, y.bits ^ form.sign))
    if head == "fmadd":
        return multiply_add(form, rm, x, y, z)
    if head == "fsqrt":
        return square_root(form, rm, x)
    if head == "fclass":
        return classify(form, x)
    return {"fadd": add, "fmul": multiply, "fdiv": divide}[head](form, rm, x, y)
