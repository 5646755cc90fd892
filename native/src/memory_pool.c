/* Allocation in stream order. A pool is charged as a whole, by what it has reserved of the device: it grows in chunks, keeps
 * what is freed until a synchronising call, and hands it out again.
 *
 * Before an allocation that the pool may have to grow for, the growth is charged; afterwards the charge is what the pool
 * says it holds. One lock over both, so that two threads do not count on the same free bytes of a pool. */
#include <string.h>

#include "driver.h"
#include "memory.h"
#include "state.h"
#include "truth.h"

#define CHUNK (UINT64_C(32) << 20)   /* pools grow by multiples of this, or less */

_Atomic(bool) slice_pools_used;

/* Lock: pools, for all of the following. */

static struct slice_pool *find(CUmemoryPool handle)
{
        for (unsigned i = 0; i < slice_state.pool_count; i++)
                if (slice_state.pool[i].handle == handle)
                        return &slice_state.pool[i];
        return NULL;
}

static struct slice_pool *find_serial(uint64_t serial)
{
        for (unsigned i = 0; i < slice_state.pool_count; i++)
                if (slice_state.pool[i].serial == serial)
                        return &slice_state.pool[i];
        return NULL;
}

static void drop(struct slice_pool *pool)
{
        if (pool->charged && pool->device >= 0)
                slice_refund((unsigned)pool->device, pool->charged);
        *pool = slice_state.pool[--slice_state.pool_count];
}

static struct slice_pool *find_or_add(CUmemoryPool handle, int device)
{
        struct slice_pool *pool = find(handle);

        if (pool || slice_state.pool_count == SLICE_MAX_POOLS)
                return pool;
        pool = &slice_state.pool[slice_state.pool_count++];
        *pool = (struct slice_pool){ .handle = handle, .serial = ++slice_state.pool_serial, .device = device };
        return pool;
}

static bool reads(const struct slice_pool *pool, CUmemPool_attribute attribute, uint64_t *ret)
{
        return pool->handle && slice_real()->cuMemPoolGetAttribute(pool->handle, attribute, ret) == CUDA_SUCCESS;
}

/* The charge becomes what the pool holds; `extra` was charged on top, for the growth that has or has not happened since. */
static void settle(struct slice_pool *pool, uint64_t extra)
{
        uint64_t reserved;

        pool->charged += extra;
        if (pool->device >= 0 && reads(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved))
                pool->charged = slice_correct(pool->device, pool->charged, reserved);
}

/* What an allocation of `bytes` may make the pool grow by, and what it holds beyond its charge: that has grown unseen. */
static uint64_t growth_for(const struct slice_pool *pool, uint64_t bytes)
{
        uint64_t reserved = 0, used = 0, left, unseen;

        if (bytes > SLICE_UNLIMITED)
                return bytes;
        if (!reads(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved) ||
            !reads(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used))
                reserved = used = 0;
        left = reserved > used ? reserved - used : 0;
        unseen = reserved > pool->charged ? reserved - pool->charged : 0;
        if (slice_taken(bytes) <= left)
                return unseen;
        return unseen + (slice_taken(bytes) - left + CHUNK - 1) / CHUNK * CHUNK;
}

/* The pool with its growth for `bytes` charged and the lock held, or NULL and not held. The second look at a refusal goes
 * without the lock, since it may load NVML. */
static struct slice_pool *lock_with_room(CUmemoryPool handle, uint64_t bytes, const char *api, uint64_t *ret_growth)
{
        int current = slice_current_device(NULL), device = -1;
        uint64_t granted = 0;

        for (;;) {
                pthread_mutex_lock(&slice_state.pools);
                struct slice_pool *pool = find_or_add(handle, current);
                if (!pool)
                        break;
                uint64_t growth = pool->on_host ? 0 : growth_for(pool, bytes);
                device = pool->device;
                if (growth <= granted || (device >= 0 && slice_charge((unsigned)device, growth - granted) == 0)) {
                        *ret_growth = growth > granted ? growth : granted;
                        return pool;
                }
                pthread_mutex_unlock(&slice_state.pools);
                if (slice_take(device, growth - granted, api) < 0)
                        goto refused;
                granted = growth;
        }
        pthread_mutex_unlock(&slice_state.pools);
refused:
        if (granted)
                slice_refund((unsigned)device, granted);
        return NULL;
}

typedef CUresult allocate(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream);

static CUresult from_pool(CUdeviceptr *dptr, size_t bytes, CUmemoryPool handle, CUstream stream, const char *api, allocate *call)
{
        uint64_t growth, serial = 0;
        struct slice_pool *pool;

        atomic_store_explicit(&slice_pools_used, true, memory_order_relaxed);
        pool = lock_with_room(handle, bytes, api, &growth);
        if (!pool)
                return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = call(dptr, bytes, handle, stream);
        int device = pool->device;
        if (!pool->on_host) {
                settle(pool, growth);
                if (result == CUDA_SUCCESS) {
                        pool->blocks++;
                        serial = pool->serial;
                }
        }
        pthread_mutex_unlock(&slice_state.pools);
        if (serial) {
                slice_remember(SLICE_ADDRESS, *dptr, device, 0, (CUcontext)(uintptr_t)serial, SLICE_POOLED);
                slice_truth_tick();
        }
        return result;
}

void slice_pool_block_freed(const struct slice_block *block)
{
        pthread_mutex_lock(&slice_state.pools);
        struct slice_pool *pool = find_serial(block->owner);
        if (pool && pool->blocks && --pool->blocks == 0 && !pool->handle)
                drop(pool);   /* it was destroyed before its last block */
        pthread_mutex_unlock(&slice_state.pools);
}

