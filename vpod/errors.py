"""Every exception that vpod raises on purpose.

    VpodError
    ├── SandboxError              something about one running sandbox
    │   ├── SandboxClosed         it was closed, or its worker has gone
    │   ├── GuestStopped          the guest powered off, rebooted or panicked
    │   ├── WorkerDied            the worker process ended without saying why
    │   ├── AgentError            the guest's agent refused or broke the protocol
    │   ├── UnknownUser           a command names a user the guest does not have
    │   └── PythonNotAvailable    code.run in a snapshot without Python
    ├── SnapshotError             something about a snapshot file
    │   ├── SnapshotDamaged       truncated, altered, or not a snapshot at all
    │   └── SnapshotTooNew        written by a newer vpod
    ├── SnapshotNotFound          no snapshot or recipe has that name
    ├── RegistryError             the catalogue could not be read or does not hold together
    ├── SourceError               something a recipe needs could not be had
    │   ├── SourceUnreachable     no place that was tried has it; lists them all
    │   └── VerificationFailed    it came, but its digest or signature is wrong
    ├── BuildError                a step of a build failed
    ├── SettingError              an argument or environment variable has a value that can't be (also a ValueError)
    └── ProgramError              a bare-metal program can't be loaded, or broke the host interface

A message says what was wrong, with which input, and what to do about it.
"""

from __future__ import annotations


class VpodError(Exception):
    """The root of the tree: ``except VpodError`` catches whatever vpod raises on purpose."""


class SandboxError(VpodError):
    """Something about one running sandbox."""


class SandboxClosed(SandboxError):
    """The sandbox was closed, or its worker has gone."""


class GuestStopped(SandboxError):
    """The guest powered off, rebooted or panicked; the message says which."""


class WorkerDied(SandboxError):
    """The worker process ended without saying why."""


class AgentError(SandboxError):
    """The guest's agent refused a request or broke the protocol."""


class UnknownUser(SandboxError):
    """A command names a user that the guest does not have."""


class PythonNotAvailable(SandboxError):
    """``code.run`` in a snapshot without Python; the message names the snapshots that have it."""


class SnapshotError(VpodError):
    """Something about a snapshot file."""


class SnapshotDamaged(SnapshotError):
    """The file is truncated, altered, or not a snapshot at all."""


class SnapshotTooNew(SnapshotError):
    """The file was written by a newer vpod."""


class SnapshotNotFound(VpodError):
    """No snapshot or recipe has that name."""


class RegistryError(VpodError):
    """The registry's catalogue could not be read, or does not hold together."""


class SourceError(VpodError):
    """Something that a recipe needs could not be had."""


class SourceUnreachable(SourceError):
    """No place that was tried has it; the message lists them all."""


class VerificationFailed(SourceError):
    """It came, but its digest or signature is wrong; nothing was kept."""


class BuildError(VpodError):
    """A step of a build failed."""


class SettingError(VpodError, ValueError):
    """An argument or an environment variable has a value that can't be; the message names it and what can."""


class ProgramError(VpodError, ValueError):
    """A bare-metal program can't be loaded, or broke the host interface; the message says where."""
