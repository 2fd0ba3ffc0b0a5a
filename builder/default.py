"""Which snapshot a computer without one gets first, and why.

The default must have Python, because half of the SDK is `code.run`. Alpine with Python is the smaller one, but it needs
Alpine's package site; where that cannot be reached, Debian does it with the mirror that the host's apt uses anyway.

    >>> default_recipe(fetcher)
    Choice(recipe='debian-13', why='the sites cannot be reached (…), and without them …')
"""

from __future__ import annotations

from dataclasses import dataclass

from vpod.errors import BuildError, SourceUnreachable

from . import alpine
from .recipe import find
from .rootfs import tarball_tree
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
    recipe = find(PREFERRED)
    try:
        if recipe.rootfs is None:
            raise BuildError(f"{PREFERRED}: has no [rootfs]")
        site = alpine.reachable(fetcher, tarball_tree(recipe.rootfs, fetcher, mirror), mirror=mirror)
    except SourceUnreachable as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.startswith("  ")), str(error))
        return Choice(OTHERWISE, f"Alpine's sites cannot be reached ({reason}), and without them Alpine has no Python")
    return Choice(PREFERRED, f"Alpine's package site {site} can be reached")
