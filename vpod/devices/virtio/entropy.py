"""Entropy: the host's random bytes for the guest (virtio 1.2, section 5.4).

One queue of writable buffers. Each is filled from `os.urandom`, with at most 4 KiB however long it is; the
specification lets a device write less than was asked for. There is no state beyond the queue, and so nothing random in
a snapshot. Example: ``Entropy(ram, plic.line(2))``.
"""

from __future__ import annotations

import os

from vpod.devices.virtio.mmio import VirtioMmio
from vpod.devices.virtio.queue import MAX_SIZE

MAX_REQUEST = 4096


class Entropy(VirtioMmio):
    """The random number generator."""

    device_id = 4
    queue_count = 1

    def process(self, index: int) -> bool:
        """Fill every available buffer."""
        queue = self.queues[index]
        for _ in range(MAX_SIZE):
            chain = queue.pop()
            if chain is None:
                return False
            head, _, writable = chain
            written = 0
            for offset, length in writable:
                data = os.urandom(min(length, MAX_REQUEST - written))
                self.ram.write(self.ram.base + offset, data)
                written += len(data)
            queue.push(head, written)
        return True
