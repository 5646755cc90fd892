/* The NVML view: what nvidia-smi, pynvml and whatever else asks NVML see inside a slice.
 *
 * Promise: a slice sees its own cards, in the order of its limits file, each as large as its limit; its own processes, with
 * pids of the reader's own namespace; use relative to its share. A hidden card is not found, as the driver would say it of a
 * card that is not there. What changes a card for others is denied. Questions that concern nobody else (temperature, clocks,
 * versions) are the driver's to answer. Without a slice everything is.
 * Costs: memory queries a few ns above the driver's own, no system call of ours. Locks: none but that of the rates, held for
 * arithmetic only. All functions are thread-safe.
 */
#ifndef SLICE_VIEW_H
#define SLICE_VIEW_H

#include <stdatomic.h>
#include <stdint.h>

#include "driver.h"
#include "settings.h"
#include "state.h"

/* All mutable state of the view. The handles are written by nvmlInit under `lock` and read without: a handle is a word, and
 * one that is read too early is a card that is not found. `rate` is under `lock`, which is taken after no other. */
struct slice_view {
        pthread_mutex_t lock;
        _Atomic uint32_t users;                              /* nvmlInit minus nvmlShutdown */
        _Atomic(nvmlDevice_t) handle[SLICE_MAX_DEVICES];     /* by index of the settings; NULL: the card is gone */
        _Atomic(nvmlDevice_t) parent[SLICE_MAX_DEVICES];     /* of a MIG device: its card; else the same */
        struct slice_rate {
                uint64_t at_ns;                              /* CLOCK_MONOTONIC */
                uint64_t gpu_time_ns;
                uint32_t owner;                              /* who the time is of: a slot's serial */
                uint32_t percent;                            /* of a whole card, in the time before `at_ns` */
        } rate[SLICE_MAX_DEVICES], process[SLICE_MAX_DEVICES][256];
};
extern struct slice_view slice_view __attribute__((visibility("hidden")));

/* Index of the settings for a handle, -1: not of this slice. */
static inline int slice_view_index(nvmlDevice_t device)
{
        if (!device)
                return -1;
        for (int i = 0; i < slice_state.settings.device_count; i++)
                if (atomic_load_explicit(&slice_view.handle[i], memory_order_relaxed) == device ||
                    atomic_load_explicit(&slice_view.parent[i], memory_order_relaxed) == device)
                        return i;
        return -1;
}

/* Begins a hook: without a slice the driver's own answer, with a slice that was refused none; else goes on. */
#define SLICE_VIEW_OR_RETURN(symbol, arguments)                                 \
        do {                                                                    \
                enum slice_mode view_mode = slice_mode_nvml();                  \
                                                                                \
                if (__builtin_expect(view_mode != SLICE_ACTIVE, 0))             \
                        return view_mode == SLICE_PASS ? slice_real_nvml()->symbol arguments \
                                                       : NVML_ERROR_DRIVER_NOT_LOADED; \
                if (!atomic_load_explicit(&slice_view.users, memory_order_relaxed)) \
                        return NVML_ERROR_UNINITIALIZED;                        \
        } while (0)

/* The same for a function of one card: declares its index. */
#define SLICE_VIEW_CARD_OR_RETURN(index, device, symbol, arguments)             \
        SLICE_VIEW_OR_RETURN(symbol, arguments);                                \
        int index = slice_view_index(device);                                   \
        do {                                                                    \
                if (index < 0)                                                  \
                        return NVML_ERROR_INVALID_ARGUMENT;                     \
        } while (0)

/* How busy the slice kept its share of a card lately, 0 .. 100; -1: that is not measured. */
int slice_view_busy(unsigned device);
/* The same as a figure to show: measured by the core limiter where there is one; else the card's own use, `card_percent`,
 * counts as ours while we launch. */
uint32_t slice_view_use(unsigned device, uint32_t card_percent);
/* The first for one process of it. */
int slice_view_process_busy(unsigned device, uint32_t slot, uint32_t owner, uint64_t gpu_time_ns);
/* Whether anything was launched in the last second. */
bool slice_view_is_idle(unsigned device);
/* A use of the whole card in percent, as one of our share. */
uint32_t slice_view_of_share(unsigned device, uint64_t percent);

#endif
