/* call_tags.c - finds calls written as tags in an answer, while the answer grows:
 *
 *   <tool_call>
 *   <function=NAME>
 *   <parameter=KEY>
 *   VALUE
 *   </parameter>
 *   </function>
 *   </tool_call>
 *
 * NAME is a function of the request. A value ends at </parameter>; one newline at each end does not
 * belong to it. Its type is that of the function's JSON Schema. In an object or list, </parameter>
 * may stand inside a JSON string. <tool_call> may be missing, because some tokenizers hide it. An
 * answer may hold several calls, and text around them; blanks beside a call are dropped.
 *
 * A call is taken when </function> has come. Until then it may turn out malformed, and then it is
 * text. If the answer is cut within a call, the call stands with the parameters it has, if its name
 * is complete; otherwise the call is dropped. */
#include "api/request_internal.h"

#include <strings.h>

/* States. The first is that of text outside calls; the others wait for a part of a call. */
enum { TEXT, OPEN, OPEN_GAP, FUNCTION, NAME, BODY, TAG, KEY, VALUE, AFTER, CLOSE };

static const char open_call[] = "<tool_call>", close_call[] = "</tool_call>",
                  open_function[] = "<function=", close_function[] = "</function>",
                  open_param[] = "<parameter=", close_param[] = "</parameter>";

/* ---- values ---- */

static void trim(const char **text, size_t *n) {
    while (*n > 0 && api__is_blank((*text)[*n - 1]))
        (*n)--;
    while (*n > 0 && api__is_blank(**text)) {
        (*text)++;
        (*n)--;
    }
}

/* Models trained on Python write True and False. */
static const char *boolean_of(const char *text, size_t n) {
    if (n == 4 && strncasecmp(text, "true", n) == 0) return "true";
    return n == 5 && strncasecmp(text, "false", n) == 0 ? "false" : NULL;
}

/* True if the text is a JSON object or array, as the types allow. */
static bool is_nested(buf *out, const char *text, size_t n, uint8_t types) {
    const json_limits limits = {n, API__MAX_DEPTH, API__MAX_STRUCTURAL};
    json_t *value = NULL;
    err why = {0};
    if (n == 0 || !strchr("{[", text[0])) return false;
    if (!(types & (text[0] == '{' ? API__TYPE_OBJECT : API__TYPE_ARRAY))) return false;
    int rc = json_parse_nul(&value, text, n, &limits, "value", &why);
    json_decref(value);
    if (rc != 0 && why.code == ERR_NO_MEMORY) out->failed = true;
    return rc == 0;
}

static bool is_value(buf *out, const char *text, size_t n, uint8_t types) {
    if (types & API__TYPE_NULL && n == 4 && memcmp(text, "null", n) == 0) return true;
    if (types & (API__TYPE_INTEGER | API__TYPE_NUMBER) && api__is_number(text, n)) return true;
    return is_nested(out, text, n, types);
}

/* Writes a parameter's text as JSON: a value of another type than a string if the types allow it
 * and it is one, else a string. */
static void write_value(buf *out, const char *text, size_t n, uint8_t types) {
    const char *bare = text;
    size_t n_bare = n;
    trim(&bare, &n_bare);
    const char *word = types & API__TYPE_BOOLEAN ? boolean_of(bare, n_bare) : NULL;
    if (word) buf_puts(out, word);
    else if (is_value(out, bare, n_bare, types)) buf_append(out, bare, n_bare);
    else buf_json_string(out, text, n);
}

/* ---- a whole call ---- */

typedef struct {
    const char *text;
    size_t n;
} piece;

/* Reads a byte of a value. True if it ends the mark behind the value. */
static bool value_byte(api__reader *reader, char byte) {
    if (reader->json && reader->in_string) {
        if (reader->escaped) reader->escaped = false;
        else if (byte == '\\') reader->escaped = true;
        else if (byte == '"') reader->in_string = false;
        return false;
    }
    if (byte == '"') reader->in_string = true;
    if (byte != close_param[reader->tag]) reader->tag = 0;
    if (byte == close_param[reader->tag]) reader->tag++;
    return close_param[reader->tag] == 0;
}

/* Prepares to read a value. It is read as JSON if it begins like an object or a list and may be
 * nothing else. */
static void begin_value(api__reader *reader, const api__tool *tool, piece key) {
    uint8_t types = api__param_types(tool, key.text, key.n);
    bool nested = types & (API__TYPE_OBJECT | API__TYPE_ARRAY) && !(types & API__TYPE_STRING);
    reader->json = nested && !reader->loose;
    reader->in_string = reader->escaped = false;
    reader->tag = 0;
}

/* Takes the value up to the mark behind it and moves behind the mark. */
static piece take_value(piece *rest, const api__tool *tool, piece key, bool loose) {
    api__reader reader = {.loose = loose};
    size_t n = 0;
    begin_value(&reader, tool, key);
    while (n < rest->n && !value_byte(&reader, rest->text[n++])) {
    }
    piece value = {rest->text, n - strlen(close_param)};
    rest->text += n;
    rest->n -= n;
    return value;
}

