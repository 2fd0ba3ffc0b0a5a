"""The cage from inside: a worker that runs arbitrary host code tries to get out. docs/security.md is the argument.

`tests/caged.py` is that worker. Each attempt has a process of its own, forked from a template as every worker is, and
must be killed by its filter: an error that the kernel answers would be a way of asking it.
"""

from __future__ import annotations

import os
import queue
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import caged
from tests.test_template import Thawed, thawed
from tests.test_worker import POWER_OFF, SLEEP
from vpod import Sandbox, confine, link, template
from vpod.errors import GuestStopped, SettingError, WorkerDied
from vpod.link import Link
from vpod.template import Template
from vpod.tier import Tier

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(bool(confine.missing()), reason="this host hasn't every layer of the cage")


@pytest.fixture(scope="module")
def prison(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """A template whose workers run arbitrary code."""
    usual = link.worker_command()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests import caged; caged.main()"
    held, link.worker_command = link.worker_command, lambda: [*usual[:-1], program]
    try:
        found = Template(Tier())
    finally:
        link.worker_command = held
    found.start(thawed(SLEEP, tmp_path_factory.mktemp("prison")))  # type: ignore[arg-type]
    yield found
    found.close()


def attempt(prison: Template, name: str) -> Exception:
    """How the worker ended that was told to try something."""
    from vpod import wire

    worker = prison.fork()
    try:
        inbox: queue.SimpleQueue = queue.SimpleQueue()
        worker.open(inbox.put)
        worker._send(wire.encode(wire.CONSOLE, name.encode()))
        answer = inbox.get(timeout=20)
        assert isinstance(answer, Exception)
        return answer
    finally:
        worker.close()


def test_the_prison_works(prison: Template) -> None:
    error = attempt(prison, "nothing")
    assert isinstance(error, GuestStopped | WorkerDied) and "nothing was tried" in str(error)


@pytest.mark.parametrize("name", caged.ATTEMPTS)
def test_every_attempt_ends_the_worker(prison: Template, name: str) -> None:
    error = attempt(prison, name)
    assert isinstance(error, WorkerDied)
    assert "SIGSYS" in str(error) and "its cage forbids" in str(error), error


def test_the_same_attempts_work_outside() -> None:
    """So that none of them fails for a reason of its own: a file that isn't there, a call with another number."""
    for name in ("open a file", "look at a file", "list a folder", "a TCP socket", "a pipe", "map executable memory"):
        assert caged.ATTEMPTS[name]() is not None


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("who", ["template", "fork", "alone"])
def test_the_kernel_says_that_the_layers_are_closed(tmp_path: Path, who: str) -> None:
    cached: Thawed = thawed(SLEEP, tmp_path)
    found = Template(Tier())
    found.start(cached)  # type: ignore[arg-type]
    worker = found.fork() if who != "alone" else Link(tier=Tier())
    try:
        if who == "alone":
            worker.thaw(cached.state, cached.ram_path)
        worker.statistics()
        pid = found.pid if who == "template" else worker.pid
        told = status(pid)
        assert (told["Seccomp"], told["NoNewPrivs"]) == ("2", "1")
        assert int(told["Seccomp_filters"]) == (2 if who == "fork" else 1)
        assert {told[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
        limits = Path(f"/proc/{pid}/limits").read_text()
        wanted = {"Max file size": "0", "Max core file size": "0"}
        wanted |= {} if who == "template" else {"Max processes": "0"}
        for name, most in wanted.items():
            assert re.search(rf"^{name} +{most} +{most} ", limits, re.MULTILINE), limits
        space = re.search(r"^Max address space +(\d+) ", limits, re.MULTILINE)
        assert space is not None and int(space[1]) < 2 << 30
    finally:
        worker.close()
        found.close()


def test_what_a_worker_writes_into_its_log_is_kept_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("VPOD_LOG", str(log))
    worker = template.fork(thawed(SLEEP, tmp_path), Tier())  # type: ignore[arg-type]
    try:
        worker.statistics()
        limits = Path(f"/proc/{worker.pid}/limits").read_text()
        assert re.search(rf"^Max file size +{confine.LOG} +{confine.LOG} ", limits, re.MULTILINE), limits
        worker._send(b"\xff" * 5)  # against the rules: told, and nothing written
        assert log.read_bytes() == b""
    finally:
        worker.close()
        template.clear()


def test_the_caller_is_in_no_cage(tmp_path: Path) -> None:
    limits = ("RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_CORE")
    before = [resource.getrlimit(getattr(resource, name)) for name in limits], status(os.getpid())["Seccomp"]
    template.fork(thawed(POWER_OFF, tmp_path), Tier()).close()  # type: ignore[arg-type]
    template.clear()
    assert before == ([resource.getrlimit(getattr(resource, name)) for name in limits], status(os.getpid())["Seccomp"])


class TestFilter:
    """The program, executed by a few lines of Python that know nothing of how it was made."""

    MACHINE = "x86_64"
    CODE = (0x7F12_3420_0000, 64 << 20)

    def verdict(self, number: int, *arguments: int, forks: bool = False, audit: int = 0xC000003E) -> bool:
        import struct

        code = confine.program(self.MACHINE, confine.Cage(1 << 32, self.CODE, forks))
        data = struct.pack("<IIQ6Q", number, audit, 0, *(list(arguments) + [0] * 6)[:6])
        a = x = at = 0
        while True:
            kind, true, false, k = struct.unpack_from("<HBBI", code, 8 * at)
            at += 1
            if kind == 0x20:
                (a,) = struct.unpack_from("<I", data, k)
            elif kind == 0x07:
                x = a
            elif kind == 0x14:
                a = (a - k) & 0xFFFF_FFFF
            elif kind == 0x0C:
                a = (a + x) & 0xFFFF_FFFF
            elif kind == 0x06:
                assert k in (confine.ALLOW, confine.KILL)
                return k == confine.ALLOW
            else:
                at += true if {0x15: a == k, 0x25: a > k, 0x45: bool(a & k)}[kind] else false

    @pytest.mark.parametrize("forks", [False, True])
    def test_exactly_the_list_is_allowed(self, forks: bool) -> None:
        listed = {**confine.CALLS, **(confine.FORKING if forks else {})}
        wanted = {numbers[0] for numbers in listed.values()} | {9, 10}
        found = {number for number in range(600) if self.verdict(number, forks=forks)}
        assert found == wanted
        assert not any(self.verdict(number | 0x4000_0000, forks=forks) for number in range(600))
        assert not any(self.verdict(number, forks=forks, audit=0x40000003) for number in range(600))

    def test_memory_becomes_executable_within_the_translators_only(self) -> None:
        start, size = self.CODE
        page = 4096
        for at, length, allowed in (
            (start, page, True), (start, size, True), (start + size - page, page, True),
            (start + page, size - page, True),
            (start - page, page, False), (start + size, page, False), (start + size - page, 2 * page, False),
            (start, size + page, False), (start + (1 << 32), page, False), (start, (1 << 32) + page, False),
            (start - (1 << 32), page, False), (0, page, False), (start + page, (1 << 64) - page, False),
        ):  # fmt: skip
            assert self.verdict(10, at, length, 5) is allowed, (hex(at), hex(length))
            assert self.verdict(10, at, length, 3), "not executable"
            assert not self.verdict(10, at, length, 7) and not self.verdict(10, at, length, 4)
        assert self.verdict(9, 0, page, 3) and not self.verdict(9, 0, page, 5) and not self.verdict(9, 0, page, 7)

    def test_without_a_translator_nothing_becomes_executable(self) -> None:
        code = confine.program(self.MACHINE, confine.Cage(1 << 32, None, False))
        assert len(code) % 8 == 0 and b"\xff\xff\xff\x7f" not in code
        self.CODE = None  # type: ignore[assignment]
        assert not self.verdict(10, 0x7F12_3420_0000, 4096, 5) and self.verdict(10, 0, 4096, 3)

    def test_a_template_clones_siblings_and_nothing_else(self) -> None:
        assert self.verdict(56, 0x8011, forks=True) and not self.verdict(56, 0x8011)
        for flags in (17, 0x8000, 0x8011 | 0x100, 0x8011 | 0x1000_0000, 0x8011 | 1 << 32, 0x10F00):
            assert not self.verdict(56, flags, forks=True), hex(flags)


def test_the_page_gives_a_reason_for_each_call() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    told = set(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, re.MULTILINE))
    named = {name for row in told for name in re.findall(r"`(\w+)`", row)}
    assert named == set(confine.CALLS) | set(confine.FORKING) | {"mmap", "mprotect", "clone"}


def test_an_isolation_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="isolation is 'loose'"):
        Sandbox.create(isolation="loose")  # type: ignore[arg-type]
    monkeypatch.setattr(confine, "missing", lambda: ("landlock",))
    with pytest.raises(SettingError, match="no landlock; see vpod doctor"):
        Sandbox.create(isolation="strict")


def test_what_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert confine.missing() == ()
    monkeypatch.setattr("vpod._host.landlock_version", lambda: 0)
    monkeypatch.setattr("vpod._host.can_filter_calls", lambda: False)
    assert confine.missing() == ("landlock", "seccomp")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert confine.missing() == ("privileges", "landlock", "seccomp")
    assert os.getpid()
