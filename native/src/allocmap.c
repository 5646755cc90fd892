/* Open addressing with linear probing, 64 shards by address, each with a lock of its own.
 *
 * Deletion moves later entries of the run back, so there are no tombstones and a shard that was full is as quick as a new
 * one. A shard doubles when it is half full; that moves 1/64 of the blocks, once per doubling.
 */
#include "allocmap.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#define SHARDS 64
#define FIRST_ENTRIES 128   /* of a shard: 64 pages in all, and only once there is a block in it */

/* 40 bytes. `used` is apart from the address, because 0 is as good an address as any. */
struct entry {
        uint64_t address;
        struct slice_block block;
        uint8_t space;
        uint8_t used;
};

/* The lock is a word that threads take by exchange: held for nanoseconds, but for a growth. Entries are ordered by it alone. */
struct shard {
        _Alignas(64) _Atomic uint32_t taken;
        uint32_t moves;            /* changes when entries may have changed their places */
        size_t room, blocks;       /* room: a power of two, or 0 */
        struct entry *entry;
};

/* Made at the first put, in memory that the kernel clears in a child of fork: locks open, no entries. */
struct map {
        struct shard shard[SHARDS];
};
static _Atomic(struct map *) the_map;

static void after_fork_in_child(void)
{
        struct map *map = atomic_load_explicit(&the_map, memory_order_relaxed);

        if (map != NULL)   /* where the kernel knows MADV_WIPEONFORK it is clear already */
                memset(map, 0, sizeof(*map));
}

