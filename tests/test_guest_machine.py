"""What a thawed machine must be: unlike its twins where that matters, at the right time, and without a complaint.

Two sandboxes from one snapshot wake from the very same memory. Whatever believes to be random or unique in it must
have been told otherwise before the first command runs.
"""

from __future__ import annotations

import re
import threading
import time

import pytest

from vpod import Sandbox, protocol
from vpod.protocol import Kind

COMPLAINTS = re.compile(
    r"Call [Tt]race|WARNING|\bBUG\b|Oops|[Uu]nable to handle|soft lockup|detected stall|Unhandled"
)


def twins(snapshot: str, command: str) -> tuple[str, str]:
    """What `command` says in two fresh sandboxes."""
    with Sandbox.create(snapshot) as one, Sandbox.create(snapshot) as other:
        return one.commands.run(command).stdout, other.commands.run(command).stdout


class TestRandomness:
    @pytest.mark.parametrize(
        "command",
        [
            "head -c 32 /dev/urandom | sha256sum",
            "head -c 32 /dev/random | sha256sum",
            "cat /proc/sys/kernel/random/uuid",
            "echo $RANDOM.$RANDOM.$RANDOM.$RANDOM",
            "mktemp -u",
            "sh -c 'echo $$; for i in 1 2 3 4; do awk \"BEGIN { srand(); print rand() }\"; done; mktemp -u'",
        ],
    )
    def test_twins_differ(self, snapshot: str, command: str) -> None:
        one, other = twins(snapshot, command)
        assert len(one) > 8 and len(other) > 8
        assert one != other

    @pytest.mark.parametrize(
        "source",
        [
            "import random; random.getrandbits(128)",
            "import os; os.getrandom(16)",
            "import os; os.urandom(16)",
            "import uuid; uuid.uuid4()",
            "import secrets; secrets.token_hex(16)",
            "import tempfile; tempfile.mktemp()",
            "import random; random.SystemRandom().getrandbits(128)",
            "import ssl; ssl.RAND_bytes(16)",
            "import random; random.Random().getrandbits(128)",
        ],
    )
    def test_twins_pythons_differ(self, debian: str, source: str) -> None:
        with Sandbox.create(debian) as one, Sandbox.create(debian) as other:
            results = [box.code.run(source).result for box in (one, other)]
        assert None not in results
        assert results[0] != results[1]

    def test_twins_addresses_differ_in_new_processes(self, debian: str) -> None:
        one, other = twins(debian, "grep stack /proc/self/maps; python3 -c 'print(hash(\"a\"))'")
        assert one != other

    def test_files_of_one_are_not_the_others(self, snapshot: str) -> None:
        one, other = twins(snapshot, "ls /tmp/mark 2>/dev/null | wc -l; touch /tmp/mark; ls /tmp/mark | wc -l")
        assert one.split() == other.split() == ["0", "1"]


class TestTime:
    def test_the_first_command_sees_the_right_time(self, snapshot: str) -> None:
        with Sandbox.create(snapshot) as box:
            before = time.time()
            seen = float(box.commands.run("date +%s").stdout)
            assert before - 1.1 < seen < time.time() + 0.1

    def test_python_sees_it_to_the_millisecond(self, debian: str) -> None:
        with Sandbox.create(debian) as box:
            before = time.time()
            seen = float(box.code.run("import time; time.time()").result or 0)
            assert before - 0.05 < seen < time.time() + 0.05

    def test_the_monotonic_clock_goes_on_where_it_stopped(self, snapshot: str) -> None:
        with Sandbox.create(snapshot) as box:
            first = float(box.commands.run("cat /proc/uptime").stdout.split()[0])
            time.sleep(1)
            began = time.monotonic()
            second = float(box.commands.run("cat /proc/uptime").stdout.split()[0])
            third = float(box.commands.run("sleep 1; cat /proc/uptime").stdout.split()[0])
            took = time.monotonic() - began
        with Sandbox.create(snapshot) as box:
            again = float(box.commands.run("cat /proc/uptime").stdout.split()[0])
        assert 1 <= second - first < 5
        assert 1 <= third - second <= took + 0.1
        assert abs(again - first) < 5  # a twin starts from the same moment, however late it starts

    def test_a_second_is_a_second(self, snapshot: str) -> None:
        with Sandbox.create(snapshot) as box:
            began = time.monotonic()
            box.commands.run("sleep 2")
            assert 2 <= time.monotonic() - began < 2.7

    def test_the_clock_chip_agrees(self, snapshot: str) -> None:
        with Sandbox.create(snapshot) as box:
            seen = int(box.commands.run("cat /sys/class/rtc/rtc0/since_epoch").stdout)
            assert abs(seen - time.time()) < 3


