/* Host functions in streams: one thread runs them, in the order in which they were queued. */
#include <stdlib.h>

#include "driver.h"

struct call {
        struct call *next;
        CUstream stream;
        uint32_t device;
        uint64_t position;
        CUhostFn fn;
        CUstreamCallback callback;
        void *data;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct call *first, **last = &first;
static _Atomic uint64_t queued, finished;
static bool running;

static void *work(void *unused)
{
        (void)unused;
        for (;;) {
                struct call *c;

                pthread_mutex_lock(&lock);
                while (!first)
                        pthread_cond_wait(&changed, &lock);
                c = first;
                first = c->next;
                if (!first)
                        last = &first;
                pthread_mutex_unlock(&lock);
                stub_wait(c->device, c->position);
                if (c->fn)
                        c->fn(c->data);
                else
                        c->callback(c->stream, CUDA_SUCCESS, c->data);
                free(c);
                pthread_mutex_lock(&lock);
                atomic_fetch_add(&finished, 1);
                pthread_cond_broadcast(&changed);
                pthread_mutex_unlock(&lock);
        }
        return NULL;
}

static int start(void)
{
        pthread_t thread;

        if (running)
                return 0;
        if (pthread_create(&thread, NULL, work, NULL))
                return -1;
        pthread_detach(thread);
        running = true;
        return 0;
}

CUresult stub_call_later(struct CUstream_st *stream, CUhostFn fn, CUstreamCallback callback, void *data)
{
        struct call *c = calloc(1, sizeof(*c));
        CUresult r = CUDA_ERROR_OUT_OF_MEMORY;

        if (!c)
                return r;
        *c = (struct call){NULL, stream, stream->ctx->device,
                           stream == stream->ctx->legacy ? stub_submitted(stream->ctx->device) : stream->last,
                           fn, callback, data};
        pthread_mutex_lock(&lock);
        if (start() == 0) {
                *last = c;
                last = &c->next;
                atomic_fetch_add(&queued, 1);
                pthread_cond_broadcast(&changed);
                r = CUDA_SUCCESS;
        }
        pthread_mutex_unlock(&lock);
        if (r != CUDA_SUCCESS)
                free(c);
        return r;
}

void stub_calls_drain(void)
{
        uint64_t goal = atomic_load(&queued);

        if (atomic_load(&finished) >= goal)
                return;
        pthread_mutex_lock(&lock);
        while (atomic_load(&finished) < goal)
                pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
}

static CUresult call(CUstream stream, CUhostFn fn, CUstreamCallback callback, void *data)
{
        struct CUstream_st *s;

        STUB_CONTEXT_OR_RETURN(ctx);
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (!fn && !callback)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_capturing(s))
                return fn ? stub_capture_host(s, fn, data) : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        return stub_call_later(s, fn, callback, data);
}

CUresult impl_cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *data)
{
        return call(stream, fn, NULL, data);
}

CUresult impl_cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void *data, unsigned int flags)
{
        return flags ? CUDA_ERROR_INVALID_VALUE : call(stream, NULL, callback, data);
}
