/* Streams and events. A card runs one kernel at a time, in the order of submission: what a stream waits for was
 * submitted before, so waiting for an event costs nothing but moves the stream's end. */
#include <errno.h>
#include <string.h>

#include "driver.h"

struct CUstream_st *stub_stream(CUstream handle)
{
        CUcontext ctx = stub_current();

        if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
                if (!ctx)
                        return NULL;
                if (handle == CU_STREAM_PER_THREAD || (handle == NULL && stub_thread.per_thread_calls))
                        return ctx->per_thread;
                return ctx->legacy;
        }
        return stub_object(handle, STUB_STREAM);
}

/* A stream's end only ever moves on, whichever of its threads says so last. */
static void move_end(struct CUstream_st *stream, uint64_t position)
{
        uint64_t last = atomic_load_explicit(&stream->last, memory_order_relaxed);

        while (last < position && !atomic_compare_exchange_weak(&stream->last, &last, position))
                ;
}

uint64_t stub_queue(struct CUstream_st *stream, uint64_t ns)
{
        uint64_t position = stub_submit(stream->ctx->device, ns);

        move_end(stream, position);
        return position;
}

/* Where the work of a stream ends: of the legacy stream, everybody's. */
static uint64_t end_of(const struct CUstream_st *stream)
{
        return stream == stream->ctx->legacy ? stub_submitted(stream->ctx->device) : stream->last;
}

void stub_wait_stream(struct CUstream_st *stream)
{
        stub_wait(stream->ctx->device, end_of(stream));
}

CUresult impl_cuStreamCreateWithPriority(CUstream *ret, unsigned int flags, int priority)
{
        CUstream s;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!ret || flags & ~1U)
                return CUDA_ERROR_INVALID_VALUE;
        s = stub_object_new(STUB_STREAM);
        if (!s)
                return CUDA_ERROR_OUT_OF_MEMORY;
        s->ctx = ctx;
        s->flags = flags;
        s->priority = priority < -5 ? -5 : priority > 0 ? 0 : priority;
        s->id = stub_new_id();
        *ret = s;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamCreate(CUstream *ret, unsigned int flags)
{
        return impl_cuStreamCreateWithPriority(ret, flags, 0);
}

