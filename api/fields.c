/* fields.c - the table of all request fields, and the functions to read typed values.
 *
 * null means absent. Unknown keys are ignored. A known key with a wrong type or a value outside its
 * range is refused by name; no value is clamped. A test compares the OpenAPI document with this
 * table. */
#include "api/api_internal.h"

#define BOTH (API__IN_COMPLETION | API__IN_CHAT)
#define ALL (BOTH | API__IN_RESPONSES)
#define TALK (API__IN_CHAT | API__IN_RESPONSES)
#define RESP API__IN_RESPONSES
#define AT(member) (uint16_t) offsetof(api__values, member)
#define BOOL(name, kinds, member)                                                                  \
    { name, kinds, API__BOOL, false, false, AT(member), 0, 0 }
#define INT(name, kinds, member, min, max)                                                         \
    { name, kinds, API__INT, false, false, AT(member), min, max }
#define NUM(name, kinds, member, min, max)                                                         \
    { name, kinds, API__NUM, false, false, AT(member), min, max }
#define ABOVE(name, kinds, member, min, max)                                                       \
    { name, kinds, API__NUM, true, false, AT(member), min, max }
#define STR(name, kinds, member, max)                                                              \
    { name, kinds, API__STR, false, false, AT(member), 0, max }
#define OTHER(name, kinds, member)                                                                 \
    { name, kinds, API__OTHER, false, false, AT(member), 0, 0 }
#define REFUSED(name, kinds)                                                                       \
    { name, kinds, API__OTHER, false, true, 0, 0, 0 }

/* These ranges hold for any model and any options; parse.c checks the rest. The sampler accepts
 * every value of these ranges, rounded to float. Only seed takes integers beyond 2^53, so it has no
 * range here. */
const api__field api__fields[] = {
    STR("model", ALL, model, API__MAX_NAME_BYTES),
    OTHER("prompt", API__IN_COMPLETION, prompt),
    OTHER("messages", API__IN_CHAT, messages),
    INT("max_tokens", BOTH, max_tokens, 0, INT32_MAX),
    INT("max_completion_tokens", BOTH, max_completion_tokens, 0, INT32_MAX),
    INT("min_tokens", ALL, min_tokens, 0, INT32_MAX),
    INT("n", BOTH, n_choices, 1, INT32_MAX),
    INT("best_of", BOTH, best_of, 0, 20),
    INT("seed", ALL, seed, 0, 0), /* any 64-bit integer */
    OTHER("stop", ALL, stop),
    OTHER("stop_token_ids", ALL, stop_token_ids),
    BOOL("include_stop_str_in_output", ALL, include_stop),
    BOOL("ignore_eos", ALL, ignore_eos),
    BOOL("stream", ALL, stream),
    OTHER("stream_options", ALL, stream_options),
    BOOL("echo", BOTH, echo),
    INT("logprobs", API__IN_COMPLETION, logprobs, 0, 5),
    BOOL("logprobs", API__IN_CHAT, chat_logprobs),
    INT("top_logprobs", TALK, top_logprobs, 0, ENG_MAX_TOP),
    INT("prompt_logprobs", BOTH, prompt_logprobs, 0, ENG_MAX_TOP),
    NUM("temperature", ALL, temperature, 0, 2),
    ABOVE("top_p", ALL, top_p, 0, 1),
    INT("top_k", ALL, top_k, -1, INT32_MAX), /* 0 and -1: off */
    NUM("min_p", ALL, min_p, 0, 1),
    NUM("frequency_penalty", ALL, frequency_penalty, -2, 2),
    NUM("presence_penalty", ALL, presence_penalty, -2, 2),
    NUM("repetition_penalty", ALL, repetition_penalty, ENG_REPETITION_MIN, 10),
    OTHER("logit_bias", ALL, logit_bias),
    OTHER("depth", ALL, depth),
    STR("reasoning_effort", ALL, reasoning_effort, 16),
    BOOL("return_depth", ALL, return_depth),
    BOOL("return_token_ids", ALL, return_token_ids),
    INT("priority", ALL, priority, INT32_MIN, INT32_MAX),
    STR("cache_salt", ALL, cache_salt, API__MAX_LABEL_BYTES),
    STR("request_id", ALL, request_id, API__MAX_LABEL_BYTES),
    STR("user", ALL, user, API__MAX_NAME_BYTES),
    STR("suffix", API__IN_COMPLETION, suffix, 0),
    BOOL("add_generation_prompt", API__IN_CHAT, add_generation_prompt),
    BOOL("continue_final_message", API__IN_CHAT, continue_final_message),
    OTHER("chat_template_kwargs", TALK, chat_template_kwargs),
    OTHER("response_format", BOTH, response_format),
    OTHER("tools", TALK, tools),
    OTHER("tool_choice", TALK, tool_choice),
    BOOL("parallel_tool_calls", TALK, parallel_tool_calls),
    OTHER("input", RESP, input),
    OTHER("instructions", RESP, instructions),
    INT("max_output_tokens", RESP, max_completion_tokens, 1, INT32_MAX),
    OTHER("text", RESP, text),
    OTHER("reasoning", RESP, reasoning),
    OTHER("include", RESP, include),
    OTHER("metadata", RESP, metadata),
    STR("truncation", RESP, truncation, 16),
    REFUSED("previous_response_id", RESP),
    REFUSED("conversation", RESP),
    REFUSED("background", RESP),
    REFUSED("prompt", RESP),
    REFUSED("max_tool_calls", RESP),
    REFUSED("functions", API__IN_CHAT),
    REFUSED("function_call", API__IN_CHAT),
    REFUSED("audio", API__IN_CHAT),
    REFUSED("modalities", API__IN_CHAT),
    REFUSED("prediction", API__IN_CHAT),
    REFUSED("web_search_options", API__IN_CHAT),
    REFUSED("chat_template", API__IN_CHAT),
    REFUSED("documents", API__IN_CHAT),
    REFUSED("images", BOTH),
    REFUSED("prompt_embeds", API__IN_COMPLETION),
    REFUSED("structured_outputs", BOTH),
    REFUSED("guided_json", BOTH),
    REFUSED("guided_regex", BOTH),
    REFUSED("guided_choice", BOTH),
    REFUSED("guided_grammar", BOTH),
    REFUSED("grammar", BOTH),
    REFUSED("json_schema", BOTH),
    REFUSED("bad_words", BOTH),
    REFUSED("use_beam_search", BOTH),
};
const size_t api__n_fields = ARRAY_LEN(api__fields);

