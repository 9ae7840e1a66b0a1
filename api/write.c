/* write.c - parts of answers that completion and chat share: prefix, reason, usage, and the chunks
 * and bodies around a list of choices. */
#include "api/dialect_internal.h"
#include "base/utf8.h"

bool api__step_text(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    const buf *source = cursor->kind == API__PART_CALL      ? &choice->answer.args
                        : cursor->kind == API__PART_THOUGHT ? &choice->answer.thought
                        : api__splits(reply->req)           ? &choice->answer.said
                                                            : &choice->text;
    const char *text = source->data;
    if (cursor->mute) return true;
    return api__write_string(out, cursor, text ? text + cursor->from : "",
                             cursor->to - cursor->from, end);
}

void api__write_finish(buf *out, const api_reply *reply, const api__choice *choice, bool finished) {
    if (!finished) {
        buf_puts(out, ",\"finish_reason\":null");
        return;
    }
    /* A function named by tool_choice was expected, so its call ends with "stop". So does a call
     * cut by a stop string, because it cannot be run. */
    const api__answer *answer = &choice->answer;
    bool cut =
        choice->stop_hit >= 0 && answer->n_calls > 0 && !answer->calls[answer->n_calls - 1].whole;
    bool call = answer->n_calls > 0 && reply->req->named == NULL && !cut;
    buf_puts(out, ",\"finish_reason\":");
    buf_puts(out, choice->finish != SCHED_STOP ? "\"length\""
                  : call                       ? "\"tool_calls\""
                                               : "\"stop\"");
    buf_puts(out, ",\"stop_reason\":");
    if (choice->stop_hit >= 0)
        buf_json_string(out, reply->req->stops[choice->stop_hit].text,
                        reply->req->stops[choice->stop_hit].len);
    else if (choice->has_stop_id) api__write_uint(out, choice->stop_id);
    else buf_puts(out, "null");
}

void api__write_prefix(buf *out, const api_reply *reply) {
    const api_dialect *dialect = reply->req->dialect;
    if (dialect->object == NULL) return;
    buf_puts(out, reply->req->stream ? "data: {\"id\":" : "{\"id\":");
    buf_json_text(out, reply->id);
    buf_puts(out, ",\"object\":\"");
    buf_puts(out, reply->req->stream ? dialect->chunk_object : dialect->object);
    buf_puts(out, "\",\"created\":");
    api__write_uint(out, (uint64_t)reply->created);
    buf_puts(out, ",\"model\":");
    buf_json_text(out, reply->ctx->name);
    buf_printf(out, ",\"system_fingerprint\":\"%s\"", reply->ctx->fingerprint);
    buf_puts(out, ",\"choices\":[");
}

void api__write_usage(buf *out, const api_reply *reply) {
    uint64_t prompt, output;
    api_reply_usage(reply, &prompt, &output);
    buf_puts(out, ",\"usage\":{\"prompt_tokens\":");
    api__write_uint(out, prompt);
    buf_puts(out, ",\"completion_tokens\":");
    api__write_uint(out, output);
    buf_puts(out, ",\"total_tokens\":");
    api__write_uint(out, prompt + output);
    buf_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    api__write_uint(out, reply->n_cached);
    buf_puts(out, ",\"loops\":");
    api__write_uint(out, reply->prompt_loops);
    buf_puts(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":");
    api__write_uint(out, reply->n_thought);
    buf_puts(out, ",\"loops\":");
    api__write_uint(out, reply->output_loops);
    buf_puts(out, "}}");
}

void api__write_warnings(buf *out, const api_reply *reply) {
    const api_request *req = reply->req;
    if (!reply->ctx->opts.warn_unknown || req->n_warnings == 0) return;
    for (uint32_t i = 0; i < req->n_warnings; i++) {
        buf_puts(out, i ? "," : ",\"warnings\":[");
        buf_json_text(out, req->warnings[i]);
    }
    buf_puts(out, "]");
}

void api__write_item_id(buf *out, const api_reply *reply, const api__choice *choice, uint32_t i,
                        const char *head) {
    buf_printf(out, "\"%s_%016llx_%u_%u\"", head, (unsigned long long)reply->unique, choice->index,
               i);
}

