/* call_json.c - finds calls written as JSON in an answer, while the answer grows.
 *
 * A call is {"name": NAME, "arguments": {…}}, where NAME is a function of the request. Llama writes
 * "parameters" for "arguments". Several calls follow each other, separated by blanks, ',' or ';',
 * or stand in a list. A grammar gives a forced call the first form.
 *
 * A tag may stand before a call: <tool_call> of Hermes and Qwen, [TOOL_CALLS] of Mistral,
 * <|python_tag|> of Llama. Behind a tag, Mistral also writes NAME{…}, and Llama NAME.call(…)
 * (call_python.c). Some tokenizers hide the tag, so a call may begin an answer without it. Other
 * text belongs to the content; behind calls without a tag it is the chatter of a weak model, which
 * ends the answer.
 *
 * A text is held back until it is a call or not. When the answer is cut within a call, the call
 * stands with the arguments it has, if its name is complete; what is no complete name is dropped.
 */
#include "api/request_internal.h"

/* States. TEXT is that of text outside calls, AFTER that behind a call; the others wait for a part
 * of a call. */
enum {
    TEXT,
    TAG,
    BEGIN,
    LIST,
    NAME,
    ID,
    KEY_GAP,
    KEY,
    COLON,
    VALUE_GAP,
    VALUE,
    NEXT,
    ARGS,
    PYTHON,
    TAIL,
    AFTER,
    AFTER_TAG
};

/* Keys of a call. */
enum { KEY_NAME, KEY_TYPE, KEY_ID, KEY_ARGS };
static const struct {
    const char *name;
    uint8_t key;
} keys[] = {{"name", KEY_NAME},
            {"type", KEY_TYPE},
            {"id", KEY_ID},
            {"arguments", KEY_ARGS},
            {"parameters", KEY_ARGS}};

enum { MAX_STRING = 64 }; /* bytes of a key or a name */

static const char args_tag[] = "[ARGS]", call_id_tag[] = "[CALL_ID]", call_word[] = ".call(";

static bool name_char(char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || byte == '_' || byte == '-';
}

/* 1: the text from reader->string to its byte is this tag; 0: it may become it; -1: neither. */
static int match(const api__reader *reader, const char *text, const char *tag) {
    size_t n = reader->at + 1 - reader->string, whole = tag ? strlen(tag) : 0;
    if (n > whole || memcmp(text + reader->string, tag, n) != 0) return -1;
    return n == whole;
}

/* True if the text is the beginning of a function's name. */
static bool begins_name(const api_request *req, const char *text, size_t n) {
    for (uint32_t i = 0; i < req->n_tools; i++) {
        if (strncmp(req->tools[i].name, text, n) == 0) return true;
    }
    return false;
}

/* True if what began as a call has a tag. */
static bool has_tag(const api__reader *reader) {
    return reader->tag_end > reader->start;
}

static void enter(api__reader *reader, uint8_t state) {
    reader->state = state;
    reader->string = reader->at;
}

/* ---- a call ---- */

/* The name is known, and the arguments begin at the reader's byte. */
static bool begin_arguments(api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    api__say(answer, text + reader->said, reader->solid - reader->said);
    if (api__add_call(answer, reader->tool) == NULL) answer->said.failed = true;
    reader->said = reader->at;
    return !answer->said.failed;
}

/* Ends a call with complete arguments. */
static void end_call(const api_request *req, api__answer *answer, uint8_t state) {
    api__reader *reader = &answer->reader;
    api__call *call = &answer->calls[answer->n_calls - 1];
    call->args_end = answer->args.len;
    call->whole = true;
    reader->state = state;
    reader->depth = 1; /* of the call's object, for TAIL */
    reader->named = false;
    answer->ended = req->one_call;
}

static void put_arguments(api__answer *answer, const char *text, size_t end) {
    if (answer->reader.said < end)
        buf_append(&answer->args, text + answer->reader.said, end - answer->reader.said);
    answer->reader.said = end;
}

/* An object without arguments is a call of a function that needs none. */
static bool bare_call(const api_request *req, api__answer *answer, const char *text) {
    if (!answer->reader.named || !begin_arguments(answer, text)) return false;
    buf_puts(&answer->args, "{}");
    end_call(req, answer, AFTER);
    answer->reader.said = answer->reader.at + 1;
    return true;
}

/* ---- the members of a call's object ---- */