void slice_memory_settle_now(void)
{
        pthread_mutex_lock(&slice_state.pools);
        for (unsigned i = 0; i < slice_state.pool_count; i++)
                settle(&slice_state.pool[i], 0);
        pthread_mutex_unlock(&slice_state.pools);
        slice_graph_settle_now();
}

void slice_pools_after_reset(void)
{
        uint64_t reserved;

        pthread_mutex_lock(&slice_state.pools);
        for (unsigned i = slice_state.pool_count; i-- > 0;)
                if (slice_state.pool[i].handle && !reads(&slice_state.pool[i], CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved))
                        drop(&slice_state.pool[i]);   /* it went with the device's state */
        pthread_mutex_unlock(&slice_state.pools);
        slice_memory_settle_now();
}

/* The pool that the current device allocates from. The driver's function takes none, and answers for the stream's device. */
#define ALLOC_ASYNC(symbol)                                                                                     \
        static CUresult call_##symbol(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream)      \
        {                                                                                                       \
                (void)pool;                                                                                     \
                return slice_real()->symbol(dptr, bytes, stream);                                               \
        }                                                                                                       \
        static CUresult slice_##symbol(CUdeviceptr *dptr, size_t bytes, CUstream stream)                        \
        {                                                                                                       \
                CUmemoryPool pool;                                                                              \
                CUdevice ordinal;                                                                               \
                                                                                                                \
                if (!slice_ready())                                                                             \
                        return SLICE_WITHOUT_LIMITS(symbol, (dptr, bytes, stream));                             \
                if (slice_real()->cuCtxGetDevice(&ordinal) != CUDA_SUCCESS ||                                   \
                    slice_real()->cuDeviceGetMemPool(&pool, ordinal) != CUDA_SUCCESS)                           \
                        return slice_real()->symbol(dptr, bytes, stream); /* says what is wrong */             \
                return from_pool(dptr, bytes, pool, stream, #symbol, call_##symbol);                            \
        }

ALLOC_ASYNC(cuMemAllocAsync)
ALLOC_ASYNC(cuMemAllocAsync_ptsz)

#define ALLOC_FROM_POOL(symbol)                                                                                    \
        static CUresult call_##symbol(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream)         \
        {                                                                                                          \
                return slice_real()->symbol(dptr, bytes, pool, stream);                                            \
        }                                                                                                          \
        static CUresult slice_##symbol(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream)        \
        {                                                                                                          \
                if (!slice_ready())                                                                                \
                        return SLICE_WITHOUT_LIMITS(symbol, (dptr, bytes, pool, stream));                          \
                return from_pool(dptr, bytes, pool, stream, #symbol, call_##symbol);                               \
        }

ALLOC_FROM_POOL(cuMemAllocFromPoolAsync)
ALLOC_FROM_POOL(cuMemAllocFromPoolAsync_ptsz)

/* As cuMemFree_v2, for whatever was allocated. */
#define FREE_ASYNC(symbol)                                                                      \
        static CUresult slice_##symbol(CUdeviceptr dptr, CUstream stream)                       \
        {                                                                                       \
                struct slice_block block;                                                       \
                                                                                                \
                if (!slice_ready())                                                             \
                        return SLICE_WITHOUT_LIMITS(symbol, (dptr, stream));                    \
                bool ours = slice_map_take(SLICE_ADDRESS, dptr, &block);                        \
                CUresult result = slice_real()->symbol(dptr, stream);                           \
                if (ours && result == CUDA_SUCCESS)                                             \
                        slice_forget(&block);                                                   \
                else if (ours)                                                                  \
                        slice_map_put(SLICE_ADDRESS, dptr, &block, NULL);                       \
                return result;                                                                  \
        }

FREE_ASYNC(cuMemFreeAsync)
FREE_ASYNC(cuMemFreeAsync_ptsz)

/* A program's own pool says at its creation which card it is on. */
static CUresult slice_cuMemPoolCreate(CUmemoryPool *handle, const CUmemPoolProps *props)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemPoolCreate, (handle, props));
        CUresult result = slice_real()->cuMemPoolCreate(handle, props);
        if (result != CUDA_SUCCESS || !handle || !props)
                return result;
        bool on_device = props->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
        pthread_mutex_lock(&slice_state.pools);
        struct slice_pool *pool = find(*handle);
        if (pool)   /* of a pool that ended unseen */
                drop(pool);
        pool = find_or_add(*handle, on_device ? slice_device_of(props->location.id) : -1);
        if (pool)
                pool->on_host = !on_device;
        pthread_mutex_unlock(&slice_state.pools);
        return result;
}

static CUresult slice_cuMemPoolTrimTo(CUmemoryPool handle, size_t keep)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemPoolTrimTo, (handle, keep));
        CUresult result = slice_real()->cuMemPoolTrimTo(handle, keep);
        slice_memory_settle();
        return result;
}

/* The driver keeps a destroyed pool's memory until its last block is freed, and so do we. */
static CUresult slice_cuMemPoolDestroy(CUmemoryPool handle)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMemPoolDestroy, (handle));
        pthread_mutex_lock(&slice_state.pools);
        struct slice_pool *pool = find(handle);
        CUresult result = slice_real()->cuMemPoolDestroy(handle);
        if (pool && result == CUDA_SUCCESS) {
                pool->handle = NULL;
                if (pool->blocks == 0)
                        drop(pool);
        }
        pthread_mutex_unlock(&slice_state.pools);
        return result;
}

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_pool.def"
#undef X
