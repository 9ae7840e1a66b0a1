/* after_thought.c - see after_thought_internal.h. */
#include "api/grammar/after_thought_internal.h"
#include "api/grammar/vocab_internal.h"
#include "base/size.h"

#include <stdlib.h>

enum { BEFORE, THINKING, AFTER, CONTENT };

struct api__after_thought {
    const api_request *req;
    const api__vocab *vocab;
    api__constraint *content;
    uint32_t open_token; /* API__NO_TOKEN: the open mark is not offered */
    uint8_t state, blanks;
    api__stop close;
    api__matcher matcher; /* of the close mark */
    uint64_t *words;
    eng_mask mask;
};

static void set_bit(uint64_t *words, uint32_t id) {
    words[id / 64] |= (uint64_t)1 << id % 64;
}

static void clear_bit(uint64_t *words, uint32_t id) {
    words[id / 64] &= ~((uint64_t)1 << id % 64);
}

/* Newlines as models write them between a close mark and the content. */
static bool is_newlines(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\n') return false;
    }
    return true;
}

/* ---- masks ---- */

/* Takes out the tokens that begin with the rest of the close mark and go on with other text. A
 * token with a rest that this does not see, say the mark as a whole with text after it, is refused
 * when it is taken. */
static void forbid_overruns(api__after_thought *after) {
    size_t matched = after->matcher.state[0], rest = after->close.len - matched, n;
    uint32_t from, to;
    if (matched == 0) return;
    api__vocab_beginning(after->vocab, after->close.text + matched, rest, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        const char *text = tokenizer_bytes(after->vocab->tokenizer, after->vocab->sorted[i], &n);
        if (!is_newlines(text + rest, n - rest)) clear_bit(after->words, after->vocab->sorted[i]);
    }
}

static void free_mask(api__after_thought *after) {
    memset(after->words, 0xff, after->vocab->n_words * sizeof *after->words);
    for (uint32_t i = after->vocab->n_tokens; i % 64 != 0; i++)
        clear_bit(after->words, i);
    for (uint32_t i = 0; i < after->req->n_stop_ids; i++) {
        if (after->req->stop_ids[i] < after->vocab->n_tokens)
            clear_bit(after->words, after->req->stop_ids[i]);
    }
    forbid_overruns(after);
}

static void allow_newlines(api__after_thought *after) {
    uint32_t from, to;
    size_t n;
    api__vocab_beginning(after->vocab, "\n", 1, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        const char *text = tokenizer_bytes(after->vocab->tokenizer, after->vocab->sorted[i], &n);
        if (n + after->blanks <= API__MAX_BLANKS && is_newlines(text, n))
            set_bit(after->words, after->vocab->sorted[i]);
    }
}

static err_code make(void *ud) {
    api__after_thought *after = ud;
    if (after->state == THINKING) {
        free_mask(after);
        return ERR_NONE;
    }
    err_code failure = api__constraint_calls.make(after->content);
    if (failure != ERR_NONE || after->state == CONTENT) return failure;
    const eng_mask *given = api__constraint_calls.mask(after->content, 0);
    memcpy(after->words, given->words, after->vocab->n_words * sizeof *after->words);
    if (after->state == AFTER) allow_newlines(after);
    else if (after->open_token != API__NO_TOKEN) set_bit(after->words, after->open_token);
    return ERR_NONE;
}

static const eng_mask *mask(void *ud, uint32_t n) {
    const api__after_thought *after = ud;
    return after->state == CONTENT ? api__constraint_calls.mask(after->content, n) : &after->mask;
}

/* Before the content begins, something else may come. */
static uint32_t expected(void *ud, const uint32_t **tokens) {
    const api__after_thought *after = ud;
    return after->state == CONTENT ? api__constraint_calls.expected(after->content, tokens) : 0;
}

/* ---- tokens ---- */

/* Takes newlines after the close mark. */
static bool take_newlines(api__after_thought *after, const char *text, size_t n) {
    if (!is_newlines(text, n) || n + after->blanks > API__MAX_BLANKS) return false;
    after->blanks += (uint8_t)n;
    return true;
}

static bool take_thought(api__after_thought *after, uint32_t token, const char *text, size_t n) {
    api__matcher next = after->matcher;
    int hit = -1;
    if (api__is_stop_id(after->req, token)) return false;
    if (token == after->req->close_id) {
        after->state = AFTER;
        return true;
    }
    size_t used = api__stop_feed(&next, text, n, &hit);
    if (hit >= 0 && !take_newlines(after, text + used, n - used)) return false;
    if (hit >= 0) after->state = AFTER;
    after->matcher = next;
    return true;
}

static bool take(void *ud, uint32_t token) {
    api__after_thought *after = ud;
    const tokenizer *tok = after->vocab->tokenizer;
    size_t n = 0;
    const char *text = tokenizer_bytes(tok, token, &n);
    if (text == NULL || tokenizer_is_special(tok, token)) { /* adds no text */
        text = "";
        n = 0;
    }
    if (after->state == THINKING) return take_thought(after, token, text, n);
    if (after->state == BEFORE && token == after->open_token) {
        after->state = THINKING;
        return true;
    }
    if (after->state == AFTER && n > 0 && take_newlines(after, text, n)) return true;
    if (!api__constraint_calls.take(after->content, token)) return false;
    after->state = CONTENT;
    return true;
}

const sched_constraint api__after_thought_calls = {make, mask, take, expected};

/* ---- life ---- */

static uint32_t find_token(const api__vocab *vocab, const char *text) {
    uint32_t id;
    return tokenizer_find(vocab->tokenizer, text, &id) && id < vocab->n_tokens ? id : API__NO_TOKEN;
}

int api__after_thought_create(api__after_thought **out, const api_request *req,
                              const api__vocab *vocab, api__constraint *content, err *e) {
    api__after_thought *after = *out = calloc(1, sizeof *after);
    uint64_t *words = array_new_aligned(vocab->n_words, sizeof *words);
    if (after == NULL || words == NULL) {
        free(after);
        free(words);
        *out = NULL;
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
    }
    after->req = req;
    after->vocab = vocab;
    after->content = content;
    after->state = req->thinks_first ? THINKING : BEFORE;
    after->open_token = find_token(vocab, req->marks->open);
    after->words = words;
    after->mask = (eng_mask){words, vocab->n_words};
    api__stop_init(&after->close, req->marks->close, strlen(req->marks->close));
    after->matcher = (api__matcher){.stops = &after->close, .n_stops = 1};
    return 0;
}

void api__after_thought_destroy(api__after_thought *after) {
    if (after == NULL) return;
    free(after->words);
    free(after);
}

size_t api__after_thought_bytes(const api__after_thought *after) {
    return after ? sizeof *after + after->vocab->n_words * sizeof *after->words : 0;
}
