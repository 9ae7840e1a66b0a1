/* openapi.c - GET /openapi.json, made from the field table, so it shows the types and ranges used
 * to check requests.
 *
 * `words` adds the shapes of lists and objects, and a description of each field. A test finds
 * fields without one. */
#include "api/api_internal.h"

typedef struct {
    const char *name, *about, *schema; /* schema: for fields of type API__OTHER */
} word;

#define IDS "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}}"
#define STRINGS "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}"
#define FORMAT                                                                                     \
    "{\"type\":\"object\",\"required\":[\"type\"],\"properties\":{\"type\":{\"enum\":[\"text\","   \
    "\"json_object\","                                                                             \
    "\"json_schema\"]},\"json_schema\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":"   \
    "\"string\"},"                                                                                 \
    "\"schema\":{\"type\":\"object\"},\"strict\":{\"type\":\"boolean\"}}}}}"
#define TURN                                                                                       \
    "{\"type\":\"object\",\"required\":[\"role\"],\"properties\":{\"role\":{\"enum\":[\"system\"," \
    "\"developer\","                                                                               \
    "\"user\",\"assistant\",\"tool\"]},\"content\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":"   \
    "\"array\",\"items\":{"                                                                        \
    "\"type\":\"object\",\"required\":[\"type\",\"text\"],\"properties\":{\"type\":{\"enum\":["    \
    "\"text\"]},\"text\":{"                                                                        \
    "\"type\":\"string\"}}}}]},\"tool_calls\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}" \
    "},"                                                                                           \
    "\"tool_call_id\":{\"type\":\"string\"}}}"

#define KWARGS "{\"type\":\"object\",\"maxProperties\":64}"

