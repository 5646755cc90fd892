/*
 * What single calls cost, as the program that makes them sees it. Prints nanoseconds per call: the lowest of many short
 * rounds, since a round that fits between two turns of other programs is not theirs.
 *
 *   gpu_cost launch | query | nvml | init | alloc <live blocks>
 *   gpu_cost exec <library> <pairs>  two numbers: a program without CUDA, bare and with the library preloaded
 *   gpu_cost hold                    say "ready", and hold a block of memory until it is killed
 */
#include <dlfcn.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"

#define CALLS 1000000u                           /* of each kind, in rounds of so many: */
#define SHORT_ROUND 2000u
#define LONG_ROUND 20000u                        /* the limiter's work comes with every 64th launch: this many are of one kind */

static CUfunction kernel;
static __typeof__(nvmlDeviceGetMemoryInfo) *memory_info;
static nvmlDevice_t nvml_device;

static void launch(void)
{
        bench_cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL);
}

static void query(void)
{
        size_t used, total;

        bench_cuMemGetInfo_v2(&used, &total);
}

static void query_nvml(void)
{
        nvmlMemory_t memory;

        memory_info(nvml_device, &memory);
}

static void allocate(void)
{
        CUdeviceptr address;

        bench_must(bench_cuMemAlloc_v2(&address, 4096), "cuMemAlloc");
        bench_must(bench_cuMemFree_v2(address), "cuMemFree");
}

/* The lowest mean of a round: what else the machine did is in the others. */
static double measure(void (*call)(void), unsigned calls)
{
        double best = 1e18;

        for (unsigned i = 0; i < calls; i++)
                call();
        for (unsigned round = 0; round < CALLS / calls; round++) {
                uint64_t began_ns = bench_now_ns();
                for (unsigned i = 0; i < calls; i++)
                        call();
                double each = (double)(bench_now_ns() - began_ns) / calls;
                best = each < best ? each : best;
        }
        return best;
}

static uint64_t execute(char **with)
{
        char *arguments[] = { "true", NULL };
        uint64_t began_ns = bench_now_ns();
        pid_t child;

        if (posix_spawn(&child, "/bin/true", NULL, NULL, arguments, with) != 0 || waitpid(child, NULL, 0) != child) {
                fprintf(stderr, "cannot start /bin/true\n");
                exit(1);
        }
        return bench_now_ns() - began_ns;
}

static int by_size(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

/* By turns, and each of the two as often first: what else the machine does falls on both. Of each, what a twentieth was
 * quicker than: the quickest is chance, and the rest is what was disturbed. */
static int compare_execs(const char *library, size_t pairs)
{
        char preload[4200], *bare[] = { "LD_LIBRARY_PATH=", NULL }, *ours[] = { preload, NULL };
        uint64_t *times[2] = { calloc(pairs, sizeof(uint64_t)), calloc(pairs, sizeof(uint64_t)) };

        if (!times[0] || !times[1] || pairs == 0)
                return 1;
        snprintf(preload, sizeof(preload), "LD_PRELOAD=%s", library);
        for (size_t i = 0; i < 2 * pairs; i++) {
                size_t which = (i + i / 2) % 2;
                times[which][i / 2] = execute(which ? ours : bare);
        }
        for (int which = 0; which < 2; which++) {
                qsort(times[which], pairs, sizeof(uint64_t), by_size);
                printf("%.2f%s", (double)times[which][pairs / 20], which ? "\n" : " ");
                free(times[which]);
        }
        return 0;
}

static void open_nvml(void)
{
        void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_GLOBAL);
        __typeof__(nvmlInit_v2) *init = NULL;
        __typeof__(nvmlDeviceGetHandleByIndex_v2) *handle = NULL;

        if (library) {
                *(void **)&init = dlsym(library, "nvmlInit_v2");
                *(void **)&handle = dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
                *(void **)&memory_info = dlsym(library, "nvmlDeviceGetMemoryInfo");
        }
        if (!init || !handle || !memory_info || init() != NVML_SUCCESS || handle(0, &nvml_device) != NVML_SUCCESS) {
                fprintf(stderr, "no NVML here\n");
                exit(2);
        }
}

static double cost_of_init(void)
{
        uint64_t began_ns = bench_now_ns();

        bench_must(bench_cuInit(0), "cuInit");
        return (double)(bench_now_ns() - began_ns);
}

static double cost_of(const char *what, int live)
{
        if (strcmp(what, "nvml") == 0) {
                open_nvml();
                return measure(query_nvml, SHORT_ROUND);
        }
        bench_open();
        if (strcmp(what, "init") == 0)
                return cost_of_init();
        bench_context();
        kernel = bench_kernel(0);
        if (strcmp(what, "hold") == 0) {
                CUdeviceptr address;
                bench_must(bench_cuMemAlloc_v2(&address, 4096), "cuMemAlloc");
                printf("ready\n");
                fflush(stdout);
                pause();
        }
        if (strcmp(what, "launch") == 0)
                return measure(launch, LONG_ROUND);
        if (strcmp(what, "query") == 0)
                return measure(query, SHORT_ROUND);
        if (strcmp(what, "alloc") != 0)
                return -1;
        for (int i = 0; i < live; i++) {
                CUdeviceptr address;
                bench_must(bench_cuMemAlloc_v2(&address, 512), "cuMemAlloc");
        }
        return measure(allocate, SHORT_ROUND);
}

int main(int argc, char **argv)
{
        if (argc == 4 && strcmp(argv[1], "exec") == 0)
                return compare_execs(argv[2], (size_t)atoi(argv[3]));
        double ns = argc >= 2 ? cost_of(argv[1], argc > 2 ? atoi(argv[2]) : 0) : -1;

        if (ns < 0) {
                fprintf(stderr, "usage: gpu_cost launch | query | nvml | init | alloc <live blocks> | exec <library> <pairs>\n");
                return 2;
        }
        printf("%.2f\n", ns);
        return 0;
}
