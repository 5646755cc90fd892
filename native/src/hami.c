/* HAMi's environment, as its device plugin writes it: what makes us a drop-in. Anything else is refused, never guessed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fault.h"
#include "settings.h"

#define MEMORY "CUDA_DEVICE_MEMORY_LIMIT"
#define CORES "CUDA_DEVICE_SM_LIMIT"
#define CACHE "CUDA_DEVICE_MEMORY_SHARED_CACHE"
#define REGION_SUFFIX ".labspawner"                     /* beside HAMi's cache file, which has another layout */
#define REGION_DEFAULT "/tmp/labspawner-slice.region"   /* where no cache file is named: one per container, as HAMi's */

static int refuse(struct slice_fault *fault, const char *variable, const char *value, const char *wanted)
{
        char shown[80];

        slice_show(value, strlen(value), shown, sizeof(shown));
        return slice_fault(fault, "%s=%s: %s", variable, shown, wanted);
}

/* "4096m", "4g", "65536k" or plain bytes; 1 byte to SLICE_UNLIMITED. */
static int parse_bytes(const char *value, uint64_t *ret)
{
        static const struct {
                char letter;
                unsigned shift;
        } units[] = {{'\0', 0}, {'k', 10}, {'K', 10}, {'m', 20}, {'M', 20}, {'g', 30}, {'G', 30}};
        size_t length = strspn(value, "0123456789");
        uint64_t number;

        if (length == 0 || (value[length] != '\0' && value[length + 1] != '\0'))
                return -EINVAL;
        for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
                if (units[i].letter != value[length])
                        continue;
                if (slice_decimal(value, length, SLICE_UNLIMITED >> units[i].shift, &number) < 0 || number == 0)
                        return -EINVAL;
                *ret = number << units[i].shift;
                return 0;
        }
        return -EINVAL;
}

/* The value for device `i`: "<name>_<i>", else "<name>"; `ret_name` is the variable it came from. NULL: neither is set. */
static const char *indexed(slice_getenv *get, const char *name, int i, char *ret_name, size_t room)
{
        snprintf(ret_name, room, "%s_%d", name, i);
        const char *value = get(ret_name);

        if (value == NULL) {
                snprintf(ret_name, room, "%s", name);
                value = get(ret_name);
        }
        return value;
}

/* One more than the highest device that `name`_<i> speaks of; 0: none does. */
static int highest(slice_getenv *get, const char *name)
{
        char variable[64];
        int count = 0;

        for (int i = 0; i < SLICE_MAX_DEVICES; i++) {
                snprintf(variable, sizeof(variable), "%s_%d", name, i);
                if (get(variable) != NULL)
                        count = i + 1;
        }
        return count;
}

/* The UUIDs of NVIDIA_VISIBLE_DEVICES in allocation order. Indices and "all" name no card for certain: ordinals then. */
static int visible(slice_getenv *get, struct slice_settings *set, struct slice_fault *fault)
{
        static const char variable[] = "NVIDIA_VISIBLE_DEVICES";
        const char *value = get(variable);
        int count = 0;

        if (value == NULL || (strncmp(value, "GPU-", 4) != 0 && strncmp(value, "MIG-", 4) != 0))
                return 0;
        for (const char *at = value; at != NULL; count++) {
                size_t length = strcspn(at, ",");

                if (count == SLICE_MAX_DEVICES)
                        return refuse(fault, variable, value, "more than 16 devices");
                if (length == 0 || length >= sizeof(set->device[0].uuid))
                        return refuse(fault, variable, value, "expected UUIDs with commas between, like GPU-1b2c...,GPU-3d4e...");
                memcpy(set->device[count].uuid, at, length);
                set->device[count].uuid[length] = '\0';
                at = at[length] == ',' ? at + length + 1 : NULL;
        }
        return count;
}

static int device_limits(slice_getenv *get, int i, bool memory_limited, struct slice_device_limit *device,
                         struct slice_fault *fault)
{
        char variable[64];
        uint64_t cores = 0;
        const char *value = indexed(get, MEMORY, i, variable, sizeof(variable));

