/*
 * A program that keeps a card busy, for limits to act on.
 *
 *   gpu_load kernel|graph|cooperative us seconds [sync]     `sync`: synchronise after so many launches (0: never)
 *
 * Prints "ready" when it begins and the number of launches when it ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

#define GRAPH_KERNELS 10

static CUgraphExec a_graph(CUstream stream, CUfunction kernel)
{
        CUgraph graph;
        CUgraphExec exec;

        bench_must(bench_cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), "cuStreamBeginCapture");
        for (int i = 0; i < GRAPH_KERNELS; i++)
                bench_must(bench_cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL), "cuLaunchKernel");
        bench_must(bench_cuStreamEndCapture(stream, &graph), "cuStreamEndCapture");
        bench_must(bench_cuGraphInstantiateWithFlags(&exec, graph, 0), "cuGraphInstantiate");
        return exec;
}

int main(int argc, char **argv)
{
        CUstream stream;
        CUgraphExec graph = NULL;
        unsigned long launches = 0;

        if (argc < 4) {
                fprintf(stderr, "usage: gpu_load kernel|graph|cooperative us seconds [sync]\n");
                return 2;
        }
        double us = atof(argv[2]);
        uint64_t length_ns = (uint64_t)(atof(argv[3]) * 1e9);
        unsigned long sync = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
        int is_graph = strcmp(argv[1], "graph") == 0, is_cooperative = strcmp(argv[1], "cooperative") == 0;
        bench_open();
        bench_context();
        bench_must(bench_cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
        CUfunction kernel = bench_kernel(is_graph ? us / GRAPH_KERNELS : us);
        if (is_graph)
                graph = a_graph(stream, kernel);
        printf("ready\n");
        fflush(stdout);
        /* A card takes some work ahead, not all there is: the real one's queue holds about a thousand launches. */
        uint64_t began_ns = bench_now_ns(), queue = sync ? sync : 1000;
        while (bench_now_ns() - began_ns < length_ns) {
                if (is_graph)
                        bench_must(bench_cuGraphLaunch(graph, stream), "cuGraphLaunch");
                else if (is_cooperative)
                        bench_must(bench_cuLaunchCooperativeKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, NULL), "cooperative");
                else
                        bench_must(bench_cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, NULL, NULL), "cuLaunchKernel");
                if (++launches % queue == 0)
                        bench_must(bench_cuStreamSynchronize(stream), "cuStreamSynchronize");
        }
        printf("%lu\n", launches);
        return 0;
}
