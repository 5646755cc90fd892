/* Processes on a card: their physical bytes and their share of its time. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nvml.h"

struct process {
        uint32_t slot;
        int pid;
        uint64_t bytes, busy_ns;
};

/* Who has a context or memory on the card and is seen from here. Returns how many. */
static uint32_t list_processes(uint32_t card, struct process ret[STUB_SLOTS])
{
        uint64_t now = stub_now();
        uint32_t n = 0, seen = 0;

        stub_lock_device(card);
        stub_play(card, now);
        stub_reap(card);
        for (uint32_t i = 0; i < stub_state->slots_used; i++) {
                const struct stub_use *use = &stub_state->slot[i].use[card];

                if (use->held || use->contexts)
                        ret[n++] = (struct process){i, 0, use->held,
                                                    stub_busy_within(&use->busy, now, 1000000000ULL)};
        }
        stub_unlock_device(card);
        for (uint32_t i = 0; i < n; i++) {
                ret[i].pid = stub_pid_here(ret[i].slot);
                if (ret[i].pid)
                        ret[seen++] = ret[i];
        }
        return seen;
}

/* One entry in the layout that `version` names; all three begin alike. */
static void write_entry(void *list, unsigned int i, int version, const struct process *p)
{
        nvmlProcessInfo_v1_t *v1 = (nvmlProcessInfo_v1_t *)list + i;
        nvmlProcessInfo_v2_t *v2 = (nvmlProcessInfo_v2_t *)list + i;

        if (version == 1)
                *v1 = (nvmlProcessInfo_v1_t){(unsigned int)p->pid, p->bytes};
        else
                *v2 = (nvmlProcessInfo_v2_t){(unsigned int)p->pid, p->bytes, NVML_NO_INSTANCE, NVML_NO_INSTANCE};
}

static nvmlReturn_t compute(nvmlDevice_t device, unsigned int *count, void *list, int version)
{
        struct process found[STUB_SLOTS];
        unsigned int n, room;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(count);
        room = list ? *count : 0;
        if (*count && !list)
                return NVML_ERROR_INVALID_ARGUMENT;
        n = list_processes(card, found);
        *count = n;
        if (n > room)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        for (unsigned int i = 0; i < n; i++)
                write_entry(list, i, version, &found[i]);
        return NVML_SUCCESS;
}

static nvmlReturn_t none(nvmlDevice_t device, unsigned int *count)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(count);
        (void)card;
        *count = 0;
        return NVML_SUCCESS;
}

#define LISTS(suffix, type, version)                                                                            \
        nvmlReturn_t nimpl_nvmlDeviceGetComputeRunningProcesses##suffix(nvmlDevice_t device, unsigned int *count, \
                                                                        type *list)                             \
        {                                                                                                       \
                return compute(device, count, list, version);                                                   \
        }                                                                                                       \
        nvmlReturn_t nimpl_nvmlDeviceGetGraphicsRunningProcesses##suffix(nvmlDevice_t device, unsigned int *count, \
                                                                         type *list)                            \
        {                                                                                                       \
                (void)list;                                                                                     \
                return none(device, count);                                                                     \
        }                                                                                                       \
        nvmlReturn_t nimpl_nvmlDeviceGetMPSComputeRunningProcesses##suffix(nvmlDevice_t device, unsigned int *count, \
                                                                           type *list)                          \
        {                                                                                                       \
                (void)list;                                                                                     \
                return none(device, count);                                                                     \
        }
LISTS(, nvmlProcessInfo_v1_t, 1)
LISTS(_v2, nvmlProcessInfo_v2_t, 2)
LISTS(_v3, nvmlProcessInfo_t, 3)

