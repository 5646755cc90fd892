/* The limits file's grammar, read to the last byte or refused. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fault.h"
#include "settings.h"

#define LINE_MOST 400

struct reader {
        const char *name;
        const char *at, *end;
        int line;
        struct slice_fault *fault;
        char text[LINE_MOST];   /* the line being read */
};

static int refuse(const struct reader *in, const char *wanted)
{
        char shown[64];

        slice_show(in->text, strlen(in->text), shown, sizeof(shown));
        return slice_fault(in->fault, "%s, line %d: \"%s\": expected %s", in->name, in->line, shown, wanted);
}

/* The next line into in->text, without its end. -EINVAL: there is none, or it is too long, or not plain ASCII. */
static int next_line(struct reader *in, const char *wanted)
{
        size_t left = (size_t)(in->end - in->at);
        const char *stop = left > 0 ? memchr(in->at, '\n', left) : NULL;

        in->line++;
        if (stop == NULL)
                return slice_fault(in->fault, "%s is only half written: it ends in line %d, before \"end\"", in->name,
                                   in->line);
        size_t length = (size_t)(stop - in->at);
        for (size_t i = 0; i < length; i++)
                if (in->at[i] < ' ' || in->at[i] > '~')
                        return slice_fault(in->fault, "%s, line %d: byte 0x%02x: only printable ASCII may stand here",
                                           in->name, in->line, (unsigned char)in->at[i]);
        if (length >= sizeof(in->text))
                return slice_fault(in->fault, "%s, line %d is %zu characters long: expected %s", in->name, in->line,
                                   length, wanted);
        memcpy(in->text, in->at, length);
        in->text[length] = '\0';
        in->at = stop + 1;
        return 0;
}

/* What follows `key` at the start of `text`; NULL when it begins otherwise. */
static const char *after(const char *text, const char *key)
{
        size_t length = strlen(key);

        return strncmp(text, key, length) == 0 ? text + length : NULL;
}

static int slice_line(struct reader *in, struct slice_settings *set)
{
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
        static const char wanted[] = "\"slice <name>\", 1 to 63 letters, digits, dots, dashes and underscores";

        if (next_line(in, wanted) < 0)
                return -EINVAL;
        const char *value = after(in->text, "slice ");
        if (value == NULL || *value == '\0' || strlen(value) >= sizeof(set->slice) || value[strspn(value, allowed)] != '\0')
                return refuse(in, wanted);
        memcpy(set->slice, value, strlen(value) + 1);
        return 0;
}

/* "<key> <absolute path>" in the current line, into `ret` of `room` bytes. */
static int path_value(struct reader *in, const char *key, char *ret, size_t room)
{
        const char *value = after(in->text, key);
        char wanted[80];

        snprintf(wanted, sizeof(wanted), "\"%s<absolute path>\", at most %zu characters", key, room - 1);
        if (value == NULL || value[0] != '/' || strlen(value) >= room)
                return refuse(in, wanted);
        memcpy(ret, value, strlen(value) + 1);
        return 0;
}

static int policy_value(struct reader *in, struct slice_settings *set)
{
        static const char names[][8] = {[SLICE_FAIR] = "fair", [SLICE_CAP] = "cap", [SLICE_OFF] = "off"};
        const char *value = after(in->text, "policy ");

        for (unsigned i = 0; value != NULL && i < sizeof(names) / sizeof(names[0]); i++) {
                if (strcmp(value, names[i]) == 0) {
                        set->policy = (enum slice_policy)i;
                        return 0;
                }
        }
        return refuse(in, "\"policy fair\", \"policy cap\" or \"policy off\"");
}

/* "<key> 0" or "<key> 1" as the next line. */
static int bit_line(struct reader *in, const char *key, int *ret)
{
        char wanted[64];

        snprintf(wanted, sizeof(wanted), "\"%s0\" or \"%s1\"", key, key);
        if (next_line(in, wanted) < 0)
                return -EINVAL;
        const char *value = after(in->text, key);
        if (value == NULL || (value[0] != '0' && value[0] != '1') || value[1] != '\0')
                return refuse(in, wanted);
        *ret = value[0] - '0';
        return 0;
}

