/* Plain commands: a program, its arguments, its user, its descriptors or its terminal.
 *
 * Why it exists: besides the session shell the host wants single programs, many at once, as any user.
 * Invariants: a child begins with default signals, an empty mask, umask 022, the limits and priorities the agent was
 * given, a session (and process group) of its own and no descriptor of the agent's. Its first process is a child
 * subreaper, so KILL finds whatever it starts (tree.c). Users are looked up before the fork; an unknown one is an
 * ERROR. A program that can't be started exits 127 (not found) or 126, with a line on standard error, as under a shell.
 *
 * Example: RUN with ARG "id", ARG "-u", USER "nobody" answers STARTED, STDOUT "65534\n", EXIT 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

struct user root_user;
const char *session_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* ---- RUN -------------------------------------------------------------------------------------------------------- */

/* Appends to a NULL-terminated list that grows by powers of two. */
static void list_add(char ***list, size_t *count, char *text) {
    if (*count == 0 || (*count >= 7 && ((*count + 1) & *count) == 0)) {
        *list = realloc(*list, (*count < 7 ? 8 : 2 * (*count + 1)) * sizeof **list);
        if (*list == NULL) die("memory");
    }
    (*list)[(*count)++] = text;
    (*list)[*count] = NULL;
}

static bool has_nul(struct bytes value) { return memchr(value.at, 0, value.length) != NULL; }

static bool run_field(struct run *run, uint8_t tag, struct bytes value, const char **problem) {
    if (tag != RUN_TTY && tag != RUN_FLAGS && has_nul(value)) return *problem = "a string of RUN contains a NUL", false;
    switch (tag) {
    case RUN_SCRIPT:
        run->script = value;
        run->has_script = true;
        return true;
    case RUN_ARG:
        if (run->arg_count == MAX_ARGS) return *problem = "RUN has more than 4096 arguments", false;
        list_add(&run->args, &run->arg_count, text_of(value));
        return true;
    case RUN_ENV:
        if (run->env_count == MAX_ARGS) return *problem = "RUN has more than 4096 variables", false;
        if (memchr(value.at, '=', value.length) == NULL || value.at[0] == '=')
            return *problem = "a variable of RUN isn't NAME=VALUE", false;
        list_add(&run->env, &run->env_count, text_of(value));
        return true;
    case RUN_CWD:
        free(run->cwd);
        run->cwd = text_of(value);
        return true;
    case RUN_USER:
        free(run->user);
        run->user = text_of(value);
        return true;
    case RUN_TTY:
        if (value.length != 4) return *problem = "TTY of RUN isn't 4 bytes long", false;
        run->tty = true;
        run->rows = get16(value.at);
        run->columns = get16(value.at + 2);
        return true;
    case RUN_FLAGS:
        if (value.length != 4) return *problem = "FLAGS of RUN isn't 4 bytes long", false;
        run->flags = get32(value.at);
        return true;
    default:
        return *problem = "RUN has an unknown field", false;
    }
}

bool run_parse(struct run *run, struct bytes payload, const char **problem) {
    run->payload = (uint8_t *)text_of(payload);
    struct bytes rest = {run->payload, payload.length}, value;
    uint8_t tag;
    while (next_field(&rest, &tag, &value))
        if (!run_field(run, tag, value, problem)) return false;
    if (rest.at == NULL) return *problem = "a field of RUN ends outside its frame", false;
    if (run->has_script == (run->arg_count > 0)) return *problem = "RUN needs either a script or arguments", false;
    return true;
}

void run_free(struct run *run) {
    for (size_t i = 0; i < run->arg_count; i++) free(run->args[i]);
    for (size_t i = 0; i < run->env_count; i++) free(run->env[i]);
    free(run->args);
    free(run->env);
    free(run->cwd);
    free(run->user);
    free(run->payload);
    *run = (struct run){0};
}

/* ---- users and environment -------------------------------------------------------------------------------------- */

