/*
 * limiter_lane: streams, their open batches, and the events that time them.
 *
 * Promise: every event that is taken is in the pool, in a lane or in a context's list of batches that are out; it goes when its
 * context goes, and no call is made on it afterwards. A context holds at most SLICE_BATCHES * 2 + SLICE_LANES events.
 * Errors of the driver end the measuring of that batch, and nothing else: the program sees only its own calls' answers.
 *
 * Locks held: the limiter's (slice_limiter_try_lock) in every call below but slice_lane_cached. No call blocks.
 * Times are CLOCK_MONOTONIC nanoseconds; costs are nanoseconds of GPU time.
 */
#ifndef SLICE_LIMITER_LANE_H
#define SLICE_LIMITER_LANE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cost.h"
#include "state.h"

#define SLICE_LANES 512                          /* streams of this process that are told apart */
#define SLICE_CONTEXTS 32
#define SLICE_BATCHES 64                         /* batches of a context that may be out */
#define SLICE_BATCH_NS 2000000.0                 /* GPU time that a batch is to take */
#define SLICE_BATCH_SHARED_NS 1000000.0          /* the same beside other processes */
#define SLICE_BATCH_MOST 64                      /* launches in a batch */
#define SLICE_PAUSE_NS UINT64_C(500000)          /* so long after a launch its batch is over */
#define SLICE_OUT_MOST 3                         /* batches of a stream that may be out */
#define SLICE_OUT_ALONE_NS 20000000              /* alone on the device more may, as long as they cost no more than this */

/* A batch whose end was recorded. */
struct slice_batch {
        struct slice_lane *lane;
        CUevent start, end;
        uint64_t recorded_ns;                    /* when its end was recorded, by the host's clock */
        int64_t reserved_ns;
        unsigned launches;
        bool alone;
        bool paused;                             /* the program paused in between: its elapsed time says little */
};

struct slice_context {
        CUcontext handle;                        /* NULL: free */
        unsigned device;                         /* ours */
        CUdevice ordinal;
        bool primary;
        bool broken;                             /* events fail here: measured no more */
        CUevent pool[SLICE_BATCHES];
        unsigned pooled;
        struct slice_batch out[SLICE_BATCHES];
        unsigned out_count;
        struct slice_lane *open;                 /* lanes with an open batch, linked by next_open */
        /* The device's clock: nanoseconds since the first event, and what to add to get the host's. */
        CUevent mark;                            /* the latest end that has passed */
        double mark_ns;
        double offset_ns;
        uint64_t offset_at_ns;
};

struct slice_lane {
        /* Who it is: compared without the lock by slice_lane_cached. */
        CUcontext context;
        CUstream stream;
        const void *thread;                      /* of a per-thread stream, else NULL */
        struct slice_context *home;
        unsigned device;
        /* Changed without the lock by launches of an open batch. */
        _Atomic int left;                        /* launches that the open batch still takes */
        _Atomic uint64_t last_ns;                /* when something was launched last */
        _Atomic bool paused;
        /* The rest under the lock. */
        CUevent start;                           /* of the open batch; NULL: none is open */
        struct slice_lane *next_open;
        unsigned planned;
        uint64_t opened_ns;
        int64_t reserved_ns;
        bool alone;
        unsigned target;                         /* launches that the next batch is to take */
        unsigned out;                            /* its batches that are out, */
        int64_t out_ns;                          /* and what was reserved for them */
        bool stalled;                            /* they make no progress: the stream waits for the program */
        double each_ns;                          /* what a launch cost lately */
        double alone_ns;                         /* what a graph or cooperative launch cost lately */
        struct slice_cost each_cost, alone_cost;
};

/* The only lock. Tried, never waited for; not recursive. */
bool slice_limiter_try_lock(void);
void slice_limiter_unlock(void);

/* The calling thread's lane of last time, when it is for this stream; NULL: ask slice_lane_find under the lock. */
struct slice_lane *slice_lane_cached(CUcontext context, CUstream stream, const void *thread);
struct slice_lane *slice_lane_find(CUcontext context, CUstream stream, const void *thread);

/* Grows with every context that goes: lanes that were found before it must not be touched. */
uint32_t slice_lane_epoch(void);

/* Record the start of a batch of `lane->target` launches (one, when `alone`) and reserve its cost. False: unmeasured. */
bool slice_lane_open(struct slice_lane *lane, bool alone, uint64_t now_ns);
/* Record the end of the open batch. It goes out, or is charged by estimate when that cannot be. */
void slice_lane_close(struct slice_lane *lane, uint64_t now_ns);
/* The open batch has no end that says anything: charge it by estimate. */
void slice_lane_abandon(struct slice_lane *lane);
/* The batch that slice_lane_open just opened was never launched: give back what was reserved. */
void slice_lane_cancel(struct slice_lane *lane);
/* So much of the stream is out that a launch had better wait: what others may want back soon is not launched ahead. */
bool slice_lane_is_full(const struct slice_lane *lane);
/* So many launches go without a batch: charge what their like cost. */
void slice_lane_unmeasured(struct slice_lane *lane, bool alone, unsigned launches);
/* End all open batches of the context. */
void slice_context_close_all(struct slice_context *context, uint64_t now_ns);

/* Charge what has finished. Returns how many batches did. */
unsigned slice_context_harvest(struct slice_context *context, uint64_t now_ns);
/* Since when work is out in this process on the context's device (0: none), and till when it is expected to be. */
void slice_context_outlook(const struct slice_context *context, uint64_t now_ns, uint64_t *ret_open_ns,
                           uint64_t *ret_expect_ns);

bool slice_stream_is_capturing(CUstream stream);
struct slice_context *slice_context_of(CUcontext handle);
/* Forget the context with its lanes and events, which are dead or about to be. */
void slice_context_forget(struct slice_context *context);
void slice_context_forget_primary(CUdevice ordinal);
/* A child of fork. */
void slice_lane_forget_all(void);

#endif
