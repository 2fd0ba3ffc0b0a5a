"""The core: the run loop and the interpreter. `Cpu` is its only Python face.

`run_loop` looks at what is unusual (interrupts, traps, budgets, devices), finds the block at `pc` and enters it; the arms of the instructions
then go from block to block until something unusual comes up. The chapters it is made of:

    _hart.pxd     the state                          _mmu.pxd      PMP, Sv39, TLB, slow loads and stores
    _arms.pxd     the interpreter: what every instruction does
    _decode.pxd   the decoder, generated from isa.py _code.pxd     where decoded code lies, how it is forgotten
    _trap.pxd     traps, interrupts, time            _blocks.pxd   decoded blocks
    _csr.pxd      control and status registers       _arith.pxd    M;  _exec_amo.pxd  A;  _exec_fp.pxd, _softfloat.pxd  F and D

Invariant: whenever the arms have returned, `h.pc` is the next instruction's address, all before it is done, and nothing after.

    >>> from vpod._cpu import Cpu
    >>> cpu = Cpu(None, 64 << 20)
    >>> cpu.write(0x80000000, bytes.fromhex("93021502"))     # addi t0, a0, 33
    >>> cpu.set_x(10, 9); cpu.run(1), cpu.x(5)
    (0, 42)
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vpod._arms cimport *
from vpod._blocks cimport *
from vpod._code cimport *
from vpod._csr cimport *
from vpod._decode cimport *
from vpod._hart cimport *
from vpod._jit cimport jit_free, jit_new, jit_possible
from vpod._mmu cimport *
from vpod._translator cimport Jit
from vpod._trap cimport *

import json
import warnings

from vpod.bus import AccessFault
from vpod.errors import SnapshotDamaged
from vpod.tier import Tier

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <unistd.h>
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    static void *vpod_map(size_t size, int fd) {            /* private memory: a file's, or zeros */
        void *p = fd < 0
            ? mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0)
            : mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
        return p == MAP_FAILED ? 0 : p;
    }
    """
    void* map_memory "vpod_map"(size_t size, int fd) noexcept nogil
    int munmap(void* address, size_t size) noexcept nogil

cdef enum Exit:
    LOOP_BUDGET = 0
    LOOP_WFI = 1
    LOOP_STOP = 2
    LOOP_MMIO = 3                      # never leaves run()

EXIT_BUDGET = LOOP_BUDGET
EXIT_WFI = LOOP_WFI
EXIT_STOP = LOOP_STOP
REFUSED = ("this host refuses %d bytes of memory for translated code, or to make it executable: guests are interpreted, several times "
           "slower. VPOD_JIT_MEMORY=1M takes less; VPOD_JIT=0 interprets without asking")
TLB_ENTRIES = TLB_SIZE                 # pages this far apart share a place in the TLB: for tests

cdef extern from *:
    """
    #if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
    #define VPOD_CHUNK 16384           /* arms jump to the next one */
    #else
    #define VPOD_CHUNK 512             /* arms call the next one: the stack has to hold them all */
    #endif
    """
    const int64_t CHUNK "VPOD_CHUNK"   # instructions between looks at the clock: some 30 µs


# ---- the run loop --------------------------------------------------------------------------------------------

cdef uint64_t instruction_word(Hart* h, uint64_t pc) noexcept nogil:
    """The bits of the instruction at pc, which was just executed, for mtval and stval of an illegal instruction."""
    cdef uint64_t word = 0, pa = 0
    cdef uint32_t trap = h.trap_pending
    cdef uint64_t cause = h.trap_cause, value = h.trap_value
    if translate(h, pc, EXECUTE, fetch_mode(h), 2, &pa) and in_ram(h, pa, 2):
        word = load_raw(h.ram + (pa - RAM_BASE), 2)
        if word & 3 == 3 and translate(h, pc + 2, EXECUTE, fetch_mode(h), 2, &pa) and in_ram(h, pa, 2):
            word |= load_raw(h.ram + (pa - RAM_BASE), 2) << 16
    h.trap_pending = trap
    h.trap_cause = cause
    h.trap_value = value
    return word

