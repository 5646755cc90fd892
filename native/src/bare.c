/* Instead of the compiler's start files (CMakeLists.txt): the name by which pthread_atfork() knows who asked. */
#include <stdint.h>

extern void *const __dso_handle __attribute__((visibility("hidden")));
void *const __dso_handle = (void *)(uintptr_t)&__dso_handle;
