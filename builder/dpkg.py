"""Debian packages laid out as if dpkg had just unpacked them, and the script that lets dpkg configure them.

`dpkg --unpack` of 140 packages would take the emulated machine minutes; the host does it in seconds. So the host writes
what unpacking leaves behind (dpkg(1), "unpacked"; deb-control(5) and the files of `/var/lib/dpkg`), and the guest does
only what needs the guest: running the maintainer scripts, in dpkg's own order.

    >>> database = Database(tree)
    >>> for deb in debs: database.unpack(deb)
    >>> database.finish()                                   # writes /var/lib/dpkg and CONFIGURE

Left out of the guest's work, by putting do-nothing files in their place until configuration is over: byte-compiling
the standard library (Python compiles what is imported, once), enabling units of a service manager that is not there,
and the certificate store (`certificates.py` makes it on the host).

Invariants: after CONFIGURE has run `dpkg --audit` is silent, every package is `ii`, and of this file's doing is left
only `policy-rc.d` (there is no service manager), `dpkg.cfg.d/vpod` (what is left out) and `pip.conf`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vpod.errors import BuildError

from . import certificates, deb822
from .deb import Deb
from .tree import Tree

INFO = "/var/lib/dpkg/info"
CONFIGURE = "/var/lib/vpod/configure"
_KEPT_SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
_ASIDE = ".vpod-aside"

_CONFIGURE = """\
#!/bin/sh
# Brings packages that vpod-build unpacked from "unpacked" to "installed". Deletes itself when done.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DPKG_MAINTSCRIPT_ARCH=riscv64
cd /
for script in {preinsts}; do
    package=${{script##*/}}; package=${{package%.preinst}}
    DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=${{package%%:*}} "$script" install </dev/null
done
dpkg --configure --force-unsafe-io -a </dev/null
dpkg --triggers-only --force-unsafe-io -a </dev/null
for file in {aside}; do mv "$file{suffix}" "$file"; done
{rehash}
[ ! -x /sbin/depmod ] || depmod -a
rm -rf /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log
dpkg --audit
rm -rf /var/lib/vpod
"""

_POLICY = b"#!/bin/sh\n# A vpod machine has no service manager: package scripts start nothing.\nexit 101\n"
_STUB = b"#!/bin/sh\nexit 0\n"
_STUB_PYTHON = b"# stands in for the compiler while packages are configured\n"
_PIP = b"""\
# The whole machine is the sandbox: pip may install beside Debian's own packages.
[global]
break-system-packages = true
"""


class Database:
    """dpkg's database in the making, beside the files themselves."""

    def __init__(self, tree: Tree, *, leave_out: Sequence[str] = (), keep: Sequence[str] = ()) -> None:
        self._tree = tree
        self._leave_out = tuple(leave_out)
        self._keep = tuple(keep)
        self._stanzas: list[str] = []
        self._file_triggers: list[str] = []
        self._named_triggers: dict[str, list[str]] = {}
        self._preinsts: list[str] = []

    def unpack(self, deb: Deb) -> None:
        """Put a package's files into the tree and its record into the database."""
        paths = self._tree.unpack(deb.members(), name=deb.name, skip=self._leave_out, keep=self._keep)
        stem = deb.package
        if deb.control.get("Multi-Arch") == "same":
            stem += ":" + deb.control.get("Architecture", "")
        base = f"{INFO}/{stem}"
        self._tree.file(base + ".list", "".join(path + "\n" for path in paths).encode("utf-8", "surrogateescape"))
        for name, (data, mode) in deb.files.items():
            if name != "control" and "/" not in name:
                self._tree.file(f"{base}.{name}", data, 0o755 if name in (*_KEPT_SCRIPTS, "config") else mode & 0o644)
        if "preinst" in deb.files:
            self._preinsts.append(base + ".preinst")
        self._stanzas.append(self._stanza(deb))
        self._note_triggers(deb, stem)

    def _stanza(self, deb: Deb) -> str:
        """The package's paragraph in `status`: its control fields, its state, its conffiles with their MD5."""
        fields = {"Package": deb.package, "Status": "install ok unpacked"}
        fields |= {key: value for key, value in deb.control.items() if key not in fields}
        conffiles = []
        for line in deb.text("conffiles").splitlines():
            path = line.strip()
            if path.startswith("/"):  # else a flag such as `remove-on-upgrade`, for files that are no longer there
                digest = hashlib.md5(self._tree.read(path), usedforsecurity=False).hexdigest()
                conffiles.append(f"\n {path} {digest}")
        if conffiles:
            fields["Conffiles"] = "".join(conffiles)
        return deb822.show(fields)

    def _note_triggers(self, deb: Deb, stem: str) -> None:
        """A package's interests (deb-triggers(5)); what it activates needs no note, all files are there already."""
        for line in deb.text("triggers").splitlines():
            words = line.split("#")[0].split()
            if len(words) != 2 or not words[0].startswith("interest"):
                continue
            suffix = "/noawait" if words[0] == "interest-noawait" else ""
            if words[1].startswith("/"):
                self._file_triggers.append(f"{words[1]} {stem}{suffix}\n")
            elif "/" not in words[1]:
                self._named_triggers.setdefault(words[1], []).append(f"{stem}{suffix}\n")

    def finish(self) -> None:
        """Write the database, the replacements for the time of configuration, and the script that configures."""
        if not self._stanzas:
            raise BuildError("no package was unpacked")
        tree = self._tree
        tree.file("/var/lib/dpkg/status", "\n".join(self._stanzas).encode())
        tree.file("/var/lib/dpkg/available", b"")
        tree.file("/var/lib/dpkg/diversions", b"")
        tree.file("/var/lib/dpkg/statoverride", b"")
        tree.file(f"{INFO}/format", b"1\n")
        tree.folder("/var/lib/dpkg/updates")
        tree.folder("/var/lib/dpkg/alternatives")
        tree.file("/var/lib/dpkg/triggers/Unincorp", b"")
        tree.file("/var/lib/dpkg/triggers/File", "".join(self._file_triggers).encode())
        for name, lines in self._named_triggers.items():
            tree.file(f"/var/lib/dpkg/triggers/{name}", "".join(lines).encode())
        tree.file("/usr/sbin/policy-rc.d", _POLICY, 0o755)
        rules = [f"path-exclude={each}\n" for each in self._leave_out]
        rules += [f"path-include={each}\n" for each in self._keep]
        tree.file("/etc/dpkg/dpkg.cfg.d/vpod", "".join(rules).encode())
        if "/usr/bin/pip3" in tree:
            tree.file("/etc/pip.conf", _PIP)
        certificates_script = certificates.prepare(tree)
        script = _CONFIGURE.format(
            preinsts=" ".join(self._ordered_preinsts()),
            aside=" ".join(self._set_aside([certificates_script] if certificates_script else [])),
            suffix=_ASIDE,
            rehash=certificates.REHASH if certificates_script else "",
        )
        tree.file(CONFIGURE, script.encode(errors="surrogateescape"), 0o755)

    def _ordered_preinsts(self) -> list[str]:
        """base-passwd's first: it makes the first `/etc/passwd`, which every other script may ask."""
        return sorted(self._preinsts, key=lambda path: (not path.endswith("/base-passwd.preinst"), path))

    def _set_aside(self, scripts: Sequence[str]) -> list[str]:
        """Put do-nothing files in the place of scripts and of Python's compilers; gives the paths to restore."""
        candidates = ["/usr/bin/py3compile", "/usr/bin/deb-systemd-helper", "/usr/bin/deb-systemd-invoke", *scripts]
        candidates += [f"/{path}" for path in self._tree.glob("/usr/lib/python3.*/py_compile.py")]
        aside = [path for path in candidates if path in self._tree]
        for path in aside:
            node = self._tree.node(path)
            self._tree.file(path + _ASIDE, node.data, node.mode, mtime=node.mtime)
            self._tree.file(path, _STUB_PYTHON if path.endswith(".py") else _STUB, node.mode)
        return aside


def sources_file(mirror: str, suite: str, components: Sequence[str], security: Sequence[str]) -> bytes:
    """The guest's own `sources` file (deb822 format, sources.list(5)), naming the mirror this build used."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    places = [(mirror, f"{suite} {suite}-updates")] + [(each, f"{suite}-security") for each in security]
    stanzas = [
        {"Types": "deb", "URIs": uri, "Suites": suites, "Components": " ".join(components), "Signed-By": keyring}
        for uri, suites in places
        if uri.startswith(("http://", "https://"))
    ]
    return "\n".join(deb822.show(stanza) for stanza in stanzas).encode()
