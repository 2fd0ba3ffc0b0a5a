"""The Mandelbrot set in CPython: float arithmetic and comparisons through the bytecode, and complex numbers.

Known: both ways take the same steps but for one in a hundred, because C compilers may fuse the operations of a complex
product; prints how many steps the floats took.
"""


def floats(x: float, y: float, limit: int) -> int:
    """Steps until the point leaves the circle, in two floats."""
    a, b = x, y
    for step in range(limit):
        squared, imaginary = a * a, b * b
        if squared + imaginary > 4.0:
            return step
        b = 2.0 * a * b + y
        a = squared - imaginary + x
    return limit


def complexes(c: complex, limit: int) -> int:
    """The same with complex numbers."""
    z = c
    for step in range(limit):
        if z.real * z.real + z.imag * z.imag > 4.0:
            return step
        z = z * z + c
    return limit


if __name__ == "__main__":
    points = [(-2.0 + column / 16, row / 32) for row in range(32) for column in range(44)]
    steps = [floats(x, y, 520) for x, y in points]
    again = [complexes(complex(x, y), 520) for x, y in points[::4]]
    assert abs(sum(again) / sum(steps[::4]) - 1) < 0.01
    print("pymandel", sum(steps))