int api__bad_param(err *e, const char *param, const char *rule) {
    return err_set(e, ERR_BAD_PARAM, param, "%s %s", param, rule);
}

const json_t *api__member(const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    return json_is_null(value) ? NULL : value;
}

int api__read_bool(const json_t *value, const char *param, bool *out, err *e) {
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_boolean(value))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be true or false", param);
    *out = json_is_true(value);
    return 0;
}

int api__read_int(const json_t *value, const char *param, int64_t min, int64_t max, int64_t *out,
                  err *e) {
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_integer(value)) {
        return err_set(e, ERR_BAD_PARAM, param, "%s must be an integer%s", param,
                       json_is_real(value) ? ", written without a fraction or exponent" : "");
    }
    int64_t x = json_integer_value(value);
    if (x < min || x > max) {
        if (max == INT32_MAX) {
            return err_set(e, ERR_BAD_PARAM, param, "%s must be at least %lld", param,
                           (long long)min);
        }
        return err_set(e, ERR_BAD_PARAM, param, "%s must be between %lld and %lld", param,
                       (long long)min, (long long)max);
    }
    *out = x;
    return 0;
}

int api__read_num(const json_t *value, const char *param, double min, bool above, double max,
                  double *out, err *e) {
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_number(value))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be a number", param);
    double x = json_number_value(value);
    if (!(x <= max) || !(above ? x > min : x >= min)) {
        if (above) {
            return err_set(e, ERR_BAD_PARAM, param, "%s must be above %g and at most %g", param,
                           min, max);
        }
        return err_set(e, ERR_BAD_PARAM, param, "%s must be between %g and %g", param, min, max);
    }
    *out = x;
    return 0;
}

static int read_str(const json_t *value, const api__field *field, const char **out, err *e) {
    if (!json_is_string(value))
        return err_set(e, ERR_BAD_PARAM, field->name, "%s must be a string", field->name);
    /* A suffix of any length has its own error. */
    if (field->max > 0 && (double)json_string_length(value) > field->max) {
        return err_set(e, ERR_BAD_PARAM, field->name, "%s may have at most %.0f bytes", field->name,
                       field->max);
    }
    *out = json_c_string(value);
    return *out ? 0 : api__bad_param(e, field->name, "may not contain U+0000");
}

/* Clients write an absent value in all these ways. */
static bool says_nothing(const json_t *value) {
    return json_is_false(value) || (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

static int read_field(api__values *out, const api__field *field, const json_t *value, err *e) {
    void *at = (char *)out + field->offset;
    if (field->unsupported) {
        if (says_nothing(value)) return 0;
        return err_set(e, ERR_UNSUPPORTED, field->name, "this server does not support %s",
                       field->name);
    }
    switch ((api__type)field->type) {
    case API__BOOL: return api__read_bool(value, field->name, at, e);
    case API__NUM:
        return api__read_num(value, field->name, field->min, field->above, field->max, at, e);
    case API__STR: return read_str(value, field, at, e);
    case API__INT: {
        bool any = field->min >= field->max;
        return api__read_int(value, field->name, any ? INT64_MIN : (int64_t)field->min,
                             any ? INT64_MAX : (int64_t)field->max, at, e);
    }
    case API__OTHER: *(const json_t **)at = value; return 0;
    }
    return 0;
}

int api__read_fields(api__values *out, api_kind kind, json_t *root, err *e) {
    *out = (api__values){.add_generation_prompt = true, .parallel_tool_calls = true};
    for (size_t i = 0; i < api__n_fields; i++) {
        void *at = (char *)out + api__fields[i].offset;
        if (api__fields[i].unsupported) continue;
        if (api__fields[i].type == API__INT) *(int64_t *)at = API__NO_INT;
        if (api__fields[i].type == API__NUM) *(double *)at = (double)NAN;
    }
    for (size_t i = 0; i < api__n_fields; i++) {
        const api__field *field = &api__fields[i];
        if ((field->kinds & (1u << kind)) == 0) continue;
        const json_t *value = json_object_get(root, field->name);
        if (value == NULL || json_is_null(value)) continue;
        if (read_field(out, field, value, e) != 0) return -1;
    }
    out->seeded =
        json_is_integer(json_object_get(root, "seed")); /* every integer is a valid seed */
    return 0;
}
