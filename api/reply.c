/* reply.c - the scheduler's events become an answer.
 *
 * Each choice decodes its tokens to text, looks for stop strings over the text, and keeps
 * single tokens only if somebody asked for them. Events only change the choices; what is written
 * of them, and when, is for slices.c. */
#include "api/api_internal.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"

#include <stdlib.h>
#include <sys/random.h>

/* PROMPT events are needed to echo single tokens, and to have anything to do at all. */
static bool wants_prompt_events(const api_request *r) {
    if (r->prompt_logprobs) return true;
    return r->echo && (r->logprobs || r->return_depth || r->prompts[0].max_tokens == 0);
}

/* ---- create ---- */

/* The first choice has the seed of the request; the others are derived from it, by their
 * number among the choices of one prompt so that a prompt's answers do not depend on the
 * prompts beside it. Without a seed every sequence has its own. */
static uint64_t seed_of(const api_reply *r, uint32_t i) {
    uint32_t j = r->r->seeded ? i % r->r->n : i;
    return j == 0 ? r->r->sampling.seed
                  : hash_mix((r->r->sampling.seed ^ hash_mix(j + HASH_STEP)) + HASH_STEP);
}

static int make_id(api_reply *r, const char *request_id, err *e) {
    static const char *const heads[] = {
        [API_COMPLETION] = "cmpl-", [API_CHAT] = "chatcmpl-", [API_RESPONSES] = "resp_"};
    buf id = {0};
    buf_puts(&id, heads[r->r->kind]);
    if (request_id == NULL) request_id = r->r->request_id;
    if (request_id) buf_puts(&id, request_id);
    uint64_t random[2];
    if (request_id == NULL) {
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
            buf_deinit(&id);
            return err_set(e, ERR_IO, NULL, "the system gives no random bytes");
        }
        buf_printf(&id, "%016llx%016llx", (unsigned long long)random[0],
                   (unsigned long long)random[1]);
    }
    r->id = id.data;
    return id.failed ? api__out_of_memory(e) : 0;
}

static int make_choices(api_reply *r, err *e) {
    r->n_choices = r->r->n_prompts * r->r->n;
    r->choices = array_new(r->n_choices, sizeof *r->choices);
    if (r->choices == NULL) return api__out_of_memory(e);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        api__choice *ch = &r->choices[i];
        ch->index = i;
        ch->prompt = &r->r->prompts[i / r->r->n];
        ch->stop = (api__matcher){.stops = r->r->stops, .n = r->r->n_stops};
        ch->stop_hit = -1;
    }
    return 0;
}

/* Each sequence has its own way through the grammar; they share the room to work in. */
static int make_constraints(api_reply *r, err *e) {
    const api_request *q = r->r;
    if (q->grammar == NULL) return 0;
    if (api__workspace_create(&r->workspace, q->grammar, r->c->vocab, q->stop_ids, q->n_stop_ids,
                              e) != 0) {
        return -1;
    }
    r->bytes += api__workspace_bytes(r->workspace);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        if (api__constraint_create(&r->choices[i].constraint, r->workspace, e) != 0) return -1;
        r->bytes += api__constraint_bytes(r->choices[i].constraint);
    }
    return 0;
}

/* Of single tokens no more than will be told, for an answer may have millions. */
static void decide_what_to_keep(api_reply *r) {
    const api_request *q = r->r;
    r->keeps_output = q->logprobs || q->return_depth || q->return_ids;
    r->keeps_prompt = q->prompt_logprobs || (q->echo && r->keeps_output);
    r->output_tops = (uint8_t)q->n_top;
    r->prompt_tops = (uint8_t)(q->echo && q->n_top > q->n_prompt_top ? q->n_top : q->n_prompt_top);
}

int api_reply_create(api_reply **out, const api_context *c, api_request *steal_request,
                     const char *request_id, err *e) {
    *out = NULL;
    api_reply *r = calloc(1, sizeof *r);
    if (r == NULL) {
        api_request_destroy(steal_request);
        return api__out_of_memory(e);
    }
    r->c = c;
    r->r = steal_request;
    r->created = clock_unix_s();
    decide_what_to_keep(r);
    if (make_id(r, request_id, e) != 0 || make_choices(r, e) != 0) goto fail;
    if (make_constraints(r, e) != 0) goto fail;
    api__write_prefix(&r->prefix, r);
    if (r->prefix.failed) {
        api__out_of_memory(e);
        goto fail;
    }
    r->bytes += sizeof *r + r->n_choices * sizeof *r->choices + r->prefix.cap + strlen(r->id) + 1 +
                api_request_bytes(r->r);
    *out = r;
    return 0;
fail:
    api_reply_destroy(r);
    return -1;
}

