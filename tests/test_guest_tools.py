"""The guest's own tools as oracles of the machine: digests, compression, awk's and Python's arithmetic, sorting.

Each computes in the guest what this host computes on the same data with programs of its own. A machine with one wrong
instruction can hardly boot; one with a wrong rounding or a wrong carry can, and is found here.
"""

from __future__ import annotations

import decimal
import gzip
import hashlib
import json
import math
import random
import struct
import textwrap
import zlib

import pytest

from vpod import Sandbox

SEED = 20_260_131


def some_data(size: int) -> bytes:
    """Bytes of which some compress and some don't, the same every time."""
    source = random.Random(SEED)
    noise = source.randbytes(size // 2)
    words = [source.randbytes(source.randrange(1, 9)).hex() for _ in range(50)]
    text = " ".join(source.choices(words, k=size // 8)).encode()
    return (noise + text)[:size].ljust(size, b"\0")


DATA = some_data(1_000_000)


def some_doubles(count: int) -> list[float]:
    """Doubles of every exponent, each kind of corner among them; no NaN."""
    source = random.Random(SEED)
    raw = (struct.unpack("<d", source.randbytes(8))[0] for _ in range(count))
    corners = [
        0.0,
        -0.0,
        5e-324,
        2.2250738585072014e-308,
        1.7976931348623157e308,
        math.inf,
        -math.inf,
        0.1,
        1 / 3,
        1e23,
    ]
    return [value for value in raw if value == value] + corners + [source.uniform(-1e6, 1e6) for _ in range(count)]


def ask(box: Sandbox, source: str, **given: object) -> object:
    """What Python code in the guest leaves in `answer`, as JSON; the code sees `given`, and doubles as hex."""
    box.commands.run(["sh", "-c", "cat > /tmp/given.json"], stdin=json.dumps(given))
    header = "import json\nglobals().update(json.load(open('/tmp/given.json')))\n"
    done = box.code.run(header + textwrap.dedent(source) + "\nprint(json.dumps(answer))", timeout=300)
    assert done.error is None, done.traceback
    return json.loads(done.text)


class TestTools:
    @pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha512"])
    def test_digests(self, box: Sandbox, name: str) -> None:
        assert box.commands.run(f"{name}sum", stdin=DATA).stdout.split()[0] == hashlib.new(name, DATA).hexdigest()

    def test_cksum(self, box: Sandbox) -> None:
        """POSIX's CRC, over the data and its length."""
        crc = 0
        for byte in DATA + len(DATA).to_bytes((len(DATA).bit_length() + 7) // 8, "little"):
            crc = CRC_TABLE[(crc >> 24) ^ byte] ^ (crc << 8 & 0xFFFF_FFFF)
        assert box.commands.run("cksum", stdin=DATA).stdout.split()[:2] == [str(crc ^ 0xFFFF_FFFF), str(len(DATA))]

    def test_gzip_there_and_back(self, box: Sandbox) -> None:
        assert gzip.decompress(box.commands.run(["gzip", "-c"], stdin=DATA).stdout_bytes) == DATA
        assert box.commands.run(["gunzip", "-c"], stdin=gzip.compress(DATA)).stdout_bytes == DATA
        assert box.commands.run("gzip -9 | gunzip", stdin=DATA).stdout_bytes == DATA

    def test_sort(self, box: Sandbox) -> None:
        lines = DATA.hex(" ", 7)[:200_000].split()
        assert box.commands.run("sort | uniq -c | wc -l", stdin="\n".join(lines)).stdout.strip() == str(len(set(lines)))
        assert box.commands.run("LC_ALL=C sort -r", stdin="\n".join(lines)).stdout.split() == sorted(
            lines, reverse=True
        )

    def test_awks_arithmetic(self, box: Sandbox) -> None:
        source = random.Random(SEED)
        pairs = [(source.uniform(-1e3, 1e3), source.uniform(0.1, 1e3)) for _ in range(300)]
        program = '{ printf "%.17g %.17g %.17g %.17g %.17g\\n", $1 + $2, $1 * $2, $1 / $2, sqrt($2), int($1) }'
        answer = box.commands.run(["awk", program], stdin="".join(f"{a!r} {b!r}\n" for a, b in pairs)).stdout
        expected = [(a + b, a * b, a / b, math.sqrt(b), float(int(a))) for a, b in pairs]
        assert [tuple(map(float, line.split())) for line in answer.split("\n")] == expected

    def test_awks_functions(self, box: Sandbox) -> None:
        values = [random.Random(SEED).uniform(-10, 10) for _ in range(100)]
        program = '{ printf "%.17g %.17g %.17g %.17g\\n", sin($1), cos($1), exp($1), atan2($1, 2) }'
        answer = box.commands.run(["awk", program], stdin="".join(f"{value!r}\n" for value in values)).stdout
        for value, line in zip(values, answer.split("\n"), strict=True):
            expected = (math.sin(value), math.cos(value), math.exp(value), math.atan2(value, 2))
            # Two C libraries may differ in the last place.
            assert all(math.isclose(float(a), b, rel_tol=5e-16) for a, b in zip(line.split(), expected, strict=True))

    def test_the_shells_arithmetic(self, box: Sandbox) -> None:
        source = random.Random(SEED)
        for _ in range(20):
            a, b, shift = source.getrandbits(63), source.getrandbits(40) + 1, source.randrange(64)
            expected = [a // b, a % b, wrapped(a * b), wrapped(a << shift), a >> shift, a ^ b, wrapped(-a - b)]
            script = f"echo $(({a} / {b})) $(({a} % {b})) $(({a} * {b})) $(({a} << {shift})) $(({a} >> {shift}))"
            answer = box.commands.run(f"{script} $(({a} ^ {b})) $((-{a} - {b}))").stdout
            assert list(map(int, answer.split())) == expected

    def test_base64_and_od(self, box: Sandbox) -> None:
        import base64

        assert box.commands.run("base64 -w 0", stdin=DATA[:100_000]).stdout == base64.b64encode(DATA[:100_000]).decode()
        lines = box.commands.run("od -An -v -t x1", stdin=DATA[:20_000]).stdout
        assert bytes.fromhex(lines.replace("\n", "")) == DATA[:20_000]


class TestPython:
    def test_digests(self, debian_box: Sandbox) -> None:
        names = sorted(hashlib.algorithms_guaranteed - {"shake_128", "shake_256"})
        expected = {name: hashlib.new(name, DATA).hexdigest() for name in names}
        debian_box.commands.run(["sh", "-c", "cat > /tmp/data"], stdin=DATA)
        source = """
            import hashlib
            data = open('/tmp/data', 'rb').read()
            answer = {name: hashlib.new(name, data).hexdigest() for name in names}
        """
        assert ask(debian_box, source, names=names) == expected

    def test_compression_and_checksums(self, debian_box: Sandbox) -> None:
        debian_box.commands.run(["sh", "-c", "cat > /tmp/data; cat > /dev/null"], stdin=DATA)
        debian_box.commands.run(["sh", "-c", "cat > /tmp/packed"], stdin=zlib.compress(DATA))
        source = """
            import zlib, binascii, bz2, lzma
            data = open('/tmp/data', 'rb').read()
            open('/tmp/ours', 'wb').write(zlib.compress(data, 6))
            answer = [zlib.crc32(data), zlib.adler32(data), binascii.crc_hqx(data, 0),
                      zlib.decompress(open('/tmp/packed', 'rb').read()) == data,
                      bz2.decompress(bz2.compress(data[:99999])) == data[:99999],
                      lzma.decompress(lzma.compress(data[:99999], preset=0)) == data[:99999]]
        """
        import binascii

        checks = [zlib.crc32(DATA), zlib.adler32(DATA), binascii.crc_hqx(DATA, 0)]
        assert ask(debian_box, source) == [*checks, True, True, True]
        assert zlib.decompress(debian_box.commands.run(["cat", "/tmp/ours"]).stdout_bytes) == DATA

    def test_doubles_survive_printing_and_reading(self, debian_box: Sandbox) -> None:
        doubles = some_doubles(3000)
        source = """
            values = [float.fromhex(text) for text in given]
            assert all(float(repr(value)) == value for value in values)
            answer = [repr(value) for value in values]
        """
        assert ask(debian_box, source, given=[value.hex() for value in doubles]) == [repr(value) for value in doubles]

    def test_the_arithmetic_of_doubles(self, debian_box: Sandbox) -> None:
        """IEEE 754 leaves no choice in any of these: every bit must be the host's."""
        doubles = [value for value in some_doubles(1000) if math.isfinite(value) and value != 0]
        pairs = list(zip(doubles, reversed(doubles), strict=True))
        source = """
            import math, struct
            def single(a): return struct.unpack('<f', struct.pack('<f', a))[0]
            answer = []
            for left, right in given:
                a, b = float.fromhex(left), float.fromhex(right)
                row = [a + b, a - b, a * b, a / b, math.sqrt(abs(a)), abs(a), -a, float(round(math.fmod(a, 1000)))]
                row.append(single(math.fmod(a, 1e30)))
                answer.append([x.hex() if x == x else 'nan' for x in row] + [a < b, a == b, math.frexp(a)[1]])
        """
        names: dict[str, object] = {"given": [(a.hex(), b.hex()) for a, b in pairs]}
        exec(textwrap.dedent(source), names)
        assert ask(debian_box, source, given=names["given"]) == names["answer"]

    def test_mathematical_functions(self, debian_box: Sandbox) -> None:
        functions = ["sin", "cos", "tan", "exp", "log1p", "sinh", "atan", "erf", "gamma", "cbrt", "asinh", "expm1"]
        functions = [name for name in functions if hasattr(math, name)]
        values = [random.Random(SEED).uniform(0.01, 20) for _ in range(100)]
        source = """
            import math
            answer = [[getattr(math, name)(float.fromhex(value)) for value in values] for name in functions]
        """
        answer = ask(debian_box, source, functions=functions, values=[value.hex() for value in values])
        assert isinstance(answer, list)
        for name, row in zip(functions, answer, strict=True):
            expected = [getattr(math, name)(value) for value in values]
            assert all(map(lambda a, b: math.isclose(a, b, rel_tol=2e-15), row, expected)), name

    def test_exact_arithmetic(self, debian_box: Sandbox) -> None:
        source = """
            import decimal, fractions, math
            decimal.getcontext().prec = 200
            d = decimal.Decimal
            answer = [str(d(2).sqrt()), str(d(1) / d(7)), str(d(1).exp()), str(math.factorial(300)), str(3 ** 1000),
                      str(pow(3, 10**30, 10**40 + 1)), str(fractions.Fraction(0.1)), str(math.isqrt(10**99)),
                      str((10**400 + 7) // (10**123 + 9)), str(math.gcd(3**400 * 7, 3**200 * 49))]
        """
        names: dict[str, object] = {}
        with decimal.localcontext():
            exec(textwrap.dedent(source), names)
        assert ask(debian_box, source) == names["answer"]

    def test_json_text_and_sorting(self, debian_box: Sandbox) -> None:
        source = random.Random(SEED)
        letters = 'abc\u00e9\u4e2d\U0001f600"\\\n\t \u2028'
        value = [
            {"".join(source.choices(letters, k=5)): [source.random(), source.randrange(-(10**20), 10**20), None, True]}
            for _ in range(500)
        ]
        code = (
            "answer = [json.dumps(value), sorted(json.dumps(each) for each in value), ascii(value), str(value).upper()]"
        )
        expected = [json.dumps(value), sorted(map(json.dumps, value)), ascii(value), str(value).upper()]
        assert ask(debian_box, code, value=value) == expected

    def test_pseudo_random_numbers(self, debian_box: Sandbox) -> None:
        """Mersenne Twister and what is made of it: integers, doubles and libm together."""
        code = """
            import random
            r = random.Random(seed)
            answer = [r.getrandbits(64), r.random(), r.shuffle(a := list(range(50))) or a, r.sample(range(10**9), 5)]
        """
        names: dict[str, object] = {"seed": SEED}
        exec(textwrap.dedent(code), names)
        assert ask(debian_box, code, seed=SEED) == names["answer"]


def wrapped(value: int) -> int:
    """As two's complement of 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C1_1DB7 if crc & 0x8000_0000 else 0)
        table.append(crc & 0xFFFF_FFFF)
    return table


CRC_TABLE = _crc_table()
