"""Packages of Alpine's package site, verified and laid out on the host as apk would install them.

Trust: `APKINDEX.tar.gz` is two gzip members; the first holds an RSA signature of the second's bytes, made with a key of
the root filesystem's own `/etc/apk/keys`. The index has, for each package, the SHA-1 of its control member (`C:Q1…`);
the control member's `.PKGINFO` has the SHA-256 of the data member (`datahash`). Nothing is used before its link holds.

    >>> add(tree, ["python3", "py3-pip"], fetcher)
    ['gdbm 1.26-r0', …, 'python3 3.12.12-r0']

The site is `--mirror`, else what the root filesystem's own `/etc/apk/repositories` names. Install
scripts are run by the booted machine, once, in the order of the packages; they are not recorded for a later removal.
Sources: Alpine wiki "Apk spec"; apk-package(5).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from vpod.errors import BuildError, VerificationFailed

from .inflate import gzip_members
from .rsa import PublicKey
from .sources import Fetcher
from .tar import Entry, Kind, entries
from .tree import Tree

ARCHITECTURE = "riscv64"
KEYS = "/etc/apk/keys"
SCRIPTS = "/var/lib/vpod"
CONFIGURE = f"{SCRIPTS}/configure"
MAX_INDEX = 64 << 20
MAX_PACKAGE = 1 << 30

_ORDER = ("pre-install", "post-install", "trigger")


@dataclass(frozen=True)
class Apk:
    """One stanza of an index: its fields by letter (`P` name, `V` version, `D` depends, `p` provides), and its site."""

    fields: dict[str, str]
    site: str

    @property
    def name(self) -> str:
        return self.fields["P"]

    @property
    def version(self) -> str:
        return self.fields["V"]

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.apk"

    @property
    def provides(self) -> list[str]:
        """Its own name and every name it stands in for, without versions."""
        return [self.name, *(_plain(each) for each in self.fields.get("p", "").split())]

    @property
    def priority(self) -> int:
        """Among those that provide a name. `VerificationFailed` for what is no number."""
        text = self.fields.get("k", "0")
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise VerificationFailed(f"{self.name}: {text[:60]!r} is no provider priority")
        return int(text)

    @property
    def control_digest(self) -> bytes:
        """The SHA-1 of its control member. `VerificationFailed` for what is none."""
        text = self.fields["C"]
        if not re.fullmatch(r"Q1[A-Za-z0-9+/]{27}=", text):
            raise VerificationFailed(f"{self.name}: {text[:60]!r} is no SHA-1 digest of a package")
        return base64.b64decode(text[2:])

    @property
    def needs(self) -> list[str]:
        """What it depends on, as written: `so:libz.so.1`, `musl>=1.2`, `!other`."""
        return self.fields.get("D", "").split()


def repositories(tree: Tree, mirror: str | None) -> list[str]:
    """The URLs of `main` and `community`: under `mirror` (a folder with `v3.23/` in it), or the tree's own."""
    named = tree.read("/etc/apk/repositories").decode("utf-8", "replace").split()
    urls = [line.rstrip("/") for line in named if re.fullmatch(r"(https?|file)://\S+", line)]
    if mirror is not None:
        tails = ["/".join(url.rsplit("/", 2)[1:]) for url in urls]
        urls = [f"{mirror.rstrip('/')}/{tail}" for tail in tails]
    if not urls:
        raise BuildError("the root filesystem names no package site in /etc/apk/repositories; pass --mirror URL")
    return urls


def reachable(fetcher: Fetcher, tree: Tree, *, mirror: str | None = None) -> str:
    """The first package site of a root filesystem, once its index was fetched and verified. Raises `SourceError`."""
    site = repositories(tree, mirror)[0]
    _index(tree, fetcher, site)
    return site


def add(tree: Tree, names: Sequence[str], fetcher: Fetcher, *, mirror: str | None = None) -> tuple[list[str], str]:
    """Install packages and what they need into `tree`.

    Gives `name version` of each, and the path of a script that the booted machine has to run (empty if none). Raises
    `SourceError` when the site cannot be reached or does not verify, `BuildError` for what it does not have.
    """
    available: list[Apk] = []
    for site in repositories(tree, mirror):
        available += _index(tree, fetcher, site)
    installed = _installed(tree)
    chosen = resolve(available, installed, names)
    scripts: list[str] = []
    with fetcher.report.step("Adding packages", total=len(chosen)) as bar:
        for number, package in enumerate(chosen):
            bar.note(package.name)
            scripts += _install(tree, package, fetcher, number)
            bar.advance(1)
        bar.done(f"Added {len(chosen)} packages: {' '.join(package.name for package in chosen)}")
    world = set(tree.read("/etc/apk/world").decode(errors="surrogateescape").split()) | set(names)
    tree.file("/etc/apk/world", "".join(f"{name}\n" for name in sorted(world)).encode(errors="surrogateescape"))
    if scripts:
        head = "#!/bin/sh\n# Runs the install scripts of packages that vpod-build laid out. Deletes itself.\nset -e\n"
        tree.file(CONFIGURE, (head + "\n".join([*scripts, f"rm -rf {SCRIPTS}", ""])).encode(), 0o755)
    return [f"{package.name} {package.version}" for package in chosen], CONFIGURE if scripts else ""


