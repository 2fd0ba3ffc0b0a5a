/* The Python runner: an interpreter that waits, warm, for CODE.
 *
 * Why it exists: starting Python costs far more than most code run in it, and variables are to last.
 * The agent and `runner.py` share a socket pair. Frames there are  u8 kind · u32 length · payload:
 *
 *     'C'  to it    u32 descriptor of standard output · u32 of standard error · source; it opens /proc/AGENT/fd/N
 *     'S'  both     64 bytes of seed; its answer is empty
 *     'H'  from it  "I wait"
 *     'R'  from it  i32 exit code · the fields of RESULT
 *
 * Invariants: one request at a time, in order; what comes from the runner is checked like anything a user's code could
 * have written (it shares the process), and a runner that breaks the rules is ended and replaced.
 * Example: CODE "1+1" answers STARTED, RESULT with RESULT "2", EXIT 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

enum { RUNNER_HEADER = 5 };

static struct {
    pid_t pid;
    int socket;
    struct queue out, in;
    bool ready, failed, seeding;
    int64_t start_at; /* when to try again, if there was no process to be had */
    struct request *running;
} runner = {.socket = -1};

bool runner_ready(void) { return runner.ready; }
bool runner_warm(void) { return runner.ready || runner.failed || (runner.pid <= 0 && runner.start_at == 0); }
bool runner_reseeded(void) { return !runner.seeding || runner.running != NULL; }

static bool find_python(char path[static 256]) {
    const char *folder = session_path;
    if (chosen_python) return snprintf(path, 256, "%s", chosen_python) < 256;
    while (*folder) {
        size_t length = strcspn(folder, ":");
        snprintf(path, 256, "%.*s/python3", (int)length, folder);
        if (access(path, X_OK) == 0) return true;
        folder += length + (folder[length] == ':');
    }
    return false;
}

static _Noreturn void runner_child(const char *python, int ours, char **environment) {
    char number[16];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    child_reset();
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* of no use, and perhaps busy, without its agent */
    for (int fd = 0; fd < 3; fd++)
        if (dup2(null, fd) < 0) _exit(126);
    int high = fcntl(ours, F_DUPFD, 500); /* out of the way of code that closes what it finds */
    if (high < 0) high = fcntl(ours, F_DUPFD, 3);
    snprintf(number, sizeof number, "%d", high);
    clearenv();
    for (size_t i = 0; environment[i]; i++) putenv(environment[i]);
    if (chdir(root_user.home) < 0 && chdir("/") < 0) _exit(126);
    execl(python, python, runner_path, number, (char *)NULL);
    _exit(127);
}

void runner_start(void) {
    char python[256];
    int ends[2];
    if (access(runner_path, R_OK) < 0 || !find_python(python)) return;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) die("socketpair");
    char **environment = environment_for(&root_user);
    runner.pid = fork();
    if (runner.pid == 0) runner_child(python, ends[1], environment);
    free(environment);
    close(ends[1]);
    if (runner.pid < 0) { /* a fork bomb has taken all there are: once it has ended, one can be had */
        close(ends[0]);
        runner.pid = 0;
        runner.start_at = now() + FORK_PAUSE;
        return;
    }
    runner.socket = ends[0];
    fcntl(runner.socket, F_SETFL, O_NONBLOCK);
}

static void say(char kind, const void *payload, size_t length) {
    uint8_t header[RUNNER_HEADER] = {(uint8_t)kind};
    put32(header + 1, (uint32_t)length);
    queue_add(&runner.out, header, sizeof header);
    queue_add(&runner.out, payload, length);
}

static void begin(struct request *request) {
    if (!request_open_pipes(request)) {
        send_error(request->id, "cannot start the code: %s", strerror(errno));
        request->state = OVER;
        return;
    }
    struct queue payload = {0};
    uint8_t numbers[8];
    put32(numbers, (uint32_t)request->out_writer);
    put32(numbers + 4, (uint32_t)request->err_writer);
    queue_add(&payload, numbers, sizeof numbers);
    queue_add(&payload, request->source, request->source_length);
    spare_children(&request->spared, runner.pid);
    say('C', payload.data, queue_used(&payload));
    queue_free(&payload);
    request->pid = runner.pid;
    request->state = RUNNING;
    runner.running = request;
    send_started(request->id, runner.pid, false);
}

