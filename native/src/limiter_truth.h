/*
 * limiter_truth: what the limiter charges, compared with what NVML saw.
 *
 * Promise: once a second at most, and only from a launch that waits anyway, the bucket's factor moves a quarter of the way to
 * what NVML's process utilisation says of this process, when two looks in a row differ from it by more than a tenth, the same way. Where NVML is not there, does not
 * know this process (another PID namespace) or has no samples (MIG), nothing happens: the estimates of cost.h stand.
 * Locks held: none; one thread of a process at a time looks, others go on. NVML may block for milliseconds.
 */
#ifndef SLICE_LIMITER_TRUTH_H
#define SLICE_LIMITER_TRUTH_H

#include <stdint.h>

void slice_limiter_check(unsigned device, uint64_t now_ns);

#endif