        device->hard_bytes = SLICE_UNLIMITED;
        device->weight = 100;
        if (value == NULL && memory_limited)
                return slice_fault(fault, MEMORY "_%d is not set, but other devices have a limit: write " MEMORY "_%d=<MiB>m", i,
                                   i);
        if (value != NULL && parse_bytes(value, &device->hard_bytes) < 0)
                return refuse(fault, variable, value, "no size: write a whole number of MiB with m, like 4096m");
        device->soft_bytes = device->hard_bytes;
        value = indexed(get, CORES, i, variable, sizeof(variable));
        if (value != NULL && (value[0] == '\0' || value[strspn(value, "0123456789")] != '\0' ||
                              slice_decimal(value, strlen(value), 100, &cores) < 0))
                return refuse(fault, variable, value, "no percentage: write a whole number from 1 to 100, without a sign");
        device->cores_pct = cores == 0 ? 100 : (uint32_t)cores;   /* the plugin writes 0 where no cores were asked for */
        if (device->cores_pct < 100)
                device->weight = device->cores_pct;
        return 0;
}

static int parse_bool(slice_getenv *get, const char *variable, bool *ret, struct slice_fault *fault)
{
        const char *value = get(variable);

        *ret = value != NULL && (strcasecmp(value, "true") == 0 || strcmp(value, "1") == 0);
        if (value == NULL || *ret || value[0] == '\0' || strcasecmp(value, "false") == 0 || strcmp(value, "0") == 0)
                return 0;
        return refuse(fault, variable, value, "write true or false");
}

static int policy_and_switches(slice_getenv *get, struct slice_settings *set, struct slice_fault *fault)
{
        static const char names[][8] = {[SLICE_FAIR] = "default", [SLICE_CAP] = "force", [SLICE_OFF] = "disable"};
        const char *value = get("GPU_CORE_UTILIZATION_POLICY");

        set->policy = SLICE_FAIR;
        if (value != NULL && value[0] != '\0') {
                unsigned i = 0;

                while (i < 3 && strcasecmp(value, names[i]) != 0)
                        i++;
                if (i == 3)
                        return refuse(fault, "GPU_CORE_UTILIZATION_POLICY", value, "write default, force or disable");
                set->policy = (enum slice_policy)i;
        }
        value = get("CUDA_TASK_PRIORITY");
        if (value != NULL && value[0] != '\0') {
                if ((value[0] != '0' && value[0] != '1') || value[1] != '\0')
                        return refuse(fault, "CUDA_TASK_PRIORITY", value, "write 0 or 1");
                set->priority = value[0] - '0';
        }
        if (parse_bool(get, "CUDA_OVERSUBSCRIBE", &set->oversubscribe, fault) < 0)
                return -EINVAL;
        return parse_bool(get, "ACTIVE_OOM_KILLER", &set->oom_killer, fault);
}

/* The region stands beside the cache file that HAMi mounts for this container, and the slice is named after that. */
static int region(slice_getenv *get, struct slice_settings *set, struct slice_fault *fault)
{
        const char *cache = get(CACHE);

        strcpy(set->slice, "hami");
        set->make_region = true;
        if (cache == NULL || cache[0] == '\0') {
                strcpy(set->region_path, REGION_DEFAULT);
                return 0;
        }
        if (cache[0] != '/' || strlen(cache) + sizeof(REGION_SUFFIX) > sizeof(set->region_path))
                return refuse(fault, CACHE, cache, "write an absolute path of at most 240 characters");
        snprintf(set->region_path, sizeof(set->region_path), "%s" REGION_SUFFIX, cache);
        return 0;
}

int slice_hami_parse(slice_getenv *get, struct slice_settings *ret, struct slice_fault *fault)
{
        struct slice_settings set = {.log_level = 1, .source = SLICE_FROM_HAMI};
        int memory_highest = highest(get, MEMORY), cores_highest = highest(get, CORES);
        bool memory_limited = memory_highest > 0 || get(MEMORY) != NULL;

        if (!memory_limited && cores_highest == 0 && get(CORES) == NULL)
                return 1;
        int count = visible(get, &set, fault);
        if (count < 0)
                return count;
        if (count == 0 && memory_highest == 0 && cores_highest == 0)
                count = SLICE_MAX_DEVICES;   /* one limit for every card that the container can see */
        count = memory_highest > count ? memory_highest : count;
        set.device_count = cores_highest > count ? cores_highest : count;
        for (int i = 0; i < set.device_count; i++)
                if (device_limits(get, i, memory_limited, &set.device[i], fault) < 0)
                        return -EINVAL;
        if (policy_and_switches(get, &set, fault) < 0 || region(get, &set, fault) < 0)
                return -EINVAL;
        *ret = set;
        return 0;
}
