/* stopwatch NAME PROGRAM [ARGUMENT...]: how long a program takes by the clock of the machine it runs on.
 *
 * Prints three lines on standard output, each written out before it goes on:
 *
 *     BENCH begin NAME
 *     BENCH ran NAME NANOSECONDS EXITCODE
 *     BENCH printed NAME DIGEST
 *
 * NANOSECONDS is from before fork to after wait by CLOCK_MONOTONIC; DIGEST is the FNV-1a hash, 16 hex digits, of what the
 * program printed. Output goes into an unnamed file and is hashed after the second line, so that a program which
 * prints much is not measured together with its reader, neither here nor by whoever listens. The first line is drained
 * to the terminal before the clock starts: the serial port's interrupts are not the program's doing. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
    perror(what);
    exit(125);
}

static int64_t now(void)
{
    struct timespec at;
    if (clock_gettime(CLOCK_MONOTONIC, &at) != 0)
        die("clock_gettime");
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static uint64_t hash_of(int file)
{
    static uint8_t buffer[1 << 16];
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    if (lseek(file, 0, SEEK_SET) != 0)
        die("lseek");
    for (;;) {
        ssize_t got = read(file, buffer, sizeof buffer);
        if (got < 0)
            die("read");
        if (got == 0)
            return hash;
        for (ssize_t i = 0; i < got; i++)
            hash = (hash ^ buffer[i]) * UINT64_C(0x100000001b3);
    }
}

static void run(char **arguments, int output)
{
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(output, 1) < 0)
        die("redirect");
    execvp(arguments[0], arguments);
    die(arguments[0]);
}

int main(int count, char **arguments)
{
    if (count < 3) {
        fputs("usage: stopwatch NAME PROGRAM [ARGUMENT...]\n", stderr);
        return 2;
    }
    FILE *file = tmpfile();
    if (file == NULL)
        die("tmpfile");
    int output = fileno(file);
    printf("BENCH begin %s\n", arguments[1]);
    fflush(stdout);
    tcdrain(1); /* fails where there is no terminal, and need not be done there */

    int64_t began = now();
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0)
        run(arguments + 2, output);
    int status;
    if (waitpid(child, &status, 0) != child)
        die("waitpid");
    int64_t took = now() - began;

    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    printf("BENCH ran %s %" PRId64 " %d\n", arguments[1], took, code);
    fflush(stdout);
    printf("BENCH printed %s %016" PRIx64 "\n", arguments[1], hash_of(output));
    fflush(stdout);
    tcdrain(1);
    return 0;
}
