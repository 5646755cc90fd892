/* dlsym and dlvsym for the names that may be the driver's; the assembly stubs send all others straight on. */
#include <dlfcn.h>
#include <string.h>

#include "lookup.h"
#include "state.h"

/* Written once by slice_lookup_find_next(), always with the same values; the assembly stubs read them. */
slice_dlsym_function *slice_next_dlsym;
slice_dlvsym_function *slice_next_dlvsym;

/* Weak, so that the linker asks for no version of it: ld.so would look that up at each exec, in about 1 us. It is there wherever dlsym
 * is, since debuggers need it. */
extern struct r_debug _r_debug __attribute__((weak));

extern ElfW(Dyn) _DYNAMIC[] __attribute__((visibility("hidden")));
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));

void slice_lookup_find_next(void);
void *slice_dlsym_ours(void *handle, const char *name, const void *caller);
void *slice_dlvsym_ours(void *handle, const char *name, const char *version, const void *caller);

static void *nothing(void *handle, const char *name)
{
        (void)handle;
        (void)name;
        return NULL;
}

static void *nothing_versioned(void *handle, const char *name, const char *version)
{
        (void)handle;
        (void)name;
        (void)version;
        return NULL;
}

/* What we need of an object's dynamic section. The linker has relocated the pointers in place. */
struct exports {
        const ElfW(Sym) *symbols;
        const char *names;
        const uint32_t *gnu_hash;
        const uint32_t *hash;
};

static struct exports exports_of(const struct link_map *map)
{
        struct exports found = { 0 };

        for (const ElfW(Dyn) *entry = map->l_ld; entry && entry->d_tag != DT_NULL; entry++) {
                /* The vDSO's section is not relocated: its pointers are offsets. */
                uintptr_t at = entry->d_un.d_ptr < map->l_addr ? entry->d_un.d_ptr + map->l_addr : entry->d_un.d_ptr;

                if (entry->d_tag == DT_SYMTAB)
                        found.symbols = (const ElfW(Sym) *)at;
                else if (entry->d_tag == DT_STRTAB)
                        found.names = (const char *)at;
                else if (entry->d_tag == DT_GNU_HASH)
                        found.gnu_hash = (const uint32_t *)at;
                else if (entry->d_tag == DT_HASH)
                        found.hash = (const uint32_t *)at;
        }
        return found;
}

/* Not the C library's: a sanitizer looks its functions up before its own strcmp can be called. */
static bool same(const char *a, const char *b)
{
        while (*a && *a == *b) {
                a++;
                b++;
        }
        return *a == *b;
}

static bool is_function(const struct exports *object, uint32_t index, const char *name)
{
        const ElfW(Sym) *symbol = &object->symbols[index];

        return symbol->st_shndx != SHN_UNDEF && ELF64_ST_TYPE(symbol->st_info) == STT_FUNC &&
               same(object->names + symbol->st_name, name);
}

/* The address of `name` as `map` itself exports it, of whatever version: glibc's versions of dlsym are one function.
 * dlsym cannot be asked for itself: dlvsym, the only call that takes a version, is one of our own exports. */
static void *exported(const struct link_map *map, const char *name)
{
        struct exports object = exports_of(map);

        if (!object.symbols || !object.names)
                return NULL;
        if (object.gnu_hash) {
                const uint32_t *head = object.gnu_hash;
                const uint32_t *buckets = head + 4 + head[2] * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
                const uint32_t *chains = buckets + head[0];
                uint32_t hash = 5381;

                for (const unsigned char *byte = (const unsigned char *)name; *byte; byte++)
                        hash = hash * 33 + *byte;
                uint32_t index = head[0] ? buckets[hash % head[0]] : 0;
                if (index < head[1])
                        return NULL;
                for (;; index++) {
                        uint32_t entry = chains[index - head[1]];

                        if ((entry | 1) == (hash | 1) && is_function(&object, index, name))
                                return (void *)(map->l_addr + object.symbols[index].st_value);
                        if (entry & 1)
                                return NULL;
                }
        }
        for (uint32_t index = 0; object.hash && index < object.hash[1]; index++)
                if (is_function(&object, index, name))
                        return (void *)(map->l_addr + object.symbols[index].st_value);
        return NULL;
}

static bool is_ours(const struct link_map *map)
{
        return map->l_ld == _DYNAMIC;
}

/* The next library after us that has dlsym: the C library, or another one that wraps it. Objects loaded at start are never
 * unloaded, and the C library is one of them, so the walk needs no lock. */
void slice_lookup_find_next(void)
{
        const struct link_map *map = _r_debug.r_map;
        void *dlsym_at = NULL, *dlvsym_at = NULL;

        while (map && !is_ours(map))
                map = map->l_next;
        map = map ? map->l_next : _r_debug.r_map;
        for (; map && !(dlsym_at && dlvsym_at); map = map->l_next) {
                dlsym_at = dlsym_at ? dlsym_at : exported(map, "dlsym");
                dlvsym_at = dlvsym_at ? dlvsym_at : exported(map, "dlvsym");
        }
        __atomic_store_n(&slice_next_dlvsym,
                         dlvsym_at ? (slice_dlvsym_function *)(uintptr_t)dlvsym_at : nothing_versioned, __ATOMIC_RELEASE);
        __atomic_store_n(&slice_next_dlsym, dlsym_at ? (slice_dlsym_function *)(uintptr_t)dlsym_at : nothing,
                         __ATOMIC_RELEASE);
}

