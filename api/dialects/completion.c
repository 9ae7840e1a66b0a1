/* completion.c - the dialect of /v1/completions: prompts in, texts out. */
#include "api/dialect_internal.h"

/* ---- reading ---- */

typedef struct {
    api__values shared;
    const json_t *prompt;
    const char *suffix;
    int64_t logprobs;
} values;

static const api__field fields[] = {
    API__OWN_JSON(values, prompt,
                  "Prompts to complete: a string, a list of strings, a list of token ids, or a "
                  "list of lists of token ids."),
    API__OWN_STR(values, suffix, 0, "Not supported; must be empty."),
    API__OWN_INT(values, logprobs, 0, ENG_MAX_TOP,
                 "Return log-probabilities of the generated tokens, each with this number of most "
                 "likely alternatives (0 to 20). Default: off."),
    API__OWN_REFUSED(prompt_embeds),
};

static int prepare(api_request *req, const api_context *ctx, api__values *shared, err *e) {
    const values *own = (const values *)shared;
    (void)req, (void)ctx;
    if (own->suffix && own->suffix[0]) {
        return err_set(e, ERR_UNSUPPORTED, "suffix",
                       "suffix is not supported: this model only continues text");
    }
    api__take_limit(shared);
    shared->logprobs = own->logprobs != API__NO_INT;
    shared->n_top = shared->logprobs ? own->logprobs : 0;
    return 0;
}

static int read_input(api_request *req, const api_context *ctx, const api__values *shared, err *e) {
    return api__read_prompts(req, ctx, ((const values *)shared)->prompt, e);
}

/* ---- writing ---- */

static bool chunk_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    api__open_chunk(out, reply);
    buf_puts(out, ",\"text\":");
    return true;
}

static bool choice_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    api__open_choice(out, reply);
    buf_puts(out, ",\"text\":");
    return true;
}

#define LISTS                                                                                      \
    api__step_texts, api__step_logprobs, api__step_tops, api__step_offsets,                        \
        api__step_logprob_depths, api__step_ids, api__step_depths

static bool begin_chunk(api_reply *reply, api__choice *choice) {
    static const api__step steps[] = {chunk_open, api__step_text, LISTS, api__step_chunk_close,
                                      NULL},
                           plain[] = {chunk_open, api__step_text, api__step_texts,
                                      api__step_chunk_close, NULL};
    reply->cursor = (api__cursor){.steps = api__lists_tokens(reply->req) ? steps : plain,
                                  .choice = choice->index,
                                  .finished = choice->state != API__RUNNING};
    api__part_opened(choice); /* the one part of an answer */
    api__at_all(reply, choice, API__PART_TEXT);
    reply->cursor.from = choice->sent;
    reply->cursor.to_token = api__tokens_due(choice, reply->cursor.finished);
    return true;
}

static void begin_body(api_reply *reply) {
    static const api__step steps[] = {
        api__step_body_open,       [API__CHOICE_OPEN] = choice_open, api__step_text,       LISTS,
        api__step_prompt_logprobs, api__step_choice_close,           api__step_body_close, NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

const api_dialect api_dialect_completion = {
    .schema = "CompletionRequest",
    .input = "prompt",
    .id_head = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .groups = API__EVERY | API__OPENAI | API__CHOICES,
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .values_bytes = sizeof(values),
    .max_tokens = 16,
    .prepare = prepare,
    .read_input = read_input,
    .begin_chunk = begin_chunk,
    .begin_end = api__begin_done,
    .begin_body = begin_body,
    .error_body = api__openai_error,
    .error_event = api__openai_error_event,
};

int api__render_completion(api_listing **out, const api_context *ctx, const char *body, size_t n,
                           bool soon, err *e) {
    return api__render(out, ctx, &api_dialect_completion, true, body, n, soon, e);
}
