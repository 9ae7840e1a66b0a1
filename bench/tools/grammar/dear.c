/* dear.c - schemas slow to compile for their length. n: about so many bytes. */
#include "bench/tools/grammar/grammar.h"

static void many_types(buf *out, int n) {
    buf_puts(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; out->len + 80 < (size_t)n && i < 500; i++)
        buf_printf(out,
                   "%s\"%x\":{\"type\":[\"integer\",\"string\",\"array\",\"object\",\"null\"]}",
                   i ? "," : "", i);
    buf_puts(out, "}}");
}

static void many_enums(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"prefixItems\":[");
    for (int i = 0; out->len + 60 < (size_t)n && i < 500; i++)
        buf_printf(out, "%s{\"enum\":[%d,1,2,3,4,5,6,7,8,9]}", i ? "," : "", i);
    buf_puts(out, "]}");
}

/* Each object has many names and requires the last again and again. */
static void many_required(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"prefixItems\":[");
    for (int i = 0; out->len + 200 < (size_t)n && i < 500; i++) {
        buf_printf(out, "%s{\"type\":\"object\",\"properties\":{", i ? "," : "");
        for (int k = 0; k < 1 || (k < 250 && out->len + 100 < (size_t)n); k++)
            buf_printf(out, "%s\"%x\":{}", k ? "," : "", k);
        buf_puts(out, ",\"z\":{}},\"required\":[\"z\"");
        for (int k = 0; k < 250 && out->len + 50 < (size_t)n; k++)
            buf_puts(out, ",\"z\"");
        buf_puts(out, "]}");
    }
    buf_puts(out, "]}");
}

/* Each object needs the next. */
static void long_chain(buf *out, int n) {
    int k = 0;
    buf_puts(out, "{\"$ref\":\"#/$defs/0\",\"$defs\":{");
    for (; out->len + 80 < (size_t)n && k < 2000; k++)
        buf_printf(out, "\"%x\":{\"properties\":{\"a\":{\"$ref\":\"#/$defs/%x\"}}},", k, k + 1);
    buf_printf(out, "\"%x\":{\"enum\":[1]}}}", k);
}

static void many_patterns(buf *out, int n) {
    buf_puts(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; out->len + 80 < (size_t)n && i < 500; i++)
        buf_printf(out, "%s\"%x\":{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){%d}\"}",
                   i ? "," : "", i, 5 + i % 3);
    buf_puts(out, "}}");
}

const bench_schema bench_dear[] = {
    {"properties of five types each", BENCH_SCHEMA, many_types, 0},
    {"enums of ten", BENCH_SCHEMA, many_enums, 0},
    {"one name required again and again", BENCH_SCHEMA, many_required, 0},
    {"a chain of references", BENCH_SCHEMA, long_chain, 0},
    {"patterns with many states", BENCH_SCHEMA, many_patterns, 0},
};
const size_t bench_n_dear = sizeof bench_dear / sizeof bench_dear[0];