void api_reply_destroy(api_reply *r) {
    if (r == NULL) return;
    for (uint32_t i = 0; r->choices && i < r->n_choices; i++) {
        buf_deinit(&r->choices[i].text);
        free(r->choices[i].tokens);
        free(r->choices[i].tops);
        api__constraint_destroy(r->choices[i].constraint);
    }
    free(r->choices);
    api__workspace_destroy(r->workspace);
    buf_deinit(&r->prefix);
    free(r->id);
    api_request_destroy(r->r);
    free(r);
}

const char *api_reply_id(const api_reply *r) {
    return r->id;
}

uint32_t api_reply_sequences(const api_reply *r) {
    return r->n_choices;
}

void api_reply_request(const api_reply *r, uint32_t i, sched_request *out) {
    const api_request *q = r->r;
    const api__prompt *p = r->choices[i].prompt;
    *out = (sched_request){
        .prompt = p->ids,
        .n_prompt = p->n,
        .max_tokens = p->max_tokens,
        .min_tokens = q->min_tokens,
        .sampling = q->sampling,
        .stop_ids = q->stop_ids,
        .n_stop_ids = q->n_stop_ids,
        .depth = q->depth,
        .n_top = q->n_top > q->n_prompt_top ? q->n_top : q->n_prompt_top,
        .prompt_logprobs = wants_prompt_events(q),
        .priority = q->priority,
        .salt = {q->salt[0], q->salt[1]},
    };
    out->sampling.seed = seed_of(r, i);
    if (r->choices[i].constraint) {
        out->constraint = &api__constraint_calls;
        out->ud = r->choices[i].constraint;
    }
}

/* ---- events ---- */

/* The list with room for `need` items, 1 or more: twice as much, but never more than `most`. NULL
 * when memory ran out; the list stays as it was. */
static void *grow(void *list, uint32_t *cap, size_t need, size_t most, size_t item_bytes) {
    size_t n = *cap ? (size_t)*cap * 2 : 16, bytes;
    if (need <= *cap) return list;
    if (n > most) n = most;
    if (n < need) n = need;
    if (n > UINT32_MAX || !size_mul(n, item_bytes, &bytes)) return NULL;
    void *grown = realloc(list, bytes);
    if (grown) *cap = (uint32_t)n;
    return grown;
}

static bool keep_token(api_reply *r, api__choice *ch, const sched_event *ev) {
    bool prompt = ev->kind == SCHED_PROMPT;
    uint32_t tops = prompt ? r->prompt_tops : r->output_tops;
    size_t at = api__tops_at(r, ch, ch->n_tokens), prompts = r->keeps_prompt ? ch->prompt->n : 0,
           outputs = r->keeps_output ? ch->prompt->max_tokens : 0;
    if (!(prompt ? r->keeps_prompt : r->keeps_output)) return true;
    api__token *tokens = grow(ch->tokens, &ch->cap_tokens, (size_t)ch->n_tokens + 1,
                              prompts + outputs, sizeof *tokens);
    if (tokens == NULL) return false;
    ch->tokens = tokens;
    if (tops > 0) {
        size_t most = prompts * r->prompt_tops + outputs * r->output_tops;
        eng_top *all = grow(ch->tops, &ch->cap_tops, at + tops, most, sizeof *all);
        if (all == NULL) return false;
        ch->tops = all;
    }
    uint32_t n_top = ev->n_top < tops ? ev->n_top : tops;
    tokens[ch->n_tokens++] = (api__token){.id = ev->token,
                                          .text_end = (uint32_t)ch->text.len,
                                          .logprob = ev->logprob,
                                          .depth = ev->depth,
                                          .n_top = (uint8_t)n_top};
    if (prompt) ch->n_scored++;
    if (n_top) memcpy(&ch->tops[at], ev->top, n_top * sizeof *ev->top);
    return true;
}

