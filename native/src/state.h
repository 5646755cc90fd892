/* All mutable state of the hooks, in one struct.
 *
 * Locks: `starting` over the reading of settings, `pools` over what pools hold; under either whatever account.h takes. No lock is held over a call that may run
 * the program's own code (callbacks, dlopen), and none is taken by dlsym or a launch.
 */
#ifndef SLICE_STATE_H
#define SLICE_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "driver.h"
#include "lookup.h"
#include "settings.h"

/* What the settings make of this process. UNKNOWN until the first hooked call. */
enum slice_mode {
        SLICE_UNKNOWN = 0,
        SLICE_ACTIVE,    /* a slice: limits hold */
        SLICE_PASS,      /* no settings at all: every hook calls the driver */
        SLICE_REFUSED,   /* settings that we cannot read: no GPU. cuInit, nvmlInit and whatever allocates fail */
};

/* A place of the table address -> hook. Address 0 is an empty place; a place is never emptied. */
#define SLICE_HOOK_PLACES 2048
struct slice_hook_place {
        _Atomic(uintptr_t) address;
        _Atomic(uintptr_t) hook;   /* 0 for the moment between two stores of who puts it there */
};

#define SLICE_MAX_ORDINALS 64
#define SLICE_MAX_POOLS 256   /* that one process uses at a time */

/* A memory pool (memory_pool.c). */
struct slice_pool {
        CUmemoryPool handle;   /* NULL: destroyed, and some blocks live on */
        uint64_t serial;       /* handles come again, this does not */
        int device;            /* index of the settings; -1: a card outside the slice */
        bool on_host;          /* takes no device memory: nothing is charged */
        uint64_t charged;      /* bytes */
        uint64_t blocks;       /* allocated and not freed */
};

struct slice_state {
        /* Release store after all that it promises is written; hooks load it with acquire, which is a plain load on
         * x86-64 and ldar on aarch64. */
        _Atomic(int) cuda_mode;   /* SLICE_ACTIVE, PASS, REFUSED: cuda is bound, settings read, slot joined (ACTIVE) */
        _Atomic(int) nvml_mode;   /* the same for nvml; the slot need not be joined */
        struct slice_cuda cuda;
        struct slice_nvml nvml;
        struct slice_settings settings;   /* as read when the mode left UNKNOWN; live limits: account.h */

        _Atomic(void *) c_library;   /* dlsym.c: a handle, for messages */

        /* driver.c: the objects that are the driver, and whether their functions are looked up (enum there). Acquire and
         * release, since who sees them goes on to read what was written before. */
        _Atomic(struct link_map *) object[SLICE_LIBRARIES];
        _Atomic(int) bound[SLICE_LIBRARIES];
        _Atomic(bool) minds_forks;
        struct slice_hook_place hooks[SLICE_HOOK_PLACES];

        /* state.c: held while the settings are read and the region is joined; no call to the dynamic linker in it. */
        pthread_mutex_t starting;
        _Atomic(int) settings_mode;
        /* Index of the settings + 2 by CUDA ordinal; 1: not in this slice; 0: not asked yet. Relaxed: whoever asks twice
         * gets the same answer. */
        _Atomic(uint8_t) device[SLICE_MAX_ORDINALS];
        /* Our index + 1 of the one card that the driver has; 0: it has several, or that one is not ours. Written by cuInit,
         * always with the same value. */
        _Atomic(int) sole_device;

        /* memory_pool.c, memory_graph.c: held across driver calls that neither block nor call back. */
        pthread_mutex_t pools;
        struct slice_pool pool[SLICE_MAX_POOLS];
        unsigned pool_count;
        uint64_t pool_serial;
        struct {
                CUdevice ordinal;
                uint64_t charged;       /* for what graphs hold on this device of the settings */
                unsigned launching;     /* launches that have charged and not yet settled */
        } graph[SLICE_MAX_DEVICES];

        _Atomic(bool) graphs_have_memory;
        _Atomic(uint32_t) graph_trims;               /* memory that was held before the last of these may be gone */

        /* truth.c: one thread at a time looks; relaxed but for that flag, whose holder owns what it reads. */
        _Atomic(int) truth_nvml;
        _Atomic(bool) truth_looking;
        _Atomic(uint64_t) truth_at_ns;

        /* life.c: primary contexts by CUDA ordinal, and how many contexts ever ended (what threads remember is old then). */
        _Atomic(CUcontext) primary[SLICE_MAX_ORDINALS];
        _Atomic(uint32_t) contexts_ended;
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

/* What a hook answers where slice_ready() said no: the driver's word where there are no settings at all, else no GPU. */
#define SLICE_WITHOUT_LIMITS(symbol, arguments) \
        (slice_mode() == SLICE_PASS ? slice_real()->symbol arguments : CUDA_ERROR_NO_DEVICE)

/* Whether this process is in a slice, or was refused one: reads the settings when nobody has. */
bool slice_is_limited(void);
/* In the child of a fork: locks that another thread held are free. */
void slice_state_after_fork(void);

/* CUDA's ordinal of a device -> our index (limits file), -1 when the card is not in this slice. Filled by cuInit. */
int slice_device_of(CUdevice ordinal);
/* Our index of the calling thread's current device, -1 without a context or when the card is not in this slice. A call
 * to the driver and a comparison. `ret_context` may be NULL; it gets NULL without a context. */
int slice_current_device(CUcontext *ret_context);
/* cuInit succeeded: remember whether there is only one card to ask about. */
void slice_count_devices(void);

/* The same after a call that only succeeds with a current context: where there is one card, nobody need be asked. */
static inline int slice_device_in_use(void)
{
        int sole = atomic_load_explicit(&slice_state.sole_device, memory_order_relaxed);

        return __builtin_expect(sole > 0, 1) ? sole - 1 : slice_current_device(NULL);
}

#endif
