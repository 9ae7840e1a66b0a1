/* test_masks.c - masks of tokens: kept ones come back as they were, and all are exact. */
#include "api/grammar/cache_internal.h"
#include "api/grammar/vocab_internal.h"
#include "base/hash.h"
#include "base/size.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(masks, .init = json_setup, .fini = fail_on_leaks);

static uint64_t state = 1;
static uint32_t below(uint32_t n) {
    state = hash_mix(state + HASH_STEP);
    return (uint32_t)(state >> 32) % n;
}

/* ---- kept masks ---- */

enum { WORDS = 50, BASES = 3, STATES = 200 };

static uint64_t bases[BASES][WORDS], masks[STATES][WORDS];
static api__mask_key keys[STATES];

static void random_words(uint64_t *words) {
    for (size_t i = 0; i < WORDS; i++)
        words[i] = (uint64_t)below(UINT32_MAX) << 32 | below(UINT32_MAX);
}

/* Few tokens, nearly a base, or any tokens. */
static void make_state(uint32_t i, uint32_t *base) {
    *base = i % 4 < BASES ? i % 4 : API__NO_BASE;
    memset(masks[i], 0, sizeof masks[i]);
    if (*base != API__NO_BASE) memcpy(masks[i], bases[*base], sizeof masks[i]);
    if (i % 5 == 0) random_words(masks[i]);
    for (uint32_t n = below(150); n > 0; n--)
        masks[i][below(WORDS)] ^= (uint64_t)1 << below(64);
    keys[i].n_bytes = 4 * (1 + below(sizeof keys[i].bytes / 4));
    for (uint32_t k = 0; k < keys[i].n_bytes; k++)
        keys[i].bytes[k] = (uint8_t)below(2);
    memcpy(keys[i].bytes, &i, sizeof i);
}

static api__masks *cache_of(size_t bytes) {
    api__masks *cache = NULL;
    cr_assert_eq(api__masks_open(&cache, WORDS, bases[0], bytes), 0);
    return cache;
}

Test(masks, a_kept_mask_comes_back_as_it_was_and_all_stay_within_their_bytes) {
    static const size_t limits[] = {0, 300, 2000, 30000, 1 << 20};
    uint64_t words[WORDS];
    uint32_t base[STATES];
    for (size_t i = 0; i < BASES; i++)
        random_words(bases[i]);
    for (uint32_t i = 0; i < STATES; i++)
        make_state(i, &base[i]);
    for (size_t row = 0; row < ARRAY_LEN(limits); row++) {
        api__masks *cache = cache_of(limits[row]);
        uint32_t found = 0;
        for (uint32_t turn = 0; turn < 4000; turn++) {
            uint32_t i = below(STATES);
            if (api__masks_find(cache, &keys[i], words)) {
                cr_assert_arr_eq(words, masks[i], sizeof words, "state %u", i);
                found++;
            } else {
                api__masks_keep(cache, &keys[i], base[i], masks[i]);
            }
            cr_assert_leq(api__masks_counts(cache).bytes, limits[row]);
        }
        api__mask_counts counts = api__masks_counts(cache);
        cr_assert_eq(counts.found, found);
        if (limits[row] >= 1 << 20) cr_assert_eq(counts.kept, STATES, "all masks have room");
        if (limits[row] <= 300) cr_assert_leq(counts.kept, 1);
        if (limits[row] == 30000) cr_assert(found > 100 && counts.made > 100);
        api__masks_close(cache);
    }
}

Test(masks, the_mask_unused_for_longest_goes_first) {
    uint64_t words[WORDS];
    uint32_t base;
    api__masks *cache = cache_of(1500); /* room for a few masks of a block each */
    for (uint32_t i = 0; i < STATES; i++) {
        make_state(i, &base);
        keys[i].n_bytes = 8;
        memset(masks[i], 0, sizeof masks[i]);
        api__masks_keep(cache, &keys[i], API__NO_BASE, masks[i]);
        cr_assert(api__masks_find(cache, &keys[0], words), "the mask used last is gone");
        cr_assert(api__masks_find(cache, &keys[i], words));
    }
    cr_assert_not(api__masks_find(cache, &keys[1], words));
    cr_assert(api__masks_find(cache, &keys[STATES - 1], words));
    api__masks_close(cache);
}

