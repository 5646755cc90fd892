/* Which cards a process sees as which ordinals: CUDA_VISIBLE_DEVICES, read once at cuInit, as the real driver does. */
#include <stdlib.h>
#include <string.h>

#include "devices.h"
#include "driver.h"

static struct {
        bool limited;
        uint32_t count;
        uint32_t card[STUB_DEVICES];
} visible;

/* A card by number or by the beginning of its UUID; -1: no such card. */
static int find(const char *word, size_t length)
{
        char *end, text[48];
        unsigned long n = strtoul(word, &end, 10);

        if (length && end == word + length)
                return n < STUB_DEVICES ? stub_device_at((uint32_t)n) : -1;
        for (uint32_t d = 0; length > 4 && d < STUB_DEVICES; d++) {
                stub_uuid_text(d, text);
                if (atomic_load(&stub_state->device[d].present) && strncmp(text, word, length) == 0)
                        return (int)d;
        }
        return -1;
}

void stub_visible_read(void)
{
        const char *at = getenv("CUDA_VISIBLE_DEVICES");

        visible.limited = at != NULL;
        visible.count = 0;
        while (at && *at) {
                size_t length = strcspn(at, ",");
                int card = find(at, length);

                if (card < 0)
                        return;         /* the list ends at the first that does not exist */
                for (uint32_t i = 0; i < visible.count; i++) {
                        if (visible.card[i] == (uint32_t)card) {
                                visible.count = 0;      /* named twice: none at all */
                                return;
                        }
                }
                visible.card[visible.count++] = (uint32_t)card;
                at += length + (at[length] == ',');
        }
}

uint32_t stub_visible_count(void)
{
        return visible.limited ? visible.count : stub_device_count();
}

int stub_ordinal(CUdevice device)
{
        if (device < 0)
                return -1;
        if (!visible.limited)
                return stub_device_at((uint32_t)device);
        return (uint32_t)device < visible.count ? (int)visible.card[device] : -1;
}

CUdevice stub_ordinal_of(uint32_t device)
{
        CUdevice n = 0;

        if (!visible.limited) {
                for (uint32_t i = 0; i < device; i++)
                        n += atomic_load(&stub_state->device[i].present) != 0;
                return n;
        }
        while ((uint32_t)n < visible.count && visible.card[n] != device)
                n++;
        return n;
}