static const word words[] = {
    {"model", "Name of the model, as listed by /v1/models. Default: the served model.", NULL},
    {"prompt",
     "Prompts to complete: a string, a list of strings, a list of token ids, or a list of lists of "
     "token ids.",
     "{\"anyOf\":[{\"type\":\"string\"}," STRINGS "," IDS ",{\"type\":\"array\",\"items\":" IDS
     "}]}"},
    {"messages", "Messages of the conversation so far, 1 to 1000.",
     "{\"type\":\"array\",\"minItems\":1,\"maxItems\":1000,\"items\":" TURN "}"},
    {"max_tokens",
     "Maximum number of tokens to generate per answer. Default: 16 for completions; set by the "
     "server for chat. 0 is allowed with echo or prompt_logprobs, to score the prompt only.",
     NULL},
    {"max_completion_tokens", "Newer name of max_tokens. It takes precedence if both are given.",
     NULL},
    {"max_output_tokens", "Maximum number of tokens to generate. Default: set by the server.",
     NULL},
    {"min_tokens",
     "Minimum number of tokens to generate before a stop token may end the answer. Default: 0.",
     NULL},
    {"n", "Number of answers to generate for each prompt. Default: 1. The server sets the maximum.",
     NULL},
    {"best_of", "Must equal n; answers are not ranked.", NULL},
    {"seed",
     "Seed for sampling. The same request with the same seed gives the same tokens (on CUDA: with "
     "--kernels bf16-invariant only). Default: random.",
     NULL},
    {"stop",
     "Up to 4 strings of 1 to 64 bytes. The first one that is generated ends the answer and is "
     "removed from the text.",
     "{\"anyOf\":[{\"type\":\"string\",\"minLength\":1,\"maxLength\":64},{\"type\":\"array\","
     "\"maxItems\":4,\"items\":{"
     "\"type\":\"string\",\"minLength\":1,\"maxLength\":64}}]}"},
    {"stop_token_ids", "Up to 16 token ids that end the answer, besides the model's own.",
     "{\"type\":\"array\",\"maxItems\":16,\"items\":{\"type\":\"integer\",\"minimum\":0}}"},
    {"include_stop_str_in_output", "Keep the stop string in the text. Default: false.", NULL},
    {"ignore_eos", "Continue after the model's own end tokens. Default: false.", NULL},
    {"stream", "Send the answer as server-sent events while it is generated. Default: false.",
     NULL},
    {"stream_options",
     "Requires stream: true. include_usage sends the token counts at the end of the stream, "
     "continuous_usage_stats with every chunk. Default: false.",
     "{\"type\":\"object\",\"properties\":{\"include_usage\":{\"type\":\"boolean\"},\"continuous_"
     "usage_stats\":{"
     "\"type\":\"boolean\"}}}"},
    {"echo", "Return the prompt together with the answer. Not supported for chat. Default: false.",
     NULL},
    {"logprobs",
     "Return log-probabilities of the generated tokens. Completions: the number of most likely "
     "alternatives per token (0 to 5). Chat: true or false. Default: off.",
     NULL},
    {"top_logprobs",
     "Number of most likely alternatives to return per token (0 to 20). Chat requires logprobs: "
     "true. Default: 0.",
     NULL},
    {"prompt_logprobs",
     "Return log-probabilities of the prompt's tokens, each with this number of most likely "
     "alternatives (0 to 20). Not available with stream. Default: off.",
     NULL},
    {"temperature",
     "Sampling temperature (0 to 2). Higher values make the answer more random; below 0.00001 the "
     "most likely token is always chosen. Default: that of the model's generation_config.json, or "
     "1.",
     NULL},
    {"top_p",
     "Sample from the most likely tokens whose probabilities add up to top_p (above 0, at most 1). "
     "1 turns it off. Default: that of the model's generation_config.json, or 1.",
     NULL},
    {"top_k",
     "Sample from the top_k most likely tokens, at most the size of the vocabulary. 0 or -1 turns "
     "it off. Default: that of the model's generation_config.json, or 0.",
     NULL},
    {"min_p",
     "Exclude tokens less likely than min_p times the most likely token (0 to 1). 0 turns it off. "
     "Default: that of the model's generation_config.json, or 0.",
     NULL},
    {"frequency_penalty",
     "Penalises tokens by how often they occur in the answer (-2 to 2). Default: 0.", NULL},
    {"presence_penalty", "Penalises tokens that occur in the answer (-2 to 2). Default: 0.", NULL},
    {"repetition_penalty",
     "Penalises tokens that occur in the prompt or the answer: positive logits are divided by this "
     "value, negative ones multiplied (0.000001 to 10). 1 turns it off. Default: that of the "
     "model's generation_config.json, or 1.",
     NULL},
    {"logit_bias",
     "Maps token ids to values added to their logits (-100 to 100; -100 bans the token). At most "
     "300 entries.",
     "{\"type\":\"object\",\"maxProperties\":300,\"additionalProperties\":{\"type\":\"number\","
     "\"minimum\":-100,"
     "\"maximum\":100}}"},
    {"depth",
     "Loops per token: minimum, maximum, and the threshold of the model's exit rule. /v1/models "
     "gives the exit rule, the range of the threshold (at least 0 for latent-diff and cosine, "
     "where "
     "0 means that every loop runs) and the least and the largest number of loops. Default: set by "
     "the server.",
     "{\"type\":\"object\",\"properties\":{\"min_loops\":{\"type\":\"integer\",\"minimum\":1},"
     "\"max_loops\":{"
     "\"type\":\"integer\",\"minimum\":1},\"threshold\":{\"type\":\"number\",\"minimum\":0,"
     "\"maximum\":1000000}}}"},
    {"reasoning_effort",
     "minimal, low, medium or high: limits the loops per token to one, two, three or four quarters "
     "of the trained loops. depth.max_loops takes precedence.",
     NULL},
    {"return_depth", "Return the number of loops of each token. Default: false.", NULL},
    {"return_token_ids", "Return the id of each token. Default: false.", NULL},
    {"priority",
     "Priority among the requests of one API key; lower values run first. Default: 0. Ignored "
     "unless the server was started with --client-priority.",
     NULL},
    {"cache_salt",
     "Share cached prompts only with requests that have the same salt. At most 64 bytes. Prompts "
     "are never shared between API keys.",
     NULL},
    {"request_id",
     "Id of the answer: at most 64 letters, digits, '-', '_', '.' and ':'. Default: random.", NULL},
    {"user", "Accepted but not used. At most 128 bytes.", NULL},
    {"suffix", "Not supported; must be empty.", NULL},
    {"add_generation_prompt", "Start the assistant's turn after the messages. Default: true.",
     NULL},
    {"continue_final_message",
     "Continue the last message, which must be the assistant's, instead of starting a new one. "
     "Default: false.",
     NULL},
    {"chat_template_kwargs",
     "Variables for the chat template, such as enable_thinking. At most 64; variables set by the "
     "server are refused. Variables that the template does not use have no effect.",
     KWARGS},
    {"response_format",
     "Format of the answer: text (default), json_object for any JSON object, or json_schema for "
     "JSON that matches a schema.",
     FORMAT},
    {"tools", "Functions that the model may call, 1 to 128.",
     "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"object\",\"required\":[\"type\"],"
     "\"properties\":{\"type\":{"
     "\"enum\":[\"function\"]},\"function\":{\"type\":\"object\",\"required\":[\"name\"],"
     "\"properties\":{\"name\":{"
     "\"type\":\"string\"},\"description\":{\"type\":\"string\"},\"parameters\":{\"type\":"
     "\"object\"}}}}}}"},
    {"tool_choice",
     "none: no calls. auto (default): the model decides. required: the model must call a function. "
     "An object that names a function: the model must call it.",
     "{\"anyOf\":[{\"enum\":[\"none\",\"auto\",\"required\"]},{\"type\":\"object\"}]}"},
    {"parallel_tool_calls",
     "false: the answer ends after its first call. A model that writes calls as JSON makes at most "
     "one call in any case. Default: true.",
     NULL},
    {"input",
     "Input for the model: a string, or a list of 1 to 1000 messages, function calls and results.",
     "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"minItems\":1,\"maxItems\":1000,"
     "\"items\":" TURN "}]}"},
    {"instructions", "System message to place before the input.", "{\"type\":\"string\"}"},
    {"text",
     "text.format: format of the answer, which is text (default), json_object or json_schema.",
     "{\"type\":\"object\",\"properties\":{\"format\":{\"type\":\"object\",\"required\":[\"type\"],"
     "\"properties\":{"
     "\"type\":{\"enum\":[\"text\",\"json_object\",\"json_schema\"]},\"name\":{\"type\":\"string\"}"
     ",\"schema\":{"
     "\"type\":\"object\"}}}}}"},
    {"reasoning", "reasoning.effort: the same as reasoning_effort.",
     "{\"type\":\"object\",\"properties\":{\"effort\":{\"enum\":[\"minimal\",\"low\",\"medium\","
     "\"high\"]}}}"},
    {"include",
     "message.output_text.logprobs returns log-probabilities. reasoning.encrypted_content is "
     "accepted and has no effect.",
     "{\"type\":\"array\",\"items\":{\"enum\":[\"message.output_text.logprobs\",\"reasoning."
     "encrypted_content\"]}}"},
    {"metadata",
     "Returned unchanged. At most 16 strings of up to 512 bytes, with keys of up to 64 bytes.",
     "{\"type\":\"object\",\"maxProperties\":16,\"additionalProperties\":{\"type\":\"string\","
     "\"maxLength\":512}}"},
    {"truncation", "Must be disabled (default): an input that is too long is refused.", NULL},
};

