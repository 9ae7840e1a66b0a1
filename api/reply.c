/* reply.c - the scheduler's events become an answer.
 *
 * Each choice decodes its tokens to text, looks for stop strings over the text, and keeps
 * single tokens only if somebody asked for them. A stream writes one event for each token
 * that brings text; the rest of an answer is written when the last sequence has ended. */
#include "api/api_internal.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"

#include <stdlib.h>
#include <sys/random.h>

bool api__wants_tokens(const api_request *r) {
    return r->logprobs || r->return_depth || r->return_ids || r->prompt_logprobs;
}

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
    for (uint32_t i = 0; i < r->n_choices; i++) {
        if (api__constraint_create(&r->choices[i].constraint, r->workspace, e) != 0) return -1;
    }
    return 0;
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
    if (make_id(r, request_id, e) != 0 || make_choices(r, e) != 0) goto fail;
    if (make_constraints(r, e) != 0) goto fail;
    api__write_prefix(&r->prefix, r);
    if (r->prefix.failed) {
        api__out_of_memory(e);
        goto fail;
    }
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
        out->constrain = api__constraint_mask;
        out->ud = r->choices[i].constraint;
    }
}

/* ---- events ---- */

static uint32_t tops_per_token(const api_request *q) {
    return q->n_top > q->n_prompt_top ? q->n_top : q->n_prompt_top;
}

static bool grow_tokens(api_reply *r, api__choice *ch) {
    size_t cap = ch->cap_tokens ? (size_t)ch->cap_tokens * 2 : 16, per = tops_per_token(r->r),
           bytes;
    if (!size_mul(cap, sizeof *ch->tokens, &bytes)) return false;
    api__token *tokens = realloc(ch->tokens, bytes);
    if (tokens == NULL) return false;
    ch->tokens = tokens;
    if (per > 0) {
        if (!size_mul(cap, per * sizeof *ch->tops, &bytes)) return false;
        eng_top *tops = realloc(ch->tops, bytes);
        if (tops == NULL) return false;
        ch->tops = tops;
    }
    ch->cap_tokens = (uint32_t)cap;
    return true;
}

