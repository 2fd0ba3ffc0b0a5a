"""Building a kernel from Debian's sources with this host's cross compiler, and keeping what was built.

Why it exists: Debian's own kernel serves every computer there is. One with just the drivers of the board boots several
times faster and takes less of the guest's memory; it is made once, and then every recipe takes it (`kernel.choose`).

    >>> built = current(describe("lean"), archive)              # minutes the first time, then at once
    >>> built.version, built.compiler
    ('6.12.…-vpod', 'riscv64-linux-gnu-gcc (Debian …) 14.2.0')

Invariants:

- The source package is fetched and checked like any other: its SHA-256 stands in Debian's signed index.
- A configuration is what it says: every line of the fragment holds in the configuration that was built.
- No time, path, user or host of the build goes into the image (Linux's own guide; two images were not yet compared).
- A kernel appears in `$VPOD_HOME/kernels` whole or not at all, under a digest of source, fragment and compiler. What a
  killed build leaves behind is one folder whose name begins with a dot; the next build deletes it.

Sources: Linux, `Documentation/kbuild/kconfig.rst` and `reproducible-builds.rst`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import zstandard

from vpod import paths
from vpod.errors import BuildError, VerificationFailed

from . import kernel_folder, tar
from .deb import Deb
from .inflate import inflate
from .progress import Bar, Report, size

if TYPE_CHECKING:
    from .debian import Archive
    from .kernel import Description
    from .resolve import Package

CROSS = "riscv64-linux-gnu-"
#: Each tool that building needs, and the Debian package that has it.
TOOLS = {
    f"{CROSS}gcc": "gcc-riscv64-linux-gnu",
    f"{CROSS}ld": "binutils-riscv64-linux-gnu",
    "gcc": "gcc libc6-dev",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
}
IMAGE = "arch/riscv/boot/Image"
FORMAT = 1  # of a kept kernel; part of its digest
MAX_KEPT = 256 << 20  # bytes of a kept kernel, unpacked
MAX_FILES = 200_000  # of a source tree; Linux 6.12 has 87,000
_LINES = 1950  # that `make` prints for the lean kernel, about: the bar's length
_SAID = 30  # lines of `make` that an error repeats

# What no RISC-V kernel is compiled from; the Makefiles and Kconfig files in there are read all the same.
_UNUSED = re.compile(
    r"arch/(?!riscv/)[^/]+/.|Documentation/|samples/|sound/|tools/(testing|perf)/|drivers/(gpu|media|infiniband|staging)/"
)
_DESCRIBING = re.compile(r"Kconfig|Makefile|Kbuild")


@dataclass(frozen=True)
class Built:
    """A kernel as it is kept. `lists` are files for /lib/modules/VERSION that name what is built in."""

    version: str
    package: str
    package_version: str
    source: str  # SHA-256 of the source package
    fragment: str  # SHA-256 of the configuration fragment
    compiler: str
    built: float  # seconds since 1970
    image: bytes
    config: bytes
    lists: Mapping[str, bytes]


def current(description: Description, archive: Archive) -> Built:
    """The kernel of the archive's present source: the kept one, or built now.

    Raises `BuildError` naming what is missing to build it, the lines that the configuration lost, or what `make` said.
    """
    package = archive.index.get(description.package)
    if package is None:
        raise BuildError(f"{archive.mirror}: {archive.suite} has no package {description.package!r}")
    fragment = _fragment(description)
    missing = {tool: packages for tool, packages in TOOLS.items() if shutil.which(tool) is None}
    if missing:
        for built in _kept(description):  # by a compiler that was here once
            if built.source == package.sha256:
                return built
        raise BuildError(_what_is_missing(description.key, missing))
    compiler = ", ".join(_version(f"{CROSS}{tool}") for tool in ("gcc", "ld"))
    folder = paths.kernel_folder()
    digest = _digest(FORMAT, package.sha256, fragment, compiler)
    path = folder / f"{description.key}-{digest}.kernel"
    with paths.locked(folder / f".{description.key}.lock"):
        if path.is_file():
            with suppress(VerificationFailed):  # a damaged one is built again
                return _read(path)
        source = archive.fetch([package], f"the source of Linux, {package.version}")[0]
        with _workshop(folder / f".{description.key}.build") as workshop:
            built = _build(description, package, source, workshop, compiler, archive.report)
        _write(path, built)
    return built


def newest(description: Description) -> Built | None:
    """The kept kernel of today's configuration whose source is the newest; None where none was ever built."""
    return next(_kept(description), None)


