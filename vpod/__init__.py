"""vpod: an untrusted process gets an instant Linux machine, emulated in this one.

>>> from vpod import Sandbox                                        # doctest: +SKIP
>>> with Sandbox.create() as box:                                   # doctest: +SKIP
...     print(box.commands.run("uname -m").stdout)
riscv64

Names are imported when first used, so that a worker, which needs only the core and the board, starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpod import snapshots as snapshots
    from vpod.code import CodeResult
    from vpod.commands import CommandResult
    from vpod.errors import (
        AgentError,
        BuildError,
        GuestStopped,
        PythonNotAvailable,
        RegistryError,
        SandboxClosed,
        SandboxError,
        SnapshotDamaged,
        SnapshotError,
        SnapshotNotFound,
        SnapshotTooNew,
        SourceError,
        SourceUnreachable,
        UnknownUser,
        VerificationFailed,
        VpodError,
        WorkerDied,
    )
    from vpod.sandbox import Sandbox

__version__ = "0.1.0"

__all__ = [
    "AgentError",
    "BuildError",
    "CodeResult",
    "CommandResult",
    "GuestStopped",
    "PythonNotAvailable",
    "RegistryError",
    "Sandbox",
    "SandboxClosed",
    "SandboxError",
    "SnapshotDamaged",
    "SnapshotError",
    "SnapshotNotFound",
    "SnapshotTooNew",
    "SourceError",
    "SourceUnreachable",
    "UnknownUser",
    "VerificationFailed",
    "VpodError",
    "WorkerDied",
    "__version__",
    "snapshots",
]

_HOMES = {"CodeResult": "vpod.code", "CommandResult": "vpod.commands", "Sandbox": "vpod.sandbox"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vpod' has no attribute {name!r}")
    from importlib import import_module

    if name == "snapshots":
        return import_module("vpod.snapshots")
    value = getattr(import_module(_HOMES.get(name, "vpod.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