/* The list without the room behind its n items; where that fails it does no harm. */
static void *fit(void *list, uint32_t *cap, size_t n, size_t item_bytes) {
    void *less = n > 0 && n < *cap ? realloc(list, n * item_bytes) : NULL;
    if (less == NULL) return list;
    *cap = (uint32_t)n;
    return less;
}

/* A whole answer may wait long for its other choices and its reader. */
static void give_back_room(const api_reply *r, api__choice *ch) {
    ch->tokens = fit(ch->tokens, &ch->cap_tokens, ch->n_tokens, sizeof *ch->tokens);
    ch->tops = fit(ch->tops, &ch->cap_tops, api__tops_at(r, ch, ch->n_tokens), sizeof *ch->tops);
    char *text = ch->text.len ? realloc(ch->text.data, ch->text.len + 1) : NULL;
    if (text == NULL) return;
    ch->text.data = text;
    ch->text.cap = ch->text.len + 1;
}

/* Text of the prompt, by its tokens, unless PROMPT events bring them one by one. */
static void echo_prompt(api_reply *r, api__choice *ch) {
    if (ch->echoed) return;
    ch->echoed = true;
    if (!r->r->echo || wants_prompt_events(r->r)) return;
    for (uint32_t i = 0; i < ch->prompt->n; i++) {
        api_utf8_token(&ch->utf8, r->c->opts.tokenizer, ch->prompt->ids[i], &ch->text);
    }
    ch->scanned = ch->ready = ch->tokens_at = ch->text.len;
}

/* Runs the matcher over text that is new. On a hit the text is cut. */
static bool find_stop(api_reply *r, api__choice *ch) {
    while (ch->scanned < ch->text.len) {
        int hit;
        ch->scanned += api__stop_feed(&ch->stop, ch->text.data + ch->scanned,
                                      ch->text.len - ch->scanned, &hit);
        if (hit < 0) continue;
        ch->text.len = ch->scanned - (r->r->include_stop ? 0 : r->r->stops[hit].n);
        ch->text.data[ch->text.len] = 0;
        ch->ready = ch->scanned = ch->text.len;
        ch->stop_hit = hit;
        return true;
    }
    ch->ready = ch->text.len - api__stop_held(&ch->stop);
    return false;
}

/* The reason is known: what was held back is free, what was cut off belongs to nobody. */
static void finish(api__choice *ch, sched_finish why) {
    ch->state = API__FINISHED;
    ch->finish = why;
    if (why != SCHED_STOP || ch->stop_hit < 0) api_utf8_finish(&ch->utf8, &ch->text);
    ch->scanned = ch->ready = ch->text.len;
    for (uint32_t i = ch->n_tokens; i-- > 0 && ch->tokens[i].text_end > ch->text.len;) {
        ch->tokens[i].text_end = (uint32_t)ch->text.len;
    }
    if (ch->n_tokens > 0) ch->tokens[ch->n_tokens - 1].text_end = (uint32_t)ch->text.len;
}

/* Looks for a call; when one is whole the answer is: what would follow says nothing. */
static bool find_call(api_reply *r, api__choice *ch) {
    if (r->r->calls == API__CALLS_NONE) return false;
    api__call_scan(r->r, &ch->call, ch->text.data, ch->ready);
    if (ch->state != API__RUNNING) api__call_finish(&ch->call);
    return ch->call.phase == API__CALL_WHOLE && ch->state == API__RUNNING;
}

static void on_prompt(api_reply *r, api__choice *ch, const sched_event *ev) {
    if (r->r->echo) api_utf8_token(&ch->utf8, r->c->opts.tokenizer, ev->token, &ch->text);
    ch->scanned = ch->ready = ch->text.len;
    if (!keep_token(r, ch, ev)) ch->text.failed = true;
}

static unsigned on_token(api_reply *r, api__choice *ch, const sched_event *ev) {
    unsigned bits = 0;
    echo_prompt(r, ch);
    api_utf8_token(&ch->utf8, r->c->opts.tokenizer, ev->token, &ch->text);
    ch->n_output++;
    r->n_output++;
    if (!keep_token(r, ch, ev)) ch->text.failed = true;
    if (ch->text.failed) return 0;
    if (find_stop(r, ch)) {
        finish(ch, SCHED_STOP);
        bits = API_CANCEL;
    } else if (ch->n_output >= ch->prompt->max_tokens) {
        finish(ch, SCHED_LENGTH); /* said with the last token, not one event later */
    }
    if (find_call(r, ch)) {
        finish(ch, SCHED_STOP);
        bits = API_CANCEL;
    }
    return bits;
}

