/* The part of NVML's binary interface that the library, the stub driver and the tests use.
 *
 * Promise: as cuda_abi.h's, compared with the real nvml.h of CUDA 12.9 and 13.x by tests/native/test_abi.py.
 * Prototypes stand in nvml_functions.def, a line each; all but nvmlErrorString return nvmlReturn_t:
 *
 *      NVML_FN(name, (parameters), (arguments))
 *      NVML_DENIED(name, (parameters), (arguments))    it changes the card for everybody: nothing that a slice may do
 */
#ifndef LABSPAWNER_NVML_ABI_H
#define LABSPAWNER_NVML_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
        NVML_SUCCESS = 0,
        NVML_ERROR_UNINITIALIZED = 1,
        NVML_ERROR_INVALID_ARGUMENT = 2,
        NVML_ERROR_NOT_SUPPORTED = 3,
        NVML_ERROR_NO_PERMISSION = 4,
        NVML_ERROR_ALREADY_INITIALIZED = 5,
        NVML_ERROR_NOT_FOUND = 6,
        NVML_ERROR_INSUFFICIENT_SIZE = 7,
        NVML_ERROR_INSUFFICIENT_POWER = 8,
        NVML_ERROR_DRIVER_NOT_LOADED = 9,
        NVML_ERROR_TIMEOUT = 10,
        NVML_ERROR_IRQ_ISSUE = 11,
        NVML_ERROR_LIBRARY_NOT_FOUND = 12,
        NVML_ERROR_FUNCTION_NOT_FOUND = 13,
        NVML_ERROR_CORRUPTED_INFOROM = 14,
        NVML_ERROR_GPU_IS_LOST = 15,
        NVML_ERROR_RESET_REQUIRED = 16,
        NVML_ERROR_OPERATING_SYSTEM = 17,
        NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
        NVML_ERROR_IN_USE = 19,
        NVML_ERROR_MEMORY = 20,
        NVML_ERROR_NO_DATA = 21,
        NVML_ERROR_VGPU_ECC_NOT_SUPPORTED = 22,
        NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
        NVML_ERROR_FREQ_NOT_SUPPORTED = 24,
        NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
        NVML_ERROR_DEPRECATED = 26,
        NVML_ERROR_NOT_READY = 27,
        NVML_ERROR_GPU_NOT_FOUND = 28,
        NVML_ERROR_INVALID_STATE = 29,
        NVML_ERROR_UNKNOWN = 999,
} nvmlReturn_t;

typedef enum {
        NVML_FEATURE_DISABLED = 0,
        NVML_FEATURE_ENABLED = 1,
} nvmlEnableState_t;

typedef enum {
        NVML_COMPUTEMODE_DEFAULT = 0,
        NVML_COMPUTEMODE_EXCLUSIVE_PROCESS = 3,
} nvmlComputeMode_t;

typedef enum {
        NVML_BRAND_UNKNOWN = 0,
        NVML_BRAND_TESLA = 2,
        NVML_BRAND_GEFORCE = 5,
        NVML_BRAND_NVIDIA = 14,
        NVML_BRAND_GEFORCE_RTX = 15,
} nvmlBrandType_t;

typedef enum {
        NVML_PSTATE_0 = 0,
        NVML_PSTATE_8 = 8,
        NVML_PSTATE_UNKNOWN = 32,
} nvmlPstates_t;

typedef enum {
        NVML_CLOCK_GRAPHICS = 0,
        NVML_CLOCK_SM = 1,
        NVML_CLOCK_MEM = 2,
        NVML_CLOCK_VIDEO = 3,
} nvmlClockType_t;

typedef enum {
        NVML_TEMPERATURE_GPU = 0,
} nvmlTemperatureSensors_t;

typedef enum {
        NVML_PCIE_UTIL_TX_BYTES = 0,
        NVML_PCIE_UTIL_RX_BYTES = 1,
} nvmlPcieUtilCounter_t;

typedef enum {
        NVML_MEMORY_ERROR_TYPE_CORRECTED = 0,
        NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1,
} nvmlMemoryErrorType_t;

