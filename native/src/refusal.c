/* The ring of refusals: who asked for what, and was told no. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "account_inside.h"

#define WINDOW 65536   /* bytes of /proc/self/maps that are looked at in one piece */

/* Part of a loaded library's path -> the name that its users know. The first line that matches wins. */
static const struct {
        char part[20], name[16];   /* not pointers, which would be relocated at the start of every program */
} libraries[] = {
        {"/libtorch_cuda", "PyTorch"},  {"/libtorch_python", "PyTorch"}, {"/xla_extension", "JAX"},
        {"/jax_cuda", "JAX"},           {"/xla_cuda_plugin", "JAX"},     {"/libtensorflow", "TensorFlow"},
        {"/libpaddle", "PaddlePaddle"}, {"/cupy/", "CuPy"},              {"/cupy_backends/", "CuPy"},
        {"/libmxnet", "MXNet"},         {"/libonnxruntime", "ONNX"},     {"/libggml-cuda", "llama.cpp"},
        {"/numba/", "Numba"},           {"/cuda/bindings/", "cuda-python"},
};
#define LIBRARIES (sizeof(libraries) / sizeof(libraries[0]))

/* The first of `libraries` that stands in `text`, if it comes before `best`. */
static size_t better(const char *text, size_t best)
{
        for (size_t i = 0; i < best; i++)
                if (strstr(text, libraries[i].part) != NULL)
                        return i;
        return best;
}

/* Reads in pieces that begin with a whole line, so that no path is cut in two. */
static size_t scan(int descriptor, char *buffer)
{
        size_t best = LIBRARIES, kept = 0;

        for (;;) {
                ssize_t part = read(descriptor, buffer + kept, WINDOW - 1 - kept);

                if (part < 0 && errno == EINTR)
                        continue;
                if (part <= 0)
                        return best;
                buffer[kept + (size_t)part] = '\0';
                best = better(buffer, best);
                char *last = strrchr(buffer, '\n');
                kept = last != NULL ? strlen(last + 1) : 0;
                if (last != NULL)
                        memmove(buffer, last + 1, kept);
        }
}

/* A process keeps its libraries, so what was found once is not looked for again. */
static const char *who(void)
{
        static _Atomic size_t known = LIBRARIES;   /* relaxed: any thread that looks finds the same */
        size_t found = atomic_load_explicit(&known, memory_order_relaxed);

        if (found < LIBRARIES)
                return libraries[found].name;
        int descriptor = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        if (descriptor < 0)
                return "";
        void *buffer = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (buffer != MAP_FAILED) {
                found = scan(descriptor, buffer);
                munmap(buffer, WINDOW);
                atomic_store_explicit(&known, found, memory_order_relaxed);
        }
        close(descriptor);
        return found < LIBRARIES ? libraries[found].name : "";
}

static void fill(struct slice_refusal *entry, unsigned device, uint64_t bytes, const char *api)
{
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        entry->at_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        entry->asked_bytes = bytes;
        entry->used_bytes = slice_used(device);
        entry->limit_bytes = atomic_load_explicit(&slice_here->limit[device], memory_order_relaxed);
        entry->device = device;
        entry->pid = getpid();
        entry->uid = geteuid();
        entry->slot = atomic_load_explicit(&slice_here->slot, memory_order_relaxed);
        memset(entry->comm, 0, sizeof(entry->comm));
        prctl(PR_GET_NAME, entry->comm);
        strncpy(entry->who, who(), sizeof(entry->who) - 1);
        entry->who[sizeof(entry->who) - 1] = '\0';
        strncpy(entry->api, api, sizeof(entry->api) - 1);
        entry->api[sizeof(entry->api) - 1] = '\0';
}

void slice_note_refusal(unsigned device, uint64_t bytes, const char *api)
{
        struct slice_region *region = slice_region_here(device);

        if (region == NULL)
                return;
        int before = slice_no_cancel(), kept = errno;
        uint64_t number = atomic_fetch_add_explicit(&region->header.refusals, 1, memory_order_relaxed);
        struct slice_refusal *entry = &region->ring[number % SLICE_REFUSALS];
        struct slice_refusal note;

        fill(&note, device, bytes, api);
        /* 0 while it changes: the exchange keeps the copy behind it, the release keeps it before the number. A writer that is
         * overtaken by 64 others mixes texts at worst: both wrote fixed sizes into the same entry. */
        atomic_exchange(&entry->number, 0);
        memcpy((char *)entry + sizeof(entry->number), (char *)&note + sizeof(note.number), sizeof(note) - sizeof(note.number));
        atomic_store_explicit(&entry->number, number + 1, memory_order_release);
        atomic_fetch_add_explicit(&region->device[device].refusals, 1, memory_order_relaxed);
        errno = kept;
        slice_cancel_as(before);
}
