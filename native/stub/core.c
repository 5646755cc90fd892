/* Library, devices, contexts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices.h"
#include "driver.h"

_Atomic int stub_closed = 1;
_Thread_local struct stub_thread stub_thread;
static struct CUctx_st *primary[STUB_DEVICES];
static unsigned int primary_flags[STUB_DEVICES];
static pthread_mutex_t context_lock = PTHREAD_MUTEX_INITIALIZER;
static bool forked;

/* The file is opened when the library is loaded: its descriptor is then lower than those of a library that opens its own
 * at cuInit, so the kernel, which closes them in order, takes this process's memory off the card first. */
__attribute__((constructor)) static void load(void)
{
        (void)stub_state_open();
}

static void in_child(void)
{
        forked = !atomic_load(&stub_closed) || forked;
        atomic_store(&stub_closed, 1);
        stub_state_forget();
}

__attribute__((destructor)) static void unload(void)
{
        if (!forked)
                stub_state_leave();
        atomic_store(&stub_closed, 1);  /* what other destructors call now is answered, not played */
}

CUresult stub_gate(const char *symbol)
{
        static const char *const always[] = {"cuInit", "cuDriverGetVersion", "cuGetErrorString", "cuGetErrorName",
                                             "cuGetProcAddress", "cuGetProcAddress_v2", "cuGetProcAddress_ptsz",
                                             "cuGetProcAddress_v2_ptsz"};
        int r;

        if (stub_state && atomic_load(&stub_state->faults) && (r = stub_fault_of(symbol)))
                return (CUresult)r;
        if (!atomic_load(&stub_closed))
                return CUDA_SUCCESS;
        for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++) {
                if (strcmp(symbol, always[i]) == 0)
                        return CUDA_SUCCESS;
        }
        return CUDA_ERROR_NOT_INITIALIZED;
}

CUresult impl_cuInit(unsigned int flags)
{
        static _Atomic int registered;
        int r;

        if (flags)
                return CUDA_ERROR_INVALID_VALUE;
        if (forked)
                return CUDA_ERROR_NOT_INITIALIZED;
        r = stub_state_join();
        if (r)
                return r == -EMFILE ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_OPERATING_SYSTEM;
        if (!atomic_exchange(&registered, 1))
                pthread_atfork(NULL, NULL, in_child);
        stub_visible_read();
        if (stub_visible_count() == 0)
                return CUDA_ERROR_NO_DEVICE;
        atomic_store(&stub_closed, 0);
        return CUDA_SUCCESS;
}

CUresult impl_cuDriverGetVersion(int *version)
{
        if (!version)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_state_open() < 0)
                return CUDA_ERROR_OPERATING_SYSTEM;
        *version = atomic_load(&stub_state->driver_version);
        return CUDA_SUCCESS;
}

CUresult impl_cuProfilerStart(void)
{
        return CUDA_SUCCESS;
}

CUresult impl_cuProfilerStop(void)
{
        return CUDA_SUCCESS;
}

CUresult stub_result(int r)
{
        if (r == 0)
                return CUDA_SUCCESS;
        return r == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_DEVICE_UNAVAILABLE;
}

CUresult impl_cuDeviceGetCount(int *count)
{
        if (!count)
                return CUDA_ERROR_INVALID_VALUE;
        *count = (int)stub_visible_count();
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGet(CUdevice *device, int ordinal)
{
        if (!device)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_ordinal(ordinal) < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        *device = ordinal;
        return CUDA_SUCCESS;
}

/* Contexts */

static CUcontext new_context(uint32_t device, unsigned int flags)
{
        CUcontext ctx = stub_object_new(STUB_CONTEXT);

        if (!ctx)
                return NULL;
        ctx->device = device;
        ctx->flags = flags;
        ctx->id = stub_new_id();
        ctx->limit[CU_LIMIT_STACK_SIZE] = 1024;
        ctx->limit[CU_LIMIT_PRINTF_FIFO_SIZE] = MIB;
        ctx->limit[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 * MIB;
        ctx->legacy = stub_object_new(STUB_STREAM);
        ctx->per_thread = stub_object_new(STUB_STREAM);
        if (!ctx->legacy || !ctx->per_thread)
                return NULL;
        ctx->legacy->ctx = ctx->per_thread->ctx = ctx;
        ctx->legacy->id = stub_new_id();
        ctx->per_thread->id = stub_new_id();
        return ctx;
}

static void count_contexts(uint32_t device, int by)
{
        stub_lock_device(device);
        stub_state->slot[stub_own_slot].use[device].contexts += (uint32_t)by;
        stub_unlock_device(device);
}

/* Makes the context live: its own memory is booked. */
static CUresult start_context(CUcontext ctx)
{
        int r = stub_take_bytes(ctx->device, stub_options.context_bytes);

        if (r == 0) {
                ctx->bytes = stub_options.context_bytes;
                count_contexts(ctx->device, 1);
        }
        return stub_result(r);
}

static void stop_context(CUcontext ctx)
{
        stub_wait(ctx->device, stub_submitted(ctx->device));
        stub_context_clear(ctx);
        stub_give_bytes(ctx->device, ctx->bytes);
        ctx->bytes = 0;
        count_contexts(ctx->device, -1);
}

CUcontext stub_current(void)
{
        CUcontext ctx = stub_thread.depth ? stub_thread.stack[stub_thread.depth - 1] : NULL;

        /* A context that was destroyed while it was current, or a primary one that nobody retains. */
        if (!ctx || ctx->kind != STUB_CONTEXT || (ctx->primary && !ctx->retained))
                return NULL;
        return ctx;
}

CUresult impl_cuDevicePrimaryCtxRetain(CUcontext *ctx, CUdevice device)
{
        int d = stub_ordinal(device);
        CUresult r = CUDA_SUCCESS;

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!ctx)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&context_lock);
        if (!primary[d]) {
                primary[d] = new_context((uint32_t)d, primary_flags[d]);
                if (primary[d])
                        primary[d]->primary = 1;
        }
        if (!primary[d])
                r = CUDA_ERROR_OUT_OF_MEMORY;
        else if (primary[d]->retained == 0)
                r = start_context(primary[d]);
        if (r == CUDA_SUCCESS) {
                primary[d]->retained++;
                *ctx = primary[d];
        }
        pthread_mutex_unlock(&context_lock);
        return r;
}

