/* Hooks of linear memory: allocate, free, and what is left of it. */
#include "driver.h"
#include "memory.h"
#include "state.h"
#include "truth.h"

#define PITCH_UNIT 512   /* rows begin at multiples of this, as every card so far wants it */

static CUresult slice_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytes)
{
        CUcontext context;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemAlloc_v2, (dptr, bytes));
        int device = slice_current_device(&context);
        if (!context)
                return slice_real()->cuMemAlloc_v2(dptr, bytes);   /* which says what is wrong */
        uint64_t taken = slice_taken(bytes);
        switch (slice_ask_for(device, taken, "cuMemAlloc_v2")) {
        case SLICE_AS_MANAGED:
                return slice_allocate_managed(dptr, bytes, device, context);
        case SLICE_DENIED:
                return CUDA_ERROR_OUT_OF_MEMORY;
        case SLICE_GRANTED:
                break;
        }
        CUresult result = slice_real()->cuMemAlloc_v2(dptr, bytes);
        if (result != CUDA_SUCCESS) {
                slice_refund((unsigned)device, taken);
                return result;
        }
        return slice_keep(dptr, device, taken, context);
}

static CUresult slice_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pitch, size_t width, size_t height, unsigned int element)
{
        CUcontext context;
        uint64_t row, taken, actual;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemAllocPitch_v2, (dptr, pitch, width, height, element));
        int device = slice_current_device(&context);
        if (!context)
                return slice_real()->cuMemAllocPitch_v2(dptr, pitch, width, height, element);
        row = width / PITCH_UNIT * PITCH_UNIT + (width % PITCH_UNIT ? PITCH_UNIT : 0);
        if (__builtin_mul_overflow(row, (uint64_t)height, &taken))
                taken = UINT64_MAX;
        taken = slice_taken(taken);
        if (slice_take(device, taken, "cuMemAllocPitch_v2") < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = slice_real()->cuMemAllocPitch_v2(dptr, pitch, width, height, element);
        if (result != CUDA_SUCCESS) {
                slice_refund((unsigned)device, taken);
                return result;
        }
        actual = slice_taken((uint64_t)*pitch * height);
        return slice_keep(dptr, device, slice_correct(device, taken, actual), context);
}

static CUresult slice_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytes, unsigned int flags)
{
        CUcontext context;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemAllocManaged, (dptr, bytes, flags));
        int device = slice_current_device(&context);
        if (!context)
                return slice_real()->cuMemAllocManaged(dptr, bytes, flags);
        uint64_t taken = slice_taken(bytes);
        switch (slice_ask_for(device, taken, "cuMemAllocManaged")) {
        case SLICE_AS_MANAGED:
                return slice_allocate_managed(dptr, bytes, device, context);
        case SLICE_DENIED:
                return CUDA_ERROR_OUT_OF_MEMORY;
        case SLICE_GRANTED:
                break;
        }
        CUresult result = slice_real()->cuMemAllocManaged(dptr, bytes, flags);
        if (result != CUDA_SUCCESS) {
                slice_refund((unsigned)device, taken);
                return result;
        }
        return slice_keep(dptr, device, taken, context);
}

/* Whatever allocated the block: it leaves the map before the driver can give its address to another thread, and comes back
 * if the driver did not free it. */
static CUresult slice_cuMemFree_v2(CUdeviceptr dptr)
{
        struct slice_block block;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemFree_v2, (dptr));
        bool ours = slice_map_take(SLICE_ADDRESS, dptr, &block);
        CUresult result = slice_real()->cuMemFree_v2(dptr);
        if (ours && result == CUDA_SUCCESS)
                slice_forget(&block);
        else if (ours)
                slice_map_put(SLICE_ADDRESS, dptr, &block, NULL);
        return result;
}

/* What a program may plan with: its slice, and never more than the card really has free, since others share it. */
static CUresult slice_cuMemGetInfo_v2(size_t *free, size_t *total)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemGetInfo_v2, (free, total));
        CUresult result = slice_real()->cuMemGetInfo_v2(free, total);
        int device = result == CUDA_SUCCESS ? slice_device_in_use() : -1;
        if (device < 0 || !free || !total)
                return result;
        struct slice_room room = slice_room((unsigned)device);
        uint64_t left = room.used < room.limit ? room.limit - room.used : 0;
        if (room.limit < *total)
                *total = room.limit;
        if (left < *free)
                *free = left;
        return result;
}

static CUresult slice_cuDeviceTotalMem_v2(size_t *bytes, CUdevice ordinal)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuDeviceTotalMem_v2, (bytes, ordinal));
        CUresult result = slice_real()->cuDeviceTotalMem_v2(bytes, ordinal);
        int device = result == CUDA_SUCCESS ? slice_device_of(ordinal) : -1;
        if (device >= 0 && bytes && slice_limit((unsigned)device) < *bytes)
                *bytes = slice_limit((unsigned)device);
        return result;
}

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_linear.def"
#undef X
