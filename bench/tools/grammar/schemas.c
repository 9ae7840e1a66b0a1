/* schemas.c - the schemas of the benchmark: usual ones, and the most expensive ones known. */
#include "bench/tools/grammar/grammar.h"

/* ---- usual schemas ---- */

#define TEXT "{\"type\":\"string\"}"
#define INTEGER "{\"type\":\"integer\"}"

static void person(buf *out, int n) {
    (void)n;
    buf_puts(out, "{\"type\":\"object\",\"properties\":{\"name\":" TEXT
                  ",\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},"
                  "\"email\":{\"type\":\"string\",\"maxLength\":80},\"tags\":{\"type\":\"array\","
                  "\"items\":" TEXT ",\"maxItems\":5}},"
                  "\"required\":[\"name\",\"age\",\"email\",\"tags\"],"
                  "\"additionalProperties\":false}");
}

/* Objects inside each other, n deep, each with texts of its own. */
static void order(buf *out, int n) {
    for (int i = 0; i < n; i++)
        buf_printf(
            out,
            "{\"type\":\"object\",\"required\":[\"id\",\"part\"],\"properties\":{\"id\":" TEXT
            ",\"state\":{\"enum\":[\"open\",\"paid\",\"sent\"]},\"price_%d\":"
            "{\"type\":\"number\"},\"part\":",
            i);
    buf_puts(out, TEXT);
    for (int i = 0; i < n; i++)
        buf_puts(out, "}}");
}

static void records(buf *out, int n) {
    buf_printf(out,
               "{\"type\":\"array\",\"maxItems\":%d,\"items\":{\"type\":\"object\",\"properties\":{"
               "\"id\":" INTEGER ",\"price\":{\"type\":\"number\"},\"colour\":{\"enum\":[\"red\","
               "\"green\",\"blue\"]},\"note\":{\"type\":[\"string\",\"null\"]}},"
               "\"required\":[\"id\",\"price\",\"colour\",\"note\"],"
               "\"additionalProperties\":false}}",
               n);
}

static void values(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"items\":{\"enum\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\"value %d of the list\"", i ? "," : "", i);
    buf_puts(out, "]}}");
}

static void texts(buf *out, int n) {
    buf_puts(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\"paragraph_%d\":" TEXT, i ? "," : "", i);
    buf_puts(out, "}}");
}

static void short_texts(buf *out, int n) {
    buf_printf(out,
               "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":5,"
               "\"maxLength\":%d}}",
               n);
}

static void measures(buf *out, int n) {
    buf_printf(out,
               "{\"type\":\"array\",\"maxItems\":%d,\"items\":{\"type\":\"object\",\"properties\":{"
               "\"count\":{\"type\":\"integer\",\"minimum\":-20,\"maximum\":5000},"
               "\"mean\":{\"type\":\"number\"},\"id\":" INTEGER "},"
               "\"required\":[\"count\",\"mean\",\"id\"]}}",
               n);
}

static void tree(buf *out, int n) {
    (void)n;
    buf_puts(out, "{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\","
                  "\"properties\":{\"value\":" TEXT ",\"children\":{\"type\":\"array\",\"items\":"
                  "{\"$ref\":\"#/$defs/node\"}}},\"required\":[\"value\",\"children\"],"
                  "\"additionalProperties\":false}}}");
}

static void shapes(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"items\":{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out,
                   "%s{\"type\":\"object\",\"properties\":{\"type\":{\"const\":\"shape %d\"},"
                   "\"label\":" TEXT ",\"size_%d\":{\"type\":\"number\"}},"
                   "\"required\":[\"type\",\"label\"]}",
                   i ? "," : "", i, i);
    buf_puts(out, "]}}");
}

static void described(buf *out, int n) {
    buf_puts(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < n; i++) {
        buf_printf(out, "%s\"field_%d\":{\"type\":\"%s\",\"description\":\"", i ? "," : "", i,
                   i % 3 ? "string" : "boolean");
        for (int k = 0; k < 40; k++)
            buf_puts(out, "says what it is for ");
        buf_puts(out, "\"}");
    }
    buf_puts(out, "},\"required\":[\"field_0\"]}");
}

static void tools(buf *out, int n) {
    buf_puts(out, "[");
    for (int i = 0; i < n; i++)
        buf_printf(out,
                   "%s{\"type\":\"function\",\"function\":{\"name\":\"act_%d\",\"description\":"
                   "\"Does a thing.\",\"parameters\":{\"type\":\"object\",\"properties\":{"
                   "\"place\":" TEXT ",\"unit_%d\":{\"enum\":[\"C\",\"F\"]},\"limit\":" INTEGER
                   "},\"required\":[\"place\"]}}}",
                   i ? "," : "", i, i);
    buf_puts(out, "]");
}

