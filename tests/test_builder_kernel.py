"""The kernel that is built here: its configuration, its build, what is kept of it, which kernel a recipe gets.

Linux takes minutes to compile, so a small `make` and compiler of this file's own stand for the real ones: they take the
same arguments and leave the same files. The real build has a command: `pytest --kernel lean` (docs/testing.md).
"""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import signal
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from builder_parts import ROOT, deb_of, folder, sha256, symlink, tar_of
from vpod_builder import cli, kernel, kernel_build, recipe
from vpod_builder.progress import Report
from vpod_builder.tree import Tree

from vpod import paths
from vpod.boot import device_tree
from vpod.errors import BuildError, VerificationFailed
from vpod.fdt import Node

LEAN = kernel.describe("lean")
FRAGMENT = (ROOT / "kernels/lean.config").read_text()

MAKE = """#!/bin/sh
# Stands for make: says what it was asked, configures by the fragment it is given, "compiles" the version of its tree.
echo "$@" >> "$HOME/asked"; env >> "$HOME/environment"
for argument; do case "$argument" in KCONFIG_ALLCONFIG=*) fragment="${argument#*=}";; esac; done
case "$*" in
    *allnoconfig) grep -v "^CONFIG_LOST" "$fragment" > .config; cat "$HOME/extra" >> .config 2>/dev/null; exit 0;;
esac
echo "  CC      init/main.o"
[ -e "$HOME/broken" ] && { echo "init/main.c:1: error: no such thing"; exit 2; }
[ -e "$HOME/slow" ] && { echo $$ > "$HOME/pid"; sleep 600; }
mkdir -p arch/riscv/boot include/config
cp VERSION arch/riscv/boot/Image
echo 6.12.1-vpod > include/config/kernel.release
echo kernel/fs/fuse/fuse.ko > modules.builtin
printf 'fuse.license=GPL\\0' > modules.builtin.modinfo
"""
TOOL = '#!/bin/sh\necho "$(basename $0) (Debian) $(cat "$HOME/release")"\n'


class FakePackage:
    """What the archive's index says of a source package."""

    def __init__(self, data: bytes, version: str) -> None:
        self.name, self.version, self.filename = LEAN.package, version, f"pool/{LEAN.package}_{version}_all.deb"
        self.data, self.sha256, self.size = data, sha256(data), len(data)


class FakeArchive:
    """An archive with a source package and a firmware's; it counts what is fetched from it."""

    mirror, suite = "http://mirror", "trixie"

    def __init__(self, folder: Path, source: bytes, version: str = "6.12.1-1") -> None:
        self.report = Report(quiet=True)
        firmware = deb_of("Package: opensbi\nVersion: 1.6-1\n", (LEAN.firmware_image, b"firmware"))
        self.packages = {LEAN.package: FakePackage(source, version), "opensbi": FakePackage(firmware, "1.6-1")}
        self.packages["opensbi"].name = "opensbi"
        self.fetched: list[str] = []
        self._folder = folder

    @property
    def index(self) -> dict[str, FakePackage]:
        return self.packages

    def fetch(self, packages: Sequence[FakePackage], title: str) -> list[Path]:
        found = []
        for package in packages:
            self.fetched.append(package.name)
            found.append(self._folder / package.sha256)
            found[-1].write_bytes(package.data)
        return found


def source_package(version: str = "one", *members: tuple[str, Any]) -> bytes:
    """A package that has a source tree as Debian's has: a compressed tar archive in it."""
    root = LEAN.tree.rpartition("/")[2].removesuffix(".tar.xz")
    files = [("Makefile", b"all:\n"), ("VERSION", version.encode()), *members]
    inner = tar_of((f"{root}/", folder()), *((f"{root}/{path}", what) for path, what in files))
    control = f"Package: {LEAN.package}\nVersion: 6.12.1-1\n"
    return deb_of(control, (LEAN.tree, {"data": lzma.compress(inner), "mode": 0o644, "mtime": 1_700_000_000}))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a PATH with everything that building asks for, and nothing else but the shell's own tools."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    for name in kernel_build.TOOLS:
        (programs / name).write_text(MAKE if name == "make" else TOOL)
        (programs / name).chmod(0o755)
    for name in ("sh", "env", "grep", "cat", "cp", "mkdir", "sleep", "basename"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    (home / "release").write_text("14.2.0\n")
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "vpod"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(programs))
    return home


