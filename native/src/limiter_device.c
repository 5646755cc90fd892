#include "limiter_device.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "account.h"

#define SHARE_STEP_NS UINT64_C(10000000)         /* how old the share in force may be */
#define PUBLISH_STEP_NS UINT64_C(1000000)
#define LOOK_STEP_NS UINT64_C(1000000)           /* how old our picture of the others may be */
#define RETRY_NS UINT64_C(1000000000)            /* a node file that could not be used is tried again so often */
#define MOST_OTHERS 32
#define BLIND 0.98
#define PERCENT_PPM (SLICE_WHOLE / 100)

struct device_state {
        bool joined;                             /* `index` is our line in the node file */
        uint32_t index;
        uint64_t tried_ns;
        uint64_t published_ns;
        uint64_t looked_ns;
        size_t other_count;
        _Atomic uint64_t charged_here_ns;
        struct slice_node_line line;             /* ours, as published last */
        struct slice_node_line others[MOST_OTHERS];
};

/* Written under the limiter's lock; the node file is opened once for all devices. */
static struct {
        struct slice_node node;
        bool opened;
        uint64_t open_tried_ns;
        struct device_state device[SLICE_MAX_DEVICES];
} all;

uint64_t slice_now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* The bucket is a view of the region's words for the limiter: 32 of 8 bytes. */
static struct slice_bucket *bucket_of(unsigned device)
{
        _Static_assert(sizeof(struct slice_bucket) <= 32 * sizeof(uint64_t), "what region.h keeps for us");

        return (struct slice_bucket *)(void *)slice_limiter_words(device);
}

static const struct slice_device_limit *limit_of(const struct slice_settings *settings, unsigned device)
{
        return settings && (int)device < settings->device_count ? &settings->device[device] : NULL;
}

bool slice_device_limited(unsigned device)
{
        const struct slice_settings *settings = slice_settings_now();
        const struct slice_device_limit *limit = limit_of(settings, device);

        return limit && settings->policy != SLICE_OFF && limit->cores_pct < 100 && bucket_of(device);
}

/* The share in force. Under `fair` it was worked out at most SHARE_STEP_NS ago, by whoever of the slice came by. */
static uint32_t share_of(unsigned device, struct slice_bucket *bucket)
{
        const struct slice_settings *settings = slice_settings_now();
        const struct slice_device_limit *limit = limit_of(settings, device);
        uint32_t guarantee = limit ? limit->cores_pct * PERCENT_PPM : SLICE_WHOLE;

        if (!settings || settings->policy != SLICE_FAIR)
                return guarantee;
        uint32_t share = atomic_load_explicit(&bucket->share_ppm, memory_order_relaxed);
        return share < guarantee || share > SLICE_WHOLE ? guarantee : share;
}

bool slice_device_is_ours_alone(unsigned device)
{
        struct slice_bucket *bucket = bucket_of(device);

        return bucket && share_of(device, bucket) == SLICE_WHOLE;
}

int64_t slice_device_wait(unsigned device, uint64_t now_ns)
{
        struct slice_bucket *bucket = bucket_of(device);

        if (!bucket)
                return 0;
        int64_t wait = slice_bucket_wait(bucket, now_ns, share_of(device, bucket));
        return slice_device_is_ours_alone(device) ? 0 : wait;
}

void slice_device_want(unsigned device, uint64_t now_ns)
{
        struct slice_bucket *bucket = bucket_of(device);

        if (bucket)
                slice_bucket_want(bucket, now_ns);
}

void slice_device_reserve(unsigned device, int64_t expected_ns)
{
        struct slice_bucket *bucket = bucket_of(device);

        if (bucket)
                slice_bucket_reserve(bucket, expected_ns);
}

void slice_device_unreserve(unsigned device, int64_t reserved_ns)
{
        struct slice_bucket *bucket = bucket_of(device);

        if (bucket)
                slice_bucket_unreserve(bucket, reserved_ns);
}

/* Open the node file and take a line for the device. False: there is none to be had, now. */
static bool join(unsigned device, uint64_t now_ns)
{
        struct device_state *state = &all.device[device];
        const struct slice_settings *settings = slice_settings_now();
        const struct slice_device_limit *limit = limit_of(settings, device);

        if (state->joined)
                return true;
        if (!limit || (state->tried_ns != 0 && now_ns - state->tried_ns < RETRY_NS))
                return false;
        state->tried_ns = now_ns;
        if (!all.opened) {
                if (settings->node_path[0] == '\0' || slice_node_open(&all.node, settings->node_path) < 0)
                        return false;
                all.opened = true;
        }
        if (slice_node_join(&all.node, &state->index) < 0)
                return false;
        state->joined = true;
        state->line = (struct slice_node_line){
                .uuid_hash = slice_node_hash(limit->uuid),
                .slice_hash = slice_node_hash(settings->slice),
        };
        return true;
}

