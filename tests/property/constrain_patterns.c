/* constrain_patterns.c - random patterns: PCRE2 is the judge. A string is allowed exactly if the
 * pattern matches and its length fits, and no beginning that is allowed is a dead end. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "api/grammar/constrain_internal.h"
#include "base/buf.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

TestSuite(constrain_patterns, .fini = fail_on_leaks, .timeout = HANGS_S);

static uint64_t state;

static uint32_t below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static const char *const letters[] = {"a", "b", "c", "1", " ", "-", "\n", "\"", "é", "日", "👍"};

/* ---- random patterns ---- */

static void put_pattern(buf *out, int depth);

static void put_atom(buf *out, int depth) {
    static const char *const atoms[] = {"a",      "b",       "c",        "1",     ".",    "\\d",
                                        "\\w",    "\\S",     "\\n",      "[ab]",  "[^a]", "[a-c1]",
                                        "[^\\d]", "\\u00e9", "日",       "\\x61", "\\.",  "[é-日]",
                                        "👍",      "[\\w-]",  "[^\\n\"]", "\"",    "\\-"};
    if (depth > 0 && below(3) == 0) {
        buf_puts(out, below(2) ? "(" : "(?:");
        put_pattern(out, depth - 1);
        buf_puts(out, ")");
    } else {
        buf_puts(out, atoms[below(ARRAY_LEN(atoms))]);
    }
}

static void put_pattern(buf *out, int depth) {
    static const char *const repeats[] = {"*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?"};
    for (uint32_t i = 0, n = below(4); i <= n; i++) {
        if (below(12) == 0) buf_puts(out, "^");
        put_atom(out, depth);
        if (below(3) == 0) buf_puts(out, repeats[below(ARRAY_LEN(repeats))]);
        if (below(12) == 0) buf_puts(out, "$");
        if (below(8) == 0) buf_puts(out, "|");
    }
}

static void random_pattern(buf *out) {
    if (below(2)) buf_puts(out, "^");
    put_pattern(out, 2);
    if (below(2)) buf_puts(out, "$");
}

static pcre2_code *judge_of(const char *pattern) {
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    pcre2_set_newline(context, PCRE2_NEWLINE_ANYCRLF);
    pcre2_code *judge = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX |
                                          PCRE2_ALLOW_EMPTY_CLASS | PCRE2_NO_START_OPTIMIZE,
                                      &code, &at, context);
    pcre2_compile_context_free(context);
    cr_assert(judge, "PCRE2 refuses %s at %zu", pattern, (size_t)at);
    return judge;
}

static bool matches(const pcre2_code *judge, const char *text, size_t n) {
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(judge, NULL);
    int space[4000]; /* this way of matching does not go back, so it never gives up */
    int rc = pcre2_dfa_match(judge, (PCRE2_SPTR)text, n, 0, PCRE2_DFA_SHORTEST, data, NULL, space,
                             ARRAY_LEN(space));
    pcre2_match_data_free(data);
    cr_assert(rc >= 0 || rc == PCRE2_ERROR_NOMATCH, "PCRE2 gave up: %d", rc);
    return rc >= 0;
}

/* ---- random texts ---- */

static size_t characters(const char *text) {
    size_t n = 0;
    for (; *text; text++)
        n += (*text & 0xc0) != 0x80;
    return n;
}

/* As JSON: plain, or with every character escaped. */
static char *as_json(const char *text, bool escaped) {
    json_t *value = json_string(text);
    char *json = json_dumps(value, JSON_ENCODE_ANY | (escaped ? JSON_ENSURE_ASCII : 0));
    json_decref(value);
    return json;
}

static void random_text(buf *out) {
    buf_clear(out);
    buf_puts(out, "");
    for (uint32_t n = below(7); n > 0; n--)
        buf_puts(out, letters[below(ARRAY_LEN(letters))]);
}

typedef struct {
    json_t *schema;
    api__grammar *grammar;
    pcre2_code *judge;
    buf pattern;
    size_t min, max;
    bool costly; /* nothing was compiled */
} subject;

