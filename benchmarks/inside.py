"""vpod's machine in a process of its own: ``python -m benchmarks.inside FOLDER MEMORY SECONDS NAME...``.

Why it exists: whether guest code is translated is settled by the environment of a process (`VPOD_JIT`), and one run
compares both ways. So each run of vpod has its own process, as QEMU has; `engines.run_vpod` starts it.

It boots the guest of FOLDER (`Guest`) with MEMORY bytes, lets it run for SECONDS at most, and prints one line of JSON
when it has ended: `ended`, the reason; `done`, whether the script came to its end; `console`, the last that was heard;
`samples`, those of the programs named; `translator`, what it counts, or null where nothing translates.

    python -m benchmarks.inside /tmp/guest 536870912 900 crc sh
    {"ended": "poweroff", "done": true, "console": "…", "samples": {"crc": {"name": "crc", "seconds": 1.07, …
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.guest import COMMAND_LINE, Guest
from benchmarks.listener import Listener, Meters
from vpod.machine import Machine


def run(guest: Guest, names: Sequence[str], seconds: float) -> dict[str, object]:
    """Boot the guest and listen to it until its end; what the module's docstring says."""
    machine = Machine(guest.memory)
    heard = Listener(names, lambda: Meters(time.monotonic(), time.process_time(), machine.cpu.instret))
    machine.uart.output = heard.feed
    machine.load(guest.firmware.read_bytes(), guest.kernel.read_bytes(), guest.initrd.read_bytes(), COMMAND_LINE)
    event = machine.run(seconds=seconds)
    return {
        "ended": machine.stopped or event.value,
        "done": heard.done,
        "console": heard.text(),
        "samples": {name: vars(sample) for name, sample in heard.samples.items()},
        "translator": getattr(machine.cpu, "translator", None),
    }


def main(arguments: Sequence[str]) -> int:
    """The process; its exit code."""
    folder, memory, seconds, *names = arguments
    print(json.dumps(run(Guest(Path(folder), int(memory), ""), names, float(seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
