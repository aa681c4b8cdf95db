/* What the load, the publisher and the bench share: one clock, and a mapped file, the board.

   On the board the load writes how many events every connection has by now, so that the publisher stays at most a
   window ahead of the slowest; and, where a payload can not hold it, the publisher writes when each event left. */

#ifndef BOARD_H
#define BOARD_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STAMPS_AT 64 /* bytes from the file's beginning */

struct board {
    _Atomic uint32_t received; /* by every connection; a futex */
    _Atomic uint32_t sent;     /* by the publisher; it has ended when this is all */
};

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static inline uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static inline uint64_t cpu_us(void) { return clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000; }

/* The board, and in `stamps` when each event left, or NULL when the file has no room for that. */
static inline struct board *open_board(const char *path, uint64_t **stamps) {
    struct stat about;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) < 0) die(path);
    void *at = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) die(path);
    close(file);
    if (stamps) *stamps = about.st_size > STAMPS_AT ? (uint64_t *)((char *)at + STAMPS_AT) : NULL;
    return at;
}

static inline void tell(struct board *board, uint32_t received) {
    atomic_store(&board->received, received);
    syscall(SYS_futex, &board->received, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Until the board says something else than `seen`, or for a fifth of a second. */
static inline void await_change(struct board *board, uint32_t seen) {
    struct timespec limit = {0, 200000000};
    syscall(SYS_futex, &board->received, FUTEX_WAIT, seen, &limit, NULL, 0);
}

#endif
