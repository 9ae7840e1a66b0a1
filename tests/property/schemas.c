/* schemas.c - random schemas, values that fit them, and a judge. The judge reads JSON Schema on
 * jansson values and shares nothing with the code under test. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tests/property/schemas.h"
#include "base/buf.h"
#include "base/lang.h"

#include <arpa/inet.h>
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- random numbers ---- */

uint64_t schemas_state;

uint32_t schemas_below(uint32_t n) {
    schemas_state = schemas_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(schemas_state >> 33) % n;
}

/* ---- a validator ---- */

static const json_t *deref(const json_t *root, const json_t *schema) {
    const char *ref;
    while ((ref = json_string_value(json_object_get(schema, "$ref")))) {
        if (strcmp(ref, "#") == 0) schema = root;
        else schema = json_object_get(json_object_get(root, "$defs"), ref + strlen("#/$defs/"));
    }
    return schema;
}

static bool has_type(const json_t *val, const char *type) {
    if (strcmp(type, "integer") == 0) return json_is_integer(val);
    if (strcmp(type, "number") == 0) return json_is_number(val);
    if (strcmp(type, "string") == 0) return json_is_string(val);
    if (strcmp(type, "boolean") == 0) return json_is_boolean(val);
    if (strcmp(type, "null") == 0) return json_is_null(val);
    if (strcmp(type, "array") == 0) return json_is_array(val);
    return json_is_object(val);
}

static size_t characters(const json_t *val) {
    size_t n = 0;
    for (const char *p = json_string_value(val); *p; p++)
        n += (*p & 0xc0) != 0x80;
    return n;
}

static bool within(const json_t *schema, const char *low, const char *high, double n) {
    const json_t *min = json_object_get(schema, low), *max = json_object_get(schema, high);
    return (!min || n >= json_number_value(min)) && (!max || n <= json_number_value(max));
}

static bool valid_number(const json_t *schema, const json_t *val) {
    const json_t *above = json_object_get(schema, "exclusiveMinimum"),
                 *below = json_object_get(schema, "exclusiveMaximum"),
                 *of = json_object_get(schema, "multipleOf");
    double n = json_number_value(val), step = of ? json_number_value(of) : 0;
    double off = of ? fabs(n - round(n / step) * step) : 0;
    return within(schema, "minimum", "maximum", n) && (!above || n > json_number_value(above)) &&
           (!below || n < json_number_value(below)) && off <= step * 1e-9 + fabs(n) * 1e-15;
}

static bool finds(const char *pattern, const char *text) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *judge = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(judge, NULL);
    int rc = pcre2_match(judge, (PCRE2_SPTR)text, strlen(text), 0, 0, data, NULL);
    pcre2_match_data_free(data);
    pcre2_code_free(judge);
    return rc >= 0;
}

static bool valid_date(const char *text) {
    struct tm day = {0};
    char back[40];
    if (!finds("^\\d{4}-\\d\\d-\\d\\d$", text)) return false;
    day.tm_year = atoi(text) - 1900;
    day.tm_mon = atoi(text + 5) - 1;
    day.tm_mday = atoi(text + 8);
    (void)timegm(&day); /* moves a day beyond the end of its month */
    (void)snprintf(back, sizeof back, "%04d-%02d-%02d", day.tm_year + 1900, day.tm_mon + 1,
                   day.tm_mday);
    return strcmp(back, text) == 0;
}

static bool valid_format(const char *format, const char *text) {
    uint8_t bytes[16];
    if (strcmp(format, "date") == 0) return valid_date(text);
    if (strcmp(format, "ipv4") == 0) return inet_pton(AF_INET, text, bytes) == 1;
    if (strcmp(format, "ipv6") == 0) return inet_pton(AF_INET6, text, bytes) == 1;
    if (strcmp(format, "uuid") == 0)
        return finds("^[[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}$", text);
    return finds("^[^@ ]+@[^@ ]+\\.[a-zA-Z]+$", text); /* email */
}

static bool valid_string(const json_t *schema, const json_t *val) {
    const char *pattern = json_string_value(json_object_get(schema, "pattern")),
               *format = json_string_value(json_object_get(schema, "format"));
    return within(schema, "minLength", "maxLength", (double)characters(val)) &&
           (!pattern || finds(pattern, json_string_value(val))) &&
           (!format || valid_format(format, json_string_value(val)));
}

