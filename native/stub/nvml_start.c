/* NVML's start and end, and its error texts. */
#include <string.h>

#include "nvml.h"

_Atomic int stub_nvml_users;

nvmlReturn_t stub_nvml_gate(const char *symbol)
{
        int r;

        if (stub_state && atomic_load(&stub_state->faults) && (r = stub_fault_of(symbol)))
                return (nvmlReturn_t)r;
        if (atomic_load(&stub_nvml_users) > 0)
                return NVML_SUCCESS;
        return strncmp(symbol, "nvmlInit", 8) == 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

static void in_child(void)
{
        stub_state_forget();
        if (atomic_load(&stub_nvml_users) > 0 && stub_state_open() < 0)
                atomic_store(&stub_nvml_users, 0);
}

nvmlReturn_t nimpl_nvmlInitWithFlags(unsigned int flags)
{
        static _Atomic int registered;

        (void)flags;
        if (stub_state_open() < 0)
                return NVML_ERROR_DRIVER_NOT_LOADED;
        if (!atomic_exchange(&registered, 1))
                pthread_atfork(NULL, NULL, in_child);
        atomic_fetch_add(&stub_nvml_users, 1);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlInit_v2(void)
{
        return nimpl_nvmlInitWithFlags(0);
}

nvmlReturn_t nimpl_nvmlInit(void)
{
        return nimpl_nvmlInitWithFlags(0);
}

nvmlReturn_t nimpl_nvmlShutdown(void)
{
        atomic_fetch_sub(&stub_nvml_users, 1);
        return NVML_SUCCESS;
}

__attribute__((visibility("default"))) const char *nvmlErrorString(nvmlReturn_t result)
{
        switch (result) {
        case NVML_SUCCESS: return "Success";
        case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
        case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
        case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
        case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
        case NVML_ERROR_NOT_FOUND: return "Not Found";
        case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
        case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
        case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
        case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
        default: return "Unknown Error";
        }
}
