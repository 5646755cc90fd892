#include "limiter_lane.h"

#include <string.h>

#include "limiter_device.h"

#define PROBES 8
#define CREEP 0.0001                             /* clocks of card and host drift apart by less than this */
#define WEIGHT_NEW 0.25

/* About 160 KiB of zeroes that are touched only where the limiter is used. */
static struct {
        _Atomic uint32_t epoch;
        atomic_flag lock;
        struct slice_context contexts[SLICE_CONTEXTS];
        struct slice_lane lanes[SLICE_LANES];
} all = { .lock = ATOMIC_FLAG_INIT };

static _Thread_local struct {
        struct slice_lane *lane;
        uint32_t epoch;
} cached __attribute__((tls_model("initial-exec")));

bool slice_limiter_try_lock(void)
{
        return !atomic_flag_test_and_set_explicit(&all.lock, memory_order_acquire);
}

void slice_limiter_unlock(void)
{
        atomic_flag_clear_explicit(&all.lock, memory_order_release);
}

uint32_t slice_lane_epoch(void)
{
        return atomic_load_explicit(&all.epoch, memory_order_acquire);
}

struct slice_lane *slice_lane_cached(CUcontext context, CUstream stream, const void *thread)
{
        struct slice_lane *lane = cached.lane;

        /* A lane that another thread gave to another stream meanwhile compares unequal, or is ours again. */
        if (lane && cached.epoch == slice_lane_epoch() && lane->context == context && lane->stream == stream &&
            lane->thread == thread)
                return lane;
        return NULL;
}

bool slice_stream_is_capturing(CUstream stream)
{
        CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;

        /* The legacy stream answers with an error while another one is captured: nothing may be recorded then either. */
        return slice_real()->cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS ||
               status != CU_STREAM_CAPTURE_STATUS_NONE;
}

struct slice_context *slice_context_of(CUcontext handle)
{
        for (size_t i = 0; i < SLICE_CONTEXTS; i++)
                if (all.contexts[i].handle == handle)
                        return &all.contexts[i];
        return NULL;
}

/* Whether the current context is its device's primary one. It is active, so that retaining it makes nothing new. */
static bool is_primary(CUcontext handle, CUdevice ordinal)
{
        unsigned flags;
        int active = 0;
        CUcontext primary = NULL;

        if (slice_real()->cuDevicePrimaryCtxGetState(ordinal, &flags, &active) != CUDA_SUCCESS || !active)
                return false;
        if (slice_real()->cuDevicePrimaryCtxRetain(&primary, ordinal) != CUDA_SUCCESS)
                return false;
        slice_real()->cuDevicePrimaryCtxRelease_v2(ordinal);
        return primary == handle;
}

/* The current context, new or known; NULL: not in this slice, or too many of them. */
static struct slice_context *current_context(CUcontext handle)
{
        struct slice_context *context = slice_context_of(handle);
        CUdevice ordinal;
        int device;

        if (context)
                return context;
        context = slice_context_of(NULL);
        if (!context || slice_real()->cuCtxGetDevice(&ordinal) != CUDA_SUCCESS)
                return NULL;
        device = slice_device_of(ordinal);
        if (device < 0)
                return NULL;
        memset(context, 0, sizeof(*context));
        context->handle = handle;
        context->device = (unsigned)device;
        context->ordinal = ordinal;
        context->primary = is_primary(handle, ordinal);
        return context;
}

struct slice_lane *slice_lane_find(CUcontext handle, CUstream stream, const void *thread)
{
        uint64_t hash = ((uint64_t)(uintptr_t)handle ^ (uint64_t)(uintptr_t)stream ^ (uint64_t)(uintptr_t)thread) *
                        UINT64_C(0x9e3779b97f4a7c15);
        struct slice_lane *lane = NULL;
        struct slice_context *context = current_context(handle);