slice_dlsym_function *slice_dlsym_next(void)
{
        slice_dlsym_function *next = __atomic_load_n(&slice_next_dlsym, __ATOMIC_ACQUIRE);

        if (!next) {
                slice_lookup_find_next();
                next = slice_next_dlsym;
        }
        return next;
}

static void *look_up(void *handle, const char *name, const char *version)
{
        slice_dlsym_function *next = slice_dlsym_next();

        return version ? slice_next_dlvsym(handle, name, version) : next(handle, name);
}

static struct link_map *object_of(const void *address)
{
        Dl_info info;
        struct link_map *map = NULL;

        return address && dladdr1(address, &info, (void **)&map, RTLD_DL_LINKMAP) ? map : NULL;
}

/* A lookup in `map` and what it needs. An object's map is a handle only after dlopen made it one. */
static void *look_up_in(const struct link_map *map, const char *name, const char *version)
{
        void *handle = map && map->l_name[0] ? dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD) : NULL;
        void *found = handle ? look_up(handle, name, version) : NULL;

        if (handle)
                dlclose(handle);
        return found;
}

/* No answer, and a message for dlerror as the linker writes it: the C library has no such name. Its handle is kept, since a
 * dlclose would take the message away. */
static void *refuse(const char *name)
{
        void *handle = atomic_load_explicit(&slice_state.c_library, memory_order_relaxed);

        if (!handle) {
                handle = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
                atomic_store_explicit(&slice_state.c_library, handle, memory_order_relaxed);
        }
        return handle ? look_up(handle, name, NULL) : NULL;
}

/* RTLD_NEXT means: after the caller. We call in the caller's place, so walk the objects after it, leaving ourselves out. */
static void *after(const void *caller, const char *name)
{
        const struct link_map *map = object_of(caller);

        for (map = map ? map->l_next : NULL; map; map = map->l_next) {
                void *found = is_ours(map) ? NULL : exported(map, name);

                if (found)
                        return found;
        }
        return refuse(name);
}

static bool in_our_image(const void *address)
{
        return (const char *)address >= __ehdr_start && (const char *)address < _end;
}

/* The name was found in us, because we stand first: what would it be without us? */
static void *without_us(const char *name, const char *version, const void *caller)
{
        void *found = look_up(RTLD_NEXT, name, version);

        if (found)
                return found;
        found = look_up_in(object_of(caller), name, version);   /* a library opened with RTLD_LOCAL sees what it needs */
        return found && !in_our_image(found) ? found : refuse(name);
}

static bool starts(const char *text, const char *with)
{
        return strncmp(text, with, strlen(with)) == 0;
}

/* Whether `map` is called like the library: by its soname, or by its file's name where that was changed. */
static bool is_called(const struct link_map *map, const char *prefix)
{
        const char *soname = NULL, *base = strrchr(map->l_name, '/');
        struct exports object = exports_of(map);

        for (const ElfW(Dyn) *entry = map->l_ld; entry && entry->d_tag != DT_NULL; entry++)
                if (entry->d_tag == DT_SONAME && object.names)
                        soname = object.names + entry->d_un.d_val;
        return (soname && starts(soname, prefix)) || starts(base ? base + 1 : map->l_name, prefix);
}

static bool is_another(const struct slice_symbol *symbol, void *name)
{
        return !symbol->hook || strcmp(symbol->name, name) != 0;
}

static bool is_hooked(enum slice_library library, const char *name)
{
        return !slice_each_symbol(library, is_another, (void *)(uintptr_t)name);
}

/* The answer for a name that begins like the driver's: decided by the address, not by the name. */
static void *answer(void *found, const char *name, const char *version, const void *caller)
{
        enum slice_library library = name[0] == 'n' ? SLICE_LIBNVML : SLICE_LIBCUDA;
        slice_function hook;
        struct link_map *map;

        if (found && in_our_image(found))
                found = without_us(name, version, caller);
        if (!found)
                return NULL;
        hook = slice_hook_at(found);
        if (hook)
                return (void *)(uintptr_t)hook;
        if (!is_hooked(library, name))
                return found;
        map = object_of(found);
        if (!map || !is_called(map, library == SLICE_LIBNVML ? "libnvidia-ml.so" : "libcuda.so"))
                return found;   /* somebody else's function of this name */
        if (slice_driver_adopt(library, map)) {
                hook = slice_hook_at(found);
                return hook ? (void *)(uintptr_t)hook : found;
        }
        return slice_is_limited() ? refuse(name) : found;
}

/* The lookup as the caller would have it. */
static void *look_up_for(void *handle, const char *name, const char *version, const void *caller)
{
        void *found;

        if (handle == RTLD_NEXT)
                return after(caller, name);
        found = look_up(handle, name, version);
        if (!found && handle == RTLD_DEFAULT) {   /* a library opened with RTLD_LOCAL also sees what it needs */
                found = look_up_in(object_of(caller), name, version);
                if (!found)
                        refuse(name);   /* dlclose may have cleared the message */
        }
        return found;
}

void *slice_dlsym_ours(void *handle, const char *name, const void *caller)
{
        return answer(look_up_for(handle, name, NULL, caller), name, NULL, caller);
}

void *slice_dlvsym_ours(void *handle, const char *name, const char *version, const void *caller)
{
        return answer(look_up_for(handle, name, version, caller), name, version, caller);
}
