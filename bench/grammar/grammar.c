/* grammar.c - what holding an answer to a JSON Schema costs per token: processor time of one
 * mask and of the token taken after it, for a vocabulary of 200,000 entries made here. Usual
 * schemas and the worst ones known. Built and run by bench/grammar/run.sh; figures in
 * bench/grammar.md. */
#include "api/grammar/constrain_internal.h"
#include "base/buf.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { VOCAB = 200000, MOST = 4000, ANSWERS = 16 };

static uint64_t state = 1;
static uint32_t below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static double cpu_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* ---- a vocabulary ---- */

/* Byte-level spelling of a byte, as tokenizer.json has it. */
static void put_byte(char *out, size_t *n, unsigned char b, const uint16_t spelling[256]) {
    unsigned cp = spelling[b];
    if (cp < 0x80) {
        out[(*n)++] = (char)cp;
    } else {
        out[(*n)++] = (char)(0xc0 | cp >> 6);
        out[(*n)++] = (char)(0x80 | (cp & 63));
    }
}

static void spell(uint16_t spelling[256]) {
    unsigned next = 256;
    for (unsigned b = 0; b < 256; b++) {
        bool visible = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        spelling[b] = (uint16_t)(visible ? b : next++);
    }
}

static void add_token(json_t *vocab, const uint16_t spelling[256], const char *bytes, size_t n) {
    char key[512];
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        put_byte(key, &len, (unsigned char)bytes[i], spelling);
    key[len] = 0;
    size_t id = json_object_size(vocab);
    if (id < VOCAB - 1 && json_object_get(vocab, key) == NULL)
        json_object_set_new(vocab, key, json_integer((json_int_t)id));
}

/* A piece as real vocabularies have them: syllables into words, some after a space, some in
 * capitals; other scripts; digits; runs of blanks; and punctuation that spans a string's end. */
static size_t piece(char *out) {
    static const char *const syllables[] = {"ka", "to", "ing",  "er",   "st", "re", "pre",
                                            "al", "o",  "tion", "ment", "un", "di", "el",
                                            "is", "ch", "ve",   "th",   "qu", "y"};
    static const char *const others[] = {
        "\xc3\xa9",     "\xc3\xbc",     "\xd0\xb8",        "\xd0\xbd",     "\xd0\xb0",
        "\xe0\xa4\x95", "\xe0\xa4\xbe", "\xe0\xb8\x81",    "\xec\x9d\xb4", "\xe6\x97\xa5",
        "\xe6\x9c\xac", "\xd8\xa7",     "\xf0\x9f\x98\x80"};
    static const char *const marks[] = {
        "\"",    "\",",    "\":", "\"}", "\"]", "\\n", "\\\"", "\n", "\n\n", "{\"", "[\"", "\":\"",
        "\",\"", "\": \"", "},",  "],",  "}}",  "\t",  "'",    ".",  ")",    "});", "\\"};
    size_t n = 0;
    uint32_t kind = below(100);
    if (kind < 40) out[n++] = ' ';
    if (kind < 80) {
        for (uint32_t k = 1 + below(4); k > 0; k--) {
            const char *s = syllables[below(20)];
            memcpy(out + n, s, strlen(s));
            n += strlen(s);
        }
        if (kind % 5 == 0 && out[0] != ' ') out[0] = (char)(out[0] - 32);
    } else if (kind < 92) {
        for (uint32_t k = 1 + below(5); k > 0; k--) {
            const char *s = others[below(13)];
            memcpy(out + n, s, strlen(s));
            n += strlen(s);
        }
    } else if (kind < 95) {
        for (uint32_t k = 1 + below(3); k > 0; k--)
            out[n++] = (char)('0' + below(10));
    } else {
        for (uint32_t k = below(3); k > 0; k--) {
            const char *s = syllables[below(20)];
            memcpy(out + n, s, strlen(s));
            n += strlen(s);
        }
        for (uint32_t k = 1 + below(2); k > 0; k--) {
            const char *s = marks[below(23)];
            memcpy(out + n, s, strlen(s));
            n += strlen(s);
        }
    }
    return n;
}

static tokenizer *make_tokenizer(void) {
    uint16_t spelling[256];
    spell(spelling);
    json_t *vocab = json_object();
    for (unsigned b = 0; b < 256; b++) {
        char c = (char)b;
        add_token(vocab, spelling, &c, 1);
    }
    char text[256];
    while (json_object_size(vocab) < VOCAB - 1)
        add_token(vocab, spelling, text, piece(text));
    json_t *file =
        json_pack("{s:[{s:i,s:s,s:b}], s:{s:s,s:b,s:b}, s:{s:s}, s:{s:s,s:o,s:[]}}", "added_tokens",
                  "id", VOCAB - 1, "content", "<|end|>", "special", 1, "pre_tokenizer", "type",
                  "ByteLevel", "add_prefix_space", 0, "use_regex", 1, "decoder", "type",
                  "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges");
    char *json = json_dumps(file, JSON_COMPACT);
    tokenizer *t = NULL;
    err e = {0};
    if (json == NULL || tokenizer_parse(&t, json, strlen(json), VOCAB, "bench", &e) != 0) {
        fprintf(stderr, "grammar: %s\n", e.msg);
        exit(1);
    }
    free(json);
    json_decref(file);
    return t;
}