static const word *find_word(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i].name, name) == 0) return &words[i];
    }
    return NULL;
}

bool api__openapi_knows(const char *name, bool needs_schema) {
    const word *found = find_word(name);
    return found && (found->schema != NULL) == needs_schema;
}

static void write_range(buf *out, const api__field *field) {
    if (field->type == API__STR && field->max > 0)
        buf_printf(out, ",\"maxLength\":%.0f", field->max);
    if (field->type == API__NUM) {
        buf_printf(out, ",\"%s\":%g,\"maximum\":%g", field->above ? "exclusiveMinimum" : "minimum",
                   field->min, field->max);
    }
    if (field->type != API__INT || field->min >= field->max) return;
    buf_printf(out, ",\"minimum\":%.0f,\"maximum\":%.0f", field->min, field->max);
}

static void write_field(buf *out, const api__field *field) {
    static const char *const types[] = {[API__BOOL] = "boolean",
                                        [API__INT] = "integer",
                                        [API__NUM] = "number",
                                        [API__STR] = "string"};
    const word *entry = find_word(field->name);
    buf_printf(out, "\"%s\":", field->name);
    if (field->type == API__OTHER) { /* every field may be null */
        buf_printf(out, "{\"anyOf\":[%s,{\"type\":\"null\"}]",
                   entry && entry->schema ? entry->schema : "{}");
    } else {
        buf_printf(out, "{\"type\":[\"%s\",\"null\"]", types[field->type]);
        write_range(out, field);
    }
    buf_puts(out, ",\"description\":");
    buf_json_string(out, entry ? entry->about : "", entry ? strlen(entry->about) : 0);
    buf_puts(out, "}");
}