def lost(fragment: str, config: str) -> list[str]:
    """The lines of a fragment that do not hold in a configuration.

    >>> lost("CONFIG_A=y\\nCONFIG_B=n\\nCONFIG_C=y\\n", "CONFIG_A=y\\n# CONFIG_C is not set\\n")
    ['CONFIG_C=y']
    """
    have = _settings(config)
    return [f"{name}={value}" for name, value in _settings(fragment).items() if have.get(name, "n") != value]


def _settings(text: str) -> dict[str, str]:
    """`CONFIG_…` names and values, of a fragment or of a `.config`."""
    return dict(re.findall(r"^(CONFIG_\w+)=(.*?)\s*$", text, re.MULTILINE))


def _fragment(description: Description) -> str:
    """The configuration fragment that belongs to a description."""
    path = kernel_folder.folder() / description.config
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: {description.key}.toml names it, and it cannot be read: {error}") from error


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def _what_is_missing(key: str, missing: Mapping[str, str]) -> str:
    packages = " ".join(dict.fromkeys(" ".join(missing.values()).split()))
    return (
        f"The {key} kernel is built here, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
        f"On Debian: apt-get install {packages}\nOr use Debian's own kernel: --kernel stock"
    )


def _version(tool: str) -> str:
    """The first line of `TOOL --version`."""
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, env=_environment())
    if done.returncode != 0 or not done.stdout:
        raise BuildError(f"{tool} --version ended with exit code {done.returncode}: {done.stderr.strip()[:500]}")
    return done.stdout.splitlines()[0].strip()


