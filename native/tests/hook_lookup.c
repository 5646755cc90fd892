/* Questions to dlsym and its kin, one per command; "ok" and exit 0, or what was wrong and exit 1.
 *
 *      hook_lookup COMMAND [LIBRARY...]
 *
 * `hooked` below means: the address lies in libvgpu.so. */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/cuda_abi.h"

typedef int number(void);

#define EXPECT(condition)                                                                   \
        do {                                                                                \
                if (!(condition)) {                                                         \
                        const char *why = dlerror();                                        \
                        printf("line %d: %s (%s)\n", __LINE__, #condition, why ? why : ""); \
                        return 1;                                                           \
                }                                                                           \
        } while (0)

static bool lies_in(const void *address, const char *name)
{
        Dl_info info;

        return address && dladdr(address, &info) && info.dli_fname && strstr(info.dli_fname, name);
}

static bool hooked(const void *address)
{
        return lies_in(address, "libvgpu.so");
}

/* wrapper PATH: a library's own RTLD_NEXT works, again and again. */
static int ask_wrapper(char **argv)
{
        void *wrapper = dlopen(argv[0], RTLD_NOW);
        int (*finds)(const char *) = (int (*)(const char *))(size_t)dlsym(wrapper, "wrapper_finds_the_next");

        EXPECT(finds);
        EXPECT(finds(argv[0]) == 5);
        EXPECT(finds(argv[0]) == 5);
        EXPECT(dlsym(RTLD_DEFAULT, "printf"));
        EXPECT(!dlsym(RTLD_DEFAULT, "no_such_function_anywhere") && dlerror());
        return 0;
}

/* other PATH: somebody else's functions stay his, and there is no cuInit where there is no driver. */
static int ask_other(char **argv)
{
        void *other = dlopen(argv[0], RTLD_NOW | RTLD_LOCAL);
        number *alloc = (number *)(size_t)dlsym(other, "cuMemAlloc_v2"), *init = (number *)(size_t)dlsym(other, "nvmlInit_v2");
        number *version = (number *)(size_t)dlsym(other, "curl_version_number");

        EXPECT(alloc && alloc() == 4242);
        EXPECT(init && init() == 4243);
        EXPECT(version && version() == 4244);
        dlerror();
        EXPECT(!dlsym(RTLD_DEFAULT, "cuInit"));
        EXPECT(dlerror());
        EXPECT(!dlsym(RTLD_DEFAULT, "curl_version_number") && dlerror());
        EXPECT(!dlsym(RTLD_NEXT, "cuInit") && dlerror());
        EXPECT(!dlsym(dlopen(NULL, RTLD_NOW), "cuInit"));
        EXPECT(!dlsym(other, "cuInit") && dlerror());
        void *global = dlopen(argv[0], RTLD_NOW | RTLD_GLOBAL);
        EXPECT(global && dlsym(RTLD_DEFAULT, "cuMemAlloc_v2") == (void *)(size_t)alloc);
        return 0;
}

/* driver: the driver's functions are hooked, whatever way they are asked for. */
static int ask_driver(char **argv)
{
        (void)argv;
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

        EXPECT(driver);
        EXPECT(hooked(dlsym(driver, "cuMemAlloc_v2")));
        EXPECT(hooked(dlsym(driver, "cuInit")));
        EXPECT(hooked(dlsym(driver, "cuMemAllocAsync_ptsz")));
        EXPECT(lies_in(dlsym(driver, "cuDriverGetVersion"), "libcuda.so"));
        EXPECT(!dlsym(driver, "cuNoSuchFunction") && dlerror());
        EXPECT(!dlsym(RTLD_DEFAULT, "cuDriverGetVersion"));   /* it was opened with RTLD_LOCAL */
        driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
        EXPECT(hooked(dlsym(RTLD_DEFAULT, "cuMemAlloc_v2")));
        EXPECT(hooked(dlsym(RTLD_NEXT, "cuMemAlloc_v2")));
        EXPECT(hooked(dlsym(dlopen(NULL, RTLD_NOW), "cuMemAlloc_v2")));
        EXPECT(lies_in(dlsym(RTLD_DEFAULT, "cuDriverGetVersion"), "libcuda.so"));
        EXPECT(dlsym(driver, "cuMemAlloc_v2") == dlsym(driver, "cuMemAlloc_v2"));
        return 0;
}

/* closed: a driver that was closed and opened again is still hooked. */
static int ask_closed(char **argv)
{
        (void)argv;
        for (int i = 0; i < 3; i++) {
                void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

                EXPECT(driver && hooked(dlsym(driver, "cuMemAlloc_v2")));
                dlclose(driver);
        }
        return 0;
}

/* copy PATH: a second copy of the driver in the same namespace, and PATH's one in another. NULL in a slice. */
static int ask_copy(char **argv)
{
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        void *copy = dlopen(argv[0], RTLD_NOW | RTLD_LOCAL), *far = dlmopen(LM_ID_NEWLM, argv[0], RTLD_NOW | RTLD_LOCAL);

        EXPECT(driver && copy && far && copy != driver);
        EXPECT(hooked(dlsym(driver, "cuMemAlloc_v2")));
        EXPECT(!dlsym(copy, "cuMemAlloc_v2") && dlerror());
        EXPECT(!dlsym(copy, "cuGetProcAddress_v2") && !dlvsym(copy, "cuMemAlloc_v2", "libcuda.so.1"));
        EXPECT(!dlsym(far, "cuMemAlloc_v2") && dlerror());
        EXPECT(!dlsym(far, "cuInit") && !dlsym(far, "cuGetProcAddress"));
        return 0;
}

/* far PATH: a copy in another namespace, and no other one: NULL in a slice, a function of the copy without one. */
static int ask_far(char **argv)
{
        void *far = dlmopen(LM_ID_NEWLM, argv[0], RTLD_NOW | RTLD_LOCAL);
        void *found = far ? dlsym(far, "cuMemAlloc_v2") : NULL;

        EXPECT(far);
        puts(!found ? "nothing" : hooked(found) ? "hooked" : "bare");
        return 0;
}

static void *look_up_in_thread(void *data)
{
        pthread_barrier_wait(data);
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        bool good = driver && hooked(dlsym(driver, "cuMemAlloc_v2")) && hooked(dlsym(driver, "cuLaunchKernel")) &&
                    dlsym(RTLD_DEFAULT, "malloc");
        return good ? data : NULL;
}

/* threads: the first look at the driver, from many threads at once. */
static int ask_threads(char **argv)
{
        pthread_t thread[16];
        pthread_barrier_t barrier;
        void *good;

        (void)argv;
        pthread_barrier_init(&barrier, NULL, 16);
        for (int i = 0; i < 16; i++)
                EXPECT(pthread_create(&thread[i], NULL, look_up_in_thread, &barrier) == 0);
        for (int i = 0; i < 16; i++) {
                EXPECT(pthread_join(thread[i], &good) == 0);
                EXPECT(good);
        }
        return 0;
}

typedef CUresult proc_address(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);

/* lookup: the driver's own lookup gives hooks for hooked functions, for all versions and flags that it answers. */
static int ask_lookup(char **argv)
{
        static const int versions[] = { 11000, 11020, 11040, 12000, 12030, 12090, 13000 };
        static const char *const names[] = { "cuMemAlloc", "cuMemFree", "cuMemGetInfo", "cuLaunchKernel", "cuArray3DCreate" };
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *address;
        proc_address *ask = (proc_address *)(size_t)dlsym(driver, "cuGetProcAddress_v2");
        CUdriverProcAddressQueryResult status;

        (void)argv;
        EXPECT(hooked((void *)(size_t)ask));
        for (size_t v = 0; v < sizeof(versions) / sizeof(versions[0]); v++)
                for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
                        for (cuuint64_t flags = 0; flags <= 2; flags++) {
                                address = NULL;
                                EXPECT(ask(names[n], &address, versions[v], flags, &status) == CUDA_SUCCESS);
                                EXPECT(hooked(address));
                        }
        EXPECT(ask("cuDriverGetVersion", &address, 12000, 0, &status) == CUDA_SUCCESS && lies_in(address, "libcuda.so"));
        EXPECT(ask("cuGetProcAddress", &address, 12000, 0, &status) == CUDA_SUCCESS && hooked(address));
        address = &address;
        EXPECT(ask("cuNoSuchFunction", &address, 12000, 0, &status) != CUDA_SUCCESS);
        EXPECT(ask("cuMemAllocAsync", &address, 11020, 2, &status) == CUDA_SUCCESS && hooked(address));
        void *per_thread = address;
        EXPECT(ask("cuMemAllocAsync", &address, 11020, 1, &status) == CUDA_SUCCESS && hooked(address));
        EXPECT(address != per_thread);
        EXPECT(per_thread == dlsym(driver, "cuMemAllocAsync_ptsz") && address == dlsym(driver, "cuMemAllocAsync"));
        return 0;
}

/* versioned: dlvsym, for a symbol of this version and for the default one, is as good as dlsym. */
static int ask_versioned(char **argv)
{
        (void)argv;
        void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        void *versioned = dlvsym(driver, "cuMemAlloc_v2", "libcuda.so.1");

        EXPECT(hooked(dlsym(driver, "cuMemAlloc_v2")));
        EXPECT(!versioned || hooked(versioned));   /* an object without versions has all, or none, as the linker sees it */
        EXPECT(!dlvsym(RTLD_DEFAULT, "malloc", "NO_SUCH_VERSION"));
        return 0;
}

/* The address of a symbol as the driver's own table has it: what nobody can hook. */
static void *read_symbol(const struct link_map *map, const char *name)
{
        const ElfW(Sym) *symbols = NULL;
        const char *names = NULL;

        for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
                if (entry->d_tag == DT_SYMTAB)
                        symbols = (const ElfW(Sym) *)entry->d_un.d_ptr;
                else if (entry->d_tag == DT_STRTAB)
                        names = (const char *)entry->d_un.d_ptr;
        }
        /* The table of names follows the table of symbols, with every linker that we know. */
        for (const ElfW(Sym) *at = symbols; (const char *)at < names; at++)
                if (at->st_shndx != SHN_UNDEF && strcmp(names + at->st_name, name) == 0)
                        return (char *)map->l_addr + at->st_value;
        return NULL;
}

