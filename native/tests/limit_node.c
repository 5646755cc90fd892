/* node.h: the file that all slices share, between processes and under damage; and what is read out of it. */
#include "node.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "limit_check.h"

#define MS UINT64_C(1000000)
#define NOW UINT64_C(1000000000000)

static char path[] = "/tmp/limit_node_XXXXXX";

static void remove_file(void)
{
        unlink(path);
}

static struct slice_node opened(void)
{
        struct slice_node node;

        CHECK(slice_node_open(&node, path) == 0);
        return node;
}

static struct slice_node_line a_line(const char *uuid, const char *slice, uint64_t used_ns)
{
        return (struct slice_node_line){ .uuid_hash = slice_node_hash(uuid), .slice_hash = slice_node_hash(slice),
                                         .used_ns = used_ns, .share_ppm = 300000, .weight = 1 };
}

static void an_empty_file_is_made_ready_once(void)
{
        struct slice_node one = opened(), two = opened();
        struct stat status;

        CHECK(fstat(one.fd, &status) == 0);
        CHECK(status.st_size == 64 + SLICE_NODE_LINES * 512);
        slice_node_close(&one);
        slice_node_close(&two);
        CHECK(two.fd == -1);
}

static void a_file_of_an_earlier_version_is_made_anew_once_nobody_uses_it(void)
{
        struct slice_node_header earlier = { .magic = SLICE_NODE_MAGIC, .version = 1 };
        struct flock line = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 64, .l_len = 1 };
        struct slice_node node;
        struct stat status;
        int fd = open(path, O_RDWR | O_TRUNC);

        CHECK(fd >= 0 && pwrite(fd, &earlier, sizeof(earlier), 0) == sizeof(earlier) && ftruncate(fd, 64 + 512 * 256) == 0);
        CHECK(fcntl(fd, F_OFD_SETLK, &line) == 0);
        CHECK(slice_node_open(&node, path) == -EINVAL);
        CHECK(fstat(fd, &status) == 0 && status.st_size == 64 + 512 * 256);
        close(fd);
        node = opened();
        CHECK(fstat(node.fd, &status) == 0 && status.st_size == 64 + SLICE_NODE_LINES * 512);
        slice_node_close(&node);
}

static void other_files_are_left_alone(void)
{
        struct slice_node node;
        int fd = open(path, O_WRONLY | O_TRUNC);

        CHECK(fd >= 0 && write(fd, "not a node file", 15) == 15);
        CHECK(slice_node_open(&node, path) == -EINVAL);
        CHECK(lseek(fd, 0, SEEK_END) == 15);
        close(fd);
        CHECK(slice_node_open(&node, "/nonexistent/node") == -ENOENT);
        CHECK(slice_node_open(&node, "/dev/null") == -EINVAL);
        CHECK(slice_node_open(&node, "/") == -EISDIR);
}

static void a_process_sees_others_on_its_device_and_not_itself(void)
{
        struct slice_node one = opened(), two = opened(), three = opened();
        struct slice_node_line found[4], line = a_line("GPU-1", "a", NOW);
        uint32_t i, j, k;

        CHECK(slice_node_join(&one, &i) == 0 && slice_node_join(&two, &j) == 0 && slice_node_join(&three, &k) == 0);
        CHECK(i != j && j != k && i != k);
        CHECK(slice_node_publish(&one, i, &line) == 0);
        line = a_line("GPU-1", "b", NOW);
        CHECK(slice_node_publish(&two, j, &line) == 0);
        line = a_line("GPU-2", "c", NOW);
        CHECK(slice_node_publish(&three, k, &line) == 0);
        CHECK(slice_node_read(&one, i, slice_node_hash("GPU-1"), NOW + MS, found, 4) == 1);
        CHECK(found[0].slice_hash == slice_node_hash("b"));
        CHECK(slice_node_read(&one, i, slice_node_hash("GPU-1"), NOW + 1000 * MS, found, 4) == 0);
}

static void the_line_of_the_dead_is_free_again(void)
{
        struct slice_node node = opened();
        uint32_t index = 99;
        int ready[2];
        char byte;

        CHECK(pipe(ready) == 0);
        pid_t child = fork();
        if (child == 0) {
                struct slice_node own = opened();
                CHECK(slice_node_join(&own, &index) == 0);
                CHECK(write(ready[1], "x", 1) == 1);
                pause();
                _exit(0);
        }
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(slice_node_join(&node, &index) == 0 && index == 1);
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
        struct slice_node late = opened();
        CHECK(slice_node_join(&late, &index) == 0 && index == 0);
}

