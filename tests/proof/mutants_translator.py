"""The single faults of the translator that the proof must notice: as `mutants.py`, for `_jit.pyx` and its chapters.

Their catchers are pieces of the target `tiers` and the translator's own tests, since most tests of the core execute an
instruction at a time, and code that is left after each instruction is never translated. All run with VPOD_JIT=force.
"""

from __future__ import annotations

from functools import partial

from tests.proof.mutants import CODE, MMU, PROGRAMS, Mutation

JIT, TRANSLATOR, ENCODER = "vpod/_jit.pyx", "vpod/_translator.pxd", "vpod/_x86.pxd"
FLOW, INTEGERS, MEMORY = "vpod/_emit_flow.pxd", "vpod/_emit_integer.pxd", "vpod/_emit_memory.pxd"
FLOATS, COMMON = "vpod/_emit_float.pxd", "vpod/_emit_common.pxd"

CROSSED = "floats kind=cross operands=doubles arity=2"
EPISODES = "tiers kind=episodes seed=1 first=0 scenes=30 effort=3000000 shrinking=0"
ROUNDS = "tiers kind=rounds seed=1 first=0 scenes=30 effort=5000000 shrinking=0"  # what a piece of the short form does
CHAINS = "tests/test_translator.py"
STATE = "tests/test_translator_state.py"
WEB = "tiers kind=web seed=1 first=0 scenes=40 effort=10000000 shrinking=0"

Fault = partial(Mutation, tier="force")

KEYS = (
    Fault(
        "the rounding mode isn't in the key", JIT,
        "h.mstatus & STATUS_FS == STATUS_FS and h.frm == RM_RNE else 0", "h.mstatus & STATUS_FS == STATUS_FS else 0",
        ROUNDS,
    ),
    Fault(
        "Clean floating-point state counts as Dirty", JIT,
        "FLOATING if h.mstatus & STATUS_FS == STATUS_FS and", "FLOATING if h.mstatus & STATUS_FS and", WEB,
    ),
    Fault(
        "a translation serves every key", JIT,
        "while t != NULL and t.key != key:", "while t != NULL and t.key & 3 != key & 3:", ROUNDS,
    ),
    Fault(
        "one table of landings for all keys is emptied only", FLOW,
        "h.landed |= <uint32_t>1 << t.key", "h.landed |= 1", WEB,
    ),
)  # fmt: skip

COUNTING = (
    Fault(
        "the trace's count is one too small", JIT,
        "alu_ri(c, SUB, 1, R15, total)", "alu_ri(c, SUB, 1, R15, total - 1)", WEB,
    ),
    Fault(
        "`left` is off by one", JIT,
        "step.left = total - done", "step.left = total - done + 1", WEB,
    ),
    Fault(
        "a side exit gives nothing back", JIT,
        "        if o.left:\n            alu_ri(c, ADD, 1, R15, o.left)", "        if 0:\n            pass", WEB,
    ),
    Fault(
        "an arm that doesn't return gives nothing back", JIT,
        "    h.countdown += single.left\n", "", WEB,
    ),
    Fault(
        "an access that faults is counted", COMMON,
        "    patch(fault, c.at)\n    alu_ri(c, ADD, 1, R15, 1)\n", "    patch(fault, c.at)\n", WEB,
    ),
    Fault(
        "helpers see an old countdown", COMMON,
        "    mov_mr(c, 1, RBP, off(h, &h.countdown), R15)\n    lea_rm", "    lea_rm",
        WEB,
    ),
    Fault(
        "a trap that stays in translated code is free", JIT,
        "        h.countdown -= 1   ", "        pass   ", EPISODES,
    ),
    Fault(
        "the countdown may end within a trace", JIT,
        "out_of_line(j, OUT_HEAD, jump_cc(c, CC_L), NULL, 0)", "out_of_line(j, OUT_HEAD, jump_cc(c, CC_O), NULL, 0)",
        WEB,
    ),
)  # fmt: skip

