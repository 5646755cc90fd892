/* Random operations over every kind of device memory and every legal way to free it.
 *
 *      hook_storm SEED OPERATIONS [table|symbols|lookup0|lookup2]
 *
 * Functions come from the symbols that it is linked with, from dlsym, or from cuGetProcAddress with those stream flags. At
 * the end everything is freed. Prints one line of JSON: operations done, refusals, and what cuMemGetInfo says is used; then
 * waits for its standard input to end, so that others can look at the region. Exit 1: something was wrong, with a line. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi/cuda_abi.h"

#define USED(X)                                                                                                              \
        X(cuArray3DCreate_v2, cuArray3DCreate) X(cuArrayCreate_v2, cuArrayCreate) X(cuArrayDestroy, cuArrayDestroy)          \
        X(cuCtxCreate_v2, cuCtxCreate) X(cuCtxDestroy_v2, cuCtxDestroy) X(cuCtxSetCurrent, cuCtxSetCurrent) X(cuCtxPopCurrent_v2, cuCtxPopCurrent)                \
        X(cuCtxSynchronize, cuCtxSynchronize) X(cuDeviceGraphMemTrim, cuDeviceGraphMemTrim)                                  \
        X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain) X(cuGraphAddMemAllocNode, cuGraphAddMemAllocNode)              \
        X(cuGraphAddMemFreeNode, cuGraphAddMemFreeNode) X(cuGraphCreate, cuGraphCreate) X(cuGraphDestroy, cuGraphDestroy)    \
        X(cuGraphExecDestroy, cuGraphExecDestroy) X(cuGraphInstantiateWithFlags, cuGraphInstantiateWithFlags)                \
        X(cuGraphLaunch, cuGraphLaunch) X(cuMemAddressFree, cuMemAddressFree) X(cuMemAddressReserve, cuMemAddressReserve)    \
        X(cuMemAlloc_v2, cuMemAlloc) X(cuMemAllocAsync, cuMemAllocAsync) X(cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync) \
        X(cuMemAllocManaged, cuMemAllocManaged) X(cuMemAllocPitch_v2, cuMemAllocPitch) X(cuMemCreate, cuMemCreate)           \
        X(cuMemFree_v2, cuMemFree) X(cuMemFreeAsync, cuMemFreeAsync) X(cuMemGetInfo_v2, cuMemGetInfo) X(cuMemMap, cuMemMap)  \
        X(cuMemPoolCreate, cuMemPoolCreate) X(cuMemPoolDestroy, cuMemPoolDestroy) X(cuMemPoolTrimTo, cuMemPoolTrimTo)        \
        X(cuDeviceGetMemPool, cuDeviceGetMemPool)                                                                            \
        X(cuMemRelease, cuMemRelease) X(cuMemRetainAllocationHandle, cuMemRetainAllocationHandle)                            \
        X(cuMemUnmap, cuMemUnmap) X(cuMipmappedArrayCreate, cuMipmappedArrayCreate)                                          \
        X(cuMipmappedArrayDestroy, cuMipmappedArrayDestroy) X(cuStreamCreate, cuStreamCreate)                                \
        X(cuStreamSynchronize, cuStreamSynchronize)

static struct {
#define X(symbol, name) __typeof__(symbol) *symbol;
        USED(X)
#undef X
} cu;

#define LIVE 48
#define MiB ((size_t)1 << 20)
#define PAGE (2 * MiB)

enum kind { NONE, LINEAR, VMM, ARRAY, MIPMAP, EXEC, CONTEXT, KINDS };

static struct thing {
        enum kind kind;
        CUdeviceptr dptr;
        size_t size;
        CUmemGenericAllocationHandle handle;
        bool handle_held, mapped;
        void *object;
} thing[LIVE];

static uint64_t seed;
static CUstream stream;
static CUmemoryPool pool;
static CUcontext primary;
static long refused;

static uint64_t next_random(void)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed;
}

static size_t below(size_t n)
{
        return (size_t)(next_random() % n);
}

static void fail(const char *what, int result)
{
        printf("%s: %d\n", what, result);
        exit(1);
}

/* True when it was granted; a refusal is counted, anything else ends the program. */
static bool granted(CUresult result, const char *what)
{
        if (result == CUDA_ERROR_OUT_OF_MEMORY)
                refused++;
        else if (result != CUDA_SUCCESS)
                fail(what, (int)result);
        return result == CUDA_SUCCESS;
}

