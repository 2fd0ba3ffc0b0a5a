/* Writes to standard output and error by system calls; ends with 0 when their results are as they should be. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    li a0, 1
    la a1, text
    li a2, 14
    WRITE
    li t3, 14
    bne a0, t3, failed
    li a0, 2
    la a1, text
    addi a1, a1, 7
    li a2, 7
    WRITE
    li t3, 7
    bne a0, t3, failed
    li a0, 5                    /* a descriptor that nobody opened: EBADF */
    WRITE
    li t3, -9
    bne a0, t3, failed
    li a0, 1                    /* an address outside RAM: EFAULT */
    li a1, 0x1000
    li a2, 8
    WRITE
    li t3, -14
    bne a0, t3, failed
    li a0, 1                    /* a length that is longer than RAM: EFAULT */
    la a1, text
    li a2, -1
    WRITE
    li t3, -14
    bne a0, t3, failed
    li a0, 0
    EXIT
failed:
    li a0, 1
    EXIT
    .section .rodata
text: .ascii "Hello, \377\000world"
