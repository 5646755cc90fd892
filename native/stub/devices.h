/* Which pretend cards there are, what they are called, and who uses them.
 *
 * stub_devices_parse reads `STUB_CUDA_DEVICES`: "2x24564MiB", or a list "24564MiB,8192MiB"; NULL: one card of 24564 MiB.
 * 0, or -EINVAL with one line on stderr.
 */
#ifndef STUB_DEVICES_H
#define STUB_DEVICES_H

#include "state.h"

#define STUB_NAME "Pretend GPU (labspawner stub)"

int stub_devices_parse(struct stub_state *state, const char *text);

#endif
