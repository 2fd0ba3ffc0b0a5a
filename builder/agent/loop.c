/* The loop: one poll(2) for everything the agent waits for.
 *
 * Why it exists: one thread serves the host, many commands, a shell and an interpreter, and none may hold up another.
 * Each round every part says anew what it waits for (`watch`, `wake_at`), so there is nothing to unregister and no
 * stale registration can outlive its owner; a part that must not go on (the host takes no output) just doesn't ask.
 * Invariant: owners are freed only in `request_sweep`, between two rounds.
 * Example: watch(fd, POLLIN, on_output, request);
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static struct pollfd *polled;
static struct { on_ready *call; void *owner; } *owners;
static size_t watched, capacity;
static int64_t wake;

int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)1000000 + time.tv_nsec / 1000;
}

void watch(int fd, short events, on_ready *call, void *owner) {
    if (watched == capacity) {
        capacity = capacity ? 2 * capacity : 64;
        polled = realloc(polled, capacity * sizeof *polled);
        owners = realloc(owners, capacity * sizeof *owners);
        if (polled == NULL || owners == NULL) die("memory");
    }
    polled[watched] = (struct pollfd){.fd = fd, .events = events};
    owners[watched].call = call;
    owners[watched++].owner = owner;
}

void wake_at(int64_t when) {
    if (when != 0 && (wake == 0 || when < wake)) wake = when;
}

static int exit_code(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

/* Children of the agent, and orphans it inherited as their subreaper. */
static void reap(void *owner, int fd, short events) {
    struct signalfd_siginfo info[8];
    (void)owner, (void)events;
    while (read(fd, info, sizeof info) > 0) continue;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (session_died(pid, status) || runner_died(pid, status)) continue;
        struct request *request = request_of_pid(PLAIN, pid);
        if (request == NULL) request = request_of_pid(SETTLING, pid);
        if (request != NULL) exec_exited(request, exit_code(status));
    }
}

_Noreturn void run_loop(void) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    signal(SIGPIPE, SIG_IGN);
    int children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0) die("signalfd");
    for (;;) {
        watched = 0;
        wake = 0;
        session_next();
        runner_next();
        session_watch();
        runner_watch();
        machine_watch();
        request_watch();
        port_watch(); /* behind the others: it sends what they have said */
        watch(children, POLLIN, reap, NULL); /* last: what it closes, and opens anew, has no event to come in this round */
        int64_t pause = wake ? wake - now() : 0;
        if (pause < 0) pause = 0;
        struct timespec timeout = {pause / 1000000, pause % 1000000 * 1000};
        int ready = ppoll(polled, watched, wake ? &timeout : NULL, NULL);
        if (ready < 0 && errno != EINTR) die("poll");
        for (size_t i = 0; ready > 0 && i < watched; i++)
            if (polled[i].revents) owners[i].call(owners[i].owner, polled[i].fd, polled[i].revents);
        request_sweep();
    }
}