        if (!context || context->broken)
                return NULL;
        for (unsigned i = 0; i < PROBES; i++) {
                struct slice_lane *here = &all.lanes[((hash >> 40) + i) % SLICE_LANES];
                if (here->context == handle && here->stream == stream && here->thread == thread) {
                        lane = here;
                        goto found;
                }
                /* Free, or of a stream that has nothing out and was quiet for longest. */
                if (!lane || (lane->context && (!here->context || here->last_ns < lane->last_ns)))
                        lane = here->start || here->out ? lane : here;
        }
        if (!lane || lane->start || lane->out)
                return NULL;
        memset(lane, 0, sizeof(*lane));
        lane->context = handle;
        lane->stream = stream;
        lane->thread = thread;
        lane->home = context;
        lane->device = context->device;
        lane->target = 1;
found:
        cached.lane = lane;
        cached.epoch = slice_lane_epoch();
        return lane;
}

static CUevent take_event(struct slice_context *context)
{
        CUevent event = NULL;

        if (context->pooled > 0)
                return context->pool[--context->pooled];
        if (slice_real()->cuEventCreate(&event, CU_EVENT_DEFAULT) != CUDA_SUCCESS) {
                context->broken = true;
                return NULL;
        }
        return event;
}

static void give_event(struct slice_context *context, CUevent event)
{
        if (!event)
                return;
        if (context->pooled < SLICE_BATCHES)
                context->pool[context->pooled++] = event;
        else
                slice_real()->cuEventDestroy_v2(event);
}

static int64_t expected_cost(const struct slice_lane *lane, bool alone, unsigned launches)
{
        return (int64_t)(alone ? lane->alone_ns : lane->each_ns * launches);
}

bool slice_lane_is_full(const struct slice_lane *lane)
{
        if (lane->out < SLICE_OUT_MOST || lane->home->broken || lane->stalled)
                return false;
        return !slice_device_is_ours_alone(lane->device) || lane->out_ns >= SLICE_OUT_ALONE_NS ||
               lane->home->out_count >= SLICE_BATCHES / 2;
}

void slice_lane_unmeasured(struct slice_lane *lane, bool alone, unsigned launches)
{
        int64_t cost = expected_cost(lane, alone, launches);

        slice_device_reserve(lane->device, cost);
        slice_device_charge_estimate(lane->device, cost);
}

bool slice_lane_open(struct slice_lane *lane, bool alone, uint64_t now_ns)
{
        unsigned planned = alone ? 1 : lane->target;
        bool possible = !lane->home->broken && lane->home->out_count < SLICE_BATCHES;
        CUevent event = possible ? take_event(lane->home) : NULL;

        if (!event)
                return false;
        if (slice_real()->cuEventRecord(event, lane->stream) != CUDA_SUCCESS) {
                give_event(lane->home, event);
                return false;
        }
        lane->start = event;
        lane->next_open = lane->home->open;
        lane->home->open = lane;
        lane->planned = planned;
        lane->alone = alone;
        lane->opened_ns = now_ns;
        lane->reserved_ns = expected_cost(lane, alone, planned);
        slice_device_reserve(lane->device, lane->reserved_ns);
        atomic_store_explicit(&lane->paused, false, memory_order_relaxed);
        atomic_store_explicit(&lane->last_ns, now_ns, memory_order_relaxed);
        /* Launches of other threads join from here on; the lock orders the rest. */
        atomic_store_explicit(&lane->left, (int)planned - 1, memory_order_relaxed);
        return true;
}

/* How many launches the open batch got, and no more come. It is open no longer; its start is the caller's. */
static unsigned end_batch(struct slice_lane *lane, CUevent *ret_start)
{
        struct slice_lane **link = &lane->home->open;

        while (*link && *link != lane)
                link = &(*link)->next_open;
        if (*link)
                *link = lane->next_open;
        *ret_start = lane->start;
        lane->start = NULL;
        int left = atomic_exchange_explicit(&lane->left, 0, memory_order_relaxed);

        return left > 0 && (unsigned)left < lane->planned ? lane->planned - (unsigned)left : lane->planned;
}

/* Reserved was for `planned` launches: give back what the missing ones would have cost. */
static void shrink_reserve(struct slice_lane *lane, unsigned launches)
{
        int64_t cost = expected_cost(lane, lane->alone, launches);

        if (cost < lane->reserved_ns) {
                slice_device_unreserve(lane->device, lane->reserved_ns - cost);
                lane->reserved_ns = cost;
        }
}

