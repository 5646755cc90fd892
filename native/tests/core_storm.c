/* Processes that charge, refund and are killed: core_storm <mount folder> <ledger> <workers> <threads> <operations> <kills>
 *
 * Beside each grant the workers keep a ledger of their own, that only they write: added to after the grant, subtracted from
 * before the refund, as a device would. Without kills the ledger is one word, whose peak is exact. With kills (random
 * workers, at random instants, replaced at once) it is a word per thread: what a dead worker's descriptor table held is
 * gone, as a driver's memory is, when the lock on its byte of the ledger is free; above the limit the words are read twice,
 * and only what stood still and belongs to the living counts.
 * A stall is the wall time of one charge or refund, less what the process waited for a CPU (schedstat) where it has one
 * thread. Not with more: threads that look into /proc/thread-self make each other's end slow, in the kernel.
 *
 * Prints JSON: what was granted, refused, peak, violations, kills, longest stall, and what is left when all have ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "account.h"
#include "account_inside.h"

#define WORKERS_MOST 64
#define THREADS_MOST 8
#define HELD_MOST 8
#define BYTES_BITS 44   /* of a ledger word; a count of changes stands above them */

struct ledger {
        _Atomic uint64_t total, peak, violations, granted, refused, failed_starts;
        _Atomic uint64_t longest_ns, longest_nap_ns, long_stalls;
        _Atomic uint32_t stop;
        _Atomic uint64_t word[WORKERS_MOST * THREADS_MOST];
};

static struct {
        struct slice_settings settings;
        struct ledger *ledger;
        const char *ledger_path;
        unsigned workers, threads, operations, kills, worker;
        int lock;   /* this worker's lock on its byte of the ledger */
} storm;

struct worker_thread {
        unsigned index;   /* of its ledger word */
        uint64_t random, held[HELD_MOST];
        int schedstat;
        uint64_t waited_ns;   /* for a CPU, as of the last look */
};

static uint64_t next_random(uint64_t *state)
{
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state;
}

static uint64_t now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void raise_to(_Atomic uint64_t *word, uint64_t value)
{
        uint64_t old = atomic_load(word);

        while (old < value && !atomic_compare_exchange_weak(word, &old, value))
                ;
}

static uint64_t waited_for_cpu(struct worker_thread *self)
{
        char text[128] = {0};
        uint64_t ran, waited = 0;

        if (self->schedstat >= 0 && pread(self->schedstat, text, sizeof(text) - 1, 0) > 0)
                sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited);
        return waited;
}

/* How long something took, less the wait for a CPU meanwhile. */
static uint64_t stall_ns(struct worker_thread *self, uint64_t begun_ns)
{
        uint64_t took_ns = now_ns() - begun_ns, waited = waited_for_cpu(self);
        uint64_t for_cpu = waited - self->waited_ns;

        self->waited_ns = waited;
        return took_ns > for_cpu ? took_ns - for_cpu : 0;
}

static bool lock_ledger(int descriptor, unsigned worker)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = worker, .l_len = 1};

        return fcntl(descriptor, F_OFD_SETLK, &lock) == 0;
}

