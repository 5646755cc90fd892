/* The state file: see state.h. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "devices.h"

#define INIT_BYTE ((off_t)1 << 40)      /* locked while the file is made */

struct stub_state *_Atomic stub_state;
struct stub_options stub_options = {.pool_chunk = 32 * MIB};
int stub_own_slot = -1;
static int state_fd = -1;
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t stub_now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static int lock_byte(int fd, off_t byte, short type, bool wait)
{
        struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

        while (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock) < 0) {
                if (errno != EINTR)
                        return -errno;
        }
        return 0;
}

static off_t slot_byte(uint32_t slot)
{
        return INIT_BYTE + 1 + (off_t)slot;
}

static bool is_locked(uint32_t slot)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot_byte(slot), .l_len = 1};

        return fcntl(state_fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

bool stub_slot_is_alive(uint32_t slot)
{
        if ((int)slot == stub_own_slot)
                return true;
        return atomic_load_explicit(&stub_state->slot[slot].taken, memory_order_acquire) && is_locked(slot);
}

/* Of a dead process that held something: whether the card has it back. Whoever sees first that it is dead starts the time. */
static bool is_torn_down(uint32_t slot)
{
        uint64_t now = stub_now(), died = 0;

        if (!stub_state->teardown_ns)
                return true;
        if (atomic_compare_exchange_strong_explicit(&stub_state->slot[slot].died, &died, now, memory_order_relaxed,
                                                    memory_order_relaxed))
                return false;
        return now >= died + stub_state->teardown_ns;
}

static int make_robust(pthread_mutex_t *mutex)
{
        pthread_mutexattr_t attr;
        int r;

        pthread_mutexattr_init(&attr);
        pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
        r = pthread_mutex_init(mutex, &attr);
        pthread_mutexattr_destroy(&attr);
        return -r;
}

static int fill(struct stub_state *s)
{
        const char *teardown;
        int r = make_robust(&s->slots_lock);

        for (uint32_t i = 0; !r && i < STUB_DEVICES; i++)
                r = make_robust(&s->device[i].lock);
        if (!r)
                r = stub_devices_parse(s, getenv("STUB_CUDA_DEVICES"));
        if (r)
                return r;
        if ((teardown = getenv("STUB_CUDA_TEARDOWN_MS")))
                s->teardown_ns = strtoull(teardown, NULL, 10) * 1000000ULL;
        s->layout = STUB_LAYOUT;
        s->size_kib = sizeof(*s) >> 10;
        s->driver_version = 13000;
        s->next_id = 1;
        s->magic = STUB_MAGIC;
        return 0;
}

/* Maps the file, and fills it when it is new. The lock on INIT_BYTE makes one process do so. */
static int map_file(int fd)
{
        struct stat st;
        struct stub_state *s;
        int r = lock_byte(fd, INIT_BYTE, F_WRLCK, true);

        if (r)
                return r;
        r = fstat(fd, &st) < 0 ? -errno : 0;
        if (!r && st.st_size != 0 && st.st_size != (off_t)sizeof(*s))
                r = -EINVAL;
        if (!r && st.st_size == 0 && ftruncate(fd, sizeof(*s)) < 0)
                r = -errno;
        if (r)
                goto out;
        s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (s == MAP_FAILED) {
                r = -errno;
                goto out;
        }
        if (s->magic == 0)
                r = fill(s);
        else if (s->magic != STUB_MAGIC || s->layout != STUB_LAYOUT)
                r = -EINVAL;
        if (r)
                munmap(s, sizeof(*s));
        else
                stub_state = s;
out:
        lock_byte(fd, INIT_BYTE, F_UNLCK, false);
        return r;
}

static void read_options(void)
{
        const char *text;

        if ((text = getenv("STUB_CUDA_CONTEXT_MIB")))
                stub_options.context_bytes = strtoull(text, NULL, 10) * MIB;
        if ((text = getenv("STUB_CUDA_MODULE_MIB")))
                stub_options.module_bytes = strtoull(text, NULL, 10) * MIB;
        if ((text = getenv("STUB_CUDA_POOL_CHUNK_MIB")) && strtoull(text, NULL, 10))
                stub_options.pool_chunk = strtoull(text, NULL, 10) * MIB;
        stub_options.small_chunks = (text = getenv("STUB_CUDA_SMALL_CHUNKS")) && text[0] == '1';
        stub_options.alternate = (text = getenv("STUB_CUDA_ALTERNATE")) && text[0] == '1';
}

static int open_unlocked(void)
{
        char path[256];
        const char *given = getenv("STUB_CUDA_STATE");
        int fd, r;

        if (stub_state)
                return 0;
        if (given && *given)
                snprintf(path, sizeof(path), "%s", given);
        else
                snprintf(path, sizeof(path), "/dev/shm/labspawner-stub-cuda-%u", (unsigned int)geteuid());
        read_options();
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0)
                return -errno;
        (void)!fchmod(fd, 0666);        /* a server of another user may be shown the same cards; not ours: as it is */
        r = map_file(fd);
        if (r) {
                close(fd);
                return r;
        }
        state_fd = fd;
        return 0;
}

int stub_state_open(void)
{
        int r;

        pthread_mutex_lock(&open_lock);
        r = open_unlocked();
        pthread_mutex_unlock(&open_lock);
        return r;
}

static void lock_slots(void)
{
        if (pthread_mutex_lock(&stub_state->slots_lock) == EOWNERDEAD)
                pthread_mutex_consistent(&stub_state->slots_lock);
}

static void clear_slot(uint32_t slot)
{
        struct stub_slot *s = &stub_state->slot[slot];

        for (uint32_t d = 0; d < STUB_DEVICES; d++) {
                stub_lock_device(d);
                stub_state->device[d].used -= s->use[d].held;
                memset(&s->use[d], 0, sizeof(s->use[d]));
                stub_unlock_device(d);
        }
}

