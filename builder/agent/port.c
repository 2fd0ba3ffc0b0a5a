/* The port: frames to and from the host.
 *
 * Why it exists: the one place that knows how frames lie on the wire on the guest's side.
 * Invariants: at most OUTPUT_FULL bytes of output wait for a host that takes none (then `port_has_room` is false and no
 * pipe is read), plus small control frames; beyond OUTPUT_STOP not even requests are read. A frame longer than
 * MAX_PAYLOAD ends the agent: the stream can't be trusted any more, and PID 1 starts a fresh one.
 * Example: send_frame(STDOUT, 7, "hi\n", 3);
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent.h"

enum { OUTPUT_FULL = 256 << 10, OUTPUT_STOP = 1 << 20 };

static int port = -1;
static bool ends; /* a socket (in tests) can end for good; a virtio port only pauses while its host is away */
static struct queue output, input;
static int64_t hold_until;  /* a STARTED alone waits this long for company: each write costs the host a turn */
static int64_t quiet_until; /* nobody at the other end: look again then */

void port_open(int fd) {
    struct stat status;
    port = fd;
    ends = fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    fcntl(port, F_SETFL, fcntl(port, F_GETFL) | O_NONBLOCK);
    fcntl(port, F_SETFD, FD_CLOEXEC);
}

/* Opens /dev/NAME for the port called vpod.agent; makes the node where devtmpfs hasn't. */
static int open_named(const char *entry) {
    char path[320], text[64];
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry);
    if (read_file(path, text, sizeof text) < 0 || strncmp(text, "vpod.agent", 10) != 0) return -1;
    snprintf(path, sizeof path, "/dev/%s", entry);
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT) return fd;
    unsigned major, minor;
    char device[320];
    snprintf(device, sizeof device, "/sys/class/virtio-ports/%s/dev", entry);
    if (read_file(device, text, sizeof text) < 0 || sscanf(text, "%u:%u", &major, &minor) != 2) return -1;
    if (mknod(path, S_IFCHR | 0600, makedev(major, minor)) < 0) return -1;
    return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

void port_find(void) {
    for (unsigned tries = 0;; tries++) {
        DIR *ports = opendir("/sys/class/virtio-ports");
        struct dirent *entry;
        int fd = -1;
        while (ports != NULL && fd < 0 && (entry = readdir(ports)) != NULL)
            if (entry->d_name[0] != '.') fd = open_named(entry->d_name);
        if (ports != NULL) closedir(ports);
        if (fd >= 0) {
            port_open(fd);
            return;
        }
        if (tries == 200) dprintf(2, "vpod-agent: still waiting for a virtio-console port named vpod.agent\n");
        usleep(20 * MILLISECOND);
    }
}

bool port_has_room(void) { return queue_used(&output) < OUTPUT_FULL; }

static void put_header(uint8_t *at, enum kind kind, uint32_t id, size_t length) {
    put32(at, (uint32_t)length);
    at[4] = (uint8_t)kind;
    put32(at + 5, id);
}

void send_frame(enum kind kind, uint32_t id, const void *payload, size_t length) {
    uint8_t header[HEADER_SIZE];
    put_header(header, kind, id, length);
    queue_add(&output, header, sizeof header);
    queue_add(&output, payload, length);
    hold_until = 0;
}

ssize_t send_from(int fd, enum kind kind, uint32_t id, size_t limit) {
    uint8_t *room = queue_room(&output, HEADER_SIZE + CHUNK);
    ssize_t length = read(fd, room + HEADER_SIZE, limit < CHUNK ? limit : CHUNK);
    if (length > 0) {
        put_header(room, kind, id, (size_t)length);
        output.tail += HEADER_SIZE + (size_t)length;
        hold_until = 0;
    }
    return length;
}

