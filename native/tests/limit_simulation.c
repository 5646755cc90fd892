/*
 * Many slices on one card, in virtual time: bucket.h, cost.h and node.h as the limiter uses them, and a card that runs the processes
 * that have work in turns of 2 ms. Prints a line of JSON: the share of the card that each slice had, per window of 100 ms.
 *
 *   limit_simulation early|late[,nvml] seconds process...     process: slice:policy:cores:weight:kernel_us[:from_ms:to_ms]
 *
 * An event before the first launch passes when the process gets its turn (late, as cards do), or, where it has nothing else to
 * do, when it is recorded (early, as the stub driver does): the limiter must live with either. With nvml, what is charged is
 * calibrated once a second against what the card really did.
 */
#include "bucket.h"
#include "cost.h"
#include "limit_check.h"
#include "node.h"

#define MS UINT64_C(1000000)
#define TICK (UINT64_C(50000))
#define TURN (2 * MS)
#define BATCH(sharers) ((sharers) ? MS : 2 * MS)
#define POLL (200 * UINT64_C(1000))
#define PROCESSES 16
#define QUEUE 3
#define WINDOWS 600
#define WINDOW (100 * MS)
#define BEGIN UINT64_C(1000000000000)

struct batch {
        unsigned launches;
        uint64_t left_ns, start_ns, end_ns;
        int64_t reserved_ns;
};

struct process {
        char slice[16], policy[8];
        unsigned number;                 /* of the slice */
        uint32_t share_ppm, weight;
        uint64_t kernel_ns, from_ns, to_ns;
        struct batch out[QUEUE];
        unsigned count;
        double each_ns;
        struct slice_cost cost;
        uint64_t look_ns, published_ns;
        struct slice_node_line line;
};

static bool early, with_nvml;
static struct process processes[PROCESSES];
static size_t process_count, slice_count;
static struct slice_bucket buckets[PROCESSES];
static uint64_t used_ns[PROCESSES], seen_ns[PROCESSES], seen_used_ns[PROCESSES], seen_charged_ns[PROCESSES];
static double busy[PROCESSES][WINDOWS];

static void read_process(const char *text)
{
        struct process *p = &processes[process_count];
        double kernel_us = 0, from_ms = 0, to_ms = 1e9;
        unsigned cores = 0;

        CHECK(process_count < PROCESSES);
        CHECK(sscanf(text, "%15[^:]:%7[^:]:%u:%u:%lf:%lf:%lf", p->slice, p->policy, &cores, &p->weight, &kernel_us, &from_ms,
                     &to_ms) >= 5);
        p->share_ppm = cores * 10000;
        p->kernel_ns = (uint64_t)(kernel_us * 1000);
        p->from_ns = BEGIN + (uint64_t)(from_ms * 1e6);
        p->to_ns = BEGIN + (uint64_t)(to_ms * 1e6);
        p->number = (unsigned)slice_count;
        for (size_t i = 0; i < process_count; i++)
                if (strcmp(processes[i].slice, p->slice) == 0)
                        p->number = processes[i].number;
        if (p->number == slice_count)
                slice_count++;
        p->line.uuid_hash = 1;
        p->line.slice_hash = slice_node_hash(p->slice);
        process_count++;
}

static size_t others_of(const struct process *p, uint64_t now_ns, struct slice_node_line *ret)
{
        size_t count = 0;

        for (size_t i = 0; i < process_count; i++)
                if (&processes[i] != p && processes[i].line.used_ns != 0 &&
                    now_ns - processes[i].line.used_ns < SLICE_NODE_ACTIVE_NS)
                        ret[count++] = processes[i].line;
        return count;
}

static void publish(struct process *p, uint64_t now_ns)
{
        struct slice_bucket *bucket = &buckets[p->number];
        struct slice_node_line others[PROCESSES];
        struct slice_claim claims[PROCESSES];

        slice_bucket_measure(bucket, now_ns);
        p->published_ns = now_ns;
        p->line.used_ns = now_ns;
        p->line.share_ppm = p->share_ppm;
        p->line.weight = p->weight;
        p->line.use_ppm = atomic_load(&bucket->use_ppm);
        p->line.wanted_ns = atomic_load(&bucket->wanted_ns);
        p->line.open_ns = p->count ? p->out[0].start_ns ? p->out[0].start_ns : now_ns : 0;
        uint32_t share = p->share_ppm;
        if (strcmp(p->policy, "fair") == 0)
                share = slice_fair_share(claims, slice_node_claims(&p->line, others, others_of(p, now_ns, others), now_ns,
                                                                   claims, PROCESSES), 0);
        if (share < atomic_exchange(&bucket->share_ppm, share))
                slice_bucket_forfeit(bucket, SLICE_WAIT_NS);
}

