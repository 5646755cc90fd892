/* NVML's exported symbols, made from abi/nvml_functions.def: a gate, then the nimpl_. */
#include "nvml.h"

static inline nvmlReturn_t enter(const char *symbol)
{
        if (__builtin_expect(atomic_load_explicit(&stub_nvml_users, memory_order_relaxed) <= 0 ||
                             atomic_load_explicit(&stub_state->faults, memory_order_relaxed), 0))
                return stub_nvml_gate(symbol);
        return NVML_SUCCESS;
}

#define EXPORTED __attribute__((visibility("default")))

#define NVML_FN(name, params, args)                                             \
        EXPORTED nvmlReturn_t name params                                       \
        {                                                                       \
                nvmlReturn_t r = enter(#name);                                  \
                                                                                \
                if (r != NVML_SUCCESS)                                          \
                        return r;                                               \
                return nimpl_##name ? nimpl_##name args : NVML_ERROR_NOT_SUPPORTED; \
        }
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define NVML_DENIED(name, params, args) EXPORTED nvmlReturn_t name params { return enter(#name); }
#include "abi/nvml_functions.def"
