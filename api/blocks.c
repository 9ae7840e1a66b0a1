/* blocks.c - content blocks of Anthropic's messages, as messages of chat completions.
 *
 * Results of tools become messages of their own, before the text of their message. Blocks of
 * thinking become the reasoning of an earlier answer. Pictures and documents are refused. */
#include "api/dialect_internal.h"

typedef struct {
    json_t *messages; /* made so far */
    json_t *made;     /* owns lists that are being filled */
    size_t at;        /* index of the message being read */
    err *error;
} reading;

bool api__is_type(const json_t *object, const char *type) {
    const char *name = json_c_string(json_object_get(object, "type"));
    return name && strcmp(name, type) == 0;
}

static json_t *new_list(const reading *reader) {
    json_t *list = json_array();
    if (list && json_array_append_new(reader->made, list) == 0) return list;
    (void)api__out_of_memory(reader->error);
    return NULL;
}

static int append(const reading *reader, json_t *list, json_t *value) {
    return value && json_array_append_new(list, value) == 0 ? 0 : api__out_of_memory(reader->error);
}

static int bad(const reading *reader, const char *rule) {
    char param[64];
    (void)snprintf(param, sizeof param, "messages[%zu].content", reader->at);
    return api__bad_param(reader->error, param, rule);
}

/* The text of a string or of text blocks, joined by newlines: a new reference. */
static json_t *joined_text(const json_t *content, const char *param, err *e) {
    buf text = {0};
    size_t i;
    const json_t *block;
    if (json_is_string(content)) return json_incref((json_t *)(uintptr_t)content);
    bool ok = json_is_array(content);
    json_array_foreach((json_t *)(uintptr_t)content, i, block) {
        const json_t *part = json_object_get(block, "text");
        ok = ok && api__is_type(block, "text") && json_is_string(part);
        if (i > 0) buf_puts(&text, "\n");
        if (ok) buf_append(&text, json_string_value(part), json_string_length(part));
    }
    json_t *out = ok && !text.failed ? json_stringn(text.data ? text.data : "", text.len) : NULL;
    if (!ok) (void)api__bad_param(e, param, "must be a string or a list of text blocks");
    else if (out == NULL) (void)api__out_of_memory(e);
    buf_deinit(&text);
    return out;
}

static int add_message(const reading *reader, const char *role, json_t *content) {
    return append(reader, reader->messages, json_pack("{ss,so}", "role", role, "content", content));
}

static int read_result(const reading *reader, const json_t *block) {
    const json_t *content = api__member(block, "content");
    json_t *text =
        content ? joined_text(content, "tool_result.content", reader->error) : json_string("");
    if (text == NULL) return -1;
    const json_t *id = json_object_get(block, "tool_use_id");
    if (!json_is_string(id)) {
        json_decref(text);
        return bad(reader, "has a tool_result without a tool_use_id");
    }
    return append(reader, reader->messages,
                  json_pack("{ss,sO,so}", "role", "tool", "tool_call_id", id, "content", text));
}

static int read_user(const reading *reader, const json_t *content) {
    json_t *parts = new_list(reader), *block;
    size_t i;
    if (parts == NULL) return -1;
    json_array_foreach((json_t *)(uintptr_t)content, i, block) {
        if (api__is_type(block, "tool_result")) {
            if (read_result(reader, block) != 0) return -1;
        } else if (!api__is_type(block, "text") ||
                   !json_is_string(json_object_get(block, "text"))) {
            return bad(reader, "of a user may hold text and tool_result blocks only");
        } else if (append(reader, parts, json_incref(block)) != 0) {
            return -1;
        }
    }
    if (json_array_size(parts) == 0 && json_array_size(content) > 0) return 0; /* results only */
    return add_message(reader, "user", json_incref(parts));
}

