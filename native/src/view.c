/* NVML's start, and which cards there are. */
#include "view.h"

#include <string.h>

#include "message.h"

struct slice_view slice_view = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Ask the driver for the handles of our cards: after each nvmlInit, since they may be others then. */
static void find_cards(void)
{
        const struct slice_settings *settings = &slice_state.settings;
        const struct slice_nvml *real = slice_real_nvml();

        for (int i = 0; i < settings->device_count; i++) {
                const char *uuid = settings->device[i].uuid;
                nvmlDevice_t card = NULL, parent = NULL;
                nvmlReturn_t r = uuid[0] ? real->nvmlDeviceGetHandleByUUID(uuid, &card)
                                         : real->nvmlDeviceGetHandleByIndex_v2((unsigned)i, &card);

                if (r != NVML_SUCCESS)
                        card = NULL;
                if (card && strncmp(uuid, "MIG-", 4) == 0 &&
                    real->nvmlDeviceGetDeviceHandleFromMigDeviceHandle(card, &parent) != NVML_SUCCESS)
                        parent = NULL;
                atomic_store_explicit(&slice_view.handle[i], card, memory_order_relaxed);
                atomic_store_explicit(&slice_view.parent[i], parent ? parent : card, memory_order_relaxed);
        }
}

static nvmlReturn_t begin(nvmlReturn_t result)
{
        if (result != NVML_SUCCESS)
                return result;
        pthread_mutex_lock(&slice_view.lock);
        find_cards();
        atomic_fetch_add_explicit(&slice_view.users, 1, memory_order_release);
        pthread_mutex_unlock(&slice_view.lock);
        return result;
}

/* Settings that cannot be read fail here, in the call that every program makes first. */
#define INIT(symbol, parameters, arguments)                                     \
        static nvmlReturn_t slice_##symbol parameters                           \
        {                                                                       \
                enum slice_mode mode = slice_mode_nvml();                       \
                                                                                \
                if (mode == SLICE_PASS)                                         \
                        return slice_real_nvml()->symbol arguments;             \
                if (mode != SLICE_ACTIVE)                                       \
                        return NVML_ERROR_DRIVER_NOT_LOADED;                    \
                return begin(slice_real_nvml()->symbol arguments);              \
        }                                                                       \
        SLICE_HOOK(symbol)

INIT(nvmlInit, (void), ())
INIT(nvmlInit_v2, (void), ())
INIT(nvmlInitWithFlags, (unsigned int flags), (flags))

static nvmlReturn_t slice_nvmlShutdown(void)
{
        SLICE_VIEW_OR_RETURN(nvmlShutdown, ());
        nvmlReturn_t r = slice_real_nvml()->nvmlShutdown();
        uint32_t users = atomic_load_explicit(&slice_view.users, memory_order_relaxed);

        while (r == NVML_SUCCESS && users &&
               !atomic_compare_exchange_weak_explicit(&slice_view.users, &users, users - 1, memory_order_release,
                                                      memory_order_relaxed))
                ;
        return r;
}
SLICE_HOOK(nvmlShutdown)

/* Several MIG devices of one card are one card here: NVML lists cards, and their MIG devices below them. */
static bool is_first_of_its_card(int index)
{
        nvmlDevice_t parent = atomic_load_explicit(&slice_view.parent[index], memory_order_relaxed);

        for (int i = 0; parent && i < index; i++)
                if (atomic_load_explicit(&slice_view.parent[i], memory_order_relaxed) == parent)
                        return false;
        return true;
}

static unsigned count_cards(void)
{
        unsigned count = 0;

        for (int i = 0; i < slice_state.settings.device_count; i++)
                count += is_first_of_its_card(i);
        return count;
}

static nvmlReturn_t card_at(unsigned wanted, nvmlDevice_t *ret)
{
        if (!ret)
                return NVML_ERROR_INVALID_ARGUMENT;
        for (int i = 0; i < slice_state.settings.device_count; i++) {
                if (!is_first_of_its_card(i) || wanted-- > 0)
                        continue;
                nvmlDevice_t card = atomic_load_explicit(&slice_view.parent[i], memory_order_relaxed);

                if (!card)
                        return NVML_ERROR_GPU_IS_LOST;
                *ret = card;
                return NVML_SUCCESS;
        }
        return NVML_ERROR_INVALID_ARGUMENT;
}

static nvmlReturn_t slice_nvmlDeviceGetCount(unsigned int *count)
{
        SLICE_VIEW_OR_RETURN(nvmlDeviceGetCount, (count));
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        *count = count_cards();
        return NVML_SUCCESS;
}
SLICE_HOOK(nvmlDeviceGetCount)

static nvmlReturn_t slice_nvmlDeviceGetCount_v2(unsigned int *count)
{
        SLICE_VIEW_OR_RETURN(nvmlDeviceGetCount_v2, (count));
        return slice_nvmlDeviceGetCount(count);
}
SLICE_HOOK(nvmlDeviceGetCount_v2)