typedef enum {
        NVML_VOLATILE_ECC = 0,
        NVML_AGGREGATE_ECC = 1,
} nvmlEccCounterType_t;

typedef enum {
        NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0,
        NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1,
        NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3,
} nvmlTemperatureThresholds_t;

typedef enum {
        NVML_TOTAL_POWER_SAMPLES = 0,
        NVML_GPU_UTILIZATION_SAMPLES = 1,
        NVML_MEMORY_UTILIZATION_SAMPLES = 2,
        NVML_ENC_UTILIZATION_SAMPLES = 3,
        NVML_DEC_UTILIZATION_SAMPLES = 4,
        NVML_PROCESSOR_CLK_SAMPLES = 5,
        NVML_MEMORY_CLK_SAMPLES = 6,
        NVML_MODULE_POWER_SAMPLES = 7,
        NVML_JPG_UTILIZATION_SAMPLES = 8,
        NVML_OFA_UTILIZATION_SAMPLES = 9,
} nvmlSamplingType_t;

typedef enum {
        NVML_VALUE_TYPE_DOUBLE = 0,
        NVML_VALUE_TYPE_UNSIGNED_INT = 1,
        NVML_VALUE_TYPE_UNSIGNED_LONG = 2,
        NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3,
        NVML_VALUE_TYPE_SIGNED_LONG_LONG = 4,
        NVML_VALUE_TYPE_SIGNED_INT = 5,
        NVML_VALUE_TYPE_UNSIGNED_SHORT = 6,
} nvmlValueType_t;

enum {
        NVML_UUID_TYPE_NONE = 0,
        NVML_UUID_TYPE_ASCII = 1,
        NVML_UUID_TYPE_BINARY = 2,
};

enum {
        NVML_PROCESS_MODE_COMPUTE = 0,
        NVML_PROCESS_MODE_GRAPHICS = 1,
        NVML_PROCESS_MODE_MPS = 2,
        NVML_PROCESS_MODE_ALL = 3,
};

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlUnit_st *nvmlUnit_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;
typedef struct nvmlGpuInstance_st *nvmlGpuInstance_t;
typedef struct nvmlComputeInstance_st *nvmlComputeInstance_t;
typedef struct nvmlGpmSample_st *nvmlGpmSample_t;
typedef unsigned int nvmlDeviceArchitecture_t;
typedef unsigned int nvmlVgpuInstance_t;
typedef unsigned int nvmlFanControlPolicy_t;

#define NVML_VALUE_NOT_AVAILABLE (-1)
#define NVML_NO_INSTANCE 0xffffffffu    /* gpuInstanceId and computeInstanceId without MIG */
#define NVML_DEVICE_ARCH_ADA 8
#define NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION 83

/* What NVML wants to read in a `version` member: the size of the struct and its version. */
#define NVML_VERSION_OF(type, version) ((unsigned int)(sizeof(type) | ((version) << 24U)))

typedef struct nvmlMemory_st {
        unsigned long long total;
        unsigned long long free;
        unsigned long long used;
} nvmlMemory_t;

typedef struct nvmlMemory_v2_st {
        unsigned int version;
        unsigned long long total;
        unsigned long long reserved;
        unsigned long long free;
        unsigned long long used;
} nvmlMemory_v2_t;

typedef struct nvmlBAR1Memory_st {
        unsigned long long bar1Total;
        unsigned long long bar1Free;
        unsigned long long bar1Used;
} nvmlBAR1Memory_t;

typedef struct nvmlUtilization_st {
        unsigned int gpu;
        unsigned int memory;
} nvmlUtilization_t;

typedef struct nvmlPciInfo_st {
        char busIdLegacy[16];
        unsigned int domain;
        unsigned int bus;
        unsigned int device;
        unsigned int pciDeviceId;
        unsigned int pciSubSystemId;
        char busId[32];
} nvmlPciInfo_t;

typedef struct nvmlPciInfoExt_st {
        unsigned int version;
        unsigned int domain;
        unsigned int bus;
        unsigned int device;
        unsigned int pciDeviceId;
        unsigned int pciSubSystemId;
        unsigned int baseClass;
        unsigned int subClass;
        char busId[32];
} nvmlPciInfoExt_v1_t;

