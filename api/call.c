/* call.c - finds a function call in an answer while the answer grows.
 *
 * A call is {"name": NAME, "arguments": {…}}, where NAME is a function of the request. Only blanks
 * and the tag <tool_call> of Hermes and Qwen may stand before it. Text after it is ignored. The
 * text is held back until the answer is known to be a call or not; an answer that is no call is
 * plain content. A grammar gives a forced call this form. */
#include "api/api_internal.h"

/* The parts before the arguments, in order. 's' is a string equal to `key`. */
static const struct {
    char what;
    const char *key; /* NULL: the function's name */
} head[] = {{'{', ""}, {'s', "name"},      {':', ""}, {'s', NULL},
            {',', ""}, {'s', "arguments"}, {':', ""}};

static bool blank(char byte) {
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

static bool is_tool(const api_request *req, const char *name, size_t n) {
    for (uint32_t i = 0; i < req->n_tools; i++) {
        if (strlen(req->tools[i]) == n && memcmp(req->tools[i], name, n) == 0) return true;
    }
    return false;
}

/* True if the string from call->string to `end` is the expected key or name. */
static bool string_fits(const api_request *req, api__call *call, const char *text, size_t end) {
    const char *key = head[call->step].key, *string = text + call->string;
    size_t n = end - call->string;
    if (key) return strlen(key) == n && memcmp(key, string, n) == 0;
    call->name = call->string;
    call->n_name = n;
    return is_tool(req, string, n);
}

static const char tag[] = "<tool_call>";

static bool tag_byte(api__call *call, char byte) {
    return call->tag < sizeof tag - 1 && byte == tag[call->tag++];
}

/* Reads one byte before the arguments. False: the answer is no call. */
static bool head_byte(const api_request *req, api__call *call, const char *text, size_t at) {
    char byte = text[at];
    if (call->in_string) {
        if (byte == '\\') return false; /* names have no escapes */
        if (byte != '"') return true;
        call->in_string = false;
        if (!string_fits(req, call, text, at)) return false;
        call->step++;
        return true;
    }
    if (call->step == 0 && (byte == '<' || (call->tag > 0 && call->tag < sizeof tag - 1)))
        return tag_byte(call, byte);
    if (blank(byte)) return true;
    if (call->step == ARRAY_LEN(head)) {
        if (byte != '{') return false;
        call->phase = API__CALL_ARGS;
        call->args = at;
        call->depth = 1;
        return true;
    }
    if (head[call->step].what == 's') {
        if (byte != '"') return false;
        call->in_string = true;
        call->string = at + 1;
        return true;
    }
    return byte == head[call->step++].what;
}

static void args_byte(api__call *call, char byte, size_t at) {
    if (call->in_string) {
        if (call->escaped) call->escaped = false;
        else if (byte == '\\') call->escaped = true;
        else if (byte == '"') call->in_string = false;
    } else if (byte == '"') {
        call->in_string = true;
    } else if (byte == '{' || byte == '[') {
        call->depth++;
    } else if ((byte == '}' || byte == ']') && --call->depth == 0) {
        call->phase = API__CALL_WHOLE;
        call->args_end = at + 1;
    }
}

void api__call_scan(const api_request *req, api__call *call, const char *text, size_t ready) {
    for (; call->at < ready; call->at++) {
        switch (call->phase) {
        case API__CALL_HEAD:
            if (!head_byte(req, call, text, call->at)) call->phase = API__CALL_NONE;
            break;
        case API__CALL_ARGS: args_byte(call, text[call->at], call->at); break;
        case API__CALL_WHOLE:
        case API__CALL_NONE: call->at = ready; return;
        }
    }
    if (call->phase == API__CALL_ARGS) call->args_end = ready;
}

void api__call_finish(api__call *call) {
    if (call->phase == API__CALL_HEAD)
        call->phase = API__CALL_NONE; /* the answer ended before the arguments began */
}
