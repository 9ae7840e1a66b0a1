/* answer.c - an answer as a list of parts: text, reasoning, calls. The readers of reasoning and of
 * calls add parts, and the dialects write them in this order. */
#include "api/dialect_internal.h"
#include "base/size.h"

#include <stdlib.h>

/* The list with room for one more item. NULL: out of memory, and the list is unchanged. */
static void *grown(void *list, uint32_t n, uint32_t *cap, size_t item_bytes) {
    uint32_t more = *cap ? *cap * 2 : 4;
    size_t bytes;
    if (n < *cap) return list;
    void *room = more > *cap && size_mul(more, item_bytes, &bytes) ? realloc(list, bytes) : NULL;
    if (room) *cap = more;
    return room;
}

static api__part *add_part(api__answer *answer, api__part_kind kind, size_t at) {
    api__part *parts =
        grown(answer->parts, answer->n_parts, &answer->cap_parts, sizeof *answer->parts);
    if (parts == NULL) {
        answer->said.failed = true;
        return NULL;
    }
    answer->parts = parts;
    parts[answer->n_parts] = (api__part){.kind = (uint8_t)kind, .from = at, .to = at};
    return &parts[answer->n_parts++];
}

/* Adds bytes to the last part, or to a new one if the last is of another kind. */
static void add_bytes(api__answer *answer, api__part_kind kind, buf *to, const char *text,
                      size_t n) {
    api__part *last = answer->n_parts ? &answer->parts[answer->n_parts - 1] : NULL;
    if (n == 0) return;
    if (last == NULL || last->kind != kind) last = add_part(answer, kind, to->len);
    if (last == NULL) return;
    buf_append(to, text, n);
    if (to->failed) answer->said.failed = true;
    else last->to = to->len;
}

void api__say(api__answer *answer, const char *text, size_t n) {
    add_bytes(answer, API__PART_TEXT, &answer->said, text, n);
}

void api__end_answer(api__answer *answer) {
    if (answer->n_parts == 0) (void)add_part(answer, API__PART_TEXT, 0);
}

void api__think(api__answer *answer, const char *text, size_t n) {
    add_bytes(answer, API__PART_THOUGHT, &answer->thought, text, n);
}

api__call *api__add_call(api__answer *answer, uint32_t tool) {
    api__call *calls =
        grown(answer->calls, answer->n_calls, &answer->cap_calls, sizeof *answer->calls);
    if (calls == NULL) return NULL;
    answer->calls = calls;
    api__part *part = add_part(answer, API__PART_CALL, 0);
    if (part == NULL) return NULL;
    part->n_call = answer->n_calls;
    api__call *call = &calls[answer->n_calls++];
    *call = (api__call){.tool = tool, .args = answer->args.len, .args_end = answer->args.len};
    return call;
}

void api__answer_deinit(api__answer *answer) {
    buf_deinit(&answer->said);
    buf_deinit(&answer->thought);
    buf_deinit(&answer->args);
    free(answer->calls);
    free(answer->parts);
    answer->calls = NULL;
    answer->parts = NULL;
    answer->n_calls = answer->cap_calls = answer->n_parts = answer->cap_parts = 0;
}

size_t api__answer_bytes(const api__answer *answer) {
    return answer->said.cap + answer->thought.cap + answer->args.cap +
           answer->cap_calls * sizeof *answer->calls + answer->cap_parts * sizeof *answer->parts;
}

/* Without functions everything is text. */
static void read_text(const api_request *req, api__answer *answer, const char *text, size_t ready,
                      bool last) {
    (void)req, (void)last;
    api__say(answer, text + answer->reader.at, ready - answer->reader.at);
    answer->reader.at = ready;
}

const api__notation api__notation_text = {.read = read_text};

uint32_t api__find_tool(const api_request *req, const char *name, size_t n) {
    for (uint32_t i = 0; i < req->n_tools; i++) {
        const char *own = req->tools[i].name;
        if (strlen(own) == n && memcmp(own, name, n) == 0) return i;
    }
    return UINT32_MAX;
}

uint8_t api__param_types(const api__tool *tool, const char *name, size_t n) {
    uint32_t low = 0, high = tool->n_params;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        size_t own = strlen(tool->params[mid].name);
        int order = memcmp(tool->params[mid].name, name, own < n ? own : n);
        if (order == 0 && own == n) return tool->params[mid].types;
        if (order < 0 || (order == 0 && own < n)) low = mid + 1;
        else high = mid;
    }
    return 0;
}

/* ---- numbers ---- */

static size_t digits(const char *text, size_t n, size_t at) {
    while (at < n && text[at] >= '0' && text[at] <= '9')
        at++;
    return at;
}

