/* The pretend cards: a file that every process with the stub driver maps, so that all see the same memory and time.
 *
 * Promise: what a card holds is exact. Bytes are booked under a robust mutex of the card, so a process that is killed at
 * any instruction leaves a sum that the next one repairs; a process lives as long as its open-file-description lock on
 * its slot's byte, so its bytes are gone when the kernel has closed its files. Before a new peak is noted, dead processes
 * are taken out: a peak is never made of bytes of the dead. But where STUB_CUDA_TEARDOWN_MS says so, they stay on the card,
 * and in NVML's list, for that long after somebody first saw that their process is dead: as while a real driver takes down
 * what a killed process had.
 * Units: bytes, nanoseconds of CLOCK_MONOTONIC, device time in nanoseconds.
 * Returns: 0 or -Exxx unless said.
 *
 * The file: header, cards, faults, slots, and a ring of segments of device time per slot and card. It is sparse.
 */
#ifndef STUB_STATE_H
#define STUB_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
        STUB_DEVICES = 16,
        STUB_SLOTS = 512,
        STUB_SEGMENTS = 512,
        STUB_BUCKETS = 32,
        STUB_FAULTS = 16,
};

#define STUB_MAGIC 0x62757473646e6574ULL        /* "tendstub" */
#define STUB_LAYOUT 4
#define STUB_BUCKET_NS 100000000ULL             /* busy time is kept per tenth of a second, for utilisation */
#define STUB_QUANTUM_NS 2000000ULL              /* a context runs so long before another one's turn */
#define MIB (1ULL << 20)

/* Busy time of the last seconds: bucket `id % STUB_BUCKETS` belongs to the tenth of a second number `id`. */
struct stub_busy {
        uint64_t id[STUB_BUCKETS];
        uint64_t ns[STUB_BUCKETS];
};

struct stub_device {
        pthread_mutex_t lock;           /* robust: bytes and time of this card, everything below but flags */
        uint64_t total;
        uint64_t used;
        uint64_t peak;
        _Atomic uint64_t sim_ns;        /* device time has been played up to here */
        uint64_t quantum_ns;            /* what the running context has left */
        uint64_t reaped_ns;
        uint32_t running;               /* slot whose turn it is */
        _Atomic uint32_t present;       /* 0: no such card, 1: there, 2: fell off the bus */
        uint64_t busy_ns;
        struct stub_busy busy;
};

/* One process on one card. `submitted` is written by its process alone; the rest under the card's lock. */
struct stub_use {
        uint64_t held;
        uint64_t peak;
        uint64_t managed;               /* bytes of managed memory, resident or not */
        uint32_t contexts;
        uint32_t next_segment;          /* counts up; the ring index is this % STUB_SEGMENTS */
        _Atomic uint64_t submitted;     /* device time asked for since the start */
        _Atomic uint64_t done;          /* device time got */
        _Atomic uint64_t busy_until;    /* a lower bound: the queue cannot be empty before */
        _Atomic uint64_t launches;
        struct stub_busy busy;
};

struct stub_slot {
        _Atomic uint32_t taken;
        int32_t pid;                    /* in the PID namespace of the process */
        uint64_t pid_namespace;         /* inode */
        _Atomic uint64_t died;          /* when it was first seen dead while it held something; 0: not yet */
        char name[32];
        struct stub_use use[STUB_DEVICES];
};

/* From device time to the clock: the use got device time `done` .. `done + ns` at `start` .. `start + ns`. */
struct stub_segment {
        uint64_t start;
        uint64_t done;
        uint64_t ns;
};

struct stub_fault {
        char symbol[60];                /* "*": any */
        int32_t result;
        _Atomic int64_t left;           /* so many calls fail still */
};

struct stub_state {
        uint64_t magic;
        uint32_t layout;
        uint32_t size_kib;
        _Atomic int32_t driver_version; /* 13000 */
        _Atomic uint32_t faults;        /* bumped with every change; 0: none were ever set */
        pthread_mutex_t slots_lock;     /* robust; taken before a card's lock */
        uint32_t slots_used;            /* slots above were never taken */
        uint64_t next_id;
        uint64_t teardown_ns;           /* how long the dead keep what they held */
        struct stub_fault fault[STUB_FAULTS];
        struct stub_device device[STUB_DEVICES];
        struct stub_slot slot[STUB_SLOTS];
        struct stub_segment segment[STUB_SLOTS][STUB_DEVICES][STUB_SEGMENTS];
};

/* What the environment says; read once when the state is opened. */
struct stub_options {
        uint64_t context_bytes;         /* STUB_CUDA_CONTEXT_MIB: device memory that a context takes, default 0 */
        uint64_t module_bytes;          /* STUB_CUDA_MODULE_MIB: and a module, default 0 */
        uint64_t pool_chunk;            /* STUB_CUDA_POOL_CHUNK_MIB: pools grow by multiples of this, default 32 */
        bool small_chunks;              /* STUB_CUDA_SMALL_CHUNKS=1: blocks up to 1 MiB share chunks of 2 MiB */
        bool alternate;                 /* STUB_CUDA_ALTERNATE=1: cuGetProcAddress gives addresses of its own */
};

extern struct stub_state *_Atomic stub_state;   /* set once, by whoever calls first; others look whether it is there */
extern struct stub_options stub_options;
extern int stub_own_slot;               /* -1: this process holds none */

/* Opens the state file, making it when there is none. 0, -EINVAL (not a state file, bad STUB_CUDA_DEVICES), -errno. */
int stub_state_open(void);
/* The same, and takes a slot for this process. -EMFILE: all are taken. */
int stub_state_join(void);
/* Gives the slot back at exit; the file stays mapped, since other threads may still be in the driver. */
void stub_state_leave(void);
/* For the child of a fork: unmaps and closes, without touching what the parent has. */
void stub_state_forget(void);

uint64_t stub_now(void);
/* Robust lock; a lock that a dead process held is repaired, its sums made right. */
void stub_lock_device(uint32_t device);
void stub_unlock_device(uint32_t device);
bool stub_slot_is_alive(uint32_t slot);
/* Takes dead processes' queues out, and their bytes when they are torn down. Lock of the card: held. */
void stub_reap(uint32_t device);

/* Books device memory of this process: 0, -ENOMEM (the card is full), -ENODEV (it is gone). Lock: taken inside. */
int stub_take_bytes(uint32_t device, uint64_t bytes);
void stub_give_bytes(uint32_t device, uint64_t bytes);
/* What the card holds and has, dead processes taken out. */
void stub_read_bytes(uint32_t device, uint64_t *ret_used, uint64_t *ret_total);

uint32_t stub_device_count(void);
/* The n-th card that is there: its number in the file, or -1. */
int stub_device_at(uint32_t n);
/* A fault that was set for this symbol: its result, or 0. Counts it down. */
int stub_fault_of(const char *symbol);
/* "GPU-5afe0000-0000-4000-8000-000000000001" for card 1; `ret` takes 41 bytes. */
void stub_uuid_text(uint32_t device, char *ret);
void stub_uuid_bytes(uint32_t device, unsigned char ret[16]);

/* The pid of a slot's process as this process would see it; 0: it has none here. Reads /proc on the slow path. */
int stub_pid_here(uint32_t slot);

#endif
