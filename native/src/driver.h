/* The real driver: its functions, as the libraries export them.
 *
 * Promise: slice_real() and slice_real_nvml() give structs with one member per hooked or needed symbol, named like it:
 * `slice_real()->cuMemAlloc_v2(&ptr, bytes)`. Once bound a struct never changes and its libraries stay loaded. A symbol
 * that this driver lacks answers CUDA_ERROR_NOT_SUPPORTED (NVML: NVML_ERROR_FUNCTION_NOT_FOUND), so no member is NULL.
 * Locks: none, in any function here. Several threads may bind at once: all write the same values.
 * Before binding the members are NULL: a hook asks slice_ready() (state.h) first, which binds.
 */
#ifndef SLICE_DRIVER_H
#define SLICE_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "abi/cuda_abi.h"
#include "abi/nvml_abi.h"

/* What a program that was built with per-thread default streams asks for the other functions. */
extern CUresult cuGetProcAddress_ptsz(const char *symbol, void **address, int version, cuuint64_t flags);
extern CUresult cuGetProcAddress_v2_ptsz(const char *symbol, void **address, int version, cuuint64_t flags,
                                         CUdriverProcAddressQueryResult *status);

extern CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *graph);

/* All hooked symbols of libcuda, and those of libnvidia-ml; a name stands in one list only. */
struct slice_cuda {
#define X(symbol) __typeof__(symbol) *symbol;
#include "hooks_life.def"
#include "hooks_memory.def"
#include "hooks_launch.def"
#include "needs_cuda.def"
#undef X
};

struct slice_nvml {
        void *unused;   /* a struct needs a member while the lists are empty */
#define X(symbol) __typeof__(symbol) *symbol;
#include "hooks_nvml.def"
#include "needs_nvml.def"
#undef X
};

/* A hook's last words in its file, once for each name of its list: exports slice_<symbol> as <symbol>, and compares its
 * prototype with the ABI header's, here, where the compiler still can: the lookup table casts to a generic pointer. */
#define SLICE_HOOK(symbol)                                                                                   \
        _Static_assert(_Generic(&slice_##symbol, __typeof__(&(symbol)): 1, default: 0), "type of " #symbol); \
        extern __typeof__(symbol) symbol __attribute__((alias("slice_" #symbol), visibility("default")));

/* Finds libcuda among the loaded objects and fills the struct. 0, or -ENOENT while no libcuda is loaded. */
int slice_driver_bind(void);
/* The same for NVML; with `load` it is loaded when the program has not (truth check). 0, -ENOENT. */
int slice_driver_bind_nvml(bool load);

#endif
