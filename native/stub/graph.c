/* Building graphs: see graph.h. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

CUgraph stub_graph_new(void)
{
        CUgraph g = stub_object_new(STUB_GRAPH);

        if (g)
                g->id = stub_new_id();
        return g;
}

CUgraphNode stub_node_new(CUgraph graph, const CUgraphNode *deps, size_t count, struct stub_step step)
{
        CUgraphNode node = stub_object_new(STUB_NODE);

        if (!node)
                return NULL;
        node->graph = graph;
        node->step = step;
        node->deps = count ? calloc(count, sizeof(CUgraphNode)) : NULL;
        if (node->deps) {
                memcpy(node->deps, deps, count * sizeof(CUgraphNode));
                node->dep_count = (uint32_t)count;
        }
        if (graph->last)
                graph->last->next = node;
        else
                graph->first = node;
        graph->last = node;
        graph->count++;
        return node;
}

static void drop_node(CUgraphNode node)
{
        if (node->step.block && !node->step.block->resident) {
                struct stub_block *b = stub_block_take(node->step.block->address);

                if (b)
                        stub_block_free(b);
        }
        if (node->step.child)
                stub_graph_drop(node->step.child);
        free(node->deps);
        stub_object_free(node);
}

void stub_graph_drop(CUgraph graph)
{
        CUgraphNode next;

        for (CUgraphNode n = graph->first; n; n = next) {
                next = n->next;
                drop_node(n);
        }
        stub_object_free(graph);
}

CUresult impl_cuGraphCreate(CUgraph *graph, unsigned int flags)
{
        if (!graph || flags)
                return CUDA_ERROR_INVALID_VALUE;
        *graph = stub_graph_new();
        return *graph ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult impl_cuGraphDestroy(CUgraph graph)
{
        if (!stub_object(graph, STUB_GRAPH) || graph->child)
                return CUDA_ERROR_INVALID_VALUE;
        stub_graph_drop(graph);
        return CUDA_SUCCESS;
}

static bool deps_are_sane(CUgraph graph, const CUgraphNode *deps, size_t count)
{
        if (count && !deps)
                return false;
        for (size_t i = 0; i < count; i++) {
                if (!stub_object(deps[i], STUB_NODE) || deps[i]->graph != graph)
                        return false;
        }
        return true;
}

static CUresult add(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count, struct stub_step step)
{
        CUgraphNode made;

        if (!node || !stub_object(graph, STUB_GRAPH) || !deps_are_sane(graph, deps, count))
                return CUDA_ERROR_INVALID_VALUE;
        made = stub_node_new(graph, deps, count, step);
        if (!made)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *node = made;
        return CUDA_SUCCESS;
}

static CUresult set_kernel(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1 *p, CUkernel kernel)
{
        CUfunction f = p->func ? p->func : (CUfunction)(void *)kernel;

        if (!stub_object(f, STUB_FUNCTION) || !p->gridDimX || !p->gridDimY || !p->gridDimZ || !p->blockDimX ||
            !p->blockDimY || !p->blockDimZ)
                return CUDA_ERROR_INVALID_VALUE;
        node->function = f;
        node->step.ns = f->ns;
        memcpy(node->dim, &p->gridDimX, sizeof(node->dim));
        return CUDA_SUCCESS;
}

static CUresult add_kernel(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                           const CUDA_KERNEL_NODE_PARAMS_v1 *params, CUkernel kernel)
{
        struct CUgraphNode_st probe;
        CUcontext ctx = stub_current();
        CUresult r;

        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        r = set_kernel(&probe, params, kernel);
        if (r == CUDA_SUCCESS)
                r = add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_KERNEL,
                                                                     .device = ctx ? ctx->device : 0});
        return r == CUDA_SUCCESS ? set_kernel(*node, params, kernel) : r;
}

CUresult impl_cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                   const CUDA_KERNEL_NODE_PARAMS_v1 *params)
{
        return add_kernel(node, graph, deps, count, params, NULL);
}

CUresult impl_cuGraphAddKernelNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                      const CUDA_KERNEL_NODE_PARAMS_v2 *params)
{
        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        return add_kernel(node, graph, deps, count, (const CUDA_KERNEL_NODE_PARAMS_v1 *)(const void *)params,
                          params->kern);
}

CUresult impl_cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v2 *params)
{
        if (!stub_object(node, STUB_NODE) || node->step.type != CU_GRAPH_NODE_TYPE_KERNEL || !params)
                return CUDA_ERROR_INVALID_VALUE;
        memset(params, 0, sizeof(*params));
        params->func = node->function;
        memcpy(&params->gridDimX, node->dim, sizeof(node->dim));
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v2 *params)
{
        if (!stub_object(node, STUB_NODE) || node->step.type != CU_GRAPH_NODE_TYPE_KERNEL || !params)
                return CUDA_ERROR_INVALID_VALUE;
        return set_kernel(node, (const CUDA_KERNEL_NODE_PARAMS_v1 *)(const void *)params, params->kern);
}

CUresult impl_cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                   const CUDA_MEMCPY3D *copy, CUcontext ctx)
{
        (void)ctx;
        if (!copy)
                return CUDA_ERROR_INVALID_VALUE;
        return add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_MEMCPY});
}

CUresult impl_cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                   const CUDA_MEMSET_NODE_PARAMS *params, CUcontext ctx)
{
        (void)ctx;
        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        return add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_MEMSET});
}

CUresult impl_cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                 const CUDA_HOST_NODE_PARAMS *params)
{
        if (!params || !params->fn)
                return CUDA_ERROR_INVALID_VALUE;
        return add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_HOST, .fn = params->fn,
                                                                .data = params->userData});
}

CUresult impl_cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count)
{
        return add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_EMPTY});
}

CUresult impl_cuGraphAddEventRecordNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                        CUevent event)
{
        if (!stub_object(event, STUB_EVENT))
                return CUDA_ERROR_INVALID_VALUE;
        return add(node, graph, deps, count,
                   (struct stub_step){.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD, .event = event});
}

CUresult impl_cuGraphAddEventWaitNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                      CUevent event)
{
        if (!stub_object(event, STUB_EVENT))
                return CUDA_ERROR_INVALID_VALUE;
        return add(node, graph, deps, count,
                   (struct stub_step){.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT, .event = event});
}

static CUresult check_alloc(const CUmemPoolProps *props, int *ret_device)
{
        if (props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED || props->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_device = stub_ordinal(props->location.id);
        return *ret_device < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult impl_cuGraphAddMemAllocNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                     CUDA_MEM_ALLOC_NODE_PARAMS *params)
{
        CUresult r;
        int device;

        if (!node || !params || !stub_object(graph, STUB_GRAPH) || !deps_are_sane(graph, deps, count))
                return CUDA_ERROR_INVALID_VALUE;
        r = check_alloc(&params->poolProps, &device);
        if (r == CUDA_SUCCESS)
                r = stub_node_alloc(graph, deps, count, (uint32_t)device, params->bytesize, node);
        if (r == CUDA_SUCCESS)
                params->dptr = (*node)->step.dptr;
        return r;
}

CUresult impl_cuGraphMemAllocNodeGetParams(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS *params)
{
        if (!stub_object(node, STUB_NODE) || node->step.type != CU_GRAPH_NODE_TYPE_MEM_ALLOC || !params)
                return CUDA_ERROR_INVALID_VALUE;
        memset(params, 0, sizeof(*params));
        params->poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
        params->poolProps.location = (CUmemLocation){CU_MEM_LOCATION_TYPE_DEVICE, stub_ordinal_of(node->step.device)};
        params->bytesize = node->bytes;
        params->dptr = node->step.dptr;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphAddMemFreeNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                    CUdeviceptr dptr)
{
        if (!dptr || !stub_block_at(dptr))
                return CUDA_ERROR_INVALID_VALUE;
        return add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .dptr = dptr});
}

CUresult impl_cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr *dptr)
{
        if (!stub_object(node, STUB_NODE) || node->step.type != CU_GRAPH_NODE_TYPE_MEM_FREE || !dptr)
                return CUDA_ERROR_INVALID_VALUE;
        *dptr = node->step.dptr;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphClone(CUgraph *clone, CUgraph graph)
{
        CUgraph made;

        if (!clone || !stub_object(graph, STUB_GRAPH))
                return CUDA_ERROR_INVALID_VALUE;
        made = stub_graph_new();
        for (CUgraphNode n = graph->first; made && n; n = n->next) {
                CUgraphNode copy;

                if (n->step.block)      /* memory belongs to one graph only */
                        return CUDA_ERROR_NOT_SUPPORTED;
                copy = stub_node_new(made, made->last ? &made->last : NULL, made->last ? 1 : 0, n->step);
                if (!copy)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                copy->function = n->function;
                memcpy(copy->dim, n->dim, sizeof(n->dim));
                if (n->step.child && impl_cuGraphClone(&copy->step.child, n->step.child) != CUDA_SUCCESS)
                        return CUDA_ERROR_OUT_OF_MEMORY;
        }
        *clone = made;
        return made ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult impl_cuGraphAddChildGraphNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                                       CUgraph child)
{
        CUgraph copy;
        CUresult r = impl_cuGraphClone(&copy, child);

        if (r != CUDA_SUCCESS)
                return r;
        copy->child = 1;
        return add(node, graph, deps, count, (struct stub_step){.type = CU_GRAPH_NODE_TYPE_GRAPH, .child = copy});
}

