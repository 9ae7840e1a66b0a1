/* cost.c - see cost.h; and a mutator that makes long inputs by repeating a piece.
 *
 * libFuzzer keeps only inputs with new coverage, and a repetition never adds any. Without this
 * mutator it would try nothing above some KB, however large -max_len is. */
#include "tests/fuzz/cost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

enum {
    LONG_KB = 16,   /* below it, fixed costs dominate the cost per KB */
    LONG_EVERY = 16 /* one mutation in so many makes the input long */
};

static struct {
    uint64_t runs, long_runs;
    double us_per_kb, of_kb; /* the worst long input */
    double ms, ms_of_kb;     /* the most expensive input */
} worst;

static void print_worst(void) {
    fprintf(stderr,
            "cost: %llu inputs, %llu of at least %d KB; worst %.1f us/KB (of %.0f KB); dearest "
            "%.1f ms (of %.1f KB)\n",
            (unsigned long long)worst.runs, (unsigned long long)worst.long_runs, LONG_KB,
            worst.us_per_kb, worst.of_kb, worst.ms, worst.ms_of_kb);
}

void fuzz_cost(uint64_t took_ns, size_t size, uint64_t ms, uint64_t us_per_kb) {
    double kb = (double)size / 1024, us = (double)took_ns * 1e-3;
    if (worst.runs++ == 0) (void)atexit(print_worst);
    if (us * 1e-3 > worst.ms) {
        worst.ms = us * 1e-3;
        worst.ms_of_kb = kb;
    }
    if (kb >= LONG_KB) {
        worst.long_runs++;
        if (us / kb > worst.us_per_kb) {
            worst.us_per_kb = us / kb;
            worst.of_kb = kb;
        }
    }
    if (us <= (double)ms * 1e3 + kb * (double)us_per_kb) return;
    fprintf(stderr, "cost: %.0f ms of processor time for %.1f KB; %llu ms and %llu us/KB allowed\n",
            us * 1e-3, kb, (unsigned long long)ms, (unsigned long long)us_per_kb);
    abort();
}

/* ---- long inputs ---- */

static uint64_t next_random(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* The next boundary of a piece of text: a comma, a blank, a bracket or a quote. */
static size_t to_a_mark(const uint8_t *data, size_t size, size_t at) {
    size_t i = at;
    while (i < size && i - at < 64 && (data[i] == 0 || strchr(", \t\n{}[]\":<|", data[i]) == NULL))
        i++;
    return i < size && i - at < 64 ? i : at;
}

/* Repeats the piece data[from..to), up to `want` bytes in all. */
static size_t repeat_piece(uint8_t *data, size_t size, size_t from, size_t to, size_t want) {
    size_t piece = to - from, room = want - size, more = room - room % piece;
    memmove(data + to + more, data + to, size - to);
    for (size_t i = 0; i < more; i++)
        data[to + i] = data[from + i % piece];
    return size + more;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    uint64_t state = seed;
    (void)next_random(&state);
    if (size < 2 || size >= max_size || next_random(&state) % LONG_EVERY != 0)
        return LLVMFuzzerMutate(data, size, max_size);
    size_t from = next_random(&state) % size, piece = 1 + next_random(&state) % 40;
    size_t to = from + piece < size ? from + piece : size;
    if (next_random(&state) % 2) {
        from = to_a_mark(data, size, from);
        to = to_a_mark(data, size, to);
    }
    /* As many lengths near 1 KB as near the limit. */
    size_t want = max_size;
    for (uint64_t halve = next_random(&state) % 12; halve > 0 && want > 1024; halve--)
        want /= 2;
    if (from >= to || want <= size) return LLVMFuzzerMutate(data, size, max_size);
    return repeat_piece(data, size, from, to, want);
}