cdef inline void look_soon(Hart* h) noexcept nogil:
    """Give the countdown back to the budget, so that the run loop looks around before the next block."""
    h.budget += h.countdown
    h.retired_base -= h.countdown
    h.countdown = 0

cdef inline void count_down(Hart* h, int64_t instructions) noexcept nogil:
    h.countdown += instructions
    h.retired_base += instructions
    h.budget -= instructions

cdef inline void refill(Hart* h) noexcept nogil:
    """Look at the clock, and put the next part of the budget into the countdown."""
    update_timers(h)
    count_down(h, CHUNK if h.budget > CHUNK else h.budget)

cdef inline bint pay_for_trap(Hart* h) noexcept nogil:
    """Take one from the budget, so that a handler which traps at once can't hold run() for ever; nothing is retired.

    False when there is none left: the trap is forgotten, since only a fetch faults without a budget, and will again.
    """
    if h.countdown == 0:
        if h.budget <= 0:
            h.trap_pending = 0
            return 0
        refill(h)
    h.countdown -= 1
    h.retired_base -= 1
    return 1

cdef Exit run_loop(Hart* h) noexcept nogil:
    cdef Block* block
    cdef JumpEntry* entry
    while True:
        if h.mmio_state == MMIO_NONE:      # an access on its way is finished before anything else happens
            if h.stop_request:
                return LOOP_STOP
            take_interrupt(h)
        entry = jump_entry(h, h.pc)
        block = entry.block if likely(entry.tag == h.pc) else find_block(h, 0)
        if block != NULL:
            if h.countdown < block.count:
                if h.mmio_state != MMIO_NONE:
                    count_down(h, 1 - h.countdown)
                    block = find_block(h, 1)
                elif h.budget > 0:
                    refill(h)
                    continue
                elif h.countdown == 0:
                    return LOOP_BUDGET
                else:
                    block = find_block(h, <uint32_t>h.countdown)
            if likely(block != NULL):      # what the jump cache knew may have been unmapped, unfenced, and gone from the TLB
                h.block_pc = h.pc
                enter(h, block)
        if h.mmio_state >= MMIO_READY:     # the device overwrote the instruction that had asked it
            h.mmio_state = MMIO_NONE
        if h.trap_pending:
            if not pay_for_trap(h):
                return LOOP_BUDGET
            if h.trap_cause == CAUSE_ILLEGAL and h.trap_value == 0:
                h.trap_value = instruction_word(h, h.pc)
            enter_trap(h, h.trap_cause, h.trap_value)
        elif h.mmio_state == MMIO_READ or h.mmio_state == MMIO_WRITE:
            return LOOP_MMIO
        elif h.waiting:
            h.waiting = 0
            return LOOP_WFI


# ---- Python's face -------------------------------------------------------------------------------------------

cdef class Memory:
    """The guest's RAM: owns the mapping, and shows it read-only through the buffer protocol."""
    cdef uint8_t* data
    cdef uint64_t size

    def __cinit__(self, uint64_t size, int fd=-1):
        self.data = <uint8_t*>map_memory(size, fd)
        if self.data == NULL:
            raise MemoryError(f"cannot map {size >> 20} MiB for the guest's RAM; give the machine less memory")
        self.size = size

    def __dealloc__(self):
        if self.data != NULL:
            munmap(self.data, self.size)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t>self.size, 1, flags)