void slice_lane_abandon(struct slice_lane *lane)
{
        CUevent start;
        unsigned launches = end_batch(lane, &start);

        shrink_reserve(lane, launches);
        slice_device_charge_estimate(lane->device, lane->reserved_ns);
        give_event(lane->home, start);
        /* The program pauses after so many: a batch of that length ends before the pause. */
        if (!lane->alone)
                lane->target = launches;
}

void slice_lane_cancel(struct slice_lane *lane)
{
        CUevent start;

        end_batch(lane, &start);
        slice_device_unreserve(lane->device, lane->reserved_ns);
        give_event(lane->home, start);
}

void slice_lane_close(struct slice_lane *lane, uint64_t now_ns)
{
        struct slice_context *context = lane->home;
        CUevent end = NULL, start;

        if (slice_stream_is_capturing(lane->stream) || context->out_count == SLICE_BATCHES ||
            !(end = take_event(context)))
                goto unmeasured;
        if (slice_real()->cuEventRecord(end, lane->stream) != CUDA_SUCCESS)
                goto unmeasured;
        unsigned launches = end_batch(lane, &start);
        shrink_reserve(lane, launches);
        context->out[context->out_count++] = (struct slice_batch){
                .lane = lane, .start = start, .end = end, .recorded_ns = now_ns, .reserved_ns = lane->reserved_ns,
                .launches = launches, .alone = lane->alone,
                .paused = atomic_load_explicit(&lane->paused, memory_order_relaxed),
        };
        lane->out++;
        lane->out_ns += lane->reserved_ns;
        return;
unmeasured:
        give_event(context, end);
        slice_lane_abandon(lane);
}

void slice_context_close_all(struct slice_context *context, uint64_t now_ns)
{
        while (context->open)
                slice_lane_close(context->open, now_ns);
}

/* Learn from a batch that took `cost_ns`. Paused batches teach nothing. */
static void learn(struct slice_lane *lane, const struct slice_batch *batch, double cost_ns)
{
        double *average = batch->alone ? &lane->alone_ns : &lane->each_ns;
        double each = cost_ns / batch->launches;

        if (batch->paused)
                return;
        *average = *average == 0 ? each : *average + (each - *average) * WEIGHT_NEW;
        if (batch->alone)
                return;
        /* Beside others shorter ones: more of them fit between two turns of somebody else, and show what launches cost. */
        double length = slice_device_sharers(lane->device) ? SLICE_BATCH_SHARED_NS : SLICE_BATCH_NS;
        double target = *average > 0 ? length / *average : SLICE_BATCH_MOST;
        /* Twice as many at most: the first measurement is of few. */
        unsigned most = lane->target * 2;
        lane->target = target < 1 ? 1 : target > SLICE_BATCH_MOST ? SLICE_BATCH_MOST : (unsigned)target;
        if (lane->target > most)
                lane->target = most;
}

/* The host's time of `end`, which has passed, and move the mark there. */
static double host_time(struct slice_context *context, const struct slice_batch *batch, uint64_t now_ns)
{
        float since_ms = 0;
        double at;

        if (context->mark && slice_real()->cuEventElapsedTime(&since_ms, context->mark, batch->end) != CUDA_SUCCESS)
                since_ms = 0;
        at = context->mark_ns + (double)since_ms * 1e6;
        /* It has passed by now, so now - at bounds the offset from above; it was recorded before it passed: from below. */
        double most = (double)now_ns - at, least = (double)batch->recorded_ns - at;
        double offset = context->offset_ns + CREEP * (double)(now_ns - context->offset_at_ns);
        if (!context->mark || offset > most)
                offset = most;
        if (offset < least)
                offset = least;
        context->offset_ns = offset;
        context->offset_at_ns = now_ns;
        return at;
}

static void move_mark(struct slice_context *context, CUevent end, double at)
{
        if (context->mark && at < context->mark_ns) {
                give_event(context, end);        /* batches of two streams may end in any order */
                return;
        }
        give_event(context, context->mark);
        context->mark = end;
        context->mark_ns = at;
}

