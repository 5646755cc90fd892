/* Arrays and mipmaps: memory in a layout of the driver's own. */
#include "driver.h"
#include "memory.h"
#include "state.h"
#include "truth.h"

#define ROW_UNIT 512
#define ROWS_UNIT 8
#define SLICE_UNIT (UINT64_C(64) << 10)

static uint64_t element_bytes(CUarray_format format, unsigned int channels)
{
        uint64_t bytes;

        switch ((int)format) {
        case CU_AD_FORMAT_UNSIGNED_INT8:
        case CU_AD_FORMAT_SIGNED_INT8:
                bytes = 1;
                break;
        case CU_AD_FORMAT_UNSIGNED_INT16:
        case CU_AD_FORMAT_SIGNED_INT16:
        case CU_AD_FORMAT_HALF:
                bytes = 2;
                break;
        default:
                bytes = 4;   /* and block-compressed or packed formats, which take less */
        }
        return bytes * (channels ? channels : 1);
}

static uint64_t padded(uint64_t value, uint64_t unit)
{
        return value > SLICE_UNLIMITED ? value : (value + unit - 1) / unit * unit;
}

static uint64_t product(uint64_t a, uint64_t b)
{
        uint64_t product;

        return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

/* A height or depth of 0 means that there is no such dimension. Raw bytes: the card's step is not applied yet. */
static uint64_t padded_bytes(uint64_t width, uint64_t height, uint64_t depth, uint64_t element)
{
        uint64_t row = padded(product(width, element), ROW_UNIT);
        uint64_t layer = product(row, height ? padded(height, ROWS_UNIT) : 1);

        return product(depth > 1 ? padded(layer, SLICE_UNIT) : layer, depth > 1 ? depth : 1);
}

static uint64_t bound(const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int levels)
{
        uint64_t sum = 0, width = desc->Width, height = desc->Height, depth = desc->Depth;
        uint64_t element = element_bytes(desc->Format, desc->NumChannels);

        for (unsigned int level = 0; level < levels && level < 32; level++) {
                uint64_t bytes = padded_bytes(width, height, depth, element);

                sum = sum > UINT64_MAX - bytes ? UINT64_MAX : sum + bytes;
                width = width > 1 ? width / 2 : width;
                height = height > 1 ? height / 2 : height;
                if (!(desc->Flags & CUDA_ARRAY3D_LAYERED))
                        depth = depth > 1 ? depth / 2 : depth;
        }
        return slice_taken(sum);
}

/* What an object like this will take. The driver tells for objects whose memory is mapped later, and making one of those
 * takes none: so make one, ask, and destroy it. Where that does not work, a bound: rows padded to 512 bytes and 8 rows,
 * layers to 64 KiB. `levels` 0: an array. */
static uint64_t needed(const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int levels)
{
        CUDA_ARRAY3D_DESCRIPTOR probe = *desc;
        CUDA_ARRAY_MEMORY_REQUIREMENTS need = { 0 };
        CUmipmappedArray mipmap;
        CUresult asked = CUDA_ERROR_NOT_SUPPORTED;
        CUdevice ordinal;
        CUarray array;

        probe.Flags |= CUDA_ARRAY3D_DEFERRED_MAPPING;
        if (slice_real()->cuCtxGetDevice(&ordinal) != CUDA_SUCCESS)
                return bound(desc, levels ? levels : 1);
        if (levels && slice_real()->cuMipmappedArrayCreate(&mipmap, &probe, levels) == CUDA_SUCCESS) {
                asked = slice_real()->cuMipmappedArrayGetMemoryRequirements(&need, mipmap, ordinal);
                slice_real()->cuMipmappedArrayDestroy(mipmap);
        } else if (!levels && slice_real()->cuArray3DCreate_v2(&array, &probe) == CUDA_SUCCESS) {
                asked = slice_real()->cuArrayGetMemoryRequirements(&need, array, ordinal);
                slice_real()->cuArrayDestroy(array);
        }
        return asked == CUDA_SUCCESS && need.size ? slice_taken(need.size) : bound(desc, levels ? levels : 1);
}

/* Sparse objects and those whose memory is mapped later take none now. */
static bool takes_memory(unsigned int flags)
{
        return !(flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING));
}

