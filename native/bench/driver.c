#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define X(symbol) __typeof__(symbol) *bench_##symbol;
BENCH_CUDA(X)
#undef X

static void *found(void *library, const char *name)
{
        void *address = dlsym(library, name);

        if (!address) {
                fprintf(stderr, "no %s here\n", name);
                exit(2);
        }
        return address;
}

void bench_open(void)
{
        void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);

        if (!library) {
                fprintf(stderr, "%s\n", dlerror());
                exit(2);
        }
#define X(symbol) *(void **)&bench_##symbol = found(library, #symbol);
        BENCH_CUDA(X)
#undef X
}

void bench_must(CUresult result, const char *what)
{
        if (result == CUDA_SUCCESS)
                return;
        fprintf(stderr, "%s: error %d\n", what, (int)result);
        exit(1);
}

void bench_context(void)
{
        CUdevice device;
        CUcontext context;

        bench_must(bench_cuInit(0), "cuInit");
        bench_must(bench_cuDeviceGet(&device, 0), "cuDeviceGet");
        bench_must(bench_cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
        bench_must(bench_cuCtxSetCurrent(context), "cuCtxSetCurrent");
}

CUfunction bench_kernel(double us)
{
        static CUmodule module;
        CUfunction function;
        char name[32];

        if (!module)
                bench_must(bench_cuModuleLoadData(&module, "an image"), "cuModuleLoadData");
        snprintf(name, sizeof(name), us > 0 ? "ns_%.0f" : "nop", us * 1000);
        bench_must(bench_cuModuleGetFunction(&function, module, name), name);
        return function;
}

uint64_t bench_now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}