static bool valid_member(const json_t *root, const json_t *schema, const char *key,
                         const json_t *val) {
    const json_t *sub = json_object_get(json_object_get(schema, "properties"), key),
                 *rest = json_object_get(schema, "additionalProperties"),
                 *names = json_object_get(schema, "propertyNames");
    const char *pattern;
    json_t *one, *name = json_string(key);
    bool ok = names == NULL || schemas_valid(root, names, name), known = sub != NULL;
    json_decref(name);
    if (sub) ok = ok && schemas_valid(root, sub, val);
    json_object_foreach(json_object_get(schema, "patternProperties"), pattern, one) {
        if (!finds(pattern, key)) continue;
        known = true;
        ok = ok && schemas_valid(root, one, val);
    }
    return ok && (known || rest == NULL || schemas_valid(root, rest, val));
}

static bool valid_object(const json_t *root, const json_t *schema, const json_t *val) {
    const json_t *required = json_object_get(schema, "required"), *name;
    size_t i;
    const char *key;
    json_t *value;
    json_array_foreach(required, i, name) {
        if (!json_object_get(val, json_string_value(name))) return false;
    }
    json_object_foreach((json_t *)(uintptr_t)val, key, value) {
        if (!valid_member(root, schema, key, value)) return false;
    }
    return within(schema, "minProperties", "maxProperties", (double)json_object_size(val));
}

static bool valid_array(const json_t *root, const json_t *schema, const json_t *val) {
    const json_t *prefix = json_object_get(schema, "prefixItems"),
                 *items = json_object_get(schema, "items"), *one;
    size_t i;
    json_array_foreach(val, i, one) {
        const json_t *sub = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (sub && !schemas_valid(root, sub, one)) return false;
    }
    return within(schema, "minItems", "maxItems", (double)json_array_size(val));
}

bool schemas_valid(const json_t *root, const json_t *schema, const json_t *val) {
    schema = deref(root, schema);
    if (json_is_boolean(schema)) return json_is_true(schema);
    const json_t *any = json_object_get(schema, "anyOf"), *type = json_object_get(schema, "type");
    const json_t *values = json_object_get(schema, "enum"),
                 *only = json_object_get(schema, "const"), *one;
    size_t i;
    bool ok = any == NULL;
    json_array_foreach(any, i, one) ok = ok || schemas_valid(root, one, val);
    if (!ok) return false;
    ok = values == NULL;
    json_array_foreach(values, i, one) ok = ok || json_equal(one, val);
    if (!ok || (only && !json_equal(only, val))) return false;
    ok = !json_is_array(type);
    json_array_foreach(type, i, one) ok = ok || has_type(val, json_string_value(one));
    if (!ok || (json_is_string(type) && !has_type(val, json_string_value(type)))) return false;
    json_array_foreach(json_object_get(schema, "allOf"), i, one) {
        if (!schemas_valid(root, one, val)) return false;
    }
    if (json_is_number(val) && !valid_number(schema, val)) return false;
    if (json_is_string(val) && !valid_string(schema, val)) return false;
    if (json_is_object(val)) return valid_object(root, schema, val);
    return !json_is_array(val) || valid_array(root, schema, val);
}

/* ---- random schemas ---- */

static const char *const keys[] = {"a", "ab",   "abc",  "name",  "na\"me", "",
                                   "é", "日本", "x\\y", "value", "b"};
static const char *const texts[] = {"",       "a", "red",       "red\"", "re", "grün",
                                    "日本語", "👍", "tab\there", "\\",    "1",  "12"};

static json_t *random_schema(int depth);
static json_t *random_rule(void);
static json_t *random_number(void);

static json_t *random_object(int depth) {
    json_t *properties = json_object(), *required = json_array();
    for (uint32_t n = schemas_below(5); n > 0; n--) {
        const char *key = keys[schemas_below(ARRAY_LEN(keys))];
        bool known = json_object_get(properties, key) != NULL;
        json_object_set_new(properties, key, random_schema(depth - 1));
        if (!known && schemas_below(2)) json_array_append_new(required, json_string(key));
    }
    json_t *schema = json_pack("{s:s, s:o, s:o}", "type", "object", "properties", properties,
                               "required", required);
    if (schemas_below(3) == 0) json_object_set_new(schema, "additionalProperties", json_false());
    else if (schemas_below(3) == 0)
        json_object_set_new(schema, "additionalProperties", random_schema(depth - 1));
    return schema;
}

