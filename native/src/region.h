/* The region: one file per slice, mapped by all its processes and read by the hub.
 *
 * Promise: a process owns one of SLICE_SLOTS slots, and what it charged stands in words that it alone writes. The slot is
 * owned by an open-file-description lock on the first byte of the slot in the file. The lock belongs to the mapping: the
 * descriptor is closed at once, the mapping is not inherited by fork (MADV_DONTFORK) and ends with exec, so the kernel
 * drops the lock when, and only when, the address space that could write those words is gone, whatever ended it and in
 * whatever PID namespace. Who can take the lock of a slot may clear what its dead owner left.
 *
 * Debts: the lock of a killed process may be free before the driver has taken down what the process had. Where there is a
 * driver (slice_file.owing), a dead owner's slot is marked SLICE_SLOT_OWES and keeps its words in the sum until
 * slice_settle() (account.h) knows better; nobody joins on it meanwhile. Who held nothing owes nothing.
 * (Linux 6.18 gives up a dead process's descriptors first and its mappings, with our lock, last: of 6,000 kills 4,121 were
 * caught between the two, none the other way. But a driver need not be done when its descriptor is released.)
 *
 * One gap: a child that another thread forks within the 40 us of a join inherits the descriptor; should it neither exec nor
 * end, the slot of a parent that died stays taken until it does.
 * Truncating the file while it is mapped kills its own slice (SIGBUS), and nobody else.
 *
 * Layout: little endian, version 1 (`joined_boot_ns` and `died_boot_ns` were reserved at first, and are 0 where nobody knew of
 * them: regions of then go on), mirrored by labspawner/gpu/region.py; a test compares both, offset by offset.
 *   0      header, 4096 bytes
 *   4096   ring of SLICE_REFUSALS refusals, 128 bytes each
 *   12288  SLICE_SLOTS slots, 64 bytes each
 *   28672  SLICE_MAX_DEVICES devices, 20480 bytes each
 * The file is sparse: pages of devices that the slice has not need not exist (header.device_count says how many do).
 * Whoever makes a slice makes the file (mode 0666 in a private folder, its pages reserved by fallocate); under HAMi's
 * environment the first process does. Units: bytes, nanoseconds of CLOCK_REALTIME.
 * Ordering: words that only inform are relaxed; `used`, `slots_high` and `limits_generation` are seq_cst, see account.c.
 */
#ifndef SLICE_REGION_H
#define SLICE_REGION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "settings.h"

#define SLICE_REGION_MAGIC UINT64_C(0x6563696c7362616c)   /* the bytes "labslice" */
#define SLICE_REGION_VERSION 1
#define SLICE_SLOTS 256
#define SLICE_REFUSALS 64

/* A word of `used`: bytes charged, and above them how many threads of the process are between publish and check. */
#define SLICE_USED_BITS 52
#define SLICE_USED_MASK ((UINT64_C(1) << SLICE_USED_BITS) - 1)
#define SLICE_USED_TRYING (UINT64_C(1) << SLICE_USED_BITS)

struct slice_region_header {
        uint64_t magic;
        uint32_t version;
        uint32_t device_count;               /* devices whose pages are reserved; writers stay below it */
        uint64_t size;                       /* of the file: sizeof(struct slice_region) */
        uint64_t created_ns;
        char slice[64];                      /* informs; the limits file is what counts */
        uint64_t reserved0[4];
        /* read by every charge, written rarely */
        _Atomic uint32_t limits_generation;  /* the writer of the limits file adds 1 after its rename() */
        _Atomic uint32_t slots_high;         /* slots at and above this one were never used */
        uint64_t reserved1[7];
        _Atomic uint64_t refusals;           /* how many there ever were; the next goes to ring[refusals % SLICE_REFUSALS] */
        _Atomic uint64_t slots_refused;      /* processes that found all slots taken */
        uint64_t reserved2[6];
        uint64_t reserved3[480];
};

/* A refused allocation. `number` is 0 while it is written, else 1 + its place in the count: read it, copy, read it again.
 * Texts are cut to fit, and end with a NUL. */
struct slice_refusal {
        _Atomic uint64_t number;
        uint64_t at_ns;
        uint64_t asked_bytes;
        uint64_t used_bytes;                 /* by the whole slice, when it was refused */
        uint64_t limit_bytes;
        uint32_t device;
        int32_t pid;                         /* in the namespace of the process */
        uint32_t uid;
        uint32_t slot;
        char comm[16];
        char who[16];                        /* "PyTorch", "JAX", ...; "" when no library that we know is loaded */
        char api[40];                        /* "cuMemAlloc_v2" */
};

enum {
        SLICE_SLOT_FREE = 0,
        SLICE_SLOT_TAKEN = 1,
        SLICE_SLOT_OWES = 2,   /* its owner died; the driver may still hold what `used` says */
};

/* Who owns a slot. Written by the owner when it joins; a slot is live only while its lock is held. */
struct slice_slot {
        _Atomic uint32_t state;
        int32_t pid;                         /* in the owner's own PID namespace ... */
        uint64_t pid_namespace;              /* ... whose inode this is (/proc/self/ns/pid); 0 unknown */
        uint64_t joined_ns;
        uint32_t uid;
        uint32_t serial;                     /* grows with each owner of this slot */
        char comm[16];
        uint64_t joined_boot_ns;             /* CLOCK_BOOTTIME, as the kernel counts when a process began; 0 unknown */
        uint64_t died_boot_ns;               /* OWES: when that was noted */
};

