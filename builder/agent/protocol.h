/* The language between host and guest, as the guest sees it.
 *
 * Why it exists: the same numbers stand in `vpod/protocol.py`; both follow `docs/design/main-job.md`, "The agent's
 * protocol", and `tests/test_protocol.py` compares the two files.
 *
 * A frame is  u32 length of payload (<= 1 MiB) · u8 kind · u32 id · payload,  little endian.
 * A field is  u8 tag · u32 length · bytes.
 *
 * Example: an EXIT of request 7 with code 3 is  04 00 00 00  85  07 00 00 00  03 00 00 00.
 */
#ifndef VPOD_PROTOCOL_H
#define VPOD_PROTOCOL_H

enum {
    PROTOCOL_VERSION = 1,
    MAX_PAYLOAD = 1 << 20,
    CHUNK = 64 << 10,           /* the largest piece of output or input in one frame */
    INITIAL_CREDIT = 256 << 10, /* bytes of STDIN a request may be sent before its first CREDIT */
    ENTROPY_SIZE = 64,
    HEADER_SIZE = 9,
    FIELD_SIZE = 5,
};

enum kind {
    HELLO = 0x01,
    RESTORE = 0x02,
    RUN = 0x10,
    STDIN = 0x11,
    SIGNAL = 0x12,
    WINDOW = 0x13,
    KILL = 0x14,
    READ = 0x20,
    WRITE = 0x21,
    CODE = 0x30,
    SETTLE = 0x40,
    SYNC_TIME = 0x41,

    READY = 0x81,
    STARTED = 0x82,
    STDOUT = 0x83,
    STDERR = 0x84,
    EXIT = 0x85,
    CREDIT = 0x86,
    DATA = 0x87,
    DONE = 0x88,
    RESULT = 0x89,
    ERROR = 0x8f,
};

enum run_tag { RUN_SCRIPT = 1, RUN_ARG = 2, RUN_CWD = 3, RUN_ENV = 4, RUN_USER = 5, RUN_TTY = 6, RUN_FLAGS = 7 };
enum run_flag { RUN_MERGE_STDERR = 1, RUN_STDIN = 2 };
enum ready_tag { READY_VERSION = 1, READY_PYTHON = 2, READY_SHELL = 3, READY_HOSTNAME = 4 };
enum exit_tag { EXIT_SESSION_LOST = 1 };

#endif
