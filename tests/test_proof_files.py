"""The fuzzer finds what it is there to find, and every file of the seed corpus ends as its name says.

The faults that the fuzzer or its makers found in vpod's own parsers are seeds of the corpus: each one's name says how
it must end now. What needs more than one file's bytes has a test of its own below.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from random import Random

import pytest
from builder_parts import tar_of  # imported first: it makes the tree's own vpod_builder importable
from hypothesis import given, settings
from hypothesis import strategies as st
from vpod_builder import deb822, inflate, kernel, rsa, sources, tar
from vpod_builder.progress import Report
from vpod_builder.tree import Tree

from tests.proof import files, fuzzer, mutators, seeds
from tests.proof.fuzzer import Fuzzer, Subject, Violation, contained
from vpod import elf, wire
from vpod.errors import SourceError, VerificationFailed, WorkerDied
from vpod.link import Link

CORPUS = [(name, path.name) for name in files.SUBJECTS for path in sorted((files.CORPUS / name).iterdir())]


@pytest.mark.parametrize(("format", "name"), CORPUS, ids=["/".join(pair) for pair in CORPUS])
def test_a_seed_ends_as_its_name_says(format: str, name: str) -> None:
    data = (files.CORPUS / format / name).read_bytes()
    assert files.judged(files.SUBJECTS[format], name, data) is None


def test_every_format_has_seeds_that_are_accepted_and_is_made_by_the_script() -> None:
    assert files.SUBJECTS.keys() == seeds.SEEDS.keys() == files.SHORT.keys()
    assert all((format, any(n.endswith(".ok") for f, n in CORPUS if f == format)) for format in files.SUBJECTS)
    assert sum((files.CORPUS / format / name).stat().st_size for format, name in CORPUS) < 1 << 20


# --- the fuzzer ------------------------------------------------------------------------------------------------------


def planted(data: bytes) -> None:
    """A parser that checks its magic, a byte at a time, and its length, and has one fault behind both."""
    if data[:1] != b"\x7f":
        raise VerificationFailed("magic")
    if data[1:2] != b"\xff":
        raise VerificationFailed("magic")
    if data[2:3] != b"/":
        raise VerificationFailed("magic")
    length = int.from_bytes(data[3:5], "little")
    if length != len(data) - 5:
        raise VerificationFailed("length")
    if length > 20:
        data[5 + length]


def fit_length(data: bytes, random: Random) -> bytes:
    return data[:3] + (max(len(data) - 5, 0) & 0xFFFF).to_bytes(2, "little") + data[5:]


def found_by(subject: Subject, seed: int, executions: int, *corpus: bytes) -> list[fuzzer.Finding]:
    return Fuzzer(subject, corpus or [bytes(16)], seed).run(executions).findings


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_behind_magic_and_length_is_found_and_made_small(seed: int) -> None:
    subject = Subject("planted", planted, (VerificationFailed,), (__file__,), repair=fit_length)
    (finding,) = found_by(subject, seed, 8000)
    assert finding.error.startswith("IndexError")
    assert finding.place.endswith("planted")
    assert len(finding.data) < 100


def test_without_coverage_it_is_not_found() -> None:
    """So it is the coverage that leads there: the search is the same but for the files that are watched."""
    blind = Subject("planted", planted, (VerificationFailed,), (), repair=fit_length)
    assert not any(found_by(blind, seed, 8000) for seed in range(3))


def test_the_same_seed_does_the_same() -> None:
    subject = Subject("planted", planted, (VerificationFailed,), (__file__,), repair=fit_length)
    assert found_by(subject, 3, 4000) == found_by(subject, 3, 4000)


def test_what_takes_too_long_is_found() -> None:
    def spin(data: bytes) -> None:
        while data:
            pass

    (finding,) = found_by(Subject("spin", spin, (), (__file__,), seconds=0.2), 1, 1, b"x")
    assert finding.error.startswith("TooSlow")


def test_a_broken_promise_is_found_through_every_except() -> None:
    def swallows(data: bytes) -> None:
        try:
            raise Violation("a file outside")
        except Exception:
            pass

    (finding,) = found_by(Subject("swallows", swallows, (), (__file__,)), 1, 1)
    assert finding.error == "Violation: a file outside"


def outside(place: Path) -> None:
    (place.parent / "x").write_bytes(b"")


@pytest.mark.parametrize(
    "act",
    [
        outside,
        lambda place: os.mkdir(place / ".." / "x"),
        lambda place: os.symlink("/etc/passwd", place.parent / "x"),
        lambda place: os.rename(place / "here", place.parent / "x"),
        lambda place: os.chmod(place.parent, 0o777),
        lambda place: os.system("true"),
    ],
)
def test_nothing_happens_outside_a_contained_folder(tmp_path: Path, act: object) -> None:
    place = tmp_path / "target"
    place.mkdir()
    (place / "here").write_bytes(b"")
    with contained(place):
        (place / "there").write_bytes(b"")
        with pytest.raises(Violation):
            act(place)  # type: ignore[operator]
    assert not (tmp_path / "x").exists()


def test_a_link_out_of_the_folder_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "target" / "l").symlink_to(tmp_path / "other")
    with contained(tmp_path / "target"), pytest.raises(Violation):
        (tmp_path / "target" / "l" / "x").write_bytes(b"")


@given(st.binary(max_size=300), st.integers(0, 1 << 32))
def test_mutations_take_any_bytes(data: bytes, seed: int) -> None:
    random = Random(seed)
    for _ in range(5):
        mutators.mutated(data, random, data, (b"word",), (mutators.json_mutation,))


def test_json_mutations_write_what_json_readers_take() -> None:
    random, text = Random(1), json.dumps({"a": [1, {"b": "x"}], "c": None}).encode()
    read = 0
    for _ in range(300):
        try:
            json.loads(mutators.json_mutation(text, random).decode("utf-8", "surrogatepass"))
            read += 1
        except (ValueError, RecursionError):
            continue
    assert read > 200


def test_a_piece_counts_its_executions_and_finds_nothing() -> None:
    bound = resource.getrlimit(resource.RLIMIT_AS)
    outcome = files.run(format="elf+worker", executions=200, seed=7)
    assert resource.getrlimit(resource.RLIMIT_AS) == bound, "its bound is its own"
    assert outcome.differences == ()
    assert outcome.counts["elf executions"] == 200 + sum(format == "elf" for format, _ in CORPUS)
    assert set(outcome.counts) == {"executions", "elf executions", "worker executions"}


def test_the_pieces_cover_every_format() -> None:
    for form in ("short", "long"):
        named = [str(piece.arguments["format"]).split("+") for piece in files.pieces(form, 1)]
        assert {name for names in named for name in names} == set(files.SUBJECTS)


# --- faults that more than one file's bytes show ---------------------------------------------------------------------


def seconds(work: object) -> float:
    start = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - start


def test_many_small_gzip_members_take_linear_time() -> None:
    """Once each member cost a copy of a mebibyte and a sum over all before it."""
    import gzip

    members = gzip.compress(b"x", mtime=0) * 40_000
    assert seconds(lambda: inflate.inflate(members, limit=1 << 20, name="x")) < 5


def test_many_continuation_lines_take_linear_time() -> None:
    """Once each line copied the whole field."""
    text = "SHA256:\n" + " x\n" * 1_000_000
    assert seconds(lambda: deb822.parse(text)) < 5


def test_many_symbol_tables_are_refused_before_they_are_read() -> None:
    data = (files.CORPUS / "elf" / "many-symbol-tables.ProgramError").read_bytes()
    with pytest.raises(elf.ProgramError, match="several symbol tables"):
        elf.parse(data)


def test_a_key_of_a_megabyte_is_refused_at_once() -> None:
    with pytest.raises(VerificationFailed, match="more than a public key has"):
        rsa.PublicKey.from_pem(b"-----BEGIN PUBLIC KEY-----\n" * 40_000, name="x")


def test_folders_above_members_are_bounded() -> None:
    """Each of these members is a few hundred bytes, compressed, and asks for two thousand folders."""
    tree = Tree()
    with pytest.raises(VerificationFailed, match="all paths together"):
        for number in range(1000):
            tree.unpack(tar.entries(tar_of((f"{number}/" + "a/" * 2000 + "b", b"")), name="x"), name="x")


def test_a_long_chain_of_modules_has_an_order() -> None:
    needs = {str(number): [str(number + 1)] for number in range(3000)} | {"3000": []}
    assert kernel.load_order(needs, ["0"]) == [str(number) for number in range(3000, -1, -1)]


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3), min_size=6))
def test_a_load_order_puts_every_module_after_what_it_needs(needs: dict[str, list[str]]) -> None:
    try:
        order = kernel.load_order(needs, sorted(needs))
    except kernel.BuildError:
        return
    assert sorted(order) == sorted(needs)
    assert all(order.index(other) < order.index(name) for name in needs for other in needs[name])


@pytest.mark.parametrize("range_", ["bytes " + "9" * 5000 + "-9/10", "bytes x-9/10"])
def test_an_answer_for_an_impossible_range_is_refused(range_: str) -> None:
    class Answer:
        status = 206
        headers = {"Content-Range": range_}  # noqa: RUF012

    with pytest.raises(sources._Refused):
        sources._continues(Answer(), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["http://[::1/x", "http://" + "a" * 70 + ".invalid/x"])
def test_an_address_that_is_none_is_a_source_error(tmp_path: Path, url: str) -> None:
    fetcher = sources.Fetcher(Report(quiet=True), cache=tmp_path, places=[], offline=False)
    with pytest.raises(SourceError):
        fetcher.fetch_proved("x", [url], lambda data: None, 100)


@pytest.mark.parametrize("said", [b"[" * 50_000, b"[1]", b'"x"', b"9" * 5000])
def test_statistics_that_are_none_are_the_workers_death(said: bytes) -> None:
    link = Link(["/bin/cat"])  # gives back whatever it is sent, in a worker's place
    try:
        link._statistics.put(said)
        with pytest.raises(WorkerDied):
            link.statistics(timeout=0.5)
    finally:
        link.close()
    assert wire.STATS == 5
