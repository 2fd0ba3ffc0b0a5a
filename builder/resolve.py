"""Which Debian packages belong together: versions, relations, and a set that satisfies itself.

    >>> [package.name for package in resolve(Index([packages_text]), ["python3"])]
    ['libc6', ..., 'python3']

This is no apt: it starts from nothing, so there is nothing to upgrade or remove, and each unmet dependency takes its
first alternative that can be had (Debian Policy section 7.5 asks packages to list the preferred one first). That the
result holds together, conflicts included, is checked at the end.

Invariants: versions compare as Debian Policy section 5.6.12 says; relations parse as section 7.1 says; the result
does not depend on the order of the index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vpod.errors import BuildError, VerificationFailed

from . import deb822

_RELATION = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9+.-]*)(?::(?P<arch>[a-z0-9-]+))?"
    r"(?:\s*\(\s*(?P<operator><<|<=|=|>=|>>|<|>)\s*(?P<version>[A-Za-z0-9.+:~-]+)\s*\))?"
)
_MAX_VERSION = 256  # characters; the longest in Debian has some 60
_PRIORITIES = ("required", "important", "standard", "optional", "extra")


@lru_cache(maxsize=65536)
def version_key(version: str) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """A key that sorts as Debian versions do: epoch, upstream version, revision.

    >>> version_key("1.0~rc1") < version_key("1.0") < version_key("1.0+b1") < version_key("1:0")
    True
    """
    # Colons may stand in the upstream version, but only behind the one that ends an epoch: section 5.6.12.
    well_formed = re.fullmatch(r"[0-9]{1,9}:[A-Za-z0-9.+:~-]+|[A-Za-z0-9.+~-]+", version)
    if len(version) > _MAX_VERSION or not well_formed:
        raise VerificationFailed(f"{version[:60]!r} is no Debian version")
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return int(epoch), _part_key(upstream), _part_key(revision)


def _part_key(part: str) -> tuple[int, ...]:
    """Alternating runs of non-digits and digits; a run of non-digits ends in 0, `~` sorts before that."""
    key: list[int] = []
    for letters, digits in re.findall(r"([^0-9]*)([0-9]*)", part):
        key += [-1 if each == "~" else ord(each) + (0 if each.isalpha() else 256) for each in letters]
        key += [0, int(digits or "0")]
    return tuple(key)


@dataclass(frozen=True)
class Relation:
    """`name (operator version)`; the operator is empty where any version will do."""

    name: str
    operator: str = ""
    version: str = ""

    def holds(self, version: str) -> bool:
        """Whether `version` is one it asks for."""
        if not self.operator:
            return True
        left, right = version_key(version), version_key(self.version)
        if self.operator in ("<<", "<"):
            return left < right if self.operator == "<<" else left <= right  # `<` is the old spelling of `<=`
        if self.operator in (">>", ">"):
            return left > right if self.operator == ">>" else left >= right
        return {"=": left == right, "<=": left <= right, ">=": left >= right}[self.operator]

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


def parse_relations(text: str, where: str) -> list[tuple[Relation, ...]]:
    """`a (>= 1) | b, c` → [(a, b), (c,)]. Architecture qualifiers `:any` are dropped: there is one architecture."""
    groups: list[tuple[Relation, ...]] = []
    for group in text.replace("\n", " ").split(","):
        if not group.strip():
            continue
        alternatives = []
        for each in group.split("|"):
            match = _RELATION.fullmatch(each.strip())
            if match is None:
                raise VerificationFailed(f"{where}: {each.strip()[:60]!r} is no package relation")
            alternatives.append(Relation(match["name"], match["operator"] or "", match["version"] or ""))
        groups.append(tuple(alternatives))
    return groups


class Package:
    """One stanza of a Packages index."""

    def __init__(self, fields: dict[str, str]) -> None:
        try:
            self.name, self.version = fields["Package"], fields["Version"]
            self.filename, self.sha256 = fields["Filename"], fields["SHA256"]
            size = fields["Size"]
        except KeyError as error:
            raise VerificationFailed(f"a stanza of the package index lacks {error}") from error
        if not re.fullmatch(r"[0-9]{1,15}", size):
            raise VerificationFailed(f"the package index says that {self.name!r} has {size[:60]!r} bytes")
        self.size = int(size)
        self.fields = fields
        version_key(self.version)
        parts = self.filename.split("/")
        if self.filename.startswith("/") or ".." in parts or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise VerificationFailed(f"the package index has an impossible file name or digest for {self.name!r}")
        self.provides = {each[0].name: each[0].version for each in self._relations("Provides")}
        self.needs = self._relations("Pre-Depends") + self._relations("Depends")
        self.excludes = [each[0] for each in self._relations("Conflicts") + self._relations("Breaks")]

    def _relations(self, field: str) -> list[tuple[Relation, ...]]:
        return parse_relations(self.fields.get(field, ""), f"{self.name}: {field}")

    @property
    def priority(self) -> int:
        """0 for `required` … 4 for `extra`; unknown ones last."""
        priority = self.fields.get("Priority", "")
        return _PRIORITIES.index(priority) if priority in _PRIORITIES else len(_PRIORITIES)

    def satisfies(self, relation: Relation) -> bool:
        """By its own name, or by what it provides (versioned relations need versioned provides, section 7.5)."""
        if self.name == relation.name:
            return relation.holds(self.version)
        provided = self.provides.get(relation.name)
        return provided is not None and (not relation.operator or (provided != "" and relation.holds(provided)))

    def __repr__(self) -> str:
        return f"<{self.name} {self.version}>"


class Index:
    """The packages of an archive. Stanzas are parsed when asked for: there are some 66,000."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = list(texts)
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._providers: dict[str, set[str]] = {}
        self._known: dict[str, Package | None] = {}
        essential: set[str] = set()
        for number, text in enumerate(self._texts):
            name = ""
            for match in re.finditer(r"^(Package|Provides|Essential): *(.*)$", text, re.MULTILINE):
                if match[1] == "Package":
                    name = match[2]
                    self._places.setdefault(name, []).append((number, match.start()))
                elif match[1] == "Essential":
                    essential |= {name} if match[2] == "yes" else set()
                else:
                    for each in match[2].split(","):
                        self._providers.setdefault(each.split("(")[0].strip(), set()).add(name)
        self.essential: list[str] = sorted(essential)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, name: str) -> Package | None:
        """The newest version of a package; None if the archive has none."""
        if name not in self._known:
            found = [self._read(*place) for place in self._places.get(name, [])]
            self._known[name] = max(found, key=lambda package: version_key(package.version), default=None)
        return self._known[name]

    def _read(self, number: int, start: int) -> Package:
        text = self._texts[number]
        end = text.find("\n\n", start)
        return Package(deb822.parse(text[start : end if end >= 0 else len(text)], "the package index"))

    def candidates(self, relation: Relation) -> list[Package]:
        """Packages that satisfy a relation: the one of that name, then providers by priority and name."""
        own = self.get(relation.name)
        others = [self.get(name) for name in self._providers.get(relation.name, ())]
        ordered = sorted(
            (package for package in others if package is not None and package is not own),
            key=lambda package: (package.priority, package.name),
        )
        return [each for each in ([own] if own is not None else []) + ordered if each.satisfies(relation)]


