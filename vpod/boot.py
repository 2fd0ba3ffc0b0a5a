"""The machine's first start: what the board says of itself, and where firmware, kernel and initrd go.

Only a machine that boots needs this; one that is thawed does not even import it.

    0x8000_0000   firmware: OpenSBI's fw_dynamic or fw_jump, at most 2 MiB
    0x8020_0000   kernel: a RISC-V Image, with the room that its header asks for
        ...
    page aligned  initrd, directly under the tree
    top - 64 KiB  flattened device tree
    top - 4 KiB   `struct fw_dynamic_info` (OpenSBI, docs/firmware/fw_dynamic.md)

``top`` is the end of RAM, or 3 GiB into it, as on QEMU's ``virt``: 32-bit parts of firmware reach no higher tree.
Every range is checked against its neighbours before anything is written, and the error says what doesn't fit.

>>> layout = place(memory=256 << 20, firmware=bytes(4096), initrd=bytes(5000))
>>> hex(layout.initrd), hex(layout.tree), hex(layout.info)
('0x8ffee000', '0x8fff0000', '0x8ffff000')
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from vpod import machine as board
from vpod.bus import RAM_BASE
from vpod.devices.plic import SOURCES as PLIC_SOURCES
from vpod.errors import BuildError
from vpod.fdt import Node, cells, cells64, flatten, strings

FIRMWARE_ROOM = 2 << 20
KERNEL_BASE = RAM_BASE + FIRMWARE_ROOM
TREE_ROOM = 64 << 10
INFO_ROOM = 4 << 10
HIGHEST_TOP = RAM_BASE + (3 << 30)
PAGE = 4096
MAX_COMMAND_LINE = 1023  # Linux on RISC-V keeps 1024 bytes with the zero

EXTENSIONS = ("i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "sstc", "svadu")
ISA = "rv64imafdc_" + "_".join(name for name in EXTENSIONS if len(name) > 1)
HART_PHANDLE, PLIC_PHANDLE, SYSCON_PHANDLE, CPU_PHANDLE = 1, 2, 3, 4
SUPERVISOR_EXTERNAL, MACHINE_EXTERNAL, MACHINE_TIMER, MACHINE_SOFTWARE = 9, 11, 7, 3  # bits of mip

IMAGE_HEADER = struct.Struct("<8xQQ32xI4x")  # Linux, Documentation/arch/riscv/boot-image-header.rst
IMAGE_MAGIC = 0x0543_5352  # "RSC\x05"
DYNAMIC_INFO = struct.Struct("<6Q")
DYNAMIC_MAGIC, DYNAMIC_VERSION, NEXT_MODE_S, NO_BOOT_PRINTS = 0x4942_534F, 2, 1, 1


class Layout(NamedTuple):
    """Physical addresses of everything that is loaded; `initrd` to `initrd_end` is empty when there is none."""

    firmware: int
    kernel: int
    kernel_end: int
    initrd: int
    initrd_end: int
    tree: int
    info: int


def place(memory: int, firmware: bytes, kernel: bytes = b"", initrd: bytes = b"") -> Layout:
    """Where everything goes in `memory` bytes of RAM. BuildError says what doesn't fit, and by how much."""
    if len(firmware) > FIRMWARE_ROOM:
        raise BuildError(f"the firmware takes {len(firmware)} bytes; {FIRMWARE_ROOM} are kept for it")
    top = min(RAM_BASE + memory, HIGHEST_TOP)
    tree = top - TREE_ROOM
    initrd_start = tree - len(initrd) & -PAGE
    kernel_end = KERNEL_BASE + (_kernel_size(kernel) if kernel else 0)
    if initrd_start < kernel_end:
        missing = kernel_end - initrd_start
        raise BuildError(
            f"{memory >> 20} MiB of RAM are too few for this kernel ({kernel_end - KERNEL_BASE} bytes in memory) and "
            f"initrd ({len(initrd)} bytes): {missing} bytes are missing; give the machine more memory"
        )
    return Layout(RAM_BASE, KERNEL_BASE, kernel_end, initrd_start, initrd_start + len(initrd), tree, top - INFO_ROOM)


def _kernel_size(kernel: bytes) -> int:
    """Bytes of memory that the kernel takes, by its header: `image_size` counts what follows the file too (bss)."""
    if len(kernel) < IMAGE_HEADER.size:
        raise BuildError(f"the kernel is only {len(kernel)} bytes: not a RISC-V Image")
    text_offset, image_size, magic = IMAGE_HEADER.unpack_from(kernel)
    if magic != IMAGE_MAGIC:
        gzipped = kernel[:2] == b"\x1f\x8b"
        hint = "it is compressed with gzip: unpack it first" if gzipped else "use arch/riscv/boot/Image"
        raise BuildError(f"the kernel has no RISC-V Image header (magic {magic:#x} at 0x38); {hint}")
    if text_offset != KERNEL_BASE - RAM_BASE:
        raise BuildError(f"the kernel wants to lie {text_offset:#x} into RAM; only {KERNEL_BASE - RAM_BASE:#x} is done")
    size: int = max(image_size, len(kernel))
    return size


def dynamic_info() -> bytes:
    """OpenSBI's `struct fw_dynamic_info`: go on at the kernel in supervisor mode, boot hart 0, without a banner."""
    return DYNAMIC_INFO.pack(DYNAMIC_MAGIC, DYNAMIC_VERSION, KERNEL_BASE, NEXT_MODE_S, NO_BOOT_PRINTS, 0)


