/* The wall clock of one process, moved by the seconds in the file that TEST_CLOCK names, while it runs. Preloaded, it
 * stands before libc. The monotonic clock is left alone.
 *
 * It also waits as the kernel does: a wait for a moment of the wall clock ends when that clock gets there, so that one
 * which was under way when the clock was put back lasts longer. librdkafka waits so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t nothing, *offset = &nothing;
static int (*wait_until)(cnd_t *, mtx_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    wait_until = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    const char *name = getenv("TEST_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *seconds = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (wait_until == NULL || seconds == MAP_FAILED) {
        static const char text[] = "TEST_CLOCK: the clock can't be moved\n";
        (void)!write(2, text, sizeof text - 1);
        abort();
    }
    offset = seconds;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &time) != 0) return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now) *now = time.tv_sec;
    return time.tv_sec;
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *end) {
    for (;;) {
        struct timespec now, slice;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t left = (end->tv_sec - now.tv_sec) * 1000000000 + end->tv_nsec - now.tv_nsec;
        if (left <= 0) return thrd_timedout;
        /* In short pieces of the true clock, since the moved one may be moved again meanwhile. */
        if (left > 50000000) left = 50000000;
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &slice);
        slice.tv_nsec += left;
        slice.tv_sec += slice.tv_nsec / 1000000000;
        slice.tv_nsec %= 1000000000;
        int result = wait_until(condition, mutex, &slice);
        if (result != thrd_timedout) return result;
    }
}
