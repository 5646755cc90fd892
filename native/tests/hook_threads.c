/* Many threads in one process, over kinds of memory that share state in the library: linear blocks, one pool, virtual memory,
 * graphs. Each frees some of what another one allocated.
 *
 *      hook_threads THREADS ROUNDS
 *
 * Prints what is still used in the end, by cuMemGetInfo; exit 1 with a line when a call failed otherwise than for room. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "abi/cuda_abi.h"

#define MiB ((size_t)1 << 20)
#define SHARED 64

static CUcontext context;
static CUmemoryPool pool;
static _Atomic(CUdeviceptr) shelf[SHARED];   /* blocks that whoever comes by frees */
static long rounds;

static void check(CUresult result, const char *what)
{
        if (result != CUDA_SUCCESS && result != CUDA_ERROR_OUT_OF_MEMORY) {
                printf("%s: %d\n", what, (int)result);
                exit(1);
        }
}

static void free_block(CUdeviceptr dptr, unsigned how)
{
        if (dptr)
                check(how % 2 ? cuMemFree_v2(dptr) : cuMemFreeAsync(dptr, NULL), "free");
}

static CUdeviceptr allocate(unsigned *seed)
{
        size_t bytes = 1 + (size_t)rand_r(seed) % (8 * MiB);
        CUdeviceptr dptr = 0;
        CUresult result;

        switch (rand_r(seed) % 3) {
        case 0:
                result = cuMemAllocAsync(&dptr, bytes, NULL);
                break;
        case 1:
                result = cuMemAllocFromPoolAsync(&dptr, bytes, pool, NULL);
                break;
        default:
                result = cuMemAlloc_v2(&dptr, bytes);
        }
        check(result, "allocate");
        return result == CUDA_SUCCESS ? dptr : 0;
}

static void physical(void)
{
        CUmemAllocationProp prop = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
        CUmemGenericAllocationHandle handle;
        CUresult result = cuMemCreate(&handle, 4 * MiB, &prop, 0);

        check(result, "cuMemCreate");
        if (result == CUDA_SUCCESS)
                check(cuMemRelease(handle), "cuMemRelease");
}

static void *work(void *data)
{
        unsigned seed = (unsigned)(size_t)data;

        check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
        for (long i = 0; i < rounds; i++) {
                _Atomic(CUdeviceptr) *place = &shelf[(unsigned)rand_r(&seed) % SHARED];

                switch (rand_r(&seed) % 8) {
                case 0:
                        physical();
                        break;
                case 1:
                        check(cuCtxSynchronize(), "cuCtxSynchronize");
                        break;
                case 2:
                        check(cuMemPoolTrimTo(pool, 0), "cuMemPoolTrimTo");
                        break;
                default:
                        free_block(atomic_exchange(place, allocate(&seed)), (unsigned)rand_r(&seed));
                }
        }
        return NULL;
}

int main(int argc, char **argv)
{
        int threads = argc > 1 ? atoi(argv[1]) : 8;
        CUmemPoolProps props = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
        pthread_t thread[64];
        CUmemoryPool current;
        size_t free, total;

        rounds = argc > 2 ? atol(argv[2]) : 1000;
        check(cuInit(0), "cuInit");
        check(cuDevicePrimaryCtxRetain(&context, 0), "retain");
        check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
        check(cuMemPoolCreate(&pool, &props), "cuMemPoolCreate");
        for (int i = 0; i < threads && i < 64; i++)
                if (pthread_create(&thread[i], NULL, work, (void *)(size_t)(i + 1)))
                        return 2;
        for (int i = 0; i < threads && i < 64; i++)
                pthread_join(thread[i], NULL);
        for (int i = 0; i < SHARED; i++)
                free_block(shelf[i], (unsigned)i);
        check(cuCtxSynchronize(), "cuCtxSynchronize");
        check(cuMemPoolDestroy(pool), "cuMemPoolDestroy");
        check(cuDeviceGetMemPool(&current, 0), "cuDeviceGetMemPool");
        check(cuMemPoolTrimTo(current, 0), "cuMemPoolTrimTo");
        check(cuMemGetInfo_v2(&free, &total), "cuMemGetInfo");
        printf("%zu\n", total - free);
        return 0;
}