#define MUST(call)                               \
        do {                                     \
                CUresult must = (call);          \
                if (must != CUDA_SUCCESS)        \
                        fail(#call, (int)must);  \
        } while (0)

static size_t some_size(void)
{
        switch (below(4)) {
        case 0:
                return 1 + below(4096);
        case 1:
                return 1 + below(MiB);
        case 2:
                return 1 + below(8 * MiB);
        default:
                return 1 + below(64 * MiB);
        }
}

static void make_linear(struct thing *t)
{
        size_t size = some_size(), pitch, way = below(5);
        CUresult result;

        t->size = size * 10 + way;
        switch (way) {
        case 0:
                result = cu.cuMemAllocPitch_v2(&t->dptr, &pitch, 1 + below(10000), 1 + below(2000), 4);
                break;
        case 1:
                result = cu.cuMemAllocManaged(&t->dptr, size, CU_MEM_ATTACH_GLOBAL);
                break;
        case 2:
                result = cu.cuMemAllocAsync(&t->dptr, size, stream);
                break;
        case 3:
                result = cu.cuMemAllocFromPoolAsync(&t->dptr, size, pool, stream);
                break;
        default:
                result = cu.cuMemAlloc_v2(&t->dptr, size);
        }
        if (granted(result, "allocate"))
                t->kind = LINEAR;
}

static void make_vmm(struct thing *t)
{
        CUmemAllocationProp prop = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };

        t->size = PAGE * (1 + below(16));
        if (!granted(cu.cuMemCreate(&t->handle, t->size, &prop, 0), "cuMemCreate"))
                return;
        t->kind = VMM;
        t->handle_held = true;
        t->mapped = below(4) != 0;
        if (!t->mapped)
                return;
        MUST(cu.cuMemAddressReserve(&t->dptr, t->size, 0, 0, 0));
        MUST(cu.cuMemMap(t->dptr, t->size, 0, t->handle, 0));
        if (below(2)) {   /* the mapping alone keeps it */
                MUST(cu.cuMemRelease(t->handle));
                t->handle_held = false;
        }
        if (below(3) == 0 && !t->handle_held) {
                MUST(cu.cuMemRetainAllocationHandle(&t->handle, (void *)(uintptr_t)t->dptr));
                t->handle_held = true;
        }
}

static void end_vmm(struct thing *t)
{
        bool handle_first = below(2);

        if (t->handle_held && handle_first)
                MUST(cu.cuMemRelease(t->handle));
        if (t->mapped) {
                MUST(cu.cuMemUnmap(t->dptr, t->size));
                MUST(cu.cuMemAddressFree(t->dptr, t->size));
        }
        if (t->handle_held && !handle_first)
                MUST(cu.cuMemRelease(t->handle));
}

static void make_array(struct thing *t)
{
        CUDA_ARRAY_DESCRIPTOR flat = { 1 + below(3000), below(3000), CU_AD_FORMAT_FLOAT, 1U << below(3) };
        CUDA_ARRAY3D_DESCRIPTOR deep = { 1 + below(200), 1 + below(200), 1 + below(60), CU_AD_FORMAT_UNSIGNED_INT8, 4, 0 };
        CUresult result = below(2) ? cu.cuArrayCreate_v2((CUarray *)&t->object, &flat)
                                   : cu.cuArray3DCreate_v2((CUarray *)&t->object, &deep);

        if (granted(result, "array"))
                t->kind = ARRAY;
}

