"""Imports go one way (docs/architecture.md): whoever is lower knows nothing of who is higher."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each layer and what it holds; a module may import from its own layer and those above it in this list.
LAYERS = [
    {"errors", "paths", "tier", "_host", "confine"},
    {"isa", "isagen", "disasm", "_cpu", "_fpu"},
    {"bus", "fdt", "elf"},
    {"devices"},
    {"boot", "machine", "bare"},
    {"protocol", "wire", "snapshot"},
    {"worker"},
]
HIGHER = {
    "snapshots", "registry", "link", "template", "exchange", "client", "sandbox", "commands", "code", "terminal",
    "doctor", "cli",
}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> set[str]:
    """Dotted names of the vpod and vpod_builder modules that a file imports when it runs, wherever in it."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("vpod", "vpod_builder")}


def parts(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("path", sorted((ROOT / "vpod").rglob("*.py")), ids=lambda path: path.stem)
def test_vpod_never_imports_the_builder(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith("vpod_builder")]


@pytest.mark.parametrize("path", sorted((ROOT / "vpod").rglob("*.py")), ids=lambda path: path.stem)
def test_lower_layers_import_nothing_higher(path: Path) -> None:
    module = path.relative_to(ROOT / "vpod").parts[0].removesuffix(".py")
    if module not in RANK:
        return
    for name in imports(path):
        if parts(name):
            assert parts(name) not in HIGHER, f"{module} imports {name}"
            if parts(name) in RANK:
                assert RANK[parts(name)] <= RANK[module], f"{module} imports {name}, which is higher"


@pytest.mark.parametrize("path", sorted((ROOT / "vpod" / "devices").rglob("*.py")), ids=lambda path: path.stem)
def test_devices_never_see_the_machine(path: Path) -> None:
    for name in imports(path):
        assert parts(name) not in ("machine", "_cpu"), f"{path.name} imports {name}"


@pytest.mark.parametrize("module", ["isa", "isagen", "disasm", "bus", "fdt", "elf", "machine", "worker"])
def test_isa_core_and_board_need_only_the_standard_library(module: str) -> None:
    text = (ROOT / "vpod" / f"{module}.py").read_text()
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        for name in names:
            assert name.split(".")[0] not in ("zstandard", "rich", "pysequoia"), f"{module} imports {name}"
