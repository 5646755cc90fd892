/* Executable graphs, and what a graph is asked. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

CUresult impl_cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type)
{
        if (!stub_object(node, STUB_NODE) || !type)
                return CUDA_ERROR_INVALID_VALUE;
        *type = node->step.type;
        return CUDA_SUCCESS;
}

/* All nodes, or only those without dependencies. Without a list: how many. */
static CUresult list_nodes(CUgraph graph, CUgraphNode *nodes, size_t *count, bool roots)
{
        size_t n = 0, room;

        if (!stub_object(graph, STUB_GRAPH) || !count)
                return CUDA_ERROR_INVALID_VALUE;
        room = nodes ? *count : 0;
        for (CUgraphNode at = graph->first; at; at = at->next) {
                if (roots && at->dep_count)
                        continue;
                if (n < room)
                        nodes[n] = at;
                n++;
        }
        for (size_t i = n; i < room; i++)
                nodes[i] = NULL;
        *count = n;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count)
{
        return list_nodes(graph, nodes, count, false);
}

CUresult impl_cuGraphGetRootNodes(CUgraph graph, CUgraphNode *nodes, size_t *count)
{
        return list_nodes(graph, nodes, count, true);
}

CUresult impl_cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count)
{
        size_t n = 0, room;

        if (!stub_object(graph, STUB_GRAPH) || !count)
                return CUDA_ERROR_INVALID_VALUE;
        room = from && to ? *count : 0;
        for (CUgraphNode at = graph->first; at; at = at->next) {
                for (uint32_t i = 0; i < at->dep_count; i++, n++) {
                        if (n < room) {
                                from[n] = at->deps[i];
                                to[n] = at;
                        }
                }
        }
        *count = n;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
        if (!stub_object(graph, STUB_GRAPH) || (count && (!from || !to)))
                return CUDA_ERROR_INVALID_VALUE;
        for (size_t i = 0; i < count; i++) {
                CUgraphNode *deps;

                if (!stub_object(from[i], STUB_NODE) || !stub_object(to[i], STUB_NODE))
                        return CUDA_ERROR_INVALID_VALUE;
                deps = realloc(to[i]->deps, (to[i]->dep_count + 1) * sizeof(CUgraphNode));
                if (!deps)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                deps[to[i]->dep_count++] = from[i];
                to[i]->deps = deps;
        }
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphDestroyNode(CUgraphNode node)
{
        CUgraphNode *at;

        if (!stub_object(node, STUB_NODE))
                return CUDA_ERROR_INVALID_VALUE;
        if (node->step.block || node->step.type == CU_GRAPH_NODE_TYPE_MEM_FREE)
                return CUDA_ERROR_NOT_SUPPORTED;        /* as the real one: memory nodes stay */
        node->graph->last = NULL;
        for (at = &node->graph->first; *at;) {
                if (*at == node) {
                        *at = node->next;
                        node->graph->count--;
                } else {
                        node->graph->last = *at;
                        at = &(*at)->next;
                }
        }
        free(node->deps);
        stub_object_free(node);
        return CUDA_SUCCESS;
}

static uint32_t count_steps(CUgraph graph)
{
        uint32_t n = 0;

        for (CUgraphNode at = graph->first; at; at = at->next)
                n += at->step.child ? count_steps(at->step.child) : 1;
        return n;
}

static struct stub_step *copy_steps(CUgraph graph, struct stub_step *to)
{
        for (CUgraphNode at = graph->first; at; at = at->next) {
                if (at->step.child)
                        to = copy_steps(at->step.child, to);
                else
                        *to++ = at->step;
        }
        return to;
}

CUresult impl_cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
        CUgraphExec made;

        if (!exec || !stub_object(graph, STUB_GRAPH) || flags & ~15ULL)
                return CUDA_ERROR_INVALID_VALUE;
        made = stub_object_new(STUB_EXEC);
        if (!made)
                return CUDA_ERROR_OUT_OF_MEMORY;
        made->count = count_steps(graph);
        made->steps = calloc(made->count + 1, sizeof(*made->steps));
        made->flags = flags;
        made->graph_id = graph->id;
        if (!made->steps) {
                stub_object_free(made);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        copy_steps(graph, made->steps);
        *exec = made;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node, char *log,
                                    size_t log_bytes)
{
        if (error_node)
                *error_node = NULL;
        if (log && log_bytes)
                *log = '\0';
        return impl_cuGraphInstantiateWithFlags(exec, graph, 0);
}

CUresult impl_cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node, char *log, size_t log_bytes)
{
        return impl_cuGraphInstantiate_v2(exec, graph, error_node, log, log_bytes);
}

