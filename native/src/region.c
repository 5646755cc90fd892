#include "region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t slice_boot_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_BOOTTIME, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Bytes of the file that must have pages for `device_count` devices. */
static off_t needed(uint32_t device_count)
{
        return (off_t)(offsetof(struct slice_region, device) + device_count * sizeof(struct slice_region_device));
}

/* Pages now, or an error now: later a full tmpfs would be a SIGBUS in the middle of the program. */
static int reserve(int descriptor, uint32_t device_count)
{
        int bad;

        do
                bad = fallocate(descriptor, 0, 0, needed(device_count)) < 0 ? errno : 0;
        while (bad == EINTR);
        return bad == EOPNOTSUPP || bad == ENOSYS ? 0 : -bad;
}

static int write_header(int descriptor, uint32_t device_count)
{
        struct slice_region_header header = {
                .magic = SLICE_REGION_MAGIC,
                .version = SLICE_REGION_VERSION,
                .device_count = device_count,
                .size = sizeof(struct slice_region),
                .created_ns = now_ns(),
        };

        ssize_t written = pwrite(descriptor, &header, sizeof(header), 0);
        return written == (ssize_t)sizeof(header) ? 0 : written < 0 ? -errno : -ENOSPC;
}

/* A file that has no name yet, or (where the file system knows no such files) the name `ret_name`. */
static int open_nameless(const char *path, char *ret_name, size_t room)
{
        const char *slash = strrchr(path, '/');

        snprintf(ret_name, room, "%.*s/", (int)(slash - path), path);
        int descriptor = open(ret_name, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (descriptor >= 0) {
                ret_name[0] = '\0';
                return descriptor;
        }
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
                return -errno;
        snprintf(ret_name, room, "%s.%ld.%llx", path, (long)getpid(), (unsigned long long)now_ns());
        descriptor = open(ret_name, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
        return descriptor < 0 ? -errno : descriptor;
}

/* Give the whole file its name, unless another process was quicker: then its file is the one. */
static int publish(int descriptor, const char *name, const char *path)
{
        char self[64];

        snprintf(self, sizeof(self), "/proc/self/fd/%d", descriptor);
        int bad = name[0] == '\0' ? linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) : link(name, path);
        return bad < 0 && errno != EEXIST ? -errno : 0;
}

static int make(const char *path, uint32_t device_count)
{
        char name[320];
        int descriptor = open_nameless(path, name, sizeof(name));

        if (descriptor < 0)
                return descriptor;
        int bad = ftruncate(descriptor, sizeof(struct slice_region)) < 0 ? -errno : reserve(descriptor, device_count);
        if (bad == 0)
                bad = write_header(descriptor, device_count);
        /* Every user of the container, as HAMi's own file; the umask is the program's. */
        if (bad == 0 && fchmod(descriptor, 0666) < 0)
                bad = -errno;
        if (bad == 0)
                bad = publish(descriptor, name, path);
        if (name[0] != '\0')
                unlink(name);
        close(descriptor);
        return bad;
}

static int open_file(const char *path, bool may_make, int device_count)
{
        int flags = O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (may_make ? O_NOFOLLOW : 0);
        int descriptor = open(path, flags);

        if (descriptor < 0 && errno == ENOENT && may_make) {
                int bad = make(path, (uint32_t)device_count);

                if (bad < 0)
                        return bad;
                descriptor = open(path, flags);
        }
        return descriptor < 0 ? -errno : descriptor;
}

static int map(int descriptor, struct slice_file *ret)
{
        struct stat about;

        if (fstat(descriptor, &about) < 0)
                return -errno;
        if (!S_ISREG(about.st_mode) || about.st_size != (off_t)sizeof(struct slice_region))
                return -EINVAL;
        void *region = mmap(NULL, sizeof(struct slice_region), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (region == MAP_FAILED)
                return -errno;
        /* Before any lock is taken: a child of fork must never keep the slot of its parent. */
        if (madvise(region, sizeof(struct slice_region), MADV_DONTFORK) < 0) {
                int bad = -errno;

                munmap(region, sizeof(struct slice_region));
                return bad;
        }
        ret->region = region;
        ret->device = about.st_dev;
        ret->inode = about.st_ino;
        ret->descriptor = descriptor;
        ret->owing = false;
        return 0;
}

/* Read with pread: a sparse first page on a full file system must not be a SIGBUS. */
static int check(int descriptor, uint32_t *ret_device_count)
{
        struct slice_region_header header;

        if (pread(descriptor, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
                return -EINVAL;
        if (header.magic != SLICE_REGION_MAGIC || header.version != SLICE_REGION_VERSION ||
            header.size != sizeof(struct slice_region))
                return -EINVAL;
        *ret_device_count = header.device_count < SLICE_MAX_DEVICES ? header.device_count : SLICE_MAX_DEVICES;
        return 0;
}

int slice_region_open(const char *path, bool may_make, int device_count, struct slice_file *ret)
{
        struct slice_file file;
        uint32_t known, wanted = (uint32_t)device_count;

        if (path[0] != '/' || device_count < 1 || device_count > SLICE_MAX_DEVICES)
                return -EINVAL;
        int descriptor = open_file(path, may_make, device_count);
        if (descriptor < 0)
                return descriptor;
        int bad = check(descriptor, &known);
        if (bad == 0)
                bad = reserve(descriptor, wanted > known ? wanted : known);
        if (bad == 0)
                bad = map(descriptor, &file);
        if (bad < 0) {
                close(descriptor);
                return bad;
        }
        if (wanted > known)
                __atomic_store_n(&file.region->header.device_count, wanted, __ATOMIC_RELAXED);
        *ret = file;
        return 0;
}

void slice_region_detach(struct slice_file *file)
{
        if (file->descriptor >= 0)
                close(file->descriptor);
        file->descriptor = -1;
}

void slice_region_close(struct slice_file *file)
{
        munmap(file->region, sizeof(struct slice_region));
        file->region = NULL;
        slice_region_detach(file);
}

int slice_region_reopen(const struct slice_file *file, const char *path)
{
        struct stat about;
        int descriptor = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

        if (descriptor < 0)
                return -errno;
        if (fstat(descriptor, &about) < 0 || about.st_dev != file->device || about.st_ino != file->inode) {
                close(descriptor);
                return -ESTALE;
        }
        return descriptor;
}

/* Lock or unlock `at` for the descriptor's open file description. 0 or -errno (-EAGAIN: somebody else has it). */
static int lock_byte(int descriptor, short type, off_t at)
{
        struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

        for (;;) {
                if (fcntl(descriptor, F_OFD_SETLK, &lock) == 0)
                        return 0;
                if (errno != EINTR)
                        return errno == EACCES ? -EAGAIN : -errno;
        }
}

static off_t byte_of(uint32_t slot)
{
        return (off_t)(offsetof(struct slice_region, slot) + slot * sizeof(struct slice_slot));
}

/* What the last owner left. Only with the lock of the slot. */
static void clear(struct slice_region *region, uint32_t slot)
{
        uint32_t count = __atomic_load_n(&region->header.device_count, __ATOMIC_RELAXED);

        for (uint32_t i = 0; i < count && i < SLICE_MAX_DEVICES; i++) {
                struct slice_line *line = &region->device[i].line[slot];

                /* seq_cst, like all writes to `used`: its decrease may let another one in. */
                atomic_store(&region->device[i].used[slot], 0);
                atomic_store_explicit(&line->launches, 0, memory_order_relaxed);
                atomic_store_explicit(&line->last_launch_ns, 0, memory_order_relaxed);
                atomic_store_explicit(&line->gpu_time_ns, 0, memory_order_relaxed);
                atomic_store_explicit(&line->managed_bytes, 0, memory_order_relaxed);
                atomic_store_explicit(&line->physical_bytes, 0, memory_order_relaxed);
                atomic_store_explicit(&line->overhead_bytes, 0, memory_order_relaxed);
                atomic_store_explicit(&line->peak_bytes, 0, memory_order_relaxed);
        }
}

static void introduce(struct slice_slot *slot)
{
        struct stat about;

        slot->pid = getpid();
        slot->pid_namespace = stat("/proc/self/ns/pid", &about) == 0 ? about.st_ino : 0;
        slot->joined_ns = now_ns();
        slot->joined_boot_ns = slice_boot_ns();
        slot->died_boot_ns = 0;
        slot->uid = geteuid();
        slot->serial++;
        memset(slot->comm, 0, sizeof(slot->comm));
        prctl(PR_GET_NAME, slot->comm);
        /* Release: who sees TAKEN sees who it is. */
        atomic_store_explicit(&slot->state, SLICE_SLOT_TAKEN, memory_order_release);
}

/* Whether the dead owner of a slot had anything. Only with the lock of the slot. */
static bool held_something(struct slice_region *region, uint32_t slot)
{
        uint32_t count = __atomic_load_n(&region->header.device_count, __ATOMIC_RELAXED);

        for (uint32_t i = 0; i < count && i < SLICE_MAX_DEVICES; i++)
                if (atomic_load(&region->device[i].used[slot]) & SLICE_USED_MASK)
                        return true;
        return false;
}

/* Mark that the dead owner of a slot owes. Only with the lock of the slot. A thread of it that was between addition and check
 * is no more; whether the driver had its bytes already, nobody knows. */
static void note_debt(struct slice_region *region, uint32_t slot)
{
        uint32_t count = __atomic_load_n(&region->header.device_count, __ATOMIC_RELAXED);

        for (uint32_t i = 0; i < count && i < SLICE_MAX_DEVICES; i++)
                atomic_fetch_and(&region->device[i].used[slot], SLICE_USED_MASK);
        region->slot[slot].died_boot_ns = slice_boot_ns();
        /* Release: who sees that it owes sees since when. */
        atomic_store_explicit(&region->slot[slot].state, SLICE_SLOT_OWES, memory_order_release);
}

static bool owes(const struct slice_region *region, uint32_t slot)
{
        return atomic_load_explicit(&region->slot[slot].state, memory_order_acquire) == SLICE_SLOT_OWES;
}

/* Whether a slot that we have just locked is not for us: its last owner owes. */
static bool is_spoken_for(const struct slice_file *file, uint32_t slot, bool forget_old)
{
        if (!file->owing || !held_something(file->region, slot))
                return false;
        if (!owes(file->region, slot))
                note_debt(file->region, slot);
        return !forget_old || slice_boot_ns() - file->region->slot[slot].died_boot_ns < SLICE_DEBT_OLD_NS;
}

/* The first slot that nobody holds and whose last owner owes nothing, locked. -EUSERS: none. */
static int lock_a_slot(const struct slice_file *file, bool forget_old)
{
        for (uint32_t slot = 0; slot < SLICE_SLOTS; slot++) {
                int bad = lock_byte(file->descriptor, F_WRLCK, byte_of(slot));

                if (bad == 0 && !is_spoken_for(file, slot, forget_old))
                        return (int)slot;
                if (bad == 0)
                        lock_byte(file->descriptor, F_UNLCK, byte_of(slot));
                else if (bad != -EAGAIN)
                        return bad == -EINVAL || bad == -ENOLCK ? -EOPNOTSUPP : bad;
        }
        return -EUSERS;
}

int slice_region_join(struct slice_file *file, uint32_t *ret_slot)
{
        struct slice_region_header *header = &file->region->header;
        int slot = lock_a_slot(file, false);

        if (slot == -EUSERS)   /* once more: who looks after the dead holds their slots for a moment */
                slot = lock_a_slot(file, true);
        if (slot == -EUSERS)
                atomic_fetch_add_explicit(&header->slots_refused, 1, memory_order_relaxed);
        if (slot < 0)
                return slot;
        clear(file->region, (uint32_t)slot);
        introduce(&file->region->slot[slot]);
        /* seq_cst, before our first charge: who charges and still sees the old value has published before we sum up, so we
         * see its charge. */
        uint32_t high = atomic_load(&header->slots_high), wanted = (uint32_t)slot + 1;
        while (high < wanted && !atomic_compare_exchange_weak(&header->slots_high, &high, wanted))
                ;
        *ret_slot = (uint32_t)slot;
        return 0;
}

/* Only with the lock of the slot. */
static void free_slot(struct slice_region *region, uint32_t slot)
{
        clear(region, slot);
        atomic_store_explicit(&region->slot[slot].state, SLICE_SLOT_FREE, memory_order_release);
}

int slice_region_reap(const struct slice_file *file, int descriptor)
{
        uint32_t high = atomic_load(&file->region->header.slots_high);
        int cleared = 0;

        for (uint32_t slot = 0; slot < high && slot < SLICE_SLOTS; slot++) {
                uint32_t state = atomic_load_explicit(&file->region->slot[slot].state, memory_order_acquire);

                if (state == SLICE_SLOT_FREE || (state == SLICE_SLOT_OWES && file->owing) ||
                    lock_byte(descriptor, F_WRLCK, byte_of(slot)) < 0)
                        continue;
                if (file->owing && held_something(file->region, slot)) {
                        note_debt(file->region, slot);
                } else {
                        free_slot(file->region, slot);
                        cleared++;
                }
                lock_byte(descriptor, F_UNLCK, byte_of(slot));
        }
        return cleared;
}

bool slice_region_forgive(const struct slice_file *file, int descriptor, uint32_t slot, uint32_t serial)
{
        if (lock_byte(descriptor, F_WRLCK, byte_of(slot)) < 0)
                return false;
        bool same = owes(file->region, slot) && file->region->slot[slot].serial == serial;
        if (same)
                free_slot(file->region, slot);
        lock_byte(descriptor, F_UNLCK, byte_of(slot));
        return same;
}

bool slice_region_alive(int descriptor, uint32_t slot)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte_of(slot), .l_len = 1};

        return fcntl(descriptor, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

bool slice_region_trylock(int descriptor)
{
        return lock_byte(descriptor, F_WRLCK, 0) == 0;
}

void slice_region_unlock(int descriptor)
{
        lock_byte(descriptor, F_UNLCK, 0);
}