/* Takes the text up to `mark` and moves behind the mark. It is there: the states have read it. */
static piece take(piece *rest, const char *mark) {
    const char *end = memmem(rest->text, rest->n, mark, strlen(mark));
    piece part = {rest->text, (size_t)(end - rest->text)};
    rest->text = end + strlen(mark);
    rest->n -= part.n + strlen(mark);
    return part;
}

static piece without_newlines(piece value) {
    if (value.n > 0 && value.text[0] == '\n') {
        value.text++;
        value.n--;
    }
    if (value.n > 0 && value.text[value.n - 1] == '\n') value.n--;
    return value;
}

static bool is_among(const piece *keys, uint32_t n, piece key) {
    for (uint32_t i = 0; i < n; i++) {
        if (keys[i].n == key.n && memcmp(keys[i].text, key.text, key.n) == 0) return true;
    }
    return false;
}

/* Writes the parameters of a call's body as an object, without its end. False: one of them stands
 * there twice. */
static bool write_arguments(buf *out, const api__tool *tool, piece body, uint32_t n_params,
                            bool loose) {
    piece keys[API__MAX_NAMES];
    buf_puts(out, "{");
    for (uint32_t i = 0; i < n_params; i++) {
        (void)take(&body, open_param);
        piece key = take(&body, ">");
        piece value = without_newlines(take_value(&body, tool, key, loose));
        if (is_among(keys, i, key)) return false;
        keys[i] = key;
        if (i > 0) buf_puts(out, ",");
        buf_json_string(out, key.text, key.n);
        buf_puts(out, ":");
        write_value(out, value.text, value.n, api__param_types(tool, key.text, key.n));
    }
    return true;
}

/* Takes the call up to the reader's byte, with its first n_params parameters. False: it is
 * malformed. */
static bool take_call(const api_request *req, api__answer *answer, const char *text,
                      uint32_t n_params, bool whole) {
    const api__reader *reader = &answer->reader;
    const api__tool *tool = &req->tools[reader->tool];
    size_t before = answer->args.len;
    piece body = {text + reader->name, reader->at - reader->name};
    if (!write_arguments(&answer->args, tool, body, n_params, reader->loose)) {
        answer->args.len = before;
        return false;
    }
    if (whole) buf_puts(&answer->args, "}");
    api__say(answer, text + reader->said, reader->solid - reader->said);
    api__call *call = api__add_call(answer, reader->tool);
    if (call == NULL) {
        answer->said.failed = true;
        return true;
    }
    call->args = before;
    call->args_end = answer->args.len;
    call->whole = whole;
    answer->ended = req->one_call && whole;
    return true;
}

/* ---- one byte ---- */

/* A '<' begins a tag. */
static void begin_tag(api__reader *reader, uint8_t state, size_t at) {
    reader->state = state;
    reader->string = at;
}

/* The tag begun before, up to byte `at`: 1 if it is this tag, 0 if it may become the tag, else
 * -1. */
static int match(const api__reader *reader, const char *text, size_t at, const char *tag) {
    size_t n = at + 1 - reader->string, whole = strlen(tag);
    if (n > whole || memcmp(text + reader->string, tag, n) != 0) return -1;
    return n == whole;
}

/* Reads a byte of a tag that is one of two: sets the state behind it. False: it is neither. */
static bool tag_byte(api__reader *reader, const char *text, const char *first, uint8_t behind_first,
                     const char *second, uint8_t behind_second) {
    int one = match(reader, text, reader->at, first), two = match(reader, text, reader->at, second);
    if (one == 1) reader->state = behind_first;
    if (two == 1) reader->state = behind_second;
    return one >= 0 || two >= 0;
}

/* Reads blanks and the beginning of a tag. */
static bool gap_byte(api__reader *reader, char byte, uint8_t next) {
    if (byte == '<') begin_tag(reader, next, reader->at);
    return byte == '<' || api__is_blank(byte);
}

static bool name_byte(const api_request *req, api__reader *reader, const char *text) {
    char byte = text[reader->at];
    if (byte != '>') return byte != '\n' && byte != '<';
    size_t from = reader->string + strlen(open_function);
    reader->tool = api__find_tool(req, text + from, reader->at - from);
    reader->name = reader->at + 1;
    reader->params = 0;
    reader->loose = false;
    reader->state = BODY;
    return reader->tool != UINT32_MAX;
}

/* A name with NUL is no parameter's: many JSON parsers refuse such a key. */
static bool key_byte(const api_request *req, api__reader *reader, const char *text) {
    char byte = text[reader->at];
    size_t from = reader->string + strlen(open_param);
    if (byte != '>') return byte != '\n' && byte != 0;
    reader->state = VALUE;
    reader->value = reader->at + 1;
    begin_value(reader, &req->tools[reader->tool], (piece){text + from, reader->at - from});
    return reader->params++ < API__MAX_NAMES && reader->at > from; /* no empty name */
}

