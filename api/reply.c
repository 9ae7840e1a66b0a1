/* reply.c - turns the scheduler's events into an answer.
 *
 * Each choice decodes its tokens to text, searches the text for stop strings, and keeps single
 * tokens only if the request asked for them. Events only change the choices; slices.c decides when
 * to write, and how much. */
#include "api/dialect_internal.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"

#include <stdlib.h>
#include <sys/random.h>

/* PROMPT events are needed to echo single tokens, and for requests without output tokens. */
static bool wants_prompt_events(const api_request *req) {
    if (req->prompt_logprobs) return true;
    return req->echo && (req->logprobs || req->return_depth || req->prompts[0].max_tokens == 0);
}

/* ---- create ---- */

/* The first choice uses the request's seed. The others derive theirs from it and from their number
 * among the choices of one prompt, so a prompt's answers do not depend on the prompts beside it.
 * Without a seed every sequence has its own. */
static uint64_t seed_of(const api_reply *reply, uint32_t i) {
    uint32_t j = reply->req->seeded ? i % reply->req->n_per_prompt : i;
    return j == 0 ? reply->req->sampling.seed
                  : hash_mix((reply->req->sampling.seed ^ hash_mix(j + HASH_STEP)) + HASH_STEP);
}

/* The client's id may come twice, so the answer's id has a random part too. */
static int make_id(api_reply *reply, const char *request_id, err *e) {
    buf id = {0};
    if (getrandom(&reply->unique, sizeof reply->unique, 0) != (ssize_t)sizeof reply->unique)
        return err_set(e, ERR_IO, NULL, "the system provides no random bytes");
    if (request_id == NULL) request_id = reply->req->request_id;
    buf_printf(&id, "%s%s%s%016llx", reply->req->dialect->id_head, request_id ? request_id : "",
               request_id ? "-" : "", (unsigned long long)reply->unique);
    reply->id = id.data;
    return id.failed ? api__out_of_memory(e) : 0;
}

static int make_choices(api_reply *reply, err *e) {
    reply->n_choices = reply->req->n_prompts * reply->req->n_per_prompt;
    reply->choices = array_new(reply->n_choices, sizeof *reply->choices);
    if (reply->choices == NULL) return api__out_of_memory(e);
    for (uint32_t i = 0; i < reply->n_choices; i++) {
        api__choice *choice = &reply->choices[i];
        choice->index = i;
        choice->prompt = &reply->req->prompts[i / reply->req->n_per_prompt];
        choice->stop = (api__matcher){.stops = reply->req->stops, .n_stops = reply->req->n_stops};
        choice->stop_hit = -1;
    }
    return 0;
}

/* Each sequence has its own constraint; the constraints of a request share one workspace. */
static int make_constraints(api_reply *reply, err *e) {
    const api_request *req = reply->req;
    if (req->grammar == NULL) return 0;
    if (api__workspace_create(&reply->workspace, req->grammar, reply->ctx->vocab, req->stop_ids,
                              req->n_stop_ids, e) != 0) {
        return -1;
    }
    reply->bytes += api__workspace_bytes(reply->workspace);
    for (uint32_t i = 0; i < reply->n_choices; i++) {
        api__choice *choice = &reply->choices[i];
        if (api__constraint_create(&choice->constraint, reply->workspace, e) != 0) return -1;
        if (req->marks && api__after_thought_create(&choice->after_thought, req, reply->ctx->vocab,
                                                    choice->constraint, e) != 0) {
            return -1;
        }
        reply->bytes += api__constraint_bytes(choice->constraint) +
                        api__after_thought_bytes(choice->after_thought);
    }
    return 0;
}

/* Keeps no more data of single tokens than the answer will show: an answer may have millions of
 * tokens. */
static void decide_what_to_keep(api_reply *reply) {
    const api_request *req = reply->req;
    reply->keeps_output = req->logprobs || req->return_depth || req->return_ids;
    reply->keeps_prompt = req->prompt_logprobs || (req->echo && reply->keeps_output);
    reply->output_tops = (uint8_t)req->n_top;
    reply->prompt_tops =
        (uint8_t)(req->echo && req->n_top > req->n_prompt_top ? req->n_top : req->n_prompt_top);
}