void api__write_call_name(buf *out, const api_reply *reply, const api__choice *choice,
                          uint32_t n_call) {
    buf_puts(out, "\"name\":");
    buf_json_text(out, reply->req->tools[choice->answer.calls[n_call].tool].name);
}

/* ---- a chunk of a stream ---- */

uint32_t api__tokens_due(const api__choice *choice, bool finished) {
    uint32_t n = 0;
    if (finished) return choice->n_tokens;
    while (n < choice->n_tokens && choice->tokens[n].text_end <= choice->ready)
        n++;
    return n;
}

void api__drop_written(const api_reply *reply, api__choice *choice, uint32_t n) {
    size_t tops = api__tops_at(reply, choice, n),
           all_tops = api__tops_at(reply, choice, choice->n_tokens);
    size_t until = n > 0 ? choice->tokens[n - 1].text_end : choice->tokens_at;
    bool keep = api__splits(reply->req);
    if (!reply->keeps_output) until = choice->sent;
    if (keep) choice->tokens_at = until; /* the readers count the bytes of the text */
    if (reply->req->logprobs && until > choice->tokens_at) {
        choice->chars +=
            utf8_count(choice->text.data + choice->tokens_at, until - choice->tokens_at);
    }
    if (n > 0 && n < choice->n_tokens) {
        memmove(choice->tokens, choice->tokens + n,
                (choice->n_tokens - n) * sizeof *choice->tokens);
        if (choice->tops)
            memmove(choice->tops, choice->tops + tops, (all_tops - tops) * sizeof *choice->tops);
    }
    choice->n_tokens -= n;
    choice->n_scored -= n < choice->n_scored ? n : choice->n_scored;
    if (keep) return;
    buf_drop(&choice->text, until);
    for (uint32_t i = 0; i < choice->n_tokens; i++)
        choice->tokens[i].text_end -= (uint32_t)until;
    choice->tokens_at = 0;
    choice->scanned -= until;
    choice->ready -= until;
    choice->sent -= until;
}

void api__open_chunk(buf *out, const api_reply *reply) {
    buf_append(out, reply->prefix.data, reply->prefix.len);
    buf_puts(out, "{\"index\":");
    api__write_uint(out, reply->cursor.choice);
}

bool api__step_chunk_close(buf *out, api_reply *reply, size_t end) {
    const api__cursor *cursor = &reply->cursor;
    api__choice *choice = api__chosen(reply);
    (void)end;
    choice->sent = cursor->to;
    if (!cursor->finished) api__write_draft(out, reply, choice);
    api__write_finish(out, reply, choice, cursor->finished);
    buf_puts(out, "}]");
    if (cursor->finished && choice->index == 0) api__write_warnings(out, reply);
    if (reply->req->continuous_usage) api__write_usage(out, reply);
    buf_puts(out, "}\n\n");
    choice->opened = true;
    choice->closed = cursor->finished;
    api__drop_written(reply, choice, cursor->to_token);
    return true;
}

/* ---- the end of a stream ---- */

static bool usage_chunk(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (reply->req->include_usage) {
        buf_append(out, reply->prefix.data, reply->prefix.len);
        buf_puts(out, "]");
        api__write_usage(out, reply);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
    return true;
}

void api__begin_done(api_reply *reply) {
    static const api__step steps[] = {usage_chunk, NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

/* ---- whole answers ---- */

bool api__step_body_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_append(out, reply->prefix.data, reply->prefix.len);
    return true;
}

void api__open_choice(buf *out, api_reply *reply) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    api__at_all(reply, choice, API__PART_TEXT);
    cursor->to_token = choice->n_tokens;
    buf_puts(out, cursor->choice ? ",{\"index\":" : "{\"index\":");
    api__write_uint(out, cursor->choice);
}

bool api__step_choice_close(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    api__choice *choice = api__chosen(reply);
    (void)end;
    api__write_finish(out, reply, choice, true);
    buf_puts(out, "}");
    api__forget_choice(reply, choice);
    if (++cursor->choice < reply->n_choices)
        cursor->step = API__CHOICE_OPEN - 1; /* the next choice follows */
    return true;
}

bool api__step_body_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_puts(out, "]");
    api__write_warnings(out, reply);
    api__write_usage(out, reply);
    buf_puts(out, "}");
    return true;
}
