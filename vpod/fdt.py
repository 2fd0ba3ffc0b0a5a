"""Flattened device trees: how the board describes itself to firmware and kernel.

A tree is made of `Node`s and written with `flatten`; `parse` reads one back and trusts nothing in it. The format is
that of the Devicetree Specification v0.4, chapter 5: a header, the memory reservation block, the structure block and
the strings block, all big endian, in this order and aligned as the specification says.

Invariants: names and depth are bounded, a node's children and properties keep their order, and
``parse(flatten(tree)) == tree``.

>>> root = Node("", {"#address-cells": cells(2), "compatible": strings("riscv-virtio")})
>>> root.add("memory@80000000", device_type=strings("memory"), reg=cells64(0x8000_0000, 256 << 20)).name
'memory@80000000'
>>> parse(flatten(root)) == root
True
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

MAGIC = 0xD00DFEED
VERSION = 17
LAST_COMPATIBLE_VERSION = 16
HEADER = struct.Struct(">10I")
BEGIN_NODE, END_NODE, PROPERTY, NOP, END = 1, 2, 3, 4, 9

MAX_SIZE = 1 << 20
MAX_DEPTH = 16
NODE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9,._+-]{0,30}(@[A-Za-z0-9,._+-]{1,64})?")  # specification, 2.2.1
PROPERTY_NAME = re.compile(r"[A-Za-z0-9,._+?#-]{1,31}")  # specification, 2.2.4.1


class FdtError(ValueError):
    """A tree that the format can't hold, or bytes that are not a well-formed flattened tree."""


@dataclass
class Node:
    """One node: its name with unit address (empty for the root), its properties as raw bytes, its children."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def add(self, name: str, properties: dict[str, bytes] | None = None, /, **more: bytes) -> Node:
        """Append a child and return it. Properties whose names are no Python names go into the dictionary."""
        child = Node(name, {**(properties or {}), **more})
        self.children.append(child)
        return child

    def find(self, path: str) -> Node:
        """The descendant at `path`, such as ``soc/serial@10000000``. KeyError names the missing step."""
        node = self
        for step in path.strip("/").split("/"):
            matches = [child for child in node.children if child.name == step]
            if not matches:
                raise KeyError(f"{path}: no node {step} in {node.name or '/'}")
            node = matches[0]
        return node


def cells(*values: int) -> bytes:
    """32-bit cells, the unit of most properties."""
    return struct.pack(f">{len(values)}I", *values)


def cells64(*values: int) -> bytes:
    """Pairs of cells holding 64-bit values: addresses and sizes where ``#address-cells`` is 2."""
    return struct.pack(f">{len(values)}Q", *values)


def strings(*values: str) -> bytes:
    """A string list: each string with its terminating zero."""
    return b"".join(value.encode("ascii") + b"\0" for value in values)


def flatten(root: Node, boot_cpu: int = 0) -> bytes:
    """The flattened form of the tree. FdtError if a name, the depth or the size is not allowed."""
    structure = bytearray()
    names: dict[str, int] = {}  # property name → offset in the strings block
    _flatten_node(root, structure, names, depth=0)
    structure += cells(END)
    text = strings(*names)
    reservations = bytes(16)  # none: the list is its terminator
    at_reservations = HEADER.size
    at_structure = at_reservations + len(reservations)
    at_strings = at_structure + len(structure)
    total = at_strings + len(text)
    if total > MAX_SIZE:
        raise FdtError(f"the device tree takes {total} bytes; {MAX_SIZE} are allowed")
    header = HEADER.pack(
        MAGIC, total, at_structure, at_strings, at_reservations, VERSION, LAST_COMPATIBLE_VERSION, boot_cpu,
        len(text), len(structure),
    )  # fmt: skip
    return header + reservations + bytes(structure) + text