/* Strings under a format or a pattern. */
static void patterned(buf *out, int n) {
    static const char *const rules[] = {
        "\"format\":\"date-time\"",
        "\"format\":\"uuid\"",
        "\"format\":\"email\"",
        "\"format\":\"uri\"",
        "\"pattern\":\"^[A-Z]{2}-[0-9]{4}$\"",
        "\"pattern\":\"^[a-z_]+$\"",
        "\"pattern\":\"x\"",
        "\"pattern\":\"^(\\\\w+ )*\\\\w+$\",\"maxLength\":80",
    };
    buf_printf(out, "{\"type\":\"array\",\"items\":{\"type\":\"string\",%s}}", rules[n]);
}

const bench_schema bench_usual[] = {
    {"any object", BENCH_ANY, NULL, 0},
    {"person: 4 required fields", BENCH_SCHEMA, person, 0},
    {"objects, 4 deep", BENCH_SCHEMA, order, 4},
    {"list of records", BENCH_SCHEMA, records, 20},
    {"list of an enum of 100", BENCH_SCHEMA, values, 100},
    {"5 free texts", BENCH_SCHEMA, texts, 5},
    {"texts of 5 to 40 characters", BENCH_SCHEMA, short_texts, 40},
    {"list of numbers", BENCH_SCHEMA, measures, 20},
    {"recursive tree", BENCH_SCHEMA, tree, 0},
    {"one of 10 objects", BENCH_SCHEMA, shapes, 10},
    {"30 fields with long descriptions", BENCH_SCHEMA, described, 30},
    {"one of 20 tools", BENCH_CALLS, tools, 20},
    {"one of 20 tools, as tags", BENCH_TAGS, tools, 20},
    {"format date-time", BENCH_SCHEMA, patterned, 0},
    {"format uuid", BENCH_SCHEMA, patterned, 1},
    {"format email", BENCH_SCHEMA, patterned, 2},
    {"format uri", BENCH_SCHEMA, patterned, 3},
    {"pattern ^[A-Z]{2}-[0-9]{4}$", BENCH_SCHEMA, patterned, 4},
    {"pattern ^[a-z_]+$", BENCH_SCHEMA, patterned, 5},
    {"pattern x", BENCH_SCHEMA, patterned, 6},
    {"pattern of words, at most 80 characters", BENCH_SCHEMA, patterned, 7},
};
const size_t bench_n_usual = sizeof bench_usual / sizeof bench_usual[0];

/* ---- the most expensive schemas known ---- */

static void alternatives(buf *out, int n, int depth) {
    buf_puts(out, "{\"anyOf\":[");
    for (int i = 0; i < n; i++) {
        buf_printf(out, "%s{\"type\":\"object\",\"properties\":{\"a\":", i ? "," : "");
        if (depth > 1) alternatives(out, n, depth - 1);
        else buf_printf(out, "{\"type\":\"string\",\"maxLength\":%d}", 40 + i);
        buf_printf(out, ",\"b%d\":{}}}", i);
    }
    buf_puts(out, "]}");
}

static void alike(buf *out, int n) {
    alternatives(out, n, 1);
}

static void alike_inside(buf *out, int n) {
    alternatives(out, n, 3);
}

static void strings(buf *out, int n) {
    buf_puts(out, "{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s{\"type\":\"string\",\"maxLength\":%d}", i ? "," : "", 1000 + i);
    buf_puts(out, "]}");
}

static void names(buf *out, int n) {
    buf_puts(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\"property_%d\":" INTEGER, i ? "," : "", i * 7919 % n);
    buf_puts(out, "},\"additionalProperties\":" TEXT "}");
}

static void nested(buf *out, int depth) {
    for (int i = 0; i < depth; i++)
        buf_puts(out, "{\"type\":\"array\",\"minItems\":1,\"items\":");
    buf_puts(out, "{\"type\":[\"string\",\"number\",\"null\"]}");
    for (int i = 0; i < depth; i++)
        buf_puts(out, "}");
}

static void ranges(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"items\":{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", i ? "," : "", i,
                   1000000 + i);
    buf_puts(out, "]}}");
}

const bench_schema bench_worst[] = {
    {"32 strings of different lengths", BENCH_SCHEMA, strings, 32},
    {"512 optional names and additional ones", BENCH_SCHEMA, names, 512},
    {"arrays, 31 deep", BENCH_SCHEMA, nested, 31},
    {"enum of 512 values", BENCH_SCHEMA, values, 512},
    {"32 ranges of integers", BENCH_SCHEMA, ranges, 32},
    {"32 objects that begin alike", BENCH_SCHEMA, alike, 32},
    {"8 in 8 in 8 objects that begin alike", BENCH_SCHEMA, alike_inside, 8},
};
const size_t bench_n_worst = sizeof bench_worst / sizeof bench_worst[0];
