/*
 * launch: the hooks of everything that starts work on a device or waits for it.
 *
 * Promise: arguments, order and answers are the driver's; where no core limit holds a launch costs one predicted branch and a
 * count. Locks held: none.
 */
#include "limiter.h"
#include "memory.h"

#include <limits.h>

/* A launch hook: `symbol` with its parameters and arguments, the stream among them, how it is measured. */
#define LAUNCH(symbol, params, args, stream, per_thread, kind)                          \
        static __attribute__((noinline)) CUresult asking_##symbol params                \
        {                                                                               \
                struct slice_launch launch;                                             \
                                                                                        \
                if (!slice_ready()) {                                                   \
                        slice_launch_free = slice_mode() == SLICE_PASS ? UINT_MAX : 0;  \
                        return SLICE_WITHOUT_LIMITS(symbol, args);                      \
                }                                                                       \
                slice_launch_begin(&launch, stream, per_thread, kind);                  \
                CUresult r = slice_real()->symbol args;                                 \
                slice_launch_end(&launch, r);                                           \
                return r;                                                               \
        }                                                                               \
                                                                                        \
        /* One call, in tail position and with our own arguments: compiled to a jump. */     \
        static CUresult slice_##symbol params                                           \
        {                                                                               \
                __typeof__(symbol) *next = asking_##symbol;                             \
                                                                                        \
                if (__builtin_expect(slice_launch_is_free(), 1))                        \
                        next = slice_real()->symbol;                                    \
                return next args;                                                       \
        }

static enum slice_launch_kind kind_of(const CUlaunchConfig *config)
{
        for (unsigned i = 0; config && config->attrs && i < config->numAttrs; i++)
                if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && config->attrs[i].value.cooperative)
                        return SLICE_LAUNCH_ALONE;
        return SLICE_LAUNCH_KERNEL;
}

static CUstream stream_of(const CUlaunchConfig *config)
{
        return config ? config->hStream : NULL;
}

#define GRID unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared

#define KERNEL(symbol, per_thread)                                                                                       \
        LAUNCH(symbol, (CUfunction function, GRID, CUstream stream, void **parameters, void **extra),                    \
               (function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra), stream, per_thread,                \
               SLICE_LAUNCH_KERNEL)
#define KERNEL_EX(symbol, per_thread)                                                                                    \
        LAUNCH(symbol, (const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra),             \
               (config, function, parameters, extra), stream_of(config), per_thread, kind_of(config))
#define COOPERATIVE(symbol, per_thread)                                                                                  \
        LAUNCH(symbol, (CUfunction function, GRID, CUstream stream, void **parameters),                                  \
               (function, gx, gy, gz, bx, by, bz, shared, stream, parameters), stream, per_thread, SLICE_LAUNCH_ALONE)
/* A graph may own memory, which its first launch takes: charged around it (memory.h; a load where no graph has any). */
#define GRAPH(symbol, per_thread)                                                                                        \
        static CUresult slice_##symbol(CUgraphExec exec, CUstream stream)                                                \
        {                                                                                                                \
                struct slice_graph_memory memory;                                                                        \
                struct slice_launch launch;                                                                              \
                                                                                                                         \
                if (!slice_ready())                                                                                      \
                        return SLICE_WITHOUT_LIMITS(symbol, (exec, stream));                                             \
                if (slice_graph_memory_begin(exec, &memory, #symbol) < 0)                                                \
                        return CUDA_ERROR_OUT_OF_MEMORY;                                                                 \
                bool is_free = slice_launch_is_free();                                                                   \
                if (!is_free)                                                                                            \
                        slice_launch_begin(&launch, stream, per_thread, SLICE_LAUNCH_ALONE);                             \
                CUresult r = slice_real()->symbol(exec, stream);                                                         \
                if (!is_free)                                                                                            \
                        slice_launch_end(&launch, r);                                                                    \
                slice_graph_memory_end(&memory, r);                                                                      \
                return r;                                                                                                \
        }

KERNEL(cuLaunchKernel, false)
KERNEL(cuLaunchKernel_ptsz, true)
KERNEL_EX(cuLaunchKernelEx, false)
KERNEL_EX(cuLaunchKernelEx_ptsz, true)
COOPERATIVE(cuLaunchCooperativeKernel, false)
COOPERATIVE(cuLaunchCooperativeKernel_ptsz, true)
GRAPH(cuGraphLaunch, false)
GRAPH(cuGraphLaunch_ptsz, true)
LAUNCH(cuLaunch, (CUfunction function), (function), NULL, false, SLICE_LAUNCH_KERNEL)
LAUNCH(cuLaunchGrid, (CUfunction function, int width, int height), (function, width, height), NULL, false,
       SLICE_LAUNCH_KERNEL)
LAUNCH(cuLaunchGridAsync, (CUfunction function, int width, int height, CUstream stream),
       (function, width, height, stream), stream, false, SLICE_LAUNCH_KERNEL)
/* One launch on several devices (gone in CUDA 13): measured on the current one, as a batch of its own. */
LAUNCH(cuLaunchCooperativeKernelMultiDevice, (CUDA_LAUNCH_PARAMS *list, unsigned int count, unsigned int flags),
       (list, count, flags), count && list ? list[0].hStream : NULL, false, SLICE_LAUNCH_ALONE)

/* A hook that waits for what was launched. */
#define SYNCHRONISE(symbol, params, args)                                        \
        static CUresult slice_##symbol params                                    \
        {                                                                        \
                if (!slice_ready())                                              \
                        return SLICE_WITHOUT_LIMITS(symbol, args);               \
                slice_limiter_sync_begin();                                      \
                CUresult r = slice_real()->symbol args;                          \
                slice_limiter_sync_end();                                        \
                slice_memory_settle(); /* pools shrink here */                   \
                return r;                                                        \
        }

SYNCHRONISE(cuStreamSynchronize, (CUstream stream), (stream))
SYNCHRONISE(cuStreamSynchronize_ptsz, (CUstream stream), (stream))
SYNCHRONISE(cuCtxSynchronize, (void), ())
SYNCHRONISE(cuEventSynchronize, (CUevent event), (event))

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_launch.def"
#undef X