static void all_lines_taken_is_an_error_and_no_wait(void)
{
        struct slice_node node[2];
        uint32_t index;

        node[0] = opened();
        node[1] = opened();
        /* Locks of one description do not exclude each other: a hostile process takes them all with one call. */
        struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        CHECK(fcntl(node[0].fd, F_OFD_SETLK, &all) == 0);
        CHECK(slice_node_join(&node[1], &index) == -ENOSPC);
}

static void a_file_that_is_cut_short_kills_nobody(void)
{
        struct slice_node one = opened(), two = opened();
        struct slice_node_line found[4], line = a_line("GPU-1", "a", NOW);
        uint32_t i, j;

        CHECK(slice_node_join(&one, &i) == 0 && slice_node_join(&two, &j) == 0);
        CHECK(slice_node_publish(&one, i, &line) == 0);
        CHECK(truncate(path, 100) == 0);
        CHECK(slice_node_read(&two, j, slice_node_hash("GPU-1"), NOW, found, 4) == 0);
        CHECK(slice_node_publish(&one, i, &line) == 0);          /* grows it again */
        CHECK(slice_node_read(&two, j, slice_node_hash("GPU-1"), NOW, found, 4) == 1);
}

static void rubbish_in_the_file_is_bounded(void)
{
        struct slice_node one = opened();
        struct slice_node_line found[32], own;
        struct slice_claim claims[33];
        uint32_t index;
        unsigned seed = 11;

        CHECK(slice_node_join(&one, &index) == 0);
        for (int round = 0; round < 300; round++) {
                own = a_line("GPU-1", "a", NOW);
                for (uint32_t i = 1; i < 48; i++) {
                        struct slice_node_line line;
                        for (size_t byte = 0; byte < sizeof(line); byte++)
                                ((unsigned char *)&line)[byte] = (unsigned char)rand_r(&seed);
                        line.uuid_hash = own.uuid_hash;
                        line.used_ns = NOW - (uint64_t)rand_r(&seed) % (100 * MS);
                        for (int s = 0; s < SLICE_NODE_SPANS && round % 2; s++) {
                                line.spans[s].from_ns = NOW - (uint64_t)rand_r(&seed) % (30 * MS);
                                line.spans[s].to_ns = line.spans[s].from_ns + (uint64_t)rand_r(&seed) % (20 * MS);
                        }
                        CHECK(slice_node_publish(&one, i, &line) == 0);
                }
                size_t count = slice_node_read(&one, index, own.uuid_hash, NOW, found, 32);
                CHECK(count == 32);
                struct slice_span span = { NOW - 10 * MS, NOW };
                uint64_t time = slice_node_own_time(span, NULL, found, count, NOW);
                CHECK_BETWEEN(time, 10 * MS / 16 - 1000, 10 * MS);
                size_t slices = slice_node_claims(&own, found, count, NOW, claims, 33);
                CHECK_BETWEEN(slice_fair_share(claims, slices, 0), 300000, SLICE_WHOLE);
        }
}

static void time_shared_with_others_is_divided(void)
{
        struct slice_node_line other[2] = { a_line("GPU-1", "b", NOW), a_line("GPU-1", "c", NOW) };
        struct slice_span span = { NOW - 10 * MS, NOW };

        CHECK(slice_node_own_time(span, NULL, other, 2, NOW) == 10 * MS);
        other[0].spans[3] = (struct slice_span){ NOW - 20 * MS, NOW - 6 * MS };
        other[0].cost_ns[3] = 7 * MS;
        CHECK(slice_node_own_time(span, NULL, other, 2, NOW) == 8 * MS);
        other[1].open_ns = NOW - 3 * MS;
        CHECK(slice_node_own_time(span, NULL, other, 2, NOW) == 8 * MS - 3 * MS / 2);
        other[1].open_ns = NOW - 10 * MS;
        CHECK(slice_node_own_time(span, NULL, other, 2, NOW) == 13 * MS / 3);
}

static void what_others_work_cost_is_not_ours(void)
{
        struct slice_node_line other = a_line("GPU-1", "b", NOW);
        struct slice_span span = { NOW - 10 * MS, NOW };

        /* It had the device while it had work, or a third of that time: what it had is known, so nothing is divided. */
        slice_node_add_span(&other, (struct slice_span){ NOW - 9 * MS, NOW - 8 * MS }, MS);
        CHECK(slice_node_own_time(span, NULL, &other, 1, NOW) == 9 * MS);
        slice_node_add_span(&other, (struct slice_span){ NOW - 6 * MS, NOW - 3 * MS }, MS);
        CHECK(slice_node_own_time(span, NULL, &other, 1, NOW) == 8 * MS);
        /* Nobody is believed to have had all of it. */
        slice_node_add_span(&other, (struct slice_span){ NOW - 10 * MS, NOW }, UINT64_MAX);
        CHECK(slice_node_own_time(span, NULL, &other, 1, NOW) == 10 * MS / 16);
}

