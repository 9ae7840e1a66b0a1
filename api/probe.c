/* probe.c - what a chat template does, found by rendering conversations with it.
 *
 * Templates do not say what they know: one ignores tools, one refuses a system message, one
 * prints <|tool|> whether or not the vocabulary has such a token. So each is tried once, with
 * words that show whether something was printed and where. */
#include "api/template_internal.h"

#include <stdlib.h>

enum { MAX_MEMORY = 32 << 20 };

#define USER "fathomasks"
#define SYSTEM "fathomrules"
#define ANSWER "fathomanswers"
#define RESULT "fathomresult"
#define TOOL "fathomtool"
#define CALL "fathomcall"
#define ARGUMENT "fathomargument"

#define SAYS(role, content) "{\"role\":\"" role "\",\"content\":\"" content "\"}"
#define ASKS SAYS("user", USER)
#define FUNCTION(name)                                                                             \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name                                        \
    "\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{"         \
    "\"type\":\"string\",\"description\":\"d\"}},\"required\":[\"a\"]}}}"
/* A call, as some templates take it and others do not. */
#define CALLS(content, arguments)                                                                  \
    "{\"role\":\"assistant\",\"content\":" content                                                 \
    ",\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":\"" CALL  \
    "\",\"arguments\":" arguments "}}]}"
#define OBJECT "{\"a\":\"" ARGUMENT "\"}"
#define TEXT "\"{\\\"a\\\":\\\"" ARGUMENT "\\\"}\""
#define GIVES                                                                                      \
    "{\"role\":\"tool\",\"tool_call_id\":\"abcdefghi\",\"name\":\"" CALL                           \
    "\",\"content\":\"" RESULT "\"}"

typedef struct {
    const api__template *t;
    api__variant *v;
    const tokenizer *tok;
    jinja_output out; /* of the last try */
    buf marker;       /* the token before a user's content, if it is made of the role's name */
    err why;          /* of the last try that failed */
    err *e;
} trying;

static json_t *read(trying *p, const char *text) {
    static const json_limits limits = {4096, 32, 400};
    json_t *root = NULL;
    if (json_parse(&root, text, strlen(text), &limits, "probe", p->e) != 0) return NULL;
    return root;
}

/* What is told as a list of parts where the template wants it so. */
static int in_parts(trying *p, json_t *messages) {
    size_t i;
    json_t *m;
    if (!p->v->traits.parts) return 0;
    json_array_foreach(messages, i, m) {
        json_t *parts = api__talk_parts(json_incref(json_object_get(m, "content")));
        if (parts == NULL || json_object_set_new(m, "content", parts) != 0)
            return api__out_of_memory(p->e);
    }
    return 0;
}

/* 0: p->out has the text; 1: the template refused, and p->why says why; -1: no memory. */
static int try(trying *p, const char *messages, bool tools, bool generation) {
    static const char told[] = "[" FUNCTION(TOOL) "]";
    tools = tools || p->v == &p->t->tools; /* it is of no other conversations */
    json_t *m = read(p, messages), *t = tools ? read(p, told) : NULL;
    jinja_output_deinit(&p->out);
    p->out = (jinja_output){0};
    p->why = (err){0};
    int rc = m && (t || !tools) ? in_parts(p, m) : -1;
    if (rc == 0) {
        api__talk talk = {
            .messages = m, .tools = t, .generation = generation, .max_memory = MAX_MEMORY};
        rc = api__variant_render(p->t, p->v, &talk, &p->out, &p->why) == 0 ? 0 : 1;
    }
    json_decref(m);
    json_decref(t);
    if (rc == 1 && (p->why.code == ERR_NO_MEMORY || p->why.code == ERR_CANCELLED))
        rc = err_set(p->e, p->why.code, NULL, "%s", p->why.msg);
    return rc;
}

static const char *seen(const trying *p, const char *word) {
    return p->out.text.data ? strstr(p->out.text.data, word) : NULL;
}

/* ---- tokens of what was printed ---- */

/* The last control token of the text before `end`, or the first behind it: its id in *id; 1 if
 * there is none. */
