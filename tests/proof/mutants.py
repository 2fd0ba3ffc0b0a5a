"""The single faults that the proof must notice: each replaces a piece of the core's source that occurs exactly once.

They are spread over everything that the interpreter does, and run there; `mutants_translator.py` has the translator's.
`catcher` is what notices the fault in seconds: test files that the short form runs, or a piece of the short form, as
far as its beginning goes. `mutations.py` builds and tries them.

    Mutation("sub adds", "vpod/_arms.pxd", "h.x[i.rs1] - h.x[i.rs2]", "h.x[i.rs1] + h.x[i.rs2]", INTEGER)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """In `file`, `after` instead of `before`; the catcher runs with VPOD_JIT as `tier` says."""

    name: str
    file: str
    before: str
    after: str
    catcher: str
    tier: str = "0"


ARMS, ARITH, AMO, FP = "vpod/_arms.pxd", "vpod/_arith.pxd", "vpod/_exec_amo.pxd", "vpod/_exec_fp.pxd"
X86 = "vpod/_x86.pxd"
CSR, TRAP, MMU, CODE = "vpod/_csr.pxd", "vpod/_trap.pxd", "vpod/_mmu.pxd", "vpod/_code.pxd"
BLOCKS, SOFT, CPU, ISA, ISAGEN = (
    "vpod/_blocks.pxd", "vpod/_softfloat.pxd", "vpod/_cpu.pyx", "vpod/isa.py", "vpod/isagen.py"
)  # fmt: skip

INTEGER, ATOMICS, BUS = "tests/test_core_integer.py", "tests/test_core_atomics.py", "tests/test_core_bus.py"
STATUS = "tests/test_core_csr.py tests/test_core_csr_rules.py"
TRAPS = "tests/test_core_traps.py tests/test_core_traps_rules.py"
INTERRUPTS = "tests/test_core_interrupts.py tests/test_core_interrupts_rules.py"
PMP = "tests/test_core_pmp.py tests/test_core_pmp_rules.py"
SV39 = "tests/test_core_sv39.py tests/test_core_sv39_rules.py"
FENCES = "tests/test_core_fences.py tests/test_core_fences_rules.py"
STATE, PITFALLS = "tests/test_core_state.py", "tests/test_core_pitfalls.py"
CORNERS, FLOATING = "tests/test_core_corners.py", "tests/test_exec_fp.py"
ENCODING = "tests/test_x86.py"  # pytest runs it, the core has no part in it
PROGRAMS = "user seed=1 first=0 programs=500"  # what the first piece of the short form begins with
COMPRESSED = "encodings sweep=compressed contexts=M"  # a part of a piece of the short form

INTEGERS = (
    Mutation(
        "addiw isn't sign-extended", ARMS,
        "sext(word1(h, i) + <uint32_t>i.imm)", "<uint64_t>(word1(h, i) + <uint32_t>i.imm)", INTEGER,
    ),
    Mutation(
        "srai shifts zeros in", ARMS,
        "<uint64_t>(<int64_t>h.x[i.rs1] >> (i.imm & 63))", "h.x[i.rs1] >> (i.imm & 63)", INTEGER,
    ),
    Mutation(
        "sllw takes six bits of the amount", ARMS,
        "sext(word1(h, i) << (word2(h, i) & 31))", "sext(<uint32_t>(h.x[i.rs1] << (h.x[i.rs2] & 63)))", INTEGER,
    ),
    Mutation(
        "slt compares unsigned", ARMS,
        "h.x[i.rd] = <int64_t>h.x[i.rs1] < <int64_t>h.x[i.rs2]", "h.x[i.rd] = h.x[i.rs1] < h.x[i.rs2]", INTEGER,
    ),
    Mutation(
        "sltiu's immediate isn't sign-extended", ARMS,
        "h.x[i.rd] = h.x[i.rs1] < imm(i)", "h.x[i.rd] = h.x[i.rs1] < <uint32_t>i.imm", INTEGER,
    ),
    Mutation(
        "bge is bgt", ARMS,
        "if <int64_t>h.x[i.rs1] >= <int64_t>h.x[i.rs2]", "if <int64_t>h.x[i.rs1] > <int64_t>h.x[i.rs2]", INTEGER,
    ),
    Mutation(
        "bltu compares signed", ARMS,
        "if h.x[i.rs1] < h.x[i.rs2]: go(", "if <int64_t>h.x[i.rs1] < <int64_t>h.x[i.rs2]: go(", INTEGER,
    ),
    Mutation(
        "jalr keeps the lowest bit", ARMS,
        "cdef uint64_t target = address(h, i) & ~<uint64_t>1", "cdef uint64_t target = address(h, i)", INTEGER,
    ),
    Mutation(
        "auipc counts from the start of its block", ARMS,
        "h.x[i.rd] = h.block_pc + i.offset + imm(i)", "h.x[i.rd] = h.block_pc + imm(i)", INTEGER,
    ),
    Mutation(
        "lhu is sign-extended", ARMS,
        "h.x[i.rd] = (<uint16_t*>(e.addend + a))[0]", "h.x[i.rd] = <uint64_t>(<int16_t*>(e.addend + a))[0]", INTEGER,
    ),
    Mutation(
        "lb from a device is zero-extended", ARMS,
        "if op == OP_LB: v = <uint64_t><int64_t><int8_t>v", "if op == OP_LB: v = <uint8_t>v", BUS,
    ),
    Mutation(
        "dividing by zero gives zero", ARITH,
        "        return NONE\n    return negate_if((a ^ b) < 0, absolute(a) // absolute(b))",
        "        return 0\n    return negate_if((a ^ b) < 0, absolute(a) // absolute(b))", INTEGER,
    ),
    Mutation(
        "a remainder has the divisor's sign", ARITH,
        "return negate_if(a < 0, absolute(a) % absolute(b))", "return negate_if(b < 0, absolute(a) % absolute(b))",
        INTEGER,
    ),
    Mutation(
        "remuw isn't sign-extended", ARITH,
        "return sext(a % b if b else a)", "return a % b if b else a", INTEGER,
    ),
    Mutation(
        "mulhsu takes both as signed", ARITH,
        "(__int128)(unsigned __int128)b) >> 64)", "(__int128)(long long)b) >> 64)", INTEGER,
    ),
    Mutation(
        "mulhu is mulh", ARITH,
        "(((unsigned __int128)a * b) >> 64)", "(((__int128)(long long)a * (long long)b) >> 64)", INTEGER,
    ),
)  # fmt: skip

ATOMIC = (
    Mutation(
        "amomax compares unsigned", AMO,
        "return old if <int64_t>old > <int64_t>operand else operand", "return old if old > operand else operand",
        INTEGER,
    ),
    Mutation(
        "a word's operand of an AMO is zero-extended", AMO,
        "operand = sext(<uint32_t>operand)", "operand = <uint32_t>operand", INTEGER,
    ),
    Mutation(
        "sc succeeds under any reservation", AMO,
        "h.x[i.rd] = h.reservation != pa", "h.x[i.rd] = h.reservation == NONE", ATOMICS,
    ),
    Mutation(
        "sc leaves the reservation", AMO,
        "old = h.reservation\n        h.reservation = NONE", "old = h.reservation", ATOMICS,
    ),
    Mutation(
        "a reservation outlives a trap", TRAP,
        "    h.reservation = NONE  ", "    pass  ", ATOMICS,
    ),
    Mutation(
        "a device's write keeps the reservation of the dword's upper half", CPU,
        "< self.h.reservation + 8:", "< self.h.reservation + 4:", ATOMICS,
    ),
    Mutation(
        "a misaligned sc is a load's fault", MMU,
        "raise_trap(h, CAUSE_LOAD_MISALIGNED if access == READ else CAUSE_STORE_MISALIGNED, va)",
        "raise_trap(h, CAUSE_LOAD_MISALIGNED, va)", ATOMICS,
    ),
)  # fmt: skip

DECODING = (
    Mutation(
        "c.lwsp's offset has bits 6 and 7 exchanged", ISA,
        "uimm[5|4:2|7:6]            | rd!=0        | lw rd",
        "uimm[5|4:2|6|7]            | rd!=0        | lw rd",
        PROGRAMS,
    ),
    Mutation(
        "c.j's offset has bits 6 and 7 exchanged", ISA,
        "imm[11|4|9:8|10|6|7|3:1|5] |", "imm[11|4|9:8|10|7|6|3:1|5] |", PROGRAMS,
    ),
    Mutation(
        "c.addi4spn of nothing is legal", ISA,
        "uimm[5:4|9:6|2|3]          | imm!=0       |", "uimm[5:4|9:6|2|3]          |              |", TRAPS,
    ),
    Mutation(
        "c.addiw of x0 is legal", ISA,
        "imm[5|4:0]                 | rd!=0        | addiw",
        "imm[5|4:0]                 |              | addiw",
        COMPRESSED,
    ),
    Mutation(
        "c.andi's immediate isn't sign-extended", ISA,
        "| rd, imm       | imm[5|4:0]                 |              | andi",
        "| rd, imm       | uimm[5|4:0]                |              | andi", PROGRAMS,
    ),
    Mutation(
        "x0 keeps what is written to it", ISAGEN,
        'yield "if out.rd == 0:"', 'yield "if out.rd == 33:"', INTEGER,
    ),
)  # fmt: skip

REGISTERS = (
    Mutation(
        "csrrs with x0 writes", CSR,
        "cdef bint write = kind == CSR_WRITE or i.rs1 != 0", "cdef bint write = 1", STATUS,
    ),
    Mutation(
        "csrrc sets", CSR,
        "operand = base & ~operand", "operand = base | operand", STATUS,
    ),
    Mutation(
        "sstatus shows MPP", CSR,
        "(0x80000003000c6122ull)", "(0x80000003000c7922ull)", STATUS,
    ),
    Mutation(
        "MPP takes 2", CSR,
        "if value & STATUS_MPP == 2 << 11:", "if value & STATUS_MPP == 4 << 11:", STATUS,
    ),
    Mutation(
        "mepc takes odd addresses", CSR,
        "elif number == 0x341: h.mepc = v & ~<uint64_t>1", "elif number == 0x341: h.mepc = v", STATUS,
    ),
    Mutation(
        "satp takes Sv48", CSR,
        "if mode != 0 and mode != 8:", "if mode != 0 and mode != 8 and mode != 9:", STATUS,
    ),
    Mutation(
        "scounteren doesn't matter", CSR,
        "return h.mcounteren & bit and (h.priv == PRIV_S or h.scounteren & bit)", "return h.mcounteren & bit != 0",
        STATUS,
    ),
    Mutation(
        "TVM leaves satp alone", CSR,
        "return not (h.priv == PRIV_S and h.mstatus & STATUS_TVM)", "return 1", STATUS,
    ),
    Mutation(
        "stimecmp needs no mcounteren", CSR,
        "(h.menvcfg & MENVCFG_STCE and h.mcounteren & 2)", "(h.menvcfg & MENVCFG_STCE)", STATUS,
    ),
    Mutation(
        "writing minstret is one instruction late", CSR,
        "else value - (retired(h) + 1)", "else value - retired(h)", STATUS,
    ),
    Mutation(
        "an instruction that faults is counted", ARMS,
        "h.countdown += h.block.count - (i - h.block.insns)", "h.countdown += h.block.count - (i - h.block.insns) - 1",
        PITFALLS,
    ),
    Mutation(
        "writing fcsr leaves FS clean", CSR,
        "h.fflags = fflags & 31\n    h.mstatus |= STATUS_FS", "h.fflags = fflags & 31", STATUS,
    ),
)  # fmt: skip

TRAPPING = (
    Mutation(
        "traps are delegated from M too", TRAP,
        "if h.priv != PRIV_M and (h.mideleg if", "if (h.mideleg if", TRAPS,
    ),
    Mutation(
        "exceptions are vectored too", TRAP,
        "(4 * (cause & 63) if interrupt and vector & 1 else 0)", "(4 * (cause & 63) if vector & 1 else 0)", TRAPS,
    ),
    Mutation(
        "software's interrupt comes before the external one", TRAP,
        "if chosen & IRQ_MEIP:\n        cause = 11\n    elif chosen & IRQ_MSIP:\n        cause = 3",
        "if chosen & IRQ_MSIP:\n        cause = 3\n    elif chosen & IRQ_MEIP:\n        cause = 11", INTERRUPTS,
    ),
    Mutation(
        "S is interrupted with SIE off", TRAP,
        "or (h.priv == PRIV_S and not h.mstatus & STATUS_SIE):\n            return 0",
        "or 0:\n            return 0",
        INTERRUPTS,
    ),
    Mutation(
        "mret leaves MPRV", TRAP,
        "if h.priv != PRIV_M:\n        h.mstatus &= ~<uint64_t>STATUS_MPRV",
        "if h.priv == PRIV_M:\n        h.mstatus &= ~<uint64_t>STATUS_MPRV", TRAPS,
    ),
    Mutation(
        "sret leaves SPIE", TRAP,
        "(STATUS_SIE if h.mstatus & STATUS_SPIE else 0) | STATUS_SPIE)",
        "(STATUS_SIE | STATUS_SPIE if h.mstatus & STATUS_SPIE else 0))", TRAPS,
    ),
    Mutation(
        "TSR lets sret pass", TRAP,
        "if h.priv == PRIV_U or (h.priv == PRIV_S and h.mstatus & STATUS_TSR):", "if h.priv == PRIV_U:", TRAPS,
    ),
    Mutation(
        "TW lets wfi pass", TRAP,
        "(h.priv == PRIV_S and h.mstatus & STATUS_TW)", "(h.priv == PRIV_S and h.mstatus & STATUS_TVM)", INTERRUPTS,
    ),
    Mutation(
        "wfi waits though an interrupt is pending", TRAP,
        "h.waiting = pending(h) & h.mie == 0", "h.waiting = 1", INTERRUPTS,
    ),
    Mutation(
        "STIP stays when stimecmp moves on", TRAP,
        "        else:\n            h.mip &= ~<uint64_t>IRQ_STIP", "        else:\n            pass", INTERRUPTS,
    ),
    Mutation(
        "the trap value of an illegal instruction is zero", CPU,
        "h.trap_value = instruction_word(h, h.pc)", "h.trap_value = 0", TRAPS,
    ),
    Mutation(
        "ecall is always U's", ARMS,
        "raise_trap(h, CAUSE_ECALL_U + h.priv, 0)", "raise_trap(h, CAUSE_ECALL_U, 0)", TRAPS,
    ),
)  # fmt: skip

PROTECTION = (
    Mutation(
        "a NAPOT range is half as long", MMU,
        "h.pmp_high[n] = h.pmp_low[n] + (ones << 2) + 3", "h.pmp_high[n] = h.pmp_low[n] + (ones << 1) + 3", PMP,
    ),
    Mutation(
        "a TOR range has one byte more", MMU,
        "h.pmp_high[n] = (a << 2) - 1", "h.pmp_high[n] = a << 2", PMP,
    ),
    Mutation(
        "a locked entry doesn't bind M", MMU,
        "if priv == PRIV_M and not h.pmpcfg[n] & PMP_L:", "if priv == PRIV_M:", PMP,
    ),
    Mutation(
        "an access may leave its entry at the end", MMU,
        "if pa < h.pmp_low[n] or last > h.pmp_high[n]:\n            return -1",
        "if pa < h.pmp_low[n]:\n            return -1", PMP,
    ),
    Mutation(
        "a locked TOR entry leaves its lower bound open", CSR,
        "(h.pmpcfg[n + 1] & PMP_A) >> 3 == 1", "(h.pmpcfg[n + 1] & PMP_A) >> 3 == 2", PMP,
    ),
    Mutation(
        "a locked entry takes another configuration", CSR,
        "if not h.pmpcfg[first + n] & PMP_L:", "if 1:", PMP,
    ),
    Mutation(
        "page tables are read past PMP", MMU,
        "if not in_ram(h, pte_at, 8) or not pmp_allows(h, pte_at, 8, READ, PRIV_S):",
        "if not in_ram(h, pte_at, 8):",
        SV39,
    ),
)  # fmt: skip

TRANSLATION = (
    Mutation(
        "S reads U's pages without SUM", MMU,
        "elif pte & PTE_U and (access == EXECUTE or mode != MODE_S_SUM):",
        "elif pte & PTE_U and access == EXECUTE:",
        SV39,
    ),
    Mutation(
        "S executes U's pages", MMU,                         # fetches are never in S_SUM, so SUM alone can't let them
        "elif pte & PTE_U and (access == EXECUTE or mode != MODE_S_SUM):",
        "elif pte & PTE_U and access != EXECUTE and mode != MODE_S_SUM:",
        SV39,
    ),
    Mutation(
        "MPRV has no effect", MMU,
        "if priv == PRIV_M and h.mstatus & STATUS_MPRV:", "if priv == PRIV_S and h.mstatus & STATUS_MPRV:", SV39,
    ),
    Mutation(
        "MXR is always on", MMU,
        "if h.mstatus & STATUS_MXR and pte & PTE_X:", "if pte & PTE_X:", SV39,
    ),
    Mutation(
        "a superpage may be misaligned by whole pages", MMU,
        "if ((pte >> 10) << PAGE_SHIFT) & offset_mask:", "if ((pte >> 10) << PAGE_SHIFT) & (offset_mask >> 9):", SV39,
    ),
    Mutation(
        "addresses are canonical from bit 39 on", MMU,
        "(va << 25)) >> 25)", "(va << 24)) >> 24)", SV39,
    ),
    Mutation(
        "a store leaves D", MMU,
        "pte |= PTE_A | (PTE_D if access == WRITE else 0)", "pte |= PTE_A", SV39,
    ),
    Mutation(
        "a page that was read may be written without D", MMU,
        "if not pte & PTE_D:\n        rights[0]", "if not pte & PTE_A:\n        rights[0]", SV39,
    ),
    Mutation(
        "bits 54 to 63 of an entry don't matter", MMU,
        "or pte & (PTE_R | PTE_W) == PTE_W or pte >> 54:", "or pte & (PTE_R | PTE_W) == PTE_W:", SV39,
    ),
    Mutation(
        "a pointer's A, D and U bits don't matter", MMU,
        "if pte & (PTE_A | PTE_D | PTE_U) or level == 0:", "if level == 0:", SV39,
    ),
    Mutation(
        "a load one byte over its page counts as within it", MMU,
        "if first >= size:\n        if e.read_tag", "if first + 1 >= size:\n        if e.read_tag", CORNERS,
    ),
    Mutation(
        "a store over a page's end checks the first page twice", MMU,
        "if not translate(h, va + first, WRITE, h.data_mode, size - first, &pa2):",
        "if not translate(h, va, WRITE, h.data_mode, size - first, &pa2):", SV39,
    ),
    Mutation(
        "a fetch over a page's end reads the first page on", BLOCKS,
        "elif not translate(h, pc + at, EXECUTE, fetch_mode(h), 2, &pa):",
        "elif not translate(h, pc, EXECUTE, fetch_mode(h), 2, &pa):", SV39,
    ),
)  # fmt: skip

CACHES = (
    Mutation(
        "writing satp keeps the old address space's entries", CSR,
        "elif value != h.satp:\n        tlb_flush_local(h)", "elif value != h.satp:\n        pass", FENCES,
    ),
    Mutation(
        "MXR's change keeps the TLB", CSR,
        "if (old ^ h.mstatus) & STATUS_MXR:\n        tlb_flush(h)",
        "if (old ^ h.mstatus) & STATUS_MXR:\n        pass",
        FENCES,
    ),
    Mutation(
        "sfence.vma of a page forgets its first place in the TLB alone", MMU,
        "        memset(second_place(h, mode, va), 0xff, sizeof(TlbEntry))\n", "",
        FENCES,
    ),
    Mutation(
        "the TLB's second place gives every right", MMU,
        "(e.read_tag if access == READ else e.write_tag if access == WRITE else e.exec_tag)", "e.read_tag",
        FENCES,
    ),
    Mutation(
        "sfence.vma of the present ASID does nothing", TRAP,
        "elif h.x[i.rs2] & 0xffff == h.satp >> 44 & 0xffff:",
        "elif h.x[i.rs2] & 0xffff == h.satp >> 60 & 0xffff:",
        FENCES,
    ),
    Mutation(
        "the TLB lets every page be read", MMU,
        "e.read_tag = page if rights & READ else NONE", "e.read_tag = page", SV39,
    ),
    Mutation(
        "a PMP write keeps the TLB", CSR,
        "h.pmpaddr[n] = value & PMPADDR_MASK\n    pmp_update(h)\n    tlb_flush(h)",
        "h.pmpaddr[n] = value & PMPADDR_MASK\n    pmp_update(h)", CORNERS,
    ),
    Mutation(
        "a store over two lines of code touches the first only", CODE,
        "last = ((offset + size - 1) & (PAGE_SIZE - 1)) >> 6", "last = first", CORNERS,
    ),
    Mutation(
        "the jump cache keeps dropped blocks", CODE,
        "h.code_pages[page] = NULL\n    jump_flush(h)", "h.code_pages[page] = NULL", PITFALLS,
    ),
    Mutation(
        "stores to a page that has become code still hit the TLB", BLOCKS,
        "        tlb_forbid_writes(h, number)", "        pass", PITFALLS,
    ),
    Mutation(
        "a page with code becomes writable in the TLB", MMU,
        "!= NULL:\n        rights &= ~<uint32_t>WRITE", "!= NULL:\n        pass", CORNERS,
    ),
    Mutation(
        "a device's write leaves decoded code", CPU,
        "            code_written(self.h, at, step)", "            pass", PITFALLS,
    ),
)  # fmt: skip

FLOATS = (
    Mutation(
        "a tie goes away from zero", SOFT,
        "sig = (sig + (half - 1) + (sig >> drop & 1)) >> drop", "sig = (sig + half) >> drop", FLOATING,
    ),
    Mutation(
        "a subnormal tie goes away from zero", SOFT,
        "if rm == RNE and tail == half:", "if rm == RTZ and tail == half:", CORNERS,
    ),
    Mutation(
        "underflow is only inexact", SOFT,
        "flags[0] |= NX | UF if tiny else NX", "flags[0] |= NX", CORNERS,
    ),
    Mutation(
        "tininess is detected before rounding", SOFT,
        "tiny = exp < 0 or sig + inc < <uint64_t>1 << 63", "tiny = True", CORNERS,
    ),
    Mutation(
        "a quotient's remainder is forgotten", SOFT,
        "sig |= remainder != 0", "sig |= 0", FLOATING,
    ),
    Mutation(
        "fmin and fmax take zeros for equal", SOFT,
        "return a if (order(a) < order(b)) != largest else b",
        "return a if ordered_less(a, b) != largest else b",
        FLOATING,
    ),
    Mutation(
        "fmin hands a NaN on", SOFT,
        "return canonical_nan(a) if is_nan(a) and is_nan(b) else", "return a if is_nan(a) and is_nan(b) else", FLOATING,
    ),
    Mutation(
        "a fused operation rounds twice", SOFT,
        "is_normal(exponent(c), c)):\n        return multiply_add(a, b, c, rm, flags)",
        "is_normal(exponent(c), c)):\n        return f_add(f_mul(a, b, rm, flags), c, rm, flags)", FLOATING,
    ),
    Mutation(
        "infinity times zero plus a NaN is valid", SOFT,
        "            flags[0] |= NV                                     # even", "            pass  # even", CORNERS,
    ),
    Mutation(
        "RMM rounds a tie to an integer down", SOFT,
        "elif rm == RMM:\n        whole += tail >= half", "elif rm == RMM:\n        whole += tail > half", FLOATING,
    ),
    Mutation(
        "a negative NaN is the least integer", SOFT,
        "return most if is_nan(a) else (limit", "return limit if is_nan(a) else (limit", FLOATING,
    ),
    Mutation(
        "fcvt.wu isn't sign-extended", SOFT,
        "return <uint64_t><int64_t><int>to_integer(", "return to_integer(", FLOATING,
    ),
    Mutation(
        "an unboxed single is taken as it is", FP,
        "else canonical_nan(<uint32_t>0)", "else <uint32_t>v", FLOATING,
    ),
    Mutation(
        "rounding mode 5 is legal", FP,
        "<unsigned int>rm > RMM", "<unsigned int>rm > 5", FLOATING,
    ),
    Mutation(
        "flw doesn't box", ARMS,
        "h.f[i.rd] = (<uint32_t*>(e.addend + a))[0] | NAN_BOX", "h.f[i.rd] = (<uint32_t*>(e.addend + a))[0]", CORNERS,
    ),
    Mutation(
        "a new flag alone leaves FS clean", FP,
        "if h.fflags != before:\n        h.mstatus |= STATUS_FS", "if h.fflags != before:\n        pass", FLOATING,
    ),
)  # fmt: skip

OUTSIDE = (
    Mutation(
        "a misaligned access reaches a device", MMU,
        "if h.mmio_state == MMIO_REFUSED or pa & (size - 1):", "if h.mmio_state == MMIO_REFUSED:", BUS,
    ),
    Mutation(
        "a device gets all 64 bits of a narrow store", CPU,
        "h.mmio_value & (NONE >> (64 - 8 * h.mmio_size))", "h.mmio_value", BUS,
    ),
    Mutation(
        "what no device answers is no fault", CPU,
        "            h.mmio_state = MMIO_REFUSED", "            h.mmio_state = MMIO_READY", BUS,
    ),
    Mutation(
        "restore loses the f registers", CPU,
        'h.f[n] = state["f"][n]', "h.f[n] = 0", STATE,
    ),
    Mutation(
        "restore loses mtimecmp", CPU,
        'h.mtimecmp = state["mtimecmp"]', "h.mtimecmp = NONE", STATE,
    ),
    Mutation(
        "the PLIC's line isn't restored", CPU,
        'h.external = state["external"] != 0', "h.external = 0", STATE,
    ),
)  # fmt: skip

ENCODER = (
    Mutation(
        "REX has no bit of the index", X86,
        "(index >> 3) << 1 |", "0 |", ENCODING,
    ),
    Mutation(
        "RBP and R13 go without a displacement of zero", X86,
        '[base + disp], as short as it can be."""\n    cdef uint32_t mode = 0 if disp == 0 and base & 7 != RBP else',
        '[base + disp], as short as it can be."""\n    cdef uint32_t mode = 0 if disp == 0 else', ENCODING,
    ),
    Mutation(
        "R12 as a base has no SIB byte", X86,
        "if base & 7 == RSP:", "if base == RSP:", ENCODING,
    ),
    Mutation(
        "a store of SPL is one of AH", X86,
        "rex(c, 0, source, 0, base, source >= RSP)", "rex(c, 0, source, 0, base, 0)", ENCODING,
    ),
    Mutation(
        "setcc of SIL is one of DH", X86,
        "rex(c, 0, 0, 0, to, to >= RSP)", "rex(c, 0, 0, 0, to, 0)", ENCODING,
    ),
    Mutation(
        "immediates from 128 to 255 take a byte", X86,
        "return <int8_t>value == value", "return <int8_t>value == value or <uint8_t>value == value", ENCODING,
    ),
    Mutation(
        "every negative constant is a sign-extended half", X86,
        "elif fits32(<int64_t>value):", "elif value >> 63:", ENCODING,
    ),
    Mutation(
        "a 32-bit move to the same register is left out", X86,
        "if to != source or not wide:", "if to != source:", ENCODING,
    ),
    Mutation(
        "shifts by CL are by one", X86,
        "op_rr(c, 0xd3, wide, op, to)", "op_rr(c, 0xd1, wide, op, to)", ENCODING,
    ),
    Mutation(
        "VEX's second register isn't inverted", X86,
        "(~vvvv & 15) << 3 | pp", "(vvvv & 15) << 3 | pp", ENCODING,
    ),
    Mutation(
        "VEX reaches the lower eight of the last register only", X86,
        "(0 if rm & 8 else 0x20)", "0x20", ENCODING,
    ),
    Mutation(
        "eight bytes are room enough", X86,
        "if c.end - c.at < MAX_LENGTH:", "if c.end - c.at < 8:", ENCODING,
    ),
    Mutation(
        "a jump is written where there is no room", X86,
        "    if not room(c):\n        return NULL\n    put8(c, 0xe9)", "    room(c)\n    put8(c, 0xe9)", ENCODING,
    ),
    Mutation(
        "a patched jump counts from its offset", X86,
        "offset = <int32_t>(target - (place + 4))", "offset = <int32_t>(target - place)", ENCODING,
    ),
    Mutation(
        "less and greater or equal are exchanged", X86,
        "CC_L = 12\n    CC_GE = 13", "CC_L = 13\n    CC_GE = 12", ENCODING,
    ),
)  # fmt: skip

MUTATIONS = (
    *INTEGERS, *ATOMIC, *DECODING, *REGISTERS, *TRAPPING, *PROTECTION, *TRANSLATION, *CACHES, *FLOATS, *OUTSIDE,
    *ENCODER
)  # fmt: skip
