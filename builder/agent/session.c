/* The session: one interactive shell that runs the scripts of RUN one after the other and keeps what they leave.
 *
 * Why it exists: `cd`, `export`, functions and options last from one command to the next, as in a terminal. The shell
 * is interactive because only such a shell answers an interrupt by dropping the command and keeping itself.
 *
 * How a command runs. The script lies in a memory file; the shell reads one line from its feed, a pipe no command sees:
 *
 *     \command . /proc/AGENT/fd/SCRIPT </dev/null >/proc/AGENT/fd/OUT 2>/proc/AGENT/fd/ERR; \command echo "vpod:7:$?"
 *
 * `.` so that `return` and several lines work, job control says nothing, and no process is made; `command` so that a
 * syntax error doesn't end the shell (POSIX, "Special Built-In Utilities"); the descriptors are opened by path so that
 * nothing of ours is open in the shell between commands, and restored by the shell itself, so a script may close them.
 * The shell's own standard output, which only the last part writes to, brings the status back.
 *
 * CWD and ENV hold for their command only: variables stand as a prefix of `.`, which shells undo themselves; the
 * directory is put back afterwards. A script's own `export` of other names, its functions and options stay.
 * A script with a TTY is run by a new shell that is the session shell's child (`vpod-agent --tty`): it sees what is
 * exported and the directory, its own changes end with it. A script for another USER runs in a fresh shell (exec.c).
 *
 * Invariants: at most one command at a time; a line may be lost (an interrupt, an assignment to a readonly name), so
 * after a second, and after each interrupt, a probe follows in the feed, which the shell reads only when it is free.
 *
 * Shells: bash reads the feed as standard input; with a file it would end at an interrupt. Others read it as a file:
 * busybox's ash takes a child's end for the end of its standard input. The file is called `sh`, for `$0` and messages.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

enum { PROBE_PAUSE = 1000 * MILLISECOND, MAX_UNKNOWN = 64 << 10 };

static struct {
    const char *shell;
    pid_t pid;
    int feed, feed_reader, status, script;
    struct queue line;     /* on its way into the feed */
    struct queue answers;  /* from the shell's standard output */
    struct queue unknown;  /* what else came from there: the output of an EXIT trap, say */
    uint32_t nonce, reseed; /* of the line whose answer is awaited */
    bool ready, failed;
    struct request *running;
    int last_code;
    int64_t probe_at;
    int64_t start_at; /* when to try again, if there was no process to be had */
    char directory[PATH_MAX], file[64], folder[48]; /* where it is; `sh` and its folder while the shell starts */
} session = {.feed = -1, .feed_reader = -1, .status = -1, .script = -1};

bool session_warm(void) { return session.ready || session.failed || session_shell() == NULL; }
bool session_reseeded(void) { return session.reseed == 0 || !session.ready || session.running != NULL; }

const char *session_shell(void) {
    static const char *candidates[] = {"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"};
    if (session.shell == NULL) session.shell = chosen_shell;
    for (size_t i = 0; session.shell == NULL && i < sizeof candidates / sizeof *candidates; i++)
        if (access(candidates[i], X_OK) == 0) session.shell = candidates[i];
    return session.shell;
}

static void forget_shell(void);

static bool is_bash(void) {
    const char *name = strrchr(session.shell, '/');
    return strstr(name ? name : session.shell, "bash") != NULL;
}

/* ---- starting the shell ----------------------------------------------------------------------------------------- */

static void remove_file(void) {
    if (session.file[0]) unlink(session.file), rmdir(session.folder);
    session.file[0] = 0;
}

/* A name for the feed that reads well in messages; without a place to put it the bare path must do. */
static void make_file(void) {
    char target[64];
    snprintf(target, sizeof target, "/proc/%d/fd/%d", getpid(), session.feed_reader);
    snprintf(session.folder, sizeof session.folder, "/run/vpod-%d", getpid());
    snprintf(session.file, sizeof session.file, "%s/sh", session.folder);
    mkdir(session.folder, 0700);
    unlink(session.file);
    if (symlink(target, session.file) < 0) session.file[0] = 0;
}

static _Noreturn void shell_child(int status, char **environment) {
    char feed[64];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    snprintf(feed, sizeof feed, "/proc/%d/fd/%d", getppid(), session.feed_reader);
    child_reset();
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* of no use, and perhaps busy, without its agent */
    if (dup2(is_bash() ? session.feed_reader : null, 0) < 0 || dup2(status, 1) < 0 || dup2(null, 2) < 0) _exit(126);
    clearenv();
    for (size_t i = 0; environment[i]; i++) putenv(environment[i]);
    if (is_bash()) {
        execl(session.shell, "bash", "--norc", "--noprofile", "--noediting", "-i", (char *)NULL);
    } else {
        bool named = session.file[0] && chdir(session.folder) == 0;
        execl(session.shell, "sh", "-i", named ? "sh" : feed, (char *)NULL);
    }
    _exit(127);
}

