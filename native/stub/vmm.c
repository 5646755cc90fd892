/* Virtual memory management: reserved addresses, physical handles, mappings; and memory shown to other processes. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

#define GRANULE (2 * MIB)

struct handle {
        struct handle *next;
        CUmemGenericAllocationHandle number;
        CUmemAllocationProp prop;
        uint64_t size;
        uint32_t device;
        bool on_device, booked;
        uint32_t references;    /* cuMemCreate, retains, mappings */
        uint32_t owned;         /* of these: what cuMemRelease takes back */
};

struct mapping {
        struct mapping *next;
        uint64_t address, size;
        struct handle *handle;
        CUmemAccess_flags access;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct handle *handles;
static struct mapping *mappings;
static CUmemGenericAllocationHandle last_number = 0x10000;

static struct handle *find(CUmemGenericAllocationHandle number)
{
        struct handle *h = handles;

        while (h && h->number != number)
                h = h->next;
        return h;
}

/* Lock: held. */
static void unreference(struct handle *h)
{
        struct handle **at = &handles;

        if (--h->references)
                return;
        if (h->booked)
                stub_give_bytes(h->device, h->size);
        while (*at != h)
                at = &(*at)->next;
        *at = h->next;
        free(h);
}

static CUresult check_prop(const CUmemAllocationProp *prop, int *ret_device)
{
        if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_device = 0;
        if (prop->location.type == CU_MEM_LOCATION_TYPE_HOST || prop->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
            prop->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT)
                return CUDA_SUCCESS;
        if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
                return CUDA_ERROR_INVALID_VALUE;
        *ret_device = stub_ordinal(prop->location.id);
        return *ret_device < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

static CUresult new_handle(const CUmemAllocationProp *prop, size_t size, bool book, CUmemGenericAllocationHandle *ret)
{
        struct handle *h;
        int device, r;
        CUresult checked = check_prop(prop, &device);

        if (checked != CUDA_SUCCESS)
                return checked;
        h = calloc(1, sizeof(*h));
        if (!h)
                return CUDA_ERROR_OUT_OF_MEMORY;
        h->on_device = prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
        h->booked = book && h->on_device;
        r = h->booked ? stub_take_bytes((uint32_t)device, size) : 0;
        if (r) {
                free(h);
                return stub_result(r);
        }
        h->prop = *prop;
        h->size = size;
        h->device = (uint32_t)device;
        h->references = h->owned = 1;
        pthread_mutex_lock(&lock);
        h->number = ++last_number;
        h->next = handles;
        handles = h;
        pthread_mutex_unlock(&lock);
        *ret = h->number;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                          unsigned long long flags)
{
        if (!handle || size == 0 || size % GRANULE || flags)
                return CUDA_ERROR_INVALID_VALUE;
        return new_handle(prop, size, true, handle);
}

CUresult impl_cuMemRelease(CUmemGenericAllocationHandle handle)
{
        CUresult r = CUDA_ERROR_INVALID_VALUE;
        struct handle *h;

        pthread_mutex_lock(&lock);
        h = find(handle);
        if (h && h->owned) {
                h->owned--;
                unreference(h);
                r = CUDA_SUCCESS;
        }
        pthread_mutex_unlock(&lock);
        return r;
}

CUresult impl_cuMemAddressReserve(CUdeviceptr *dptr, size_t size, size_t alignment, CUdeviceptr hint,
                                  unsigned long long flags)
{
        struct stub_block *b;

        (void)hint;
        if (!dptr || size == 0 || size % GRANULE || flags || (alignment & (alignment - 1)) || alignment > GRANULE)
                return CUDA_ERROR_INVALID_VALUE;
        b = stub_block_new(size, size, STUB_RESERVED, 0, NULL);
        if (!b)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *dptr = b->address;
        return CUDA_SUCCESS;
}

static bool overlaps(const struct mapping *m, uint64_t address, uint64_t size)
{
        return m->address < address + size && address < m->address + m->size;
}

CUresult impl_cuMemAddressFree(CUdeviceptr dptr, size_t size)
{
        struct stub_block *b = stub_block_at(dptr);
        CUresult r = CUDA_SUCCESS;

        if (!b || b->kind != STUB_RESERVED || b->size != size)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        for (struct mapping *m = mappings; m; m = m->next) {
                if (overlaps(m, dptr, size))
                        r = CUDA_ERROR_INVALID_VALUE;
        }
        pthread_mutex_unlock(&lock);
        if (r == CUDA_SUCCESS && (b = stub_block_take(dptr)))
                stub_block_free(b);
        return r;
}

CUresult impl_cuMemMap(CUdeviceptr dptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                       unsigned long long flags)
{
        struct stub_block *b = stub_block_around(dptr);
        struct mapping *m = NULL;
        struct handle *h;
        CUresult r = CUDA_ERROR_INVALID_VALUE;

        if (!b || b->kind != STUB_RESERVED || size == 0 || size % GRANULE || dptr % GRANULE || offset || flags ||
            size > b->address + b->size - dptr)
                return r;
        pthread_mutex_lock(&lock);
        h = find(handle);
        if (!h || size != h->size)
                goto out;
        for (m = mappings; m && !overlaps(m, dptr, size); m = m->next)
                ;
        if (m)
                goto out;
        m = calloc(1, sizeof(*m));
        r = m ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
        if (m) {
                *m = (struct mapping){mappings, dptr, size, h, CU_MEM_ACCESS_FLAGS_PROT_NONE};
                mappings = m;
                h->references++;
        }
out:
        pthread_mutex_unlock(&lock);
        return r;
}

CUresult impl_cuMemUnmap(CUdeviceptr dptr, size_t size)
{
        uint64_t found = 0;

        if (size == 0 || size % GRANULE)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        for (struct mapping *m = mappings; m; m = m->next) {
                if (m->address >= dptr && m->address + m->size <= dptr + size)
                        found += m->size;
        }
        for (struct mapping **at = &mappings; found == size && *at;) {
                struct mapping *m = *at;

                if (m->address >= dptr && m->address + m->size <= dptr + size) {
                        *at = m->next;
                        unreference(m->handle);
                        free(m);
                } else {
                        at = &m->next;
                }
        }
        pthread_mutex_unlock(&lock);
        return found == size ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuMemSetAccess(CUdeviceptr dptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
        uint64_t found = 0;

        if (!desc || count == 0 || size == 0)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        for (struct mapping *m = mappings; m; m = m->next) {
                if (m->address >= dptr && m->address + m->size <= dptr + size) {
                        found += m->size;
                        m->access = desc[0].flags;
                }
        }
        pthread_mutex_unlock(&lock);
        return found == size ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult impl_cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr dptr)
{
        CUresult r = CUDA_ERROR_INVALID_VALUE;

        if (!flags || !location)
                return r;
        pthread_mutex_lock(&lock);
        for (struct mapping *m = mappings; m; m = m->next) {
                if (dptr >= m->address && dptr < m->address + m->size) {
                        *flags = (unsigned long long)m->access;
                        r = CUDA_SUCCESS;
                }
        }
        pthread_mutex_unlock(&lock);
        return r;
}

CUresult impl_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
        uint64_t at = (uint64_t)(uintptr_t)address;
        CUresult r = CUDA_ERROR_INVALID_VALUE;

        if (!handle)
                return r;
        pthread_mutex_lock(&lock);
        for (struct mapping *m = mappings; m; m = m->next) {
                if (at >= m->address && at < m->address + m->size) {
                        m->handle->references++;
                        m->handle->owned++;
                        *handle = m->handle->number;
                        r = CUDA_SUCCESS;
                        break;
                }
        }
        pthread_mutex_unlock(&lock);
        return r;
}

CUresult impl_cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                            CUmemAllocationGranularity_flags option)
{
        int device;

        (void)option;
        if (!granularity)
                return CUDA_ERROR_INVALID_VALUE;
        *granularity = GRANULE;
        return check_prop(prop, &device);
}

CUresult impl_cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle)
{
        struct handle *h;

        pthread_mutex_lock(&lock);
        h = find(handle);
        if (h && prop)
                *prop = h->prop;
        pthread_mutex_unlock(&lock);
        return h && prop ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* A shared handle is a small file that says how large the memory is; who imports it books nothing. */
struct shared {
        uint64_t magic, size;
        CUmemAllocationProp prop;
};
#define SHARED_MAGIC 0x7375626d656dULL

CUresult impl_cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                           CUmemAllocationHandleType type, unsigned long long flags)
{
        struct shared s = {.magic = SHARED_MAGIC};
        struct handle *h;
        int fd;

        if (!out || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_INVALID_VALUE;
        pthread_mutex_lock(&lock);
        h = find(handle);
        if (h) {
                s.size = h->size;
                s.prop = h->prop;
        }
        pthread_mutex_unlock(&lock);
        if (!h || !(s.prop.requestedHandleTypes & type))
                return CUDA_ERROR_INVALID_VALUE;
        fd = memfd_create("stub-cuda", MFD_CLOEXEC);
        if (fd < 0 || write(fd, &s, sizeof(s)) != (ssize_t)sizeof(s))
                return CUDA_ERROR_OPERATING_SYSTEM;
        *(int *)out = fd;
        return CUDA_SUCCESS;
}

CUresult impl_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *os_handle,
                                             CUmemAllocationHandleType type)
{
        struct shared s;

        if (!handle || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
                return CUDA_ERROR_INVALID_VALUE;
        if (pread((int)(intptr_t)os_handle, &s, sizeof(s), 0) != (ssize_t)sizeof(s) || s.magic != SHARED_MAGIC)
                return CUDA_ERROR_INVALID_VALUE;
        return new_handle(&s.prop, s.size, false, handle);
}

/* Memory of another process by an IPC handle. */
struct ipc {
        uint64_t magic, address, size;
        int32_t slot;
        uint32_t device;
};
#define IPC_MAGIC 0x7375626970ULL

CUresult impl_cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr dptr)
{
        struct stub_block *b = stub_block_around(dptr);
        struct ipc ipc;

        if (!handle || !b || b->kind != STUB_PLAIN)
                return CUDA_ERROR_INVALID_VALUE;
        ipc = (struct ipc){IPC_MAGIC, b->address, b->size, stub_own_slot, b->device};
        memset(handle, 0, sizeof(*handle));
        memcpy(handle, &ipc, sizeof(ipc));
        return CUDA_SUCCESS;
}

