/* One process of a slice, told what to do line by line: core_account <mount folder>, the rest in the environment.
 *
 * Each command is answered with one line, so that a test decides in which order several processes do things:
 *   start | watch               0 or -errno (settings are found each time)
 *   charge D BYTES              0 or -errno
 *   refund D BYTES, physical D BYTES, own-physical D BYTES, refuse D BYTES API, launch D, gpu-time D NS,
 *   managed D BYTES             ok
 *   driver                      ok: from now on the dead owe; before start
 *   settle PID, settle-unsure   ok: the driver lists this one process; it cannot tell
 *   used D | limit D | here D | owed D   bytes
 *   tidy                        0 or 1, as soon as it is due again
 *   processes D                 slot:own:pid:pid_there:bytes:comm ...
 *   offender D                  the same for one, or -errno
 *   slot                        our slot, -1 without
 *   fork                        a child answers "child <pid>" and takes over; the parent waits for it to end, then answers
 *                               "parent <status>"
 *   raw-fork                    the same by the bare system call, past all handlers of the C library
 *   exec                        becomes a new program, which answers "ready"
 *   spawn                       starts "sleep" by posix_spawn, answers its pid
 *   crowd N                     N children that join and charge a byte each, until we end: how many could
 *   descriptors                 open descriptors above 2, with their files
 *   close-all                   closes them, as daemons do
 *   end                         ends this process
 */
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "account.h"

static const char *from_environment(const char *name)
{
        return getenv(name);
}

static int begin(const char *folder, bool join)
{
        struct slice_settings set;
        struct slice_fault fault;

        if (slice_settings_find(folder, from_environment, &set, &fault) != 0)
                return -1;
        return join ? slice_account_start(&set) : slice_account_watch(&set);
}

static void print_process(const struct slice_process *one)
{
        printf("%u:%d:%d:%d:%" PRIu64 ":%s ", one->slot, one->own, one->pid, one->pid_there, one->used_bytes, one->comm);
}

static void print_processes(unsigned device)
{
        struct slice_process all[SLICE_SLOTS];
        int count = slice_processes(device, all, SLICE_SLOTS);

        for (int i = 0; i < count; i++)
                print_process(&all[i]);
        printf("\n");
}

static void print_offender(unsigned device)
{
        struct slice_process one;
        int bad = slice_offender(device, &one);

        if (bad < 0)
                printf("%d", bad);
        else
                print_process(&one);
        printf("\n");
}

static void print_descriptors(void)
{
        DIR *folder = opendir("/proc/self/fd");

        for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
                char file[256] = {0};

                if (entry->d_name[0] != '.' && atoi(entry->d_name) > 2 && atoi(entry->d_name) != dirfd(folder) &&
                    readlinkat(dirfd(folder), entry->d_name, file, sizeof(file) - 1) > 0)
                        printf("%s ", file);
        }
        closedir(folder);
        printf("\n");
}

static void spawn(void)
{
        char *arguments[] = {"sleep", "1000", NULL};
        pid_t child = -1;

        posix_spawnp(&child, "sleep", NULL, NULL, arguments, environ);
        printf("%d\n", (int)child);
}

/* A child of the crowd: says whether it has a place, and stays until its parent is gone. */
static void be_one_of_many(int answer)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        char charged = slice_charge(0, 1) == 0;
        if (write(answer, &charged, 1) != 1)
                _exit(1);
        for (;;)
                pause();
}

static void crowd(uint64_t many)
{
        int answer[2], joined = 0;
        char charged;

        if (pipe(answer) < 0)
                return;
        for (uint64_t i = 0; i < many; i++) {
                if (fork() == 0)
                        be_one_of_many(answer[1]);
                if (read(answer[0], &charged, 1) == 1)
                        joined += charged;
        }
        close(answer[0]);
        close(answer[1]);
        printf("%d\n", joined);
}

static void fork_and_wait(pid_t child)
{
        int status;

        if (child == 0) {
                printf("child %d\n", (int)getpid());
                return;
        }
        waitpid(child, &status, 0);
        printf("parent %d\n", status);
}