int api_reply_create(api_reply **out, const api_context *ctx, api_request *steal_request,
                     const char *request_id, err *e) {
    *out = NULL;
    api_reply *reply = calloc(1, sizeof *reply);
    if (reply == NULL) {
        api_request_destroy(steal_request);
        return api__out_of_memory(e);
    }
    reply->ctx = ctx;
    reply->req = steal_request;
    reply->created = clock_unix_s();
    decide_what_to_keep(reply);
    if (make_id(reply, request_id, e) != 0 || make_choices(reply, e) != 0) goto fail;
    if (make_constraints(reply, e) != 0 || api__drafts_create(reply, e) != 0) goto fail;
    api__write_prefix(&reply->prefix, reply);
    if (reply->prefix.failed) {
        api__out_of_memory(e);
        goto fail;
    }
    reply->bytes += sizeof *reply + reply->n_choices * sizeof *reply->choices + reply->prefix.cap +
                    strlen(reply->id) + 1 + api_request_bytes(reply->req);
    *out = reply;
    return 0;
fail:
    api_reply_destroy(reply);
    return -1;
}

void api_reply_destroy(api_reply *reply) {
    if (reply == NULL) return;
    for (uint32_t i = 0; reply->choices && i < reply->n_choices; i++) {
        buf_deinit(&reply->choices[i].text);
        api__answer_deinit(&reply->choices[i].answer);
        free(reply->choices[i].tokens);
        free(reply->choices[i].tops);
        free(reply->choices[i].drafts);
        api__after_thought_destroy(reply->choices[i].after_thought);
        api__constraint_destroy(reply->choices[i].constraint);
    }
    free(reply->choices);
    api__workspace_destroy(reply->workspace);
    buf_deinit(&reply->prefix);
    free(reply->id);
    api_request_destroy(reply->req);
    free(reply);
}

const char *api_reply_id(const api_reply *reply) {
    return reply->id;
}

uint32_t api_reply_sequences(const api_reply *reply) {
    return reply->n_choices;
}

void api_reply_request(const api_reply *reply, uint32_t i, sched_request *out) {
    const api_request *req = reply->req;
    const api__prompt *prompt = reply->choices[i].prompt;
    *out = (sched_request){
        .prompt = prompt->ids,
        .n_prompt = prompt->n_ids,
        .max_tokens = prompt->max_tokens,
        .min_tokens = req->min_tokens < prompt->max_tokens ? req->min_tokens : prompt->max_tokens,
        .sampling = req->sampling,
        .stop_ids = req->stop_ids,
        .n_stop_ids = req->n_stop_ids,
        .depth = req->depth,
        .n_top = req->n_top > req->n_prompt_top ? req->n_top : req->n_prompt_top,
        .prompt_logprobs = wants_prompt_events(req),
        .priority = req->priority,
        .salt = {req->salt[0], req->salt[1]},
        .tell_drafts = reply->choices[i].drafts != NULL,
    };
    out->sampling.seed = seed_of(reply, i);
    if (reply->choices[i].after_thought) {
        out->constraint = &api__after_thought_calls;
        out->ud = reply->choices[i].after_thought;
    } else if (reply->choices[i].constraint) {
        out->constraint = &api__constraint_calls;
        out->ud = reply->choices[i].constraint;
    }
}

/* ---- events ---- */

/* The list with room for `need` items, 1 or more: doubled, but never beyond `most`. NULL: out of
 * memory, and the list is unchanged. */
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

