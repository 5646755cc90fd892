/* The exported symbols, made from abi/cuda_functions.def: a gate, then the impl_. Twice, so that cuGetProcAddress can give
 * addresses that are not the symbols' (STUB_CUDA_ALTERNATE=1), as a driver may. */
#include "exports.h"

#include <string.h>

#include "driver.h"

static inline CUresult enter(const char *symbol)
{
        if (__builtin_expect(atomic_load_explicit(&stub_closed, memory_order_relaxed) ||
                             atomic_load_explicit(&stub_state->faults, memory_order_relaxed), 0))
                return stub_gate(symbol);
        return CUDA_SUCCESS;
}

#define BODY(symbol, name, args)                                                \
        {                                                                       \
                CUresult r = enter(symbol);                                     \
                                                                                \
                if (r != CUDA_SUCCESS)                                          \
                        return r;                                               \
                return impl_##name ? impl_##name args : CUDA_ERROR_NOT_SUPPORTED; \
        }

#define PER_THREAD_BODY(symbol, name, args)                                     \
        {                                                                       \
                CUresult r = enter(symbol);                                     \
                                                                                \
                if (r != CUDA_SUCCESS)                                          \
                        return r;                                               \
                stub_thread.per_thread_calls++;                                 \
                r = impl_##name ? impl_##name args : CUDA_ERROR_NOT_SUPPORTED;  \
                stub_thread.per_thread_calls--;                                 \
                return r;                                                       \
        }

#define EXPORTED __attribute__((visibility("default")))

#define CUDA_FN(name, params, args)                             \
        EXPORTED CUresult name params BODY(#name, name, args)   \
        static CUresult other_##name params BODY(#name, name, args)
#define VARIANT(name, suffix, params, args)                                             \
        CUDA_FN(name, params, args)                                                     \
        EXPORTED CUresult name##suffix params PER_THREAD_BODY(#name #suffix, name, args)      \
        static CUresult other_##name##suffix params PER_THREAD_BODY(#name #suffix, name, args)
#define CUDA_FN_PTSZ(name, params, args) VARIANT(name, _ptsz, params, args)
#define CUDA_FN_PTDS(name, params, args) VARIANT(name, _ptds, params, args)
#include "abi/cuda_functions.def"
#undef CUDA_FN
#undef CUDA_FN_PTSZ
#undef CUDA_FN_PTDS

static const struct {
        const char *symbol;
        void (*exported)(void), (*other)(void);
} symbols[] = {
#define ENTRY(name) {#name, (void (*)(void))name, (void (*)(void))other_##name},
#define CUDA_FN(name, params, args) ENTRY(name)
#define CUDA_FN_PTSZ(name, params, args) ENTRY(name) ENTRY(name##_ptsz)
#define CUDA_FN_PTDS(name, params, args) ENTRY(name) ENTRY(name##_ptds)
#include "abi/cuda_functions.def"
};

void *stub_symbol(const char *symbol, const char *suffix)
{
        size_t n = strlen(symbol);
        void *address;

        for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
                if (strncmp(symbols[i].symbol, symbol, n) != 0 || strcmp(symbols[i].symbol + n, suffix) != 0)
                        continue;
                memcpy(&address, stub_options.alternate ? &symbols[i].other : &symbols[i].exported, sizeof(address));
                return address;
        }
        return NULL;
}
