/* messages.c - reads the messages of a conversation. */
#include "api/messages_internal.h"

int api__bad_entry(const api__turns_reader *reader, err_code code, size_t i, const char *key,
                   const char *rule) {
    char param[64];
    (void)snprintf(param, sizeof param, "%s[%zu]%s%s", reader->list, i, key[0] ? "." : "", key);
    return err_set(reader->error, code, param, "%s %s", param, rule);
}

static int bad(const api__turns_reader *reader, size_t i, const char *key, const char *rule) {
    return api__bad_entry(reader, ERR_BAD_PARAM, i, key, rule);
}

static int read_role(const api__turns_reader *reader, const json_t *value, size_t i,
                     api__role *out) {
    const char *name = json_c_string(value);
    size_t role = 0;
    if (name == NULL) return bad(reader, i, "role", "must be a string");
    while (role < API__ROLES && strcmp(api__role_names[role], name) != 0)
        role++;
    if (role == API__ROLES)
        return bad(reader, i, "role", "must be system, developer, user, assistant or tool");
    *out = (api__role)role;
    return 0;
}

/* ---- contents ---- */

static bool is_text(const char *type) {
    return strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0 ||
           strcmp(type, "output_text") == 0;
}

/* The text of a part. An assistant's refusal is a text in a member of its own. NULL: this part
 * has no text. */
static const json_t *text_of_part(const json_t *part, const char *type, api__role role) {
    bool refusal = role == API__ASSISTANT && strcmp(type, "refusal") == 0;
    if (!refusal && !is_text(type)) return NULL;
    const json_t *text = json_object_get(part, refusal ? "refusal" : "text");
    return json_is_string(text) ? text : NULL;
}

static int check_parts(const api__turns_reader *reader, const json_t *parts, const char *key,
                       size_t i, api__role role, size_t *bytes) {
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k);
        const char *type = json_c_string(json_object_get(part, "type"));
        if (type == NULL) return bad(reader, i, key, "must be a list of parts with a type");
        const json_t *text = text_of_part(part, type, role);
        if (text == NULL && is_text(type))
            return bad(reader, i, key, "has a text part without text");
        if (text == NULL)
            return api__bad_entry(reader, ERR_UNSUPPORTED, i, key, "supports text parts only");
        *bytes += json_string_length(text) + 1; /* cannot overflow: the body holds all the text */
    }
    return 0;
}

/* Joins text parts by newlines. The server fetches nothing, so it takes no other parts. */
static int join_parts(const api__turns_reader *reader, const json_t *parts, const char *key,
                      size_t i, api__message *out) {
    size_t total = 1, at = 0;
    if (check_parts(reader, parts, key, i, out->role, &total) != 0) return -1;
    char *joined = arena_alloc(reader->mem, total);
    if (joined == NULL) return api__out_of_memory(reader->error);
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k);
        const json_t *text =
            text_of_part(part, json_c_string(json_object_get(part, "type")), out->role);
        if (k > 0) joined[at++] = '\n';
        memcpy(joined + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    out->text = joined;
    out->len = at;
    return 0;
}

int api__read_content(const api__turns_reader *reader, const json_t *content, const char *key,
                      size_t i, api__message *out) {
    /* A function may return nothing, and an answer may hold nothing but calls. */
    bool may_be_empty = out->role == API__ASSISTANT || out->role == API__TOOL;
    if (json_is_array(content) && json_array_size(content) == 0 && !may_be_empty)
        return bad(reader, i, key, "may not be an empty list");
    if (json_is_array(content)) return join_parts(reader, content, key, i, out);
    if (!json_is_string(content))
        return bad(reader, i, key, "must be a string or a list of text parts");
    out->text = json_string_value(content);
    out->len = json_string_length(content);
    out->content = content;
    return 0;
}

int api__keep_text(const api__turns_reader *reader, buf *text, api__message *out) {
    out->content = NULL;
    out->text =
        text->failed ? NULL : arena_strndup(reader->mem, text->data ? text->data : "", text->len);
    out->len = text->len;
    buf_deinit(text);
    return out->text ? 0 : api__out_of_memory(reader->error);
}

/* ---- calls of functions ---- */