class TestWell:
    def test_the_kernel_has_nothing_to_complain_of(self, box: Sandbox) -> None:
        """After some work of every kind: processes, signals, files, memory, pipes, timers, terminals."""
        box.commands.run("for i in 1 2 3 4 5; do (sleep 0.1; true) & done; wait; sh -c 'kill -SEGV $$'")
        box.commands.run("dd if=/dev/urandom of=/tmp/work bs=64k count=8; sort /tmp/work | gzip | wc -c; rm /tmp/work")
        box.commands.run("stty -a; tty", tty=True)
        log = box.commands.run("dmesg").stdout
        assert len(log) > 100
        found = [line for line in log.splitlines() if COMPLAINTS.search(line)]
        assert found == []

    def test_memory_is_mostly_free(self, box: Sandbox) -> None:
        fields = dict(line.split(":") for line in box.commands.run("cat /proc/meminfo").stdout.splitlines())
        total, available = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        assert available > total // 4

    def test_settling_is_over_when_the_kernel_ends_it_for_want_of_memory(self, alpine: str) -> None:
        with Sandbox.create(alpine) as box:
            kill = "until [ $(pidof vpod-agent | wc -w) = 3 ]; do :; done; "
            kill += "kill -9 $(pidof vpod-agent | cut -d ' ' -f 1)"
            killer = threading.Thread(target=box.commands.run, args=([box.shell, "-c", kill],), kwargs={"timeout": 30})
            killer.start()
            done = box._ask(Kind.SETTLE, b"", Kind.DONE, time.monotonic() + 60)
            killer.join()
            assert protocol.parse_done(done)[0] == 0

    def test_what_a_program_expects_of_its_surroundings(self, box: Sandbox) -> None:
        ask = (
            "test -c /dev/null && test -c /dev/tty && test -w /tmp && test -w /dev/shm && test -d /proc/1 && "
            "test -e /dev/fd/0 && test -d /sys/class && ping -c 1 -W 2 127.0.0.1 >/dev/null 2>&1 || "
            "cat /sys/class/net/lo/flags; echo $HOME; echo $PATH; hostname || cat /etc/hostname"
        )
        r = box.commands.run(ask)
        lines = r.stdout.splitlines()
        assert r.stderr == "" or "hostname" in r.stderr
        assert "/root" in lines and any("/usr/bin" in line for line in lines) and "vpod" in lines


class TestDebian:
    """A real, if small, Debian."""

    def test_every_package_is_installed(self, debian_box: Sandbox) -> None:
        lines = debian_box.commands.run("dpkg -l").stdout.splitlines()
        packages = [line for line in lines if re.match(r"[a-z][a-zA-Z]{1,2} ", line)]
        assert len(packages) > 90
        assert [line for line in packages if not line.startswith("ii ")] == []
        audit = debian_box.commands.run("dpkg --audit")
        assert (audit.stdout, audit.stderr, audit.exit_code) == ("", "", 0)

    def test_files_are_as_their_packages_say(self, debian_box: Sandbox) -> None:
        r = debian_box.commands.run("dpkg --verify coreutils bash apt python3-minimal", timeout=300)
        assert [line for line in r.stdout.splitlines() if "/usr/share/" not in line] == []

    def test_apt_works(self, debian_box: Sandbox) -> None:
        assert re.match(r"apt \d+\.\d+.* \(riscv64\)", debian_box.commands.run("apt --version").stdout)
        r = debian_box.commands.run("apt-get check && apt-get -s install coreutils", timeout=300)
        assert r.exit_code == 0 and "coreutils is already the newest version" in r.stdout
        assert debian_box.commands.run("cat /etc/apt/sources.list.d/* /etc/apt/sources.list 2>/dev/null").stdout

    def test_pip_works(self, debian_box: Sandbox) -> None:
        r = debian_box.commands.run("pip --version", timeout=300)
        assert re.match(r"pip \d+.* \(python 3\.13\)", r.stdout)

    def test_requests_trusts_certificates_that_are_there(self, debian_box: Sandbox) -> None:
        source = "import requests, ssl; c = ssl.create_default_context(); len(c.get_ca_certs()), requests.certs.where()"
        x = debian_box.code.run(source)
        assert x.error is None and x.result is not None
        count, _, where = x.result.strip("()").partition(", ")
        assert int(count) > 100
        assert debian_box.commands.run(["test", "-s", where.strip("'")]).exit_code == 0

    def test_a_user_can_be_made_and_used(self, debian_box: Sandbox) -> None:
        made = debian_box.commands.run("useradd -m guest && id guest", timeout=60)
        assert made.exit_code == 0, made.stderr
        assert (
            debian_box.commands.run("whoami; cd; pwd; touch mine; ls", user="guest").stdout
            == "guest\n/home/guest\nmine"
        )


def test_alpines_package_manager_is_there(alpine: str) -> None:
    with Sandbox.create(alpine) as box:
        assert re.match(r"apk-tools 3\.", box.commands.run("apk --version").stdout)
        installed = box.commands.run("apk info").stdout.split()
        assert {"busybox", "musl", "alpine-baselayout"} <= set(installed)
