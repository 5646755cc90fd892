#include "bucket.h"

#define USE_WINDOW_NS UINT64_C(50000000)
#define HEADROOM_PPM 20000u                      /* a slice that grows finds this much free before others give way */

static int64_t load(_Atomic int64_t *word)
{
        return atomic_load_explicit(word, memory_order_relaxed);
}

static uint64_t load_u(_Atomic uint64_t *word)
{
        return atomic_load_explicit(word, memory_order_relaxed);
}

static void store_u(_Atomic uint64_t *word, uint64_t value)
{
        atomic_store_explicit(word, value, memory_order_relaxed);
}

static void add_capped(struct slice_bucket *bucket, int64_t ns)
{
        int64_t old = load(&bucket->balance_ns), new;

        do {
                new = old + ns > SLICE_BURST_NS ? SLICE_BURST_NS : old + ns;
                /* Settling a batch gives back what was reserved for it: that may stand above the cap, and is not taken away. */
                if (new < old)
                        return;
        } while (!atomic_compare_exchange_weak_explicit(&bucket->balance_ns, &old, new, memory_order_relaxed,
                                                        memory_order_relaxed));
}

void slice_bucket_refill(struct slice_bucket *bucket, uint64_t now_ns, uint32_t share_ppm)
{
        uint64_t old = load_u(&bucket->refilled_ns);

        if (old == 0 || old > now_ns) {
                /* New, or from before a restart of the machine: its debt was paid long ago. */
                if (old > now_ns && old - now_ns < SLICE_BURST_NS)
                        return;                  /* another processor was a little ahead */
                if (atomic_compare_exchange_strong_explicit(&bucket->refilled_ns, &old, now_ns, memory_order_relaxed,
                                                            memory_order_relaxed))
                        atomic_store_explicit(&bucket->balance_ns, SLICE_BURST_NS, memory_order_relaxed);
                return;
        }
        if (now_ns - old < SLICE_REFILL_STEP_NS)
                return;
        if (!atomic_compare_exchange_strong_explicit(&bucket->refilled_ns, &old, now_ns, memory_order_relaxed,
                                                     memory_order_relaxed))
                return;                          /* somebody else pays this stretch out */
        /* A stretch of 100 days times a million would overflow; one of 1,000 s at any share fills every sane debt. */
        uint64_t stretch = now_ns - old;
        if (stretch > UINT64_C(1000000000000))
                stretch = UINT64_C(1000000000000);
        add_capped(bucket, (int64_t)(stretch * share_ppm / SLICE_WHOLE));
}

void slice_bucket_want(struct slice_bucket *bucket, uint64_t now_ns)
{
        store_u(&bucket->wanted_ns, now_ns);
}

int64_t slice_bucket_wait(struct slice_bucket *bucket, uint64_t now_ns, uint32_t share_ppm)
{
        slice_bucket_refill(bucket, now_ns, share_ppm);
        int64_t balance = load(&bucket->balance_ns);
        if (balance >= 0)
                return 0;
        slice_bucket_want(bucket, now_ns);
        if (share_ppm == 0)
                return SLICE_WAIT_NS;
        /* Compare before multiplying: a debt has no bound. */
        if (-balance >= SLICE_WAIT_NS)
                return SLICE_WAIT_NS;
        int64_t wait = -balance * (int64_t)SLICE_WHOLE / share_ppm + 1;
        return wait > SLICE_WAIT_NS ? SLICE_WAIT_NS : wait;
}

void slice_bucket_reserve(struct slice_bucket *bucket, int64_t expected_ns)
{
        if (expected_ns > 0)
                atomic_fetch_sub_explicit(&bucket->balance_ns, expected_ns, memory_order_relaxed);
}

void slice_bucket_forfeit(struct slice_bucket *bucket, int64_t most_ns)
{
        int64_t old = load(&bucket->balance_ns);

        while (old > most_ns && !atomic_compare_exchange_weak_explicit(&bucket->balance_ns, &old, most_ns,
                                                                       memory_order_relaxed, memory_order_relaxed))
                ;
}

void slice_bucket_unreserve(struct slice_bucket *bucket, int64_t reserved_ns)
{
        if (reserved_ns > 0)
                atomic_fetch_add_explicit(&bucket->balance_ns, reserved_ns, memory_order_relaxed);
}

