"""Debian's certificate store, made on the host.

ca-certificates' own script starts some thousand processes, minutes of an emulated machine's time, to make three things:
`/etc/ca-certificates.conf`, a symbolic link for each certificate, and one bundle of them all. Here they are made at
once; only the links by hash are left to the guest, one run of `openssl rehash`. `update-ca-certificates` finds nothing
to do afterwards (it says `0 added, 0 removed`), which is how the result is tested.

    >>> prepare(tree)
    '/var/lib/dpkg/info/ca-certificates.postinst'

Invariant: what counts as a certificate, how a link is named and what the bundle has is update-ca-certificates(8)'s.
"""

from __future__ import annotations

from .tree import Tree

STORE = "/usr/share/ca-certificates"
LINKS = "/etc/ssl/certs"
REHASH = f"openssl rehash {LINKS} >/dev/null"
_CONFIGURATION = (
    "# Certificates of /usr/share/ca-certificates that update-ca-certificates(8) puts into /etc/ssl/certs.\n"
    "# A line that begins with ! leaves its certificate out.\n"
)


def prepare(tree: Tree) -> str | None:
    """Make the store; gives the maintainer script whose work that was, or None where the package is not installed."""
    script = "/var/lib/dpkg/info/ca-certificates.postinst"
    if script not in tree:
        return None
    names = sorted(path.removeprefix(STORE[1:] + "/") for path in tree.glob(f"{STORE}/*.crt"))
    bundle: list[bytes] = []
    tree.folder("/usr/local/share/ca-certificates")
    for name in names:
        data = tree.read(f"{STORE}/{name}")
        bundle.append(data if data.endswith(b"\n") else data + b"\n")
        tree.symlink(f"{LINKS}/{link_name(name)}", f"{STORE}/{name}")
    tree.file(f"{LINKS}/ca-certificates.crt", b"".join(bundle))
    configuration = _CONFIGURATION + "".join(f"{name}\n" for name in names)
    tree.file("/etc/ca-certificates.conf", configuration.encode(errors="surrogateescape"))
    return script


def link_name(name: str) -> str:
    """`mozilla/A (B).crt` → `A_=B=.pem`."""
    stem = name.rpartition("/")[2].removesuffix(".crt")
    return stem.translate(str.maketrans(" (),", "_==_")) + ".pem"
