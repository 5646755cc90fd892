#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "message.h"

/* Release store, acquire load: who sees the pointer sees the struct. Structs are never changed or freed: a reader may hold
 * one for good, and they are made only when somebody replaces a limits file. */
static _Atomic(const struct slice_settings *) in_force;

/* All of an open file, up to `room` bytes. How many, or -errno. */
static ssize_t read_whole(int descriptor, char *ret, size_t room)
{
        size_t length = 0;

        while (length < room) {
                ssize_t part = read(descriptor, ret + length, room - length);

                if (part < 0 && errno == EINTR)
                        continue;
                if (part < 0)
                        return -errno;
                if (part == 0)
                        break;
                length += (size_t)part;
        }
        return (ssize_t)length;
}

static int read_and_parse(int descriptor, const char *path, struct slice_settings *ret, struct slice_fault *fault)
{
        const size_t room = SLICE_LIMITS_MOST + 1;
        struct stat about;

        if (fstat(descriptor, &about) < 0 || !S_ISREG(about.st_mode))
                return slice_fault(fault, "%s is not a plain file", path);
        /* Not on the stack: a program's threads may have little of that. */
        char *text = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (text == MAP_FAILED)
                return slice_fault(fault, "%s cannot be read: no memory", path);
        ssize_t length = read_whole(descriptor, text, room);
        int bad = length < 0 ? slice_fault(fault, "%s cannot be read: %s", path, strerror((int)-length))
                             : slice_limits_parse(path, text, (size_t)length, ret, fault);
        munmap(text, room);
        return bad;
}

int slice_settings_read(const char *path, struct slice_settings *ret, struct slice_fault *fault)
{
        struct slice_settings set;

        if (strlen(path) >= sizeof(set.limits_path))
                return slice_fault(fault, "the path of the limits file is longer than 255 characters");
        /* O_NONBLOCK: a pipe at this place must not hang the program. */
        int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (descriptor < 0)
                return slice_fault(fault, "%s cannot be read: %s", path, strerror(errno));
        int bad = read_and_parse(descriptor, path, &set, fault);
        close(descriptor);
        if (bad < 0)
                return bad;
        strcpy(set.limits_path, path);
        *ret = set;
        return 0;
}

/* Whether `path` is there at all, in the sense of "a slice was mounted here": only a clear no is a no. */
static bool is_there(const char *path)
{
        struct stat about;

        return stat(path, &about) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static int log_level(slice_getenv *get)
{
        const char *value = get("LIBCUDA_LOG_LEVEL");

        /* No limit hangs on it, so anything odd is only the default. */
        return value != NULL && value[0] >= '0' && value[0] <= '4' && value[1] == '\0' ? value[0] - '0' : 1;
}

int slice_settings_find(const char *folder, slice_getenv *get, struct slice_settings *ret, struct slice_fault *fault)
{
        struct slice_settings set;
        char mounted[256];
        const char *named = get("LABSPAWNER_GPU_LIMITS");
        int outcome;

        snprintf(mounted, sizeof(mounted), "%s/limits", folder);
        /* The folder counts, not the file: it was mounted for a slice, and a missing file is no way out of it. */
        if (is_there(folder)) {
                outcome = slice_settings_read(mounted, &set, fault);
                set.source = SLICE_FROM_MOUNT;
        } else if (named != NULL && named[0] != '\0') {
                outcome = slice_settings_read(named, &set, fault);
                set.source = SLICE_FROM_NAMED_FILE;
        } else {
                outcome = slice_hami_parse(get, &set, fault);
        }
        if (outcome != 0)
                return outcome;
        set.log_level = log_level(get);
        *ret = set;
        return 0;
}

static const char *environment(const char *name)
{
        return secure_getenv(name);
}

int slice_settings_load(struct slice_settings *ret)
{
        struct slice_fault fault;
        int outcome = slice_settings_find(SLICE_LIMITS_FOLDER, environment, ret, &fault);

        if (outcome < 0)
                slice_complain("no GPU: %s", fault.text);
        else if (outcome == 0)
                slice_log_level(ret->log_level);
        return outcome;
}

const struct slice_settings *slice_settings_now(void)
{
        return atomic_load_explicit(&in_force, memory_order_acquire);
}

int slice_settings_publish(const struct slice_settings *settings)
{
        struct slice_settings *copy =
                mmap(NULL, sizeof(*copy), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (copy == MAP_FAILED)
                return -ENOMEM;
        *copy = *settings;
        atomic_store_explicit(&in_force, copy, memory_order_release);
        return 0;
}
