/* The allocation map: what each address or handle of this process has charged, whatever call made it.
 *
 * Promise: put, find and take cost the same with one block and with a million; no lock is shared by all threads (one of 64
 * by address, held for nanoseconds, never across a system call but for growth); memory comes from mmap, never from the
 * program's malloc. A child of fork starts with an empty map.
 * Addresses of device memory, arrays, mipmaps and VMM handles are different spaces: equal numbers do not meet.
 * Units: bytes. Locks held: the shard's, inside; callbacks run without it. Returns 0 or -Exxx unless said.
 */
#ifndef SLICE_ALLOCMAP_H
#define SLICE_ALLOCMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum slice_space {
        SLICE_ADDRESS,          /* CUdeviceptr, however allocated */
        SLICE_ARRAY,            /* CUarray */
        SLICE_MIPMAP,           /* CUmipmappedArray */
        SLICE_HANDLE,           /* CUmemGenericAllocationHandle */
        SLICE_OTHER,            /* pools, graphs, ...: the hooks' own use */
};

struct slice_block {
        uint64_t bytes;         /* charged for it */
        uint64_t owner;         /* context it dies with, as a number; 0: with the process */
        uint8_t device;         /* index of the settings */
        uint8_t kind;           /* the hooks' own meaning */
        uint16_t flags;         /* the hooks' own meaning */
        uint32_t count;         /* the hooks' own meaning: references, ... */
};

/* Remember a block. An older one at the same place is replaced, and `ret_old` (may be NULL) says what it was: 1 then, else
 * 0; -ENOMEM: no memory for the map. Address 0 is as good as any. */
int slice_map_put(enum slice_space space, uint64_t address, const struct slice_block *block, struct slice_block *ret_old);

/* Forget a block and say what it was: two threads that free the same address do not both get it. False: not ours. */
bool slice_map_take(enum slice_space space, uint64_t address, struct slice_block *ret);

/* Say what a block is. */
bool slice_map_find(enum slice_space space, uint64_t address, struct slice_block *ret);

/* Add `delta` to the block's count and return the new count; the block goes when it reaches 0 (then it is in `ret`).
 * -ENOENT: not ours. */
int64_t slice_map_count(enum slice_space space, uint64_t address, int32_t delta, struct slice_block *ret);

/* Forget every block that `drop` (called with the shard locked: no calls back into the map) says yes to, and call `dropped`
 * for each afterwards, unlocked. Either may be NULL: all; nobody wants to know. Returns how many. */
typedef bool slice_map_choice(enum slice_space space, uint64_t address, const struct slice_block *block, void *data);
typedef void slice_map_visit(enum slice_space space, uint64_t address, const struct slice_block *block, void *data);
size_t slice_map_drop(slice_map_choice *drop, slice_map_visit *dropped, void *data);

/* Blocks in the map now. For tests and logs: it walks the shards. */
size_t slice_map_blocks(void);

#endif