static void *pages(size_t bytes)
{
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

/* Acquire and release: who sees the map sees it empty and clear, not as another thread found it. */
static struct map *make_map(void)
{
        struct map *expected = NULL, *map = pages(sizeof(*map));

        if (map == NULL)
                return NULL;
        madvise(map, sizeof(*map), MADV_WIPEONFORK);
        if (!atomic_compare_exchange_strong(&the_map, &expected, map)) {
                munmap(map, sizeof(*map));
                return expected;
        }
        pthread_atfork(NULL, NULL, after_fork_in_child);
        return map;
}

static uint64_t mix(enum slice_space space, uint64_t address)
{
        /* Allocations are aligned, so their low bits say little: multiply, then use the high half. */
        uint64_t hash = (address ^ (uint64_t)space << 56) * UINT64_C(0x9e3779b97f4a7c15);

        return hash ^ hash >> 32;
}

static void lock(struct shard *shard)
{
        while (atomic_exchange_explicit(&shard->taken, 1, memory_order_acquire) != 0)
                for (unsigned turns = 0; atomic_load_explicit(&shard->taken, memory_order_relaxed) != 0; turns++)
                        if (turns >= 100)
                                sched_yield();   /* its holder may have been descheduled on this very core */
}

static void unlock(struct shard *shard)
{
        atomic_store_explicit(&shard->taken, 0, memory_order_release);
}

/* The shard of a block, locked; NULL when there is no map yet. */
static struct shard *locked_shard(uint64_t hash)
{
        struct map *map = atomic_load_explicit(&the_map, memory_order_acquire);

        if (map == NULL)
                return NULL;
        struct shard *shard = &map->shard[hash % SHARDS];
        lock(shard);
        return shard;
}

/* Where a hash's run begins. */
static size_t home(const struct shard *shard, uint64_t hash)
{
        return (hash / SHARDS) & (shard->room - 1);
}

/* The entry of a block, or the free one where its run ends. Only with room > 0. */
static size_t seek(const struct shard *shard, enum slice_space space, uint64_t address, uint64_t hash)
{
        size_t at = home(shard, hash);

        while (shard->entry[at].used && (shard->entry[at].address != address || shard->entry[at].space != space))
                at = (at + 1) & (shard->room - 1);
        return at;
}

static int grow(struct shard *shard)
{
        struct shard bigger = {.room = shard->room == 0 ? FIRST_ENTRIES : shard->room * 2};

        bigger.entry = pages(bigger.room * sizeof(struct entry));
        if (bigger.entry == NULL)
                return -ENOMEM;
        for (size_t i = 0; i < shard->room; i++) {
                const struct entry *old = &shard->entry[i];

                if (old->used)
                        bigger.entry[seek(&bigger, old->space, old->address, mix(old->space, old->address))] = *old;
        }
        if (shard->room > 0)
                munmap(shard->entry, shard->room * sizeof(struct entry));
        shard->entry = bigger.entry;
        shard->room = bigger.room;
        shard->moves++;
        return 0;
}

/* Empty `at`, and move back what stood after it in its run. */
static void remove_at(struct shard *shard, size_t at)
{
        size_t mask = shard->room - 1, hole = at;

        for (size_t i = (at + 1) & mask; shard->entry[i].used; i = (i + 1) & mask) {
                size_t wants = home(shard, mix(shard->entry[i].space, shard->entry[i].address));

                /* It may move when the hole lies between where it wants to be and where it is. */
                if (((i - wants) & mask) >= ((i - hole) & mask)) {
                        shard->entry[hole] = shard->entry[i];
                        hole = i;
                }
        }
        shard->entry[hole].used = 0;
        shard->blocks--;
        shard->moves++;
}

int slice_map_put(enum slice_space space, uint64_t address, const struct slice_block *block, struct slice_block *ret_old)
{
        uint64_t hash = mix(space, address);
        struct shard *shard = locked_shard(hash);
        int outcome = 0;

        if (shard == NULL && make_map() != NULL)
                shard = locked_shard(hash);
        if (shard == NULL)
                return -ENOMEM;
        if (shard->blocks >= shard->room / 2 && grow(shard) < 0) {
                unlock(shard);
                return -ENOMEM;
        }
        struct entry *entry = &shard->entry[seek(shard, space, address, hash)];
        if (entry->used) {
                if (ret_old != NULL)
                        *ret_old = entry->block;
                outcome = 1;
        } else {
                shard->blocks++;
        }
        *entry = (struct entry){.address = address, .block = *block, .space = (uint8_t)space, .used = 1};
        unlock(shard);
        return outcome;
}

/* The block's entry with its shard locked, and the place in it; NULL, and nothing locked, when it is not ours. */
static struct shard *find_locked(enum slice_space space, uint64_t address, size_t *ret_at)
{
        uint64_t hash = mix(space, address);
        struct shard *shard = locked_shard(hash);

        if (shard == NULL)
                return NULL;
        if (shard->room > 0) {
                *ret_at = seek(shard, space, address, hash);
                if (shard->entry[*ret_at].used)
                        return shard;
        }
        unlock(shard);
        return NULL;
}

bool slice_map_take(enum slice_space space, uint64_t address, struct slice_block *ret)
{
        size_t at;
        struct shard *shard = find_locked(space, address, &at);

        if (shard == NULL)
                return false;
        *ret = shard->entry[at].block;
        remove_at(shard, at);
        unlock(shard);
        return true;
}

bool slice_map_find(enum slice_space space, uint64_t address, struct slice_block *ret)
{
        size_t at;
        struct shard *shard = find_locked(space, address, &at);

        if (shard == NULL)
                return false;
        *ret = shard->entry[at].block;
        unlock(shard);
        return true;
}

int64_t slice_map_count(enum slice_space space, uint64_t address, int32_t delta, struct slice_block *ret)
{
        size_t at;
        struct shard *shard = find_locked(space, address, &at);

        if (shard == NULL)
                return -ENOENT;
        struct slice_block *block = &shard->entry[at].block;
        int64_t count = (int64_t)block->count + delta;
        block->count = count > 0 ? (uint32_t)count : 0;
        *ret = *block;
        if (count <= 0)
                remove_at(shard, at);
        unlock(shard);
        return count > 0 ? count : 0;
}

/* Some of a shard's blocks, taken out at once, and where to go on. */
#define BATCH 32
struct batch {
        size_t at;
        uint32_t moves;
        size_t count;
        struct entry entry[BATCH];
};

/* Take out up to BATCH blocks that are chosen. False: the end of the shard was reached. */
static bool take_batch(struct shard *shard, slice_map_choice *choose, void *data, struct batch *batch)
{
        bool more = false;

        batch->count = 0;
        lock(shard);
        if (shard->moves != batch->moves)
                batch->at = 0;   /* other threads moved entries to places that we have passed */
        while (batch->at < shard->room && !more) {
                struct entry *entry = &shard->entry[batch->at];

                if (!entry->used || (choose != NULL && !choose(entry->space, entry->address, &entry->block, data))) {
                        batch->at++;
                } else if (batch->count == BATCH) {
                        more = true;
                } else {
                        batch->entry[batch->count++] = *entry;
                        remove_at(shard, batch->at);   /* what moves back to this place is looked at next */
                }
        }
        batch->moves = shard->moves;
        unlock(shard);
        return more;
}

static size_t drop_from(struct shard *shard, slice_map_choice *choose, slice_map_visit *dropped, void *data)
{
        struct batch batch = {0};
        size_t total = 0;
        bool more = true;

        while (more) {
                more = take_batch(shard, choose, data, &batch);
                for (size_t i = 0; dropped != NULL && i < batch.count; i++)
                        dropped(batch.entry[i].space, batch.entry[i].address, &batch.entry[i].block, data);
                total += batch.count;
        }
        return total;
}

size_t slice_map_drop(slice_map_choice *choose, slice_map_visit *dropped, void *data)
{
        struct map *map = atomic_load_explicit(&the_map, memory_order_acquire);
        size_t total = 0;

        for (unsigned i = 0; map != NULL && i < SHARDS; i++)
                total += drop_from(&map->shard[i], choose, dropped, data);
        return total;
}

size_t slice_map_blocks(void)
{
        struct map *map = atomic_load_explicit(&the_map, memory_order_acquire);
        size_t total = 0;

        for (unsigned i = 0; map != NULL && i < SHARDS; i++) {
                lock(&map->shard[i]);
                total += map->shard[i].blocks;
                unlock(&map->shard[i]);
        }
        return total;
}