static int control_beside(trying *p, const char *end, bool behind, uint32_t *id) {
    size_t at = (size_t)(end - p->out.text.data), n = behind ? p->out.text.len - at : at;
    text_run *runs = p->out.runs, *moved = NULL;
    token_ids ids = {0};
    int rc = 1;
    if (behind) { /* the runs of what stands there, counted from it */
        moved = calloc(p->out.n_runs + 1, sizeof *moved);
        if (moved == NULL) return api__out_of_memory(p->e);
        for (size_t i = 0; i < p->out.n_runs; i++)
            moved[i] = (text_run){runs[i].end > at ? runs[i].end - at : 0, runs[i].trusted};
        runs = moved;
    }
    if (tokenizer_encode_runs(p->tok, behind ? end : p->out.text.data, n, runs, p->out.n_runs,
                              SIZE_MAX, &ids, p->e) != 0) {
        rc = -1;
    }
    for (size_t i = 0; i < ids.n && rc == 1; i++) {
        uint32_t one = ids.data[behind ? i : ids.n - 1 - i];
        if (!tokenizer_is_control(p->tok, one)) continue;
        *id = one;
        rc = 0;
    }
    free(moved);
    token_ids_deinit(&ids);
    return rc;
}

/* Keeps the token that opens a user's turn, if the template makes it of the role's name. */
static int keep_marker(trying *p) {
    const char *user = seen(p, USER), *name;
    uint32_t id;
    size_t n;
    buf_clear(&p->marker);
    int rc = user ? control_beside(p, user, false, &id) : 1;
    if (rc != 0) return rc < 0 ? -1 : 0;
    const char *token = tokenizer_bytes(p->tok, id, &n);
    buf_append(&p->marker, token, n);
    if (p->marker.failed) return api__out_of_memory(p->e);
    name = strstr(p->marker.data, "user");
    if (name == NULL) buf_clear(&p->marker);
    return 0;
}

/* The text holds the like of that token for another role, but the vocabulary has none: <|tool|>
 * would be told as plain text, which the model never saw. */
static int lacks_marker(trying *p, const char *role, bool *lacks) {
    buf like = {0};
    uint32_t id;
    *lacks = false;
    if (p->marker.len == 0) return 0;
    const char *name = strstr(p->marker.data, "user");
    buf_append(&like, p->marker.data, (size_t)(name - p->marker.data));
    buf_puts(&like, role);
    buf_puts(&like, name + strlen("user"));
    int rc = like.failed ? api__out_of_memory(p->e) : 0;
    if (rc == 0) *lacks = seen(p, like.data) && !tokenizer_find(p->tok, like.data, &id);
    buf_deinit(&like);
    return rc;
}

/* ---- the questions ---- */

/* 1: no message of a user is printed. */
static int try_user(trying *p) {
    static const char alone[] = "[" ASKS "]", second[] = "[" SAYS("system", SYSTEM) "," ASKS "]";
    err first = {0};
    for (int k = 0; k < 4; k++) {
        p->v->traits.parts = k % 2 == 1;
        int rc = try(p, k < 2 ? alone : second, false, true);
        if (rc < 0) return -1;
        if (k == 0) first = p->why;
        if (rc == 0 && seen(p, USER)) return keep_marker(p);
    }
    p->why = first;
    if (first.code == ERR_NONE)
        (void)err_set(&p->why, ERR_BAD_FILE, NULL, "it prints no message of a user");
    return 1;
}

static int try_system(trying *p) {
    api__traits *traits = &p->v->traits;
    bool lacks = false;
    int rc = try(p, "[" SAYS("system", SYSTEM) "," ASKS "]", false, true);
    if (rc == 0 && lacks_marker(p, "system", &lacks) != 0) rc = -1;
    traits->system = rc == 0 && seen(p, SYSTEM) && !lacks;
    traits->refuses = rc == 1;
    return rc < 0 ? -1 : 0;
}

static void look_for_developer(void *ud, const char *text, size_t n) {
    static const char name[] = "developer";
    for (size_t i = 0; i + sizeof name - 1 <= n; i++) {
        if (memcmp(text + i, name, sizeof name - 1) == 0) *(bool *)ud = true;
    }
}

