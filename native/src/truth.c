#include "truth.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "account.h"
#include "driver.h"
#include "message.h"
#include "state.h"

#define SECOND_NS UINT64_C(1000000000)
#define SOON_NS UINT64_C(10000000)
#define MOST_PROCESSES 256

_Thread_local unsigned slice_truth_calls;

static uint64_t now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* NVML, loaded and initialised by us where the program has not; it is never shut down again. False: there is none here. */
static bool have_nvml(void)
{
        enum { UNTRIED = 0, HAVE, HAVE_NOT };
        int known = atomic_load_explicit(&slice_state.truth_nvml, memory_order_acquire);

        if (known == UNTRIED) {
                known = slice_driver_bind_nvml(true) == 0 && slice_real_nvml()->nvmlInit_v2() == NVML_SUCCESS ? HAVE : HAVE_NOT;
                atomic_store_explicit(&slice_state.truth_nvml, known, memory_order_release);
        }
        return known == HAVE;
}

/* NVML's handle of a card of the settings; where they name no UUID, the card with that number. */
static bool handle_of(unsigned device, nvmlDevice_t *ret)
{
        const char *uuid = slice_state.settings.device[device].uuid;

        if (!uuid[0])
                return slice_real_nvml()->nvmlDeviceGetHandleByIndex_v2(device, ret) == NVML_SUCCESS;
        return slice_real_nvml()->nvmlDeviceGetHandleByUUID(uuid, ret) == NVML_SUCCESS;
}

/* What NVML says that this process holds on `device`. False: it does not know us (another PID namespace), or does not say. */
static bool physical_here(unsigned device, uint64_t *ret_bytes)
{
        static nvmlProcessInfo_t list[MOST_PROCESSES];   /* under the lock of look() */
        unsigned int count = MOST_PROCESSES, own = (unsigned int)getpid();
        nvmlDevice_t handle;

        if (!handle_of(device, &handle) ||
            slice_real_nvml()->nvmlDeviceGetComputeRunningProcesses_v3(handle, &count, list) != NVML_SUCCESS)
                return false;
        for (unsigned int i = 0; i < count && i < MOST_PROCESSES; i++)
                if (list[i].pid == own && list[i].usedGpuMemory != UINT64_MAX) {
                        *ret_bytes = list[i].usedGpuMemory;
                        return true;
                }
        return false;
}

/* All processes on the cards of the slice; -1: that is not known, or not in numbers of our own PID namespace, since we are not
 * among them. Returns how many there are. */
static int list_all(uint32_t *ret_pids, int most)
{
        static nvmlProcessInfo_t list[MOST_PROCESSES];   /* under the lock of look() */
        int all = 0, own = getpid();
        bool found = false;

        for (int device = 0; device < slice_state.settings.device_count; device++) {
                unsigned int count = MOST_PROCESSES;
                nvmlDevice_t handle;

                if (!handle_of((unsigned)device, &handle) ||
                    slice_real_nvml()->nvmlDeviceGetComputeRunningProcesses_v3(handle, &count, list) != NVML_SUCCESS ||
                    count > MOST_PROCESSES || (int)count > most - all)
                        return -1;
                for (unsigned int i = 0; i < count; i++) {
                        ret_pids[all++] = list[i].pid;
                        found = found || (int)list[i].pid == own;
                }
        }
        return found ? all : -1;
}

/* Under the lock of look(). */
static void settle(void)
{
        static uint32_t pids[2 * MOST_PROCESSES];
        uint64_t owed = 0;

        for (int device = 0; device < slice_state.settings.device_count; device++)
                owed += slice_owed((unsigned)device);
        if (owed != 0)
                slice_settle(pids, have_nvml() ? list_all(pids, 2 * MOST_PROCESSES) : -1);
}

/* Whether the slice holds no more than it may but for what the dead owe, a debt that may be paid between two looks. */
static bool is_within(unsigned device)
{
        uint64_t before = slice_owed(device);
        struct slice_room room = slice_room(device);
        uint64_t after = slice_owed(device);

        return room.used <= room.limit + (before > after ? before : after);
}

/* Where the whole slice holds more than it may (its limit shrank, or something no hook sees has grown), the process that
 * holds most ends, and only itself: nobody ends another one's process. */
static void end_offender(unsigned device)
{
        struct slice_process offender;

        /* Twice: who died a moment ago counts like the living until slice_offender() has looked, and owes afterwards. */
        if (!slice_settings_now()->oom_killer || is_within(device) || slice_offender(device, &offender) < 0 ||
            !offender.own || is_within(device))
                return;
        struct slice_room room = slice_room(device);
        slice_log(1, "this slice holds %llu MiB of %llu MiB, and this process %llu MiB of it: it is ended (ACTIVE_OOM_KILLER)",
                  (unsigned long long)(room.used >> 20), (unsigned long long)(room.limit >> 20),
                  (unsigned long long)(offender.used_bytes >> 20));
        kill(getpid(), SIGKILL);
}

static void look_at(unsigned device)
{
        uint64_t before = slice_used_here(device), bytes;

        /* An allocation or a free in between would look like memory that nobody charged. */
        if (physical_here(device, &bytes) && slice_used_here(device) == before)
                slice_set_own_physical(device, bytes);
        end_offender(device);
}

/* Look at all devices of the slice if the last look is older than `age_ns`. One thread looks, the others go on. */
static void look(uint64_t age_ns)
{
        uint64_t now = now_ns(), last = atomic_load_explicit(&slice_state.truth_at_ns, memory_order_relaxed);

        if (last && now - last < age_ns)
                return;
        if (atomic_exchange_explicit(&slice_state.truth_looking, true, memory_order_acquire))
                return;
        if (have_nvml())
                for (int device = 0; device < slice_state.settings.device_count; device++)
                        look_at((unsigned)device);
        settle();
        atomic_store_explicit(&slice_state.truth_at_ns, now_ns(), memory_order_relaxed);
        atomic_store_explicit(&slice_state.truth_looking, false, memory_order_release);
}

void slice_truth_settle(void)
{
        if (atomic_exchange_explicit(&slice_state.truth_looking, true, memory_order_acquire))
                return;
        settle();
        atomic_store_explicit(&slice_state.truth_looking, false, memory_order_release);
}

void slice_truth_check(void)
{
        look(SOON_NS);
}

void slice_truth_look(void)
{
        slice_tidy();
        look(SECOND_NS);
}
