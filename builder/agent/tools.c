/* Small tools: bytes, queues, numbers.
 *
 * Why it exists: everything above moves bytes between descriptors that take them when they like. A `struct queue` is
 * where they wait; numbers on the wire are little endian whatever the processor is.
 * Invariant: head <= tail <= size; an empty queue keeps no large buffer.
 * Example: queue_print(&feed, "echo %d\n", 7); queue_write(&feed, fd);
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.h"

_Noreturn void die(const char *what) {
    dprintf(2, "vpod-agent: %s: %s\n", what, strerror(errno));
    _exit(70);
}

void *allocate(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (memory == NULL) die("memory");
    return memory;
}

char *text_of(struct bytes bytes) {
    char *text = allocate(bytes.length + 1);
    memcpy(text, bytes.at, bytes.length);
    return text;
}

char *format(const char *pattern, ...) {
    va_list values;
    char *text;
    va_start(values, pattern);
    if (vasprintf(&text, pattern, values) < 0) die("memory");
    va_end(values);
    return text;
}

uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
uint32_t get32(const uint8_t *at) { return get16(at) | (uint32_t)get16(at + 2) << 16; }
uint64_t get64(const uint8_t *at) { return get32(at) | (uint64_t)get32(at + 4) << 32; }

void put32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

bool next_field(struct bytes *rest, uint8_t *tag, struct bytes *value) {
    if (rest->length == 0) return false;
    if (rest->length < FIELD_SIZE || get32(rest->at + 1) > rest->length - FIELD_SIZE) {
        rest->at = NULL;
        return false;
    }
    *tag = rest->at[0];
    *value = (struct bytes){rest->at + FIELD_SIZE, get32(rest->at + 1)};
    rest->at += FIELD_SIZE + value->length;
    rest->length -= FIELD_SIZE + value->length;
    return true;
}

size_t queue_used(const struct queue *queue) { return queue->tail - queue->head; }

uint8_t *queue_room(struct queue *queue, size_t length) {
    if (queue->size - queue->tail < length && queue->head > 0) {
        memmove(queue->data, queue->data + queue->head, queue_used(queue));
        queue->tail -= queue->head;
        queue->head = 0;
    }
    if (queue->size - queue->tail < length) {
        size_t size = queue->size ? queue->size : 4096;
        while (size - queue->tail < length) size *= 2;
        uint8_t *data = realloc(queue->data, size);
        if (data == NULL) die("memory");
        queue->data = data;
        queue->size = size;
    }
    return queue->data + queue->tail;
}

void queue_add(struct queue *queue, const void *data, size_t length) {
    if (length == 0) return;
    memcpy(queue_room(queue, length), data, length);
    queue->tail += length;
}

void queue_print(struct queue *queue, const char *pattern, ...) {
    va_list values, again;
    va_start(values, pattern);
    va_copy(again, values);
    int length = vsnprintf(NULL, 0, pattern, values);
    if (length < 0) die("format");
    vsnprintf((char *)queue_room(queue, (size_t)length + 1), (size_t)length + 1, pattern, again);
    queue->tail += (size_t)length;
    va_end(again);
    va_end(values);
}

void queue_quote(struct queue *queue, const char *text, size_t length) {
    queue_add(queue, "'", 1);
    while (length > 0) {
        const char *quote = memchr(text, '\'', length);
        size_t plain = quote ? (size_t)(quote - text) : length;
        queue_add(queue, text, plain);
        if (quote) queue_add(queue, "'\\''", 4), plain++;
        text += plain;
        length -= plain;
    }
    queue_add(queue, "'", 1);
}

void queue_drop(struct queue *queue, size_t length) {
    queue->head += length;
    if (queue->head < queue->tail) return;
    queue->head = queue->tail = 0;
    if (queue->size > 4 * CHUNK) queue_free(queue);
}

void queue_free(struct queue *queue) {
    free(queue->data);
    *queue = (struct queue){0};
}

int queue_write(struct queue *queue, int fd) {
    while (queue_used(queue) > 0) {
        ssize_t written = write(fd, queue->data + queue->head, queue_used(queue));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return errno == EAGAIN ? 0 : errno;
        queue_drop(queue, (size_t)written);
    }
    return 0;
}

size_t bytes_waiting(int fd) {
    int waiting = 0;
    return fd >= 0 && ioctl(fd, FIONREAD, &waiting) == 0 && waiting > 0 ? (size_t)waiting : 0;
}

ssize_t read_file(const char *path, char *buffer, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t length = read(fd, buffer, size - 1);
    close(fd);
    buffer[length > 0 ? length : 0] = 0;
    return length;
}

void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}
