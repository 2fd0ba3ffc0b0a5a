"""The virtio-mmio transport: the registers through which a driver sets up and notifies a device.

Virtio 1.2, section 4.2, version 2 (modern). Registers are 32 bits wide and aligned; every other access to them reads
0 and writes nothing. A concrete device derives from `VirtioMmio` and gives `device_id`, `offered`, `queue_count`,
`configuration()` and `process(index)`.

Invariants:

* `process` runs only while the driver has said DRIVER_OK and the device is not broken.
* A queue that doesn't hold together sets DEVICE_NEEDS_RESET and a configuration interrupt; nothing is processed from
  then on until the driver resets the device (virtio 1.2, section 2.1.2).
* One call of `process` moves a bounded number of bytes and says whether more is waiting; the rest follows in
  `service`, which the machine calls between slices.

>>> from vpod.bus import IrqLine
>>> class Memory:
...     def view(self, address, length): return memoryview(bytes(length))
>>> slot = EmptySlot(Ram(Memory(), 4096), IrqLine(lambda number, level: None, 8))
>>> slot.read(0, 4).to_bytes(4, "little"), slot.read(4, 4), slot.read(8, 4)
(b'virt', 2, 0)
"""

from __future__ import annotations

from typing import ClassVar

from vpod.bus import IrqLine, Ram
from vpod.devices import fields
from vpod.devices.virtio.queue import MAX_SIZE, Queue, QueueBroken

MAGIC, VERSION, VENDOR = 0x7472_6976, 2, 0x646F_7076  # "virt"; "vpod"

(REG_MAGIC, REG_VERSION, REG_DEVICE_ID, REG_VENDOR) = (0x000, 0x004, 0x008, 0x00C)
REG_DEVICE_FEATURES, REG_DEVICE_FEATURES_SEL = 0x010, 0x014
REG_DRIVER_FEATURES, REG_DRIVER_FEATURES_SEL = 0x020, 0x024
REG_QUEUE_SEL, REG_QUEUE_SIZE_MAX, REG_QUEUE_SIZE, REG_QUEUE_READY, REG_QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
REG_INTERRUPT_STATUS, REG_INTERRUPT_ACK, REG_STATUS = 0x060, 0x064, 0x070
REG_QUEUE_DESC, REG_QUEUE_DRIVER, REG_QUEUE_DEVICE = 0x080, 0x090, 0x0A0  # low halves; the high ones follow
REG_SHM_LENGTH, REG_SHM_BASE = 0x0B0, 0x0B8
REG_CONFIG_GENERATION = 0x0FC
CONFIGURATION = 0x100

STATUS_FEATURES_OK, STATUS_DRIVER_OK, STATUS_NEEDS_RESET = 0x08, 0x04, 0x40
INTERRUPT_USED, INTERRUPT_CONFIGURATION = 1, 2

F_INDIRECT, F_EVENT_INDEX, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 32
TRANSPORT_FEATURES = F_INDIRECT | F_EVENT_INDEX | F_VERSION_1

WORD = 0xFFFF_FFFF
ADDRESS_FIELDS = {
    REG_QUEUE_DESC: ("descriptors", 0),
    REG_QUEUE_DESC + 4: ("descriptors", 32),
    REG_QUEUE_DRIVER: ("available", 0),
    REG_QUEUE_DRIVER + 4: ("available", 32),
    REG_QUEUE_DEVICE: ("used", 0),
    REG_QUEUE_DEVICE + 4: ("used", 32),
}


