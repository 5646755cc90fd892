/* Hooks of a process' life on the driver: cuInit, the driver's own lookup, and contexts that end. */
#include "driver.h"
#include "limiter.h"
#include "lookup.h"
#include "memory.h"
#include "state.h"
#include "truth.h"

/* Settings that cannot be read fail here, in the call that every program makes first and whose failure it understands. */
static CUresult slice_cuInit(unsigned int flags)
{
        enum slice_mode mode = slice_mode();

        if (mode == SLICE_REFUSED || mode == SLICE_UNKNOWN)
                return CUDA_ERROR_NO_DEVICE;
        CUresult result = slice_real()->cuInit(flags);
        if (result == CUDA_SUCCESS && mode == SLICE_ACTIVE)
                slice_count_devices();
        return result;
}

static CUresult real_address(const char *name, void **address, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status, bool per_thread)
{
        const struct slice_cuda *real = slice_real();

        if (per_thread)
                return real->cuGetProcAddress_v2_ptsz(name, address, version, flags, status);
        return real->cuGetProcAddress_v2(name, address, version, flags, status);
}

static void *ask(const char *name, int version, uint64_t flags)
{
        void *address = NULL;

        if (real_address(name, &address, version, flags, NULL, false) == CUDA_SUCCESS)
                return address;
        return slice_real()->cuGetProcAddress(name, &address, version, flags) == CUDA_SUCCESS ? address : NULL;
}

/* The driver decides about name, version and flags; we answer with the hook of the address that it gave. */
static void answer(CUresult result, const char *name, void **address, int version, cuuint64_t flags, bool per_thread)
{
        if (result == CUDA_SUCCESS && name && address && *address)
                *address = slice_hook_for(*address, name, version, per_thread ? flags | 2 : flags, ask);
}

static CUresult slice_cuGetProcAddress_v2(const char *name, void **address, int version, cuuint64_t flags,
                                          CUdriverProcAddressQueryResult *status)
{
        if (slice_driver_bind() < 0)
                return CUDA_ERROR_NO_DEVICE;
        CUresult result = real_address(name, address, version, flags, status, false);
        answer(result, name, address, version, flags, false);
        return result;
}

static CUresult slice_cuGetProcAddress_v2_ptsz(const char *name, void **address, int version, cuuint64_t flags,
                                               CUdriverProcAddressQueryResult *status)
{
        if (slice_driver_bind() < 0)
                return CUDA_ERROR_NO_DEVICE;
        CUresult result = real_address(name, address, version, flags, status, true);
        answer(result, name, address, version, flags, true);
        return result;
}

static CUresult slice_cuGetProcAddress(const char *name, void **address, int version, cuuint64_t flags)
{
        if (slice_driver_bind() < 0)
                return CUDA_ERROR_NO_DEVICE;
        CUresult result = slice_real()->cuGetProcAddress(name, address, version, flags);
        answer(result, name, address, version, flags, false);
        return result;
}

static CUresult slice_cuGetProcAddress_ptsz(const char *name, void **address, int version, cuuint64_t flags)
{
        if (slice_driver_bind() < 0)
                return CUDA_ERROR_NO_DEVICE;
        CUresult result = slice_real()->cuGetProcAddress_ptsz(name, address, version, flags);
        answer(result, name, address, version, flags, true);
        return result;
}

/* A context takes device memory that no allocation shows; it is charged from its first moment where NVML tells. */
#define CREATE_HOOK(symbol, parameters, arguments)                              \
        static CUresult slice_##symbol parameters                               \
        {                                                                       \
                if (!slice_ready())                                             \
                        return SLICE_WITHOUT_LIMITS(symbol, arguments);         \
                CUresult result = slice_real()->symbol arguments;               \
                if (result == CUDA_SUCCESS)                                     \
                        slice_truth_check();                                    \
                return result;                                                  \
        }

CREATE_HOOK(cuCtxCreate_v2, (CUcontext *context, unsigned int flags, CUdevice device), (context, flags, device))
CREATE_HOOK(cuCtxCreate_v3, (CUcontext *context, CUexecAffinityParam *list, int count, unsigned int flags, CUdevice device),
            (context, list, count, flags, device))