void runner_next(void) {
    struct request *request;
    while (runner.ready && runner.running == NULL && (request = request_next_waiting(PYTHON)) != NULL) begin(request);
}

static bool take(char kind, struct bytes payload) {
    struct request *request = runner.running;
    switch (kind) {
    case 'H': return runner.ready ? false : (runner.ready = true);
    case 'S':
        runner.seeding = false;
        return true;
    case 'R':
        if (request == NULL || request->state != RUNNING || payload.length < 4) return false;
        send_frame(RESULT, request->id, payload.at + 4, payload.length - 4);
        request_exited(request, request->killed ? 128 + SIGKILL : (int32_t)get32(payload.at));
        if (!request->killed) runner.running = NULL;
        return true;
    default: return false;
    }
}

/* It has ended, or lost its socket, and is of no use. */
static void give_up(void) {
    close_fd(&runner.socket);
    if (runner.pid > 0) kill(runner.pid, SIGKILL);
}

static void on_runner(void *owner, int fd, short events) {
    (void)owner, (void)events;
    ssize_t length = read(fd, queue_room(&runner.in, CHUNK), CHUNK);
    if (length <= 0) {
        if (length == 0 || (errno != EAGAIN && errno != EINTR)) give_up();
        return;
    }
    runner.in.tail += (size_t)length;
    while (queue_used(&runner.in) >= RUNNER_HEADER) {
        const uint8_t *frame = runner.in.data + runner.in.head;
        size_t payload = get32(frame + 1);
        bool good = payload <= MAX_PAYLOAD;
        if (good && queue_used(&runner.in) < RUNNER_HEADER + payload) return;
        if (!good || !take((char)frame[0], (struct bytes){frame + RUNNER_HEADER, payload})) {
            give_up();
            return;
        }
        queue_drop(&runner.in, RUNNER_HEADER + payload);
    }
}

static void on_room(void *owner, int fd, short events) {
    if (queue_used(&runner.out) > 0) queue_write(&runner.out, fd);
    if (events & (POLLIN | POLLHUP | POLLERR)) on_runner(owner, fd, events);
}

void runner_watch(void) {
    if (runner.start_at != 0 && now() >= runner.start_at) {
        runner.start_at = 0;
        runner_start();
    }
    if (runner.start_at != 0) wake_at(runner.start_at);
    if (runner.socket < 0) return;
    if (queue_used(&runner.out) > 0) queue_write(&runner.out, runner.socket);
    watch(runner.socket, queue_used(&runner.out) > 0 ? POLLIN | POLLOUT : POLLIN, on_room, NULL);
}

bool runner_died(pid_t pid, int status) {
    if (runner.pid <= 0 || pid != runner.pid) return false;
    while (runner.socket >= 0 && bytes_waiting(runner.socket) > 0) on_runner(NULL, runner.socket, POLLIN);
    struct request *request = runner.running, *waiting;
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (request != NULL) {
        request->lost = format(WIFSIGNALED(status) ? "the Python runner was ended by signal %d"
                                                   : "the code ended the Python runner with exit code %d",
                               WIFSIGNALED(status) ? WTERMSIG(status) : code);
        request->pid = 0;
        if (request->state == RUNNING) request_exited(request, request->killed ? 128 + SIGKILL : code);
    }
    close_fd(&runner.socket);
    queue_free(&runner.out);
    queue_free(&runner.in);
    bool started = runner.ready;
    runner.pid = 0;
    runner.running = NULL;
    runner.ready = runner.seeding = false;
    if (started) {
        runner_start();
        return true;
    }
    runner.failed = true;
    while ((waiting = request_next_waiting(PYTHON)) != NULL) {
        send_error(waiting->id, "no python: the Python runner does not start (exit code %d)", code);
        waiting->state = OVER;
    }
    return true;
}

void runner_reseed(void) {
    uint8_t seed[ENTROPY_SIZE];
    if (!runner.ready || getrandom(seed, sizeof seed, GRND_NONBLOCK) != sizeof seed) return;
    runner.seeding = true;
    say('S', seed, sizeof seed);
}

void runner_release(const struct request *request) {
    if (runner.running == request) runner.running = NULL;
}
