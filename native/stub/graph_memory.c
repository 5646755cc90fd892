/* Memory of graphs: addresses are given with the node, bytes are booked when it runs, and stay in the card's reserve for
 * graphs until it is trimmed, as the real driver's do. */
#include "graph.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
        uint64_t used, used_high, reserved, reserved_high;
} pool[STUB_DEVICES];

CUresult stub_node_alloc(CUgraph graph, const CUgraphNode *deps, size_t count, uint32_t device, size_t bytes,
                         CUgraphNode *ret)
{
        struct stub_block *b;
        CUgraphNode node;

        if (bytes == 0)
                return CUDA_ERROR_INVALID_VALUE;
        if (bytes > stub_state->device[device].total)
                return CUDA_ERROR_OUT_OF_MEMORY;
        b = stub_block_new(bytes, stub_rounded(bytes), STUB_GRAPH_OWNED, device, graph);
        if (!b)
                return CUDA_ERROR_OUT_OF_MEMORY;
        node = stub_node_new(graph, deps, count, (struct stub_step){
                .type = CU_GRAPH_NODE_TYPE_MEM_ALLOC, .device = device, .dptr = b->address, .block = b});
        if (!node)
                return CUDA_ERROR_OUT_OF_MEMORY;
        node->bytes = bytes;
        *ret = node;
        return CUDA_SUCCESS;
}

/* `resident` of a graph's block: booked now. Lock: held. */
static void release(struct stub_block *b)
{
        pool[b->device].used -= b->size;
        b->resident = 0;
}

CUresult stub_step_alloc(const struct stub_step *step, bool again)
{
        struct stub_block *b = step->block;
        uint32_t d = b->device;
        CUresult result = CUDA_SUCCESS;
        int r = 0;

        pthread_mutex_lock(&lock);
        if (b->resident && again)
                release(b);
        if (b->resident) {
                result = CUDA_ERROR_INVALID_VALUE;      /* launched again before its memory was freed */
        } else if (pool[d].used + b->size > pool[d].reserved) {
                uint64_t grow = stub_rounded(pool[d].used + b->size - pool[d].reserved);

                r = stub_take_bytes(d, grow);
                if (r == 0)
                        pool[d].reserved += grow;
                result = stub_result(r);
        }
        if (result == CUDA_SUCCESS) {
                b->resident = b->size;
                pool[d].used += b->size;
                if (pool[d].used > pool[d].used_high)
                        pool[d].used_high = pool[d].used;
                if (pool[d].reserved > pool[d].reserved_high)
                        pool[d].reserved_high = pool[d].reserved;
        }
        pthread_mutex_unlock(&lock);
        return result;
}

bool stub_graph_free(struct stub_block *b)
{
        bool was;

        pthread_mutex_lock(&lock);
        was = b->resident != 0;
        if (was)
                release(b);
        pthread_mutex_unlock(&lock);
        return was;
}

CUresult stub_step_free(CUdeviceptr dptr)
{
        struct stub_block *b = stub_block_at(dptr);

        if (!b)
                return CUDA_ERROR_INVALID_VALUE;
        if (b->kind == STUB_GRAPH_OWNED)
                return stub_graph_free(b) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        b = stub_block_take(dptr);
        if (!b)
                return CUDA_ERROR_INVALID_VALUE;
        stub_release_block(b);
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGraphMemTrim(CUdevice device)
{
        int d = stub_ordinal(device);
        uint64_t keep;

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        pthread_mutex_lock(&lock);
        keep = stub_rounded(pool[d].used);
        if (keep < pool[d].reserved) {
                stub_give_bytes((uint32_t)d, pool[d].reserved - keep);
                pool[d].reserved = keep;
        }
        pthread_mutex_unlock(&lock);
        return CUDA_SUCCESS;
}

/* Lock: held. */
static CUresult read_attribute(int d, CUgraphMem_attribute which, void *value)
{
        switch (which) {
        case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT: *(cuuint64_t *)value = pool[d].used; return CUDA_SUCCESS;
        case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH: *(cuuint64_t *)value = pool[d].used_high; return CUDA_SUCCESS;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT: *(cuuint64_t *)value = pool[d].reserved; return CUDA_SUCCESS;
        case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH: *(cuuint64_t *)value = pool[d].reserved_high; return CUDA_SUCCESS;
        default: return CUDA_ERROR_INVALID_VALUE;
        }
}

CUresult impl_cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute which, void *value)
{
        int d = stub_ordinal(device);
        CUresult result;

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        result = read_attribute(d, which, value);
        pthread_mutex_unlock(&lock);
        return result;
}

CUresult impl_cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute which, void *value)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!value || *(cuuint64_t *)value)
                return CUDA_ERROR_INVALID_VALUE;
        if (which == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
                pool[d].used_high = pool[d].used;
        else if (which == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
                pool[d].reserved_high = pool[d].reserved;
        else
                return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
}