static json_t *random_array(int depth) {
    uint32_t min = schemas_below(3), max = min + schemas_below(4);
    json_t *schema = json_pack("{s:s}", "type", "array");
    if (schemas_below(2)) json_object_set_new(schema, "minItems", json_integer(min));
    if (schemas_below(2)) json_object_set_new(schema, "maxItems", json_integer(max));
    json_object_set_new(schema, "items", random_schema(depth - 1));
    if (schemas_below(4) == 0) {
        json_object_set_new(schema, "prefixItems",
                            json_pack("[o,o]", random_schema(depth - 1), random_schema(depth - 1)));
    }
    return schema;
}

static json_t *random_enum(void) {
    json_t *list = json_array();
    for (uint32_t n = 1 + schemas_below(5); n > 0; n--) {
        switch (schemas_below(6)) {
        case 0:
            json_array_append_new(list, json_integer((json_int_t)schemas_below(200) - 100));
            break;
        case 1: json_array_append_new(list, json_null()); break;
        case 2: json_array_append_new(list, json_boolean(schemas_below(2))); break;
        case 3: json_array_append_new(list, json_pack("{s:[i,i]}", "k", 1, 2)); break;
        default:
            json_array_append_new(list, json_string(texts[schemas_below(ARRAY_LEN(texts))]));
            break;
        }
    }
    return json_pack("{s:o}", "enum", list);
}

static json_t *random_leaf(void) {
    json_t *schema;
    switch (schemas_below(9)) {
    case 7: return random_rule();
    case 8: return random_number();
    case 0:
        schema = json_pack("{s:s}", "type", "string");
        if (schemas_below(2))
            json_object_set_new(schema, "minLength", json_integer(schemas_below(4)));
        if (schemas_below(2))
            json_object_set_new(schema, "maxLength", json_integer(4 + schemas_below(6)));
        return schema;
    case 1:
        schema = json_pack("{s:s}", "type", "integer");
        if (schemas_below(2))
            json_object_set_new(schema, "minimum",
                                json_integer((json_int_t)schemas_below(300) - 200));
        if (schemas_below(2))
            json_object_set_new(schema, "maximum",
                                json_integer(100 + (json_int_t)schemas_below(2000)));
        return schema;
    case 2: return json_pack("{s:s}", "type", "number");
    case 3: return json_pack("{s:[s,s]}", "type", schemas_below(2) ? "boolean" : "integer", "null");
    case 4: return random_enum();
    case 5: return json_pack("{s:o}", "const", json_string(texts[schemas_below(ARRAY_LEN(texts))]));
    default: return schemas_below(3) ? json_pack("{s:s}", "type", "boolean") : json_true();
    }
}