static bool key_ends(api__reader *reader, const char *text) {
    size_t n = reader->at - reader->string;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (strlen(keys[i].name) != n || memcmp(keys[i].name, text + reader->string, n) != 0)
            continue;
        reader->key = keys[i].key;
        reader->state = COLON;
        return true;
    }
    return false;
}

static bool value_ends(const api_request *req, api__reader *reader, const char *text) {
    const char *value = text + reader->string;
    size_t n = reader->at - reader->string;
    reader->state = NEXT;
    if (reader->key == KEY_TYPE) return n == 8 && memcmp(value, "function", n) == 0;
    if (reader->key != KEY_NAME) return true;
    reader->tool = api__find_tool(req, value, n);
    reader->named = reader->tool != UINT32_MAX;
    return reader->named;
}

/* Reads a byte of a key or of a value; names have no escapes. */
static bool string_byte(const api_request *req, api__reader *reader, const char *text) {
    char byte = text[reader->at];
    if (byte == '\\' || reader->at - reader->string > MAX_STRING) return false;
    if (byte != '"') return true;
    return reader->state == KEY ? key_ends(reader, text) : value_ends(req, reader, text);
}

static bool value_begins(api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    char byte = text[reader->at];
    if (reader->key != KEY_ARGS) {
        reader->state = VALUE;
        reader->string = reader->at + 1;
        return byte == '"';
    }
    if (byte != '{' || !reader->named || !begin_arguments(answer, text)) return false;
    reader->state = ARGS;
    reader->tail = true;
    reader->depth = 1;
    return true;
}

/* Reads a byte of the members before the arguments. */
static bool member_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    char byte = text[reader->at];
    if (reader->state == KEY || reader->state == VALUE) return string_byte(req, reader, text);
    if (api__is_blank(byte)) return true;
    switch (reader->state) {
    case KEY_GAP:
        reader->state = KEY;
        reader->string = reader->at + 1;
        return byte == '"';
    case COLON: reader->state = VALUE_GAP; return byte == ':';
    case VALUE_GAP: return value_begins(answer, text);
    default: break;
    }
    if (byte == '}') return bare_call(req, answer, text);
    reader->state = KEY_GAP;
    return byte == ',';
}

/* ---- arguments ---- */

/* Reads a byte inside an object. True at the end of the object. */
static bool nested_byte(api__reader *reader, char byte) {
    if (reader->in_string) {
        if (reader->escaped) reader->escaped = false;
        else if (byte == '\\') reader->escaped = true;
        else if (byte == '"') reader->in_string = false;
    } else if (byte == '"') {
        reader->in_string = true;
    } else if (byte == '{' || byte == '[') {
        reader->depth++;
    } else if ((byte == '}' || byte == ']') && --reader->depth == 0) {
        return true;
    }
    return false;
}

static void args_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    if (!nested_byte(reader, text[reader->at])) return;
    put_arguments(answer, text, reader->at + 1);
    end_call(req, answer, reader->tail ? TAIL : AFTER);
}

/* Further members of a call's object say nothing. */
static void tail_byte(api__reader *reader, char byte) {
    if (nested_byte(reader, byte)) reader->state = AFTER;
    reader->said = reader->solid = reader->at + 1;
}

/* ---- calls that begin with their name ---- */

/* True if the text begins with one of the tags behind a name, or may become one. */
static bool between_fits(const char *text, size_t n) {
    static const char *const tags[] = {args_tag, call_id_tag};
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        size_t whole = strlen(tags[i]);
        if (memcmp(text, tags[i], n < whole ? n : whole) == 0) return true;
    }
    return false;
}

/* Reads what stands between a name and its arguments: nothing, "[ARGS]", or "[CALL_ID]" and an id
 * before it. */
static bool id_byte(api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    const char *between = text + reader->string;
    size_t n = reader->at - reader->string, tag = sizeof args_tag - 1;
    if (text[reader->at] != '{') return n < MAX_STRING && between_fits(between, n + 1);
    if (n > 0 && (n < tag || memcmp(text + reader->at - tag, args_tag, tag) != 0)) return false;
    if (!begin_arguments(answer, text)) return false;
    reader->state = ARGS;
    reader->tail = false;
    reader->depth = 1;
    return true;
}

static bool name_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    const char *name = text + reader->string;
    size_t n = reader->at - reader->string;
    char byte = text[reader->at];
    if (name_char(byte)) return begins_name(req, name, n + 1);
    reader->tool = api__find_tool(req, name, n);
    reader->named = reader->tool != UINT32_MAX;
    if (!reader->named) return false;
    enter(reader, req->notation->python ? PYTHON : ID);
    return req->notation->python ? byte == '.' : id_byte(answer, text);
}

