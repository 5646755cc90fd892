/* cuGetProcAddress: by name, version and stream flag. */
#include <string.h>

#include "driver.h"
#include "exports.h"

static const struct {
        const char *name;
        int version;
        const char *symbol;
} versions[] = {
#define V(name, version, symbol) {#name, version, #symbol},
#include "versions.def"
#undef V
};

static void *find(const char *name, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
        const char *best = NULL;
        int best_version = 0;
        bool known = false;
        void *address = NULL;

        for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
                if (strcmp(versions[i].name, name) != 0)
                        continue;
                known = true;
                if (versions[i].version <= version && versions[i].version > best_version) {
                        best = versions[i].symbol;
                        best_version = versions[i].version;
                }
        }
        if (best && flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) {
                address = stub_symbol(best, "_ptsz");
                if (!address)
                        address = stub_symbol(best, "_ptds");
        }
        if (best && !address)
                address = stub_symbol(best, "");
        *status = address ? CU_GET_PROC_ADDRESS_SUCCESS
                  : known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
        return address;
}

CUresult impl_cuGetProcAddress_v2(const char *symbol, void **address, int version, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult *status)
{
        CUdriverProcAddressQueryResult found;

        if (!symbol || !address || version < 2000 || flags & ~3ULL || flags == 3)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_state_open() < 0)
                return CUDA_ERROR_OPERATING_SYSTEM;
        if (flags == CU_GET_PROC_ADDRESS_DEFAULT && stub_thread.per_thread_calls)
                flags = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
        *address = find(symbol, version, flags, &found);
        if (status)
                *status = found;
        return *address ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult impl_cuGetProcAddress(const char *symbol, void **address, int version, cuuint64_t flags)
{
        return impl_cuGetProcAddress_v2(symbol, address, version, flags, NULL);
}
