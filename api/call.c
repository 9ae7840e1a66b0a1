/* call.c - finds the call of a function in an answer as it grows.
 *
 * A call is {"name": NAME, "arguments": {…}} and nothing before it but blanks and the tag
 * <tool_call> of Hermes and Qwen, NAME being one of the request's functions. What stands behind it
 * does not count. Until that is certain the text is held back; what turns
 * out to be no call is plain content. A forced call is held to this form by its grammar. */
#include "api/api_internal.h"

/* What stands before the arguments, in order; 's' is a string that must be `key`. */
static const struct {
    char what;
    const char *key; /* NULL: the name */
} head[] = {{'{', ""}, {'s', "name"},      {':', ""}, {'s', NULL},
            {',', ""}, {'s', "arguments"}, {':', ""}};

static bool blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_tool(const api_request *r, const char *name, size_t n) {
    for (uint32_t i = 0; i < r->n_tools; i++) {
        if (strlen(r->tools[i]) == n && memcmp(r->tools[i], name, n) == 0) return true;
    }
    return false;
}

/* The string that began at k->string ends before `end`. */
static bool string_fits(const api_request *r, api__call *k, const char *text, size_t end) {
    const char *key = head[k->step].key, *s = text + k->string;
    size_t n = end - k->string;
    if (key) return strlen(key) == n && memcmp(key, s, n) == 0;
    k->name = k->string;
    k->n_name = n;
    return is_tool(r, s, n);
}

static const char tag[] = "<tool_call>";

static bool tag_byte(api__call *k, char c) {
    return k->tag < sizeof tag - 1 && c == tag[k->tag++];
}

/* One byte of what stands before the arguments; false: this is no call. */
static bool head_byte(const api_request *r, api__call *k, const char *text, size_t at) {
    char c = text[at];
    if (k->in_string) {
        if (c == '\\') return false; /* names need no escapes */
        if (c != '"') return true;
        k->in_string = false;
        if (!string_fits(r, k, text, at)) return false;
        k->step++;
        return true;
    }
    if (k->step == 0 && (c == '<' || (k->tag > 0 && k->tag < sizeof tag - 1)))
        return tag_byte(k, c);
    if (blank(c)) return true;
    if (k->step == ARRAY_LEN(head)) {
        if (c != '{') return false;
        k->phase = API__CALL_ARGS;
        k->args = at;
        k->depth = 1;
        return true;
    }
    if (head[k->step].what == 's') {
        if (c != '"') return false;
        k->in_string = true;
        k->string = at + 1;
        return true;
    }
    return c == head[k->step++].what;
}

static void args_byte(api__call *k, char c, size_t at) {
    if (k->in_string) {
        if (k->escaped) k->escaped = false;
        else if (c == '\\') k->escaped = true;
        else if (c == '"') k->in_string = false;
    } else if (c == '"') {
        k->in_string = true;
    } else if (c == '{' || c == '[') {
        k->depth++;
    } else if ((c == '}' || c == ']') && --k->depth == 0) {
        k->phase = API__CALL_WHOLE;
        k->args_end = at + 1;
    }
}

void api__call_scan(const api_request *r, api__call *k, const char *text, size_t ready) {
    for (; k->at < ready; k->at++) {
        switch (k->phase) {
        case API__CALL_HEAD:
            if (!head_byte(r, k, text, k->at)) k->phase = API__CALL_NONE;
            break;
        case API__CALL_ARGS: args_byte(k, text[k->at], k->at); break;
        case API__CALL_WHOLE:
        case API__CALL_NONE: k->at = ready; return;
        }
    }
    if (k->phase == API__CALL_ARGS) k->args_end = ready;
}

void api__call_finish(api__call *k) {
    if (k->phase == API__CALL_HEAD) k->phase = API__CALL_NONE; /* cut before it was one */
}
