/* What the parts of the agent know of each other.
 *
 * The agent is one thread around one poll(2) (loop.c). Whatever could wait, waits there: the port to the host (port.c),
 * the requests and their pipes (request.c), plain commands (exec.c), the session shell (session.c), the Python runner
 * (runner.c), files (files.c). tree.c finds and ends process trees; machine.c touches what belongs to the whole machine
 * (clock, entropy, memory); init.c is PID 1; main.c chooses between init, agent and the helper that takes a terminal.
 *
 * Invariants: every descriptor is close-on-exec; nothing the agent reads from or writes to blocks; every queue has a
 * bound, because its source isn't read while it is full; a request is freed only between two rounds of the loop.
 */
#ifndef VPOD_AGENT_H
#define VPOD_AGENT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

enum { MAX_ARGS = 4096, MAX_REQUESTS = 256, MILLISECOND = 1000 /* in microseconds, the loop's unit of time */ };
enum { FORK_PAUSE = 100 * MILLISECOND };

/* ---- small tools: tools.c --------------------------------------------------------------------------------------- */

struct bytes {
    const uint8_t *at;
    size_t length;
};

/* Bytes on their way: written at `tail`, taken from `head`. */
struct queue {
    uint8_t *data;
    size_t head, tail, size;
};

_Noreturn void die(const char *what); /* says it with errno on standard error; PID 1 starts the agent anew */
void *allocate(size_t size);          /* zeroed; dies when there is no memory */
char *text_of(struct bytes bytes);    /* a NUL-terminated copy, to be freed */
char *format(const char *pattern, ...) __attribute__((format(printf, 1, 2))); /* to be freed */
uint16_t get16(const uint8_t *at);
uint32_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);
void put32(uint8_t *at, uint32_t value);
bool next_field(struct bytes *rest, uint8_t *tag, struct bytes *value); /* false at the end, rest->at NULL if broken */
size_t queue_used(const struct queue *queue);
uint8_t *queue_room(struct queue *queue, size_t length); /* room for so many bytes at the tail */
void queue_add(struct queue *queue, const void *data, size_t length);
void queue_print(struct queue *queue, const char *pattern, ...) __attribute__((format(printf, 2, 3)));
void queue_quote(struct queue *queue, const char *text, size_t length); /* as one word of a shell's language */
void queue_drop(struct queue *queue, size_t length);
void queue_free(struct queue *queue);
int queue_write(struct queue *queue, int fd); /* writes what fd takes; 0, or errno when fd is broken */
size_t bytes_waiting(int fd);                 /* FIONREAD */
ssize_t read_file(const char *path, char *buffer, size_t size); /* NUL-terminated; -1 on errors */
void close_fd(int *fd);

/* ---- the loop: loop.c ------------------------------------------------------------------------------------------- */

typedef void on_ready(void *owner, int fd, short events);

int64_t now(void);                                                /* monotonic, microseconds */
void watch(int fd, short events, on_ready *call, void *owner);    /* for the next round only */
void wake_at(int64_t when);                                       /* the next round begins by then; 0 = never */
_Noreturn void run_loop(void);

/* ---- the port: port.c ------------------------------------------------------------------------------------------- */

void port_open(int fd);
void port_find(void); /* waits for the virtio-console port named vpod.agent and opens it */
void port_watch(void);
bool port_has_room(void); /* false while the host takes nothing: read no output then */
void send_frame(enum kind kind, uint32_t id, const void *payload, size_t length);
void send_started(uint32_t id, pid_t pid, bool at_once);
void send_error(uint32_t id, const char *pattern, ...) __attribute__((format(printf, 2, 3)));
void send_done(uint32_t id, int error);
void send_ready(uint32_t id);
ssize_t send_from(int fd, enum kind kind, uint32_t id, size_t limit); /* one read(2) into one frame; its result */

/* ---- processes: tree.c, exec.c ---------------------------------------------------------------------------------- */

enum belonging { UNKNOWN, MEMBER, STRANGER };

struct process {
    pid_t pid, parent;
    char state;
    enum belonging belonging; /* to the tree that is being looked for */
    unsigned long long started; /* clock ticks since boot: tells two lives of one number apart */
};

/* Trees hanging from a root that aren't the request's: what earlier requests left running. */
struct spared {
    struct process *list;
    size_t count;
};

void spare_children(struct spared *spared, pid_t root);
void spare_free(struct spared *spared);
size_t tree_signal(pid_t root, const struct spared *spared, int number); /* how many were told; not the root itself */
size_t tree_end(pid_t root, const struct spared *spared);                /* SIGKILL for all; how many still lived */

struct user {
    uid_t uid;
    gid_t gid;
    char name[64], home[256], shell[256];
};

