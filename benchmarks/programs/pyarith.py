"""Whole numbers in CPython: a loop of small ones, which is the bytecode's own overhead, then long multiplications.

Known: Fibonacci's numbers twice, by adding and by doubling; prints the loop's last value and the digits' sum.
"""


def loop(turns: int) -> int:
    """A linear congruential generator (Knuth's MMIX), with some bits folded in."""
    value = total = 1
    for turn in range(turns):
        value = (value * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        total = (total + (value >> 33) ^ turn) % 1000003
    return total


def fibonacci(n: int) -> tuple[int, int]:
    """F(n) and F(n + 1) by doubling."""
    if n == 0:
        return 0, 1
    a, b = fibonacci(n // 2)
    even, odd = a * (2 * b - a), a * a + b * b
    return (odd, even + odd) if n & 1 else (even, odd)


def added(n: int) -> int:
    """F(n) by adding."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


if __name__ == "__main__":
    number = fibonacci(12000)[0]
    assert number == added(12000)
    print("pyarith", loop(120000), sum(fibonacci(20000 + i)[0] % 1000003 for i in range(60)))
