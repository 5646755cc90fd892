/* Settings of the slice: what this process may use, and where its shared files are.
 *
 * Promise: slice_settings_load() either gives settings that were read whole and understood to the last byte, or says that
 * there are none, or refuses; there is no half-read limit. First found wins and is final:
 *   1. SLICE_LIMITS_FOLDER "/limits" (a read-only mount of a folder, so that rename() replaces the file live),
 *   2. the file that LABSPAWNER_GPU_LIMITS names,
 *   3. HAMi's environment (CUDA_DEVICE_MEMORY_LIMIT_<i> and its kin),
 *   4. none.
 * Programs that run with more rights than their caller (setuid) take nothing from the environment.
 * Units: bytes, percent of a device. Locks held: none. Returns 0 or -Exxx unless said.
 */
#ifndef SLICE_SETTINGS_H
#define SLICE_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLICE_MAX_DEVICES 16
#define SLICE_LIMITS_FOLDER "/etc/labspawner/slice"
#define SLICE_LIMITS_MOST 16384                  /* bytes of a limits file */
/* A limit that no card reaches: HAMi's environment may limit cores only. The most that any limit may say. */
#define SLICE_UNLIMITED (UINT64_C(1) << 44)

enum slice_policy {
        SLICE_FAIR,     /* a guaranteed share; what is idle is lent (HAMi: default) */
        SLICE_CAP,      /* never above the share (force) */
        SLICE_OFF,      /* no core limit (disable) */
};

enum slice_source {
        SLICE_FROM_NOTHING,
        SLICE_FROM_MOUNT,
        SLICE_FROM_NAMED_FILE,
        SLICE_FROM_HAMI,
};

struct slice_device_limit {
        char uuid[64];          /* "GPU-..." or "MIG-...", as NVML writes it; "": the card with this CUDA ordinal */
        uint64_t hard_bytes;    /* 1 .. SLICE_UNLIMITED */
        uint64_t soft_bytes;    /* carried for memory oversubscription; hard_bytes where nothing else was said */
        uint32_t cores_pct;     /* 1 .. 100 */
        uint32_t weight;        /* 1 .. 10000 */
};

struct slice_settings {
        int device_count;       /* 1 .. SLICE_MAX_DEVICES */
        struct slice_device_limit device[SLICE_MAX_DEVICES];
        enum slice_policy policy;
        int priority;           /* 0 first, 1 later, when idle shares are lent */
        bool oversubscribe;
        bool oom_killer;
        char slice[64];
        char region_path[256];
        char node_path[256];    /* "": there is none */
        int log_level;          /* 0 .. 4, LIBCUDA_LOG_LEVEL; 1 where unset */
        enum slice_source source;
        bool make_region;       /* HAMi: whoever comes first makes the region file */
        char limits_path[256];  /* the file these were read from; "" for HAMi's environment */
};

/* Find and read the settings. 0: they are in `ret`. 1: there are none, everything passes through. -EINVAL: refused; one
 * line was printed (slice_complain), and cuInit and nvmlInit must fail. `ret` is untouched unless 0. */
int slice_settings_load(struct slice_settings *ret);

/* What was wrong, in words for the one line: file or variable, value, and what to write instead. */
struct slice_fault {
        char text[512];
};

/* The same, from elsewhere: `folder` in place of SLICE_LIMITS_FOLDER, `get` in place of the environment. Prints nothing. */
typedef const char *slice_getenv(const char *name);
int slice_settings_find(const char *folder, slice_getenv *get, struct slice_settings *ret, struct slice_fault *fault);

/* Read one limits file. 0, or -EINVAL with `fault` filled (unreadable, half written, not the grammar, too long). */
int slice_settings_read(const char *path, struct slice_settings *ret, struct slice_fault *fault);

/* Parse `length` bytes of a limits file called `name`. 0, or -EINVAL with `fault` filled. Pure. */
int slice_limits_parse(const char *name, const char *text, size_t length, struct slice_settings *ret,
                       struct slice_fault *fault);

/* Read HAMi's environment. 0, 1 when there is nothing of it, -EINVAL with `fault` filled. Pure but for `get`. */
int slice_hami_parse(slice_getenv *get, struct slice_settings *ret, struct slice_fault *fault);

/* The settings in force now: those of slice_account_start() or of the last good reload. The struct that comes back never
 * changes and stays valid for good; ask again to see a reload. NULL before slice_account_start(). One load. */
const struct slice_settings *slice_settings_now(void);

/* Put a copy of `settings` in force. 0, or -ENOMEM. For account.c. */
int slice_settings_publish(const struct slice_settings *settings);

#endif
