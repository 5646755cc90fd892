/*
 * What single calls cost, as the program that makes them sees it. Prints nanoseconds per call: the lowest of several rounds.
 *
 *   gpu_cost launch | query | nvml | init | exec | alloc <live blocks>
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

#define ROUNDS 15

extern char **environ;
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

static void execute(void)
{
        char *arguments[] = { "true", NULL };
        pid_t child;

        if (posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) != 0 || waitpid(child, NULL, 0) != child) {
                fprintf(stderr, "cannot start /bin/true\n");
                exit(1);
        }
}

/* The lowest mean of a round: what else the machine did is in the others. */
static double measure(void (*call)(void), unsigned calls)
{
        double best = 1e18;

        for (unsigned i = 0; i < calls / 10 + 1; i++)
                call();
        for (int round = 0; round < ROUNDS; round++) {
                uint64_t began_ns = bench_now_ns();
                for (unsigned i = 0; i < calls; i++)
                        call();
                double each = (double)(bench_now_ns() - began_ns) / calls;
                best = each < best ? each : best;
        }
        return best;
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
        if (strcmp(what, "exec") == 0)
                return measure(execute, 100);
        if (strcmp(what, "nvml") == 0) {
                open_nvml();
                return measure(query_nvml, 100000);
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
                return measure(launch, 100000);
        if (strcmp(what, "query") == 0)
                return measure(query, 100000);
        if (strcmp(what, "alloc") != 0)
                return -1;
        for (int i = 0; i < live; i++) {
                CUdeviceptr address;
                bench_must(bench_cuMemAlloc_v2(&address, 512), "cuMemAlloc");
        }
        return measure(allocate, 20000);
}

int main(int argc, char **argv)
{
        double ns = argc >= 2 ? cost_of(argv[1], argc > 2 ? atoi(argv[2]) : 0) : -1;

        if (ns < 0) {
                fprintf(stderr, "usage: gpu_cost launch | query | nvml | init | exec | alloc <live blocks>\n");
                return 2;
        }
        printf("%.2f\n", ns);
        return 0;
}
