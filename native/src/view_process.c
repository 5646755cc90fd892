/* Processes: those of the slice, as the reader knows them. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "account.h"
#include "view.h"

struct process {
        struct slice_process is;
        unsigned percent;
};

static bool launches(const struct slice_process *p)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        return p->last_launch_ns + UINT64_C(1000000000) > (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* A process that was not looked at before has no rate yet: it gets its part of what the slice uses. */
static unsigned first_guess(unsigned device, nvmlDevice_t handle, unsigned among)
{
        nvmlUtilization_t use = { 0, 0 };

        if (slice_real_nvml()->nvmlDeviceGetUtilizationRates(handle, &use) != NVML_SUCCESS)
                use.gpu = 0;
        return slice_view_use(device, use.gpu) / (among ? among : 1);
}

static void fill_percents(unsigned device, struct process *list, unsigned count)
{
        nvmlDevice_t handle = atomic_load_explicit(&slice_view.handle[device], memory_order_relaxed);
        unsigned active = 0;

        for (unsigned i = 0; i < count; i++)
                active += launches(&list[i].is);
        for (unsigned i = 0; i < count; i++) {
                const struct slice_process *p = &list[i].is;
                int percent = slice_view_process_busy(device, p->slot, (uint32_t)p->pid_there, p->gpu_time_ns);

                if (percent < 0)
                        percent = launches(p) ? (int)first_guess(device, handle, active) : 0;
                list[i].percent = (unsigned)percent;
        }
}

/* Who uses a card and lives in the reader's PID namespace. Returns how many. */
static unsigned list_processes(unsigned device, struct process ret[SLICE_SLOTS])
{
        struct slice_process all[SLICE_SLOTS];
        unsigned found = 0;
        int n;

        slice_tidy();
        n = slice_processes(device, all, SLICE_SLOTS);
        for (int i = 0; i < n && i < SLICE_SLOTS; i++)
                if (all[i].pid && (all[i].used_bytes || all[i].gpu_time_ns || all[i].last_launch_ns))
                        ret[found++].is = all[i];
        return found;
}

/* NVML's way with lists: *count is the room before, the need after. */
static nvmlReturn_t fits(unsigned need, bool have_list, unsigned *count)
{
        unsigned room = have_list ? *count : 0;

        *count = need;
        return need > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

static nvmlReturn_t fill_v1(unsigned device, unsigned *count, nvmlProcessInfo_v1_t *list)
{
        struct process found[SLICE_SLOTS];
        nvmlReturn_t r;

        if (!count || (*count && !list))
                return NVML_ERROR_INVALID_ARGUMENT;
        r = fits(list_processes(device, found), list, count);
        for (unsigned i = 0; r == NVML_SUCCESS && i < *count; i++)
                list[i] = (nvmlProcessInfo_v1_t){ (unsigned)found[i].is.pid, found[i].is.used_bytes };
        return r;
}

static nvmlReturn_t fill_v2(unsigned device, unsigned *count, nvmlProcessInfo_v2_t *list)
{
        struct process found[SLICE_SLOTS];
        nvmlReturn_t r;

        if (!count || (*count && !list))
                return NVML_ERROR_INVALID_ARGUMENT;
        r = fits(list_processes(device, found), list, count);
        for (unsigned i = 0; r == NVML_SUCCESS && i < *count; i++)
                list[i] = (nvmlProcessInfo_v2_t){ (unsigned)found[i].is.pid, found[i].is.used_bytes, NVML_NO_INSTANCE,
                                                  NVML_NO_INSTANCE };
        return r;
}

/* All processes of a slice compute: nobody draws with it, and MPS would show its server's. */
static nvmlReturn_t nobody(unsigned *count)
{
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        *count = 0;
        return NVML_SUCCESS;
}

#define COMPUTE(symbol, type, fill)                                                                     \
        static nvmlReturn_t slice_##symbol(nvmlDevice_t device, unsigned int *count, type *list)        \
        {                                                                                               \
                SLICE_VIEW_CARD_OR_RETURN(card, device, symbol, (device, count, list));                 \
                return fill((unsigned)card, count, list);                                               \
        }                                                                                               \
        SLICE_HOOK(symbol)
#define NOBODY(symbol, type)                                                                            \
        static nvmlReturn_t slice_##symbol(nvmlDevice_t device, unsigned int *count, type *list)        \
        {                                                                                               \
                SLICE_VIEW_CARD_OR_RETURN(card, device, symbol, (device, count, list));                 \
                (void)card;                                                                             \
                return nobody(count);                                                                   \
        }                                                                                               \
        SLICE_HOOK(symbol)

COMPUTE(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t, fill_v1)
COMPUTE(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, fill_v2)
COMPUTE(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t, fill_v2)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

static nvmlReturn_t slice_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_v1_t *list)
{
        struct process found[SLICE_SLOTS];
        unsigned need = 0;
        nvmlReturn_t r;

        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetRunningProcessDetailList, (device, list));
        if (!list)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (list->version != NVML_VERSION_OF(nvmlProcessDetailList_v1_t, 1))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        if (list->mode > NVML_PROCESS_MODE_ALL)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (list->mode == NVML_PROCESS_MODE_COMPUTE || list->mode == NVML_PROCESS_MODE_ALL)
                need = list_processes((unsigned)card, found);
        r = fits(need, list->procArray, &list->numProcArrayEntries);
        for (unsigned i = 0; r == NVML_SUCCESS && i < need; i++)
                list->procArray[i] = (nvmlProcessDetail_v1_t){ (unsigned)found[i].is.pid, found[i].is.used_bytes,
                                                               NVML_NO_INSTANCE, NVML_NO_INSTANCE, 0 };
        return r;
}
SLICE_HOOK(nvmlDeviceGetRunningProcessDetailList)

