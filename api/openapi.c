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
    {"model", "Name of the model, as /v1/models gives it.", NULL},
    {"prompt", "Text or token ids, or a list of either.",
     "{\"anyOf\":[{\"type\":\"string\"}," STRINGS "," IDS ",{\"type\":\"array\",\"items\":" IDS
     "}]}"},
    {"messages", "The conversation.",
     "{\"type\":\"array\",\"minItems\":1,\"maxItems\":1000,\"items\":" TURN "}"},
    {"max_tokens", "Most tokens of one answer; 0 with echo: only score the prompt.", NULL},
    {"max_completion_tokens", "The newer name of max_tokens; it wins where both are given.", NULL},
    {"max_output_tokens", "Most tokens of the answer.", NULL},
    {"min_tokens", "Ban stop tokens before this many tokens.", NULL},
    {"n", "Number of answers to each prompt.", NULL},
    {"best_of", "Must equal n; answers are not ranked.", NULL},
    {"seed", "Seed of the sampler: the same seed gives the same tokens, whatever else runs.", NULL},
    {"stop", "Up to 4 strings of at most 64 bytes that end the answer.",
     "{\"anyOf\":[{\"type\":\"string\",\"minLength\":1,\"maxLength\":64},{\"type\":\"array\","
     "\"maxItems\":4,\"items\":{"
     "\"type\":\"string\",\"minLength\":1,\"maxLength\":64}}]}"},
    {"stop_token_ids", "Up to 16 token ids that end the answer.",
     "{\"type\":\"array\",\"maxItems\":16,\"items\":{\"type\":\"integer\",\"minimum\":0}}"},
    {"include_stop_str_in_output", "Leave the stop string in the text.", NULL},
    {"ignore_eos", "Do not end at the model's own stop tokens.", NULL},
    {"stream", "Answer with server-sent events.", NULL},
    {"stream_options", "Usage in a stream; requires stream: true.",
     "{\"type\":\"object\",\"properties\":{\"include_usage\":{\"type\":\"boolean\"},\"continuous_"
     "usage_stats\":{"
     "\"type\":\"boolean\"}}}"},
    {"echo", "Put the prompt before the answer.", NULL},
    {"logprobs", "Return log-probabilities of the tokens.", NULL},
    {"top_logprobs", "Number of likeliest alternatives to return for each token.", NULL},
    {"prompt_logprobs",
     "Return log-probabilities of the prompt with this many alternatives per token.", NULL},
    {"temperature", "Sampling temperature; below 0.00001 the likeliest token is taken.", NULL},
    {"top_p", "Sample from the likeliest tokens that hold this probability; 1 = off.", NULL},
    {"top_k", "Sample from this many likeliest tokens; 0 or -1 = off; at most the vocabulary.",
     NULL},
    {"min_p", "Leave out tokens below this share of the likeliest one's probability; 0 = off.",
     NULL},
    {"frequency_penalty", "Penalises tokens by how often they occur in the answer (-2 to 2).",
     NULL},
    {"presence_penalty", "Penalises tokens that occur in the answer (-2 to 2).", NULL},
    {"repetition_penalty",
     "Divides the logits of tokens that occur in the prompt or the answer; 1 = off.", NULL},
    {"logit_bias", "Maps token ids to numbers that are added to their logits; at most 300.",
     "{\"type\":\"object\",\"maxProperties\":300,\"additionalProperties\":{\"type\":\"number\","
     "\"minimum\":-100,"
     "\"maximum\":100}}"},
    {"depth",
     "Loops of each token: fewest, most, and the threshold of the model's exit rule. /v1/models "
     "tells the rule, the threshold's range and the most loops.",
     "{\"type\":\"object\",\"properties\":{\"min_loops\":{\"type\":\"integer\",\"minimum\":1},"
     "\"max_loops\":{"
     "\"type\":\"integer\",\"minimum\":1},\"threshold\":{\"type\":\"number\",\"exclusiveMinimum\":"
     "0,\"maximum\":1000000}}}"},
    {"reasoning_effort",
     "minimal, low, medium or high: at most one to four quarters of the trained loops; "
     "depth.max_loops wins where both are given.",
     NULL},
    {"return_depth", "Return the loops of each token.", NULL},
    {"return_token_ids", "Return the id of each token.", NULL},
    {"priority",
     "Of the requests of one API key, those of a lower number run first; default 0. Ignored unless "
     "the server was started with --client-priority.",
     NULL},
    {"cache_salt",
     "Share cached prompts only with requests of the same salt, and always of the same API key.",
     NULL},
    {"request_id", "Becomes the answer's id; letters, digits and -_.: only.", NULL},
    {"user", "Ignored.", NULL},
    {"suffix", "Must be empty.", NULL},
    {"add_generation_prompt", "Open the model's turn after the messages; default true.", NULL},
    {"continue_final_message", "Let the model go on with its last message.", NULL},
    {"chat_template_kwargs",
     "Variables of the chat template, such as enable_thinking; those it does not know it ignores. "
     "At most 64, and none that the server sets itself.",
     KWARGS},
    {"response_format", "Text, any JSON object, or JSON that fits a schema.", FORMAT},
    {"tools", "Functions that the model may call.",
     "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"object\",\"required\":[\"type\"],"
     "\"properties\":{\"type\":{"
     "\"enum\":[\"function\"]},\"function\":{\"type\":\"object\",\"required\":[\"name\"],"
     "\"properties\":{\"name\":{"
     "\"type\":\"string\"},\"description\":{\"type\":\"string\"},\"parameters\":{\"type\":"
     "\"object\"}}}}}}"},
    {"tool_choice", "none, auto, required, or one function by name.",
     "{\"anyOf\":[{\"enum\":[\"none\",\"auto\",\"required\"]},{\"type\":\"object\"}]}"},
    {"parallel_tool_calls", "Accepted; an answer holds at most one call.", NULL},
    {"input", "Text, or a list of messages, calls and their results.",
     "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"minItems\":1,\"maxItems\":1000,"
     "\"items\":" TURN "}]}"},
    {"instructions", "Text of the system's turn.", "{\"type\":\"string\"}"},
    {"text", "The form of the answer.",
     "{\"type\":\"object\",\"properties\":{\"format\":{\"type\":\"object\",\"required\":[\"type\"],"
     "\"properties\":{"
     "\"type\":{\"enum\":[\"text\",\"json_object\",\"json_schema\"]},\"name\":{\"type\":\"string\"}"
     ",\"schema\":{"
     "\"type\":\"object\"}}}}}"},
    {"reasoning", "effort: as reasoning_effort.",
     "{\"type\":\"object\",\"properties\":{\"effort\":{\"enum\":[\"minimal\",\"low\",\"medium\","
     "\"high\"]}}}"},
    {"include", "message.output_text.logprobs: return log-probabilities.",
     "{\"type\":\"array\",\"items\":{\"enum\":[\"message.output_text.logprobs\",\"reasoning."
     "encrypted_content\"]}}"},
    {"metadata", "Returned unchanged.",
     "{\"type\":\"object\",\"maxProperties\":16,\"additionalProperties\":{\"type\":\"string\","
     "\"maxLength\":512}}"},
    {"truncation", "Must be disabled.", NULL},
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
    buf_printf(out, "\"%s\":{\"type\":\"object\",\"required\":[\"model\",\"%s\"],\"properties\":{",
               name, required);
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
    {"/v1/completions", "Continue a text", "CompletionRequest", true, NULL},
    {"/v1/chat/completions", "Answer a conversation", "ChatRequest", true, NULL},
    {"/v1/responses", "Answer a conversation, stateless subset of the Responses API",
     "ResponsesRequest", true, NULL},
    {"/v1/models", "The model served", NULL, false, "ModelList"},
    {"/tokenize",
     "Text or messages to token ids. A text longer than the context (max_model_len) is refused, as "
     "a "
     "prompt would be; a list may hold as many tokens as the prompts of one request.",
     "TokenizeRequest", false, NULL},
    {"/detokenize", "Token ids to text, within the bounds of /tokenize.", "DetokenizeRequest",
     false, NULL},
    {"/health", "Alive; queues no work", NULL, false, NULL},
    {"/ready", "Takes work: false while loading or draining", NULL, false, NULL},
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
    "\"Most tokens of prompt and answer together.\"},\"max_loops\":{\"type\":\"integer\","
    "\"description\":\"Most loops a request may ask "
    "for.\"},\"trained_loops\":{\"type\":\"integer\","
    "\"description\":\"Loops the model was trained for.\"},\"family\":{\"type\":\"string\"},"
    "\"core_layers\":{\"type\":\"integer\",\"description\":\"Layers that one loop runs.\"},"
    "\"exit\":{\"type\":\"object\",\"description\":\"When a token leaves the loop: a threshold of "
    "the "
    "rule lies above `above` and reaches `most`; the rule fixed has none.\",\"properties\":{"
    "\"rule\":{\"enum\":[\"act\",\"hazard\",\"latent-diff\",\"cosine\",\"fixed\"]},"
    "\"threshold\":{\"type\":[\"number\",\"null\"]},\"above\":{\"type\":[\"number\",\"null\"]},"
    "\"most\":{\"type\":[\"number\",\"null\"]}}},\"loops\":{\"type\":\"object\",\"properties\":{"
    "\"default\":{\"type\":\"integer\",\"description\":\"Most loops of a token unless a request "
    "says "
    "otherwise.\"},\"cap\":{\"type\":\"integer\",\"description\":\"Most loops a request may ask "
    "for.\"}}},"
    "\"halted_kv\":{\"enum\":[\"exact\",\"last\"],\"description\":\"Whether tokens that left go on "
    "filling the cache at deeper loops.\"},\"meta\":{\"type\":\"object\"}}},"
    "\"ModelList\":{\"type\":\"object\",\"required\":[\"object\",\"data\"],\"properties\":{"
    "\"object\":{"
    "\"enum\":[\"list\"]},\"data\":{\"type\":\"array\",\"items\":" REF("Model") "}}}";

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
               "\"responses\":{\"200\":{\"description\":\"fine\",\"content\":{\"application/"
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
    buf_puts(out, ",\"/v1/models/{model}\":{\"get\":{\"summary\":\"One "
                  "model\",\"parameters\":[{\"name\":\"model\",\"in\":"
                  "\"path\",\"required\":true,\"schema\":{\"type\":\"string\"}}],\"responses\":{"
                  "\"200\":{\"description\":"
                  "\"fine\"," JSON_OF("Model") "}," ERRORS "}}}},\"components\":{\"schemas\":{");
    write_body_schema(out, "CompletionRequest", API_COMPLETION, "prompt");
    buf_puts(out, ",");
    write_body_schema(out, "ChatRequest", API_CHAT, "messages");
    buf_puts(out, ",");
    write_body_schema(out, "ResponsesRequest", API_RESPONSES, "input");
    buf_puts(out, small_schemas);
    buf_puts(out, model_schemas);
    buf_puts(out, "},\"responses\":{\"Error\":{\"description\":\"refused or failed\"," JSON_OF(
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
