/* vocabulary.c - a vocabulary of 200,000 entries, made from a seed: words with and without a space
 * before them, other scripts, digits, and punctuation that spans a string's end. */
#include "bench/tools/grammar/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 1;
uint32_t bench_below(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

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
    if (id < BENCH_VOCAB - 1 && json_object_get(vocab, key) == NULL)
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
    uint32_t kind = bench_below(100);
    if (kind < 40) out[n++] = ' ';
    if (kind < 80) {
        for (uint32_t turn = 1 + bench_below(4); turn > 0; turn--) {
            const char *part = syllables[bench_below(20)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
        if (kind % 5 == 0 && out[0] != ' ') out[0] = (char)(out[0] - 32);
    } else if (kind < 92) {
        for (uint32_t turn = 1 + bench_below(5); turn > 0; turn--) {
            const char *part = others[bench_below(13)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
    } else if (kind < 95) {
        for (uint32_t turn = 1 + bench_below(3); turn > 0; turn--)
            out[n++] = (char)('0' + bench_below(10));
    } else {
        for (uint32_t turn = bench_below(3); turn > 0; turn--) {
            const char *part = syllables[bench_below(20)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
        for (uint32_t turn = 1 + bench_below(2); turn > 0; turn--) {
            const char *part = marks[bench_below(23)];
            memcpy(out + n, part, strlen(part));
            n += strlen(part);
        }
    }
    return n;
}

tokenizer *bench_vocabulary(void) {
    uint16_t spelling[256];
    spell(spelling);
    json_t *vocab = json_object();
    for (unsigned byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        add_token(vocab, spelling, &one, 1);
    }
    char text[256];
    while (json_object_size(vocab) < BENCH_VOCAB - 1)
        add_token(vocab, spelling, text, piece(text));
    json_t *file =
        json_pack("{s:[{s:i,s:s,s:b}], s:{s:s,s:b,s:b}, s:{s:s}, s:{s:s,s:o,s:[]}}", "added_tokens",
                  "id", BENCH_VOCAB - 1, "content", "<|end|>", "special", 1, "pre_tokenizer",
                  "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 1, "decoder", "type",
                  "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges");
    char *json = json_dumps(file, JSON_COMPACT);
    tokenizer *tok = NULL;
    err e = {0};
    if (json == NULL || tokenizer_parse(&tok, json, strlen(json), BENCH_VOCAB, "bench", &e) != 0) {
        fprintf(stderr, "grammar: %s\n", e.msg);
        exit(1);
    }
    free(json);
    json_decref(file);
    return tok;
}
