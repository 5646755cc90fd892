/* Memory pools: they book what they reserve, in chunks, and keep up to their threshold when work is synchronised. */
#include <errno.h>

#include "driver.h"

enum { POOLS = 1024 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static CUmemoryPool list[POOLS];
static uint32_t listed;
static CUmemoryPool standard[STUB_DEVICES], current[STUB_DEVICES];
/* Pools with more in reserve than their threshold: 0 spares a synchronising call the walk. */
static _Atomic uint32_t unsettled;

static uint64_t highest(uint64_t a, uint64_t b)
{
        return a > b ? a : b;
}

/* Lock: held. */
static CUmemoryPool new_pool(uint32_t device, uint64_t max)
{
        CUmemoryPool pool = listed < POOLS ? stub_object_new(STUB_POOL) : NULL;

        if (!pool)
                return NULL;
        pool->device = device;
        pool->max = max;
        pool->switches = ~0U;
        pool->number = listed;
        list[listed++] = pool;
        return pool;
}

/* Lock: held. */
static void drop_pool(CUmemoryPool pool)
{
        stub_give_bytes(pool->device, pool->reserved);
        list[pool->number] = list[--listed];
        list[pool->number]->number = pool->number;
        stub_object_free(pool);
}

CUmemoryPool stub_default_pool(uint32_t device)
{
        pthread_mutex_lock(&lock);
        if (!standard[device]) {
                standard[device] = new_pool(device, 0);
                if (standard[device])
                        standard[device]->is_default = 1;
        }
        pthread_mutex_unlock(&lock);
        return standard[device];
}

int stub_pool_take(CUmemoryPool pool, uint64_t bytes)
{
        uint64_t missing, grow;
        int r = 0;

        if (bytes > stub_state->device[pool->device].total)
                return -ENOMEM;
        pthread_mutex_lock(&lock);
        missing = pool->used + bytes > pool->reserved ? pool->used + bytes - pool->reserved : 0;
        grow = (missing + stub_options.pool_chunk - 1) / stub_options.pool_chunk * stub_options.pool_chunk;
        if (pool->max && pool->reserved + missing > pool->max) {
                pthread_mutex_unlock(&lock);
                return -ENOMEM;
        }
        if (grow)
                r = stub_take_bytes(pool->device, grow);
        if (r == -ENOMEM && grow) {
                /* No room for a whole chunk: what is needed, in the card's own step. */
                grow = (missing + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
                r = stub_take_bytes(pool->device, grow);
        }
        if (r == 0) {
                pool->reserved += grow;
                pool->used += bytes;
                pool->reserved_high = highest(pool->reserved_high, pool->reserved);
                pool->used_high = highest(pool->used_high, pool->used);
        }
        pthread_mutex_unlock(&lock);
        return r;
}

void stub_pool_give(CUmemoryPool pool, uint64_t bytes)
{
        pthread_mutex_lock(&lock);
        pool->used -= bytes;
        if (pool->dropped && pool->used == 0)
                drop_pool(pool);
        else
                atomic_fetch_add(&unsettled, 1);
        pthread_mutex_unlock(&lock);
}

/* Gives reserve back down to `keep`, never below what is used. Lock: held. */
static void shrink(CUmemoryPool pool, uint64_t keep)
{
        uint64_t floor = highest(keep, pool->used);
        uint64_t target = (floor + stub_options.pool_chunk - 1) / stub_options.pool_chunk * stub_options.pool_chunk;

        if (target < pool->reserved) {
                stub_give_bytes(pool->device, pool->reserved - target);
                pool->reserved = target;
        }
}

void stub_pools_settle(uint32_t device)
{
        if (atomic_load_explicit(&unsettled, memory_order_relaxed) == 0)
                return;
        pthread_mutex_lock(&lock);
        atomic_store(&unsettled, 0);
        for (uint32_t i = 0; i < listed; i++) {
                if (list[i]->device == device)
                        shrink(list[i], list[i]->threshold);
                else if (list[i]->reserved > list[i]->used)
                        atomic_store(&unsettled, 1);
        }
        pthread_mutex_unlock(&lock);
}

static CUresult allocate(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool)
{
        uint64_t size = stub_rounded(bytes);
        struct stub_block *b;
        int r = stub_pool_take(pool, size);

        if (r)
                return stub_result(r);
        b = stub_block_new(bytes, size, STUB_POOLED, pool->device, pool);
        if (!b) {
                stub_pool_give(pool, size);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        *dptr = b->address;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream)
{
        struct CUstream_st *s;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!dptr || bytes == 0 || !stub_object(pool, STUB_POOL) || pool->dropped)
                return CUDA_ERROR_INVALID_VALUE;
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_capturing(s))
                return stub_capture_alloc(s, dptr, bytes);
        return allocate(dptr, bytes, pool);
}

CUresult impl_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytes, CUstream stream)
{
        struct CUstream_st *s;

        STUB_CONTEXT_OR_RETURN(ctx);
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        return impl_cuMemAllocFromPoolAsync(dptr, bytes, current[s->ctx->device] ? current[s->ctx->device]
                                            : stub_default_pool(s->ctx->device), stream);
}

