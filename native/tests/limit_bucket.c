/* bucket.h, claim by claim, with time as an argument. */
#include "bucket.h"
#include "limit_check.h"

#define MS INT64_C(1000000)
#define START UINT64_C(1000000000000)
#define SHARE 300000u

static int64_t balance(struct slice_bucket *bucket)
{
        return atomic_load(&bucket->balance_ns);
}

static void starts_full(void)
{
        struct slice_bucket bucket = { 0 };

        CHECK(slice_bucket_wait(&bucket, START, SHARE) == 0);
        CHECK(balance(&bucket) == SLICE_BURST_NS);
}

static void saves_up_no_more_than_the_burst(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_refill(&bucket, START + 3600000 * MS, SHARE);
        CHECK(balance(&bucket) == SLICE_BURST_NS);
}

static void refills_by_share_of_wall_time(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_reserve(&bucket, SLICE_BURST_NS + 100 * MS);
        /* A million looks, each too soon to be worth anything alone. */
        for (int i = 1; i <= 1000000; i++)
                slice_bucket_refill(&bucket, START + (uint64_t)i * 100, SHARE);
        CHECK_BETWEEN(balance(&bucket), -70 * MS - 10000, -70 * MS + 10000);
}

static void owes_without_bound_and_pays_all_of_it(void)
{
        struct slice_bucket bucket = { 0 };
        uint64_t now = START;

        slice_bucket_refill(&bucket, now, SHARE);
        slice_bucket_settle(&bucket, 0, 60000 * MS);     /* one kernel of a minute */
        while (slice_bucket_wait(&bucket, now, SHARE) > 0)
                now += SLICE_WAIT_NS;
        CHECK_BETWEEN(now - START, 199 * 1000 * MS, 201 * 1000 * MS);
}

static void never_waits_longer_than_two_milliseconds_at_a_time(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, 10000);
        for (int64_t debt = 1; debt < INT64_MAX / 4; debt *= 3) {
                slice_bucket_settle(&bucket, 0, debt);
                CHECK(slice_bucket_wait(&bucket, START, 10000) <= SLICE_WAIT_NS);
        }
        CHECK(slice_bucket_wait(&bucket, START, 0) == SLICE_WAIT_NS);
}

static void a_reservation_is_seen_at_once_and_corrected_later(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_reserve(&bucket, 60 * MS);
        CHECK(slice_bucket_wait(&bucket, START, SHARE) > 0);
        CHECK(slice_bucket_settle(&bucket, 60 * MS, 5 * MS) == 5 * MS);
        CHECK(balance(&bucket) == SLICE_BURST_NS - 5 * MS);
        CHECK(atomic_load(&bucket.charged_ns) == (uint64_t)(5 * MS));
}

static void what_was_saved_can_be_forfeited_and_debts_cannot(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_forfeit(&bucket, 2 * MS);
        CHECK(balance(&bucket) == 2 * MS);
        slice_bucket_reserve(&bucket, 9 * MS);
        slice_bucket_forfeit(&bucket, 2 * MS);
        CHECK(balance(&bucket) == -7 * MS);
}

static void nonsense_costs_nothing_and_pays_nothing(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_reserve(&bucket, -5 * MS);
        slice_bucket_unreserve(&bucket, -5 * MS);
        slice_bucket_settle(&bucket, -5 * MS, -7 * MS);
        CHECK(balance(&bucket) == SLICE_BURST_NS);
}

static void forgets_debts_from_before_a_restart_of_the_machine(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_settle(&bucket, 0, 100000 * MS);
        CHECK(slice_bucket_wait(&bucket, 5 * (uint64_t)MS, SHARE) == 0);
}

static void clocks_a_little_apart_pay_nothing_twice(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_refill(&bucket, START, SHARE);
        slice_bucket_reserve(&bucket, SLICE_BURST_NS);
        for (int i = 0; i < 1000; i++)
                slice_bucket_refill(&bucket, i % 2 ? START + 20000 : START + 40000, SHARE);
        CHECK_BETWEEN(balance(&bucket), 0, 40000);
}

static void calibration_moves_slowly_and_stays_between_half_and_double(void)
{
        struct slice_bucket bucket = { 0 };

        slice_bucket_calibrate(&bucket, 80 * MS, 100 * MS);
        CHECK_BETWEEN(atomic_load(&bucket.factor_ppm), 940000, 960000);
        for (int i = 0; i < 100; i++)
                slice_bucket_calibrate(&bucket, 1 * MS, 100 * MS);
        CHECK(atomic_load(&bucket.factor_ppm) == SLICE_FACTOR_LEAST);
        CHECK(slice_bucket_settle(&bucket, 0, 10 * MS) == 5 * MS);
        for (int i = 0; i < 100; i++)
                slice_bucket_calibrate(&bucket, 900 * MS, 100 * MS);
        CHECK(atomic_load(&bucket.factor_ppm) == SLICE_FACTOR_MOST);
        atomic_store(&bucket.factor_ppm, 7);             /* damage in the region is no factor */
        CHECK(slice_bucket_settle(&bucket, 0, 10 * MS) == 10 * MS);
}