cdef class Cpu:
    """One RV64GC hart and its RAM. Parameters: `bus`, with read(address, size) and write(address, size, value), asked for every
    access outside RAM; `ram_size` in bytes, a multiple of 4096 from 4096 to 4 GiB; `ram_fd`, a file of that size whose pages are mapped
    privately (-1: zeros); `tier`, a `vpod.tier.Tier` (None: as the environment chooses). Raises ValueError for a bad size and MemoryError
    when the RAM can't be mapped."""

    cdef Hart* h
    cdef object bus
    cdef Memory memory

    def __cinit__(self, bus, ram_size, int ram_fd=-1, tier=None):
        if not PAGE_SIZE <= ram_size <= 4 << 30 or ram_size % PAGE_SIZE:
            raise ValueError(f"RAM of {ram_size} bytes: it must be a multiple of 4096, at most 4 GiB")
        self.bus = bus
        self.memory = Memory(ram_size, ram_fd)
        self.h = <Hart*>calloc(1, sizeof(Hart))
        if self.h == NULL:
            raise MemoryError("cannot allocate the hart")
        self.h.ram = self.memory.data
        self.h.ram_size = ram_size
        self.h.code_pages = <CodePage**>calloc(ram_size >> PAGE_SHIFT, sizeof(CodePage*))
        self.h.block_hash = <Block**>calloc(HASH_SIZE, sizeof(Block*))
        self.h.arena = <uint8_t*>map_memory(ARENA_SIZE, -1)
        fill_arms(self.h.arms)
        if self.h.code_pages == NULL or self.h.block_hash == NULL or self.h.arena == NULL:
            raise MemoryError("cannot allocate the tables of decoded code")
        if tier is None:
            tier = Tier.chosen()
        if tier.translate and jit_possible():          # where it isn't, the interpreter does it all
            if not jit_new(self.h, tier.memory, tier.trace, tier.room, tier.landings, tier.at_once, tier.patience):
                warnings.warn(REFUSED % tier.memory, RuntimeWarning)
        self.reset()

    def __dealloc__(self):
        if self.h != NULL:
            jit_free(self.h)
            if self.h.arena != NULL:
                munmap(self.h.arena, ARENA_SIZE)
            free(self.h.code_pages)
            free(self.h.block_hash)
            free(self.h)

    def reset(self):
        """The state after power-on: M-mode, pc at the start of RAM, no interrupts enabled; RAM is left alone."""
        cdef Hart* h = self.h
        memset(h.x, 0, sizeof(h.x))
        memset(h.f, 0, sizeof(h.f))
        h.fflags = h.frm = 0
        h.pc = RAM_BASE
        h.priv = PRIV_M
        h.mstatus = h.medeleg = h.mideleg = h.mie = h.mip = h.mtvec = h.mscratch = h.mepc = h.mcause = h.mtval = 0
        h.mcounteren = h.mcountinhibit = 0
        h.menvcfg = MENVCFG_ADUE                       # the device tree says svadu: A and D are set by the hart
        h.stvec = h.sscratch = h.sepc = h.scause = h.stval = h.satp = h.scounteren = h.senvcfg = 0
        h.stimecmp = h.mtimecmp = NONE
        memset(h.pmpcfg, 0, sizeof(h.pmpcfg))
        memset(h.pmpaddr, 0, sizeof(h.pmpaddr))
        h.reservation = NONE
        h.cycle_offset = h.instret_offset = 0
        h.time_offset = -host_ticks()
        h.external = 0
        h.trap_pending = h.mmio_state = h.waiting = 0
        h.countdown = h.retired_base = h.budget = 0
        h.stop_request = 0
        h.landed = (1 << KEYS) - 1                              # as below
        h.jumped = 1 << PRIV_U | 1 << PRIV_S | 1 << PRIV_M      # new tables aren't empty: zero is an address
        pmp_update(h)
        tlb_flush(h)
        update_mode(h)

    def run(self, int64_t instructions):
        """Execute up to that many instructions and exceptions, exactly unless one of these comes first.

        Returns EXIT_BUDGET when all are done, EXIT_WFI when the hart waits for an interrupt, EXIT_STOP after stop(). Whatever the bus
        raises but AccessFault comes out of here, with the instruction not executed.
        """
        cdef Hart* h = self.h
        cdef Exit reason
        if instructions < 0:
            raise ValueError(f"a budget of {instructions} instructions: it can't be negative")
        h.budget = instructions
        update_timers(h)
        try:
            while True:
                with nogil:
                    reason = run_loop(h)
                if reason != LOOP_MMIO:
                    if reason == LOOP_STOP:
                        h.stop_request = 0
                    return reason
                self.access_device()
        finally:
            h.budget = 0
            h.retired_base -= h.countdown
            h.countdown = 0

    cdef access_device(self):
        cdef Hart* h = self.h
        cdef uint32_t state = h.mmio_state
        h.mmio_state = MMIO_NONE
        try:
            if state == MMIO_READ:
                h.mmio_value = <uint64_t>self.bus.read(h.mmio_address, h.mmio_size)
            else:
                self.bus.write(h.mmio_address, h.mmio_size, h.mmio_value & (NONE >> (64 - 8 * h.mmio_size)))
            h.mmio_state = MMIO_READY
        except AccessFault:
            h.mmio_state = MMIO_REFUSED
        if h.stop_request:
            look_soon(h)

    def stop(self):
        """Make run(), or the next one, return EXIT_STOP; from any thread, and from a device in an access, which is completed first."""
        self.h.stop_request = 1

    def read(self, address, length):
        """Bytes of physical RAM. ValueError outside it."""
        cdef uint64_t size = 0
        cdef uint64_t offset = self.place(address, length, &size)
        return (<char*>(self.h.ram + offset))[:size]

    def write(self, address, const uint8_t[::1] data):
        """Write physical RAM, as a device does: decoded code there is dropped. ValueError outside RAM."""
        cdef uint64_t length = data.shape[0], at, step, offset
        if length == 0:
            return
        offset = self.place(address, length, &length)
        memcpy(self.h.ram + offset, &data[0], length)
        at = offset
        while at < offset + length:
            step = PAGE_SIZE - (at & (PAGE_SIZE - 1))
            if step > offset + length - at:
                step = offset + length - at
            code_written(self.h, at, step)
            at += step
        if self.h.reservation < RAM_BASE + offset + length and RAM_BASE + offset < self.h.reservation + 8:
            self.h.reservation = NONE                  # any byte an LR may have read

    def view(self, address, length):
        """A read-only memoryview of physical RAM, without a copy; it keeps the RAM alive. ValueError outside it."""
        cdef uint64_t size = 0
        cdef uint64_t offset = self.place(address, length, &size)
        return memoryview(self.memory)[offset:offset + size]

    cdef uint64_t place(self, address, length, uint64_t* size) except? NONE:
        """The offset into RAM of that many bytes at a physical address, whatever numbers these are; their `size` as well."""
        cdef uint64_t at = 0
        size[0] = NONE
        try:
            at = address
            size[0] = length
        except OverflowError:                          # negative, or beyond 64 bits
            size[0] = NONE
        if size[0] > self.h.ram_size or at < RAM_BASE or at - RAM_BASE > self.h.ram_size - size[0]:
            raise ValueError(f"{length} bytes at {address:#x} are not all in RAM, which is "
                             f"{self.h.ram_size:#x} bytes at {RAM_BASE:#x}")
        return at - RAM_BASE

    def set_interrupt(self, int number, bint level):
        """Set or clear an interrupt line: 3 MSIP, 9 SEIP (the PLIC's, ORed with software's bit), 11 MEIP. ValueError for others."""
        if number == 9:
            self.h.external = level
        elif number == 3 or number == 11:
            if level:
                self.h.mip |= <uint64_t>1 << number
            else:
                self.h.mip &= ~(<uint64_t>1 << number)
        else:
            raise ValueError(f"interrupt {number} is no line of the hart; 3, 9 and 11 are")
        look_soon(self.h)

    def nanoseconds_to_timer(self):
        """Until the next timer interrupt that is enabled in mie: 0 when it is due, -1 when there is none."""
        cdef Hart* h = self.h
        cdef uint64_t now = mtime(h), due = NONE
        if h.mie & IRQ_MTIP:
            due = h.mtimecmp
        if h.mie & IRQ_STIP and h.menvcfg & MENVCFG_STCE and h.stimecmp < due:
            due = h.stimecmp
        if due == NONE:
            return -1
        return 0 if due <= now else int(due - now) * 100          # Python's numbers: no timer is too far away

    @property
    def ram_size(self):
        return self.h.ram_size

    @property
    def pc(self):
        return self.h.pc

    @pc.setter
    def pc(self, uint64_t value):
        self.h.pc = value & ~<uint64_t>1

    @property
    def priv(self):
        """0 user, 1 supervisor, 3 machine."""
        return self.h.priv

    @priv.setter
    def priv(self, uint32_t value):
        if value not in (0, 1, 3):
            raise ValueError(f"privilege {value}: it is 0, 1 or 3")
        self.h.priv = value
        update_mode(self.h)

    @property
    def instret(self):
        """Instructions retired since the hart was made, whatever the guest wrote to minstret."""
        return self.h.retired_base - self.h.countdown

    @property
    def translator(self):
        """What the translator did so far, or None where there is none: `translations` made, in how many `batches`, of how many `bytes` of
        guest code, in how many `nanoseconds`; `regions` of memory begun anew; translations `moved`; how often translated code was `entered`
        from outside; and `arms`, by op, the calls of the interpreter's."""
        cdef Jit* j = <Jit*>self.h.jit
        if j == NULL:
            return None
        return {
            "translations": j.counters.translations, "batches": j.counters.batches, "bytes": j.counters.bytes,
            "nanoseconds": j.counters.nanoseconds, "regions": j.counters.regions, "moved": j.counters.moved,
            "entered": j.counters.entered,
            "arms": {op: j.counters.arms[op] for op in range(256) if j.counters.arms[op]},
        }

    @property
    def code_memory(self):
        """Where translated code is, as address and size, all within the same 4 GiB; None where there is no translator."""
        cdef Jit* j = <Jit*>self.h.jit
        return None if j == NULL else (<uint64_t>j.memory, j.size)

    @property
    def mtime(self):
        """The machine timer: ticks of 100 ns."""
        return mtime(self.h)

    @mtime.setter
    def mtime(self, uint64_t value):
        self.h.time_offset = <int64_t>(value - <uint64_t>host_ticks())
        look_soon(self.h)

    @property
    def mtimecmp(self):
        return self.h.mtimecmp

    @mtimecmp.setter
    def mtimecmp(self, uint64_t value):
        self.h.mtimecmp = value
        update_timers(self.h)
        look_soon(self.h)

    def x(self, int n):
        """Integer register n, 0 to 31."""
        if not 0 <= n < 32:
            raise ValueError(f"x{n} is no register")
        return self.h.x[n]

    def set_x(self, int n, uint64_t value):
        if not 0 <= n < 32:
            raise ValueError(f"x{n} is no register")
        if n:
            self.h.x[n] = value

    def f(self, int n):
        """Bits of floating-point register n, 0 to 31."""
        if not 0 <= n < 32:
            raise ValueError(f"f{n} is no register")
        return self.h.f[n]

    def set_f(self, int n, uint64_t value):
        if not 0 <= n < 32:
            raise ValueError(f"f{n} is no register")
        self.h.f[n] = value

    def csr(self, uint32_t number):
        """A control and status register as M-mode reads it between two instructions. ValueError if there is none of that number."""
        cdef uint64_t value
        self.h.retired_base += 1                       # csr_read counts itself as the last of its block
        try:
            if not csr_read(self.h, number, &value):
                raise ValueError(f"there is no CSR {number:#x}")
        finally:
            self.h.retired_base -= 1
        return value

    def set_csr(self, uint32_t number, uint64_t value):
        """Write one as M-mode would. ValueError if there is none of that number or it is read-only."""
        cdef uint64_t old
        if not csr_read(self.h, number, &old) or number >> 10 == 3:
            raise ValueError(f"there is no writable CSR {number:#x}")
        csr_write(self.h, number, value)

    # ---- what a snapshot keeps ----

    def save(self):
        """The architectural state but RAM, as JSON. Only between two runs."""
        cdef Hart* h = self.h
        state = {name: self.csr(number) for name, number in SAVED_CSRS.items()}
        state.update(
            x=[h.x[n] for n in range(32)], f=[h.f[n] for n in range(32)], pc=h.pc, priv=h.priv, mip=h.mip,
            external=h.external, mtime=mtime(h), mtimecmp=h.mtimecmp, instret=self.instret,
            cycle_offset=h.cycle_offset, instret_offset=h.instret_offset)
        return json.dumps(state).encode()

    def restore(self, data):
        """Take a state that save() gave; mtime goes on from there. SnapshotDamaged, naming the field, if it can't be one."""
        cdef Hart* h = self.h
        state = parse_state(data)
        self.reset()
        for name, number in SAVED_CSRS.items():
            if name != "pmpcfg0" and name != "pmpcfg2":
                csr_write(h, number, state[name])
        csr_write(h, 0x3a0, state["pmpcfg0"])            # last: a lock holds for the addresses too
        csr_write(h, 0x3a2, state["pmpcfg2"])
        for n in range(1, 32):
            h.x[n] = state["x"][n]
        for n in range(32):
            h.f[n] = state["f"][n]
        h.pc = state["pc"] & ~<uint64_t>1
        h.priv = state["priv"]
        h.mip = state["mip"] & ALL_INTERRUPTS
        h.external = state["external"] != 0
        h.mtimecmp = state["mtimecmp"]
        h.retired_base = <int64_t>state["instret"]
        h.cycle_offset = state["cycle_offset"]
        h.instret_offset = state["instret_offset"]
        h.time_offset = <int64_t>(<uint64_t>state["mtime"] - <uint64_t>host_ticks())
        update_mode(h)


