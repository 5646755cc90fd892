/* Which cards there are and what they are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "nvml.h"

nvmlReturn_t stub_nvml_card(nvmlDevice_t device, uint32_t *ret)
{
        uintptr_t at = (uintptr_t)device - (uintptr_t)stub_state->device;

        if (!device || at >= sizeof(stub_state->device) || at % sizeof(stub_state->device[0]))
                return NVML_ERROR_INVALID_ARGUMENT;
        *ret = (uint32_t)(at / sizeof(stub_state->device[0]));
        switch (atomic_load(&stub_state->device[*ret].present)) {
        case 0: return NVML_ERROR_INVALID_ARGUMENT;
        case 1: return NVML_SUCCESS;
        default: return NVML_ERROR_GPU_IS_LOST;
        }
}

nvmlReturn_t stub_nvml_text(const char *text, char *ret, unsigned int length)
{
        NOT_NULL_OR_RETURN(ret);
        if (strlen(text) >= length)
                return NVML_ERROR_INSUFFICIENT_SIZE;
        strcpy(ret, text);
        return NVML_SUCCESS;
}

static nvmlDevice_t handle_of(uint32_t card)
{
        return (nvmlDevice_t)(void *)&stub_state->device[card];
}

nvmlReturn_t nimpl_nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
        return stub_nvml_text("580.65.06", version, length);
}

nvmlReturn_t nimpl_nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
        return stub_nvml_text("13.580.65.06", version, length);
}

nvmlReturn_t nimpl_nvmlSystemGetCudaDriverVersion_v2(int *version)
{
        NOT_NULL_OR_RETURN(version);
        *version = atomic_load(&stub_state->driver_version);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlSystemGetCudaDriverVersion(int *version)
{
        return nimpl_nvmlSystemGetCudaDriverVersion_v2(version);
}

nvmlReturn_t nimpl_nvmlUnitGetCount(unsigned int *count)
{
        NOT_NULL_OR_RETURN(count);
        *count = 0;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetCount_v2(unsigned int *count)
{
        NOT_NULL_OR_RETURN(count);
        *count = stub_device_count();
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetCount(unsigned int *count)
{
        return nimpl_nvmlDeviceGetCount_v2(count);
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
        int card = index < STUB_DEVICES ? stub_device_at(index) : -1;

        if (!device || card < 0)
                return NVML_ERROR_INVALID_ARGUMENT;
        *device = handle_of((uint32_t)card);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
        return nimpl_nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
        char text[48];

        if (!uuid || !device)
                return NVML_ERROR_INVALID_ARGUMENT;
        for (uint32_t d = 0; d < STUB_DEVICES; d++) {
                stub_uuid_text(d, text);
                if (atomic_load(&stub_state->device[d].present) && strcmp(text, uuid) == 0) {
                        *device = handle_of(d);
                        return NVML_SUCCESS;
                }
        }
        return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleByUUIDV(const nvmlUUID_v1_t *uuid, nvmlDevice_t *device)
{
        unsigned char bytes[16];

        if (!uuid || !device)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (uuid->version != NVML_VERSION_OF(nvmlUUID_v1_t, 1))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        if (uuid->type == NVML_UUID_TYPE_ASCII)
                return nimpl_nvmlDeviceGetHandleByUUID(uuid->value.str, device);
        if (uuid->type != NVML_UUID_TYPE_BINARY)
                return NVML_ERROR_INVALID_ARGUMENT;
        for (uint32_t d = 0; d < STUB_DEVICES; d++) {
                stub_uuid_bytes(d, bytes);
                if (atomic_load(&stub_state->device[d].present) && memcmp(bytes, uuid->value.bytes, 16) == 0) {
                        *device = handle_of(d);
                        return NVML_SUCCESS;
                }
        }
        return NVML_ERROR_NOT_FOUND;
}

static void serial_of(uint32_t card, char *ret)
{
        sprintf(ret, "13230000000%02u", card % 100);
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
        char text[24];

        if (!serial || !device)
                return NVML_ERROR_INVALID_ARGUMENT;
        for (uint32_t d = 0; d < STUB_DEVICES; d++) {
                serial_of(d, text);
                if (atomic_load(&stub_state->device[d].present) && strcmp(text, serial) == 0) {
                        *device = handle_of(d);
                        return NVML_SUCCESS;
                }
        }
        return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device)
{
        unsigned int domain = 0, bus, slot;

        if (!id || !device)
                return NVML_ERROR_INVALID_ARGUMENT;
        if (sscanf(id, "%x:%x:%x", &domain, &bus, &slot) != 3) {
                domain = 0;
                if (sscanf(id, "%x:%x", &bus, &slot) != 2)
                        return NVML_ERROR_INVALID_ARGUMENT;
        }
        if (domain || slot || bus == 0 || bus > STUB_DEVICES || !atomic_load(&stub_state->device[bus - 1].present))
                return NVML_ERROR_NOT_FOUND;
        *device = handle_of(bus - 1);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetHandleByPciBusId(const char *id, nvmlDevice_t *device)
{
        return nimpl_nvmlDeviceGetHandleByPciBusId_v2(id, device);
}

nvmlReturn_t nimpl_nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(index);
        *index = 0;
        for (uint32_t d = 0; d < card; d++)
                *index += atomic_load(&stub_state->device[d].present) != 0;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(minor);
        *minor = card;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
        CARD_OR_RETURN(card, device);
        (void)card;
        return stub_nvml_text(STUB_NAME, name, length);
}

nvmlReturn_t nimpl_nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
        char text[48];

        CARD_OR_RETURN(card, device);
        stub_uuid_text(card, text);
        return stub_nvml_text(text, uuid, length);
}

nvmlReturn_t nimpl_nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
        char text[24];

        CARD_OR_RETURN(card, device);
        serial_of(card, text);
        return stub_nvml_text(text, serial, length);
}

nvmlReturn_t nimpl_nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length)
{
        CARD_OR_RETURN(card, device);
        (void)card;
        return stub_nvml_text("95.02.00.00.00", version, length);
}

nvmlReturn_t nimpl_nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(pci);
        memset(pci, 0, sizeof(*pci));
        pci->bus = card + 1;
        pci->pciDeviceId = 0x268410de;
        snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "0000:%02X:00.0", card + 1);
        snprintf(pci->busId, sizeof(pci->busId), "00000000:%02X:00.0", card + 1);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        return nimpl_nvmlDeviceGetPciInfo_v3(device, pci);
}

nvmlReturn_t nimpl_nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
        return nimpl_nvmlDeviceGetPciInfo_v3(device, pci);
}

nvmlReturn_t nimpl_nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t *pci)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(pci);
        if (pci->version != NVML_VERSION_OF(nvmlPciInfoExt_v1_t, 1))
                return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        pci->domain = pci->device = 0;
        pci->bus = card + 1;
        pci->pciDeviceId = 0x268410de;
        pci->pciSubSystemId = 0;
        pci->baseClass = 3;
        pci->subClass = 0;
        snprintf(pci->busId, sizeof(pci->busId), "00000000:%02X:00.0", card + 1);
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(major && minor);
        (void)card;
        *major = 8;
        *minor = 9;
        return NVML_SUCCESS;
}

/* Questions whose answer is one number. */
#define NUMBER(name, type, number)                              \
        nvmlReturn_t nimpl_##name(nvmlDevice_t device, type *value) \
        {                                                       \
                CARD_OR_RETURN(card, device);                   \
                NOT_NULL_OR_RETURN(value);                      \
                *value = (number);                              \
                (void)card;                                     \
                return NVML_SUCCESS;                            \
        }