CREATE_HOOK(cuCtxCreate_v4, (CUcontext *context, CUctxCreateParams *params, unsigned int flags, CUdevice device),
            (context, params, flags, device))

/* The driver has freed what lived in `context`. */
static void context_ended(CUcontext context)
{
        atomic_fetch_add_explicit(&slice_state.contexts_ended, 1, memory_order_release);
        slice_memory_forget_context(context);
}

#define CONTEXT_HOOK(symbol)                                                          \
        static CUresult slice_##symbol(CUcontext context)                             \
        {                                                                             \
                if (!slice_ready())                                                   \
                        return SLICE_WITHOUT_LIMITS(symbol, (context));               \
                slice_limiter_context_gone(context);                                  \
                CUresult result = slice_real()->symbol(context);                      \
                if (result == CUDA_SUCCESS)                                           \
                        context_ended(context);                                       \
                return result;                                                        \
        }

CONTEXT_HOOK(cuCtxDestroy)
CONTEXT_HOOK(cuCtxDestroy_v2)

static CUresult slice_cuCtxDetach(CUcontext context)
{
        unsigned int version;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuCtxDetach, (context));
        CUresult result = slice_real()->cuCtxDetach(context);
        /* Attached twice, it lives on: then it still has a version. */
        if (result == CUDA_SUCCESS && slice_real()->cuCtxGetApiVersion(context, &version) != CUDA_SUCCESS) {
                slice_limiter_context_gone(context);
                context_ended(context);
        }
        return result;
}

static bool is_ordinal(CUdevice device)
{
        return device >= 0 && device < SLICE_MAX_ORDINALS;
}

static CUresult slice_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuDevicePrimaryCtxRetain, (context, device));
        CUresult result = slice_real()->cuDevicePrimaryCtxRetain(context, device);
        if (result == CUDA_SUCCESS && is_ordinal(device) &&
            atomic_exchange_explicit(&slice_state.primary[device], *context, memory_order_relaxed) != *context)
                slice_truth_check();
        return result;
}

static void primary_ended(CUdevice device)
{
        CUcontext context = is_ordinal(device) ? atomic_exchange_explicit(&slice_state.primary[device], NULL, memory_order_relaxed) : NULL;

        if (context)
                context_ended(context);
}

#define RELEASE_HOOK(symbol)                                                                                     \
        static CUresult slice_##symbol(CUdevice device)                                                          \
        {                                                                                                        \
                unsigned int flags;                                                                              \
                int active = 1;                                                                                  \
                                                                                                                 \
                if (!slice_ready())                                                                              \
                        return SLICE_WITHOUT_LIMITS(symbol, (device));                                           \
                CUresult result = slice_real()->symbol(device);                                                  \
                if (result == CUDA_SUCCESS)                                                                      \
                        slice_limiter_primary_released(device);                                                  \
                if (result == CUDA_SUCCESS &&                                                                    \
                    slice_real()->cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && !active) \
                        primary_ended(device);                                                                   \
                return result;                                                                                   \
        }

RELEASE_HOOK(cuDevicePrimaryCtxRelease)
RELEASE_HOOK(cuDevicePrimaryCtxRelease_v2)

#define RESET_HOOK(symbol)                                              \
        static CUresult slice_##symbol(CUdevice device)                 \
        {                                                               \
                if (!slice_ready())                                     \
                        return SLICE_WITHOUT_LIMITS(symbol, (device));  \
                slice_limiter_primary_gone(device);                     \
                CUresult result = slice_real()->symbol(device);         \
                if (result == CUDA_SUCCESS) {                           \
                        primary_ended(device);                          \
                        slice_pools_after_reset();                      \
                }                                                       \
                return result;                                          \
        }

RESET_HOOK(cuDevicePrimaryCtxReset)
RESET_HOOK(cuDevicePrimaryCtxReset_v2)

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_life.def"
#undef X
