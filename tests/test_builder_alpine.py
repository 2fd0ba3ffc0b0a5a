"""Alpine's packages: signatures checked against OpenSSL's, a whole package site made and signed in the test."""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from builder_parts import files_below, folder, mirror, symlink, tar_of
from vpod_builder import alpine
from vpod_builder.default import default_recipe
from vpod_builder.progress import Report
from vpod_builder.rsa import PublicKey
from vpod_builder.sources import Fetcher
from vpod_builder.tree import Tree

from vpod.errors import BuildError, SourceUnreachable, VerificationFailed

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which signs here, is not installed")

KEY_NAME = "test-1234.rsa.pub"


class Signer:
    """A throwaway RSA key of OpenSSL's making."""

    def __init__(self, folder: Path, bits: int = 2048) -> None:
        self.private = folder / "key.pem"
        subprocess.run(["openssl", "genrsa", "-out", str(self.private), str(bits)], check=True, capture_output=True)
        command = ["openssl", "rsa", "-in", str(self.private), "-pubout"]
        self.public = subprocess.run(command, check=True, capture_output=True).stdout

    def sign(self, data: bytes, algorithm: str = "sha1") -> bytes:
        command = ["openssl", "dgst", f"-{algorithm}", "-sign", str(self.private)]
        return subprocess.run(command, input=data, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("key"))