/* For a template without calls: writes a call as the model would write it. */
static int write_call(const api__turns_reader *reader, buf *text, const json_t *name,
                      const json_t *arguments) {
    json_t *given = api__talk_arguments(arguments, reader->error);
    if (given == NULL) return -1;
    if (text->len) buf_puts(text, "\n");
    buf_puts(text, "{\"name\":");
    buf_json_string(text, json_string_value(name), json_string_length(name));
    buf_puts(text, ",\"arguments\":");
    buf_append(text, json_string_value(given), json_string_length(given));
    buf_puts(text, "}");
    json_decref(given);
    return 0;
}

int api__add_call_of(const api__turns_reader *reader, const json_t *id, const json_t *function,
                     size_t i, json_t *calls, buf *text) {
    const json_t *name = json_object_get(function, "name"),
                 *arguments = api__member(function, "arguments");
    if (!json_is_string(name) ||
        (arguments && !json_is_string(arguments) && !json_is_object(arguments))) {
        return bad(reader, i, "tool_calls",
                   "must contain calls with a function's name and its arguments as JSON text");
    }
    if (!reader->traits->calls) return write_call(reader, text, name, arguments);
    json_t *call = api__talk_call(reader->traits, id, name, arguments, reader->error);
    if (call == NULL) return -1;
    return json_array_append_new(calls, call) == 0 ? 0 : api__out_of_memory(reader->error);
}

int api__keep_calls(const api__turns_reader *reader, json_t *calls, buf *text, api__message *out) {
    if (!reader->traits->calls) return api__keep_text(reader, text, out);
    buf_deinit(text);
    out->calls = calls;
    return 0;
}

json_t *api__new_calls(const api__turns_reader *reader) {
    json_t *calls = json_array();
    if (calls && json_array_append(reader->made, calls) == 0) {
        json_decref(calls); /* reader->made holds a reference */
        return calls;
    }
    json_decref(calls);
    (void)api__out_of_memory(reader->error);
    return NULL;
}

static int read_calls(const api__turns_reader *reader, const json_t *list, size_t i,
                      api__message *out) {
    buf text = {0};
    if (!json_is_array(list)) return bad(reader, i, "tool_calls", "must be a list of calls");
    json_t *calls = api__new_calls(reader);
    if (calls == NULL) return -1;
    buf_append(&text, out->text, out->len);
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *one = json_array_get(list, k);
        if (api__add_call_of(reader, json_object_get(one, "id"), json_object_get(one, "function"),
                             i, calls, &text) != 0) {
            buf_deinit(&text);
            return -1;
        }
    }
    return api__keep_calls(reader, calls, &text, out);
}

int api__result_as_user(const api__turns_reader *reader, api__message *out) {
    buf text = {0};
    if (reader->traits->result) return 0;
    out->role = API__USER;
    out->original = NULL;
    buf_puts(&text, "Result: ");
    buf_append(&text, out->text, out->len);
    return api__keep_text(reader, &text, out);
}

/* ---- messages ---- */

/* An assistant's message may lack a content: it has calls, or the model refused or was cut. */
static const json_t *content_of(const json_t *message, api__role role) {
    const json_t *content = api__member(message, "content");
    return content || role != API__ASSISTANT ? content : api__member(message, "refusal");
}

int api__read_message(const api__turns_reader *reader, const json_t *value, size_t i,
                      api__message *out) {
    if (!json_is_object(value)) return bad(reader, i, "", "must be an object");
    if (read_role(reader, json_object_get(value, "role"), i, &out->role) != 0) return -1;
    const json_t *content = content_of(value, out->role), *calls = api__member(value, "tool_calls");
    bool called = calls && !(json_is_array(calls) && json_array_size(calls) == 0);
    if (called && out->role != API__ASSISTANT)
        return bad(reader, i, "tool_calls", "is only allowed in assistant messages");
    out->text = "";
    out->original = value;
    if ((content || out->role != API__ASSISTANT) &&
        api__read_content(reader, content, "content", i, out) != 0)
        return -1;
    if (called) return read_calls(reader, calls, i, out);
    return out->role == API__TOOL ? api__result_as_user(reader, out) : 0;
}
