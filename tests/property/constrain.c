/* constrain.c - random schemas: every output allowed by the masks is valid JSON and fits the
 * schema, and every value that fits is allowed. The validator here reads JSON Schema on jansson
 * values and shares nothing with the code under test. */
#include "api/grammar/constrain_internal.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(constrain_property, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- random numbers ---- */

static uint64_t state;

static uint32_t below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* ---- a validator ---- */

static const json_t *deref(const json_t *root, const json_t *schema) {
    const char *ref;
    while ((ref = json_string_value(json_object_get(schema, "$ref")))) {
        if (strcmp(ref, "#") == 0) schema = root;
        else schema = json_object_get(json_object_get(root, "$defs"), ref + strlen("#/$defs/"));
    }
    return schema;
}

static bool has_type(const json_t *val, const char *type) {
    if (strcmp(type, "integer") == 0) return json_is_integer(val);
    if (strcmp(type, "number") == 0) return json_is_number(val);
    if (strcmp(type, "string") == 0) return json_is_string(val);
    if (strcmp(type, "boolean") == 0) return json_is_boolean(val);
    if (strcmp(type, "null") == 0) return json_is_null(val);
    if (strcmp(type, "array") == 0) return json_is_array(val);
    return json_is_object(val);
}

static size_t characters(const json_t *val) {
    size_t n = 0;
    for (const char *p = json_string_value(val); *p; p++)
        n += (*p & 0xc0) != 0x80;
    return n;
}

static bool within(const json_t *schema, const char *low, const char *high, json_int_t n) {
    const json_t *min = json_object_get(schema, low), *max = json_object_get(schema, high);
    return (!min || n >= json_integer_value(min)) && (!max || n <= json_integer_value(max));
}

static bool valid(const json_t *root, const json_t *schema, const json_t *v);

static bool valid_object(const json_t *root, const json_t *schema, const json_t *val) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required");
    const json_t *rest = json_object_get(schema, "additionalProperties"), *name, *sub;
    size_t i;
    const char *key;
    json_t *value;
    json_array_foreach(required, i, name) {
        if (!json_object_get(val, json_string_value(name))) return false;
    }
    json_object_foreach((json_t *)(uintptr_t)val, key, value) {
        sub = json_object_get(properties, key);
        if (!sub) sub = rest;
        if (sub && !valid(root, sub, value)) return false;
    }
    return true;
}

static bool valid_array(const json_t *root, const json_t *schema, const json_t *val) {
    const json_t *prefix = json_object_get(schema, "prefixItems"),
                 *items = json_object_get(schema, "items"), *one;
    size_t i;
    json_array_foreach(val, i, one) {
        const json_t *sub = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (sub && !valid(root, sub, one)) return false;
    }
    return within(schema, "minItems", "maxItems", (json_int_t)json_array_size(val));
}

static bool valid(const json_t *root, const json_t *schema, const json_t *val) {
    schema = deref(root, schema);
    if (json_is_boolean(schema)) return json_is_true(schema);
    const json_t *any = json_object_get(schema, "anyOf"), *type = json_object_get(schema, "type");
    const json_t *values = json_object_get(schema, "enum"),
                 *only = json_object_get(schema, "const"), *one;
    size_t i;
    bool ok = any == NULL;
    json_array_foreach(any, i, one) ok = ok || valid(root, one, val);
    if (!ok) return false;
    ok = values == NULL;
    json_array_foreach(values, i, one) ok = ok || json_equal(one, val);
    if (!ok || (only && !json_equal(only, val))) return false;
    ok = !json_is_array(type);
    json_array_foreach(type, i, one) ok = ok || has_type(val, json_string_value(one));
    if (!ok || (json_is_string(type) && !has_type(val, json_string_value(type)))) return false;
    if (json_is_integer(val) && !within(schema, "minimum", "maximum", json_integer_value(val)))
        return false;
    if (json_is_string(val) &&
        !within(schema, "minLength", "maxLength", (json_int_t)characters(val)))
        return false;
    if (json_is_object(val)) return valid_object(root, schema, val);
    return !json_is_array(val) || valid_array(root, schema, val);
}

/* ---- random schemas ---- */

static const char *const keys[] = {"a", "ab",   "abc",  "name",  "na\"me", "",
                                   "é", "日本", "x\\y", "value", "b"};
static const char *const texts[] = {"",       "a", "red",       "red\"", "re", "grün",
                                    "日本語", "👍", "tab\there", "\\",    "1",  "12"};

static json_t *random_schema(int depth);

