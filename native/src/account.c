/* Publish, then check.
 *
 * A charge adds to the process's own word, then sums the words of all slots; above the limit it takes the addition back.
 * Why the sum of what was granted never passes the limit: take, at any instant, the granted charge whose addition came last.
 * Its sum was made after that addition, so it saw every other granted byte, or a word that has only shrunk since. That sum was
 * within the limit. It needs one order of all additions and loads of `used` and `slots_high`: they are seq_cst (on x86-64 the
 * loads are plain). A death removes a word whole, at once or when its debt is paid; nothing else depends on where it happened.
 *
 * A word also counts the threads of its process that are between addition and check, in its upper bits: a refusal that may
 * come only from others' attempts is tried again, so that what fits is granted.
 */
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "account_inside.h"

#define WAIT_FOR_TURN_NS UINT64_C(4000000)
#define WAIT_FOR_TRIERS_NS UINT64_C(2000000)   /* they need nanoseconds, unless they were stopped or descheduled */
#define PAUSE_US 20

static struct slice_here nobody;   /* before the first start: never written */
struct slice_here *slice_here = &nobody;

void slice_pause(unsigned us)
{
        struct timespec pause = {.tv_nsec = (long)us * 1000};

        nanosleep(&pause, NULL);
}

uint64_t slice_monotonic_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool slice_lock_soon(_Atomic uint32_t *lock, uint64_t deadline_ns)
{
        while (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0) {
                if (deadline_ns == 0 || slice_monotonic_ns() >= deadline_ns)
                        return false;
                slice_pause(PAUSE_US);
        }
        return true;
}

void slice_unlock(_Atomic uint32_t *lock)
{
        atomic_store_explicit(lock, 0, memory_order_release);
}

int slice_no_cancel(void)
{
        int before = PTHREAD_CANCEL_ENABLE;

        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
        return before;
}

void slice_cancel_as(int before)
{
        pthread_setcancelstate(before, NULL);
}

static _Atomic uint64_t *own_word(struct slice_region *region, unsigned device)
{
        uint32_t slot = atomic_load_explicit(&slice_here->slot, memory_order_relaxed);

        return &region->device[device].used[slot];
}

/* 0; else -ENOMEM, and how many others were trying at the same time. */
static inline int publish_and_check(struct slice_region *region, unsigned device, uint64_t bytes, uint64_t limit,
                                    uint64_t *ret_others)
{
        struct slice_region_device *shared = &region->device[device];
        _Atomic uint64_t *own = own_word(region, device);

        atomic_fetch_add(own, bytes + SLICE_USED_TRYING);
        uint64_t sum = slice_sum(region, shared);
        uint64_t used = (sum & SLICE_USED_MASK) + atomic_load_explicit(&shared->untracked_bytes, memory_order_relaxed);
        if (__builtin_expect(used <= limit, 1)) {
                atomic_fetch_sub(own, SLICE_USED_TRYING);
                return 0;
        }
        atomic_fetch_sub(own, bytes + SLICE_USED_TRYING);
        *ret_others = (sum >> SLICE_USED_BITS) - 1;
        return -ENOMEM;
}

/* Until it is granted, or refused with nobody dead in the sum but those who owe, and nobody else trying. */
static int charge_among_the_refused(struct slice_region *region, unsigned device, uint64_t bytes, int descriptor)
{
        uint64_t others = 0, deadline_ns = slice_monotonic_ns() + WAIT_FOR_TRIERS_NS;
        bool reaped = descriptor < 0;

        for (;;) {
                uint64_t limit = atomic_load_explicit(&slice_here->limit[device], memory_order_relaxed);

                if (bytes > limit || publish_and_check(region, device, bytes, limit, &others) == 0)
                        return bytes > limit ? -ENOMEM : 0;
                if (!reaped) {
                        slice_region_reap(&slice_account.file, descriptor);
                        reaped = true;
                } else if (others == 0 || slice_monotonic_ns() >= deadline_ns) {
                        return -ENOMEM;
                } else {
                        slice_pause(PAUSE_US);
                }
        }
}

static bool lock_region_soon(int descriptor, uint64_t deadline_ns)
{
        while (descriptor >= 0 && slice_monotonic_ns() < deadline_ns) {
                if (slice_region_trylock(descriptor))
                        return true;
                slice_pause(PAUSE_US);
        }
        return false;
}

