"""The Debian archive: signatures, mirrors, dependencies, and dpkg's database as dpkg itself reads it."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pysequoia
import pytest
from builder_parts import deb_of, files_below, folder, mirror, sha256, symlink
from hypothesis import given, settings
from hypothesis import strategies as st
from vpod_builder import certificates, dpkg
from vpod_builder.deb import Deb
from vpod_builder.debian import (
    Archive,
    archive_keys,
    mirrors,
    security_mirrors,
    verify_release,
    without_credentials,
)
from vpod_builder.progress import Report
from vpod_builder.resolve import Index, Relation, parse_relations, resolve, version_key
from vpod_builder.sources import Fetcher
from vpod_builder.tree import Tree

from vpod.errors import BuildError, SourceUnreachable, VerificationFailed

NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def key() -> pysequoia.Tsk:
    return pysequoia.Tsk.generate(user_id="Throwaway <t@example.invalid>")


def certificate(key: pysequoia.Tsk) -> pysequoia.Cert:
    return key.extract_certificate()


def release_text(**fields: str) -> str:
    date = format_datetime(NOW - timedelta(hours=1), usegmt=True)
    known = {"Origin": "Debian", "Suite": "stable", "Codename": "trixie", "Date": date} | fields
    return "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in known.items() if value)


def signed(key: pysequoia.Tsk, text: str) -> bytes:
    return bytes(pysequoia.sign(key.signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR))


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_good_release(key: pysequoia.Tsk) -> None:
    fields = verify_release(signed(key, release_text()), [certificate(key)], "trixie", where="InRelease")
    assert fields["Codename"] == "trixie"


def test_an_altered_release(key: pysequoia.Tsk) -> None:
    data = signed(key, release_text()).replace(b"Origin: Debian", b"Origin: Debiaan")
    with pytest.raises(VerificationFailed, match="no valid signatures") as caught:
        verify_release(data, [certificate(key)], "trixie", where="InRelease")
    assert "backtrace" not in str(caught.value)


def test_what_stands_outside_the_signed_part_is_not_read(key: pysequoia.Tsk) -> None:
    data = signed(key, release_text())
    for forged in (b"Codename: sid\nSuite: sid\n\n" + data, data + b"\nCodename: sid\n"):
        try:
            fields = verify_release(forged, [certificate(key)], "trixie", where="InRelease")
        except VerificationFailed:
            continue
        assert fields["Codename"] == "trixie"


def test_the_wrong_key(key: pysequoia.Tsk) -> None:
    other = pysequoia.Tsk.generate(user_id="Other <o@example.invalid>")
    with pytest.raises(VerificationFailed):
        verify_release(signed(key, release_text()), [certificate(other)], "trixie", where="InRelease")


def test_no_signature_at_all(key: pysequoia.Tsk) -> None:
    for data in (release_text().encode(), b"", b"<html>log in first</html>"):
        with pytest.raises(VerificationFailed):
            verify_release(data, [certificate(key)], "trixie", where="InRelease")


def test_a_release_of_another_suite(key: pysequoia.Tsk) -> None:
    data = signed(key, release_text(Suite="oldstable", Codename="bookworm"))
    with pytest.raises(VerificationFailed, match="'bookworm' and not for 'trixie'"):
        verify_release(data, [certificate(key)], "trixie", where="InRelease")


def test_dates(key: pysequoia.Tsk) -> None:
    expired = format_datetime(NOW - timedelta(days=1), usegmt=True)
    future = format_datetime(NOW + timedelta(days=3), usegmt=True)
    for text, why in (
        (release_text(Valid_Until=expired), "was valid until"),
        (release_text(Date=future), "in the future"),
        (release_text(Date="yesterday"), "no date"),
        (release_text(Date=""), "no date"),
    ):
        with pytest.raises(VerificationFailed, match=why):
            verify_release(signed(key, text), [certificate(key)], "trixie", where="InRelease")


def test_the_pinned_keys_are_debians() -> None:
    assert {key.fingerprint.upper() for key in archive_keys()} == {
        "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
        "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
        "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
    }


# --- an archive on a mirror ------------------------------------------------------------------------------------------

HELLO = deb_of("Package: hello\nVersion: 2.10-5\nArchitecture: riscv64\n", ("./usr/bin/hello", b"#!/bin/sh"))


def archive_files(key: pysequoia.Tsk) -> dict[str, bytes]:
    """A whole small archive, by path."""
    packages = (
        "Package: hello\nVersion: 2.10-5\nArchitecture: riscv64\nPriority: optional\n"
        f"Filename: pool/main/h/hello/hello_2.10-5+b1_riscv64.deb\nSize: {len(HELLO)}\nSHA256: {sha256(HELLO)}\n\n"
    )
    packed = lzma.compress(packages.encode())
    text = release_text(Acquire_By_Hash="yes")
    text += f"SHA256:\n {sha256(packed)} {len(packed)} main/binary-riscv64/Packages.xz\n"
    return {
        "/dists/trixie/InRelease": signed(key, text),
        f"/dists/trixie/main/binary-riscv64/by-hash/SHA256/{sha256(packed)}": packed,
        "/pool/main/h/hello/hello_2.10-5+b1_riscv64.deb": HELLO,
    }


def open_archive(cache: Path, url: str, key: pysequoia.Tsk) -> Archive:
    cache.mkdir(exist_ok=True)
    fetcher = Fetcher(Report(quiet=True), cache=cache, places=[], offline=False)
    return Archive(fetcher, suite="trixie", components=["main"], mirror=url, keys=[certificate(key)])


def test_from_signature_to_package(tmp_path: Path, key: pysequoia.Tsk) -> None:
    with mirror(archive_files(key)) as server:
        archive = open_archive(tmp_path / "c", server.url, key)
        package = archive.index.get("hello")
        assert package is not None
        (path,) = archive.fetch([package], "hello")
        assert path.read_bytes() == HELLO


def test_each_altered_link_of_the_chain_stops_it(tmp_path: Path, key: pysequoia.Tsk) -> None:
    for number, path in enumerate(archive_files(key)):
        files = archive_files(key)
        files[path] = files[path][:-20] + b"?" * 20 if number else files[path].replace(b"Debian", b"Nebian")
        with mirror(files) as server, pytest.raises(VerificationFailed):
            archive = open_archive(tmp_path / str(number), server.url, key)
            package = archive.index.get("hello")
            assert package is not None
            archive.fetch([package], "hello")
        assert sha256(files[path]) not in {name.rpartition("-")[2] for name in files_below(tmp_path / str(number))}


def test_a_mirror_that_is_being_updated(tmp_path: Path, key: pysequoia.Tsk, capsys: pytest.CaptureFixture[str]) -> None:
    """The new release of trixie names indexes that are still the old ones; the other name is whole."""
    files = archive_files(key)
    newer = release_text(Acquire_By_Hash="yes") + f"SHA256:\n {sha256(b'new')} 3 main/binary-riscv64/Packages.xz\n"
    updated = {**files, "/dists/trixie/InRelease": signed(key, newer)}
    with mirror(updated) as server, pytest.raises(SourceUnreachable, match=sha256(b"new")):
        _ = open_archive(tmp_path / "a", server.url, key).index
    old = {path.replace("/trixie/", "/stable/"): data for path, data in files.items()}
    with mirror(old | {"/dists/trixie/InRelease": signed(key, newer)}) as server:
        fetcher = Fetcher(Report(), cache=tmp_path, places=[], offline=False)
        archive = Archive(fetcher, suite="trixie", components=["main"], mirror=server.url, keys=[certificate(key)])
        assert archive.index.get("hello") is not None
    assert "took its stable" in capsys.readouterr().err


def test_an_unreachable_mirror_is_named(tmp_path: Path, key: pysequoia.Tsk) -> None:
    with mirror({}) as server, pytest.raises(SourceUnreachable, match="HTTP 404") as caught:
        open_archive(tmp_path / "c", server.url, key)
    assert f"{server.url}/dists/trixie/InRelease" in str(caught.value)


# --- which mirror ----------------------------------------------------------------------------------------------------


def apt_folder(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        place = "apt" if name == "main_list" else "apt/sources.list.d"
        (tmp_path / place / name.replace("main_list", "sources.list").replace("_", ".")).write_text(text)
    return tmp_path / "apt"


def test_mirrors_of_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPOD_DEBIAN_MIRROR", raising=False)
    apt = apt_folder(
        tmp_path,
        main_list="# deb http://commented.invalid/debian trixie main\n"
        "deb [arch=amd64 signed-by=/x.gpg] http://one.invalid/debian/ bookworm main contrib\n"
        "deb-src http://source.invalid/debian bookworm main\n"
        "deb cdrom:[Debian]/ bookworm main\n",
        a_sources="Types: deb deb-src\nURIs: http://two.invalid/debian https://three.invalid/d\n"
        "Suites: trixie trixie-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://sec.invalid/debian-security\nSuites: trixie-security\nComponents: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.invalid/debian\nSuites: trixie\nComponents: main\n\n"
        "Types: deb\nURIs: http://other.invalid/apt\nSuites: nodistro\nComponents: main\n",
    )
    assert mirrors(apt=apt) == ["http://one.invalid/debian", "http://two.invalid/debian", "https://three.invalid/d"]
    assert security_mirrors(apt) == ["http://sec.invalid/debian-security"]


def test_the_environment_and_the_argument_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = apt_folder(tmp_path, main_list="deb http://one.invalid/debian bookworm main\n")
    monkeypatch.setenv("VPOD_DEBIAN_MIRROR", "http://mine.invalid/debian/")
    assert mirrors(apt=apt) == ["http://mine.invalid/debian"]
    assert mirrors("file:///srv/mirror", apt=apt) == ["file:///srv/mirror"]


def test_ubuntu_is_told_so_and_nothing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPOD_DEBIAN_MIRROR", raising=False)
    apt = apt_folder(tmp_path, main_list="deb http://one.invalid/ubuntu noble main universe\n")
    with pytest.raises(SourceUnreachable, match=r"Ubuntu.*\n.*VPOD_DEBIAN_MIRROR"):
        mirrors(apt=apt)
    with pytest.raises(SourceUnreachable, match=r"no apt configuration.*\n.*VPOD_DEBIAN_MIRROR"):
        mirrors(apt=tmp_path / "nowhere")


def test_credentials_stay_out_of_snapshots() -> None:
    assert without_credentials("https://user:secret@h.invalid:8443/debian") == "https://h.invalid:8443/debian"
    text = dpkg.sources_file(without_credentials("http://u:p@h.invalid/d"), "trixie", ["main"], ["http://s.invalid/x"])
    assert b"u:p" not in text and b"Suites: trixie trixie-updates\n" in text and b"trixie-security" in text
    assert dpkg.sources_file("file:///srv/mirror", "trixie", ["main"], []) == b""


# --- versions and dependencies ---------------------------------------------------------------------------------------

VERSIONS = st.from_regex(r"([0-9]:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-c.+~]{1,4})?", fullmatch=True)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg, the oracle of this test, is not installed")
@settings(max_examples=200, deadline=None)
@given(VERSIONS, VERSIONS)
def test_versions_compare_as_dpkg_compares_them(one: str, other: str) -> None:
    less = subprocess.run(["dpkg", "--compare-versions", one, "lt", other]).returncode == 0
    equal = subprocess.run(["dpkg", "--compare-versions", one, "eq", other]).returncode == 0
    assert (version_key(one) < version_key(other), version_key(one) == version_key(other)) == (less, equal)


def test_relations() -> None:
    assert parse_relations("a (>= 1:2.0~), b:any | c (<< 3) ,\n d", "x") == [
        (Relation("a", ">=", "1:2.0~"),),
        (Relation("b"), Relation("c", "<<", "3")),
        (Relation("d"),),
    ]
    for bad in ("a (>= )", "a b", "(>= 1)", "a | "):
        with pytest.raises(VerificationFailed):
            parse_relations(bad, "x")


def index(*stanzas: str) -> Index:
    """An index of `name version; Field: value; …` stanzas."""
    texts = []
    for stanza in stanzas:
        head, *fields = stanza.split("; ")
        name, version = head.split()
        lines = [f"Package: {name}", f"Version: {version}", *fields, f"Filename: pool/{name}.deb", "Size: 1"]
        texts.append("\n".join([*lines, f"SHA256: {'0' * 64}"]) + "\n")
    return Index(["\n".join(texts)])


def names(found: Index, *wanted: str) -> list[str]:
    return [package.name for package in resolve(found, wanted)]


def test_dependencies_are_followed() -> None:
    found = index("a 1; Depends: b (>= 2), c", "b 2; Pre-Depends: d", "c 1", "d 1", "e 1")
    assert names(found, "a") == ["a", "b", "c", "d"]


def test_the_first_alternative_unless_another_is_there() -> None:
    found = index("a 1; Depends: b | c", "b 1", "c 1")
    assert names(found, "a") == ["a", "b"]
    assert names(found, "a", "c") == ["a", "c"]


def test_a_provider_by_priority() -> None:
    providers = ("gawk 1; Provides: awk; Priority: optional", "mawk 1; Provides: awk; Priority: required")
    found = index("a 1; Depends: awk", *providers)
    assert names(found, "a") == ["a", "mawk"]


def test_versioned_relations_need_versioned_provides() -> None:
    with pytest.raises(BuildError, match=r"a needs v \(>= 2\)"):
        names(index("a 1; Depends: v (>= 2)", "p 9; Provides: v"), "a")
    assert names(index("a 1; Depends: v (>= 2)", "p 1; Provides: v (= 2)"), "a") == ["a", "p"]


def test_an_alternative_that_conflicts_is_passed_over() -> None:
    found = index("a 1; Depends: b | c", "b 1; Conflicts: z", "c 1", "z 1")
    assert names(found, "a", "z") == ["a", "c", "z"]


def test_the_newest_version_wins() -> None:
    package = index("k 6.12.94-1", "k 6.12.107-1").get("k")
    assert package is not None and package.version == "6.12.107-1"


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(BuildError, match="no package 'nope'"):
        names(index("a 1"), "nope")
    with pytest.raises(BuildError, match="cannot be installed together"):
        names(index("a 1; Breaks: b (<< 2)", "b 1"), "a", "b")
    assert names(index("a 1; Breaks: b (<< 2)", "b 2"), "a", "b") == ["a", "b"]


def test_an_index_cannot_name_files_outside_the_archive() -> None:
    bad = Index([f"Package: a\nVersion: 1\nFilename: ../../x.deb\nSize: 1\nSHA256: {'0' * 64}\n"])
    with pytest.raises(VerificationFailed):
        bad.get("a")


# --- dpkg's database -------------------------------------------------------------------------------------------------


def database(tmp_path: Path) -> tuple[Tree, Path]:
    """Two packages laid out in a tree, and the tree written to a folder."""
    tree = Tree()
    base = "Architecture: all\nMaintainer: n <n@example.invalid>\nDescription: a demo\n of two lines\n"
    one = deb_of(
        "Package: one\nVersion: 1.0\n" + base,
        ("./etc/", folder()),
        ("./etc/one.conf", b"setting\n"),
        ("./usr/share/doc/one/changelog", b"long"),
        conffiles="/etc/one.conf\n", postinst="#!/bin/sh\nexit 0\n", triggers="interest-noawait /usr/share/one\n",
    )  # fmt: skip
    control = "Package: two\nVersion: 2.0\nDepends: one\n" + base
    two = deb_of(control, ("./usr/bin/two", b"#!/bin/sh"), preinst="#!/bin/sh\n")
    made = dpkg.Database(tree, leave_out=["/usr/share/doc/*"])
    for name, data in (("two.deb", two), ("one.deb", one)):
        made.unpack(Deb(data, name=name))
    made.finish()
    for path in tree:
        node = tree.get(path, follow=False)
        place = tmp_path / path
        if node is not None and node.kind.name == "DIRECTORY":
            place.mkdir(parents=True, exist_ok=True)
        elif node is not None:
            place.write_bytes(node.data)
            place.chmod(node.mode)
    return tree, tmp_path


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg, the oracle of this test, is not installed")
def test_dpkg_takes_its_database_and_configures(tmp_path: Path) -> None:
    _, root = database(tmp_path)
    log = ["--log", str(root / "dpkg.log"), "--force-not-root", "--force-script-chrootless"]
    query = ["dpkg-query", "--root", str(root), "-W", "-f", "${db:Status-Abbrev}${Package} ${Conffiles}\n"]
    before = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    assert before.startswith("iU one") and "\niU two" in before
    subprocess.run(["dpkg", "--root", str(root), *log, "--configure", "-a"], check=True, capture_output=True)
    after = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    assert after.startswith("ii one") and "\nii two" in after
    assert "/etc/one.conf " + hashlib.md5(b"setting\n").hexdigest() in after
    audit = subprocess.run(["dpkg", "--root", str(root), "--audit"], capture_output=True, text=True)
    assert (audit.returncode, audit.stdout) == (0, "")
    owner = subprocess.run(["dpkg", "--root", str(root), "-S", "/etc/one.conf"], capture_output=True, text=True)
    assert owner.stdout.startswith("one:")


def test_what_the_script_does(tmp_path: Path) -> None:
    tree, _ = database(tmp_path)
    script = tree.read(dpkg.CONFIGURE).decode()
    assert "/var/lib/dpkg/info/two.preinst" in script and "dpkg --configure" in script
    assert "/usr/share/doc/one/changelog" not in tree
    assert b"path-exclude=/usr/share/doc/*\n" in tree.read("/etc/dpkg/dpkg.cfg.d/vpod")
    assert tree.read("/var/lib/dpkg/triggers/File") == b"/usr/share/one one/noawait\n"
    syntax = subprocess.run(["sh", "-n"], input=script.encode(), capture_output=True)
    assert syntax.returncode == 0, syntax.stderr


def test_compilers_are_replaced_and_put_back() -> None:
    tree = Tree()
    base = "Architecture: all\nDescription: d\n"
    made = dpkg.Database(tree)
    members = ("./usr/bin/py3compile", b"real"), ("./usr/lib/python3.13/py_compile.py", b"real")
    made.unpack(Deb(deb_of("Package: py\nVersion: 1\n" + base, *members), name="py.deb"))
    made.finish()
    script = tree.read(dpkg.CONFIGURE).decode()
    for path in ("/usr/bin/py3compile", "/usr/lib/python3.13/py_compile.py"):
        assert tree.read(path) != b"real" and tree.read(path + ".vpod-aside") == b"real" and path in script


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not installed")
def test_the_certificate_store(tmp_path: Path) -> None:
    tree = Tree()
    tree.file("/var/lib/dpkg/info/ca-certificates.postinst", b"#!/bin/sh\n", 0o755)
    for name in ("B (x)", "A"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", f"/CN={name}", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")],
            check=True, capture_output=True,
        )  # fmt: skip
        tree.file(f"/usr/share/ca-certificates/mozilla/{name}.crt", (tmp_path / "crt").read_bytes().rstrip(b"\n"))
    assert certificates.prepare(tree) is not None
    assert tree.read("/etc/ca-certificates.conf").endswith(b"\nmozilla/A.crt\nmozilla/B (x).crt\n")
    assert tree.read("/etc/ssl/certs/B_=x=.pem").startswith(b"-----BEGIN")
    assert tree.read("/etc/ssl/certs/ca-certificates.crt").count(b"-----END CERTIFICATE-----\n") == 2
    assert certificates.prepare(Tree()) is None


def test_symlinked_bin_takes_packages_that_are_not_merged() -> None:
    tree = Tree()
    tree.folder("/usr/bin")
    tree.symlink("/bin", "usr/bin")
    made = dpkg.Database(tree)
    control = "Package: old\nVersion: 1\nArchitecture: all\nDescription: d\n"
    members = ("./bin/", folder()), ("./bin/x", b"1"), ("./bin/y", symlink("x"))
    made.unpack(Deb(deb_of(control, *members), name="old.deb"))
    assert tree.read("/usr/bin/y") == b"1"
