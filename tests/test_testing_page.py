"""docs/testing.md names tests: every one of them exists in the file that it is said to be in.

In a table's cell a backticked `test_x.py` says where the names behind it are; the section's own file is the default.

    | nested traps | `test_core_traps_rules.py`: `test_three_levels_down_and_up` |
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "testing.md").read_text()
DEFAULTS = {"Pitfalls": "test_core_pitfalls.py", "Privileged architecture": ""}


def named(section: str) -> list[tuple[str, str]]:
    """(file, test) for each test that the tables of a section name, in order."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = []
    for row in (line for line in text.splitlines() if line.startswith("|")):
        file = DEFAULTS[section]
        for name in re.findall(r"`(test_\w+(?:\.py)?)`", row):
            if name.endswith(".py"):
                file = name
            else:
                found.append((file, name))
    return found


@pytest.mark.parametrize("section", DEFAULTS)
def test_every_test_that_is_named_exists(section: str) -> None:
    tests = named(section)
    assert len(tests) > 20
    missing = []
    for file, name in tests:
        functions = {node.name for node in ast.walk(ast.parse((HERE / file).read_text())) if hasattr(node, "name")}
        if name not in functions:
            missing.append(f"{file}: {name}")
    assert not missing
