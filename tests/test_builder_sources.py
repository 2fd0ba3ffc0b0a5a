"""Fetching: places in order, nothing kept that is not proved, downloads that go on where they stopped."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from pathlib import Path

import pytest
from builder_parts import files_below, mirror, sha256
from vpod_builder.progress import Report
from vpod_builder.sources import Digest, Fetcher, Wanted, split_places

from vpod.errors import BuildError, SourceUnreachable, VerificationFailed

DATA = bytes(range(256)) * 4000
DIGEST = Digest("sha256", sha256(DATA))


def fetcher(cache: Path, *places: str, offline: bool = False) -> Fetcher:
    cache.mkdir(exist_ok=True)
    return Fetcher(Report(quiet=True), cache=cache, places=places, offline=offline)


def wanted(*urls: str, digest: Digest = DIGEST, size: int | None = None) -> Wanted:
    return Wanted("demo.tar.gz", urls, digest, size)


def test_fetches_once_and_keeps_by_digest(tmp_path: Path) -> None:
    with mirror({"/demo.tar.gz": DATA}) as server:
        found = fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz"))
        assert found.read_bytes() == DATA and found.name == f"sha256-{sha256(DATA)}"
        fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz"))
        assert len(server.requests) == 1


def test_sha512_too(tmp_path: Path) -> None:
    digest = Digest("sha512", hashlib.sha512(DATA).hexdigest())
    with mirror({"/demo.tar.gz": DATA}) as server:
        assert fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz", digest=digest)).read_bytes() == DATA


def test_a_wrong_digest_keeps_nothing(tmp_path: Path) -> None:
    with mirror({"/demo.tar.gz": DATA[:-1] + b"!"}) as server:
        with pytest.raises(VerificationFailed, match=r"SHA-256 is .*, the recipe says") as caught:
            fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz"))
        assert server.url in str(caught.value)
    assert files_below(tmp_path / "c") == []


def test_a_wrong_file_in_a_folder_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "demo.tar.gz").write_bytes(b"something else")
    with mirror({"/demo.tar.gz": DATA}) as server, pytest.raises(VerificationFailed, match="delete or mend"):
        fetcher(tmp_path / "c", str(tmp_path)).fetch(wanted(server.url + "/demo.tar.gz"))
    assert files_below(tmp_path / "c") == []


def test_folders_and_urls_of_vpod_sources_come_first(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with mirror({"/first/demo.tar.gz": DATA, "/own/demo.tar.gz": DATA}) as server:
        places = [str(tmp_path / "here"), server.url + "/first"]
        fetcher(tmp_path / "a", *places).fetch(wanted(server.url + "/own/demo.tar.gz"))
        assert [path for path, _ in server.requests] == ["/first/demo.tar.gz"]
        (tmp_path / "here/demo.tar.gz").write_bytes(DATA)
        fetcher(tmp_path / "b", *places).fetch(wanted(server.url + "/own/demo.tar.gz"))
        assert len(server.requests) == 1


def test_places_are_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.tar.gz").write_bytes(DATA)
    (tmp_path / "c").mkdir()
    monkeypatch.setenv("VPOD_SOURCES", f"/nowhere:{tmp_path}")
    found = Fetcher(Report(quiet=True), cache=tmp_path / "c").fetch(wanted())
    assert found.read_bytes() == DATA


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ("", []),
        ("/a:../b", ["/a", "../b"]),
        ("http://h/x:/a", ["http://h/x", "/a"]),
        ("/a:https://h:8443/x:/b:http://i", ["/a", "https://h:8443/x", "/b", "http://i"]),
        ("file:///srv/x http://h:80", ["file:///srv/x", "http://h:80"]),
    ],
)
def test_how_vpod_sources_is_split(value: str, places: list[str]) -> None:
    assert split_places(value) == places


def test_a_broken_connection_is_resumed(tmp_path: Path) -> None:
    with mirror({"/demo.tar.gz": DATA}) as server:
        server.break_after = 400_000
        found = fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz", size=len(DATA)))
        assert found.read_bytes() == DATA
        assert [range_ for _, range_ in server.requests] == [None, "bytes=400000-", "bytes=800000-"]


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f".{DIGEST}.unfinished").write_bytes(DATA[:1000])
    with mirror({"/demo.tar.gz": DATA}) as server:
        assert fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz")).read_bytes() == DATA
        assert server.requests == [("/demo.tar.gz", "bytes=1000-")]


def test_a_server_without_ranges_sends_it_all(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f".{DIGEST}.unfinished").write_bytes(DATA[:1000])
    with mirror({"/demo.tar.gz": DATA}) as server:
        server.ranges = False
        assert fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz")).read_bytes() == DATA


@pytest.mark.parametrize("leftover", [b"?" * 1000, b"?" * (len(DATA) + 5)])
def test_a_bad_leftover_is_fetched_anew(tmp_path: Path, leftover: bytes) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f".{DIGEST}.unfinished").write_bytes(leftover)
    with mirror({"/demo.tar.gz": DATA}) as server:
        assert fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz")).read_bytes() == DATA


def test_a_server_that_sends_too_much_is_cut_off(tmp_path: Path) -> None:
    with mirror({"/demo.tar.gz": DATA * 9}) as server, pytest.raises(SourceUnreachable, match="more than"):
        fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz", size=len(DATA)))
    assert all(path.stat().st_size <= len(DATA) for path in (tmp_path / "c").iterdir())


def test_a_rotten_cache_is_mended(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / str(DIGEST)).write_bytes(b"rot")
    with mirror({"/demo.tar.gz": DATA}) as server:
        assert fetcher(tmp_path / "c").fetch(wanted(server.url + "/demo.tar.gz")).read_bytes() == DATA


def test_the_message_lists_what_was_tried_and_what_helps(tmp_path: Path) -> None:
    with mirror({}) as server, pytest.raises(SourceUnreachable) as caught:
        urls = (server.url + "/a", "http://127.0.0.1:9/b", "ftp://h/c")
        fetcher(tmp_path / "c", str(tmp_path)).fetch(wanted(*urls))
    message = str(caught.value)
    for part in (str(tmp_path), server.url + "/a: HTTP 404", "127.0.0.1:9/b", "ftp", "VPOD_SOURCES", "demo.tar.gz"):
        assert part in message


def test_offline_uses_folders_and_cache_only(tmp_path: Path) -> None:
    with mirror({"/demo.tar.gz": DATA}) as server:
        with pytest.raises(SourceUnreachable, match="VPOD_OFFLINE"):
            fetcher(tmp_path / "c", offline=True).fetch(wanted(server.url + "/demo.tar.gz"))
        assert server.requests == []
    (tmp_path / "demo.tar.gz").write_bytes(DATA)
    assert fetcher(tmp_path / "c", str(tmp_path), offline=True).fetch(wanted()).read_bytes() == DATA
    (tmp_path / "demo.tar.gz").unlink()
    assert fetcher(tmp_path / "c", offline=True).fetch(wanted()).read_bytes() == DATA


def test_what_proves_itself_is_kept_only_then(tmp_path: Path) -> None:
    def check(data: bytes) -> None:
        if data != b"signed":
            raise VerificationFailed("not signed")

    with mirror({"/list": b"forged"}) as server:
        url = server.url + "/list"
        with pytest.raises(VerificationFailed):
            fetcher(tmp_path / "c").fetch_proved("list", [url], check, 100)
        assert files_below(tmp_path / "c") == []
        server.files["/list"] = b"signed"
        assert fetcher(tmp_path / "c").fetch_proved("list", [url], check, 100) == b"signed"
        assert fetcher(tmp_path / "c", offline=True).fetch_proved("list", [url], check, 100) == b"signed"
        with pytest.raises(VerificationFailed, match="more than 5 bytes"):
            fetcher(tmp_path / "c").fetch_proved("list", [url], check, 5)


def test_two_at_once_fetch_it_once(tmp_path: Path) -> None:
    with mirror({"/demo.tar.gz": DATA}) as server:
        one = fetcher(tmp_path / "c")
        threads = [threading.Thread(target=one.fetch, args=(wanted(server.url + "/demo.tar.gz"),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 1


def _fetch_in_child(cache: Path, url: str) -> None:
    fetcher(cache).fetch(wanted(url))


def test_two_processes_at_once(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with mirror({"/demo.tar.gz": DATA}) as server:
        context = multiprocessing.get_context("fork")
        url = server.url + "/demo.tar.gz"
        children = [context.Process(target=_fetch_in_child, args=(tmp_path / "c", url)) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0, 0, 0]
        assert len(server.requests) == 1


def test_digests_are_checked_for_their_form() -> None:
    for algorithm, value in (("md5", "0" * 32), ("sha256", "0" * 63), ("sha256", "G" * 64), ("sha512", "0" * 64)):
        with pytest.raises(BuildError):
            Digest(algorithm, value)