static bool keep_token(api_reply *r, api__choice *ch, const sched_event *ev) {
    uint32_t per = tops_per_token(r->r);
    if (!api__wants_tokens(r->r)) return true;
    if (ch->n_tokens == ch->cap_tokens && !grow_tokens(r, ch)) return false;
    uint32_t n_top = ev->n_top < per ? ev->n_top : per;
    ch->tokens[ch->n_tokens] = (api__token){.id = ev->token,
                                            .text_end = (uint32_t)ch->text.len,
                                            .logprob = ev->logprob,
                                            .depth = ev->depth,
                                            .n_top = (uint8_t)n_top,
                                            .prompt = ev->kind == SCHED_PROMPT};
    if (n_top) memcpy(&ch->tops[(size_t)ch->n_tokens * per], ev->top, n_top * sizeof *ev->top);
    ch->n_tokens++;
    return true;
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

static bool has_news(const api_reply *r, const api__choice *ch) {
    if (r->c->opts.tokenizer == NULL) return true; /* tokens without text are all there is */
    if (r->r->calls == API__CALLS_NONE || ch->call.phase == API__CALL_NONE)
        return ch->ready > ch->sent;
    return api__is_call(ch) && (!ch->call.told || ch->call.args_end > api__args_from(ch));
}

static void on_prompt(api_reply *r, api__choice *ch, const sched_event *ev) {
    if (r->r->echo) api_utf8_token(&ch->utf8, r->c->opts.tokenizer, ev->token, &ch->text);
    ch->scanned = ch->ready = ch->text.len;
    if (!keep_token(r, ch, ev)) ch->text.failed = true;
}

static unsigned on_token(api_reply *r, api__choice *ch, const sched_event *ev, buf *out) {
    unsigned bits = 0;
    echo_prompt(r, ch);
    api_utf8_token(&ch->utf8, r->c->opts.tokenizer, ev->token, &ch->text);
    ch->n_output++;
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
    if (r->r->stream && (ch->state != API__RUNNING || has_news(r, ch))) {
        api__write_chunk(out, r, ch, ch->state != API__RUNNING);
        r->started = true;
    }
    return bits;
}

static void on_end(api_reply *r, api__choice *ch, const sched_event *ev, buf *out) {
    echo_prompt(r, ch);
    ch->n_cached = ev->n_cached;
    ch->prompt_loops = ev->prompt_loops;
    ch->output_loops = ev->output_loops;
    if (ch->state == API__RUNNING) {
        for (uint32_t i = 0; ev->finish == SCHED_STOP && i < r->r->n_own_stop_ids; i++) {
            if (r->r->stop_ids[i] == ev->stop_id) ch->has_stop_id = true;
        }
        ch->stop_id = ev->stop_id;
        finish(ch, ev->finish);
        (void)find_call(r, ch);
        if (r->r->stream) {
            api__write_chunk(out, r, ch, true);
            r->started = true;
        }
    }
    ch->state = API__ENDED;
    r->n_ended++;
}

/* An end that is not the answer's own. */
static bool broken(const api__choice *ch, const sched_event *ev, err *e) {
    if (ch->state != API__RUNNING || ev->kind != SCHED_END) return false;
    if (ev->finish == SCHED_FAILED) {
        err_set(e, ev->why ? ev->why : ERR_INTERNAL, NULL, "%s",
                err_text(ev->why ? ev->why : ERR_INTERNAL));
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
    if (!r->started) return API_FAILED;
    if (r->r->kind == API_RESPONSES) {
        api__responses_error(out, r, why);
        return API_FAILED;
    }
    buf_puts(out, "data: ");
    api_error_body(out, why);
    buf_puts(out, "\n\n");
    return API_FAILED;
}

unsigned api_reply_event(api_reply *r, uint32_t i, const sched_event *ev, buf *out, err *e) {
    if (i >= r->n_choices || r->failed || r->done) return 0;
    api__choice *ch = &r->choices[i];
    unsigned bits = 0;
    err why = {0};
    if (ch->state == API__ENDED) return 0;
    if (broken(ch, ev, &why)) goto fail;
    switch (ev->kind) {
    case SCHED_PROMPT:
        if (ch->state == API__RUNNING) on_prompt(r, ch, ev);
        break;
    case SCHED_TOKEN:
        if (ch->state == API__RUNNING) bits = on_token(r, ch, ev, out);
        break;
    case SCHED_END: on_end(r, ch, ev, out); break;
    }
    if (ch->text.failed) {
        api__out_of_memory(&why);
        goto fail;
    }
    if (r->n_ended < r->n_choices) return bits;
    r->done = true;
    if (!r->r->stream) return bits | API_DONE | API_MORE;
    api__write_stream_end(out, r);
    return bits | API_DONE;
fail:
    if (e && e->code == ERR_NONE) *e = why;
    return api_reply_fail(r, &why, out);
}

bool api_reply_more(api_reply *r, buf *out, size_t want) {
    (void)want;
    if (!r->r->stream && r->done) api__write_body(out, r);
    return false;
}

size_t api_request_bytes(const api_request *r) {
    return sizeof *r + r->mem.used + (r->grammar ? r->grammar->mem.used : 0);
}

size_t api_reply_bytes(const api_reply *r) {
    return sizeof *r + api_request_bytes(r->r) + r->n_choices * sizeof *r->choices;
}

void api_reply_usage(const api_reply *r, uint64_t *prompt, uint64_t *output) {
    *prompt = r->r->prompt_tokens;
    *output = 0;
    for (uint32_t i = 0; i < r->n_choices; i++)
        *output += r->choices[i].n_output;
}
