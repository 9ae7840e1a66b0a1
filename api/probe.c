/* probe.c - finds out which features a chat template supports by rendering test conversations.
 *
 * A template does not declare its features: one ignores tools, one refuses system messages, one
 * prints <|tool|> although the vocabulary lacks this token. Each feature is tried once. Marker
 * words show whether a text was printed, and its position. */
#include "api/template_internal.h"

#include <stdlib.h>

enum { MAX_MEMORY = 32 << 20 };

#define USER "fathomasks"
#define SYSTEM "fathomrules"
#define LATER "fathomlater"
#define ANSWER "fathomanswers"
#define RESULT "fathomresult"
#define TOOL "fathomtool"
#define CALL "fathomcall"
#define ARGUMENT "fathomargument"
#define THOUGHT "fathomthought"

#define SAYS(role, content) "{\"role\":\"" role "\",\"content\":\"" content "\"}"
#define ASKS SAYS("user", USER)
#define FUNCTION(name)                                                                             \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name                                        \
    "\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{"         \
    "\"type\":\"string\",\"description\":\"d\"}},\"required\":[\"a\"]}}}"
/* A message with a call. Templates differ in the content and arguments they accept. */
#define CALLS(content, arguments)                                                                  \
    "{\"role\":\"assistant\",\"content\":" content                                                 \
    ",\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":\"" CALL  \
    "\",\"arguments\":" arguments "}}]}"
#define OBJECT "{\"a\":\"" ARGUMENT "\"}"
#define BROKEN "\"fathom\\\"broken\""
#define TEXT "\"{\\\"a\\\":\\\"" ARGUMENT "\\\"}\""
#define GIVES                                                                                      \
    "{\"role\":\"tool\",\"tool_call_id\":\"abcdefghi\",\"name\":\"" CALL                           \
    "\",\"content\":\"" RESULT "\"}"

typedef struct {
    const api__template *tmpl;
    api__variant *variant;
    const tokenizer *tok;
    jinja_output out; /* of the last attempt */
    buf marker; /* the token before a user's content, if its name contains "user"; else empty */
    err why;    /* of the last attempt that failed */
    err *error;
} trying;

static json_t *read(trying *probe, const char *text) {
    static const json_limits limits = {4096, 32, 400};
    json_t *root = NULL;
    if (json_parse(&root, text, strlen(text), &limits, "probe", probe->error) != 0) return NULL;
    return root;
}

/* Turns contents into lists of parts for a template that needs them. */
static int in_parts(trying *probe, json_t *messages) {
    size_t i;
    json_t *message;
    if (!probe->variant->traits.parts) return 0;
    json_array_foreach(messages, i, message) {
        json_t *parts = api__talk_parts(json_incref(json_object_get(message, "content")));
        if (parts == NULL || json_object_set_new(message, "content", parts) != 0)
            return api__out_of_memory(probe->error);
    }
    return 0;
}

/* 0: probe->out holds the text. 1: the template raised an error, see probe->why. -1: out of
 * memory. */
static int try(trying *probe, const char *messages, bool tools, bool generation) {
    static const char tool_list[] = "[" FUNCTION(TOOL) "]";
    tools =
        tools || probe->variant == &probe->tmpl->tools; /* this template is used with tools only */
    json_t *list = read(probe, messages), *given = tools ? read(probe, tool_list) : NULL;
    jinja_output_deinit(&probe->out);
    probe->out = (jinja_output){0};
    probe->why = (err){0};
    int rc = list && (given || !tools) ? in_parts(probe, list) : -1;
    if (rc == 0) {
        api__talk talk = {
            .messages = list, .tools = given, .generation = generation, .max_memory = MAX_MEMORY};
        rc = api__variant_render(probe->tmpl, probe->variant, &talk, &probe->out, &probe->why) == 0
                 ? 0
                 : 1;
    }
    json_decref(list);
    json_decref(given);
    if (rc == 1 && (probe->why.code == ERR_NO_MEMORY || probe->why.code == ERR_CANCELLED))
        rc = err_set(probe->error, probe->why.code, NULL, "%s", probe->why.msg);
    return rc;
}