def _flatten_node(node: Node, structure: bytearray, names: dict[str, int], depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise FdtError(f"{node.name}: nodes are nested more than {MAX_DEPTH} deep")
    if bool(node.name) != bool(depth) or (node.name and not NODE_NAME.fullmatch(node.name)):
        raise FdtError(f"{node.name!r} is not a name for a node at depth {depth}")
    if len({child.name for child in node.children}) != len(node.children):
        raise FdtError(f"{node.name or '/'} has two children of one name")
    structure += cells(BEGIN_NODE) + _padded(node.name.encode("ascii") + b"\0")
    for name, value in node.properties.items():
        if not PROPERTY_NAME.fullmatch(name):
            raise FdtError(f"{name!r} in {node.name or '/'} is not a name for a property")
        if name not in names:
            names[name] = sum(len(earlier) + 1 for earlier in names)
        structure += cells(PROPERTY, len(value), names[name]) + _padded(value)
    for child in node.children:
        _flatten_node(child, structure, names, depth + 1)
    structure += cells(END_NODE)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def parse(blob: bytes) -> Node:
    """Read a flattened tree of version 17 strictly: bounds, alignment, order, names and end are all checked.

    Raises FdtError with what is wrong and where. Bytes past the header's total size are ignored, as the
    specification allows firmware to leave slack.
    """
    if len(blob) < HEADER.size:
        raise FdtError(f"{len(blob)} bytes are too few for a header")
    magic, total, at_structure, at_strings, at_reservations, version, compatible, _, strings_size, structure_size = (
        HEADER.unpack_from(blob)
    )
    if magic != MAGIC:
        raise FdtError(f"the magic number is {magic:#x}, not {MAGIC:#x}")
    if version < VERSION or compatible > VERSION:
        raise FdtError(f"version {version}, compatible with {compatible}, can't be read as version {VERSION}")
    if not HEADER.size <= total <= min(len(blob), MAX_SIZE):
        raise FdtError(f"the header says {total} bytes in all; there are {len(blob)}, at most {MAX_SIZE} allowed")
    if at_structure % 4 or structure_size % 4 or at_reservations % 8:
        raise FdtError("a block is not aligned")
    if not HEADER.size <= at_reservations <= at_structure - 16:
        raise FdtError("the memory reservation block is not between header and structure")
    if at_structure + structure_size > at_strings or at_strings + strings_size > total:
        raise FdtError("the structure and strings blocks overlap or leave the tree")
    structure = blob[at_structure : at_structure + structure_size]
    return _Reader(structure, blob[at_strings : at_strings + strings_size]).tree()


class _Reader:
    """A walk through the structure block; every read is checked against its end."""

    def __init__(self, structure: bytes, names: bytes) -> None:
        self.structure = structure
        self.names = names
        self.at = 0

    def tree(self) -> Node:
        if self._cell() != BEGIN_NODE:
            raise FdtError("the structure block doesn't begin with a node")
        root = self._node(depth=0)
        if self._cell() != END or self.at != len(self.structure):
            raise FdtError("the structure block doesn't end after the root node")
        return root

    def _take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.structure):
            raise FdtError(f"the structure block ends within an item at {self.at:#x}")
        data = self.structure[self.at : end]
        self.at = end + -end % 4
        return data

    def _cell(self) -> int:
        while True:
            token = int.from_bytes(self._take(4), "big")
            if token != NOP:
                return token

    def _node(self, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            raise FdtError(f"nodes are nested more than {MAX_DEPTH} deep")
        end = self.structure.find(b"\0", self.at)
        if end < 0:
            raise FdtError(f"the node's name at {self.at:#x} has no end")
        name = self._take(end + 1 - self.at)[:-1].decode("latin-1")
        if bool(name) != bool(depth) or (name and not NODE_NAME.fullmatch(name)):
            raise FdtError(f"{name!r} is not a name for a node at depth {depth}")
        node = Node(name)
        seen: set[str] = set()
        while (token := self._cell()) != END_NODE:
            if token == PROPERTY and not node.children:
                self._property(node)
            elif token == BEGIN_NODE:
                child = self._node(depth + 1)
                if child.name in seen:
                    raise FdtError(f"{name or '/'} has two children {child.name}")
                seen.add(child.name)
                node.children.append(child)
            else:
                raise FdtError(f"token {token} is not allowed in node {name or '/'}")
        return node

    def _property(self, node: Node) -> None:
        length, at = struct.unpack(">2I", self._take(8))
        value = self._take(length)
        end = self.names.find(b"\0", at) if at < len(self.names) else -1
        name = self.names[at:end].decode("latin-1") if end >= 0 else ""
        if not PROPERTY_NAME.fullmatch(name):
            raise FdtError(f"{name!r} in {node.name or '/'} is not a name for a property")
        if name in node.properties:
            raise FdtError(f"{node.name or '/'} has property {name} twice")
        node.properties[name] = value
