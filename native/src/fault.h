/* Words for what is wrong with a setting, shared by the two parsers.
 *
 * Promise: what a stranger wrote is shown cut and with every odd byte as '?', so that a line stays a line.
 * Locks held: none.
 */
#ifndef SLICE_FAULT_H
#define SLICE_FAULT_H

#include <stddef.h>
#include <stdint.h>

#include "settings.h"

/* Write the words; always -EINVAL, to return. */
int slice_fault(struct slice_fault *ret, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `text` as it may be shown, into `ret` of `room` bytes; "..." at the end when it was cut. */
void slice_show(const char *text, size_t length, char *ret, size_t room);

/* `length` digits as a number of at most `most`. 0, or -EINVAL. */
int slice_decimal(const char *digits, size_t length, uint64_t most, uint64_t *ret);

#endif