@pytest.fixture
def archive(tmp_path: Path) -> FakeArchive:
    return FakeArchive(tmp_path, source_package())


def build(archive: Any) -> kernel_build.Built:
    return kernel_build.current(LEAN, archive)


def compiled(home: Path) -> int:
    """How often something was compiled."""
    log = home / "asked"
    return log.read_text().count(" Image\n") if log.exists() else 0


def left_behind() -> list[str]:
    return sorted(os.listdir(paths.kernel_folder()))


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fragment", "config", "expected"),
    [
        ("CONFIG_A=y\n", "CONFIG_A=y\n", []),
        ("CONFIG_A=y\n", "# CONFIG_A is not set\n", ["CONFIG_A=y"]),
        ("CONFIG_A=y\n", "CONFIG_A=m\n", ["CONFIG_A=y"]),
        ("CONFIG_A=y\n", "CONFIG_AB=y\n", ["CONFIG_A=y"]),
        ("CONFIG_A=n\n", "# CONFIG_A is not set\n", []),
        ("CONFIG_A=n\n", "", []),
        ("CONFIG_A=n\n", "CONFIG_A=y\n", ["CONFIG_A=n"]),
        ('CONFIG_A="-vpod"\nCONFIG_B=1\n', 'CONFIG_A="-vpod"\nCONFIG_B=2\n', ["CONFIG_B=1"]),
        ("# CONFIG_A=y\n\n", "", []),
    ],
)
def test_lines_that_a_configuration_lost(fragment: str, config: str, expected: list[str]) -> None:
    assert kernel_build.lost(fragment, config) == expected


def test_every_line_of_the_fragment_says_one_thing() -> None:
    lines = [line for line in FRAGMENT.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r'CONFIG_\w+=(y|n|[0-9]+|"[^"]*")', line) for line in lines)
    names = [line.partition("=")[0] for line in lines]
    assert sorted(set(names)) == sorted(names)


#: The driver of each device that the board's tree describes.
DRIVERS = {
    "sifive,test1": "POWER_RESET_SYSCON_POWEROFF",
    "syscon-poweroff": "POWER_RESET_SYSCON_POWEROFF",
    "syscon-reboot": "POWER_RESET_SYSCON",
    "google,goldfish-rtc": "RTC_DRV_GOLDFISH",
    "sifive,clint0": "RISCV_SBI",  # the firmware's: Linux asks it
    "sifive,plic-1.0.0": "SIFIVE_PLIC",
    "ns16550a": "SERIAL_OF_PLATFORM",
    "virtio,mmio": "VIRTIO_MMIO",
    "riscv": "RISCV_TIMER",
    "riscv,cpu-intc": "RISCV_TIMER",
    "simple-bus": "OF",
    "riscv-virtio": "OF",
}


def test_every_device_of_the_board_has_its_driver() -> None:
    def compatible(node: Node) -> set[str]:
        own = node.properties.get("compatible", b"").split(b"\0")[0].decode()
        return {own} - {""} | {each for child in node.children for each in compatible(child)}

    on = set(re.findall(r"^CONFIG_(\w+)=y$", FRAGMENT, re.MULTILINE))
    found = compatible(device_tree(256 << 20))
    assert found == set(DRIVERS)
    assert {DRIVERS[each] for each in found} <= on
    assert {"VIRTIO_CONSOLE", "VIRTIO_BLK", "HW_RANDOM_VIRTIO"} <= on  # the devices in virtio's slots


# --- descriptions, and which one a recipe gets -----------------------------------------------------------------------


def test_the_lean_kernel_has_nothing_to_load() -> None:
    assert LEAN.is_built and (LEAN.boot, LEAN.ship) == ((), ())
    assert not kernel.describe("debian-stock").is_built


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[source]", "[sauce]", "source"),
        ("[firmware]", "[software]", "firmware"),
        ('config = "lean.config"', 'config = "../lean.config"', "config"),
        ('package = "linux', 'extra = 1\npackage = "linux', "extra"),
        ("[source]", '[kernel]\npackage = "x"\n\n[source]', "kernel"),
    ],
)
def test_what_is_wrong_in_a_description_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    text = (ROOT / "kernels/lean.toml").read_text()
    assert old in text
    (tmp_path / "wrong.toml").write_text(text.replace(old, new, 1))
    monkeypatch.setattr("vpod_builder.kernel_folder.folder", lambda: tmp_path)
    with pytest.raises(BuildError, match=rf"wrong\.toml.*{words}"):
        kernel.describe("wrong")


