/* Counts the calls that wait for a GPU. Preload it into a program that uses CUDA's runtime as a shared library:
 *
 *     cc -shared -fPIC -o waits.so tests/waits.c && LD_PRELOAD=./waits.so PROGRAM
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEVICE_TO_HOST = 2 };

static uint64_t waits;

uint64_t figa_loss_waits(void) { return __atomic_load_n(&waits, __ATOMIC_SEQ_CST); }

static void count(void) { __atomic_add_fetch(&waits, 1, __ATOMIC_SEQ_CST); }

/* The function of CUDA's runtime that this library hides. */
static void *hidden(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (function == NULL) {
        fprintf(stderr, "waits: CUDA's runtime has no %s\n", name);
        abort();
    }
    return function;
}

int cudaDeviceSynchronize(void) {
    count();
    return ((int (*)(void))hidden("cudaDeviceSynchronize"))();
}

int cudaStreamSynchronize(void *stream) {
    count();
    return ((int (*)(void *))hidden("cudaStreamSynchronize"))(stream);
}

int cudaEventSynchronize(void *event) {
    count();
    return ((int (*)(void *))hidden("cudaEventSynchronize"))(event);
}

int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    count();
    return ((int (*)(void *, const void *, size_t, int))hidden("cudaMemcpy"))(to, from, size, kind);
}

/* Into memory of the host, it waits unless that memory is pinned. */
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (kind == DEVICE_TO_HOST) {
        count();
    }
    return ((int (*)(void *, const void *, size_t, int, void *))hidden("cudaMemcpyAsync"))(to, from, size, kind, stream);
}
