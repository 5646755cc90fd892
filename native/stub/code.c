/* Modules, libraries, functions. Any image will do; what a function costs stands in its name:
 * us_<n> takes n microseconds of the card, ns_<n> nanoseconds, nop none. Other names are not found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver.h"

CUresult impl_cuModuleLoadData(CUmodule *module, const void *image)
{
        CUmodule m;
        int r;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!module || !image)
                return CUDA_ERROR_INVALID_VALUE;
        r = stub_take_bytes(ctx->device, stub_options.module_bytes);
        if (r)
                return stub_result(r);
        m = stub_object_new(STUB_MODULE);
        if (!m)
                return CUDA_ERROR_OUT_OF_MEMORY;
        m->ctx = ctx;
        *module = m;
        return CUDA_SUCCESS;
}

CUresult impl_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int count, CUjit_option *options,
                                 void **values)
{
        (void)count;
        (void)options;
        (void)values;
        return impl_cuModuleLoadData(module, image);
}

CUresult impl_cuModuleLoadFatBinary(CUmodule *module, const void *image)
{
        return impl_cuModuleLoadData(module, image);
}

CUresult impl_cuModuleLoad(CUmodule *module, const char *path)
{
        if (!path)
                return CUDA_ERROR_INVALID_VALUE;
        return access(path, R_OK) < 0 ? CUDA_ERROR_FILE_NOT_FOUND : impl_cuModuleLoadData(module, path);
}

static void unload(CUmodule module)
{
        for (struct CUfunc_st *f = NULL; (f = stub_object_next(f, STUB_FUNCTION));) {
                if (f->module == module)
                        stub_object_free(f);
        }
        stub_give_bytes(module->ctx->device, stub_options.module_bytes);
        stub_object_free(module);
}

CUresult impl_cuModuleUnload(CUmodule module)
{
        STUB_CONTEXT_OR_RETURN(ctx);
        if (!stub_object(module, STUB_MODULE) || module->library)
                return CUDA_ERROR_INVALID_HANDLE;
        unload(module);
        return CUDA_SUCCESS;
}

CUresult impl_cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
        if (!mode)
                return CUDA_ERROR_INVALID_VALUE;
        *mode = CU_MODULE_LAZY_LOADING;
        return CUDA_SUCCESS;
}

/* What a name costs; -1: there is no such kernel. */
static int64_t cost_of(const char *name)
{
        char *end;
        uint64_t n;

        if (strcmp(name, "nop") == 0)
                return 0;
        if (strncmp(name, "us_", 3) != 0 && strncmp(name, "ns_", 3) != 0)
                return -1;
        n = strtoull(name + 3, &end, 10);
        if (end == name + 3 || *end || n > 3600000000ULL)
                return -1;
        return (int64_t)(name[0] == 'u' ? n * 1000 : n);
}

CUresult impl_cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
        CUfunction f;
        int64_t ns;

        if (!stub_object(module, STUB_MODULE))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!function || !name || !*name)
                return CUDA_ERROR_INVALID_VALUE;
        ns = cost_of(name);
        if (ns < 0)
                return CUDA_ERROR_NOT_FOUND;
        for (f = NULL; (f = stub_object_next(f, STUB_FUNCTION));) {
                if (f->module == module && strcmp(f->name, name) == 0)
                        break;
        }
        if (!f) {
                f = stub_object_new(STUB_FUNCTION);
                if (!f)
                        return CUDA_ERROR_OUT_OF_MEMORY;
                f->module = module;
                f->ns = (uint64_t)ns;
                f->threads = 1024;
                snprintf(f->name, sizeof(f->name), "%s", name);
        }
        *function = f;
        return CUDA_SUCCESS;
}

