/* The allocation map, case by case: core_map <case>. Exit status 1, with a line on stderr, where a claim is false. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "allocmap.h"

#define CLAIM(claim)                                                                          \
        do {                                                                                  \
                if (!(claim)) {                                                               \
                        fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #claim); \
                        exit(1);                                                              \
                }                                                                             \
        } while (0)

static uint64_t next_random(uint64_t *state)
{
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state;
}

static struct slice_block of(uint64_t bytes)
{
        return (struct slice_block){.bytes = bytes, .owner = bytes ^ 5, .device = 3, .kind = 7, .flags = 9, .count = 1};
}

static void one_block(void)
{
        struct slice_block block = of(4096), got = {0};

        CLAIM(!slice_map_find(SLICE_ADDRESS, 0, &got) && !slice_map_take(SLICE_ADDRESS, 0, &got));
        CLAIM(slice_map_put(SLICE_ADDRESS, 0, &block, NULL) == 0);
        CLAIM(slice_map_find(SLICE_ADDRESS, 0, &got) && got.bytes == 4096 && got.owner == (4096 ^ 5));
        CLAIM(got.device == 3 && got.kind == 7 && got.flags == 9 && got.count == 1);
        CLAIM(!slice_map_find(SLICE_ARRAY, 0, &got) && !slice_map_take(SLICE_HANDLE, 0, &got));
        CLAIM(slice_map_take(SLICE_ADDRESS, 0, &got) && got.bytes == 4096);
        CLAIM(!slice_map_take(SLICE_ADDRESS, 0, &got) && slice_map_blocks() == 0);
}

static void replaced(void)
{
        struct slice_block first = of(1), second = of(2), old = {0};

        CLAIM(slice_map_put(SLICE_ADDRESS, 512, &first, &old) == 0 && old.bytes == 0);
        CLAIM(slice_map_put(SLICE_ADDRESS, 512, &second, &old) == 1 && old.bytes == 1);
        CLAIM(slice_map_blocks() == 1 && slice_map_take(SLICE_ADDRESS, 512, &old) && old.bytes == 2);
}

static void counted(void)
{
        struct slice_block block = of(64), got = {0};

        CLAIM(slice_map_count(SLICE_HANDLE, 9, 1, &got) < 0);
        CLAIM(slice_map_put(SLICE_HANDLE, 9, &block, NULL) == 0);
        CLAIM(slice_map_count(SLICE_HANDLE, 9, 1, &got) == 2 && slice_map_count(SLICE_HANDLE, 9, -1, &got) == 1);
        CLAIM(slice_map_find(SLICE_HANDLE, 9, &got));
        CLAIM(slice_map_count(SLICE_HANDLE, 9, -1, &got) == 0 && got.bytes == 64);
        CLAIM(!slice_map_find(SLICE_HANDLE, 9, &got) && slice_map_count(SLICE_HANDLE, 9, -1, &got) < 0);
}

/* Against a plain array, a million operations over addresses as drivers give them and as they do not. */
#define PLACES 20000
static void random_operations(void)
{
        static uint64_t model[PLACES];
        static const unsigned shifts[] = {0, 9, 21, 40};
        uint64_t random = 42, size = 0;
        struct slice_block block, got;

        for (unsigned i = 0; i < 1000000; i++) {
                uint64_t place = next_random(&random) % PLACES;
                uint64_t address = (place / 4) << shifts[place % 4] | place % 4 << 60;

                if (i % 3 != 0) {
                        block = of(i + 1);
                        CLAIM(slice_map_put(SLICE_ADDRESS, address, &block, &got) == (model[place] != 0));
                        size += model[place] == 0;
                        model[place] = i + 1;
                } else {
                        CLAIM(slice_map_take(SLICE_ADDRESS, address, &got) == (model[place] != 0));
                        CLAIM(model[place] == 0 || got.bytes == model[place]);
                        size -= model[place] != 0;
                        model[place] = 0;
                }
                uint64_t other = next_random(&random) % PLACES;
                address = (other / 4) << shifts[other % 4] | other % 4 << 60;
                CLAIM(slice_map_find(SLICE_ADDRESS, address, &got) == (model[other] != 0));
        }
        CLAIM(slice_map_blocks() == size);
}

/* Each thread has addresses of its own, and all of them fight for the same few. */
#define THREADS 8
static _Atomic uint64_t won, put;

static void *fight(void *data)
{
        uint64_t own = (uint64_t)(uintptr_t)data << 32, random = own + 1;
        struct slice_block block = of(1), got;

        for (uint64_t i = 0; i < 20000; i++) {
                block.bytes = own + i;
                CLAIM(slice_map_put(SLICE_ADDRESS, own + i * 512, &block, NULL) == 0);
                uint64_t shared = next_random(&random) % 16;
                if (slice_map_put(SLICE_ARRAY, shared, &block, NULL) == 0)
                        atomic_fetch_add(&put, 1);
                if (slice_map_take(SLICE_ARRAY, next_random(&random) % 16, &got))
                        atomic_fetch_add(&won, 1);
                if (i % 2 == 1)
                        CLAIM(slice_map_take(SLICE_ADDRESS, own + i * 512, &got) && got.bytes == own + i);
        }
        return NULL;
}

