/* Makes writes or syncs of the files of the log and of subscriptions fail while the file named by FAULT_TRIGGER exists. Its
 * content says what fails: "sync" (fsync, fdatasync: EIO), "full" (writes: ENOSPC), "write" (writes: EIO) or
 * "lie" (writes that say they succeeded and did nothing). Sockets and other files are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(const char *what, int fd) {
    const char *trigger = getenv("FAULT_TRIGGER");
    char content[16] = "", link[64], path[4096];
    if (!trigger) return 0;
    int file = open(trigger, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t length = read(file, content, sizeof content - 1);
    close(file);
    if (length <= 0 || strcmp(content, what) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/log.db") != NULL || strstr(path, "/subscriptions.db") != NULL;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int write_fails(int fd) {
    if (fails("full", fd)) { errno = ENOSPC; return 1; }
    if (fails("write", fd)) { errno = EIO; return 1; }
    return 0;
}

int fsync(int fd) {
    if (fails("sync", fd)) { errno = EIO; return -1; }
    return NEXT(fsync)(fd);
}

int fdatasync(int fd) {
    if (fails("sync", fd)) { errno = EIO; return -1; }
    return NEXT(fdatasync)(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (fails("lie", fd)) return count;
    return write_fails(fd) ? -1 : NEXT(write)(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    if (fails("lie", fd)) return count;
    return write_fails(fd) ? -1 : NEXT(pwrite)(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    if (fails("lie", fd)) return count;
    return write_fails(fd) ? -1 : NEXT(pwrite64)(fd, bytes, count, offset);
}
