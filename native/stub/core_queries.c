/* What a program asks a device or a context, and the names of errors. */
#include <stdio.h>
#include <string.h>

#include "devices.h"
#include "driver.h"

static const struct {
        CUresult code;
        const char *name, *text;
} errors[] = {
#define E(code, text) {code, #code, text}
        E(CUDA_SUCCESS, "no error"),
        E(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
        E(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
        E(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
        E(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
        E(CUDA_ERROR_STUB_LIBRARY, "stub library"),
        E(CUDA_ERROR_DEVICE_UNAVAILABLE, "device unavailable"),
        E(CUDA_ERROR_NO_DEVICE, "no device"),
        E(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
        E(CUDA_ERROR_INVALID_IMAGE, "kernel image is invalid"),
        E(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
        E(CUDA_ERROR_MAP_FAILED, "mapping failed"),
        E(CUDA_ERROR_UNMAP_FAILED, "unmapping failed"),
        E(CUDA_ERROR_UNSUPPORTED_LIMIT, "limit not supported"),
        E(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access not supported"),
        E(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
        E(CUDA_ERROR_OPERATING_SYSTEM, "operating system call failed"),
        E(CUDA_ERROR_INVALID_HANDLE, "invalid handle"),
        E(CUDA_ERROR_ILLEGAL_STATE, "illegal state"),
        E(CUDA_ERROR_NOT_FOUND, "symbol not found"),
        E(CUDA_ERROR_NOT_READY, "not ready"),
        E(CUDA_ERROR_ILLEGAL_ADDRESS, "illegal memory access"),
        E(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested"),
        E(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access already enabled"),
        E(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access not enabled"),
        E(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "primary context is active"),
        E(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
        E(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "memory is registered already"),
        E(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "memory is not registered"),
        E(CUDA_ERROR_LAUNCH_FAILED, "launch failed"),
        E(CUDA_ERROR_NOT_PERMITTED, "not permitted"),
        E(CUDA_ERROR_NOT_SUPPORTED, "not supported"),
        E(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while a stream captures"),
        E(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "capture was invalidated"),
        E(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not begun in this stream"),
        E(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "dependency on the legacy stream"),
        E(CUDA_ERROR_CAPTURED_EVENT, "event was last recorded in a capture"),
        E(CUDA_ERROR_TIMEOUT, "timeout"),
        E(CUDA_ERROR_UNKNOWN, "unknown error"),
#undef E
};

CUresult impl_cuGetErrorString(CUresult error, const char **text)
{
        if (!text)
                return CUDA_ERROR_INVALID_VALUE;
        *text = NULL;
        for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
                if (errors[i].code == error)
                        *text = errors[i].text;
        }
        return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuGetErrorName(CUresult error, const char **name)
{
        if (!name)
                return CUDA_ERROR_INVALID_VALUE;
        *name = NULL;
        for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
                if (errors[i].code == error)
                        *name = errors[i].name;
        }
        return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuDeviceGetName(char *name, int len, CUdevice device)
{
        if (stub_ordinal(device) < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!name || len <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        snprintf(name, (size_t)len, "%s", STUB_NAME);
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!uuid)
                return CUDA_ERROR_INVALID_VALUE;
        stub_uuid_bytes((uint32_t)d, (unsigned char *)uuid->bytes);
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
        return impl_cuDeviceGetUuid(uuid, device);
}

CUresult impl_cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!bytes)
                return CUDA_ERROR_INVALID_VALUE;
        *bytes = stub_state->device[d].total;
        return CUDA_SUCCESS;
}

static int attribute(CUdevice_attribute which, int d)
{
        switch ((int)which) {
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 2147483647;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 49152;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return 101376;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return 102400;
        case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 65536;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
        case CU_DEVICE_ATTRIBUTE_MAX_PITCH: return 2147483647;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 2520000;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 10501000;
        case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT: return 512;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 128;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 1536;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return 24;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 384;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 75497472;
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 2;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 8;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 9;
        case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return d + 1;
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
        case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
        case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
        case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED: return 1;
        default: return 0;
        }
}

CUresult impl_cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!value || (int)which < 1 || (int)which > 400)
                return CUDA_ERROR_INVALID_VALUE;
        *value = attribute(which, d);
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceComputeCapability(int *major, int *minor, CUdevice device)
{
        if (!major || !minor)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_ordinal(device) < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        *major = 8;
        *minor = 9;
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGetPCIBusId(char *id, int len, CUdevice device)
{
        int d = stub_ordinal(device);

        if (d < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        if (!id || len < 13)
                return CUDA_ERROR_INVALID_VALUE;
        snprintf(id, (size_t)len, "0000:%02x:00.0", (unsigned int)d + 1);
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGetByPCIBusId(CUdevice *device, const char *id)
{
        unsigned int domain, bus, slot;

        if (!device || !id || sscanf(id, "%x:%x:%x", &domain, &bus, &slot) != 3)
                return CUDA_ERROR_INVALID_VALUE;
        for (CUdevice n = 0; stub_ordinal(n) >= 0; n++) {
                if (bus == (unsigned int)stub_ordinal(n) + 1 && slot == 0 && domain == 0) {
                        *device = n;
                        return CUDA_SUCCESS;
                }
        }
        return CUDA_ERROR_INVALID_DEVICE;
}

CUresult impl_cuDeviceCanAccessPeer(int *value, CUdevice device, CUdevice peer)
{
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_ordinal(device) < 0 || stub_ordinal(peer) < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        *value = device != peer;
        return CUDA_SUCCESS;
}

CUresult impl_cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute which, CUdevice from, CUdevice to)
{
        if (!value || from == to)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_ordinal(from) < 0 || stub_ordinal(to) < 0)
                return CUDA_ERROR_INVALID_DEVICE;
        *value = which == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
        if (!ctx)
                ctx = stub_current();
        if (!stub_object(ctx, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!device)
                return CUDA_ERROR_INVALID_VALUE;
        *device = stub_ordinal_of(ctx->device);
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxSynchronize_v2(CUcontext ctx)
{
        if (ctx && !stub_object(ctx, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!ctx)
                return impl_cuCtxSynchronize();
        stub_wait(ctx->device, stub_submitted(ctx->device));
        stub_calls_drain();
        stub_pools_settle(ctx->device);
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetFlags(unsigned int *flags)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!flags)
                return CUDA_ERROR_INVALID_VALUE;
        *flags = ctx->flags;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetId(CUcontext ctx, unsigned long long *id)
{
        if (!ctx)
                ctx = stub_current();
        if (!stub_object(ctx, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!id)
                return CUDA_ERROR_INVALID_VALUE;
        *id = ctx->id;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxSetLimit(CUlimit limit, size_t value)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if ((unsigned int)limit >= sizeof(ctx->limit) / sizeof(ctx->limit[0]))
                return CUDA_ERROR_UNSUPPORTED_LIMIT;
        ctx->limit[limit] = value;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetLimit(size_t *value, CUlimit limit)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        if ((unsigned int)limit >= sizeof(ctx->limit) / sizeof(ctx->limit[0]))
                return CUDA_ERROR_UNSUPPORTED_LIMIT;
        *value = ctx->limit[limit];
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetCacheConfig(CUfunc_cache *config)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        *config = ctx->cache;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxSetCacheConfig(CUfunc_cache config)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        ctx->cache = config;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
        if (ctx && !stub_object(ctx, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!version)
                return CUDA_ERROR_INVALID_VALUE;
        *version = 3020;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (least)
                *least = 0;
        if (greatest)
                *greatest = -5;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (flags)
                return CUDA_ERROR_INVALID_VALUE;
        if (!stub_object(peer, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (peer->device == ctx->device)
                return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
        if (ctx->peers & 1U << peer->device)
                return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
        ctx->peers |= 1U << peer->device;
        return CUDA_SUCCESS;
}

CUresult impl_cuCtxDisablePeerAccess(CUcontext peer)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!stub_object(peer, STUB_CONTEXT))
                return CUDA_ERROR_INVALID_CONTEXT;
        if (!(ctx->peers & 1U << peer->device))
                return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
        ctx->peers &= ~(1U << peer->device);
        return CUDA_SUCCESS;
}
