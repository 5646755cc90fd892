/* Finds settings and prints them: core_settings <mount folder>, with the rest in the environment.
 *
 * One line: "active <settings>", "none", or "refused <why>". Exit status 0 always: the line is the answer.
 * Without an argument: loads them twice, as the library does at cuInit and nvmlInit, and prints what came back.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "settings.h"

static void print(const struct slice_settings *set)
{
        static const char *const policies[] = {"fair", "cap", "off"};

        printf("active source=%d slice=%s region=%s node=%s policy=%s priority=%d oversubscribe=%d killer=%d log=%d make=%d",
               (int)set->source, set->slice, set->region_path, set->node_path, policies[set->policy], set->priority,
               set->oversubscribe, set->oom_killer, set->log_level, set->make_region);
        for (int i = 0; i < set->device_count; i++)
                printf(" device=%s,%" PRIu64 ",%" PRIu64 ",%u,%u", set->device[i].uuid, set->device[i].hard_bytes,
                       set->device[i].soft_bytes, set->device[i].cores_pct, set->device[i].weight);
        printf("\n");
}

static const char *from_environment(const char *name)
{
        return getenv(name);
}

int main(int argc, char **argv)
{
        struct slice_settings set = {0};
        struct slice_fault fault = {0};

        if (argc == 1) {
                int first = slice_settings_load(&set);

                printf("%d %d\n", first, slice_settings_load(&set));
                return 0;
        }
        switch (slice_settings_find(argv[1], from_environment, &set, &fault)) {
        case 0:
                print(&set);
                break;
        case 1:
                printf("none\n");
                break;
        default:
                printf("refused %s\n", fault.text);
        }
        return 0;
}
