"""The command ``vpod`` with `fake_worker` in the worker's place: ``python tests/fake_vpod.py run -- true``."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.sandboxes import FAKE_WORKER, Cached
from vpod import cli, link, snapshots, template

if __name__ == "__main__":
    mode = os.environ.get("FAKE_MODE", "honest")
    cached = Cached({"name": "fake", "tag": "1"}, b"state", os.devnull)
    template.possible = lambda: False
    link.worker_command = lambda: [sys.executable, FAKE_WORKER, mode]
    snapshots.default = lambda progress=None, quiet=False: cached  # type: ignore[assignment, misc, return-value]
    sys.exit(cli.main())