static void feed_greeting(void) {
    queue_print(&session.line, "PS1= PS2=; ");
    if (is_bash())
        queue_print(&session.line, "set +H +o history; shopt -u checkwinsize; "
                                   "unset HISTFILE MAILCHECK PROMPT_COMMAND; ");
    queue_print(&session.line, "\\command cd -- ");
    queue_quote(&session.line, session.directory, strlen(session.directory));
    queue_print(&session.line, "; unset OLDPWD; \\command echo \"vpod:%u:0\"\n", ++session.nonce);
}

void session_start(void) {
    int feed[2], status[2];
    if (session_shell() == NULL) return;
    if (session.directory[0] == 0) snprintf(session.directory, sizeof session.directory, "%s", root_user.home);
    if (session.script < 0) session.script = memfd_create("script", MFD_CLOEXEC);
    if (session.script < 0 || pipe2(feed, O_CLOEXEC) < 0 || pipe2(status, O_CLOEXEC) < 0) die("session");
    session.feed_reader = feed[0];
    session.feed = feed[1];
    session.status = status[0];
    static bool registered;
    if (!registered) registered = atexit(remove_file) == 0;
    fcntl(session.feed, F_SETFL, O_NONBLOCK);
    fcntl(session.status, F_SETFL, O_NONBLOCK);
    if (!is_bash()) make_file();
    char **environment = environment_for(&root_user);
    session.pid = fork();
    if (session.pid == 0) shell_child(status[1], environment);
    free(environment);
    close(status[1]);
    if (session.pid < 0) { /* as in runner.c */
        forget_shell();
        session.start_at = now() + FORK_PAUSE;
        return;
    }
    session.last_code = 0;
    feed_greeting();
}

/* ---- one command ------------------------------------------------------------------------------------------------ */

