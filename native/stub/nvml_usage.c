/* How busy a card is and who uses it. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nvml.h"

#define SECOND 1000000000ULL
#define NO_INSTANCE NVML_NO_INSTANCE

nvmlReturn_t nimpl_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
        uint64_t used, total;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(memory);
        stub_read_bytes(card, &used, &total);
        *memory = (nvmlMemory_t){total, total - used, used};
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
        nvmlMemory_t m;
        nvmlReturn_t r;

        NOT_NULL_OR_RETURN(memory);
        if (memory->version != NVML_VERSION_OF(nvmlMemory_v2_t, 2))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        r = nimpl_nvmlDeviceGetMemoryInfo(device, &m);
        if (r == NVML_SUCCESS)
                *memory = (nvmlMemory_v2_t){memory->version, m.total, 0, m.free, m.used};
        return r;
}

nvmlReturn_t nimpl_nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(memory);
        (void)card;
        *memory = (nvmlBAR1Memory_t){256 * MIB, 250 * MIB, 6 * MIB};
        return NVML_SUCCESS;
}

/* Plays the card up to now and says how much of the last second it, or one process on it, was busy: 0 .. 100. */
static unsigned int percent(uint32_t card, int slot)
{
        uint64_t now = stub_now(), busy;

        stub_lock_device(card);
        stub_play(card, now);
        busy = stub_busy_within(slot < 0 ? &stub_state->device[card].busy : &stub_state->slot[slot].use[card].busy, now,
                                SECOND);
        stub_unlock_device(card);
        return (unsigned int)((busy * 100 + SECOND / 2) / SECOND);
}

nvmlReturn_t nimpl_nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *ret)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(ret);
        ret->gpu = percent(card, -1);
        ret->memory = ret->gpu / 2;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *ret, unsigned int *period_us)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(ret && period_us);
        (void)card;
        *ret = 0;
        *period_us = 167000;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *ret, unsigned int *period_us)
{
        return nimpl_nvmlDeviceGetEncoderUtilization(device, ret, period_us);
}

nvmlReturn_t nimpl_nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *temp)
{
        CARD_OR_RETURN(card, device);
        if (!temp || sensor != NVML_TEMPERATURE_GPU)
                return NVML_ERROR_INVALID_ARGUMENT;
        *temp = 35 + percent(card, -1) / 3;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(power);
        *power = 25000 + percent(card, -1) * 4000;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(energy);
        *energy = stub_state->device[card].busy_ns / 1000000 * 4 / 10;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
        CARD_OR_RETURN(card, device);
        if (!clock || (unsigned int)type > NVML_CLOCK_VIDEO)
                return NVML_ERROR_INVALID_ARGUMENT;
        (void)card;
        *clock = type == NVML_CLOCK_MEM ? 10501 : 2520;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
        return nimpl_nvmlDeviceGetClockInfo(device, type, clock);
}

nvmlReturn_t nimpl_nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *list)
{
        struct timespec t;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(list && count > 0);
        (void)card;
        clock_gettime(CLOCK_REALTIME, &t);
        for (int i = 0; i < count; i++) {
                list[i].timestamp = (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
                list[i].latencyUsec = 0;
                list[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
                if (list[i].fieldId == NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION) {
                        list[i].valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
                        list[i].nvmlReturn = nimpl_nvmlDeviceGetTotalEnergyConsumption(device, &list[i].value.ullVal);
                }
        }
        return NVML_SUCCESS;
}

/* The tenths of a second of the last two seconds, oldest first, as samples in percent. */
nvmlReturn_t nimpl_nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long since,
                                        nvmlValueType_t *type_of, unsigned int *count, nvmlSample_t *list)
{
        struct stub_busy busy;
        struct timespec t;
        uint64_t now = stub_now(), last = now / STUB_BUCKET_NS, epoch;
        unsigned int n = 0, room;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(type_of && count);
        if (type != NVML_GPU_UTILIZATION_SAMPLES && type != NVML_MEMORY_UTILIZATION_SAMPLES)
                return NVML_ERROR_NOT_SUPPORTED;
        *type_of = NVML_VALUE_TYPE_UNSIGNED_INT;
        if (!list) {
                *count = 20;
                return NVML_SUCCESS;
        }
        room = *count;
        clock_gettime(CLOCK_REALTIME, &t);
        epoch = (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000 - now / 1000;
        stub_lock_device(card);
        stub_play(card, now);
        busy = stub_state->device[card].busy;
        stub_unlock_device(card);
        for (uint64_t id = last > 20 ? last - 20 : 0; id < last && n < room; id++) {
                uint64_t stamp = epoch + (id + 1) * STUB_BUCKET_NS / 1000;
                uint64_t ns = busy.id[id % STUB_BUCKETS] == id ? busy.ns[id % STUB_BUCKETS] : 0;

                if (stamp <= since)
                        continue;
                list[n].timeStamp = stamp;
                list[n++].sampleValue.uiVal = (unsigned int)(ns * 100 / STUB_BUCKET_NS);
        }
        *count = n;
        return n ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* Multi-instance GPUs: this card has none. */
nvmlReturn_t nimpl_nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *now, unsigned int *pending)
{
        (void)now;
        (void)pending;
        CARD_OR_RETURN(card, device);
        (void)card;
        return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nimpl_nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig)
{
        (void)index;
        (void)mig;
        CARD_OR_RETURN(card, device);
        (void)card;
        return NVML_ERROR_NOT_SUPPORTED;
}
