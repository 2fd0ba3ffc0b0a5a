"""virtio 1.2 devices behind virtio-mmio: `mmio.py` is the transport, `queue.py` the rings, one file each device."""