CUresult impl_cuStreamDestroy_v2(CUstream stream)
{
        if (!stub_object(stream, STUB_STREAM) || stream == stream->ctx->legacy || stream == stream->ctx->per_thread)
                return CUDA_ERROR_INVALID_HANDLE;
        stub_object_free(stream);       /* what is queued runs on: the card keeps no streams */
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamDestroy(CUstream stream)
{
        return impl_cuStreamDestroy_v2(stream);
}

#define STREAM_OR_RETURN(s, handle)                             \
        struct CUstream_st *s = stub_stream(handle);            \
        do {                                                    \
                if (!s)                                         \
                        return stub_current() ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_CONTEXT; \
        } while (0)

CUresult impl_cuStreamGetPriority(CUstream stream, int *priority)
{
        STREAM_OR_RETURN(s, stream);
        if (!priority)
                return CUDA_ERROR_INVALID_VALUE;
        *priority = s->priority;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetFlags(CUstream stream, unsigned int *flags)
{
        STREAM_OR_RETURN(s, stream);
        if (!flags)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = s->flags;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetId(CUstream stream, unsigned long long *id)
{
        STREAM_OR_RETURN(s, stream);
        if (!id)
                return CUDA_ERROR_INVALID_VALUE;
        *id = s->id;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetDevice(CUstream stream, CUdevice *device)
{
        STREAM_OR_RETURN(s, stream);
        if (!device)
                return CUDA_ERROR_INVALID_VALUE;
        *device = stub_ordinal_of(s->ctx->device);
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetCtx(CUstream stream, CUcontext *ctx)
{
        STREAM_OR_RETURN(s, stream);
        if (!ctx)
                return CUDA_ERROR_INVALID_VALUE;
        *ctx = s->ctx;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetCtx_v2(CUstream stream, CUcontext *ctx, CUgreenCtx *green)
{
        CUresult r = impl_cuStreamGetCtx(stream, ctx);

        if (r == CUDA_SUCCESS && green)
                *green = NULL;
        return r;
}

CUresult impl_cuStreamCopyAttributes(CUstream to, CUstream stream)
{
        STREAM_OR_RETURN(s, stream);
        return stub_stream(to) && s ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult impl_cuStreamAttachMemAsync(CUstream stream, CUdeviceptr dptr, size_t length, unsigned int flags)
{
        struct stub_block *b;

        STREAM_OR_RETURN(s, stream);
        b = stub_block_around(dptr);
        (void)length;
        return b && b->kind == STUB_MANAGED && flags <= 4 && s ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuStreamQuery(CUstream stream)
{
        STREAM_OR_RETURN(s, stream);
        if (stub_capturing(s))
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        return stub_is_done(s->ctx->device, end_of(s)) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult impl_cuStreamSynchronize(CUstream stream)
{
        STREAM_OR_RETURN(s, stream);
        if (stub_capturing(s))
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        stub_wait_stream(s);
        stub_calls_drain();
        stub_pools_settle(s->ctx->device);
        return CUDA_SUCCESS;
}

/* Events */

CUresult impl_cuEventCreate(CUevent *event, unsigned int flags)
{
        CUevent e;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!event || flags & ~7U || (flags & CU_EVENT_INTERPROCESS && !(flags & CU_EVENT_DISABLE_TIMING)))
                return CUDA_ERROR_INVALID_VALUE;
        e = stub_object_new(STUB_EVENT);
        if (!e)
                return CUDA_ERROR_OUT_OF_MEMORY;
        e->ctx = ctx;
        e->flags = flags;
        *event = e;
        return CUDA_SUCCESS;
}

CUresult impl_cuEventDestroy_v2(CUevent event)
{
        if (!stub_object(event, STUB_EVENT))
                return CUDA_ERROR_INVALID_HANDLE;
        stub_object_free(event);
        return CUDA_SUCCESS;
}

CUresult impl_cuEventDestroy(CUevent event)
{
        return impl_cuEventDestroy_v2(event);
}

CUresult impl_cuEventRecord(CUevent event, CUstream stream)
{
        STREAM_OR_RETURN(s, stream);
        if (!stub_object(event, STUB_EVENT) || event->ctx->device != s->ctx->device)
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_capturing(s))
                return stub_capture_event(s, event, true);
        event->capture = NULL;
        event->position = end_of(s);
        event->reached_ns = 0;
        event->recorded_ns = stub_now();
        return CUDA_SUCCESS;
}

CUresult impl_cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned int flags)
{
        return flags & ~1U ? CUDA_ERROR_INVALID_VALUE : impl_cuEventRecord(event, stream);
}

CUresult impl_cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
        STREAM_OR_RETURN(s, stream);
        if (!stub_object(event, STUB_EVENT))
                return CUDA_ERROR_INVALID_HANDLE;
        if (flags & ~1U)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_capturing(s) || event->capture)
                return stub_capture_event(s, event, false);
        if (event->ctx->device == s->ctx->device)
                move_end(s, event->position);
        return CUDA_SUCCESS;
}

CUresult impl_cuEventQuery(CUevent event)
{
        if (!stub_object(event, STUB_EVENT))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!stub_may())
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (event->capture)
                return CUDA_ERROR_CAPTURED_EVENT;
        if (!event->recorded_ns)
                return CUDA_SUCCESS;
        return stub_is_done(event->ctx->device, event->position) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult impl_cuEventSynchronize(CUevent event)
{
        if (!stub_object(event, STUB_EVENT))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!stub_may())
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (event->capture)
                return CUDA_ERROR_CAPTURED_EVENT;
        if (event->recorded_ns)
                stub_wait(event->ctx->device, event->position);
        stub_pools_settle(event->ctx->device);
        return CUDA_SUCCESS;
}

/* When the event happened: when the card got to it, or when it was recorded if nothing was queued then. 0: not yet. */
uint64_t stub_reach(struct CUevent_st *event)
{
        uint64_t when;

        if (event->reached_ns)
                return event->reached_ns;
        if (!stub_is_done(event->ctx->device, event->position))
                return 0;
        when = stub_time_of(event->ctx->device, event->position);
        event->reached_ns = when > event->recorded_ns ? when : event->recorded_ns;
        return event->reached_ns;
}

CUresult impl_cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
        uint64_t a, b;

        if (!ms)
                return CUDA_ERROR_INVALID_VALUE;
        if (!stub_object(from, STUB_EVENT) || !stub_object(to, STUB_EVENT) || !from->recorded_ns || !to->recorded_ns ||
            from->flags & CU_EVENT_DISABLE_TIMING || to->flags & CU_EVENT_DISABLE_TIMING)
                return CUDA_ERROR_INVALID_HANDLE;
        a = stub_reach(from);
        b = stub_reach(to);
        if (!a || !b)
                return CUDA_ERROR_NOT_READY;
        *ms = (float)((double)(int64_t)(b - a) / 1e6);
        return CUDA_SUCCESS;
}

CUresult impl_cuEventElapsedTime_v2(float *ms, CUevent from, CUevent to)
{
        return impl_cuEventElapsedTime(ms, from, to);
}

/* An event of another process: its handle says when the card gets there by that process's count. */
CUresult impl_cuIpcGetEventHandle(CUipcEventHandle *handle, CUevent event)
{
        if (!handle || !stub_object(event, STUB_EVENT) || !(event->flags & CU_EVENT_INTERPROCESS))
                return CUDA_ERROR_INVALID_VALUE;
        memset(handle, 0, sizeof(*handle));
        memcpy(handle, "stub-event", 10);
        return CUDA_SUCCESS;
}

CUresult impl_cuIpcOpenEventHandle(CUevent *event, CUipcEventHandle handle)
{
        if (!event || memcmp(&handle, "stub-event", 10) != 0)
                return CUDA_ERROR_INVALID_HANDLE;
        return impl_cuEventCreate(event, CU_EVENT_DISABLE_TIMING);
}

void stub_context_clear(CUcontext ctx)
{
        struct stub_block *b;
        static const enum stub_kind owned[] = {STUB_STREAM, STUB_EVENT, STUB_MODULE, STUB_ARRAY, STUB_MIPMAP};

        while ((b = stub_block_of(ctx)))
                stub_release_block(b);
        for (size_t k = 0; k < sizeof(owned) / sizeof(owned[0]); k++) {
                for (void *o = NULL; (o = stub_object_next(o, owned[k]));) {
                        struct CUstream_st *s = o;      /* the context stands at one place in all of them */
                        struct CUarray_st *a = o;       /* and mipmaps begin like arrays */

                        if (s->ctx != ctx || o == ctx->legacy || o == ctx->per_thread)
                                continue;
                        if (owned[k] == STUB_ARRAY || owned[k] == STUB_MIPMAP)
                                stub_give_bytes(a->device, a->size);
                        if (owned[k] == STUB_MODULE)
                                stub_give_bytes(ctx->device, stub_options.module_bytes);
                        stub_object_free(o);
                }
        }
}
