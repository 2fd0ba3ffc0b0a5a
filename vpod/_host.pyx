"""The host's kernel, asked for what Python's `os` doesn't offer.

Each function is one call or a few, says what it needs, and raises OSError with the kernel's number. On a host that has no such call
the function raises OSError with ENOSYS, and the constant that belongs to it is False.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #ifdef __linux__
    #include <linux/capability.h>
    #include <linux/filter.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define VPOD_SIBLINGS 1
    /* Flags, and nothing else: no new stack, so the child goes on where it stands, as after a fork. */
    static long vpod_clone_sibling(void) { return syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0L, 0L, 0L, 0L); }

    /* Numbers that are the same on every processor; older headers don't name them. */
    #define VPOD_LANDLOCK_CREATE 444
    #define VPOD_LANDLOCK_RESTRICT 446
    static long vpod_landlock_version(void) { return syscall(VPOD_LANDLOCK_CREATE, 0L, 0L, 1L); }
    static long vpod_landlock(unsigned long long files, unsigned long long sockets, unsigned long long scopes) {
        unsigned long long rules[3];                     /* struct landlock_ruleset_attr, as far as the kernel's version has it */
        size_t size = scopes ? 24 : sockets ? 16 : 8;
        long fd, done;
        int error;
        rules[0] = files; rules[1] = sockets; rules[2] = scopes;
        fd = syscall(VPOD_LANDLOCK_CREATE, rules, size, 0L);
        if (fd < 0) return -1;
        done = syscall(VPOD_LANDLOCK_RESTRICT, fd, 0L);
        error = errno;
        close((int)fd);
        errno = error;
        return done;
    }
    static long vpod_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L); }
    static long vpod_drop_capabilities(void) {
        struct __user_cap_header_struct header;
        struct __user_cap_data_struct none[2];
        memset(&header, 0, sizeof header);
        memset(none, 0, sizeof none);
        header.version = _LINUX_CAPABILITY_VERSION_3;
        return syscall(SYS_capset, &header, none);       /* ambient ones go with the permitted */
    }
    static long vpod_filter(const unsigned char *program, unsigned short length) {
        struct sock_fprog given;
        given.len = length;
        given.filter = (struct sock_filter *)program;    /* the kernel copies it */
        return syscall(SYS_seccomp, 1L /* SECCOMP_SET_MODE_FILTER */, 0L, &given);
    }
    static long vpod_can_filter(void) {
        unsigned int kill = 0x80000000u;                 /* SECCOMP_RET_KILL_PROCESS */
        return syscall(SYS_seccomp, 2L /* SECCOMP_GET_ACTION_AVAIL */, 0L, &kill);
    }
    #else
    #define VPOD_SIBLINGS 0
    static long vpod_absent(void) { errno = ENOSYS; return -1; }
    #define vpod_clone_sibling() vpod_absent()
    #define vpod_landlock_version() vpod_absent()
    #define vpod_landlock(files, sockets, scopes) vpod_absent()
    #define vpod_no_new_privileges() vpod_absent()
    #define vpod_drop_capabilities() vpod_absent()
    #define vpod_filter(program, length) vpod_absent()
    #define vpod_can_filter() vpod_absent()
    #endif
    """
    const bint SIBLINGS "VPOD_SIBLINGS"
    long kernel_clone_sibling "vpod_clone_sibling"() nogil
    long kernel_landlock_version "vpod_landlock_version"() nogil
    long kernel_landlock "vpod_landlock"(uint64_t files, uint64_t sockets, uint64_t scopes) nogil
    long kernel_no_new_privileges "vpod_no_new_privileges"() nogil
    long kernel_drop_capabilities "vpod_drop_capabilities"() nogil
    long kernel_can_filter "vpod_can_filter"() nogil
    long kernel_filter "vpod_filter"(const uint8_t* program, unsigned short length) nogil

cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()

CAN_CLONE_SIBLINGS = bool(SIBLINGS)


def clone_sibling():
    """Fork this process into a child of its *parent*, who then waits for it: 0 in the child, else its process id.

    For processes with one thread. `os.fork` but for that: Python's own handlers run. OSError (EAGAIN, ENOMEM, EPERM) if there is none.
    """
    cdef long pid
    cdef int error
    PyOS_BeforeFork()
    pid = kernel_clone_sibling()
    error = errno
    if pid == 0:
        PyOS_AfterFork_Child()
    else:
        PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, "no process could be forked")
    return pid


def landlock_version():
    """The version of Landlock that the kernel offers; 0 where there is none."""
    cdef long version = kernel_landlock_version()
    return version if version > 0 else 0


def restrict_files(uint64_t files, uint64_t sockets, uint64_t scopes):
    """Take from this process every right to files (a mask of LANDLOCK_ACCESS_FS), TCP ports and, by scope, signals and abstract sockets
    that the masks name. OSError; needs `no_new_privileges` before."""
    if kernel_landlock(files, sockets, scopes) < 0:
        raise OSError(errno, "Landlock refused the rules")


def no_new_privileges():
    """No program that this process or a child of it executes gains any. OSError."""
    if kernel_no_new_privileges() < 0:
        raise OSError(errno, "no_new_privs could not be set")


def drop_capabilities():
    """Empty all sets of capabilities. OSError."""
    if kernel_drop_capabilities() < 0:
        raise OSError(errno, "capabilities could not be dropped")


def can_filter_calls():
    """Whether this kernel, and whoever confined this process already, offers seccomp filters that kill."""
    return kernel_can_filter() == 0


def filter_calls(const uint8_t[::1] program):
    """Install a seccomp program, 8 bytes an instruction (`struct sock_filter`). OSError; needs `no_new_privileges` before."""
    if program.shape[0] % 8 or not 0 < program.shape[0] <= 8 * 4096:
        raise ValueError(f"a seccomp program of {program.shape[0]} bytes")
    if kernel_filter(&program[0], <unsigned short>(program.shape[0] >> 3)) < 0:
        raise OSError(errno, "the seccomp filter was refused")