def test_recipes_get_debians_kernel_until_the_lean_one_is_here(tools: Path, archive: FakeArchive) -> None:
    stock = recipe.find("alpine-3.23").kernel
    assert kernel.choose(stock).key == "debian-stock"
    build(archive)
    assert kernel.choose(stock).key == "lean"
    assert kernel.choose(stock, "stock").key == kernel.choose(stock, "debian-stock").key == "debian-stock"
    with pytest.raises(BuildError, match=r"'lean-ish'.*debian-stock, lean"):
        kernel.choose(stock, "lean-ish")


def test_a_recipe_that_names_another_kernel_gets_that(tools: Path, archive: FakeArchive) -> None:
    assert kernel.choose("lean").key == "lean"
    build(archive)
    with pytest.raises(BuildError, match="'mine'"):
        kernel.choose("mine")


def test_a_kernel_of_another_configuration_is_not_taken(
    tools: Path, archive: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(archive)
    for path in (ROOT / "kernels").glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("vpod_builder.kernel_folder.folder", lambda: tmp_path)
    assert kernel.choose("debian-stock").key == "lean"
    (tmp_path / "lean.config").write_text(FRAGMENT + "CONFIG_MORE=y\n")
    assert kernel.choose("debian-stock").key == "debian-stock"


def test_a_damaged_kernel_is_not_taken_and_built_again(tools: Path, archive: FakeArchive) -> None:
    build(archive)
    (path,) = paths.kernel_folder().iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:100] + b"?" + whole[101:], b"", b"no kernel"):
        path.write_bytes(damaged)
        assert kernel.choose("debian-stock").key == "debian-stock"
    assert build(archive).image == b"one" and compiled(tools) == 2


# --- building --------------------------------------------------------------------------------------------------------


def test_it_is_built_once(tools: Path, archive: FakeArchive) -> None:
    first = build(archive)
    assert (first.version, first.image, first.package_version) == ("6.12.1-vpod", b"one", "6.12.1-1")
    assert first.config.decode() == FRAGMENT and first.lists["modules.builtin"] == b"kernel/fs/fuse/fuse.ko\n"
    assert first.compiler == "riscv64-linux-gnu-gcc (Debian) 14.2.0, riscv64-linux-gnu-ld (Debian) 14.2.0"
    assert build(archive) == first
    assert compiled(tools) == 1 and archive.fetched == [LEAN.package]
    assert [re.sub("[0-9a-f]{32}", "X", name) for name in left_behind()] == ["lean-X.kernel"]


