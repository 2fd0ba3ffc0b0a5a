"""UART: a National Semiconductor 16550A, the board's first console (PC16550D data sheet, section 8).

| offset | read | write | with LCR.DLAB |
|---|---|---|---|
| 0 | RBR | THR | DLL |
| 1 | IER | IER | DLM |
| 2 | IIR | FCR | |
| 3 | LCR | LCR | |
| 4 | MCR | MCR | |
| 5 | LSR | | |
| 6 | MSR | | |
| 7 | SCR | SCR | |

Sending takes no time: THR is always empty, so a byte written there leaves at once. Bytes for the caller are gathered
and handed to `output` when `flush` is called (the machine does so between slices) or 4 KiB have come together, because
the guest prints byte by byte. Bytes for the guest wait in `send`'s queue; the receiver never overruns, except in
loopback, where the guest feeds itself and 16 bytes are all the FIFO holds.

>>> uart = Uart(IrqLine(lambda number, level: None, 10))
>>> uart.output = print
>>> uart.write(0, 1, ord("A")); uart.flush()
b'A'
>>> uart.send(b"hi"); uart.read(5, 1) & 1, chr(uart.read(0, 1)), uart.pending
(1, 'h', 1)
"""

from __future__ import annotations

from collections.abc import Callable

from vpod.bus import IrqLine
from vpod.devices import fields

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR

IER_RECEIVED, IER_EMPTY, IER_LINE, IER_MODEM = 0x01, 0x02, 0x04, 0x08
IIR_NONE, IIR_MODEM, IIR_EMPTY, IIR_RECEIVED, IIR_LINE, IIR_TIMEOUT, IIR_FIFO = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C, 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVER = 0x01, 0x02
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_READY, LSR_OVERRUN, LSR_EMPTY = 0x01, 0x02, 0x60  # THRE and TEMT
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD

FIFO_SIZE = 16
TRIGGER = (1, 4, 8, 14)
OUTPUT_SIZE = 4096


def _discard(data: bytes) -> object:
    return None


