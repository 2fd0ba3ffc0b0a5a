/* Prints "ok" and a newline by HTIF's console, device 1, then passes. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    la t0, tohost
    la t1, text
    li t2, 0x0101000000000000
next:
    lbu t3, 0(t1)
    beqz t3, done
    or t3, t3, t2
    sd t3, 0(t0)
wait:
    ld t4, 0(t0)
    bnez t4, wait
    addi t1, t1, 1
    j next
done:
    li a0, 0
    EXIT
    .section .rodata
text: .asciz "ok\n"
