/* Which address is hooked, and which object is the driver.
 *
 * Promise: an address that the driver's own lookup gave is answered with our hook exactly when it is one of the driver's
 * hooked entry points; every other address, and every name of another library, comes back as it is. The driver is the first
 * object called libcuda.so* (libnvidia-ml.so*) of the program's own namespace; it stays loaded. Another copy of it is
 * not handed out (NULL, with a message for dlerror) unless this process has no slice at all.
 * Locks: none of ours; the dynamic linker's own while it looks up. Safe in constructors, threads and after fork.
 */
#ifndef SLICE_LOOKUP_H
#define SLICE_LOOKUP_H

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum slice_library { SLICE_LIBCUDA, SLICE_LIBNVML, SLICE_LIBRARIES };

typedef void (*slice_function)(void);

/* A hooked or needed symbol of the driver. */
struct slice_symbol {
        const char *name;
        slice_function hook;    /* NULL: needed, not hooked */
        size_t offset;          /* of its member in struct slice_cuda or slice_nvml */
};

/* Show `seen` each symbol of a library, from the hook lists (driver.c), until it says false; whether it never did. */
typedef bool slice_symbol_seen(const struct slice_symbol *symbol, void *about);
bool slice_each_symbol(enum slice_library library, slice_symbol_seen *seen, void *about);

/* The hook of an address, NULL when it is not hooked. */
slice_function slice_hook_at(const void *address);
/* Remember that the driver's function at `address` is answered with `hook`. Idempotent. */
void slice_hook_put(const void *address, slice_function hook);

/* What the real cuGetProcAddress gave for (`name`, `version`, `flags`): the hook for it, or `address`. `ask` calls the real
 * one again for another version. */
typedef void *slice_ask(const char *name, int version, uint64_t flags);
void *slice_hook_for(void *address, const char *name, int version, uint64_t flags, slice_ask *ask);

/* The dynamic linker's view of the driver, NULL while it is not loaded. */
struct link_map *slice_driver_object(enum slice_library library);
/* Whether `map` is the driver; the first such object becomes it. */
bool slice_driver_adopt(enum slice_library library, struct link_map *map);

/* The C library's dlsym and dlvsym, or those of the next library that has them. */
typedef void *slice_dlsym_function(void *handle, const char *name);
typedef void *slice_dlvsym_function(void *handle, const char *name, const char *version);
slice_dlsym_function *slice_dlsym_next(void);

#endif
