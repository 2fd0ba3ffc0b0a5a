"""Dictionaries, sets, tuples and objects in CPython: counted, grouped, looked up, sorted.

Known: how many numbers there are and what they add up to, however they are grouped; prints the largest groups.
"""

from collections import defaultdict


class Item:
    """Something with attributes."""

    __slots__ = ("key", "weight")

    def __init__(self, key: int, weight: int) -> None:
        self.key = key
        self.weight = weight


def numbers(count: int, seed: int) -> list[int]:
    """A fixed sequence (Park and Miller's generator)."""
    found, state = [], seed
    for _ in range(count):
        state = state * 48271 % 2147483647
        found.append(state)
    return found


def work(values: list[int]) -> int:
    """The most frequent remainder's weight, found in three ways that must agree."""
    counts: dict[int, int] = {}
    for value in values:
        counts[value % 997] = counts.get(value % 997, 0) + 1
    groups = defaultdict(list)
    for item in [Item(value % 997, value) for value in values]:
        groups[item.key, item.key & 1].append(item.weight)
    assert sum(counts.values()) == len(values) and sum(map(sum, groups.values())) == sum(values)
    assert {key for key, _ in groups} == counts.keys()
    names = {f"group{key}": count for key, count in counts.items()}
    assert all(names[f"group{key}"] == len(weights) for (key, _), weights in groups.items())
    best = max(sorted(counts), key=lambda key: counts[key])
    return sum(groups[best, best & 1])


if __name__ == "__main__":
    print("pydicts", sum(work(numbers(5000, seed)) for seed in range(1, 9)))
