/* format.c - response_format, and text.format of responses. */
#include "api/dialect_internal.h"
#include "api/grammar/cache_internal.h"

/* A constraint needs a tokenizer to see the answer's text and an end token to end it. */
int api__can_constrain(const api_context *ctx, const api__values *fields, const char *param,
                       err *e) {
    if (ctx->vocab == NULL) {
        return err_set(e, ERR_UNSUPPORTED, param,
                       "%s requires a model with a tokenizer and an end token", param);
    }
    if (fields->ignore_eos) {
        return err_set(e, ERR_BAD_PARAM, "ignore_eos", "ignore_eos cannot be combined with %s",
                       param);
    }
    if (fields->min_tokens != API__NO_INT && fields->min_tokens > 0) {
        return err_set(e, ERR_BAD_PARAM, "min_tokens", "min_tokens cannot be combined with %s",
                       param);
    }
    return 0;
}

bool api__name_ok(const json_t *name) {
    const char *text = json_string_value(name);
    size_t n = json_string_length(name);
    for (size_t i = 0; i < n; i++) {
        bool letter = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z');
        if (!letter && !(text[i] >= '0' && text[i] <= '9') && text[i] != '_' && text[i] != '-')
            return false;
    }
    return n >= 1 && n <= 64;
}

/* Name and schema stand in json_schema, or beside the type in a flat dialect. */
static int read_schema(api_request *req, const api_context *ctx, const json_t *format,
                       const char *param, err *e) {
    bool wrapped = !req->dialect->flat;
    char inner[64];
    (void)snprintf(inner, sizeof inner, "%s%s", param, wrapped ? ".json_schema" : "");
    const json_t *spec = wrapped ? json_object_get(format, "json_schema") : format;
    if (!json_is_object(spec)) {
        return err_set(e, ERR_BAD_PARAM, inner, "%s must be an object with a name and a schema",
                       inner);
    }
    const json_t *name = json_object_get(spec, "name"), *strict = json_object_get(spec, "strict");
    const json_t *schema = json_object_get(spec, "schema");
    char field[96];
    if (!api__name_ok(name)) {
        (void)snprintf(field, sizeof field, "%s.name", inner);
        return err_set(e, ERR_BAD_PARAM, field, "%s must have 1 to 64 letters, digits, '_' or '-'",
                       field);
    }
    if (strict && !json_is_boolean(strict) && !json_is_null(strict)) {
        (void)snprintf(field, sizeof field, "%s.strict", inner);
        return err_set(e, ERR_BAD_PARAM, field, "%s must be true or false", field);
    }
    (void)snprintf(field, sizeof field, "%s.schema", inner);
    if (!json_is_object(schema)) {
        return err_set(e, ERR_BAD_PARAM, field, "%s must be a JSON Schema object", field);
    }
    const api__form form = {.json = schema, .param = field};
    return api__grammar_get(&req->grammar, ctx->grammars, &form, req->soon, e);
}

static int read_response_format(api_request *req, const api_context *ctx, const api__values *fields,
                                err *e) {
    const char *param = fields->format_field;
    const char *type = json_c_string(json_object_get(fields->response_format, "type"));
    if (!json_is_object(fields->response_format) || type == NULL) {
        return err_set(e, ERR_BAD_PARAM, param, "%s must be an object with a type", param);
    }
    if (strcmp(type, "text") == 0) return 0;
    bool schema = strcmp(type, "json_schema") == 0;
    if (!schema && strcmp(type, "json_object") != 0) {
        char field[64];
        (void)snprintf(field, sizeof field, "%s.type", param);
        return err_set(e, ERR_BAD_PARAM, field, "%s must be text, json_object or json_schema",
                       field);
    }
    if (api__can_constrain(ctx, fields, param, e) != 0) return -1;
    req->form_field = param;
    if (schema) return read_schema(req, ctx, fields->response_format, param, e);
    const api__form any = {.param = param};
    return api__grammar_get(&req->grammar, ctx->grammars, &any, req->soon, e);
}

/* Refuses a format that cannot be guaranteed. */
int api__read_format(api_request *req, const api_context *ctx, const api__values *fields, err *e) {
    return fields->response_format ? read_response_format(req, ctx, fields, e) : 0;
}