bool api__is_number(const char *text, size_t n) {
    size_t first = n > 0 && text[0] == '-', at = digits(text, n, first), from = at + 1;
    if (at == first || (text[first] == '0' && at > first + 1)) return false;
    if (at < n && text[at] == '.') {
        at = digits(text, n, from);
        if (at == from) return false;
    }
    if (at < n && (text[at] == 'e' || text[at] == 'E')) {
        from = at + 1;
        if (from < n && (text[from] == '+' || text[from] == '-')) from++;
        at = digits(text, n, from);
        if (at == from) return false;
    }
    return at == n;
}

/* ---- the parts of an answer, as they are written ---- */

uint32_t api__n_parts(const api_reply *reply, const api__choice *choice) {
    return api__splits(reply->req) ? choice->answer.n_parts : 1;
}

/* A part as it stands now. */
static api__part part_now(const api_reply *reply, const api__choice *choice, uint32_t i) {
    if (!api__splits(reply->req)) return (api__part){.kind = API__PART_TEXT, .to = choice->ready};
    api__part part = choice->answer.parts[i];
    if (part.kind == API__PART_CALL) {
        part.from = choice->answer.calls[part.n_call].args;
        part.to = choice->answer.calls[part.n_call].args_end;
    }
    return part;
}

void api__at_part(api_reply *reply, const api__choice *choice, uint32_t i) {
    api__cursor *cursor = &reply->cursor;
    api__part part = part_now(reply, choice, i);
    cursor->part = i;
    cursor->kind = part.kind;
    cursor->n_call = part.n_call;
    cursor->from = part.from;
    cursor->to = part.to;
}

void api__at_all(api_reply *reply, const api__choice *choice, api__part_kind kind) {
    api__cursor *cursor = &reply->cursor;
    bool splits = api__splits(reply->req);
    cursor->kind = (uint8_t)kind;
    cursor->from = 0;
    cursor->to = kind == API__PART_THOUGHT ? choice->answer.thought.len
                 : splits                  ? choice->answer.said.len
                                           : choice->ready;
}

api__phase api__next_phase(api_reply *reply, api__choice *choice) {
    api__cursor *cursor = &reply->cursor;
    uint32_t n = api__n_parts(reply, choice);
    if (choice->part >= n) return API__NOTHING;
    api__at_part(reply, choice, choice->part);
    bool over = choice->part + 1 < n || choice->state != API__RUNNING;
    if (!choice->part_opened) {
        bool empty = cursor->from == cursor->to && cursor->kind != API__PART_CALL;
        if (empty && !over) return API__NOTHING;
        choice->sent = cursor->from;
        return API__OPENS;
    }
    cursor->from = choice->sent;
    if (cursor->from < cursor->to) return API__GROWS;
    return over ? API__CLOSES : API__NOTHING;
}

void api__part_opened(api__choice *choice) {
    choice->part_opened = true;
}

void api__part_closed(api__choice *choice) {
    choice->part++;
    choice->part_opened = false;
}

bool api__has_fresh(const api_reply *reply, const api__choice *choice) {
    uint32_t n = api__n_parts(reply, choice);
    if (choice->part >= n) return false;
    if (choice->part + 1 < n) return true;
    api__part part = part_now(reply, choice, choice->part);
    if (!choice->part_opened) return part.kind == API__PART_CALL || part.from < part.to;
    return choice->sent < part.to;
}

/* ---- streams with events for the parts ---- */

bool api__begin_part_event(api_reply *reply, api__choice *choice, const api__part_events *events) {
    bool finished = choice->state != API__RUNNING;
    uint32_t due = choice->n_written;
    reply->cursor = (api__cursor){.steps = events->start};
    if (!reply->begun) return reply->begun = true;
    while (due < choice->n_tokens && (finished || choice->tokens[due].text_end <= choice->ready))
        due++;
    switch (api__next_phase(reply, choice)) {
    case API__OPENS: reply->cursor.steps = events->opens; return true;
    case API__GROWS:
        reply->cursor.steps = events->grows;
        reply->cursor.from_token = choice->n_written;
        reply->cursor.to_token = due;
        return true;
    case API__CLOSES:
        reply->cursor.steps = events->closes;
        api__at_part(reply, choice, choice->part); /* all of it */
        reply->cursor.to_token = choice->n_tokens;
        return true;
    case API__NOTHING: break;
    }
    reply->cursor.steps = NULL;
    choice->closed = finished;
    return false;
}

bool api__step_event_close(buf *out, api_reply *reply, size_t end) {
    (void)reply, (void)end;
    buf_puts(out, "}\n\n");
    return true;
}

bool api__step_delta_close(buf *out, api_reply *reply, size_t end) {
    api__choice *choice = api__chosen(reply);
    choice->sent = reply->cursor.to;
    choice->n_written = reply->cursor.to_token;
    return api__step_event_close(out, reply, end);
}
