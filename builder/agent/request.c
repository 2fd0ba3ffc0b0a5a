/* Requests: what the host has asked for and isn't answered yet.
 *
 * Why it exists: every kind of work shares a life: WAITING for its turn, RUNNING, EXITED with output still to pass on,
 * OVER. Here are the table, the frames that name a request, its pipes in both directions, and KILL.
 * Invariants: output in the pipes when a command ends is passed on before its EXIT, exactly so many bytes, so neither a
 * chatty background job nor a full port can delay or overtake it. What background jobs write later is read and thrown
 * away, so that the jobs live on. Input waits in a queue no longer than the host's credit.
 * A KILLed request is answered only when a walk over its process tree finds nobody.
 *
 * Example: RUN(7), STDIN(7), SIGNAL(7) arrive in that order; STARTED(7), STDOUT(7)..., EXIT(7) go back.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "agent.h"

enum {
    KILL_PAUSE = 20 * MILLISECOND,
    KILL_WAIT = 2000 * MILLISECOND,
    KILL_PATIENCE = 2000 * MILLISECOND, /* that the shell or the runner may take to come back when interrupted */
    KILL_ROUNDS = 1000, /* a process that survives SIGKILL so long hangs in the kernel */
    TERMINAL_GRACE = 20 * MILLISECOND,
    MAX_LEFTOVERS = 512,
};

static struct request *requests; /* in the order they came */
static size_t request_count;
static int leftovers[MAX_LEFTOVERS]; /* pipes that background jobs of finished commands write to */
static size_t leftover_count;

/* ---- the table -------------------------------------------------------------------------------------------------- */

static struct request *request_find(uint32_t id) {
    for (struct request *request = requests; request; request = request->next)
        if (request->id == id && request->state != OVER) return request;
    return NULL;
}

struct request *request_new(uint32_t id, enum request_kind kind) {
    if (request_find(id) || request_count == MAX_REQUESTS) {
        send_error(id, request_count == MAX_REQUESTS ? "too many requests at once" : "this id is in use");
        return NULL;
    }
    struct request *request = allocate(sizeof *request), **end = &requests;
    *request = (struct request){.id = id, .kind = kind, .out = {-1, STDOUT, -1}, .err = {-1, STDERR, -1}, .in = -1,
                                .out_writer = -1, .err_writer = -1, .in_reader = -1, .terminal_slave = -1, .file = -1};
    while (*end) end = &(*end)->next;
    *end = request;
    request_count++;
    return request;
}

struct request *request_next_waiting(enum request_kind kind) {
    for (struct request *request = requests; request; request = request->next)
        if (request->kind == kind && request->state == WAITING) return request;
    return NULL;
}

struct request *request_of_pid(enum request_kind kind, pid_t pid) {
    for (struct request *request = requests; request; request = request->next)
        if (request->kind == kind && request->state == RUNNING && request->pid == pid) return request;
    return NULL;
}

static void request_free(struct request *request) {
    int *fds[] = {&request->out.fd, &request->err.fd, &request->out_writer, &request->err_writer, &request->in,
                  &request->in_reader, &request->terminal_slave, &request->file};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) close_fd(fds[i]);
    run_free(&request->run);
    spare_free(&request->spared);
    queue_free(&request->input);
    free(request->source);
    free(request->lost);
    free(request);
    request_count--;
}

void request_sweep(void) {
    for (struct request **at = &requests; *at;) {
        struct request *request = *at;
        if (request->state == OVER) {
            *at = request->next;
            request_free(request);
        } else {
            at = &request->next;
        }
    }
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

static bool open_pipe(int *reader, int *writer, int *ours) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return false;
    *reader = ends[0];
    *writer = ends[1];
    return fcntl(*ours, F_SETFL, O_NONBLOCK) == 0;
}

bool request_open_pipes(struct request *request) {
    int *out = &request->out.fd, *err = &request->err.fd, *in = &request->in;
    if (!open_pipe(out, &request->out_writer, out)) return false;
    if (!(request->run.flags & RUN_MERGE_STDERR) && !open_pipe(err, &request->err_writer, err)) return false;
    return !(request->run.flags & RUN_STDIN) || open_pipe(&request->in_reader, in, in);
}