/* RUN, taken apart. The strings point into `payload`, which is owned. */
struct run {
    uint8_t *payload;
    char **args, **env; /* NULL-terminated */
    size_t arg_count, env_count;
    struct bytes script;
    char *cwd, *user;
    bool tty, has_script;
    uint16_t rows, columns;
    uint32_t flags;
};

struct request;

bool run_parse(struct run *run, struct bytes payload, const char **problem);
void run_free(struct run *run);
bool user_find(const char *name, struct user *user);
char **environment_for(const struct user *user); /* HOME, PATH, TERM, LANG, SHELL, USER, LOGNAME; freed as one block */
void child_reset(void);                          /* in a fresh child: signals, mask, umask, limits, priorities */
void child_user(const struct user *user);
int open_terminal(uint16_t rows, uint16_t columns, int *slave, char path[static 32]);
void set_window(int terminal, uint16_t rows, uint16_t columns);
void exec_start(struct request *request);
void exec_exited(struct request *request, int code);
int exec_on_terminal(char **arguments); /* main of `vpod-agent --tty PATH PROGRAM ARG...` */

extern struct user root_user; /* who the agent is */
extern const char *session_path;
extern const char *chosen_shell, *chosen_python, *runner_path; /* --shell, --python, --runner */

/* ---- requests: request.c ---------------------------------------------------------------------------------------- */

enum request_kind { PLAIN, SESSION, PYTHON, READING, WRITING, SETTLING };
enum request_state { WAITING, RUNNING, EXITED, OVER };

struct stream {
    int fd;
    enum kind kind;
    long left; /* bytes still to pass on; negative: until end of file */
};

struct request {
    struct request *next;
    uint32_t id;
    enum request_kind kind;
    enum request_state state;
    struct run run;
    struct stream out, err;
    int out_writer, err_writer; /* session: kept until the command is over, so that its pipes have no end before */
    int in, in_reader;          /* ours to write; in_reader keeps the pipe alive until the shell has opened it */
    int terminal_slave;         /* kept until the command is over, for the same reason */
    char terminal[32];
    struct queue input;
    bool input_ended;
    uint32_t credit_owed;
    pid_t pid; /* root of its tree */
    struct spared spared;
    int32_t code;
    char *lost;        /* why the session or the runner had to be started anew */
    bool killed, kill_told;
    int kill_round;
    int64_t kill_next;   /* when to go on killing */
    int64_t kill_until;  /* how long those who were told may take to go, and how many processes there are then */
    long kill_count;
    int64_t interrupted; /* when the root was first interrupted, all below it being gone */
    int64_t grace;       /* a terminal's last bytes come late: wait for them until then */
    int file;            /* READ and WRITE */
    char *source;        /* CODE: its text */
    size_t source_length;
};

void request_frame(enum kind kind, uint32_t id, struct bytes payload);
void request_watch(void);
void request_sweep(void);
struct request *request_new(uint32_t id, enum request_kind kind); /* NULL after having answered ERROR */
struct request *request_next_waiting(enum request_kind kind);     /* in the order they came */
struct request *request_of_pid(enum request_kind kind, pid_t pid);
bool request_open_pipes(struct request *request);
void request_exited(struct request *request, int code); /* nothing new will come: drain and send EXIT */
void request_over(struct request *request);
void request_input_add(struct request *request, struct bytes bytes);

/* ---- the session shell, the Python runner ----------------------------------------------------------------------- */

void session_start(void);
void session_watch(void);
void session_next(void);   /* starts the first waiting command, if the shell is free */
bool session_died(pid_t pid, int status);
void session_interrupt(struct request *request);
void session_release(const struct request *request); /* all that a killed command started is gone */
void session_give_up(struct request *request);
void session_reseed(void);
bool session_warm(void);    /* ready, or known not to come */
bool session_reseeded(void);
const char *session_shell(void);

void runner_start(void);
void runner_watch(void);
void runner_next(void);
bool runner_died(pid_t pid, int status);
void runner_reseed(void);
void runner_release(const struct request *request);
bool runner_warm(void);
bool runner_reseeded(void);
bool runner_ready(void);

/* ---- files, machine, init --------------------------------------------------------------------------------------- */

void file_read_start(struct request *request, struct bytes path);
void file_write_start(struct request *request, struct bytes payload);
void file_write(struct request *request, struct bytes bytes);
void file_watch(struct request *request);

extern bool owns_machine; /* --machine: may set the clock, feed the entropy pool, fill memory */
void machine_restore(uint32_t id, struct bytes payload);
void machine_set_clock(struct bytes payload);
void machine_settle(struct request *request);
void machine_watch(void); /* answers RESTORE and HELLO once everything is warm */
void machine_hello(uint32_t id);

int init_main(void);

#endif
