"""`python -m tests.proof.suites` on checkouts made here: our own programs in the conventions of the public suites.

The environment of a riscv-test is written here in miniature; an arch-test uses ours, `tests/proof/riscof/env`, which is
what the public ones use too.
"""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

import pytest

pytest.importorskip("vpod._cpu", reason="the core is not built: run `python setup.py build_ext --inplace`")

from tests.proof import suites
from tests.proof.riscof import toolchain

RISCOF = Path(suites.__file__).parent / "riscof"
PROGRAMS = Path(__file__).parent / "programs"

needs_gcc = pytest.mark.skipif(toolchain.compiler() is None, reason="needs riscv64-linux-gnu-gcc")
needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-riscv64") is None, reason="needs qemu-system-riscv64")

RISCV_TEST = """
#include "test_macros.h"
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    li t0, 40
    addi t0, t0, 2
    li a0, EXPECTED - 42
    EXIT
"""

ARCH_TEST = """
#include "model_test.h"
#include "arch_test.h"
RVTEST_ISA("RV64IM")
.section .text.init
.globl rvtest_entry_point
rvtest_entry_point:
RVMODEL_BOOT
#ifdef TEST_CASE_1
RVTEST_CASE(0,"//check ISA:=regex(.*64.*);check ISA:=regex(.*I.*M.*);def TEST_CASE_1=True;def FACTOR=7;",mul)
    la s0, signature
    li a0, -6
    li a1, FACTOR
    mul a2, a0, a1
    sd a2, 0(s0)
    remu a2, a0, a1
    sd a2, 8(s0)
#endif
RVMODEL_HALT
.data
RVMODEL_DATA_BEGIN
signature: .fill 4, 4, 0xdeadbeef
RVMODEL_DATA_END
"""
SIGNATURE = "ffffffd6\nffffffff\n00000003\n00000000\n"  # -42, and (2**64 - 6) mod 7


@pytest.fixture
def riscv_tests(tmp_path: Path) -> Path:
    """A checkout with one listed test, one that is not listed, and one that vpod is never asked."""
    environment, macros = tmp_path / "env" / "p", tmp_path / "isa" / "macros" / "scalar"
    for folder in (environment, macros, tmp_path / "isa" / "rv64ui", tmp_path / "isa" / "rv64mi"):
        folder.mkdir(parents=True)
    (environment / "riscv_test.h").write_text("/* nothing: htif.h is enough */\n")
    shutil.copy(PROGRAMS / "htif.h", environment)
    shutil.copy(PROGRAMS / "link.ld", environment)
    (macros / "test_macros.h").write_text("#define EXPECTED 42\n")
    (tmp_path / "isa" / "rv64ui" / "addi.S").write_text(RISCV_TEST)
    (tmp_path / "isa" / "rv64ui" / "other.S").write_text("not assembly\n")
    (tmp_path / "isa" / "rv64ui" / "Makefrag").write_text("rv64ui_sc_tests = \\\n\taddi absent \\\n\n")
    (tmp_path / "isa" / "rv64mi" / "ma_addr.S").write_text("not assembly\n")
    return tmp_path


@pytest.fixture
def arch_tests(tmp_path: Path) -> Path:
    """A checkout with one arch-test and its reference."""
    suite = tmp_path / "riscv-test-suite"
    folder = suite / "rv64i_m" / "M"
    for each in (folder / "src", folder / "references", suite / "env"):
        each.mkdir(parents=True)
    (suite / "env" / "arch_test.h").write_text("#define RVTEST_ISA(isa)\n#define RVTEST_CASE(number, text, name)\n")
    (folder / "src" / "mul-01.S").write_text(ARCH_TEST)
    (folder / "src" / "other-01.S").write_text(ARCH_TEST.replace("I.*M", "I.*Zba").replace("RV64IM", "RV64I_Zba"))
    (folder / "references" / "mul-01.reference_output").write_text(SIGNATURE)
    return tmp_path