FLOWING = (
    Fault(
        "interrupts wait while translated code goes on", JIT,
        "    take_interrupt(h)\n    key = key_of(h)", "    key = key_of(h)", WEB,
    ),
    Fault(
        "an arm that changes the key goes on in the old one", JIT,
        "if key < 0 or key >> 2 != fp:", "if key < 0:", WEB,
    ),
    Fault(
        "what an arm goes on with has the old page", JIT,
        "    h.page_va = h.pc & ~<uint64_t>(PAGE_SIZE - 1)\n    h.running_generation",
        "    h.running_generation", WEB,
    ),
    Fault(
        "a link into another page doesn't ask for the generation", FLOW,
        "        older = jump_cc(c, CC_NE)\n", "        older = NULL\n", WEB,
    ),
    Fault(
        "a link into another page doesn't ask for the page", FLOW,
        "        other = jump_cc(c, CC_NE)\n", "        other = NULL\n", WEB,
    ),
    Fault(
        "a link into another page leaves the page's address", FLOW,
        "        mov_mr(c, 1, RBP, off(h, &h.page_va), RAX)\n    jump_p", "    jump_p", WEB,
    ),
    Fault(
        "an indirect jump leaves the page's address", FLOW,
        "    mov_mr(c, 1, RBP, off(h, &h.page_va), RAX)\n    op_rx(c, 0xff", "    op_rx(c, 0xff", WEB,
    ),
    Fault(
        "an indirect jump keeps the lowest bit", FLOW,
        "    alu_ri(c, AND, 1, RAX, -2)\n", "", ROUNDS,
    ),
    Fault(
        "jalr's link is the jump itself", FLOW,
        "emit_return_address(h, c, i, j.base + <int32_t>i.offset + i.length)",
        "emit_return_address(h, c, i, j.base + <int32_t>i.offset)", ROUNDS,
    ),
    Fault(
        "a landing's tag isn't compared", FLOW,
        "    jump_cc_to(c, CC_NE, j.land_apart[j.key])", "    jump_cc_to(c, CC_B, j.land_apart[j.key])", WEB,
    ),
    Fault(
        "a landing that is driven out is lost", FLOW,
        "if landing.tag != pc and landing.tag != NONE:", "if 0:", CHAINS,
    ),
    Fault(
        "what lies in two pages isn't counted", JIT,
        "left = h.countdown - 1", "left = h.countdown", CHAINS,
    ),
    Fault(
        "what lies in two pages doesn't know the flags", COMMON,
        "        emit_sync(h, j)                                      # it may read", "        # it may read", CHAINS,
    ),
    Fault(
        "what lies in two pages is what first lay there", JIT,
        "if known.word != word:", "if known.word == 0:", CHAINS,
    ),
    Fault(
        "the tag beside a landing isn't compared", FLOW,
        "    jump_cc_to(c, CC_NE, j.onward_pc[key >> 2])\n", "", WEB,
    ),
    Fault(
        "bltu compares signed in translated code", FLOW,
        "elif i.op == OP_BLTU: return CC_B", "elif i.op == OP_BLTU: return CC_L", ROUNDS,
    ),
    Fault(
        "bgeu is bgtu in translated code", FLOW,
        "else: return CC_AE", "else: return CC_A", ROUNDS,
    ),
    Fault(
        "a side exit has the wrong condition", FLOW,
        "jump_cc(c, cc ^ 1), i, left).target = next", "jump_cc(c, cc), i, left).target = next", ROUNDS,
    ),
    Fault(
        "a trace goes on in the next physical page", JIT,
        "if not 0 <= to < PAGE_SIZE:", "if to < 0:", WEB,
    ),
    Fault(
        "an arm in translated code is at its page's start", JIT,
        "h.block_pc = h.page_va + <uint64_t>single.at", "h.block_pc = h.page_va", WEB,
    ),
    Fault(
        "auipc counts from its block in translated code", INTEGERS,
        "j.base + <int32_t>i.offset + i.imm", "j.base + i.imm", WEB,
    ),
)  # fmt: skip

