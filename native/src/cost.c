#include "cost.h"

#include <string.h>

#define SHARED 0.99                              /* below this part of its time a batch had company */

/* One of the lowest: the eighth part of what is kept may be lower, so that one odd batch does not set the price. */
static double low(const struct slice_cost *cost)
{
        float sorted[SLICE_COST_KEPT];
        unsigned count = cost->next < SLICE_COST_KEPT ? cost->next : SLICE_COST_KEPT;

        memcpy(sorted, cost->each_ns, sizeof(sorted));
        for (unsigned i = 1; i < count; i++)
                for (unsigned j = i; j > 0 && sorted[j] < sorted[j - 1]; j--) {
                        float swap = sorted[j];
                        sorted[j] = sorted[j - 1];
                        sorted[j - 1] = swap;
                }
        return (double)sorted[count / 8];
}

double slice_cost_of(struct slice_cost *cost, unsigned launches, double elapsed_ns, double even_ns)
{
        if (elapsed_ns <= 0 || launches == 0)
                return 0;
        cost->each_ns[cost->next % SLICE_COST_KEPT] = (float)(elapsed_ns / launches);
        /* Counts on without bound, but never back to "few kept". */
        cost->next = cost->next + 1 < 2 * SLICE_COST_KEPT ? cost->next + 1 : SLICE_COST_KEPT;
        if (even_ns >= elapsed_ns * SHARED)
                return elapsed_ns;
        double alone = low(cost) * launches;
        if (alone > SLICE_TURN_NS * 1.05)
                return even_ns;
        return alone < elapsed_ns ? alone : elapsed_ns;
}
