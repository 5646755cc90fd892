/* Joining the region, fork, and limits that change while we run. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "account_inside.h"
#include "message.h"

#define WAIT_TO_START_NS UINT64_C(2000000000)   /* another thread is at it: a file to open and up to 512 locks to try */
#define WAIT_FOR_FIRST_NS UINT64_C(100000000)
#define TIDY_NS UINT64_C(1000000000)

struct slice_account slice_account;

/* The kernel has cleared the page in a child of fork (MADV_WIPEONFORK); where it knows no such thing, we do. */
static void after_fork_in_child(void)
{
        memset(slice_here, 0, sizeof(*slice_here));
}

/* The page that slice_here points to from the first start on. -ENOMEM. */
static int make_here(void)
{
        if (slice_account.fork_handled)
                return 0;
        void *page = mmap(NULL, sizeof(struct slice_here), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED)
                return -ENOMEM;
        madvise(page, sizeof(struct slice_here), MADV_WIPEONFORK);
        slice_here = page;
        pthread_atfork(NULL, NULL, after_fork_in_child);
        slice_account.fork_handled = true;
        return 0;
}

static int prepare(const struct slice_settings *settings)
{
        /* One at a time. With a deadline: a child of fork may inherit it taken, by a thread that it has not. */
        static _Atomic uint32_t first;
        bool ours = slice_lock_soon(&first, slice_monotonic_ns() + WAIT_FOR_FIRST_NS);

        int bad = make_here();
        if (bad == 0 && slice_settings_now() == NULL)
                bad = slice_settings_publish(settings);
        if (ours)
                slice_unlock(&first);
        return bad;
}

static int explain(int bad, const char *path)
{
        switch (bad) {
        case -EINVAL:
                slice_complain("no GPU: %s is not a region of this version (size, magic or version): make the slice anew", path);
                break;
        case -ENOSPC:
                slice_complain("no GPU: %s has no room: the file system is full", path);
                break;
        case -EUSERS:
                slice_complain("no GPU: this slice already has %d processes: end some of them", SLICE_SLOTS);
                break;
        case -EOPNOTSUPP:
                slice_complain("no GPU: the file system of %s has no locks (F_OFD_SETLK)", path);
                break;
        default:
                slice_complain("no GPU: %s cannot be opened: %s", path, strerror(-bad));
        }
        return -EINVAL;
}

static void apply_limits(const struct slice_settings *settings)
{
        for (int i = 0; i < settings->device_count; i++)
                atomic_store_explicit(&slice_here->limit[i], settings->device[i].hard_bytes, memory_order_relaxed);
}

/* What the hot paths read. The region that was mapped to look stays mapped: another thread may be reading it. */
static void settle(const struct slice_settings *settings, struct slice_file *file, bool joined, uint32_t slot)
{
        struct slice_here *here = slice_here;

        slice_account.file = *file;
        atomic_store_explicit(&here->region, file->region, memory_order_relaxed);
        apply_limits(settings);
        /* One behind: the first charge reads the limits file again, which may have changed since it was read. */
        atomic_store_explicit(&here->generation,
                              atomic_load_explicit(&file->region->header.limits_generation, memory_order_relaxed) - 1,
                              memory_order_relaxed);
        atomic_store_explicit(&here->slot, slot, memory_order_relaxed);
        for (int i = 0; joined && i < settings->device_count; i++)
                atomic_store_explicit(&here->line[i], &file->region->device[i].line[slot], memory_order_relaxed);
        atomic_store_explicit(&here->device_count, (uint32_t)settings->device_count, memory_order_release);
        if (joined)
                atomic_store_explicit(&here->joined, 1, memory_order_release);
}

static int open_and_join(const struct slice_settings *settings, bool join)
{
        struct slice_file file;
        uint32_t slot = 0;
        int bad = slice_region_open(settings->region_path, settings->make_region, settings->device_count, &file);

        if (bad < 0)
                return bad;
        file.owing = slice_account.owing;
        if (join)
                bad = slice_region_join(&file, &slot);
        if (bad < 0) {
                slice_region_close(&file);
                return bad;
        }
        slice_region_detach(&file);
        settle(settings, &file, join, slot);
        return 0;
}

static int enter(bool join)
{
        struct slice_here *here = slice_here;
        const struct slice_settings *settings = slice_settings_now();
        _Atomic uint32_t *done = join ? &here->joined : &here->device_count;

        if (settings == NULL)
                return -EINVAL;
        int before = slice_no_cancel(), kept = errno, bad = 0;
        if (!slice_lock_soon(&here->starting, slice_monotonic_ns() + WAIT_TO_START_NS))
                bad = -EAGAIN;
        if (bad == 0) {
                if (atomic_load_explicit(done, memory_order_acquire) == 0)
                        bad = open_and_join(settings, join);
                slice_unlock(&here->starting);
        }
        if (bad < 0)
                bad = explain(bad, settings->region_path);
        errno = kept;
        slice_cancel_as(before);
        return bad;
}