static void pass_on(struct request *request, struct stream *stream) {
    if (stream->left == 0) return;
    ssize_t length = send_from(stream->fd, stream->kind, request->id, stream->left < 0 ? CHUNK : (size_t)stream->left);
    if (length > 0) {
        if (stream->left > 0) stream->left -= length;
    } else if (length < 0 && (errno == EAGAIN || errno == EINTR)) {
        if (stream->left > 0) stream->left = 0; /* somebody else has read it */
    } else {
        close_fd(&stream->fd); /* end of file; of a terminal: EIO */
    }
}

static void on_output(void *owner, int fd, short events) {
    struct request *request = owner;
    (void)events;
    if (!port_has_room() || request->state == OVER) return;
    if (fd == request->out.fd) pass_on(request, &request->out);
    else if (fd == request->err.fd) pass_on(request, &request->err);
}

static void on_leftover(void *owner, int fd, short events) {
    static char scratch[CHUNK];
    (void)owner, (void)events;
    ssize_t length = read(fd, scratch, sizeof scratch);
    if (length > 0 || (length < 0 && (errno == EAGAIN || errno == EINTR))) return;
    close(fd);
    for (size_t i = 0; i < leftover_count; i++)
        if (leftovers[i] == fd) leftovers[i] = leftovers[--leftover_count];
}

/* Of a finished command: close the pipe, unless somebody still writes to it. */
static void retire(struct stream *stream) {
    struct pollfd poller = {.fd = stream->fd, .events = POLLIN};
    if (stream->fd < 0) return;
    bool ended = poll(&poller, 1, 0) == 1 && (poller.revents & POLLHUP) && !(poller.revents & POLLIN);
    if (ended) {
        close(stream->fd);
    } else {
        if (leftover_count == MAX_LEFTOVERS) {
            close(leftovers[0]); /* the oldest background job gets SIGPIPE if it ever writes again */
            leftovers[0] = leftovers[--leftover_count];
        }
        leftovers[leftover_count++] = stream->fd;
    }
    stream->fd = -1;
}

static bool is_drained(const struct request *request, const struct stream *stream) {
    if (stream->fd < 0 || stream->left == 0) return true;
    return request->run.tty && now() >= request->grace;
}

void request_exited(struct request *request, int code) {
    request->state = EXITED;
    request->code = code;
    close_fd(&request->out_writer);
    close_fd(&request->err_writer);
    close_fd(&request->in_reader);
    close_fd(&request->terminal_slave);
    if (request->run.tty) {
        request->grace = now() + TERMINAL_GRACE;
    } else {
        request->out.left = (long)bytes_waiting(request->out.fd);
        request->err.left = (long)bytes_waiting(request->err.fd);
    }
}

static void send_exit(struct request *request) {
    struct queue payload = {0};
    uint8_t number[4], header[FIELD_SIZE] = {EXIT_SESSION_LOST};
    put32(number, (uint32_t)request->code);
    queue_add(&payload, number, sizeof number);
    if (request->lost) {
        put32(header + 1, (uint32_t)strlen(request->lost));
        queue_add(&payload, header, sizeof header);
        queue_add(&payload, request->lost, strlen(request->lost));
    }
    if (!request->run.tty) {
        retire(&request->out);
        retire(&request->err);
    }
    send_frame(EXIT, request->id, payload.data, queue_used(&payload));
    queue_free(&payload);
    request->state = OVER;
}

void request_over(struct request *request) { request->state = OVER; }

/* ---- input ------------------------------------------------------------------------------------------------------ */

static void give_credit(struct request *request, size_t length, bool at_once) {
    request->credit_owed += (uint32_t)length;
    if (request->credit_owed == 0 || (!at_once && request->credit_owed < CHUNK)) return;
    uint8_t payload[4];
    put32(payload, request->credit_owed);
    send_frame(CREDIT, request->id, payload, sizeof payload);
    request->credit_owed = 0;
}

static void write_input(struct request *request) {
    size_t before = queue_used(&request->input);
    if (request->in < 0) queue_drop(&request->input, before); /* nobody reads it */
    else if (before > 0 && queue_write(&request->input, request->in) != 0) {
        queue_drop(&request->input, queue_used(&request->input));
        close_fd(&request->in);
    }
    size_t after = queue_used(&request->input);
    give_credit(request, before - after, after == 0);
    if (after == 0 && request->input_ended) close_fd(&request->in);
}

static void on_input(void *owner, int fd, short events) {
    struct request *request = owner;
    (void)events;
    if (request->state != OVER && fd == request->in) write_input(request);
}