bool user_find(const char *name, struct user *user) {
    char *end;
    struct passwd *entry = getpwnam(name);
    unsigned long number = strtoul(name, &end, 10);
    if (entry == NULL && *name && *end == 0 && number < (uid_t)-1) entry = getpwuid((uid_t)number);
    if (entry == NULL) return false;
    *user = (struct user){.uid = entry->pw_uid, .gid = entry->pw_gid};
    snprintf(user->name, sizeof user->name, "%s", entry->pw_name);
    snprintf(user->home, sizeof user->home, "%s", entry->pw_dir && *entry->pw_dir ? entry->pw_dir : "/");
    snprintf(user->shell, sizeof user->shell, "%s", entry->pw_shell && *entry->pw_shell ? entry->pw_shell : "/bin/sh");
    return true;
}

char **environment_for(const struct user *user) {
    enum { COUNT = 7, SIZE = 2048 };
    char **list = allocate((COUNT + 1) * sizeof *list + SIZE);
    char *at = (char *)(list + COUNT + 1), *end = at + SIZE;
    const char *pairs[COUNT][2] = {{"HOME", user->home},   {"PATH", session_path}, {"TERM", "xterm-256color"},
                                   {"LANG", "C.UTF-8"},    {"SHELL", user->shell}, {"USER", user->name},
                                   {"LOGNAME", user->name}};
    for (int i = 0; i < COUNT; i++) {
        list[i] = at;
        at += snprintf(at, (size_t)(end - at), "%s=%s", pairs[i][0], pairs[i][1]) + 1;
    }
    return list;
}

/* ---- in the child ----------------------------------------------------------------------------------------------- */

void child_reset(void) {
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    setpriority(PRIO_PROCESS, 0, 0);
    if (owns_machine) {
        struct rlimit files = {1024, 1 << 19};
        setrlimit(RLIMIT_NOFILE, &files);
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd >= 0 && write(fd, "0", 1) < 0) errno = 0; /* then it keeps the agent's */
        close_fd(&fd);
    }
}

void child_user(const struct user *user) {
    if (user->uid == getuid() && user->gid == getgid()) return;
    if (initgroups(user->name, user->gid) < 0 || setgid(user->gid) < 0 || setuid(user->uid) < 0) {
        dprintf(2, "vpod: cannot become %s: %s\n", user->name, strerror(errno));
        _exit(126);
    }
}

/* Puts fd on `number` without close-on-exec; works when it is there already. */
static void place(int fd, int number) {
    if (fd == number) fcntl(fd, F_SETFD, 0);
    else if (dup2(fd, number) < 0) _exit(126);
}

static _Noreturn void exec_or_exit(char **args) {
    execvp(args[0], args);
    int error = errno;
    dprintf(2, "vpod: %s: %s\n", args[0], error == ENOENT ? "command not found" : strerror(error));
    _exit(error == ENOENT ? 127 : 126);
}

static void take_terminal(int terminal) {
    ioctl(terminal, TIOCSCTTY, 0);
    for (int number = 0; number < 3; number++) place(terminal, number);
    if (terminal > 2) close(terminal);
}

static _Noreturn void child(struct request *request, const struct user *user, int fds[3], char **environment) {
    const struct run *run = &request->run;
    child_reset();
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (run->tty) {
        if (fchown(fds[0], user->uid, (gid_t)-1) < 0) errno = 0; /* then it can't be opened by name */
        take_terminal(fds[0]);
    } else {
        for (int number = 0; number < 3; number++)
            while (fds[number] < 3) fds[number] = fcntl(fds[number], F_DUPFD_CLOEXEC, 3);
        for (int number = 0; number < 3; number++) place(fds[number], number);
    }
    child_user(user);
    clearenv();
    for (size_t i = 0; environment[i]; i++) putenv(environment[i]);
    for (size_t i = 0; i < run->env_count; i++) putenv(run->env[i]);
    if (chdir(run->cwd ? run->cwd : user->home) < 0) {
        if (run->cwd) {
            dprintf(2, "vpod: %s: %s\n", run->cwd, strerror(errno));
            _exit(126);
        }
        if (chdir("/") < 0) _exit(126);
    }
    exec_or_exit(run->args);
}

/* ---- terminals -------------------------------------------------------------------------------------------------- */

