"""How public tests are compiled, for `tests.proof.suites` and for the RISCOF plug-ins, which run in another Python.

Invariant: nothing but the standard library is imported.

    >>> march("RV64IMAFDCSUZicsr_Zifencei")
    'rv64imafdc_zicsr_zifencei'
    >>> march("RV64I")
    'rv64i_zicsr_zifencei'
"""

from __future__ import annotations

import re
import shutil

COMPILERS = ("riscv64-unknown-elf-gcc", "riscv64-linux-gnu-gcc")
OPTIONS = ("-mabi=lp64", "-static", "-mcmodel=medany", "-fvisibility=hidden", "-nostdlib", "-nostartfiles", "-fno-pie",
           "-no-pie", "-Wl,--build-id=none")  # fmt: skip


def compiler(wanted: str | None = None) -> str | None:
    """The compiler to use, or None if there is none."""
    return next(filter(None, map(shutil.which, (wanted,) if wanted else COMPILERS)), None)


def march(isa: str) -> str:
    """The compiler's name of an ISA as the suites write it.

    Modes are no extensions to a compiler; CSRs and fence.i, which the tests' environment uses, are to newer ones.
    """
    letters, *names = re.split(r"_|(?=[ZX])", isa)
    base = re.sub("[^imafdqcv]", "", letters.lower().removeprefix("rv64"))
    extensions = [name.lower() for name in names if name]
    extensions += [name for name in ("zicsr", "zifencei") if name not in extensions]
    return "_".join(["rv64" + base, *extensions])
