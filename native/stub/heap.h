/* Addresses and objects of one process: where device memory seems to lie, and what handles point to.
 *
 * Promise: an address belongs to at most one block, an object's handle can be checked whatever it is (a wild pointer, one
 * that was destroyed). Device memory is plain memory of the process, touched only when it is copied to, so that data
 * survive a copy there and back; a card of 141 GiB costs nothing. Locks: own, a leaf.
 */
#ifndef STUB_HEAP_H
#define STUB_HEAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stub_kind {
        STUB_FREE,
        STUB_CONTEXT,
        STUB_STREAM,
        STUB_EVENT,
        STUB_MODULE,
        STUB_FUNCTION,
        STUB_LIBRARY,
        STUB_ARRAY,
        STUB_MIPMAP,
        STUB_POOL,
        STUB_GRAPH,
        STUB_NODE,
        STUB_EXEC,
};

enum stub_memory {
        STUB_PLAIN,             /* cuMemAlloc and what is like it */
        STUB_POOLED,            /* from a pool: the pool's bytes are booked, not the block's */
        STUB_MANAGED,
        STUB_RESERVED,          /* addresses only, for cuMemMap */
        STUB_IMPORTED,          /* another process's block: nothing booked */
        STUB_GRAPH_OWNED,       /* a graph's allocation node */
};

struct stub_block {
        uint64_t address;
        uint64_t bytes;         /* as asked */
        uint64_t size;          /* as taken: of addresses, and of the card where it is booked */
        uint64_t resident;      /* managed: bytes on the card */
        enum stub_memory kind;
        uint32_t device;
        void *owner;            /* context, or pool, or graph node */
        uint64_t id;
        struct stub_block *next;
};

/* What a card takes for so many bytes: 512-byte steps up to 1 MiB, 2 MiB steps above. */
uint64_t stub_rounded(uint64_t bytes);

/* A block with addresses of its own; NULL: there are none left. */
struct stub_block *stub_block_new(uint64_t bytes, uint64_t size, enum stub_memory kind, uint32_t device, void *owner);
/* The block that begins at the address, or NULL. */
struct stub_block *stub_block_at(uint64_t address);
/* The block that the address lies in, or NULL. Slow: looks at all of them. */
struct stub_block *stub_block_around(uint64_t address);
/* Takes the block that begins at the address out of the table: the caller owns it. One of two callers gets it. */
struct stub_block *stub_block_take(uint64_t address);
/* Gives the addresses of a taken block back. */
void stub_block_free(struct stub_block *block);
/* Takes out and returns one block of an owner, NULL when there is none left. Slow. */
struct stub_block *stub_block_of(const void *owner);
/* Calls for every block, under the lock. */
void stub_block_each(void (*call)(struct stub_block *, void *), void *data);
bool stub_is_device_address(uint64_t address);

/* A zeroed object of up to STUB_OBJECT_BYTES; NULL: out of memory. Its first member is its kind, which any thread may ask. */
typedef _Atomic uint32_t stub_kind_word;
#define STUB_OBJECT_BYTES 256
void *stub_object_new(enum stub_kind kind);
void stub_object_free(void *object);
/* The handle as an object if it is a live one of the kind, else NULL. */
void *stub_object(const void *handle, enum stub_kind kind);
/* Objects one after the other: NULL begins, NULL ends. */
void *stub_object_next(const void *before, enum stub_kind kind);
/* No object is made or freed in between; nothing of this file but stub_object_next may be called there. */
void stub_objects_hold(void);
void stub_objects_let_go(void);
uint64_t stub_new_id(void);

#endif
