/* What we say on stderr, and nothing else does.
 *
 * Promise: a line begins with "labspawner: ", is written by one write(2) and never longer than 600 bytes; no stdio, no
 * malloc, errno is kept. Locks held: none.
 */
#ifndef SLICE_MESSAGE_H
#define SLICE_MESSAGE_H

/* Print why there is no GPU: once per process (and once for all its forks); later calls are silent. */
void slice_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print a line where the log level (LIBCUDA_LOG_LEVEL) is at least `level`: 1 error, 2 warning, 3 information, 4 detail. */
void slice_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What slice_log goes by; 1 until it was set. */
void slice_log_level(int level);

#endif
