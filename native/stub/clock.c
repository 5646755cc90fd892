/* Device time: see clock.h. */
#include "clock.h"

#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define REAP_NS 5000000ULL      /* a dead process keeps its queue no longer */

static struct stub_use *own_use(uint32_t device)
{
        return &stub_state->slot[stub_own_slot].use[device];
}

static void add_busy(struct stub_busy *busy, uint64_t start, uint64_t ns)
{
        while (ns) {
                uint64_t id = start / STUB_BUCKET_NS;
                uint64_t room = (id + 1) * STUB_BUCKET_NS - start;
                uint64_t part = ns < room ? ns : room;
                uint32_t i = id % STUB_BUCKETS;

                if (busy->id[i] != id) {
                        busy->id[i] = id;
                        busy->ns[i] = 0;
                }
                busy->ns[i] += part;
                start += part;
                ns -= part;
        }
}

uint64_t stub_busy_within(const struct stub_busy *busy, uint64_t now, uint64_t window_ns)
{
        uint64_t from = now > window_ns ? now - window_ns : 0, sum = 0;

        for (uint64_t id = from / STUB_BUCKET_NS; id <= now / STUB_BUCKET_NS; id++) {
                uint32_t i = id % STUB_BUCKETS;
                uint64_t ns = busy->id[i] == id ? busy->ns[i] : 0, room = (id + 1) * STUB_BUCKET_NS - from;

                sum += ns < room ? ns : room;   /* of the oldest tenth at most what lies in the window */
        }
        return sum < window_ns ? sum : window_ns;
}

/* Notes that a process had the card; turns that follow one another become one segment. */
static void note(uint32_t slot, uint32_t device, uint64_t start, uint64_t ns)
{
        struct stub_use *use = &stub_state->slot[slot].use[device];
        struct stub_segment *ring = stub_state->segment[slot][device];
        struct stub_segment *last = &ring[(use->next_segment - 1) % STUB_SEGMENTS];
        uint64_t done = atomic_load_explicit(&use->done, memory_order_relaxed);

        if (use->next_segment && last->start + last->ns == start && last->done + last->ns == done)
                last->ns += ns;
        else
                ring[use->next_segment++ % STUB_SEGMENTS] = (struct stub_segment){start, done, ns};
        atomic_store_explicit(&use->done, done + ns, memory_order_release);
        add_busy(&use->busy, start, ns);
        stub_state->device[device].busy_ns += ns;
        add_busy(&stub_state->device[device].busy, start, ns);
}

static uint64_t backlog(uint32_t slot, uint32_t device)
{
        struct stub_use *use = &stub_state->slot[slot].use[device];

        /* Acquire pairs with the submitter's release: what it wrote before it queued the work. */
        return atomic_load_explicit(&use->submitted, memory_order_acquire) - use->done;
}

/* Who has work, beginning with the one whose turn it is. Returns how many. */
static uint32_t list_active(uint32_t device, uint32_t ret[STUB_SLOTS])
{
        struct stub_device *d = &stub_state->device[device];
        uint32_t n = 0, used = stub_state->slots_used;

        for (uint32_t i = 0; i < used; i++) {
                uint32_t slot = (d->running + i) % used;

                if (backlog(slot, device))
                        ret[n++] = slot;
        }
        return n;
}

static void next_turn(struct stub_device *d, uint32_t slot)
{
        d->running = slot;
        d->quantum_ns = STUB_QUANTUM_NS;
}

static uint64_t least(uint64_t a, uint64_t b)
{
        return a < b ? a : b;
}

/* Where in the list to begin: behind the one who runs when his turn is over and others wait. */
static uint32_t turn_is_over(const struct stub_device *d, const uint32_t *active, uint32_t n)
{
        return n > 1 && active[0] == d->running && d->quantum_ns == 0;
}

void stub_play(uint32_t device, uint64_t now)
{
        struct stub_device *d = &stub_state->device[device];
        uint32_t active[STUB_SLOTS];
        uint64_t t = d->sim_ns;
        uint32_t n, i;

        if (now <= t)
                return;
        if (now - d->reaped_ns > REAP_NS) {
                d->reaped_ns = now;
                stub_reap(device);
        }
        n = list_active(device, active);
        i = turn_is_over(d, active, n);
        while (n && t < now) {
                uint32_t slot = active[i];
                uint64_t run = least(backlog(slot, device), now - t);

                if (slot != d->running || d->quantum_ns == 0)
                        next_turn(d, slot);
                if (n > 1)
                        run = least(run, d->quantum_ns);
                note(slot, device, t, run);
                t += run;
                d->quantum_ns -= least(run, d->quantum_ns);
                if (backlog(slot, device) == 0) {
                        n--;
                        memmove(&active[i], &active[i + 1], (n - i) * sizeof(active[0]));
                        i = i < n ? i : 0;
                } else if (d->quantum_ns == 0) {
                        i = (i + 1) % n;
                }
        }
        atomic_store_explicit(&d->sim_ns, now, memory_order_release);
        for (i = 0; i < n; i++)
                atomic_store_explicit(&stub_state->slot[active[i]].use[device].busy_until,
                                      now + backlog(active[i], device), memory_order_release);
}

