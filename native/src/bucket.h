/*
 * bucket: GPU time of one slice on one device, as a bucket that may owe.
 *
 * Promise: over any stretch of wall time W the slice is charged at most share * W + SLICE_BURST_NS + what was running when the
 * bucket ran empty; what it took too much is waited for afterwards, so that the long-run mean is the share, however long a
 * kernel is. Time and elapsed device time are arguments: nothing here reads a clock or calls the driver.
 *
 * The words lie in the region and are shared by all processes of the slice; a process may be killed between any two
 * instructions. Each word stands for itself (a sum, an instant, a rate), so relaxed order is enough everywhere: no word says
 * that another one has been written. A kill between taking the refill's instant and adding its nanoseconds loses one refill.
 *
 * Units: nanoseconds (CLOCK_MONOTONIC for instants, GPU time for balances), shares in millionths of a device.
 * Locks held: none, ever. Nothing blocks, nothing fails.
 */
#ifndef SLICE_BUCKET_H
#define SLICE_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLICE_WHOLE 1000000u                     /* share of a whole device */
#define SLICE_BURST_NS INT64_C(20000000)         /* what an idle slice may save up: two points of the second that follows */
#define SLICE_WAIT_NS INT64_C(2000000)           /* the longest single wait */
#define SLICE_REFILL_STEP_NS UINT64_C(10000)     /* refills come in steps, so that rounding costs nothing */
#define SLICE_FACTOR_ONE 1000000u
#define SLICE_FACTOR_LEAST 500000u
#define SLICE_FACTOR_MOST 2000000u

/* 128 bytes of the 256 that the region keeps per device. All zero is a valid bucket: it starts full at its first refill. */
struct slice_bucket {
        _Atomic int64_t balance_ns;              /* below zero: in debt */
        _Atomic uint64_t refilled_ns;            /* up to when refills were paid out; 0: never */
        _Atomic uint64_t charged_ns;             /* GPU time charged since the region was made; only grows */
        _Atomic uint64_t wanted_ns;              /* when the slice last wanted more than it had */
        _Atomic uint64_t share_at_ns;            /* when the share in force was last worked out */
        _Atomic uint64_t use_at_ns;              /* the window in which use_ppm was measured began here ... */
        _Atomic uint64_t use_from_ns;            /* ... with charged_ns at this value */
        _Atomic uint64_t seen_ns;                /* NVML's calibration: when, and charged_ns then */
        _Atomic uint64_t seen_charged_ns;
        _Atomic uint32_t share_ppm;              /* share in force; 0: not worked out yet */
        _Atomic uint32_t use_ppm;                /* share of the wall time that was charged lately: up at once, down slowly */
        _Atomic uint32_t factor_ppm;             /* what one charged nanosecond is worth, by NVML; 0: SLICE_FACTOR_ONE */
        _Atomic uint32_t reserved[11];
};
_Static_assert(sizeof(struct slice_bucket) == 128, "the region keeps room for this");

/* Pay out what the time since the last refill is worth at `share_ppm`. Cheap when called again at once. */
void slice_bucket_refill(struct slice_bucket *bucket, uint64_t now_ns, uint32_t share_ppm);

/* How long to wait before opening a batch: 0 to go ahead, else at most SLICE_WAIT_NS. Refills first. */
int64_t slice_bucket_wait(struct slice_bucket *bucket, uint64_t now_ns, uint32_t share_ppm);

/* The slice would use more than it gets, now: it is in debt (slice_bucket_wait says so itself), or its queue is full. */
void slice_bucket_want(struct slice_bucket *bucket, uint64_t now_ns);

/* Take what a batch is expected to cost, before it is launched: others of the slice see it at once. */
void slice_bucket_reserve(struct slice_bucket *bucket, int64_t expected_ns);
/* Keep at most so much of what was saved up: others want back what was lent, now and not once it is used up. */
void slice_bucket_forfeit(struct slice_bucket *bucket, int64_t most_ns);

/* Give back what was reserved for launches that did not come. */
void slice_bucket_unreserve(struct slice_bucket *bucket, int64_t reserved_ns);

/* The batch that reserved `expected_ns` took `actual_ns` of the device. Returns what was charged, after calibration. */
int64_t slice_bucket_settle(struct slice_bucket *bucket, int64_t expected_ns, int64_t actual_ns);

/*
 * Measure use_ppm over windows of about 50 ms. True for the one caller that closed a window (it then publishes the slice's
 * line); false for all others.
 */
bool slice_bucket_measure(struct slice_bucket *bucket, uint64_t now_ns);

/* NVML saw `seen_ns` of device time in a window in which `charged_ns` were charged: move the factor a quarter of the way. */
void slice_bucket_calibrate(struct slice_bucket *bucket, int64_t seen_ns, int64_t charged_ns);

/* What a slice claims of a device when idle shares are lent. */
struct slice_claim {
        uint32_t share_ppm;                      /* guarantee */
        uint32_t weight;                         /* 1 .. 10000 */
        uint32_t use_ppm;                        /* what it used lately */
        uint32_t priority;                       /* 0 goes first */
        bool wants;                              /* would use more than its guarantee */
};

/*
 * The share in force under `fair` for claims[mine], which is taken to want: its guarantee, plus its part of what no other
 * slice claims. Never below the guarantee, never above SLICE_WHOLE. `claims` holds only slices that used the device lately.
 */
uint32_t slice_fair_share(const struct slice_claim *claims, size_t count, size_t mine);

#endif