class Uart:
    """The serial port. `output(bytes)` gets what the guest prints; `send(bytes)` types to it."""

    size = 0x100

    def __init__(self, irq: IrqLine, output: Callable[[bytes], object] = _discard) -> None:
        self.output = output
        self.watch: Callable[[bytes], object] | None = None  # sees what `output` gets, for the machine's own purposes
        self._irq = irq
        self._printed = bytearray()
        self._received = bytearray()
        self._ier = 0
        self._fcr = 0
        self._lcr = 0
        self._mcr = 0
        self._scr = 0
        self._divisor = 1
        self._overrun = False
        self._modem_delta = 0  # low half of MSR: what changed since it was read
        self._empty_pending = False  # the THR-empty interrupt, until IIR is read

    @property
    def pending(self) -> int:
        """Bytes sent that the guest has yet to take."""
        return len(self._received)

    def send(self, data: bytes) -> None:
        """Queue `data` for the guest."""
        self._received += data
        self._update()

    def flush(self) -> None:
        """Hand the bytes printed so far to `output`."""
        if self._printed:
            data = bytes(self._printed)
            self._printed.clear()
            self.output(data)
            if self.watch is not None:
                self.watch(data)

    def _cause(self) -> int:
        """The interrupt of highest priority as IIR shows it (data sheet, table V)."""
        ier = self._ier
        if ier & IER_LINE and self._overrun:
            return IIR_LINE
        if ier & IER_RECEIVED and self._received:
            fifo = self._fcr & FCR_ENABLE
            return IIR_TIMEOUT if fifo and len(self._received) < TRIGGER[self._fcr >> 6] else IIR_RECEIVED
        if ier & IER_EMPTY and self._empty_pending:
            return IIR_EMPTY
        if ier & IER_MODEM and self._modem_delta:
            return IIR_MODEM
        return IIR_NONE

    def _update(self) -> None:
        self._irq.set(self._cause() != IIR_NONE)

    def _modem_status(self) -> int:
        if not self._mcr & MCR_LOOP:
            return MSR_CONNECTED
        mcr = self._mcr
        return (
            bool(mcr & MCR_RTS) * MSR_CTS
            | bool(mcr & MCR_DTR) * MSR_DSR
            | bool(mcr & MCR_OUT1) * MSR_RI
            | bool(mcr & MCR_OUT2) * MSR_DCD
        )

    def read(self, offset: int, size: int) -> int:
        """The register at `offset`, whatever the size; 0 past the last."""
        if offset == LSR:
            status = LSR_EMPTY | bool(self._received) | self._overrun * LSR_OVERRUN
            if self._overrun:
                self._overrun = False
                self._update()
            return status
        if offset <= IER and self._lcr & LCR_DLAB:
            return self._divisor >> 8 * offset & 0xFF
        if offset == DATA:
            return self._receive()
        if offset == IIR:
            cause = self._cause()
            if cause == IIR_EMPTY:
                self._empty_pending = False
                self._update()
            return cause | (IIR_FIFO if self._fcr & FCR_ENABLE else 0)
        if offset == MSR:
            status = self._modem_status() | self._modem_delta
            self._modem_delta = 0
            self._update()
            return status
        return {IER: self._ier, LCR: self._lcr, MCR: self._mcr, SCR: self._scr}.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store the low byte to the register at `offset`; nothing past the last."""
        value &= 0xFF
        if offset <= IER and self._lcr & LCR_DLAB:
            shift = 8 * offset
            self._divisor = self._divisor & ~(0xFF << shift) | value << shift
        elif offset == DATA:
            self._transmit(value)
        elif offset == IER:
            # THR is empty: enabling its interrupt raises it (data sheet, 8.6).
            self._empty_pending |= bool(value & ~self._ier & IER_EMPTY)
            self._ier = value & 0x0F
            self._update()
        elif offset == FCR:
            self._control_fifo(value)
        elif offset == LCR:
            self._lcr = value
        elif offset == MCR:
            self._control_modem(value & 0x1F)
        elif offset == SCR:
            self._scr = value

    def _receive(self) -> int:
        if not self._received:
            return 0
        value = self._received[0]
        del self._received[0]
        self._update()
        return value

    def _transmit(self, value: int) -> None:
        if self._mcr & MCR_LOOP:
            if len(self._received) < FIFO_SIZE:
                self._received.append(value)
            else:
                self._overrun = True
        else:
            self._printed.append(value)
            if len(self._printed) >= OUTPUT_SIZE:
                self.flush()
        self._empty_pending = True
        if self._ier:
            self._update()

    def _control_fifo(self, value: int) -> None:
        # Turning the FIFOs on or off empties them (data sheet, 8.5).
        if (value ^ self._fcr) & FCR_ENABLE or (value & FCR_ENABLE and value & FCR_CLEAR_RECEIVER):
            del self._received[:FIFO_SIZE]
        self._fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._update()

    def _control_modem(self, value: int) -> None:
        before = self._modem_status()
        self._mcr = value
        after = self._modem_status()
        changed = (before ^ after) >> 4
        ring_ended = (before & ~after & MSR_RI) >> 4  # TERI shows only the trailing edge
        self._modem_delta |= changed & ~(MSR_RI >> 4) | ring_ended
        self._update()

    def save(self) -> fields.State:
        """What `restore` takes. Printed bytes are flushed first: they belong to this side."""
        self.flush()
        return {
            "received": self._received.hex(),
            "ier": self._ier,
            "fcr": self._fcr,
            "lcr": self._lcr,
            "mcr": self._mcr,
            "scr": self._scr,
            "divisor": self._divisor,
            "overrun": self._overrun,
            "modem_delta": self._modem_delta,
            "empty_pending": self._empty_pending,
        }

    def restore(self, state: fields.State) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        received = fields.data(state, "received", fields.MAX_STREAM)
        ier = fields.integer(state, "ier", 0x0F)
        fcr, lcr, scr = (fields.integer(state, name, 0xFF) for name in ("fcr", "lcr", "scr"))
        mcr = fields.integer(state, "mcr", 0x1F)
        divisor = fields.integer(state, "divisor", 0xFFFF)
        modem_delta = fields.integer(state, "modem_delta", 0x0F)
        overrun, empty_pending = fields.flag(state, "overrun"), fields.flag(state, "empty_pending")
        self._received[:] = received
        self._ier, self._fcr, self._lcr, self._mcr, self._scr = ier, fcr, lcr, mcr, scr
        self._divisor, self._modem_delta = divisor, modem_delta
        self._overrun, self._empty_pending = overrun, empty_pending
        self._update()
