"""The guest side of vpod: one static C program (init and agent) and the warm Python runner.

Why it exists: the builder puts both into every root filesystem it makes; it gets them here. The program is compiled
when the package is built (``build.py``); what it does is described in ``agent.h``, file by file.

Example::

    rootfs.add("/sbin/vpod-agent", binary(), mode=0o755)
    rootfs.add("/usr/lib/vpod/runner.py", runner_source().encode())
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["binary", "runner_source"]

_HERE = Path(__file__).resolve().parent
_ELF_RISCV = 243  # e_machine, at byte 18


def binary() -> bytes:
    """The agent for riscv64. `RuntimeError` when it has not been built or is not a RISC-V program."""
    path = _HERE / "vpod-agent"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RuntimeError(f"{path} is missing; build it with: python {_HERE / 'build.py'}") from None
    if content[:5] != b"\x7fELF\x02" or content[18:20] != _ELF_RISCV.to_bytes(2, "little"):
        raise RuntimeError(f"{path} is no RISC-V program; build it again with: python {_HERE / 'build.py'}")
    return content


def runner_source() -> str:
    """The text of the Python runner, for ``/usr/lib/vpod/runner.py``."""
    return (_HERE / "runner.py").read_text(encoding="utf-8")
