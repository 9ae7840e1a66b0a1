/* talk.c - messages in the shape used by transformers and vLLM for chat templates. */
#include "api/api_internal.h"

/* jansson can only fail for lack of memory here, because all texts come from a body and are
 * UTF-8. */
static bool put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

/* Copies a member if it is a string. */
static bool put_if_string(json_t *object, const char *key, const json_t *from) {
    json_t *value = json_object_get(from, key);
    return !json_is_string(value) || json_object_set(object, key, value) == 0;
}

/* ---- calls ---- */

static bool is_blank(const json_t *text) {
    size_t n = json_string_length(text);
    const char *bytes = json_string_value(text);
    while (n > 0 && strchr(" \t\r\n", bytes[n - 1]) && bytes[n - 1])
        n--;
    return n == 0;
}

/* The value in a JSON text of arguments; an object may stand there itself. 1: the text is no JSON.
 * -1: out of memory or cancelled. */
static int parse_arguments(const json_t *given, json_t **out, err *e) {
    size_t n = json_string_length(given);
    json_limits limits = {n, API__MAX_DEPTH, API__MAX_STRUCTURAL};
    err why = {0};
    *out = NULL;
    if (given == NULL || (json_is_string(given) && is_blank(given))) {
        *out = json_object();
        return *out ? 0 : api__out_of_memory(e);
    }
    if (!json_is_string(given)) {
        *out = json_incref((json_t *)(uintptr_t)given);
        return 0;
    }
    if (json_parse_nul(out, json_string_value(given), n, &limits, "arguments", &why) == 0) return 0;
    if (why.code != ERR_NO_MEMORY && why.code != ERR_CANCELLED) return 1;
    return err_set(e, why.code, NULL, "%s", why.msg);
}

/* A value as JSON text in a string. */
static json_t *dumped(const json_t *value, err *e) {
    buf text = {0};
    if (json_is_string(value))
        buf_json_string(&text, json_string_value(value), json_string_length(value));
    else api__dump(&text, value);
    json_t *out = text.failed ? NULL : json_stringn(text.data, text.len);
    buf_deinit(&text);
    if (out == NULL) (void)api__out_of_memory(e);
    return out;
}

json_t *api__talk_arguments(const json_t *given, err *e) {
    json_t *value;
    int rc = parse_arguments(given, &value, e);
    if (rc < 0) return NULL;
    bool fine = rc == 0 && json_is_string(given) && !is_blank(given);
    json_t *out = fine      ? json_incref((json_t *)(uintptr_t)given)
                  : rc == 0 ? dumped(value, e)
                            : dumped(given, e);
    json_decref(value);
    return out;
}

/* Arguments that are no JSON object, as the template takes them. */
static json_t *odd_arguments(const api__traits *traits, const json_t *given, err *e) {
    if (traits->odd == API__ODD_TEXT) return api__talk_arguments(given, e);
    json_t *out = traits->odd == API__ODD_STRING ? json_incref((json_t *)(uintptr_t)given)
                                                 : json_pack("{s:O}", "arguments", given);
    if (out == NULL) (void)api__out_of_memory(e);
    return out;
}

/* Arguments in the form of the template: an object or JSON text. */
static json_t *read_arguments(const api__traits *traits, const json_t *given, err *e) {
    json_t *value;
    if (traits->text_calls) return api__talk_arguments(given, e);
    if (parse_arguments(given, &value, e) < 0) return NULL;
    if (json_is_object(value)) return value;
    json_decref(value);
    return odd_arguments(traits, given, e);
}

json_t *api__talk_call(const api__traits *traits, const json_t *id, const json_t *name,
                       const json_t *arguments, err *e) {
    json_t *call = json_object(), *function = json_object(),
           *given = read_arguments(traits, arguments, e);
    bool ok = call && function && given;
    ok = ok && (!json_is_string(id) || json_object_set(call, "id", (json_t *)(uintptr_t)id) == 0);
    ok = ok && put(call, "type", json_string("function"));
    ok = ok && json_object_set(function, "name", (json_t *)(uintptr_t)name) == 0;
    ok = ok && json_object_set(function, "arguments", given) == 0;
    ok = ok && json_object_set(call, "function", function) == 0;
    json_decref(function);
    json_decref(given);
    if (ok) return call;
    json_decref(call);
    (void)api__out_of_memory(e);
    return NULL;
}

/* ---- messages ---- */

static json_t *content_of(const api__message *msg, bool open_end) {
    static const char mark[] = API__OPEN_END;
    buf text = {0};
    if (!open_end && msg->content) return json_incref((json_t *)(uintptr_t)msg->content);
    if (!open_end) return json_stringn(msg->text, msg->len);
    buf_append(&text, msg->text, msg->len);
    buf_append(&text, mark, sizeof mark - 1);
    json_t *content = text.failed ? NULL : json_stringn(text.data, text.len);
    buf_deinit(&text);
    return content;
}

json_t *api__talk_parts(json_t *content) {
    json_t *list = json_array(), *part = json_object();
    bool ok = content && list && part && put(part, "type", json_string("text"));
    ok = ok && json_object_set(part, "text", content) == 0 && json_array_append(list, part) == 0;
    json_decref(content);
    json_decref(part);
    if (ok) return list;
    json_decref(list);
    return NULL;
}

/* Clients and templates have two names for the reasoning of an earlier answer. */
static bool put_reasoning(json_t *out, const json_t *from) {
    json_t *one = json_object_get(from, "reasoning_content"),
           *other = json_object_get(from, "reasoning"), *value = json_is_string(one) ? one : other;
    return !json_is_string(value) || (json_object_set(out, "reasoning_content", value) == 0 &&
                                      json_object_set(out, "reasoning", value) == 0);
}

static json_t *message(const api__traits *traits, const api__message *msg, bool open_end) {
    static const char *const keys[] = {"name", "tool_call_id"};
    api__role role = msg->role == API__DEVELOPER && !traits->developer ? API__SYSTEM : msg->role;
    bool none = traits->null_content && msg->calls && msg->len == 0 && !open_end;
    json_t *out = json_object(), *content = none ? json_null() : content_of(msg, open_end);
    if (traits->parts && !none) content = api__talk_parts(content);
    bool ok = out && put(out, "role", json_string(api__role_names[role]));
    ok = ok && content && json_object_set(out, "content", content) == 0;
    json_decref(content);
    for (size_t i = 0; i < ARRAY_LEN(keys) && msg->original; i++)
        ok = ok && put_if_string(out, keys[i], msg->original);
    ok = ok && put_reasoning(out, msg->original);
    if (msg->calls)
        ok = ok && json_object_set(out, "tool_calls", (json_t *)(uintptr_t)msg->calls) == 0;
    if (ok) return out;
    json_decref(out);
    return NULL;
}

json_t *api__talk_messages(const api__traits *traits, const api__message *msgs, size_t n,
                           bool open_last) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) {
        json_t *one = message(traits, &msgs[i], open_last && i + 1 == n);
        if (one && json_array_append_new(list, one) == 0) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}
