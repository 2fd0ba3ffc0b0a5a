"""Makes a failing case smaller while it still fails: for any list of items, and any idea of failing.

First items are blanked (nops keep everything at its place), then dropped, in runs of half the list down to single ones,
then replaced by simpler ones; again and again, until nothing more helps or `tries` or `seconds` are used up.

Invariants: what is returned fails, or is the list that was given; `fails` is never asked twice about the same list; a
list on which it raises `unfit` counts as not failing.

    >>> shrink(range(100), lambda items: {3, 70} <= set(items))
    [3, 70]
    >>> shrink([7, 5], lambda items: sum(items) > 3, simpler=lambda item: [item - 1] if item else [])
    [4]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


class _Tried(Exception):
    """Enough lists were tried, or for long enough."""


def shrink(
    items: Sequence[T],
    fails: Callable[[list[T]], bool],
    *,
    blank: Callable[[T], T] | None = None,
    simpler: Callable[[T], Iterable[T]] | None = None,
    unfit: tuple[type[Exception], ...] = (),
    tries: int = 2000,
    seconds: float = 20.0,
) -> list[T]:
    """The smallest list found that `fails`.

    `blank` gives an item that does nothing in an item's place, `simpler` ones to try instead of it, the simplest first;
    exceptions of the classes `unfit` come from lists that make no sense; `seconds` are of this process's CPU time.
    """
    end = time.process_time() + seconds
    best = list(items)
    asked: set[tuple[T, ...]] = {tuple(best)}

    def worse(candidate: list[T]) -> bool:
        """Whether to go on with `candidate`."""
        nonlocal best
        key = tuple(candidate)
        if key in asked:
            return False
        if len(asked) > tries or time.process_time() > end:
            raise _Tried
        asked.add(key)
        try:
            if not fails(candidate):
                return False
        except unfit:
            return False
        best = candidate
        return True

    try:
        while True:
            before = best
            if blank is not None:
                _by_runs(lambda run: [blank(item) for item in run], lambda: best, worse)
            _by_runs(lambda run: [], lambda: best, worse)
            if simpler is not None:
                _one_by_one(simpler, lambda: best, worse)
            if best == before:
                return best
    except _Tried:
        return best


def _by_runs(
    change: Callable[[list[T]], list[T]], best: Callable[[], list[T]], worse: Callable[[list[T]], bool]
) -> None:
    """Change runs of items, the longest first, last ones first."""
    length = len(best()) // 2 or 1
    while True:
        end = len(best())
        while end > 0:
            start = max(end - length, 0)
            items = best()
            worse(items[:start] + change(items[start:end]) + items[end:])
            end = start
        if length == 1:
            return
        length //= 2


def _one_by_one(
    simpler: Callable[[T], Iterable[T]], best: Callable[[], list[T]], worse: Callable[[list[T]], bool]
) -> None:
    """Put a simpler item in the place of each."""
    for index in range(len(best())):
        going_on = True
        while going_on:
            items = best()
            going_on = any(worse([*items[:index], item, *items[index + 1 :]]) for item in simpler(items[index]))
