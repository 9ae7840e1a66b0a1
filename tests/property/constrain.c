/* constrain.c - random schemas: every output allowed by the masks is valid JSON and fits the
 * schema, and every value that fits is allowed. */
#include "api/grammar/constrain_internal.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "tests/property/schemas.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(constrain_property, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- random walks ---- */

static bool allows(api__automaton *a, const api__readings *t, uint8_t byte) {
    api__readings next;
    uint32_t used = a->used;
    api__automaton_step(a, t, byte, &next);
    api__automaton_rewind(a, used);
    return next.n_tops > 0;
}

static void check_text(const json_t *schema, const char *text, size_t n) {
    json_error_t why;
    json_t *val = json_loadb(text, n, JSON_DECODE_ANY, &why);
    char *dump = json_dumps(schema, 0);
    cr_assert(val, "not JSON: %s in '%.*s' for %s", why.text, (int)n, text, dump);
    cr_assert(schemas_valid(schema, schema, val), "does not fit: '%.*s' for %s", (int)n, text,
              dump);
    free(dump);
    json_decref(val);
}

/* One allowed byte, at random; after some bytes it prefers to end. */
static int next_byte(api__automaton *a, const api__readings *t, size_t so_far) {
    static const char enders[] = "\"}]";
    uint8_t can[256];
    uint32_t n = 0;
    if (schemas_below(so_far > 150 ? 2 : 6) == 0) {
        for (const char *p = enders; *p; p++) {
            if (allows(a, t, (uint8_t)*p)) return (uint8_t)*p;
        }
    }
    for (int b = 0; b < 256; b++) {
        if (allows(a, t, (uint8_t)b)) can[n++] = (uint8_t)b;
    }
    return n ? can[schemas_below(n)] : -1;
}

Test(constrain_property, every_random_walk_ends_as_json_that_fits) {
    api__stacks *scratch = malloc(sizeof *scratch);
    uint32_t compiled = 0, finished = 0;
    for (schemas_state = 1; compiled < 400; schemas_state += 77) {
        json_t *schema = schemas_random_root();
        api__grammar *g = NULL;
        err e = {0};
        if (api__grammar_compile(&g, schema, true, "schema", &e) != 0) {
            /* a name required but excluded, and the like */
            cr_assert(e.code == ERR_BAD_PARAM || strstr(e.msg, "'minProperties'"), "%s", e.msg);
            json_decref(schema);
            continue;
        }
        compiled++;
        api__automaton a;
        cr_assert_eq(api__automaton_init(&a, g, &e), 0);
        for (int walk = 0; walk < 5; walk++) {
            api__readings now, next;
            buf text = {0};
            api__automaton_start(&a, &now);
            while (text.len < 5000) {
                if (api__automaton_done(&a, &now) && schemas_below(2)) break;
                int b = next_byte(&a, &now, text.len);
                if (b < 0) break;
                char byte = (char)b;
                buf_append(&text, &byte, 1);
                api__automaton_step(&a, &now, (uint8_t)b, &next);
                now = next;
                api__automaton_compact(&a, &now, scratch);
                cr_assert_gt(now.n_tops, 0, "a byte that was allowed is refused");
            }
            char *dump = json_dumps(schema, 0);
            cr_assert(api__automaton_done(&a, &now), "no way out of '%s' for %s", text.data, dump);
            free(dump);
            check_text(schema, text.data, text.len);
            finished++;
            buf_deinit(&text);
        }
        api__automaton_deinit(&a);
        api__grammar_free(g);
        json_decref(schema);
    }
    cr_assert_eq(finished, 2000);
    free(scratch);
}

static bool accepts(api__automaton *a, api__stacks *scratch, const char *text, size_t n,
                    size_t *where) {
    api__readings now, next;
    api__automaton_start(a, &now);
    for (size_t i = 0; i < n; i++) {
        api__automaton_step(a, &now, (uint8_t)text[i], &next);
        now = next;
        *where = i;
        if (now.n_tops == 0) return false;
        if (i % 7 == 0) api__automaton_compact(a, &now, scratch);
    }
    return api__automaton_done(a, &now);
}