static void time_is_charged_once(void)
{
        struct slice_node_line own = a_line("GPU-1", "a", NOW);

        slice_node_add_span(&own, (struct slice_span){ NOW - 8 * MS, NOW - 6 * MS }, 0);
        slice_node_add_span(&own, (struct slice_span){ NOW - 5 * MS, NOW - 4 * MS }, MS);
        CHECK(slice_node_own_time((struct slice_span){ NOW - 10 * MS, NOW }, &own, NULL, 0, NOW) == 7 * MS);
        CHECK(slice_node_own_time((struct slice_span){ NOW - 8 * MS, NOW - 7 * MS }, &own, NULL, 0, NOW) == 0);
}

static void stretches_that_follow_closely_are_one(void)
{
        struct slice_node_line own = a_line("GPU-1", "a", NOW);

        for (uint64_t i = 0; i < 100; i++)
                slice_node_add_span(&own, (struct slice_span){ NOW + i * MS, NOW + i * MS + MS - 5000 }, MS / 2);
        CHECK(own.spans[0].from_ns == NOW && own.spans[0].to_ns == NOW + 100 * MS - 5000);
        CHECK(own.spans[1].to_ns == 0 && own.cost_ns[0] == 50 * MS);
        slice_node_add_span(&own, (struct slice_span){ NOW + 200 * MS, NOW + 200 * MS }, MS);   /* empty */
        CHECK(own.spans[1].to_ns == 0);
}

static void a_slice_claims_once_however_many_processes_it_has(void)
{
        struct slice_node_line own = a_line("GPU-1", "a", NOW);
        struct slice_node_line others[] = { a_line("GPU-1", "a", NOW), a_line("GPU-1", "b", NOW - MS),
                                            a_line("GPU-1", "b", NOW), a_line("GPU-1", "b", NOW) };
        struct slice_claim claims[5];

        others[3].share_ppm = 1;
        others[2].share_ppm = 250000;
        CHECK(slice_node_claims(&own, others, 4, NOW, claims, 5) == 2);
        CHECK(claims[1].share_ppm == 250000);
}

static void a_long_kernel_counts_while_its_owner_writes_nothing(void)
{
        struct slice_node one = opened(), two = opened();
        struct slice_node_line found[4], line = a_line("GPU-1", "a", NOW);
        uint32_t i, j;

        CHECK(slice_node_join(&one, &i) == 0 && slice_node_join(&two, &j) == 0);
        line.open_ns = NOW - MS;
        line.expect_ns = NOW + 4000 * MS;
        CHECK(slice_node_publish(&one, i, &line) == 0);
        CHECK(slice_node_read(&two, j, line.uuid_hash, NOW + 3000 * MS, found, 4) == 1);
        CHECK(slice_node_read(&two, j, line.uuid_hash, NOW + 5000 * MS, found, 4) == 0);
        line.expect_ns = UINT64_MAX;
        CHECK(slice_node_publish(&one, i, &line) == 0);
        CHECK(slice_node_read(&two, j, line.uuid_hash, NOW + 20000 * MS, found, 4) == 0);
}

int main(int argc, char **argv)
{
#define CASE(name) { #name, name }
        static const struct limit_case cases[] = {
                CASE(an_empty_file_is_made_ready_once),
                CASE(a_file_of_an_earlier_version_is_made_anew_once_nobody_uses_it),
                CASE(other_files_are_left_alone),
                CASE(a_process_sees_others_on_its_device_and_not_itself),
                CASE(the_line_of_the_dead_is_free_again),
                CASE(all_lines_taken_is_an_error_and_no_wait),
                CASE(a_file_that_is_cut_short_kills_nobody),
                CASE(rubbish_in_the_file_is_bounded),
                CASE(time_shared_with_others_is_divided),
                CASE(what_others_work_cost_is_not_ours),
                CASE(time_is_charged_once),
                CASE(stretches_that_follow_closely_are_one),
                CASE(a_slice_claims_once_however_many_processes_it_has),
                CASE(a_long_kernel_counts_while_its_owner_writes_nothing),
                { NULL, NULL },
        };
        int fd = mkstemp(path);
        CHECK(fd >= 0);
        close(fd);
        atexit(remove_file);
        return limit_run(cases, argc, argv);
}
