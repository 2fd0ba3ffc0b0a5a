/* Ends with the exit code CODE, given to the assembler. */
#include "htif.h"
    .section .text.init
    .globl _start
_start:
    li a0, CODE
    EXIT
