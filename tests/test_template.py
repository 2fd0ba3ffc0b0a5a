"""Templates: what a fork shares and what it doesn't, and every way in which a template or a worker of it may end.

Real worker processes run small bare programs; the guest's side of it is tests/test_guest.py.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sandboxes import ends, is_running
from tests.test_worker import MEMORY, POWER_OFF, SLEEP, TO_UART, frozen, say
from vpod import link as links
from vpod import template, wire
from vpod.disasm import encode
from vpod.errors import GuestStopped, SandboxClosed, WorkerDied
from vpod.link import Link
from vpod.template import Template
from vpod.tier import Tier

pytestmark = pytest.mark.skipif(not template.possible(), reason="needs CLONE_PARENT, which only Linux has")

ROOT = Path(__file__).parent.parent
TIER = Tier()


class Thawed(NamedTuple):
    """What `template.fork` needs of a snapshot."""

    id: str
    state: bytes
    ram_path: Path


def thawed(program: list[int], folder: Path, name: str = "one") -> Thawed:
    state, ram = frozen(program, folder)
    os.close(ram)
    return Thawed(name, state, folder / "ram")


@pytest.fixture(autouse=True)
def no_templates_before_and_after() -> Iterator[None]:
    template.clear()
    yield
    template.clear()


@contextlib.contextmanager
def forked(cached: Thawed, tier: Tier = TIER) -> Iterator[Link]:
    link = template.fork(cached, tier)  # type: ignore[arg-type]
    try:
        yield link
    finally:
        link.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def only_template() -> Template:
    (found,) = template._templates.values()
    return found


def ending(link: Link) -> Exception:
    """The error that ends the link."""
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    try:
        link.open(inbox.put)
    except Exception as error:
        return error
    answer = inbox.get(timeout=20)
    assert isinstance(answer, Exception)
    return answer


def test_workers_are_forks_of_one_template_and_children_of_this_process(tmp_path: Path) -> None:
    cached = thawed(SLEEP, tmp_path)
    with forked(cached) as one, forked(cached) as other:
        source = only_template()
        assert len({one.pid, other.pid, source.pid}) == 3
        assert [parent_of(pid) for pid in (one.pid, other.pid, source.pid)] == [os.getpid()] * 3
        assert os.getsid(one.pid) == one.pid and os.getsid(other.pid) == other.pid
        assert one.statistics()["instructions"] == other.statistics()["instructions"]
    assert not is_running(one.pid) and not is_running(other.pid) and is_running(source.pid)


def test_each_runs_the_machine_from_its_beginning(tmp_path: Path) -> None:
    cached = thawed([TO_UART, *say("hi\n"), *POWER_OFF], tmp_path)
    for _ in range(3):
        with forked(cached) as link:
            assert isinstance(ending(link), GuestStopped)
            assert link.console == b"hi\n"


def test_a_worker_has_no_descriptor_but_its_socket(tmp_path: Path) -> None:
    with forked(thawed(SLEEP, tmp_path)) as link:
        link.statistics()
        for pid in (link.pid, only_template().pid):
            held = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
            assert held.pop("0").startswith("socket:")
            assert set(held.values()) == {os.devnull}
        assert os.readlink(f"/proc/{link.pid}/fd/0") != os.readlink(f"/proc/{only_template().pid}/fd/0")


def test_the_guests_clock_stands_still_in_a_template(tmp_path: Path) -> None:
    early = [
        TO_UART,
        encode("csrrs", rd="t2", rs1="zero", imm=0xC01),  # time, in ticks of 100 ns
        encode("lui", rd="t3", imm=4_000_000 & ~0xFFF),
        encode("bltu", rs1="t2", rs2="t3", imm=12),
        *say("x"),
        *POWER_OFF,
    ]
    cached = thawed(early, tmp_path)
    for _ in range(2):
        with forked(cached) as link:
            assert isinstance(ending(link), GuestStopped)
            assert link.console == b""
        time.sleep(0.6)


def test_snapshots_and_tiers_have_templates_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = thawed(SLEEP, tmp_path), thawed(POWER_OFF, tmp_path / "other", "other")
    with forked(one), forked(other) as link, forked(one, Tier(translate=False)):
        assert isinstance(ending(link), GuestStopped)
        assert len({known.pid for known in template._templates.values()}) == 3


def test_a_prepared_process_is_used_or_ended(tmp_path: Path) -> None:
    cached = thawed(SLEEP, tmp_path)
    prepared = template.prepare(TIER)
    assert prepared is not None
    template.fork(cached, TIER, prepared).close()  # type: ignore[arg-type]
    assert only_template() is prepared
    assert template.prepare(TIER) is None, "one waits already"
    spare = Template(TIER)
    template.fork(cached, TIER, spare).close()  # type: ignore[arg-type]
    assert only_template() is prepared and not is_running(spare.pid)


class TestEnds:
    def test_a_killed_template_leaves_its_workers_and_the_next_fork_starts_another(self, tmp_path: Path) -> None:
        cached = thawed(SLEEP, tmp_path)
        with forked(cached) as link:
            gone = only_template().pid
            os.kill(gone, signal.SIGKILL)
            with forked(cached) as other:
                assert other.statistics() and link.statistics()
                assert only_template().pid != gone
        assert not os.path.exists(f"/proc/{gone}"), "nor is it a zombie"

    def test_a_template_that_is_killed_while_it_starts(self, tmp_path: Path) -> None:
        prepared = Template(TIER)
        os.kill(prepared.pid, signal.SIGKILL)
        link = template.fork(thawed(SLEEP, tmp_path), TIER, prepared)  # type: ignore[arg-type]
        assert link.statistics()
        link.close()
        assert not os.path.exists(f"/proc/{prepared.pid}")

    def test_clear_ends_templates_but_no_worker(self, tmp_path: Path) -> None:
        with forked(thawed(SLEEP, tmp_path)) as link:
            process = only_template().pid
            template.clear()
            assert not os.path.exists(f"/proc/{process}") and link.statistics()

    def test_a_template_of_no_use_ends(self, tmp_path: Path) -> None:
        """With a shorter time, in a process started as all are."""
        command = links.worker_command()
        command[-1] = command[-1].replace("main; main()", "main; import vpod.worker; vpod.worker.IDLE = 0.5; main()")
        held = links.worker_command
        links.worker_command = lambda: command
        try:
            prepared = Template(TIER)
        finally:
            links.worker_command = held
        cached = thawed(SLEEP, tmp_path)
        link = template.fork(cached, TIER, prepared)  # type: ignore[arg-type]
        assert ends(prepared.pid) and link.statistics()
        link.close()
        template.fork(cached, TIER).close()  # type: ignore[arg-type]
        assert only_template() is not prepared and not os.path.exists(f"/proc/{prepared.pid}")

    def test_a_bad_state_is_told_by_its_field_each_time(self, tmp_path: Path) -> None:
        cached = thawed(SLEEP, tmp_path)
        os.truncate(cached.ram_path, MEMORY - 4096)
        for _ in range(2):
            with pytest.raises(WorkerDied, match="RAM file"):
                template.fork(cached, TIER)  # type: ignore[arg-type]
        assert template._templates == {}

    def test_a_ram_file_that_is_not_there_leaves_no_process(self, tmp_path: Path) -> None:
        cached = thawed(SLEEP, tmp_path)
        cached.ram_path.unlink()
        prepared = Template(TIER)
        with pytest.raises(FileNotFoundError):
            template.fork(cached, TIER, prepared)  # type: ignore[arg-type]
        assert not os.path.exists(f"/proc/{prepared.pid}") and template._templates == {}

    def test_a_worker_that_is_killed_is_told_and_reaped(self, tmp_path: Path) -> None:
        with forked(thawed(SLEEP, tmp_path)) as link:
            link.statistics()
            os.kill(link.pid, signal.SIGKILL)
            error = ending(link)
            assert isinstance(error, WorkerDied) and "SIGKILL" in str(error)
            assert not os.path.exists(f"/proc/{link.pid}")

    def test_no_process_outlives_the_caller(self, tmp_path: Path) -> None:
        frozen(SLEEP, tmp_path)
        command = [sys.executable, "-m", "tests.test_template", str(tmp_path)]
        caller = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        pids = [int(pid) for pid in caller.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_running, pids))
        caller.kill()
        caller.wait()
        assert all(map(ends, pids))

    def test_a_fork_of_this_process_has_no_template(self, tmp_path: Path) -> None:
        cached = thawed(SLEEP, tmp_path)
        with forked(cached) as link:
            process = only_template().pid
            child = os.fork()
            if child == 0:
                try:
                    assert template._templates == {}
                    with forked(cached) as own:
                        os._exit(0 if own.statistics() and only_template().pid != process else 1)
                finally:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert link.statistics() and is_running(process)


def altered(change: str, cached: Thawed) -> Template:
    """A template that was started, of whose module `worker` something is altered."""
    usual = links.worker_command()
    held, links.worker_command = links.worker_command, lambda: [*usual[:-1], usual[-1].replace("main()", change)]
    try:
        found = Template(TIER)
    finally:
        links.worker_command = held
    found.start(cached)  # type: ignore[arg-type]
    return found


def test_a_worker_that_dies_before_its_first_word_is_told_and_reaped(tmp_path: Path) -> None:
    """The template has said which process it was."""
    change = "import os; from vpod import worker; worker.Worker.serve = lambda *_: os._exit(7); main()"
    source = altered(change, thawed(SLEEP, tmp_path))
    link = source.fork()
    error = ending(link)
    assert isinstance(error, WorkerDied) and "exit code 7" in str(error)
    link.close()
    source.close()
    assert not os.path.exists(f"/proc/{link.pid}")


def test_a_template_that_dies_before_its_answer_leaves_a_worker(tmp_path: Path) -> None:
    """The worker's first words say which process it is."""
    change = (
        "import os; from vpod.worker import Worker; first, send = os.getpid(), Worker._send; "
        "Worker._send = lambda self: os._exit(0) if os.getpid() == first else send(self); main()"
    )
    source = altered(change, thawed(SLEEP, tmp_path))
    link = source.fork()
    assert ends(source.pid) and link.statistics() and parent_of(link.pid) == os.getpid()
    link.close()
    source.close()
    assert not os.path.exists(f"/proc/{link.pid}") and not os.path.exists(f"/proc/{source.pid}")


