/* Graphs: a list of nodes in an order that respects their edges, which is the order of their adding.
 * An executable graph is a copy of that list; launching it queues the sum of its kernels' device time.
 */
#ifndef STUB_GRAPH_H
#define STUB_GRAPH_H

#include "driver.h"

/* What a node does when its graph runs. */
struct stub_step {
        CUgraphNodeType type;
        uint32_t device;
        uint64_t ns;
        CUhostFn fn;
        void *data;
        CUevent event;
        CUdeviceptr dptr;
        struct stub_block *block;
        CUgraph child;
};

struct CUgraphNode_st {
        stub_kind_word kind;
        uint32_t dep_count;
        CUgraph graph;
        CUgraphNode next;
        CUgraphNode *deps;
        struct stub_step step;
        CUfunction function;
        unsigned int dim[7];
        size_t bytes;
};

struct CUgraph_st {
        stub_kind_word kind;
        uint32_t count;
        CUgraphNode first, last;
        int child;                      /* a child node's copy: it goes with its node */
        uint64_t id;
};

struct CUgraphExec_st {
        stub_kind_word kind;
        uint32_t count;
        struct stub_step *steps;
        unsigned long long flags;
        uint64_t graph_id;
};

/* A node at the end of a graph, NULL: out of memory. */
CUgraphNode stub_node_new(CUgraph graph, const CUgraphNode *deps, size_t count, struct stub_step step);
CUgraph stub_graph_new(void);
void stub_graph_drop(CUgraph graph);
/* An allocation node with its address. */
CUresult stub_node_alloc(CUgraph graph, const CUgraphNode *deps, size_t count, uint32_t device, size_t bytes,
                         CUgraphNode *ret);
/* The memory of a step: booked in the card's graph reserve. */
CUresult stub_step_alloc(const struct stub_step *step, bool again);
CUresult stub_step_free(CUdeviceptr dptr);

#endif
