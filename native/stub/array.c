/* Arrays and mipmaps: rows padded to 128 bytes, heights to 8 rows, then what a card takes for so many bytes. */
#include "driver.h"

static uint32_t element_bytes(CUarray_format format)
{
        switch (format) {
        case CU_AD_FORMAT_UNSIGNED_INT8:
        case CU_AD_FORMAT_SIGNED_INT8: return 1;
        case CU_AD_FORMAT_UNSIGNED_INT16:
        case CU_AD_FORMAT_SIGNED_INT16:
        case CU_AD_FORMAT_HALF: return 2;
        case CU_AD_FORMAT_UNSIGNED_INT32:
        case CU_AD_FORMAT_SIGNED_INT32:
        case CU_AD_FORMAT_FLOAT: return 4;
        default: return 0;
        }
}

static bool is_sane(const CUDA_ARRAY3D_DESCRIPTOR *d)
{
        bool channels = d->NumChannels == 1 || d->NumChannels == 2 || d->NumChannels == 4;

        return channels && element_bytes(d->Format) && d->Width && d->Width <= 1U << 20 && d->Height <= 1U << 20 &&
               d->Depth <= 1U << 15 && (d->Height || !d->Depth || d->Flags & CUDA_ARRAY3D_LAYERED);
}

static uint64_t padded(size_t width, size_t height, size_t depth, const CUDA_ARRAY3D_DESCRIPTOR *d)
{
        uint64_t row = ((uint64_t)width * element_bytes(d->Format) * d->NumChannels + 127) / 128 * 128;
        uint64_t rows = height ? (height + 7) / 8 * 8 : 1;

        return row * rows * (depth ? depth : 1);
}

static CUresult create(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
        bool deferred = desc->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING);
        uint64_t size;
        CUarray made;
        int r;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!array || !is_sane(desc))
                return CUDA_ERROR_INVALID_VALUE;
        size = deferred ? 0 : stub_rounded(padded(desc->Width, desc->Height, desc->Depth, desc));
        r = stub_take_bytes(ctx->device, size);
        if (r)
                return stub_result(r);
        made = stub_object_new(STUB_ARRAY);
        if (!made) {
                stub_give_bytes(ctx->device, size);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        made->ctx = ctx;
        made->device = ctx->device;
        made->size = size;
        made->desc = *desc;
        *array = made;
        return CUDA_SUCCESS;
}

CUresult impl_cuArray3DCreate_v2(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
        return desc ? create(array, desc) : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuArrayCreate_v2(CUarray *array, const CUDA_ARRAY_DESCRIPTOR *desc)
{
        CUDA_ARRAY3D_DESCRIPTOR full = {0};

        if (!desc)
                return CUDA_ERROR_INVALID_VALUE;
        full.Width = desc->Width;
        full.Height = desc->Height;
        full.Format = desc->Format;
        full.NumChannels = desc->NumChannels;
        return create(array, &full);
}

CUresult impl_cuArrayDestroy(CUarray array)
{
        if (!stub_object(array, STUB_ARRAY) || array->levels)
                return CUDA_ERROR_INVALID_HANDLE;
        stub_wait(array->device, stub_submitted(array->device));
        stub_give_bytes(array->device, array->size);
        stub_object_free(array);
        return CUDA_SUCCESS;
}

CUresult impl_cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *desc, CUarray array)
{
        if (!stub_object(array, STUB_ARRAY))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!desc)
                return CUDA_ERROR_INVALID_VALUE;
        *desc = array->desc;
        return CUDA_SUCCESS;
}

CUresult impl_cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *desc, CUarray array)
{
        if (!stub_object(array, STUB_ARRAY))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!desc)
                return CUDA_ERROR_INVALID_VALUE;
        *desc = (CUDA_ARRAY_DESCRIPTOR){array->desc.Width, array->desc.Height, array->desc.Format,
                                        array->desc.NumChannels};
        return CUDA_SUCCESS;
}

/* As the real one: only for arrays whose memory is mapped later. */
static CUresult requirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *need, const CUDA_ARRAY3D_DESCRIPTOR *desc, uint64_t size)
{
        if (!need || !(desc->Flags & CUDA_ARRAY3D_DEFERRED_MAPPING))
                return CUDA_ERROR_INVALID_VALUE;
        *need = (CUDA_ARRAY_MEMORY_REQUIREMENTS){.size = stub_rounded(size), .alignment = 65536};
        return CUDA_SUCCESS;
}

CUresult impl_cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *need, CUarray array, CUdevice device)
{
        const CUDA_ARRAY3D_DESCRIPTOR *d;

        if (!stub_object(array, STUB_ARRAY))
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_ordinal(device) < 0)
                return CUDA_ERROR_INVALID_VALUE;
        d = &array->desc;
        return requirements(need, d, padded(d->Width, d->Height, d->Depth, d));
}

static uint64_t mipmap_bytes(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned int levels)
{
        uint64_t sum = 0;

        for (unsigned int i = 0; i < levels; i++) {
                size_t w = d->Width >> i, h = d->Height >> i;
                size_t depth = d->Flags & CUDA_ARRAY3D_LAYERED ? d->Depth : d->Depth >> i;

                sum += padded(w ? w : 1, d->Height ? (h ? h : 1) : 0, depth, d);
        }
        return sum;
}

CUresult impl_cuMipmappedArrayCreate(CUmipmappedArray *mipmap, const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int levels)
{
        CUmipmappedArray made;
        uint64_t size;
        int r;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!mipmap || !desc || !is_sane(desc) || levels == 0 || levels > 20)
                return CUDA_ERROR_INVALID_VALUE;
        size = desc->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)
                   ? 0 : stub_rounded(mipmap_bytes(desc, levels));
        r = stub_take_bytes(ctx->device, size);
        if (r)
                return stub_result(r);
        made = stub_object_new(STUB_MIPMAP);
        if (!made) {
                stub_give_bytes(ctx->device, size);
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        made->ctx = ctx;
        made->device = ctx->device;
        made->size = size;
        made->desc = *desc;
        made->levels = levels;
        *mipmap = made;
        return CUDA_SUCCESS;
}

CUresult impl_cuMipmappedArrayGetLevel(CUarray *array, CUmipmappedArray mipmap, unsigned int level)
{
        CUarray made;

        if (!stub_object(mipmap, STUB_MIPMAP))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!array || level >= mipmap->levels)
                return CUDA_ERROR_INVALID_VALUE;
        made = stub_object_new(STUB_ARRAY);
        if (!made)
                return CUDA_ERROR_OUT_OF_MEMORY;
        made->ctx = mipmap->ctx;
        made->device = mipmap->device;
        made->desc = mipmap->desc;
        made->desc.Width >>= level;
        made->desc.Height >>= level;
        made->levels = 1;
        *array = made;
        return CUDA_SUCCESS;
}

CUresult impl_cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *need, CUmipmappedArray mipmap,
                                                    CUdevice device)
{
        if (!stub_object(mipmap, STUB_MIPMAP))
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_ordinal(device) < 0)
                return CUDA_ERROR_INVALID_VALUE;
        return requirements(need, &mipmap->desc, mipmap_bytes(&mipmap->desc, mipmap->levels));
}

CUresult impl_cuMipmappedArrayDestroy(CUmipmappedArray mipmap)
{
        if (!stub_object(mipmap, STUB_MIPMAP))
                return CUDA_ERROR_INVALID_HANDLE;
        stub_wait(mipmap->device, stub_submitted(mipmap->device));
        stub_give_bytes(mipmap->device, mipmap->size);
        stub_object_free(mipmap);
        return CUDA_SUCCESS;
}
