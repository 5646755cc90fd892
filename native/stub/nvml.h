/* What the files of the stub's NVML share. Functions are written once as nimpl_<symbol>; nvml_exports.c makes the exported
 * ones, which check that NVML is initialised and faults first. Without an nimpl_ a function is not supported.
 * Functions that change a card (NVML_DENIED) answer NVML_SUCCESS and do nothing, as if root had called them.
 */
#ifndef STUB_NVML_H
#define STUB_NVML_H

#include "abi/nvml_abi.h"
#include "clock.h"
#include "devices.h"
#include "state.h"

#define NVML_FN(name, params, args) extern nvmlReturn_t nimpl_##name params __attribute__((visibility("hidden"), weak));
#define NVML_DENIED(name, params, args)
#include "abi/nvml_functions.def"
#undef NVML_FN
#undef NVML_DENIED

/* nvmlInit minus nvmlShutdown. */
extern _Atomic int stub_nvml_users;
/* NVML_SUCCESS where the function may run; a fault that was set, or NVML_ERROR_UNINITIALIZED. */
nvmlReturn_t stub_nvml_gate(const char *symbol);
/* The card of a handle: NVML_SUCCESS, NVML_ERROR_INVALID_ARGUMENT, NVML_ERROR_GPU_IS_LOST. */
nvmlReturn_t stub_nvml_card(nvmlDevice_t device, uint32_t *ret);
/* Copies a text with its end: NVML_SUCCESS, NVML_ERROR_INVALID_ARGUMENT, NVML_ERROR_INSUFFICIENT_SIZE. */
nvmlReturn_t stub_nvml_text(const char *text, char *ret, unsigned int length);

#define CARD_OR_RETURN(card, device)                            \
        uint32_t card;                                          \
        do {                                                    \
                nvmlReturn_t card_r = stub_nvml_card(device, &card); \
                                                                \
                if (card_r != NVML_SUCCESS)                     \
                        return card_r;                          \
        } while (0)
#define NOT_NULL_OR_RETURN(pointer)                             \
        do {                                                    \
                if (!(pointer))                                 \
                        return NVML_ERROR_INVALID_ARGUMENT;     \
        } while (0)

#endif
