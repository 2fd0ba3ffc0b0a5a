"""The host's kernel: see _host.pyx."""

from typing import Final

CAN_CLONE_SIBLINGS: Final[bool]

def clone_sibling() -> int: ...
