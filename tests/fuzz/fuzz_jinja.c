/* fuzz_jinja.c - a chat template, a zero byte, then its variables as JSON.
 *
 * A template that parses must render, or fail with a reason, within its bounds. The runs must cover
 * the text. A character found only in the variables must never count as the template's. */
#include "base/json.h"
#include "tests/fuzz/cost.h"
#include "text/jinja.h"

#include <string.h>

/* A letter without case: no filter produces it from another character. */
#define MARK "\xeb\xb7\x81"

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"" MARK
    " be kind \"},{\"role\":\"user\",\"content\":"
    "[{\"type\":\"text\",\"text\":\"a" MARK "b\"},{\"" MARK
    "\":1}]},{\"role\":\"assistant\",\"content\":null,"
    "\"tool_calls\":[{\"function\":{\"name\":\"f" MARK "\",\"arguments\":{\"" MARK
    "\":[1,2.5,true,\"" MARK "\"]}}}]},{\"role\":\"" MARK "\",\"content\":\"x, y" MARK
    "\\n z\"}],\"s\":\"one " MARK " two\",\"n\":3,"
    "\"d\":{\"b" MARK "\":\"" MARK "\",\"a\":{\"x\":\"" MARK "\"}},\"l\":[\"" MARK "\",\"b\",3]}";

static void check_output(const jinja_output *out, bool marked) {
    size_t from = 0;
    for (size_t i = 0; i < out->n_runs; i++) {
        const text_run *run = &out->runs[i];
        if (run->end <= from || run->end > out->text.len) __builtin_trap();
        if (i && run->trusted == run[-1].trusted) __builtin_trap();
        if (marked && run->trusted && memchr(out->text.data + from, MARK[0], run->end - from))
            __builtin_trap();
        from = run->end;
    }
    if (from != out->text.len) __builtin_trap();
}

/* A template that contains the mark, or could by an escape, proves nothing about origins. */
static bool may_spell_mark(const char *template, size_t n) {
    return n && (memchr(template, MARK[0], n) || memchr(template, '\\', n));
}

static void render(const jinja *tmpl, json_t *vars, bool marked) {
    enum { VARS = 32 };
    static const char *const roles[] = {"system", "user", "assistant", "tool", NULL};
    jinja_var list[VARS];
    jinja_input in = {.vars = list, .roles = roles, .now = 1760000000};
    in.max_steps = 100000;
    in.max_output = 1 << 20;
    in.max_memory = 16 << 20;
    const char *name;
    json_t *value;
    json_object_foreach(vars, name, value) {
        if (in.n_vars < VARS) list[in.n_vars++] = (jinja_var){name, value, false};
    }
    jinja_output out;
    err e = {0};
    if (jinja_render(tmpl, &in, &out, &e) == 0) check_output(&out, marked);
    else if (e.code == ERR_NONE || e.code == ERR_NO_MEMORY || out.text.len || out.n_runs)
        __builtin_trap();
    jinja_output_deinit(&out);
}

static json_t *variables(const char *text, size_t n) {
    static const json_limits limits = {
        .max_bytes = 1 << 20, .max_depth = 300, .max_structural = 100000};
    json_t *vars = NULL;
    err e = {0};
    if (n && json_parse(&vars, text, n, &limits, "variables", &e) == 0 && json_is_object(vars))
        return vars;
    json_decref(vars);
    e = (err){0};
    if (json_parse(&vars, conversation, strlen(conversation), &limits, "variables", &e) != 0)
        __builtin_trap();
    return vars;
}

static void each_text(void *ud, const char *text, size_t n) {
    (void)text;
    *(size_t *)ud += n;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    return 0;
}

static void one_input(const uint8_t *data, size_t n) {
    const char *text = (const char *)data;
    const char *zero = n ? memchr(text, 0, n) : NULL;
    size_t len = zero ? (size_t)(zero - text) : n, all = 0;
    jinja *tmpl = NULL;
    err e = {0};
    if (jinja_parse(&tmpl, text, len, "fuzz", &e) != 0) {
        if (tmpl != NULL || e.code != ERR_BAD_FILE) __builtin_trap();
        return;
    }
    jinja_each_text(tmpl, each_text, &all);
    if (all > len * 2) __builtin_trap();
    json_t *vars = variables(zero ? zero + 1 : "", zero ? n - len - 1 : 0);
    render(tmpl, vars, !may_spell_mark(text, len));
    json_decref(vars);
    jinja_close(tmpl);
}

FUZZ_TARGET(one_input, 3000, 8000)
