/* A stack machine in a switch: the unpredictable indirect jump that every scripting language's inner loop has.
 * It runs a program that adds up how many steps Collatz's rule takes from each number down to 1.
 * Known: the same count, made by the C compiler. */
#include "program.h"

enum { LAST = 25000, DEPTH = 8 };

enum opcode { PUSH, LOAD, STORE, ADD, MULTIPLY, HALVE, ODD, SAME, JUMP, JUMP_IF, HALT };

struct instruction {
    enum opcode opcode;
    int32_t operand;
};

enum { NUMBER, WALK, STEPS, VARIABLES };                     /* the program's variables */
enum { OUTER = 2, LOOP = 4, UP = 19, NEXT = 26, END = 35 };  /* and its labels */

static const struct instruction program[] = {
    [0] = { PUSH, 1 }, { STORE, NUMBER },
    [OUTER] = { LOAD, NUMBER }, { STORE, WALK },
    [LOOP] = { LOAD, WALK }, { PUSH, 1 }, { SAME, 0 }, { JUMP_IF, NEXT },
    { LOAD, STEPS }, { PUSH, 1 }, { ADD, 0 }, { STORE, STEPS },
    { LOAD, WALK }, { ODD, 0 }, { JUMP_IF, UP },
    { LOAD, WALK }, { HALVE, 0 }, { STORE, WALK }, { JUMP, LOOP },
    [UP] = { LOAD, WALK }, { PUSH, 3 }, { MULTIPLY, 0 }, { PUSH, 1 }, { ADD, 0 }, { STORE, WALK }, { JUMP, LOOP },
    [NEXT] = { LOAD, NUMBER }, { PUSH, LAST }, { SAME, 0 }, { JUMP_IF, END },
    { LOAD, NUMBER }, { PUSH, 1 }, { ADD, 0 }, { STORE, NUMBER }, { JUMP, OUTER },
    [END] = { HALT, 0 },
};

static NOINLINE int64_t interpret(const struct instruction *at)
{
    int64_t stack[DEPTH], *top = stack, variables[VARIABLES] = { 0 };
    for (;; at++) {
        switch (at->opcode) {
        case PUSH: *top++ = at->operand; break;
        case LOAD: *top++ = variables[at->operand]; break;
        case STORE: variables[at->operand] = *--top; break;
        case ADD: top--; top[-1] += *top; break;
        case MULTIPLY: top--; top[-1] *= *top; break;
        case HALVE: top[-1] /= 2; break;
        case ODD: top[-1] &= 1; break;
        case SAME: top--; top[-1] = top[-1] == *top; break;
        case JUMP: at = program + at->operand - 1; break;
        case JUMP_IF: if (*--top) at = program + at->operand - 1; break;
        case HALT: return variables[STEPS];
        }
    }
}

static int64_t compiled(void)
{
    int64_t steps = 0;
    for (int64_t number = 1; number <= LAST; number++)
        for (int64_t walk = number; walk != 1; walk = walk & 1 ? 3 * walk + 1 : walk / 2)
            steps++;
    return steps;
}

int main(void)
{
    int64_t steps = interpret(program);
    return finish("interpreter", (uint64_t)steps, steps == compiled());
}