/* What the limiter does when it looks: charge what has finished, open batches while it may. */
static void look(struct process *p, uint64_t now_ns)
{
        struct slice_bucket *bucket = &buckets[p->number];
        struct slice_node_line others[PROCESSES];

        while (p->count && p->out[0].end_ns) {
                struct slice_span span = { p->out[0].start_ns, p->out[0].end_ns };
                uint64_t open_ns = p->line.open_ns;
                p->line.open_ns = 0;
                uint64_t own = slice_node_own_time(span, &p->line, others, others_of(p, now_ns, others), now_ns);
                p->line.open_ns = open_ns;
                double cost = slice_cost_of(&p->cost, p->out[0].launches, (double)(span.to_ns - span.from_ns), (double)own);
                slice_node_add_span(&p->line, span, (uint64_t)cost);
                slice_bucket_settle(bucket, p->out[0].reserved_ns, (int64_t)cost);
                p->each_ns = p->each_ns == 0 ? cost : p->each_ns + (cost - p->each_ns) / 4;
                memmove(&p->out[0], &p->out[1], sizeof(p->out[0]) * --p->count);
        }
        uint64_t charged_ns = atomic_load(&bucket->charged_ns);
        if (with_nvml && now_ns - seen_ns[p->number] >= 1000 * MS) {
                slice_bucket_calibrate(bucket, (int64_t)(used_ns[p->number] - seen_used_ns[p->number]),
                                       (int64_t)(charged_ns - seen_charged_ns[p->number]));
                seen_ns[p->number] = now_ns;
                seen_used_ns[p->number] = used_ns[p->number];
                seen_charged_ns[p->number] = charged_ns;
        }
        if (now_ns < p->from_ns || now_ns >= p->to_ns)
                return;
        if (now_ns - p->published_ns >= MS)
                publish(p, now_ns);
        uint32_t share = atomic_load(&bucket->share_ppm);
        if (share < p->share_ppm)
                share = p->share_ppm;
        if (p->count == QUEUE)
                slice_bucket_want(bucket, now_ns);
        while (p->count < QUEUE && (slice_bucket_wait(bucket, now_ns, share) == 0 || share == SLICE_WHOLE)) {
                uint64_t launches = BATCH(others_of(p, now_ns, others)) / p->kernel_ns;
                launches = launches < 1 ? 1 : launches > 64 ? 64 : launches;
                uint64_t work = launches * p->kernel_ns;
                work += work / 1000 * (uint64_t)(rand() % 40);   /* no two launches are the same */
                p->out[p->count] = (struct batch){ .launches = (unsigned)launches, .left_ns = work,
                                                    .reserved_ns = (int64_t)p->each_ns,
                                                    .start_ns = early && p->count == 0 ? now_ns : 0 };
                slice_bucket_reserve(bucket, p->out[p->count++].reserved_ns);
        }
}

static struct batch *first_left(struct process *p)
{
        for (unsigned i = 0; i < p->count; i++)
                if (p->out[i].left_ns)
                        return &p->out[i];
        return NULL;
}

/* One tick of the card. Whose turn it is, and how much of it is left, are in the two words. */
static void run_card(uint64_t now_ns, size_t *turn, uint64_t *turn_left_ns)
{
        uint64_t left = TICK;

        for (size_t tries = 0; left && tries < process_count * 2; tries++) {
                struct process *p = &processes[*turn];
                struct batch *batch = *turn_left_ns ? first_left(p) : NULL;
                if (!batch) {
                        *turn = (*turn + 1) % process_count;
                        *turn_left_ns = TURN;
                        continue;
                }
                uint64_t run = batch->left_ns < left ? batch->left_ns : left;
                run = run < *turn_left_ns ? run : *turn_left_ns;
                if (!batch->start_ns)
                        batch->start_ns = now_ns + TICK - left;
                batch->left_ns -= run;
                left -= run;
                *turn_left_ns -= run;
                if (!batch->left_ns)
                        batch->end_ns = now_ns + TICK - left;
                size_t window = (size_t)((now_ns - BEGIN) / WINDOW);
                used_ns[p->number] += run;
                busy[p->number][window] += (double)run / (double)WINDOW;
                tries = 0;
        }
}

int main(int argc, char **argv)
{
        size_t turn = 0;
        uint64_t turn_left_ns = TURN;

        CHECK(argc >= 4);
        early = strncmp(argv[1], "early", 5) == 0;
        with_nvml = strstr(argv[1], "nvml");
        unsigned seconds = (unsigned)atoi(argv[2]);
        unsigned windows = seconds * 10;
        CHECK(seconds > 0 && windows <= WINDOWS);
        for (int i = 3; i < argc; i++)
                read_process(argv[i]);
        for (uint64_t now = BEGIN; now < BEGIN + seconds * 1000 * MS; now += TICK) {
                for (size_t i = 0; i < process_count; i++)
                        if (now >= processes[i].look_ns) {
                                look(&processes[i], now);
                                processes[i].look_ns = now + POLL / 2 + (uint64_t)rand() % POLL;
                        }
                run_card(now, &turn, &turn_left_ns);
        }
        printf("{");
        for (size_t i = 0; i < slice_count; i++) {
                const char *name = "";
                for (size_t j = 0; j < process_count; j++)
                        name = processes[j].number == i ? processes[j].slice : name;
                printf("%s\"%s\": [", i ? ", " : "", name);
                for (unsigned window = 0; window < windows; window++)
                        printf("%s%.4f", window ? ", " : "", busy[i][window]);
                printf("]");
        }
        printf("}\n");
        return 0;
}
