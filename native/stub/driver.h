/* What the files of the stub's libcuda share: its objects, and how a function finds the context it works in.
 *
 * Every driver function is written once, as impl_<symbol>; exports.c makes the exported symbols from abi/cuda_functions.def.
 * It has checked cuInit and set faults before an impl_ runs. A function without an impl_ answers CUDA_ERROR_NOT_SUPPORTED.
 */
#ifndef STUB_DRIVER_H
#define STUB_DRIVER_H

#include "abi/cuda_abi.h"
#include "clock.h"
#include "heap.h"
#include "state.h"

#define CUDA_FN(name, params, args) extern CUresult impl_##name params __attribute__((visibility("hidden"), weak));
#define CUDA_FN_PTSZ CUDA_FN
#define CUDA_FN_PTDS CUDA_FN
#include "abi/cuda_functions.def"
#undef CUDA_FN
#undef CUDA_FN_PTSZ
#undef CUDA_FN_PTDS

enum { STUB_STACK = 64, STUB_PEERS = STUB_DEVICES };

struct CUstream_st {
        stub_kind_word kind;
        uint32_t flags;
        CUcontext ctx;
        _Atomic uint64_t last;          /* position where its last work ends; threads may share a stream */
        uint64_t id;
        int priority;
        CUgraph capture;                /* graph that its work goes into */
        CUgraphNode capture_last;
        /* Other threads ask about a capture, too. */
        _Atomic uint64_t capture_id;    /* 0: it does not capture */
        _Atomic uint32_t capture_mode;
        _Atomic int capture_origin;     /* the capture was begun here; the others joined */
        _Atomic int capture_bad;
        _Atomic uint64_t capture_thread;
};

struct CUctx_st {
        stub_kind_word kind;
        uint32_t device;
        unsigned int flags;
        int primary;
        _Atomic int retained;           /* changed under the lock of contexts, read by every call */
        uint64_t id;
        uint64_t bytes;                 /* device memory that it takes by itself */
        uint32_t peers;                 /* bit per card */
        size_t limit[8];
        CUfunc_cache cache;
        struct CUstream_st *legacy, *per_thread;
};

struct CUevent_st {
        stub_kind_word kind;
        uint32_t flags;
        CUcontext ctx;
        uint64_t position;
        uint64_t recorded_ns;           /* 0: never */
        uint64_t reached_ns;            /* cached */
        CUgraph capture;                /* recorded in a capture: its graph */
        uint64_t capture_id;
};

struct CUmod_st {
        stub_kind_word kind;
        uint32_t library;               /* it belongs to a library, which unloads it */
        CUcontext ctx;
};

struct CUfunc_st {
        stub_kind_word kind;
        uint32_t threads;
        uint64_t ns;
        CUmodule module;
        char name[64];
};

struct CUlib_st {
        stub_kind_word kind;
        uint32_t spare;
        CUmodule module;                /* made when first asked for */
};

struct CUarray_st {
        stub_kind_word kind;
        uint32_t device;
        CUcontext ctx;
        uint64_t size;                  /* booked; 0 for a level of a mipmap */
        CUDA_ARRAY3D_DESCRIPTOR desc;
        unsigned int levels;
};

struct CUmipmappedArray_st {
        stub_kind_word kind;
        uint32_t device;
        CUcontext ctx;
        uint64_t size;
        CUDA_ARRAY3D_DESCRIPTOR desc;
        unsigned int levels;
};

struct CUmemPoolHandle_st {
        stub_kind_word kind;
        uint32_t device;
        uint32_t number;                /* index in the list of live pools */
        int is_default;
        int dropped;                    /* destroyed, but blocks live on */
        uint64_t used, used_high, reserved, reserved_high, threshold, max;
        uint32_t switches;              /* bit per reuse attribute */
};

/* The calling thread's context, or the error that a function without one returns. */
struct stub_thread {
        CUcontext stack[STUB_STACK];
        int depth;
        int per_thread_calls;           /* in a _ptsz or _ptds function: stream 0 is the thread's own */
        CUstreamCaptureMode capture_mode;
};
extern _Thread_local struct stub_thread stub_thread;

#define STUB_CONTEXT_OR_RETURN(ctx)                             \
        CUcontext ctx = stub_current();                         \
        do {                                                    \
                if (!ctx)                                       \
                        return CUDA_ERROR_INVALID_CONTEXT;      \
        } while (0)

CUcontext stub_current(void);
/* The stream that a handle means in this call, NULL: no such stream. */
struct CUstream_st *stub_stream(CUstream handle);
/* What CUDA_VISIBLE_DEVICES says: read at cuInit. */
void stub_visible_read(void);
uint32_t stub_visible_count(void);
/* Card of an ordinal, -1: there is none. */
int stub_ordinal(CUdevice device);
CUdevice stub_ordinal_of(uint32_t device);
/* -ENOMEM and -ENODEV of stub_take_bytes as the driver says them. */
CUresult stub_result(int r);
/* After a synchronising call: pools give back what they do not need. */
void stub_pools_settle(uint32_t device);
/* The rest of a free, whatever function asked for it; the block was taken. */
void stub_release_block(struct stub_block *block);
/* All that a context owns goes with it. */
void stub_context_clear(CUcontext ctx);
/* Queues device time in a stream and moves its end. */
uint64_t stub_queue(struct CUstream_st *stream, uint64_t ns);
void stub_wait_stream(struct CUstream_st *stream);
uint64_t stub_reach(struct CUevent_st *event);
/* Runs `fn` in the stub's own thread once the stream got so far. */
CUresult stub_call_later(struct CUstream_st *stream, CUhostFn fn, CUstreamCallback callback, void *data);
/* Waits until all functions queued so far ran. */
void stub_calls_drain(void);
/* Pool `reserved` grows to hold so many bytes more: 0, -ENOMEM, -ENODEV. */
int stub_pool_take(CUmemoryPool pool, uint64_t bytes);
void stub_pool_give(CUmemoryPool pool, uint64_t bytes);
CUmemoryPool stub_default_pool(uint32_t device);
/* A free of memory that a graph allocated; false: it is not allocated. */
bool stub_graph_free(struct stub_block *block);

/* Capture: the node goes to the graph of the stream. Each returns false when the stream does not capture. */
bool stub_capturing(const struct CUstream_st *stream);
/* What the driver calls unsafe while a stream captures, such as asking an event or allocating: false where it is refused,
 * and then the capture is spoiled. A thread in relaxed mode is never refused. */
bool stub_may(void);
CUresult stub_capture_kernel(struct CUstream_st *stream, CUfunction function, unsigned int cooperative);
CUresult stub_capture_alloc(struct CUstream_st *stream, CUdeviceptr *dptr, size_t bytes);
CUresult stub_capture_free(struct CUstream_st *stream, CUdeviceptr dptr);
CUresult stub_capture_host(struct CUstream_st *stream, CUhostFn fn, void *data);
CUresult stub_capture_empty(struct CUstream_st *stream);
CUresult stub_capture_event(struct CUstream_st *stream, CUevent event, bool record);

/* 0: open; 1: not initialised yet, or a fork's child. */
extern _Atomic int stub_closed;
CUresult stub_gate(const char *symbol);

#endif