Test(constrain_property, every_way_to_write_what_fits_is_accepted) {
    static const size_t flags[] = {JSON_COMPACT,
                                   0,
                                   JSON_INDENT(2),
                                   JSON_INDENT(4),
                                   JSON_COMPACT | JSON_ENSURE_ASCII,
                                   JSON_COMPACT | JSON_ESCAPE_SLASH};
    api__stacks *scratch = malloc(sizeof *scratch);
    uint32_t accepted = 0;
    for (schemas_state = 5; accepted < 5000; schemas_state += 991) {
        json_t *schema = schemas_random_root();
        api__grammar *g = NULL;
        err e = {0};
        api__automaton a;
        if (api__grammar_compile(&g, schema, true, "schema", &e) != 0) {
            json_decref(schema);
            continue;
        }
        cr_assert_eq(api__automaton_init(&a, g, &e), 0);
        /* Values of an enum or a const are written one way: with the schema's own dump. */
        char *dump = json_dumps(schema, JSON_COMPACT);
        bool fixed = strstr(dump, "\"enum\"") || strstr(dump, "\"const\"");
        bool wide = strstr(dump, "\"é\"") || strstr(dump, "\"日本\""); /* so are declared keys */
        for (int k = 0; k < 10; k++) {
            json_t *val = schemas_instance(schema, schema, 5);
            if (val == NULL) continue;
            cr_assert(schemas_valid(schema, schema, val),
                      "the test made a value that does not fit %s", dump);
            char *text =
                json_dumps(val, JSON_REAL_PRECISION(12) |
                                    flags[fixed ? 0 : schemas_below(wide ? 4 : ARRAY_LEN(flags))]);
            size_t where = 0;
            cr_assert(accepts(&a, scratch, text, strlen(text), &where),
                      "'%s' refused at %zu for %s", text, where, dump);
            accepted++;
            free(text);
            json_decref(val);
        }
        free(dump);
        api__automaton_deinit(&a);
        api__grammar_free(g);
        json_decref(schema);
    }
    free(scratch);
}

/* ---- masks ---- */

/* Every token by itself, the slow and plain way. */
static bool token_passes(api__automaton *a, const api__readings *from, const char *bytes,
                         size_t n) {
    api__readings now = *from, next;
    uint32_t used = a->used;
    for (size_t i = 0; i < n && now.n_tops > 0; i++) {
        api__automaton_step(a, &now, (uint8_t)bytes[i], &next);
        now = next;
    }
    api__automaton_rewind(a, used);
    return now.n_tops > 0;
}

