/* api_format.c - response_format, tools and tool_choice. */
#include "api/api_internal.h"

static int refuse(err *e, const char *param) {
    return err_set(e, ERR_UNSUPPORTED, param, "this server does not support %s yet", param);
}

/* Fails closed: an answer whose form cannot be promised is refused. */
int api__read_format(api_request *r, const api_context *c, const api__values *v, err *e) {
    (void)r;
    (void)c;
    const json_t *format = v->response_format;
    if (format) {
        const char *type = json_string_value(json_object_get(format, "type"));
        if (!json_is_object(format) || type == NULL) {
            return err_set(e, ERR_BAD_PARAM, "response_format",
                           "response_format must be an object with a type");
        }
        if (strcmp(type, "json_object") == 0 || strcmp(type, "json_schema") == 0)
            return refuse(e, "response_format");
        if (strcmp(type, "text") != 0) {
            return err_set(e, ERR_BAD_PARAM, "response_format.type",
                           "response_format.type must be text, json_object or json_schema");
        }
    }
    const char *choice = json_string_value(v->tool_choice);
    if (v->tools) return refuse(e, "tools");
    if (v->tool_choice && (choice == NULL || strcmp(choice, "none") != 0)) {
        return err_set(e, ERR_BAD_PARAM, "tool_choice", "tool_choice needs tools");
    }
    return 0;
}