static bool alive(int descriptor, unsigned worker)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = worker, .l_len = 1};

        return worker == storm.worker || fcntl(descriptor, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

static uint64_t held_by_living(int descriptor, uint64_t *words)
{
        uint64_t sum = 0;

        for (unsigned worker = 0; worker < storm.workers; worker++) {
                uint64_t bytes = 0;

                for (unsigned i = 0; i < storm.threads; i++) {
                        words[worker * storm.threads + i] = atomic_load(&storm.ledger->word[worker * storm.threads + i]);
                        bytes += words[worker * storm.threads + i] & ((UINT64_C(1) << BYTES_BITS) - 1);
                }
                if (bytes > 0 && alive(descriptor, worker))
                        sum += bytes;
        }
        return sum;
}

/* The same words twice: at the first look all of them were held at once. */
static void look_for_violation(uint64_t limit)
{
        static _Thread_local uint64_t once[WORKERS_MOST * THREADS_MOST], again[WORKERS_MOST * THREADS_MOST];
        int descriptor = open(storm.ledger_path, O_RDWR | O_CLOEXEC);

        for (int i = 0; i < 4; i++) {
                uint64_t sum = held_by_living(descriptor, once);

                if (sum <= limit)
                        break;
                held_by_living(descriptor, again);
                if (memcmp(once, again, storm.workers * storm.threads * sizeof(once[0])) == 0) {
                        atomic_fetch_add(&storm.ledger->violations, 1);
                        raise_to(&storm.ledger->peak, sum);
                        break;
                }
        }
        close(descriptor);
}

static void add_to_ledger(struct worker_thread *self, uint64_t bytes)
{
        uint64_t limit = storm.settings.device[0].hard_bytes, sum = 0;

        if (storm.kills == 0) {
                uint64_t total = atomic_fetch_add(&storm.ledger->total, bytes) + bytes;

                raise_to(&storm.ledger->peak, total);
                if (total > limit)
                        atomic_fetch_add(&storm.ledger->violations, 1);
                return;
        }
        atomic_fetch_add(&storm.ledger->word[self->index], bytes + (UINT64_C(1) << BYTES_BITS));
        for (unsigned i = 0; i < storm.workers * storm.threads; i++)
                sum += atomic_load(&storm.ledger->word[i]) & ((UINT64_C(1) << BYTES_BITS) - 1);
        if (sum > limit)
                look_for_violation(limit);
}

static void take_from_ledger(struct worker_thread *self, uint64_t bytes)
{
        if (storm.kills == 0)
                atomic_fetch_sub(&storm.ledger->total, bytes);
        else
                atomic_fetch_add(&storm.ledger->word[self->index], (UINT64_C(1) << BYTES_BITS) - bytes);
}

static void operate(struct worker_thread *self)
{
        uint64_t *held = &self->held[next_random(&self->random) % HELD_MOST], begun_ns;

        self->waited_ns = waited_for_cpu(self);
        if (*held > 0) {
                take_from_ledger(self, *held);
                begun_ns = now_ns();
                slice_refund(0, *held);
                *held = 0;
        } else {
                uint64_t bytes = 1 + next_random(&self->random) % (storm.settings.device[0].hard_bytes / 4);

                begun_ns = now_ns();
                if (slice_charge(0, bytes) < 0) {
                        atomic_fetch_add(&storm.ledger->refused, 1);
                } else {
                        *held = bytes;
                }
        }
        uint64_t stalled_ns = stall_ns(self, begun_ns);
        raise_to(&storm.ledger->longest_ns, stalled_ns);
        if (stalled_ns > 10000000)
                atomic_fetch_add(&storm.ledger->long_stalls, 1);
        if (*held > 0) {
                atomic_fetch_add(&storm.ledger->granted, 1);
                add_to_ledger(self, *held);
        }
}

/* What the machine itself does to a sleep of 20 us: the measure for stalls. */
static void nap(struct worker_thread *self)
{
        self->waited_ns = waited_for_cpu(self);
        uint64_t begun_ns = now_ns();
        slice_pause(20);
        raise_to(&storm.ledger->longest_nap_ns, stall_ns(self, begun_ns));
}

static void *run_thread(void *data)
{
        struct worker_thread *self = data;

        self->schedstat = storm.threads == 1 ? open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC) : -1;
        for (unsigned i = 0; i < storm.operations && !atomic_load(&storm.ledger->stop); i++) {
                operate(self);
                if (i % (storm.kills > 0 ? 4 : 64) == 0)   /* the dying need a CPU to die on */
                        nap(self);
        }
        for (unsigned i = 0; i < HELD_MOST; i++) {
                if (self->held[i] > 0) {
                        take_from_ledger(self, self->held[i]);
                        slice_refund(0, self->held[i]);
                }
        }
        if (self->schedstat >= 0)
                close(self->schedstat);
        return NULL;
}