static void settle(struct slice_context *context, struct slice_batch *batch, uint64_t now_ns)
{
        struct slice_lane *lane = batch->lane;
        float elapsed_ms = 0;

        lane->out--;
        lane->out_ns -= batch->reserved_ns;
        lane->stalled = false;
        if (slice_real()->cuEventElapsedTime(&elapsed_ms, batch->start, batch->end) != CUDA_SUCCESS || elapsed_ms < 0) {
                slice_device_charge_estimate(context->device, batch->reserved_ns);
                give_event(context, batch->start);
                give_event(context, batch->end);
                return;
        }
        double elapsed = (double)elapsed_ms * 1e6;
        double at = host_time(context, batch, now_ns);
        /* A pause of the program is no time of the device: what its like cost says more, where it is less. */
        if (batch->paused && batch->reserved_ns > 0 && elapsed > (double)batch->reserved_ns)
                elapsed = (double)batch->reserved_ns;
        double end = at + context->offset_ns;
        struct slice_span span = { (uint64_t)(end > elapsed ? end - elapsed : 0), (uint64_t)end };
        int64_t cost = slice_device_charge(context->device, batch->alone ? &lane->alone_cost : &lane->each_cost,
                                           batch->launches, batch->reserved_ns, span, now_ns);
        learn(lane, batch, (double)cost);
        give_event(context, batch->start);
        move_mark(context, batch->end, at);
}

unsigned slice_context_harvest(struct slice_context *context, uint64_t now_ns)
{
        unsigned kept = 0, finished = 0, count = context->out_count;

        for (unsigned i = 0; i < count; i++) {
                struct slice_batch batch = context->out[i];
                CUresult r = context->broken ? CUDA_ERROR_UNKNOWN : slice_real()->cuEventQuery(batch.end);
                if (r == CUDA_ERROR_NOT_READY) {
                        context->out[kept++] = batch;
                        continue;
                }
                finished++;
                if (r == CUDA_SUCCESS) {
                        settle(context, &batch, now_ns);
                        continue;
                }
                /* The context is in error (an illegal address, a card that fell off): it launches nothing more. */
                context->broken = true;
                batch.lane->out--;
                batch.lane->out_ns -= batch.reserved_ns;
                slice_device_charge_estimate(context->device, batch.reserved_ns);
        }
        context->out_count = kept;
        return finished;
}

void slice_context_outlook(const struct slice_context *context, uint64_t now_ns, uint64_t *ret_open_ns,
                           uint64_t *ret_expect_ns)
{
        uint64_t open_ns = 0;
        int64_t expected = 0;

        for (const struct slice_lane *lane = context->open; lane; lane = lane->next_open)
                if (!open_ns || lane->opened_ns < open_ns)
                        open_ns = lane->opened_ns;
        for (unsigned i = 0; i < context->out_count; i++) {
                expected += context->out[i].reserved_ns;
                if (!open_ns || context->out[i].recorded_ns < open_ns)
                        open_ns = context->out[i].recorded_ns;
        }
        *ret_open_ns = open_ns;
        *ret_expect_ns = now_ns + (uint64_t)expected * 4;
}

void slice_context_forget(struct slice_context *context)
{
        for (size_t i = 0; i < SLICE_LANES; i++) {
                struct slice_lane *lane = &all.lanes[i];
                if (lane->context != context->handle)
                        continue;
                if (lane->start)
                        slice_device_charge_estimate(lane->device, lane->reserved_ns);
                memset(lane, 0, sizeof(*lane));
        }
        for (unsigned i = 0; i < context->out_count; i++)
                slice_device_charge_estimate(context->device, context->out[i].reserved_ns);
        memset(context, 0, sizeof(*context));
        /* Threads that still hold one of these lanes see that it is another's now. */
        atomic_fetch_add_explicit(&all.epoch, 1, memory_order_release);
}

void slice_context_forget_primary(CUdevice ordinal)
{
        for (size_t i = 0; i < SLICE_CONTEXTS; i++)
                if (all.contexts[i].handle && all.contexts[i].primary && all.contexts[i].ordinal == ordinal)
                        slice_context_forget(&all.contexts[i]);
}

void slice_lane_forget_all(void)
{
        memset(all.contexts, 0, sizeof(all.contexts));
        memset(all.lanes, 0, sizeof(all.lanes));
        atomic_fetch_add_explicit(&all.epoch, 1, memory_order_release);
        slice_limiter_unlock();
}
