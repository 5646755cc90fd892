/* Threads in the stub driver, all at once: memory of all kinds, launches, events, host functions, graphs, NVML.
 *
 *      stub_threads THREADS ROUNDS
 *
 * Everything is freed. Prints one line of JSON: what the card says is used, and how many host functions ran. Exit 1: a call
 * failed, with a line. Meant for the sanitizers, too. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "abi/cuda_abi.h"
#include "abi/nvml_abi.h"

static CUcontext context;
static CUfunction kernel;
static _Atomic int ran;
static int rounds;

static void check(CUresult r, const char *what, int line)
{
        const char *name = "?";

        if (r == CUDA_SUCCESS)
                return;
        cuGetErrorName(r, &name);
        fprintf(stderr, "line %d: %s: %s\n", line, what, name);
        exit(1);
}
#define OK(call) check((call), #call, __LINE__)

static void note(void *data)
{
        (void)data;
        atomic_fetch_add(&ran, 1);
}

static void memory(CUstream stream)
{
        CUdeviceptr plain, pooled, managed;
        size_t free_bytes, total;
        CUarray array;
        CUDA_ARRAY_DESCRIPTOR desc = {.Width = 64, .Height = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
        char here[64] = "what goes there comes back", back[64];

        OK(cuMemAlloc_v2(&plain, 4096));
        OK(cuMemcpyHtoD_v2(plain, here, sizeof(here)));
        OK(cuMemcpyDtoHAsync_v2(back, plain, sizeof(back), stream));
        OK(cuMemAllocAsync(&pooled, 1 << 20, stream));
        OK(cuMemAllocManaged(&managed, 1 << 21, CU_MEM_ATTACH_GLOBAL));
        OK(cuMemPrefetchAsync(managed, 1 << 21, 0, stream));
        OK(cuArrayCreate_v2(&array, &desc));
        OK(cuMemGetInfo_v2(&free_bytes, &total));
        OK(cuArrayDestroy(array));
        OK(cuMemFree_v2(managed));
        OK(cuMemFreeAsync(pooled, stream));
        OK(cuMemFree_v2(plain));
}

static void time_and_graphs(CUstream stream)
{
        CUevent first, last;
        CUgraph graph;
        CUgraphExec exec;
        float ms;

        OK(cuEventCreate(&first, CU_EVENT_DEFAULT));
        OK(cuEventCreate(&last, CU_EVENT_DEFAULT));
        OK(cuEventRecord(first, stream));
        OK(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        OK(cuLaunchHostFunc(stream, note, NULL));
        OK(cuEventRecord(last, stream));
        OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        OK(cuStreamEndCapture(stream, &graph));
        OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
        OK(cuGraphLaunch(exec, stream));
        OK(cuStreamSynchronize(stream));
        OK(cuEventElapsedTime(&ms, first, last));
        OK(cuGraphExecDestroy(exec));
        OK(cuGraphDestroy(graph));
        OK(cuEventDestroy_v2(first));
        OK(cuEventDestroy_v2(last));
}

static void look(void)
{
        nvmlProcessInfo_t list[8];
        unsigned int count = 8;
        nvmlUtilization_t use;
        nvmlMemory_t bytes;
        nvmlDevice_t card;

        if (nvmlInit_v2() != NVML_SUCCESS || nvmlDeviceGetHandleByIndex_v2(0, &card) != NVML_SUCCESS ||
            nvmlDeviceGetMemoryInfo(card, &bytes) != NVML_SUCCESS ||
            nvmlDeviceGetUtilizationRates(card, &use) != NVML_SUCCESS ||
            nvmlDeviceGetComputeRunningProcesses_v3(card, &count, list) != NVML_SUCCESS || count != 1 ||
            nvmlShutdown() != NVML_SUCCESS) {
                fprintf(stderr, "NVML failed\n");
                exit(1);
        }
}

static void *work(void *unused)
{
        CUstream stream;

        (void)unused;
        OK(cuCtxSetCurrent(context));
        OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        for (int i = 0; i < rounds; i++) {
                memory(stream);
                time_and_graphs(stream);
                look();
        }
        OK(cuStreamDestroy_v2(stream));
        return NULL;
}

int main(int argc, char **argv)
{
        int threads = argc > 1 ? atoi(argv[1]) : 4;
        pthread_t thread[64];
        size_t free_bytes, total;
        CUmodule module;

        rounds = argc > 2 ? atoi(argv[2]) : 100;
        OK(cuInit(0));
        OK(cuDevicePrimaryCtxRetain(&context, 0));
        OK(cuCtxSetCurrent(context));
        OK(cuModuleLoadData(&module, "image"));
        OK(cuModuleGetFunction(&kernel, module, "us_20"));
        for (int i = 0; i < threads && i < 64; i++) {
                if (pthread_create(&thread[i], NULL, work, NULL))
                        return 1;
        }
        for (int i = 0; i < threads && i < 64; i++)
                pthread_join(thread[i], NULL);
        OK(cuCtxSynchronize());
        OK(cuMemGetInfo_v2(&free_bytes, &total));
        printf("{\"used\": %zu, \"ran\": %d}\n", total - free_bytes, atomic_load(&ran));
        return 0;
}