def resolve(available: Sequence[Apk], installed: Iterable[str], names: Sequence[str]) -> list[Apk]:
    """The packages to install, each after what it needs, sorted otherwise by need.

    A release's index holds one version of each package, made to fit the others, so names decide and versions do not.
    Of several that provide a name, the one with the highest provider priority (`k`) is taken, then the first by name.
    """
    have = set(installed)  # every name that is provided by now
    providers: dict[str, list[Apk]] = {}
    for package in available:
        for name in package.provides:
            providers.setdefault(name, []).append(package)
    unfinished: list[tuple[Apk, Iterator[str]]] = []  # packages taken, and what they need that was not looked at yet
    order: list[Apk] = []

    def take(wanted: str, asked_by: str) -> None:
        name = _plain(wanted)
        if name in have:
            return
        found = min(
            providers.get(name, []), key=lambda each: (each.name != name, -each.priority, each.name), default=None
        )
        if found is None:
            raise BuildError(f"{asked_by} needs {wanted}, which Alpine's package site does not have for {ARCHITECTURE}")
        have.update(found.provides)
        unfinished.append((found, iter(found.needs)))

    for name in names:
        take(name, "this build")
        while unfinished:  # not recursion: a chain of needs may be longer than Python's stack is deep
            package, needs = unfinished[-1]
            need = next(needs, None)
            if need is None:
                order.append(package)
                unfinished.pop()
            elif not need.startswith("!"):
                take(need, package.name)
    for package in order:
        for need in package.needs:
            if need.startswith("!") and any(_plain(need[1:]) in other.provides for other in order if other != package):
                raise BuildError(f"{package.name} cannot be installed together with {_plain(need[1:])}")
    return order


def _plain(relation: str) -> str:
    """`so:libz.so.1>=2` → `so:libz.so.1`."""
    return re.split(r"[<>=~]", relation.lstrip("!"), maxsplit=1)[0]


def _installed(tree: Tree) -> set[str]:
    """Every name that the packages already there provide, and the paths that packages may depend on."""
    names = {"/bin/sh"}
    for stanza in _stanzas(tree.read(_database(tree)).decode("utf-8", "replace")):
        names |= {stanza.get("P", ""), *(_plain(each) for each in stanza.get("p", "").split())}
    return names - {""}


def _database(tree: Tree) -> str:
    for path in ("/lib/apk/db/installed", "/usr/lib/apk/db/installed"):
        if path in tree:
            return path
    raise BuildError("packages can only be added to an Alpine root filesystem: this one has no apk database")


def _stanzas(text: str) -> Iterable[dict[str, str]]:
    """Paragraphs of `X:value` lines; of lines that repeat (files) the last stays, nobody here asks for them."""
    for paragraph in text.split("\n\n"):
        fields = {line[0]: line[2:] for line in paragraph.split("\n") if line[1:2] == ":"}
        if fields:
            yield fields


def _index(tree: Tree, fetcher: Fetcher, site: str) -> list[Apk]:
    """A site's packages, once its index's signature was found good."""
    url = f"{site}/{ARCHITECTURE}/APKINDEX.tar.gz"
    content: list[bytes] = []

    def check(data: bytes) -> None:
        members = list(gzip_members(data, limit=MAX_INDEX, name=url))
        if len(members) != 2:
            raise VerificationFailed(f"{url}: {len(members)} gzip members instead of a signature and an index")
        _verify(tree, members[0][1], members[1][0], url)
        content.append(members[1][1])

    fetcher.fetch_proved("APKINDEX.tar.gz", [url], check, MAX_INDEX)
    found = [entry for entry in entries(content[0], name=url) if entry.path == "APKINDEX"]
    if len(found) != 1:
        raise VerificationFailed(f"{url}: has no APKINDEX")
    stanzas = _stanzas(bytes(found[0].data).decode("utf-8", "replace"))
    packages = [Apk(fields, site) for fields in stanzas if {"P", "V", "C"} <= fields.keys()]
    for package in packages:
        if not re.fullmatch(r"[A-Za-z0-9._+-]+", package.name + package.version) or package.name.startswith("."):
            raise VerificationFailed(f"{url}: {package.name[:60]!r} is no name of a package")
    return packages