def resolve(index: Index, wanted: Sequence[str]) -> list[Package]:
    """The packages named and all that they need, sorted by name.

    Raises `BuildError` naming the package and the relation that cannot be met, or the two that conflict.
    """
    chosen: dict[str, Package] = {}
    for name in wanted:
        found = index.candidates(Relation(name))
        if not found:
            raise BuildError(f"the archive has no package {name!r}; is it spelled right, and does riscv64 have it?")
        chosen[found[0].name] = found[0]
    queue = [chosen[name] for name in sorted(chosen)]
    while queue:
        package = queue.pop(0)
        for group in package.needs:
            if any(each.satisfies(relation) for relation in group for each in chosen.values()):
                continue
            pick = _pick(index, chosen, group)
            if pick is None:
                raise BuildError(f"{package.name} needs {' | '.join(map(str, group))}, which the archive cannot give")
            chosen[pick.name] = pick
            queue.append(pick)
    _check(chosen)
    return [chosen[name] for name in sorted(chosen)]


def _pick(index: Index, chosen: dict[str, Package], group: tuple[Relation, ...]) -> Package | None:
    """The first alternative that can be had and conflicts with nothing chosen so far."""
    for relation in group:
        for package in index.candidates(relation):
            if not any(_clash(package, other) or _clash(other, package) for other in chosen.values()):
                return package
    return None


def _clash(one: Package, other: Package) -> bool:
    """Whether `one` conflicts with or breaks `other`; a package never clashes with itself (section 7.4)."""
    return one.name != other.name and any(other.satisfies(relation) for relation in one.excludes)


def _check(chosen: dict[str, Package]) -> None:
    """Every relation of the finished set once more."""
    packages = list(chosen.values())
    for one in packages:
        for group in one.needs:
            if not any(each.satisfies(relation) for relation in group for each in packages):
                raise BuildError(f"{one.name} needs {' | '.join(map(str, group))}, which nothing chosen satisfies")
        for other in packages:
            if _clash(one, other):
                raise BuildError(f"{one.name} and {other.name} cannot be installed together; leave one of them out")
