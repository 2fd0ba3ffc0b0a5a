"""``python -m vpod`` is the command ``vpod``: for an interpreter whose scripts are not on the path."""

from __future__ import annotations

import sys

from vpod.cli import main

if __name__ == "__main__":
    sys.exit(main())