def test_a_fork_that_the_host_refuses_is_told(tmp_path: Path) -> None:
    change = (
        "from vpod import worker; import os; "
        "worker.clone_sibling = lambda: (_ for _ in ()).throw(OSError(11, 'no process could be forked')); main()"
    )
    source = altered(change, thawed(SLEEP, tmp_path))
    for _ in range(2):
        with pytest.raises(WorkerDied, match="no process could be forked"):
            source.fork()
    assert is_running(source.pid), "it goes on"
    source.close()


def test_many_at_once_from_many_threads(tmp_path: Path) -> None:
    cached = thawed(SLEEP, tmp_path)
    links: list[Link] = []

    def make() -> None:
        for _ in range(8):
            links.append(template.fork(cached, TIER))  # type: ignore[arg-type]

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({link.pid for link in links}) == 48
    assert all(link.statistics() for link in links)
    for link in links:
        link.close()
    assert len(template._templates) == 1


def test_nothing_is_left_open(tmp_path: Path) -> None:
    cached = thawed(SLEEP, tmp_path)

    def kept() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with forked(cached):
        pass
    before = kept()
    for _ in range(10):
        with forked(cached) as link:
            link.statistics()
    assert kept() == before
    template.clear()
    assert kept()[0] == before[0] - 1, "the socket to the template"


def test_a_template_is_told_nothing_but_fork(tmp_path: Path) -> None:
    with forked(thawed(SLEEP, tmp_path)):
        source = only_template()
        source._socket.sendall(wire.encode(wire.STATS))
        with pytest.raises(WorkerDied, match="nothing but FORK"):
            source.fork()
        with forked(thawed(SLEEP, tmp_path)) as link:
            assert link.statistics() and only_template() is not source


def test_a_closed_link_says_so(tmp_path: Path) -> None:
    with forked(thawed(SLEEP, tmp_path)) as link:
        pass
    with pytest.raises(SandboxClosed):
        link.statistics()


if __name__ == "__main__":  # a caller that will be killed
    state, ram = frozen(SLEEP, Path(sys.argv[1]))
    here = template.fork(Thawed("one", state, Path(sys.argv[1]) / "ram"), TIER)  # type: ignore[arg-type]
    print(here.pid, only_template().pid, flush=True)
    time.sleep(60)
