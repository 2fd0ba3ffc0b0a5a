"""A Python face of `vpod/_x86.pxd`, made from the signatures in that file, so that no form can be left without one.

`build` compiles it into a folder of the caller's; the package has no such module. The face is one class: a `Buffer` is
memory of which the encoder is given the first `room` bytes, with a method for each function of the encoder. Where the
function takes a pointer, the method takes an offset from the memory's start, of either sign; where it returns one, the
method does too, and None for NULL. `CONSTANTS` has every enumerator, `HOST` what this processor can execute.

Invariants: the memory is never writable and executable at once; `run` takes only what the tests have emitted.

    >>> face = build(folder)
    >>> buffer = face.Buffer(64)
    >>> buffer.mov_rr(1, face.CONSTANTS["RAX"], face.CONSTANTS["RDX"])
    >>> buffer.code()
    b'H\\x8b\\xc2'
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import ModuleType

SOURCE = Path(__file__).parent.parent / "vpod" / "_x86.pxd"

FACE = Template("""\
# cython: language_level=3
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from vpod._x86 cimport *

cdef extern from *:
    '''
    #include <sys/mman.h>
    #ifdef __x86_64__
    #define CAN_RUN 1
    #define HAS(feature) (__builtin_cpu_supports(feature) != 0)
    #else
    #define CAN_RUN 0
    #define HAS(feature) 0
    #endif
    static void *take(size_t size) {
        void *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        return p == MAP_FAILED ? 0 : p;
    }
    static int executable(void *p, size_t size, int yes) {
        return mprotect(p, size, PROT_READ | (yes ? PROT_EXEC : PROT_WRITE)) == 0;
    }
    '''
    bint CAN_RUN
    bint HAS_FMA 'HAS("fma")'
    bint HAS_BMI 'HAS("bmi")'
    bint HAS_BMI2 'HAS("bmi2")'
    void* take(size_t size)
    bint executable(void* p, size_t size, bint yes)
    int munmap(void* p, size_t size)

HOST = {name for name, has in {"x86-64": CAN_RUN, "fma": HAS_FMA, "bmi": HAS_BMI, "bmi2": HAS_BMI2}.items() if has}
CONSTANTS = {$constants}

cdef class Buffer:
    cdef Code c
    cdef uint8_t* memory
    cdef readonly size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.memory = <uint8_t*>take(size)
        if self.memory == NULL:
            raise MemoryError(f"no {size} bytes of memory for code")
        self.clear(size, 0)

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.size)

    cdef object offset(self, const uint8_t* place):
        return None if place == NULL else place - self.memory

    def clear(self, size_t room, uint8_t fill):
        '''Every byte is `fill`, and the encoder has the first `room`.'''
        if room > self.size:
            raise ValueError(f"the buffer has {self.size} bytes, not {room}")
        memset(self.memory, fill, self.size)
        self.c.at, self.c.end, self.c.full = self.memory, self.memory + room, 0

    def code(self):
        return self.memory[:self.c.at - self.memory]

    def all(self):
        return self.memory[:self.size]

    @property
    def at(self):
        return self.offset(self.c.at)

    @property
    def full(self):
        return self.c.full

    def put(self, size_t offset, bytes value):
        '''Bytes that the encoder doesn't make.'''
        if offset + len(value) > self.size:
            raise ValueError(f"{len(value)} bytes at {offset} aren't in a buffer of {self.size}")
        for byte in value:
            self.memory[offset] = byte
            offset += 1

    def go_on(self, size_t offset):
        '''The next instruction is emitted there.'''
        self.c.at = self.memory + offset

    def address(self, int64_t offset):
        return <uint64_t>(self.memory + offset)

    def run(self, uint64_t offset, uint64_t[::1] argument):
        '''Call what is at `offset` with the argument's address.'''
        if not executable(self.memory, self.size, 1):
            raise OSError("this system doesn't let memory become executable")
        try:
            (<void (*)(uint64_t*) noexcept>(self.memory + offset))(&argument[0])
        finally:
            executable(self.memory, self.size, 0)

$methods
""")

BUILD = """\
from Cython.Build import cythonize
from setuptools import Extension, setup
face = Extension("x86_face", ["x86_face.pyx"], extra_compile_args=["-O1", "-fwrapv"])
setup(ext_modules=cythonize([face], include_path=["."], quiet=True))
"""


@dataclass(frozen=True)
class Function:
    """A `cdef inline` function of the encoder."""

    name: str
    returns: str
    parameters: tuple[tuple[str, str], ...]  # (type, name)

    def method(self) -> str:
        """The face's method in Cython."""
        taken, given = [], []
        for kind, name in self.parameters:
            if kind == "Code*":
                given.append("&self.c")
            elif kind.endswith("*"):
                taken.append(f"object {name}")  # None, NULL, is legal for some
                given.append(f"(NULL if {name} is None else self.memory + <int64_t>{name})")
            else:
                taken.append(f"{kind} {name}")
                given.append(name)
        call = f"{self.name}({', '.join(given)})"
        result = f"return self.offset({call})" if self.returns.endswith("*") else f"return {call}"
        if self.returns == "void":
            result = call
        return f"    def {self.name}({', '.join(['self', *taken])}):\n        {result}\n"


def functions(text: str) -> list[Function]:
    """The functions that the text of a .pxd defines. ValueError for a definition that isn't understood."""
    found = []
    pattern = r"^cdef inline ([\w ]+\*?) (\w+)\(([^)]*)\) noexcept nogil:$"
    for returns, name, parameters in re.findall(pattern, text, re.MULTILINE):
        pairs = [" ".join(one.split()).rpartition(" ") for one in parameters.split(",")]
        found.append(Function(name, returns, tuple((kind, parameter) for kind, _, parameter in pairs)))
    if len(found) != len(re.findall(r"^cdef inline ", text, re.MULTILINE)):
        raise ValueError(f"{SOURCE.name}: a function is not `cdef inline TYPE NAME(...) noexcept nogil:`")
    return found


def constants(text: str) -> dict[str, list[str]]:
    """The enumerators of each enum, by the enum's name; those of the unnamed one under ''."""
    found = {}
    for name, body in re.findall(r"^cdef enum ?(\w*):[^\n]*\n((?:    [^\n]*\n)+)", text, re.MULTILINE):
        found[name] = re.findall(r"^    ([A-Z]\w*)", body, re.MULTILINE)
    return found


def build(folder: Path) -> ModuleType:
    """The face of the encoder that the tree has now, compiled in `folder`. RuntimeError if it doesn't compile."""
    text = SOURCE.read_text()
    names = [name for enum in constants(text).values() for name in enum]
    (folder / "vpod").mkdir()
    (folder / "vpod" / "__init__.py").touch()
    (folder / "vpod" / SOURCE.name).write_text(text)
    face = FACE.substitute(
        constants=", ".join(f'"{name}": {name}' for name in names),
        methods="\n".join(function.method() for function in functions(text)),
    )
    (folder / "x86_face.pyx").write_text(face)
    (folder / "setup.py").write_text(BUILD)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the encoder's face doesn't compile:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    spec = importlib.util.spec_from_file_location("x86_face", next(folder.glob("x86_face.*.so")))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