/* A constraint at its beginning, and an automaton of the same grammar, fed the same bytes. */
static void open_way(const api__grammar *g, const api__vocab *v, uint32_t stop, api__workspace **w,
                     api__constraint **c, api__automaton *a, api__readings *now) {
    err e = {0};
    cr_assert_eq(api__workspace_create(w, g, v, &stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(c, *w, &e), 0);
    cr_assert_eq(api__automaton_init(a, g, &e), 0);
    api__automaton_start(a, now);
}

static void close_way(api__workspace *w, api__constraint *c, api__automaton *a) {
    api__automaton_deinit(a);
    api__constraint_destroy(c);
    api__workspace_destroy(w);
}

Test(constrain_property, masks_name_exactly_the_tokens_that_pass_and_any_choice_ends_valid) {
    tokenizer *t = NULL;
    api__vocab *v = NULL;
    err e = {0};
    const uint32_t vocab = 2048, stop = 2047;
    cr_assert_eq(tokenizer_open(&t, "models/demo", vocab, &e), 0, "%s", e.msg);
    cr_assert_eq(api__vocab_open(&v, t, vocab, &e), 0);
    api__stacks *scratch = malloc(sizeof *scratch);
    uint32_t compared = 0, finished = 0;
    for (schemas_state = 11; finished < 60; schemas_state += 31) {
        json_t *schema = schemas_random_root();
        api__grammar *g = NULL;
        api__constraint *c = NULL;
        api__workspace *w = NULL;
        api__automaton a;
        if (api__grammar_compile(&g, schema, true, "schema", &(err){0}) != 0) {
            json_decref(schema);
            continue;
        }
        api__readings now, next;
        open_way(g, v, stop, &w, &c, &a, &now);
        uint32_t n = 0;
        buf text = {0};
        for (;;) {
            cr_assert_eq(api__constraint_make(c), ERR_NONE);
            const eng_mask *mask = api__constraint_mask(c, 0);
            uint32_t can[2048], n_can = 0, ends[2048], n_ends = 0;
            for (uint32_t id = 0; id < vocab; id++) {
                size_t len;
                const char *bytes = tokenizer_bytes(t, id, &len);
                bool in_mask = mask->words[id / 64] >> id % 64 & 1;
                if (in_mask) can[n_can++] = id;
                if (in_mask && len && strchr("}]\"", bytes[len - 1])) ends[n_ends++] = id;
                if (n % 8 == 0 && id < 2044) {
                    bool passes = token_passes(&a, &now, bytes, len);
                    cr_assert_eq(in_mask, passes, "token %u '%.*s' after '%s'", id, (int)len, bytes,
                                 text.data);
                    compared++;
                }
            }
            bool done = api__automaton_done(&a, &now);
            cr_assert_eq(mask->words[stop / 64] >> stop % 64 & 1, done,
                         "the stop token exactly when whole");
            cr_assert_gt(n_can, 0, "nowhere to go after '%s'", text.data);
            if (done && (n_can == 1 || schemas_below(2))) break;
            uint32_t id = n_ends && (n > 40 || schemas_below(5) == 0) ? ends[schemas_below(n_ends)]
                                                                      : can[schemas_below(n_can)];
            if (id == stop) break;
            size_t len;
            const char *bytes = tokenizer_bytes(t, id, &len);
            buf_append(&text, bytes, len);
            for (size_t i = 0; i < len; i++) {
                api__automaton_step(&a, &now, (uint8_t)bytes[i], &next);
                now = next;
            }
            api__automaton_compact(&a, &now, scratch);
            cr_assert(api__constraint_take(c, id), "the mask allows '%.*s' after '%s'", (int)len,
                      bytes, text.data);
            cr_assert_lt(++n, 3000, "no end to '%s'", text.data);
        }
        check_text(schema, text.data, text.len);
        finished++;
        buf_deinit(&text);
        close_way(w, c, &a);
        api__grammar_free(g);
        json_decref(schema);
    }
    cr_assert_gt(compared, 100000);
    free(scratch);
    api__vocab_close(v);
    tokenizer_close(t);
}

/* ---- many readings inside one token ---- */

enum { PIECES = 600 };

/* The bytes, pairs of digits, and pieces that open several values at once. */
static tokenizer *piece_tokenizer(void) {
    static const char *const pieces[] = {"{\"",
                                         "[\"",
                                         "[[",
                                         "[[[[",
                                         "\":\"",
                                         "\",\"",
                                         "\":{\"",
                                         "\":[",
                                         "{\"a\":",
                                         "{\"a\":{\"a\":",
                                         "[{\"a\":",
                                         "{\"a\":\"",
                                         "{\"a\":1",
                                         "{\"a\":12",
                                         "{\"a\":{\"a\":{\"a\":",
                                         "\":{\"a\":{\"",
                                         "\"}",
                                         "\"}}",
                                         "}}",
                                         "]}",
                                         "]]",
                                         "},{\"a\":",
                                         "{\"a\":{\"a\":{\"a\":1",
                                         "{\"a\":[{\"a\":[1",
                                         "ab\":",
                                         "{\"ab\":",
                                         "1,1",
                                         "1]",
                                         "-1",
                                         "0."};
    buf json = {0};
    uint32_t id = 256;
    buf_printf(&json,
               "{\"added_tokens\":[{\"id\":%d,\"content\":\"<|end|>\",\"special\":true}],"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
               "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{",
               PIECES - 1);
    put_byte_vocabulary(&json, 0);
    for (int d = 0; d < 100; d++)
        buf_printf(&json, ",\"%02d\":%u", d, id++);
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++, id++) {
        json_t *text = json_string(pieces[i]);
        char *quoted = json_dumps(text, JSON_ENCODE_ANY);
        buf_printf(&json, ",%s:%u", quoted, id);
        free(quoted);
        json_decref(text);
    }
    buf_puts(&json, "}}}");
    tokenizer *t = NULL;
    err e = {0};
    cr_assert_eq(tokenizer_parse(&t, json.data, json.len, PIECES, "test", &e), 0, "%s", e.msg);
    buf_deinit(&json);
    return t;
}

/* n alternatives with a common beginning; the property "a" of each holds n such alternatives again,
 * and the innermost values have a common beginning too. */
