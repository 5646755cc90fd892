/* Plain and managed device memory, host memory, and questions about pointers. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "driver.h"

/* Blocks up to 1 MiB out of shared chunks of 2 MiB, as a real driver's: what is booked is the number of chunks that the
 * small blocks of a card would fill. STUB_CUDA_SMALL_CHUNKS=1; without it each block is booked by itself. */
static struct {
        pthread_mutex_t lock;
        uint64_t bytes[STUB_DEVICES];
} small = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int book_small(uint32_t device, uint64_t bytes)
{
        uint64_t before, after;
        int r = 0;

        pthread_mutex_lock(&small.lock);
        before = (small.bytes[device] + 2 * MIB - 1) / (2 * MIB);
        after = (small.bytes[device] + bytes + 2 * MIB - 1) / (2 * MIB);
        if (after > before)
                r = stub_take_bytes(device, (after - before) * 2 * MIB);
        if (r == 0)
                small.bytes[device] += bytes;
        pthread_mutex_unlock(&small.lock);
        return r;
}

static void unbook_small(uint32_t device, uint64_t bytes)
{
        uint64_t before, after;

        pthread_mutex_lock(&small.lock);
        before = (small.bytes[device] + 2 * MIB - 1) / (2 * MIB);
        small.bytes[device] -= bytes;
        after = (small.bytes[device] + 2 * MIB - 1) / (2 * MIB);
        if (after < before)
                stub_give_bytes(device, (before - after) * 2 * MIB);
        pthread_mutex_unlock(&small.lock);
}

static int book(uint32_t device, uint64_t size)
{
        return stub_options.small_chunks && size <= MIB ? book_small(device, size) : stub_take_bytes(device, size);
}

static void unbook(uint32_t device, uint64_t size)
{
        if (stub_options.small_chunks && size <= MIB)
                unbook_small(device, size);
        else
                stub_give_bytes(device, size);
}

static CUresult allocate(CUcontext ctx, CUdeviceptr *dptr, size_t bytes)
{
        uint64_t size = stub_rounded(bytes);
        struct stub_block *b;
        int r = book(ctx->device, size);

        if (r)
                return stub_result(r);
        b = stub_block_new(bytes, size, STUB_PLAIN, ctx->device, ctx);
        if (!b) {
                unbook(ctx->device, size);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        *dptr = b->address;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytes)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!dptr || bytes == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (!stub_may())
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        return allocate(ctx, dptr, bytes);
}

CUresult impl_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pitch, size_t width, size_t height, unsigned int element)
{
        size_t row = (width + 511) / 512 * 512;
        CUresult r;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!dptr || !pitch || width == 0 || height == 0 || (element != 4 && element != 8 && element != 16))
                return CUDA_ERROR_INVALID_VALUE;
        if (height > SIZE_MAX / row)
                return CUDA_ERROR_OUT_OF_MEMORY;
        r = allocate(ctx, dptr, row * height);
        if (r == CUDA_SUCCESS)
                *pitch = row;
        return r;
}

static void count_managed(uint32_t device, uint64_t add, uint64_t subtract)
{
        stub_lock_device(device);
        stub_state->slot[stub_own_slot].use[device].managed += add - subtract;
        stub_unlock_device(device);
}

/* Managed memory lives on the host until it is prefetched: it takes no device memory by itself. */
CUresult impl_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytes, unsigned int flags)
{
        struct stub_block *b;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!dptr || bytes == 0 || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
                return CUDA_ERROR_INVALID_VALUE;
        b = stub_block_new(bytes, stub_rounded(bytes), STUB_MANAGED, ctx->device, ctx);
        if (!b)
                return CUDA_ERROR_OUT_OF_MEMORY;
        count_managed(ctx->device, b->size, 0);
        *dptr = b->address;
        return CUDA_SUCCESS;
}

