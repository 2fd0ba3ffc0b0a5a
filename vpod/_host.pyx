"""The host's kernel, asked for what Python's `os` doesn't offer.

Each function is one call or a few, says what it needs, and raises OSError with the kernel's number. On a host that has no such call
the function raises OSError with ENOSYS, and the constant that belongs to it is False.
"""

from libc.errno cimport errno

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #ifdef __linux__
    #include <sched.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define VPOD_SIBLINGS 1
    /* Flags, and nothing else: no new stack, so the child goes on where it stands, as after a fork. */
    static long vpod_clone_sibling(void) { return syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0L, 0L, 0L, 0L); }
    #else
    #define VPOD_SIBLINGS 0
    static long vpod_clone_sibling(void) { errno = ENOSYS; return -1; }
    #endif
    """
    const bint SIBLINGS "VPOD_SIBLINGS"
    long kernel_clone_sibling "vpod_clone_sibling"() nogil

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