static void make_mipmap(struct thing *t)
{
        CUDA_ARRAY3D_DESCRIPTOR desc = { 1 + below(1024), 1 + below(1024), 0, CU_AD_FORMAT_HALF, 2, 0 };

        if (granted(cu.cuMipmappedArrayCreate((CUmipmappedArray *)&t->object, &desc, 1 + (unsigned)below(4)), "mipmap"))
                t->kind = MIPMAP;
}

/* A graph that allocates and frees, launched a few times. */
static void make_exec(struct thing *t)
{
        CUDA_MEM_ALLOC_NODE_PARAMS params = { .poolProps = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                                             .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } },
                                              .bytesize = some_size() };
        CUgraphNode alloc, end;
        CUgraphExec exec;
        CUgraph graph;

        MUST(cu.cuGraphCreate(&graph, 0));
        MUST(cu.cuGraphAddMemAllocNode(&alloc, graph, NULL, 0, &params));
        MUST(cu.cuGraphAddMemFreeNode(&end, graph, &alloc, 1, params.dptr));
        if (granted(cu.cuGraphInstantiateWithFlags(&exec, graph, 0), "instantiate")) {
                t->kind = EXEC;
                t->object = exec;
                for (size_t i = below(3); i > 0; i--)
                        granted(cu.cuGraphLaunch(exec, stream), "launch");
        }
        MUST(cu.cuGraphDestroy(graph));
}

/* A context with memory of its own, which goes with it. */
static void make_context(struct thing *t)
{
        CUdeviceptr dptr;
        CUarray array;
        CUDA_ARRAY_DESCRIPTOR flat = { 500, 500, CU_AD_FORMAT_FLOAT, 1 };
        CUcontext context;

        if (!granted(cu.cuCtxCreate_v2(&context, 0, 0), "context"))
                return;
        t->kind = CONTEXT;
        t->object = context;
        for (size_t i = 1 + below(4); i > 0; i--)
                granted(cu.cuMemAlloc_v2(&dptr, some_size()), "allocate in a context");
        granted(cu.cuArrayCreate_v2(&array, &flat), "array in a context");
        MUST(cu.cuCtxPopCurrent_v2(&context));   /* it was pushed */
}

static void end(struct thing *t)
{
        switch (t->kind) {
        case LINEAR:
                if (below(2))
                        MUST(cu.cuMemFree_v2(t->dptr));
                else
                        MUST(cu.cuMemFreeAsync(t->dptr, stream));
                break;
        case VMM:
                end_vmm(t);
                break;
        case ARRAY:
                MUST(cu.cuArrayDestroy(t->object));
                break;
        case MIPMAP:
                MUST(cu.cuMipmappedArrayDestroy(t->object));
                break;
        case EXEC:
                MUST(cu.cuStreamSynchronize(stream));
                MUST(cu.cuGraphExecDestroy(t->object));
                break;
        case CONTEXT:
                MUST(cu.cuCtxDestroy_v2(t->object));
                break;
        default:
                break;
        }
        memset(t, 0, sizeof(*t));
}

static void make(struct thing *t)
{
        static void (*const makers[])(struct thing *) = { make_linear, make_linear, make_linear, make_linear, make_vmm,
                                                          make_array,  make_mipmap, make_exec,   make_context };

        makers[below(sizeof(makers) / sizeof(makers[0]))](t);
}

static void make_new_pool(void)
{
        CUmemPoolProps props = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };

        if (pool)
                MUST(cu.cuMemPoolDestroy(pool));   /* some of its blocks may live on */
        MUST(cu.cuMemPoolCreate(&pool, &props));
}

static void tidy(void)
{
        CUmemoryPool current;

        switch (below(5)) {
        case 0:
                MUST(cu.cuStreamSynchronize(stream));
                break;
        case 1:
                MUST(cu.cuCtxSynchronize());
                break;
        case 2:
                MUST(cu.cuDeviceGraphMemTrim(0));
                break;
        case 3:
                MUST(cu.cuDeviceGetMemPool(&current, 0));
                MUST(cu.cuMemPoolTrimTo(current, 0));
                break;
        default:
                make_new_pool();
        }
}

