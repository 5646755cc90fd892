#include "state.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "account.h"

struct slice_state slice_state = {
        .starting = PTHREAD_MUTEX_INITIALIZER,
        .pools = PTHREAD_MUTEX_INITIALIZER,
};

/* What the settings make of this process. Holds `starting`. */
static enum slice_mode settings_mode(void)
{
        int mode = atomic_load_explicit(&slice_state.settings_mode, memory_order_acquire);

        if (mode != SLICE_UNKNOWN)
                return mode;
        switch (slice_settings_load(&slice_state.settings)) {
        case 0:
                mode = SLICE_ACTIVE;
                break;
        case 1:
                mode = SLICE_PASS;
                break;
        default:
                mode = SLICE_REFUSED;
        }
        atomic_store_explicit(&slice_state.settings_mode, mode, memory_order_release);
        return mode;
}

bool slice_is_limited(void)
{
        pthread_mutex_lock(&slice_state.starting);
        enum slice_mode mode = settings_mode();
        pthread_mutex_unlock(&slice_state.starting);
        return mode != SLICE_PASS;
}

/* Settings, and the region: CUDA takes a slot in it, NVML only looks. A region that refused us now (all slots taken) may have
 * room later, so only what cannot change is remembered in `ret_mode`. */
static enum slice_mode start(_Atomic(int) *ret_mode, int (*account)(const struct slice_settings *))
{
        pthread_mutex_lock(&slice_state.starting);
        enum slice_mode mode = settings_mode();
        bool final = true;

        slice_account_with_driver();
        if (mode == SLICE_ACTIVE && account(&slice_state.settings) < 0) {
                mode = SLICE_REFUSED;
                final = false;
        }
        if (final)
                atomic_store_explicit(ret_mode, mode, memory_order_release);
        pthread_mutex_unlock(&slice_state.starting);
        return mode;
}

enum slice_mode slice_start(void)
{
        return slice_driver_bind() < 0 ? SLICE_UNKNOWN : start(&slice_state.cuda_mode, slice_account_start);
}

enum slice_mode slice_start_nvml(void)
{
        return slice_driver_bind_nvml(false) < 0 ? SLICE_UNKNOWN : start(&slice_state.nvml_mode, slice_account_watch);
}

void slice_state_after_fork(void)
{
        static const struct slice_pool none;

        pthread_mutex_init(&slice_state.starting, NULL);
        pthread_mutex_init(&slice_state.pools, NULL);
        /* The map and the slot start empty, too: what the parent has charged is the parent's. */
        slice_state.pool_count = 0;
        for (int i = 0; i < SLICE_MAX_POOLS; i++)
                slice_state.pool[i] = none;
        atomic_store(&slice_state.truth_looking, false);
        memset(slice_state.graph, 0, sizeof(slice_state.graph));
}

static bool has_uuid(CUdevice ordinal, const char *wanted)
{
        CUuuid uuid;
        char hex[2 * sizeof(uuid.bytes) + 1], text[64];

        /* _v2 gives the UUID of a MIG device where the first one gives its card's. */
        if (slice_real()->cuDeviceGetUuid_v2(&uuid, ordinal) != CUDA_SUCCESS &&
            slice_real()->cuDeviceGetUuid(&uuid, ordinal) != CUDA_SUCCESS)
                return false;
        for (size_t i = 0; i < sizeof(uuid.bytes); i++)
                snprintf(hex + 2 * i, 3, "%02x", (unsigned char)uuid.bytes[i]);
        snprintf(text, sizeof(text), "%.8s-%.4s-%.4s-%.4s-%s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
        const char *dash = strchr(wanted, '-');   /* past "GPU" or "MIG" */
        return dash && strcasecmp(dash + 1, text) == 0;
}

/* The index of a card by UUID, whatever order CUDA_VISIBLE_DEVICES makes of them; by ordinal where the settings name none. */
static int find_device(CUdevice ordinal)
{
        const struct slice_settings *settings = &slice_state.settings;

        for (int i = 0; i < settings->device_count; i++)
                if (settings->device[i].uuid[0] ? has_uuid(ordinal, settings->device[i].uuid) : i == ordinal)
                        return i;
        return -1;
}

int slice_device_of(CUdevice ordinal)
{
        if (ordinal < 0 || ordinal >= SLICE_MAX_ORDINALS)
                return -1;
        int known = atomic_load_explicit(&slice_state.device[ordinal], memory_order_relaxed);
        if (!known) {
                known = find_device(ordinal) + 2;
                atomic_store_explicit(&slice_state.device[ordinal], (uint8_t)known, memory_order_relaxed);
        }
        return known - 2;
}

void slice_count_devices(void)
{
        int count = 0;
        bool one = slice_real()->cuDeviceGetCount(&count) == CUDA_SUCCESS && count == 1;

        atomic_store_explicit(&slice_state.sole_device, one ? slice_device_of(0) + 1 : 0, memory_order_relaxed);
}

/* A thread's last context and its device: contexts change rarely, and asking for the device of one costs a call. */
static _Thread_local struct {
        CUcontext context;
        uint32_t ended;
        int device;
} here __attribute__((tls_model("initial-exec")));

int slice_current_device(CUcontext *ret_context)
{
        CUcontext context = NULL;
        CUdevice ordinal;
        uint32_t ended = atomic_load_explicit(&slice_state.contexts_ended, memory_order_acquire);

        if (slice_real()->cuCtxGetCurrent(&context) != CUDA_SUCCESS)
                context = NULL;
        if (ret_context)
                *ret_context = context;
        if (!context)
                return -1;
        if (here.context != context || here.ended != ended) {
                if (slice_real()->cuCtxGetDevice(&ordinal) != CUDA_SUCCESS)
                        return -1;
                here.device = slice_device_of(ordinal);
                here.context = context;
                here.ended = ended;
        }
        return here.device;
}
