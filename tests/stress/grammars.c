/* grammars.c - four threads use a small cache of compiled schemas: every grammar is the right one,
 * as long as it is in use, and the cache stays within its limits. Built with TSan by `make tsan`.
 */
#include "api/grammar/cache_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 4, TURNS = 4000, SCHEMAS = 24, HELD = 3, MAX_ENTRIES = 10 };

static api__grammar_cache *cache;

static bool takes(const api__grammar *grammar, const char *text) {
    api__automaton machine;
    api__readings now, next;
    err e = {0};
    if (api__automaton_init(&machine, grammar, &e) != 0) return false;
    api__automaton_start(&machine, &now);
    for (const char *at = text; *at; at++) {
        api__automaton_step(&machine, &now, (uint8_t)*at, &next);
        now = next;
    }
    bool done = api__automaton_done(&machine, &now);
    api__automaton_deinit(&machine);
    return done;
}

static bool get(api__grammar **out, unsigned i) {
    char text[64];
    err e = {0};
    (void)snprintf(text, sizeof text, "{\"const\":\"value %u\"}", i);
    json_t *schema = json_loads(text, 0, NULL);
    const api__form form = {.json = schema, .param = "schema"};
    int rc = api__grammar_get(out, cache, &form, false, &e);
    json_decref(schema);
    return rc == 0;
}

static void *work(void *seed) {
    unsigned state = *(const unsigned *)seed, which[HELD] = {0};
    api__grammar *held[HELD] = {NULL};
    char text[32];
    for (int turn = 0; turn < TURNS; turn++) {
        state = state * 1664525u + 1013904223u;
        unsigned i = (state >> 16) % SCHEMAS, place = (state >> 8) % HELD;
        api__grammar_release(held[place]);
        if (!get(&held[place], i)) return "a schema was refused";
        which[place] = i;
        for (unsigned k = 0; k < HELD; k++) {
            (void)snprintf(text, sizeof text, "\"value %u\"", which[k]);
            if (held[k] && !takes(held[k], text)) return "a grammar is not of its schema";
        }
        if (api__grammar_cache_counts(cache).entries > MAX_ENTRIES)
            return "the cache has too many entries";
    }
    for (unsigned k = 0; k < HELD; k++)
        api__grammar_release(held[k]);
    return NULL;
}

int main(void) {
    static const uint64_t key[2] = {1, 2};
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    err e = {0};
    int failed = 0;
    json_setup();
    if (api__grammar_cache_open(&cache, key, MAX_ENTRIES, 1 << 20, &e) != 0) return 1;
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i + 1;
        if (pthread_create(&threads[i], NULL, work, &seeds[i]) != 0) return 1;
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        if (wrong) fprintf(stderr, "%s\n", (const char *)wrong);
        failed |= wrong != NULL;
    }
    api__grammar_counts counts = api__grammar_cache_counts(cache);
    api__grammar_cache_close(cache);
    printf("%llu grammars found, %llu compiled\n", (unsigned long long)counts.found,
           (unsigned long long)counts.compiled);
    return failed;
}
