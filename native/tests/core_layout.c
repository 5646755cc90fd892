/* Prints the region's layout as JSON, for the Python side that mirrors it. */
#include <stdio.h>

#include "region.h"

#define FIELD(type, field) printf("%s\"" #field "\": [%zu, %zu]", first++ ? ", " : "", \
                                  offsetof(struct type, field), sizeof(((struct type *)0)->field))
#define BEGIN(type) do { int first = 0; printf("\"" #type "\": {")
#define END(type) printf("%s\"sizeof\": %zu}", first ? ", " : "", sizeof(struct type)); } while (0)

static void header(void)
{
        BEGIN(slice_region_header);
        FIELD(slice_region_header, magic);
        FIELD(slice_region_header, version);
        FIELD(slice_region_header, device_count);
        FIELD(slice_region_header, size);
        FIELD(slice_region_header, created_ns);
        FIELD(slice_region_header, slice);
        FIELD(slice_region_header, limits_generation);
        FIELD(slice_region_header, slots_high);
        FIELD(slice_region_header, refusals);
        FIELD(slice_region_header, slots_refused);
        END(slice_region_header);
}

static void refusal(void)
{
        BEGIN(slice_refusal);
        FIELD(slice_refusal, number);
        FIELD(slice_refusal, at_ns);
        FIELD(slice_refusal, asked_bytes);
        FIELD(slice_refusal, used_bytes);
        FIELD(slice_refusal, limit_bytes);
        FIELD(slice_refusal, device);
        FIELD(slice_refusal, pid);
        FIELD(slice_refusal, uid);
        FIELD(slice_refusal, slot);
        FIELD(slice_refusal, comm);
        FIELD(slice_refusal, who);
        FIELD(slice_refusal, api);
        END(slice_refusal);
}

static void slot_and_line(void)
{
        BEGIN(slice_slot);
        FIELD(slice_slot, state);
        FIELD(slice_slot, pid);
        FIELD(slice_slot, pid_namespace);
        FIELD(slice_slot, joined_ns);
        FIELD(slice_slot, uid);
        FIELD(slice_slot, serial);
        FIELD(slice_slot, comm);
        FIELD(slice_slot, joined_boot_ns);
        FIELD(slice_slot, died_boot_ns);
        END(slice_slot);
        printf(", ");
        BEGIN(slice_line);
        FIELD(slice_line, launches);
        FIELD(slice_line, last_launch_ns);
        FIELD(slice_line, gpu_time_ns);
        FIELD(slice_line, managed_bytes);
        FIELD(slice_line, physical_bytes);
        FIELD(slice_line, overhead_bytes);
        FIELD(slice_line, peak_bytes);
        END(slice_line);
}

static void device(void)
{
        BEGIN(slice_region_device);
        FIELD(slice_region_device, last_launch_ns);
        FIELD(slice_region_device, gpu_time_ns);
        FIELD(slice_region_device, physical_bytes);
        FIELD(slice_region_device, physical_at_ns);
        FIELD(slice_region_device, untracked_bytes);
        FIELD(slice_region_device, refusals);
        FIELD(slice_region_device, limiter);
        FIELD(slice_region_device, used);
        FIELD(slice_region_device, line);
        END(slice_region_device);
}

int main(void)
{
        printf("{\"constants\": {\"magic\": %llu, \"version\": %d, \"slots\": %d, \"devices\": %d, \"refusals\": %d, "
               "\"used_bits\": %d, \"size\": %zu, \"ring_at\": %zu, \"slots_at\": %zu, \"devices_at\": %zu}, ",
               (unsigned long long)SLICE_REGION_MAGIC, SLICE_REGION_VERSION, SLICE_SLOTS, SLICE_MAX_DEVICES, SLICE_REFUSALS,
               SLICE_USED_BITS, sizeof(struct slice_region), offsetof(struct slice_region, ring),
               offsetof(struct slice_region, slot), offsetof(struct slice_region, device));
        header();
        printf(", ");
        refusal();
        printf(", ");
        slot_and_line();
        printf(", ");
        device();
        printf("}\n");
        return 0;
}