static json_t *random_object(int depth) {
    json_t *properties = json_object(), *required = json_array();
    for (uint32_t n = below(5); n > 0; n--) {
        const char *key = keys[below(ARRAY_LEN(keys))];
        bool known = json_object_get(properties, key) != NULL;
        json_object_set_new(properties, key, random_schema(depth - 1));
        if (!known && below(2)) json_array_append_new(required, json_string(key));
    }
    json_t *schema = json_pack("{s:s, s:o, s:o}", "type", "object", "properties", properties,
                               "required", required);
    if (below(3) == 0) json_object_set_new(schema, "additionalProperties", json_false());
    else if (below(3) == 0)
        json_object_set_new(schema, "additionalProperties", random_schema(depth - 1));
    return schema;
}

static json_t *random_array(int depth) {
    uint32_t min = below(3), max = min + below(4);
    json_t *schema = json_pack("{s:s}", "type", "array");
    if (below(2)) json_object_set_new(schema, "minItems", json_integer(min));
    if (below(2)) json_object_set_new(schema, "maxItems", json_integer(max));
    json_object_set_new(schema, "items", random_schema(depth - 1));
    if (below(4) == 0) {
        json_object_set_new(schema, "prefixItems",
                            json_pack("[o,o]", random_schema(depth - 1), random_schema(depth - 1)));
    }
    return schema;
}

static json_t *random_enum(void) {
    json_t *list = json_array();
    for (uint32_t n = 1 + below(5); n > 0; n--) {
        switch (below(6)) {
        case 0: json_array_append_new(list, json_integer((json_int_t)below(200) - 100)); break;
        case 1: json_array_append_new(list, json_null()); break;
        case 2: json_array_append_new(list, json_boolean(below(2))); break;
        case 3: json_array_append_new(list, json_pack("{s:[i,i]}", "k", 1, 2)); break;
        default: json_array_append_new(list, json_string(texts[below(ARRAY_LEN(texts))])); break;
        }
    }
    return json_pack("{s:o}", "enum", list);
}

static json_t *random_leaf(void) {
    json_t *schema;
    switch (below(7)) {
    case 0:
        schema = json_pack("{s:s}", "type", "string");
        if (below(2)) json_object_set_new(schema, "minLength", json_integer(below(4)));
        if (below(2)) json_object_set_new(schema, "maxLength", json_integer(4 + below(6)));
        return schema;
    case 1:
        schema = json_pack("{s:s}", "type", "integer");
        if (below(2))
            json_object_set_new(schema, "minimum", json_integer((json_int_t)below(300) - 200));
        if (below(2))
            json_object_set_new(schema, "maximum", json_integer(100 + (json_int_t)below(2000)));
        return schema;
    case 2: return json_pack("{s:s}", "type", "number");
    case 3: return json_pack("{s:[s,s]}", "type", below(2) ? "boolean" : "integer", "null");
    case 4: return random_enum();
    case 5: return json_pack("{s:o}", "const", json_string(texts[below(ARRAY_LEN(texts))]));
    default: return below(3) ? json_pack("{s:s}", "type", "boolean") : json_true();
    }
}

static json_t *random_schema(int depth) {
    if (depth <= 0) return random_leaf();
    switch (below(8)) {
    case 0:
    case 1: return random_object(depth);
    case 2: return random_array(depth);
    case 3:
        return json_pack("{s:[o,o]}", "anyOf", random_schema(depth - 1), random_schema(depth - 1));
    case 4: return json_pack("{s:s}", "$ref", below(2) ? "#/$defs/node" : "#/$defs/leaf");
    default: return random_leaf();
    }
}

/* A root with two definitions to refer to: a leaf, and a tree of any depth. */
static json_t *random_root(void) {
    json_t *root = random_object(3);
    json_object_set_new(root, "$defs",
                        json_pack("{s:o, s:{s:s, s:{s:o, s:{s:[{s:s}, {s:s}]}}, s:[s], s:b}}",
                                  "leaf", random_leaf(), "node", "type", "object", "properties",
                                  "v", random_leaf(), "next", "anyOf", "type", "null", "$ref",
                                  "#/$defs/node", "required", "next", "additionalProperties", 0));
    return root;
}

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
    cr_assert(valid(schema, schema, val), "does not fit: '%.*s' for %s", (int)n, text, dump);
    free(dump);
    json_decref(val);
}

/* One allowed byte, at random; after some bytes it prefers to end. */
static int next_byte(api__automaton *a, const api__readings *t, size_t so_far) {
    static const char enders[] = "\"}]";
    uint8_t can[256];
    uint32_t n = 0;
    if (so_far > 150 || below(6) == 0) {
        for (const char *p = enders; *p; p++) {
            if (allows(a, t, (uint8_t)*p)) return (uint8_t)*p;
        }
    }
    for (int b = 0; b < 256; b++) {
        if (allows(a, t, (uint8_t)b)) can[n++] = (uint8_t)b;
    }
    return n ? can[below(n)] : -1;
}

