/* reasoning.c - finds a model's reasoning, and splits it from the answer.
 *
 * A reasoning model writes its reasoning first, between two marks, and then the answer. Its chat
 * template may write the open mark itself, so that the answer begins inside the reasoning, or write
 * an empty reasoning, so that there is none. Text in the form of marks later in an answer belongs
 * to the answer. */
#include "api/dialect_internal.h"

/* Published models, by their chat templates. */
const api__marks api__all_marks[] = {
    {"<think>", "</think>"}, /* DeepSeek R1, Qwen3, QwQ, GLM, Ouro, Nemotron, and most others */
    {"<thinking>", "</thinking>"},
    {"<reasoning>", "</reasoning>"}, /* Reka Flash */
    {"<thought>", "</thought>"},     /* EXAONE Deep */
    {"<Thought>", "</Thought>"},     /* Marco-o1 */
    {"<seed:think>", "</seed:think>"},
    {"<longcat_think>", "</longcat_think>"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},                          /* Command */
    {"<|begin_of_thought|>", "<|end_of_thought|>"},                      /* OpenThinker, Sky-T1 */
    {"<|inner_prefix|>", "<|inner_suffix|>"},                            /* Apertus */
    {"[THINK]", "[/THINK]"},                                             /* Magistral */
    {"\xe2\x97\x81think\xe2\x96\xb7", "\xe2\x97\x81/think\xe2\x96\xb7"}, /* Kimi-VL */
    {"Here is my thought process:", "Here is my response:"},             /* Granite 3.2 */
};
const size_t api__n_marks = ARRAY_LEN(api__all_marks);

size_t api__without_blanks(const char *text, size_t n) {
    while (n > 0 && api__is_blank(text[n - 1]))
        n--;
    return n;
}

static bool ends_in(const char *text, size_t n, const char *end) {
    size_t k = strlen(end);
    return n >= k && memcmp(text + n - k, end, k) == 0;
}

const api__marks *api__marks_at_end(const char *text, size_t n, bool *closed) {
    n = api__without_blanks(text, n);
    for (size_t i = 0; i < api__n_marks; i++) {
        const api__marks *marks = &api__all_marks[i];
        *closed = ends_in(text, n, marks->close);
        if (*closed || ends_in(text, n, marks->open)) return marks;
    }
    return NULL;
}

/* ---- the prompt tells how the answer begins ---- */

typedef enum { UNTOLD, OPENED, CLOSED } told;

/* By the last mark at the end of the text, blanks aside. */
static told told_at_end(const api__marks *marks, const char *text, size_t n) {
    n = api__without_blanks(text, n);
    if (ends_in(text, n, marks->close)) return CLOSED;
    return ends_in(text, n, marks->open) ? OPENED : UNTOLD;
}

/* By the last mark anywhere in the text. */
static told told_within(const api__marks *marks, const char *text, size_t n) {
    for (; n > 0; n--) {
        if (ends_in(text, n, marks->close)) return CLOSED;
        if (ends_in(text, n, marks->open)) return OPENED;
    }
    return UNTOLD;
}

/* A prompt ends in text of the template, or in the last message, which the answer continues. Marks
 * in other text of a client mean nothing. */
static told read_prompt(const api__marks *marks, const api__turns *turns,
                        const jinja_output *prompt) {
    const char *text = prompt->text.data ? prompt->text.data : "";
    size_t n = prompt->text.len, last = prompt->n_runs;
    bool trusted = last > 0 && prompt->runs[last - 1].trusted;
    if (trusted) return told_at_end(marks, text, n);
    if (!turns->open_last) return UNTOLD;
    size_t start = last > 1 ? prompt->runs[last - 2].end : 0;
    told found = told_within(marks, text + start, n - start);
    if (found != UNTOLD) return found;
    return told_at_end(marks, text, start) == OPENED ? OPENED : CLOSED;
}

/* The token of a mark, if it would print nothing. */
static uint32_t silent_token(const tokenizer *tok, const char *mark) {
    uint32_t id;
    return tokenizer_find(tok, mark, &id) && tokenizer_is_special(tok, id) ? id : UINT32_MAX;
}

void api__expect_thought(api_request *req, const api_context *ctx, const api__turns *turns,
                         const jinja_output *prompt) {
    const api__marks *marks = api__template_traits(ctx->template, turns->tools != NULL)->marks;
    told found = marks ? read_prompt(marks, turns, prompt) : CLOSED;
    if (found == CLOSED) return;
    req->marks = marks;
    req->thinks_first = found == OPENED;
    req->open_id = silent_token(ctx->opts.tokenizer, marks->open);
    req->close_id = silent_token(ctx->opts.tokenizer, marks->close);
}

