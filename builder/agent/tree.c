/* Process trees: finding all that a command started, and ending it.
 *
 * Why it exists: a command may fork, double-fork, make sessions of its own or fork faster than one can look. What holds
 * a tree together is that its root is a child subreaper (the plain command's first process, the session shell, the
 * runner): whoever loses a parent becomes the root's child, so walking /proc from the root finds everybody.
 * Invariants: before anything is killed the root and everybody found are stopped, and the walk is repeated until it
 * finds nobody new; so no process escapes by its parent's death or by forking meanwhile. On a single hart the agent
 * runs as a real-time process during the walk. Trees that earlier requests left under the same root are `spared`.
 * A command's process that hangs itself below a spared tree does not exist: only orphans are moved, and to the root.
 *
 * Why not control groups: moving the shell into a group for each command costs an RCU grace period, far more than the
 * command; the walk costs nothing until something must be ended.
 *
 * Example: while (tree_end(pid, &spared) > 0) come_back_later();
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

enum { FREEZE_ROUNDS = 100 };

struct table {
    struct process *list;
    size_t count, size;
};

/* /proc/PID/stat: "pid (any name) state ppid ..."; the 22nd number is the start time. */
static bool process_read(int proc, const char *number, struct process *process) {
    char path[32], text[512];
    snprintf(path, sizeof path, "%.16s/stat", number);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = 0;
    const char *after = strrchr(text, ')');
    const char *pattern = " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu";
    int parent;
    if (after == NULL || sscanf(after + 1, pattern, &process->state, &parent, &process->started) != 3) return false;
    process->pid = (pid_t)atol(number);
    process->parent = parent;
    return true;
}

static int by_pid(const void *left, const void *right) {
    pid_t a = ((const struct process *)left)->pid, b = ((const struct process *)right)->pid;
    return (a > b) - (a < b);
}

static struct table scan(void) {
    struct table table = {0};
    DIR *proc = opendir("/proc");
    if (proc == NULL) return table;
    struct dirent *entry;
    while ((entry = readdir(proc)) != NULL) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        if (table.count == table.size) {
            table.size = table.size ? 2 * table.size : 256;
            table.list = realloc(table.list, table.size * sizeof *table.list);
            if (table.list == NULL) die("memory");
        }
        table.list[table.count] = (struct process){0};
        if (process_read(dirfd(proc), entry->d_name, &table.list[table.count])) table.count++;
    }
    closedir(proc);
    qsort(table.list, table.count, sizeof *table.list, by_pid);
    return table;
}

static struct process *find(const struct table *table, pid_t pid) {
    struct process key = {.pid = pid};
    return table->count ? bsearch(&key, table->list, table->count, sizeof key, by_pid) : NULL;
}

static bool is_spared(const struct spared *spared, const struct process *process) {
    for (size_t i = 0; i < spared->count; i++)
        if (spared->list[i].pid == process->pid && spared->list[i].started == process->started) return true;
    return false;
}

static bool is_alive(const struct process *process) { return process->state != 'Z' && process->state != 'X'; }

/* Does the chain of parents reach the root without passing a spared process? Each link is walked once: what it leads
 * to is written into all of the chain. */
static bool belongs(const struct table *table, struct process *first, pid_t root, const struct spared *spared) {
    enum belonging answer = UNKNOWN;
    size_t steps = 0;
    struct process *process = first;
    while (answer == UNKNOWN) {
        if (process == NULL || steps++ > table->count || is_spared(spared, process)) answer = STRANGER;
        else if (process->belonging != UNKNOWN) answer = process->belonging;
        else if (process->parent == root) answer = MEMBER;
        else process = find(table, process->parent);
    }
    for (process = first; process != NULL && process->belonging == UNKNOWN; process = find(table, process->parent))
        process->belonging = answer;
    return answer == MEMBER;
}

/* Signals every living member of the tree that isn't in `known` yet; returns how many. */
static size_t tell(struct table *table, const struct table *known, pid_t root, const struct spared *spared,
                   int number) {
    size_t told = 0;
    for (size_t i = 0; i < table->count; i++) {
        struct process *process = &table->list[i], *before = find(known, process->pid);
        if (!is_alive(process) || process->pid == root || !belongs(table, process, root, spared)) continue;
        if (before != NULL && before->started == process->started) continue;
        if (kill(process->pid, number) == 0) told++;
    }
    return told;
}

void spare_children(struct spared *spared, pid_t root) {
    char path[64], text[16384];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", root, root);
    ssize_t length = read_file(path, text, sizeof text);
    if (length == 0) return; /* the usual case, one small read */
    struct table table = scan();
    for (size_t i = 0; i < table.count; i++) {
        if (table.list[i].parent != root || !is_alive(&table.list[i])) continue;
        spared->list = realloc(spared->list, (spared->count + 1) * sizeof *spared->list);
        if (spared->list == NULL) die("memory");
        spared->list[spared->count++] = table.list[i];
    }
    free(table.list);
}

void spare_free(struct spared *spared) {
    free(spared->list);
    *spared = (struct spared){0};
}

size_t tree_signal(pid_t root, const struct spared *spared, int number) {
    struct table table = scan();
    size_t told = tell(&table, &(struct table){0}, root, spared, number);
    free(table.list);
    return told;
}

static void real_time(bool on) {
    struct sched_param priority = {.sched_priority = on ? 1 : 0};
    sched_setscheduler(0, (on ? SCHED_FIFO : SCHED_OTHER) | SCHED_RESET_ON_FORK, &priority);
}

/* A stopped process that hasn't run since still counts as running, so what ends the search is finding nobody new; a
 * fork with a stop pending doesn't happen. */
size_t tree_end(pid_t root, const struct spared *spared) {
    real_time(true); /* refused outside a guest; then the rounds below do it alone */
    kill(root, SIGSTOP);
    struct table known = {0}, table = scan();
    for (int round = 0; round < FREEZE_ROUNDS && tell(&table, &known, root, spared, SIGSTOP) > 0; round++) {
        free(known.list);
        known = table;
        table = scan();
    }
    size_t left = tell(&table, &(struct table){0}, root, spared, SIGKILL);
    free(known.list);
    free(table.list);
    real_time(false);
    return left;
}