REGISTERS = (
    Fault(
        "two guest registers have one pin", TRANSLATOR,
        "-1, 14, 11, -1, -1, -1, -1, -1, 12, 13, 3, 6, 7, 8, 9, 10,",
        "-1, 14, 11, -1, -1, -1, -1, -1, 12, 13, 3, 6, 7, 8, 9, 9,", ROUNDS,
    ),
    Fault(
        "a pinned register isn't spilled", TRANSLATOR,
        "{1, 2, 8, 9, 10, 11, 12, 13, 14, 15}", "{1, 2, 8, 9, 10, 11, 12, 13, 14, 14}", ROUNDS,
    ),
    Fault(
        "rdi counts as saved by what is called", COMMON,
        "reg == RBX or reg >= R12", "reg == RBX or reg == RDI or reg >= R12", WEB,
    ),
    Fault(
        "a pinned f register isn't spilled", TRANSLATOR,
        "vpod_fpinned[14] = {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}",
        "vpod_fpinned[14] = {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16}", ROUNDS,
    ),
)  # fmt: skip

ACCESSES = (
    Fault(
        "a store compares the window's right to read", MEMORY,
        "alu_rm(c, CMP, 1, RCX, RBP, off(h, &w.write_tag) if writes(i.op) else off(h, &w.read_tag))",
        "alu_rm(c, CMP, 1, RCX, RBP, off(h, &w.read_tag))", WEB,
    ),
    Fault(
        "a group with stores compares the right to read", MEMORY,
        "off(h, &w.write_tag) if g.write else off(h, &w.read_tag))\n    return jump_cc",
        "off(h, &w.read_tag))\n    return jump_cc", WEB,
    ),
    Fault(
        "a group's last byte isn't checked", MEMORY,
        "    lea_rm(c, 1, RCX, base, g.high)\n", "    lea_rm(c, 1, RCX, base, g.low)\n", WEB,
    ),
    Fault(
        "a group outlives its base register", MEMORY,
        "if i.rd == g.base and not (writes(i.op) or is_float_load(i.op)):", "if 0:", WEB,
    ),
    Fault(
        "a miss within a group loses its addend", MEMORY,
        "    if o.grouped:\n        mov_rm(c, 1, RDX, RBP, off(h, &h.group_addend))\n    jump_to(c, o.done)",
        "    jump_to(c, o.done)", WEB,
    ),
    Fault(
        "an access over its page's end counts as within it", MEMORY,
        "-PAGE_SIZE | ((1 << log_size(i.op)) - 1))", "-PAGE_SIZE)", WEB,
    ),
    Fault(
        "lbu is sign-extended in translated code", MEMORY,
        "elif op == OP_LBU: code = OP_MOVZX8", "elif op == OP_LBU: code = OP_MOVSX8", ROUNDS,
    ),
    Fault(
        "lw isn't sign-extended after a miss", MEMORY,
        "elif i.op == OP_LW: op_rr(c, OP_MOVSXD, 1, d, RAX)", "elif i.op == OP_LW: mov_rr(c, 0, d, RAX)", ROUNDS,
    ),
    Fault(
        "a store into code goes on in the old code", JIT,
        "    h.status = store_slow(h, va, size, value)",
        "    h.status = store_slow(h, va, size, value)\n    if h.status == LEAVE: h.status = CONTINUE", WEB,
    ),
    Fault(
        "the window is refilled for stores by the right to read", COMMON,
        "int32_t tag = off(h, &e.write_tag) if write else off(h, &e.read_tag)", "int32_t tag = off(h, &e.read_tag)",
        WEB,
    ),
    Fault(
        "the window is refilled from the TLB's second place unasked", COMMON,
        "    op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, tag)\n    miss",
        "    alu_rr(c, CMP, 1, RCX, RCX)\n    miss", WEB,
    ),
    Fault(
        "a base that is no pin isn't fetched again after a miss", MEMORY,
        "            fetch(c, RAX, i.rs1)\n            jump_to(c, o.access)", "            jump_to(c, o.access)", STATE,
    ),
    Fault(
        "a refilled window's addend is the one it had", COMMON,
        "    op_rx(c, OP_MOV_STORE, 1, RDX, RBP, RAX, 0, off(h, &w.addend))\n", "", STATE,
    ),
    Fault(
        "floats at rest are stored while FS is Off", MEMORY,
        "    mov_ri(c, RAX, STATUS_FS)", "    mov_ri(c, RAX, -1)", STATE,
    ),
    Fault(
        "windows outlive an sfence.vma of a page", MMU,
        "    windows_flush(h)\n    for mode in range(MODE_M):", "    for mode in range(MODE_M):", WEB,
    ),
    Fault(
        "windows outlive a flush of the TLB", MMU,
        "sizeof(h.tlb))\n    windows_flush(h)", "sizeof(h.tlb))", WEB,
    ),
    Fault(
        "windows let a page be written that has become code", MMU,
        "    cdef int mode, n\n    windows_flush(h)", "    cdef int mode, n", CHAINS,
    ),
)  # fmt: skip

