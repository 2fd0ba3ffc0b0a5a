/* repeat COUNT PROGRAM [ARGUMENT...]: start a program that often, one after the other; exits as the first that fails.
 *
 * What is too short to be measured alone is measured so, without a shell's own work in between. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    long times = count > 2 ? strtol(arguments[1], NULL, 10) : 0;
    if (times < 1 || times > 1000000) {
        fputs("usage: repeat COUNT PROGRAM [ARGUMENT...] (1 to 1,000,000)\n", stderr);
        return 2;
    }
    for (; times > 0; times--) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            execvp(arguments[2], arguments + 2);
            perror(arguments[2]);
            _exit(125);
        }
        if (child < 0 || waitpid(child, &status, 0) != child) {
            perror("repeat");
            return 125;
        }
        if (status != 0)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return 0;
}