/* Patterns and formats, each with texts that fit. */
static const struct {
    const char *keyword, *value, *fits[3];
} rules[] = {
    {"pattern", "^[a-z]{2,4}$", {"ab", "xyz", "abcd"}},
    {"pattern", "^\\d{1,3}(\\.\\d{2})?$", {"1", "12.50", "999"}},
    {"pattern", "^(red|green)-?$", {"red", "green-", "red-"}},
    {"pattern", "^.{0,4}é", {"é", "aéb", "\"é"}},
    {"pattern", "^.{0,3}$", {"", "a\"b", "日本語"}},
    {"pattern", "^[^a-z]?$", {"", "A", "👍"}},
    {"format", "date", {"2024-02-29", "1999-12-31", "2000-02-29"}},
    {"format", "ipv4", {"1.2.3.4", "255.255.255.255", "0.0.0.0"}},
    {"format", "ipv6", {"::1", "::", "1:2:3:4:5:6:7:8"}},
    {"format",
     "uuid",
     {"123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000",
      "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}},
    {"format", "email", {"a@b.co", "x.y@example.org", "a+b@c-d.example"}},
};

static json_t *random_rule(void) {
    size_t i = schemas_below(ARRAY_LEN(rules));
    json_t *schema = json_pack("{s:s,s:s}", "type", "string", rules[i].keyword, rules[i].value);
    if (schemas_below(4) == 0)
        json_object_set_new(schema, "maxLength",
                            json_integer((schemas_below(2) ? 3 : 400) + schemas_below(40)));
    if (schemas_below(4) == 0)
        json_object_set_new(schema, "minLength", json_integer(schemas_below(4)));
    return schema;
}

static json_t *random_number(void) {
    static const char *const steps[] = {"2", "5", "7", "0.25", "0.01", "1.5"};
    json_t *schema = json_pack("{s:s}", "type", schemas_below(2) ? "number" : "integer");
    double low = ((double)schemas_below(1600) - 800) / 8;
    const char *min = schemas_below(2) ? "minimum" : "exclusiveMinimum",
               *max = schemas_below(2) ? "maximum" : "exclusiveMaximum";
    if (schemas_below(2)) json_object_set_new(schema, min, json_real(low));
    if (schemas_below(2))
        json_object_set_new(schema, max, json_real(low + (double)schemas_below(400) / 16));
    if (schemas_below(2))
        json_object_set_new(
            schema, "multipleOf",
            json_loads(steps[schemas_below(ARRAY_LEN(steps))], JSON_DECODE_ANY, NULL));
    return schema;
}

/* An object with keys beside the schema's. */
static json_t *random_keyed(int depth) {
    json_t *schema = json_pack("{s:s,s:o}", "type", "object", "additionalProperties",
                               schemas_below(3) ? random_schema(depth - 1) : json_false());
    switch (schemas_below(4)) {
    case 0:
        json_object_set_new(schema, "propertyNames", json_pack("{s:s}", "pattern", "^[a-z]{1,3}$"));
        break;
    case 1: json_object_set_new(schema, "propertyNames", json_pack("{s:i}", "maxLength", 2)); break;
    case 2:
        json_object_set_new(schema, "propertyNames", json_pack("{s:[s,s]}", "enum", "a", "na\"me"));
        break;
    default: break;
    }
    if (schemas_below(2))
        json_object_set_new(schema, "patternProperties",
                            json_pack("{s:o,s:o}", "^x", random_schema(depth - 1), "^\\w?\\d$",
                                      random_schema(depth - 1)));
    if (schemas_below(2))
        json_object_set_new(
            schema, "properties",
            json_pack("{s:o,s:o}", "a", random_schema(depth - 1), "x1", random_schema(depth - 1)));
    if (schemas_below(3) == 0)
        json_object_set_new(schema, "minProperties", json_integer(schemas_below(2)));
    if (schemas_below(3) == 0)
        json_object_set_new(schema, "maxProperties", json_integer(1 + schemas_below(3)));
    return schema;
}

/* Two schemas that both hold. */
static json_t *random_both(int depth) {
    switch (schemas_below(3)) {
    case 0: return json_pack("{s:[o,o]}", "allOf", random_object(depth), random_object(depth));
    case 1:
        return json_pack("{s:[o,o]}", "allOf", random_rule(), json_pack("{s:i}", "maxLength", 30));
    default: return json_pack("{s:[o,o]}", "allOf", random_number(), random_number());
    }
}

static json_t *random_schema(int depth) {
    if (depth <= 0) return random_leaf();
    switch (schemas_below(10)) {
    case 0:
    case 1: return random_object(depth);
    case 8: return random_keyed(depth);
    case 9: return random_both(depth);
    case 2: return random_array(depth);
    case 3:
        return json_pack("{s:[o,o]}", "anyOf", random_schema(depth - 1), random_schema(depth - 1));
    case 4: return json_pack("{s:s}", "$ref", schemas_below(2) ? "#/$defs/node" : "#/$defs/leaf");
    default: return random_leaf();
    }
}

/* A root with two definitions to refer to: a leaf, and a tree of any depth. */
json_t *schemas_random_root(void) {
    json_t *root = random_object(3);
    json_object_set_new(root, "$defs",
                        json_pack("{s:o, s:{s:s, s:{s:o, s:{s:[{s:s}, {s:s}]}}, s:[s], s:b}}",
                                  "leaf", random_leaf(), "node", "type", "object", "properties",
                                  "v", random_leaf(), "next", "anyOf", "type", "null", "$ref",
                                  "#/$defs/node", "required", "next", "additionalProperties", 0));
    return root;
}

/* ---- random instances ---- */

static json_t *random_value(int depth) {
    switch (schemas_below(depth > 0 ? 7 : 5)) {
    case 0: return json_null();
    case 1: return json_integer((json_int_t)schemas_below(100000) - 50000);
    case 2: return json_string(texts[schemas_below(ARRAY_LEN(texts))]);
    case 3: return json_boolean(schemas_below(2));
    case 4: return json_real((double)schemas_below(1000) / 8);
    case 5: return json_pack("[o,o]", random_value(depth - 1), random_value(depth - 1));
    default:
        return json_pack("{s:o}", keys[schemas_below(ARRAY_LEN(keys))], random_value(depth - 1));
    }
}

static json_t *object_instance(const json_t *root, const json_t *schema, int depth) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required");
    const json_t *rest = json_object_get(schema, "additionalProperties"), *name;
    json_t *out = json_object(), *sub;
    const char *key;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)properties, key, sub) {
        bool needed = false;
        json_array_foreach(required, i, name) needed =
            needed || strcmp(json_string_value(name), key) == 0;
        json_t *val = needed || (depth > 0 && schemas_below(2))
                          ? schemas_instance(root, sub, depth - 1)
                          : NULL;
        if (val) json_object_set_new(out, key, val);
        else if (needed) return json_decref(out), NULL;
    }
    if (rest && !json_is_false(rest) && depth > 0 && schemas_below(2)) {
        json_t *val = schemas_instance(root, rest, depth - 1);
        const char *extra = schemas_below(2) ? "other" : "abcd";
        if (val) json_object_set_new(out, extra, val);
    }
    return out;
}

