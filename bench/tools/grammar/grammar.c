/* grammar.c - the cost of holding an answer to a JSON Schema: processor time to compile it, of one
 * mask, and of the token taken after it. Answers are drawn at random from the tokens allowed by the
 * masks. Built and run by bench/tools/grammar/run.sh; figures in bench/reports/grammar.md.
 *
 * grammar [NAME DIR SIZE]...   the first SIZE entries of the tokenizer.json in DIR; without
 *                              arguments a vocabulary made here */
#include "bench/tools/grammar/grammar.h"
#include "api/grammar/cache_internal.h"
#include "api/grammar/vocab_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 16000, ANSWERS = 64, ANSWER_TOKENS = 250, COMPILES = 9 };

typedef struct {
    const tokenizer *tok;
    api__vocab *vocab;
    uint32_t size, stop;
    uint32_t ends[256]; /* tokens of one byte that end a value */
    uint32_t n_ends;
} words;

static double cpu_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

/* ---- samples ---- */

typedef struct {
    double us[MOST];
    uint32_t n;
} samples;

static void put(samples *list, double us) {
    if (list->n < MOST) list->us[list->n++] = us;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(samples *list) {
    qsort(list->us, list->n, sizeof *list->us, by_value);
}

static double at(const samples *list, double part) { /* of a sorted list */
    return list->n ? list->us[(uint32_t)(part * (list->n - 1))] : 0;
}

/* ---- one schema ---- */

static api__form form_of(const bench_schema *schema, const json_t *json) {
    api__form form = {.json = json, .param = "schema"};
    if (schema->form == BENCH_CALLS) form.calls = api__grammar_compile_tools;
    if (schema->form == BENCH_TAGS) form.calls = api__grammar_compile_tags;
    return form;
}

static bool allowed(const eng_mask *mask, uint32_t id) {
    return id / 64 < mask->n_words && mask->words[id / 64] >> id % 64 & 1;
}

/* A token of the mask; often one that ends a value. UINT32_MAX: the mask is empty. */
static uint32_t choose(const words *all, const eng_mask *mask, uint32_t so_far) {
    uint32_t n = 0, ends[256], n_ends = 0;
    for (uint32_t i = 0; i < all->n_ends; i++) {
        if (allowed(mask, all->ends[i])) ends[n_ends++] = all->ends[i];
    }
    if (n_ends && (so_far > 150 || bench_below(8) == 0)) return ends[bench_below(n_ends)];
    for (size_t i = 0; i < mask->n_words; i++)
        n += (uint32_t)__builtin_popcountll(mask->words[i]);
    if (n == 0) return UINT32_MAX;
    uint32_t left = bench_below(n);
    for (size_t i = 0;; i++) {
        uint64_t word = mask->words[i];
        uint32_t bits = (uint32_t)__builtin_popcountll(word);
        if (left >= bits) {
            left -= bits;
            continue;
        }
        while (left-- > 0)
            word &= word - 1;
        return (uint32_t)(i * 64) + (uint32_t)__builtin_ctzll(word);
    }
}

typedef struct {
    samples first, mask, take;
    uint64_t most_fuel;
    uint32_t costly;
} figures;

/* Draws one answer. false: the mask of some token was too costly. */
static bool answer(const words *all, const api__grammar *grammar, const char *what, samples *masks,
                   figures *out) {
    api__workspace *space = NULL;
    api__constraint *con = NULL;
    err e = {0};
    bool whole = true;
    if (api__workspace_create(&space, grammar, all->vocab, &all->stop, 1, &e) != 0 ||
        api__constraint_create(&con, space, &e) != 0)
        exit(1);
    for (uint32_t turn = 0; turn < ANSWER_TOKENS; turn++) {
        double from = cpu_us();
        whole = api__constraint_make(con) == ERR_NONE;
        put(masks, cpu_us() - from);
        if (api__constraint_fuel(con) > out->most_fuel) out->most_fuel = api__constraint_fuel(con);
        if (!whole) break;
        uint32_t id = choose(all, api__constraint_mask(con, 0), turn);
        from = cpu_us();
        if (id == UINT32_MAX || !api__constraint_take(con, id)) {
            fprintf(stderr, "grammar: a mask allowed what cannot be taken: %s\n", what);
            exit(1);
        }
        put(&out->take, cpu_us() - from);
        if (id == all->stop) break;
    }
    api__constraint_destroy(con);
    api__workspace_destroy(space);
    return whole;
}

static api__grammar_cache *open_cache(void) {
    static const uint64_t key[2] = {1, 2};
    api__grammar_cache *cache = NULL;
    err e = {0};
    if (api__grammar_cache_open(&cache, key, 16, 16 << 20, &e) != 0) exit(1);
    return cache;
}

/* A schema compiled with a new cache, and found again in it. */
typedef struct {
    size_t text_bytes;
    json_t *json;
    api__grammar_cache *cache;
    api__grammar *grammar; /* NULL: refused */
    samples first, again;
} compiled;

static void compile(compiled *out, const bench_schema *schema, int n, err *e) {
    buf text = {0};
    *out = (compiled){.text_bytes = 0};
    if (schema->write) schema->write(&text, n);
    out->text_bytes = text.len;
    out->json = schema->write ? json_loads(text.data, JSON_DECODE_ANY, NULL) : NULL;
    buf_deinit(&text);
    const api__form form = form_of(schema, out->json);
    for (int i = 0; i < COMPILES; i++) {
        api__grammar_release(out->grammar);
        out->grammar = NULL;
        api__grammar_cache_close(out->cache);
        out->cache = open_cache();
        for (int turn = 0; turn < 2; turn++) {
            api__grammar_release(out->grammar);
            double from = cpu_us();
            int rc = api__grammar_get(&out->grammar, out->cache, &form, false, e);
            put(turn ? &out->again : &out->first, cpu_us() - from);
            if (rc != 0) return;
        }
    }
    sort(&out->first);
    sort(&out->again);
}

static void compiled_end(compiled *form) {
    api__grammar_release(form->grammar);
    api__grammar_cache_close(form->cache);
    json_decref(form->json);
}

static void measure(const words *all, const bench_schema *schema) {
    static figures out;
    static compiled form;
    err e = {0};
    out = (figures){.most_fuel = 0};
    compile(&form, schema, schema->n, &e);
    if (form.grammar == NULL) {
        printf("| %s | refused: %s |\n", schema->what, e.msg);
        compiled_end(&form);
        return;
    }
    uint64_t made = api__masks_counts(all->vocab->masks).made;
    for (int i = 0; i < ANSWERS; i++)
        out.costly += !answer(all, form.grammar, schema->what, i ? &out.mask : &out.first, &out);
    sort(&out.first);
    sort(&out.mask);
    sort(&out.take);
    made = api__masks_counts(all->vocab->masks).made - made;
    printf("| %s | %.0f / %.1f | %.1f | %.1f / %.0f | %u | %llu | %.1f / %.1f / %.0f | %.1f / %.1f "
           "| %llu | %u |\n",
           schema->what, at(&form.first, 0.5), at(&form.again, 0.5),
           (double)api__grammar_cache_counts(form.cache).bytes / 1000, at(&out.first, 0.5),
           at(&out.first, 1), out.first.n + out.mask.n, (unsigned long long)made,
           at(&out.mask, 0.5), at(&out.mask, 0.99), at(&out.mask, 1), at(&out.take, 0.5),
           at(&out.take, 0.99), (unsigned long long)out.most_fuel, out.costly);
    compiled_end(&form);
}

/* The loop thread parses bodies of up to 4 KB. */
static void measure_dear(void) {
    static const int sizes[] = {4000, 200000};
    static compiled form;
    puts("\n| schema | bytes | compile first / again, us | KB | |\n|---|---|---|---|---|");
    for (size_t i = 0; i < bench_n_dear * 2; i++) {
        const bench_schema *schema = &bench_dear[i / 2];
        err e = {0};
        compile(&form, schema, sizes[i % 2], &e);
        printf("| %s | %zu | %.0f / %.0f | %.0f | %s |\n", schema->what, form.text_bytes,
               at(&form.first, 0.5), at(&form.again, 0.5),
               (double)api__grammar_cache_counts(form.cache).bytes / 1000, e.msg);
        compiled_end(&form);
    }
}

static void find_ends(words *all) {
    for (uint32_t id = 0; id < all->size; id++) {
        size_t n;
        const char *bytes = tokenizer_bytes(all->tok, id, &n);
        bool end = id == all->stop || (bytes && n == 1 && strchr("\"}]", *bytes));
        if (end && all->n_ends < 256) all->ends[all->n_ends++] = id;
    }
}

static void run(const char *name, const tokenizer *tok, uint32_t size) {
    static words all;
    err e = {0};
    all = (words){.tok = tok, .size = size, .stop = size - 1};
    double from = cpu_us();
    if (api__vocab_open(&all.vocab, tok, size, &e) != 0) {
        fprintf(stderr, "grammar: %s\n", e.msg);
        exit(1);
    }
    printf("\n%s: %u entries; its tries take %.0f ms once, when the model is opened\n\n", name,
           size, (cpu_us() - from) / 1000);
    find_ends(&all);
    puts("| schema | compile first / again, us | KB | first answer, mask p50 / worst | tokens | "
         "masks made | later answers, mask p50 / p99 / worst | take p50 / p99 | most fuel | too "
         "costly |");
    puts("|---|---|---|---|---|---|---|---|---|---|");
    for (size_t i = 0; i < bench_n_usual; i++)
        measure(&all, &bench_usual[i]);
    for (size_t i = 0; i < bench_n_worst; i++)
        measure(&all, &bench_worst[i]);
    api__mask_counts counts = api__masks_counts(all.vocab->masks);
    printf("\n%zu masks kept in %.1f MB\n", counts.kept, (double)counts.bytes / 1e6);
    api__vocab_close(all.vocab);
}

int main(int argc, char **argv) {
    json_setup();
    for (int i = 1; i + 2 < argc; i += 3) {
        tokenizer *tok = NULL;
        err e = {0};
        long size = strtol(argv[i + 2], NULL, 10);
        if (tokenizer_open(&tok, argv[i + 1], 1 << 20, &e) != 0 || size < 2 ||
            size > tokenizer_size(tok)) {
            fprintf(stderr, "grammar: %s: %s\n", argv[i + 1], e.msg[0] ? e.msg : "wrong size");
            return 1;
        }
        run(argv[i], tok, (uint32_t)size);
        tokenizer_close(tok);
    }
    if (argc == 1) {
        tokenizer *tok = bench_vocabulary();
        measure_dear();
        run("made here", tok, BENCH_VOCAB);
        tokenizer_close(tok);
    }
    return 0;
}