static void text_byte(api__reader *reader, char byte) {
    if (byte == '<') {
        begin_tag(reader, OPEN, reader->at);
    } else if (!api__is_blank(byte)) {
        reader->after_call = false;
        reader->solid = reader->at + 1;
    } else if (reader->after_call) {
        reader->said = reader->solid = reader->at + 1;
    }
}

/* What began as a call is text, up to the reader's byte. A tag in a wrong place may begin another
 * call. */
static void give_up(api__reader *reader, const char *text) {
    if (reader->state == AFTER) reader->at++; /* the last byte of the malformed call */
    if (reader->state == FUNCTION || reader->state == TAG) reader->at = reader->string;
    reader->state = TEXT;
    reader->after_call = false;
    reader->solid = reader->at;
    while (api__is_blank(text[reader->solid - 1]))
        reader->solid--;
}

/* Behind a call: text goes on at `at`. */
static void resume(api__reader *reader, size_t at) {
    reader->state = TEXT;
    reader->at = reader->said = reader->solid = at;
    reader->after_call = true;
}

/* Reads a byte inside a call. False: this is no call. */
static bool call_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    char byte = text[reader->at];
    switch (reader->state) {
    case OPEN: return tag_byte(reader, text, open_call, OPEN_GAP, open_function, NAME);
    case OPEN_GAP: return gap_byte(reader, byte, FUNCTION);
    case FUNCTION: return tag_byte(reader, text, open_function, NAME, open_function, NAME);
    case NAME: return name_byte(req, reader, text);
    case BODY: return gap_byte(reader, byte, TAG);
    case KEY: return key_byte(req, reader, text);
    case VALUE:
        if (value_byte(reader, byte)) reader->state = BODY;
        return true;
    default: break;
    }
    if (!tag_byte(reader, text, open_param, KEY, close_function, AFTER)) return false;
    return reader->state != AFTER || take_call(req, answer, text, reader->params, true);
}

/* Reads a byte behind </function>. A byte that is not of </tool_call> is text. */
static void after_byte(api__reader *reader, const char *text) {
    char byte = text[reader->at];
    if (reader->state == AFTER) {
        if (!gap_byte(reader, byte, CLOSE)) resume(reader, reader->at);
        else reader->at++;
        return;
    }
    int closed = match(reader, text, reader->at, close_call);
    if (closed < 0) resume(reader, reader->string);
    else if (closed == 0) reader->at++;
    else resume(reader, reader->at + 1);
}

static void step(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    if (reader->state == TEXT) {
        text_byte(reader, text[reader->at]);
        reader->at++;
    } else if (reader->state >= AFTER) {
        after_byte(reader, text);
    } else if (call_byte(req, answer, text)) {
        reader->at++;
    } else {
        give_up(reader, text);
    }
}

static void read_on(const api_request *req, api__answer *answer, const char *text, size_t ready) {
    while (answer->reader.at < ready && !answer->ended)
        step(req, answer, text);
}

/* Reads the end of the answer inside a call. A lone '<' may be text. */
static void cut_call(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    uint32_t complete = reader->params - (reader->state == VALUE ? 1 : 0);
    bool named = reader->state >= BODY && reader->state < AFTER,
         text_only = reader->state == OPEN && reader->at - reader->string < 2 &&
                     req->calls != API__CALLS_FORCED;
    size_t until = text_only ? reader->at : reader->solid;
    if ((named && take_call(req, answer, text, complete, false)) || until <= reader->said) return;
    api__say(answer, text + reader->said, until - reader->said);
}

static void read_tags(const api_request *req, api__answer *answer, const char *text, size_t ready,
                      bool last) {
    api__reader *reader = &answer->reader;
    read_on(req, answer, text, ready);
    if (last && reader->state == VALUE && reader->json && reader->in_string) {
        /* A string without an end: the value is no JSON, and it ends at the first mark. */
        reader->loose = true;
        reader->json = false;
        reader->tag = 0;
        reader->at = reader->value;
        read_on(req, answer, text, ready);
    }
    if (answer->ended || reader->state >= AFTER) return;
    if (last && reader->state != TEXT) {
        cut_call(req, answer, text);
        return;
    }
    size_t until = last && !reader->after_call ? ready : reader->solid;
    if (req->calls == API__CALLS_FORCED || until <= reader->said) return;
    api__say(answer, text + reader->said, until - reader->said);
    reader->said = until;
}

const api__notation api__notation_tags = {.mark = open_param,
                                          .shown = {open_call, close_call},
                                          .read = read_tags,
                                          .tags = true,
                                          .grammar = api__grammar_compile_tags,
                                          .grammar_many = api__grammar_compile_many_tags};
