/*
 * node: who else is on the devices of this machine, in one file that all slices share.
 *
 * Promise: tells how many other processes are at work on a device, what other slices claim of it, and how much of a stretch of
 * time was taken by others. It is never trusted beyond lending and sharing out: a slice's guarantee, its memory and its own
 * bucket lie elsewhere, and every value read here is clamped. Who damages the file takes away lending, nothing else.
 *
 * The file is read and written with pread and pwrite, not mapped: another student may cut it short at any moment, and a mapped
 * page that is gone would be a SIGBUS in everybody's process. A line that is torn by a concurrent write is off for one look.
 *
 * One line per process and device, owned by an open-file-description lock on its first byte, so that the kernel frees the line
 * of whoever dies. Who is at work is judged by the time in the line alone, which needs no lock.
 *
 * File: a header of 64 bytes, then SLICE_NODE_LINES lines of 256 bytes, little endian. An empty file is made ready by the first
 * process that opens it; a file of another size is left alone and not used. Times: CLOCK_MONOTONIC nanoseconds.
 *
 * Locks held: one thread of a process at a time in each call (the limiter's lock). Nothing blocks: locks are tried, not waited
 * for. Errors are -Exxx.
 */
#ifndef SLICE_NODE_H
#define SLICE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bucket.h"

#define SLICE_NODE_MAGIC UINT64_C(0x31454e414c42414c)    /* "LABLANE1" */
#define SLICE_NODE_LINES 512
#define SLICE_NODE_SPANS 20                      /* a kernel of 20 ms beside one of 1 ms sees a dozen of its stretches */
#define SLICE_NODE_ACTIVE_NS UINT64_C(150000000)         /* a line that is older says nothing */

struct slice_node_header {
        uint64_t magic;
        uint32_t version;                        /* 2 */
        uint32_t line_count;
        uint32_t line_bytes;
        uint32_t reserved[11];
};
_Static_assert(sizeof(struct slice_node_header) == 64, "the file's format");

/* A stretch of time in which a process had work on the device. */
struct slice_span {
        uint64_t from_ns;
        uint64_t to_ns;
};

struct slice_node_line {
        uint64_t lock;                           /* the first byte is what the owner locks; the value says nothing */
        uint64_t uuid_hash;                      /* of the device */
        uint64_t slice_hash;
        uint64_t used_ns;                        /* when this line was written last: its owner was at work then */
        uint32_t share_ppm;                      /* the slice's guarantee, */
        uint32_t weight;                         /* weight, */
        uint32_t use_ppm;                        /* what it used of the device lately (all its processes together), */
        uint32_t priority;                       /* priority: 0 goes first */
        uint64_t wanted_ns;                      /* when it last wanted more than it had */
        uint64_t open_ns;                        /* work has been out since then; 0: none is known to be */
        uint32_t pid;                            /* in its own PID namespace: a hint for people */
        uint32_t next_span;
        uint64_t expect_ns;                      /* and is expected to be out till then */
        struct slice_span spans[SLICE_NODE_SPANS]; /* the last stretches of work, a ring, */
        uint32_t cost_ns[SLICE_NODE_SPANS];      /* and what each cost the device: the rest of its time was others' */
        uint8_t reserved[32];
};
_Static_assert(sizeof(struct slice_node_line) == 512, "the file's format");

struct slice_node {
        int fd;                                  /* -1: not open */
        uint32_t high;                           /* lines that were ever seen in use, one more */
};

/* FNV-1a of a name; never 0. */
uint64_t slice_node_hash(const char *name);

/* Open the file at `path`, making it ready. 0; -ENOENT and other errors of open(2); -EINVAL: not such a file, or one of another
 * version that somebody still uses. */
int slice_node_open(struct slice_node *ret, const char *path);
void slice_node_close(struct slice_node *node);

/* Take a free line. 0 with its index; -ENOSPC when all are taken, -EIO when the file is damaged. */
int slice_node_join(struct slice_node *node, uint32_t *ret_index);

/* Write the line at `index`. 0 or -Exxx. */
int slice_node_publish(struct slice_node *node, uint32_t index, const struct slice_node_line *line);

/* Read the lines of other processes that were at work on the device lately. How many stand in `ret` (at most `room`). */
size_t slice_node_read(struct slice_node *node, uint32_t own_index, uint64_t uuid_hash, uint64_t now_ns,
                       struct slice_node_line *ret, size_t room);

/*
 * Pure. The device time that was ours of `span` (we had work from from_ns to to_ns): what others' work within it did not cost,
 * divided evenly with those whose work began before it or goes on after it. At least a sixteenth of it, whatever others write.
 * What `own` has among its spans was charged before and counts nothing.
 */
uint64_t slice_node_own_time(struct slice_span span, const struct slice_node_line *own, const struct slice_node_line *others,
                             size_t count, uint64_t now_ns);

/* Pure. Add a stretch of work, and what it cost the device, to the line; what begins where the last one ended, or within it,
 * makes that one longer. */
void slice_node_add_span(struct slice_node_line *line, struct slice_span span, uint64_t cost_ns);

/*
 * Pure. What the slices on the device claim, one entry per slice, `own` first; at most `room`. Several processes of one slice
 * count once, by their latest line; lines of our own slice are left out. Returns how many.
 */
size_t slice_node_claims(const struct slice_node_line *own, const struct slice_node_line *others, size_t count,
                         uint64_t now_ns, struct slice_claim *ret, size_t room);

#endif
