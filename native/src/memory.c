/* What the hooks of all memory kinds share. */
#include "memory.h"

#include <errno.h>
#include <string.h>

#include "truth.h"

#define MiB (UINT64_C(1) << 20)
#define PAGE (2 * MiB)   /* of device memory */
#define CU_DEVICE_CPU ((CUdevice)-1)

uint64_t slice_taken(uint64_t bytes)
{
        uint64_t unit = bytes > MiB ? PAGE : 512;

        return bytes > SLICE_UNLIMITED ? bytes : (bytes + unit - 1) / unit * unit;
}

/* Memory oversubscription. Above the soft limit, or the hard one where no lower soft one was set, linear memory is managed
 * memory: it lives in host memory, and the host's own limits bound it. */
static bool oversubscribes(void)
{
        return __builtin_expect(slice_settings_now()->oversubscribe, 0);
}

static bool is_above_soft_limit(unsigned device)
{
        return slice_used(device) > slice_settings_now()->device[device].soft_bytes;
}

/* The first look said no. Pools may have shrunk inside the driver, NVML knows what this process really holds,
 * and the driver needs a moment for what the dead had. */
static enum slice_grant look_again(unsigned device, uint64_t bytes, const char *api, bool managed_will_do)
{
        slice_memory_settle();
        slice_truth_check();
        if (slice_charge(device, bytes) == 0 || slice_charge_after_debts(device, bytes, slice_truth_settle) == 0)
                return SLICE_GRANTED;
        if (managed_will_do && oversubscribes())
                return SLICE_AS_MANAGED;
        slice_note_refusal(device, bytes, api);
        return SLICE_DENIED;
}

enum slice_grant slice_ask_for(int device, uint64_t bytes, const char *api)
{
        if (__builtin_expect(device < 0, 0))
                return SLICE_DENIED;
        /* Charge first: two processes that check and then allocate can both pass on the same free byte. */
        if (__builtin_expect(slice_charge((unsigned)device, bytes) != 0, 0))
                return look_again((unsigned)device, bytes, api, true);
        if (oversubscribes() && is_above_soft_limit((unsigned)device)) {
                slice_refund((unsigned)device, bytes);
                return SLICE_AS_MANAGED;
        }
        return SLICE_GRANTED;
}

int slice_take(int device, uint64_t bytes, const char *api)
{
        if (device < 0)
                return -ENOMEM;
        if (slice_charge((unsigned)device, bytes) == 0)
                return 0;
        return look_again((unsigned)device, bytes, api, false) == SLICE_GRANTED ? 0 : -ENOMEM;
}

uint64_t slice_correct(int device, uint64_t charged, uint64_t actual)
{
        if (actual < charged)
                slice_refund((unsigned)device, charged - actual);
        else if (actual > charged && slice_charge((unsigned)device, actual - charged) < 0)
                return charged;   /* the truth check charges it as overhead */
        return actual;
}

int slice_remember(enum slice_space space, uint64_t address, int device, uint64_t bytes, CUcontext owner, enum slice_kind kind)
{
        struct slice_block block = {
                .bytes = bytes, .owner = (uint64_t)(uintptr_t)owner, .device = (uint8_t)device, .kind = (uint8_t)kind, .count = 1,
        };
        struct slice_block old;
        int put = slice_map_put(space, address, &block, &old);

        if (put == 1)
                slice_forget(&old);
        return put < 0 ? put : 0;
}

void slice_forget(const struct slice_block *block)
{
        if (block->kind == SLICE_MANAGED)
                slice_add_managed(block->device, -(int64_t)block->bytes);
        else if (block->kind == SLICE_POOLED)
                slice_pool_block_freed(block);
        else if (block->kind == SLICE_PLAIN && block->bytes)
                slice_refund(block->device, block->bytes);
}

static bool lives_in(enum slice_space space, uint64_t address, const struct slice_block *block, void *context)
{
        (void)address;
        return space != SLICE_OTHER && block->kind != SLICE_POOLED && block->owner == (uint64_t)(uintptr_t)context;
}

static void forget_each(enum slice_space space, uint64_t address, const struct slice_block *block, void *data)
{
        (void)space;
        (void)address;
        (void)data;
        slice_forget(block);
}

void slice_memory_forget_context(CUcontext context)
{
        slice_map_drop(lives_in, forget_each, context);
}

CUresult slice_keep(CUdeviceptr *dptr, int device, uint64_t charged, CUcontext context)
{
        if (slice_remember(SLICE_ADDRESS, *dptr, device, charged, context, SLICE_PLAIN) == 0) {
                slice_truth_tick();
                return CUDA_SUCCESS;
        }
        slice_real()->cuMemFree_v2(*dptr);
        slice_refund((unsigned)device, charged);
        return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult slice_allocate_managed(CUdeviceptr *dptr, size_t bytes, int device, CUcontext context)
{
        CUdevice ordinal;
        CUresult result = slice_real()->cuMemAllocManaged(dptr, bytes, CU_MEM_ATTACH_GLOBAL);

        if (result != CUDA_SUCCESS)
                return result;
        /* The device reads it where it lies, in host memory, and takes no device memory that others of the slice count on. */
        if (slice_real()->cuCtxGetDevice(&ordinal) == CUDA_SUCCESS) {
                slice_real()->cuMemAdvise(*dptr, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU);
                slice_real()->cuMemAdvise(*dptr, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, ordinal);
        }
        if (slice_remember(SLICE_ADDRESS, *dptr, device, bytes, context, SLICE_MANAGED) == 0)
                slice_add_managed((unsigned)device, (int64_t)bytes);
        return CUDA_SUCCESS;
}
