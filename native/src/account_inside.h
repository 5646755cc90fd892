/* What the files of accounting share, and nobody else includes.
 *
 * Promise: account.c charges, account_start.c opens, joins and reloads, account_view.c tells, debt.c settles. All their mutable state is
 * slice_here (cleared in a child of fork) and slice_account (kept there).
 * Locks: `slice_here->starting` for joining and reloading, `slice_here->refusing` for refusals; never both. Neither is held
 * over a call of the program's, and no limit depends on them: whoever waits too long goes on without.
 */
#ifndef SLICE_ACCOUNT_INSIDE_H
#define SLICE_ACCOUNT_INSIDE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "account.h"

/* Under `starting`; a refusal only reads it, after `joined`. In a child of fork `file.region` is not mapped any more. */
struct slice_account {
        struct slice_file file;
        bool fork_handled;
        bool owing;                 /* see slice_account_with_driver(); set before the first start */
        uint64_t limits_inode;      /* the limits file as it was last looked at; 0: not yet */
        uint64_t limits_changed_ns;
};
extern struct slice_account slice_account __attribute__((visibility("hidden")));

/* Join again with the settings in force: in a child of fork. 0, -EINVAL as slice_account_start(). */
int slice_account_join(void);

/* Map without a slot where nothing is mapped: in a child of fork that only looks. */
void slice_account_look(void);

/* The limits generation has changed: read the limits file again. What cannot be read changes nothing. */
void slice_account_catch_up(void);

/* Clear the slots of the dead or note their debts, where the region can be opened. */
void slice_account_reap(void);

/* Inode of our PID namespace; 0 unknown. */
uint64_t slice_own_namespace(void);

/* Take `lock`, waiting at most until `deadline_ns` of CLOCK_MONOTONIC (0: not at all). False: go on without, and do not
 * unlock. */
bool slice_lock_soon(_Atomic uint32_t *lock, uint64_t deadline_ns);
void slice_unlock(_Atomic uint32_t *lock);
void slice_pause(unsigned us);
uint64_t slice_monotonic_ns(void);

/* Slow paths must not end in the middle: open, read and nanosleep are points where pthread_cancel takes effect. */
int slice_no_cancel(void);
void slice_cancel_as(int before);

static inline uint32_t slice_high(struct slice_region *region)
{
        uint32_t high = atomic_load(&region->header.slots_high);

        return high < SLICE_SLOTS ? high : SLICE_SLOTS;
}

/* The words of all slots, added: bytes, and above SLICE_USED_BITS how many threads are just trying. */
static inline uint64_t slice_sum(struct slice_region *region, struct slice_region_device *device)
{
        /* The bound first, both seq_cst after our own publishing: see slice_region_join(). Eight at a time, since that is
         * what a cache line holds; words above the bound are 0. */
        uint32_t high = slice_high(region);
        uint64_t sum = 0;

        for (_Atomic uint64_t *word = device->used, *end = word + high; word < end; word += 8)
                sum += ((atomic_load(&word[0]) + atomic_load(&word[1])) + (atomic_load(&word[2]) + atomic_load(&word[3]))) +
                       ((atomic_load(&word[4]) + atomic_load(&word[5])) + (atomic_load(&word[6]) + atomic_load(&word[7])));
        return sum;
}

/* The region, mapped at least to look; NULL when there is none, or no such device in it. */
static inline struct slice_region *slice_region_here(unsigned device)
{
        if (__builtin_expect(atomic_load_explicit(&slice_here->device_count, memory_order_acquire) == 0, 0))
                slice_account_look();
        if (device >= atomic_load_explicit(&slice_here->device_count, memory_order_acquire))
                return NULL;
        return atomic_load_explicit(&slice_here->region, memory_order_relaxed);
}

#endif
