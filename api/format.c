/* format.c - the form of an answer: response_format, text.format of responses, and the fields of
 * other servers with the same purpose. A schema is enforced or refused wherever it stands. */
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

/* A form asked for: any JSON object, or the values of a schema. */
typedef struct {
    const json_t *schema; /* NULL: any object */
    bool strict;
    const char *param; /* the field as the client wrote it; static */
    char place[96];    /* of the schema, for errors */
} found_form;

static int bad(const char *param, const char *member, const char *rule, err *e) {
    char place[96];
    (void)snprintf(place, sizeof place, "%s.%s", param, member);
    return api__bad_param(e, place, rule);
}

/* An empty schema allows every value, as true does. */
static bool is_schema(const json_t *value) {
    return json_is_object(value) || json_is_true(value);
}

/* ---- response_format ---- */

/* Name and schema stand in json_schema, or beside the type in a flat dialect. */
static int read_json_schema(const json_t *format, bool flat, found_form *out, err *e) {
    char inner[64];
    const json_t *spec = flat ? format : json_object_get(format, "json_schema");
    (void)snprintf(inner, sizeof inner, "%s%s", out->param, flat ? "" : ".json_schema");
    (void)snprintf(out->place, sizeof out->place, "%s.schema", inner);
    if (!json_is_object(spec))
        return api__bad_param(e, inner, "must be an object with a name and a schema");
    const json_t *strict = json_object_get(spec, "strict");
    if (!api__name_ok(json_object_get(spec, "name")))
        return bad(inner, "name", "must have 1 to 64 letters, digits, '_' or '-'", e);
    if (strict && !json_is_boolean(strict) && !json_is_null(strict))
        return bad(inner, "strict", "must be true or false", e);
    out->strict = json_is_true(strict);
    out->schema = json_object_get(spec, "schema");
    return is_schema(out->schema) ? 0
                                  : api__bad_param(e, out->place, "must be a JSON Schema object");
}

/* Some servers take a schema beside json_object. */
static int read_json_object(const json_t *format, found_form *out, err *e) {
    out->schema = api__member(format, "schema");
    (void)snprintf(out->place, sizeof out->place, "%s%s", out->param, out->schema ? ".schema" : "");
    if (out->schema == NULL || is_schema(out->schema)) return 0;
    return api__bad_param(e, out->place, "must be a JSON Schema object");
}

/* 1: the format asks for no form. */
static int read_response_format(const json_t *format, bool flat, found_form *out, err *e) {
    const char *type = json_c_string(json_object_get(format, "type"));
    if (!json_is_object(format) || type == NULL)
        return api__bad_param(e, out->param, "must be an object with a type");
    if (strcmp(type, "text") == 0) return 1;
    if (strcmp(type, "json_object") == 0) return read_json_object(format, out, e);
    if (strcmp(type, "json_schema") != 0)
        return bad(out->param, "type", "must be text, json_object or json_schema", e);
    bool beside =
        !flat && api__member(format, "json_schema") == NULL && api__member(format, "schema");
    return beside ? read_json_object(format, out, e) : read_json_schema(format, flat, out, e);
}

/* ---- fields of other servers ---- */

/* A request may ask for one form only. */
static int begin(found_form *out, const char *param, err *e) {
    if (out->param)
        return err_set(e, ERR_BAD_PARAM, param, "%s cannot be combined with %s", param, out->param);
    out->param = param;
    return 0;
}

/* A schema may stand as JSON text. *owned holds it then. */
static int read_guided(const json_t *value, const char *param, const char *member, found_form *out,
                       json_t **owned, err *e) {
    json_limits limits = {json_string_length(value), API__MAX_DEPTH, API__MAX_STRUCTURAL};
    if (begin(out, param, e) != 0) return -1;
    (void)snprintf(out->place, sizeof out->place, "%s%s", param, member);
    out->schema = value;
    if (json_is_string(value)) {
        if (json_parse(owned, json_string_value(value), json_string_length(value), &limits,
                       out->place, e) != 0)
            return -1;
        out->schema = *owned;
    }
    return is_schema(out->schema) ? 0
                                  : api__bad_param(e, out->place, "must be a JSON Schema object");
}

static int read_structured(const json_t *value, found_form *out, json_t **owned, err *e) {
    static const char param[] = "structured_outputs";
    static const char *const others[] = {"regex", "choice", "grammar", "structural_tag"};
    if (!json_is_object(value)) return api__bad_param(e, param, "must be an object");
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (!api__member(value, others[i])) continue;
        return err_set(e, ERR_UNSUPPORTED, param,
                       "%s.%s is not supported: json and json_object are", param, others[i]);
    }
    const json_t *schema = api__member(value, "json");
    if (schema) return read_guided(schema, param, ".json", out, owned, e);
    return json_is_true(json_object_get(value, "json_object")) ? begin(out, param, e) : 0;
}

/* ---- all ---- */

/* Finds the form wherever clients put it. out->param is NULL if no form is asked for. */
static int find_form(const api_request *req, const api__values *fields, found_form *out,
                     json_t **owned, err *e) {
    if (fields->response_format) {
        out->param = fields->format_field;
        int rc = read_response_format(fields->response_format, req->dialect->flat, out, e);
        if (rc < 0) return -1;
        if (rc == 1) out->param = NULL;
    }
    if (fields->guided_json &&
        read_guided(fields->guided_json, "guided_json", "", out, owned, e) != 0)
        return -1;
    if (fields->json_schema &&
        read_guided(fields->json_schema, "json_schema", "", out, owned, e) != 0)
        return -1;
    return fields->structured_outputs ? read_structured(fields->structured_outputs, out, owned, e)
                                      : 0;
}

/* Refuses a form that cannot be guaranteed. */
int api__read_format(api_request *req, const api_context *ctx, const api__values *fields, err *e) {
    found_form found = {0};
    json_t *owned = NULL;
    int rc = find_form(req, fields, &found, &owned, e);
    if (rc == 0 && found.param) {
        req->form_field = found.param;
        rc = api__can_constrain(ctx, fields, found.param, e);
        const api__form form = {.json = found.schema,
                                .strict = found.strict,
                                .param = found.place[0] ? found.place : found.param};
        if (rc == 0) rc = api__grammar_get(&req->grammar, ctx->grammars, &form, req->soon, e);
        req->form_strict = found.strict;
        if (rc == 0 && found.schema) req->form = json_incref((json_t *)(uintptr_t)found.schema);
    }
    json_decref(owned);
    return rc;
}
