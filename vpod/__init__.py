"""vpod: an untrusted process gets an instant Linux machine, emulated in this one.

>>> from vpod import Sandbox                                        # doctest: +SKIP
>>> with Sandbox.create() as box:                                   # doctest: +SKIP
...     print(box.commands.run("uname -m").stdout)
riscv64

Names are imported when first used, so that a worker, which needs only the core and the board, starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
