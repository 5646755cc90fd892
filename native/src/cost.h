/*
 * cost: what a batch cost the device, from what its events say and who else was there.
 *
 * Promise: alone, a batch costs the time between its events. Beside others, that time contains their turns (a card gives turns
 * of about 2 ms to the processes that have work); then it costs what the same stream's launches cost when no turn fell between,
 * as far as they are shorter than a turn, else its part of the time. In both cases at most the time itself.
 * Simulated in native/tests/limit_simulation.c: within a point of the share for 0.02 to 20 ms kernels beside one and two others.
 *
 * Pure: no clock, no lock. Nanoseconds of GPU time.
 */
#ifndef SLICE_COST_H
#define SLICE_COST_H

#define SLICE_COST_KEPT 16
#define SLICE_TURN_NS 2000000.0

/* What launches of one kind and stream cost lately. All zero is valid. */
struct slice_cost {
        float each_ns[SLICE_COST_KEPT];          /* a ring of elapsed times per launch */
        unsigned next;
};

/*
 * A batch of `launches` took `elapsed_ns` between its events (as far as that was not charged before); `even_ns` is what it would
 * have got had all who had work shared the device evenly. Returns its cost: 0 .. elapsed_ns.
 */
double slice_cost_of(struct slice_cost *cost, unsigned launches, double elapsed_ns, double even_ns);

#endif