/* Takes any block that cuMemFree takes: the driver does not ask which function made it. */
CUresult impl_cuMemFreeAsync(CUdeviceptr dptr, CUstream stream)
{
        struct CUstream_st *s;
        struct stub_block *b;

        STUB_CONTEXT_OR_RETURN(ctx);
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_capturing(s))
                return stub_capture_free(s, dptr);
        b = stub_block_at(dptr);
        if (!b || b->kind == STUB_RESERVED || b->kind == STUB_IMPORTED)
                return CUDA_ERROR_INVALID_VALUE;
        if (b->kind == STUB_GRAPH_OWNED)
                return stub_graph_free(b) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        b = stub_block_take(dptr);
        if (!b)
                return CUDA_ERROR_INVALID_VALUE;
        stub_release_block(b);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *props)
{
        int d;

        if (!pool || !props || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
                return CUDA_ERROR_INVALID_VALUE;
        if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_NOT_SUPPORTED;
        d = stub_ordinal(props->location.id);
        if (d < 0)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        *pool = new_pool((uint32_t)d, props->maxSize);
        pthread_mutex_unlock(&lock);
        return *pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult impl_cuMemPoolDestroy(CUmemoryPool pool)
{
        if (!stub_object(pool, STUB_POOL) || pool->is_default || pool->dropped)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        for (uint32_t d = 0; d < STUB_DEVICES; d++)
                current[d] = current[d] == pool ? NULL : current[d];
        pool->dropped = 1;      /* blocks may outlive it; the last one takes it along */
        if (pool->used == 0)
                drop_pool(pool);
        pthread_mutex_unlock(&lock);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemPoolTrimTo(CUmemoryPool pool, size_t keep)
{
        if (!stub_object(pool, STUB_POOL))
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        shrink(pool, keep);
        pthread_mutex_unlock(&lock);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute which, void *value)
{
        CUresult r = CUDA_SUCCESS;

        if (!stub_object(pool, STUB_POOL) || !value)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        if ((int)which >= 1 && which <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES)
                pool->switches = *(int *)value ? pool->switches | 1U << which : pool->switches & ~(1U << which);
        else if (which == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
                pool->threshold = *(cuuint64_t *)value;
        else if (which == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH && *(cuuint64_t *)value == 0)
                pool->reserved_high = pool->reserved;
        else if (which == CU_MEMPOOL_ATTR_USED_MEM_HIGH && *(cuuint64_t *)value == 0)
                pool->used_high = pool->used;
        else
                r = CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_unlock(&lock);
        return r;
}

/* Lock: held. */
static CUresult read_attribute(CUmemoryPool pool, CUmemPool_attribute which, void *value)
{
        switch (which) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
                *(int *)value = (pool->switches >> which) & 1;
                return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *(cuuint64_t *)value = pool->threshold; return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *(cuuint64_t *)value = pool->reserved; return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *(cuuint64_t *)value = pool->reserved_high; return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *(cuuint64_t *)value = pool->used; return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *(cuuint64_t *)value = pool->used_high; return CUDA_SUCCESS;
        default: return CUDA_ERROR_INVALID_VALUE;
        }
}

CUresult impl_cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute which, void *value)
{
        CUresult result;

        if (!stub_object(pool, STUB_POOL) || !value)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        result = read_attribute(pool, which, value);
        pthread_mutex_unlock(&lock);
        return result;
}

CUresult impl_cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *desc, size_t count)
{
        return stub_object(pool, STUB_POOL) && (desc || !count) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location)
{
        if (!flags || !stub_object(pool, STUB_POOL) || !location)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = stub_ordinal(location->id) == (int)pool->device ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                                 : CU_MEM_ACCESS_FLAGS_PROT_NONE;
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!pool)
                return CUDA_ERROR_INVALID_VALUE;
        *pool = stub_default_pool((uint32_t)d);
        return *pool ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult impl_cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device)
{
        CUresult r = impl_cuDeviceGetDefaultMemPool(pool, device);

        if (r == CUDA_SUCCESS && current[stub_ordinal(device)])
                *pool = current[stub_ordinal(device)];
        return r;
}

CUresult impl_cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!stub_object(pool, STUB_POOL) || pool->dropped || pool->device != (uint32_t)d)
                return CUDA_ERROR_INVALID_VALUE;
        current[d] = pool;
        return CUDA_SUCCESS;
}

/* The same three of CUDA 13, by location. */
static CUresult check_location(const CUmemLocation *location, CUmemAllocationType type)
{
        if (!location || type != CU_MEM_ALLOCATION_TYPE_PINNED)
                return CUDA_ERROR_INVALID_VALUE;
        return location->type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult impl_cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
        CUresult r = check_location(location, type);

        return r != CUDA_SUCCESS ? r : impl_cuDeviceGetDefaultMemPool(pool, location->id);
}

CUresult impl_cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
        CUresult r = check_location(location, type);

        return r != CUDA_SUCCESS ? r : impl_cuDeviceGetMemPool(pool, location->id);
}

CUresult impl_cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
        CUresult r = check_location(location, type);

        return r != CUDA_SUCCESS ? r : impl_cuDeviceSetMemPool(location->id, pool);
}
