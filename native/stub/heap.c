/* Addresses and objects: see heap.h. */
#include "heap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STEP 512ULL
#define SMALL (1ULL << 20)
#define LARGE_STEP (2ULL << 20)
#define ARENA (512ULL << 30)
#define ARENA_LEAST (4ULL << 30)
#define OBJECTS (1U << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
        uint64_t base, end, next;
        struct stub_block **table;      /* by hash of the address */
        size_t table_size, blocks;
        struct stub_block *spare;
        struct stub_block *small[SMALL / STEP + 1];     /* free addresses by size */
        struct stub_block *large[ARENA / LARGE_STEP + 1];
} heap;

uint64_t stub_rounded(uint64_t bytes)
{
        uint64_t step = bytes <= SMALL ? STEP : LARGE_STEP;

        return bytes > UINT64_MAX - step ? bytes : (bytes + step - 1) / step * step;
}

static int open_arena(void)
{
        for (uint64_t size = ARENA; size >= ARENA_LEAST; size /= 2) {
                char *p = mmap(NULL, size + LARGE_STEP, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

                if (p == MAP_FAILED)
                        continue;
                madvise(p, size + LARGE_STEP, MADV_DONTDUMP);
                heap.base = ((uint64_t)(uintptr_t)p + LARGE_STEP - 1) & ~(LARGE_STEP - 1);
                heap.next = heap.base;
                heap.end = heap.base + size;
                return 0;
        }
        return -1;
}

bool stub_is_device_address(uint64_t address)
{
        return address >= heap.base && address < heap.end && heap.base;
}

static struct stub_block **slot_of(uint64_t address)
{
        return &heap.table[(address >> 9) * 0x9e3779b97f4a7c15ULL >> 20 & (heap.table_size - 1)];
}

static int grow_table(void)
{
        size_t old = heap.table_size;
        struct stub_block **from = heap.table;
        struct stub_block **to = calloc(old ? old * 2 : 4096, sizeof(struct stub_block *));

        if (!to)
                return -1;
        heap.table = to;
        heap.table_size = old ? old * 2 : 4096;
        for (size_t i = 0; i < old; i++) {
                while (from[i]) {
                        struct stub_block *b = from[i];
                        struct stub_block **slot = slot_of(b->address);

                        from[i] = b->next;
                        b->next = *slot;
                        *slot = b;
                }
        }
        free(from);
        return 0;
}

static struct stub_block **freed_of(uint64_t size)
{
        return size <= SMALL ? &heap.small[size / STEP] : &heap.large[size / LARGE_STEP];
}

static struct stub_block *fresh_block(void)
{
        struct stub_block *b = heap.spare;

        if (!b) {
                b = calloc(256, sizeof(*b));
                for (int i = 0; b && i < 256; i++) {
                        b[i].next = heap.spare;
                        heap.spare = &b[i];
                }
                b = heap.spare;
        }
        if (b)
                heap.spare = b->next;
        return b;
}

/* A block of that size with addresses, from the freed ones or from the end of the arena. Lock: held. */
static struct stub_block *find_room(uint64_t size)
{
        struct stub_block *b;
        uint64_t at;

        if ((!heap.base && open_arena() < 0) || size > heap.end - heap.base)
                return NULL;
        if ((heap.blocks >= heap.table_size) && grow_table() < 0)
                return NULL;
        b = *freed_of(size);
        if (b) {
                *freed_of(size) = b->next;
                return b;
        }
        at = size <= SMALL ? heap.next : (heap.next + LARGE_STEP - 1) & ~(LARGE_STEP - 1);
        if (size > heap.end - at || !(b = fresh_block()))
                return NULL;
        b->address = at;
        heap.next = at + size;
        return b;
}

struct stub_block *stub_block_new(uint64_t bytes, uint64_t size, enum stub_memory kind, uint32_t device, void *owner)
{
        struct stub_block *b, **slot;

        pthread_mutex_lock(&lock);
        b = find_room(size);
        if (b) {
                b->bytes = bytes;
                b->size = size;
                b->resident = 0;
                b->kind = kind;
                b->device = device;
                b->owner = owner;
                b->id = stub_new_id();
                slot = slot_of(b->address);
                b->next = *slot;
                *slot = b;
                heap.blocks++;
        }
        pthread_mutex_unlock(&lock);
        return b;
}

static struct stub_block **find(uint64_t address)
{
        struct stub_block **b;

        if (!heap.table_size)
                return NULL;
        for (b = slot_of(address); *b; b = &(*b)->next) {
                if ((*b)->address == address)
                        return b;
        }
        return NULL;
}

struct stub_block *stub_block_at(uint64_t address)
{
        struct stub_block **b;

        pthread_mutex_lock(&lock);
        b = find(address);
        pthread_mutex_unlock(&lock);
        return b ? *b : NULL;
}

struct stub_block *stub_block_around(uint64_t address)
{
        struct stub_block *found = stub_block_at(address);

        if (found || !stub_is_device_address(address))
                return found;
        pthread_mutex_lock(&lock);
        for (size_t i = 0; !found && i < heap.table_size; i++) {
                for (struct stub_block *b = heap.table[i]; b && !found; b = b->next) {
                        if (address >= b->address && address - b->address < b->size)
                                found = b;
                }
        }
        pthread_mutex_unlock(&lock);
        return found;
}

static struct stub_block *take(struct stub_block **at)
{
        struct stub_block *b = *at;

        *at = b->next;
        b->next = NULL;
        heap.blocks--;
        return b;
}

struct stub_block *stub_block_take(uint64_t address)
{
        struct stub_block **at, *b = NULL;

        pthread_mutex_lock(&lock);
        at = find(address);
        if (at)
                b = take(at);
        pthread_mutex_unlock(&lock);
        return b;
}

struct stub_block *stub_block_of(const void *owner)
{
        struct stub_block *found = NULL;

        pthread_mutex_lock(&lock);
        for (size_t i = 0; !found && i < heap.table_size; i++) {
                for (struct stub_block **b = &heap.table[i]; *b && !found; b = &(*b)->next) {
                        if ((*b)->owner == owner)
                                found = take(b);
                        if (found)
                                break;
                }
        }
        pthread_mutex_unlock(&lock);
        return found;
}

void stub_block_each(void (*call)(struct stub_block *, void *), void *data)
{
        pthread_mutex_lock(&lock);
        for (size_t i = 0; i < heap.table_size; i++) {
                for (struct stub_block *b = heap.table[i]; b; b = b->next)
                        call(b, data);
        }
        pthread_mutex_unlock(&lock);
}

void stub_block_free(struct stub_block *block)
{
        struct stub_block **freed = freed_of(block->size);

        pthread_mutex_lock(&lock);
        block->next = *freed;
        *freed = block;
        pthread_mutex_unlock(&lock);
}

uint64_t stub_new_id(void)
{
        static _Atomic uint64_t last;

        return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

/* Objects lie in one mapping, in cells of one size: any pointer can be asked whether it is one. */
static struct {
        _Atomic(char *) base;
        _Atomic uint32_t used;
        void *freed;
} cells;
static pthread_mutex_t cells_lock = PTHREAD_MUTEX_INITIALIZER;

struct cell {
        stub_kind_word kind;
        uint32_t spare;
        struct cell *next;
};

void *stub_object_new(enum stub_kind kind)
{
        struct cell *c = NULL;

        pthread_mutex_lock(&cells_lock);
        if (!cells.base) {
                char *p = mmap(NULL, (size_t)OBJECTS * STUB_OBJECT_BYTES, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

                cells.base = p == MAP_FAILED ? NULL : p;
        }
        if (cells.freed) {
                c = cells.freed;
                cells.freed = c->next;
        } else if (cells.base && cells.used < OBJECTS) {
                c = (struct cell *)(void *)(cells.base + (size_t)cells.used++ * STUB_OBJECT_BYTES);
        }
        if (c) {
                memset(&c->spare, 0, STUB_OBJECT_BYTES - offsetof(struct cell, spare));
                c->kind = kind;
        }
        pthread_mutex_unlock(&cells_lock);
        return c;
}

void stub_object_free(void *object)
{
        struct cell *c = object;

        pthread_mutex_lock(&cells_lock);
        c->kind = STUB_FREE;
        c->next = cells.freed;
        cells.freed = c;
        pthread_mutex_unlock(&cells_lock);
}

void *stub_object(const void *handle, enum stub_kind kind)
{
        uintptr_t at = (uintptr_t)handle - (uintptr_t)cells.base;

        if (!cells.base || at >= (uintptr_t)OBJECTS * STUB_OBJECT_BYTES || at % STUB_OBJECT_BYTES)
                return NULL;
        return ((const struct cell *)handle)->kind == kind ? (void *)(uintptr_t)handle : NULL;
}

void stub_objects_hold(void)
{
        pthread_mutex_lock(&cells_lock);
}

void stub_objects_let_go(void)
{
        pthread_mutex_unlock(&cells_lock);
}

void *stub_object_next(const void *before, enum stub_kind kind)
{
        uint32_t i = before ? (uint32_t)(((uintptr_t)before - (uintptr_t)cells.base) / STUB_OBJECT_BYTES) + 1 : 0;

        for (; i < cells.used; i++) {
                struct cell *c = (struct cell *)(void *)(cells.base + (size_t)i * STUB_OBJECT_BYTES);

                if (c->kind == kind)
                        return c;
        }
        return NULL;
}