def _verify(tree: Tree, signature: bytes, signed: bytes, name: str) -> None:
    """One signature over `signed` must be good under the key of its name in the root filesystem."""
    for entry in entries(signature, name=name, cut=True):
        match = re.fullmatch(r"\.SIGN\.(RSA|RSA256)\.([A-Za-z0-9@._-]+\.rsa\.pub)", entry.path)
        if match is None or f"{KEYS}/{match[2]}" not in tree:
            continue
        key = PublicKey.from_pem(tree.read(f"{KEYS}/{match[2]}"), name=match[2])
        if key.verifies(bytes(entry.data), signed, "sha1" if match[1] == "RSA" else "sha256"):
            return
        raise VerificationFailed(f"{name}: its signature by {match[2]} is wrong; use another mirror")
    raise VerificationFailed(f"{name}: not signed by a key of the root filesystem ({KEYS}); use another mirror")


def _install(tree: Tree, package: Apk, fetcher: Fetcher, number: int) -> list[str]:
    """Fetch, verify and lay out one package; gives the commands that run its install scripts."""
    url = f"{package.site}/{ARCHITECTURE}/{quote(package.file, safe='+~')}"
    data = _fetch(fetcher, package, url, package.control_digest)
    members = list(gzip_members(data, limit=MAX_PACKAGE, name=package.file))
    control = list(entries(members[-2][1], name=package.file, cut=True))
    paths = _lay_out(tree, package, entries(members[-1][1], name=package.file))
    database = _database(tree)
    fields = "".join(f"{key}:{value}\n" for key, value in package.fields.items())
    stanza = (fields + paths + "\n").encode(errors="surrogateescape")
    tree.file(database, tree.read(database).rstrip(b"\n") + b"\n\n" + stanza)
    commands = []
    for kind in _ORDER:
        for entry in control:
            if entry.path == f".{kind}" and entry.kind is Kind.FILE:
                path = f"{SCRIPTS}/{number:03}.{kind}"
                tree.file(path, bytes(entry.data), 0o755)
                commands.append(f"{path} {package.version} </dev/null")
    return commands


def _fetch(fetcher: Fetcher, package: Apk, url: str, control_digest: bytes) -> bytes:
    """A package's bytes: its control member is the index's, its data member the control member's."""

    def check(data: bytes) -> None:
        members = list(gzip_members(data, limit=MAX_PACKAGE, name=package.file))
        if len(members) not in (2, 3) or hashlib.sha1(members[-2][0]).digest() != control_digest:
            raise VerificationFailed(f"{package.file}: is not the package of the signed index; use another mirror")
        info = [entry for entry in entries(members[-2][1], name=package.file, cut=True) if entry.path == ".PKGINFO"]
        match = re.search(rb"^datahash = ([0-9a-f]{64})$", bytes(info[0].data) if info else b"", re.MULTILINE)
        if match is None or hashlib.sha256(members[-1][0]).hexdigest().encode() != match[1]:
            raise VerificationFailed(f"{package.file}: its contents are not the signed ones; use another mirror")

    return fetcher.fetch_proved(package.file, [url], check, MAX_PACKAGE, fixed=True)


def _lay_out(tree: Tree, package: Apk, members: Iterable[Entry]) -> str:
    """A package's files into the tree; gives their lines for apk's database (`F` folder, `R` file, `Z` digest)."""
    folders: dict[str, list[str]] = {}
    modes: dict[str, str] = {}
    kept = []
    for entry in members:
        if entry.kind is Kind.DIRECTORY:
            folders.setdefault(entry.path, [])
            if (entry.uid, entry.gid, entry.mode) != (0, 0, 0o755):
                modes[entry.path] = f"M:{entry.uid}:{entry.gid}:{entry.mode:o}\n"
        else:
            parent, _, name = entry.path.rpartition("/")
            is_link = entry.kind is Kind.SYMLINK
            content = entry.target.encode(errors="surrogateescape") if is_link else bytes(entry.data)
            text = f"R:{name}\n"
            if (entry.uid, entry.gid, entry.mode) not in ((0, 0, 0o644), (0, 0, 0o777)):
                text += f"a:{entry.uid}:{entry.gid}:{entry.mode:o}\n"
            given = entry.pax.get("APK-TOOLS.checksum.SHA1", "")
            if not re.fullmatch(r"([0-9a-fA-F]{40})?", given):
                raise VerificationFailed(f"{package.file}: {given[:60]!r} is no SHA-1 digest of a file")
            digest = bytes.fromhex(given) or hashlib.sha1(content).digest()
            folders.setdefault(parent, []).append(f"{text}Z:Q1{base64.b64encode(digest).decode()}\n")
        kept.append(entry)
    tree.unpack(kept, name=package.file)
    return "".join(f"F:{path}\n{modes.get(path, '')}{''.join(folders[path])}" for path in sorted(folders) if path)