void stub_release_block(struct stub_block *b)
{
        switch (b->kind) {
        case STUB_PLAIN:
                unbook(b->device, b->size);
                break;
        case STUB_POOLED:
                stub_pool_give(b->owner, b->size);
                break;
        case STUB_MANAGED:
                stub_give_bytes(b->device, b->resident);
                count_managed(b->device, 0, b->size);
                break;
        case STUB_RESERVED:
        case STUB_IMPORTED:
        case STUB_GRAPH_OWNED:
                break;
        }
        stub_block_free(b);
}

CUresult impl_cuMemFree_v2(CUdeviceptr dptr)
{
        struct stub_block *b;

        STUB_CONTEXT_OR_RETURN(ctx);
        b = stub_block_at(dptr);
        if (!b || b->kind == STUB_RESERVED || b->kind == STUB_IMPORTED)
                return CUDA_ERROR_INVALID_VALUE;
        if (!stub_may())
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (b->kind == STUB_GRAPH_OWNED)
                return stub_graph_free(b) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        /* Freeing waits for the work that may use the memory, as the real one does. */
        stub_wait(b->device, stub_submitted(b->device));
        b = stub_block_take(dptr);
        if (!b)
                return CUDA_ERROR_INVALID_VALUE;
        stub_release_block(b);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
        uint64_t used, all;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!free_bytes || !total)
                return CUDA_ERROR_INVALID_VALUE;
        stub_read_bytes(ctx->device, &used, &all);
        *free_bytes = all - used;
        *total = all;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr dptr)
{
        struct stub_block *b = stub_block_around(dptr);

        if (!b)
                return CUDA_ERROR_NOT_FOUND;
        if (base)
                *base = b->address;
        if (size)
                *size = b->bytes;
        return CUDA_SUCCESS;
}

/* Host memory: pinned is plain here. A header before it tells it from other memory. */
struct host_block {
        uint64_t magic;
        size_t bytes;
        unsigned int flags;
        char fill[64 - 2 * sizeof(uint64_t) - sizeof(unsigned int)];
};
#define HOST_MAGIC 0x74736f68627574ULL

CUresult impl_cuMemHostAlloc(void **host, size_t bytes, unsigned int flags)
{
        struct host_block *b;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!host || bytes == 0 || flags & ~7U)
                return CUDA_ERROR_INVALID_VALUE;
        if (bytes > SIZE_MAX - 8192 || posix_memalign((void **)&b, 64, bytes + sizeof(*b)))
                return CUDA_ERROR_OUT_OF_MEMORY;
        b->magic = HOST_MAGIC;
        b->bytes = bytes;
        b->flags = flags;
        *host = b + 1;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemAllocHost_v2(void **host, size_t bytes)
{
        return impl_cuMemHostAlloc(host, bytes, 0);
}

static struct host_block *host_block(void *host)
{
        struct host_block *b = (struct host_block *)host - 1;

        return host && (uintptr_t)host % 64 == 0 && b->magic == HOST_MAGIC ? b : NULL;
}

