"""Part of the standard library compiled to bytecode, by the standard library's own `compileall`.

Known: a compiled file holds what compiling its source gives; prints how many files there are and their checksum.
The files' names and their bytes are those of one version of Python, so the answer is the guest's own.
"""

import compileall
import concurrent
import marshal
import pathlib
import py_compile
import shutil
import tempfile
import zlib

HEADER = 16  # bytes before the code (PEP 552)


def work(source: pathlib.Path) -> tuple[int, int]:
    """How many files, and the checksum of their code."""
    with tempfile.TemporaryDirectory() as folder:
        place = shutil.copytree(source, pathlib.Path(folder, "lib"), ignore=shutil.ignore_patterns("__pycache__"))
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        assert compileall.compile_dir(place, ddir="/lib", quiet=1, force=True, invalidation_mode=mode)
        compiled = sorted(place.rglob("*.pyc"))
        assert len(compiled) == len(list(place.rglob("*.py")))
        codes = [path.read_bytes()[HEADER:] for path in compiled]
    assert all(marshal.loads(code).co_filename.startswith("/lib") for code in codes)
    return len(codes), zlib.crc32(b"".join(codes))


if __name__ == "__main__":
    print("pycompile", *work(pathlib.Path(concurrent.__file__).parent))
