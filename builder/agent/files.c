/* Files: READ and WRITE.
 *
 * Why it exists: the host reads and writes the guest's files without a command.
 * Invariants: only regular files (those of /proc and /sys are) are read, and nothing is opened in a way that could
 * block (a FIFO, a terminal): what isn't a file answers with its errno. A file is read no faster than the host takes
 * it.
 * WRITE replaces the content of a file that exists, keeping the file; mode 0 means 0644 for a new one.
 * Example: READ "/etc/hostname" answers DATA "vpod\n", DONE 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

static void done(struct request *request, int error) {
    send_done(request->id, error);
    request->state = OVER;
}

static int open_regular(struct bytes path, int flags, mode_t mode) {
    struct stat status;
    if (path.length == 0 || memchr(path.at, 0, path.length)) return errno = EINVAL, -1;
    char *name = text_of(path);
    int fd = open(name, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);
    free(name);
    if (fd < 0) return -1;
    int error = fstat(fd, &status) < 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (error == 0 && !S_ISREG(status.st_mode)) error = EINVAL;
    if (error == 0) return fd;
    close(fd);
    errno = error;
    return -1;
}

void file_read_start(struct request *request, struct bytes path) {
    request->state = RUNNING;
    request->file = open_regular(path, O_RDONLY, 0);
    if (request->file < 0) done(request, errno);
}

/* A regular file is always ready: one piece each round, as long as the port takes it. */
void file_watch(struct request *request) {
    if (!port_has_room()) return; /* the port wakes the loop when it has taken some */
    ssize_t length = send_from(request->file, DATA, request->id, CHUNK);
    if (length > 0) wake_at(now());
    else done(request, length == 0 ? 0 : errno);
}

void file_write_start(struct request *request, struct bytes payload) {
    request->state = RUNNING;
    if (payload.length < 4) {
        done(request, EINVAL);
        return;
    }
    mode_t mode = get32(payload.at) & 07777;
    struct bytes path = {payload.at + 4, payload.length - 4};
    request->file = open_regular(path, O_WRONLY | O_CREAT, mode ? mode : 0644);
    bool good = request->file >= 0 && ftruncate(request->file, 0) == 0;
    if (!good || (mode != 0 && fchmod(request->file, mode) < 0)) done(request, errno);
}

void file_write(struct request *request, struct bytes bytes) {
    if (bytes.length == 0) {
        int result = close(request->file);
        request->file = -1;
        done(request, result < 0 ? errno : 0);
        return;
    }
    while (bytes.length > 0) {
        ssize_t written = write(request->file, bytes.at, bytes.length);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
            done(request, written < 0 ? errno : ENOSPC);
            return;
        }
        bytes.at += written;
        bytes.length -= (size_t)written;
    }
}