Test(constrain_property, every_random_walk_ends_as_json_that_fits) {
    api__stacks *scratch = malloc(sizeof *scratch);
    uint32_t compiled = 0, finished = 0;
    for (state = 1; compiled < 400; state += 77) {
        json_t *schema = random_root();
        api__grammar *g = NULL;
        err e = {0};
        if (api__grammar_compile(&g, schema, "schema", &e) != 0) {
            cr_assert_eq(e.code, ERR_BAD_PARAM, "%s",
                         e.msg); /* a name required but excluded, and the like */
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
                if (api__automaton_done(&a, &now) && below(2)) break;
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

/* ---- random instances ---- */

static json_t *random_value(int depth) {
    switch (below(depth > 0 ? 7 : 5)) {
    case 0: return json_null();
    case 1: return json_integer((json_int_t)below(100000) - 50000);
    case 2: return json_string(texts[below(ARRAY_LEN(texts))]);
    case 3: return json_boolean(below(2));
    case 4: return json_real((double)below(1000) / 8);
    case 5: return json_pack("[o,o]", random_value(depth - 1), random_value(depth - 1));
    default: return json_pack("{s:o}", keys[below(ARRAY_LEN(keys))], random_value(depth - 1));
    }
}

static json_t *instance(const json_t *root, const json_t *schema, int depth);

static json_t *object_instance(const json_t *root, const json_t *schema, int depth) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required");
    const json_t *rest = json_object_get(schema, "additionalProperties"), *name;
    json_t *out = json_object(), *sub;
    const char *key;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)properties, key, sub) {
        bool needed = false;
        json_array_foreach(required, i, name) needed =
            needed || strcmp(json_string_value(name), key) == 0;
        json_t *val = needed || (depth > 0 && below(2)) ? instance(root, sub, depth - 1) : NULL;
        if (val) json_object_set_new(out, key, val);
        else if (needed) return json_decref(out), NULL;
    }
    if (rest && !json_is_false(rest) && depth > 0 && below(2)) {
        json_t *val = instance(root, rest, depth - 1);
        const char *extra = below(2) ? "other" : "abcd";
        if (val) json_object_set_new(out, extra, val);
    }
    return out;
}

static json_t *array_instance(const json_t *root, const json_t *schema, int depth) {
    const json_t *prefix = json_object_get(schema, "prefixItems"),
                 *items = json_object_get(schema, "items");
    json_int_t min = json_integer_value(json_object_get(schema, "minItems"));
    const json_t *max = json_object_get(schema, "maxItems");
    json_int_t n = min + (depth > 0 ? (json_int_t)below(3) : 0);
    if (max && n > json_integer_value(max)) n = json_integer_value(max);
    json_t *out = json_array();
    for (json_int_t i = 0; i < n; i++) {
        const json_t *sub =
            (size_t)i < json_array_size(prefix) ? json_array_get(prefix, (size_t)i) : items;
        json_t *val = instance(root, sub, depth - 1);
        if (val == NULL) return json_decref(out), NULL;
        json_array_append_new(out, val);
    }
    return out;
}

static json_t *string_instance(const json_t *schema) {
    static const char *const chars[] = {"a",    "Z", " ",  "\"", "\\",   "/",     "\n",
                                        "\x01", "é", "日", "👍",  "\x7f", "\u2028"};
    json_int_t min = json_integer_value(json_object_get(schema, "minLength"));
    const json_t *max = json_object_get(schema, "maxLength");
    json_int_t n = min + (json_int_t)below(5);
    if (max && n > json_integer_value(max)) n = json_integer_value(max);
    buf text = {0};
    buf_puts(&text, "");
    for (json_int_t i = 0; i < n; i++)
        buf_puts(&text, chars[below(ARRAY_LEN(chars))]);
    json_t *out = json_stringn(text.data ? text.data : "", text.len);
    buf_deinit(&text);
    return out;
}

static json_t *integer_instance(const json_t *schema) {
    const json_t *min = json_object_get(schema, "minimum"),
                 *max = json_object_get(schema, "maximum");
    json_int_t low = min ? json_integer_value(min) : max ? json_integer_value(max) - 500 : -50000;
    json_int_t high = max ? json_integer_value(max) : low + 1000;
    json_int_t pick = below(4);
    return json_integer(pick == 0   ? low
                        : pick == 1 ? high
                                    : low + (json_int_t)below((uint32_t)(high - low + 1)));
}