static void write_body_schema(buf *out, const char *name, api_kind kind, const char *required) {
    bool first = true;
    buf_printf(out, "\"%s\":{\"type\":\"object\",\"required\":[\"%s\"],\"properties\":{", name,
               required);
    for (size_t i = 0; i < api__n_fields; i++) {
        const api__field *field = &api__fields[i];
        if ((field->kinds & (1u << kind)) == 0 || field->unsupported) continue;
        if (!first) buf_puts(out, ",");
        first = false;
        write_field(out, field);
    }
    buf_puts(out, "}}");
}

/* ---- paths ---- */

#define REF(name) "{\"$ref\":\"#/components/schemas/" name "\"}"
#define JSON_OF(name) "\"content\":{\"application/json\":{\"schema\":" REF(name) "}}"
#define ERRORS                                                                                     \
    "\"400\":{\"$ref\":\"#/components/responses/Error\"},\"401\":{\"$ref\":\"#/components/"        \
    "responses/Error\"},"                                                                          \
    "\"404\":{\"$ref\":\"#/components/responses/Error\"},\"413\":{\"$ref\":\"#/components/"        \
    "responses/Error\"},"                                                                          \
    "\"415\":{\"$ref\":\"#/components/responses/Error\"},\"503\":{\"$ref\":\"#/components/"        \
    "responses/Error\"}"

static const struct {
    const char *path, *summary, *body; /* name of a schema; NULL: a GET */
    bool streams;
    const char *answer; /* name of a schema; NULL: Answer */
} paths[] = {
    {"/v1/completions", "Create a completion", "CompletionRequest", true, NULL},
    {"/v1/chat/completions", "Create a chat completion", "ChatRequest", true, NULL},
    {"/v1/responses", "Create a response (stateless subset of the Responses API)",
     "ResponsesRequest", true, NULL},
    {"/v1/models", "List the models", NULL, false, "ModelList"},
    {"/tokenize",
     "Convert text or messages to token ids. A text longer than the context (max_model_len) is "
     "refused, like a prompt. A list may have as many tokens as the prompts of one request.",
     "TokenizeRequest", false, NULL},
    {"/detokenize", "Convert token ids to text. The limits are those of /tokenize.",
     "DetokenizeRequest", false, NULL},
    {"/health", "Liveness check; does not wait for the engine", NULL, false, NULL},
    {"/ready", "Readiness check; fails while the server loads or drains", NULL, false, NULL},
};

