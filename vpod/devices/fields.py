"""Reading a device's saved state as what it is: input from a stranger.

Each function takes one field out of a dictionary that came from JSON, checks type and range, and raises ValueError
with the field's name when it isn't what `save()` writes.

>>> integer({"threshold": 3}, "threshold", 7)
3
>>> integer({"threshold": 9}, "threshold", 7)
Traceback (most recent call last):
ValueError: threshold: 9 is not an integer from 0 to 7
"""

from __future__ import annotations

from typing import Any

State = dict[str, Any]

MAX_STREAM = 4 << 20  # bytes on their way to the guest that a saved stream may hold


def _get(state: State, name: str) -> Any:
    if not isinstance(state, dict) or name not in state:
        raise ValueError(f"{name}: missing")
    return state[name]


def integer(state: State, name: str, highest: int, lowest: int = 0) -> int:
    """The integer field `name`, from `lowest` to `highest`."""
    value = _get(state, name)
    if type(value) is not int or not lowest <= value <= highest:
        raise ValueError(f"{name}: {str(value)[:40]} is not an integer from {lowest} to {highest}")
    return value


def flag(state: State, name: str) -> bool:
    """The field `name`, true or false."""
    value = _get(state, name)
    if type(value) is not bool:
        raise ValueError(f"{name}: {str(value)[:40]} is neither true nor false")
    return value


def integers(state: State, name: str, count: int, highest: int) -> list[int]:
    """The field `name`: exactly `count` integers from 0 to `highest`."""
    value = items(state, name, count)
    for index, entry in enumerate(value):
        if type(entry) is not int or not 0 <= entry <= highest:
            raise ValueError(f"{name}[{index}]: {str(entry)[:40]} is not an integer from 0 to {highest}")
    return value


def items(state: State, name: str, count: int) -> list[Any]:
    """The field `name`: a list of exactly `count` things that the caller checks."""
    value = _get(state, name)
    if type(value) is not list or len(value) != count:
        raise ValueError(f"{name}: not a list of {count}")
    return value


def data(state: State, name: str, longest: int) -> bytes:
    """The field `name`: at most `longest` bytes, written as hex text."""
    value = _get(state, name)
    if type(value) is not str or len(value) > 2 * longest:
        raise ValueError(f"{name}: not hex text of at most {longest} bytes")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ValueError(f"{name}: not hex text") from None