static const char *seen(const trying *probe, const char *word) {
    return probe->out.text.data ? strstr(probe->out.text.data, word) : NULL;
}

/* ---- tokens of the printed text ---- */

/* Finds the last control token before `end`, or the first after it (behind). 1: there is none. */
static int control_beside(trying *probe, const char *end, bool behind, uint32_t *id) {
    size_t at = (size_t)(end - probe->out.text.data), n = behind ? probe->out.text.len - at : at;
    text_run *runs = probe->out.runs, *moved = NULL;
    token_ids ids = {0};
    int rc = 1;
    if (behind) { /* runs of the text after `end`, relative to it */
        moved = calloc(probe->out.n_runs + 1, sizeof *moved);
        if (moved == NULL) return api__out_of_memory(probe->error);
        for (size_t i = 0; i < probe->out.n_runs; i++)
            moved[i] = (text_run){runs[i].end > at ? runs[i].end - at : 0, runs[i].trusted};
        runs = moved;
    }
    if (tokenizer_encode_runs(probe->tok, behind ? end : probe->out.text.data, n, runs,
                              probe->out.n_runs, SIZE_MAX, &ids, probe->error) != 0) {
        rc = -1;
    }
    for (size_t i = 0; i < ids.n && rc == 1; i++) {
        uint32_t one = ids.data[behind ? i : ids.n - 1 - i];
        if (!tokenizer_is_control(probe->tok, one)) continue;
        *id = one;
        rc = 0;
    }
    free(moved);
    token_ids_deinit(&ids);
    return rc;
}

/* Remembers the token before a user's content, if its name contains "user". */
static int keep_marker(trying *probe) {
    const char *user = seen(probe, USER), *name;
    uint32_t id;
    size_t n;
    buf_clear(&probe->marker);
    int rc = user ? control_beside(probe, user, false, &id) : 1;
    if (rc != 0) return rc < 0 ? -1 : 0;
    const char *token = tokenizer_bytes(probe->tok, id, &n);
    buf_append(&probe->marker, token, n);
    if (probe->marker.failed) return api__out_of_memory(probe->error);
    name = strstr(probe->marker.data, "user");
    if (name == NULL) buf_clear(&probe->marker);
    return 0;
}

/* True if the template prints the marker of another role, such as <|tool|>, but the vocabulary
 * lacks it. The model would see plain text that it was not trained on. */
static int lacks_marker(trying *probe, const char *role, bool *lacks) {
    buf like = {0};
    uint32_t id;
    *lacks = false;
    if (probe->marker.len == 0) return 0;
    const char *name = strstr(probe->marker.data, "user");
    buf_append(&like, probe->marker.data, (size_t)(name - probe->marker.data));
    buf_puts(&like, role);
    buf_puts(&like, name + strlen("user"));
    int rc = like.failed ? api__out_of_memory(probe->error) : 0;
    if (rc == 0) *lacks = seen(probe, like.data) && !tokenizer_find(probe->tok, like.data, &id);
    buf_deinit(&like);
    return rc;
}

/* ---- the questions ---- */

/* 1: the template prints no user message. */
static int try_user(trying *probe) {
    static const char alone[] = "[" ASKS "]", second[] = "[" SAYS("system", SYSTEM) "," ASKS "]";
    err first = {0};
    for (int k = 0; k < 4; k++) {
        probe->variant->traits.parts = k % 2 == 1;
        int rc = try(probe, k < 2 ? alone : second, false, true);
        if (rc < 0) return -1;
        if (k == 0) first = probe->why;
        if (rc == 0 && seen(probe, USER)) return keep_marker(probe);
    }
    probe->why = first;
    if (first.code == ERR_NONE)
        (void)err_set(&probe->why, ERR_BAD_FILE, NULL, "it prints no user message");
    return 1;
}

