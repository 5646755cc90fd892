/* Debts of the dead: what a killed process held, until the driver has it back. See region.h.
 *
 * Where the driver lists its processes by numbers that are ours too, it is asked: a debt is paid when the number is not in
 * the list, or stands for another process by now. Else nobody can tell: a debt is believed for DEBT_GRACE_NS after the death
 * was noted, or while the process is still ending, and never longer than SLICE_DEBT_OLD_NS.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "account_inside.h"

/* A driver needs tens of milliseconds for what a process had. No more than that: a program that starts alone notes only then
 * what the one before it left, perhaps long ago, and makes its context in this time. */
#define DEBT_GRACE_NS UINT64_C(200000000)
#define WAIT_FOR_DRIVER_NS UINT64_C(3000000)
#define PAUSE_US 200

/* A process as /proc tells of it. */
struct about {
        bool there;       /* there is one with this number, as far as can be seen */
        bool over;        /* it has no thread left: only its parent has not asked yet */
        uint64_t began_ns;
};

static bool read_stat(int32_t pid, char *ret, size_t room)
{
        char path[32];

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        int descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0)
                return false;
        ssize_t length = read(descriptor, ret, room - 1);
        close(descriptor);
        ret[length > 0 ? length : 0] = '\0';
        return length > 0;
}

/* A field of the line, as a number; the first one is 0. No sscanf: built with glibc 2.38, it needs that. */
static uint64_t number_in(const char *line, int field)
{
        uint64_t number = 0;

        for (; field > 0 && line != NULL; field--) {
                line = strchr(line, ' ');
                line = line != NULL ? line + 1 : NULL;
        }
        for (; line != NULL && *line >= '0' && *line <= '9'; line++)
                number = number * 10 + (uint64_t)(*line - '0');
        return number;
}

static struct about look_at(int32_t pid)
{
        enum { THREADS = 17, BEGAN = 19 };   /* counted from the state on, see proc(5) */
        struct about about = { false, false, 0 };
        char text[512];

        if (!read_stat(pid, text, sizeof(text)))
                return about;
        const char *behind_name = strrchr(text, ')');   /* a name may have any letter in it */
        if (behind_name == NULL || behind_name[1] != ' ')
                return about;
        const char *line = behind_name + 2;
        about.there = true;
        about.over = (line[0] == 'Z' || line[0] == 'X') && number_in(line, THREADS) <= 1;
        about.began_ns = number_in(line, BEGAN) * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK));
        return about;
}

static bool is_listed(int32_t pid, const uint32_t *pids, int count)
{
        for (int i = 0; i < count; i++)
                if (pids[i] == (uint32_t)pid)
                        return true;
        return false;
}

static bool is_paid(const struct slice_slot *owner, uint64_t namespace, const uint32_t *pids, int count)
{
        uint64_t now_ns = slice_boot_ns();
        /* A time to come is none of this clock's (a time namespace): not believed. */
        uint64_t age_ns = owner->died_boot_ns <= now_ns ? now_ns - owner->died_boot_ns : UINT64_MAX;
        bool near = owner->pid_namespace != 0 && owner->pid_namespace == namespace;

        if (!near)
                return age_ns >= DEBT_GRACE_NS;
        if (count >= 0 && !is_listed(owner->pid, pids, count))
                return true;
        struct about about = look_at(owner->pid);
        if (about.there && owner->joined_boot_ns != 0 && about.began_ns > owner->joined_boot_ns)
                return true;   /* numbers come again when all of a process has ended */
        if (count >= 0)
                return false;
        return age_ns >= (about.there && !about.over ? SLICE_DEBT_OLD_NS : DEBT_GRACE_NS);
}

uint64_t slice_owed(unsigned device)
{
        struct slice_region *region = slice_region_here(device);
        uint64_t owed = 0;

        if (region == NULL)
                return 0;
        for (uint32_t slot = 0, high = slice_high(region); slot < high; slot++)
                if (atomic_load_explicit(&region->slot[slot].state, memory_order_acquire) == SLICE_SLOT_OWES)
                        owed += atomic_load(&region->device[device].used[slot]) & SLICE_USED_MASK;
        return owed;
}

static void settle(struct slice_region *region, const uint32_t *pids, int count)
{
        uint64_t namespace = slice_own_namespace();
        int descriptor = -1;

        for (uint32_t slot = 0, high = slice_high(region); slot < high; slot++) {
                const struct slice_slot *owner = &region->slot[slot];
                uint32_t serial = owner->serial;

                if (atomic_load_explicit(&owner->state, memory_order_acquire) != SLICE_SLOT_OWES ||
                    !is_paid(owner, namespace, pids, count))
                        continue;
                if (descriptor < 0)
                        descriptor = slice_region_reopen(&slice_account.file, slice_settings_now()->region_path);
                if (descriptor < 0)
                        return;
                slice_region_forgive(&slice_account.file, descriptor, slot, serial);
        }
        if (descriptor >= 0)
                close(descriptor);
}

void slice_settle(const uint32_t *pids, int count)
{
        struct slice_region *region = slice_region_here(0);

        if (region == NULL)
                return;
        int before = slice_no_cancel(), kept = errno;
        settle(region, pids, count);
        errno = kept;
        slice_cancel_as(before);
}

static int charge_after_debts(unsigned device, uint64_t bytes, void (*settle_them)(void))
{
        uint64_t deadline_ns = 0;

        for (;;) {
                bool late = deadline_ns != 0 && slice_monotonic_ns() >= deadline_ns;

                settle_them();
                if (deadline_ns == 0)   /* from the first answer on: it may take a while to load NVML */
                        deadline_ns = slice_monotonic_ns() + WAIT_FOR_DRIVER_NS;
                struct slice_room room = slice_room(device);
                if (bytes > room.limit)
                        return -ENOMEM;
                if (room.used <= room.limit - bytes && slice_charge(device, bytes) == 0)
                        return 0;
                uint64_t owed = slice_owed(device);
                if (late || owed == 0 || room.used > room.limit - bytes + owed)
                        return -ENOMEM;
                slice_pause(PAUSE_US);
        }
}

int slice_charge_after_debts(unsigned device, uint64_t bytes, void (*settle_them)(void))
{
        int before = slice_no_cancel(), kept = errno;
        int outcome = charge_after_debts(device, bytes, settle_them);
        errno = kept;
        slice_cancel_as(before);
        return outcome;
}

void slice_account_with_driver(void)
{
        slice_account.owing = true;
}
