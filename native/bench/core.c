/*
 * What accounting and the allocation map cost, without any driver. Prints "<what> <nanoseconds>" lines: the lowest mean of
 * several rounds. Takes a folder for its files (in memory, as the hub's are).
 *
 *   gpu_core <folder>
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "account.h"
#include "allocmap.h"

#define ROUNDS 15
#define CALLS 100000

static struct slice_settings settings = {
        .device_count = 1,
        .device = {{.uuid = "GPU-0", .hard_bytes = UINT64_C(1) << 34, .soft_bytes = UINT64_C(1) << 34, .cores_pct = 100, .weight = 1}},
        .make_region = true,
        .slice = "bench",
};
static uint64_t place;
static double best_start_ns = 1e18;   /* of a process that finds the region made, which is the common case */

static double now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void measure(const char *what, void (*call)(void))
{
        double best = 1e18;

        for (int round = 0; round < ROUNDS; round++) {
                double begun_ns = now_ns();

                for (int i = 0; i < CALLS; i++)
                        call();
                double each = (now_ns() - begun_ns) / CALLS;
                best = each < best ? each : best;
        }
        printf("%s %.1f\n", what, best);
}

static void charge_and_refund(void)
{
        if (slice_charge(0, 4096) == 0)
                slice_refund(0, 4096);
}

static void look(void)
{
        if (slice_used(0) > slice_limit(0))
                abort();
}

static void launch(void)
{
        slice_note_launch(0);
}

static void put_and_take(void)
{
        struct slice_block block = {.bytes = 4096};
        uint64_t address = (UINT64_C(0x7e) << 40) + (place++ % 1024 << 9);

        if (slice_map_put(SLICE_ADDRESS, address, &block, NULL) < 0 || !slice_map_take(SLICE_ADDRESS, address, &block))
                abort();
}

/* Another process of the slice, that holds a byte until we end. */
static void invite(void)
{
        int ready[2];
        double start_ns = 0;
        char done = 1;

        if (pipe(ready) < 0)
                abort();
        if (fork() == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                double begun_ns = now_ns();
                bool bad = slice_account_start(&settings) < 0;
                start_ns = now_ns() - begun_ns;
                done = (char)(bad || slice_charge(0, 1) < 0);
                if (write(ready[1], &start_ns, sizeof(start_ns)) != sizeof(start_ns))
                        _exit(1);
                if (write(ready[1], &done, 1) != 1)
                        _exit(1);
                for (;;)
                        pause();
        }
        if (read(ready[0], &start_ns, sizeof(start_ns)) != sizeof(start_ns) || read(ready[0], &done, 1) != 1 || done != 0)
                abort();
        best_start_ns = start_ns < best_start_ns ? start_ns : best_start_ns;
        close(ready[0]);
        close(ready[1]);
}

static void with_others(void)
{
        static const int crowds[] = {1, 16, 64, 256};
        char what[64];

        for (unsigned i = 0, present = 1; i < sizeof(crowds) / sizeof(crowds[0]); i++) {
                for (; (int)present < crowds[i]; present++)
                        invite();
                snprintf(what, sizeof(what), "charge-refund-%d-processes", crowds[i]);
                measure(what, charge_and_refund);
                snprintf(what, sizeof(what), "used-limit-%d-processes", crowds[i]);
                measure(what, look);
        }
}

static void with_blocks(void)
{
        static const uint64_t sizes[] = {1, 1000, 10000, 1000000};
        struct slice_block block = {.bytes = 4096};
        char what[64];

        for (uint64_t i = 0, blocks = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
                for (; blocks < sizes[i]; blocks++)
                        if (slice_map_put(SLICE_ADDRESS, (UINT64_C(0x7f) << 40) + (blocks << 21), &block, NULL) < 0)
                                abort();
                snprintf(what, sizeof(what), "map-%llu-blocks", (unsigned long long)sizes[i]);
                measure(what, put_and_take);
        }
}

int main(int argc, char **argv)
{
        if (argc != 2)
                return 2;
        snprintf(settings.region_path, sizeof(settings.region_path), "%s/region-of-the-bench", argv[1]);
        double begun_ns = now_ns();
        int bad = slice_account_start(&settings);
        printf("start-and-make %.1f\n", now_ns() - begun_ns);
        if (bad < 0 || slice_charge(0, 1) < 0)
                return 1;
        measure("note-launch", launch);
        with_others();
        printf("start %.1f\n", best_start_ns);
        unlink(settings.region_path);
        with_blocks();
        return 0;
}