static unsigned long long now_us(void)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000;
}

static nvmlReturn_t slice_nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *ret,
                                                          unsigned int *count, unsigned long long since)
{
        struct process found[SLICE_SLOTS];
        nvmlReturn_t r;

        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetProcessUtilization, (device, ret, count, since));
        if (!count)
                return NVML_ERROR_INVALID_ARGUMENT;
        r = fits(list_processes((unsigned)card, found), ret, count);
        if (r == NVML_SUCCESS && (*count == 0 || since > now_us()))
                return NVML_ERROR_NOT_FOUND;
        fill_percents((unsigned)card, found, r == NVML_SUCCESS ? *count : 0);
        for (unsigned i = 0; r == NVML_SUCCESS && i < *count; i++)
                ret[i] = (nvmlProcessUtilizationSample_t){ .pid = (unsigned)found[i].is.pid, .timeStamp = now_us(),
                                                           .smUtil = found[i].percent };
        return r;
}
SLICE_HOOK(nvmlDeviceGetProcessUtilization)

static nvmlReturn_t slice_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info)
{
        struct process found[SLICE_SLOTS];
        nvmlReturn_t r;

        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetProcessesUtilizationInfo, (device, info));
        if (!info)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (info->version != NVML_VERSION_OF(nvmlProcessesUtilizationInfo_v1_t, 1))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        r = fits(list_processes((unsigned)card, found), info->procUtilArray, &info->processSamplesCount);
        if (r == NVML_SUCCESS && info->processSamplesCount == 0)
                return NVML_ERROR_NOT_FOUND;
        fill_percents((unsigned)card, found, r == NVML_SUCCESS ? info->processSamplesCount : 0);
        for (unsigned i = 0; r == NVML_SUCCESS && i < info->processSamplesCount; i++)
                info->procUtilArray[i] = (nvmlProcessUtilizationInfo_v1_t){
                        .timeStamp = now_us(), .pid = (unsigned)found[i].is.pid, .smUtil = found[i].percent };
        return r;
}
SLICE_HOOK(nvmlDeviceGetProcessesUtilizationInfo)

/* The driver would name any process of the host by its pid there. Ours are in /proc. */
static nvmlReturn_t slice_nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
        char path[32], text[1024];
        ssize_t n;
        int fd;

        SLICE_VIEW_OR_RETURN(nvmlSystemGetProcessName, (pid, name, length));
        if (!name || length == 0)
                return NVML_ERROR_INVALID_ARGUMENT;
        snprintf(path, sizeof(path), "/proc/%u/cmdline", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return NVML_ERROR_NOT_FOUND;
        n = read(fd, text, sizeof(text) - 1);
        close(fd);
        if (n <= 0)
                return NVML_ERROR_NOT_FOUND;
        text[n] = '\0';
        snprintf(name, length, "%s", text);     /* the program; its arguments come behind the NUL */
        return NVML_SUCCESS;
}
SLICE_HOOK(nvmlSystemGetProcessName)

/* Accounting tells of processes that have ended, other people's among them: it is off here. */
static nvmlReturn_t slice_nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetAccountingMode, (device, mode));
        (void)card;
        if (!mode)
                return NVML_ERROR_INVALID_ARGUMENT;
        *mode = NVML_FEATURE_DISABLED;
        return NVML_SUCCESS;
}
SLICE_HOOK(nvmlDeviceGetAccountingMode)

static nvmlReturn_t slice_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetAccountingPids, (device, count, pids));
        (void)card;
        return nobody(count);
}
SLICE_HOOK(nvmlDeviceGetAccountingPids)

static nvmlReturn_t slice_nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid, nvmlAccountingStats_t *stats)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetAccountingStats, (device, pid, stats));
        (void)card;
        return NVML_ERROR_NOT_FOUND;
}
SLICE_HOOK(nvmlDeviceGetAccountingStats)

static nvmlReturn_t slice_nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, nvmlAccountingStats_v2_t *stats)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetAccountingStats_v2, (device, stats));
        (void)card;
        return NVML_ERROR_NOT_FOUND;
}
SLICE_HOOK(nvmlDeviceGetAccountingStats_v2)

static nvmlReturn_t slice_nvmlDeviceGetAccountingBufferSize(nvmlDevice_t device, unsigned int *size)
{
        SLICE_VIEW_CARD_OR_RETURN(card, device, nvmlDeviceGetAccountingBufferSize, (device, size));
        (void)card;
        return nobody(size);
}
SLICE_HOOK(nvmlDeviceGetAccountingBufferSize)
