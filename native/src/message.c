#include "message.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Relaxed everywhere: neither word says anything about other memory. A fork's child inherits "said" and stays silent. */
static struct {
        atomic_bool said;
        atomic_int level;
} messages = {.level = 1};

static void print(const char *format, va_list arguments)
{
        static const char prefix[] = "labspawner: ";
        char line[600];
        int kept = errno;

        memcpy(line, prefix, sizeof(prefix));
        int length = vsnprintf(line + sizeof(prefix) - 1, sizeof(line) - sizeof(prefix), format, arguments);
        if (length >= 0) {
                size_t end = strlen(line);

                line[end++] = '\n';
                /* Nobody to tell when stderr is closed or full: a guest says it once, or not at all. */
                ssize_t written = write(STDERR_FILENO, line, end);
                (void)written;
        }
        errno = kept;
}

void slice_complain(const char *format, ...)
{
        va_list arguments;

        if (atomic_exchange_explicit(&messages.said, true, memory_order_relaxed))
                return;
        va_start(arguments, format);
        print(format, arguments);
        va_end(arguments);
}

void slice_log(int level, const char *format, ...)
{
        va_list arguments;

        if (level > atomic_load_explicit(&messages.level, memory_order_relaxed))
                return;
        va_start(arguments, format);
        print(format, arguments);
        va_end(arguments);
}

void slice_log_level(int level)
{
        atomic_store_explicit(&messages.level, level, memory_order_relaxed);
}
