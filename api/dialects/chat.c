/* chat.c - the dialect of /v1/chat/completions: messages in, messages out. */
#include "api/dialect_internal.h"

/* ---- reading ---- */

typedef struct {
    api__values shared;
    const json_t *messages, *function_call, *modalities;
    bool logprobs, add_generation_prompt, continue_final_message;
} values;

static const api__field fields[] = {
    API__OWN_JSON(values, messages, "Messages of the conversation so far, 1 to 1000."),
    API__OWN_BOOL(values, logprobs, false,
                  "Return log-probabilities of the generated tokens. Default: false."),
    API__OWN_BOOL(values, add_generation_prompt, true,
                  "Start the assistant's turn after the messages. Default: true."),
    API__OWN_BOOL(values, continue_final_message, false,
                  "Continue the last message, which must be the assistant's, instead of starting a "
                  "new one. Default: false."),
    API__OWN_REFUSED(functions),
    API__OWN_JSON(values, function_call, "Replaced by tool_choice; must be none or auto."),
    API__OWN_REFUSED(audio),
    API__OWN_JSON(values, modalities, "Kinds of output: text only."),
    API__OWN_REFUSED(prediction),
    API__OWN_REFUSED(web_search_options),
    API__OWN_REFUSED(chat_template),
    API__OWN_REFUSED(documents),
};

/* "none" is the default of the field that tool_choice has replaced. */
static int check_function_call(const json_t *choice, err *e) {
    const char *word = json_c_string(choice);
    bool idle = word && (word[0] == 0 || strcmp(word, "none") == 0 || strcmp(word, "auto") == 0);
    if (choice == NULL || json_is_false(choice) || idle) return 0;
    return err_set(e, ERR_UNSUPPORTED, "function_call",
                   "function_call is not supported: use tools and tool_choice");
}

static int check_modalities(const json_t *list, err *e) {
    if (list && !json_is_array(list))
        return api__bad_param(e, "modalities", "must be a list of strings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *one = json_c_string(json_array_get(list, i));
        if (one && strcmp(one, "text") == 0) continue;
        return err_set(e, ERR_UNSUPPORTED, "modalities", "modalities supports text only");
    }
    return 0;
}

static int prepare(api_request *req, const api_context *ctx, api__values *shared, err *e) {
    const values *own = (const values *)shared;
    (void)req, (void)ctx;
    if (shared->echo) {
        return err_set(e, ERR_UNSUPPORTED, "echo", "echo is not supported for chat completions");
    }
    if (check_function_call(own->function_call, e) != 0) return -1;
    if (check_modalities(own->modalities, e) != 0) return -1;
    api__take_limit(shared);
    shared->logprobs = own->logprobs;
    if (shared->top_logprobs != API__NO_INT && !own->logprobs)
        return api__bad_param(e, "top_logprobs", "requires logprobs: true");
    shared->n_top = shared->top_logprobs == API__NO_INT ? 0 : shared->top_logprobs;
    return 0;
}

static int read_input(api_request *req, const api_context *ctx, const api__values *shared, err *e) {
    const values *own = (const values *)shared;
    api__turns turns = {.generation = own->add_generation_prompt,
                        .open_last = own->continue_final_message};
    return api__read_conversation(req, ctx, shared, own->messages, &turns, e);
}

/* ---- writing: a chunk of a stream ---- */

/* Writes a call up to its arguments. They follow as a string. */
static void open_call(buf *out, const api_reply *reply, const api__choice *choice) {
    uint32_t n_call = reply->cursor.n_call;
    buf_puts(out, "\"id\":");
    api__write_item_id(out, reply, choice, n_call, "call");
    buf_puts(out, ",\"type\":\"function\",\"function\":{");
    api__write_call_name(out, reply, choice, n_call);
    buf_puts(out, ",\"arguments\":");
}

static void open_delta(buf *out, const api_reply *reply, const api__choice *choice) {
    const api__cursor *cursor = &reply->cursor;
    buf_puts(out, choice->opened ? ",\"delta\":{" : ",\"delta\":{\"role\":\"assistant\"");
    if (cursor->mute) return;
    if (!choice->opened) buf_puts(out, ",");
    if (cursor->kind != API__PART_CALL) {
        buf_puts(out, cursor->kind == API__PART_TEXT ? "\"content\":" : "\"reasoning_content\":");
        return;
    }
    buf_puts(out, "\"tool_calls\":[{\"index\":");
    api__write_uint(out, cursor->n_call);
    buf_puts(out, ",");
    if (!choice->part_opened) open_call(out, reply, choice);
    else buf_puts(out, "\"function\":{\"arguments\":");
}

static bool chunk_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    api__open_chunk(out, reply);
    open_delta(out, reply, api__chosen(reply));
    return true;
}

