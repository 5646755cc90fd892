#include "limiter_truth.h"

#include <unistd.h>

#include "limiter_device.h"
#include "state.h"

#define LOOK_NS UINT64_C(1000000000)
#define LONGEST_NS UINT64_C(3000000000)          /* a longer stretch holds pauses that NVML's sample does not */
#define LEAST_PCT 5                              /* below this a whole percent is too coarse to learn from */
#define CLOSE 0.1                                /* NVML rounds to a percent, and its second is not quite ours */
#define SAMPLES 128
#define NVML_IS_THERE 1                          /* slice_state.truth_nvml */

static struct {
        atomic_flag is_looking;
        struct {
                _Atomic uint64_t at_ns;
                uint64_t charged_ns;
                int direction;                   /* of the last look: one that stands alone is noise */
        } device[SLICE_MAX_DEVICES];
        nvmlProcessUtilizationSample_t samples[SAMPLES];
} all = { .is_looking = ATOMIC_FLAG_INIT };

/* The mean of NVML's samples of this process, in percent; negative: none. */
static double seen_pct(unsigned device)
{
        const char *uuid = slice_state.settings.device[device].uuid;
        unsigned int count = SAMPLES, own = (unsigned int)getpid(), found = 0;
        nvmlDevice_t handle;
        double sum = 0;
        nvmlReturn_t r = uuid[0] ? slice_real_nvml()->nvmlDeviceGetHandleByUUID(uuid, &handle)
                                 : slice_real_nvml()->nvmlDeviceGetHandleByIndex_v2(device, &handle);

        if (r != NVML_SUCCESS ||
            slice_real_nvml()->nvmlDeviceGetProcessUtilization(handle, all.samples, &count, 0) != NVML_SUCCESS)
                return -1;
        unsigned long long latest = 0;
        for (unsigned int i = 0; i < count && i < SAMPLES; i++) {
                const nvmlProcessUtilizationSample_t *sample = &all.samples[i];
                /* Some drivers leave rubbish in samples of processes that just began. */
                if (sample->pid != own || sample->smUtil > 100 || sample->timeStamp < latest)
                        continue;
                if (sample->timeStamp > latest)
                        sum = found = 0;
                latest = sample->timeStamp;
                sum += sample->smUtil;
                found++;
        }
        return found ? sum / found : -1;
}

static void look(unsigned device, uint64_t now_ns)
{
        uint64_t before_ns = atomic_load_explicit(&all.device[device].at_ns, memory_order_relaxed);
        uint64_t charged_ns = slice_device_charged_here(device), charged = charged_ns - all.device[device].charged_ns;

        if (before_ns != 0 && now_ns - before_ns < LOOK_NS)
                return;
        all.device[device].charged_ns = charged_ns;
        atomic_store_explicit(&all.device[device].at_ns, now_ns, memory_order_relaxed);
        if (before_ns == 0 || now_ns - before_ns > LONGEST_NS || slice_device_sharers(device) == 0)
                return;
        double seen = seen_pct(device), ours = 100.0 * (double)charged / (double)(now_ns - before_ns);
        int before = all.device[device].direction, direction = 0;
        if (seen >= LEAST_PCT && ours >= LEAST_PCT)
                direction = (seen > ours * (1 + CLOSE)) - (seen < ours * (1 - CLOSE));
        all.device[device].direction = direction;
        if (direction != 0 && direction == before)
                slice_device_calibrate(device, (int64_t)(seen * 1e6), (int64_t)(ours * 1e6));
}

void slice_limiter_check(unsigned device, uint64_t now_ns)
{
        uint64_t before_ns = atomic_load_explicit(&all.device[device].at_ns, memory_order_relaxed);

        if ((before_ns != 0 && now_ns - before_ns < LOOK_NS) ||
            atomic_load_explicit(&slice_state.truth_nvml, memory_order_acquire) != NVML_IS_THERE ||
            atomic_flag_test_and_set_explicit(&all.is_looking, memory_order_acquire))
                return;
        look(device, now_ns);
        atomic_flag_clear_explicit(&all.is_looking, memory_order_release);
}
