/* The guest of tests/test_board_linux.py: an init that asks Linux's own drivers about every device of the board.
 *
 * It prints one line a question on the console, says READY on the port vpod.agent, and then obeys single letters
 * from there: E echoes, A sets the clock's alarm, G sends 16 MiB, P powers off, R reboots, C crashes the kernel.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char buffer[65536];

static const char *contents(const char *path)
{
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, buffer, 4095);
    close(fd);
    if (n < 0)
        return strerror(errno);
    buffer[n] = 0;
    buffer[strcspn(buffer, "\n")] = 0;
    return buffer;
}

static void load_modules(void)
{
    const char *order[] = {"virtio_mmio", "virtio-rng", "virtio_blk"};
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "/modules/%s.ko", order[i]);
        int fd = open(path, O_RDONLY);
        if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
            printf("module %s: %s\n", path, strerror(errno));
        close(fd);
    }
}

static void ask_disk(void)
{
    char sector[512];
    int fd = open("/dev/vda", O_RDWR);
    printf("disk %s sectors\n", contents("/sys/block/vda/size"));
    printf("serial %s\n", contents("/sys/block/vda/serial"));
    printf("first sector %.11s\n", read(fd, sector, 512) == 512 ? sector : "unread");
    memset(sector, 'w', 512);
    lseek(fd, 8192, SEEK_SET);
    ssize_t written = write(fd, sector, 512);
    printf("written %zd %d\n", written, fsync(fd));
    close(fd);
}

static void alarm_clock(int agent)
{
    int fd = open("/dev/rtc0", O_RDONLY);
    struct rtc_wkalrm alarm = {.enabled = 1};
    unsigned long event = 0;
    struct pollfd ready = {fd, POLLIN, 0};
    ioctl(fd, RTC_RD_TIME, &alarm.time);
    time_t then = timegm((struct tm *)&alarm.time) + 2;
    gmtime_r(&then, (struct tm *)&alarm.time);
    int set = ioctl(fd, RTC_WKALM_SET, &alarm);
    if (poll(&ready, 1, 10000) == 1)
        read(fd, &event, sizeof event);
    dprintf(agent, "ALARM %d %lx\n", set, event & 0xff);
    close(fd);
}

int main(void)
{
    mount("proc", "/proc", "proc", 0, 0);
    mount("sysfs", "/sys", "sysfs", 0, 0);
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
    setvbuf(stdout, 0, _IOLBF, 0);
    load_modules();
    for (int i = 0; i < 100 && access("/dev/vport0p1", F_OK); i++)
        usleep(20000);

    unsigned char random[16] = {0};
    int fd = open("/dev/hwrng", O_RDONLY);
    printf("hwrng %zd\n", read(fd, random, sizeof random));
    printf("port %s\n", contents("/sys/class/virtio-ports/vport0p1/name"));
    printf("clock %ld\n", (long)time(0));
    printf("rtc %s\n", contents("/sys/class/rtc/rtc0/name"));
    printf("rng %s\n", contents("/sys/class/misc/hw_random/rng_current"));
    ask_disk();
    fd = open("/dev/hvc0", O_RDWR | O_NOCTTY);
    dprintf(fd, "this is hvc0\n");

    int agent = open("/dev/vport0p1", O_RDWR);
    dprintf(agent, "READY\n");
    for (;;) {
        ssize_t n = read(agent, buffer, sizeof buffer);
        if (n <= 0) {
            usleep(100000);
            continue;
        }
        switch (buffer[0]) {
        case 'E':
            write(agent, buffer, n);
            break;
        case 'A':
            alarm_clock(agent);
            break;
        case 'G':
            memset(buffer, 'z', sizeof buffer);
            for (size_t left = 16 << 20; left;) {
                ssize_t sent = write(agent, buffer, left < sizeof buffer ? left : sizeof buffer);
                left -= sent > 0 ? sent : 0;
            }
            break;
        case 'P':
            reboot(RB_POWER_OFF);
            break;
        case 'R':
            reboot(RB_AUTOBOOT);
            break;
        case 'C':
            write(open("/proc/sysrq-trigger", O_WRONLY), "c", 1);
        }
    }
}
