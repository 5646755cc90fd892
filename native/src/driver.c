/* The real driver: which object it is, what its functions are, and which of their addresses are hooked. */
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>

#include "lookup.h"
#include "state.h"

/* A function that this driver lacks. The callers pass arguments that nobody reads: both calling conventions allow that. */
static CUresult missing_cuda(void)
{
        return CUDA_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t missing_nvml(void)
{
        return NVML_ERROR_FUNCTION_NOT_FOUND;
}

/* Kept out of line, so that its arguments stay code: a table of them would be relocated at the start of every program. */
static __attribute__((noinline)) bool row(slice_symbol_seen *seen, void *about, const char *name, slice_function hook, size_t offset)
{
        struct slice_symbol symbol = { name, hook, offset };

        return seen(&symbol, about);
}

static bool each_cuda_symbol(slice_symbol_seen *seen, void *about)
{
#define X(symbol)                                                                                                          \
        if (!row(seen, about, #symbol, (slice_function)symbol, offsetof(struct slice_cuda, symbol)))                       \
                return false;
#include "hooks_life.def"
#include "hooks_memory.def"
#include "hooks_launch.def"
#undef X
#define X(symbol)                                                                                                          \
        if (!row(seen, about, #symbol, NULL, offsetof(struct slice_cuda, symbol)))                                         \
                return false;
#include "needs_cuda.def"
#undef X
        return true;
}

static bool each_nvml_symbol(slice_symbol_seen *seen, void *about)
{
#define X(symbol)                                                                                                          \
        if (!row(seen, about, #symbol, (slice_function)symbol, offsetof(struct slice_nvml, symbol)))                       \
                return false;
#include "hooks_nvml.def"
#undef X
#define X(symbol)                                                                                                          \
        if (!row(seen, about, #symbol, NULL, offsetof(struct slice_nvml, symbol)))                                         \
                return false;
#include "needs_nvml.def"
#undef X
        return true;
}

bool slice_each_symbol(enum slice_library library, slice_symbol_seen *seen, void *about)
{
        return library == SLICE_LIBNVML ? each_nvml_symbol(seen, about) : each_cuda_symbol(seen, about);
}

/* What a library is asked for, and where the answers go. */
struct looking_up {
        struct link_map *map;
        void *table;
        slice_function missing;
};

static bool look_up(const struct slice_symbol *symbol, void *about)
{
        const struct looking_up *looking = about;
        void *address = slice_dlsym_next()(looking->map, symbol->name);
        slice_function function = address ? (slice_function)(uintptr_t)address : looking->missing;

        memcpy((char *)looking->table + symbol->offset, &function, sizeof(function));
        if (address && symbol->hook)
                slice_hook_put(address, symbol->hook);
        return true;
}

/* Fill `table` with what `map` exports, and remember which addresses are hooked. */
static void look_up_all(enum slice_library library, struct link_map *map, void *table)
{
        slice_function missing = library == SLICE_LIBNVML ? (slice_function)missing_nvml : (slice_function)missing_cuda;
        struct looking_up looking = { map, table, missing };

        slice_each_symbol(library, look_up, &looking);
}

enum { UNBOUND = 0, BINDING, BOUND };

/* The functions are looked up without a lock, since the dynamic linker takes its own and a thread that holds that one may be
 * waiting for us. Whoever is first copies what it found; nobody is interrupted between BINDING and BOUND but by fork, whose
 * child starts again. */
static void publish(enum slice_library library, const void *table)
{
        _Atomic(int) *bound = &slice_state.bound[library];
        int state = UNBOUND;

        if (atomic_compare_exchange_strong(bound, &state, BINDING)) {
                if (library == SLICE_LIBNVML)
                        memcpy(&slice_state.nvml, table, sizeof(slice_state.nvml));
                else
                        memcpy(&slice_state.cuda, table, sizeof(slice_state.cuda));
                atomic_store_explicit(bound, BOUND, memory_order_release);
                return;
        }
        while (atomic_load_explicit(bound, memory_order_acquire) != BOUND)
                sched_yield();
}

static void unfinished_binding_starts_again(void)
{
        for (int library = 0; library < SLICE_LIBRARIES; library++) {
                int state = BINDING;

                atomic_compare_exchange_strong(&slice_state.bound[library], &state, UNBOUND);
        }
        slice_state_after_fork();
}

static void bind(enum slice_library library, struct link_map *map)
{
        union {
                struct slice_cuda cuda;
                struct slice_nvml nvml;
        } table = { 0 };

        if (atomic_load_explicit(&slice_state.bound[library], memory_order_acquire) == BOUND)
                return;
        if (!atomic_exchange(&slice_state.minds_forks, true))
                pthread_atfork(NULL, NULL, unfinished_binding_starts_again);
        look_up_all(library, map, &table);
        publish(library, &table);
}

struct link_map *slice_driver_object(enum slice_library library)
{
        return atomic_load_explicit(&slice_state.object[library], memory_order_acquire);
}

bool slice_driver_adopt(enum slice_library library, struct link_map *map)
{
        struct link_map *known = slice_driver_object(library);
        Lmid_t where = LM_ID_BASE;

        if (!known) {
                if (dlinfo(map, RTLD_DI_LMID, &where) != 0 || where != LM_ID_BASE)
                        return false;
                /* Its addresses stand in our table for good, so it stays. The handle is never closed. */
                if (!dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE))
                        return false;
                if (atomic_compare_exchange_strong(&slice_state.object[library], &known, map))
                        known = map;
        }
        if (known == map)
                bind(library, map);
        return known == map;
}

static int find_and_bind(enum slice_library library, const char *const names[], int flags)
{
        struct link_map *map = slice_driver_object(library);

        for (int i = 0; !map && names[i]; i++)
                map = dlopen(names[i], RTLD_LAZY | flags);
        if (!map)
                return -ENOENT;
        return slice_driver_adopt(library, map) ? 0 : -ENOENT;
}

int slice_driver_bind(void)
{
        static const char *const names[] = { "libcuda.so.1", "libcuda.so", NULL };

        return find_and_bind(SLICE_LIBCUDA, names, RTLD_NOLOAD);
}

int slice_driver_bind_nvml(bool load)
{
        static const char *const names[] = { "libnvidia-ml.so.1", "libnvidia-ml.so", NULL };

        return find_and_bind(SLICE_LIBNVML, names, load ? 0 : RTLD_NOLOAD);
}
