"""The short form of ``soak.py``: every part of it, in each snapshot. The long form is a command of its own."""

from __future__ import annotations

import sys

import pytest

from tests import soak


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")
@pytest.mark.parametrize("part", soak.PARTS)
def test_in_short(part: str, snapshot: str) -> None:
    assert soak.PARTS[part](snapshot, soak.SHORT)