/* STORM_BEHIND: how far the driver's own cuMemGetInfo_v2 lies behind cuGetErrorName, which nobody hooks. With it, and alone on
 * its card, the program compares after each operation what is charged with what the card holds. */
static void compare(const char *after, size_t thing_size)
{
        static CUresult (*real)(size_t *, size_t *);
        const char *behind = getenv("STORM_BEHIND");
        size_t free, total, real_free, real_total;

        if (!behind)
                return;
        if (!real) {
                char *near = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuGetErrorName");

                real = (__typeof__(real))(uintptr_t)(near + atol(behind));
        }
        MUST(real(&real_free, &real_total));
        MUST(cu.cuMemGetInfo_v2(&free, &total));
        if (total - free < real_total - real_free) {
                printf("%s %zu: the card holds %zu, charged are %zu\n", after, thing_size, real_total - real_free, total - free);
                exit(1);
        }
}

static const char *const kind_names[] = { "tidied", "made linear", "made vmm", "made array", "made mipmap", "made graph",
                                          "made context", "none", "ended linear", "ended vmm", "ended array",
                                          "ended mipmap", "ended graph", "ended context" };

static void find_functions(const char *how)
{
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        CUresult (*ask)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) =
                (__typeof__(ask))(uintptr_t)dlsym(driver, "cuGetProcAddress_v2");
        CUdriverProcAddressQueryResult status;
        void *address;

#define X(symbol, name)                                                                                                  \
        if (strncmp(how, "lookup", 6) == 0) {                                                                            \
                if (ask(#name, &address, strcmp(#name, "cuCtxCreate") ? 12090 : 11000, (cuuint64_t)(how[6] - '0'), &status)) \
                        fail("cuGetProcAddress " #name, 0);                                                              \
                cu.symbol = (__typeof__(symbol) *)(uintptr_t)address;                                                    \
        } else if (strcmp(how, "table") == 0) {                                                                          \
                cu.symbol = (__typeof__(symbol) *)(uintptr_t)dlsym(driver, #symbol);                                     \
        } else {                                                                                                         \
                cu.symbol = symbol;                                                                                      \
        }
        USED(X)
#undef X
}

int main(int argc, char **argv)
{
        long operations = argc > 2 ? atol(argv[2]) : 1000;
        size_t free, total;
        char end_of_input;

        seed = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1) * 2654435761U + 88172645463325252U;
        find_functions(argc > 3 ? argv[3] : "symbols");
        MUST(cuInit(0));
        MUST(cu.cuDevicePrimaryCtxRetain(&primary, 0));
        MUST(cu.cuCtxSetCurrent(primary));
        MUST(cu.cuStreamCreate(&stream, 0));
        make_new_pool();
        for (long i = 0; i < operations; i++) {
                struct thing *t = &thing[below(LIVE)], before = *t;

                if (below(50) == 0)
                        tidy();
                else if (t->kind != NONE)
                        end(t);
                else
                        make(t);
                compare(kind_names[before.kind ? KINDS + before.kind : t->kind], before.kind ? before.size : t->size);
        }
        for (int i = 0; i < LIVE; i++)
                end(&thing[i]);
        MUST(cu.cuCtxSynchronize());
        MUST(cu.cuMemPoolDestroy(pool));
        MUST(cu.cuDeviceGetMemPool(&pool, 0));
        MUST(cu.cuMemPoolTrimTo(pool, 0));
        MUST(cu.cuDeviceGraphMemTrim(0));
        MUST(cu.cuMemGetInfo_v2(&free, &total));
        printf("{\"operations\": %ld, \"refused\": %ld, \"total\": %zu}\n", operations, refused, total);
        fflush(stdout);
        while (read(0, &end_of_input, 1) > 0)
                ;
        return 0;
}
