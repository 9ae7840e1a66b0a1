/* openapi.c - GET /openapi.json: the routes of endpoints.c and the tables of fields, put into a
 * document that holds everything else.
 *
 * The document shows the types and ranges used to check requests, because both come from the same
 * rows. A test finds fields without a shape. */
#include "api/dialect_internal.h"
#include "base/embed.h"

EMBED(api__document, "api/openapi/document.json");
/* Of lists and objects, by the field's name; those of one dialect only under its schema's name. */
EMBED(api__shapes, "api/openapi/shapes.json");

/* Building stops at the first failure, which can only be lack of memory. */
static bool put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

static json_t *parsed(const unsigned char *text, const unsigned char *end) {
    return json_loadb((const char *)text, (size_t)(end - text), JSON_REJECT_DUPLICATES, NULL);
}

/* ---- schemas of requests ---- */

static bool put_range(json_t *schema, const api__field *field) {
    if (field->type == API__STR)
        return field->max == 0 || put(schema, "maxLength", json_integer((json_int_t)field->max));
    if (field->type == API__NUM) {
        return put(schema, field->above ? "exclusiveMinimum" : "minimum", json_real(field->min)) &&
               put(schema, "maximum", json_real(field->max));
    }
    if (field->type != API__INT || field->min >= field->max) return true;
    return put(schema, "minimum", json_integer((json_int_t)field->min)) &&
           put(schema, "maximum", json_integer((json_int_t)field->max));
}

/* Every field may be null. */
static json_t *field_schema(const api_dialect *dialect, const api__field *field,
                            const json_t *shapes) {
    static const char *const types[] = {[API__BOOL] = "boolean",
                                        [API__INT] = "integer",
                                        [API__NUM] = "number",
                                        [API__STR] = "string"};
    json_t *schema = json_object();
    bool ok = schema != NULL;
    if (field->type == API__JSON) {
        json_t *own = json_object_get(json_object_get(shapes, dialect->schema), field->name),
               *shape = own ? own : json_object_get(shapes, field->name);
        ok = ok && put(schema, "anyOf", json_pack("[O?,{ss}]", shape, "type", "null"));
    } else {
        ok = ok && put(schema, "type", json_pack("[ss]", types[field->type], "null"));
        ok = ok && put_range(schema, field);
    }
    ok = ok && put(schema, "description", json_string(field->about));
    if (ok) return schema;
    json_decref(schema);
    return NULL;
}

static bool put_request(json_t *schemas, const api_dialect *dialect, const json_t *shapes) {
    json_t *properties = json_object();
    const api__field *field;
    bool ok = properties != NULL;
    for (size_t at = 0; ok && (field = api__next_field(dialect, &at)) != NULL;) {
        if (field->type != API__REFUSED)
            ok = put(properties, field->name, field_schema(dialect, field, shapes));
    }
    json_t *schema = ok ? json_pack("{ss,s[s],sO}", "type", "object", "required", dialect->input,
                                    "properties", properties)
                        : NULL;
    json_decref(properties);
    return schema && put(schemas, dialect->schema, schema);
}

/* ---- paths ---- */

static json_t *reference(const char *kind, const char *name) {
    char text[96];
    (void)snprintf(text, sizeof text, "#/components/%s/%s", kind, name);
    return json_pack("{ss}", "$ref", text);
}

/* Any request may be refused in these ways. */
static bool put_errors(json_t *operation) {
    static const char *const statuses[] = {"400", "401", "404", "413", "415", "503"};
    json_t *responses = json_object_get(operation, "responses");
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        if (!put(responses, statuses[i], reference("responses", "Error"))) return false;
    }
    return true;
}

static bool put_endpoint(json_t *paths, const api_endpoint *endpoint) {
    bool generates = endpoint->read == NULL;
    const char *request = generates ? endpoint->dialect->schema : endpoint->request;
    json_t *content = json_pack("{s{so}}", "application/json", "schema",
                                reference("schemas", generates ? "Answer" : endpoint->answer));
    bool ok = content != NULL;
    if (generates)
        ok = ok &&
             put(content, "text/event-stream", json_pack("{s{ss}}", "schema", "type", "string"));
    json_t *operation =
        ok ? json_pack("{ss,s{sb,s{s{so}}},s{s{ss,sO}}}", "summary", endpoint->summary,
                       "requestBody", "required", 1, "content", "application/json", "schema",
                       reference("schemas", request), "responses", "200", "description", "Success",
                       "content", content)
           : NULL;
    json_decref(content);
    return operation && put(paths, endpoint->path, json_pack("{so}", "post", operation));
}

/* ---- the document ---- */

static bool complete(json_t *document, const json_t *shapes) {
    json_t *schemas = json_object_get(json_object_get(document, "components"), "schemas"),
           *paths = json_object_get(document, "paths"), *path, *operation;
    const char *key, *method;
    size_t n;
    const api_endpoint *endpoints = api_endpoints(&n);
    if (!put(json_object_get(document, "info"), "version", json_string(FATHOM_VERSION)))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!put_endpoint(paths, &endpoints[i])) return false;
        if (endpoints[i].read == NULL && !put_request(schemas, endpoints[i].dialect, shapes))
            return false;
    }
    json_object_foreach(paths, key, path) {
        json_object_foreach(path, method, operation) {
            if (!put_errors(operation)) return false;
        }
    }
    return true;
}

void api_openapi(buf *out) {
    json_t *document = parsed(api__document, api__document_end),
           *shapes = parsed(api__shapes, api__shapes_end);
    if (document && shapes && complete(document, shapes)) api__dump(out, document);
    else out->failed = true;
    json_decref(document);
    json_decref(shapes);
}

const buf *api_openapi_kept(void) {
    static buf kept;
    if (kept.data == NULL) api_openapi(&kept);
    if (kept.failed) buf_deinit(&kept);
    return kept.data ? &kept : NULL;
}