typedef struct nvmlProcessInfo_v1_st {
        unsigned int pid;
        unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct nvmlProcessInfo_v2_st {
        unsigned int pid;
        unsigned long long usedGpuMemory;
        unsigned int gpuInstanceId;
        unsigned int computeInstanceId;
} nvmlProcessInfo_v2_t;
typedef nvmlProcessInfo_v2_t nvmlProcessInfo_t;

typedef struct nvmlProcessDetail_st {
        unsigned int pid;
        unsigned long long usedGpuMemory;
        unsigned int gpuInstanceId;
        unsigned int computeInstanceId;
        unsigned long long usedGpuCcProtectedMemory;
} nvmlProcessDetail_v1_t;

typedef struct nvmlProcessDetailList_st {
        unsigned int version;
        unsigned int mode;
        unsigned int numProcArrayEntries;
        nvmlProcessDetail_v1_t *procArray;
} nvmlProcessDetailList_v1_t;

typedef struct nvmlProcessUtilizationSample_st {
        unsigned int pid;
        unsigned long long timeStamp;
        unsigned int smUtil;
        unsigned int memUtil;
        unsigned int encUtil;
        unsigned int decUtil;
} nvmlProcessUtilizationSample_t;

typedef struct nvmlProcessUtilizationInfo_st {
        unsigned long long timeStamp;
        unsigned int pid;
        unsigned int smUtil;
        unsigned int memUtil;
        unsigned int encUtil;
        unsigned int decUtil;
        unsigned int jpgUtil;
        unsigned int ofaUtil;
} nvmlProcessUtilizationInfo_v1_t;

typedef struct nvmlProcessesUtilizationInfo_st {
        unsigned int version;
        unsigned int processSamplesCount;
        unsigned long long lastSeenTimeStamp;
        nvmlProcessUtilizationInfo_v1_t *procUtilArray;
} nvmlProcessesUtilizationInfo_v1_t;

typedef union nvmlValue_st {
        double dVal;
        int siVal;
        unsigned int uiVal;
        unsigned long ulVal;
        unsigned long long ullVal;
        signed long long sllVal;
        unsigned short usVal;
} nvmlValue_t;

typedef struct nvmlSample_st {
        unsigned long long timeStamp;
        nvmlValue_t sampleValue;
} nvmlSample_t;

typedef struct nvmlFieldValue_st {
        unsigned int fieldId;
        unsigned int scopeId;
        long long timestamp;
        long long latencyUsec;
        nvmlValueType_t valueType;
        nvmlReturn_t nvmlReturn;
        nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct nvmlAccountingStats_st {
        unsigned int gpuUtilization;
        unsigned int memoryUtilization;
        unsigned long long maxMemoryUsage;
        unsigned long long time;
        unsigned long long startTime;
        unsigned int isRunning;
        unsigned int reserved[5];
} nvmlAccountingStats_t;

typedef struct nvmlAccountingStats_v2_st {
        unsigned int pid;
        unsigned int isRunning;
        unsigned int gpuUtilization;
        unsigned int memoryUtilization;
        unsigned long long maxMemoryUsage;
        unsigned int sampleCount;
        unsigned long long sumGpuUtil;
        unsigned long long sumFbUtil;
        unsigned long long time;
        unsigned long long startTime;
} nvmlAccountingStats_v2_t;

typedef union nvmlUUIDValue {
        char str[41];
        unsigned char bytes[16];
} nvmlUUIDValue_t;

typedef struct nvmlUUID_st {
        unsigned int version;
        unsigned int type;
        nvmlUUIDValue_t value;
} nvmlUUID_v1_t;
typedef nvmlUUID_v1_t nvmlUUID_t;

typedef struct nvmlDeviceAttributes_st {
        unsigned int multiprocessorCount;
        unsigned int sharedCopyEngineCount;
        unsigned int sharedDecoderCount;
        unsigned int sharedEncoderCount;
        unsigned int sharedJpegCount;
        unsigned int sharedOfaCount;
        unsigned int gpuInstanceSliceCount;
        unsigned int computeInstanceSliceCount;
        unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

typedef struct nvmlExcludedDeviceInfo_st {
        nvmlPciInfo_t pciInfo;
        char uuid[80];
} nvmlExcludedDeviceInfo_t;

typedef struct nvmlTemperature_st {
        unsigned int version;
        nvmlTemperatureSensors_t sensorType;
        int temperature;
} nvmlTemperature_v1_t;

typedef struct nvmlGetMemoryLimits_st {
        const char *nameSpace;
        unsigned long long softLimit;
        unsigned long long hardLimit;
        unsigned long long currentUsed;
} nvmlGetMemoryLimits_v1_t;

typedef struct nvmlSetMemoryLimits_st {
        const char *nameSpace;
        unsigned long long softLimit;
        unsigned long long hardLimit;
} nvmlSetMemoryLimits_v1_t;

/* Passed on or denied, never looked into; those that the real header makes enums are so here. */
typedef enum { NVML_TOPOLOGY_INTERNAL = 0, NVML_TOPOLOGY_SYSTEM = 50 } nvmlGpuTopologyLevel_t;
typedef enum { NVML_LED_COLOR_GREEN = 0 } nvmlLedColor_t;
typedef enum { NVML_DRIVER_WDDM = 0 } nvmlDriverModel_t;
typedef enum { NVML_GOM_ALL_ON = 0 } nvmlGpuOperationMode_t;
typedef enum { NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS = 0 } nvmlRestrictedAPI_t;
typedef enum { NVML_DETACH_GPU_KEEP = 0 } nvmlDetachGpuState_t;
typedef enum { NVML_PCIE_LINK_KEEP = 0 } nvmlPcieLinkState_t;
typedef enum { NVML_GPU_VIRTUALIZATION_MODE_NONE = 0 } nvmlGpuVirtualizationMode_t;
typedef enum { NVML_DEVICE_VGPU_CAP_FRACTIONAL_MULTI_VGPU = 0 } nvmlDeviceVgpuCapability_t;
#define NVML_OPAQUE(X) \
        X(nvmlClockOffset_t) X(nvmlDramEncryptionInfo_t) X(nvmlConfComputeSetKeyRotationThresholdInfo_t) \
        X(nvmlPowerValue_v2_t) X(nvmlNvLinkUtilizationControl_t) X(nvmlNvLinkPowerThres_t) \
        X(nvmlNvlinkSetBwMode_t) X(nvmlVgpuHeterogeneousMode_t) X(nvmlVgpuSchedulerState_t) \
        X(nvmlVgpuSchedulerSetState_t) X(nvmlVgpuVersion_t) X(nvmlGpuInstancePlacement_t) \
        X(nvmlComputeInstancePlacement_t) X(nvmlWorkloadPowerProfileRequestedProfiles_t) \
        X(nvmlPowerSmoothingProfile_t) X(nvmlPowerSmoothingState_t) X(nvmlDevicePowerMizerModes_v1_t) \
        X(nvmlHostname_v1_t) X(nvmlNvlinkSetBwModeAsync_v1_t) X(nvmlNvlinkSetNvleReady_v1_t) \
        X(nvmlNvlinkLockRemapTable_v1_t) X(nvmlNvlinkSetupNvleEncryptionKey_v1_t) X(nvmlVgpuSchedulerState_v2_t) \
        X(nvmlPRMTLV_v1_t) X(nvmlWorkloadPowerProfileUpdateProfiles_v1_t) X(nvmlRusdSettings_v1_t)
#define X(name) typedef struct opaque_##name name;
NVML_OPAQUE(X)
#undef X

extern const char *nvmlErrorString(nvmlReturn_t result);
#define NVML_FN(name, params, args) extern nvmlReturn_t name params;
#define NVML_DENIED(name, params, args) extern nvmlReturn_t name params;
#include "nvml_functions.def"
#undef NVML_FN
#undef NVML_DENIED

#endif