/* ---- schemas ---- */

static void alternatives(buf *s, int n, int depth) {
    buf_puts(s, "{\"anyOf\":[");
    for (int i = 0; i < n; i++) {
        buf_printf(s, "%s{\"type\":\"object\",\"properties\":{\"a\":", i ? "," : "");
        if (depth > 1) alternatives(s, n, depth - 1);
        else buf_printf(s, "{\"type\":\"string\",\"maxLength\":%d}", 40 + i);
        buf_printf(s, ",\"b%d\":{}}}", i);
    }
    buf_puts(s, "]}");
}

static void strings(buf *s, int n) {
    buf_puts(s, "{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(s, "%s{\"type\":\"string\",\"maxLength\":%d}", i ? "," : "", 1000 + i);
    buf_puts(s, "]}");
}

static void names(buf *s, int n) {
    buf_puts(s, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < n; i++)
        buf_printf(s, "%s\"property_%d\":{\"type\":\"integer\"}", i ? "," : "", i * 7919 % n);
    buf_puts(s, "},\"additionalProperties\":{\"type\":\"string\"}}");
}

static void nested(buf *s, int depth) {
    for (int i = 0; i < depth; i++)
        buf_puts(s, "{\"type\":\"array\",\"minItems\":1,\"items\":");
    buf_puts(s, "{\"type\":[\"string\",\"number\",\"null\"]}");
    for (int i = 0; i < depth; i++)
        buf_puts(s, "}");
}

static void values(buf *s, int n) {
    buf_puts(s, "{\"type\":\"array\",\"items\":{\"enum\":[");
    for (int i = 0; i < n; i++)
        buf_printf(s, "%s\"value %d of the list\"", i ? "," : "", i);
    buf_puts(s, "]}}");
}

static void numbers(buf *s, int n) {
    buf_puts(s, "{\"type\":\"array\",\"items\":{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(s, "%s{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", i ? "," : "", i,
                   1000000 + i);
    buf_puts(s, "]}}");
}

static const char *const usual[][2] = {
    {"any object", "{\"type\":\"object\",\"additionalProperties\":{}}"},
    {"person: 4 required fields", "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":"
                                  "\"string\"},\"age\":{\"type\":\"integer\","
                                  "\"minimum\":0,\"maximum\":150},\"email\":{\"type\":\"string\","
                                  "\"maxLength\":80},\"tags\":{\"type\":"
                                  "\"array\",\"items\":{\"type\":\"string\"},\"maxItems\":5}},"
                                  "\"required\":[\"name\",\"age\",\"email\","
                                  "\"tags\"],\"additionalProperties\":false}"},
    {"list of records", "{\"type\":\"array\",\"maxItems\":20,\"items\":{\"type\":\"object\","
                        "\"properties\":{\"id\":{\"type\":"
                        "\"integer\"},\"price\":{\"type\":\"number\"},\"colour\":{\"enum\":["
                        "\"red\",\"green\",\"blue\"]},"
                        "\"note\":{\"type\":[\"string\",\"null\"]}},\"required\":[\"id\",\"price\","
                        "\"colour\",\"note\"],"
                        "\"additionalProperties\":false}}"},
    {"one of three tools",
     "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"weather\"},"
     "\"arguments\":{"
     "\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"unit\":{\"enum\":[\"C\","
     "\"F\"]}},"
     "\"required\":[\"city\"]}},\"required\":[\"name\",\"arguments\"]},{\"type\":\"object\","
     "\"properties\":"
     "{\"name\":{\"const\":\"search\"},\"arguments\":{\"type\":\"object\",\"properties\":{"
     "\"query\":{"
     "\"type\":\"string\"},\"limit\":{\"type\":\"integer\"}},\"required\":[\"query\"]}},"
     "\"required\":["
     "\"name\",\"arguments\"]},{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"now\"},"
     "\"arguments\":{\"type\":\"object\",\"properties\":{}}},\"required\":[\"name\",\"arguments\"]}"
     "]}"},
    {"recursive tree", "{\"$ref\":\"#/$defs/"
                       "node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"value\":{"
                       "\"type\":\"string\"},\"children\":{\"type\":\"array\",\"items\":{\"$ref\":"
                       "\"#/$defs/node\"}}},"
                       "\"required\":[\"value\",\"children\"],\"additionalProperties\":false}}}"},
};

/* ---- measuring ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A token that the mask allows: any in half of the cases, else one that ends a value. */
static uint32_t choose(const tokenizer *t, const eng_mask *m, uint32_t so_far) {
    static uint32_t can[VOCAB], ends[VOCAB];
    uint32_t n = 0, n_ends = 0;
    for (size_t w = 0; w < m->n_words; w++) {
        for (uint64_t left = m->words[w]; left; left &= left - 1) {
            uint32_t id = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(left);
            size_t len;
            const char *bytes = tokenizer_bytes(t, id, &len);
            can[n++] = id;
            if (id == VOCAB - 1 || (len == 1 && strchr("\"}]", *bytes))) ends[n_ends++] = id;
        }
    }
    if (n == 0) return UINT32_MAX;
    return n_ends && (so_far > 200 || below(8) == 0) ? ends[below(n_ends)] : can[below(n)];
}

static void measure(const tokenizer *t, const api__vocab *v, const char *what, const char *text) {
    static double us[MOST];
    const uint32_t stop = VOCAB - 1;
    json_t *schema = json_loads(text, JSON_DECODE_ANY, NULL);
    err e = {0};
    api__grammar *g = NULL;
    double begun = cpu_us();
    if (api__grammar_compile(&g, schema, "schema", &e) != 0) {
        printf("| %s | refused: %s | | | | | |\n", what, e.msg);
        json_decref(schema);
        return;
    }
    double compiled = cpu_us() - begun, sum = 0;
    uint32_t n = 0, costly = 0;
    uint64_t most_fuel = 0;
    for (int answer = 0; answer < ANSWERS && n < MOST; answer++) {
        api__workspace *w = NULL;
        api__constraint *c = NULL;
        if (api__workspace_create(&w, g, v, &stop, 1, &e) != 0 ||
            api__constraint_create(&c, w, &e) != 0)
            exit(1);
        for (uint32_t k = 0; k < 400 && n < MOST; k++) {
            double from = cpu_us();
            err_code bad = api__constraint_make(c);
            double to = cpu_us();
            if (api__constraint_fuel(c) > most_fuel) most_fuel = api__constraint_fuel(c);
            us[n] = to - from;
            if (bad != ERR_NONE) {
                sum += us[n++];
                costly++;
                break;
            }
            uint32_t id = choose(t, api__constraint_mask(c), k);
            from = cpu_us();
            if (id == UINT32_MAX || !api__constraint_take(c, id)) {
                fprintf(stderr, "grammar: a mask allowed what cannot be taken: %s\n", what);
                exit(1);
            }
            us[n] += cpu_us() - from;
            sum += us[n++];
            if (id == stop) break;
        }
        api__constraint_destroy(c);
        api__workspace_destroy(w);
    }
    qsort(us, n, sizeof *us, by_value);
    printf("| %s | %.0f | %u | %.1f | %.1f | %.1f | %.1f | %llu | %u |\n", what, compiled, n,
           sum / n, us[n / 2], us[n * 99 / 100], us[n - 1], (unsigned long long)most_fuel, costly);
    api__grammar_free(g);
    json_decref(schema);
}

int main(void) {
    json_setup();
    tokenizer *t = make_tokenizer();
    api__vocab *v = NULL;
    err e = {0};
    double from = cpu_us();
    if (api__vocab_open(&v, t, VOCAB, &e) != 0) return 1;
    printf("%d entries; the vocabulary's tries take %.0f ms once, when the model is opened\n\n",
           VOCAB, (cpu_us() - from) / 1000);
    puts("| schema | compile, us | tokens | mean, us | p50 | p99 | worst | most fuel | too costly "
         "|");
    puts("|---|---|---|---|---|---|---|---|---|");
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        measure(t, v, usual[i][0], usual[i][1]);
    static const struct {
        const char *what;
        void (*write)(buf *s, int n);
        int n;
    } worst[] = {{"32 strings of different lengths", strings, 32},
                 {"512 optional names and additional ones", names, 512},
                 {"arrays, 31 deep", nested, 31},
                 {"enum of 512 values", values, 512},
                 {"32 ranges of integers", numbers, 32}};
    buf s = {0};
    for (size_t i = 0; i < sizeof worst / sizeof worst[0]; i++) {
        buf_clear(&s);
        worst[i].write(&s, worst[i].n);
        measure(t, v, worst[i].what, s.data);
    }
    buf_clear(&s);
    alternatives(&s, 32, 1);
    measure(t, v, "32 objects that begin alike", s.data);
    buf_clear(&s);
    alternatives(&s, 8, 3);
    measure(t, v, "8 in 8 in 8 objects that begin alike", s.data);
    buf_deinit(&s);
    api__vocab_close(v);
    tokenizer_close(t);
    return 0;
}