class VirtioMmio:
    """What all virtio devices share: registers, features, queues, interrupts."""

    size = 0x1000
    device_id: ClassVar[int]  # virtio 1.2, section 5
    offered: int = 0  # the device's own feature bits
    queue_count: int = 0

    def __init__(self, ram: Ram, irq: IrqLine) -> None:
        self.ram = ram
        self.queues = [Queue(ram) for _ in range(self.queue_count)]
        self._irq = irq
        self._reset()

    # What a device gives.

    def configuration(self) -> bytes:
        """The device's configuration space."""
        return b""

    def process(self, index: int) -> bool:
        """Work on queue `index`; True if it was left with more to do. May raise QueueBroken."""
        return False

    def started(self) -> None:
        """The driver has said DRIVER_OK."""

    def was_reset(self) -> None:
        """The driver has reset the device: forget what it said."""

    # What a device uses.

    @property
    def running(self) -> bool:
        """The driver is ready and nothing is broken."""
        return self._status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK

    @property
    def accepted(self) -> int:
        """The feature bits that driver and device agreed on."""
        return self._driver_features

    def work(self, index: int) -> None:
        """Process queue `index`, show the driver the result and interrupt it if it wants to be."""
        if not self.running:
            self._busy &= ~(1 << index)  # the driver will notify once it is ready
            return
        queue = self.queues[index]
        try:
            if self.process(index):
                self._busy |= 1 << index
            else:
                self._busy &= ~(1 << index)
            if queue.publish():
                self.interrupt(INTERRUPT_USED)
        except QueueBroken:
            self._break()

    def service(self) -> bool:
        """Go on with the queues that had more to do; True if some still have."""
        busy = self._busy
        while busy:
            self.work((busy & -busy).bit_length() - 1)
            busy &= busy - 1
        return bool(self._busy)

    def interrupt(self, cause: int) -> None:
        """Raise the interrupt for INTERRUPT_USED or INTERRUPT_CONFIGURATION."""
        self._interrupt_status |= cause
        self._irq.set(True)

    def _break(self) -> None:
        self._status |= STATUS_NEEDS_RESET
        self._busy = 0
        self.interrupt(INTERRUPT_CONFIGURATION)

    # Registers.

    def _reset(self) -> None:
        self._status = 0
        self._driver_features = 0
        self._features_select = [0, 0]  # the device's and the driver's
        self._queue_select = 0
        self._interrupt_status = 0
        self._busy = 0  # queues with work left, bit n for queue n
        for queue in self.queues:
            queue.reset()
        self._irq.set(False)

    @property
    def _queue(self) -> Queue | None:
        return self.queues[self._queue_select] if self._queue_select < len(self.queues) else None

    @property
    def _features(self) -> int:
        return self.offered | TRANSPORT_FEATURES

    def read(self, offset: int, size: int) -> int:
        """A register, or a piece of the configuration space; 0 where there is none."""
        if offset >= CONFIGURATION:
            return int.from_bytes(self.configuration()[offset - CONFIGURATION :][:size], "little")
        if size != 4 or offset % 4:
            return 0
        if offset == REG_INTERRUPT_STATUS:
            return self._interrupt_status
        if offset == REG_DEVICE_FEATURES:
            select = self._features_select[0]
            return self._features >> 32 * select & WORD if select < 2 else 0
        queue = self._queue
        return {
            REG_MAGIC: MAGIC,
            REG_VERSION: VERSION,
            REG_DEVICE_ID: self.device_id,
            REG_VENDOR: VENDOR,
            REG_QUEUE_SIZE_MAX: MAX_SIZE if queue else 0,
            REG_QUEUE_READY: int(queue.enabled) if queue else 0,
            REG_STATUS: self._status,
            # "There is no such region" is a length and a base of all ones: section 4.2.2.
            REG_SHM_LENGTH: WORD,
            REG_SHM_LENGTH + 4: WORD,
            REG_SHM_BASE: WORD,
            REG_SHM_BASE + 4: WORD,
        }.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; the configuration spaces of these devices are read-only."""
        if size != 4 or offset % 4 or offset >= CONFIGURATION:
            return
        if offset == REG_QUEUE_NOTIFY:
            if value < len(self.queues):
                self.work(value)
        elif offset == REG_INTERRUPT_ACK:
            self._interrupt_status &= ~value
            if not self._interrupt_status:
                self._irq.set(False)
        elif offset == REG_STATUS:
            self._set_status(value & 0xFF)
        elif offset in (REG_DEVICE_FEATURES_SEL, REG_DRIVER_FEATURES_SEL):
            self._features_select[offset == REG_DRIVER_FEATURES_SEL] = value
        elif offset == REG_DRIVER_FEATURES:
            self._accept(value)
        elif offset == REG_QUEUE_SEL:
            self._queue_select = value
        else:
            self._set_queue(offset, value)

    def _accept(self, value: int) -> None:
        select = self._features_select[1]
        if select < 2 and not self._status & STATUS_FEATURES_OK:
            kept = self._driver_features & ~(WORD << 32 * select)
            self._driver_features = kept | value << 32 * select

    def _set_status(self, value: int) -> None:
        if not value:
            self._reset()
            self.was_reset()
            return
        value |= self._status  # bits are only ever added: section 2.1.1
        accepted = self._driver_features
        if value & STATUS_FEATURES_OK and (accepted & ~self._features or not accepted & F_VERSION_1):
            value &= ~STATUS_FEATURES_OK
        if not value & STATUS_FEATURES_OK:
            value &= ~STATUS_DRIVER_OK
        begins = value & ~self._status & STATUS_DRIVER_OK
        self._status = value
        if begins and self.running:
            self.started()

    def _set_queue(self, offset: int, value: int) -> None:
        queue = self._queue
        if queue is None:
            return
        if offset == REG_QUEUE_READY:
            if not value & 1:
                queue.enabled = False
            elif not queue.enabled and self._status & STATUS_FEATURES_OK:
                try:
                    queue.enable(bool(self._driver_features & F_EVENT_INDEX))
                except QueueBroken:
                    self._break()
        elif queue.enabled:
            return  # not to be changed while in use: section 4.2.2.2
        elif offset == REG_QUEUE_SIZE:
            queue.size = value & 0xFFFF
        elif offset in ADDRESS_FIELDS:
            name, shift = ADDRESS_FIELDS[offset]
            setattr(queue, name, getattr(queue, name) & ~(WORD << shift) | value << shift)

    # State.

    def save(self) -> fields.State:
        """What `restore` takes; devices with state of their own add to it."""
        return {
            "device_id": self.device_id,
            "status": self._status,
            "driver_features": f"{self._driver_features:016x}",
            "features_select": list(self._features_select),
            "queue_select": self._queue_select,
            "interrupt_status": self._interrupt_status,
            "queues": [queue.save() for queue in self.queues],
        }

    def restore(self, state: fields.State) -> None:
        """Take back what `save` gave. ValueError names a wrong field."""
        fields.integer(state, "device_id", self.device_id, self.device_id)
        status = fields.integer(state, "status", 0xFF)
        features = int.from_bytes(fields.data(state, "driver_features", 8), "big")
        if status & STATUS_FEATURES_OK and features & ~self._features:
            raise ValueError("driver_features: the device does not offer all of them")
        select = fields.integers(state, "features_select", 2, WORD)
        queue_select = fields.integer(state, "queue_select", WORD)
        interrupt_status = fields.integer(state, "interrupt_status", WORD)
        saved = fields.items(state, "queues", self.queue_count)
        self._reset()
        for index, (queue, queue_state) in enumerate(zip(self.queues, saved, strict=True)):
            try:
                queue.restore(queue_state, bool(features & F_EVENT_INDEX))
            except ValueError as error:
                raise ValueError(f"queues[{index}].{error}") from None
        self._status, self._driver_features, self._features_select = status, features, list(select)
        self._queue_select, self._interrupt_status = queue_select, interrupt_status
        self._busy = (1 << self.queue_count) - 1 if self.running else 0  # look at every queue once
        self._irq.set(bool(interrupt_status))


class EmptySlot(VirtioMmio):
    """A slot without a device: DeviceID 0 tells the driver to leave it alone (section 4.2.3.1)."""

    device_id = 0