CUresult impl_cuIpcOpenMemHandle_v2(CUdeviceptr *dptr, CUipcMemHandle handle, unsigned int flags)
{
        struct stub_block *b;
        struct ipc ipc;

        STUB_CONTEXT_OR_RETURN(ctx);
        if (!dptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
                return CUDA_ERROR_INVALID_VALUE;
        memcpy(&ipc, &handle, sizeof(ipc));
        if (ipc.magic != IPC_MAGIC)
                return CUDA_ERROR_INVALID_HANDLE;
        if (ipc.slot == stub_own_slot)
                return CUDA_ERROR_INVALID_CONTEXT;      /* a process does not open its own */
        b = stub_block_new(ipc.size, ipc.size, STUB_IMPORTED, ipc.device, ctx);
        if (!b)
                return CUDA_ERROR_OUT_OF_MEMORY;
        *dptr = b->address;
        return CUDA_SUCCESS;
}

CUresult impl_cuIpcOpenMemHandle(CUdeviceptr *dptr, CUipcMemHandle handle, unsigned int flags)
{
        return impl_cuIpcOpenMemHandle_v2(dptr, handle, flags);
}

CUresult impl_cuIpcCloseMemHandle(CUdeviceptr dptr)
{
        struct stub_block *b = stub_block_at(dptr);

        if (!b || b->kind != STUB_IMPORTED || !(b = stub_block_take(dptr)))
                return CUDA_ERROR_INVALID_VALUE;
        stub_block_free(b);
        return CUDA_SUCCESS;
}
