/*
 * Programs that a core limit must not disturb: each case runs in a slice (or bare) and checks what the driver answers.
 *   limit_driver case
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/driver.h"
#include "limit_check.h"

#include <dlfcn.h>

#define EXTRA(X)                                                                                                      \
        X(cuCtxCreate_v2) X(cuCtxDestroy_v2) X(cuDevicePrimaryCtxReset_v2) X(cuGraphGetNodes) X(cuGraphDestroy)       \
        X(cuLaunchHostFunc) X(cuStreamDestroy_v2) X(cuLaunchKernel_ptsz) X(cuStreamSynchronize_ptsz)
#define X(symbol) static __typeof__(symbol) *my_##symbol;
EXTRA(X)
#undef X

static void begin(void)
{
        void *library;

        bench_open();
        library = dlopen("libcuda.so.1", RTLD_NOW);
        CHECK(library);
#define X(symbol)                                                  \
        *(void **)&my_##symbol = dlsym(library, #symbol);          \
        CHECK(my_##symbol);
        EXTRA(X)
#undef X
        bench_context();
}

static void launch(CUfunction kernel, CUstream stream)
{
        CHECK(bench_cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL) == CUDA_SUCCESS);
}

static CUstream a_stream(void)
{
        CUstream stream;

        CHECK(bench_cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
        return stream;
}

static void a_capture_holds_what_was_launched_and_nothing_else(void)
{
        begin();
        CUstream stream = a_stream();
        CUfunction kernel = bench_kernel(10);
        CUgraph graph;
        size_t count = 0;

        /* An open batch, whose end falls into the capture. */
        for (int i = 0; i < 70; i++)
                launch(kernel, stream);
        CHECK(bench_cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL) == CUDA_SUCCESS);
        for (int i = 0; i < 200; i++)
                launch(kernel, stream);
        CHECK(bench_cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS);
        CHECK(my_cuGraphGetNodes(graph, NULL, &count) == CUDA_SUCCESS);
        CHECK(count == 200);
        CHECK(my_cuGraphDestroy(graph) == CUDA_SUCCESS);
        CHECK(bench_cuStreamSynchronize(stream) == CUDA_SUCCESS);
}

static CUstream busy_stream;
static CUfunction busy_kernel;
static CUcontext busy_context;
static atomic_bool is_over;

static void *launch_all_the_time(void *data)
{
        (void)data;
        CHECK(bench_cuCtxSetCurrent(busy_context) == CUDA_SUCCESS);
        while (!atomic_load(&is_over))
                launch(busy_kernel, busy_stream);
        return NULL;
}

static void another_threads_launches_do_not_break_a_capture(void)
{
        pthread_t thread;
        CUdevice device;
        CUgraph graph;

        begin();
        CHECK(bench_cuDeviceGet(&device, 0) == CUDA_SUCCESS);
        CHECK(bench_cuDevicePrimaryCtxRetain(&busy_context, device) == CUDA_SUCCESS);
        CUstream stream = a_stream();
        CUfunction kernel = bench_kernel(10);
        busy_stream = a_stream();
        busy_kernel = kernel;
        CHECK(pthread_create(&thread, NULL, launch_all_the_time, NULL) == 0);
        for (int round = 0; round < 200; round++) {
                CHECK(bench_cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) == CUDA_SUCCESS);
                launch(kernel, stream);
                CHECK(bench_cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS);
                CHECK(my_cuGraphDestroy(graph) == CUDA_SUCCESS);
        }
        atomic_store(&is_over, true);
        pthread_join(thread, NULL);
}

static void contexts_come_and_go_with_their_events(void)
{
        begin();
        for (int round = 0; round < 200; round++) {
                CUcontext context;
                CHECK(my_cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS);
                CUmodule module;
                CUfunction kernel;
                CHECK(bench_cuModuleLoadData(&module, "an image") == CUDA_SUCCESS);
                CHECK(bench_cuModuleGetFunction(&kernel, module, "us_20") == CUDA_SUCCESS);
                for (int i = 0; i < 20; i++)
                        launch(kernel, i % 2 ? NULL : CU_STREAM_PER_THREAD);
                /* Destroyed with batches open and out. */
                CHECK(my_cuCtxDestroy_v2(context) == CUDA_SUCCESS);
        }
}

static void a_reset_device_can_be_used_again(void)
{
        begin();
        for (int round = 0; round < 50; round++) {
                CUdevice device;
                CUcontext context;
                CUmodule module;
                CUfunction kernel;
                CHECK(bench_cuDeviceGet(&device, 0) == CUDA_SUCCESS);
                CHECK(bench_cuDevicePrimaryCtxRetain(&context, device) == CUDA_SUCCESS);
                CHECK(bench_cuCtxSetCurrent(context) == CUDA_SUCCESS);
                CHECK(bench_cuModuleLoadData(&module, "an image") == CUDA_SUCCESS);
                CHECK(bench_cuModuleGetFunction(&kernel, module, "us_20") == CUDA_SUCCESS);
                for (int i = 0; i < 20; i++)
                        launch(kernel, NULL);
                CHECK(my_cuDevicePrimaryCtxReset_v2(device) == CUDA_SUCCESS);
        }
}