def flat_tree(memory: int, command_line: str = "", initrd: tuple[int, int] | None = None) -> bytes:
    """The board's device tree, flattened. BuildError if the command line is too long or not ASCII."""
    if len(command_line) > MAX_COMMAND_LINE or not command_line.isascii() or "\0" in command_line:
        raise BuildError(f"the kernel's command line must be at most {MAX_COMMAND_LINE} ASCII characters")
    blob = flatten(device_tree(memory, command_line, initrd))
    if len(blob) > TREE_ROOM - INFO_ROOM - PAGE:  # OpenSBI adds a few nodes in place
        raise BuildError(f"the device tree takes {len(blob)} bytes; there is room for {TREE_ROOM - INFO_ROOM - PAGE}")
    return blob


def device_tree(memory: int, command_line: str = "", initrd: tuple[int, int] | None = None) -> Node:
    """The board as Linux's bindings describe it; node for node what QEMU's ``virt`` says of the same devices."""
    root = Node("", {"#address-cells": cells(2), "#size-cells": cells(2)})
    root.properties |= {"compatible": strings("riscv-virtio"), "model": strings("vpod,virt")}
    root.children.append(_chosen(command_line, initrd))
    root.add(f"memory@{RAM_BASE:x}", device_type=strings("memory"), reg=cells64(RAM_BASE, memory))
    root.children.append(_cpus())
    root.children.append(_soc())
    for name, command in (("poweroff", 0x5555), ("reboot", 0x7777)):
        phandle = cells(SYSCON_PHANDLE)
        root.add(name, compatible=strings(f"syscon-{name}"), regmap=phandle, offset=cells(0), value=cells(command))
    return root


def _chosen(command_line: str, initrd: tuple[int, int] | None) -> Node:
    node = Node("chosen", {"bootargs": strings(command_line), "rng-seed": os.urandom(64)})
    node.properties["stdout-path"] = strings(f"/soc/serial@{board.UART:x}")
    if initrd:
        node.properties["linux,initrd-start"] = cells64(initrd[0])
        node.properties["linux,initrd-end"] = cells64(initrd[1])
    return node


def _cpus() -> Node:
    node = Node("cpus", {"#address-cells": cells(1), "#size-cells": cells(0)})
    node.properties["timebase-frequency"] = cells(board.TIMEBASE)
    # Kernels differ in which of the three ways of naming the ISA they read.
    isa = {
        "riscv,isa": strings(ISA),
        "riscv,isa-base": strings("rv64i"),
        "riscv,isa-extensions": strings(*EXTENSIONS),
        "mmu-type": strings("riscv,sv39"),
    }
    hart = node.add("cpu@0", isa, device_type=strings("cpu"), compatible=strings("riscv"), reg=cells(0))
    hart.properties |= {"status": strings("okay"), "phandle": cells(CPU_PHANDLE)}
    interrupts = {"#interrupt-cells": cells(1), "#address-cells": cells(0), "interrupt-controller": b""}
    hart.add(
        "interrupt-controller", interrupts, compatible=strings("riscv,cpu-intc"), phandle=cells(HART_PHANDLE)
    )  # fmt: skip
    node.add("cpu-map").add("cluster0").add("core0", cpu=cells(CPU_PHANDLE))
    return node


def _soc() -> Node:
    node = Node("soc", {"#address-cells": cells(2), "#size-cells": cells(2)})
    node.properties |= {"compatible": strings("simple-bus"), "ranges": b""}

    def device(name: str, address: int, size: int, *compatible: str, irq: int = 0) -> dict[str, bytes]:
        properties = {"compatible": strings(*compatible), "reg": cells64(address, size)}
        if irq:
            properties |= {"interrupt-parent": cells(PLIC_PHANDLE), "interrupts": cells(irq)}
        return node.add(f"{name}@{address:x}", properties).properties

    syscon = device("test", board.SYSCON, 0x1000, "sifive,test1", "sifive,test0", "syscon")
    syscon["phandle"] = cells(SYSCON_PHANDLE)
    device("rtc", board.RTC, 0x1000, "google,goldfish-rtc", irq=board.RTC_IRQ)
    clint = device("clint", board.CLINT, 0x10000, "sifive,clint0", "riscv,clint0")
    clint["interrupts-extended"] = cells(HART_PHANDLE, MACHINE_SOFTWARE, HART_PHANDLE, MACHINE_TIMER)
    plic = device("plic", board.PLIC, 0x600000, "sifive,plic-1.0.0", "riscv,plic0")
    plic |= {"#interrupt-cells": cells(1), "#address-cells": cells(0), "interrupt-controller": b""}
    plic["interrupts-extended"] = cells(HART_PHANDLE, MACHINE_EXTERNAL, HART_PHANDLE, SUPERVISOR_EXTERNAL)
    plic |= {"riscv,ndev": cells(PLIC_SOURCES - 1), "phandle": cells(PLIC_PHANDLE)}
    uart = device("serial", board.UART, 0x100, "ns16550a", irq=board.UART_IRQ)
    uart["clock-frequency"] = cells(3_686_400)
    for slot in range(board.VIRTIO_SLOTS):
        device("virtio_mmio", board.VIRTIO + slot * 0x1000, 0x1000, "virtio,mmio", irq=board.VIRTIO_IRQ + slot)
    return node
