/* The truth check: what NVML says that this process holds, against what we have charged it.
 *
 * Promise: memory that no hook saw (contexts, modules, local memory, library workspaces, imports) is charged as overhead
 * within a second of its use, and before an allocation is refused; where NVML is missing or does not know this process,
 * what is charged counts. Nothing waits: a thread that finds another one checking goes on. No thread of our own.
 * It settles the debts of the dead (account.h), too.
 * Under ACTIVE_OOM_KILLER a slice above its hard limit ends the process of its own that holds most, if that is this one.
 */
#ifndef SLICE_TRUTH_H
#define SLICE_TRUTH_H

#include <stdatomic.h>
#include <stdint.h>

/* Look now, at all devices: a refusal is about to happen, or a context has begun. At most every 10 ms. */
void slice_truth_check(void);

/* Ask NVML now whether the driver has back what the dead owe, if any do; not where another thread looks just now. */
void slice_truth_settle(void);

/* From every hook that allocates: looks when the last look is a second old. A few ns: a coarse clock every 16th call. */
extern _Thread_local unsigned slice_truth_calls __attribute__((visibility("hidden"), tls_model("initial-exec")));
void slice_truth_look(void);
static inline void slice_truth_tick(void)
{
        if (__builtin_expect((slice_truth_calls++ & 15) == 0, 0))
                slice_truth_look();
}

#endif
