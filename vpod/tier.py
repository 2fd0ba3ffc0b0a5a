"""Which tiers run guest code: the interpreter alone, or the translator above it.

Why it exists: the choice is made by a caller or by the environment, and travels to the worker process that has the
hart. Invariants: a choice that can't be made is an error here, never a silent default; a host that is not x86-64
interprets, whatever is chosen.

    Tier.chosen()                # by VPOD_JIT and VPOD_JIT_MEMORY
    Tier.chosen("force")         # each block is translated before it first runs
    Tier.chosen(False)           # the interpreter alone
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from vpod.errors import SettingError

__all__ = ["Jit", "Tier"]

Jit = bool | str | None  # what callers say: True, False or "force"; None leaves it to the environment

MEMORY: Final = 64 << 20
MIN_MEMORY: Final = 192 << 10
MAX_MEMORY: Final = 1 << 30
MAX_TRACE: Final = 128
MAX_ROOM: Final = 36 << 10
MAX_LANDINGS: Final = 4096
PATIENCE: Final = 64  # found by trying: some 16 translations a batch
MAX_PATIENCE: Final = 1 << 20

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(text: str) -> int:
    digits = text.strip().upper()
    unit = digits[-1:] if digits[-1:] in ("K", "M", "G") else ""
    digits = digits.removesuffix(unit)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 13):
        raise SettingError(f"VPOD_JIT_MEMORY is {text!r}; a number of bytes is wanted, or of K, M or G: 256K, 64M")
    return int(digits) * _UNITS[unit]


class Tier:
    """A choice. `memory` is what translated code may take, in bytes; a trace is at most `trace` instructions long, and
    `room` bytes of translated code; `landings` (a power of two) is how many targets of indirect jumps are remembered.
    A hot block waits for others, which are translated with it, while it is entered `patience` times; not at all if it
    is to be translated at once and nothing else is said. The last four are for tests.
    """

    __slots__ = ("at_once", "landings", "memory", "patience", "room", "trace", "translate")

    def __init__(
        self,
        translate: bool = True,
        at_once: bool = False,
        *,
        memory: int = MEMORY,
        trace: int = MAX_TRACE,
        room: int = MAX_ROOM,
        landings: int = MAX_LANDINGS,
        patience: int | None = None,
    ) -> None:
        if patience is None:
            patience = 0 if at_once else PATIENCE
        if not MIN_MEMORY <= memory <= MAX_MEMORY:
            raise SettingError(
                f"{memory} bytes for translated code; {MIN_MEMORY} (192K) to {MAX_MEMORY} (1G) can be had: "
                "see VPOD_JIT_MEMORY"
            )
        if not 1 <= trace <= MAX_TRACE:
            raise SettingError(f"traces of {trace} instructions; 1 to {MAX_TRACE} can be had")
        if not 1 <= room <= MAX_ROOM:
            raise SettingError(f"{room} bytes of room for a trace; 1 to {MAX_ROOM} can be had")
        if not 1 <= landings <= MAX_LANDINGS or landings & (landings - 1):
            raise SettingError(f"{landings} landings; a power of two up to {MAX_LANDINGS} can be had")
        if not 0 <= patience <= MAX_PATIENCE:
            raise SettingError(f"a patience of {patience}; 0 to {MAX_PATIENCE} can be had")
        self.translate, self.at_once, self.patience = translate, at_once, patience
        self.memory, self.trace, self.room, self.landings = memory, trace, room, landings

    @classmethod
    def chosen(cls, jit: Jit = None, environment: Mapping[str, str] | None = None) -> Tier:
        """What a caller said, or else ``VPOD_JIT`` (``0``, ``1`` or ``force``); the memory is ``VPOD_JIT_MEMORY``.

        Raises `SettingError`, a `ValueError`, for anything else, naming it.
        """
        named = os.environ if environment is None else environment
        if jit is None:
            text = named.get("VPOD_JIT") or "1"
            if text not in ("0", "1", "force"):
                raise SettingError(f"VPOD_JIT is {text!r}; 0, 1 and force are known")
            jit = text if text == "force" else text == "1"
        if jit is not True and jit is not False and jit != "force":
            raise SettingError(f"jit is {jit!r}; True, False and 'force' are known")
        size = named.get("VPOD_JIT_MEMORY")
        return cls(bool(jit), jit == "force", memory=_size(size) if size else MEMORY)

    def environment(self) -> dict[str, str]:
        """The variables by which another process makes the same choice."""
        jit = "force" if self.at_once else "1" if self.translate else "0"
        return {"VPOD_JIT": jit, "VPOD_JIT_MEMORY": str(self.memory)}