/* What needs no answer but "ok". False: no such command. */
static bool quiet(const char *verb, unsigned device, uint64_t bytes, const char *api)
{
        if (strcmp(verb, "refund") == 0)
                slice_refund(device, bytes);
        else if (strcmp(verb, "physical") == 0)
                slice_set_physical(device, bytes);
        else if (strcmp(verb, "own-physical") == 0)
                slice_set_own_physical(device, bytes);
        else if (strcmp(verb, "refuse") == 0)
                slice_note_refusal(device, bytes, api);
        else if (strcmp(verb, "launch") == 0)
                slice_note_launch(device);
        else if (strcmp(verb, "gpu-time") == 0)
                slice_add_gpu_time(device, bytes);
        else if (strcmp(verb, "managed") == 0)
                slice_add_managed(device, (int64_t)bytes);
        else if (strcmp(verb, "driver") == 0)
                slice_account_with_driver();
        else if (strcmp(verb, "settle") == 0)   /* by a driver that lists this one process */
                slice_settle((uint32_t[]){device}, 1);
        else if (strcmp(verb, "settle-unsure") == 0)
                slice_settle(NULL, -1);
        else
                return false;
        printf("ok\n");
        return true;
}

static bool tell(const char *verb, unsigned device, uint64_t bytes)
{
        if (strcmp(verb, "charge") == 0)
                printf("%d\n", slice_charge(device, bytes));
        else if (strcmp(verb, "used") == 0)
                printf("%" PRIu64 "\n", slice_used(device));
        else if (strcmp(verb, "limit") == 0)
                printf("%" PRIu64 "\n", slice_limit(device));
        else if (strcmp(verb, "here") == 0)
                printf("%" PRIu64 "\n", slice_used_here(device));
        else if (strcmp(verb, "processes") == 0)
                print_processes(device);
        else if (strcmp(verb, "offender") == 0)
                print_offender(device);
        else if (strcmp(verb, "slot") == 0)
                printf("%d\n", atomic_load(&slice_here->joined) ? (int)atomic_load(&slice_here->slot) : -1);
        else if (strcmp(verb, "crowd") == 0)
                crowd(device);
        else if (strcmp(verb, "descriptors") == 0)
                print_descriptors();
        else if (strcmp(verb, "owed") == 0)
                printf("%" PRIu64 "\n", slice_owed(device));
        else
                return false;
        return true;
}

static void live(const char *verb, char **argv)
{
        if (strcmp(verb, "start") == 0 || strcmp(verb, "watch") == 0) {
                printf("%d\n", begin(argv[1], verb[0] == 's'));
        } else if (strcmp(verb, "tidy") == 0) {
                atomic_store(&slice_here->tidy_ns, 0);
                printf("%d\n", slice_tidy());
        } else if (strcmp(verb, "fork") == 0) {
                fork_and_wait(fork());
        } else if (strcmp(verb, "raw-fork") == 0) {
                fork_and_wait((pid_t)syscall(SYS_clone, 17 /* SIGCHLD */, 0, 0, 0, 0));
        } else if (strcmp(verb, "exec") == 0) {
                execv("/proc/self/exe", argv);
        } else if (strcmp(verb, "spawn") == 0) {
                spawn();
        } else if (strcmp(verb, "close-all") == 0) {
                for (int i = 3; i < 1024; i++)
                        close(i);
                printf("ok\n");
        } else if (strcmp(verb, "end") == 0) {
                exit(0);
        } else {
                printf("what?\n");
        }
}

/* Byte by byte from the descriptor: a buffer of stdio's would be doubled by fork. */
static bool read_line(char *ret, size_t room)
{
        size_t length = 0;

        while (length < room - 1 && read(0, ret + length, 1) == 1) {
                if (ret[length] == '\n') {
                        ret[length] = '\0';
                        return true;
                }
                length++;
        }
        return false;
}

int main(int argc, char **argv)
{
        char line[256], verb[32], api[64];

        if (argc != 2)
                return 2;
        setvbuf(stdout, NULL, _IOLBF, 0);
        printf("ready\n");
        while (read_line(line, sizeof(line))) {
                unsigned device = 0;
                uint64_t bytes = 0;

                verb[0] = api[0] = '\0';
                sscanf(line, "%31s %u %" SCNu64 " %63s", verb, &device, &bytes, api);
                if (!quiet(verb, device, bytes, api) && !tell(verb, device, bytes))
                        live(verb, argv);
                fflush(stdout);
        }
        return 0;
}
