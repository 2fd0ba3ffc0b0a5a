"""Builds the core and the guest agent; everything else about the package is in pyproject.toml.

Environment, each variable 1 or absent: VPOD_CHECKED builds the core with Cython's bounds and division checks,
VPOD_SANITIZE with AddressSanitizer and UBSan, VPOD_COVERAGE for gcov, which then reports lines of the Cython sources;
VPOD_QUICK compiles without optimisation, in a tenth of the time (tests/proof/builds.py uses all of these).
VPOD_AGENT=skip leaves the guest agent out: the package then runs snapshots but can't build them.
"""

import importlib.util
import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE))  # pip runs this file without its folder on the path

from vpod import isagen  # noqa: E402


def build_agent(target: Path) -> None:
    """Compile the guest agent, by a module that has no importable name before the package is installed."""
    spec = importlib.util.spec_from_file_location("vpod_agent_build", HERE / "builder" / "agent" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(target)


class BuildAll(build_ext):
    """The guest agent is built with the extensions: both are compiled code that the tree doesn't keep."""

    def run(self) -> None:
        super().run()
        if os.environ.get("VPOD_AGENT") == "skip":
            return
        agent = HERE / "builder" / "agent" / "vpod-agent"
        build_agent(agent)
        if not self.inplace:
            target = Path(self.build_lib) / "vpod_builder" / "agent"
            target.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(agent), str(target / agent.name))


def wanted(variable: str) -> bool:
    return os.environ.get(variable) == "1"


checked, coverage = wanted("VPOD_CHECKED"), wanted("VPOD_COVERAGE")
flags = ["-O0" if wanted("VPOD_QUICK") else "-O3", "-fno-strict-aliasing", "-fwrapv", "-Wno-unused-function"]
link = []
if wanted("VPOD_SANITIZE"):
    flags += ["-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    link += ["-fsanitize=address,undefined"]
if coverage:
    flags += ["--coverage"]
    link += ["--coverage"]

isagen.write(HERE / "vpod" / "_decode.pxd")

setup(
    ext_modules=cythonize(
        [
            Extension(f"vpod.{name}", [f"vpod/{name}.pyx"], extra_compile_args=flags, extra_link_args=link)
            for name in ("_cpu", "_jit", "_fpu", "_host")
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": checked,
            "wraparound": False,
            "initializedcheck": checked,
            "cdivision": not checked,  # the core divides magnitudes only, and looks for zero itself
            "embedsignature": True,
        },
        emit_linenums=coverage,
    ),
    cmdclass={"build_ext": BuildAll},
)