/* Reads a byte of ".call(…)". The arguments are known at the end only. */
static bool python_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    size_t n = reader->at + 1 - reader->string, word = sizeof call_word - 1;
    if (n <= word) {
        reader->depth = 1;
        return memcmp(text + reader->string, call_word, n) == 0;
    }
    if (!api__python_byte(reader, text[reader->at])) return true;
    size_t from = reader->string + word;
    buf args = {0};
    bool ok = api__python_arguments(&args, text + from, reader->at - from);
    if (args.failed) answer->said.failed = true;
    if (ok && begin_arguments(answer, text)) {
        buf_append(&answer->args, args.data, args.len);
        end_call(req, answer, AFTER);
        reader->said = reader->solid = reader->at + 1;
    }
    buf_deinit(&args);
    return ok;
}

/* ---- between calls ---- */

/* Begins a call at the reader's byte. False: no call begins so. */
static bool call_begins(const api_request *req, api__reader *reader, const char *text) {
    char byte = text[reader->at];
    bool named = req->notation->names || req->notation->python;
    reader->named = reader->in_string = reader->escaped = false;
    if (byte == '{') enter(reader, KEY_GAP);
    else if (byte == '[' && !reader->list) enter(reader, LIST);
    else if (named && begins_name(req, &byte, 1)) enter(reader, NAME);
    else return false;
    if (reader->state == LIST) reader->list = true;
    return true;
}

static void text_byte(const api_request *req, api__reader *reader, const char *text) {
    char byte = text[reader->at];
    if (req->notation->open && byte == req->notation->open[0]) {
        enter(reader, TAG);
        reader->start = reader->at;
    } else if (!reader->talking && !api__is_blank(byte) && call_begins(req, reader, text)) {
        reader->start = reader->at;
    } else if (!api__is_blank(byte)) {
        reader->talking = true;
        reader->solid = reader->at + 1;
    }
}

/* What began as a call is text, up to the end of its tag or of its first byte. */
static void give_up(api__answer *answer) {
    api__reader *reader = &answer->reader;
    reader->at = has_tag(reader) ? reader->tag_end : reader->start + 1;
    reader->solid = reader->at;
    reader->state = TEXT;
    reader->list = false;
    reader->talking = true;
    answer->ended = answer->n_calls > 0 && !reader->tagged;
}

/* Mistral's tag begins like a list. */
static bool list_instead(api__reader *reader, const char *text) {
    bool expected = has_tag(reader) || !reader->talking;
    if (text[reader->string] != '[' || reader->list || !expected) return false;
    reader->at = reader->string;
    reader->state = LIST;
    reader->list = true;
    return true;
}

static bool tag_byte(const api_request *req, api__reader *reader, const char *text) {
    int found = match(reader, text, req->notation->open);
    if (found < 0) return list_instead(reader, text);
    if (found == 0) return true;
    reader->state = BEGIN;
    reader->tag_end = reader->at + 1;
    reader->tagged = true;
    reader->list = false;
    return true;
}

/* Behind a tag, which may stand there twice. */
static bool begin_byte(const api_request *req, api__reader *reader, const char *text) {
    char byte = text[reader->at];
    if (api__is_blank(byte)) return true;
    if (byte != req->notation->open[0]) return call_begins(req, reader, text);
    enter(reader, TAG);
    return true;
}

/* Reads a byte behind a call. */
static void after_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    char byte = text[reader->at];
    bool separates =
        api__is_blank(byte) || byte == ',' || byte == ';' || (byte == ']' && reader->list);
    reader->start = reader->said = reader->solid = reader->at;
    if (byte == ']') reader->list = false;
    if (separates) return;
    if (reader->list && byte == '{') {
        enter(reader, KEY_GAP);
        return;
    }
    if ((req->notation->open && byte == req->notation->open[0]) ||
        (req->notation->close && byte == req->notation->close[0])) {
        enter(reader, AFTER_TAG);
        return;
    }
    if (call_begins(req, reader, text)) return;
    reader->state = TEXT;
    reader->talking = true;
    answer->ended = !reader->tagged;
    if (reader->tagged) text_byte(req, reader, text);
}

/* Reads a byte of a tag behind a call: one that ends it, or one that begins the next. */
static bool after_tag_byte(const api_request *req, api__reader *reader, const char *text) {
    int open = match(reader, text, req->notation->open),
        close = match(reader, text, req->notation->close);
    if (close == 1) {
        reader->state = AFTER;
        reader->tagged = true;
    } else if (open == 1) {
        return tag_byte(req, reader, text);
    }
    return open >= 0 || close >= 0;
}