/* around BYTES: reads the driver's symbols by itself, and allocates past us. */
static int ask_around(char **argv)
{
        struct link_map *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        CUresult (*init)(unsigned) = (__typeof__(init))(size_t)read_symbol(driver, "cuInit");
        CUresult (*retain)(CUcontext *, CUdevice) = (__typeof__(retain))(size_t)read_symbol(driver, "cuDevicePrimaryCtxRetain");
        CUresult (*current)(CUcontext) = (__typeof__(current))(size_t)read_symbol(driver, "cuCtxSetCurrent");
        CUresult (*alloc)(CUdeviceptr *, size_t) = (__typeof__(alloc))(size_t)read_symbol(driver, "cuMemAlloc_v2");
        CUdeviceptr dptr;
        CUcontext context;

        EXPECT(init && retain && current && alloc && !hooked((void *)(size_t)alloc));
        EXPECT(init(0) == CUDA_SUCCESS && retain(&context, 0) == CUDA_SUCCESS && current(context) == CUDA_SUCCESS);
        EXPECT(alloc(&dptr, strtoull(argv[0], NULL, 10)) == CUDA_SUCCESS);
        return 0;
}

static const struct {
        const char *name;
        int (*ask)(char **argv);
        int arguments;
} commands[] = {
        { "wrapper", ask_wrapper, 1 }, { "other", ask_other, 1 },     { "driver", ask_driver, 0 }, { "closed", ask_closed, 0 },
        { "copy", ask_copy, 1 },       { "far", ask_far, 1 },         { "threads", ask_threads, 0 },
        { "lookup", ask_lookup, 0 },   { "versioned", ask_versioned, 0 }, { "around", ask_around, 1 },
};

int main(int argc, char **argv)
{
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
                if (argc < 2 || strcmp(argv[1], commands[i].name) != 0 || argc - 2 < commands[i].arguments)
                        continue;
                if (commands[i].ask(argv + 2))
                        return 1;
                puts("ok");
                return 0;
        }
        puts("no such question");
        return 2;
}