static void on_end(api_reply *r, api__choice *ch, const sched_event *ev) {
    echo_prompt(r, ch);
    if (ch->index % r->r->n == 0) r->n_cached += ev->n_cached; /* once for all choices */
    r->prompt_loops += ev->prompt_loops;
    r->output_loops += ev->output_loops;
    if (ch->state == API__RUNNING) {
        for (uint32_t i = 0; ev->finish == SCHED_STOP && i < r->r->n_own_stop_ids; i++) {
            if (r->r->stop_ids[i] == ev->stop_id) ch->has_stop_id = true;
        }
        ch->stop_id = ev->stop_id;
        finish(ch, ev->finish);
        (void)find_call(r, ch);
    }
    if (!r->r->stream) give_back_room(r, ch);
    ch->state = API__ENDED;
    r->n_ended++;
}

/* An end that is not the answer's own. field: what asked for the form of the answer, or NULL. */
static bool broken(const api__choice *ch, const sched_event *ev, const char *field, err *e) {
    if (ch->state != API__RUNNING || ev->kind != SCHED_END) return false;
    if (ev->finish == SCHED_FAILED) {
        err_code why = ev->why ? ev->why : ERR_INTERNAL;
        bool form = field && (why == ERR_CONSTRAINT || why == ERR_COSTLY);
        err_set(e, why, form ? field : NULL, "%s%s%s", form ? field : "", form ? ": " : "",
                err_text(why));
        return true;
    }
    if (ev->finish != SCHED_CANCELLED) return false;
    err_set(e, ERR_BUSY, NULL,
            "the request was ended by the server before its answer was complete");
    return true;
}

unsigned api_reply_fail(api_reply *r, const err *why, buf *out) {
    if (r->failed || r->done) return 0;
    r->failed = true;
    if (!r->started || r->cursor.steps) return API_FAILED; /* nothing may stand within an event */
    if (r->r->kind == API_RESPONSES) {
        api__responses_error(out, r, why);
        return API_FAILED;
    }
    buf_puts(out, "data: ");
    api_error_body(out, why);
    buf_puts(out, "\n\n");
    return API_FAILED;
}

/* What the event brings goes out at once, unless something longer is under way. */
static unsigned write_now(api_reply *r, uint32_t i, buf *out) {
    if (r->cursor.steps) {
        r->behind = true;
        return API_MORE;
    }
    r->current = i;
    return api_reply_more(r, out, API__SLICE) ? API_MORE : 0;
}

unsigned api_reply_event(api_reply *r, uint32_t i, const sched_event *ev, buf *out, err *e) {
    if (i >= r->n_choices || r->failed || r->done) return 0;
    api__choice *ch = &r->choices[i];
    unsigned bits = 0;
    size_t held = api__choice_bytes(ch);
    err why = {0};
    if (ch->state == API__ENDED) return 0;
    if (broken(ch, ev, r->r->form_field, &why)) goto fail;
    switch (ev->kind) {
    case SCHED_PROMPT:
        if (ch->state == API__RUNNING) on_prompt(r, ch, ev);
        break;
    case SCHED_TOKEN:
        if (ch->state == API__RUNNING) bits = on_token(r, ch, ev);
        break;
    case SCHED_END: on_end(r, ch, ev); break;
    }
    r->bytes += api__choice_bytes(ch) - held;
    if (ch->text.failed) {
        api__out_of_memory(&why);
        goto fail;
    }
    if (r->n_ended == r->n_choices) {
        r->done = true;
        bits |= API_DONE;
    }
    if (r->r->stream) return bits | write_now(r, i, out);
    return r->done ? bits | API_MORE : bits;
fail:
    if (e && e->code == ERR_NONE) *e = why;
    return api_reply_fail(r, &why, out);
}

void api_reply_usage(const api_reply *r, uint64_t *prompt, uint64_t *output) {
    *prompt = r->r->prompt_tokens;
    *output = r->n_output;
}
