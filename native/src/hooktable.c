/* Address -> hook: open addressing, written rarely, read by whoever looks a symbol up. */
#include <stdint.h>
#include <string.h>

#include "lookup.h"
#include "state.h"

/* The newest interface that we have read the manual of: what a driver gives for later versions is its own affair. */
#define NEWEST_KNOWN 13050
#define OLDEST_KNOWN 11000
#define PER_THREAD_STREAM 2   /* CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM */

static size_t place(uintptr_t address, size_t turn)
{
        return (size_t)((address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20) + turn;
}

slice_function slice_hook_at(const void *address)
{
        for (size_t turn = 0; turn < SLICE_HOOK_PLACES; turn++) {
                struct slice_hook_place *at = &slice_state.hooks[place((uintptr_t)address, turn) % SLICE_HOOK_PLACES];
                uintptr_t there = atomic_load_explicit(&at->address, memory_order_acquire);

                if (there == (uintptr_t)address)
                        return (slice_function)atomic_load_explicit(&at->hook, memory_order_acquire);
                if (!there)
                        return NULL;
        }
        return NULL;
}

void slice_hook_put(const void *address, slice_function hook)
{
        for (size_t turn = 0; turn < SLICE_HOOK_PLACES; turn++) {
                struct slice_hook_place *at = &slice_state.hooks[place((uintptr_t)address, turn) % SLICE_HOOK_PLACES];
                uintptr_t there = 0;
                uintptr_t none = 0;

                if (!atomic_compare_exchange_strong(&at->address, &there, (uintptr_t)address) && there != (uintptr_t)address)
                        continue;
                /* Two names at one address are one function: the first hook stays. */
                atomic_compare_exchange_strong(&at->hook, &none, (uintptr_t)hook);
                return;
        }
}

/* Names of one function that a request for its plain name can mean, where the number alone does not tell which: from which
 * version of CUDA on. Elsewhere the highest number is meant since long before the oldest version that we know. */
static const struct {
        char name[28];
        int since;
} later[] = {
        { "cuCtxCreate_v3", 11040 },
        { "cuCtxCreate_v4", 12050 },
        { "cuGetProcAddress_v2", 12000 },
};

static int since(const char *name)
{
        for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++)
                if (strcmp(later[i].name, name) == 0)
                        return later[i].since;
        return 0;
}

/* Split "cuMemAlloc_v2_ptsz" into the length of "cuMemAlloc", 2 and true. */
static size_t parts(const char *symbol, int *ret_number, bool *ret_per_thread)
{
        size_t length = strlen(symbol);

        *ret_per_thread = length > 5 && (strcmp(symbol + length - 5, "_ptsz") == 0 || strcmp(symbol + length - 5, "_ptds") == 0);
        if (*ret_per_thread)
                length -= 5;
        *ret_number = 1;
        if (length > 3 && symbol[length - 3] == '_' && symbol[length - 2] == 'v') {
                *ret_number = symbol[length - 1] - '0';
                length -= 3;
        }
        return length;
}

/* What a request means, and the best hook for it until now. */
struct request {
        const char *name;
        int version;
        bool per_thread;
        slice_function best;
        int best_rank;
};

static bool weigh(const struct slice_symbol *symbol, void *about)
{
        struct request *request = about;
        bool its_per_thread;
        int number;
        size_t length = parts(symbol->name, &number, &its_per_thread);

        if (!symbol->hook || strncmp(symbol->name, request->name, length) != 0 || request->name[length] != '\0')
                return true;
        if (since(symbol->name) > request->version || (its_per_thread && !request->per_thread))
                return true;
        /* Per-thread variants exist for some functions only; where there is one, the flag means it. */
        int rank = number * 2 + (its_per_thread ? 1 : 0);
        if (rank > request->best_rank) {
                request->best_rank = rank;
                request->best = symbol->hook;
        }
        return true;
}

/* The hook that a request for (`name`, `version`) means, by name. */
static slice_function meant(const char *name, int version, bool per_thread)
{
        struct request request = { name, version, per_thread, NULL, 0 };

        slice_each_symbol(SLICE_LIBCUDA, weigh, &request);
        return request.best;
}

void *slice_hook_for(void *address, const char *name, int version, uint64_t flags, slice_ask *ask)
{
        slice_function hook = slice_hook_at(address);
        int asked = version < NEWEST_KNOWN ? version : NEWEST_KNOWN;

        if (hook)
                return (void *)(uintptr_t)hook;
        hook = meant(name, asked < OLDEST_KNOWN ? OLDEST_KNOWN : asked, (flags & PER_THREAD_STREAM) != 0);
        if (!hook)
                return address;
        /* A driver whose lookup gives other addresses than its symbols have. The name alone is no proof: a later version,
         * or one of long ago, may have another signature. It is the function we know if the versions we know give it, too. */
        if (asked < OLDEST_KNOWN)
                asked = OLDEST_KNOWN;
        if (asked != version && ask(name, asked, flags) != address)
                return address;
        slice_hook_put(address, hook);
        return (void *)(uintptr_t)hook;
}
