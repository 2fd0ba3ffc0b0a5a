"""The linter and the type checker run as tests; what they check is set in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def check(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    check("ruff", "check", "--no-cache", "--output-format", "concise", ".")


def test_mypy() -> None:
    check("mypy", "--no-error-summary", "vpod", "builder")
