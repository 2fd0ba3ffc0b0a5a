/* The machine: what isn't one command's but everybody's: wall clock, randomness, free memory.
 *
 * Why it exists: a machine that was frozen once is thawed many times. Each copy must get its own randomness and the
 * right time before anything runs in it (RESTORE), and before the freeze memory that nobody uses is made zero, because
 * zero pages take no room in a snapshot (SETTLE).
 * Invariants: nothing here happens unless `--machine` was given, so tests on a host are harmless. READY after RESTORE
 * means that clock, kernel pool, the idle shell's $RANDOM and the idle runner's `random` are new.
 * Example: RESTORE(9) answers READY(9).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

enum {
    PATIENCE = 250 * MILLISECOND,      /* for the shell and the runner to take their seeds */
    WARMING = 120 * 1000 * MILLISECOND, /* for both to start */
    MAX_HELLOS = 8,
};

bool owns_machine;

static struct {
    uint32_t hellos[MAX_HELLOS], restore;
    size_t hello_count;
    bool restoring;
    int64_t deadline;
} pending;

void machine_set_clock(struct bytes payload) {
    if (!owns_machine || payload.length < 8) return;
    uint64_t nanoseconds = get64(payload.at);
    struct timespec time = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
    clock_settime(CLOCK_REALTIME, &time);
}

static bool add_entropy(const uint8_t entropy[ENTROPY_SIZE]) {
    uint32_t buffer[(sizeof(struct rand_pool_info) + ENTROPY_SIZE) / sizeof(uint32_t)];
    struct rand_pool_info *info = (struct rand_pool_info *)buffer;
    info->entropy_count = ENTROPY_SIZE * 8;
    info->buf_size = ENTROPY_SIZE;
    memcpy(info->buf, entropy, ENTROPY_SIZE);
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool taken = ioctl(fd, RNDADDENTROPY, info) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
    close(fd);
    return taken;
}

void machine_restore(uint32_t id, struct bytes payload) {
    if (payload.length != 8 + ENTROPY_SIZE) {
        send_error(id, "RESTORE carries %d bytes", 8 + ENTROPY_SIZE);
        return;
    }
    machine_set_clock(payload);
    if (owns_machine && !add_entropy(payload.at + 8)) {
        send_error(id, "the kernel's generator takes no entropy: %s", strerror(errno));
        return;
    }
    session_reseed();
    runner_reseed();
    pending.restoring = true;
    pending.restore = id;
    pending.deadline = now() + PATIENCE;
}

void machine_hello(uint32_t id) {
    if (pending.hello_count < MAX_HELLOS) pending.hellos[pending.hello_count++] = id;
    else send_error(id, "too many HELLOs");
}

void machine_watch(void) {
    static int64_t started;
    static bool greeted;
    if (started == 0) started = now();
    bool warm = session_warm() && runner_warm();
    if (!warm && !greeted && now() - started > WARMING) warm = true;
    if (warm && !greeted) {
        greeted = true;
        send_ready(0);
    }
    if (greeted) {
        for (size_t i = 0; i < pending.hello_count; i++) send_ready(pending.hellos[i]);
        pending.hello_count = 0;
    } else {
        wake_at(started + WARMING);
    }
    if (!pending.restoring) return;
    if ((session_reseeded() && runner_reseeded()) || now() >= pending.deadline) {
        send_ready(pending.restore);
        pending.restoring = false;
    } else {
        wake_at(pending.deadline);
    }
}

/* ---- SETTLE ----------------------------------------------------------------------------------------------------- */

static size_t free_memory(void) {
    struct sysinfo info;
    return sysinfo(&info) < 0 ? 0 : (size_t)info.freeram * info.mem_unit;
}

static void put_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (write(fd, text, strlen(text)) < 0) errno = 0; /* the freeze is larger, not wrong */
    close(fd);
}

/* Takes free memory until little is left: the kernel gives out zeroed pages and gets them back as they are. It all
 * happens in a child that the kernel would end first if memory ran out; the child's end frees everything. */
static _Noreturn void fill_memory(void) {
    char text[32];
    size_t reserve = 3 << 20;
    if (read_file("/proc/sys/vm/min_free_kbytes", text, sizeof text) > 0) {
        size_t least = 2048 * strtoul(text, NULL, 10);
        if (least > reserve) reserve = least;
    }
    put_text("/proc/self/oom_score_adj", "1000");
    for (size_t chunk = 4 << 20; chunk >= 64 << 10;) {
        if (free_memory() < reserve + chunk + chunk / 64) {
            chunk /= 4;
            continue;
        }
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
        if (mmap(NULL, chunk, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) break;
    }
    _exit(0);
}

void machine_settle(struct request *request) {
    request->state = RUNNING;
    request->pid = fork();
    if (request->pid < 0) {
        send_done(request->id, errno);
        request->state = OVER;
    } else if (request->pid == 0) {
        child_reset();
        if (!owns_machine) _exit(0);
        sync();
        put_text("/proc/sys/vm/drop_caches", "3");
        fill_memory();
    }
}