static bool keep_token(api_reply *reply, api__choice *choice, const sched_event *ev) {
    bool prompt = ev->kind == SCHED_PROMPT;
    uint32_t tops = prompt ? reply->prompt_tops : reply->output_tops;
    size_t at = api__tops_at(reply, choice, choice->n_tokens),
           prompts = reply->keeps_prompt ? choice->prompt->n_ids : 0,
           outputs = reply->keeps_output ? choice->prompt->max_tokens : 0;
    if (!(prompt ? reply->keeps_prompt : reply->keeps_output)) return true;
    api__token *tokens = grow(choice->tokens, &choice->cap_tokens, (size_t)choice->n_tokens + 1,
                              prompts + outputs, sizeof *tokens);
    if (tokens == NULL) return false;
    choice->tokens = tokens;
    if (tops > 0) {
        size_t most = prompts * reply->prompt_tops + outputs * reply->output_tops;
        eng_top *all = grow(choice->tops, &choice->cap_tops, at + tops, most, sizeof *all);
        if (all == NULL) return false;
        choice->tops = all;
    }
    uint32_t n_top = ev->n_top < tops ? ev->n_top : tops;
    tokens[choice->n_tokens++] = (api__token){.id = ev->token,
                                              .text_end = (uint32_t)choice->text.len,
                                              .logprob = ev->logprob,
                                              .depth = ev->depth,
                                              .n_top = (uint8_t)n_top};
    if (prompt) choice->n_scored++;
    if (n_top) memcpy(&choice->tops[at], ev->top, n_top * sizeof *ev->top);
    return true;
}

/* The list without its spare room; on failure the list itself. */
static void *fit(void *list, uint32_t *cap, size_t n, size_t item_bytes) {
    void *less = n > 0 && n < *cap ? realloc(list, n * item_bytes) : NULL;
    if (less == NULL) return list;
    *cap = (uint32_t)n;
    return less;
}

/* Frees spare room, because a finished choice may wait long for the other choices and for its
 * reader. */
static void give_back_room(const api_reply *reply, api__choice *choice) {
    choice->tokens =
        fit(choice->tokens, &choice->cap_tokens, choice->n_tokens, sizeof *choice->tokens);
    choice->tops = fit(choice->tops, &choice->cap_tops,
                       api__tops_at(reply, choice, choice->n_tokens), sizeof *choice->tops);
    char *text = choice->text.len ? realloc(choice->text.data, choice->text.len + 1) : NULL;
    if (text == NULL) return;
    choice->text.data = text;
    choice->text.cap = choice->text.len + 1;
}

/* Adds the prompt's text, unless PROMPT events bring it token by token. */
static void echo_prompt(api_reply *reply, api__choice *choice) {
    if (choice->echoed) return;
    choice->echoed = true;
    if (!reply->req->echo || wants_prompt_events(reply->req)) return;
    for (uint32_t i = 0; i < choice->prompt->n_ids; i++) {
        api_utf8_token(&choice->utf8, reply->ctx->opts.tokenizer, choice->prompt->ids[i],
                       &choice->text);
    }
    choice->scanned = choice->ready = choice->tokens_at = choice->text.len;
}

/* Searches the new text for a stop string, and cuts the text there. */
static bool find_stop(api_reply *reply, api__choice *choice) {
    while (choice->scanned < choice->text.len) {
        int hit;
        choice->scanned += api__stop_feed(&choice->stop, choice->text.data + choice->scanned,
                                          choice->text.len - choice->scanned, &hit);
        if (hit < 0) continue;
        choice->text.len =
            choice->scanned - (reply->req->include_stop ? 0 : reply->req->stops[hit].len);
        choice->text.data[choice->text.len] = 0;
        choice->ready = choice->scanned = choice->text.len;
        choice->stop_hit = hit;
        return true;
    }
    choice->ready = choice->text.len - api__stop_held(&choice->stop);
    return false;
}

/* Ends the choice: releases the text held back, and limits the ends of tokens to the text that was
 * kept. */
static void finish(api__choice *choice, sched_finish why) {
    choice->state = API__FINISHED;
    choice->finish = why;
    /* The next token could have completed the character, so its bytes are no error. */
    if (why == SCHED_LENGTH) choice->utf8.n_pending = 0;
    else if (choice->stop_hit < 0) api_utf8_finish(&choice->utf8, &choice->text);
    choice->scanned = choice->ready = choice->text.len;
    for (uint32_t i = choice->n_tokens; i-- > 0 && choice->tokens[i].text_end > choice->text.len;) {
        choice->tokens[i].text_end = (uint32_t)choice->text.len;
    }
    if (choice->n_tokens > 0)
        choice->tokens[choice->n_tokens - 1].text_end = (uint32_t)choice->text.len;
}

