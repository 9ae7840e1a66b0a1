/* grammar.c - the cost per token of holding an answer to a JSON Schema: processor time of one
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
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

/* ---- a vocabulary ---- */

/* Byte-level spelling of a byte, as tokenizer.json has it. */
static void put_byte(char *out, size_t *n, unsigned char byte, const uint16_t spelling[256]) {
    unsigned cp = spelling[byte];
    if (cp < 0x80) {
        out[(*n)++] = (char)cp;
    } else {
        out[(*n)++] = (char)(0xc0 | cp >> 6);
        out[(*n)++] = (char)(0x80 | (cp & 63));
    }
}

static void spell(uint16_t spelling[256]) {
    unsigned next = 256;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool visible =
            (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        spelling[byte] = (uint16_t)(visible ? byte : next++);
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
 * capitals; other scripts; digits; runs of blanks; and punctuation across a string's end. */
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
        for (uint32_t turn = 1 + below(4); turn > 0; turn--) {
            const char *part = syllables[below(20)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
        if (kind % 5 == 0 && out[0] != ' ') out[0] = (char)(out[0] - 32);
    } else if (kind < 92) {
        for (uint32_t turn = 1 + below(5); turn > 0; turn--) {
            const char *part = others[below(13)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
    } else if (kind < 95) {
        for (uint32_t turn = 1 + below(3); turn > 0; turn--)
            out[n++] = (char)('0' + below(10));
    } else {
        for (uint32_t turn = below(3); turn > 0; turn--) {
            const char *part = syllables[below(20)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
        for (uint32_t turn = 1 + below(2); turn > 0; turn--) {
            const char *part = marks[below(23)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
    }
    return n;
}

static tokenizer *make_tokenizer(void) {
    uint16_t spelling[256];
    spell(spelling);
    json_t *vocab = json_object();
    for (unsigned byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        add_token(vocab, spelling, &one, 1);
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
    tokenizer *tok = NULL;
    err e = {0};
    if (json == NULL || tokenizer_parse(&tok, json, strlen(json), VOCAB, "bench", &e) != 0) {
        fprintf(stderr, "grammar: %s\n", e.msg);
        exit(1);
    }
    free(json);
    json_decref(file);
    return tok;
}

/* ---- schemas ---- */

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

static void strings(buf *out, int n) {
    buf_puts(out, "{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s{\"type\":\"string\",\"maxLength\":%d}", i ? "," : "", 1000 + i);
    buf_puts(out, "]}");
}

static void names(buf *out, int n) {
    buf_puts(out, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\"property_%d\":{\"type\":\"integer\"}", i ? "," : "", i * 7919 % n);
    buf_puts(out, "},\"additionalProperties\":{\"type\":\"string\"}}");
}

static void nested(buf *out, int depth) {
    for (int i = 0; i < depth; i++)
        buf_puts(out, "{\"type\":\"array\",\"minItems\":1,\"items\":");
    buf_puts(out, "{\"type\":[\"string\",\"number\",\"null\"]}");
    for (int i = 0; i < depth; i++)
        buf_puts(out, "}");
}

static void values(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"items\":{\"enum\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\"value %d of the list\"", i ? "," : "", i);
    buf_puts(out, "]}}");
}

static void numbers(buf *out, int n) {
    buf_puts(out, "{\"type\":\"array\",\"items\":{\"anyOf\":[");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", i ? "," : "", i,
                   1000000 + i);
    buf_puts(out, "]}}");
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

/* A token of the mask: any in half of the cases, else one ending a value. */
static uint32_t choose(const tokenizer *tok, const eng_mask *mask, uint32_t so_far) {
    static uint32_t can[VOCAB], ends[VOCAB];
    uint32_t n = 0, n_ends = 0;
    for (size_t space = 0; space < mask->n_words; space++) {
        for (uint64_t left = mask->words[space]; left; left &= left - 1) {
            uint32_t id = (uint32_t)(space * 64) + (uint32_t)__builtin_ctzll(left);
            size_t len;
            const char *bytes = tokenizer_bytes(tok, id, &len);
            can[n++] = id;
            if (id == VOCAB - 1 || (len == 1 && strchr("\"}]", *bytes))) ends[n_ends++] = id;
        }
    }
    if (n == 0) return UINT32_MAX;
    return n_ends && (so_far > 200 || below(8) == 0) ? ends[below(n_ends)] : can[below(n)];
}

static void measure(const tokenizer *tok, const api__vocab *vocab, const char *what,
                    const char *text) {
    static double us[MOST];
    const uint32_t stop = VOCAB - 1;
    json_t *schema = json_loads(text, JSON_DECODE_ANY, NULL);
    err e = {0};
    api__grammar *grammar = NULL;
    double begun = cpu_us();
    if (api__grammar_compile(&grammar, schema, "schema", &e) != 0) {
        printf("| %s | refused: %s | | | | | |\n", what, e.msg);
        json_decref(schema);
        return;
    }
    double compiled = cpu_us() - begun, sum = 0;
    uint32_t n = 0, costly = 0;
    uint64_t most_fuel = 0;
    for (int answer = 0; answer < ANSWERS && n < MOST; answer++) {
        api__workspace *space = NULL;
        api__constraint *con = NULL;
        if (api__workspace_create(&space, grammar, vocab, &stop, 1, &e) != 0 ||
            api__constraint_create(&con, space, &e) != 0)
            exit(1);
        for (uint32_t turn = 0; turn < 400 && n < MOST; turn++) {
            double from = cpu_us();
            err_code bad = api__constraint_make(con);
            double to = cpu_us();
            if (api__constraint_fuel(con) > most_fuel) most_fuel = api__constraint_fuel(con);
            us[n] = to - from;
            if (bad != ERR_NONE) {
                sum += us[n++];
                costly++;
                break;
            }
            uint32_t id = choose(tok, api__constraint_mask(con), turn);
            from = cpu_us();
            if (id == UINT32_MAX || !api__constraint_take(con, id)) {
                fprintf(stderr, "grammar: a mask allowed what cannot be taken: %s\n", what);
                exit(1);
            }
            us[n] += cpu_us() - from;
            sum += us[n++];
            if (id == stop) break;
        }
        api__constraint_destroy(con);
        api__workspace_destroy(space);
    }
    qsort(us, n, sizeof *us, by_value);
    printf("| %s | %.0f | %u | %.1f | %.1f | %.1f | %.1f | %llu | %u |\n", what, compiled, n,
           sum / n, us[n / 2], us[n * 99 / 100], us[n - 1], (unsigned long long)most_fuel, costly);
    api__grammar_free(grammar);
    json_decref(schema);
}

int main(void) {
    json_setup();
    tokenizer *tok = make_tokenizer();
    api__vocab *vocab = NULL;
    err e = {0};
    double from = cpu_us();
    if (api__vocab_open(&vocab, tok, VOCAB, &e) != 0) return 1;
    printf("%d entries; the vocabulary's tries take %.0f ms once, when the model is opened\n\n",
           VOCAB, (cpu_us() - from) / 1000);
    puts("| schema | compile, us | tokens | mean, us | p50 | p99 | worst | most fuel | too costly "
         "|");
    puts("|---|---|---|---|---|---|---|---|---|");
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        measure(tok, vocab, usual[i][0], usual[i][1]);
    static const struct {
        const char *what;
        void (*write)(buf *out, int n);
        int n;
    } worst[] = {{"32 strings of different lengths", strings, 32},
                 {"512 optional names and additional ones", names, 512},
                 {"arrays, 31 deep", nested, 31},
                 {"enum of 512 values", values, 512},
                 {"32 ranges of integers", numbers, 32}};
    buf out = {0};
    for (size_t i = 0; i < sizeof worst / sizeof worst[0]; i++) {
        buf_clear(&out);
        worst[i].write(&out, worst[i].n);
        measure(tok, vocab, worst[i].what, out.data);
    }
    buf_clear(&out);
    alternatives(&out, 32, 1);
    measure(tok, vocab, "32 objects that begin alike", out.data);
    buf_clear(&out);
    alternatives(&out, 8, 3);
    measure(tok, vocab, "8 in 8 in 8 objects that begin alike", out.data);
    buf_deinit(&out);
    api__vocab_close(vocab);
    tokenizer_close(tok);
    return 0;
}
