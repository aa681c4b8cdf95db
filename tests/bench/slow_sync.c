/* A disk whose flush takes a millisecond, and nothing else: preloaded into PostgreSQL by test_writers.py. */
#include <time.h>

static int flush(void)
{
    struct timespec left = {0, 1000000};

    while (nanosleep(&left, &left) != 0)
        ;
    return 0;
}

int fsync(int descriptor)
{
    (void)descriptor;
    return flush();
}

int fdatasync(int descriptor)
{
    (void)descriptor;
    return flush();
}
