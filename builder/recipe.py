"""Recipes: what a snapshot is made of, each a short TOML file in `recipes/`.

A recipe names the snapshot (`name`, `tags`; the first tag is its own, the others are aliases), the machine
(`memory`, `kernel`: a file of `kernels/`) and one source of the root filesystem:

    [rootfs]   a tarball with a pinned SHA-512, at `urls` (folders; the file's name is appended)
    [debian]   a suite, components and packages of the Debian archive; which mirror is the host's business
    [apk]      packages of Alpine's package site, on top of the recipe named by `based_on`

and, if it has Python, `[warm]`: `modules` that the waiting runner has imported, and command
lines (`runs`) whose first, slow run is not left to the user. Example: `recipes/debian-13.toml`.

    >>> find("alpine:3.23").key
    'alpine-3.23'

Invariants: a loaded recipe was checked field by field; an unknown key is an error, so that a spelling mistake
does not silently build something else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vpod.errors import BuildError, SnapshotNotFound

from .sources import Digest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent / "recipes"
MIN_MEMORY, MAX_MEMORY = 64 << 20, 4 << 30


@dataclass(frozen=True)
class Tarball:
    """A released root filesystem: its file name, the folders that have it, its digest."""

    file: str
    urls: tuple[str, ...]
    digest: Digest


@dataclass(frozen=True)
class DebianSet:
    """Packages of one Debian suite, and the paths (shell patterns) left out of them."""

    suite: str
    components: tuple[str, ...]
    packages: tuple[str, ...]
    leave_out: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One recipe, checked. `memory` is in bytes; `key` is the file's name without `.toml`."""

    key: str
    name: str
    tags: tuple[str, ...]
    summary: str
    memory: int
    kernel: str
    rootfs: Tarball | None = None
    debian: DebianSet | None = None
    apk: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    warm_runs: tuple[str, ...] = ()
    text: str = field(default="", repr=False)

    @property
    def reference(self) -> str:
        """`NAME:TAG`, as `vpod run -s` takes it."""
        return f"{self.name}:{self.tags[0]}"

    @property
    def has_python(self) -> bool:
        """Whether `code.run` works in what it makes."""
        return bool(self.warm)


def parse_size(text: str) -> int:
    """`256M` → bytes. Binary multiples `K`, `M`, `G`; `BuildError` for anything that is no size."""
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise BuildError(f"{text!r} is no size; write for example 512M or 1G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def memory_size(text: str) -> int:
    """A machine's memory in bytes: whole megabytes from 64 MiB to 4 GiB; `BuildError` otherwise."""
    number = parse_size(text)
    if not MIN_MEMORY <= number <= MAX_MEMORY or number % (1 << 20):
        raise BuildError(f"memory of {text}: a machine has 64M to 4G, in whole megabytes")
    return number


def catalog(folder: Path = FOLDER) -> list[Recipe]:
    """Every recipe that comes with vpod, sorted by name, newest tag first."""
    recipes = [load(path) for path in folder.glob("*.toml")]
    return sorted(recipes, key=lambda recipe: (recipe.name, [-number for number in _numbers(recipe.tags[0])]))


def find(reference: str, folder: Path = FOLDER) -> Recipe:
    """The recipe called `alpine-3.23`, `alpine:3.23` or just `alpine` (its `latest`), or a path to a `.toml` file.

    Raises `SnapshotNotFound` naming those there are.
    """
    if reference.endswith(".toml"):
        if not Path(reference).is_file():
            raise SnapshotNotFound(f"{reference}: there is no such recipe file")
        return load(Path(reference))
    recipes = catalog(folder)
    name, _, tag = reference.partition(":")
    for recipe in recipes:
        if reference == recipe.key or (name == recipe.name and (tag or "latest") in recipe.tags):
            return recipe
    known = ", ".join(recipe.key for recipe in recipes)
    raise SnapshotNotFound(f"there is no recipe {reference!r}; those that come with vpod are: {known}")


def load(path: Path, above: tuple[Path, ...] = ()) -> Recipe:
    """Read and check one recipe. Raises `BuildError` naming the file and the field.

    `above` are the recipes that are based on it, so that none is based on itself.
    """
    if path in above:
        raise BuildError(f"{path.name}: is based on itself")
    table, text = read_toml(path)
    reader = Reader(table, path.name)
    recipe = Recipe(
        key=path.stem,
        name=reader.word("name"),
        tags=reader.words("tags"),
        summary=reader.text("summary"),
        memory=memory_size(reader.text("memory")),
        kernel=reader.word("kernel"),
        text=text,
    )
    if "based_on" in table:
        base = load(path.with_name(reader.word("based_on") + ".toml"), (*above, path))
        recipe = replace(recipe, rootfs=base.rootfs, debian=base.debian)
    if (part := reader.part("rootfs")) is not None:
        digest = Digest("sha512", part.text("sha512"))
        recipe = replace(recipe, rootfs=Tarball(part.word("file"), part.texts("urls"), digest))
        part.end()
    if (part := reader.part("debian")) is not None:
        chosen = DebianSet(
            part.word("suite"), part.words("components"), part.words("packages"),
            part.texts("leave_out"), part.texts("keep"),
        )  # fmt: skip
        recipe = replace(recipe, debian=chosen)
        part.end()
    if (part := reader.part("apk")) is not None:
        recipe = replace(recipe, apk=part.words("packages"))
        part.end()
    if (part := reader.part("warm")) is not None:
        recipe = replace(recipe, warm=part.words("modules"), warm_runs=part.texts("runs"))
        part.end()
    reader.end()
    if not recipe.tags or (recipe.rootfs is None) == (recipe.debian is None):
        raise BuildError(f"{path.name}: a recipe has at least one tag and either [rootfs] or [debian]")
    return recipe


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """A TOML file as a table and as text; `BuildError` naming the file if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except (OSError, ValueError, RecursionError) as error:  # TOML's and UTF-8's errors are ValueErrors, as others are
        raise BuildError(f"{path}: not readable as TOML: {error}") from error


class Reader:
    """Takes fields out of a TOML table, checking each, and complains about what nobody took."""

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self._table = dict(table)
        self._where = where

    def text(self, key: str) -> str:
        value = self._table.pop(key, None)
        if not isinstance(value, str) or not value:
            raise BuildError(f"{self._where}: {key} must be a text, and is {_shown(value)}")
        return value

    def word(self, key: str) -> str:
        """A text that is one plain word: it may become part of a file's name or a command."""
        return self._plain(key, self.text(key))

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._table.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
            raise BuildError(f"{self._where}: {key} must be a list of texts, and is {_shown(value)}")
        return tuple(value)

    def words(self, key: str) -> tuple[str, ...]:
        return tuple(self._plain(key, each) for each in self.texts(key))

    def part(self, key: str) -> Reader | None:
        value = self._table.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BuildError(f"{self._where}: {key} must be a section, and is {_shown(value)}")
        return Reader(value, f"{self._where} [{key}]")

    def end(self) -> None:
        if self._table:
            raise BuildError(f"{self._where}: unknown {', '.join(sorted(self._table))}")

    def _plain(self, key: str, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", value):
            raise BuildError(f"{self._where}: {key} must be a plain word, and is {value!r}")
        return value


def _shown(value: object) -> str:
    """For a message: a hexadecimal number of a TOML file may have more digits than Python writes in decimal."""
    try:
        return repr(value)[:200]
    except (ValueError, RecursionError):
        return "what cannot even be shown"


def _numbers(tag: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", tag)]
