/* What every program here shares: HTIF's two words, and macros to end with a code and to make a system call. */
    .pushsection .tohost, "aw", @progbits
    .align 6
    .globl tohost, fromhost
    .type tohost, @object           /* QEMU wants to know that they are doublewords */
    .size tohost, 8
    .type fromhost, @object
    .size fromhost, 8
tohost: .dword 0
    .align 6
fromhost: .dword 0
    .popsection

/* Ends with the exit code in a0. */
.macro EXIT
    slli a0, a0, 1
    ori a0, a0, 1
    la t0, tohost
999: sd a0, 0(t0)
    j 999b
.endm

/* write(a0 = fd, a1 = address, a2 = length): the result comes back in a0. */
.macro WRITE
    .pushsection .data
    .align 6
998: .zero 64
    .popsection
    la t0, 998b
    li t1, 64
    sd t1, 0(t0)
    sd a0, 8(t0)
    sd a1, 16(t0)
    sd a2, 24(t0)
    fence
    la t1, tohost
    sd t0, 0(t1)
    la t1, fromhost
997: ld t2, 0(t1)
    beqz t2, 997b
    sd zero, 0(t1)
    fence
    ld a0, 0(t0)
.endm