static const char small_schemas[] =
    ",\"TokenizeRequest\":{\"type\":\"object\",\"properties\":{\"model\":{\"type\":[\"string\","
    "\"null\"]},\"prompt\":{"
    "\"anyOf\":[{\"type\":\"string\"}," STRINGS
    ",{\"type\":\"null\"}]},\"content\":{\"anyOf\":[{\"type\":\"string\"}," STRINGS
    ",{\"type\":\"null\"}]},\"messages\":{\"type\":\"array\",\"minItems\":1,\"items\":" TURN "},"
    "\"add_special_tokens\":{\"type\":\"boolean\"},\"add_special\":{\"type\":\"boolean\"},\"add_"
    "generation_prompt\":{"
    "\"type\":\"boolean\"},\"continue_final_message\":{\"type\":\"boolean\"},\"chat_template_"
    "kwargs\":" KWARGS ",\"tools\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},"
    "\"return_token_strs\":"
    "{\"type\":\"boolean\"},"
    "\"with_pieces\":{\"type\":\"boolean\"}}},\"DetokenizeRequest\":{\"type\":\"object\","
    "\"required\":[\"tokens\"],"
    "\"properties\":{\"model\":{\"type\":[\"string\",\"null\"]},\"tokens\":{\"anyOf\":[" IDS
    ",{\"type\":\"array\","
    "\"items\":" IDS "}]},\"skip_special_tokens\":{\"type\":\"boolean\"}}},\"Error\":{\"type\":"
    "\"object\",\"required\":["
    "\"error\"],\"properties\":{\"error\":{\"type\":\"object\",\"required\":[\"message\",\"type\","
    "\"param\",\"code\"],"
    "\"properties\":{\"message\":{\"type\":\"string\"},\"type\":{\"type\":\"string\"},\"param\":{"
    "\"type\":[\"string\","
    "\"null\"]},\"code\":{\"type\":[\"string\",\"null\"]},\"n_prompt_tokens\":{\"type\":"
    "\"integer\"},\"n_ctx\":{\"type\":"
    "\"integer\"}}}}},\"Answer\":{\"type\":\"object\"}";

/* The members of /v1/models, including those beyond OpenAI's four. */
static const char model_schemas[] =
    ",\"Model\":{\"type\":\"object\",\"required\":[\"id\",\"object\",\"created\",\"owned_by\"],"
    "\"properties\":{\"id\":{\"type\":\"string\"},\"object\":{\"enum\":[\"model\"]},\"created\":{"
    "\"type\":\"integer\"},\"owned_by\":{\"type\":\"string\"},\"root\":{\"type\":\"string\"},"
    "\"parent\":{\"type\":\"null\"},\"max_model_len\":{\"type\":\"integer\",\"description\":"
    "\"Maximum number of tokens of prompt and answer "
    "together.\"},\"max_loops\":{\"type\":\"integer\",\"description\":\"Maximum number of loops "
    "that a request may ask "
    "for.\"},\"trained_loops\":{\"type\":\"integer\",\"description\":\"Number of loops that the "
    "model was trained "
    "for.\"},\"family\":{\"type\":\"string\"},\"core_layers\":{\"type\":\"integer\","
    "\"description\":\"Number of layers in one "
    "loop.\"},\"exit\":{\"type\":\"object\",\"description\":\"Rule by which a token leaves the "
    "loop. A threshold must be greater than `above` and at most `most`, or equal "
    "`all_loops_at`, where every loop runs; the rule fixed has no "
    "threshold.\",\"properties\":{\"rule\":{\"enum\":[\"act\",\"hazard\",\"latent-diff\","
    "\"cosine\",\"fixed\"]},\"threshold\":{\"type\":[\"number\",\"null\"]},\"above\":{\"type\":["
    "\"number\",\"null\"]},\"most\":{\"type\":[\"number\",\"null\"]},\"all_loops_at\":{\"type\":["
    "\"number\",\"null\"]}}},\"loops\":{\"type\":\"object\",\"properties\":{\"default\":{\"type\":"
    "\"integer\",\"description\":\"Maximum number "
    "of loops of a token, unless the request sets "
    "depth.\"},\"least\":{\"type\":\"integer\",\"description\":\"Minimum number of loops that a "
    "request may ask for.\"},\"cap\":{\"type\":\"integer\",\"description\":\"Maximum number of "
    "loops that a "
    "request may ask "
    "for.\"}}},\"halted_kv\":{\"enum\":[\"exact\",\"last\",\"collapse\"],\"description\":\"exact: "
    "tokens that "
    "left the loop still fill the cache at deeper loops. last: deeper loops reuse their last "
    "entry. collapse: as exact, then each generated token keeps the entries of its deepest loop "
    "only.\"},\"meta\":{\"type\":\"object\"}}},\"ModelList\":{\"type\":\"object\",\"required\":["
    "\"object\",\"data\"],\"properties\":{\"object\":{\"enum\":[\"list\"]},\"data\":{\"type\":"
    "\"array\",\"items\":" REF("Model") "}}}";

