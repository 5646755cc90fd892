/* What changes a card for everybody who uses it: not from inside a slice. The list is NVML_DENIED in the ABI. */
#include "view.h"

#define NVML_FN(name, params, args)
#define NVML_DENIED(name, params, args)                                                         \
        static nvmlReturn_t slice_##name params                                                 \
        {                                                                                       \
                return slice_mode_nvml() == SLICE_PASS ? slice_real_nvml()->name args : NVML_ERROR_NO_PERMISSION; \
        }                                                                                       \
        SLICE_HOOK(name)
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "abi/nvml_functions.def"
