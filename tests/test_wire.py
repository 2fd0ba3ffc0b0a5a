"""The frames between caller and worker: borders survive any chopping, and nothing against the rules passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpod import wire

frames = st.lists(st.tuples(st.sampled_from(range(1, 6)), st.binary(max_size=300)), max_size=8)


@given(frames, st.data())
def test_frames_come_out_as_they_went_in_however_chopped(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(wire.encode(kind, payload) for kind, payload in sent)
    reader = wire.Reader()
    got = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += reader.feed(stream[:size])
        stream = stream[size:]
    assert got == sent


@pytest.mark.parametrize("kind", [0, 8, 99, 255])
def test_an_unknown_kind_is_refused_at_once_and_for_ever(kind: int) -> None:
    reader = wire.Reader()
    with pytest.raises(wire.WireError, match=f"kind {kind}"):
        reader.feed(b"\0\0\0\0" + bytes([kind]))
    with pytest.raises(wire.WireError):
        reader.feed(wire.encode(wire.AGENT, b"well-formed"))


@pytest.mark.parametrize("kind", [wire.AGENT, wire.CONSOLE, wire.STOP, wire.STATS])
def test_a_length_above_the_limit_is_refused_before_its_payload_is_awaited(kind: int) -> None:
    with pytest.raises(wire.WireError, match=str(wire.MAX_PAYLOAD + 1)):
        wire.Reader().feed((wire.MAX_PAYLOAD + 1).to_bytes(4, "little") + bytes([kind]))
    with pytest.raises(ValueError, match="limit"):
        wire.encode(kind, bytes(wire.MAX_PAYLOAD + 1))


def test_a_start_may_be_longer_but_not_without_limit() -> None:
    assert wire.Reader().feed(wire.encode(wire.START, bytes(wire.MAX_PAYLOAD + 1)))[0][0] == wire.START
    with pytest.raises(wire.WireError):
        wire.Reader().feed((wire.MAX_START + 1).to_bytes(4, "little") + bytes([wire.START]))