static void write_path(buf *out, size_t i) {
    buf_printf(out, "%s\"%s\":{\"%s\":{\"summary\":\"%s\",", i ? "," : "", paths[i].path,
               paths[i].body ? "post" : "get", paths[i].summary);
    if (paths[i].body) {
        buf_printf(out,
                   "\"requestBody\":{\"required\":true,\"content\":{\"application/"
                   "json\":{\"schema\":{\"$ref\":"
                   "\"#/components/schemas/%s\"}}}},",
                   paths[i].body);
    }
    buf_printf(out,
               "\"responses\":{\"200\":{\"description\":\"Success\",\"content\":{\"application/"
               "json\":{\"schema\":{\"$ref\":\"#/components/schemas/%s\"}}",
               paths[i].answer ? paths[i].answer : "Answer");
    if (paths[i].streams)
        buf_puts(out, ",\"text/event-stream\":{\"schema\":{\"type\":\"string\"}}");
    buf_puts(out, "}}," ERRORS "}}}");
}

void api_openapi(buf *out) {
    buf_puts(
        out,
        "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"Fathom\",\"version\":\"" FATHOM_VERSION
        "\",\"summary\":\"An OpenAI-style API for recurrent-depth transformers\"},\"paths\":{");
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        write_path(out, i);
    buf_puts(
        out,
        ",\"/v1/models/{model}\":{\"get\":{\"summary\":\"Get a "
        "model\",\"parameters\":[{\"name\":\"model\",\"in\":\"path\",\"required\":true,\"schema\":{"
        "\"type\":\"string\"}}],\"responses\":{\"200\":{\"description\":\"Success\"," JSON_OF(
            "Model") "}," ERRORS "}}}},\"components\":{\"schemas\":{");
    write_body_schema(out, "CompletionRequest", API_COMPLETION, "prompt");
    buf_puts(out, ",");
    write_body_schema(out, "ChatRequest", API_CHAT, "messages");
    buf_puts(out, ",");
    write_body_schema(out, "ResponsesRequest", API_RESPONSES, "input");
    buf_puts(out, small_schemas);
    buf_puts(out, model_schemas);
    buf_puts(out, "},\"responses\":{\"Error\":{\"description\":\"The request was refused or "
                  "failed.\"," JSON_OF(
                      "Error") "}},"
                               "\"securitySchemes\":{\"bearer\":{\"type\":\"http\",\"scheme\":"
                               "\"bearer\"}}},\"security\":[{},{"
                               "\"bearer\":[]}]}");
}

const buf *api_openapi_kept(void) {
    static buf kept;
    if (kept.data == NULL) api_openapi(&kept);
    if (kept.failed) buf_deinit(&kept);
    return kept.data ? &kept : NULL;
}