def cut(archive: bytes) -> bytes:
    """A tar archive without its end mark, as the first members of Alpine's packages are."""
    return archive[: len(archive.rstrip(b"\0")) // 512 * 512 + 512]


def apk_of(name: str, version: str, *members: tuple[str, object], script: str = "") -> tuple[bytes, str]:
    """A package (unsigned: the index vouches for it) and its `C:` field."""
    data = gzip.compress(tar_of(*members))
    info = f"pkgname = {name}\npkgver = {version}\ndatahash = {hashlib.sha256(data).hexdigest()}\n"
    extra = [(".post-install", script.encode())] if script else []
    control = gzip.compress(cut(tar_of((".PKGINFO", info.encode()), *extra)))
    return control + data, "Q1" + base64.b64encode(hashlib.sha1(control).digest()).decode()


def site_of(signer: Signer) -> dict[str, bytes]:
    """A package site of one repository, by path."""
    python, python_sum = apk_of(
        "python3", "3.12.1-r0",
        ("usr/", folder()), ("usr/bin/", folder()), ("usr/bin/python3.12", {"mode": 0o755, "data": b"ELF"}),
        ("usr/bin/python3", symlink("python3.12")), script="#!/bin/sh\necho $1\n",
    )  # fmt: skip
    library, library_sum = apk_of("libffi", "3.5-r0", ("usr/lib/libffi.so.8", b"ELF"))
    index = (
        f"C:{python_sum}\nP:python3\nV:3.12.1-r0\nA:riscv64\nS:1\nI:1\n"
        f"D:so:libffi.so.8 so:libc.musl-riscv64.so.1 /bin/sh\np:cmd:python3=3.12.1-r0\n\n"
        f"C:{library_sum}\nP:libffi\nV:3.5-r0\nA:riscv64\nS:1\nI:1\np:so:libffi.so.8=8.2\n\n"
    )
    signed = gzip.compress(tar_of(("DESCRIPTION", b"test"), ("APKINDEX", index.encode())))
    signature = gzip.compress(cut(tar_of((f".SIGN.RSA.{KEY_NAME}", signer.sign(signed)))))
    return {
        "/v3.23/main/riscv64/APKINDEX.tar.gz": signature + signed,
        "/v3.23/main/riscv64/python3-3.12.1-r0.apk": python,
        "/v3.23/main/riscv64/libffi-3.5-r0.apk": library,
    }


def root(signer: Signer) -> Tree:
    """What of a minirootfs the packages need."""
    tree = Tree()
    tree.file("/etc/apk/repositories", b"https://site.invalid/alpine/v3.23/main\n")
    tree.file(f"/etc/apk/keys/{KEY_NAME}", signer.public)
    tree.file("/etc/apk/world", b"busybox\n")
    tree.file("/lib/apk/db/installed", b"C:Q1x\nP:musl\nV:1.2.5-r22\np:so:libc.musl-riscv64.so.1=1\nF:lib\n\n")
    return tree


def fetcher(cache: Path) -> Fetcher:
    cache.mkdir(exist_ok=True)
    return Fetcher(Report(quiet=True), cache=cache, places=[], offline=False)


# --- RSA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_signatures_of_openssl_verify(signer: Signer, algorithm: str) -> None:
    key = PublicKey.from_pem(signer.public, name="k")
    signature = signer.sign(b"data", algorithm)
    assert key.verifies(signature, b"data", algorithm)
    assert not key.verifies(signature, b"Data", algorithm)
    assert not key.verifies(signature[:-1], b"data", algorithm)
    assert not key.verifies(b"\0" + signature, b"data", algorithm)
    assert not key.verifies(bytes(len(signature)), b"data", algorithm)
    for place in (0, 100, len(signature) - 1):
        bad = bytearray(signature)
        bad[place] ^= 1
        assert not key.verifies(bytes(bad), b"data", algorithm)


def test_the_other_digest_does_not_verify(signer: Signer) -> None:
    key = PublicKey.from_pem(signer.public, name="k")
    assert not key.verifies(signer.sign(b"data", "sha256"), b"data", "sha1")


def test_keys_that_are_none(signer: Signer, tmp_path: Path) -> None:
    der = base64.b64decode(b"".join(signer.public.splitlines()[1:-1]))
    short = base64.encodebytes(der[:-30])
    small = Signer(tmp_path, bits=1024).public
    for bad in (b"", b"hello", b"-----BEGIN PUBLIC KEY-----\n" + short + b"-----END PUBLIC KEY-----\n", small):
        with pytest.raises(VerificationFailed):
            PublicKey.from_pem(bad, name="k")


# --- a package site --------------------------------------------------------------------------------------------------


def test_packages_are_laid_out(tmp_path: Path, signer: Signer) -> None:
    tree = root(signer)
    with mirror(site_of(signer)) as server:
        added, configure = alpine.add(tree, ["python3"], fetcher(tmp_path / "c"), mirror=server.url)
        again, _ = alpine.add(root(signer), ["python3"], fetcher(tmp_path / "c"), mirror=server.url)
        assert [path for path, _ in server.requests].count("/v3.23/main/riscv64/python3-3.12.1-r0.apk") == 1
    assert added == again == ["libffi 3.5-r0", "python3 3.12.1-r0"]
    assert tree.read("/usr/bin/python3") == b"ELF" and tree.read("/usr/lib/libffi.so.8") == b"ELF"
    assert tree.read("/etc/apk/world") == b"busybox\npython3\n"
    database = tree.read("/lib/apk/db/installed").decode()
    assert database.count("\n\n") == 3 and "P:python3\nV:3.12.1-r0\n" in database
    digest = base64.b64encode(hashlib.sha1(b"ELF").digest()).decode()
    assert f"F:usr/bin\nR:python3.12\na:0:0:755\nZ:Q1{digest}\n" in database
    assert b"001.post-install 3.12.1-r0" in tree.read(configure)


def test_every_altered_file_stops_it(tmp_path: Path, signer: Signer) -> None:
    for number, path in enumerate(site_of(signer)):
        files = site_of(signer)
        data = bytearray(files[path])
        data[-12] ^= 1  # the last member: index or contents
        files[path] = bytes(data)
        tree = root(signer)
        with mirror(files) as server, pytest.raises(VerificationFailed):
            alpine.add(tree, ["python3"], fetcher(tmp_path / str(number)), mirror=server.url)
        assert number > 0 or files_below(tmp_path / str(number)) == []


def test_a_package_swapped_for_another_sound_one(tmp_path: Path, signer: Signer) -> None:
    files = site_of(signer)
    files["/v3.23/main/riscv64/libffi-3.5-r0.apk"] = files["/v3.23/main/riscv64/python3-3.12.1-r0.apk"]
    with mirror(files) as server, pytest.raises(VerificationFailed, match="not the package of the signed index"):
        alpine.add(root(signer), ["libffi"], fetcher(tmp_path / "c"), mirror=server.url)


def test_an_index_signed_by_a_stranger(tmp_path: Path, signer: Signer) -> None:
    (tmp_path / "other").mkdir()
    stranger = Signer(tmp_path / "other")
    with mirror(site_of(stranger)) as server, pytest.raises(VerificationFailed, match="signature by"):
        alpine.add(root(signer), ["python3"], fetcher(tmp_path / "c"), mirror=server.url)
    tree = root(signer)
    tree.remove(f"/etc/apk/keys/{KEY_NAME}")
    with mirror(site_of(signer)) as server, pytest.raises(VerificationFailed, match="not signed by a key"):
        alpine.add(tree, ["python3"], fetcher(tmp_path / "c"), mirror=server.url)


def test_a_package_that_is_not_there(tmp_path: Path, signer: Signer) -> None:
    with mirror(site_of(signer)) as server, pytest.raises(BuildError, match="nothing-such"):
        alpine.add(root(signer), ["nothing-such"], fetcher(tmp_path / "c"), mirror=server.url)


def test_packages_only_for_alpine(tmp_path: Path, signer: Signer) -> None:
    tree = root(signer)
    tree.remove("/lib/apk")
    with mirror(site_of(signer)) as server, pytest.raises(BuildError, match="no apk database"):
        alpine.add(tree, ["python3"], fetcher(tmp_path / "c"), mirror=server.url)


# --- the default -----------------------------------------------------------------------------------------------------


def test_the_default_without_alpines_sites_is_debian(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    offline = Fetcher(Report(quiet=True), cache=tmp_path / "c", places=[], offline=True)
    choice = default_recipe(offline)
    assert choice.recipe == "debian-13" and "cannot be reached" in choice.why and "VPOD_OFFLINE" in choice.why


def test_the_default_with_alpines_site(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpod_builder.default.tarball_tree", lambda *_: root(signer))
    with mirror(site_of(signer)) as server:
        choice = default_recipe(fetcher(tmp_path / "c"), mirror=server.url)
        assert choice.recipe == "alpine-3.23-python" and server.url in choice.why
        server.files.clear()
        assert default_recipe(fetcher(tmp_path / "d"), mirror=server.url).recipe == "debian-13"


def test_a_forged_site_is_no_reason_for_another_default(
    tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpod_builder.default.tarball_tree", lambda *_: root(signer))
    files = site_of(signer)
    files["/v3.23/main/riscv64/APKINDEX.tar.gz"] = b"forged"
    with mirror(files) as server, pytest.raises(VerificationFailed):
        default_recipe(fetcher(tmp_path / "c"), mirror=server.url)
    with pytest.raises(SourceUnreachable):
        alpine.reachable(fetcher(tmp_path / "d"), root(signer), mirror=server.url)
