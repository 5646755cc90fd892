/* The driver as a program meets it: opened by name, functions by dlsym. Preloaded libraries stand where they would. */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

#include <stdint.h>

#include "abi/cuda_abi.h"
#include "abi/nvml_abi.h"

#define BENCH_CUDA(X)                                                                                                  \
        X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize)                    \
        X(cuModuleLoadData) X(cuModuleGetFunction) X(cuLaunchKernel) X(cuLaunchCooperativeKernel) X(cuMemAlloc_v2)     \
        X(cuMemFree_v2) X(cuMemGetInfo_v2) X(cuStreamCreate) X(cuStreamSynchronize) X(cuStreamBeginCapture_v2)         \
        X(cuStreamEndCapture) X(cuGraphInstantiateWithFlags) X(cuGraphLaunch)

#define X(symbol) extern __typeof__(symbol) *bench_##symbol;
BENCH_CUDA(X)
#undef X

/* Finds all of them, or ends the program with a line and exit status 2. */
void bench_open(void);
/* A context on the first card, current. */
void bench_context(void);
/* A function that takes so long on the pretend card. */
CUfunction bench_kernel(double us);
/* Ends the program with a line and exit status 1 unless it is CUDA_SUCCESS. */
void bench_must(CUresult result, const char *what);
uint64_t bench_now_ns(void);

#endif