static json_t *array_instance(const json_t *root, const json_t *schema, int depth) {
    const json_t *prefix = json_object_get(schema, "prefixItems"),
                 *items = json_object_get(schema, "items");
    json_int_t min = json_integer_value(json_object_get(schema, "minItems"));
    const json_t *max = json_object_get(schema, "maxItems");
    json_int_t n = min + (depth > 0 ? (json_int_t)schemas_below(3) : 0);
    if (max && n > json_integer_value(max)) n = json_integer_value(max);
    json_t *out = json_array();
    for (json_int_t i = 0; i < n; i++) {
        const json_t *sub =
            (size_t)i < json_array_size(prefix) ? json_array_get(prefix, (size_t)i) : items;
        json_t *val = schemas_instance(root, sub, depth - 1);
        if (val == NULL) return json_decref(out), NULL;
        json_array_append_new(out, val);
    }
    return out;
}

static json_t *rule_instance(const json_t *schema) {
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        const char *value = json_string_value(json_object_get(schema, rules[i].keyword));
        if (value && strcmp(value, rules[i].value) == 0)
            return json_string(rules[i].fits[schemas_below(3)]);
    }
    return NULL;
}

static json_t *string_instance(const json_t *schema) {
    static const char *const chars[] = {"a",    "Z", " ",  "\"", "\\",   "/",     "\n",
                                        "\x01", "é", "日", "👍",  "\x7f", "\u2028"};
    json_int_t min = json_integer_value(json_object_get(schema, "minLength"));
    const json_t *max = json_object_get(schema, "maxLength");
    json_int_t n = min + (json_int_t)schemas_below(5);
    if (max && n > json_integer_value(max)) n = json_integer_value(max);
    buf text = {0};
    buf_puts(&text, "");
    for (json_int_t i = 0; i < n; i++)
        buf_puts(&text, chars[schemas_below(ARRAY_LEN(chars))]);
    json_t *out = json_stringn(text.data ? text.data : "", text.len);
    buf_deinit(&text);
    return out;
}

static double bound(const json_t *schema, const char *key, const char *other, double otherwise) {
    const json_t *one = json_object_get(schema, key), *two = json_object_get(schema, other);
    return one ? json_number_value(one) : two ? json_number_value(two) : otherwise;
}

/* On a grid of units, near one of the bounds. */
static json_t *number_instance(const json_t *schema, bool integer) {
    const json_t *of = json_object_get(schema, "multipleOf");
    double unit = of ? json_number_value(of) : integer ? 1 : 0.125;
    double low = bound(schema, "minimum", "exclusiveMinimum",
                       bound(schema, "maximum", "exclusiveMaximum", 500) - 500);
    double high = bound(schema, "maximum", "exclusiveMaximum", low + 1000);
    double from = ceil(low / unit), to = floor(high / unit);
    uint32_t pick = schemas_below(4), room = to > from ? (uint32_t)(to - from) : 0;
    double n = (pick == 0 ? from : pick == 1 ? to : from + schemas_below(room + 1)) * unit;
    return n == floor(n) ? json_integer((json_int_t)n) : json_real(n);
}

