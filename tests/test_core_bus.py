"""What the core asks of its bus: every width once, access faults where no device answers, errors that leave no trace.

ld a1, 0(a0)  at a device   →   bus.read(address, 8), asked once
"""

from __future__ import annotations

import pytest
from machine_code import ONES, RAM, STEP, Hart, M, RecordingBus, Trap


def denied(cause: int, at: int) -> Trap:
    return Trap(cause, STEP, at)


@pytest.mark.parametrize(
    ("source", "value"),
    [("lb", 0xFFFF_FFFF_FFFF_FF88), ("lbu", 0x88), ("lh", 0xFFFF_FFFF_FFFF_9988), ("lhu", 0x9988),
     ("lw", 0xFFFF_FFFF_BBAA_9988), ("lwu", 0xBBAA_9988), ("ld", 0xFFEE_DDCC_BBAA_9988)],
)  # fmt: skip
def test_loads_from_a_device(source: str, value: int) -> None:
    hart = Hart().set(a0=0x1000_0000)
    hart.bus.registers[0x1000_0000] = 0xFFEE_DDCC_BBAA_9988
    assert hart.step(f"{source} a1, 0(a0)") is None
    assert hart.x("a1") == value
    assert len(hart.bus.log) == 1, "asked once"


@pytest.mark.parametrize(("source", "size"), [("sb", 1), ("sh", 2), ("sw", 4), ("sd", 8)])
def test_stores_to_a_device(source: str, size: int) -> None:
    hart = Hart().set(a0=0x1000_0000, a1=0x1122_3344_5566_7788)
    hart.bus.registers[0x1000_0000] = 0
    before = hart.cpu.instret
    assert hart.step(f"{source} a1, 0(a0)") is None
    assert hart.bus.log == [("write", 0x1000_0000, size, 0x1122_3344_5566_7788 & (1 << 8 * size) - 1)]
    assert hart.cpu.instret == before + 1


def test_where_no_device_answers_there_is_an_access_fault() -> None:
    for at in (0, 0x1000, RAM - 8, RAM + (4 << 20), 1 << 40, ONES - 7):
        assert Hart().set(a0=at).step("ld a1, 0(a0)") == denied(5, at)
        assert Hart().set(a0=at).step("sd a1, 0(a0)") == denied(7, at)
        assert Hart().set(a0=at).step("lr.d a1, (a0)") == denied(5, at)
        assert Hart().set(a0=at).step("amoadd.d a1, a1, (a0)") == denied(7, at)
    hart = Hart()
    for at in (0, 0x1000, RAM - 2, RAM + (4 << 20), 1 << 40):
        hart.set(pc=at, priv=M)
        assert hart.go() == Trap(1, at, at)


def test_an_error_of_the_bus_leaves_the_instruction_undone() -> None:
    class Broken(RecordingBus):
        def read(self, address: int, size: int) -> int:
            raise RuntimeError("the device broke")

    hart = Hart(bus=Broken()).set(a0=0x1000, a1=5)
    with pytest.raises(RuntimeError, match="the device broke"):
        hart.step("ld a1, 0(a0)")
    assert (hart.cpu.pc, hart.x("a1"), hart.cpu.instret) == (STEP, 5, 0)
    hart.load("addi a1, a1, 1", STEP)
    hart.cpu.run(1)
    assert hart.x("a1") == 6
