#include "limiter.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "limiter_device.h"
#include "limiter_lane.h"
#include "limiter_truth.h"

#define FREE_LAUNCHES 64                         /* how long a thread may go on before it looks for new settings */
#define STALL_NS UINT64_C(100000000)             /* a stream that makes no progress for so long waits for something else */
#define LOOK_NS INT64_C(200000)                  /* how often a wait looks at what has finished */

_Thread_local unsigned slice_launch_free;
_Thread_local unsigned slice_launch_device;

/* Its address tells threads apart. */
static _Thread_local char thread_mark __attribute__((tls_model("initial-exec")));

static void after_fork(void)
{
        slice_lane_forget_all();
        slice_device_forget_all();
        slice_launch_free = 0;
}

static void register_fork(void)
{
        pthread_atfork(NULL, NULL, after_fork);
}

static void sleep_ns(int64_t ns)
{
        struct timespec pause = { .tv_sec = 0, .tv_nsec = ns };

        /* A signal ends the wait early: whoever waits looks again. */
        int kept = errno;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        errno = kept;
}

/* Our own calls must not disturb a capture of the program: queries are forbidden while one runs in global mode. */
struct relaxed {
        CUstreamCaptureMode mode;
        bool exchanged;
};

static bool enter(struct relaxed *ret)
{
        if (!slice_limiter_try_lock())
                return false;
        ret->mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        ret->exchanged = slice_real()->cuThreadExchangeStreamCaptureMode(&ret->mode) == CUDA_SUCCESS;
        return true;
}

static void leave(struct relaxed *relaxed)
{
        if (relaxed->exchanged)
                slice_real()->cuThreadExchangeStreamCaptureMode(&relaxed->mode);
        slice_limiter_unlock();
}

/* Under the lock: charge what has finished, and tell the node. */
static void catch_up(struct slice_context *context)
{
        uint64_t open_ns, expect_ns, now_ns = slice_now_ns();

        slice_context_harvest(context, now_ns);
        slice_context_outlook(context, now_ns, &open_ns, &expect_ns);
        slice_device_publish(context->device, now_ns, open_ns, expect_ns);
}

/* Without the lock: wait while the slice is in debt, or while too many batches of the stream are out and they make progress. */
static void wait_turn(struct slice_lane *lane, CUcontext context, uint32_t epoch)
{
        unsigned device = lane->device;
        uint64_t progress_ns = slice_now_ns(), now_ns = progress_ns;

        for (;;) {
                int64_t wait = slice_device_wait(device, now_ns);
                bool full = false;
                struct relaxed relaxed;
                if (epoch != slice_lane_epoch())
                        return;
                if (enter(&relaxed)) {
                        struct slice_context *home = slice_context_of(context);
                        unsigned out = lane->out;
                        if (home && epoch == slice_lane_epoch()) {
                                catch_up(home);
                                if (lane->out < out)
                                        progress_ns = now_ns;
                                if (now_ns - progress_ns > STALL_NS)
                                        lane->stalled = true;
                                full = slice_lane_is_full(lane);
                        }
                        leave(&relaxed);
                        wait = slice_device_wait(device, now_ns);
                }
                if (full)
                        slice_device_want(device, now_ns);
                if (now_ns - progress_ns > 2 * STALL_NS)
                        full = false;    /* nobody let us in for so long, either */
                if (wait == 0 && !full)
                        return;
                if (full && (wait == 0 || wait > LOOK_NS))
                        wait = LOOK_NS;
                sleep_ns(wait);
                slice_tidy();
                now_ns = slice_now_ns();
                slice_limiter_check(device, now_ns);
        }
}

/* Under the lock, with a stream that is not capturing: open a batch, or leave the launch unmeasured. */
static void open_batch(struct slice_launch *ret, struct slice_lane *lane, bool alone)
{
        if (lane->start)
                return;                          /* another thread opened it meanwhile: we are inside it */
        if (slice_lane_is_full(lane) || !slice_lane_open(lane, alone, slice_now_ns())) {
                slice_lane_unmeasured(lane, alone, 1);
                return;
        }
        ret->opened = true;
        ret->last = alone || lane->planned == 1;
}

/* What went before in this stream is over: a batch that is still open ends here, or ended at a pause long ago. */
static void end_former(struct slice_lane *lane, bool paused, uint64_t now_ns)
{
        if (!lane->start)
                return;
        if (paused)
                slice_lane_abandon(lane);
        else
                slice_lane_close(lane, now_ns);
}

static void begin_slow(struct slice_launch *ret, CUcontext context, CUstream stream, const void *thread, bool alone)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        struct relaxed relaxed;
        struct slice_lane *lane;
        uint64_t now_ns = slice_now_ns();

        pthread_once(&once, register_fork);
        slice_tidy();
        if (!enter(&relaxed))
                return;
        lane = slice_lane_find(context, stream, thread);
        if (!lane || slice_stream_is_capturing(stream)) {
                leave(&relaxed);
                return;
        }
        uint64_t last_ns = atomic_load_explicit(&lane->last_ns, memory_order_relaxed);
        end_former(lane, now_ns > last_ns && now_ns - last_ns > SLICE_PAUSE_NS, now_ns);
        catch_up(lane->home);
        uint32_t epoch = slice_lane_epoch();
        bool must_wait = slice_lane_is_full(lane) || slice_device_wait(lane->device, now_ns) > 0;
        if (must_wait) {
                leave(&relaxed);
                wait_turn(lane, context, epoch);
                if (!enter(&relaxed))
                        return;
        }
        if (epoch == slice_lane_epoch() && lane->context == context && lane->stream == stream && lane->thread == thread &&
            !slice_stream_is_capturing(stream)) {
                ret->lane = lane;
                ret->epoch = epoch;
                open_batch(ret, lane, alone);
        }
        leave(&relaxed);
}