uint64_t stub_submitted(uint32_t device)
{
        return atomic_load_explicit(&own_use(device)->submitted, memory_order_relaxed);
}

uint64_t stub_submit(uint32_t device, uint64_t ns)
{
        struct stub_use *use = own_use(device);
        uint64_t now, end;

        atomic_fetch_add_explicit(&use->launches, 1, memory_order_relaxed);
        if (ns == 0)
                return stub_submitted(device);
        now = stub_now();
        /* While the queue cannot have run empty, the card need not know when the work came. */
        if (now < atomic_load_explicit(&use->busy_until, memory_order_acquire))
                return atomic_fetch_add_explicit(&use->submitted, ns, memory_order_release) + ns;
        stub_lock_device(device);
        stub_play(device, stub_now());
        end = atomic_fetch_add_explicit(&use->submitted, ns, memory_order_release) + ns;
        atomic_store_explicit(&use->busy_until, stub_state->device[device].sim_ns + end - use->done,
                              memory_order_release);
        stub_unlock_device(device);
        return end;
}

bool stub_is_done(uint32_t device, uint64_t position)
{
        struct stub_use *use = own_use(device);
        /* The older clock with the newer progress: a lower bound of the end, never a false "not yet" that stays. */
        uint64_t sim = atomic_load_explicit(&stub_state->device[device].sim_ns, memory_order_acquire);
        uint64_t done = atomic_load_explicit(&use->done, memory_order_acquire);

        if (done >= position)
                return true;
        if (stub_now() < sim + (position - done))
                return false;
        stub_lock_device(device);
        stub_play(device, stub_now());
        done = use->done;
        stub_unlock_device(device);
        return done >= position;
}

/* When the card gets there if nobody queues more work: plays ahead, on a copy. Lock of the card: held. */
static uint64_t predict(uint32_t device, uint64_t position)
{
        struct stub_device *d = &stub_state->device[device];
        uint32_t active[STUB_SLOTS];
        uint64_t left[STUB_SLOTS];
        uint64_t t = d->sim_ns, quantum = d->quantum_ns ? d->quantum_ns : STUB_QUANTUM_NS;
        uint64_t need = position - own_use(device)->done;
        uint32_t n = list_active(device, active);

        for (uint32_t i = 0; i < n; i++)
                left[i] = active[i] == (uint32_t)stub_own_slot ? need : backlog(active[i], device);
        for (uint32_t i = turn_is_over(d, active, n), rounds = 0; n > 1 && rounds < 100000; rounds++, i = (i + 1) % n) {
                uint64_t run = least(left[i], quantum);

                left[i] -= run;
                t += run;
                quantum = STUB_QUANTUM_NS;
                if (active[i] == (uint32_t)stub_own_slot && left[i] == 0)
                        return t;
        }
        return t + need;
}

static void sleep_until(uint64_t when)
{
        static _Thread_local bool sharp;
        struct timespec t = {.tv_sec = (time_t)(when / 1000000000ULL), .tv_nsec = (long)(when % 1000000000ULL)};

        if (!sharp)
                prctl(PR_SET_TIMERSLACK, 1UL);  /* kernels end to the microsecond, not to the 50 of a lazy timer */
        sharp = true;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

void stub_wait(uint32_t device, uint64_t position)
{
        struct stub_use *use = own_use(device);

        while (atomic_load_explicit(&use->done, memory_order_acquire) < position) {
                uint64_t when = 0;

                stub_lock_device(device);
                stub_play(device, stub_now());
                if (use->done < position)
                        when = predict(device, position);
                stub_unlock_device(device);
                if (when)
                        sleep_until(when);
        }
}

uint64_t stub_time_of(uint32_t device, uint64_t position)
{
        struct stub_use *use = own_use(device);
        struct stub_segment *ring = stub_state->segment[stub_own_slot][device];
        uint64_t when = 0;
        uint32_t back, kept;

        if (position == 0)
                return 1;       /* before anything: whoever asks takes the later of this and his own clock */
        stub_lock_device(device);
        if (use->done < position)
                stub_play(device, stub_now());
        kept = use->next_segment < STUB_SEGMENTS ? use->next_segment : STUB_SEGMENTS;
        for (back = 1; use->done >= position && back <= kept; back++) {
                struct stub_segment *s = &ring[(use->next_segment - back) % STUB_SEGMENTS];

                when = s->start;
                if (s->done < position) {
                        when = s->start + (position - s->done < s->ns ? position - s->done : s->ns);
                        break;
                }
        }
        stub_unlock_device(device);
        return when;
}