static CUresult keep_array(CUarray array, int device, uint64_t charged, CUcontext context)
{
        if (slice_remember(SLICE_ARRAY, (uint64_t)(uintptr_t)array, device, charged, context, SLICE_PLAIN) == 0) {
                slice_truth_tick();
                return CUDA_SUCCESS;
        }
        slice_real()->cuArrayDestroy(array);
        slice_refund((unsigned)device, charged);
        return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult slice_cuArrayCreate_v2(CUarray *array, const CUDA_ARRAY_DESCRIPTOR *desc)
{
        CUcontext context;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuArrayCreate_v2, (array, desc));
        int device = slice_current_device(&context);
        if (!context || !array || !desc)
                return slice_real()->cuArrayCreate_v2(array, desc);
        CUDA_ARRAY3D_DESCRIPTOR full = {
                .Width = desc->Width, .Height = desc->Height, .Format = desc->Format, .NumChannels = desc->NumChannels,
        };
        uint64_t taken = needed(&full, 0);
        if (slice_take(device, taken, "cuArrayCreate_v2") < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = slice_real()->cuArrayCreate_v2(array, desc);
        if (result == CUDA_SUCCESS)
                return keep_array(*array, device, taken, context);
        slice_refund((unsigned)device, taken);
        return result;
}

static CUresult slice_cuArray3DCreate_v2(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
        CUcontext context;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuArray3DCreate_v2, (array, desc));
        int device = slice_current_device(&context);
        if (!context || !array || !desc || !takes_memory(desc->Flags))
                return slice_real()->cuArray3DCreate_v2(array, desc);
        uint64_t taken = needed(desc, 0);
        if (slice_take(device, taken, "cuArray3DCreate_v2") < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = slice_real()->cuArray3DCreate_v2(array, desc);
        if (result == CUDA_SUCCESS)
                return keep_array(*array, device, taken, context);
        slice_refund((unsigned)device, taken);
        return result;
}

/* Leaves the map first, as with cuMemFree_v2. */
#define DESTROY(symbol, type, space)                                                              \
        static CUresult slice_##symbol(type object)                                               \
        {                                                                                         \
                struct slice_block block;                                                         \
                                                                                                  \
                if (!slice_ready())                                                               \
                        return SLICE_WITHOUT_LIMITS(symbol, (object));                            \
                bool ours = slice_map_take(space, (uint64_t)(uintptr_t)object, &block);           \
                CUresult result = slice_real()->symbol(object);                                   \
                if (ours && result == CUDA_SUCCESS)                                               \
                        slice_forget(&block);                                                     \
                else if (ours)                                                                    \
                        slice_map_put(space, (uint64_t)(uintptr_t)object, &block, NULL);          \
                return result;                                                                    \
        }

DESTROY(cuArrayDestroy, CUarray, SLICE_ARRAY)
DESTROY(cuMipmappedArrayDestroy, CUmipmappedArray, SLICE_MIPMAP)

static CUresult slice_cuMipmappedArrayCreate(CUmipmappedArray *mipmap, const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int levels)
{
        CUcontext context;

        if (!slice_ready())
                return SLICE_WITHOUT_LIMITS(cuMipmappedArrayCreate, (mipmap, desc, levels));
        int device = slice_current_device(&context);
        if (!context || !mipmap || !desc || !takes_memory(desc->Flags))
                return slice_real()->cuMipmappedArrayCreate(mipmap, desc, levels);
        uint64_t taken = needed(desc, levels ? levels : 1);
        if (slice_take(device, taken, "cuMipmappedArrayCreate") < 0)
                return CUDA_ERROR_OUT_OF_MEMORY;
        CUresult result = slice_real()->cuMipmappedArrayCreate(mipmap, desc, levels);
        if (result != CUDA_SUCCESS) {
                slice_refund((unsigned)device, taken);
                return result;
        }
        if (slice_remember(SLICE_MIPMAP, (uint64_t)(uintptr_t)*mipmap, device, taken, context, SLICE_PLAIN) == 0)
                return CUDA_SUCCESS;
        slice_real()->cuMipmappedArrayDestroy(*mipmap);
        slice_refund((unsigned)device, taken);
        return CUDA_ERROR_OUT_OF_MEMORY;
}

#define X(symbol) SLICE_HOOK(symbol)
#include "hooks_array.def"
#undef X
