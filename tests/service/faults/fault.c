/* Makes writes or syncs of the files of the log and of subscriptions fail while the file named by FAULT_TRIGGER exists. Its
 * content says what fails: "sync" (fsync, fdatasync: EIO), "full" (writes: ENOSPC), "write" (writes: EIO) or
 * "lie" (writes that say they succeeded and did nothing). Sockets and other files are left alone.
 *
 * FAULT_AT says the same of one call, counted from the start of the process over all files of the data directory, such as
 * "sync 17"; "torn 17" writes half of what the 17th write is to write and kills the process. The file named by
 * FAULT_HAPPENED is made when it has happened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* Whether this call of this kind is the one that fails. */
static int is_the_one(const char *what, int fd, atomic_int *calls) {
    const char *at = getenv("FAULT_AT"), *happened = getenv("FAULT_HAPPENED");
    char path[4096];
    size_t length = strlen(what);
    if (!at || strncmp(at, what, length) != 0 || at[length] != ' ') return 0;
    if (!path_of(fd, path, sizeof path) || !strstr(path, "/data/")) return 0;
    if (atomic_fetch_add(calls, 1) + 1 != atoi(at + length)) return 0;
    int file = open(happened, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (file >= 0) close(file);
    return 1;
}

static int fails(const char *what, int fd) {
    const char *trigger = getenv("FAULT_TRIGGER");
    char content[16] = "", path[4096];
    if (!trigger) return 0;
    int file = open(trigger, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t length = read(file, content, sizeof content - 1);
    close(file);
    if (length <= 0 || strcmp(content, what) != 0) return 0;
    if (!path_of(fd, path, sizeof path)) return 0;
    return strstr(path, "/log.db") != NULL || strstr(path, "/subscriptions.db") != NULL;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_int syncs, full_writes, failed_writes, torn_writes;

static int write_fails(int fd) {
    if (fails("full", fd) || is_the_one("full", fd, &full_writes)) { errno = ENOSPC; return 1; }
    if (fails("write", fd) || is_the_one("write", fd, &failed_writes)) { errno = EIO; return 1; }
    return 0;
}

static int sync_fails(int fd) {
    if (!fails("sync", fd) && !is_the_one("sync", fd, &syncs)) return 0;
    errno = EIO;
    return 1;
}

int fsync(int fd) {
    return sync_fails(fd) ? -1 : NEXT(fsync)(fd);
}

int fdatasync(int fd) {
    return sync_fails(fd) ? -1 : NEXT(fdatasync)(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (fails("lie", fd)) return count;
    if (is_the_one("torn", fd, &torn_writes)) {
        NEXT(write)(fd, bytes, count / 2);
        kill(getpid(), SIGKILL);
    }
    return write_fails(fd) ? -1 : NEXT(write)(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    if (fails("lie", fd)) return count;
    if (is_the_one("torn", fd, &torn_writes)) {
        NEXT(pwrite)(fd, bytes, count / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return write_fails(fd) ? -1 : NEXT(pwrite)(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    if (fails("lie", fd)) return count;
    if (is_the_one("torn", fd, &torn_writes)) {
        NEXT(pwrite64)(fd, bytes, count / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return write_fails(fd) ? -1 : NEXT(pwrite64)(fd, bytes, count, offset);
}