/* ---- all ---- */

/* Reads a byte inside a call. False: this is no call. */
static bool call_byte(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    switch (reader->state) {
    case TAG: return tag_byte(req, reader, text);
    case BEGIN: return begin_byte(req, reader, text);
    case LIST:
        if (api__is_blank(text[reader->at])) return true;
        enter(reader, KEY_GAP);
        return text[reader->at] == '{';
    case NAME: return name_byte(req, answer, text);
    case ID: return id_byte(answer, text);
    case PYTHON: return python_byte(req, answer, text);
    case AFTER_TAG: return after_tag_byte(req, reader, text);
    default: return member_byte(req, answer, text);
    }
}

static void step(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    switch (reader->state) {
    case TEXT: text_byte(req, reader, text); break;
    case ARGS: args_byte(req, answer, text); break;
    case TAIL: tail_byte(reader, text[reader->at]); break;
    case AFTER: after_byte(req, answer, text); break;
    default:
        if (call_byte(req, answer, text)) break;
        if (!answer->said.failed) give_up(answer);
        return;
    }
    reader->at++;
}

/* True if what began as a call at the end of the answer can be nothing else: it has a tag or part
 * of one, or the beginning of a member. A lone first byte may be text. */
static bool surely_call(const api_request *req, const api__reader *reader, const char *text) {
    const char *string = text + reader->string;
    size_t n = reader->at - reader->string;
    if (req->calls == API__CALLS_FORCED || has_tag(reader)) return true;
    if (reader->state == TAG || reader->state == AFTER_TAG) return n > 1;
    if (reader->state == VALUE && reader->key == KEY_NAME) return begins_name(req, string, n);
    if (reader->state == ID || reader->state == PYTHON) return n > 1;
    if (reader->state == KEY_GAP) return text[reader->string] != '{'; /* behind a member */
    if (reader->state != KEY) return reader->state > KEY;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (strncmp(keys[i].name, string, n) == 0) return true;
    }
    return false;
}

/* Reads the end of the answer. */
static void finish(const api_request *req, api__answer *answer, const char *text) {
    api__reader *reader = &answer->reader;
    if (reader->state == ARGS || reader->state == TAIL || reader->state == AFTER) return;
    size_t until = reader->at;
    bool chatter = answer->n_calls > 0 && !reader->tagged;
    bool call = reader->state != TEXT && surely_call(req, reader, text);
    if (call && reader->named && begin_arguments(answer, text)) return;
    if (call) until = reader->solid;
    if (!chatter && until > reader->said)
        api__say(answer, text + reader->said, until - reader->said);
    reader->said = reader->at;
}

static void read_json(const api_request *req, api__answer *answer, const char *text, size_t ready,
                      bool last) {
    api__reader *reader = &answer->reader;
    while (reader->at < ready && !answer->ended && !answer->said.failed)
        step(req, answer, text);
    if (answer->ended || answer->said.failed) return;
    if (reader->state == ARGS) {
        put_arguments(answer, text, reader->at);
        answer->calls[answer->n_calls - 1].args_end = answer->args.len;
    }
    if (last) {
        finish(req, answer, text);
    } else if (reader->state != ARGS && reader->solid > reader->said) {
        api__say(answer, text + reader->said, reader->solid - reader->said);
        reader->said = reader->solid;
    }
}

const api__notation api__notation_json = {.open = "<tool_call>",
                                          .close = "</tool_call>",
                                          .shown = {"<tool_call>", "</tool_call>"},
                                          .read = read_json,
                                          .grammar = api__grammar_compile_tools,
                                          .grammar_many = api__grammar_compile_many_tools};
const api__notation api__notation_mistral = {.mark = "[TOOL_CALLS]",
                                             .open = "[TOOL_CALLS]",
                                             .names = true,
                                             .shown = {"[TOOL_CALLS]", call_id_tag, args_tag},
                                             .read = read_json,
                                             .grammar = api__grammar_compile_tools,
                                             .grammar_many = api__grammar_compile_many_tools};
const api__notation api__notation_llama = {.mark = "<|python_tag|>",
                                           .open = "<|python_tag|>",
                                           .python = true,
                                           .shown = {"<|python_tag|>"},
                                           .read = read_json,
                                           .grammar = api__grammar_compile_tools,
                                           .grammar_many = api__grammar_compile_many_tools};
