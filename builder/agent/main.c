/* The guest's one program: init as PID 1, the agent otherwise.
 *
 *     vpod-agent [--machine] [--port PATH] [--shell PATH] [--python PATH] [--runner PATH]
 *     vpod-agent --tty TERMINAL PROGRAM ARG...      (used by the agent itself, see session.c)
 *
 * --machine  the agent owns the machine: it sets the clock, feeds the kernel's entropy pool, fills memory
 * --port     the stream to the host, for example /dev/fd/3; without it the virtio port named vpod.agent
 *
 * Why it exists: see agent.h. Invariant: descriptors 0, 1, 2 are open before anything else is opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agent.h"

const char *chosen_shell, *chosen_python, *runner_path = "/usr/lib/vpod/runner.py";

static void protect(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        if (owns_machine) files.rlim_max = 1 << 19;
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (!owns_machine) return;
    setpriority(PRIO_PROCESS, 0, -10); /* a thousand busy processes must not keep KILL from being heard */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "-1000", 5) < 0) errno = 0; /* the agent can be ended like anybody, then */
    close_fd(&fd);
}

static void find_self(void) {
    char number[16];
    snprintf(number, sizeof number, "%u", geteuid());
    if (!user_find(number, &root_user))
        root_user = (struct user){geteuid(), getegid(), "root", "/root", "/bin/sh"};
    if (access(root_user.home, X_OK) < 0) snprintf(root_user.home, sizeof root_user.home, "/");
}

/* /dev/fd/N names a descriptor that is open already; opening a socket by that name is not possible. */
static void open_port(const char *path) {
    char *end;
    long number = strncmp(path, "/dev/fd/", 8) == 0 ? strtol(path + 8, &end, 10) : -1;
    int fd = number >= 0 && *end == 0 ? (int)number : open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fcntl(fd, F_GETFD) < 0) die(path);
    port_open(fd);
}

int main(int count, char **arguments) {
    const char *port = NULL;
    if (getpid() == 1) return init_main();
    while (fcntl(2, F_GETFD) < 0 && open("/dev/null", O_RDWR) >= 0) continue;
    if (count > 3 && strcmp(arguments[1], "--tty") == 0) return exec_on_terminal(arguments + 2);
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = arguments[i + 1];
        const char **option = strcmp(name, "--port") == 0     ? &port
                              : strcmp(name, "--shell") == 0  ? &chosen_shell
                              : strcmp(name, "--python") == 0 ? &chosen_python
                              : strcmp(name, "--runner") == 0 ? &runner_path
                                                              : NULL;
        if (strcmp(name, "--machine") == 0) {
            owns_machine = true;
        } else if (option != NULL && value != NULL) {
            *option = value;
            i++;
        } else {
            dprintf(2, "vpod-agent: unknown option %s\n", name);
            return 2;
        }
    }
    protect();
    find_self();
    if (chdir("/") < 0) die("/");
    if (port != NULL) open_port(port);
    else port_find();
    session_start();
    runner_start();
    run_loop();
}