def result(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = suites.main([str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


# riscv-tests


@needs_gcc
def test_a_riscv_test_passes(riscv_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = result(capsys, "run", riscv_tests)
    assert code == 0 and "rv64ui-p-addi │ passed" in text and "1 of 1 passed" in text


@needs_gcc
def test_a_riscv_test_fails_with_its_number(riscv_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (riscv_tests / "isa" / "macros" / "scalar" / "test_macros.h").write_text("#define EXPECTED 49\n")
    code, text = result(capsys, "run", riscv_tests)
    assert code == 1 and "failed with exit code 7" in text and "0 of 1 passed, 1 FAILED" in text


@needs_gcc
@pytest.mark.parametrize(
    ("body", "reason"), [("    j _start\n", "did not end"), ("    not an instruction\n", "does not compile")]
)
def test_neither_ending_nor_compiling_is_passing(
    riscv_tests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: str, reason: str
) -> None:
    monkeypatch.setattr(suites, "LIMIT", 10_000)
    source = riscv_tests / "isa" / "rv64ui" / "addi.S"
    source.write_text(RISCV_TEST.replace("    li t0, 40\n", body))
    code, text = result(capsys, "run", riscv_tests)
    assert code == 1 and reason in text


@needs_gcc
def test_patterns(riscv_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert result(capsys, "run", riscv_tests, "--only", "rv64u*")[0] == 0
    code, text = result(capsys, "run", riscv_tests, "--only", "rv64ud*", "rv64uf*")
    assert code == 2 and "no test of this machine's matches rv64ud* or rv64uf*" in text


def test_what_is_no_checkout(tmp_path: Path, riscv_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = result(capsys, "run", tmp_path / "isa")
    assert code == 2 and "neither riscv-tests" in text
    (riscv_tests / "env" / "p" / "riscv_test.h").unlink()
    code, text = result(capsys, "run", riscv_tests)
    assert code == 2 and "git submodule update --init" in text


def test_a_compiler_that_is_not_there(riscv_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = result(capsys, "run", riscv_tests, "--gcc", "no-such-gcc")
    assert code == 2 and "no no-such-gcc" in text


# riscv-arch-test


@needs_gcc
def test_an_arch_test_against_the_reference_of_the_suite(arch_tests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = result(capsys, "run", arch_tests)
    assert code == 0 and "M/mul-01 │ passed" in text and "1 of 1 passed" in text


@needs_gcc
@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (SIGNATURE.replace("00000003", "00000004"), "word 2 of the signature is 00000003, in the reference 00000004"),
        (SIGNATURE + "00000000\n", "4 words of signature, the reference has 5"),
    ],
)
def test_a_signature_that_differs(
    arch_tests: Path, capsys: pytest.CaptureFixture[str], reference: str, reason: str
) -> None:
    (arch_tests / "riscv-test-suite" / "rv64i_m" / "M" / "references" / "mul-01.reference_output").write_text(reference)
    code, text = result(capsys, "run", arch_tests)
    assert code == 1 and reason in text


@needs_gcc
@needs_qemu
def test_an_arch_test_against_qemu(
    arch_tests: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(arch_tests / "riscv-test-suite" / "rv64i_m" / "M" / "references")
    assert result(capsys, "run", arch_tests)[0] == 0
    monkeypatch.setattr(suites, "qemu_signature", lambda program: SIGNATURE.replace("3", "5"))
    assert result(capsys, "run", arch_tests)[0] == 1


@needs_gcc
@needs_qemu
def test_the_signature_that_qemu_computes(arch_tests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (test,) = suites.find_tests(arch_tests)
    gcc = toolchain.compiler()
    assert gcc is not None and suites.run_test(test, gcc, tmp_path).reason == ""
    assert result(capsys, "signature", tmp_path / "M-mul-01.elf", tmp_path / "signature")[0] == 0
    assert (tmp_path / "signature").read_text() == SIGNATURE


def test_which_cases_apply() -> None:
    assert suites.applies(ARCH_TEST) == ["FACTOR=7", "TEST_CASE_1=True"]
    assert suites.applies('RVTEST_CASE(0,"//check ISA:=regex(.*32.*);def A=True;",add)') is None
    misaligned = 'RVTEST_CASE(0,"//check hw_data_misaligned_support:=%s; def A=True;",lw)'
    assert suites.applies(misaligned % "True") == ["A=True"] and suites.applies(misaligned % "False") is None
    assert suites.applies("nothing at all") is None


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        ("RV64I", "rv64i_zicsr_zifencei"),
        ("RV64IMAFDCSUZicsr_Zifencei", "rv64imafdc_zicsr_zifencei"),
        ("RV64IAFD_Zicsr", "rv64iafd_zicsr_zifencei"),
        ("RV64IC", "rv64ic_zicsr_zifencei"),
    ],
)
def test_march(isa: str, expected: str) -> None:
    assert toolchain.march(isa) == expected


# RISCOF


def test_the_plug_ins_are_where_riscof_looks_for_them() -> None:
    config = configparser.ConfigParser()
    config.read(RISCOF / "config.ini")
    for role in ("DUT", "Reference"):
        name = config["RISCOF"][f"{role}Plugin"]
        assert f"class {name}(Machine)" in (RISCOF / f"riscof_{name}.py").read_text() and name in config
    assert f"ISA: {suites.ISA}\n" in (RISCOF / "vpod_isa.yaml").read_text()