CUresult impl_cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
        int d = stub_ordinal(device);
        CUresult r = CUDA_SUCCESS;

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        pthread_mutex_lock(&context_lock);
        if (!primary[d] || primary[d]->retained == 0)
                r = CUDA_ERROR_INVALID_CONTEXT;
        else if (--primary[d]->retained == 0)
                stop_context(primary[d]);
        pthread_mutex_unlock(&context_lock);
        return r;
}

CUresult impl_cuDevicePrimaryCtxRelease(CUdevice device)
{
        return impl_cuDevicePrimaryCtxRelease_v2(device);
}

CUresult impl_cuDevicePrimaryCtxReset_v2(CUdevice device)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        pthread_mutex_lock(&context_lock);
        if (primary[d] && primary[d]->retained) {
                primary[d]->retained = 0;
                stop_context(primary[d]);
        }
        pthread_mutex_unlock(&context_lock);
        return CUDA_SUCCESS;
}

CUresult impl_cuDevicePrimaryCtxReset(CUdevice device)
{
        return impl_cuDevicePrimaryCtxReset_v2(device);
}

CUresult impl_cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        primary_flags[d] = flags;
        return CUDA_SUCCESS;
}

CUresult impl_cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags)
{
        return impl_cuDevicePrimaryCtxSetFlags_v2(device, flags);
}

CUresult impl_cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!flags || !active)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = primary_flags[d];
        *active = primary[d] && primary[d]->retained;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxPushCurrent_v2(CUcontext ctx)
{
        if (!stub_object(ctx, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (stub_thread.depth == STUB_STACK)
                return CUDA_ERROR_INVALID_VALUE;
        stub_thread.stack[stub_thread.depth++] = ctx;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxPushCurrent(CUcontext ctx)
{
        return impl_cuCtxPushCurrent_v2(ctx);
}

CUresult impl_cuCtxPopCurrent_v2(CUcontext *ctx)
{
        if (stub_thread.depth == 0)
                return CUDA_ERROR_INVALID_CONTEXT;
        stub_thread.depth--;
        if (ctx)
                *ctx = stub_thread.stack[stub_thread.depth];
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxPopCurrent(CUcontext *ctx)
{
        return impl_cuCtxPopCurrent_v2(ctx);
}

CUresult impl_cuCtxSetCurrent(CUcontext ctx)
{
        if (ctx && !stub_object(ctx, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (stub_thread.depth)
                stub_thread.depth--;
        if (ctx)
                stub_thread.stack[stub_thread.depth++] = ctx;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetCurrent(CUcontext *ctx)
{
        if (!ctx)
                return CUDA_ERROR_INVALID_VALUE;
        *ctx = stub_thread.depth ? stub_thread.stack[stub_thread.depth - 1] : NULL;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxCreate_v2(CUcontext *ctx, unsigned int flags, CUdevice device)
{
        int d = stub_ordinal(device);
        CUcontext made;
        CUresult r;

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!ctx)
                return CUDA_ERROR_INVALID_VALUE;
        made = new_context((uint32_t)d, flags);
        if (!made)
                return CUDA_ERROR_OUT_OF_MEMORY;
        r = start_context(made);
        if (r == CUDA_SUCCESS)
                r = impl_cuCtxPushCurrent_v2(made);
        if (r == CUDA_SUCCESS)
                *ctx = made;
        else
                stub_object_free(made);
        return r;
}

CUresult impl_cuCtxCreate_v3(CUcontext *ctx, CUexecAffinityParam *affinity, int count, unsigned int flags, CUdevice device)
{
        (void)affinity;
        (void)count;
        return impl_cuCtxCreate_v2(ctx, flags, device);
}

CUresult impl_cuCtxCreate_v4(CUcontext *ctx, CUctxCreateParams *params, unsigned int flags, CUdevice device)
{
        (void)params;
        return impl_cuCtxCreate_v2(ctx, flags, device);
}

CUresult impl_cuCtxDestroy_v2(CUcontext ctx)
{
        if (!stub_object(ctx, STUB_CONTEXT) || ctx->primary)
                return CUDA_ERROR_INVALID_CONTEXT;
        if (stub_thread.depth && stub_thread.stack[stub_thread.depth - 1] == ctx)
                stub_thread.depth--;
        stop_context(ctx);
        stub_object_free(ctx->legacy);
        stub_object_free(ctx->per_thread);
        stub_object_free(ctx);
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxDestroy(CUcontext ctx)
{
        return impl_cuCtxDestroy_v2(ctx);
}

CUresult impl_cuCtxGetDevice(CUdevice *device)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!device)
                return CUDA_ERROR_INVALID_VALUE;
        *device = stub_ordinal_of(ctx->device);
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxSynchronize(void)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!stub_may())
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        stub_wait(ctx->device, stub_submitted(ctx->device));
        stub_calls_drain();
        stub_pools_settle(ctx->device);
        return CUDA_SUCCESS;
}