static void more_streams_than_lanes_are_served(void)
{
        begin();
        CUfunction kernel = bench_kernel(1);

        for (int i = 0; i < 3000; i++) {
                CUstream stream = a_stream();
                launch(kernel, stream);
                if (i % 3 == 0) {
                        CHECK(bench_cuStreamSynchronize(stream) == CUDA_SUCCESS);
                        CHECK(my_cuStreamDestroy_v2(stream) == CUDA_SUCCESS);
                }
        }
        CHECK(bench_cuCtxSynchronize() == CUDA_SUCCESS);
}

static void wait_for_flag(void *data)
{
        while (!atomic_load((atomic_bool *)data))
                usleep(1000);
}

static void a_stream_that_waits_for_the_program_is_no_deadlock(void)
{
        static atomic_bool flag;

        begin();
        CUstream stream = a_stream();
        CUfunction kernel = bench_kernel(3000);
        CHECK(my_cuLaunchHostFunc(stream, wait_for_flag, &flag) == CUDA_SUCCESS);
        for (int i = 0; i < 200; i++)
                launch(kernel, stream);
        atomic_store(&flag, true);
        CHECK(bench_cuStreamSynchronize(stream) == CUDA_SUCCESS);
}

static void *launch_for_itself(void *data)
{
        CUstream stream = *(CUstream *)data;

        CHECK(bench_cuCtxSetCurrent(busy_context) == CUDA_SUCCESS);
        for (int i = 0; i < 3000; i++) {
                CHECK(my_cuLaunchKernel_ptsz(busy_kernel, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL) == CUDA_SUCCESS);
                if (i % 500 == 499)
                        CHECK(my_cuStreamSynchronize_ptsz(stream) == CUDA_SUCCESS);
        }
        return NULL;
}

static void threads_launch_side_by_side(void)
{
        pthread_t threads[8];
        CUstream streams[8] = { NULL };
        CUdevice device;

        begin();
        CHECK(bench_cuDeviceGet(&device, 0) == CUDA_SUCCESS);
        CHECK(bench_cuDevicePrimaryCtxRetain(&busy_context, device) == CUDA_SUCCESS);
        busy_kernel = bench_kernel(1);
        /* Half of them on their own default streams, half sharing two others. */
        streams[4] = streams[5] = a_stream();
        streams[6] = streams[7] = a_stream();
        for (int i = 0; i < 8; i++)
                CHECK(pthread_create(&threads[i], NULL, launch_for_itself, &streams[i]) == 0);
        for (int i = 0; i < 8; i++)
                CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(bench_cuCtxSynchronize() == CUDA_SUCCESS);
}

static void a_fork_in_the_middle_harms_nobody(void)
{
        begin();
        CUfunction kernel = bench_kernel(100);

        for (int i = 0; i < 30; i++)
                launch(kernel, NULL);
        for (int round = 0; round < 10; round++) {
                pid_t child = fork();
                if (child == 0) {
                        /* Whatever the driver says to a child of fork: it comes back. */
                        bench_cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL);
                        bench_cuCtxSynchronize();
                        _exit(0);
                }
                int status;
                CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
                launch(kernel, NULL);
        }
        CHECK(bench_cuCtxSynchronize() == CUDA_SUCCESS);
}

static void the_drivers_errors_pass_through(void)
{
        begin();
        CUfunction kernel = bench_kernel(100);

        for (int i = 0; i < 100; i++) {
                CUresult r = bench_cuLaunchKernel(NULL, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL);
                CHECK(r != CUDA_SUCCESS);
                launch(kernel, NULL);
        }
        CHECK(bench_cuCtxSetCurrent(NULL) == CUDA_SUCCESS);
        CHECK(bench_cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL) != CUDA_SUCCESS);
        CHECK(bench_cuCtxSynchronize() != CUDA_SUCCESS);
}

int main(int argc, char **argv)
{
#define CASE(name) { #name, name }
        static const struct limit_case cases[] = {
                CASE(a_capture_holds_what_was_launched_and_nothing_else),
                CASE(another_threads_launches_do_not_break_a_capture),
                CASE(contexts_come_and_go_with_their_events),
                CASE(a_reset_device_can_be_used_again),
                CASE(more_streams_than_lanes_are_served),
                CASE(a_stream_that_waits_for_the_program_is_no_deadlock),
                CASE(threads_launch_side_by_side),
                CASE(a_fork_in_the_middle_harms_nobody),
                CASE(the_drivers_errors_pass_through),
                { NULL, NULL },
        };
        return limit_run(cases, argc, argv);
}