MEANINGS = (
    Fault(
        "a flush keeps the generation", CODE,
        "    h.generation[priv] = h.generations\n", "", WEB,
    ),
    Fault(
        "a flush keeps the landings", CODE,
        "        if h.landed & keys & (<uint32_t>1 << key):", "        if 0:", WEB,
    ),
    Fault(
        "sfence.vma of a page keeps U's generation", CODE,
        "        new_generation(h, PRIV_U)\n        new_generation(h, PRIV_S)",
        "        new_generation(h, PRIV_S)", WEB,
    ),
    Fault(
        "a page where code was entered isn't noted", CODE,
        "    entered_word(h, va, &bit)[0] |= bit", "    entered_word(h, va, &bit)[0] |= 0", WEB,
    ),
    Fault(
        "a change of user's pages keeps user's landings", CODE,
        "else 0x11)", "else 0x10)", WEB,
    ),
    Fault(
        "an undone link still leads there", CODE,
        "    link.target = link.stub\n", "", WEB,
    ),
    Fault(
        "a region's translations stay their blocks'", JIT,
        "        if not t.dropped:\n            retire(h, t)", "        if 0:\n            pass", ROUNDS,
    ),
)  # fmt: skip

ARITHMETIC = (
    Fault(
        "the least number divided by -1 is the processor's", INTEGERS,
        "alu_ri(c, CMP, wide, RCX, -1)", "alu_ri(c, CMP, wide, RCX, -2)", ROUNDS,
    ),
    Fault(
        "dividing by zero gives zero in translated code", INTEGERS,
        "mov_ri(c, RAX, NONE)", "mov_ri(c, RAX, 0)", ROUNDS,
    ),
    Fault(
        "mulhsu's correction is added", INTEGERS,
        "alu_rr(c, SUB, 1, RDX, RAX)", "alu_rr(c, ADD, 1, RDX, RAX)", ROUNDS,
    ),
    Fault(
        "sub's operands change places", INTEGERS,
        "        if commutes:\n", "        if 1:\n", PROGRAMS,
    ),
    Fault(
        "slt leaves the upper bytes", INTEGERS,
        "op_rr8(c, OP_MOVZX8, 0, d, RAX)", "mov_rr(c, 1, d, RAX)", ROUNDS,
    ),
    Fault(
        "displacements of 128 are taken for -128", ENCODER,
        "return <int8_t>value == value", "return -128 <= value <= 128", WEB,
    ),
    Fault(
        "the index's upper half is the base's", ENCODER,
        "(reg >> 3) << 2 | (index >> 3) << 1 | base >> 3", "(reg >> 3) << 2 | (base >> 3) << 1 | base >> 3", ROUNDS,
    ),
)  # fmt: skip

