"""The sun and four planets under gravity in CPython: attributes, float arithmetic, powers.

Known: the energy before and after 1,000 steps, as published for this problem (see nbody.c); prints the end.
"""

import math

PI = 3.141592653589793
DAYS = 365.24
SUN = 4 * PI * PI


class Body:
    """Place, speed, mass."""

    def __init__(self, place: tuple[float, ...], speed: tuple[float, ...], mass: float) -> None:
        self.x, self.y, self.z = place
        self.vx, self.vy, self.vz = (value * DAYS for value in speed)
        self.mass = mass * SUN


BODIES = [
    Body((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0),
    Body(
        (4.84143144246472090e00, -1.16032004402742839e00, -1.03622044471123109e-01),
        (1.66007664274403694e-03, 7.69901118419740425e-03, -6.90460016972063023e-05),
        9.54791938424326609e-04,
    ),
    Body(
        (8.34336671824457987e00, 4.12479856412430479e00, -4.03523417114321381e-01),
        (-2.76742510726411021e-03, 4.99852801234917238e-03, 2.30417297573763929e-05),
        2.85885980666130812e-04,
    ),
    Body(
        (1.28943695621391310e01, -1.51111514016986312e01, -2.23307578892655734e-01),
        (2.96460137564761618e-03, 2.37847173959480950e-03, -2.96589568540237556e-05),
        4.36624404335156298e-05,
    ),
    Body(
        (1.53796971148509165e01, -2.59193146099879641e01, 1.79258772950371181e-01),
        (2.68067772490389322e-03, 1.62824170038242295e-03, -9.51592254519715870e-05),
        5.15138902046611451e-05,
    ),
]
PAIRS = [(a, b) for number, a in enumerate(BODIES) for b in BODIES[number + 1 :]]


def advance(time: float, steps: int) -> None:
    """Let time pass."""
    for _ in range(steps):
        for a, b in PAIRS:
            x, y, z = a.x - b.x, a.y - b.y, a.z - b.z
            pull = time * (x * x + y * y + z * z) ** -1.5
            a.vx -= x * b.mass * pull
            a.vy -= y * b.mass * pull
            a.vz -= z * b.mass * pull
            b.vx += x * a.mass * pull
            b.vy += y * a.mass * pull
            b.vz += z * a.mass * pull
        for body in BODIES:
            body.x += time * body.vx
            body.y += time * body.vy
            body.z += time * body.vz


def rest() -> None:
    """The sun gets what makes the momentum zero."""
    sun = BODIES[0]
    sun.vx = -sum(body.vx * body.mass for body in BODIES) / SUN
    sun.vy = -sum(body.vy * body.mass for body in BODIES) / SUN
    sun.vz = -sum(body.vz * body.mass for body in BODIES) / SUN


def energy() -> float:
    """Of motion and of place."""
    motion = sum(body.mass * (body.vx**2 + body.vy**2 + body.vz**2) / 2 for body in BODIES)
    place = sum(a.mass * b.mass / math.sqrt((a.x - b.x) ** 2 + (a.y - b.y) ** 2 + (a.z - b.z) ** 2) for a, b in PAIRS)
    return motion - place


if __name__ == "__main__":
    rest()
    assert f"{energy():.9f}" == "-0.169075164"
    advance(0.01, 1000)
    assert f"{energy():.9f}" == "-0.169087605"
    advance(0.01, 4500)
    print(f"pynbody {energy():.9f}")
