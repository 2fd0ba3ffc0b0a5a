/* Leaves results of integer instructions, with overflow and sign, in the signature; ends with 0. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    la s0, begin_signature
    li a0, 0x123456789abcdef0
    li a1, -7
    mul t0, a0, a1
    sd t0, 0(s0)
    mulhu t0, a0, a1
    sd t0, 8(s0)
    mulhsu t0, a1, a0
    sd t0, 16(s0)
    divw t0, a0, a1
    sd t0, 24(s0)
    rem t0, a0, a1
    sd t0, 32(s0)
    div t0, a0, zero
    sd t0, 40(s0)
    sraiw t0, a0, 4
    sd t0, 48(s0)
    lw t0, 2(s0)
    sw t0, 56(s0)
    amoadd.w t1, a1, (s0)
    sw t1, 60(s0)
    li a0, 0
    EXIT
    .section .data
    .align 4
    .globl begin_signature, end_signature
begin_signature: .fill 16, 4, 0xdeadbeef
    .word 0x80000001
end_signature: .word 0xffffffff