def test_another_source_compiler_or_configuration_makes_another_kernel(
    tools: Path, archive: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(archive)
    assert build(FakeArchive(tmp_path, source_package("two"), "6.12.2-1")).image == b"two"
    (tools / "release").write_text("15.1.0\n")
    assert "15.1.0" in build(archive).compiler
    for path in (ROOT / "kernels").glob("lean.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "lean.config").write_text(FRAGMENT + "CONFIG_MORE=y\n")
    monkeypatch.setattr("vpod_builder.kernel_folder.folder", lambda: tmp_path)
    assert b"CONFIG_MORE=y" in build(archive).config
    assert compiled(tools) == len(left_behind()) == 4


def test_nothing_of_this_host_gets_into_the_kernel(
    tools: Path, archive: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ARCH", "CROSS_COMPILE", "KCFLAGS", "CFLAGS", "MAKEFLAGS", "LOCALVERSION", "LANG", "KBUILD_OUTPUT"):
        monkeypatch.setenv(name, "mine")
    build(archive)
    assert "mine" not in (tools / "environment").read_text()
    asked = (tools / "asked").read_text().splitlines()
    for argument in (
        "ARCH=riscv", "CROSS_COMPILE=riscv64-linux-gnu-", "KBUILD_BUILD_USER=vpod", "KBUILD_BUILD_HOST=vpod",
        "KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_TIMESTAMP=2023-11-14 22:13:20 UTC",
    ):  # fmt: skip
        assert all(argument in line for line in asked), argument


@pytest.mark.parametrize("name", kernel_build.TOOLS)
def test_a_missing_tool_is_named_with_its_package(tools: Path, archive: FakeArchive, tmp_path: Path, name: str) -> None:
    (tmp_path / "bin" / name).unlink()
    with pytest.raises(BuildError) as caught:
        build(archive)
    message = str(caught.value)
    assert f"{name} is missing" in message and f"apt-get install {kernel_build.TOOLS[name]}" in message
    assert "--kernel stock" in message and archive.fetched == []


def test_without_a_compiler_what_it_built_of_this_source_serves(
    tools: Path, archive: FakeArchive, tmp_path: Path
) -> None:
    build(archive)
    for name in kernel_build.TOOLS:
        (tmp_path / "bin" / name).unlink()
    assert build(archive).image == b"one"
    with pytest.raises(BuildError, match=r"gcc-riscv64-linux-gnu binutils-riscv64-linux-gnu gcc libc6-dev make flex"):
        build(FakeArchive(tmp_path, source_package("two")))


def test_lines_that_were_lost_are_named(
    tools: Path, archive: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragment = FRAGMENT + "CONFIG_LOST_ONE=y\nCONFIG_LOST_TWO=5\nCONFIG_THIS_IS_ON=n\n"
    for path in (ROOT / "kernels").glob("lean.*"):
        (tmp_path / path.name).write_text(fragment if path.suffix == ".config" else path.read_text())
    monkeypatch.setattr("vpod_builder.kernel_folder.folder", lambda: tmp_path)
    (tools / "extra").write_text("CONFIG_THIS_IS_ON=y\n")
    words = r"3 of its lines.*: CONFIG_LOST_ONE=y, CONFIG_LOST_TWO=5, CONFIG_THIS_IS_ON=n\."
    with pytest.raises(BuildError, match=words):
        build(archive)
    assert compiled(tools) == 0 and left_behind() == []


def test_what_make_said_is_in_the_error(tools: Path, archive: FakeArchive) -> None:
    (tools / "broken").touch()
    with pytest.raises(BuildError, match=r"make .*Image ended with exit code 2(.|\n)*init/main\.c:1: error"):
        build(archive)
    assert left_behind() == []
    (tools / "broken").unlink()
    assert build(archive).image == b"one"


def test_an_interrupted_build_leaves_nothing(tools: Path, archive: FakeArchive) -> None:
    """Ctrl-C ends the compilers too, though the terminal's signal does not reach them."""
    (tools / "slow").touch()

    def interrupt() -> None:
        while not (tools / "pid").exists() or not (tools / "pid").read_text().strip():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        build(archive)
    assert left_behind() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tools / "pid").read_text()), 0)


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", "somewhere")


@pytest.mark.parametrize("place", ["shutil.copyfileobj", "os.fsync"])
def test_a_full_disk_leaves_nothing(
    tools: Path, archive: FakeArchive, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(OSError, match="No space left"):
            build(archive)
    assert left_behind() == []


def test_what_a_killed_build_left_is_swept(tools: Path, archive: FakeArchive) -> None:
    build(archive)
    (path,) = paths.kernel_folder().iterdir()
    path.unlink()
    rest = path.with_name(".lean.build")
    (rest / "linux-source-6.12").mkdir(parents=True)
    (rest / "linux-source-6.12/VERSION").write_text("half")
    assert build(archive).image == b"one"
    assert left_behind() == [path.name]


# --- the source tree -------------------------------------------------------------------------------------------------


def unpacked(tmp_path: Path, *members: tuple[str, Any]) -> Path:
    package = tmp_path / "source.deb"
    package.write_bytes(source_package("one", *members))
    tree, when = kernel_build.unpack(LEAN, package, tmp_path / "tree", Report(quiet=True))
    assert when == 1_700_000_000
    return tree


def test_only_what_riscv_needs_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    used = ["arch/riscv/kernel/head.S", "arch/x86/Kconfig", "drivers/gpu/drm/Makefile", "arch/Kconfig", "lib/crc32.c"]
    unused = ["arch/x86/kernel/head.S", "Documentation/x.rst", "drivers/gpu/drm/drm.c", "tools/testing/t.c"]
    tree = unpacked(
        tmp_path,
        *((path, path.encode()) for path in used + unused),
        ("scripts/run.sh", {"data": b"#!", "mode": 0o755}),
        ("scripts/dtc/prefix", symlink("../../arch")),
    )
    assert all((tree / path).read_text() == path for path in used)
    assert not any((tree / path).exists() for path in unused)
    assert stat.S_IMODE((tree / "scripts/run.sh").stat().st_mode) == 0o755
    assert os.readlink(tree / "scripts/dtc/prefix") == "../../arch"


@pytest.mark.parametrize(
    "member",
    [("../../../out", b"x"), ("fifo", {"type": tarfile.FIFOTYPE}), ("disk", {"type": tarfile.BLKTYPE})],
)
def test_what_no_source_tree_has_is_refused(tmp_path: Path, member: tuple[str, Any]) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(VerificationFailed):
        unpacked(tmp_path, member)
    assert not (tmp_path.parent / "out").exists() and not (tmp_path / "out").exists()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("spoil", [cut, lambda data: b"no archive", lambda data: b""])
def test_a_damaged_source_archive_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    inner = io.BytesIO()
    with lzma.open(inner, "wb") as file:
        file.write(tar_of(("linux/", folder()), ("linux/big", os.urandom(1 << 20))))
    package = tmp_path / "source.deb"
    package.write_bytes(deb_of(f"Package: {LEAN.package}\nVersion: 1\n", (LEAN.tree, spoil(inner.getvalue()))))
    with pytest.raises(VerificationFailed):
        kernel_build.unpack(LEAN, package, tmp_path, Report(quiet=True))


def test_a_package_without_the_source_is_named(tmp_path: Path) -> None:
    package = tmp_path / "source.deb"
    package.write_bytes(deb_of(f"Package: {LEAN.package}\nVersion: 1\n", ("usr/src/other.tar.xz", b"")))
    with pytest.raises(BuildError, match=r"linux-source-6\.12\.tar\.xz"):
        kernel_build.unpack(LEAN, package, tmp_path, Report(quiet=True))


# --- into a machine --------------------------------------------------------------------------------------------------


def test_a_built_kernel_in_a_root_filesystem(tools: Path, archive: Any) -> None:
    found = kernel.load(LEAN, archive)
    assert (found.image, found.firmware, found.boot) == (b"one", b"firmware", [])
    assert "lean.config" in found.packages[0] and found.packages[1] == "opensbi 1.6-1"
    tree = Tree()
    found.install(tree)
    assert "/etc/vpod/modules" not in tree
    assert tree.read("/lib/modules/6.12.1-vpod/modules.builtin") == b"kernel/fs/fuse/fuse.ko\n"
    assert tree.read("/lib/modules/6.12.1-vpod/modules.dep") == b""


def test_a_newer_source_is_said_and_built_when_asked_for(
    tools: Path, archive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(archive)
    newer: Any = FakeArchive(tmp_path, source_package("two"), "6.12.2-1")
    newer.report = Report()
    assert kernel.load(LEAN, newer).image == b"one"
    assert "6.12.2-1 now: vpod-build --kernel lean builds it" in capsys.readouterr().err
    assert kernel.load(LEAN, newer, build=True).image == b"two"


def test_the_command(
    tools: Path, archive: FakeArchive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vpod_builder.debian.Archive", lambda *_, **__: archive)
    assert cli.main(["--kernel", "lean"]) == 0
    assert "Linux 6.12.1-vpod" in capsys.readouterr().err and compiled(tools) == 1
    assert cli.main(["--explain", "alpine-3.23"]) == 0
    assert "lean.config" in capsys.readouterr().out
    assert cli.main(["--explain", "alpine-3.23", "--kernel", "stock"]) == 0
    assert "virtio_mmio" in capsys.readouterr().out
    assert cli.main(["--kernel", "stock"]) == 125
    assert "name a RECIPE" in capsys.readouterr().err
    assert cli.main(["--kernel", "neither"]) == 125
    assert "debian-stock, lean" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["--kernel", "lean", "--publish", "somewhere"])
