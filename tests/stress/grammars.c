/* grammars.c - four threads use a small cache of compiled schemas: every grammar is the right one,
 * as long as it is in use, and the cache stays within its limits. Built with TSan by `make tsan`.
 */
#include "api/grammar/cache_internal.h"
#include "api/grammar/vocab_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 4, TURNS = 1000, SCHEMAS = 24, HELD = 3, MAX_ENTRIES = 10, TOKENS = 2048 };

static api__grammar_cache *cache;

static tokenizer *tok;
static api__vocab *vocab;

/* Takes a text byte by byte, each allowed by a mask that threads may share. */
static bool takes(const api__grammar *grammar, const char *text) {
    const uint32_t stop = TOKENS - 1;
    api__workspace *space = NULL;
    api__constraint *constr = NULL;
    err e = {0};
    bool good = api__workspace_create(&space, grammar, vocab, &stop, 1, &e) == 0 &&
                api__constraint_create(&constr, space, &e) == 0;
    for (const char *at = text; good; at++) {
        const char byte[2] = {*at};
        uint32_t id = stop;
        good = (*at == 0 || tokenizer_find(tok, byte, &id)) &&
               api__constraint_make(constr) == ERR_NONE;
        const uint64_t *words = api__constraint_mask(constr, 0)->words;
        good = good && words[id / 64] >> id % 64 & 1 && api__constraint_take(constr, id);
        if (*at == 0) break;
    }
    api__constraint_destroy(constr);
    api__workspace_destroy(space);
    return good;
}

static bool get(api__grammar **out, unsigned i) {
    char text[64];
    err e = {0};
    (void)snprintf(text, sizeof text, "{\"const\":\"value%u\"}", i);
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
            (void)snprintf(text, sizeof text, "\"value%u\"", which[k]);
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
    if (tokenizer_open(&tok, "models/demo", TOKENS, &e) != 0 ||
        api__vocab_open(&vocab, tok, TOKENS, &e) != 0)
        return 1;
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
    api__mask_counts masks = api__masks_counts(vocab->masks);
    api__grammar_cache_close(cache);
    api__vocab_close(vocab);
    tokenizer_close(tok);
    printf("%llu grammars found, %llu compiled; %llu masks found, %llu made\n",
           (unsigned long long)counts.found, (unsigned long long)counts.compiled,
           (unsigned long long)masks.found, (unsigned long long)masks.made);
    return failed;
}
