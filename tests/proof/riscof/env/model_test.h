/* What the architecture tests want to know of a machine: here, one that ends by HTIF and has Spike's CLINT.

   vpod's bare runner and QEMU's `spike` machine are both described by this file, so that one program runs on both. */
#ifndef VPOD_MODEL_TEST_H
#define VPOD_MODEL_TEST_H

#define RVMODEL_BOOT

/* tohost = 1 ends the program with exit code 0; the words are sized, since QEMU wants to know that they are doublewords. */
#define RVMODEL_HALT                                                                                                  \
    fence;                                                                                                            \
    la t0, tohost;                                                                                                    \
    li t1, 1;                                                                                                         \
    sw t1, 0(t0);                                                                                                     \
    sw zero, 4(t0);                                                                                                   \
    j .

#define RVMODEL_DATA_BEGIN                                                                                            \
    .pushsection .tohost, "aw", @progbits;                                                                            \
    .align 6;                                                                                                         \
    .global tohost, fromhost;                                                                                         \
    .type tohost, @object;                                                                                            \
    .size tohost, 8;                                                                                                  \
tohost: .dword 0;                                                                                                     \
    .align 6;                                                                                                         \
    .type fromhost, @object;                                                                                          \
    .size fromhost, 8;                                                                                                \
fromhost: .dword 0;                                                                                                   \
    .popsection;                                                                                                      \
    .align 4;                                                                                                         \
    .global begin_signature;                                                                                          \
begin_signature:

#define RVMODEL_DATA_END                                                                                              \
    .align 4;                                                                                                         \
    .global end_signature;                                                                                            \
end_signature:

/* Signatures alone decide; nothing is printed. */
#define RVMODEL_IO_INIT
#define RVMODEL_IO_CHECK()
#define RVMODEL_IO_WRITE_STR(scratch, text)
#define RVMODEL_IO_ASSERT_GPR_EQ(scratch, register, value)
#define RVMODEL_IO_ASSERT_SFPR_EQ(register, scratch, value)
#define RVMODEL_IO_ASSERT_DFPR_EQ(register, scratch, value)

#define RVMODEL_SET_MSW_INT                                                                                           \
    li t1, 1;                                                                                                         \
    li t2, 0x2000000;                                                                                                 \
    sw t1, 0(t2);
#define RVMODEL_CLEAR_MSW_INT                                                                                         \
    li t2, 0x2000000;                                                                                                 \
    sw zero, 0(t2);
#define RVMODEL_CLEAR_MTIMER_INT                                                                                      \
    li t1, -1;                                                                                                        \
    li t2, 0x2004000;                                                                                                 \
    sd t1, 0(t2);
#define RVMODEL_CLEAR_MEXT_INT

#endif
