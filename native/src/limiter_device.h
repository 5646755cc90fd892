/*
 * limiter_device: what the limiter knows of one device: the share in force, the bucket, and who else is there.
 *
 * Promise: a wait and a charge per device, on top of bucket.h and node.h; the driver is not called from here, but for NVML's
 * process utilisation, once a second at most.
 * Locks held: the limiter's, in all calls but slice_device_wait and slice_device_reserve, which need none.
 * Instants are CLOCK_MONOTONIC nanoseconds.
 */
#ifndef SLICE_LIMITER_DEVICE_H
#define SLICE_LIMITER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "cost.h"
#include "node.h"

uint64_t slice_now_ns(void);

/* Whether a core limit holds on `device` now: false at 100 % and cap, at `off`, and for a device without a bucket. */
bool slice_device_limited(unsigned device);

/* The share in force is the whole device: nobody else is there, so nothing need wait. */
bool slice_device_is_ours_alone(unsigned device);

/* How long a launch must wait now: 0 or at most SLICE_WAIT_NS. */
int64_t slice_device_wait(unsigned device, uint64_t now_ns);

/* A launch is held back by its stream's full queue: the slice would use more. */
void slice_device_want(unsigned device, uint64_t now_ns);

void slice_device_reserve(unsigned device, int64_t expected_ns);
/* What was reserved will not be used. */
void slice_device_unreserve(unsigned device, int64_t reserved_ns);

/*
 * A batch of `launches` was on the device during `span`, as far as its events tell; `reserved_ns` were taken for it. Charges what
 * of the span was ours and not charged before, by `cost`, what its like cost so far. Returns what it charged.
 */
int64_t slice_device_charge(unsigned device, struct slice_cost *cost, unsigned launches, int64_t reserved_ns,
                            struct slice_span span, uint64_t now_ns);

/* A batch was not measured: what was reserved stays, as its charge. */
void slice_device_charge_estimate(unsigned device, int64_t reserved_ns);

/* Tell the node what we do: `open_ns` since when work is out (0: none), `expect_ns` till when. At most once a millisecond. */
void slice_device_publish(unsigned device, uint64_t now_ns, uint64_t open_ns, uint64_t expect_ns);

/* What this process was charged on the device so far, and the bucket's calibration (bucket.h). Need no lock. */
uint64_t slice_device_charged_here(unsigned device);
void slice_device_calibrate(unsigned device, int64_t seen_ns, int64_t charged_ns);

/* How many others are at work on the device, by the last look. */
unsigned slice_device_sharers(unsigned device);

/* A child of fork: the parent's line is not ours. */
void slice_device_forget_all(void);

#endif