void request_input_add(struct request *request, struct bytes bytes) {
    if (request->kind == WRITING) {
        file_write(request, bytes);
        if (request->state != OVER) give_credit(request, bytes.length, false);
        return;
    }
    if (request->input_ended || request->state == EXITED) return;
    if (queue_used(&request->input) + bytes.length > INITIAL_CREDIT) {
        send_error(request->id, "more STDIN than there was credit for");
        request->killed = true;
        return;
    }
    queue_add(&request->input, bytes.at, bytes.length);
    if (bytes.length == 0 && request->run.tty) queue_add(&request->input, "\004", 1); /* VEOF of a fresh terminal */
    else if (bytes.length == 0) request->input_ended = true;
    if (request->state == RUNNING) write_input(request);
}

/* ---- signals and KILL ------------------------------------------------------------------------------------------- */

static void send_signal(struct request *request, int number) {
    if (number <= 0 || number >= NSIG) {
        send_error(request->id, "there is no signal %d", number);
    } else if (request->state == WAITING) {
        request_exited(request, 128 + number);
    } else if (request->state == RUNNING && request->pid > 0) {
        /* The session shell before its command, or it begins the next when that has died; any other root after its tree,
         * which could not be found without it. */
        if (request->kind == SESSION) session_interrupt(request);
        tree_signal(request->pid, &request->spared, number);
        if (request->kind != SESSION) kill(request->pid, number);
    }
}

static void start_kill(struct request *request) {
    if (request->kind == READING || request->kind == WRITING) {
        send_done(request->id, EINTR);
        request->state = OVER;
    } else if (request->state == WAITING) {
        request_exited(request, 128 + SIGKILL);
    } else if (request->pid > 0 && !request->killed) {
        request->killed = true;
    }
}

static long process_count(void) {
    struct sysinfo now_is;
    return sysinfo(&now_is) == 0 ? now_is.procs : 0;
}

/* One walk over the tree. The next waits until those who were found have gone, or for four times as long as this one took, at most
 * KILL_WAIT: the agent walks in real time, and the thousands of processes of a fork bomb need the hart to end. */
static bool tree_is_gone(struct request *request) {
    int64_t start = now();
    size_t left = tree_end(request->pid, &request->spared);
    int64_t wait = 4 * (now() - start);
    request->kill_until = now() + (wait < KILL_WAIT ? wait : KILL_WAIT);
    request->kill_count = process_count() - (long)left;
    request->kill_next = now() + KILL_PAUSE / 4;
    return left == 0;
}

static bool still_dying(const struct request *request) {
    return now() < request->kill_until && process_count() > request->kill_count;
}

/* The shell and the runner are to survive: while they are stopped their tree is told to end (SIGINT, so that a shell
 * that waits for it drops its loop, too), then made to; only then are they interrupted and let go on. */
static void kill_below(struct request *request) {
    if (!request->kill_told) {
        request->kill_told = true;
        kill(request->pid, SIGSTOP);
        tree_signal(request->pid, &request->spared, SIGINT);
        return;
    }
    if (!tree_is_gone(request) && request->kill_round < KILL_ROUNDS) return;
    if (request->interrupted == 0) request->interrupted = now();
    if (request->state == RUNNING && now() - request->interrupted > KILL_PATIENCE) {
        if (request->kind == SESSION) session_give_up(request);
        kill(request->pid, SIGKILL);
        return;
    }
    if (request->state == EXITED) {
        request->killed = false;
        session_release(request);
        runner_release(request);
    } else if (request->kind == SESSION) {
        session_interrupt(request);
    } else {
        kill(request->pid, SIGINT);
    }
    kill(request->pid, SIGCONT);
    request->kill_told = false;
    request->kill_next = now() + KILL_PAUSE;
}

static void go_on_killing(struct request *request) {
    if (now() < request->kill_next) return;
    if (still_dying(request)) {
        request->kill_next = now() + KILL_PAUSE / 4;
        return;
    }
    request->kill_next = now() + KILL_PAUSE;
    request->kill_round++;
    if (request->kind == SESSION || request->kind == PYTHON) {
        kill_below(request);
    } else {
        if (tree_is_gone(request) || request->kill_round > KILL_ROUNDS) kill(request->pid, SIGKILL);
    }
}

/* ---- frames from the host --------------------------------------------------------------------------------------- */