static void work(unsigned worker, unsigned life)
{
        struct worker_thread self[THREADS_MOST] = {0};
        pthread_t thread[THREADS_MOST];

        storm.worker = worker;
        storm.lock = open(storm.ledger_path, O_RDWR | O_CLOEXEC);
        if (!lock_ledger(storm.lock, worker) || slice_account_start(&storm.settings) < 0) {
                atomic_fetch_add(&storm.ledger->failed_starts, 1);
                _exit(1);
        }
        for (unsigned i = 0; i < storm.threads; i++) {
                self[i].index = worker * storm.threads + i;
                self[i].random = (worker + 1) * UINT64_C(0x9e3779b97f4a7c15) + life * 977 + i;
                if (i > 0)
                        pthread_create(&thread[i], NULL, run_thread, &self[i]);
        }
        run_thread(&self[0]);
        for (unsigned i = 1; i < storm.threads; i++)
                pthread_join(thread[i], NULL);
        _exit(0);
}

static pid_t begin(unsigned worker, unsigned life)
{
        for (unsigned i = 0; i < storm.threads; i++)
                atomic_store(&storm.ledger->word[worker * storm.threads + i], 0);
        pid_t child = fork();
        if (child == 0)
                work(worker, life);
        return child;
}

static void supervise(void)
{
        pid_t child[WORKERS_MOST];
        uint64_t random = UINT64_C(88172645463325252);

        for (unsigned i = 0; i < storm.workers; i++)
                child[i] = begin(i, 0);
        for (unsigned kill_number = 1; kill_number <= storm.kills; kill_number++) {
                unsigned victim = (unsigned)(next_random(&random) % storm.workers);

                slice_pause((unsigned)(next_random(&random) % 1500));
                kill(child[victim], SIGKILL);
                waitpid(child[victim], NULL, 0);
                child[victim] = begin(victim, kill_number);
        }
        if (storm.kills > 0)
                atomic_store(&storm.ledger->stop, 1);
        for (unsigned i = 0; i < storm.workers; i++)
                waitpid(child[i], NULL, 0);
}

static const char *from_environment(const char *name)
{
        return getenv(name);
}

static int prepare(char **argv)
{
        struct slice_fault fault;

        if (slice_settings_find(argv[1], from_environment, &storm.settings, &fault) != 0) {
                fprintf(stderr, "%s\n", fault.text);
                return -EINVAL;
        }
        storm.ledger_path = argv[2];
        storm.workers = (unsigned)atoi(argv[3]);
        storm.threads = (unsigned)atoi(argv[4]);
        storm.operations = (unsigned)atoi(argv[5]);
        storm.kills = (unsigned)atoi(argv[6]);
        int descriptor = open(storm.ledger_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (descriptor < 0 || ftruncate(descriptor, sizeof(struct ledger)) < 0 || storm.workers > WORKERS_MOST ||
            storm.threads > THREADS_MOST)
                return -EINVAL;
        storm.ledger = mmap(NULL, sizeof(struct ledger), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        close(descriptor);
        return storm.ledger == MAP_FAILED ? -ENOMEM : 0;
}

int main(int argc, char **argv)
{
        if (argc != 7 || prepare(argv) < 0)
                return 2;
        uint64_t begun_ns = now_ns();
        supervise();
        struct ledger *ledger = storm.ledger;
        if (slice_account_watch(&storm.settings) < 0)
                return 2;
        slice_account_reap();
        printf("{\"limit\": %" PRIu64 ", \"granted\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"peak\": %" PRIu64
               ", \"violations\": %" PRIu64 ", \"failed_starts\": %" PRIu64 ", \"kills\": %u, \"longest_stall_us\": %" PRIu64
               ", \"longest_nap_us\": %" PRIu64 ", \"stalls_above_10ms\": %" PRIu64 ", \"left\": %" PRIu64 ", \"seconds\": %.1f}\n",
               storm.settings.device[0].hard_bytes, atomic_load(&ledger->granted), atomic_load(&ledger->refused),
               atomic_load(&ledger->peak), atomic_load(&ledger->violations), atomic_load(&ledger->failed_starts), storm.kills,
               atomic_load(&ledger->longest_ns) / 1000, atomic_load(&ledger->longest_nap_ns) / 1000,
               atomic_load(&ledger->long_stalls), slice_used(0), (double)(now_ns() - begun_ns) / 1e9);
        return 0;
}