nvmlReturn_t nimpl_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_v1_t *list)
{
        struct process found[STUB_SLOTS];
        unsigned int n = 0, room;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(list);
        if (list->version != NVML_VERSION_OF(nvmlProcessDetailList_v1_t, 1))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        if (list->mode > NVML_PROCESS_MODE_ALL)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (list->mode == NVML_PROCESS_MODE_COMPUTE || list->mode == NVML_PROCESS_MODE_ALL)
                n = list_processes(card, found);
        room = list->procArray ? list->numProcArrayEntries : 0;
        list->numProcArrayEntries = n;
        if (n > room)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        for (unsigned int i = 0; i < n; i++)
                list->procArray[i] = (nvmlProcessDetail_v1_t){(unsigned int)found[i].pid, found[i].bytes,
                                                              NVML_NO_INSTANCE, NVML_NO_INSTANCE, 0};
        return NVML_SUCCESS;
}

static uint64_t realtime_us(void)
{
        struct timespec t;

        clock_gettime(CLOCK_REALTIME, &t);
        return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static unsigned int percent(const struct process *p)
{
        return (unsigned int)((p->busy_ns * 100 + 500000000ULL) / 1000000000ULL);
}

nvmlReturn_t nimpl_nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *ret,
                                                   unsigned int *count, unsigned long long since)
{
        struct process found[STUB_SLOTS];
        unsigned int n, room;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(count);
        room = ret ? *count : 0;
        n = list_processes(card, found);
        *count = n;
        if (n > room)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        if (n == 0 || since > realtime_us())
                return NVML_ERROR_NOT_FOUND;
        for (unsigned int i = 0; i < n; i++)
                ret[i] = (nvmlProcessUtilizationSample_t){.pid = (unsigned int)found[i].pid, .timeStamp = realtime_us(),
                                                          .smUtil = percent(&found[i]),
                                                          .memUtil = percent(&found[i]) / 2};
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info)
{
        struct process found[STUB_SLOTS];
        unsigned int n, room;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(info);
        if (info->version != NVML_VERSION_OF(nvmlProcessesUtilizationInfo_v1_t, 1))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        room = info->procUtilArray ? info->processSamplesCount : 0;
        n = list_processes(card, found);
        info->processSamplesCount = n;
        if (n > room)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        for (unsigned int i = 0; i < n; i++)
                info->procUtilArray[i] = (nvmlProcessUtilizationInfo_v1_t){
                        .timeStamp = realtime_us(), .pid = (unsigned int)found[i].pid, .smUtil = percent(&found[i]),
                        .memUtil = percent(&found[i]) / 2};
        return n ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nimpl_nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
        char path[32], text[512];
        ssize_t n;
        int fd;

        NOT_NULL_OR_RETURN(name && length);
        snprintf(path, sizeof(path), "/proc/%u/cmdline", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return NVML_ERROR_NOT_FOUND;
        n = read(fd, text, sizeof(text) - 1);
        close(fd);
        text[n > 0 ? n : 0] = '\0';
        snprintf(name, length, "%s", text);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(mode);
        (void)card;
        *mode = NVML_FEATURE_ENABLED;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetAccountingBufferSize(nvmlDevice_t device, unsigned int *count)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(count);
        (void)card;
        *count = 4000;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
        struct process found[STUB_SLOTS];
        unsigned int n, room;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(count);
        room = pids ? *count : 0;
        n = list_processes(card, found);
        *count = n;
        if (n > room)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        for (unsigned int i = 0; i < n; i++)
                pids[i] = (unsigned int)found[i].pid;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid, nvmlAccountingStats_t *stats)
{
        struct process found[STUB_SLOTS];
        unsigned int n;

        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(stats);
        n = list_processes(card, found);
        for (unsigned int i = 0; i < n; i++) {
                if ((unsigned int)found[i].pid != pid)
                        continue;
                memset(stats, 0, sizeof(*stats));
                stats->gpuUtilization = percent(&found[i]);
                stats->maxMemoryUsage = found[i].bytes;
                stats->isRunning = 1;
                return NVML_SUCCESS;
        }
        return NVML_ERROR_NOT_FOUND;
}