SAVED_CSRS = {
    "fcsr": 0x003, "mstatus": 0x300, "medeleg": 0x302, "mideleg": 0x303, "mie": 0x304, "mtvec": 0x305, "mcounteren": 0x306,
    "menvcfg": 0x30a, "mcountinhibit": 0x320, "mscratch": 0x340, "mepc": 0x341, "mcause": 0x342, "mtval": 0x343,
    "stvec": 0x105, "scounteren": 0x106, "senvcfg": 0x10a, "sscratch": 0x140, "sepc": 0x141, "scause": 0x142, "stval": 0x143,
    "stimecmp": 0x14d, "satp": 0x180, "pmpcfg0": 0x3a0, "pmpcfg2": 0x3a2,
    **{f"pmpaddr{n}": 0x3b0 + n for n in range(16)},
}


def parse_state(data):
    """A saved hart as a dict with every field there and in range; SnapshotDamaged otherwise."""
    try:
        state = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise SnapshotDamaged(f"the hart's state is not JSON ({error}); make or fetch the snapshot again") from None

    def check(name, value):
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise SnapshotDamaged(f"the hart's {name} is {value!r}, not a 64-bit number; make or fetch the snapshot again")

    if not isinstance(state, dict):
        raise SnapshotDamaged("the hart's state is not a JSON object; make or fetch the snapshot again")
    for name in (*SAVED_CSRS, "pc", "priv", "mip", "external", "mtime", "mtimecmp", "instret", "cycle_offset", "instret_offset"):
        check(name, state.get(name))
    for bank in "xf":
        registers = state.get(bank)
        if not isinstance(registers, list) or len(registers) != 32:
            raise SnapshotDamaged(f"the hart's {bank} registers are not 32; make or fetch the snapshot again")
        for n, value in enumerate(registers):
            check(f"{bank}{n}", value)
    if state["priv"] not in (0, 1, 3) or state["instret"] >> 63:
        raise SnapshotDamaged("the hart's priv or instret is out of range; make or fetch the snapshot again")
    return state


def decode_word(uint32_t word):
    """What the generated decoder makes of a word: a dict of `Insn`'s fields. For tests and tools."""
    cdef Insn i
    memset(&i, 0, sizeof(i))
    decode(word, &i)
    return {"op": i.op, "rd": i.rd, "rs1": i.rs1, "rs2": i.rs2, "rs3": i.rs3, "rm": i.rm, "length": i.length, "imm": i.imm}