static json_t *alike(uint32_t n, int depth, bool arrays) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        json_t *inner;
        if (depth > 0) inner = alike(n, depth - 1, arrays);
        else if (schemas_below(3) == 0)
            inner = json_pack("{s:[s,i,i]}", "enum", "alike", (int)(10 + i), (int)(110 + i));
        else if (schemas_below(2))
            inner = json_pack("{s:s,s:i,s:i}", "type", "integer", "minimum", (int)i, "maximum",
                              (int)(1000 + i));
        else inner = json_pack("{s:s,s:i}", "type", "string", "maxLength", (int)(3 + i));
        if (arrays && schemas_below(2))
            inner = json_pack("{s:s,s:o}", "type", "array", "items", inner);
        char name[16];
        (void)snprintf(name, sizeof name, "b%u", i);
        json_array_append_new(list, json_pack("{s:s,s:{s:o,s:{s:s}},s:[s]}", "type", "object",
                                              "properties", "a", inner, name, "type", "null",
                                              "required", "a"));
    }
    return json_pack("{s:o}", "anyOf", list);
}

static json_t *branching_schema(uint32_t round) {
    static const struct {
        uint32_t n;
        int depth;
    } shapes[] = {{32, 0}, {32, 1}, {6, 2}, {8, 2}, {4, 3}, {3, 5}};
    if (round % 2) return schemas_random_root();
    return alike(shapes[round / 2 % 6].n, shapes[round / 2 % 6].depth, schemas_below(2));
}

/* One answer; returns the most readings met. If the mask's own limits allow no byte the answer is
 * given up; no schema here may cause that. */
static uint32_t walk_pieces(const api__grammar *g, const api__vocab *v, const tokenizer *t,
                            api__stacks *scratch, uint32_t *checked) {
    api__workspace *w = NULL;
    api__constraint *c = NULL;
    api__automaton a;
    const uint32_t stop = PIECES - 1;
    api__readings now, next;
    open_way(g, v, stop, &w, &c, &a, &now);
    uint32_t most = 0;
    for (uint32_t k = 0; k < 60; k++) {
        uint32_t can[PIECES], n = 0, longest = 0;
        cr_assert_eq(api__constraint_make(c), ERR_NONE);
        const eng_mask *mask = api__constraint_mask(c, 0);
        for (uint32_t id = 0; id < PIECES; id++) {
            size_t len;
            const char *bytes = tokenizer_bytes(t, id, &len);
            bool allowed = mask->words[id / 64] >> id % 64 & 1;
            if (!allowed || id == stop) continue;
            cr_assert(token_passes(&a, &now, bytes, len), "'%.*s' is allowed and leaves no reading",
                      (int)len, bytes);
            *checked += len > 1;
            if (id >= 356) longest = id;
            can[n++] = id;
        }
        if (n == 0) break;
        uint32_t id = longest && schemas_below(3) ? longest : can[schemas_below(n)];
        size_t len;
        const char *bytes = tokenizer_bytes(t, id, &len);
        cr_assert(api__constraint_take(c, id), "'%.*s' was allowed and is refused", (int)len,
                  bytes);
        for (size_t i = 0; i < len; i++) {
            api__automaton_step(&a, &now, (uint8_t)bytes[i], &next);
            now = next;
            if (now.n_tops > most) most = now.n_tops;
        }
        api__automaton_compact(&a, &now, scratch);
    }
    close_way(w, c, &a);
    return most;
}

Test(constrain_property, whatever_a_mask_allows_leaves_a_reading_however_many_there_are) {
    tokenizer *t = piece_tokenizer();
    api__vocab *v = NULL;
    err e = {0};
    cr_assert_eq(api__vocab_open(&v, t, PIECES, &e), 0);
    api__stacks *scratch = malloc(sizeof *scratch);
    uint32_t many = 0, checked = 0;
    schemas_state = 3;
    for (uint32_t round = 0; round < 240; round++) {
        json_t *schema = branching_schema(round);
        api__grammar *g = NULL;
        if (api__grammar_compile(&g, schema, true, "schema", &(err){0}) == 0) {
            for (int walk = 0; walk < 3; walk++)
                many += walk_pieces(g, v, t, scratch, &checked) > 32;
        }
        api__grammar_free(g);
        json_decref(schema);
    }
    cr_assert_gt(many, 30, "too few answers with more than 32 readings: this shows nothing");
    cr_assert_gt(checked, 10000);
    free(scratch);
    api__vocab_close(v);
    tokenizer_close(t);
}
