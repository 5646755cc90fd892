/* Device time: what a card would have done by now, played when somebody looks.
 *
 * Promise: no thread and no CPU time is spent on kernels. Work is a length in nanoseconds, queued per process and card in
 * the order of submission; the card gives turns of 2 ms to the processes that have work, as real cards do, and never
 * idles while there is some. A position is an amount of device time of this process on a card: work that ends at position
 * p is finished when the process has got p. Locks: none held by the caller; the card's is taken inside.
 */
#ifndef STUB_CLOCK_H
#define STUB_CLOCK_H

#include "state.h"

/* Queues work and returns the position of its end. */
uint64_t stub_submit(uint32_t device, uint64_t ns);
/* The end of all that was queued. */
uint64_t stub_submitted(uint32_t device);
bool stub_is_done(uint32_t device, uint64_t position);
/* Sleeps until it is. */
void stub_wait(uint32_t device, uint64_t position);
/* When that position was reached, on CLOCK_MONOTONIC; 0: not yet. Long ago (512 turns) it is an estimate. */
uint64_t stub_time_of(uint32_t device, uint64_t position);
/* Plays the card up to now. Lock of the card: held. */
void stub_play(uint32_t device, uint64_t now);
/* Busy time in the last `window_ns` (at most 2 s) before `now`, of a process or of a card. */
uint64_t stub_busy_within(const struct stub_busy *busy, uint64_t now, uint64_t window_ns);

#endif
