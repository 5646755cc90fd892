/* Stream capture: what is launched in a capturing stream becomes a node of its graph. */
#include <unistd.h>

#include "graph.h"

/* Captures that are going on: 0 spares the checks. */
static _Atomic uint32_t captures;

bool stub_capturing(const struct CUstream_st *stream)
{
        return stream && stream->capture_id != 0;
}

static uint64_t this_thread(void)
{
        return (uint64_t)gettid();
}

bool stub_may(void)
{
        bool fine = true;

        if (atomic_load_explicit(&captures, memory_order_relaxed) == 0 ||
            stub_thread.capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
                return true;
        stub_objects_hold();
        for (struct CUstream_st *s = NULL; (s = stub_object_next(s, STUB_STREAM));) {
                bool mine = s->capture_thread == this_thread();

                if (!s->capture_id || !s->capture_origin || s->capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
                        continue;
                if (!mine && (s->capture_mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL ||
                              stub_thread.capture_mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
                        continue;
                s->capture_bad = 1;
                fine = false;
        }
        stub_objects_let_go();
        return fine;
}

static CUresult begin(CUstream stream, CUgraph graph, const CUgraphNode *deps, size_t count, CUstreamCaptureMode mode)
{
        struct CUstream_st *s;

        STUB_CONTEXT_OR_RETURN(ctx);
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if ((unsigned int)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
                return CUDA_ERROR_INVALID_VALUE;
        if (s == ctx->legacy)
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (s->capture_id)
                return CUDA_ERROR_ILLEGAL_STATE;
        s->capture = graph ? graph : stub_graph_new();
        if (!s->capture)
                return CUDA_ERROR_OUT_OF_MEMORY;
        s->capture_last = count && deps ? deps[count - 1] : NULL;
        s->capture_id = stub_new_id();
        s->capture_mode = mode;
        s->capture_origin = 1;
        s->capture_bad = 0;
        s->capture_thread = this_thread();
        atomic_fetch_add(&captures, 1);
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
        return begin(stream, NULL, NULL, 0, mode);
}

CUresult impl_cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *deps,
                                          const CUgraphEdgeData *edges, size_t count, CUstreamCaptureMode mode)
{
        (void)edges;
        return stub_object(graph, STUB_GRAPH) ? begin(stream, graph, deps, count, mode) : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
        struct CUstream_st *s = stub_stream(stream);
        uint64_t id;

        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (!graph)
                return CUDA_ERROR_INVALID_VALUE;
        if (!s->capture_id)
                return CUDA_ERROR_ILLEGAL_STATE;
        if (!s->capture_origin)
                return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        if (s->capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED && s->capture_thread != this_thread())
                return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        id = s->capture_id;
        *graph = s->capture_bad ? NULL : s->capture;
        if (s->capture_bad)
                stub_graph_drop(s->capture);
        for (struct CUstream_st *other = NULL; (other = stub_object_next(other, STUB_STREAM));) {
                if (other->capture_id == id && other != s)
                        other->capture_id = 0;
        }
        s->capture_id = 0;
        s->capture_origin = 0;
        atomic_fetch_sub(&captures, 1);
        return *graph ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

CUresult impl_cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
        struct CUstream_st *s = stub_stream(stream);

        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (!status)
                return CUDA_ERROR_INVALID_VALUE;
        *status = !s->capture_id ? CU_STREAM_CAPTURE_STATUS_NONE
                  : s->capture_bad ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
                                        const CUgraphNode **deps, size_t *count)
{
        struct CUstream_st *s = stub_stream(stream);
        CUresult r = impl_cuStreamIsCapturing(stream, status);

        if (r != CUDA_SUCCESS || *status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
                return r;
        if (id)
                *id = s->capture_id;
        if (graph)
                *graph = s->capture;
        if (deps)
                *deps = &s->capture_last;
        if (count)
                *count = s->capture_last != NULL;
        return CUDA_SUCCESS;
}

CUresult impl_cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
                                        const CUgraphNode **deps, const CUgraphEdgeData **edges, size_t *count)
{
        if (edges)
                *edges = NULL;
        return impl_cuStreamGetCaptureInfo_v2(stream, status, id, graph, deps, count);
}

CUresult impl_cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
        CUstreamCaptureMode before = stub_thread.capture_mode;

        if (!mode || (unsigned int)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
                return CUDA_ERROR_INVALID_VALUE;
        stub_thread.capture_mode = *mode;
        *mode = before;
        return CUDA_SUCCESS;
}

static CUresult add(struct CUstream_st *s, struct stub_step step, CUgraphNode *ret)
{
        CUgraphNode node = stub_node_new(s->capture, &s->capture_last, s->capture_last != NULL, step);

        if (!node)
                return CUDA_ERROR_OUT_OF_MEMORY;
        s->capture_last = node;
        if (ret)
                *ret = node;
        return CUDA_SUCCESS;
}

CUresult stub_capture_kernel(struct CUstream_st *s, CUfunction function, unsigned int cooperative)
{
        CUgraphNode node;
        CUresult r = add(s, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_KERNEL, .device = s->ctx->device,
                                               .ns = function->ns}, &node);

        (void)cooperative;
        if (r == CUDA_SUCCESS)
                node->function = function;
        return r;
}

CUresult stub_capture_alloc(struct CUstream_st *s, CUdeviceptr *dptr, size_t bytes)
{
        CUgraphNode node;
        CUresult r = stub_node_alloc(s->capture, &s->capture_last, s->capture_last != NULL, s->ctx->device, bytes,
                                     &node);

        if (r == CUDA_SUCCESS) {
                s->capture_last = node;
                *dptr = node->step.dptr;
        }
        return r;
}

CUresult stub_capture_free(struct CUstream_st *s, CUdeviceptr dptr)
{
        if (!stub_block_at(dptr))
                return CUDA_ERROR_INVALID_VALUE;
        return add(s, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .dptr = dptr}, NULL);
}

CUresult stub_capture_host(struct CUstream_st *s, CUhostFn fn, void *data)
{
        return add(s, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_HOST, .fn = fn, .data = data}, NULL);
}

CUresult stub_capture_empty(struct CUstream_st *s)
{
        return add(s, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_EMPTY}, NULL);
}

/* An event that was recorded in a capture brings the stream that waits for it into the same capture. */
CUresult stub_capture_event(struct CUstream_st *s, CUevent event, bool record)
{
        if (record) {
                event->capture = s->capture;
                event->capture_id = s->capture_id;
                event->recorded_ns = 0;
                return CUDA_SUCCESS;
        }
        if (!event->capture || (s->capture_id && s->capture_id != event->capture_id))
                return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        if (!s->capture_id) {
                s->capture = event->capture;
                s->capture_id = event->capture_id;
                s->capture_last = event->capture->last;
                s->capture_mode = CU_STREAM_CAPTURE_MODE_RELAXED;
                s->capture_origin = 0;
                s->capture_bad = 0;
        }
        return CUDA_SUCCESS;
}
