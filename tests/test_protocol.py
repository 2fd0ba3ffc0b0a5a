"""The host's codec: what one side writes the other reads, and nothing hostile gets through."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpod import protocol
from vpod.errors import AgentError, PythonNotAvailable, UnknownUser
from vpod.protocol import (
    AGENT_KINDS,
    HOST_KINDS,
    MAX_PAYLOAD,
    ExitTag,
    Frame,
    Kind,
    Parser,
    fields,
    frame,
    parse_done,
    parse_exit,
    parse_fields,
    parse_u32,
)

FRAMES = st.lists(
    st.builds(Frame, st.sampled_from(sorted(AGENT_KINDS)), st.integers(0, 0xFFFFFFFF), st.binary(max_size=300)),
    max_size=12,
)


def in_pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(FRAMES, st.lists(st.integers(0, 400), max_size=30))
def test_frames_survive_any_chopping(sent: list[Frame], sizes: list[int]) -> None:
    stream = b"".join(frame(f.kind, f.id, f.payload) for f in sent)
    parser = Parser()
    received = [f for piece in in_pieces(stream, sizes) for f in parser.feed(piece)]
    assert received == sent
    assert parser.pending == 0


def test_a_frame_lies_on_the_wire_as_specified() -> None:
    assert frame(Kind.EXIT, 7, struct.pack("<i", 3)) == bytes.fromhex("04000000 85 07000000 03000000")


@given(st.binary(max_size=200), st.lists(st.integers(0, 50), max_size=10))
def test_any_bytes_give_frames_or_an_agent_error_and_hold_little(data: bytes, sizes: list[int]) -> None:
    parser = Parser()
    for piece in in_pieces(data, sizes):
        try:
            frames = parser.feed(piece)
        except AgentError:
            with pytest.raises(AgentError):
                parser.feed(b"")
            assert parser.pending == 0
            return
        assert all(f.kind in AGENT_KINDS for f in frames)
    assert parser.pending <= MAX_PAYLOAD + 9


@given(st.integers(MAX_PAYLOAD + 1, 0xFFFFFFFF), st.sampled_from(sorted(AGENT_KINDS)))
def test_a_long_frame_is_refused_by_its_header(length: int, kind: Kind) -> None:
    with pytest.raises(AgentError, match=str(length)):
        Parser().feed(struct.pack("<IBI", length, kind, 1))


def test_the_longest_frame_passes() -> None:
    payload = bytes(MAX_PAYLOAD)
    assert Parser().feed(frame(Kind.DATA, 1, payload)) == [Frame(Kind.DATA, 1, payload)]
    with pytest.raises(ValueError, match="limit"):
        frame(Kind.DATA, 1, payload + b"x")


@pytest.mark.parametrize("kind", sorted(set(range(256)) - {int(kind) for kind in AGENT_KINDS}))
def test_kinds_that_guests_do_not_send_are_refused(kind: int) -> None:
    with pytest.raises(AgentError, match=f"{kind:#04x}"):
        Parser().feed(frame(kind, 1))


def test_a_host_can_be_listened_to_as_well() -> None:
    parser = Parser(HOST_KINDS)
    assert parser.feed(frame(Kind.RUN, 1)) == [Frame(Kind.RUN, 1, b"")]
    with pytest.raises(AgentError):
        parser.feed(frame(Kind.READY, 1))


@pytest.mark.parametrize("id", [-1, 1 << 32])
def test_ids_are_32_bits(id: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        frame(Kind.RUN, id)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=10))
def test_fields_survive(items: list[tuple[int, bytes]]) -> None:
    assert parse_fields(fields(*items)) == items


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=9)), min_size=1, max_size=4), st.data())
def test_fields_cut_off_are_refused(items: list[tuple[int, bytes]], data: st.DataObject) -> None:
    whole = fields(*items)
    borders = {len(fields(*items[:n])) for n in range(len(items) + 1)}
    cut = data.draw(st.integers(0, len(whole)).filter(lambda n: n not in borders))
    with pytest.raises(AgentError):
        parse_fields(whole[:cut])


@given(st.binary(max_size=60))
def test_any_payload_is_parsed_or_refused(payload: bytes) -> None:
    for parse in (parse_fields, parse_u32, parse_exit, parse_done):
        try:
            parse(payload)  # type: ignore[operator]
        except AgentError:
            continue


def test_exit_and_done() -> None:
    assert parse_exit(struct.pack("<i", -1)) == (-1, None)
    assert parse_exit(struct.pack("<i", 3) + fields((ExitTag.SESSION_LOST, b"why"))) == (3, b"why")
    assert parse_done(struct.pack("<I", 2) + b"No such file") == (2, "No such file")


def test_errors_become_the_right_exception() -> None:
    assert isinstance(protocol.error(b"unknown user: ghost"), UnknownUser)
    assert isinstance(protocol.error(b"no python: none here"), PythonNotAvailable)
    assert isinstance(protocol.error(b"\xff"), AgentError)


def test_payloads_made_here() -> None:
    assert protocol.restore_payload(1, bytes(64)) == b"\1" + bytes(71)
    assert protocol.window_payload(24, 80) == b"\x18\0\x50\0"
    assert protocol.window_payload(-1, 1 << 20) == b"\0\0\xff\xff"
    with pytest.raises(ValueError, match="64 bytes"):
        protocol.restore_payload(1, b"short")


def test_the_guests_header_has_the_same_numbers() -> None:
    text = Path(__file__).parent.parent.joinpath("builder/agent/protocol.h").read_text()
    kinds = {name: int(value, 16) for name, value in re.findall(r"^    ([A-Z_]+) = (0x[0-9a-f]{2}),$", text, re.M)}
    assert kinds == {kind.name: kind.value for kind in Kind}
    for prefix, tags in (
        ("RUN", protocol.RunTag),
        ("READY", protocol.ReadyTag),
        ("EXIT", protocol.ExitTag),
    ):
        line = re.search(rf"enum {prefix.lower()}_tag {{(.*)}};", text)
        assert line
        found = {name: int(value) for name, value in re.findall(rf"{prefix}_([A-Z_]+) = (\d+)", line[1])}
        assert found == {tag.name: tag.value for tag in tags}
    flags = dict(re.findall(r"RUN_([A-Z_]+) = (\d+)", re.search(r"enum run_flag {(.*)};", text)[1]))  # type: ignore[index]
    assert {name: int(value) for name, value in flags.items()} == {flag.name: flag.value for flag in protocol.RunFlag}
    for name, value in (
        ("PROTOCOL_VERSION = 1,", protocol.VERSION == 1),
        ("MAX_PAYLOAD = 1 << 20,", MAX_PAYLOAD == 1 << 20),
        ("CHUNK = 64 << 10,", protocol.CHUNK == 64 << 10),
        ("INITIAL_CREDIT = 256 << 10,", protocol.INITIAL_CREDIT == 256 << 10),
        ("ENTROPY_SIZE = 64,", protocol.ENTROPY_SIZE == 64),
    ):
        assert name in text and value