static void describe_self(struct stub_slot *s)
{
        struct stat st;
        int fd;
        ssize_t n = 0;

        atomic_store_explicit(&s->died, 0, memory_order_relaxed);
        s->pid = (int32_t)getpid();
        s->pid_namespace = stat("/proc/self/ns/pid", &st) < 0 ? 0 : st.st_ino;
        memset(s->name, 0, sizeof(s->name));
        fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
                n = read(fd, s->name, sizeof(s->name) - 1);
                close(fd);
        }
        if (n > 0 && s->name[n - 1] == '\n')
                s->name[n - 1] = '\0';
}

/* Whether nobody lives in the slot, and nothing is left of who did. */
static bool is_vacant(uint32_t slot)
{
        uint64_t held = 0;

        for (uint32_t d = 0; d < STUB_DEVICES; d++)
                held += stub_state->slot[slot].use[d].held;
        return !is_locked(slot) && (held == 0 || is_torn_down(slot));
}

/* Takes the first slot that is vacant. `slots_lock` keeps it so; and it is marked as free before it is locked, or what the
 * dead one held would look like a living one's until it is cleared. */
static int take_slot(void)
{
        int r = -EMFILE;

        lock_slots();
        for (uint32_t i = 0; i < STUB_SLOTS; i++) {
                struct stub_slot *s = &stub_state->slot[i];

                if (!is_vacant(i))
                        continue;
                atomic_store_explicit(&s->taken, 0, memory_order_release);
                if (lock_byte(state_fd, slot_byte(i), F_WRLCK, false) < 0)
                        continue;
                stub_own_slot = (int)i;
                clear_slot(i);
                describe_self(s);
                if (i >= stub_state->slots_used)
                        stub_state->slots_used = i + 1;
                atomic_store_explicit(&s->taken, 1, memory_order_release);
                r = 0;
                break;
        }
        pthread_mutex_unlock(&stub_state->slots_lock);
        return r;
}

int stub_state_join(void)
{
        int r;

        pthread_mutex_lock(&open_lock);
        r = open_unlocked();
        if (!r && stub_own_slot < 0)
                r = take_slot();
        pthread_mutex_unlock(&open_lock);
        return r;
}

void stub_state_leave(void)
{
        if (!stub_state)
                return;
        if (stub_own_slot >= 0) {
                lock_slots();
                clear_slot((uint32_t)stub_own_slot);
                atomic_store_explicit(&stub_state->slot[stub_own_slot].taken, 0, memory_order_release);
                pthread_mutex_unlock(&stub_state->slots_lock);
        }
}

void stub_state_forget(void)
{
        if (stub_state)
                munmap(stub_state, sizeof(*stub_state));
        if (state_fd >= 0)
                close(state_fd);
        stub_state = NULL;
        state_fd = -1;
        stub_own_slot = -1;
        pthread_mutex_init(&open_lock, NULL);   /* a child of fork: another thread may have held it */
}

static void repair(uint32_t device)
{
        uint64_t used = 0;

        for (uint32_t i = 0; i < stub_state->slots_used; i++)
                used += stub_state->slot[i].use[device].held;
        stub_state->device[device].used = used;
}

void stub_lock_device(uint32_t device)
{
        pthread_mutex_t *lock = &stub_state->device[device].lock;

        if (pthread_mutex_lock(lock) == EOWNERDEAD) {
                repair(device);
                pthread_mutex_consistent(lock);
        }
}

void stub_unlock_device(uint32_t device)
{
        pthread_mutex_unlock(&stub_state->device[device].lock);
}

void stub_reap(uint32_t device)
{
        for (uint32_t i = 0; i < stub_state->slots_used; i++) {
                struct stub_use *use = &stub_state->slot[i].use[device];

                if ((use->held == 0 && use->submitted == use->done && use->contexts == 0) || stub_slot_is_alive(i))
                        continue;
                atomic_store_explicit(&use->submitted, use->done, memory_order_relaxed);
                if (use->held && !is_torn_down(i))
                        continue;
                stub_state->device[device].used -= use->held;
                use->held = 0;
                use->managed = 0;
                use->contexts = 0;
        }
}

int stub_take_bytes(uint32_t device, uint64_t bytes)
{
        struct stub_device *d = &stub_state->device[device];
        struct stub_use *use = &stub_state->slot[stub_own_slot].use[device];
        int r = 0;

        stub_lock_device(device);
        if (d->present != 1)
                r = -ENODEV;
        /* The dead go before a peak is noted and before memory is refused; a busy card below its peak asks nobody. */
        else if (d->used + bytes > d->peak || d->used + bytes > d->total)
                stub_reap(device);
        if (!r && (bytes > d->total || d->used > d->total - bytes))
                r = -ENOMEM;
        if (!r) {
                use->held += bytes;     /* the own line first: a death between the two is repaired from the lines */
                d->used += bytes;
                if (d->used > d->peak)
                        d->peak = d->used;
                if (use->held > use->peak)
                        use->peak = use->held;
        }
        stub_unlock_device(device);
        return r;
}

void stub_give_bytes(uint32_t device, uint64_t bytes)
{
        stub_lock_device(device);
        stub_state->slot[stub_own_slot].use[device].held -= bytes;
        stub_state->device[device].used -= bytes;
        stub_unlock_device(device);
}

void stub_read_bytes(uint32_t device, uint64_t *ret_used, uint64_t *ret_total)
{
        stub_lock_device(device);
        stub_reap(device);
        *ret_used = stub_state->device[device].used;
        *ret_total = stub_state->device[device].total;
        stub_unlock_device(device);
}
