/* Launches: a kernel is its device time at the end of its stream. */
#include "driver.h"

enum { QUEUE = 1024 };

/* A card's queue is bounded: the launch that finds QUEUE kernels waiting waits itself, as with a real driver. */
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
        uint64_t end[QUEUE];
        uint32_t next;
} queue[STUB_DEVICES];

static void wait_for_room(uint32_t device, uint64_t end)
{
        uint64_t oldest;

        pthread_mutex_lock(&queue_lock);
        oldest = queue[device].end[queue[device].next % QUEUE];
        queue[device].end[queue[device].next++ % QUEUE] = end;
        pthread_mutex_unlock(&queue_lock);
        if (oldest > atomic_load_explicit(&stub_state->slot[stub_own_slot].use[device].done, memory_order_acquire))
                stub_wait(device, oldest);
}

static CUresult launch(CUfunction function, const unsigned int *grid, const unsigned int *block, CUstream stream,
                       unsigned int cooperative)
{
        struct CUstream_st *s;
        uint64_t end;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!grid[0] || !grid[1] || !grid[2] || !block[0] || !block[1] || !block[2] ||
            (uint64_t)block[0] * block[1] * block[2] > 1024)
                return CUDA_ERROR_INVALID_VALUE;
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_capturing(s))
                return stub_capture_kernel(s, function, cooperative);
        if (cooperative && (uint64_t)grid[0] * grid[1] * grid[2] > UINT64_C(128) * 24)
                return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
        end = stub_queue(s, function->ns);
        if (function->ns)
                wait_for_room(s->ctx->device, end);
        return CUDA_SUCCESS;
}

CUresult impl_cuLaunchKernel(CUfunction function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                             unsigned int by, unsigned int bz, unsigned int shared, CUstream stream, void **params,
                             void **extra)
{
        (void)shared;
        (void)params;
        (void)extra;
        return launch(function, (unsigned int[3]){gx, gy, gz}, (unsigned int[3]){bx, by, bz}, stream, 0);
}

CUresult impl_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra)
{
        unsigned int cooperative = 0;

        (void)params;
        (void)extra;
        if (!config || (config->numAttrs && !config->attrs))
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned int i = 0; i < config->numAttrs; i++) {
                if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
                        cooperative = config->attrs[i].value.cooperative != 0;
        }
        return launch(function, (unsigned int[3]){config->gridDimX, config->gridDimY, config->gridDimZ},
                      (unsigned int[3]){config->blockDimX, config->blockDimY, config->blockDimZ}, config->hStream,
                      cooperative);
}

CUresult impl_cuLaunchCooperativeKernel(CUfunction function, unsigned int gx, unsigned int gy, unsigned int gz,
                                        unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,
                                        CUstream stream, void **params)
{
        (void)shared;
        (void)params;
        return launch(function, (unsigned int[3]){gx, gy, gz}, (unsigned int[3]){bx, by, bz}, stream, 1);
}

CUresult impl_cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *list, unsigned int count, unsigned int flags)
{
        if (!list || count == 0 || flags & ~3U)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned int i = 0; i < count; i++) {
                CUDA_LAUNCH_PARAMS *p = &list[i];
                CUresult r = launch(p->function, (unsigned int[3]){p->gridDimX, p->gridDimY, p->gridDimZ},
                                    (unsigned int[3]){p->blockDimX, p->blockDimY, p->blockDimZ}, p->hStream, 1);

                if (r != CUDA_SUCCESS)
                        return r;
        }
        return CUDA_SUCCESS;
}

/* The launches of CUDA 3: the block's shape is set before. */
CUresult impl_cuFuncSetBlockShape(CUfunction function, int x, int y, int z)
{
        if (!stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_HANDLE;
        return x > 0 && y > 0 && z > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuFuncSetSharedSize(CUfunction function, unsigned int bytes)
{
        (void)bytes;
        return stub_object(function, STUB_FUNCTION) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult impl_cuParamSetSize(CUfunction function, unsigned int bytes)
{
        return impl_cuFuncSetSharedSize(function, bytes);
}

CUresult impl_cuParamSeti(CUfunction function, int offset, unsigned int value)
{
        (void)offset;
        return impl_cuFuncSetSharedSize(function, value);
}

CUresult impl_cuParamSetf(CUfunction function, int offset, float value)
{
        (void)value;
        return impl_cuFuncSetSharedSize(function, (unsigned int)offset);
}

CUresult impl_cuParamSetv(CUfunction function, int offset, void *data, unsigned int bytes)
{
        (void)data;
        (void)offset;
        return impl_cuFuncSetSharedSize(function, bytes);
}

CUresult impl_cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream)
{
        if (width <= 0 || height <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        return launch(function, (unsigned int[3]){(unsigned int)width, (unsigned int)height, 1},
                      (unsigned int[3]){1, 1, 1}, stream, 0);
}

CUresult impl_cuLaunchGrid(CUfunction function, int width, int height)
{
        return impl_cuLaunchGridAsync(function, width, height, NULL);
}

CUresult impl_cuLaunch(CUfunction function)
{
        return impl_cuLaunchGridAsync(function, 1, 1, NULL);
}
