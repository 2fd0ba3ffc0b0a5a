/* Sleeps in wfi until a timer of 10 ms, set through the CLINT, arrives; passes if it then came from the machine timer. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    la t0, handler
    csrw mtvec, t0
    li t0, 0x0200bff8
    ld t1, 0(t0)
    li t2, 100000
    add t1, t1, t2
    li t0, 0x02004000
    sd t1, 0(t0)
    li t0, 1 << 7
    csrw mie, t0
    csrsi mstatus, 8
1:  wfi
    j 1b
    .align 2
handler:
    csrr a0, mcause
    li t0, (1 << 63) | 7
    sub a0, a0, t0
    snez a0, a0
    EXIT
