"""What both RISCOF plug-ins share: each test is compiled with our environment and run, and leaves a signature.

RISCOF (Python package `riscof`) loads `riscof_vpod.py` as the device under test and `riscof_qemu.py` as the reference;
`config.ini` beside this file names both. The plug-ins run in RISCOF's own Python environment; vpod is called as a
command, with the interpreter that `config.ini` gives as `python`.

Invariants: what RISCOF gets is a signature computed by the machine, or none at all; a test that fails to compile or to
run is named on standard error and counted by RISCOF as failed.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from riscof.pluginTemplate import pluginTemplate
from toolchain import COMPILERS, OPTIONS, compiler, march

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]  # of vpod
SECONDS = 300


class Machine(pluginTemplate):  # type: ignore[misc]
    """A plug-in whose `command` runs a program and writes its signature."""

    __model__ = "machine"
    __version__ = "1"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        config: Mapping[str, str] = options.get("config") or {}
        self.python = config.get("python", sys.executable)
        self.jobs = int(config.get("jobs", os.cpu_count() or 1))
        self.isa_spec = str(HERE / "vpod_isa.yaml")
        self.platform_spec = str(HERE / "vpod_platform.yaml")
        gcc = compiler(config.get("gcc"))
        if gcc is None:
            raise SystemExit(
                f"no {config.get('gcc', ' and no '.join(COMPILERS))}: apt-get install gcc-riscv64-linux-gnu"
            )
        self.compile = [gcc, *OPTIONS, f"-T{HERE / 'env' / 'link.ld'}", f"-I{HERE / 'env'}"]

    def command(self, program: Path, signature: Path) -> list[str]:
        raise NotImplementedError

    def initialise(self, suite: str, workdir: str, env: str) -> None:
        self.environment = env

    def build(self, isa_yaml: str, platform_yaml: str) -> None:
        """Nothing is built: the machine is a command."""

    def runTests(self, testlist: Mapping[str, Mapping[str, Any]]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self.run_test, testlist.values()))

    def run_test(self, entry: Mapping[str, Any]) -> None:
        folder = Path(entry["work_dir"])
        program, signature = folder / "program.elf", folder / f"{self.name[:-1]}.signature"
        options = [f"-march={march(entry['isa'])}", f"-I{self.environment}", *(f"-D{each}" for each in entry["macros"])]
        build = [*self.compile, *options, entry["test_path"], "-o", str(program)]
        for command in (build, self.command(program, signature)):
            done = subprocess.run(
                command, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace"
            )
            if done.returncode:
                logger.error("%s: %s\n%s", entry["test_path"], " ".join(command), done.stderr.strip())
                signature.write_text("")  # RISCOF takes a missing file for its own failure, an empty one for the test's
                return