static bool delta_close(buf *out, api_reply *reply, size_t end) {
    const api__cursor *cursor = &reply->cursor;
    api__choice *choice = api__chosen(reply);
    (void)end;
    if (cursor->kind == API__PART_CALL && !cursor->mute) {
        buf_puts(out, "}}]");
        api__part_opened(choice);
    }
    buf_puts(out, "}");
    return true;
}

/* Points the cursor at the bytes of the next delta. Only a call's beginning is written; other parts
 * open and close unseen. False: no part has anything new. */
static bool at_news(api_reply *reply, api__choice *choice) {
    for (;;) {
        api__phase phase = api__next_phase(reply, choice);
        if (phase == API__NOTHING) break;
        if (phase == API__GROWS) return true;
        if (phase == API__CLOSES) api__part_closed(choice);
        else if (reply->cursor.kind == API__PART_CALL) return true;
        else api__part_opened(choice);
    }
    reply->cursor.kind = API__PART_TEXT;
    reply->cursor.from = reply->cursor.to = choice->sent;
    return false;
}

#define LISTS api__step_chat_logprobs, api__step_ids, api__step_depths

static bool begin_chunk(api_reply *reply, api__choice *choice) {
    static const api__step steps[] = {chunk_open, api__step_text,        delta_close,
                                      LISTS,      api__step_chunk_close, NULL},
                           plain[] = {chunk_open,
                                      api__step_text,
                                      delta_close,
                                      api__step_chat_logprobs,
                                      api__step_chunk_close,
                                      NULL};
    reply->cursor = (api__cursor){.steps = api__lists_tokens(reply->req) ? steps : plain,
                                  .choice = choice->index};
    bool news = at_news(reply, choice), more = choice->part + 1 < api__n_parts(reply, choice);
    reply->cursor.finished = choice->state != API__RUNNING && !more;
    reply->cursor.to_token = api__tokens_due(choice, reply->cursor.finished);
    reply->cursor.mute = !news && choice->opened;
    return true;
}

/* ---- writing: a whole answer ---- */

static bool choice_open(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    (void)end;
    api__open_choice(out, reply);
    buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    cursor->mute = cursor->to == 0 && choice->answer.n_calls + choice->answer.thought.len > 0;
    if (cursor->mute) buf_puts(out, "null"); /* calls or reasoning only */
    return true;
}

static bool thought_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    api__at_all(reply, api__chosen(reply), API__PART_THOUGHT);
    reply->cursor.mute = reply->cursor.to == 0;
    buf_puts(out, ",\"refusal\":null");
    if (!reply->cursor.mute) buf_puts(out, ",\"reasoning_content\":");
    return true;
}

static bool calls_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (api__chosen(reply)->answer.n_calls > 0) buf_puts(out, ",\"tool_calls\":[");
    reply->cursor.part = 0;
    return true;
}

/* The next call from cursor.part on, or none. */
static bool call_open(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    (void)end;
    cursor->mute = true;
    if (!api__splits(reply->req)) return true;
    for (uint32_t i = cursor->part; cursor->mute && i < choice->answer.n_parts; i++) {
        api__at_part(reply, choice, i);
        cursor->mute = cursor->kind != API__PART_CALL;
    }
    if (cursor->mute) return true;
    buf_puts(out, cursor->n_call ? ",{" : "{");
    open_call(out, reply, choice);
    return true;
}

enum { CALL_OPEN = 6 }; /* its index in the list of steps */

static bool call_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (reply->cursor.mute) return true;
    buf_puts(out, "}}");
    reply->cursor.part++;
    reply->cursor.step = CALL_OPEN - 1; /* the next call follows */
    return true;
}

static bool message_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_puts(out, api__chosen(reply)->answer.n_calls > 0 ? "]}" : "}");
    return true;
}

static void begin_body(api_reply *reply) {
    static const api__step steps[] = {api__step_body_open,
                                      [API__CHOICE_OPEN] = choice_open,
                                      api__step_text,
                                      thought_open,
                                      api__step_text,
                                      calls_open,
                                      [CALL_OPEN] = call_open,
                                      api__step_text,
                                      call_close,
                                      message_close,
                                      LISTS,
                                      api__step_prompt_logprobs,
                                      api__step_choice_close,
                                      api__step_body_close,
                                      NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

const api_dialect api_dialect_chat = {
    .schema = "ChatRequest",
    .input = "messages",
    .id_head = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .groups = API__EVERY | API__OPENAI | API__CHOICES | API__FUNCTIONS | API__TALK,
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .values_bytes = sizeof(values),
    .prepare = prepare,
    .read_input = read_input,
    .begin_chunk = begin_chunk,
    .begin_end = api__begin_done,
    .begin_body = begin_body,
    .error_body = api__openai_error,
    .error_event = api__openai_error_event,
};

int api__render_chat(api_listing **out, const api_context *ctx, const char *body, size_t n,
                     bool soon, err *e) {
    return api__render(out, ctx, &api_dialect_chat, false, body, n, soon, e);
}