static void one_caller_closes_each_window_of_use(void)
{
        struct slice_bucket bucket = { 0 };

        CHECK(slice_bucket_measure(&bucket, START));
        slice_bucket_settle(&bucket, 0, 15 * MS);
        CHECK(!slice_bucket_measure(&bucket, START + 10 * (uint64_t)MS));
        CHECK(slice_bucket_measure(&bucket, START + 50 * (uint64_t)MS));
        CHECK(!slice_bucket_measure(&bucket, START + 50 * (uint64_t)MS));
        CHECK_BETWEEN(atomic_load(&bucket.use_ppm), 299000, 301000);
}

static struct slice_claim wanting(uint32_t percent, uint32_t weight)
{
        return (struct slice_claim){ .share_ppm = percent * 10000, .weight = weight, .wants = true };
}

static void alone_a_slice_is_lent_the_whole_device(void)
{
        struct slice_claim claims[] = { wanting(10, 1) };

        CHECK(slice_fair_share(claims, 1, 0) == SLICE_WHOLE);
}

static void what_is_idle_is_lent_by_weight(void)
{
        struct slice_claim claims[] = { wanting(20, 1), wanting(20, 3) };

        CHECK(slice_fair_share(claims, 2, 0) == 350000);
        CHECK(slice_fair_share(claims, 2, 1) == 650000);
}

static void what_a_quiet_slice_leaves_is_lent_but_for_some_room(void)
{
        struct slice_claim claims[] = { wanting(30, 1), { .share_ppm = 600000, .weight = 1, .use_ppm = 100000 } };

        CHECK_BETWEEN(slice_fair_share(claims, 2, 0), 840000, 890000);
        claims[1].wants = true;
        CHECK(slice_fair_share(claims, 2, 0) == 350000);
}

static void a_guarantee_stands_whatever_others_claim(void)
{
        struct slice_claim claims[] = { wanting(30, 1), wanting(90, 10000), wanting(100, 10000) };

        CHECK(slice_fair_share(claims, 3, 0) == 300000);
}

static void priority_zero_is_lent_first(void)
{
        struct slice_claim claims[] = { wanting(30, 1), wanting(30, 1), wanting(10, 1) };

        claims[0].priority = claims[2].priority = 1;
        CHECK(slice_fair_share(claims, 3, 0) == 300000);
        CHECK(slice_fair_share(claims, 3, 1) == 600000);
        claims[1].wants = false;
        claims[1].use_ppm = 0;
        CHECK_BETWEEN(slice_fair_share(claims, 3, 0), 550000, 600000);
}

static void lent_shares_never_exceed_the_device(void)
{
        srand(7);
        for (int round = 0; round < 20000; round++) {
                struct slice_claim claims[6];
                size_t count = 1 + (size_t)rand() % 6;
                uint64_t guaranteed = 0, lent = 0;
                for (size_t i = 0; i < count; i++) {
                        claims[i] = wanting((uint32_t)rand() % 30 + 1, (uint32_t)rand() % 100);
                        claims[i].priority = (uint32_t)rand() % 2;
                        guaranteed += claims[i].share_ppm;
                }
                for (size_t i = 0; i < count; i++) {
                        uint32_t share = slice_fair_share(claims, count, i);
                        CHECK(share >= claims[i].share_ppm && share <= SLICE_WHOLE);
                        lent += share;
                }
                CHECK(lent <= (guaranteed > SLICE_WHOLE ? guaranteed : SLICE_WHOLE));
        }
}

int main(int argc, char **argv)
{
#define CASE(name) { #name, name }
        static const struct limit_case cases[] = {
                CASE(starts_full),
                CASE(saves_up_no_more_than_the_burst),
                CASE(refills_by_share_of_wall_time),
                CASE(owes_without_bound_and_pays_all_of_it),
                CASE(never_waits_longer_than_two_milliseconds_at_a_time),
                CASE(a_reservation_is_seen_at_once_and_corrected_later),
                CASE(what_was_saved_can_be_forfeited_and_debts_cannot),
                CASE(nonsense_costs_nothing_and_pays_nothing),
                CASE(forgets_debts_from_before_a_restart_of_the_machine),
                CASE(clocks_a_little_apart_pay_nothing_twice),
                CASE(calibration_moves_slowly_and_stays_between_half_and_double),
                CASE(one_caller_closes_each_window_of_use),
                CASE(alone_a_slice_is_lent_the_whole_device),
                CASE(what_is_idle_is_lent_by_weight),
                CASE(what_a_quiet_slice_leaves_is_lent_but_for_some_room),
                CASE(a_guarantee_stands_whatever_others_claim),
                CASE(priority_zero_is_lent_first),
                CASE(lent_shares_never_exceed_the_device),
                { NULL, NULL },
        };
        return limit_run(cases, argc, argv);
}