/* What one process did on one device, beside `used`. */
struct slice_line {
        _Atomic uint64_t launches;           /* changes with each launch; threads may lose a count, never the change */
        _Atomic uint64_t last_launch_ns;     /* when a launch was last stamped: see slice_note_launch */
        _Atomic uint64_t gpu_time_ns;
        _Atomic uint64_t managed_bytes;      /* above the hard limit, under oversubscription; not part of `used` */
        _Atomic uint64_t physical_bytes;     /* what NVML last said of this process; 0: nothing yet */
        _Atomic uint64_t overhead_bytes;     /* part of `used` that no allocation holds: contexts, modules, workspaces */
        _Atomic uint64_t peak_bytes;         /* highest `used` that a slow path saw */
        uint64_t reserved[1];
};

struct slice_region_device {
        _Atomic uint64_t last_launch_ns;
        _Atomic uint64_t gpu_time_ns;        /* of all processes, the dead too */
        _Atomic uint64_t physical_bytes;     /* of the whole slice, by the last truth check that could tell; 0: none */
        _Atomic uint64_t physical_at_ns;
        _Atomic uint64_t untracked_bytes;    /* physical above what stood in `used` then; counts against the limit */
        _Atomic uint64_t refusals;
        uint64_t reserved0[2];
        _Alignas(64) _Atomic uint64_t limiter[32];      /* the core limiter's: limiter.h */
        _Alignas(64) _Atomic uint64_t used[SLICE_SLOTS];   /* dense: the sum over a slice reads few cache lines */
        struct slice_line line[SLICE_SLOTS];
        uint64_t reserved1[216];
};

struct slice_region {
        struct slice_region_header header;
        struct slice_refusal ring[SLICE_REFUSALS];
        struct slice_slot slot[SLICE_SLOTS];
        struct slice_region_device device[SLICE_MAX_DEVICES];
};

_Static_assert(sizeof(struct slice_region_header) == 4096, "layout");
_Static_assert(sizeof(struct slice_refusal) == 128, "layout");
_Static_assert(sizeof(struct slice_slot) == 64, "layout");
_Static_assert(sizeof(struct slice_line) == 64, "layout");
_Static_assert(sizeof(struct slice_region_device) == 20480, "layout");
_Static_assert(sizeof(struct slice_region) == 28672 + SLICE_MAX_DEVICES * 20480, "layout");

/* A region that this process has mapped. */
struct slice_file {
        struct slice_region *region;
        uint64_t device, inode;              /* of the file, to know it again when it is opened by path */
        int descriptor;                      /* -1 after slice_region_detach() */
        bool owing;                          /* the dead owe; set after slice_region_open(), which says no */
};

/* Map the region at `path`, checked: regular file, size, magic, version, pages for `device_count` devices. With `make` it is
 * made first where there is none, whole before anybody sees it. 0; -EINVAL: wrong size, magic or version; -ENOSPC: the file
 * system is full; -ENOENT and what else open(2) says. */
int slice_region_open(const char *path, bool make, int device_count, struct slice_file *ret);

/* Take a free slot: lock it, clear what a dead owner left, write who we are. Slots that owe are left alone; where no other is
 * free, an old debt goes (SLICE_DEBT_OLD_NS). 0; -EUSERS: all taken; -EOPNOTSUPP: the file system has no such locks; -EBADF:
 * detached. */
int slice_region_join(struct slice_file *file, uint32_t *ret_slot);

/* Close the descriptor. The mapping stays, and with it the lock of the slot. */
void slice_region_detach(struct slice_file *file);

/* Unmap; the slot, if any, is free then. For failed starts and tests: a living process keeps its region. */
void slice_region_close(struct slice_file *file);

/* Open `path` anew, for locks. A descriptor, or -Exxx (-ESTALE: another file stands there than the mapped one). */
int slice_region_reopen(const struct slice_file *file, const char *path);

/* Clear the slots whose owners died, or mark that they owe. `descriptor` is from slice_region_reopen(). Returns how many were
 * cleared. At most two system calls per slot ever used. */
int slice_region_reap(const struct slice_file *file, int descriptor);

/* Clear `slot`, which owes, unless it has had another owner since `serial`. True when it was cleared. */
bool slice_region_forgive(const struct slice_file *file, int descriptor, uint32_t slot, uint32_t serial);

/* A debt that is so old is not believed any more when there is no other room. */
#define SLICE_DEBT_OLD_NS UINT64_C(10000000000)
uint64_t slice_boot_ns(void);

/* Whether somebody holds the lock of `slot`; the owner itself counts. True when that cannot be told. `descriptor` is from
 * slice_region_reopen(). */
bool slice_region_alive(int descriptor, uint32_t slot);

/* The slice's one lock for slow paths: the lock on byte 0. It only keeps those who are refused from crossing one another; no
 * limit depends on it. True when it was taken at once. */
bool slice_region_trylock(int descriptor);
void slice_region_unlock(int descriptor);

#endif