CUresult impl_cuGraphInstantiateWithParams(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
        CUresult r;

        if (!params)
                return CUDA_ERROR_INVALID_VALUE;
        r = impl_cuGraphInstantiateWithFlags(exec, graph, params->flags);
        params->hErrNode_out = NULL;
        params->result_out = r == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
        return r;
}

CUresult impl_cuGraphExecGetFlags(CUgraphExec exec, cuuint64_t *flags)
{
        if (!stub_object(exec, STUB_EXEC) || !flags)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = exec->flags;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                                const CUDA_KERNEL_NODE_PARAMS_v2 *params)
{
        uint32_t i = 0;
        CUfunction f;

        if (!stub_object(exec, STUB_EXEC) || !stub_object(node, STUB_NODE) || !params)
                return CUDA_ERROR_INVALID_VALUE;
        f = params->func ? params->func : (CUfunction)(void *)params->kern;
        if (!stub_object(f, STUB_FUNCTION) || node->graph->id != exec->graph_id)
                return CUDA_ERROR_INVALID_VALUE;
        for (CUgraphNode at = node->graph->first; at && at != node; at = at->next)
                i++;
        if (i >= exec->count)
                return CUDA_ERROR_INVALID_VALUE;
        exec->steps[i].ns = f->ns;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo *info)
{
        if (!stub_object(exec, STUB_EXEC) || !stub_object(graph, STUB_GRAPH) || !info)
                return CUDA_ERROR_INVALID_VALUE;
        memset(info, 0, sizeof(*info));
        if (count_steps(graph) != exec->count) {
                info->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
                return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
        }
        copy_steps(graph, exec->steps);
        exec->graph_id = graph->id;
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphExecDestroy(CUgraphExec exec)
{
        if (!stub_object(exec, STUB_EXEC))
                return CUDA_ERROR_INVALID_VALUE;
        free(exec->steps);
        stub_object_free(exec);
        return CUDA_SUCCESS;
}

CUresult impl_cuGraphUpload(CUgraphExec exec, CUstream stream)
{
        if (!stub_object(exec, STUB_EXEC))
                return CUDA_ERROR_INVALID_VALUE;
        return stub_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

static CUresult run_step(const struct stub_step *step, struct CUstream_st *s, bool again)
{
        switch (step->type) {
        case CU_GRAPH_NODE_TYPE_KERNEL:
                if (step->ns)
                        stub_queue(s, step->ns);
                return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_HOST:
                return stub_call_later(s, step->fn, NULL, step->data);
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
                return impl_cuEventRecord(step->event, s);
        case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
                return stub_step_alloc(step, again);
        case CU_GRAPH_NODE_TYPE_MEM_FREE:
                return stub_step_free(step->dptr);
        default:
                return CUDA_SUCCESS;
        }
}

CUresult impl_cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
        struct CUstream_st *s;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!stub_object(exec, STUB_EXEC))
                return CUDA_ERROR_INVALID_VALUE;
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_capturing(s))
                return stub_capture_empty(s);
        for (uint32_t i = 0; i < exec->count; i++) {
                CUresult r = run_step(&exec->steps[i], s,
                                      exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);

                if (r != CUDA_SUCCESS)
                        return r;
        }
        return CUDA_SUCCESS;
}