# --- building --------------------------------------------------------------------------------------------------------


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone at the end, however that comes; the caller holds the lock that makes it his."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(
    description: Description, package: Package, source: Path, workshop: Path, compiler: str, report: Report
) -> Built:
    """Unpack, configure, compile."""
    fragment = _fragment(description)
    tree, when = unpack(description, source, workshop, report)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))
    make = ["make", "ARCH=riscv", f"CROSS_COMPILE={CROSS}", "RUSTC=none", "BINDGEN=none", "PAHOLE=none"]
    make += [f"KBUILD_BUILD_TIMESTAMP={stamp}", "KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_USER=vpod"]
    make += ["KBUILD_BUILD_HOST=vpod"]
    (workshop / "fragment").write_text(fragment, encoding="utf-8")
    with report.step("Configuring Linux") as bar:
        _run([*make, f"KCONFIG_ALLCONFIG={workshop / 'fragment'}", "allnoconfig"], tree, bar)
        config = (tree / ".config").read_bytes()
        if wrong := lost(fragment, config.decode("utf-8", "replace")):
            raise BuildError(
                f"{description.config}: {package.name} {package.version} does not keep {len(wrong)} of its lines, for "
                f"what they need is off or gone: {', '.join(wrong)}. Mend them in kernels/, or use --kernel stock."
            )
        bar.done(f"Configured Linux: all {len(_settings(fragment))} lines of {description.config} hold")
    with report.step("Compiling Linux", total=_LINES) as bar:
        _run([*make, f"-j{_processors()}", "Image"], tree, bar)
        image = (tree / IMAGE).read_bytes()
        version = (tree / "include/config/kernel.release").read_text().strip()
        bar.done(f"Compiled Linux {version}: {size(len(image))}")
    lists = {name: (tree / name).read_bytes() for name in ("modules.builtin", "modules.builtin.modinfo")}
    return Built(
        version, package.name, package.version, package.sha256, _digest(fragment), compiler, time.time(), image, config,
        lists,
    )  # fmt: skip


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment() -> dict[str, str]:
    """What tools get of this process's environment: nothing that would change what they make."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _run(command: Sequence[str], folder: Path, bar: Bar) -> None:
    """Run `make` to its end, line by line beside the bar. `BuildError` with its last lines if it fails.

    It has a process group of its own: an interrupted build ends all of its compilers, and only then goes on.
    """
    said: deque[str] = deque(maxlen=_SAID)
    process: subprocess.Popen[str] | None = None
    try:
        with _uninterrupted():
            process = subprocess.Popen(
                command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        for line in process.stdout or ():
            said.append(line.rstrip())
            bar.advance(1)
            bar.note(line.strip())
        code = process.wait()
    except BaseException:
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    finally:
        if process is not None and process.stdout is not None:
            process.stdout.close()
    if code != 0:
        lines = "\n".join(f"    {line}" for line in said)
        raise BuildError(f"{' '.join(command)} ended with exit code {code}. It said last:\n{lines}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Puts Ctrl-C off to the end of the block: what is started in it is known before anything is raised."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python raises KeyboardInterrupt in its main thread only
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


# --- the source tree -------------------------------------------------------------------------------------------------


def unpack(description: Description, package: Path, folder: Path, report: Report) -> tuple[Path, float]:
    """The source tree in `folder`, without what no RISC-V kernel is compiled from; where it is, and its date."""
    with report.step("Unpacking Linux") as bar:
        for entry in Deb(package.read_bytes(), name=description.package).members():
            if entry.path == description.tree:
                count = _unpack_tree(io.BytesIO(entry.data), folder, bar, description.tree)
                break
        else:
            raise BuildError(f"{description.package}: has no {description.tree}; kernels/ describes another version")
        trees = [path for path in folder.iterdir() if path.is_dir()]
        if len(trees) != 1 or not (trees[0] / "Makefile").is_file():
            raise BuildError(f"{description.tree}: holds {len(trees)} folders, and must hold Linux in one")
        bar.done(f"Unpacked {count} files of Linux")
    return trees[0], entry.mtime


def _unpack_tree(archive: IO[bytes], folder: Path, bar: Bar, name: str) -> int:
    """Stream an archive of a gigabyte and a half to disk; how many files were written."""
    count = 0
    try:
        with tarfile.open(fileobj=archive, mode="r|*") as members:
            for member in members:
                path = tar.clean_path(member.name, name)
                count += 1
                if count > MAX_FILES:
                    raise VerificationFailed(f"{name}: more than {MAX_FILES} files; that is not Linux")
                inside = path.partition("/")[2]
                if _UNUSED.match(inside) and not _DESCRIBING.match(path.rpartition("/")[2]):
                    continue
                _unpack_member(members, member, folder / path)
                bar.note(inside)
    except (tarfile.TarError, EOFError) as error:
        raise VerificationFailed(f"{name}: damaged ({error}); fetch it again") from error
    return count


def _unpack_member(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """One file, folder or symbolic link; nothing else stands in a source tree."""
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
    elif (data := members.extractfile(member)) is not None:
        with data, path.open("xb") as file:
            shutil.copyfileobj(data, file)
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise VerificationFailed(f"{path.name}: neither file, folder nor link, in a source tree")


# --- what is kept ----------------------------------------------------------------------------------------------------


def _kept(description: Description) -> Iterator[Built]:
    """Kept kernels of a description with today's fragment, the newest source first."""
    found: list[Built] = []
    for path in sorted(paths.kernel_folder().glob(f"{description.key}-*.kernel")):
        with suppress(VerificationFailed):
            found.append(_read(path))
    fragment = _digest(_fragment(description))
    fitting = [built for built in found if built.fragment == fragment]
    yield from sorted(fitting, key=lambda built: (_order(built.version), built.built), reverse=True)


def _order(version: str) -> list[int]:
    """`6.12.107-vpod` → [6, 12, 107]."""
    return [int(number) for number in re.findall(r"[0-9]{1,9}", version)]


def _write(path: Path, built: Built) -> None:
    """Keep a kernel: a zstd-compressed tar archive of its parts."""
    about = {key: value for key, value in asdict(built).items() if key not in ("image", "config", "lists")}
    parts = {"kernel.json": json.dumps(about, indent=2).encode(), "Image": built.image, "config": built.config}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in {**parts, **built.lists}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with paths.writing(path) as file:
        file.write(zstandard.ZstdCompressor(level=10, write_checksum=True).compress(buffer.getvalue()))


def _read(path: Path) -> Built:
    """A kept kernel. `VerificationFailed` for a file that is damaged or was not written by `_write`."""
    data = inflate(path.read_bytes(), limit=MAX_KEPT, name=str(path))
    parts = {entry.path: bytes(entry.data) for entry in tar.entries(data, name=str(path))}
    try:
        about: dict[str, Any] = json.loads(parts.pop("kernel.json"))
        image, config = parts.pop("Image"), parts.pop("config")
        return Built(
            **{key.name: about[key.name] for key in fields(Built)[:7]}, image=image, config=config, lists=parts
        )
    except (KeyError, ValueError, TypeError) as error:
        raise VerificationFailed(f"{path}: not a kernel that vpod has kept; delete it ({error})") from error