void send_started(uint32_t id, pid_t pid, bool at_once) {
    uint8_t payload[4];
    bool alone = queue_used(&output) == 0;
    put32(payload, (uint32_t)pid);
    send_frame(STARTED, id, payload, sizeof payload);
    if (alone && !at_once) hold_until = now() + MILLISECOND;
}

void send_error(uint32_t id, const char *pattern, ...) {
    char text[512];
    va_list values;
    va_start(values, pattern);
    int length = vsnprintf(text, sizeof text, pattern, values);
    va_end(values);
    size_t most = sizeof text - 1;
    send_frame(ERROR, id, text, length < 0 ? 0 : (size_t)length < most ? (size_t)length : most);
}

void send_done(uint32_t id, int error) {
    uint8_t payload[256];
    const char *message = error ? strerror(error) : "";
    size_t length = strnlen(message, sizeof payload - 4);
    put32(payload, (uint32_t)error);
    memcpy(payload + 4, message, length);
    send_frame(DONE, id, payload, 4 + length);
}

static void add_field(struct queue *fields, uint8_t tag, const void *value, size_t length) {
    uint8_t header[FIELD_SIZE] = {tag};
    put32(header + 1, (uint32_t)length);
    queue_add(fields, header, sizeof header);
    queue_add(fields, value, length);
}

void send_ready(uint32_t id) {
    struct queue fields = {0};
    uint8_t version[4];
    char name[65] = "";
    put32(version, PROTOCOL_VERSION);
    gethostname(name, sizeof name - 1);
    add_field(&fields, READY_VERSION, version, sizeof version);
    if (runner_ready()) add_field(&fields, READY_PYTHON, "1", 1);
    if (session_shell() != NULL) add_field(&fields, READY_SHELL, session_shell(), strlen(session_shell()));
    add_field(&fields, READY_HOSTNAME, name, strlen(name));
    send_frame(READY, id, fields.data, queue_used(&fields));
    queue_free(&fields);
}

static bool take_frames(void) {
    bool taken = false;
    while (queue_used(&input) >= HEADER_SIZE && queue_used(&output) < OUTPUT_STOP) {
        const uint8_t *frame = input.data + input.head;
        size_t length = get32(frame);
        if (length > MAX_PAYLOAD) {
            errno = EPROTO;
            die("a frame from the host is too long");
        }
        if (queue_used(&input) < HEADER_SIZE + length) break;
        request_frame(frame[4], get32(frame + 5), (struct bytes){frame + HEADER_SIZE, length});
        queue_drop(&input, HEADER_SIZE + length);
        taken = true;
    }
    return taken;
}

static void on_port(void *owner, int fd, short events) {
    (void)owner;
    if (events & (POLLIN | POLLHUP | POLLERR)) {
        ssize_t length = read(fd, queue_room(&input, CHUNK), CHUNK);
        if (length > 0) input.tail += (size_t)length;
        else if (ends && (length == 0 || errno == ECONNRESET)) exit(0);
        else if (length == 0 || (errno != EAGAIN && errno != EINTR)) quiet_until = now() + 50 * MILLISECOND;
        take_frames();
    }
}

void port_watch(void) {
    if (take_frames()) wake_at(now()); /* those that waited for room: another round knows what they started */
    int64_t time = hold_until || quiet_until ? now() : 0;
    if (quiet_until && time < quiet_until) {
        wake_at(quiet_until);
        return;
    }
    if (queue_used(&output) > 0) {
        if (hold_until > time) {
            wake_at(hold_until);
        } else {
            hold_until = 0;
            bool had_room = port_has_room();
            int error = queue_write(&output, port);
            if (!had_room && port_has_room()) wake_at(now()); /* sources that held back are asked again */
            if (error && ends) exit(0);
            if (error) wake_at(now() + 50 * MILLISECOND);
        }
    }
    short events = queue_used(&output) < OUTPUT_STOP ? POLLIN : 0;
    if (queue_used(&output) > 0 && !hold_until) events |= POLLOUT;
    watch(port, events, on_port, NULL);
}