void set_window(int terminal, uint16_t rows, uint16_t columns) {
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    ioctl(terminal, TIOCSWINSZ, &size);
}

int open_terminal(uint16_t rows, uint16_t columns, int *slave, char path[static 32]) {
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK), number;
    if (master < 0) return -1;
    if (unlockpt(master) < 0 || ioctl(master, TIOCGPTN, &number) < 0) return close_fd(&master), -1;
    snprintf(path, 32, "/dev/pts/%d", number);
    *slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*slave < 0) return close_fd(&master), -1;
    set_window(master, rows, columns);
    return master;
}

/* `vpod-agent --tty PATH PROGRAM ARG...`: run by the session shell for a command that wants a terminal. */
int exec_on_terminal(char **arguments) {
    pid_t pid = 0;
    if (setsid() < 0) { /* a group leader (the shell does job control): a child can, and we stand for it */
        pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) setsid();
    }
    if (pid > 0) {
        int status = 0;
        signal(SIGINT, SIG_IGN);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    int terminal = open(arguments[0], O_RDWR | O_CLOEXEC);
    if (terminal < 0) die(arguments[0]);
    take_terminal(terminal);
    exec_or_exit(arguments + 1);
}

/* ---- in the agent ----------------------------------------------------------------------------------------------- */

/* A script for another user than the session's runs in a fresh shell of that user: `sh -c SCRIPT`. */
static void script_to_args(struct run *run) {
    if (!run->has_script) return;
    list_add(&run->args, &run->arg_count, format("%s", session_shell()));
    list_add(&run->args, &run->arg_count, format("-c"));
    list_add(&run->args, &run->arg_count, text_of(run->script));
}

static bool prepare(struct request *request, int fds[3]) {
    struct run *run = &request->run;
    int none = -1;
    if (run->tty) {
        request->out.fd = open_terminal(run->rows, run->columns, &request->terminal_slave, request->terminal);
        if (request->out.fd < 0) return false;
        request->in = fcntl(request->out.fd, F_DUPFD_CLOEXEC, 3);
        fds[0] = fds[1] = fds[2] = request->terminal_slave;
        return request->in >= 0;
    }
    if (!request_open_pipes(request)) return false;
    if (!(run->flags & RUN_STDIN)) none = open("/dev/null", O_RDONLY | O_CLOEXEC);
    fds[0] = run->flags & RUN_STDIN ? request->in_reader : none;
    fds[1] = request->out_writer;
    fds[2] = run->flags & RUN_MERGE_STDERR ? request->out_writer : request->err_writer;
    return fds[0] >= 0;
}

void exec_start(struct request *request) {
    struct user user = root_user;
    if (request->run.user && !user_find(request->run.user, &user)) {
        send_error(request->id, "unknown user: %s", request->run.user);
        request->state = OVER;
        return;
    }
    if (request->run.user && user.uid != root_user.uid && geteuid() != 0) {
        send_error(request->id, "the agent isn't root and can't become %s", user.name);
        request->state = OVER;
        return;
    }
    script_to_args(&request->run);
    int fds[3];
    if (prepare(request, fds)) {
        char **environment = environment_for(&user);
        request->pid = fork();
        if (request->pid == 0) child(request, &user, fds, environment);
        free(environment);
    } else {
        request->pid = -1;
    }
    if (!request->run.tty && !(request->run.flags & RUN_STDIN)) close_fd(&fds[0]);
    close_fd(&request->out_writer);
    close_fd(&request->err_writer);
    close_fd(&request->in_reader);
    if (request->pid < 0) {
        send_error(request->id, "cannot start a process: %s", strerror(errno));
        request->state = OVER;
        return;
    }
    request->state = RUNNING;
    send_started(request->id, request->pid, true);
}

void exec_exited(struct request *request, int code) {
    request->pid = 0;
    if (request->kind == SETTLING) {
        /* Ended by the kernel for want of memory: then it has filled all there was, which is what it is for. */
        send_done(request->id, code == 128 + SIGKILL ? 0 : code);
        request->state = OVER;
    } else {
        request_exited(request, request->killed ? 128 + SIGKILL : code);
    }
}