/* "<key><number>" at `*at`, 1 to `most`, then a space or the end of the line; moves past both. */
static int number_field(const char **at, const char *key, uint64_t most, uint64_t *ret)
{
        const char *digits = after(*at, key);
        size_t length = digits != NULL ? strspn(digits, "0123456789") : 0;

        if (length == 0 || digits[0] == '0' || (digits[length] != ' ' && digits[length] != '\0'))
                return -EINVAL;
        int bad = slice_decimal(digits, length, most, ret);
        *at = digits + length + (digits[length] == ' ');
        return bad;
}

static int device_line(struct reader *in, struct slice_settings *set)
{
        static const char wanted[] =
                "\"device <uuid> memory=<bytes> soft=<bytes> cores=<1..100> weight=<1..10000>\", whole numbers";
        const char *at = in->text + strlen("device ");
        size_t length = strcspn(at, " ");
        uint64_t hard = 0, soft = 0, cores = 0, weight = 0;

        if (set->device_count == SLICE_MAX_DEVICES)
                return refuse(in, "no more than 16 devices");
        struct slice_device_limit *device = &set->device[set->device_count];
        if (length == 0 || length >= sizeof(device->uuid) || at[length] != ' ')
                return refuse(in, wanted);
        memcpy(device->uuid, at, length);
        device->uuid[length] = '\0';
        at += length + 1;
        if (number_field(&at, "memory=", SLICE_UNLIMITED, &hard) < 0 ||
            number_field(&at, "soft=", SLICE_UNLIMITED, &soft) < 0 || number_field(&at, "cores=", 100, &cores) < 0 ||
            number_field(&at, "weight=", 10000, &weight) < 0 || *at != '\0' || at[-1] == ' ')
                return refuse(in, wanted);
        for (int i = 0; i < set->device_count; i++)
                if (strcmp(set->device[i].uuid, device->uuid) == 0)
                        return refuse(in, "each device once");
        device->hard_bytes = hard;
        device->soft_bytes = soft;
        device->cores_pct = (uint32_t)cores;
        device->weight = (uint32_t)weight;
        set->device_count++;
        return 0;
}

/* Region, optional node, policy. */
static int paths_and_policy(struct reader *in, struct slice_settings *set)
{
        if (next_line(in, "\"region <absolute path>\"") < 0 ||
            path_value(in, "region ", set->region_path, sizeof(set->region_path)) < 0 ||
            next_line(in, "\"node <absolute path>\" or \"policy ...\"") < 0)
                return -EINVAL;
        if (after(in->text, "node ") != NULL) {
                if (path_value(in, "node ", set->node_path, sizeof(set->node_path)) < 0 ||
                    next_line(in, "\"policy ...\"") < 0)
                        return -EINVAL;
        }
        return policy_value(in, set);
}

static int devices_and_end(struct reader *in, struct slice_settings *set)
{
        for (;;) {
                if (next_line(in, "\"device ...\" or \"end\"") < 0)
                        return -EINVAL;
                if (strcmp(in->text, "end") == 0)
                        break;
                if (after(in->text, "device ") == NULL)
                        return refuse(in, "\"device ...\" or \"end\"");
                if (device_line(in, set) < 0)
                        return -EINVAL;
        }
        if (set->device_count == 0)
                return refuse(in, "at least one \"device ...\" line before \"end\"");
        if (in->at != in->end)
                return slice_fault(in->fault, "%s, line %d: nothing may stand after \"end\"", in->name, in->line + 1);
        return 0;
}

int slice_limits_parse(const char *name, const char *text, size_t length, struct slice_settings *ret,
                       struct slice_fault *fault)
{
        struct reader in = {.name = name, .at = text, .end = text + length, .fault = fault};
        struct slice_settings set = {.log_level = 1};
        int oversubscribe = 0, killer = 0;

        if (length > SLICE_LIMITS_MOST)
                return slice_fault(fault, "%s is longer than %d bytes", name, SLICE_LIMITS_MOST);
        if (next_line(&in, "\"labspawner-limits 1\"") < 0)
                return -EINVAL;
        if (strcmp(in.text, "labspawner-limits 1") != 0)
                return refuse(&in, "\"labspawner-limits 1\"");
        if (slice_line(&in, &set) < 0 || paths_and_policy(&in, &set) < 0 || bit_line(&in, "priority ", &set.priority) < 0 ||
            bit_line(&in, "oversubscribe ", &oversubscribe) < 0 || bit_line(&in, "oom-killer ", &killer) < 0 ||
            devices_and_end(&in, &set) < 0)
                return -EINVAL;
        set.oversubscribe = oversubscribe != 0;
        set.oom_killer = killer != 0;
        *ret = set;
        return 0;
}