static nvmlReturn_t slice_nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
        SLICE_VIEW_OR_RETURN(nvmlDeviceGetHandleByIndex, (index, device));
        return card_at(index, device);
}
SLICE_HOOK(nvmlDeviceGetHandleByIndex)

static nvmlReturn_t slice_nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
        SLICE_VIEW_OR_RETURN(nvmlDeviceGetHandleByIndex_v2, (index, device));
        return card_at(index, device);
}
SLICE_HOOK(nvmlDeviceGetHandleByIndex_v2)

static nvmlReturn_t slice_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetIndex, (device, index));
        if (!index)
                return NVML_ERROR_INVALID_ARGUMENT;
        *index = 0;
        for (int i = 0; i < card; i++)
                *index += is_first_of_its_card(i);
        return NVML_SUCCESS;
}
SLICE_HOOK(nvmlDeviceGetIndex)

/* What the driver found, if it is ours; a hidden card is one that is not there. */
static nvmlReturn_t if_ours(nvmlReturn_t result, nvmlDevice_t found, nvmlDevice_t *ret)
{
        if (result != NVML_SUCCESS)
                return result;
        if (slice_view_index(found) < 0)
                return NVML_ERROR_NOT_FOUND;
        *ret = found;
        return NVML_SUCCESS;
}

#define BY_NAME(symbol, type)                                                           \
        static nvmlReturn_t slice_##symbol(type name, nvmlDevice_t *device)             \
        {                                                                               \
                nvmlDevice_t found = NULL;                                              \
                                                                                        \
                SLICE_VIEW_OR_RETURN(symbol, (name, device));                           \
                if (!name || !device)                                                   \
                        return NVML_ERROR_INVALID_ARGUMENT;                             \
                nvmlReturn_t result = slice_real_nvml()->symbol(name, &found);          \
                return if_ours(result, found, device);                                  \
        }                                                                               \
        SLICE_HOOK(symbol)

BY_NAME(nvmlDeviceGetHandleByUUID, const char *)
BY_NAME(nvmlDeviceGetHandleByUUIDV, const nvmlUUID_v1_t *)
BY_NAME(nvmlDeviceGetHandleBySerial, const char *)
BY_NAME(nvmlDeviceGetHandleByPciBusId, const char *)
BY_NAME(nvmlDeviceGetHandleByPciBusId_v2, const char *)

/* MIG devices of a card: those of this slice, in the order of its settings. */
static nvmlReturn_t slice_nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetMigDeviceHandleByIndex, (device, index, mig));
        if (!mig)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (strncmp(slice_state.settings.device[card].uuid, "MIG-", 4) != 0)
                return slice_real_nvml()->nvmlDeviceGetMigDeviceHandleByIndex(device, index, mig);
        for (int i = 0; i < slice_state.settings.device_count; i++) {
                nvmlDevice_t handle = atomic_load_explicit(&slice_view.handle[i], memory_order_relaxed);

                if (!handle || atomic_load_explicit(&slice_view.parent[i], memory_order_relaxed) != device || index-- > 0)
                        continue;
                *mig = handle;
                return NVML_SUCCESS;
        }
        return NVML_ERROR_NOT_FOUND;
}
SLICE_HOOK(nvmlDeviceGetMigDeviceHandleByIndex)

/* A list of the driver's, cut down to our cards. With *count 0 it only says how many there are: all of ours, at most. */
static nvmlReturn_t keep_ours(nvmlReturn_t result, unsigned *count, nvmlDevice_t *list)
{
        unsigned kept = 0;

        if (result != NVML_SUCCESS || !count)
                return result;
        if (!list) {
                if (*count > count_cards())
                        *count = count_cards();
                return result;
        }
        for (unsigned i = 0; i < *count; i++)
                if (slice_view_index(list[i]) >= 0)
                        list[kept++] = list[i];
        *count = kept;
        return result;
}

static nvmlReturn_t slice_nvmlSystemGetTopologyGpuSet(unsigned int cpu, unsigned int *count, nvmlDevice_t *list)
{
        SLICE_VIEW_OR_RETURN(nvmlSystemGetTopologyGpuSet, (cpu, count, list));
        return keep_ours(slice_real_nvml()->nvmlSystemGetTopologyGpuSet(cpu, count, list), count, list);
}
SLICE_HOOK(nvmlSystemGetTopologyGpuSet)

static nvmlReturn_t slice_nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level,
                                                           unsigned int *count, nvmlDevice_t *list)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetTopologyNearestGpus, (device, level, count, list));
        (void)card;
        return keep_ours(slice_real_nvml()->nvmlDeviceGetTopologyNearestGpus(device, level, count, list), count, list);
}
SLICE_HOOK(nvmlDeviceGetTopologyNearestGpus)
