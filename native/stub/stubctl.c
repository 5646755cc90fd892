/* stubctl: looks at the pretend cards and meddles with them, from outside. Answers are one line of JSON.
 *
 *      stubctl status                          cards, and who holds what
 *      stubctl reset                           peaks and faults forgotten, dead processes taken out
 *      stubctl add <MiB> | remove <n> | lose <n> | restore <n>     a card more; one less; one that fell off the bus
 *      stubctl fault <symbol|*> <calls> <result>                   the next calls fail so
 *      stubctl version <n>                     what cuDriverGetVersion says, 13000 for 13.0
 *
 * Which cards: STUB_CUDA_STATE. Exit status: 0; 1 it could not; 2 wrong arguments.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "state.h"

static const char *json_name(const char *name, char *ret)
{
        char *to = ret;

        for (const char *at = name; *at && at < name + 32; at++) {
                if ((unsigned char)*at < 0x20 || *at == '"' || *at == '\\')
                        *to++ = '?';
                else
                        *to++ = *at;
        }
        *to = '\0';
        return ret;
}

static void print_processes(uint32_t device)
{
        const char *comma = "";
        char name[40];

        for (uint32_t i = 0; i < stub_state->slots_used; i++) {
                struct stub_slot *s = &stub_state->slot[i];
                struct stub_use *use = &s->use[device];

                if (!stub_slot_is_alive(i) ||
                    !(use->held || use->contexts || use->launches || use->done || use->managed))
                        continue;
                printf("%s{\"slot\":%u,\"pid\":%d,\"name\":\"%s\",\"held\":%" PRIu64 ",\"peak\":%" PRIu64
                       ",\"managed\":%" PRIu64 ",\"contexts\":%u,\"busy_ns\":%" PRIu64 ",\"queued_ns\":%" PRIu64
                       ",\"launches\":%" PRIu64 "}",
                       comma, i, s->pid, json_name(s->name, name), use->held, use->peak, use->managed, use->contexts,
                       (uint64_t)use->done, use->submitted - use->done, (uint64_t)use->launches);
                comma = ",";
        }
}

static int status(void)
{
        uint64_t now = stub_now();

        printf("{\"version\":%d,\"now_ns\":%" PRIu64 ",\"devices\":[", atomic_load(&stub_state->driver_version), now);
        for (uint32_t n = 0, count = stub_device_count(); n < count; n++) {
                uint32_t d = (uint32_t)stub_device_at(n);
                struct stub_device *device = &stub_state->device[d];
                char uuid[48];

                stub_uuid_text(d, uuid);
                stub_lock_device(d);
                stub_play(d, now);
                stub_reap(d);
                printf("%s{\"device\":%u,\"uuid\":\"%s\",\"lost\":%s,\"total\":%" PRIu64 ",\"used\":%" PRIu64
                       ",\"peak\":%" PRIu64 ",\"busy_ns\":%" PRIu64 ",\"processes\":[",
                       n ? "," : "", d, uuid, device->present == 2 ? "true" : "false", device->total, device->used,
                       device->peak, device->busy_ns);
                print_processes(d);
                stub_unlock_device(d);
                printf("]}");
        }
        printf("]}\n");
        return 0;
}

static int reset(void)
{
        for (uint32_t d = 0; d < STUB_DEVICES; d++) {
                struct stub_device *device = &stub_state->device[d];

                stub_lock_device(d);
                stub_reap(d);
                device->peak = device->used;
                for (uint32_t i = 0; i < STUB_SLOTS; i++)
                        stub_state->slot[i].use[d].peak = stub_state->slot[i].use[d].held;
                stub_unlock_device(d);
        }
        for (int i = 0; i < STUB_FAULTS; i++)
                atomic_store(&stub_state->fault[i].left, 0);
        atomic_store(&stub_state->faults, 0);
        return 0;
}

static int add_device(const char *mib)
{
        uint64_t bytes = strtoull(mib, NULL, 10) * MIB;

        for (uint32_t d = 0; bytes && d < STUB_DEVICES; d++) {
                if (atomic_load(&stub_state->device[d].present))
                        continue;
                stub_lock_device(d);
                stub_state->device[d].total = bytes;
                stub_state->device[d].peak = stub_state->device[d].used;
                atomic_store(&stub_state->device[d].present, 1);
                stub_unlock_device(d);
                return 0;
        }
        return 1;
}

static int set_present(const char *number, uint32_t present)
{
        unsigned long d = strtoul(number, NULL, 10);

        if (d >= STUB_DEVICES || !stub_state->device[d].total)
                return 1;
        stub_lock_device((uint32_t)d);
        atomic_store(&stub_state->device[d].present, present);
        stub_unlock_device((uint32_t)d);
        return 0;
}

static int fault(const char *symbol, const char *calls, const char *result)
{
        for (int i = 0; i < STUB_FAULTS; i++) {
                struct stub_fault *f = &stub_state->fault[i];

                if (atomic_load(&f->left) > 0)
                        continue;
                snprintf(f->symbol, sizeof(f->symbol), "%s", symbol);
                f->result = atoi(result);
                atomic_store(&f->left, atoll(calls));
                atomic_fetch_add(&stub_state->faults, 1);
                return 0;
        }
        return 1;
}

int main(int argc, char **argv)
{
        const char *verb = argc > 1 ? argv[1] : "";
        int r = stub_state_open();

        if (r < 0) {
                fprintf(stderr, "stubctl: the state file: %s\n", strerror(-r));
                return 1;
        }
        if (strcmp(verb, "status") == 0 && argc == 2)
                return status();
        if (strcmp(verb, "reset") == 0 && argc == 2)
                return reset();
        if (strcmp(verb, "add") == 0 && argc == 3)
                return add_device(argv[2]);
        if (strcmp(verb, "remove") == 0 && argc == 3)
                return set_present(argv[2], 0);
        if (strcmp(verb, "lose") == 0 && argc == 3)
                return set_present(argv[2], 2);
        if (strcmp(verb, "restore") == 0 && argc == 3)
                return set_present(argv[2], 1);
        if (strcmp(verb, "fault") == 0 && argc == 5)
                return fault(argv[2], argv[3], argv[4]);
        if (strcmp(verb, "version") == 0 && argc == 3) {
                atomic_store(&stub_state->driver_version, atoi(argv[2]));
                return 0;
        }
        fprintf(stderr, "usage: stubctl status | reset | add <MiB> | remove <n> | lose <n> | restore <n> | "
                        "fault <symbol|*> <calls> <result> | version <n>\n");
        return 2;
}
