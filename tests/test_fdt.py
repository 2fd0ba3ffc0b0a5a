"""The device tree: its format, against ``dtc`` as an independent reader, and its content, against QEMU's ``virt``."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpod import boot
from vpod.errors import BuildError
from vpod.fdt import FdtError, Node, cells, cells64, flatten, parse, strings

MEMORY = 256 << 20
names = st.from_regex(r"[a-z][a-z0-9,-]{0,10}(@[0-9a-f]{1,8})?", fullmatch=True)
properties = st.dictionaries(
    st.from_regex(r"[a-z#][a-z0-9,-]{0,10}", fullmatch=True), st.binary(max_size=40), max_size=4
)
trees = st.recursive(
    st.builds(Node, names, properties),
    lambda children: st.builds(
        Node, names, properties, st.lists(children, max_size=3, unique_by=lambda node: node.name)
    ),
    max_leaves=12,
)


def needs(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed; it is the oracle here")
    return path


def dtc(blob: bytes) -> tuple[str, str]:
    """The tree as source text by dtc, and what dtc complained of."""
    done = subprocess.run([needs("dtc"), "-I", "dtb", "-O", "dts", "-"], input=blob, capture_output=True, check=True)
    return done.stdout.decode(), done.stderr.decode()


@settings(deadline=None)
@given(st.lists(trees, max_size=3, unique_by=lambda node: node.name), properties)
def test_what_was_written_is_read_back(children: list[Node], values: dict[str, bytes]) -> None:
    root = Node("", values, children)
    assert parse(flatten(root)) == root


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 2000), st.integers(0, 255))
def test_no_bytes_can_make_the_reader_do_more_than_refuse(junk: bytes, at: int, value: int) -> None:
    blob = bytearray(flatten(boot.device_tree(MEMORY, "x", (1, 2))))
    blob[at % len(blob)] = value
    for hostile in (junk, bytes(blob), bytes(blob[: at % len(blob)]), bytes(blob[:40]) + junk):
        try:
            parse(hostile)
        except FdtError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("structure", "complaint"),
    [
        (cells(9), "begin"),
        (cells(1, 0), "ends within"),
        (cells(1, 0, 2), "ends within"),
        (cells(1, 0, 2, 2, 9), "end after"),
        (cells(1, 0, 7, 2, 9), "token 7"),
        (cells(1, 0, 3, 0xFFFF_FFFF, 0, 2, 9), "ends within"),
        (cells(1, 0, 3, 0, 99, 2, 9), "name for a property"),
        (cells(1, 0x6100_0000, 2, 9), "name for a node"),
        (cells(1, 0, 1, 0x6100_0000, 2, 1, 0x6100_0000, 2, 2, 9), "two children"),
        (cells(1, 0, 1, 0x6100_0000, 2, 3, 0, 0, 2, 9), "token 3"),
        (cells(1, 0, *[1, 0x6100_0000] * 20, *[2] * 21, 9), "deep"),
    ],
)
def test_malformed_structure_is_named(structure: bytes, complaint: str) -> None:
    size = 40 + 16 + len(structure)
    header = struct.pack(">10I", 0xD00D_FEED, size, 56, size, 40, 17, 16, 0, 0, len(structure))
    with pytest.raises(FdtError, match=complaint):
        parse(header + bytes(16) + structure)


def test_trees_that_the_format_cannot_hold_are_refused() -> None:
    for root in (
        Node("root"),
        Node("", {}, [Node("")]),
        Node("", {}, [Node("a b")]),
        Node("", {"sp ace": b""}),
        Node("", {}, [Node("a"), Node("a")]),
        Node("", {"big": bytes(2 << 20)}),
    ):
        with pytest.raises(FdtError):
            flatten(root)


def test_dtc_reads_the_board_and_finds_nothing_wrong() -> None:
    source, complaints = dtc(boot.flat_tree(MEMORY, "console=ttyS0 quiet", (0x8800_0000, 0x8810_0000)))
    assert complaints.replace("\n", "") in ("", "<stdout>: Warning (chosen_node_stdout_path): ")
    assert 'bootargs = "console=ttyS0 quiet"' in source
    assert "linux,initrd-start = <0x00 0x88000000>" in source
    assert "linux,initrd-end = <0x00 0x88100000>" in source
    assert 'riscv,isa-base = "rv64i"' in source
    assert 'riscv,isa = "rv64imafdc_zicntr_zicsr_zifencei_sstc_svadu"' in source
    assert "timebase-frequency = <0x989680>" in source


def test_the_board_is_node_for_node_what_qemu_says_of_the_same_devices(tmp_path: Path) -> None:
    dumped = tmp_path / "virt.dtb"
    machine = f"virt,dumpdtb={dumped}"
    subprocess.run([needs("qemu-system-riscv64"), "-M", machine, "-m", "256M"], check=True, capture_output=True)
    theirs, ours = parse(dumped.read_bytes()), boot.device_tree(MEMORY)

    def resolved(tree: Node, name: str, value: bytes) -> object:
        """A property with phandles replaced by the `compatible` of the node that they name."""
        words = [struct.unpack_from(">I", value, at)[0] for at in range(0, len(value) - 3, 4)]
        if name in ("interrupt-parent", "regmap", "cpu"):
            return by_phandle(tree, words[0])
        if name == "interrupts-extended":
            return [
                (by_phandle(tree, phandle), number) for phandle, number in zip(words[::2], words[1::2], strict=True)
            ]
        return value

    def by_phandle(tree: Node, phandle: int) -> bytes | None:
        if tree.properties.get("phandle") == cells(phandle):
            return tree.properties.get("compatible", b"")
        return next((found for child in tree.children if (found := by_phandle(child, phandle)) is not None), None)

    shared = ["memory@80000000", "cpus", "cpus/cpu@0/interrupt-controller", "cpus/cpu-map/cluster0/core0", "soc"]
    shared += ["poweroff", "reboot", "soc/test@100000", "soc/rtc@101000", "soc/clint@2000000", "soc/plic@c000000"]
    shared += ["soc/serial@10000000", *(f"soc/virtio_mmio@1000{slot}000" for slot in range(1, 9))]
    for path in shared:
        mine, other = ours.find(path), theirs.find(path)
        for name, value in other.properties.items():
            if name in ("phandle", "riscv,ndev"):
                continue
            assert resolved(ours, name, mine.properties[name]) == resolved(theirs, name, value), f"{path}: {name}"
    assert theirs.find("chosen").properties["stdout-path"].rstrip(b"\0") in (b"/soc/serial@10000000",)
    assert ours.find("chosen").properties["stdout-path"] == strings("/soc/serial@10000000")


def test_every_boot_has_its_own_seed() -> None:
    seeds = {boot.device_tree(MEMORY).find("chosen").properties["rng-seed"] for _ in range(3)}
    assert len(seeds) == 3 and {len(seed) for seed in seeds} == {64}


def test_the_memory_node_says_how_much_there_is() -> None:
    assert boot.device_tree(4 << 30).find("memory@80000000").properties["reg"] == cells64(0x8000_0000, 4 << 30)


def image(size: int = 4096, image_size: int = 1 << 20, text_offset: int = 0x20_0000) -> bytes:
    header = struct.pack("<8xQQ32xI4x", text_offset, image_size, 0x0543_5352)
    return header.ljust(size, b"\0")


def test_nothing_that_is_loaded_overlaps() -> None:
    for memory in (64 << 20, 256 << 20, 4 << 30):
        layout = boot.place(memory, bytes(4096), image(), bytes(12345))
        order = [
            layout.firmware + 4096,
            layout.kernel,
            layout.kernel_end,
            layout.initrd,
            layout.initrd_end,
            layout.tree,
        ]
        assert order == sorted(order) and layout.tree < layout.info < 0x8000_0000 + memory
        assert layout.kernel_end - layout.kernel == 1 << 20, "the header's image_size counts, not the file's length"
        assert layout.initrd % 4096 == 0 and layout.tree % 8 == 0
        assert layout.initrd_end - layout.initrd == 12345


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((64 << 20, bytes(3 << 20)), "firmware takes"),
        ((64 << 20, b"", b"tiny"), "only 4 bytes"),
        ((64 << 20, b"", bytes(4096)), "no RISC-V Image header"),
        ((64 << 20, b"", b"\x1f\x8b" + bytes(4096)), "gzip"),
        ((64 << 20, b"", image(text_offset=0)), "0x0 into RAM"),
        ((64 << 20, b"", image(image_size=63 << 20)), "bytes are missing"),
        ((64 << 20, b"", image(image_size=1 << 63)), "bytes are missing"),
        ((64 << 20, b"", image(), bytes(62 << 20)), "more memory"),
    ],
)
def test_what_does_not_fit_is_said(arguments: tuple[int, bytes], complaint: str) -> None:
    with pytest.raises(BuildError, match=complaint):
        boot.place(*arguments)


def test_a_command_line_is_ascii_and_not_too_long() -> None:
    for text in ("x" * 1024, "ä", "a\0b"):
        with pytest.raises(BuildError, match="command line"):
            boot.flat_tree(MEMORY, text)
