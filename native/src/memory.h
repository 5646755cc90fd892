/* Charging what the driver takes: shared by the hooks of all memory kinds.
 *
 * Promise: a hook that allocates calls slice_take() first, so what the driver holds for this slice never exceeds the limit;
 * what is refused has been looked at twice (dead processes, pools that shrank, NVML's own figures) and is noted for the hub.
 * Units: bytes. Locks: none is held when these return. Errors: -ENOMEM: the hook returns CUDA_ERROR_OUT_OF_MEMORY.
 */
#ifndef SLICE_MEMORY_H
#define SLICE_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "account.h"
#include "allocmap.h"
#include "state.h"

/* What the block in the map is, beyond its charge. */
enum slice_kind {
        SLICE_PLAIN,     /* charged by itself */
        SLICE_MANAGED,   /* above the hard limit, under oversubscription: not charged, counted by slice_add_managed() */
        SLICE_POOLED,    /* part of a pool, which is charged as a whole; owner is the pool's serial number */
        SLICE_GRAPH,     /* an executable graph with memory nodes; bytes is what they may take, flags: it holds them */
        SLICE_MAPPING,   /* a mapped range of virtual memory; owner is the handle */
};

/* What the driver takes for `bytes` of linear memory: large blocks are multiples of its 2 MiB pages. 0 for 0. */
uint64_t slice_taken(uint64_t bytes);

/* May `api` allocate `bytes` of `device`? Below 0 (a card that is not in the slice): no. */
enum slice_grant {
        SLICE_GRANTED,     /* charged */
        SLICE_AS_MANAGED,  /* above a limit, under oversubscription: as managed memory, which is not charged */
        SLICE_DENIED,      /* CUDA_ERROR_OUT_OF_MEMORY; noted for the hub */
};
enum slice_grant slice_ask_for(int device, uint64_t bytes, const char *api);
/* The same where managed memory is no answer. 0, -ENOMEM. */
int slice_take(int device, uint64_t bytes, const char *api);
/* What a hook does with SLICE_AS_MANAGED. */
CUresult slice_allocate_managed(CUdeviceptr *dptr, size_t bytes, int device, CUcontext context);
/* The driver took `actual` where `charged` was taken before: give back the difference, or charge it although it may not fit
 * (the memory is gone already). Returns what is charged now. */
uint64_t slice_correct(int device, uint64_t charged, uint64_t actual);

/* Remember a block that stands charged. What an older block of that address had charged is given back: the driver freed it
 * unseen. On -ENOMEM (no memory for the map) nothing is remembered. */
int slice_remember(enum slice_space space, uint64_t address, int device, uint64_t bytes, CUcontext owner, enum slice_kind kind);
/* Give back what a block that was taken from the map had charged: after the driver freed it. */
void slice_forget(const struct slice_block *block);

/* The driver allocated linear memory that stands charged: remember it, or undo all of it. What the hook returns. */
CUresult slice_keep(CUdeviceptr *dptr, int device, uint64_t charged, CUcontext context);

/* A context is gone: give back what lived in it. */
void slice_memory_forget_context(CUcontext context);

/* Pools and graph memory shrink inside the driver, at synchronising calls: charge what they hold now. The first costs a load
 * where no pool was used; after every synchronising hook. The second looks in any case. */
extern _Atomic(bool) slice_pools_used __attribute__((visibility("hidden")));
void slice_memory_settle_now(void);
static inline void slice_memory_settle(void)
{
        if (__builtin_expect(atomic_load_explicit(&slice_pools_used, memory_order_relaxed), 0))
                slice_memory_settle_now();
}

/* For slice_forget(): a block of a pool was freed. After a device was reset: its pools may be gone. */
void slice_pool_block_freed(const struct slice_block *block);
void slice_pools_after_reset(void);
void slice_graph_settle_now(void);

/* A graph's own memory (memory nodes) is taken when it is launched or uploaded: charge before, correct afterwards. Costs a
 * load where no graph has memory nodes. begin: 0, or -ENOMEM: do not launch. */
struct slice_graph_memory {
        int device;          /* -1: nothing was charged */
        uint64_t bytes;
        CUgraphExec exec;
};
int slice_graph_memory_begin(CUgraphExec exec, struct slice_graph_memory *ret, const char *api);
void slice_graph_memory_end(const struct slice_graph_memory *memory, CUresult result);

#endif
