/* Takes an illegal instruction, a breakpoint, a user-mode ecall and a load fault, checking cause and value of each; the
   exit code is the number of the first check that failed, 0 for none. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    la t0, handler
    csrw mtvec, t0
    li s1, 1                    /* number of the check */
    li s2, 2                    /* expected mcause: illegal instruction */
    li s3, 0                    /* expected mtval: the word, or 0 */
    .half 0
    li s2, 3
    la s3, 1f
1:  ebreak
    li s2, 5
    li s3, 0x10                 /* nothing answers there */
    ld t0, 0(s3)
    li s2, 8
    li s3, 0
    li t0, 0x1800               /* to user mode, all memory open to it */
    csrc mstatus, t0
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    la t0, 2f
    csrw mepc, t0
    mret
2:  ecall
    j .                         /* the handler ends the program */

    .align 2
handler:
    csrr t1, mcause
    bne t1, s2, wrong
    csrr t1, mtval
    beq t1, s3, 1f
    li t2, 3                    /* a breakpoint's mtval may be 0 */
    bne s2, t2, wrong
    bnez t1, wrong
1:
    addi s1, s1, 1
    li t2, 8
    bne s2, t2, resume
    li a0, 0
    EXIT
resume:
    csrr t1, mepc
    lhu t2, 0(t1)               /* steps over 2 or 4 bytes */
    andi t2, t2, 3
    addi t1, t1, 2
    li t3, 3
    bne t2, t3, 3f
    addi t1, t1, 2
3:  csrw mepc, t1
    mret
wrong:
    mv a0, s1
    EXIT