CUresult impl_cuMemFreeHost(void *host)
{
        struct host_block *b;

        STUB_CONTEXT_OR_RETURN(ctx);
        b = host_block(host);
        if (!b)
                return CUDA_ERROR_INVALID_VALUE;
        stub_wait(ctx->device, stub_submitted(ctx->device));
        b->magic = 0;
        free(b);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemHostGetDevicePointer_v2(CUdeviceptr *dptr, void *host, unsigned int flags)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!dptr || !host || flags)
                return CUDA_ERROR_INVALID_VALUE;
        *dptr = (CUdeviceptr)(uintptr_t)host;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemHostGetFlags(unsigned int *flags, void *host)
{
        struct host_block *b = host_block(host);

        if (!flags || !b)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = b->flags;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemHostRegister_v2(void *host, size_t bytes, unsigned int flags)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        return host && bytes && !(flags & ~15U) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuMemHostUnregister(void *host)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        return host ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Moves a managed block: to a card, as far as there is room, or to the host. */
static CUresult move(CUdeviceptr dptr, int device)
{
        struct stub_block *b = stub_block_around(dptr);

        if (!b || b->kind != STUB_MANAGED)
                return CUDA_ERROR_INVALID_VALUE;
        if (device < 0 || (uint32_t)device != b->device) {
                stub_give_bytes(b->device, b->resident);
                b->resident = 0;
        } else if (b->resident == 0 && stub_take_bytes(b->device, b->size) == 0) {
                b->resident = b->size;
        }
        return CUDA_SUCCESS;
}

CUresult impl_cuMemPrefetchAsync(CUdeviceptr dptr, size_t count, CUdevice device, CUstream stream)
{
        int d = device == (CUdevice)-1 ? -1 : stub_ordinal(device);

        if (count == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (device != (CUdevice)-1 && d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!stub_stream(stream))
                return CUDA_ERROR_INVALID_HANDLE;
        return move(dptr, d);
}

CUresult impl_cuMemPrefetchAsync_v2(CUdeviceptr dptr, size_t count, CUmemLocation location, unsigned int flags,
                                    CUstream stream)
{
        if (flags)
                return CUDA_ERROR_INVALID_VALUE;
        return impl_cuMemPrefetchAsync(dptr, count, location.type == CU_MEM_LOCATION_TYPE_DEVICE ? location.id : -1,
                                       stream);
}

CUresult impl_cuMemAdvise(CUdeviceptr dptr, size_t count, CUmem_advise advice, CUdevice device)
{
        struct stub_block *b = stub_block_around(dptr);

        (void)device;
        if (!b || b->kind != STUB_MANAGED || count == 0 || (int)advice < 1 || (int)advice > 6)
                return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemAdvise_v2(CUdeviceptr dptr, size_t count, CUmem_advise advice, CUmemLocation location)
{
        return impl_cuMemAdvise(dptr, count, advice, location.id);
}

CUresult impl_cuPointerSetAttribute(const void *value, CUpointer_attribute which, CUdeviceptr dptr)
{
        if (!value || which != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS || !stub_block_around(dptr))
                return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
}

CUresult impl_cuPointerGetAttribute(void *data, CUpointer_attribute which, CUdeviceptr dptr)
{
        struct stub_block *b = stub_block_around(dptr);

        if (!data || !b)
                return CUDA_ERROR_INVALID_VALUE;
        switch (which) {
        case CU_POINTER_ATTRIBUTE_CONTEXT:
                *(CUcontext *)data = b->kind == STUB_PLAIN || b->kind == STUB_MANAGED ? b->owner : NULL;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
                *(CUmemorytype *)data = CU_MEMORYTYPE_DEVICE;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
                *(CUdeviceptr *)data = dptr;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
                if (b->kind != STUB_MANAGED)
                        return CUDA_ERROR_INVALID_VALUE;
                *(CUdeviceptr *)data = dptr;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_BUFFER_ID:
                *(unsigned long long *)data = b->id;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
                *(unsigned int *)data = b->kind == STUB_MANAGED;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
                *(int *)data = stub_ordinal_of(b->device);
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
                *(CUdeviceptr *)data = b->address;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
                *(size_t *)data = b->bytes;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MAPPED:
                *(unsigned int *)data = 1;
                return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
                *(CUmemoryPool *)data = b->kind == STUB_POOLED ? b->owner : NULL;
                return CUDA_SUCCESS;
        default:
                return CUDA_ERROR_NOT_SUPPORTED;
        }
}

CUresult impl_cuPointerGetAttributes(unsigned int count, CUpointer_attribute *which, void **data, CUdeviceptr dptr)
{
        if (!which || !data || count == 0)
                return CUDA_ERROR_INVALID_VALUE;
        for (unsigned int i = 0; i < count; i++) {
                if (impl_cuPointerGetAttribute(data[i], which[i], dptr) != CUDA_SUCCESS)
                        memset(data[i], 0, sizeof(int));        /* not a device pointer: no error here */
        }
        return CUDA_SUCCESS;
}