static void threads(void)
{
        pthread_t thread[THREADS];
        struct slice_block got;

        for (uintptr_t i = 0; i < THREADS; i++)
                CLAIM(pthread_create(&thread[i], NULL, fight, (void *)(i + 1)) == 0);
        for (unsigned i = 0; i < THREADS; i++)
                pthread_join(thread[i], NULL);
        for (uint64_t i = 0; i < 16; i++)
                won += slice_map_take(SLICE_ARRAY, i, &got);
        CLAIM(won == put && slice_map_blocks() == THREADS * 10000);
}

static bool of_owner(enum slice_space space, uint64_t address, const struct slice_block *block, void *data)
{
        (void)space, (void)address;
        return block->owner == *(uint64_t *)data;
}

static void add_bytes(enum slice_space space, uint64_t address, const struct slice_block *block, void *data)
{
        struct slice_block got;

        CLAIM(!slice_map_find(space, address, &got));   /* unlocked, and it is out already */
        ((uint64_t *)data)[1] += block->bytes;
}

static void dropped(void)
{
        uint64_t owner_and_sum[2] = {17, 0};
        struct slice_block block = of(1), got;

        CLAIM(slice_map_drop(of_owner, add_bytes, owner_and_sum) == 0);
        for (uint64_t i = 0; i < 30000; i++) {
                block.owner = i % 3 == 0 ? 17 : 18;
                CLAIM(slice_map_put(SLICE_ADDRESS, i << 21, &block, NULL) == 0);
        }
        CLAIM(slice_map_drop(of_owner, add_bytes, owner_and_sum) == 10000 && owner_and_sum[1] == 10000);
        CLAIM(slice_map_blocks() == 20000);
        for (uint64_t i = 0; i < 30000; i++)
                CLAIM(slice_map_find(SLICE_ADDRESS, i << 21, &got) == (i % 3 != 0));
        CLAIM(slice_map_drop(NULL, NULL, NULL) == 20000 && slice_map_blocks() == 0);
}

static _Atomic uint32_t stop;

static void *come_and_go(void *data)
{
        struct slice_block block = of(1), got;

        for (uint64_t i = 0; !atomic_load(&stop); i = (i + 1) % 5000) {
                block.owner = 99;
                slice_map_put(SLICE_MIPMAP, (uint64_t)(uintptr_t)data + i, &block, NULL);
                slice_map_take(SLICE_MIPMAP, (uint64_t)(uintptr_t)data + (i + 2500) % 5000, &got);
        }
        return NULL;
}

/* What belongs to an owner goes, all of it, though others move entries meanwhile. */
static void dropped_while_others_work(void)
{
        uint64_t owner_and_sum[2] = {17, 0};
        struct slice_block block = of(1);
        pthread_t thread[3];

        for (uintptr_t i = 0; i < 3; i++)
                CLAIM(pthread_create(&thread[i], NULL, come_and_go, (void *)(i << 40)) == 0);
        for (unsigned round = 0; round < 20; round++) {
                block.owner = 17;
                for (uint64_t i = 0; i < 8000; i++)
                        CLAIM(slice_map_put(SLICE_ADDRESS, i * 4096, &block, NULL) == 0);
                CLAIM(slice_map_drop(of_owner, add_bytes, owner_and_sum) == 8000);
                CLAIM(slice_map_drop(of_owner, add_bytes, owner_and_sum) == 0);
        }
        atomic_store(&stop, 1);
        for (unsigned i = 0; i < 3; i++)
                pthread_join(thread[i], NULL);
        CLAIM(owner_and_sum[1] == 20 * 8000);
}

static void forked(void)
{
        struct slice_block block = of(1), got;
        int status;

        for (uint64_t i = 0; i < 1000; i++)
                CLAIM(slice_map_put(SLICE_ADDRESS, i, &block, NULL) == 0);
        pid_t child = fork();
        if (child == 0) {
                CLAIM(slice_map_blocks() == 0 && !slice_map_find(SLICE_ADDRESS, 5, &got));
                CLAIM(slice_map_put(SLICE_ADDRESS, 5, &block, NULL) == 0 && slice_map_blocks() == 1);
                _exit(0);
        }
        CLAIM(waitpid(child, &status, 0) == child && status == 0);
        CLAIM(slice_map_blocks() == 1000);
}

static void million(void)
{
        struct slice_block block, got;

        for (uint64_t i = 0; i < 1000000; i++) {
                block = of(i + 1);
                CLAIM(slice_map_put(SLICE_ADDRESS, UINT64_C(0x7f0000000000) + (i << 9), &block, NULL) == 0);
        }
        CLAIM(slice_map_blocks() == 1000000);
        for (uint64_t i = 0; i < 1000000; i++)
                CLAIM(slice_map_take(SLICE_ADDRESS, UINT64_C(0x7f0000000000) + (i << 9), &got) && got.bytes == i + 1);
        CLAIM(slice_map_blocks() == 0);
}

int main(int argc, char **argv)
{
        static const struct {
                const char *name;
                void (*run)(void);
        } cases[] = {{"one_block", one_block}, {"replaced", replaced}, {"counted", counted}, {"threads", threads},
                     {"random_operations", random_operations}, {"dropped", dropped}, {"forked", forked},
                     {"dropped_while_others_work", dropped_while_others_work}, {"million", million}};

        for (unsigned i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++) {
                if (strcmp(argv[1], cases[i].name) == 0) {
                        cases[i].run();
                        return 0;
                }
        }
        fprintf(stderr, "no such case\n");
        return 2;
}