/* Many templates have a place for one system message only: they drop or refuse another one. */
static int try_system(trying *probe) {
    static const char later[] = "[" SAYS("system", SYSTEM) "," ASKS "," SAYS(
        "assistant", ANSWER) "," SAYS("system", LATER) "," ASKS "]";
    api__traits *traits = &probe->variant->traits;
    bool lacks = false;
    int rc = try(probe, "[" SAYS("system", SYSTEM) "," ASKS "]", false, true);
    if (rc == 0 && lacks_marker(probe, "system", &lacks) != 0) rc = -1;
    traits->system = rc == 0 && seen(probe, SYSTEM) && !lacks;
    if (rc >= 0 && traits->system) rc = try(probe, later, false, true);
    traits->later_systems = rc == 0 && traits->system && seen(probe, SYSTEM) && seen(probe, LATER);
    return rc < 0 ? -1 : 0;
}

static void look_for_developer(void *ud, const char *text, size_t n) {
    static const char name[] = "developer";
    for (size_t i = 0; i + sizeof name - 1 <= n; i++) {
        if (memcmp(text + i, name, sizeof name - 1) == 0) *(bool *)ud = true;
    }
}

/* Many templates print any role. One that knows this role contains its name. */
static int try_developer(trying *probe) {
    bool named = false;
    jinja_each_text(probe->variant->jinja, look_for_developer, &named);
    if (!named) return 0;
    int rc = try(probe, "[" SAYS("developer", SYSTEM) "," ASKS "]", false, true);
    probe->variant->traits.developer = rc == 0 && seen(probe, SYSTEM);
    return rc < 0 ? -1 : 0;
}

/* Tries objects with an empty content first, then the other forms. */
static int try_calls(trying *probe) {
    static const char *const talks[] = {
        "[" ASKS "," CALLS("\"\"", OBJECT) "," GIVES "]",
        "[" ASKS "," CALLS("null", OBJECT) "," GIVES "]",
        "[" ASKS "," CALLS("\"\"", TEXT) "," GIVES "]",
        "[" ASKS "," CALLS("null", TEXT) "," GIVES "]",
    };
    api__traits *traits = &probe->variant->traits;
    for (size_t i = 0; i < ARRAY_LEN(talks); i++) {
        int rc = try(probe, talks[i], traits->tools, true);
        if (rc < 0) return -1;
        traits->calls = rc == 0 && seen(probe, CALL) && seen(probe, ARGUMENT);
        traits->null_content = traits->calls && i % 2 == 1;
        traits->text_calls = traits->calls && i >= 2;
        if (traits->calls) break;
    }
    return 0;
}

/* A client may send back arguments that the model wrote wrong. */
static int try_odd(trying *probe) {
    static const char *const talks[] = {"[" ASKS "," CALLS("\"\"", BROKEN) "," GIVES "]",
                                        "[" ASKS "," CALLS("null", BROKEN) "," GIVES "]"};
    api__traits *traits = &probe->variant->traits;
    if (!traits->calls) return 0;
    int rc = try(probe, talks[traits->null_content], traits->tools, true);
    bool written = rc == 0 && seen(probe, "fathom\\\"broken");
    bool printed = rc == 0 && seen(probe, "fathom\"broken");
    traits->odd = written ? API__ODD_STRING : printed ? API__ODD_TEXT : API__ODD_OBJECT;
    return rc < 0 ? -1 : 0;
}

static void look_for_notation(void *ud, const char *text, size_t n) {
    static const api__notation *const others[] = {&api__notation_mistral, &api__notation_llama,
                                                  &api__notation_tags};
    const api__notation **found = ud;
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (memmem(text, n, others[i]->mark, strlen(others[i]->mark))) *found = others[i];
    }
}

static int try_tools(trying *probe) {
    static const char plain[] = "[" ASKS "," SAYS("assistant", ANSWER) "," GIVES "]";
    api__traits *traits = &probe->variant->traits;
    bool lacks = false;
    int rc = 0;
    traits->notation = &api__notation_json;
    jinja_each_text(probe->variant->jinja, look_for_notation, &traits->notation);
    if (jinja_uses(probe->variant->jinja, "tools")) {
        rc = try(probe, "[" ASKS "]", true, true);
        traits->tools = rc == 0 && seen(probe, TOOL);
    }
    if (rc < 0 || try_calls(probe) != 0) return -1;
    rc = 0;
    if (!traits->calls || !seen(probe, RESULT)) rc = try(probe, plain, false, true);
    if (rc == 0 && lacks_marker(probe, "tool", &lacks) != 0) rc = -1;
    traits->result = rc == 0 && seen(probe, RESULT) && !lacks;
    return rc < 0 ? -1 : try_odd(probe);
}