/* ---- the answer ---- */

enum { BEFORE, THINKING, AFTER, CONTENT };

/* The most bytes at the end of the text that begin a mark. */
static size_t begins_mark(const char *text, size_t n, const char *mark) {
    size_t most = strlen(mark) - 1;
    for (size_t k = n < most ? n : most; k > 0; k--) {
        if (memcmp(text + n - k, mark, k) == 0) return k;
    }
    return 0;
}

static size_t skip_blanks(const char *text, size_t from, size_t end) {
    while (from < end && api__is_blank(text[from]))
        from++;
    return from;
}

/* Gives out the reasoning up to its last byte before `end` that is not blank. */
static void give(api__thinker *thinker, const api_request *req, api__answer *answer,
                 const char *text, size_t end) {
    size_t solid = thinker->at + api__without_blanks(text + thinker->at, end - thinker->at);
    if (solid > thinker->at) thinker->solid = solid;
    thinker->at = end;
    if (thinker->solid <= thinker->given) return;
    if (!thinker->begun) thinker->given = skip_blanks(text, thinker->given, thinker->solid);
    if (req->show_thought)
        api__think(answer, text + thinker->given, thinker->solid - thinker->given);
    thinker->given = thinker->solid;
    thinker->begun = true;
}

/* An answer begins with the open mark, blanks aside, or has no reasoning. If the prompt opened the
 * reasoning, a second open mark is left out. False: not known yet. */
static bool read_before(api__thinker *thinker, const api_request *req, const char *text,
                        size_t ready, bool last) {
    size_t len = strlen(req->marks->open), from = skip_blanks(text, thinker->at, ready),
           n = ready - from < len ? ready - from : len;
    bool same = memcmp(text + from, req->marks->open, n) == 0;
    thinker->at = from;
    if (same && n < len && !last) return false;
    thinker->state = req->thinks_first || (same && n == len) ? THINKING : CONTENT;
    if (same && n == len) thinker->at = from + len;
    thinker->given = thinker->solid = thinker->at;
    return true;
}

static bool read_thinking(api__thinker *thinker, const api_request *req, api__answer *answer,
                          const char *text, size_t ready, bool last) {
    const char *mark = req->marks->close, *from = text + thinker->at;
    const char *found = memmem(from, ready - thinker->at, mark, strlen(mark));
    size_t end = found ? (size_t)(found - text) : ready;
    if (!found && !last) end -= begins_mark(from, ready - thinker->at, mark);
    give(thinker, req, answer, text, end);
    if (!found && !last) return false;
    if (found) thinker->at += strlen(mark);
    thinker->state = AFTER;
    return true;
}

static bool read_after(api__thinker *thinker, const char *text, size_t ready, bool last) {
    thinker->at = skip_blanks(text, thinker->at, ready);
    if (thinker->at == ready && !last) return false;
    thinker->content = thinker->at;
    thinker->bare = thinker->at == ready;
    thinker->state = CONTENT;
    return true;
}

size_t api__read_thought(api__thinker *thinker, const api_request *req, api__answer *answer,
                         const char *text, size_t ready, bool last) {
    if (req->marks == NULL) return 0;
    if (thinker->state == BEFORE && !read_before(thinker, req, text, ready, last)) return SIZE_MAX;
    if (thinker->state == THINKING && !read_thinking(thinker, req, answer, text, ready, last))
        return SIZE_MAX;
    if (thinker->state == AFTER && !read_after(thinker, text, ready, last)) return SIZE_MAX;
    return thinker->content;
}

bool api__tail_at(const api__thinker *thinker, const api_request *req, size_t ready, size_t *from) {
    bool split = req->marks && thinker->state != CONTENT;
    *from = split ? thinker->given : ready;
    return !split || (thinker->state == THINKING && req->show_thought);
}

size_t api__before_mark(const api__thinker *thinker, const api_request *req, const char *tail,
                        size_t n) {
    if (req->marks == NULL || thinker->state == CONTENT || n == 0) return n;
    const char *mark = req->marks->close, *found = memmem(tail, n, mark, strlen(mark));
    return found ? (size_t)(found - tail) : n - begins_mark(tail, n, mark);
}

bool api__is_thinking(const api__thinker *thinker, const api_request *req) {
    if (req->marks == NULL) return false;
    if (thinker->state == BEFORE) return req->thinks_first;
    return thinker->state != CONTENT || thinker->bare;
}

const char *api__spelled_mark(const api__thinker *thinker, const api_request *req, uint32_t token) {
    if (req->marks == NULL || thinker->state == CONTENT || token == UINT32_MAX) return NULL;
    if (token == req->open_id) return req->marks->open;
    return token == req->close_id ? req->marks->close : NULL;
}
