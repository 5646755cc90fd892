/* Copies and fills of linear memory move real bytes; they take no device time. Copies of arrays move nothing. */
#include <string.h>

#include "driver.h"

#define FILL_MOST (64 * MIB)    /* larger fills are not played: nobody wants a card's worth of host pages */

static CUresult begin(CUstream stream, bool sync)
{
        struct CUstream_st *s;

        STUB_CONTEXT_OR_RETURN(ctx);
        s = stub_stream(stream);
        if (!s)
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_capturing(s))
                return sync ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : stub_capture_empty(s);
        if (sync && !stub_may())
                return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        stub_wait_stream(s);    /* the bytes are moved here and now: what was queued before comes first */
        return CUDA_SUCCESS;
}

static bool is_memory(CUdeviceptr dptr, size_t bytes)
{
        struct stub_block *b;

        if (dptr == 0)
                return false;
        if (!stub_is_device_address(dptr))
                return true;    /* host memory under unified addressing */
        b = stub_block_around(dptr);
        return b && bytes <= b->address + b->size - dptr;
}

static CUresult copy(uint64_t to, uint64_t from, size_t bytes, CUstream stream, bool sync)
{
        struct CUstream_st *s;
        CUresult r = begin(stream, sync);

        if (r != CUDA_SUCCESS || bytes == 0)
                return r;
        if (!is_memory(to, bytes) || !is_memory(from, bytes))
                return CUDA_ERROR_INVALID_VALUE;
        s = stub_stream(stream);
        if (!stub_capturing(s))
                memmove((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
        return copy(to, from, bytes, NULL, true);
}

CUresult impl_cuMemcpyPeer(CUdeviceptr to, CUcontext to_ctx, CUdeviceptr from, CUcontext from_ctx, size_t bytes)
{
        (void)to_ctx;
        (void)from_ctx;
        return copy(to, from, bytes, NULL, true);
}

CUresult impl_cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
        return copy(to, (uintptr_t)from, bytes, NULL, true);
}

CUresult impl_cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
        return copy((uintptr_t)to, from, bytes, NULL, true);
}

CUresult impl_cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
        return copy(to, from, bytes, NULL, true);
}

CUresult impl_cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
        return copy(to, from, bytes, stream, false);
}

CUresult impl_cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_ctx, CUdeviceptr from, CUcontext from_ctx, size_t bytes,
                                CUstream stream)
{
        (void)to_ctx;
        (void)from_ctx;
        return copy(to, from, bytes, stream, false);
}

CUresult impl_cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
        return copy(to, (uintptr_t)from, bytes, stream, false);
}

CUresult impl_cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
        return copy((uintptr_t)to, from, bytes, stream, false);
}

CUresult impl_cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
        return copy(to, from, bytes, stream, false);
}

static CUresult copy_3d(const CUDA_MEMCPY3D *c, CUstream stream, bool sync)
{
        bool linear;
        const char *from;
        char *to;
        CUresult r = begin(stream, sync);

        if (r != CUDA_SUCCESS)
                return r;
        if (!c)
                return CUDA_ERROR_INVALID_VALUE;
        linear = c->srcMemoryType != CU_MEMORYTYPE_ARRAY && c->dstMemoryType != CU_MEMORYTYPE_ARRAY;
        if (!linear || stub_capturing(stub_stream(stream)))
                return CUDA_SUCCESS;
        from = c->srcMemoryType == CU_MEMORYTYPE_HOST ? c->srcHost : (const char *)(uintptr_t)c->srcDevice;
        to = c->dstMemoryType == CU_MEMORYTYPE_HOST ? c->dstHost : (char *)(uintptr_t)c->dstDevice;
        if (!from || !to)
                return CUDA_ERROR_INVALID_VALUE;
        for (size_t z = 0; z < c->Depth; z++) {
                for (size_t y = 0; y < c->Height; y++) {
                        const char *row = from + ((c->srcZ + z) * c->srcHeight + c->srcY + y) * c->srcPitch;

                        memmove(to + ((c->dstZ + z) * c->dstHeight + c->dstY + y) * c->dstPitch + c->dstXInBytes,
                                row + c->srcXInBytes, c->WidthInBytes);
                }
        }
        return CUDA_SUCCESS;
}

static CUresult copy_2d(const CUDA_MEMCPY2D *c, CUstream stream, bool sync)
{
        CUDA_MEMCPY3D full = {0};

        if (!c)
                return CUDA_ERROR_INVALID_VALUE;
        full.srcXInBytes = c->srcXInBytes;
        full.srcY = c->srcY;
        full.srcMemoryType = c->srcMemoryType;
        full.srcHost = c->srcHost;
        full.srcDevice = c->srcDevice;
        full.srcPitch = c->srcPitch;
        full.dstXInBytes = c->dstXInBytes;
        full.dstY = c->dstY;
        full.dstMemoryType = c->dstMemoryType;
        full.dstHost = c->dstHost;
        full.dstDevice = c->dstDevice;
        full.dstPitch = c->dstPitch;
        full.WidthInBytes = c->WidthInBytes;
        full.Height = c->Height;
        full.Depth = 1;
        return copy_3d(&full, stream, sync);
}

CUresult impl_cuMemcpy2D_v2(const CUDA_MEMCPY2D *c)
{
        return copy_2d(c, NULL, true);
}

CUresult impl_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *c, CUstream stream)
{
        return copy_2d(c, stream, false);
}

CUresult impl_cuMemcpy3D_v2(const CUDA_MEMCPY3D *c)
{
        return copy_3d(c, NULL, true);
}

CUresult impl_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *c, CUstream stream)
{
        return copy_3d(c, stream, false);
}

static CUresult fill(CUdeviceptr dptr, const void *value, size_t width, size_t count, CUstream stream, bool sync)
{
        CUresult r = begin(stream, sync);

        if (r != CUDA_SUCCESS || count == 0)
                return r;
        if (count > SIZE_MAX / width || !is_memory(dptr, count * width) || dptr % width)
                return CUDA_ERROR_INVALID_VALUE;
        if (stub_capturing(stub_stream(stream)) || count * width > FILL_MOST)
                return CUDA_SUCCESS;
        for (size_t i = 0; i < count; i++)
                memcpy((char *)(uintptr_t)dptr + i * width, value, width);
        return CUDA_SUCCESS;
}

CUresult impl_cuMemsetD8_v2(CUdeviceptr dptr, unsigned char value, size_t count)
{
        return fill(dptr, &value, 1, count, NULL, true);
}

CUresult impl_cuMemsetD16_v2(CUdeviceptr dptr, unsigned short value, size_t count)
{
        return fill(dptr, &value, 2, count, NULL, true);
}

CUresult impl_cuMemsetD32_v2(CUdeviceptr dptr, unsigned int value, size_t count)
{
        return fill(dptr, &value, 4, count, NULL, true);
}

CUresult impl_cuMemsetD8Async(CUdeviceptr dptr, unsigned char value, size_t count, CUstream stream)
{
        return fill(dptr, &value, 1, count, stream, false);
}

CUresult impl_cuMemsetD16Async(CUdeviceptr dptr, unsigned short value, size_t count, CUstream stream)
{
        return fill(dptr, &value, 2, count, stream, false);
}

CUresult impl_cuMemsetD32Async(CUdeviceptr dptr, unsigned int value, size_t count, CUstream stream)
{
        return fill(dptr, &value, 4, count, stream, false);
}