/* Takes the new text apart. True if the answer ends here, because further text is ignored. */
static bool take_apart(api_reply *reply, api__choice *choice) {
    const api_request *req = reply->req;
    api__answer *answer = &choice->answer;
    const char *text = choice->text.data ? choice->text.data : "";
    if (!api__splits(req)) return false;
    bool running = choice->state == API__RUNNING;
    size_t at = api__read_thought(&choice->thinker, req, answer, text, choice->ready, !running);
    const api__notation *notation =
        req->calls == API__CALLS_NONE ? &api__notation_text : req->notation;
    if (at != SIZE_MAX) notation->read(req, answer, text + at, choice->ready - at, !running);
    if (!running) api__end_answer(answer);
    if (answer->said.failed || answer->args.failed) choice->text.failed = true;
    return answer->ended && running;
}

static void on_prompt(api_reply *reply, api__choice *choice, const sched_event *ev) {
    if (reply->req->echo)
        api_utf8_token(&choice->utf8, reply->ctx->opts.tokenizer, ev->token, &choice->text);
    choice->scanned = choice->ready = choice->text.len;
    if (!keep_token(reply, choice, ev)) choice->text.failed = true;
}

/* True for a token that the text shows only because a call begins with it, or has it before its
 * arguments. */
static bool marks_call(const api_reply *reply, uint32_t id) {
    const tokenizer *tok = reply->ctx->opts.tokenizer;
    const api__notation *notation = reply->req->notation;
    size_t n;
    if (reply->req->calls == API__CALLS_NONE || tok == NULL || !tokenizer_is_special(tok, id))
        return false;
    const char *bytes = tokenizer_bytes(tok, id, &n);
    for (size_t i = 0; i < ARRAY_LEN(notation->shown) && notation->shown[i]; i++) {
        if (strlen(notation->shown[i]) == n && memcmp(notation->shown[i], bytes, n) == 0)
            return true;
    }
    return false;
}

void api__token_text(const api_reply *reply, const api__choice *choice, uint32_t id, api_utf8 *utf8,
                     buf *out) {
    const tokenizer *tok = reply->ctx->opts.tokenizer;
    const char *mark = api__spelled_mark(&choice->thinker, reply->req, id);
    size_t n;
    if (mark) {
        api__utf8_bytes(utf8, mark, strlen(mark), out);
        return;
    }
    if (!marks_call(reply, id)) {
        api_utf8_token(utf8, tok, id, out);
        return;
    }
    const char *bytes = tokenizer_bytes(tok, id, &n);
    api__utf8_bytes(utf8, bytes, n, out);
}

static unsigned on_token(api_reply *reply, api__choice *choice, const sched_event *ev) {
    unsigned bits = 0;
    echo_prompt(reply, choice);
    api__token_text(reply, choice, ev->token, &choice->utf8, &choice->text);
    api__draft_judged(choice, ev->token);
    choice->n_output++;
    reply->n_output++;
    if (!keep_token(reply, choice, ev)) choice->text.failed = true;
    if (choice->text.failed) return 0;
    if (find_stop(reply, choice)) {
        finish(choice, SCHED_STOP);
        bits = API_CANCEL;
    } else if (choice->n_output >= choice->prompt->max_tokens) {
        finish(choice, SCHED_LENGTH); /* reported with the last token instead of one event later */
    }
    if (take_apart(reply, choice)) {
        finish(choice, SCHED_STOP);
        bits = API_CANCEL;
    }
    reply->n_thought += api__is_thinking(&choice->thinker, reply->req);
    return bits;
}

