"""What programs in a sandbox ask of the kernel, stock or lean: containers, filters, filesystems, queues.

`pytest --kernel lean tests/test_guest_kernel.py` asks the kernel that was built here. What only that one offers is
skipped on the stock kernel: Debian would have it in modules that a snapshot does not hold.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder_parts import ROOT
from vpod_builder import kernel_build

from vpod import Sandbox
from vpod.snapshot import Snapshot

FRAGMENT = ROOT / "kernels/lean.config"

SYSTEM_CALL = """
import ctypes
libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(128)
"""

# getppid is refused from here on; every other system call is allowed (seccomp(2), linux/filter.h).
FILTER = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
program = b"".join(struct.pack("<HBBI", *row) for row in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 173), (0x06, 0, 0, 0x0005_0000 | 42), (0x06, 0, 0, 0x7FFF_0000)])
lines = ctypes.create_string_buffer(program, len(program))
pipe = os.pipe()
if (child := os.fork()) == 0:
    libc.prctl(38, 1, 0, 0, 0)
    installed = libc.prctl(22, 2, struct.pack("<HxxxxxxQ", 4, ctypes.addressof(lines)), 0, 0)
    answer = libc.syscall(173), ctypes.get_errno()
    status = [line for line in open("/proc/self/status") if line.startswith("Seccomp:")]
    os.write(pipe[1], repr((installed, answer, status)).encode())
    os._exit(0)
os.waitpid(child, 0)
os.read(pipe[0], 1000).decode()
"""

# One transaction of nftables (linux/netfilter/nf_tables.h): a table, a chain that drops what goes out, one for NAT.
NFTABLES = """
import os, socket, struct
def attribute(kind, data):
    return struct.pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
def message(kind, flags, family, resource, *attributes):
    body = struct.pack(">BBH", family, 0, resource) + b"".join(attributes)
    return struct.pack("<IHHII", 16 + len(body), kind, 1 | flags, 1, 0) + body
def chain(name, kind, hook, policy):
    where = attribute(1, struct.pack(">I", hook)) + attribute(2, struct.pack(">i", 0))
    return message(0xA03, 0x404, 1, 0, attribute(1, b"t\\0"), attribute(3, name), attribute(0x8004, where),
                   attribute(7, kind), attribute(5, struct.pack(">I", policy)))
def ping():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            return udp.sendto(b"ping", ("127.0.0.1", 9))
        except PermissionError:
            return "refused"
before = ping()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netlink.settimeout(5)
netlink.send(message(0x10, 0, 0, 10) + message(0xA00, 0x404, 1, 0, attribute(1, b"t\\0"))
             + chain(b"out\\0", b"filter\\0", 3, 0) + chain(b"nat\\0", b"nat\\0", 4, 1) + message(0x11, 0, 0, 10))
answers = []
while len(answers) < 3:
    data = netlink.recv(65536)
    while data:
        length, kind = struct.unpack_from("<IH", data)
        answers.append((kind, struct.unpack_from("<i", data, 16)[0]))
        data = data[length:]
(before, answers, ping())
"""


