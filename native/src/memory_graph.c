/* Memory that graphs own: allocation nodes take it when the executable graph is launched or uploaded first, from a pool of
 * the device that all graphs share.
 *
 * An executable graph is remembered with the sum of its nodes. Before its first launch that sum is charged, and afterwards
 * the charge is what the device's pool for graphs says it holds. */
#include <errno.h>
#include <sys/mman.h>

#include "driver.h"
#include "memory.h"
#include "state.h"

#define DEEPEST 8                    /* graphs in graphs */
#define PAGE (UINT64_C(2) << 20)

static uint64_t key_of(CUgraphExec exec)
{
        return (uint64_t)(uintptr_t)exec;
}

static uint64_t memory_of(CUgraph graph, int depth, CUdevice *ret_ordinal);

static uint64_t memory_of_node(CUgraphNode node, int depth, CUdevice *ret_ordinal)
{
        CUDA_MEM_ALLOC_NODE_PARAMS params;
        CUgraphNodeType type;
        CUgraph child;

        if (slice_real()->cuGraphNodeGetType(node, &type) != CUDA_SUCCESS)
                return 0;
        if (type == CU_GRAPH_NODE_TYPE_GRAPH && depth < DEEPEST &&
            slice_real()->cuGraphChildGraphNodeGetGraph(node, &child) == CUDA_SUCCESS)
                return memory_of(child, depth + 1, ret_ordinal);
        if (type != CU_GRAPH_NODE_TYPE_MEM_ALLOC || slice_real()->cuGraphMemAllocNodeGetParams(node, &params) != CUDA_SUCCESS ||
            params.poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return 0;
        *ret_ordinal = params.poolProps.location.id;
        return params.bytesize > SLICE_UNLIMITED ? params.bytesize : (params.bytesize + PAGE - 1) / PAGE * PAGE;
}

/* Sum of the allocation nodes. The list of nodes is ours for a moment: not from the program's malloc. */
static uint64_t memory_of(CUgraph graph, int depth, CUdevice *ret_ordinal)
{
        size_t count = 0;
        uint64_t sum = 0;

        if (slice_real()->cuGraphGetNodes(graph, NULL, &count) != CUDA_SUCCESS || count == 0)
                return 0;
        size_t size = count * sizeof(CUgraphNode);
        CUgraphNode *nodes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (nodes == MAP_FAILED)
                return 0;
        if (slice_real()->cuGraphGetNodes(graph, nodes, &count) == CUDA_SUCCESS)
                for (size_t i = 0; i < count; i++)
                        sum += memory_of_node(nodes[i], depth, ret_ordinal);
        munmap(nodes, size);
        return sum;
}

/* Lock: pools, for the two below. */

static bool reads(unsigned device, CUgraphMem_attribute attribute, uint64_t *ret)
{
        return slice_real()->cuDeviceGetGraphMemAttribute(slice_state.graph[device].ordinal, attribute, ret) == CUDA_SUCCESS;
}

/* The charge becomes what graphs hold; `extra` was charged on top for the launch that has been. While others are between
 * their charge and this, what was found may be theirs: then it is not charged twice. */
static void settle(unsigned device, uint64_t extra)
{
        uint64_t stands = slice_state.graph[device].charged + extra, reserved;

        if (!reads(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved))
                reserved = stands;
        if (reserved > stands && slice_state.graph[device].launching)
                reserved = stands;
        slice_state.graph[device].charged = slice_correct((int)device, stands, reserved);
}

void slice_graph_settle_now(void)
{
        if (!atomic_load_explicit(&slice_state.graphs_have_memory, memory_order_relaxed))
                return;
        pthread_mutex_lock(&slice_state.pools);
        for (unsigned device = 0; device < SLICE_MAX_DEVICES; device++)
                if (slice_state.graph[device].charged)
                        settle(device, 0);
        pthread_mutex_unlock(&slice_state.pools);
}

/* Remember what `exec` may take. */
static void instantiated(CUgraphExec exec, CUgraph graph)
{
        CUdevice ordinal = 0;
        struct slice_block block = { .bytes = memory_of(graph, 0, &ordinal), .kind = SLICE_GRAPH, .count = 1 };
        int device = block.bytes ? slice_device_of(ordinal) : -1;

        if (device < 0)
                return;
        block.device = (uint8_t)device;
        pthread_mutex_lock(&slice_state.pools);
        slice_state.graph[device].ordinal = ordinal;
        pthread_mutex_unlock(&slice_state.pools);
        atomic_store_explicit(&slice_state.graphs_have_memory, true, memory_order_relaxed);
        atomic_store_explicit(&slice_pools_used, true, memory_order_relaxed);
        slice_map_put(SLICE_OTHER, key_of(exec), &block, NULL);
}

/* What a launch may make graphs hold more: all of it, or where that does not fit, what their pool has not free already. */
static uint64_t need(const struct slice_block *block)
{
        uint64_t reserved, used, left = 0;

        pthread_mutex_lock(&slice_state.pools);
        if (reads(block->device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved) &&
            reads(block->device, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used) && reserved > used)
                left = reserved - used;
        pthread_mutex_unlock(&slice_state.pools);
        return block->bytes > left ? (block->bytes - left + PAGE - 1) / PAGE * PAGE : 0;   /* it grows by pages */
}

int slice_graph_memory_begin(CUgraphExec exec, struct slice_graph_memory *ret, const char *api)
{
        uint16_t trims = (uint16_t)(atomic_load(&slice_state.graph_trims) + 1);
        struct slice_block block;

        ret->device = -1;
        if (!atomic_load_explicit(&slice_state.graphs_have_memory, memory_order_relaxed) ||
            !slice_map_find(SLICE_OTHER, key_of(exec), &block) || block.flags == trims)
                return 0;
        ret->bytes = need(&block);
        if (slice_take(block.device, ret->bytes, api) < 0)
                return -ENOMEM;
        ret->device = block.device;
        ret->exec = exec;
        pthread_mutex_lock(&slice_state.pools);
        slice_state.graph[block.device].launching++;
        pthread_mutex_unlock(&slice_state.pools);
        return 0;
}

void slice_graph_memory_end(const struct slice_graph_memory *memory, CUresult result)
{
        struct slice_block block;

        if (memory->device < 0)
                return;
        pthread_mutex_lock(&slice_state.pools);
        slice_state.graph[memory->device].launching--;
        settle((unsigned)memory->device, memory->bytes);
        pthread_mutex_unlock(&slice_state.pools);
        /* It holds its memory until it is destroyed or trimmed, so later launches need not ask. */
        if (result == CUDA_SUCCESS && slice_map_find(SLICE_OTHER, key_of(memory->exec), &block)) {
                block.flags = (uint16_t)(atomic_load(&slice_state.graph_trims) + 1);
                slice_map_put(SLICE_OTHER, key_of(memory->exec), &block, NULL);
        }
}

#define INSTANTIATE(symbol, parameters, arguments)                                  \
        static CUresult slice_##symbol parameters                                   \
        {                                                                           \
                if (!slice_ready())                                                 \
                        return SLICE_WITHOUT_LIMITS(symbol, arguments);             \
                CUresult result = slice_real()->symbol arguments;                   \
                if (result == CUDA_SUCCESS)                                         \
                        instantiated(*exec, graph);                                 \
                return result;                                                      \
        }

INSTANTIATE(cuGraphInstantiate, (CUgraphExec *exec, CUgraph graph, CUgraphNode *error, char *log, size_t bytes),
            (exec, graph, error, log, bytes))
INSTANTIATE(cuGraphInstantiate_v2, (CUgraphExec *exec, CUgraph graph, CUgraphNode *error, char *log, size_t bytes),
            (exec, graph, error, log, bytes))
INSTANTIATE(cuGraphInstantiateWithFlags, (CUgraphExec *exec, CUgraph graph, unsigned long long flags), (exec, graph, flags))
INSTANTIATE(cuGraphInstantiateWithParams, (CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params),
            (exec, graph, params))
INSTANTIATE(cuGraphInstantiateWithParams_ptsz, (CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params),
            (exec, graph, params))

#define UPLOAD(symbol)                                                              \
        static CUresult slice_##symbol(CUgraphExec exec, CUstream stream)           \
        {                                                                           \
                struct slice_graph_memory memory;                                   \
                                                                                    \
                if (!slice_ready())                                                 \
                        return SLICE_WITHOUT_LIMITS(symbol, (exec, stream));        \
                if (slice_graph_memory_begin(exec, &memory, #symbol) < 0)           \
                        return CUDA_ERROR_OUT_OF_MEMORY;                            \
                CUresult result = slice_real()->symbol(exec, stream);               \
                slice_graph_memory_end(&memory, result);                            \
                return result;                                                      \
        }

UPLOAD(cuGraphUpload)
UPLOAD(cuGraphUpload_ptsz)

static CUresult slice_cuGraphExecDestroy(CUgraphExec exec)
{
        struct slice_block block;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuGraphExecDestroy, (exec));
        bool ours = slice_map_take(SLICE_OTHER, key_of(exec), &block);
        CUresult result = slice_real()->cuGraphExecDestroy(exec);
        if (ours && result != CUDA_SUCCESS)
                slice_map_put(SLICE_OTHER, key_of(exec), &block, NULL);
        else if (ours)
                slice_graph_settle_now();
        return result;
}

static CUresult slice_cuDeviceGraphMemTrim(CUdevice ordinal)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuDeviceGraphMemTrim, (ordinal));
        atomic_fetch_add(&slice_state.graph_trims, 1);
        CUresult result = slice_real()->cuDeviceGraphMemTrim(ordinal);
        slice_graph_settle_now();
        return result;
}

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_graph.def"
#undef X