CUresult impl_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule module, const char *name)
{
        (void)dptr;
        (void)bytes;
        if (!stub_object(module, STUB_MODULE))
                return CUDA_ERROR_INVALID_HANDLE;
        return name ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit, void **jit_values,
                                unsigned int jit_count, CUlibraryOption *options, void **values, unsigned int count)
{
        (void)jit;
        (void)jit_values;
        (void)jit_count;
        (void)options;
        (void)values;
        (void)count;
        if (!library || !code)
                return CUDA_ERROR_INVALID_VALUE;
        *library = stub_object_new(STUB_LIBRARY);
        return *library ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult impl_cuLibraryLoadFromFile(CUlibrary *library, const char *path, CUjit_option *jit, void **jit_values,
                                    unsigned int jit_count, CUlibraryOption *options, void **values, unsigned int count)
{
        if (!path)
                return CUDA_ERROR_INVALID_VALUE;
        if (access(path, R_OK) < 0)
                return CUDA_ERROR_FILE_NOT_FOUND;
        return impl_cuLibraryLoadData(library, path, jit, jit_values, jit_count, options, values, count);
}

CUresult impl_cuLibraryGetModule(CUmodule *module, CUlibrary library)
{
        CUresult r = CUDA_SUCCESS;

        if (!stub_object(library, STUB_LIBRARY))
                return CUDA_ERROR_INVALID_HANDLE;
        if (!module)
                return CUDA_ERROR_INVALID_VALUE;
        if (!stub_object(library->module, STUB_MODULE)) {
                r = impl_cuModuleLoadData(&library->module, library);
                if (r == CUDA_SUCCESS)
                        library->module->library = 1;
        }
        if (r == CUDA_SUCCESS)
                *module = library->module;
        return r;
}

CUresult impl_cuLibraryUnload(CUlibrary library)
{
        if (!stub_object(library, STUB_LIBRARY))
                return CUDA_ERROR_INVALID_HANDLE;
        if (stub_object(library->module, STUB_MODULE))
                unload(library->module);
        stub_object_free(library);
        return CUDA_SUCCESS;
}

/* A kernel is its function here: the driver takes either where the other is wanted. */
CUresult impl_cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name)
{
        CUmodule module;
        CUfunction f;
        CUresult r = impl_cuLibraryGetModule(&module, library);

        if (r == CUDA_SUCCESS)
                r = impl_cuModuleGetFunction(&f, module, name);
        if (r == CUDA_SUCCESS)
                *kernel = (CUkernel)(void *)f;
        return r;
}

CUresult impl_cuKernelGetFunction(CUfunction *function, CUkernel kernel)
{
        if (!function || !stub_object(kernel, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_HANDLE;
        *function = (CUfunction)(void *)kernel;
        return CUDA_SUCCESS;
}

CUresult impl_cuFuncGetName(const char **name, CUfunction function)
{
        if (!name || !stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_HANDLE;
        *name = function->name;
        return CUDA_SUCCESS;
}

CUresult impl_cuKernelGetName(const char **name, CUkernel kernel)
{
        return impl_cuFuncGetName(name, (CUfunction)(void *)kernel);
}

CUresult impl_cuFuncGetModule(CUmodule *module, CUfunction function)
{
        if (!module || !stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_HANDLE;
        *module = function->module;
        return CUDA_SUCCESS;
}

CUresult impl_cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction function)
{
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        if (!stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_HANDLE;
        switch (which) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = 89; break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = 49152; break;
        default: *value = 0; break;
        }
        return CUDA_SUCCESS;
}

CUresult impl_cuKernelGetAttribute(int *value, CUfunction_attribute which, CUkernel kernel, CUdevice device)
{
        (void)device;
        return impl_cuFuncGetAttribute(value, which, (CUfunction)(void *)kernel);
}

CUresult impl_cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value)
{
        (void)value;
        (void)which;
        return stub_object(function, STUB_FUNCTION) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult impl_cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel, CUdevice device)
{
        (void)device;
        return impl_cuFuncSetAttribute((CUfunction)(void *)kernel, which, value);
}

CUresult impl_cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config)
{
        (void)config;
        return stub_object(function, STUB_FUNCTION) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult impl_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int size, size_t shared)
{
        (void)shared;
        if (!blocks || size <= 0 || !stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_VALUE;
        *blocks = size > 1536 ? 0 : 1536 / size;
        return CUDA_SUCCESS;
}

CUresult impl_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function, int size,
                                                                   size_t shared, unsigned int flags)
{
        (void)flags;
        return impl_cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, size, shared);
}

CUresult impl_cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction function, CUoccupancyB2DSize callback,
                                               size_t shared, int limit)
{
        (void)callback;
        (void)shared;
        if (!grid || !block || !stub_object(function, STUB_FUNCTION))
                return CUDA_ERROR_INVALID_VALUE;
        *grid = 256;
        *block = limit > 0 && limit < 1024 ? limit : 1024;
        return CUDA_SUCCESS;
}
