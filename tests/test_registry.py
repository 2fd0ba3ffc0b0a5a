"""The registry: everything that it says is checked, and a download ends whole or not at all."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpod import paths, registry, snapshot, snapshots
from vpod.errors import RegistryError, SnapshotDamaged, SnapshotError, SnapshotNotFound

MIB = 1 << 20


class Site(ThreadingHTTPServer):
    """A web server on the loopback interface. `files` maps paths to contents or to functions that answer by hand."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.files: dict[str, bytes | Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.etag = '"one"'
        self.break_after: list[int] = []  # how many bytes of a body are sent before the connection breaks, per request

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave early are part of the tests


class Handler(BaseHTTPRequestHandler):
    """Answers GET from `Site.files`, with ranges."""

    server: Site

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
        elif callable(content):
            content(self)
        else:
            self.send_part(content)

    def send_part(self, content: bytes) -> None:
        begin = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and self.headers.get("If-Range", self.server.etag) == self.server.etag:
            begin = int(asked[1])
        if begin and begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        body = content[begin:]
        if self.server.break_after:
            body = body[: self.server.break_after.pop(0)]
        self.wfile.write(body)

    def redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


Answer = Callable[[Handler], None]


def serving() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


site = pytest.fixture(serving, name="site")
other_site = pytest.fixture(serving, name="other_site")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "home"))
    for name in ("VPOD_SNAPSHOT", "VPOD_REGISTRY", "VPOD_OFFLINE", "VPOD_API_KEY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A snapshot of some 700 kB, named demo:1."""
    path = tmp_path_factory.mktemp("packed") / "demo.snap"
    ram = bytearray(64 * MIB)
    ram[: 700 << 10] = os.urandom(700 << 10)
    snapshot.write(path, {"name": "demo", "tag": "1"}, b"state", memoryview(ram))
    return path.read_bytes()


def entry(content: bytes = b"x", **changes: Any) -> dict[str, Any]:
    """A proper entry, but for `changes`."""
    return {
        "name": "demo",
        "tag": "1",
        "url": "demo.snap",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "description": "A demonstration",
        "has_python": True,
        "created": "2026-01-31T12:00:00Z",
    } | changes


def catalog(*entries: Any, **changes: Any) -> bytes:
    return json.dumps({"format": 1, "snapshots": list(entries)} | changes).encode()


@pytest.fixture
def offered(site: Site, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose registry has demo:1."""
    site.files = {"/catalog.json": catalog(entry(packed)), "/demo.snap": packed}
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    return site


def downloads() -> list[str]:
    return sorted(os.listdir(paths.download_folder()))


def nothing_arrived() -> None:
    assert os.listdir(paths.snapshot_folder()) == []


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_without_a_registry_there_are_no_entries() -> None:
    assert snapshots.fetch_registry() == []


def test_entries_come_checked_and_with_absolute_urls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/deep/catalog.json"] = catalog(
        entry(extra="ignored"),
        entry(tag="2", url="../up.snap"),
        entry(tag="3", url="https://elsewhere.example/x?y=1#fragment"),
    )
    for url in (f"{site.url}deep/", f"{site.url}deep/catalog.json"):
        monkeypatch.setenv("VPOD_REGISTRY", url)
        first, second, third = snapshots.fetch_registry()
        assert first == entry(url=f"{site.url}deep/demo.snap")
        assert second["url"] == f"{site.url}up.snap"
        assert third["url"] == "https://elsewhere.example/x?y=1"


def test_a_catalogue_may_be_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder/catalog.json").write_bytes(catalog(entry()))
    monkeypatch.setenv("VPOD_REGISTRY", (tmp_path / "a folder").as_uri() + "/")
    assert snapshots.fetch_registry()[0]["url"] == (tmp_path / "a folder/demo.snap").as_uri()


CATALOGS = {
    "not JSON": b"<html>",
    "empty": b"",
    "not UTF-8": b'{"format": 1, "snapshots": ["\xff"]}',
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "no snapshots": b'{"format": 1}',
    "an object of snapshots": catalog(snapshots={}),
    "a newer format": catalog(format=2),
    "format true": catalog(format=True),
    "twice": catalog(entry(), entry(url="other.snap")),
    "not an object": catalog(entry(), "demo"),
    "too large": catalog(entry()) + b" " * MIB,
}


@pytest.mark.parametrize("content", CATALOGS.values(), ids=CATALOGS.keys())
def test_a_bad_catalogue_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    site.files["/catalog.json"] = content
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    with pytest.raises(RegistryError, match=re.escape(site.url)):
        snapshots.fetch_registry()


BAD_HOSTS = ["http://u:p@h/x", "http://h:99999/", "http://h:0/", "http://[::1/x"]
BAD_FIELDS: dict[str, list[Any]] = {
    "name": ["", "../x", "A", "a/b", "a@b", "x" * 65, None, 7, ["a"]],
    "tag": ["", "..", "a:b", None],
    "size": [0, -1, 1.5, "7", True, None, 2**63],
    "sha256": ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, None, "../" + "0" * 61],
    "url": [None, 7, "ftp://x/y", "file:///etc/passwd", "data:,x", *BAD_HOSTS, "x\ny", "x y", "\\", "ü", "u" * 3000],
    "description": [None, 7, "a\nb", "\x1b[2J", "x" * 501, "\u202e"],
    "has_python": [None, 1, "true"],
    "created": [None, "", "yesterday", "2026-01-31T12:00:00", "2026-01-31T12:00:00Z\n", 1769860800],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD_FIELDS.items() for value in values], ids=repr
)
def test_every_field_is_checked(field: str, value: Any) -> None:
    with pytest.raises(RegistryError, match="entry 0"):
        registry._parse_catalog(catalog(entry(**{field: value})), "http://host/catalog.json")
    missing = entry()
    del missing[field]
    with pytest.raises(RegistryError, match=f"entry 0: {field} cannot be 'missing'"):
        registry._parse_catalog(catalog(missing), "http://host/catalog.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from([*BAD_FIELDS]), json_values, min_size=1, max_size=2))
def test_a_fuzzed_entry_is_refused_or_proper(changes: dict[str, Any]) -> None:
    try:
        (parsed,) = registry._parse_catalog(catalog(entry(**changes)), "https://host/a/catalog.json")
    except RegistryError:
        return
    assert registry.is_name(parsed["name"]) and registry.is_name(parsed["tag"])
    assert re.fullmatch("[0-9a-f]{64}", parsed["sha256"]) and 0 < parsed["size"] <= registry.MAX_SNAPSHOT
    assert parsed["url"].startswith(("https://", "http://")) and parsed["description"].isprintable()


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/", "/folder/", "http://", "file://host/x", "http://h/\x1b"])
def test_a_registry_that_is_no_url_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("VPOD_REGISTRY", url)
    with pytest.raises(RegistryError, match="VPOD_REGISTRY is"):
        snapshots.fetch_registry()


def test_a_registry_that_is_not_there_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    with pytest.raises(RegistryError, match="answers 404"):
        snapshots.fetch_registry()
    monkeypatch.setenv("VPOD_REGISTRY", "http://127.0.0.1:1/")
    with pytest.raises(RegistryError, match="cannot be reached"):
        snapshots.fetch_registry()
    for path in (tmp_path / "none.json", tmp_path, Path("/dev/zero")):
        monkeypatch.setenv("VPOD_REGISTRY", path.as_uri())
        with pytest.raises(RegistryError, match=r"cannot be read|is not a regular file"):
            snapshots.fetch_registry()


def test_offline_means_no_network(offered: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_OFFLINE", "1")
    with pytest.raises(RegistryError, match="VPOD_OFFLINE"):
        snapshots.fetch_registry()
    assert not any(row["registry"] for row in snapshots.catalog())
    assert offered.requests == []


def test_a_catalogue_that_never_ends_is_cut_short(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    site.files["/catalog.json"] = drip
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    monkeypatch.setattr(registry, "CATALOG_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(RegistryError, match="not complete after"):
        snapshots.fetch_registry()
    assert time.monotonic() - begin < 3


def test_a_server_that_says_nothing_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/catalog.json"] = lambda handler: time.sleep(2)
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    monkeypatch.setattr(registry, "TIMEOUT", 0.2)
    with pytest.raises(RegistryError, match="timed out"):
        snapshots.fetch_registry()


def test_what_a_server_says_cannot_reach_the_terminal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 500 \x1b[2Jhacked\r\nContent-Length: 0\r\n\r\n")

    def nonsense(handler: Handler) -> None:
        handler.wfile.write(b"\x1b[2J\x07 is not HTTP\r\n\r\n")

    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    for answer in (hostile, nonsense):
        site.files["/catalog.json"] = answer
        with pytest.raises(RegistryError) as caught:
            snapshots.fetch_registry()
        assert str(caught.value).isprintable()


# --- redirects and the key --------------------------------------------------------------------------------------------


def redirecting(target: str) -> Answer:
    return lambda handler: handler.redirect(target)


def test_redirects_are_followed_a_few_times(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        site.files[f"/{number}"] = redirecting(f"/{number + 1}")
    site.files["/9"] = catalog(entry())
    monkeypatch.setenv("VPOD_REGISTRY", f"{site.url}4")
    assert len(snapshots.fetch_registry()) == 1
    monkeypatch.setenv("VPOD_REGISTRY", f"{site.url}3")
    with pytest.raises(RegistryError, match="more than 5 times"):
        snapshots.fetch_registry()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://host/", "data:,x", "http://u:p@host/", "gopher:x", "http://["]
)
def test_redirects_to_other_things_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    site.files["/catalog.json"] = redirecting(target)
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    with pytest.raises(RegistryError, match="redirects to what is not allowed"):
        snapshots.fetch_registry()


def test_redirects_never_lose_tls() -> None:
    assert registry._redirected("https://a/x", "/y") == "https://a/y"
    assert registry._redirected("http://a/x", "https://b/y") == "https://b/y"
    with pytest.raises(RegistryError, match="from https to http://a/y"):
        registry._redirected("https://a/x", "http://a/y")


def test_an_endless_body_of_a_redirect_is_not_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/catalog.json")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(MIB))

    site.files = {"/start": endless, "/catalog.json": catalog(entry())}
    monkeypatch.setenv("VPOD_REGISTRY", f"{site.url}start")
    assert len(snapshots.fetch_registry()) == 1


def test_the_key_goes_to_the_registry_alone(
    offered: Site, other_site: Site, packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_site.files["/demo.snap"] = packed
    offered.files["/moved.snap"] = redirecting(f"{other_site.url}demo.snap")
    offered.files["/catalog.json"] = catalog(
        entry(packed),
        entry(packed, tag="2", url="moved.snap"),
        entry(packed, tag="3", url=f"{other_site.url}demo.snap"),
    )
    monkeypatch.setenv("VPOD_API_KEY", "secret-key")
    for tag in "123":
        snapshots.pull(f"demo:{tag}")
    assert [path for path, _ in other_site.requests] == ["/demo.snap", "/demo.snap"]
    assert all("authorization" not in headers for _, headers in other_site.requests)
    assert {headers.get("authorization") for _, headers in offered.requests} == {"Bearer secret-key"}


def test_a_key_that_could_forge_headers_is_refused(offered: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_API_KEY", "x\r\nEvil: 1")
    with pytest.raises(RegistryError, match="VPOD_API_KEY"):
        snapshots.fetch_registry()
    assert offered.requests == []


# --- downloads -------------------------------------------------------------------------------------------------------


def test_a_pulled_snapshot_is_ready_to_run(offered: Site, packed: bytes) -> None:
    heard: list[tuple[int, int]] = []
    path = snapshots.pull("demo:1", lambda done, total: heard.append((done, total)))
    assert path == snapshots.path_of("demo:1") and path.read_bytes() == packed
    assert heard == sorted(heard) and heard[-1] == (len(packed), len(packed))
    assert downloads() == []
    assert snapshots.locate("demo").state == b"state"
    assert snapshots.pull("demo") == path  # the same is not fetched again
    assert [path for path, _ in offered.requests].count("/demo.snap") == 1


def test_a_newer_one_under_the_same_name_replaces_it(offered: Site, packed: bytes) -> None:
    snapshots.path_of("demo:1").write_bytes(b"something older")
    assert snapshots.pull("demo:1").read_bytes() == packed


def test_latest_is_the_registrys_highest(offered: Site, packed: bytes) -> None:
    offered.files["/catalog.json"] = catalog(*(entry(packed, tag=tag) for tag in ("1.9", "1.10", "1.10-rc")))
    assert snapshots.pull("demo") == snapshots.path_of("demo:1.10")
    with pytest.raises(SnapshotNotFound):
        snapshots.pull("demo:2")


def test_a_broken_transfer_is_resumed_at_once(offered: Site, packed: bytes) -> None:
    offered.break_after = [len(offered.files["/catalog.json"]), 300_000, 200_000]  # type: ignore[arg-type]
    assert snapshots.pull("demo:1").read_bytes() == packed
    asked = [headers.get("range") for path, headers in offered.requests if path == "/demo.snap"]
    assert asked == [None, "bytes=300000-", "bytes=500000-"]
    assert [headers.get("if-range") for _, headers in offered.requests][-1] == '"one"'


def test_a_transfer_that_keeps_breaking_is_given_up_and_resumed_by_the_next_call(
    offered: Site, packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    offered.break_after = [len(offered.files["/catalog.json"])] + [1000] * registry.ATTEMPTS  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="broke off after 5000 of"):
        snapshots.pull("demo:1")
    nothing_arrived()
    assert [name.split(".")[1] for name in downloads()] == ["etag", "part"]
    offered.requests.clear()
    assert snapshots.pull("demo:1").read_bytes() == packed
    assert [headers.get("range") for _, headers in offered.requests] == [None, "bytes=5000-"]
    assert downloads() == []


def test_a_file_that_changed_meanwhile_is_fetched_anew(offered: Site, packed: bytes) -> None:
    part = paths.download_folder() / f"{entry(packed)['sha256']}.part"
    part.write_bytes(b"old" * 1000)
    part.with_suffix(".etag").write_text('"zero"')
    assert snapshots.pull("demo:1").read_bytes() == packed
    assert [headers.get("range") for _, headers in offered.requests] == [None, "bytes=3000-"]


def test_a_wrong_beginning_is_noticed_and_fetched_anew(offered: Site, packed: bytes) -> None:
    part = paths.download_folder() / f"{entry(packed)['sha256']}.part"
    part.write_bytes(b"bad" * 1000)  # and no validator that would tell
    assert snapshots.pull("demo:1").read_bytes() == packed
    assert [headers.get("range") for _, headers in offered.requests] == [None, "bytes=3000-", None]


@pytest.mark.parametrize("extra", [0, 5])
def test_a_part_that_is_already_long_enough(offered: Site, packed: bytes, extra: int) -> None:
    part = paths.download_folder() / f"{entry(packed)['sha256']}.part"
    part.write_bytes(packed + b"x" * extra)
    assert snapshots.pull("demo:1").read_bytes() == packed
    assert [path for path, _ in offered.requests].count("/demo.snap") == (1 if extra else 0)


def test_a_server_without_ranges_begins_anew(offered: Site, packed: bytes) -> None:
    def whole(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(packed)

    offered.files["/demo.snap"] = whole
    (paths.download_folder() / f"{entry(packed)['sha256']}.part").write_bytes(packed[:1000])
    assert snapshots.pull("demo:1").read_bytes() == packed


@pytest.mark.parametrize("content_range", ["", "bytes 0-9/10", "bytes 999-1999/2000", "bytes */2000", "x" * 500])
def test_a_range_that_was_not_asked_for_is_refused(offered: Site, packed: bytes, content_range: str) -> None:
    def lie(handler: Handler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", content_range)
        handler.end_headers()
        handler.wfile.write(packed[1000:])

    offered.files["/demo.snap"] = lie
    (paths.download_folder() / f"{entry(packed)['sha256']}.part").write_bytes(packed[:1000])
    with pytest.raises(RegistryError, match="not asked for"):
        snapshots.pull("demo:1")
    nothing_arrived()


@pytest.mark.parametrize("harm", ["flipped", "longer", "endless"])
def test_what_is_not_the_described_file_is_not_kept(offered: Site, packed: bytes, harm: str) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(MIB))

    flipped = packed[:1000] + bytes([packed[1000] ^ 1]) + packed[1001:]
    answers: dict[str, bytes | Answer] = {"flipped": flipped, "longer": packed + b"!", "endless": endless}
    offered.files["/demo.snap"] = answers[harm]
    with pytest.raises(RegistryError, match="nothing was kept"):
        snapshots.pull("demo:1")
    nothing_arrived()
    assert downloads() == []


def test_a_described_file_must_also_be_a_snapshot(offered: Site, packed: bytes) -> None:
    for content in (b"not a snapshot", packed[:-1]):
        offered.files = {"/catalog.json": catalog(entry(content)), "/demo.snap": content}
        with pytest.raises(SnapshotDamaged, match=r"demo\.snap"):
            snapshots.pull("demo:1")
        nothing_arrived()
        assert downloads() == []


def test_the_default_comes_from_the_registry_when_it_has_one(offered: Site, packed: bytes) -> None:
    offered.files["/catalog.json"] = catalog(entry(packed), entry(packed, name="debian", tag="13"))
    assert snapshots.default().path == snapshots.path_of("debian:13")
    row = next(row for row in snapshots.catalog() if row["name"] == "debian")
    assert (row["registry"], row["here"], row["default"], row["recipe"]) == (True, True, True, "debian-13")


def test_a_pulled_snapshot_is_found_offline(offered: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = snapshots.pull("demo:1")
    monkeypatch.setenv("VPOD_OFFLINE", "1")
    assert snapshots.pull("demo:1") == path
    assert snapshots.locate("demo:1").path == path


def test_a_full_disk_is_named(offered: Site, packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs Linux and root")
    monkeypatch.setenv("VPOD_HOME", str(disk))
    try:
        with pytest.raises(SnapshotError, match=r"cannot be written .No space left"):
            snapshots.pull("demo:1")
        nothing_arrived()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_another_disk_for_downloads_is_no_obstacle(
    tmp_path: Path, packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def across(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    (tmp_path / "from").write_bytes(packed)
    (tmp_path / "other").mkdir()
    registry._move(tmp_path / "from", tmp_path / "other/to")
    assert (tmp_path / "other/to").read_bytes() == packed and not (tmp_path / "from").exists()


def _pull(ref: str) -> None:
    snapshots.pull(ref)


def test_two_processes_that_pull_the_same_download_it_once(offered: Site, packed: bytes) -> None:
    def when_both_want_it(handler: Handler) -> None:
        deadline = time.monotonic() + 30
        while [path for path, _ in offered.requests].count("/catalog.json") < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        handler.send_part(packed)

    offered.files["/demo.snap"] = when_both_want_it
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_pull, args=("demo:1",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path for path, _ in offered.requests].count("/demo.snap") == 1
    assert snapshots.path_of("demo:1").read_bytes() == packed and downloads() == []


def test_a_killed_download_is_resumed(offered: Site, packed: bytes) -> None:
    def slow(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", handler.server.etag)
        handler.end_headers()
        handler.wfile.write(packed[:300_000])
        time.sleep(20)

    offered.files["/demo.snap"] = slow
    code = "from vpod import snapshots; snapshots.pull('demo:1', lambda done, total: print(done, flush=True))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 300_000:
            pass
        process.kill()
    nothing_arrived()
    offered.files["/demo.snap"] = packed
    assert snapshots.pull("demo:1").read_bytes() == packed
    resumed = offered.requests[-1][1]["range"]
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= 300_000


# --- publishing ------------------------------------------------------------------------------------------------------


def made(path: Path, **meta: Any) -> Path:
    snapshot.write(path, meta, b"published", memoryview(bytearray(64 * MIB)))
    return path


def test_what_is_published_can_be_pulled(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "www"
    one = made(
        tmp_path / "1", name="demo", tag="1", description="Ümlaut", has_python=True, created="2026-01-31T12:00:00Z"
    )
    two = made(tmp_path / "2", name="demo", tag="2")
    assert snapshots.publish(folder, [one]) == folder / "catalog.json"
    snapshots.publish(folder, [two])
    site.files = {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setenv("VPOD_REGISTRY", site.url)
    first, second = snapshots.fetch_registry()
    assert (first["tag"], first["description"], first["has_python"]) == ("1", "Ümlaut", True)
    assert first["created"] == "2026-01-31T12:00:00Z" and registry.is_time(second["created"])
    assert snapshots.pull("demo:1").read_bytes() == one.read_bytes()
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in folder.iterdir())
    monkeypatch.setenv("VPOD_REGISTRY", folder.as_uri() + "/")
    assert snapshots.pull("demo").read_bytes() == two.read_bytes()


def test_publishing_again_replaces_the_entry_and_keeps_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "www"
    snapshots.publish(folder, [made(tmp_path / "x", name="demo", tag="1")])
    snapshots.publish(folder, [made(tmp_path / "x", name="demo", tag="1", description="second")])
    (listed,) = json.loads((folder / "catalog.json").read_bytes())["snapshots"]
    assert listed["description"] == "second"
    assert len(list(folder.glob("*.snap"))) == 2 and (folder / listed["url"]).exists()


def test_what_cannot_be_published(tmp_path: Path) -> None:
    folder = tmp_path / "www"
    with pytest.raises(SnapshotError, match="no name and tag"):
        snapshots.publish(folder, [made(tmp_path / "x", name="../demo", tag="1")])
    with pytest.raises(SnapshotError, match="description"):
        snapshots.publish(folder, [made(tmp_path / "x", name="demo", tag="1", description="\x1b[2J")])
    damaged = made(tmp_path / "x", name="demo", tag="1")
    damaged.write_bytes(damaged.read_bytes() + b"!")
    with pytest.raises(SnapshotDamaged):
        snapshots.publish(folder, [damaged])
    assert os.listdir(folder) == []
    (folder / "catalog.json").write_text("mine, not a catalogue")
    with pytest.raises(RegistryError):
        snapshots.publish(folder, [made(tmp_path / "x", name="demo", tag="1")])
    assert (folder / "catalog.json").read_text() == "mine, not a catalogue"
