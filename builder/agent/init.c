/* PID 1: makes the guest a place to work in, starts the agent, buries orphans, and turns the machine off.
 *
 * Why it exists: the guest's whole root file system is an initramfs; there is no other init in it.
 * Order: file systems, console, modules of /etc/vpod/modules (the console port's driver may be one of them), host name,
 * loopback, a limit on the number of tasks, agent. An agent that dies is started again. busybox's `poweroff`, `halt`
 * and `reboot` tell PID 1 by SIGUSR2, SIGUSR1 and SIGTERM; a halt is a power-off here, since nobody could ever wake the
 * machine again.
 * Invariant: it says nothing unless something is wrong; no step that fails stops the ones after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static void complain(const char *what) { dprintf(2, "vpod-init: %s: %s\n", what, strerror(errno)); }

static void mount_one(const char *type, const char *path, unsigned long flags, const char *options) {
    mkdir(path, 0755);
    if (mount(type, path, type, flags, options) < 0 && errno != EBUSY) complain(path);
}

static void mount_all(void) {
    const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mount_one("proc", "/proc", plain, NULL);
    mount_one("sysfs", "/sys", plain, NULL);
    mount_one("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
    mount_one("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666");
    mount_one("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    mount_one("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
    mount_one("cgroup2", "/sys/fs/cgroup", plain, NULL);
    mkdir("/tmp", 01777);
    chmod("/tmp", 01777);
    mkdir("/run/lock", 01777);
    chmod("/run/lock", 01777);
    const char *links[][2] = {{"/proc/self/fd", "/dev/fd"},         {"/proc/self/fd/0", "/dev/stdin"},
                              {"/proc/self/fd/1", "/dev/stdout"},   {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST) complain(links[i][1]);
}

/* The kernel opens /dev/console for PID 1 only if the initramfs holds that node. */
static void open_console(void) {
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0) fd = open("/dev/null", O_RDWR);
    for (int number = 0; number < 3; number++)
        if (fd >= 0 && fcntl(number, F_GETFD) < 0) dup2(fd, number);
    if (fd > 2) close(fd);
}

static void load_module(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        complain(path);
        return;
    }
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST) complain(path);
    close(fd);
}

static void load_modules(void) {
    char line[512];
    FILE *list = fopen("/etc/vpod/modules", "re");
    if (list == NULL) return; /* everything is built in */
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, " \t\r\n")] = 0;
        if (line[0] == '/') load_module(line);
    }
    fclose(list);
}

static void set_host_name(void) {
    char name[65] = "";
    if (read_file("/etc/hostname", name, sizeof name) > 0) name[strcspn(name, " \t\r\n")] = 0;
    if (name[0] == 0) strcpy(name, "vpod");
    if (sethostname(name, strlen(name)) < 0) complain("hostname");
}

/* Linux gives `lo` its addresses when it comes up. */
static void raise_loopback(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0) complain("loopback");
    if (fd >= 0) close(fd);
}

/* The kernel allows as many tasks as their stacks fit into an eighth of memory; a fork bomb's processes need ten times
 * that and would choke the machine before the limit. A task for each 256 KiB leaves the agent room to end them. */
static void limit_tasks(void) {
    struct sysinfo info;
    FILE *limit = fopen("/proc/sys/kernel/threads-max", "we");
    if (limit == NULL || sysinfo(&info) < 0) {
        complain("threads-max");
        return;
    }
    unsigned long most = (unsigned long)((uint64_t)info.totalram * info.mem_unit >> 18);
    fprintf(limit, "%lu\n", most < 256 ? 256 : most);
    fclose(limit);
}

static pid_t start_agent(void) {
    pid_t pid;
    struct timespec moment = {0, 100000000};
    while ((pid = fork()) < 0) { /* nothing else can end what has taken all processes */
        complain("fork");
        kill(-1, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) continue;
        nanosleep(&moment, NULL);
    }
    if (pid != 0) return pid;
    child_reset();
    setsid();
    execl("/sbin/vpod-agent", "vpod-agent", "--machine", (char *)NULL);
    execl("/proc/self/exe", "vpod-agent", "--machine", (char *)NULL);
    complain("/sbin/vpod-agent");
    _exit(127);
}

static _Noreturn void stop_machine(int how) {
    struct timespec moment = {0, 100000000};
    kill(-1, SIGTERM);
    for (int turn = 0; turn < 10 && (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD); turn++)
        nanosleep(&moment, NULL);
    kill(-1, SIGKILL);
    sync();
    reboot(how);
    complain("reboot");
    for (;;) pause();
}

int init_main(void) {
    sigset_t signals;
    sigfillset(&signals);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    setsid();
    umask(022);
    mount_all();
    open_console();
    reboot(RB_DISABLE_CAD);
    load_modules();
    set_host_name();
    raise_loopback();
    limit_tasks();
    setenv("PATH", session_path, 1);
    pid_t agent = start_agent();
    for (;;) {
        int number = sigwaitinfo(&signals, NULL);
        if (number == SIGUSR1 || number == SIGUSR2 || number == SIGPWR) stop_machine(RB_POWER_OFF);
        if (number == SIGTERM || number == SIGINT) stop_machine(RB_AUTOBOOT);
        if (number != SIGCHLD) continue;
        pid_t pid;
        int status;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
            if (pid != agent) continue;
            dprintf(2, "vpod-init: the agent ended (status 0x%x), starting it again\n", status);
            struct timespec moment = {0, 100000000};
            nanosleep(&moment, NULL);
            agent = start_agent();
        }
    }
}
