/* A wrapper of the classic kind: stands before the C library and asks RTLD_NEXT for the function it wraps, more than once. */
#include <dlfcn.h>
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int puts(const char *text);
EXPORT int wrapper_finds_the_next(const char *own_path);

static void *next(const char *name)
{
        return dlsym(RTLD_NEXT, name);
}

/* Only ever asked for, never called: what is printed goes through another function. */
int puts(const char *text)
{
        return (int)text[0];
}

/* How many of these questions were answered with another function than our own. */
int wrapper_finds_the_next(const char *own_path)
{
        void *own = dlsym(dlopen(own_path, RTLD_LAZY), "puts");
        int good = 0;

        for (int i = 0; i < 3; i++)
                good += next("puts") && next("puts") != own;
        good += dlvsym(RTLD_NEXT, "malloc", "GLIBC_2.2.5") != NULL || dlvsym(RTLD_NEXT, "malloc", "GLIBC_2.17") != NULL;
        good += next("no_such_function_anywhere") == NULL && dlerror() != NULL;
        return good;
}