int slice_account_start(const struct slice_settings *settings)
{
        if (prepare(settings) < 0)
                return explain(-ENOMEM, settings->region_path);
        return enter(true);
}

int slice_account_watch(const struct slice_settings *settings)
{
        if (prepare(settings) < 0)
                return explain(-ENOMEM, settings->region_path);
        return enter(false);
}

int slice_account_join(void)
{
        return slice_account.fork_handled ? enter(true) : -EINVAL;
}

void slice_account_look(void)
{
        if (slice_account.fork_handled)
                enter(false);
}

/* The hooks know the cards by their place in the settings, so only what is said about them may change. */
static bool same_cards(const struct slice_settings *a, const struct slice_settings *b)
{
        if (a->device_count != b->device_count || strcmp(a->region_path, b->region_path) != 0)
                return false;
        for (int i = 0; i < a->device_count; i++)
                if (strcmp(a->device[i].uuid, b->device[i].uuid) != 0)
                        return false;
        return true;
}

/* Nothing to publish then: what was published is never freed, and a file may be replaced by its like for ever. */
static bool same_limits(const struct slice_settings *a, const struct slice_settings *b)
{
        for (int i = 0; i < a->device_count; i++)
                if (a->device[i].hard_bytes != b->device[i].hard_bytes || a->device[i].soft_bytes != b->device[i].soft_bytes ||
                    a->device[i].cores_pct != b->device[i].cores_pct || a->device[i].weight != b->device[i].weight)
                        return false;
        return a->policy == b->policy && a->priority == b->priority && a->oversubscribe == b->oversubscribe &&
               a->oom_killer == b->oom_killer && strcmp(a->slice, b->slice) == 0 && strcmp(a->node_path, b->node_path) == 0;
}

/* Which file stands there now. False: none, or the same as before. */
static bool replaced(const char *path)
{
        struct stat about;

        if (stat(path, &about) < 0)
                return false;
        uint64_t changed_ns = (uint64_t)about.st_mtim.tv_sec * 1000000000u + (uint64_t)about.st_mtim.tv_nsec;
        if (about.st_ino == slice_account.limits_inode && changed_ns == slice_account.limits_changed_ns)
                return false;
        slice_account.limits_inode = about.st_ino;
        slice_account.limits_changed_ns = changed_ns;
        return true;
}

/* Under `starting`. What is in force stays in force when the new file is no good. */
static void reload(const struct slice_settings *old)
{
        struct slice_settings new;
        struct slice_fault fault;

        if (slice_settings_read(old->limits_path, &new, &fault) < 0) {
                slice_log(1, "limits stay as they were: %s", fault.text);
                return;
        }
        new.source = old->source;
        new.log_level = old->log_level;
        if (!same_cards(old, &new)) {
                slice_log(1, "limits stay as they were: %s names other devices or another region; processes must start anew",
                          old->limits_path);
                return;
        }
        if (same_limits(old, &new) || slice_settings_publish(&new) == 0)
                apply_limits(&new);
}

static void look_at_limits(bool always)
{
        struct slice_here *here = slice_here;
        const struct slice_settings *settings = slice_settings_now();
        struct slice_region *region = atomic_load_explicit(&here->region, memory_order_relaxed);
        int before = slice_no_cancel(), kept = errno;

        if (slice_lock_soon(&here->starting, 0)) {   /* else another thread is at it */
                /* Read before the file: a writer renames first, so a later change shows as another number again. */
                uint32_t generation = atomic_load(&region->header.limits_generation);

                if (settings->limits_path[0] != '\0' && (replaced(settings->limits_path) || always))
                        reload(settings);
                atomic_store_explicit(&here->generation, generation, memory_order_relaxed);
                slice_unlock(&here->starting);
        }
        errno = kept;
        slice_cancel_as(before);
}

void slice_account_catch_up(void)
{
        look_at_limits(true);
}

void slice_account_reap(void)
{
        int before = slice_no_cancel(), kept = errno;
        int descriptor = slice_region_reopen(&slice_account.file, slice_settings_now()->region_path);

        if (descriptor >= 0) {
                slice_region_reap(&slice_account.file, descriptor);
                close(descriptor);
        }
        errno = kept;
        slice_cancel_as(before);
}

bool slice_tidy(void)
{
        struct slice_here *here = slice_here;
        struct timespec now;

        if (atomic_load_explicit(&here->device_count, memory_order_acquire) == 0)
                return false;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        uint64_t due_ns = atomic_load_explicit(&here->tidy_ns, memory_order_relaxed);
        /* Relaxed: the winner of the exchange does the work, and nothing else hangs on this word. */
        if (now_ns < due_ns || !atomic_compare_exchange_strong_explicit(&here->tidy_ns, &due_ns, now_ns + TIDY_NS,
                                                                        memory_order_relaxed, memory_order_relaxed))
                return false;
        slice_stamp_launches();
        look_at_limits(false);
        slice_account_reap();
        return true;
}
