/* items.c - reads the items of /v1/responses as messages of a conversation. */
#include "api/messages_internal.h"

static int read_call(const api__turns_reader *reader, const json_t *value, size_t i,
                     api__message *out) {
    buf text = {0};
    json_t *calls = api__new_calls(reader);
    out->role = API__ASSISTANT;
    out->text = "";
    if (calls == NULL) return -1;
    if (api__add_call_of(reader, json_object_get(value, "call_id"), value, i, calls, &text) == 0)
        return api__keep_calls(reader, calls, &text, out);
    buf_deinit(&text);
    return -1;
}

/* Keeps the id of the call that gave the result. */
static int keep_id(const api__turns_reader *reader, json_t *id, api__message *out) {
    json_t *original = json_object();
    int rc = original && json_object_set(original, "tool_call_id", id) == 0 &&
                     json_array_append(reader->made, original) == 0
                 ? 0
                 : api__out_of_memory(reader->error);
    out->original = original; /* reader->made holds a reference */
    json_decref(original);
    return rc;
}

static int read_result(const api__turns_reader *reader, const json_t *value, size_t i,
                       api__message *out) {
    json_t *id = json_object_get(value, "call_id");
    out->role = API__TOOL;
    out->text = "";
    if (api__read_content(reader, json_object_get(value, "output"), "output", i, out) != 0)
        return -1;
    if (json_is_string(id) && keep_id(reader, id, out) != 0) return -1;
    return api__result_as_user(reader, out);
}

/* The model's thoughts are not shown to it again, and nothing is stored to refer to. */
static int skip(const api__turns_reader *reader, const json_t *value, size_t i, api__message *out) {
    (void)reader, (void)value, (void)i, (void)out;
    return 1;
}

static const struct {
    const char *type;
    int (*read)(const api__turns_reader *reader, const json_t *value, size_t i, api__message *out);
} items[] = {
    {"message", api__read_message},
    {"function_call", read_call},
    {"function_call_output", read_result},
    {"reasoning", skip},
    {"item_reference", skip},
    {"refusal", skip},
};

int api__read_item(const api__turns_reader *reader, const json_t *value, size_t i,
                   api__message *out) {
    const json_t *type = api__member(value, "type");
    const char *name = type ? json_c_string(type) : items[0].type;
    if (!json_is_object(value))
        return api__bad_entry(reader, ERR_BAD_PARAM, i, "", "must be an object");
    if (name == NULL) return api__bad_entry(reader, ERR_BAD_PARAM, i, "type", "must be a string");
    for (size_t k = 0; k < ARRAY_LEN(items); k++) {
        if (strcmp(items[k].type, name) == 0) return items[k].read(reader, value, i, out);
    }
    return api__bad_entry(reader, ERR_UNSUPPORTED, i, "type",
                          "must be message, function_call or function_call_output");
}