/* False: no text fits. */
static bool open_subject(subject *self) {
    err e = {0};
    *self = (subject){.max = SIZE_MAX};
    random_pattern(&self->pattern);
    self->judge = judge_of(self->pattern.data);
    self->schema = json_pack("{s:s, s:s}", "type", "string", "pattern", self->pattern.data);
    if (below(3) == 0)
        json_object_set_new(self->schema, "minLength",
                            json_integer((json_int_t)(self->min = below(5))));
    if (below(3) == 0)
        json_object_set_new(self->schema, "maxLength",
                            json_integer((json_int_t)(self->max = self->min + below(5))));
    int rc = api__grammar_compile(&self->grammar, self->schema, true, "schema", &e);
    if (rc == 0) return true;
    self->costly = strstr(e.msg, "too many states") || strstr(e.msg, "takes too long");
    cr_assert(self->costly || strstr(e.msg, "no string matches"), "%s: %s", self->pattern.data,
              e.msg);
    return false;
}

static void close_subject(subject *self) {
    api__grammar_free(self->grammar);
    pcre2_code_free(self->judge);
    json_decref(self->schema);
    buf_deinit(&self->pattern);
}

static bool fits(const subject *self, const char *text) {
    size_t n = characters(text);
    return n >= self->min && n <= self->max && matches(self->judge, text, strlen(text));
}

Test(constrain_patterns, a_string_is_allowed_exactly_if_pcre2_finds_the_pattern_in_it) {
    uint32_t right = 0, wrong = 0;
    buf text = {0};
    state = 11;
    for (uint32_t round = 0; round < 1500; round++) {
        subject self;
        bool some = open_subject(&self);
        for (uint32_t k = 0; k < 40 && !self.costly; k++) {
            random_text(&text);
            bool want = fits(&self, text.data);
            char *json = as_json(text.data, k % 2);
            bool got = some && grammar_feed(self.grammar, json) == 1;
            cr_assert_eq(got, want, "%s of %zu to %zu %s %s", self.pattern.data, self.min, self.max,
                         got ? "allows" : "forbids", json);
            free(json);
            right += want;
            wrong += !want;
        }
        close_subject(&self);
    }
    buf_deinit(&text);
    cr_assert_gt(right, 5000);
    cr_assert_gt(wrong, 5000);
}

/* ---- random walks ---- */

static int next_byte(api__automaton *machine, const api__readings *now, bool hurry) {
    uint8_t can[256];
    uint32_t n = 0, used = machine->used;
    api__readings next;
    for (int byte = 0; byte < 256; byte++) {
        api__automaton_step(machine, now, (uint8_t)byte, &next);
        api__automaton_rewind(machine, used);
        if (next.n_tops == 0) continue;
        if (byte == '"' && hurry) return byte;
        can[n++] = (uint8_t)byte;
    }
    return n ? can[below(n)] : -1;
}

/* False: the walk went on for long without an end. */
static bool walk(const subject *self, buf *text, api__stacks *scratch) {
    api__automaton machine;
    api__readings now, next;
    err e = {0};
    cr_assert_eq(api__automaton_init(&machine, self->grammar, &e), 0);
    api__automaton_start(&machine, &now);
    buf_clear(text);
    while (!api__automaton_done(&machine, &now) && text->len < 400) {
        int byte = next_byte(&machine, &now, text->len > 30);
        cr_assert(byte >= 0, "%s: stuck after %s", self->pattern.data, text->data);
        char one = (char)byte;
        buf_append(text, &one, 1);
        api__automaton_step(&machine, &now, (uint8_t)byte, &next);
        now = next;
        api__automaton_compact(&machine, &now, scratch);
    }
    bool done = api__automaton_done(&machine, &now);
    api__automaton_deinit(&machine);
    return done;
}

Test(constrain_patterns, a_random_walk_never_gets_stuck_and_ends_with_a_match) {
    api__stacks *scratch = malloc(sizeof *scratch);
    buf text = {0};
    uint32_t walks = 0;
    state = 12;
    for (uint32_t round = 0; round < 300; round++) {
        subject self;
        bool some = open_subject(&self);
        for (int k = 0; some && k < 3; k++) {
            if (!walk(&self, &text, scratch)) continue;
            json_t *value = json_loadb(text.data, text.len, JSON_DECODE_ANY, NULL);
            cr_assert(value && fits(&self, json_string_value(value)), "%s of %zu to %zu allows %s",
                      self.pattern.data, self.min, self.max, text.data);
            json_decref(value);
            walks++;
        }
        close_subject(&self);
    }
    buf_deinit(&text);
    free(scratch);
    cr_assert_gt(walks, 500);
}