FLOATING_POINT = (
    Fault(
        "`jo` after a conversion to an integer is dropped", FLOATS,
        "    by_arm(j, CC_O, i, left, outs)\n", "", ROUNDS,
    ),
    Fault(
        "flt of equals holds", FLOATS,
        "CC_A if op == OP_FLT_D else CC_AE", "CC_AE", CROSSED,
    ),
    Fault(
        "feq of NaNs holds", FLOATS,
        "set_cc(c, CC_NP, RAX)", "set_cc(c, CC_E, RAX)", ROUNDS,
    ),
    Fault(
        "the canonical NaN is negative", FLOATS,
        "k.nan_d[0] = <uint64_t>0x7ff8 << 48", "k.nan_d[0] = <uint64_t>0xfff8 << 48", ROUNDS,
    ),
    Fault(
        "every single counts as boxed", FLOATS,
        "    if j.boxed >> n & 1:\n", "    if 1:\n", ROUNDS,
    ),
    Fault(
        "what is no single any more counts as boxed", FLOATS,
        "        j.boxed &= ~(<uint32_t>1 << n)", "        pass", "tests/test_translator_floats.py",
    ),
    Fault(
        "an unboxed single doesn't end the translation", FLOATS,
        "by_arm(j, CC_NE, i, left, outs).ends = 1", "by_arm(j, CC_NE, i, left, outs)", ROUNDS,
    ),
    Fault(
        "the flag of underflow is a denormal operand's", FLOATS,
        "FFLAG_UF if n & 16", "FFLAG_UF if n & 2", ROUNDS,
    ),
    Fault(
        "fmin and fmax of zeros are the processor's", FLOATS,
        "    by_arm(j, CC_E, i, left, outs) ", "    # ", ROUNDS,
    ),
    Fault(
        "flags that were taken come back", FLOATS,
        "    mov_mi(c, 0, RBP, off(h, &h.guest_mxcsr), MXCSR_DEFAULT)\n", "", ROUNDS,
    ),
    Fault(
        "fflags is read without the last flags", JIT,
        "        if j.fp:\n            call_to(&j.code, j.sync)\n", "", ROUNDS,
    ),
    Fault(
        "static rounding modes don't matter", FLOATS,
        "elif rm > RM_RMM or rm != RM_RNE and not is_exact(op, single): return 0", "elif rm > RM_RMM: return 0",
        ROUNDS,
    ),
    Fault(
        "fcvt.s.wu takes a negative word", FLOATS,
        "    if not wide and not is_signed: ", "    if 0: ", ROUNDS,
    ),
)  # fmt: skip

ATOMICS = (
    Fault(
        "sc stores whatever was reserved", MEMORY,
        "        failed = jump_cc(c, CC_NE)\n", "        failed = NULL\n", STATE,
    ),
    Fault(
        "sc leaves the reservation in translated code", MEMORY,
        "        mov_mi(c, 1, RBP, off(h, &h.reservation), -1)        # the flags stay\n", "", STATE,
    ),
    Fault(
        "lr reserves the host's address", MEMORY,
        "        emit_physical(h, c, RDX)\n", "", STATE,
    ),
    Fault(
        "sc succeeds and says that it failed", MEMORY,
        "        set_cc(c, CC_NE, RAX)\n        op_rr8(c", "        set_cc(c, CC_E, RAX)\n        op_rr8(c", STATE,
    ),
    Fault(
        "an AMO writes what may only be read", MEMORY,
        "emit_host_address(h, j, i, 3 if wide else 2, op != OP_LR_W, left)",
        "emit_host_address(h, j, i, 3 if wide else 2, op == OP_SC_W, left)", STATE,
    ),
    Fault(
        "an atomic may be misaligned", MEMORY,
        "    alu_ri(c, AND, 1, RCX, -PAGE_SIZE | ((1 << size) - 1))\n    op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, "
        "off(h, &e.write_tag) if write",
        "    alu_ri(c, AND, 1, RCX, -PAGE_SIZE)\n    op_rx(c, CMP << 3 | 3, 1, RCX, RBP, RDX, 0, "
        "off(h, &e.write_tag) if write",
        STATE,
    ),
    Fault(
        "an AMO gives the new value", MEMORY,
        "        if d != RAX and i.rd != X0_SINK:\n            mov_rr(c, 1, d, RAX)",
        "        if d != RAX and i.rd != X0_SINK:\n            mov_rm(c, 1, d, RDX, 0)", STATE,
    ),
)  # fmt: skip