/* ---- exact masks ---- */

enum { TOKENS = 640, STOP = TOKENS - 1 };

typedef struct {
    tokenizer *tok;
    api__vocab *vocab;
} words;

/* All bytes, all pairs of digits, and pieces that reach over values. */
static words open_words(void) {
    static const char *const pieces[] = {
        ",1",    "1,",  ",1,1",    "1,1,1",    ",1,1,1,1,", "1,1]",     "\",\"",
        "\"]",   "]}",  "{\"a\":", "\":1",     "a\"",       "abc\",",   "\\n",
        "\\u00", "e\"", " a",      "aaaaaaaa", "x\"",       "\xc3\xa9", "\xc3\xa9\"",
        ", ",    "0.5", "tru",     "ue",       "null"};
    buf json = {0};
    uint32_t id = 256;
    words all = {0};
    err e = {0};
    buf_printf(&json,
               "{\"added_tokens\":[{\"id\":%d,\"content\":\"<|end|>\",\"special\":true}],"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
               "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{",
               STOP);
    put_byte_vocabulary(&json, 0);
    for (int i = 0; i < 100; i++)
        buf_printf(&json, ",\"%02d\":%u", i, id++);
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        buf_puts(&json, ",\"");
        for (const char *at = pieces[i]; *at; at++) { /* as byte-level vocabularies spell bytes */
            uint8_t byte = (uint8_t)*at;
            if (byte == ' ') buf_puts(&json, "\xc4\xa0");
            else if (byte == '"' || byte == '\\') buf_printf(&json, "\\%c", byte);
            else if (byte == 0xa9 || byte == 0xc3)
                buf_printf(&json, "%c%c", 0xc0 | byte >> 6, 0x80 | (byte & 63));
            else buf_append(&json, at, 1);
        }
        buf_printf(&json, "\":%u", id++);
    }
    buf_puts(&json, "}}}");
    cr_assert_eq(tokenizer_parse(&all.tok, json.data, json.len, TOKENS, "test", &e), 0, "%s",
                 e.msg);
    cr_assert_eq(api__vocab_open(&all.vocab, all.tok, TOKENS, &e), 0);
    buf_deinit(&json);
    return all;
}

static void close_words(words *all) {
    api__vocab_close(all->vocab);
    tokenizer_close(all->tok);
}

static bool passes(api__automaton *machine, const api__readings *from, const char *bytes,
                   size_t n) {
    api__readings now = *from, next;
    uint32_t used = machine->used;
    for (size_t i = 0; i < n && now.n_tops > 0; i++) {
        api__automaton_step(machine, &now, (uint8_t)bytes[i], &next);
        now = next;
    }
    api__automaton_rewind(machine, used);
    return now.n_tops > 0;
}

