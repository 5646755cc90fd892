/* The list of pretend cards: see devices.h and state.h. */
#include "devices.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_DEVICES "1x24564MiB"

static int bad(const char *text)
{
        fprintf(stderr, "stub driver: STUB_CUDA_DEVICES=%s is not like 2x24564MiB or 24564MiB,8192MiB\n", text);
        return -EINVAL;
}

/* One entry: "24564MiB" or "2x24564MiB". Moves *at behind it. */
static int parse_entry(const char **at, uint64_t *ret_count, uint64_t *ret_bytes)
{
        char *end;
        uint64_t n = strtoull(*at, &end, 10);

        *ret_count = 1;
        if (*end == 'x') {
                *ret_count = n;
                n = strtoull(end + 1, &end, 10);
        }
        if (strncmp(end, "MiB", 3) != 0 || n == 0 || n > 1ULL << 22)
                return -EINVAL;
        *ret_bytes = n * MIB;
        *at = end + 3;
        return 0;
}

int stub_devices_parse(struct stub_state *state, const char *text)
{
        const char *at = text && *text ? text : DEFAULT_DEVICES;
        const char *all = at;
        uint32_t n = 0;

        if (strcmp(at, "none") == 0)
                return 0;
        for (;;) {
                uint64_t count, bytes;

                if (parse_entry(&at, &count, &bytes) < 0 || count > STUB_DEVICES - n)
                        return bad(all);
                while (count--) {
                        state->device[n].total = bytes;
                        atomic_store(&state->device[n].present, 1);
                        n++;
                }
                if (*at == '\0')
                        return 0;
                if (*at++ != ',')
                        return bad(all);
        }
}

uint32_t stub_device_count(void)
{
        uint32_t n = 0;

        for (uint32_t i = 0; i < STUB_DEVICES; i++)
                n += atomic_load(&stub_state->device[i].present) != 0;
        return n;
}

int stub_device_at(uint32_t n)
{
        for (uint32_t i = 0; i < STUB_DEVICES; i++) {
                if (atomic_load(&stub_state->device[i].present) && n-- == 0)
                        return (int)i;
        }
        return -1;
}

int stub_fault_of(const char *symbol)
{
        for (int i = 0; i < STUB_FAULTS; i++) {
                struct stub_fault *f = &stub_state->fault[i];

                if (atomic_load(&f->left) <= 0)
                        continue;
                if (strcmp(f->symbol, "*") != 0 && strcmp(f->symbol, symbol) != 0)
                        continue;
                if (atomic_fetch_sub(&f->left, 1) > 0)
                        return f->result;
        }
        return 0;
}

void stub_uuid_bytes(uint32_t device, unsigned char ret[16])
{
        static const unsigned char first[16] = {0x5a, 0xfe, 0, 0, 0, 0, 0x40, 0, 0x80};

        memcpy(ret, first, sizeof(first));
        ret[15] = (unsigned char)device;
}

void stub_uuid_text(uint32_t device, char *ret)
{
        snprintf(ret, 41, "GPU-5afe0000-0000-4000-8000-%012x", device & 0xff);
}

/* Does /proc/<pid> belong to the process that calls itself `inner` in the namespace `inode`? */
static bool is_that_process(const char *pid, int inner, uint64_t inode)
{
        char path[64], line[256];
        struct stat st;
        FILE *f;
        bool same = false;

        snprintf(path, sizeof(path), "/proc/%.20s/ns/pid", pid);
        if (stat(path, &st) < 0 || st.st_ino != inode)
                return false;
        snprintf(path, sizeof(path), "/proc/%.20s/status", pid);
        f = fopen(path, "re");
        if (!f)
                return false;
        while (fgets(line, sizeof(line), f)) {
                if (strncmp(line, "NSpid:", 6) == 0) {
                        const char *last = strrchr(line, '\t');

                        same = last && atoi(last + 1) == inner;
                        break;
                }
        }
        fclose(f);
        return same;
}

int stub_pid_here(uint32_t slot)
{
        const struct stub_slot *s = &stub_state->slot[slot];
        struct stat st;
        struct dirent *entry;
        DIR *proc;
        int found = 0;

        if (s->pid_namespace == 0 || (stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == s->pid_namespace))
                return s->pid;
        proc = opendir("/proc");
        if (!proc)
                return 0;
        while (!found && (entry = readdir(proc))) {
                if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
                    is_that_process(entry->d_name, s->pid, s->pid_namespace))
                        found = atoi(entry->d_name);
        }
        closedir(proc);
        return found;
}