PAIRS = (
    Fault(
        "two accesses within one unit needn't be aligned", MEMORY,
        "-PAGE_SIZE | ((1 << g.unit) - 1 if g.unit > 0 else 0)", "-PAGE_SIZE", STATE,
    ),
    Fault(
        "any two accesses count as within one unit", MEMORY,
        "g.low != j.steps[first].insn.imm or (g.high - g.low) >> g.unit", "g.low != j.steps[first].insn.imm", STATE,
    ),
    Fault(
        "a pair with other registers is a pair", INTEGERS,
        "i.rd == X0_SINK or n.rd != i.rd", "i.rd == X0_SINK", STATE,
    ),
    Fault(
        "a sign-extension is a zero-extension", INTEGERS,
        "is_signed = n.op == OP_SRAI", "is_signed = 0", STATE,
    ),
    Fault(
        "an index is scaled by one bit less", INTEGERS,
        "index, i.imm & 63, 0)", "index, (i.imm & 63) - 1, 0)", STATE,
    ),
)  # fmt: skip

BATCHES = (
    Fault(
        "a block that was dropped while it waited is translated", JIT,
        "block_at(h, waiting.pa) == waiting.block and ", "", CHAINS,
    ),
    Fault(
        "a batch links what has another key", JIT,
        "connect(link, made_for(block, t.key))", "connect(link, block.translations)", WEB,
    ),
    Fault(
        "a batch links by the offset from the block", JIT,
        "block_at(h, (t.pa & ~<uint64_t>(PAGE_SIZE - 1)) + <uint64_t>link.offset)",
        "block_at(h, t.pa + <uint64_t>link.offset)", WEB,
    ),
    Fault(
        "blocks wait in a mode that isn't translated", JIT,
        "if j.patience == 0 or key < 0 or", "if j.patience == 0 or", CHAINS,
    ),
    Fault(
        "hot blocks don't wait", JIT,
        "if j.patience == 0 or key < 0 or", "if 1 or", CHAINS,
    ),
    Fault(
        "a page of code isn't opened before it is written", JIT,
        "return j.code.at >= j.fresh or protect(", "return 1 or protect(", CHAINS,
    ),
)  # fmt: skip

SITES = (
    Fault(
        "dropped code is found by its address", CODE,
        "            leave_site(h, t)\n            t.dropped = 1", "            t.dropped = 1", CHAINS,
    ),
    Fault(
        "all code was dropped and is found by its address", CODE,
        "    memset(h.site, 0, sizeof(h.site))\n", "", CHAINS,
    ),
    Fault(
        "code is found in a page that isn't in the TLB", JIT,
        "    if e.exec_tag != pc & ~<uint64_t>(PAGE_SIZE - 1):\n        return NULL\n    t = site_of",
        "    t = site_of", CHAINS,
    ),
    Fault(
        "code that was found goes on in the page that was left", JIT,
        "    h.page_va = h.pc & ~<uint64_t>(PAGE_SIZE - 1)\n    return t.entry", "    return t.entry", CHAINS,
    ),
    Fault(
        "code is found by the address that shares its place", JIT,
        "return t if t != NULL and t.pa == pa and t.key == key else NULL", "return t", CHAINS,
    ),
)  # fmt: skip

MUTATIONS = (
    *KEYS, *COUNTING, *FLOWING, *REGISTERS, *ACCESSES, *MEANINGS, *ARITHMETIC, *FLOATING_POINT, *ATOMICS, *PAIRS,
    *BATCHES, *SITES,
)  # fmt: skip