@pytest.fixture(scope="module")
def is_lean(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--kernel") == "lean")


@pytest.fixture
def lean(is_lean: bool) -> None:
    """For what only the lean kernel offers."""
    if not is_lean:
        pytest.skip("of the lean kernel: vpod-build --kernel lean, then pytest --kernel lean")


@pytest.fixture(scope="module")
def alpine_box(alpine: str) -> Iterator[Sandbox]:
    with Sandbox.create(alpine) as box:
        yield box


def said(box: Sandbox, command: str) -> str:
    """What a command prints that must succeed."""
    result = box.commands.run(command, timeout=60)
    assert result.exit_code == 0, (command, result.stdout, result.stderr)
    return result.stdout


def system_call(box: Sandbox, number: int, *arguments: object) -> int:
    """What a system call returns; `buffer` is 128 zero bytes."""
    call = f"libc.syscall({', '.join(map(str, (number, *arguments)))})"
    return int(box.code.run(SYSTEM_CALL + call).result or "")


def test_the_snapshot_has_the_kernel_asked_for(alpine: str, alpine_box: Sandbox, is_lean: bool) -> None:
    with Snapshot(Path(alpine)) as snap:
        version = snap.meta["kernel"]["version"]
    assert said(alpine_box, "uname -r") == version
    assert version.endswith("-vpod" if is_lean else "-riscv64")


class TestContainers:
    def test_a_user_makes_namespaces_of_his_own(self, box: Sandbox) -> None:
        script = "id -u; mount -t tmpfs none /mnt && touch /mnt/there && ls /mnt"
        result = box.commands.run(["unshare", "-U", "-r", "-m", "sh", "-c", script], user="nobody")
        assert (result.exit_code, result.stdout) == (0, "0\nthere"), result.stderr
        assert said(box, "ls /mnt") == ""

    @pytest.mark.parametrize(("option", "name"), [("-p -f", "pid"), ("-n", "net"), ("-u", "uts"), ("-i", "ipc")])
    def test_each_namespace(self, box: Sandbox, option: str, name: str) -> None:
        look = f"readlink /proc/self/ns/{name}"
        inside, outside = said(box, f"unshare {option} {look}"), said(box, look)
        assert inside.startswith(f"{name}:[") and inside != outside

    def test_control_groups(self, box: Sandbox) -> None:
        assert {"cpu", "io", "memory", "pids"} <= set(said(box, "cat /sys/fs/cgroup/cgroup.controllers").split())

    def test_a_control_group_has_its_limit(self, alpine_box: Sandbox) -> None:
        group = "/sys/fs/cgroup/small"
        said(alpine_box, f"echo +memory +pids > /sys/fs/cgroup/cgroup.subtree_control; mkdir {group}")
        said(alpine_box, f"echo 16M > {group}/memory.max; echo 8 > {group}/pids.max")
        hungry = "dd if=/dev/zero of=/dev/null bs=40M count=1"
        result = alpine_box.commands.run(["sh", "-c", f"echo $$ > {group}/cgroup.procs; {hungry}"], timeout=60)
        assert "oom_kill 1" in said(alpine_box, f"cat {group}/memory.events"), (result.stdout, result.stderr)
        said(alpine_box, hungry)

    def test_overlay(self, alpine_box: Sandbox) -> None:
        said(alpine_box, "modprobe overlay; mkdir -p /tmp/o/lower /tmp/o/upper /tmp/o/work /tmp/o/all")
        said(alpine_box, "echo below > /tmp/o/lower/file")
        layers = "lowerdir=/tmp/o/lower,upperdir=/tmp/o/upper,workdir=/tmp/o/work"
        said(alpine_box, f"mount -t overlay o -o {layers} /tmp/o/all")
        three = said(alpine_box, "cat /tmp/o/all/file; echo above > /tmp/o/all/file; cat /tmp/o/*er/file")
        assert three.split() == ["below", "below", "above"]

    def test_loop_devices(self, alpine_box: Sandbox) -> None:
        said(alpine_box, "modprobe loop; dd if=/dev/urandom of=/tmp/disk bs=64k count=4")
        device = said(alpine_box, "losetup -f")
        said(alpine_box, f"losetup {device} /tmp/disk && cmp {device} /tmp/disk && losetup -d {device}")


class TestDoors:
    """What a program opens or calls first, before it finds out whether the kernel can do what it needs."""

    def test_fuse_and_tunnels(self, alpine_box: Sandbox) -> None:
        said(alpine_box, "modprobe tun; test -c /dev/fuse && test -c /dev/net/tun && exec 3<>/dev/fuse 4<>/dev/net/tun")

    def test_seccomp(self, box: Sandbox) -> None:
        assert "Seccomp:\t0" in said(box, "cat /proc/self/status")

    def test_a_seccomp_filter(self, debian_box: Sandbox) -> None:
        assert debian_box.code.run(FILTER).result == repr(repr((0, (-1, 42), ["Seccomp:\t2\n"])))

    @pytest.mark.parametrize(
        ("number", "arguments"),
        [
            (280, (0, "bytes([2, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0]) + bytes(100)", 116)),  # bpf: an array
            (425, (4, "buffer")),  # io_uring_setup
            (20, (0,)),  # epoll_create1
            (19, (0, 0)),  # eventfd2
            (26, (0,)),  # inotify_init1
            (262, (0, 0)),  # fanotify_init
            (85, (1, 0)),  # timerfd_create
            (279, ("b'name'", 0)),  # memfd_create
            (282, (1,)),  # userfaultfd
            (434, ("__import__('os').getpid()", 0)),  # pidfd_open
            (444, (0, 0, 1)),  # landlock_create_ruleset: its version
        ],
    )
    def test_system_calls(self, debian_box: Sandbox, number: int, arguments: tuple[object, ...]) -> None:
        assert system_call(debian_box, number, *arguments) > 0


class TestLean:
    def test_it_says_how_it_was_configured(self, alpine_box: Sandbox, lean: None) -> None:
        config = alpine_box.commands.run("cat /proc/config.gz").stdout_bytes
        assert kernel_build.lost(FRAGMENT.read_text(), gzip.decompress(config).decode()) == []

    def test_nothing_was_loaded_and_modprobe_knows_what_is_in_it(self, alpine_box: Sandbox, lean: None) -> None:
        said(alpine_box, "! test -e /etc/vpod/modules && ! test -e /proc/modules")
        said(alpine_box, "modprobe overlay && modprobe nf_tables && modprobe virtio_net && ! modprobe nothing")

    def test_nftables(self, debian: str, lean: None) -> None:
        with Sandbox.create(debian) as box:
            assert box.code.run(NFTABLES).result == repr((4, [(2, 0)] * 3, "refused"))

    def test_links_of_containers(self, alpine_box: Sandbox, lean: None) -> None:
        for kind in ("veth", "bridge", "dummy"):
            said(alpine_box, f"ip link add x{kind} type {kind} && ip link set x{kind} up && ip link del x{kind}")

    def test_old_iptables(self, alpine_box: Sandbox, lean: None) -> None:
        targets = said(alpine_box, "cat /proc/net/ip_tables_targets").split()
        assert {"REJECT", "MASQUERADE", "DNAT", "LOG"} <= set(targets)

    def test_little_memory_is_taken(self, alpine_box: Sandbox, lean: None) -> None:
        total = int(said(alpine_box, "grep MemTotal /proc/meminfo").split()[1])
        assert total > 240 << 10
