"""The choice of tiers: `VPOD_JIT`, `VPOD_JIT_MEMORY`, arguments, and what is refused, by name.

What the translator then does is tests/test_translator.py.
"""

from __future__ import annotations

import pytest
from two_tiers import COUNTED, FORCED, INTERPRETED, named

from vpod.tier import Tier


def options(tier: Tier) -> tuple[bool, bool, int]:
    return tier.translate, tier.at_once, tier.memory


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, (True, False, 64 << 20)),
        ({"VPOD_JIT": "0"}, (False, False, 64 << 20)),
        ({"VPOD_JIT": "1"}, (True, False, 64 << 20)),
        ({"VPOD_JIT": "force"}, (True, True, 64 << 20)),
        ({"VPOD_JIT": "", "VPOD_JIT_MEMORY": ""}, (True, False, 64 << 20)),
        ({"VPOD_JIT": "force", "VPOD_JIT_MEMORY": "1M"}, (True, True, 1 << 20)),
    ],
)
def test_the_environment_chooses(environment: dict[str, str], wanted: tuple[bool, bool, int]) -> None:
    assert options(Tier.chosen(environment=environment)) == wanted


@pytest.mark.parametrize(
    ("text", "size"),
    [("256K", 256 << 10), ("2m", 2 << 20), ("1G", 1 << 30), (" 64M ", 64 << 20), ("196608", 192 << 10)],
)
def test_memory_for_code_is_given_with_a_unit(text: str, size: int) -> None:
    assert Tier.chosen(environment={"VPOD_JIT_MEMORY": text}).memory == size


@pytest.mark.parametrize("name", ["yes", "2", "FORCE", "off", " 1"])
def test_an_unknown_choice_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"VPOD_JIT is {name!r}; 0, 1 and force are known"):
        Tier.chosen(environment={"VPOD_JIT": name})
    with pytest.raises(ValueError, match=f"jit is {name!r}"):
        Tier.chosen(name)


@pytest.mark.parametrize("text", ["lots", "-1", "1.5M", "64MB", "0x1000", "K", "64 M"])
def test_a_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"VPOD_JIT_MEMORY is .* a number of bytes is wanted"):
        Tier.chosen(environment={"VPOD_JIT_MEMORY": text})


@pytest.mark.parametrize("text", ["0", "191K", "1025M", "2G"])
def test_a_size_that_cannot_be_had_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"bytes for translated code; 196608 .* can be had: see VPOD_JIT_MEMORY"):
        Tier.chosen(environment={"VPOD_JIT_MEMORY": text})


@pytest.mark.parametrize("trace", [0, -1, 129])
def test_a_trace_of_that_length_cannot_be_had(trace: int) -> None:
    with pytest.raises(ValueError, match=f"traces of {trace} instructions; 1 to 128"):
        Tier(trace=trace)


@pytest.mark.parametrize("room", [0, -1, 36865])
def test_so_much_room_cannot_be_had(room: int) -> None:
    with pytest.raises(ValueError, match=f"{room} bytes of room for a trace; 1 to 36864"):
        Tier(room=room)


@pytest.mark.parametrize("landings", [0, -2, 3, 1000, 8192])
def test_so_many_landings_cannot_be_had(landings: int) -> None:
    with pytest.raises(ValueError, match=f"{landings} landings; a power of two up to 4096"):
        Tier(landings=landings)


def test_an_argument_wins_over_the_environment() -> None:
    environment = {"VPOD_JIT": "force", "VPOD_JIT_MEMORY": "1M"}
    assert options(Tier.chosen(False, environment)) == (False, False, 1 << 20)
    assert options(Tier.chosen(True, environment)) == (True, False, 1 << 20)
    assert options(Tier.chosen("force", {"VPOD_JIT": "0"})) == (True, True, 64 << 20)
    assert options(Tier.chosen(False, {"VPOD_JIT": "nonsense"})) == (False, False, 64 << 20)


@pytest.mark.parametrize("tier", [COUNTED, FORCED, INTERPRETED, Tier(memory=1 << 20)], ids=named)
def test_another_process_makes_the_same_choice(tier: Tier) -> None:
    assert options(Tier.chosen(environment=tier.environment())) == options(tier)