/* One at a time in the slice, as far as that can be had in time, so that two that are refused do not see one another. */
static int charge_in_turn(struct slice_region *region, unsigned device, uint64_t bytes)
{
        uint64_t deadline_ns = slice_monotonic_ns() + WAIT_FOR_TURN_NS;
        int descriptor = slice_region_reopen(&slice_account.file, slice_settings_now()->region_path);
        bool ours = slice_lock_soon(&slice_here->refusing, deadline_ns);
        bool locked = lock_region_soon(descriptor, deadline_ns);

        int outcome = charge_among_the_refused(region, device, bytes, descriptor);
        if (locked)
                slice_region_unlock(descriptor);
        if (ours)
                slice_unlock(&slice_here->refusing);
        if (descriptor >= 0)
                close(descriptor);
        return outcome;
}

static __attribute__((noinline)) int charge_slowly(unsigned device, uint64_t bytes)
{
        int kept = errno, before = slice_no_cancel(), outcome = -ENOMEM;

        if (atomic_load_explicit(&slice_here->joined, memory_order_acquire) != 0 || slice_account_join() == 0) {
                struct slice_region *region = slice_region_here(device);

                if (region == NULL)
                        outcome = -EINVAL;
                else if (bytes <= atomic_load_explicit(&slice_here->limit[device], memory_order_relaxed))
                        outcome = charge_in_turn(region, device, bytes);
        }
        slice_cancel_as(before);
        errno = kept;
        return outcome;
}

int slice_charge(unsigned device, uint64_t bytes)
{
        struct slice_here *here = slice_here;
        uint64_t others;

        /* Acquire: what the slot's words and limits are was written before. */
        if (__builtin_expect(atomic_load_explicit(&here->joined, memory_order_acquire) == 0, 0))
                return charge_slowly(device, bytes);
        if (device >= atomic_load_explicit(&here->device_count, memory_order_relaxed))
                return -EINVAL;
        struct slice_region *region = atomic_load_explicit(&here->region, memory_order_relaxed);
        /* Relaxed: a limit that changes at this very moment may count from the next charge on. */
        if (__builtin_expect(atomic_load_explicit(&region->header.limits_generation, memory_order_relaxed) !=
                                     atomic_load_explicit(&here->generation, memory_order_relaxed),
                             0))
                slice_account_catch_up();
        uint64_t limit = atomic_load_explicit(&here->limit[device], memory_order_relaxed);
        if (__builtin_expect(bytes <= limit && publish_and_check(region, device, bytes, limit, &others) == 0, 1))
                return 0;
        return bytes > limit ? -ENOMEM : charge_slowly(device, bytes);
}

void slice_refund(unsigned device, uint64_t bytes)
{
        struct slice_here *here = slice_here;

        if (atomic_load_explicit(&here->joined, memory_order_acquire) == 0 ||
            device >= atomic_load_explicit(&here->device_count, memory_order_relaxed))
                return;   /* a child of fork frees what its parent has charged: not ours to give back */
        _Atomic uint64_t *own = own_word(atomic_load_explicit(&here->region, memory_order_relaxed), device);
        uint64_t before = atomic_fetch_sub(own, bytes) & SLICE_USED_MASK;
        if (__builtin_expect(before < bytes, 0))   /* more than was charged: a mistake of ours must not wrap around */
                atomic_fetch_add(own, bytes - before);
}

static uint64_t used_of(struct slice_region *region, unsigned device)
{
        struct slice_region_device *shared = &region->device[device];

        return (slice_sum(region, shared) & SLICE_USED_MASK) +
               atomic_load_explicit(&shared->untracked_bytes, memory_order_relaxed);
}

static uint64_t limit_of(struct slice_region *region, unsigned device)
{
        if (__builtin_expect(atomic_load_explicit(&region->header.limits_generation, memory_order_relaxed) !=
                                     atomic_load_explicit(&slice_here->generation, memory_order_relaxed),
                             0))
                slice_account_catch_up();
        return atomic_load_explicit(&slice_here->limit[device], memory_order_relaxed);
}

uint64_t slice_used(unsigned device)
{
        struct slice_region *region = slice_region_here(device);

        return region ? used_of(region, device) : 0;
}

uint64_t slice_limit(unsigned device)
{
        struct slice_region *region = slice_region_here(device);

        return region ? limit_of(region, device) : 0;
}

struct slice_room slice_room(unsigned device)
{
        struct slice_region *region = slice_region_here(device);

        if (region == NULL)
                return (struct slice_room){ 0, 0 };
        return (struct slice_room){ .used = used_of(region, device), .limit = limit_of(region, device) };
}

uint64_t slice_used_here(unsigned device)
{
        struct slice_here *here = slice_here;

        if (atomic_load_explicit(&here->joined, memory_order_acquire) == 0 ||
            device >= atomic_load_explicit(&here->device_count, memory_order_relaxed))
                return 0;
        return atomic_load_explicit(own_word(atomic_load_explicit(&here->region, memory_order_relaxed), device),
                                    memory_order_relaxed) &
               SLICE_USED_MASK;
}