/* What the first schema allows, with what the second says of further keys. */
static json_t *both_instance(const json_t *root, const json_t *list, int depth) {
    json_t *out = schemas_instance(root, json_array_get(list, 0), depth), *sub;
    const json_t *first = json_object_get(json_array_get(list, 0), "properties"),
                 *more = json_object_get(json_array_get(list, 1), "properties");
    const char *key;
    if (json_is_real(out)) { /* multiples of whole numbers have no point */
        double n = json_real_value(out);
        json_decref(out);
        return n == floor(n) ? json_integer((json_int_t)n) : NULL;
    }
    if (!json_is_object(out)) return out;
    json_t *ordered = json_object(), *one;
    json_object_foreach(out, key, one) {
        if (json_object_get(first, key)) json_object_set(ordered, key, one);
    }
    json_object_foreach((json_t *)(uintptr_t)more, key, sub) {
        if (json_object_get(first, key) || schemas_below(3) == 0) continue;
        json_t *val = schemas_instance(root, sub, depth - 1);
        if (val) json_object_set_new(ordered, key, val);
    }
    json_object_foreach(out, key, one) { /* keys without a name come last */
        if (!json_object_get(first, key) && !json_object_get(more, key))
            json_object_set(ordered, key, one);
    }
    json_decref(out);
    return ordered;
}

static json_t *keyed_instance(const json_t *root, const json_t *schema, int depth) {
    static const char *const names[] = {"ab", "na\"me", "x", "1", "x-y", "q", "b2"};
    const json_t *patterns = json_object_get(schema, "patternProperties"),
                 *properties = json_object_get(schema, "properties");
    json_t *out = json_object(), *sub;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)properties, key, sub) {
        json_t *val = schemas_below(2) ? schemas_instance(root, sub, depth - 1) : NULL;
        if (val) json_object_set_new(out, key, val);
    }
    for (uint32_t n = schemas_below(3); n > 0; n--) {
        key = names[schemas_below(ARRAY_LEN(names))];
        if (strchr(key, '"') && !patterns && !json_object_get(schema, "propertyNames")) continue;
        const json_t *one = key[0] == 'x'                ? json_object_get(patterns, "^x")
                            : strpbrk(key, "0123456789") ? json_object_get(patterns, "^\\w?\\d$")
                                                         : NULL;
        if (one == NULL) one = json_object_get(schema, "additionalProperties");
        json_t *val = schemas_instance(root, one, depth - 1);
        if (val) json_object_set_new(out, key, val);
    }
    return out;
}

static json_t *checked(const json_t *root, const json_t *schema, json_t *val) {
    if (val && schemas_valid(root, schema, val)) return val;
    json_decref(val);
    return NULL;
}

/* A fitting value, or NULL if the depth does not suffice. */
json_t *schemas_instance(const json_t *root, const json_t *schema, int depth) {
    static const char *const reals[] = {"0.5", "-1.25e3", "1e-7", "3", "-0", "123456.75", "1E+5"};
    if (depth < -20) return NULL;
    schema = deref(root, schema);
    if (json_is_true(schema)) return random_value(2);
    if (json_is_false(schema)) return NULL;
    if (json_object_get(schema, "allOf"))
        return checked(root, schema, both_instance(root, json_object_get(schema, "allOf"), depth));
    const json_t *any = json_object_get(schema, "anyOf"), *values = json_object_get(schema, "enum");
    const json_t *type = json_object_get(schema, "type");
    if (any) {
        size_t first = depth > 0 ? schemas_below(2) : 0;
        json_t *val = schemas_instance(root, json_array_get(any, first), depth - 1);
        return val ? val : schemas_instance(root, json_array_get(any, !first), depth - 1);
    }
    if (values)
        return json_deep_copy(
            json_array_get(values, schemas_below((uint32_t)json_array_size(values))));
    if (json_object_get(schema, "const")) return json_deep_copy(json_object_get(schema, "const"));
    const char *name =
        json_string_value(json_is_array(type) ? json_array_get(type, schemas_below(2)) : type);
    if (strcmp(name, "null") == 0) return json_null();
    if (strcmp(name, "boolean") == 0) return json_boolean(schemas_below(2));
    bool integer = strcmp(name, "integer") == 0;
    if (integer || (strcmp(name, "number") == 0 && json_object_size(schema) > 1))
        return checked(root, schema, number_instance(schema, integer));
    if (json_object_get(schema, "pattern") || json_object_get(schema, "format"))
        return checked(root, schema, rule_instance(schema));
    if (strcmp(name, "string") == 0) return string_instance(schema);
    if (strcmp(name, "array") == 0) return array_instance(root, schema, depth);
    if (json_object_get(schema, "propertyNames") || json_object_get(schema, "patternProperties") ||
        json_object_get(schema, "minProperties") || json_object_get(schema, "maxProperties"))
        return checked(root, schema, keyed_instance(root, schema, depth));
    if (strcmp(name, "object") == 0) return object_instance(root, schema, depth);
    return json_loads(reals[schemas_below(ARRAY_LEN(reals))], JSON_DECODE_ANY, NULL);
}
