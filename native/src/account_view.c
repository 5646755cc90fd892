/* What accounting is told by the truth check and the limiter, and what it tells about the slice's processes. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "account_inside.h"

static uint64_t coarse_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct slice_line *own_line(unsigned device)
{
        if (device >= SLICE_MAX_DEVICES)
                return NULL;
        return atomic_load_explicit(&slice_here->line[device], memory_order_relaxed);
}

/* Words that inform are relaxed: each stands for itself. */
static void put(_Atomic uint64_t *word, uint64_t value)
{
        atomic_store_explicit(word, value, memory_order_relaxed);
}

static uint64_t get(_Atomic uint64_t *word)
{
        return atomic_load_explicit(word, memory_order_relaxed);
}

void slice_set_own_physical(unsigned device, uint64_t bytes)
{
        struct slice_line *line = own_line(device);

        if (line == NULL)
                return;
        struct slice_region *region = atomic_load_explicit(&slice_here->region, memory_order_relaxed);
        _Atomic uint64_t *own = &region->device[device].used[atomic_load_explicit(&slice_here->slot, memory_order_relaxed)];
        put(&line->physical_bytes, bytes);
        /* Charges come before the driver's allocation and refunds after its free, so what is tracked is never too little. */
        uint64_t used = atomic_load(own) & SLICE_USED_MASK, old = get(&line->overhead_bytes);
        uint64_t tracked = used > old ? used - old : 0;
        uint64_t overhead = bytes > tracked ? bytes - tracked : 0;
        /* Who wins the exchange moves the word by what he changed, so two threads never count one overhead twice. */
        if (overhead == old || !atomic_compare_exchange_strong(&line->overhead_bytes, &old, overhead))
                return;
        atomic_fetch_add(own, overhead - old);
        if (used - old + overhead > get(&line->peak_bytes))
                put(&line->peak_bytes, used - old + overhead);
}

void slice_set_physical(unsigned device, uint64_t bytes)
{
        struct slice_region *region = slice_region_here(device);

        if (region == NULL)
                return;
        struct slice_region_device *shared = &region->device[device];
        uint64_t used = slice_sum(region, shared) & SLICE_USED_MASK;
        put(&shared->untracked_bytes, bytes > used ? bytes - used : 0);
        put(&shared->physical_bytes, bytes);
        put(&shared->physical_at_ns, coarse_ns());
}

void slice_add_managed(unsigned device, int64_t bytes)
{
        struct slice_line *line = own_line(device);

        if (line != NULL)
                atomic_fetch_add_explicit(&line->managed_bytes, (uint64_t)bytes, memory_order_relaxed);
}

_Atomic uint64_t *slice_limiter_words(unsigned device)
{
        struct slice_region *region = slice_region_here(device);

        return region != NULL ? region->device[device].limiter : NULL;
}

static void stamp(struct slice_region *region, unsigned device, struct slice_line *line)
{
        uint64_t now_ns = coarse_ns();

        put(&line->last_launch_ns, now_ns);
        put(&region->device[device].last_launch_ns, now_ns);
}

void slice_stamp_launches(void)
{
        struct slice_here *here = slice_here;
        struct slice_region *region = atomic_load_explicit(&here->region, memory_order_relaxed);

        for (unsigned i = 0; i < SLICE_MAX_DEVICES; i++) {
                struct slice_line *line = own_line(i);

                if (line == NULL)
                        break;
                uint64_t launches = get(&line->launches);
                if (launches == get(&here->stamped[i]))
                        continue;
                put(&here->stamped[i], launches);
                stamp(region, i, line);
        }
}

void slice_add_gpu_time(unsigned device, uint64_t ns)
{
        struct slice_line *line = own_line(device);

        if (line == NULL)
                return;
        struct slice_region *region = atomic_load_explicit(&slice_here->region, memory_order_relaxed);
        atomic_fetch_add_explicit(&line->gpu_time_ns, ns, memory_order_relaxed);
        atomic_fetch_add_explicit(&region->device[device].gpu_time_ns, ns, memory_order_relaxed);
        stamp(region, device, line);
}

uint64_t slice_own_namespace(void)
{
        struct stat about;

        if (atomic_load_explicit(&slice_here->joined, memory_order_acquire) != 0) {
                struct slice_region *region = atomic_load_explicit(&slice_here->region, memory_order_relaxed);

                return region->slot[atomic_load_explicit(&slice_here->slot, memory_order_relaxed)].pid_namespace;
        }
        return stat("/proc/self/ns/pid", &about) == 0 ? about.st_ino : 0;
}

/* False: nobody owns the slot. */
static bool describe(struct slice_region *region, unsigned device, uint32_t slot, uint64_t namespace,
                     struct slice_process *ret)
{
        struct slice_slot *owner = &region->slot[slot];
        struct slice_line *line = &region->device[device].line[slot];

        if (atomic_load_explicit(&owner->state, memory_order_acquire) != SLICE_SLOT_TAKEN)
                return false;
        *ret = (struct slice_process){
                .slot = slot,
                .own = atomic_load_explicit(&slice_here->joined, memory_order_acquire) != 0 &&
                       slot == atomic_load_explicit(&slice_here->slot, memory_order_relaxed),
                .pid = owner->pid_namespace == namespace ? owner->pid : 0,
                .pid_there = owner->pid,
                .uid = owner->uid,
                .used_bytes = atomic_load(&region->device[device].used[slot]) & SLICE_USED_MASK,
                .gpu_time_ns = get(&line->gpu_time_ns),
                .last_launch_ns = get(&line->last_launch_ns),
        };
        memcpy(ret->comm, owner->comm, sizeof(ret->comm) - 1);
        return true;
}

int slice_processes(unsigned device, struct slice_process *ret, int most)
{
        struct slice_region *region = slice_region_here(device);
        struct slice_process one;
        int count = 0;

        if (region == NULL)
                return 0;
        uint64_t namespace = slice_own_namespace();
        uint32_t high = slice_high(region);
        for (uint32_t slot = 0; slot < high; slot++) {
                if (!describe(region, device, slot, namespace, &one))
                        continue;
                if (count < most)
                        ret[count] = one;
                count++;
        }
        return count;
}

int slice_offender(unsigned device, struct slice_process *ret)
{
        struct slice_region *region = slice_region_here(device);
        struct slice_process most = {0}, one;

        if (region == NULL)
                return -ENOENT;
        slice_account_reap();
        uint64_t namespace = slice_own_namespace();
        uint32_t high = slice_high(region);
        for (uint32_t slot = 0; slot < high; slot++)
                if (describe(region, device, slot, namespace, &one) && one.used_bytes > most.used_bytes)
                        most = one;
        if (most.used_bytes == 0)
                return -ENOENT;
        *ret = most;
        return 0;
}