/* Many templates print any role; one that knows this one names it. */
static int try_developer(trying *p) {
    bool named = false;
    jinja_each_text(p->v->jinja, look_for_developer, &named);
    if (!named) return 0;
    int rc = try(p, "[" SAYS("developer", SYSTEM) "," ASKS "]", false, true);
    p->v->traits.developer = rc == 0 && seen(p, SYSTEM);
    return rc < 0 ? -1 : 0;
}

/* Calls are objects with an empty content, unless the template prints only others. */
static int try_calls(trying *p) {
    static const char *const talks[] = {
        "[" ASKS "," CALLS("\"\"", OBJECT) "," GIVES "]",
        "[" ASKS "," CALLS("null", OBJECT) "," GIVES "]",
        "[" ASKS "," CALLS("\"\"", TEXT) "," GIVES "]",
        "[" ASKS "," CALLS("null", TEXT) "," GIVES "]",
    };
    api__traits *t = &p->v->traits;
    for (size_t i = 0; i < ARRAY_LEN(talks); i++) {
        int rc = try(p, talks[i], t->tools, true);
        if (rc < 0) return -1;
        t->calls = rc == 0 && seen(p, CALL) && seen(p, ARGUMENT);
        t->null_content = t->calls && i % 2 == 1;
        t->text_calls = t->calls && i >= 2;
        if (t->calls) break;
    }
    return 0;
}

static int try_tools(trying *p) {
    static const char plain[] = "[" ASKS "," SAYS("assistant", ANSWER) "," GIVES "]";
    api__traits *t = &p->v->traits;
    bool lacks = false;
    int rc = 0;
    if (jinja_uses(p->v->jinja, "tools")) {
        rc = try(p, "[" ASKS "]", true, true);
        t->tools = rc == 0 && seen(p, TOOL);
    }
    if (rc < 0 || try_calls(p) != 0) return -1;
    rc = 0;
    if (!t->calls || !seen(p, RESULT)) rc = try(p, plain, false, true);
    if (rc == 0 && lacks_marker(p, "tool", &lacks) != 0) rc = -1;
    t->result = rc == 0 && seen(p, RESULT) && !lacks;
    return rc < 0 ? -1 : 0;
}

/* The first control token behind an answer ends it. In a vocabulary of ChatML a document ends in
 * <|endoftext|>, so an answer may too. */
static int try_end(trying *p, token_ids *ends) {
    const char *answer;
    uint32_t id, turn, document;
    int rc = try(p, "[" ASKS "," SAYS("assistant", ANSWER) "]", false, false);
    if (rc != 0 || (answer = seen(p, ANSWER)) == NULL) return rc < 0 ? -1 : 0;
    rc = control_beside(p, answer + strlen(ANSWER), true, &id);
    if (rc != 0) return rc < 0 ? -1 : 0;
    if (api__push_id(ends, id, p->e) != 0) return -1;
    bool chatml = tokenizer_find(p->tok, "<|im_end|>", &turn) && turn == id;
    if (!chatml || !tokenizer_find(p->tok, "<|endoftext|>", &document)) return 0;
    return api__push_id(ends, document, p->e);
}

static int try_variant(api__template *t, api__variant *v, const tokenizer *tok, err *why, err *e) {
    trying p = {.t = t, .v = v, .tok = tok, .e = e};
    int rc = try_user(&p);
    if (rc == 1) *why = p.why;
    if (rc == 0) rc = try_system(&p);
    if (rc == 0) rc = try_developer(&p);
    if (rc == 0) rc = try_tools(&p);
    if (rc == 0) rc = try_end(&p, &t->ends);
    jinja_output_deinit(&p.out);
    buf_deinit(&p.marker);
    return rc;
}

int api__template_try(api__template *t, const tokenizer *tok, err *why, err *e) {
    int rc = try_variant(t, &t->plain, tok, why, e);
    return rc == 0 && t->tools.jinja ? try_variant(t, &t->tools, tok, why, e) : rc;
}
