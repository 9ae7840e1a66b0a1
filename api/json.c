/* json.c - a JSON tree as compact text.
 *
 * jansson's own dump may drop a part and report success when memory runs out; a buf records the
 * failure. Keys keep their order. json_parse has limited the depth. */
#include "api/api_internal.h"

static void dump_number(buf *out, const json_t *value) {
    char text[40];
    if (json_is_integer(value)) {
        buf_printf(out, "%lld", (long long)json_integer_value(value));
        return;
    }
    int n = snprintf(text, sizeof text, "%.17g", json_real_value(value));
    buf_append(out, text, (size_t)n);
    if (strpbrk(text, ".e") == NULL) buf_puts(out, ".0"); /* stays a real number */
}

void api__dump(buf *out, const json_t *value) {
    const char *key;
    json_t *one;
    size_t i;
    bool first = true;
    switch (json_typeof(value)) {
    case JSON_NULL: buf_puts(out, "null"); return;
    case JSON_TRUE: buf_puts(out, "true"); return;
    case JSON_FALSE: buf_puts(out, "false"); return;
    case JSON_STRING:
        buf_json_string(out, json_string_value(value), json_string_length(value));
        return;
    case JSON_INTEGER:
    case JSON_REAL: dump_number(out, value); return;
    case JSON_ARRAY:
        buf_puts(out, "[");
        json_array_foreach(value, i, one) {
            if (i) buf_puts(out, ",");
            api__dump(out, one);
        }
        buf_puts(out, "]");
        return;
    case JSON_OBJECT:
        buf_puts(out, "{");
        json_object_foreach((json_t *)(uintptr_t)value, key, one) {
            if (!first) buf_puts(out, ",");
            first = false;
            buf_json_text(out, key);
            buf_puts(out, ":");
            api__dump(out, one);
        }
        buf_puts(out, "}");
        return;
    }
}