/* A fitting value, or NULL if the depth does not suffice. */
static json_t *instance(const json_t *root, const json_t *schema, int depth) {
    static const char *const reals[] = {"0.5", "-1.25e3", "1e-7", "3", "-0", "123456.75", "1E+5"};
    if (depth < -20) return NULL;
    schema = deref(root, schema);
    if (json_is_true(schema)) return random_value(2);
    const json_t *any = json_object_get(schema, "anyOf"), *values = json_object_get(schema, "enum");
    const json_t *type = json_object_get(schema, "type");
    if (any) {
        size_t first = depth > 0 ? below(2) : 0;
        json_t *val = instance(root, json_array_get(any, first), depth - 1);
        return val ? val : instance(root, json_array_get(any, !first), depth - 1);
    }
    if (values)
        return json_deep_copy(json_array_get(values, below((uint32_t)json_array_size(values))));
    if (json_object_get(schema, "const")) return json_deep_copy(json_object_get(schema, "const"));
    const char *name =
        json_string_value(json_is_array(type) ? json_array_get(type, below(2)) : type);
    if (strcmp(name, "null") == 0) return json_null();
    if (strcmp(name, "boolean") == 0) return json_boolean(below(2));
    if (strcmp(name, "integer") == 0) return integer_instance(schema);
    if (strcmp(name, "string") == 0) return string_instance(schema);
    if (strcmp(name, "array") == 0) return array_instance(root, schema, depth);
    if (strcmp(name, "object") == 0) return object_instance(root, schema, depth);
    return json_loads(reals[below(ARRAY_LEN(reals))], JSON_DECODE_ANY, NULL);
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
    for (state = 5; accepted < 5000; state += 991) {
        json_t *schema = random_root();
        api__grammar *g = NULL;
        err e = {0};
        api__automaton a;
        if (api__grammar_compile(&g, schema, "schema", &e) != 0) {
            json_decref(schema);
            continue;
        }
        cr_assert_eq(api__automaton_init(&a, g, &e), 0);
        /* Values of an enum or a const are written one way: with the schema's own dump. */
        char *dump = json_dumps(schema, JSON_COMPACT);
        bool fixed = strstr(dump, "\"enum\"") || strstr(dump, "\"const\"");
        bool wide = strstr(dump, "\"é\"") || strstr(dump, "\"日本\""); /* so are declared keys */
        for (int k = 0; k < 10; k++) {
            json_t *val = instance(schema, schema, 5);
            if (val == NULL) continue;
            cr_assert(valid(schema, schema, val), "the test made a value that does not fit %s",
                      dump);
            char *text = json_dumps(val, flags[fixed ? 0 : below(wide ? 4 : ARRAY_LEN(flags))]);
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
    for (state = 11; finished < 60; state += 31) {
        json_t *schema = random_root();
        api__grammar *g = NULL;
        api__constraint *c = NULL;
        api__workspace *w = NULL;
        api__automaton a;
        if (api__grammar_compile(&g, schema, "schema", &(err){0}) != 0) {
            json_decref(schema);
            continue;
        }
        api__readings now, next;
        open_way(g, v, stop, &w, &c, &a, &now);
        uint32_t n = 0;
        buf text = {0};
        for (;;) {
            cr_assert_eq(api__constraint_make(c), ERR_NONE);
            const eng_mask *mask = api__constraint_mask(c);
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
            if (done && (n_can == 1 || below(2))) break;
            uint32_t id =
                n_ends && (n > 40 || below(5) == 0) ? ends[below(n_ends)] : can[below(n_can)];
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
        else if (below(3) == 0)
            inner = json_pack("{s:[s,i,i]}", "enum", "alike", (int)(10 + i), (int)(110 + i));
        else if (below(2))
            inner = json_pack("{s:s,s:i,s:i}", "type", "integer", "minimum", (int)i, "maximum",
                              (int)(1000 + i));
        else inner = json_pack("{s:s,s:i}", "type", "string", "maxLength", (int)(3 + i));
        if (arrays && below(2)) inner = json_pack("{s:s,s:o}", "type", "array", "items", inner);
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
    if (round % 2) return random_root();
    return alike(shapes[round / 2 % 6].n, shapes[round / 2 % 6].depth, below(2));
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
        const eng_mask *mask = api__constraint_mask(c);
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
        uint32_t id = longest && below(3) ? longest : can[below(n)];
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
    state = 3;
    for (uint32_t round = 0; round < 240; round++) {
        json_t *schema = branching_schema(round);
        api__grammar *g = NULL;
        if (api__grammar_compile(&g, schema, "schema", &(err){0}) == 0) {
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
