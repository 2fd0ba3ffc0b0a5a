"""Which snapshot a computer without one gets first, and why.

The default must have Python, because half of the SDK is `code.run`. Alpine with Python is the smaller one, but it needs
Alpine's package site; where that cannot be reached, Debian does it with the mirror that the host's apt uses anyway.

    >>> default_recipe(fetcher)
    Choice(recipe='debian-13', why='Alpine’s package site cannot be reached (…), and Alpine’s root filesystem alone …')
"""

from __future__ import annotations

from dataclasses import dataclass

from vpod.errors import SourceError

from . import alpine
from .sources import Fetcher

PREFERRED = "alpine-3.23-python"
OTHERWISE = "debian-13"


@dataclass(frozen=True)
class Choice:
    """The recipe's key, and the reason in one sentence."""

    recipe: str
    why: str


def default_recipe(fetcher: Fetcher, *, mirror: str | None = None) -> Choice:
    """Alpine with Python if its package site answers, else Debian."""
    try:
        site = alpine.reachable(fetcher, mirror=mirror)
    except SourceError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        return Choice(OTHERWISE, f"Alpine's package site cannot be reached ({reason}), and its root filesystem has no Python")
    return Choice(PREFERRED, f"Alpine's package site {site} can be reached")