/* Work out the share in force, when it is our turn. */
static void lend(unsigned device, struct slice_bucket *bucket, uint64_t now_ns)
{
        struct slice_claim claims[MOST_OTHERS + 1];
        struct device_state *state = &all.device[device];
        const struct slice_settings *settings = slice_settings_now();
        uint64_t old = atomic_load_explicit(&bucket->share_at_ns, memory_order_relaxed);

        if (!settings || settings->policy != SLICE_FAIR || (old <= now_ns && now_ns - old < SHARE_STEP_NS) ||
            !atomic_compare_exchange_strong_explicit(&bucket->share_at_ns, &old, now_ns, memory_order_relaxed,
                                                     memory_order_relaxed))
                return;
        uint32_t share = limit_of(settings, device)->cores_pct * PERCENT_PPM;
        if (state->joined) {
                size_t count = slice_node_claims(&state->line, state->others, state->other_count, now_ns, claims,
                                                 MOST_OTHERS + 1);
                share = slice_fair_share(claims, count, 0);
        }
        if (share < atomic_exchange_explicit(&bucket->share_ppm, share, memory_order_relaxed))
                slice_bucket_forfeit(bucket, SLICE_WAIT_NS);
}

static void look(unsigned device, uint64_t now_ns)
{
        struct device_state *state = &all.device[device];

        if (!state->joined || now_ns - state->looked_ns < LOOK_STEP_NS)
                return;
        state->looked_ns = now_ns;
        state->other_count = slice_node_read(&all.node, state->index, state->line.uuid_hash, now_ns, state->others,
                                             MOST_OTHERS);
}

void slice_device_publish(unsigned device, uint64_t now_ns, uint64_t open_ns, uint64_t expect_ns)
{
        struct device_state *state = &all.device[device];
        struct slice_bucket *bucket = bucket_of(device);
        const struct slice_settings *settings = slice_settings_now();
        const struct slice_device_limit *limit = limit_of(settings, device);

        if (!bucket || !limit || (now_ns - state->published_ns < PUBLISH_STEP_NS && (open_ns == 0) == (state->line.open_ns == 0)))
                return;
        slice_bucket_measure(bucket, now_ns);
        if (join(device, now_ns)) {
                struct slice_node_line *line = &state->line;
                line->used_ns = now_ns;
                line->share_ppm = limit->cores_pct * PERCENT_PPM;
                line->weight = limit->weight;
                line->priority = (uint32_t)settings->priority;
                line->use_ppm = atomic_load_explicit(&bucket->use_ppm, memory_order_relaxed);
                line->wanted_ns = atomic_load_explicit(&bucket->wanted_ns, memory_order_relaxed);
                line->open_ns = open_ns;
                line->expect_ns = expect_ns;
                slice_node_publish(&all.node, state->index, line);
                state->published_ns = now_ns;
        }
        look(device, now_ns);
        lend(device, bucket, now_ns);
}

int64_t slice_device_charge(unsigned device, struct slice_cost *cost, unsigned launches, int64_t reserved_ns,
                            struct slice_span span, uint64_t now_ns)
{
        struct device_state *state = &all.device[device];
        struct slice_bucket *bucket = bucket_of(device);

        if (!bucket)
                return 0;
        look(device, now_ns);
        /* Our own open work is no stretch that was charged. */
        uint64_t open_ns = state->line.open_ns;
        state->line.open_ns = 0;
        double elapsed = (double)slice_node_own_time(span, &state->line, NULL, 0, now_ns);
        double even = (double)slice_node_own_time(span, &state->line, state->others, state->other_count, now_ns);
        /* Who cannot see the others reckons with them. */
        if (!state->joined)
                even = elapsed * BLIND;
        state->line.open_ns = open_ns;
        double taken = slice_cost_of(cost, launches, elapsed, even);
        slice_node_add_span(&state->line, span, (uint64_t)taken);
        int64_t own = slice_bucket_settle(bucket, reserved_ns, (int64_t)taken);
        slice_add_gpu_time(device, (uint64_t)own);
        atomic_fetch_add_explicit(&state->charged_here_ns, (uint64_t)own, memory_order_relaxed);
        return own;
}

void slice_device_charge_estimate(unsigned device, int64_t reserved_ns)
{
        struct slice_bucket *bucket = bucket_of(device);

        if (!bucket || reserved_ns <= 0)
                return;
        /* Settled against itself: the balance stays, the sums of GPU time learn of it. */
        atomic_fetch_add_explicit(&bucket->charged_ns, (uint64_t)reserved_ns, memory_order_relaxed);
        slice_add_gpu_time(device, (uint64_t)reserved_ns);
        atomic_fetch_add_explicit(&all.device[device].charged_here_ns, (uint64_t)reserved_ns, memory_order_relaxed);
}

uint64_t slice_device_charged_here(unsigned device)
{
        return atomic_load_explicit(&all.device[device].charged_here_ns, memory_order_relaxed);
}

void slice_device_calibrate(unsigned device, int64_t seen_ns, int64_t charged_ns)
{
        struct slice_bucket *bucket = bucket_of(device);

        if (bucket)
                slice_bucket_calibrate(bucket, seen_ns, charged_ns);
}

unsigned slice_device_sharers(unsigned device)
{
        return (unsigned)all.device[device].other_count;
}

void slice_device_forget_all(void)
{
        /* Closing our copy of the descriptor leaves the parent's locks alone. */
        if (all.opened)
                slice_node_close(&all.node);
        memset(&all, 0, sizeof(all));
}