CUresult impl_cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *graph)
{
        if (!stub_object(node, STUB_NODE) || !node->step.child || !graph)
                return CUDA_ERROR_INVALID_VALUE;
        *graph = node->step.child;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphAddNode_v2(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps,
                                const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params)
{
        CUresult r;

        (void)edges;
        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        switch (params->type) {
        case CU_GRAPH_NODE_TYPE_KERNEL:
                return add_kernel(node, graph, deps, count,
                                  (const CUDA_KERNEL_NODE_PARAMS_v1 *)(const void *)&params->kernel,
                                  params->kernel.kern);
        case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
                CUDA_MEM_ALLOC_NODE_PARAMS p;

                memcpy(&p, &params->alloc, sizeof(p));
                r = impl_cuGraphAddMemAllocNode(node, graph, deps, count, &p);
                params->alloc.dptr = r == CUDA_SUCCESS ? p.dptr : 0;
                return r;
        }
        case CU_GRAPH_NODE_TYPE_MEM_FREE:
                return impl_cuGraphAddMemFreeNode(node, graph, deps, count, params->free.dptr);
        case CU_GRAPH_NODE_TYPE_GRAPH:
                return impl_cuGraphAddChildGraphNode(node, graph, deps, count, params->graph.graph);
        case CU_GRAPH_NODE_TYPE_EMPTY:
        case CU_GRAPH_NODE_TYPE_MEMCPY:
        case CU_GRAPH_NODE_TYPE_MEMSET:
                return add(node, graph, deps, count, (struct stub_step){.type = params->type});
        default:
                return CUDA_ERROR_NOT_SUPPORTED;
        }
}

CUresult impl_cuGraphAddNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *deps, size_t count,
                             CUgraphNodeParams *params)
{
        return impl_cuGraphAddNode_v2(node, graph, deps, NULL, count, params);
}
