"""Console: byte streams between guest and host, several over one device (virtio 1.2, section 5.3, with multiport).

Port 0 is the guest's console (``hvc0``); the others are named character devices, which Linux lists in
``/sys/class/virtio-ports``. Queues: 0 and 1 receive and transmit for port 0, 2 and 3 carry control messages, and port
n > 0 has 2n + 2 and 2n + 3; "receive" is what the guest receives.

Invariants:

* Bytes leave in order through ``port.output``; bytes given to ``port.send`` wait until the guest has the port open
  and buffers ready. What waits when the guest closes a port is dropped: it was for the reader that has gone.
* A paused port takes nothing from the guest, whose writers then block; port 0's kernel even spins, so pause it briefly.
* Control messages that the guest doesn't fetch are bounded: too many break the device.

Example::

    console = Console(ram, plic.line(1), names=("", "vpod.agent"))
    agent = console.ports[1]
    agent.output = received.extend
    agent.send(b"hello")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct

from vpod.bus import IrqLine, Ram
from vpod.devices import fields
from vpod.devices.virtio.mmio import INTERRUPT_CONFIGURATION, VirtioMmio
from vpod.devices.virtio.queue import MAX_SIZE, QueueBroken, total

F_SIZE, F_MULTIPORT = 1 << 0, 1 << 1
CONFIG = Struct("<HHI4x")  # columns, rows, ports; emergency write is not offered
CONTROL = Struct("<IHH")  # port, event, value
SIZE = Struct("<HH")  # columns, rows

DEVICE_READY, PORT_ADD, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = 0, 1, 3, 4, 5, 6, 7

RECEIVE, TRANSMIT, CONTROL_RECEIVE, CONTROL_TRANSMIT = 0, 1, 2, 3
MAX_CONTROL = 64  # control messages waiting for the guest
MAX_MESSAGE = 64  # bytes of a control message from the guest that are looked at
BUDGET = 4 << 20  # bytes taken from the guest in one call of process


def _discard(data: bytes) -> object:
    return None


class Port:
    """One stream. `output` gets what the guest writes; `watch` sees the same, for the machine's own purposes."""

    def __init__(self, console: Console, number: int, name: str) -> None:
        self.name = name
        self.output: Callable[[bytes], object] = _discard
        self.watch: Callable[[bytes], object] | None = None
        self.guest_open = False
        self.waiting = bytearray()  # for the guest
        self.receive_queue = RECEIVE if number == 0 else 2 * number + 2
        self.transmit_queue = self.receive_queue + 1
        self._console = console
        self._paused = False

    @property
    def pending(self) -> int:
        """Bytes sent that the guest has yet to take."""
        return len(self.waiting)

    def send(self, data: bytes) -> None:
        """Queue `data` for the guest."""
        self.waiting += data
        self._console.work(self.receive_queue)

    @property
    def paused(self) -> bool:
        """Whether the guest's output is left in its queue."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._console.resume(self.transmit_queue)


class Console(VirtioMmio):
    """The device; `names` are its ports' names, the first of which is the console's and stays unsaid."""

    device_id = 3
    offered = F_SIZE | F_MULTIPORT

    def __init__(self, ram: Ram, irq: IrqLine, names: tuple[str, ...]) -> None:
        self.ports = [Port(self, number, name) for number, name in enumerate(names)]
        self.queue_count = 2 * len(names) + 2
        self._by_queue = {port.receive_queue: port for port in self.ports}
        self._by_queue |= {port.transmit_queue: port for port in self.ports}
        self._control: deque[bytes] = deque()
        self._columns, self._rows = 80, 24
        super().__init__(ram, irq)

    def configuration(self) -> bytes:
        """struct virtio_console_config."""
        return CONFIG.pack(self._columns, self._rows, len(self.ports))

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the size of port 0's terminal in characters."""
        self._columns, self._rows = columns & 0xFFFF, rows & 0xFFFF
        if not self.running:
            return
        if not self.accepted & F_MULTIPORT:
            self.interrupt(INTERRUPT_CONFIGURATION)
        elif self.ports[0].guest_open and len(self._control) < MAX_CONTROL:
            self._tell(0, RESIZE, 0, SIZE.pack(self._columns, self._rows))
            self.work(CONTROL_RECEIVE)

    def resume(self, index: int) -> None:
        """Look at queue `index` again in the next `service`."""
        self._busy |= 1 << index

    def started(self) -> None:
        """Without multiport there are no control messages, and port 0 is simply open."""
        self.ports[0].guest_open = not self.accepted & F_MULTIPORT

    def was_reset(self) -> None:
        """Forget what was said; bytes waiting for port 0 stay, the other readers have gone."""
        self._control.clear()
        for port in self.ports:
            port.guest_open = False

    def process(self, index: int) -> bool:
        """Move bytes or control messages through queue `index`."""
        if index == CONTROL_RECEIVE:
            return self._give_control()
        if index == CONTROL_TRANSMIT:
            return self._take_control()
        port = self._by_queue[index]
        return self._transmit(port) if index == port.transmit_queue else self._receive(port)

    def _transmit(self, port: Port) -> bool:
        queue, data = self.queues[port.transmit_queue], self.ram.data
        budget = BUDGET
        for _ in range(MAX_SIZE):
            if budget <= 0 or port.paused:
                return not port.paused
            chain = queue.pop()
            if chain is None:
                return False
            head, readable, _ = chain
            if len(readable) == 1:
                offset, length = readable[0]
                out = bytes(data[offset : offset + length])
            else:
                out = b"".join([data[offset : offset + length] for offset, length in readable])
            queue.push(head, 0)
            budget -= len(out)
            if out:
                port.output(out)
                if port.watch is not None:
                    port.watch(out)
        return not port.paused

    def _receive(self, port: Port) -> bool:
        queue, waiting = self.queues[port.receive_queue], port.waiting
        base = self.ram.base
        for _ in range(MAX_SIZE):
            chain = queue.pop() if waiting and port.guest_open else None
            if chain is None:
                return False
            head, _, writable = chain
            if not total(writable):
                raise QueueBroken("a receive buffer without room")
            written = 0
            for offset, length in writable:
                piece = bytes(waiting[:length])
                if not piece:
                    break
                self.ram.write(base + offset, piece)
                del waiting[: len(piece)]
                written += len(piece)
            queue.push(head, written)
        return True

    # Control messages: section 5.3.6.2.

    def _tell(self, port: int, event: int, value: int, more: bytes = b"") -> None:
        if len(self._control) >= MAX_CONTROL:
            raise QueueBroken(f"{MAX_CONTROL} control messages wait for the guest")
        self._control.append(CONTROL.pack(port, event, value) + more)

    def _give_control(self) -> bool:
        queue = self.queues[CONTROL_RECEIVE]
        while self._control:
            chain = queue.pop()
            if chain is None:
                break
            head, _, writable = chain
            message = self._control.popleft()
            if total(writable) < len(message):
                raise QueueBroken(f"a control buffer has no room for {len(message)} bytes")
            rest = message
            for offset, length in writable:
                self.ram.write(self.ram.base + offset, rest[:length])
                rest = rest[length:]
            queue.push(head, len(message))
        return False

    def _take_control(self) -> bool:
        queue = self.queues[CONTROL_TRANSMIT]
        for _ in range(MAX_SIZE):
            chain = queue.pop()
            if chain is None:
                break
            head, readable, _ = chain
            message = b"".join([self.ram.data[at : at + min(length, MAX_MESSAGE)] for at, length in readable[:4]])
            queue.push(head, 0)
            if len(message) >= CONTROL.size:
                self._control_event(*CONTROL.unpack_from(message))
        self.work(CONTROL_RECEIVE)
        return False

    def _control_event(self, number: int, event: int, value: int) -> None:
        if event == DEVICE_READY:
            for port in range(len(self.ports)) if value else ():
                self._tell(port, PORT_ADD, 1)
            return
        if number >= len(self.ports):
            return
        port_at = self.ports[number]
        if event == PORT_READY and value:
            if number == 0:
                self._tell(0, CONSOLE_PORT, 1)
                self._tell(0, RESIZE, 0, SIZE.pack(self._columns, self._rows))
            else:
                self._tell(number, PORT_NAME, 1, port_at.name.encode("ascii"))
            self._tell(number, PORT_OPEN, 1)
        elif event == PORT_OPEN:
            port_at.guest_open = bool(value)
            if not value:
                port_at.waiting.clear()
            self.resume(port_at.receive_queue)

    # State.

    def save(self) -> fields.State:
        """What `restore` takes, the bytes waiting for the guest included."""
        state = super().save()
        state["columns"], state["rows"] = self._columns, self._rows
        state["control"] = [message.hex() for message in self._control]
        state["ports"] = [{"open": port.guest_open, "waiting": port.waiting.hex()} for port in self.ports]
        return state

    def restore(self, state: fields.State) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        super().restore(state)
        self._columns, self._rows = fields.integer(state, "columns", 0xFFFF), fields.integer(state, "rows", 0xFFFF)
        saved = state.get("control")
        if type(saved) is not list or len(saved) > MAX_CONTROL:
            raise ValueError(f"control: not a list of at most {MAX_CONTROL} messages")
        self._control = deque(fields.data({"control": message}, "control", MAX_MESSAGE) for message in saved)
        for port, port_state in zip(self.ports, fields.items(state, "ports", len(self.ports)), strict=True):
            port.guest_open = fields.flag(port_state, "open")
            port.waiting[:] = fields.data(port_state, "waiting", fields.MAX_STREAM)
