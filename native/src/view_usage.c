/* Memory and use of a card, as of our share of it.
 *
 * Fields: of all ids of nvmlDeviceGetFieldValues up to CUDA 13.5 none says how much memory is used or how busy a card is, so
 * that function is the driver's; tests/native/test_abi.py looks out for new ones.
 */
#include <time.h>

#include "account.h"
#include "view.h"

#define SECOND_NS UINT64_C(1000000000)
#define RATE_NS UINT64_C(100000000)     /* two readings so far apart make a rate */

static nvmlReturn_t slice_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetMemoryInfo, (device, memory));
        /* The driver is asked all the same: whether the card is still there only it can say. */
        nvmlReturn_t r = slice_real_nvml()->nvmlDeviceGetMemoryInfo(device, memory);

        if (r != NVML_SUCCESS)
                return r;
        struct slice_room room = slice_room((unsigned)card);
        uint64_t total = room.limit, used = room.used < total ? room.used : total;

        *memory = (nvmlMemory_t){ .total = total, .free = total - used, .used = used };
        return NVML_SUCCESS;
}
SLICE_HOOK(nvmlDeviceGetMemoryInfo)

static nvmlReturn_t slice_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetMemoryInfo_v2, (device, memory));
        nvmlReturn_t r = slice_real_nvml()->nvmlDeviceGetMemoryInfo_v2(device, memory);

        /* A version that we have not read about is answered by nobody: it might show the whole card. */
        if (r == NVML_SUCCESS && memory->version != NVML_VERSION_OF(nvmlMemory_v2_t, 2))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        if (r != NVML_SUCCESS)
                return r;
        struct slice_room room = slice_room((unsigned)card);
        uint64_t total = room.limit, used = room.used < total ? room.used : total;

        /* What the driver keeps for itself is not taken from a slice. */
        *memory = (nvmlMemory_v2_t){ memory->version, .total = total, .reserved = 0, .free = total - used, .used = used };
        return NVML_SUCCESS;
}
SLICE_HOOK(nvmlDeviceGetMemoryInfo_v2)

static uint64_t clock_ns(clockid_t clock)
{
        struct timespec now;

        clock_gettime(clock, &now);
        return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

uint32_t slice_view_of_share(unsigned device, uint64_t percent)
{
        uint64_t share = slice_state.settings.device[device].cores_pct;
        uint64_t of_share = share ? percent * 100 / share : percent;

        return of_share < 100 ? (uint32_t)of_share : 100;
}

/* GPU time of the slice and time of its last launch, all processes together, the living ones' at least. */
static void read_times(unsigned device, uint64_t *ret_gpu_ns, uint64_t *ret_launch_ns)
{
        struct slice_region *region = atomic_load_explicit(&slice_here->region, memory_order_acquire);

        *ret_gpu_ns = *ret_launch_ns = 0;
        if (!region)
                return;
        *ret_gpu_ns = atomic_load_explicit(&region->device[device].gpu_time_ns, memory_order_relaxed);
        *ret_launch_ns = atomic_load_explicit(&region->device[device].last_launch_ns, memory_order_relaxed);
}

bool slice_view_is_idle(unsigned device)
{
        uint64_t gpu_ns, launch_ns, now = clock_ns(CLOCK_REALTIME_COARSE);

        read_times(device, &gpu_ns, &launch_ns);
        return now > launch_ns && now - launch_ns > SECOND_NS;
}

/* The rate since the last reading that is old enough; -1 at the first. Lock: held. */
static int advance(struct slice_rate *rate, uint64_t now, uint64_t gpu_ns, uint32_t owner)
{
        if (!rate->at_ns || rate->owner != owner || gpu_ns < rate->gpu_time_ns) {
                *rate = (struct slice_rate){ .at_ns = now, .gpu_time_ns = gpu_ns, .owner = owner, .percent = UINT32_MAX };
                return -1;
        }
        if (now - rate->at_ns >= RATE_NS) {
                uint64_t percent = (gpu_ns - rate->gpu_time_ns) * 100 / (now - rate->at_ns);

                *rate = (struct slice_rate){ .at_ns = now, .gpu_time_ns = gpu_ns, .owner = owner,
                                             .percent = percent < 100 ? (uint32_t)percent : 100 };
        }
        return rate->percent == UINT32_MAX ? -1 : (int)rate->percent;
}

int slice_view_busy(unsigned device)
{
        uint64_t gpu_ns, launch_ns, now = clock_ns(CLOCK_MONOTONIC);
        int percent;

        read_times(device, &gpu_ns, &launch_ns);
        if (gpu_ns == 0)
                return -1;      /* a slice without a core limit is not timed */
        pthread_mutex_lock(&slice_view.lock);
        percent = advance(&slice_view.rate[device], now, gpu_ns, 0);
        pthread_mutex_unlock(&slice_view.lock);
        return percent < 0 ? -1 : (int)slice_view_of_share(device, (uint64_t)percent);
}

int slice_view_process_busy(unsigned device, uint32_t slot, uint32_t owner, uint64_t gpu_time_ns)
{
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        int percent;

        if (slot >= sizeof(slice_view.process[0]) / sizeof(slice_view.process[0][0]))
                return -1;
        pthread_mutex_lock(&slice_view.lock);
        percent = advance(&slice_view.process[device][slot], now, gpu_time_ns, owner);
        pthread_mutex_unlock(&slice_view.lock);
        return percent < 0 ? -1 : (int)slice_view_of_share(device, (uint64_t)percent);
}

uint32_t slice_view_use(unsigned device, uint32_t card_percent)
{
        int busy = slice_view_busy(device);

        if (slice_view_is_idle(device))
                return 0;
        return busy >= 0 ? (uint32_t)busy : slice_view_of_share(device, card_percent);
}

static nvmlReturn_t slice_nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetUtilizationRates, (device, utilization));
        nvmlReturn_t r = slice_real_nvml()->nvmlDeviceGetUtilizationRates(device, utilization);
        unsigned index = (unsigned)card;

        if (r != NVML_SUCCESS)
                return r;
        utilization->memory = slice_view_is_idle(index) ? 0 : slice_view_of_share(index, utilization->memory);
        utilization->gpu = slice_view_use(index, utilization->gpu);
        return r;
}
SLICE_HOOK(nvmlDeviceGetUtilizationRates)

static nvmlReturn_t slice_nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long since,
                                               nvmlValueType_t *type_of, unsigned int *count, nvmlSample_t *list)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetSamples, (device, type, since, type_of, count, list));
        nvmlReturn_t r = slice_real_nvml()->nvmlDeviceGetSamples(device, type, since, type_of, count, list);
        unsigned index = (unsigned)card;

        if (r != NVML_SUCCESS || !list || !count || !type_of ||
            (type != NVML_GPU_UTILIZATION_SAMPLES && type != NVML_MEMORY_UTILIZATION_SAMPLES))
                return r;
        if (*type_of != NVML_VALUE_TYPE_UNSIGNED_INT)
                return NVML_ERROR_NOT_SUPPORTED;        /* a layout of tomorrow: not shown rather than shown wrong */
        for (unsigned int i = 0; i < *count; i++)
                list[i].sampleValue.uiVal =
                        slice_view_is_idle(index) ? 0 : slice_view_of_share(index, list[i].sampleValue.uiVal);
        return r;
}
SLICE_HOOK(nvmlDeviceGetSamples)
