/*
 * limiter: the core limit. Measures what the program launches, charges it to the slice's bucket, and lets launches wait.
 *
 * Promise: over a second or more the slice uses its share of the device's time and no more (cap), or its share and what others
 * leave (fair), whatever the length of its kernels and the number of its processes, threads and streams; launches go to the
 * driver unchanged and in the caller's order, and what they return is the driver's answer. A launch waits only while the slice
 * is in debt, or while three batches of its stream are out and they make progress.
 *
 * How: launches into one stream are grouped into batches of about 2 ms of GPU time. An event is recorded before the first and
 * after the last launch; when the second has passed, the time between them is charged. The batch's expected cost is reserved
 * when it is opened, so that a batch that cannot be measured (its stream is being captured, its end was never recorded, another
 * thread is busy in here) still costs what its like cost before.
 *
 * No thread of our own: batches end at a synchronising call, at their last launch, or, when the program went away in between,
 * at its next launch (they are then charged by estimate, so that the pause costs nothing).
 *
 * Locks: one lock per process, only ever tried: who does not get it goes on unmeasured. It is held across driver calls that do
 * not block, never while waiting. So nothing here can take part in a deadlock, from whatever thread or callback it is called.
 * A child of fork starts with nothing of this (it may not use its parent's contexts).
 */
#ifndef SLICE_LIMITER_H
#define SLICE_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "state.h"

enum slice_launch_kind {
        SLICE_LAUNCH_KERNEL,                     /* one of a batch */
        SLICE_LAUNCH_ALONE,                      /* a batch of its own: graphs, cooperative launches */
};

struct slice_lane;

/* A launch on its way; lives on the caller's stack between begin and end. */
struct slice_launch {
        struct slice_lane *lane;                 /* NULL: not measured */
        uint32_t epoch;
        bool opened;                             /* it is its batch's first */
        bool last;                               /* it is its batch's last */
};

/* Launches that this thread may still pass to the driver without asking: many where no core limit holds. A launch hook's one
 * predicted branch. */
extern _Thread_local unsigned slice_launch_free __attribute__((visibility("hidden"), tls_model("initial-exec")));
/* Our index of the device that the thread launched on last. */
extern _Thread_local unsigned slice_launch_device __attribute__((visibility("hidden"), tls_model("initial-exec")));

/* Counts like slice_note_launch(), but leaves the stamp to the launch that asks: without a call in it the hook stays a leaf,
 * which jumps to the driver with the caller's arguments where they are. */
static inline bool slice_launch_is_free(void)
{
        if (__builtin_expect(slice_launch_free == 0, 0))
                return false;
        slice_launch_free--;
        struct slice_line *line = slice_here->line[slice_launch_device % SLICE_MAX_DEVICES];
        if (__builtin_expect(line != NULL, 1))
                atomic_store_explicit(&line->launches, atomic_load_explicit(&line->launches, memory_order_relaxed) + 1,
                                      memory_order_relaxed);
        return true;
}

/*
 * Before a launch into `stream` of the current context; waits while the slice must. `per_thread`: 0 as a stream means the
 * calling thread's default stream (the _ptsz variants). Always followed by slice_launch_end with the driver's answer.
 */
void slice_launch_begin(struct slice_launch *ret, CUstream stream, bool per_thread, enum slice_launch_kind kind);
void slice_launch_end(struct slice_launch *launch, CUresult result);

/* Before a call that waits for work of the current context: end the open batches. */
void slice_limiter_sync_begin(void);
/* After it: charge what has finished. */
void slice_limiter_sync_end(void);

/* `context` is about to be destroyed, or the primary context of `device` reset: its events go with it. Before the call. */
void slice_limiter_context_gone(CUcontext context);
void slice_limiter_primary_gone(CUdevice device);
/* After cuDevicePrimaryCtxRelease: the same where that was the last reference. */
void slice_limiter_primary_released(CUdevice device);

#endif