/* Whether a launch without a core limit may go, and many after it. */
static bool is_unlimited(void)
{
        int device = slice_current_device(NULL);

        if (device >= 0) {
                slice_launch_device = (unsigned)device;
                if (slice_device_limited((unsigned)device))
                        return false;
                slice_note_launch((unsigned)device);
                slice_stamp_launches();
                slice_tidy();
        }
        slice_launch_free = FREE_LAUNCHES;
        return true;
}

/* The launch joins the open batch of its stream: true, and `last` says whether it ends it. */
static bool join_batch(struct slice_launch *ret, struct slice_lane *lane, uint64_t now_ns)
{
        uint64_t last_ns = atomic_load_explicit(&lane->last_ns, memory_order_relaxed);

        if (atomic_load_explicit(&lane->left, memory_order_relaxed) <= 0 ||
            (now_ns > last_ns && now_ns - last_ns > SLICE_PAUSE_NS))
                return false;
        int left = atomic_fetch_sub_explicit(&lane->left, 1, memory_order_relaxed);
        if (left <= 0)
                return false;                    /* another thread was faster; what is below zero reads as zero */
        ret->lane = lane;
        ret->epoch = slice_lane_epoch();
        ret->last = left == 1;
        atomic_store_explicit(&lane->last_ns, now_ns, memory_order_relaxed);
        return true;
}

void slice_launch_begin(struct slice_launch *ret, CUstream stream, bool per_thread, enum slice_launch_kind kind)
{
        CUcontext context = NULL;

        *ret = (struct slice_launch){ 0 };
        if (per_thread && stream == NULL)
                stream = CU_STREAM_PER_THREAD;
        else if (stream == CU_STREAM_LEGACY)
                stream = NULL;
        const void *thread = stream == CU_STREAM_PER_THREAD ? &thread_mark : NULL;
        if (slice_real()->cuCtxGetCurrent(&context) != CUDA_SUCCESS || !context)
                return;
        struct slice_lane *lane = slice_lane_cached(context, stream, thread);
        if (lane && kind == SLICE_LAUNCH_KERNEL && join_batch(ret, lane, slice_now_ns())) {
                slice_note_launch(lane->device);
                return;
        }
        if (is_unlimited())
                return;
        slice_note_launch(slice_launch_device);
        begin_slow(ret, context, stream, thread, kind == SLICE_LAUNCH_ALONE);
}

void slice_launch_end(struct slice_launch *launch, CUresult result)
{
        struct slice_lane *lane = launch->lane;
        struct relaxed relaxed;
        bool failed = result != CUDA_SUCCESS;

        if (!lane || (!launch->last && !failed))
                return;
        /* Nobody in here: the batch stays open, and its stream's next launch or synchronising call ends it. */
        if (!enter(&relaxed))
                return;
        if (launch->epoch == slice_lane_epoch() && lane->start) {
                uint64_t now_ns = slice_now_ns();
                if (failed && launch->opened && lane->planned == 1)
                        slice_lane_cancel(lane);
                else if (launch->last)
                        slice_lane_close(lane, now_ns);
        }
        leave(&relaxed);
}

void slice_limiter_sync_begin(void)
{
        CUcontext context = NULL;
        struct relaxed relaxed;

        if (slice_launch_free > 0 || slice_real()->cuCtxGetCurrent(&context) != CUDA_SUCCESS || !context ||
            !enter(&relaxed))
                return;
        struct slice_context *home = slice_context_of(context);
        if (home && !home->broken)
                slice_context_close_all(home, slice_now_ns());
        leave(&relaxed);
}

void slice_limiter_sync_end(void)
{
        CUcontext context = NULL;
        struct relaxed relaxed;

        slice_stamp_launches();
        if (slice_launch_free > 0 || slice_real()->cuCtxGetCurrent(&context) != CUDA_SUCCESS || !context ||
            !enter(&relaxed))
                return;
        struct slice_context *home = slice_context_of(context);
        if (home)
                catch_up(home);
        leave(&relaxed);
}

/* Forgetting cannot be put off: the events die with the context. Holders of the lock never block, so this is short. */
static void lock_surely(void)
{
        while (!slice_limiter_try_lock())
                sleep_ns(20000);
}

void slice_limiter_context_gone(CUcontext handle)
{
        if (!handle)
                return;
        lock_surely();
        struct slice_context *context = slice_context_of(handle);
        if (context)
                slice_context_forget(context);
        slice_limiter_unlock();
}

void slice_limiter_primary_gone(CUdevice device)
{
        lock_surely();
        slice_context_forget_primary(device);
        slice_limiter_unlock();
}

void slice_limiter_primary_released(CUdevice device)
{
        unsigned flags;
        int active = 1;

        if (slice_real()->cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && !active)
                slice_limiter_primary_gone(device);
}