NUMBER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, NVML_DEVICE_ARCH_ADA)
NUMBER(nvmlDeviceGetBrand, nvmlBrandType_t, NVML_BRAND_NVIDIA)
NUMBER(nvmlDeviceGetNumGpuCores, unsigned int, 16384)
NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned int, 384)
NUMBER(nvmlDeviceGetBoardId, unsigned int, (card + 1) << 8)
NUMBER(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, 16)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, 4)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, 16)
NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NVML_COMPUTEMODE_DEFAULT)
NUMBER(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
NUMBER(nvmlDeviceGetFanSpeed, unsigned int, 30)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned int, 450000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, 450000)
NUMBER(nvmlDeviceIsMigDeviceHandle, unsigned int, 0)
NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned int, 0)

nvmlReturn_t nimpl_nvmlDeviceOnSameBoard(nvmlDevice_t device, nvmlDevice_t other, int *yes)
{
        CARD_OR_RETURN(a, device);
        CARD_OR_RETURN(b, other);
        NOT_NULL_OR_RETURN(yes);
        *yes = a == b;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other,
                                                       nvmlGpuTopologyLevel_t *level)
{
        CARD_OR_RETURN(a, device);
        CARD_OR_RETURN(b, other);
        NOT_NULL_OR_RETURN(level);
        *level = a == b ? NVML_TOPOLOGY_INTERNAL : NVML_TOPOLOGY_SYSTEM;
        return NVML_SUCCESS;
}

nvmlReturn_t nimpl_nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words, unsigned long *set)
{
        CARD_OR_RETURN(card, device);
        NOT_NULL_OR_RETURN(set && words);
        (void)card;
        memset(set, 0xff, words * sizeof(*set));
        return NVML_SUCCESS;
}
