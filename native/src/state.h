/* All mutable state of the hooks, in one struct.
 *
 * Lock order: `pools.lock` or `vmm.lock`, then whatever account.h takes; never two of the former. No lock is held over a
 * call that may run the program's own code (callbacks, dlopen), and none is taken by dlsym or a launch.
 */
#ifndef SLICE_STATE_H
#define SLICE_STATE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "driver.h"
#include "settings.h"

/* What the settings make of this process. UNKNOWN until the first hooked call. */
enum slice_mode {
        SLICE_UNKNOWN = 0,
        SLICE_ACTIVE,    /* a slice: limits hold */
        SLICE_PASS,      /* no settings at all: every hook calls the driver */
        SLICE_REFUSED,   /* settings that we cannot read: no GPU. cuInit, nvmlInit and whatever allocates fail */
};

struct slice_state {
        /* Release store after all that it promises is written; hooks load it with acquire, which is a plain load on
         * x86-64 and ldar on aarch64. */
        _Atomic(int) cuda_mode;   /* SLICE_ACTIVE, PASS, REFUSED: cuda is bound, settings read, slot joined (ACTIVE) */
        _Atomic(int) nvml_mode;   /* the same for nvml; the slot need not be joined */
        struct slice_cuda cuda;
        struct slice_nvml nvml;
        struct slice_settings settings;   /* as read when the mode left UNKNOWN; live limits: account.h */
};

extern struct slice_state slice_state __attribute__((visibility("hidden")));

static inline const struct slice_cuda *slice_real(void)
{
        return &slice_state.cuda;
}

static inline const struct slice_nvml *slice_real_nvml(void)
{
        return &slice_state.nvml;
}

/* Slow path of the two below: binds, reads the settings, joins the region. Returns the mode; UNKNOWN: no driver loaded. */
enum slice_mode slice_start(void);
enum slice_mode slice_start_nvml(void);

/* The mode of this process; slice_real() may be used when it is not SLICE_UNKNOWN. One load and one predicted branch. */
static inline enum slice_mode slice_mode(void)
{
        int mode = atomic_load_explicit(&slice_state.cuda_mode, memory_order_acquire);

        return __builtin_expect(mode != SLICE_UNKNOWN, 1) ? (enum slice_mode)mode : slice_start();
}

static inline enum slice_mode slice_mode_nvml(void)
{
        int mode = atomic_load_explicit(&slice_state.nvml_mode, memory_order_acquire);

        return __builtin_expect(mode != SLICE_UNKNOWN, 1) ? (enum slice_mode)mode : slice_start_nvml();
}

/* Whether limits hold in this process: the hot path's one branch. Not ready: call the driver (SLICE_PASS), or answer as
 * SLICE_REFUSED and SLICE_UNKNOWN want (slice_no_gpu). */
static inline bool slice_ready(void)
{
        return slice_mode() == SLICE_ACTIVE;
}

/* CUDA's ordinal of a device -> our index (limits file), -1 when the card is not in this slice. Filled by cuInit. */
int slice_device_of(CUdevice ordinal);
/* Our index of the calling thread's current device, -1 without a context or when the card is not in this slice. */
int slice_current_device(void);

#endif