static void on_end(api_reply *reply, api__choice *choice, const sched_event *ev) {
    echo_prompt(reply, choice);
    if (choice->index % reply->req->n_per_prompt == 0)
        reply->n_cached += ev->n_cached; /* count each prompt once */
    reply->prompt_loops += ev->prompt_loops;
    reply->output_loops += ev->output_loops;
    if (choice->state == API__RUNNING) {
        for (uint32_t i = 0; ev->finish == SCHED_STOP && i < reply->req->n_own_stop_ids; i++) {
            if (reply->req->stop_ids[i] == ev->stop_id) choice->has_stop_id = true;
        }
        choice->stop_id = ev->stop_id;
        finish(choice, ev->finish);
        (void)take_apart(reply, choice);
    }
    if (!reply->req->stream) give_back_room(reply, choice);
    choice->state = API__ENDED;
    reply->n_ended++;
}

/* True for an end caused by the server. field: the field with the grammar, or NULL. */
static bool broken(const api__choice *choice, const sched_event *ev, const char *field, err *e) {
    if (choice->state != API__RUNNING || ev->kind != SCHED_END) return false;
    if (ev->finish == SCHED_FAILED) {
        err_code why = ev->why ? ev->why : ERR_INTERNAL;
        bool form = field && (why == ERR_CONSTRAINT || why == ERR_COSTLY);
        err_set(e, why, form ? field : NULL, "%s%s%s", form ? field : "", form ? ": " : "",
                err_text(why));
        return true;
    }
    if (ev->finish != SCHED_CANCELLED) return false;
    err_set(e, ERR_BUSY, NULL, "the server ended the request before its answer was complete");
    return true;
}

unsigned api_reply_fail(api_reply *reply, const err *why, buf *out) {
    if (reply->failed || reply->done) return 0;
    reply->failed = true;
    if (!reply->started || reply->cursor.steps) return API_FAILED; /* an event is half written */
    api__fault fault = api__fault_of(why);
    reply->req->dialect->error_event(out, reply, &fault);
    return API_FAILED;
}

/* Writes the event's data at once, unless a longer write is in progress. */
static unsigned write_now(api_reply *reply, uint32_t i, buf *out) {
    if (reply->cursor.steps) {
        reply->behind = true;
        return API_MORE;
    }
    reply->current = i;
    reply->pulled = false;
    bool more = api__write_more(reply, out, API__SLICE);
    reply->behind |= api__draft_due(&reply->choices[i]);
    return more || reply->behind ? API_MORE : 0;
}

unsigned api_reply_event(api_reply *reply, uint32_t i, const sched_event *ev, buf *out, err *e) {
    if (i >= reply->n_choices || reply->failed || reply->done) return 0;
    api__choice *choice = &reply->choices[i];
    unsigned bits = 0;
    size_t held = api__choice_bytes(choice);
    err why = {0};
    if (choice->state == API__ENDED) return 0;
    if (broken(choice, ev, reply->req->form_field, &why)) goto fail;
    switch (ev->kind) {
    case SCHED_PROMPT:
        if (choice->state == API__RUNNING) on_prompt(reply, choice, ev);
        break;
    case SCHED_TOKEN:
        if (choice->state == API__RUNNING) bits = on_token(reply, choice, ev);
        break;
    case SCHED_DRAFT:
        if (choice->state == API__RUNNING) api__draft_named(choice, ev);
        reply->behind |= api__draft_due(choice);
        return reply->behind ? API_MORE : 0; /* others may come with it */
    case SCHED_END: on_end(reply, choice, ev); break;
    }
    reply->bytes += api__choice_bytes(choice) - held;
    if (choice->text.failed) {
        api__out_of_memory(&why);
        goto fail;
    }
    if (reply->n_ended == reply->n_choices) {
        reply->done = true;
        bits |= API_DONE;
    }
    if (reply->req->stream) return bits | write_now(reply, i, out);
    return reply->done ? bits | API_MORE : bits;
fail:
    if (e && e->code == ERR_NONE) *e = why;
    return api_reply_fail(reply, &why, out);
}

void api_reply_usage(const api_reply *reply, uint64_t *prompt, uint64_t *output) {
    *prompt = reply->req->prompt_tokens;
    *output = reply->n_output;
}
