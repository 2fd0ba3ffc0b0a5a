"""PLIC: gathers the devices' interrupts for the hart (RISC-V Platform-Level Interrupt Controller specification 1.0).

| offset | register | |
|---|---|---|
| 0x000000 + 4·source | priority | 0 never interrupts, 7 is highest |
| 0x001000 | pending | one bit a source, read-only |
| 0x002000 + 0x80·context | enable | one bit a source |
| 0x200000 + 0x1000·context | threshold | only higher priorities interrupt |
| 0x200004 + 0x1000·context | claim and complete | |

Context 0 is the hart's machine mode (MEIP), context 1 its supervisor mode (SEIP). Sources are level-triggered. A
source's gateway forwards one request and then waits for its completion: it is in `_claimed` in between. A request
that was forwarded stays pending even if the line drops before it is claimed (specification, 1.3 "Interrupt gateways").

Sets of sources are integers: bit n is source n. Source 0 does not exist.

>>> plic = Plic(lambda number, level: print(number, level))
>>> plic.write(4 * 10, 4, 1); plic.write(0x2080, 4, 1 << 10)
>>> plic.line(10).set(True)
9 True
>>> plic.read(0x201004, 4)
9 False
10
"""

from __future__ import annotations

from collections.abc import Callable

from vpod.bus import IrqLine
from vpod.devices import fields

SOURCES = 96  # as QEMU's virt: sources 1 to 95
CONTEXT_INTERRUPT = (11, 9)  # bits of mip: MEIP, SEIP
MAX_PRIORITY = 7
ALL_SOURCES = (1 << SOURCES) - 2

PRIORITY, PENDING, ENABLE, CONTEXT = 0x0, 0x1000, 0x2000, 0x200000
ENABLE_STRIDE, CONTEXT_STRIDE = 0x80, 0x1000
CONTEXTS = len(CONTEXT_INTERRUPT)


class Plic:
    """The interrupt controller; `set_interrupt(number, level)` drives a bit of the hart's mip."""

    size = 0x600000

    def __init__(self, set_interrupt: Callable[[int, bool], None]) -> None:
        self._set_interrupt = set_interrupt
        self._priority = [0] * SOURCES
        self._level = 0  # lines that are high now
        self._pending = 0
        self._claimed = 0  # claimed and not completed: their gateways are shut
        self._enable = [0] * CONTEXTS
        self._threshold = [0] * CONTEXTS
        self._output = [False] * CONTEXTS  # what was last driven into mip

    def line(self, source: int) -> IrqLine:
        """The wire of `source` (1 to 95)."""
        if not 0 < source < SOURCES:
            raise ValueError(f"the PLIC has sources 1 to {SOURCES - 1}, not {source}")
        return IrqLine(self._set_level, source)

    def _set_level(self, source: int, level: bool) -> None:
        bit = 1 << source
        if bool(self._level & bit) == level:
            return
        self._level ^= bit
        if level and not self._claimed & bit:
            self._pending |= bit
            self._update()

    def _best(self, context: int) -> int:
        """The pending and enabled source of highest priority, lowest number first; 0 for none."""
        candidates = self._pending & self._enable[context]
        best = best_priority = 0
        while candidates:
            source = (candidates & -candidates).bit_length() - 1
            candidates &= candidates - 1
            if self._priority[source] > best_priority:
                best, best_priority = source, self._priority[source]
        return best

    def _update(self) -> None:
        for context, number in enumerate(CONTEXT_INTERRUPT):
            level = self._priority[self._best(context)] > self._threshold[context]
            if level != self._output[context]:
                self._output[context] = level
                self._set_interrupt(number, level)

    def _claim(self, context: int) -> int:
        # Not affected by the threshold: specification, "Interrupt claim process".
        source = self._best(context)
        if source:
            self._pending &= ~(1 << source)
            self._claimed |= 1 << source
            self._update()
        return source

    def _complete(self, context: int, source: int) -> None:
        # Ignored unless the source is enabled for this context: specification, "Interrupt completion".
        if not 0 < source < SOURCES or not self._claimed & self._enable[context] & 1 << source:
            return
        self._claimed &= ~(1 << source)
        if self._level & 1 << source:
            self._pending |= 1 << source
            self._update()

    def read(self, offset: int, size: int) -> int:
        """A 32-bit register; 0 for other sizes, misaligned offsets and holes. Reading claim claims."""
        if size != 4 or offset % 4:
            return 0
        if offset >= CONTEXT:
            context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
            if context >= CONTEXTS or register > 4:
                return 0
            return self._claim(context) if register else self._threshold[context]
        if offset >= ENABLE:
            context, at = divmod(offset - ENABLE, ENABLE_STRIDE)
            return self._enable[context] >> 8 * at & 0xFFFF_FFFF if context < CONTEXTS else 0
        if offset >= PENDING:
            return self._pending >> 8 * min(offset - PENDING, SOURCES) & 0xFFFF_FFFF
        return self._priority[offset // 4] if offset < 4 * SOURCES else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a 32-bit register; other sizes, misaligned offsets, holes and pending bits are ignored."""
        if size != 4 or offset % 4:
            return
        if offset >= CONTEXT:
            context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
            if context >= CONTEXTS or register > 4:
                return
            if register:
                self._complete(context, value)
                return
            self._threshold[context] = value & MAX_PRIORITY
        elif offset >= ENABLE:
            context, at = divmod(offset - ENABLE, ENABLE_STRIDE)
            if context >= CONTEXTS:
                return
            kept = self._enable[context] & ~(0xFFFF_FFFF << 8 * at)
            self._enable[context] = (kept | value << 8 * at) & ALL_SOURCES
        elif 0 < offset < 4 * SOURCES:
            self._priority[offset // 4] = value & MAX_PRIORITY
        else:
            return
        self._update()

    def save(self) -> fields.State:
        """What `restore` takes; sets of sources are hex text, since JSON readers differ on large integers."""
        return {
            "priority": list(self._priority),
            "level": f"{self._level:024x}",
            "pending": f"{self._pending:024x}",
            "claimed": f"{self._claimed:024x}",
            "enable": [f"{sources:024x}" for sources in self._enable],
            "threshold": list(self._threshold),
        }

    def restore(self, state: fields.State) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        priority = fields.integers(state, "priority", SOURCES, MAX_PRIORITY)
        threshold = fields.integers(state, "threshold", CONTEXTS, MAX_PRIORITY)
        level, pending, claimed = (_sources(state, name) for name in ("level", "pending", "claimed"))
        rows = fields.items(state, "enable", CONTEXTS)
        enable = [_sources({f"enable[{context}]": row}, f"enable[{context}]") for context, row in enumerate(rows)]
        if priority[0] or pending & claimed:
            raise ValueError("pending: a source is both pending and claimed, or source 0 has a priority")
        self._priority, self._threshold, self._enable = list(priority), list(threshold), enable
        self._level, self._pending, self._claimed = level, pending, claimed
        self._output = [False] * CONTEXTS
        for number in CONTEXT_INTERRUPT:
            self._set_interrupt(number, False)
        self._update()


def _sources(state: fields.State, name: str) -> int:
    sources = int.from_bytes(fields.data(state, name, SOURCES // 8), "big")
    if sources & ~ALL_SOURCES:
        raise ValueError(f"{name}: source 0 does not exist")
    return sources