static bool is_name(const char *text) {
    const char *end = strchr(text, '=');
    if (*text >= '0' && *text <= '9') return false;
    for (; text < end; text++) {
        bool letter = (*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z');
        if (!letter && *text != '_' && !(*text >= '0' && *text <= '9')) return false;
    }
    return true;
}

static const char *objection(const struct run *run) {
    struct stat status;
    char path[PATH_MAX + 64];
    for (size_t i = 0; i < run->env_count; i++)
        if (!is_name(run->env[i])) return "a shell can't have a variable of that name: ";
    if (run->cwd == NULL) return NULL;
    if (run->cwd[0] == '/') snprintf(path, sizeof path, "%s", run->cwd);
    else snprintf(path, sizeof path, "/proc/%d/cwd/%s", session.pid, run->cwd);
    if (stat(path, &status) < 0 || !S_ISDIR(status.st_mode)) return "no such directory: ";
    return NULL;
}

static void refuse(struct request *request, const char *problem) {
    const char *what = problem[0] == 'n' ? request->run.cwd : "";
    for (size_t i = 0; problem[0] == 'a' && i < request->run.env_count; i++)
        if (!is_name(request->run.env[i])) what = request->run.env[i];
    send_error(request->id, "%s%s", problem, what);
    request->state = OVER;
}

static void feed_before(const struct run *run) {
    struct queue *line = &session.line;
    if (run->cwd) {
        queue_print(line, "_vpod_pwd=$PWD _vpod_old=${OLDPWD-}; \\command cd -- ");
        queue_quote(line, run->cwd, strlen(run->cwd));
        queue_print(line, " && ");
    } else if (session.last_code) { /* $? of the command before; under `set -e` it would end the shell */
        queue_print(line, "case $- in *e*) ;; *) (exit %d);; esac; ", session.last_code & 255);
    }
    for (size_t i = 0; i < run->env_count; i++) {
        const char *value = strchr(run->env[i], '=') + 1;
        queue_add(line, run->env[i], (size_t)(value - run->env[i]));
        queue_quote(line, value, strlen(value));
        queue_print(line, " ");
    }
}

static void feed_command(const struct request *request) {
    struct queue *line = &session.line;
    int self = getpid();
    feed_before(&request->run);
    if (request->run.tty) {
        queue_print(line, "\\command /proc/%d/exe --tty %s %s /proc/%d/fd/%d </dev/null >/dev/null 2>&1", self,
                    request->terminal, session.shell, self, session.script);
    } else {
        queue_print(line, "\\command . /proc/%d/fd/%d", self, session.script);
        if (request->in_reader >= 0) queue_print(line, " </proc/%d/fd/%d", self, request->in_reader);
        else queue_print(line, " </dev/null");
        queue_print(line, " >/proc/%d/fd/%d", self, request->out_writer);
        if (request->run.flags & RUN_MERGE_STDERR) queue_print(line, " 2>&1");
        else queue_print(line, " 2>/proc/%d/fd/%d", self, request->err_writer);
    }
    if (request->run.cwd)
        queue_print(line, "; _vpod_st=$?; \\command cd -- \"$_vpod_pwd\"; OLDPWD=$_vpod_old; "
                          "\\command echo \"vpod:%u:$_vpod_st\"; unset _vpod_st _vpod_pwd _vpod_old\n", session.nonce);
    else
        queue_print(line, "; \\command echo \"vpod:%u:$?\"\n", session.nonce);
}

static void feed_probe(void) {
    queue_print(&session.line,
                "_vpod_st=$?; case ${_vpod_pwd+x} in x) \\command cd -- \"$_vpod_pwd\"; OLDPWD=$_vpod_old; "
                "unset _vpod_pwd _vpod_old;; esac; \\command echo \"vpod:%u:$_vpod_st\"; unset _vpod_st\n",
                session.nonce);
}

static bool write_script(struct bytes script) {
    if (ftruncate(session.script, 0) < 0) return false;
    size_t done = 0;
    while (done < script.length) {
        ssize_t written = pwrite(session.script, script.at + done, script.length - done, (off_t)done);
        if (written <= 0) return false;
        done += (size_t)written;
    }
    return true;
}

static bool open_streams(struct request *request) {
    struct run *run = &request->run;
    if (!run->tty) return request_open_pipes(request);
    request->out.fd = open_terminal(run->rows, run->columns, &request->terminal_slave, request->terminal);
    request->in = request->out.fd < 0 ? -1 : fcntl(request->out.fd, F_DUPFD_CLOEXEC, 3);
    return request->in >= 0;
}

static void begin(struct request *request) {
    const char *problem = objection(&request->run);
    if (problem) {
        refuse(request, problem);
        return;
    }
    if (!open_streams(request) || !write_script(request->run.script)) {
        send_error(request->id, "cannot start the command: %s", strerror(errno));
        request->state = OVER;
        return;
    }
    spare_children(&request->spared, session.pid);
    session.nonce++;
    feed_command(request);
    request->pid = session.pid;
    request->state = RUNNING;
    session.running = request;
    session.probe_at = now() + PROBE_PAUSE;
    send_started(request->id, session.pid, request->run.tty || (request->run.flags & RUN_STDIN));
}

void session_next(void) {
    struct request *request;
    if (session.running != NULL || (request = request_next_waiting(SESSION)) == NULL) return;
    if (session.pid <= 0 && session.start_at == 0) session_start();
    while (session.ready && session.running == NULL && (request = request_next_waiting(SESSION)) != NULL)
        begin(request);
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

static void on_answer(uint32_t nonce, int code) {
    if (session.reseed != 0 && nonce == session.reseed) {
        session.reseed = 0;
        return;
    }
    if (nonce != session.nonce) return; /* a probe that came after the command had answered */
    char link[32];
    snprintf(link, sizeof link, "/proc/%d/cwd", session.pid);
    ssize_t length = readlink(link, session.directory, sizeof session.directory - 1);
    if (length > 0) session.directory[length] = 0;
    if (!session.ready) {
        session.ready = true;
        session.failed = false;
        close_fd(&session.feed_reader);
        remove_file();
    } else if (session.running != NULL && session.running->state == RUNNING) {
        session.last_code = code;
        request_exited(session.running, session.running->killed ? 128 + SIGKILL : code);
        if (!session.running->killed) session.running = NULL; /* else the shell isn't free before all are dead */
    }
    queue_drop(&session.unknown, queue_used(&session.unknown));
}

static void take_line(const char *line, size_t length) {
    char text[64];
    const char *mark = NULL;
    for (size_t i = 0; i + 5 <= length && mark == NULL; i++)
        if (memcmp(line + i, "vpod:", 5) == 0) mark = line + i;
    unsigned nonce;
    int code;
    size_t rest = mark ? length - (size_t)(mark - line) : 0;
    snprintf(text, sizeof text, "%.*s", (int)(rest < 60 ? rest : 60), mark ? mark : "");
    if (sscanf(text, "vpod:%u:%d", &nonce, &code) == 2) on_answer(nonce, code);
    else if (queue_used(&session.unknown) + length < MAX_UNKNOWN) queue_add(&session.unknown, line, length);
}

static void on_status(void *owner, int fd, short events) {
    (void)owner, (void)events;
    ssize_t length = read(fd, queue_room(&session.answers, 4096), 4096);
    if (length <= 0) return;
    session.answers.tail += (size_t)length;
    const uint8_t *end;
    while ((end = memchr(session.answers.data + session.answers.head, '\n', queue_used(&session.answers)))) {
        const char *line = (const char *)session.answers.data + session.answers.head;
        size_t taken = (size_t)((const char *)end - line) + 1;
        take_line(line, taken);
        queue_drop(&session.answers, taken);
    }
    if (queue_used(&session.answers) > MAX_UNKNOWN) queue_drop(&session.answers, queue_used(&session.answers));
}

static void on_feed(void *owner, int fd, short events) {
    (void)owner, (void)events;
    queue_write(&session.line, fd); /* EPIPE: the shell has died and SIGCHLD says so */
}

void session_watch(void) {
    if (session.start_at != 0 && now() >= session.start_at) {
        session.start_at = 0;
        session_start();
    }
    if (session.start_at != 0) wake_at(session.start_at);
    if (session.pid <= 0) return;
    watch(session.status, POLLIN, on_status, NULL);
    if (session.running != NULL && session.running->state == RUNNING) {
        if (now() >= session.probe_at) {
            session.probe_at = now() + PROBE_PAUSE;
            if (queue_used(&session.line) == 0 && bytes_waiting(session.feed) == 0) feed_probe();
        }
        wake_at(session.probe_at);
    }
    if (queue_used(&session.line) > 0) queue_write(&session.line, session.feed);
    if (queue_used(&session.line) > 0) watch(session.feed, POLLOUT, on_feed, NULL);
}

/* ---- interrupts, death, new randomness -------------------------------------------------------------------------- */

/* Its children got the signal itself; the shell takes only SIGINT as "drop the command". */
void session_interrupt(struct request *request) {
    if (session.running != request) return;
    kill(session.pid, SIGINT);
    if (queue_used(&session.line) == 0 && bytes_waiting(session.feed) == 0) feed_probe();
}

void session_give_up(struct request *request) {
    char link[32];
    snprintf(link, sizeof link, "/proc/%d/cwd", session.pid);
    ssize_t length = readlink(link, session.directory, sizeof session.directory - 1);
    if (length > 0) session.directory[length] = 0;
    if (request->lost == NULL) request->lost = format("the session shell did not let go of the command and was killed");
}

static void forget_shell(void) {
    close_fd(&session.feed);
    close_fd(&session.feed_reader);
    close_fd(&session.status);
    remove_file();
    queue_free(&session.line);
    queue_free(&session.answers);
    queue_free(&session.unknown);
    session.pid = 0;
    session.reseed = 0;
    session.running = NULL;
}

bool session_died(pid_t pid, int status) {
    if (session.pid <= 0 || pid != session.pid) return false;
    while (bytes_waiting(session.status) > 0) on_status(NULL, session.status, POLLIN);
    struct request *request = session.running, *waiting;
    bool started = session.ready;
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (request != NULL) {
        size_t said = queue_used(&session.unknown);
        if (said > 0) send_frame(STDOUT, request->id, session.unknown.data + session.unknown.head, said);
        if (request->lost == NULL)
            request->lost = format(WIFSIGNALED(status) ? "the session shell was ended by signal %d"
                                                       : "the command ended the session shell with exit code %d",
                                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        request->pid = 0;
        request_exited(request, request->killed ? 128 + SIGKILL : code);
    }
    forget_shell();
    session.ready = false;
    if (started) {
        session_start();
        return true;
    }
    session.failed = true;
    while ((waiting = request_next_waiting(SESSION)) != NULL) {
        send_error(waiting->id, "the session shell %s does not start (exit code %d)", session.shell, code);
        waiting->state = OVER;
    }
    return true;
}

void session_reseed(void) {
    uint32_t seed;
    if (!session.ready || getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed) return;
    session.reseed = session.running ? 0 : session.nonce + 0x80000000u;
    queue_print(&session.line, "case ${RANDOM-} in '') ;; *) RANDOM=%u;; esac; \\command echo \"vpod:%u:0\"\n",
                seed & 0x7fffffff, session.nonce + 0x80000000u);
}

void session_release(const struct request *request) {
    if (session.running == request) session.running = NULL;
}