static int read_use(const reading *reader, const json_t *block, json_t *calls) {
    const json_t *name = json_object_get(block, "name"), *id = json_object_get(block, "id"),
                 *input = api__member(block, "input");
    buf text = {0};
    if (!json_is_string(name) || !json_is_string(id))
        return bad(reader, "has a tool_use without an id and a name");
    if (input) api__dump(&text, input);
    else buf_puts(&text, "{}");
    json_t *call = text.failed
                       ? NULL
                       : json_pack("{sO,ss,s{sO,ss%}}", "id", id, "type", "function", "function",
                                   "name", name, "arguments", text.data, text.len);
    buf_deinit(&text);
    return append(reader, calls, call);
}

/* Text, calls and thinking of an earlier answer. */
static int read_assistant(const reading *reader, const json_t *content) {
    json_t *texts = new_list(reader), *calls = new_list(reader), *block;
    const json_t *thought = NULL;
    size_t i;
    if (texts == NULL || calls == NULL) return -1;
    json_array_foreach((json_t *)(uintptr_t)content, i, block) {
        int rc = 0;
        if (api__is_type(block, "text")) rc = append(reader, texts, json_incref(block));
        else if (api__is_type(block, "tool_use")) rc = read_use(reader, block, calls);
        else if (api__is_type(block, "thinking")) thought = json_object_get(block, "thinking");
        else if (!api__is_type(block, "redacted_thinking"))
            rc = bad(reader, "of an assistant may hold text, tool_use and thinking blocks only");
        if (rc != 0) return -1;
    }
    json_t *text = joined_text(texts, "messages", reader->error);
    if (text == NULL) return -1;
    bool called = json_array_size(calls) > 0;
    return append(reader, reader->messages,
                  json_pack("{ss,so,sO*,sO*}", "role", "assistant", "content", text, "tool_calls",
                            called ? calls : NULL, "reasoning_content",
                            json_is_string(thought) ? thought : NULL));
}

static int read_message(const reading *reader, const json_t *message) {
    const json_t *content = api__member(message, "content");
    const char *role = json_c_string(json_object_get(message, "role"));
    char param[64];
    (void)snprintf(param, sizeof param, "messages[%zu].role", reader->at);
    bool user = role && strcmp(role, "user") == 0, system = role && strcmp(role, "system") == 0;
    if (!user && !system && !(role && strcmp(role, "assistant") == 0))
        return api__bad_param(reader->error, param, "must be user or assistant");
    if (content == NULL) return bad(reader, "is missing");
    if (!json_is_array(content) || system) {
        json_t *text = joined_text(content, "messages", reader->error);
        return text ? add_message(reader, role, text) : -1;
    }
    return user ? read_user(reader, content) : read_assistant(reader, content);
}

static bool answers(const json_t *message) {
    const char *role = json_c_string(json_object_get(message, "role"));
    return strcmp(role, "assistant") == 0 && json_object_get(message, "tool_calls") == NULL;
}

json_t *api__chat_messages(const json_t *messages, const json_t *system, bool *open_last, err *e) {
    reading reader = {.messages = json_array(), .made = json_array(), .error = e};
    size_t n = json_array_size(messages);
    int rc = reader.messages && reader.made ? 0 : api__out_of_memory(e);
    if (rc == 0 && messages == NULL) rc = api__bad_param(e, "messages", "is missing");
    if (rc == 0 && (!json_is_array(messages) || n == 0 || n > API__MAX_MESSAGES))
        rc = api__bad_param(e, "messages", "must be a list of 1 to 1000 messages");
    json_t *lead = rc == 0 && system ? joined_text(system, "system", e) : NULL;
    if (rc == 0 && system) rc = lead ? add_message(&reader, "system", lead) : -1;
    for (; rc == 0 && reader.at < n; reader.at++)
        rc = read_message(&reader, json_array_get(messages, reader.at));
    json_decref(reader.made);
    if (rc != 0) {
        json_decref(reader.messages);
        return NULL;
    }
    *open_last = answers(json_array_get(reader.messages, json_array_size(reader.messages) - 1));
    return reader.messages;
}
