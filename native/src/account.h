/* Accounting: who of the slice holds how much of each device, and whether there is room for more.
 *
 * Promise: what slice_charge() has granted and slice_refund() has not given back never exceeds the limit, by one byte, over
 * all processes of the slice, whatever runs at the same time; a process that dies at any instruction takes only its own
 * charges with it, and where there is a driver not before that has the memory back. An allocation that fits is not refused because others try and fail at the same time. Charge before the
 * driver allocates, refund after it has freed.
 * Costs: charge and refund together about 20 ns, no lock, no system call; a refusal takes microseconds to a few milliseconds
 * (reaps the dead, waits 2 ms at most for charges that others are just trying).
 * `device` is the index in the settings (state.h: slice_device_of), bytes are bytes. No lock of the caller's may be one that
 * a signal handler or fork handler takes; none of these calls takes a lock that another thread could hold across a system
 * call, but for slow paths (a refusal, a reload), which hold one of the process's own. All calls are thread-safe.
 */
#ifndef SLICE_ACCOUNT_H
#define SLICE_ACCOUNT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "region.h"
#include "settings.h"

/* Open the region of `settings` and take a slot. The settings are copied. 0, also when called again; -EINVAL: refused, one
 * line was printed (bad region, full file system, all slots taken); may be tried again. After a fork the child joins by
 * itself at its first charge, with nothing charged and an empty allocation map. */
int slice_account_start(const struct slice_settings *settings);

/* From now on the dead owe what they held until slice_settle() says that the driver has it back. For processes with a driver,
 * before the two starts; without it what the dead held is gone with them. */
void slice_account_with_driver(void);

/* Map the region without a slot, for programs that only look (NVML): used, limit and processes answer; a later
 * slice_account_start() joins. 0, also when called again; -EINVAL: refused, one line was printed. */
int slice_account_watch(const struct slice_settings *settings);

/* Publish `bytes`, then check. 0; -ENOMEM: no room, nothing is charged, nothing is noted; -EINVAL: no such device. */
int slice_charge(unsigned device, uint64_t bytes);

/* Give back what slice_charge() took. */
void slice_refund(unsigned device, uint64_t bytes);

/* The last word on a refusal: note it in the region's ring, with the driver's name of the call. Slow. */
void slice_note_refusal(unsigned device, uint64_t bytes, const char *api);

/* Bytes the slice holds now, and may hold. Used may read above the limit: the limit shrank, or others are just trying. */
uint64_t slice_used(unsigned device);
uint64_t slice_limit(unsigned device);
/* Both in one look, which costs one. Zeroes where there is no such device. */
struct slice_room {
        uint64_t used, limit;
};
struct slice_room slice_room(unsigned device);
/* Bytes this process holds now. */
uint64_t slice_used_here(unsigned device);

/* Bytes that the dead still owe on `device`: part of slice_used(), found by a refusal or slice_tidy(). No system call. */
uint64_t slice_owed(unsigned device);

/* Clear the debts that are paid. `pids`: the processes that the driver has on cards of the slice, numbered as in the PID
 * namespace of the caller; `count` below 0: it cannot tell, and time decides. A few system calls per debt. */
void slice_settle(const uint32_t *pids, int count);

/* Charge `bytes` that slice_charge() has refused, where only debts are in the way: `settle_them` (which calls slice_settle()) is
 * called again and again, for 3 ms at most. 0; -ENOMEM: no room, or not in that time. */
int slice_charge_after_debts(unsigned device, uint64_t bytes, void (*settle_them)(void));

/* Clear the slots of the dead, look whether the limits file was replaced, stamp launches: once a second at most, else it costs
 * one coarse clock read (5 ns). For paths that can afford some system calls once a second. True when it did. */
bool slice_tidy(void);

/* The truth check's figures, see region.h. Own: what NVML says of this process, on one device: the part that no charge
 * explains is charged as overhead, unchecked, since it is already taken; it shrinks with the next call and ends with us.
 * Slice: what NVML says of all processes of the slice together, where that is known. */
void slice_set_own_physical(unsigned device, uint64_t bytes);
void slice_set_physical(unsigned device, uint64_t bytes);

/* Bytes of managed memory above the hard limit (oversubscription); may be negative. */
void slice_add_managed(unsigned device, int64_t bytes);

/* A process of the slice. */
struct slice_process {
        uint32_t slot;
        bool own;                       /* the calling process */
        int32_t pid;                    /* in the caller's PID namespace; 0: it lives in another one */
        int32_t pid_there;              /* in its own */
        uint32_t uid;
        char comm[16];
        uint64_t used_bytes;
        uint64_t gpu_time_ns;
        uint64_t last_launch_ns;
};

/* Fill `ret` with processes of the slice, as many as fit; returns how many there are. Dead ones count until the next reap.
 * No system call. */
int slice_processes(unsigned device, struct slice_process *ret, int most);

/* The live process that holds most of `device`; ties go to the lowest slot. 0, -ENOENT when nobody holds anything. Reaps
 * first. ACTIVE_OOM_KILLER: the process whose `own` is true ends itself, and nobody else. */
int slice_offender(unsigned device, struct slice_process *ret);

/* The core limiter's 256 bytes of `device`; NULL: not joined. */
_Atomic uint64_t *slice_limiter_words(unsigned device);

/* GPU time that finished batches took; also stamps the last launch. */
void slice_add_gpu_time(unsigned device, uint64_t ns);

/* What the hot paths read: this process's place in the region. In memory that the kernel clears in a child of fork, so that
 * a child, however it was made, finds it empty and joins afresh. Written by account.c only. */
struct slice_here {
        _Atomic uint32_t joined;                                /* 1: release store after all the rest */
        _Atomic uint32_t generation;                            /* limits_generation that `limit` is of */
        _Atomic uint32_t slot;
        _Atomic uint32_t device_count;                          /* 0: no region is mapped */
        _Atomic(struct slice_region *) region;
        _Atomic(struct slice_line *) line[SLICE_MAX_DEVICES];   /* ours; NULL: no slot */
        _Atomic uint64_t limit[SLICE_MAX_DEVICES];
        _Atomic uint64_t stamped[SLICE_MAX_DEVICES];            /* line's launches when they were last stamped */
        _Atomic uint64_t tidy_ns;                               /* when slice_tidy() is due again */
        _Atomic uint32_t starting, refusing;                    /* locks of slow paths, with a deadline */
};
extern struct slice_here *slice_here __attribute__((visibility("hidden")));

void slice_stamp_launches(void);

/* A launch is on its way. About 1 ns: counts, and stamps the time of every 64th. Whoever synchronises calls
 * slice_stamp_launches() too, so that a single launch is seen (a coarse clock read where something was launched since). */
static inline void slice_note_launch(unsigned device)
{
        if (device >= SLICE_MAX_DEVICES)
                return;
        /* Relaxed: what the pointer leads to was mapped before, and the CPU follows the dependency. */
        struct slice_line *line = atomic_load_explicit(&slice_here->line[device], memory_order_relaxed);
        if (__builtin_expect(line == NULL, 0))
                return;
        /* Relaxed load and store, no atomic add: a lost count is harmless, a lock prefix costs 5 ns. */
        uint64_t launches = atomic_load_explicit(&line->launches, memory_order_relaxed) + 1;
        atomic_store_explicit(&line->launches, launches, memory_order_relaxed);
        if (__builtin_expect((launches & 63) == 1, 0))
                slice_stamp_launches();
}

#endif
