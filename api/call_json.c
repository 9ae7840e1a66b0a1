/* call_json.c - finds a call written as JSON in an answer, while the answer grows.
 *
 * A call is {"name": NAME, "arguments": {…}}, where NAME is a function of the request. Only blanks
 * and the tag <tool_call> of Hermes and Qwen may stand before it. Text after it is ignored. The
 * text is held back until the answer is known to be a call or not; an answer that is no call is
 * plain content. An answer has at most one call. A grammar gives a forced call this form. */
#include "api/request_internal.h"

/* The parts before the arguments, in order. 's' is a string equal to `key`. */
static const struct {
    char what;
    const char *key; /* NULL: the function's name */
} head[] = {{'{', ""}, {'s', "name"},      {':', ""}, {'s', NULL},
            {',', ""}, {'s', "arguments"}, {':', ""}};

/* States: undecided, not a call, within a call's arguments, a complete call. */
enum { HEAD, PLAIN, ARGS, WHOLE };

static bool blank(char byte) {
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

/* True if the string from reader->string to `end` is the expected key or name. */
static bool string_fits(const api_request *req, api__reader *reader, const char *text, size_t end) {
    const char *key = head[reader->step].key, *string = text + reader->string;
    size_t n = end - reader->string;
    if (key) return strlen(key) == n && memcmp(key, string, n) == 0;
    reader->tool = api__find_tool(req, string, n);
    return reader->tool != UINT32_MAX;
}

static const char tag[] = "<tool_call>";

static bool tag_byte(api__reader *reader, char byte) {
    return reader->tag < sizeof tag - 1 && byte == tag[reader->tag++];
}

/* Reads one byte before the arguments. False: the answer is no call. */
static bool head_byte(const api_request *req, api__reader *reader, const char *text, size_t at) {
    char byte = text[at];
    if (reader->in_string) {
        if (byte == '\\') return false; /* names have no escapes */
        if (byte != '"') return true;
        reader->in_string = false;
        if (!string_fits(req, reader, text, at)) return false;
        reader->step++;
        return true;
    }
    if (reader->step == 0 && (byte == '<' || (reader->tag > 0 && reader->tag < sizeof tag - 1)))
        return tag_byte(reader, byte);
    if (blank(byte)) return true;
    if (reader->step == ARRAY_LEN(head)) {
        if (byte != '{') return false;
        reader->state = ARGS;
        reader->said = at;
        reader->depth = 1;
        return true;
    }
    if (head[reader->step].what == 's') {
        if (byte != '"') return false;
        reader->in_string = true;
        reader->string = at + 1;
        return true;
    }
    return byte == head[reader->step++].what;
}

static void args_byte(api__reader *reader, char byte) {
    if (reader->in_string) {
        if (reader->escaped) reader->escaped = false;
        else if (byte == '\\') reader->escaped = true;
        else if (byte == '"') reader->in_string = false;
    } else if (byte == '"') {
        reader->in_string = true;
    } else if (byte == '{' || byte == '[') {
        reader->depth++;
    } else if ((byte == '}' || byte == ']') && --reader->depth == 0) {
        reader->state = WHOLE;
    }
}

/* Reads up to `ready`, or to the end of the call. */
static void scan(const api_request *req, api__reader *reader, const char *text, size_t ready) {
    while (reader->at < ready && reader->state != WHOLE && reader->state != PLAIN) {
        if (reader->state == ARGS) args_byte(reader, text[reader->at]);
        else if (!head_byte(req, reader, text, reader->at)) reader->state = PLAIN;
        reader->at++;
    }
    if (reader->state == PLAIN) reader->at = ready;
}

static void read_json(const api_request *req, api__answer *answer, const char *text, size_t ready,
                      bool last) {
    api__reader *reader = &answer->reader;
    if (answer->ended) return;
    scan(req, reader, text, ready);
    if (last && reader->state == HEAD) reader->state = PLAIN; /* no arguments began */
    if (reader->state == HEAD) return;
    size_t n = reader->at - reader->said;
    const char *fresh = text + reader->said;
    reader->said = reader->at;
    if (reader->state == PLAIN) {
        if (n > 0) api__say(answer, fresh, n);
        return;
    }
    if (answer->n_calls == 0 && api__add_call(answer, reader->tool) == NULL)
        answer->said.failed = true;
    if (answer->n_calls == 0) return;
    buf_append(&answer->args, fresh, n);
    answer->calls[0].args_end = answer->args.len;
    answer->calls[0].whole = answer->ended = reader->state == WHOLE;
}

const api__notation api__notation_json = {.read = read_json, .grammar = api__grammar_compile_tools};