static void look_for_marks(void *ud, const char *text, size_t n) {
    bool *named = ud;
    for (size_t i = 0; i < api__n_marks; i++) {
        const api__marks *marks = &api__all_marks[i];
        named[i] = named[i] || memmem(text, n, marks->open, strlen(marks->open)) ||
                   memmem(text, n, marks->close, strlen(marks->close));
    }
}

/* Marks printed by the template come first: at the end of a prompt, then before the reasoning of an
 * earlier answer. A template may only name them, in a system message or to cut the reasoning off.
 */
static int try_marks(trying *probe) {
    static const char earlier[] =
        "[" ASKS ",{\"role\":\"assistant\",\"reasoning_content\":\"" THOUGHT
        "\",\"content\":\"" ANSWER "\"}]";
    api__traits *traits = &probe->variant->traits;
    bool closed, *named = calloc(api__n_marks, sizeof *named);
    if (named == NULL) return api__out_of_memory(probe->error);
    int rc = try(probe, "[" ASKS "]", false, true);
    if (rc == 0)
        traits->marks = api__marks_at_end(probe->out.text.data, probe->out.text.len, &closed);
    if (rc >= 0 && traits->marks == NULL) rc = try(probe, earlier, false, false);
    const char *thought = rc == 0 && traits->marks == NULL ? seen(probe, THOUGHT) : NULL;
    if (thought) {
        size_t n = (size_t)(thought - probe->out.text.data);
        traits->marks = api__marks_at_end(probe->out.text.data, n, &closed);
    }
    jinja_each_text(probe->variant->jinja, look_for_marks, named);
    for (size_t i = 0; traits->marks == NULL && i < api__n_marks; i++) {
        if (named[i]) traits->marks = &api__all_marks[i];
    }
    free(named);
    return rc < 0 ? -1 : 0;
}

/* The first control token after an answer ends it. In a ChatML vocabulary <|endoftext|> ends a
 * document, so it may end an answer too. */
static int try_end(trying *probe, token_ids *ends) {
    const char *answer;
    uint32_t id, turn, document;
    int rc = try(probe, "[" ASKS "," SAYS("assistant", ANSWER) "]", false, false);
    if (rc != 0 || (answer = seen(probe, ANSWER)) == NULL) return rc < 0 ? -1 : 0;
    rc = control_beside(probe, answer + strlen(ANSWER), true, &id);
    if (rc != 0) return rc < 0 ? -1 : 0;
    if (api__push_id(ends, id, probe->error) != 0) return -1;
    bool chatml = tokenizer_find(probe->tok, "<|im_end|>", &turn) && turn == id;
    if (!chatml || !tokenizer_find(probe->tok, "<|endoftext|>", &document)) return 0;
    return api__push_id(ends, document, probe->error);
}

static int try_variant(api__template *tmpl, api__variant *variant, const tokenizer *tok, err *why,
                       err *e) {
    trying probe = {.tmpl = tmpl, .variant = variant, .tok = tok, .error = e};
    int rc = try_user(&probe);
    if (rc == 1) *why = probe.why;
    if (rc == 0) rc = try_system(&probe);
    if (rc == 0) rc = try_developer(&probe);
    if (rc == 0) rc = try_tools(&probe);
    if (rc == 0) rc = try_marks(&probe);
    if (rc == 0) rc = try_end(&probe, &tmpl->ends);
    jinja_output_deinit(&probe.out);
    buf_deinit(&probe.marker);
    return rc;
}

int api__template_try(api__template *tmpl, const tokenizer *tok, err *why, err *e) {
    int rc = try_variant(tmpl, &tmpl->plain, tok, why, e);
    return rc == 0 && tmpl->tools.jinja ? try_variant(tmpl, &tmpl->tools, tok, why, e) : rc;
}