int64_t slice_bucket_settle(struct slice_bucket *bucket, int64_t expected_ns, int64_t actual_ns)
{
        uint32_t factor = atomic_load_explicit(&bucket->factor_ppm, memory_order_relaxed);

        if (actual_ns < 0)
                actual_ns = 0;
        if (factor >= SLICE_FACTOR_LEAST && factor <= SLICE_FACTOR_MOST)
                actual_ns = (int64_t)((double)actual_ns * factor / SLICE_FACTOR_ONE);
        if (expected_ns < 0)
                expected_ns = 0;
        atomic_fetch_add_explicit(&bucket->balance_ns, expected_ns - actual_ns, memory_order_relaxed);
        atomic_fetch_add_explicit(&bucket->charged_ns, (uint64_t)actual_ns, memory_order_relaxed);
        return actual_ns;
}

bool slice_bucket_measure(struct slice_bucket *bucket, uint64_t now_ns)
{
        uint64_t began = load_u(&bucket->use_at_ns), charged = load_u(&bucket->charged_ns);

        if (began != 0 && began <= now_ns && now_ns - began < USE_WINDOW_NS)
                return false;
        if (!atomic_compare_exchange_strong_explicit(&bucket->use_at_ns, &began, now_ns, memory_order_relaxed,
                                                     memory_order_relaxed))
                return false;
        uint64_t from = load_u(&bucket->use_from_ns);
        store_u(&bucket->use_from_ns, charged);
        if (began == 0 || began > now_ns || from > charged)
                return true;                     /* the first window: nothing to compare with */
        double use = (double)(charged - from) * SLICE_WHOLE / (double)(now_ns - began);
        /* Up at once, down slowly: a slice whose kernels are as long as the window still uses its share. */
        double before = atomic_load_explicit(&bucket->use_ppm, memory_order_relaxed);
        if (before <= SLICE_WHOLE && use < before)
                use = before - (before - use) / 4;
        atomic_store_explicit(&bucket->use_ppm, use > SLICE_WHOLE ? SLICE_WHOLE : (uint32_t)use, memory_order_relaxed);
        return true;
}

void slice_bucket_calibrate(struct slice_bucket *bucket, int64_t seen_ns, int64_t charged_ns)
{
        if (seen_ns <= 0 || charged_ns <= 0)
                return;
        double factor = atomic_load_explicit(&bucket->factor_ppm, memory_order_relaxed);
        if (factor < SLICE_FACTOR_LEAST || factor > SLICE_FACTOR_MOST)
                factor = SLICE_FACTOR_ONE;
        /* `charged_ns` was charged at this factor already: what NVML says is a correction of it. */
        double wanted = factor * (double)seen_ns / (double)charged_ns;
        factor += (wanted - factor) / 4;
        if (factor < SLICE_FACTOR_LEAST)
                factor = SLICE_FACTOR_LEAST;
        if (factor > SLICE_FACTOR_MOST)
                factor = SLICE_FACTOR_MOST;
        atomic_store_explicit(&bucket->factor_ppm, (uint32_t)factor, memory_order_relaxed);
}

/* What a slice that does not ask for more keeps: what it uses and some room to grow, never more than its guarantee. */
static uint32_t kept(const struct slice_claim *claim)
{
        if (claim->wants)
                return claim->share_ppm;
        uint64_t use = (uint64_t)claim->use_ppm + claim->use_ppm / 8 + HEADROOM_PPM;
        return use < claim->share_ppm ? (uint32_t)use : claim->share_ppm;
}

uint32_t slice_fair_share(const struct slice_claim *claims, size_t count, size_t mine)
{
        const struct slice_claim *own = &claims[mine];
        uint64_t claimed = own->share_ppm, weights = own->weight ? own->weight : 1;
        uint64_t weight = weights;

        for (size_t i = 0; i < count; i++) {
                const struct slice_claim *other = &claims[i];
                if (i == mine)
                        continue;
                claimed += kept(other);
                if (!other->wants || other->priority > own->priority)
                        continue;                /* lower priority is lent what is left, so it takes no part here */
                if (other->priority < own->priority)
                        return own->share_ppm;
                weights += other->weight ? other->weight : 1;
        }
        if (claimed >= SLICE_WHOLE)
                return own->share_ppm;
        return (uint32_t)(own->share_ppm + (SLICE_WHOLE - claimed) * weight / weights);
}