static void start_run(uint32_t id, struct bytes payload) {
    struct request *request = request_new(id, PLAIN);
    const char *problem = NULL;
    if (request == NULL) return;
    if (!run_parse(&request->run, payload, &problem)) {
        send_error(id, "%s", problem);
        request->state = OVER;
        return;
    }
    const struct run *run = &request->run;
    if (run->has_script && session_shell() == NULL) {
        send_error(id, "this guest has no shell");
        request->state = OVER;
        return;
    }
    struct user user;
    bool own_session = !run->user || (user_find(run->user, &user) && user.uid == root_user.uid);
    if (run->has_script && own_session) request->kind = SESSION; /* session_next takes it up */
    else exec_start(request);
}

static void start_code(uint32_t id, struct bytes payload) {
    if (!runner_ready() && runner_warm()) {
        send_error(id, "no python: this guest has no Python runner");
        return;
    }
    struct request *request = request_new(id, PYTHON);
    if (request == NULL) return;
    request->source = text_of(payload);
    request->source_length = payload.length;
}

static void on_request(enum kind kind, uint32_t id, struct bytes payload) {
    struct request *request;
    switch (kind) {
    case RUN: start_run(id, payload); return;
    case CODE: start_code(id, payload); return;
    case READ:
        if ((request = request_new(id, READING))) file_read_start(request, payload);
        return;
    case WRITE:
        if ((request = request_new(id, WRITING))) file_write_start(request, payload);
        return;
    case SETTLE:
        if ((request = request_new(id, SETTLING))) machine_settle(request);
        return;
    default: send_error(id, "unknown kind of request 0x%02x", kind);
    }
}

/* Of a request that is over nothing is said: the two may have crossed on their way. */
static void on_message(enum kind kind, struct request *request, struct bytes payload) {
    if (kind == STDIN) {
        request_input_add(request, payload);
    } else if (kind == KILL) {
        start_kill(request);
    } else if (payload.length != 4) {
        send_error(request->id, "SIGNAL and WINDOW carry 4 bytes");
    } else if (kind == SIGNAL) {
        send_signal(request, (int)get32(payload.at));
    } else {
        struct run *run = &request->run;
        run->rows = get16(payload.at);
        run->columns = get16(payload.at + 2);
        if (run->tty && request->out.fd >= 0) set_window(request->out.fd, run->rows, run->columns);
    }
}

void request_frame(enum kind kind, uint32_t id, struct bytes payload) {
    struct request *request;
    switch (kind) {
    case HELLO:
        if (payload.length != 4 || get32(payload.at) != PROTOCOL_VERSION)
            send_error(id, "this agent speaks version %d of the protocol", PROTOCOL_VERSION);
        else
            machine_hello(id);
        return;
    case RESTORE: machine_restore(id, payload); return;
    case SYNC_TIME: machine_set_clock(payload); return;
    case STDIN:
    case SIGNAL:
    case WINDOW:
    case KILL:
        if ((request = request_find(id))) on_message(kind, request, payload);
        return;
    default: on_request(kind, id, payload);
    }
}

/* ---- each round ------------------------------------------------------------------------------------------------- */

static void watch_stream(struct request *request, struct stream *stream) {
    if (stream->fd >= 0 && stream->left != 0 && port_has_room()) watch(stream->fd, POLLIN, on_output, request);
}

static void watch_request(struct request *request) {
    if (request->killed && request->pid > 0 && request->state != OVER) {
        go_on_killing(request);
        wake_at(request->kill_next);
    }
    bool killing = request->killed && request->pid > 0;
    bool drained = is_drained(request, &request->out) && is_drained(request, &request->err);
    if (request->state == EXITED && !killing && drained) {
        send_exit(request);
        return;
    }
    watch_stream(request, &request->out);
    watch_stream(request, &request->err);
    if (request->state == EXITED && request->run.tty) wake_at(request->grace);
    if (request->state == RUNNING && request->in >= 0 && (queue_used(&request->input) > 0 || request->input_ended))
        watch(request->in, POLLOUT, on_input, request);
    if (request->kind == READING) file_watch(request);
}

void request_watch(void) {
    for (size_t i = 0; i < leftover_count; i++) watch(leftovers[i], POLLIN, on_leftover, NULL);
    for (struct request *request = requests; request; request = request->next)
        if (request->state != OVER) watch_request(request);
}
