"""Compiles the guest's agent.

Why it exists: the agent runs in a RISC-V guest, and the machine that builds the package is something else. PyPI's
``ziglang`` brings a compiler and musl for any target, so no cross toolchain need be installed.

Invariants: the binary is static and stripped; it is written beside its place and renamed, so a build that fails leaves
no half of one; the compiler's messages are passed on in full.

Example::

    python builder/agent/build.py                     # builder/agent/vpod-agent, for riscv64
    python builder/agent/build.py --host -o /tmp/a    # the same sources for this machine, with its own compiler
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = "riscv64-linux-musl"
CPU = "generic_rv64+m+a+f+d+c"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-ffunction-sections", "-fdata-sections"]
GUEST_FLAGS = ["-static", "-Os", "-fno-sanitize=all", "-Wl,--gc-sections", "-Wl,-s"]
HOST_FLAGS = ["-O1", "-g", "-Werror"]


def sources() -> list[Path]:
    """The C files, in a fixed order."""
    return sorted(HERE.glob("*.c"))


def guest_command() -> list[str]:
    """The cross compiler: ziglang's, started by this interpreter."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, f"-mcpu={CPU}", *GUEST_FLAGS]


def host_command() -> list[str]:
    """This machine's compiler: ``$CC``, or the first of the usual names."""
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise RuntimeError("no C compiler for this machine was found; install gcc or clang, or name one in CC")
    return [*compiler.split(), *HOST_FLAGS]


def build(out_path: str | os.PathLike[str], *, host: bool = False, flags: tuple[str, ...] = ()) -> Path:
    """Compile the agent to `out_path` and return its path. `RuntimeError` if the compiler fails or there is none."""
    out = Path(out_path).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".agent-") as folder:
        unfinished = Path(folder, "vpod-agent")
        command = [*(host_command() if host else guest_command()), *FLAGS, *flags, "-o", str(unfinished)]
        environment = dict(os.environ)
        if not os.access(Path.home(), os.W_OK):  # zig keeps the musl it has built there, for the next time
            environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(Path(folder, "cache")))
        done = subprocess.run([*command, *map(str, sources())], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(
                f"compiling the guest's agent failed (exit code {done.returncode}): {' '.join(command)}\n"
                f"{done.stderr}{done.stdout}\nIs ziglang installed? It is a build requirement: pip install ziglang"
            )
        unfinished.chmod(0o755)
        os.replace(unfinished, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the guest's agent.")
    parser.add_argument("-o", "--output", default=str(HERE / "vpod-agent"))
    parser.add_argument("--host", action="store_true", help="for this machine, with its own compiler")
    arguments = parser.parse_args()
    out = build(arguments.output, host=arguments.host)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
