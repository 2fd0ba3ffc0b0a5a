/* Never ends: mode 0 spins, 1 waits for an interrupt that can't come, 2 traps into an illegal instruction over and
   over, 3 into a handler that is at no memory. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    csrw mie, zero
    la t0, illegal
    csrw mtvec, t0
#if MODE == 0
    j .
#elif MODE == 1
    wfi
    j .
#elif MODE == 2
    unimp
#else
    csrw mtvec, zero
    unimp
#endif
    .align 2
illegal:
    unimp
