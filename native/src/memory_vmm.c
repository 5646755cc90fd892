/* Virtual memory management. Physical memory comes with cuMemCreate and goes with the last of: its handle, the handles
 * retained from an address, its mappings. The block of a handle counts them.
 *
 * What else can keep it alive is left to the truth check: exported handles (a file descriptor somewhere), sparse arrays,
 * multicast objects. */
#include "driver.h"
#include "memory.h"
#include "state.h"
#include "truth.h"

/* The card that backs an allocation, -1: none of ours, host memory: nothing is charged. -2: a card outside the slice. */
static int device_of(const CUmemAllocationProp *prop)
{
        if (!prop || prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return -1;
        int device = slice_device_of(prop->location.id);
        return device < 0 ? -2 : device;
}

static CUresult slice_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                                  unsigned long long flags)
{
        uint64_t taken = slice_taken(size);

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemCreate, (handle, size, prop, flags));
        int device = device_of(prop);
        if (device == -1)
                return slice_real()->cuMemCreate(handle, size, prop, flags);
        if (slice_take(device, taken, "cuMemCreate") < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = slice_real()->cuMemCreate(handle, size, prop, flags);
        if (result == CUDA_SUCCESS && slice_remember(SLICE_HANDLE, *handle, device, taken, NULL, SLICE_PLAIN) < 0) {
                slice_real()->cuMemRelease(*handle);
                result = CUDA_ERROR_OUT_OF_MEMORY;
        }
        if (result != CUDA_SUCCESS)
                slice_refund((unsigned)device, taken);
        else
                slice_truth_tick();
        return result;
}

/* One reference less before the driver acts, since afterwards the handle may be another thread's new one. */
struct dropped {
        bool ours, last;
        struct slice_block block;
};

static struct dropped drop_reference(CUmemGenericAllocationHandle handle)
{
        struct dropped dropped = { .ours = false };
        int64_t left = slice_map_count(SLICE_HANDLE, handle, -1, &dropped.block);

        dropped.ours = left >= 0;
        dropped.last = left == 0;
        return dropped;
}

static void dropped_or_back(const struct dropped *dropped, CUmemGenericAllocationHandle handle, bool done)
{
        struct slice_block block = dropped->block;

        if (!dropped->ours)
                return;
        if (done && dropped->last)
                slice_forget(&dropped->block);
        if (done)
                return;
        if (!dropped->last) {
                slice_map_count(SLICE_HANDLE, handle, 1, &block);
                return;
        }
        block.count = 1;
        slice_map_put(SLICE_HANDLE, handle, &block, NULL);
}

static CUresult slice_cuMemRelease(CUmemGenericAllocationHandle handle)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemRelease, (handle));
        struct dropped dropped = drop_reference(handle);
        CUresult result = slice_real()->cuMemRelease(handle);
        dropped_or_back(&dropped, handle, result == CUDA_SUCCESS);
        return result;
}

static CUresult slice_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
        struct slice_block block;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemRetainAllocationHandle, (handle, address));
        CUresult result = slice_real()->cuMemRetainAllocationHandle(handle, address);
        if (result == CUDA_SUCCESS)
                slice_map_count(SLICE_HANDLE, *handle, 1, &block);
        return result;
}

/* A mapping is a block of its own, at its address: bytes is its length, owner the handle. It charges nothing. */
static CUresult slice_cuMemMap(CUdeviceptr dptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                               unsigned long long flags)
{
        struct slice_block mapping = { .bytes = size, .owner = handle, .kind = SLICE_MAPPING, .count = 1 };
        struct slice_block block;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemMap, (dptr, size, offset, handle, flags));
        /* The reference first: a thread that releases the handle meanwhile must not be the last. */
        bool ours = slice_map_count(SLICE_HANDLE, handle, 1, &block) > 0;
        CUresult result = slice_real()->cuMemMap(dptr, size, offset, handle, flags);
        if (result == CUDA_SUCCESS) {
                slice_map_put(SLICE_OTHER, dptr, &mapping, NULL);
        } else if (ours) {
                struct dropped dropped = drop_reference(handle);
                dropped_or_back(&dropped, handle, true);
        }
        return result;
}

/* Unmapping takes whole mappings, one or several side by side. */
static CUresult slice_cuMemUnmap(CUdeviceptr dptr, size_t size)
{
        struct slice_block mapping;
        CUdeviceptr at = dptr;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemUnmap, (dptr, size));
        /* Taken afterwards: a program can only map there again when it knows that this call has returned. */
        CUresult result = slice_real()->cuMemUnmap(dptr, size);
        while (result == CUDA_SUCCESS && at - dptr < size && slice_map_take(SLICE_OTHER, at, &mapping)) {
                struct dropped dropped = drop_reference(mapping.owner);
                dropped_or_back(&dropped, mapping.owner, true);
                at += mapping.bytes ? mapping.bytes : size;
        }
        return result;
}

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_vmm.def"
#undef X