/* Compares the mask after each byte of a text with the automaton's answer for each token. */
static void check_text(const words *all, const api__grammar *grammar, const char *text) {
    const uint32_t stop = STOP;
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    api__automaton machine;
    api__readings now, next;
    err e = {0};
    cr_assert_eq(api__workspace_create(&work, grammar, all->vocab, &stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    cr_assert_eq(api__automaton_init(&machine, grammar, &e), 0);
    api__automaton_start(&machine, &now);
    for (const char *at = text;; at++) {
        cr_assert_eq(api__constraint_make(constr), ERR_NONE);
        const uint64_t *mask = api__constraint_mask(constr, 0)->words;
        for (uint32_t id = 0; id < STOP; id++) {
            size_t n;
            const char *bytes = tokenizer_bytes(all->tok, id, &n);
            if (bytes == NULL || n == 0) continue;
            cr_assert_eq(mask[id / 64] >> id % 64 & 1, passes(&machine, &now, bytes, n),
                         "'%.*s' after '%.*s'", (int)n, bytes, (int)(at - text), text);
        }
        if (*at == 0) break;
        cr_assert(api__constraint_take(constr, (uint8_t)*at), "at '%s'", at);
        api__automaton_step(&machine, &now, (uint8_t)*at, &next);
        now = next;
    }
    api__automaton_deinit(&machine);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
}

static api__grammar *compile(const char *text) {
    err e = {0};
    api__grammar *grammar = grammar_compile(text, false, &e);
    cr_assert_not_null(grammar, "%s", e.msg);
    return grammar;
}

Test(masks, a_mask_is_exact_near_every_limit_and_far_from_it) {
    static const char ones[] = "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]";
    words all = open_words();
    for (int limit = 1; limit <= 21; limit += 4) {
        char schema[128], text[64];
        for (int min = 0; min <= limit; min += limit) {
            (void)snprintf(schema, sizeof schema,
                           "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":%d,"
                           "\"maxItems\":%d}",
                           min, limit);
            (void)snprintf(text, sizeof text, "%.*s]", 2 * limit, ones);
            api__grammar *grammar = compile(schema);
            check_text(&all, grammar, text);
            check_text(&all, grammar, text); /* now with kept masks */
            api__grammar_free(grammar);
            (void)snprintf(schema, sizeof schema,
                           "{\"type\":\"string\",\"minLength\":%d,\"maxLength\":%d}", min, limit);
            (void)snprintf(text, sizeof text, "\"%.*s\"", limit, "aaaaaaaaaaaaaaaaaaaaaaaa");
            grammar = compile(schema);
            check_text(&all, grammar, text);
            check_text(&all, grammar, text);
            api__grammar_free(grammar);
        }
    }
    close_words(&all);
}

/* The walk numbers 128 states at most; each pair of digits leads to a state of its own here. */
Test(masks, a_mask_is_exact_when_few_readings_come_again) {
    words all = open_words();
    buf schema = {0};
    buf_puts(&schema, "{\"type\":\"array\",\"items\":{\"anyOf\":[");
    for (int i = 0; i < 32; i++)
        buf_printf(&schema, "%s{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", i ? "," : "",
                   i * 31, 4000 + i * 977);
    buf_puts(&schema, "]}}");
    api__grammar *grammar = compile(schema.data);
    check_text(&all, grammar, "[0,12,345,31999,4000]");
    check_text(&all, grammar, "[7,92,34000,30,999]");
    api__grammar_free(grammar);
    buf_clear(&schema);
    buf_puts(&schema, "{\"anyOf\":[");
    for (int i = 0; i < 32; i++)
        buf_printf(
            &schema,
            "%s{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":"
            "%d},\"b%d\":{}}}",
            i ? "," : "", 2 + i, i);
    buf_puts(&schema, "]}");
    grammar = compile(schema.data);
    check_text(&all, grammar, "{\"a\":\"a\\u00e9aaaaaaaaaaaaaaaaaaaaaaaaaa\",\"b30\":{\"a\":[1]}}");
    api__grammar_free(grammar);
    buf_deinit(&schema);
    close_words(&all);
}

Test(masks, the_second_request_with_a_schema_makes_no_mask) {
    static const char schema[] =
        "{\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":{\"type\":\"array\","
        "\"items\":{\"type\":[\"string\",\"number\"]}}}}";
    static const char text[] = "{\"a\":[\"aa\",1.5]}";
    words all = open_words();
    api__grammar *first = compile(schema), *other = compile(schema);
    check_text(&all, first, text);
    uint64_t made = api__masks_counts(all.vocab->masks).made;
    cr_assert_gt(made, 5);
    check_text(&all, first, text);
    cr_assert_eq(api__masks_counts(all.vocab->masks).made, made);
    check_text(&all, other, text);
    cr_assert_gt(api__masks_counts(all.vocab->masks).made, made, "two grammars share masks");
    api__grammar_free(first);
    api__grammar_free(other);
    close_words(&all);
}
