/* test_costs_text.c - the cost of the worst known texts grows with their size only: tokenizing,
 * writing, matching and comparing (tests/lib/costs.h). */
#include "api/dialect_internal.h"
#include "loadgen/loadgen_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/costs.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "text/tokenizer_internal.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(costs_text);

/* ---- tokenizers ---- */

static const tokenizer *encoding_with;

static void encode(const buf *text) {
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(encoding_with, text->data, text->len, false, SIZE_MAX, &ids, &e),
                 0, "%s", e.msg);
    token_ids_deinit(&ids);
}

/* A pattern may cost too much on a text. The text is then refused, at a cost within its size. */
static void encode_or_refuse(const buf *text) {
    token_ids ids = {0};
    err e = {0};
    if (tokenizer_encode(encoding_with, text->data, text->len, false, SIZE_MAX, &ids, &e) != 0)
        cr_assert_eq(e.code, ERR_BAD_PARAM, "%s", e.msg);
    token_ids_deinit(&ids);
}

static void spaces_and_a_letter(buf *text, size_t size) {
    cost_repeat(text, " ", size);
    buf_puts(text, "x");
}

enum { NORMALIZED = 9 }; /* a normalizer gets this many texts of the table */

static const cost_row texts[] = {
    {"one letter", 3000, NULL, "a", encode},
    {"spaces", 3000, NULL, " ", encode},
    {"spaces and a letter", 3000, spaces_and_a_letter, NULL, encode},
    {"line feeds", 3000, NULL, "\n", encode},
    {"blanks of two kinds", 3000, NULL, " \t", encode},
    {"a pair that merges", 3000, NULL, "ab", encode},
    {"a pair that merges, apart", 3000, NULL, "ab ba", encode},
    {"combining marks", 3000, NULL, "\u0301", encode},
    {"a letter and combining marks", 3000, NULL, "e\u0301\u0323", encode},
    {"digits", 3000, NULL, "1", encode},
    {"digits and points", 3000, NULL, "1.", encode},
    {"alternating scripts", 3000, NULL, "aя字ひ한ع", encode},
    {"apostrophes", 3000, NULL, "'", encode},
    {"contractions", 3000, NULL, "'ll", encode},
    {"upper and lower case", 3000, NULL, "aB", encode},
    {"signs", 3000, NULL, "!?", encode},
    {"joined emoji", 3000, NULL, "👩\u200d", encode},
    {"wide spaces", 3000, NULL, "\u3000\u00a0", encode},
    {"the start of a control token", 3000, NULL, "<|im_", encode},
    {"a control token", 3000, NULL, "<|im_start|>", encode},
};

/* Split patterns as published, in JSON; NULL: ByteLevel's own only. */
static const struct {
    const char *name, *pattern;
} patterns[] = {
    {"whole text", ""},
    {"gpt2", NULL},
    {"llama3",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"},
    {"o200k",
     "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*[\\\\p{Ll}\\\\p{"
     "Lm}\\\\p{Lo}\\\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}"
     "\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*(?i:'s|'t|'re|'ve|"
     "'m|'ll|'d)?|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+"
     "(?!\\\\S)|\\\\s+"},
    {"blanks at end", "\\\\s+$"},
};

/* Bytes, runs of one letter, and a pair; <|im_start|> is a control token. */
static tokenizer *tokenizer_of(const char *pattern) {
    static const char *const merges[][2] = {{"a", "a"}, {"aa", "aa"}, {"a", "b"}, {"ab", "ab"}};
    buf json = {0};
    tokenizer *tok = NULL;
    err e = {0};
    buf_puts(&json,
             "{\"added_tokens\":[{\"id\":300,\"content\":\"<|im_start|>\",\"special\":true}],"
             "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
             "\"pretokenizers\":[");
    if (pattern && pattern[0]) {
        buf_printf(&json,
                   "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\","
                   "\"invert\":false},",
                   pattern);
    }
    buf_printf(&json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":%s}]},",
               pattern ? "false" : "true");
    buf_puts(&json, "\"model\":{\"type\":\"BPE\",\"vocab\":{");
    put_byte_vocabulary(&json, 0);
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        buf_printf(&json, ",\"%s%s\":%zu", merges[i][0], merges[i][1], 256 + i);
    buf_puts(&json, "},\"merges\":[");
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        buf_printf(&json, "%s\"%s %s\"", i ? "," : "", merges[i][0], merges[i][1]);
    buf_puts(&json, "]}}");
    cr_assert_eq(tokenizer_parse(&tok, json.data, json.len, 1000, "file", &e), 0, "%s", e.msg);
    buf_deinit(&json);
    return tok;
}

Test(costs_text, text_costs_its_size_whatever_it_is_and_however_it_is_split) {
    encoding_with = fixture.tokenizer;
    check_costs("demo", texts, ARRAY_LEN(texts));
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        tokenizer *tok = tokenizer_of(patterns[i].pattern);
        encoding_with = tok;
        check_costs(patterns[i].name, texts, ARRAY_LEN(texts));
        tokenizer_close(tok);
    }
}

/* SentencePiece's way: a text is one piece, and every character of these texts may merge. */
static tokenizer *sentencepiece(const char *normalizer) {
    static const char *const made[] = {"aa", "aaaa", "ab", "abab", "\u2581\u2581"};
    buf json = {0};
    tokenizer *tok = NULL;
    err e = {0};
    buf_printf(&json,
               "{\"added_tokens\":[{\"id\":300,\"content\":\"<|im_start|>\",\"special\":true},"
               "{\"id\":301,\"content\":\"aab\",\"normalized\":true,\"single_word\":true}],"
               "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[%s{\"type\":\"Prepend\","
               "\"prepend\":\"\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
               "\"content\":\"\u2581\"}]},\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":"
               "\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":256,\"b\":257,\"\u2581\":258",
               normalizer);
    for (unsigned byte = 0; byte < 256; byte++)
        buf_printf(&json, ",\"<0x%02X>\":%u", byte, byte);
    for (size_t i = 0; i < ARRAY_LEN(made); i++)
        buf_printf(&json, ",\"%s\":%zu", made[i], 260 + i);
    buf_puts(&json, "},\"merges\":[\"a a\",\"aa aa\",\"a b\",\"ab ab\",\"\u2581 \u2581\"]}}");
    cr_assert_eq(tokenizer_parse(&tok, json.data, json.len, 1000, "file", &e), 0, "%s", e.msg);
    buf_deinit(&json);
    return tok;
}

static void decode(const buf *text) {
    size_t n = text->len / sizeof(uint32_t);
    uint32_t *ids = malloc(text->len);
    buf out = {0};
    err e = {0};
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)text->data[i];
    cr_assert_eq(tokenizer_decode(encoding_with, ids, n, false, &out, &e), 0, "%s", e.msg);
    buf_deinit(&out);
    free(ids);
}

Test(costs_text, text_costs_its_size_where_it_is_one_piece_and_normalized) {
    static const struct {
        const char *name, *normalizer;
    } rows[] = {
        {"sentencepiece", ""},
        {"nfc", "{\"type\":\"NFC\"},"},
        {"nfkd, lower case, no accents",
         "{\"type\":\"NFKD\"},{\"type\":\"StripAccents\"},{\"type\":\"Lowercase\"},"},
        {"strip and patterns", "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{"
                               "\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},"
                               "\"content\":\"\u2581\"},"},
    };
    static const cost_row decoded = {"byte tokens", 3000, NULL, "\xe2\x82", decode};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tokenizer *tok = sentencepiece(rows[i].normalizer);
        encoding_with = tok;
        check_costs(rows[i].name, texts, i == 0 ? ARRAY_LEN(texts) : NORMALIZED);
        check_costs(rows[i].name, &decoded, 1);
        tokenizer_close(tok);
    }
}

Test(costs_text, text_costs_its_size_where_patterns_are_interpreted) {
    static const cost_row row = {"spaces and a letter", 3000, spaces_and_a_letter, NULL,
                                 encode_or_refuse};
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        tokenizer *tok = tokenizer_of(patterns[i].pattern);
        for (uint32_t k = 0; k < tok->n_steps; k++)
            tok->steps[k].pattern.jit = false;
        encoding_with = tok;
        check_costs(patterns[i].name, &row, 1);
        tokenizer_close(tok);
    }
}

/* ---- writing, matching and comparing text ---- */

static void write_string(const buf *text) {
    buf out = {0};
    buf_json_string(&out, text->data, text->len);
    cr_assert_not(out.failed);
    buf_deinit(&out);
}

static void whole_characters(const buf *text) {
    api_utf8 utf8 = {0};
    buf out = {0};
    for (size_t i = 0; i < text->len; i++)
        api__utf8_bytes(&utf8, text->data + i, 1, &out);
    api_utf8_finish(&utf8, &out);
    buf_deinit(&out);
}

/* Each stop string matches up to its last one to four characters. The text comes byte by byte. */
static void match_stops(const buf *text) {
    char stop[API__MAX_STOP_BYTES];
    api__stop stops[API__MAX_STOPS];
    api__matcher matcher = {.stops = stops, .n_stops = API__MAX_STOPS};
    int hit;
    memset(stop, 'a', sizeof stop);
    for (size_t i = 0; i < API__MAX_STOPS; i++) {
        stop[sizeof stop - 1 - i] = 'b';
        api__stop_init(&stops[i], stop, sizeof stop);
    }
    for (size_t i = 0; i < text->len; i++)
        (void)api__stop_feed(&matcher, text->data + i, 1, &hit);
}

/* The text comes byte by byte. */
static void read_calls(const buf *text, const api__notation *notation) {
    api__param params[] = {{"a", API__TYPE_ARRAY}};
    api__tool tool = {"f", params, ARRAY_LEN(params)};
    api_request req = {.tools = &tool, .n_tools = 1, .notation = notation};
    api__answer answer = {0};
    for (size_t i = 1; i <= text->len; i++)
        notation->read(&req, &answer, text->data, i, i == text->len);
    api__answer_deinit(&answer);
}

static void scan_call(const buf *text) {
    read_calls(text, &api__notation_json);
}

static void scan_tags(const buf *text) {
    read_calls(text, &api__notation_tags);
}

static void call_of_lists(buf *text, size_t size) {
    cost_fill(text, size, "{\"name\":\"f\",\"arguments\":{\"a\":", "[\"\\\\\\\"\",", "0");
}

static void blanks_before_a_call(buf *text, size_t size) {
    cost_fill(text, size, "", " ", "{\"name\":\"f\"");
}

/* As many as a call may have, each with a name of its own, call after call. */
static void many_params(buf *text, size_t size) {
    while (text->len < size) {
        buf_puts(text, "<function=f>");
        for (int i = 0; i < API__MAX_NAMES; i++)
            buf_printf(text, "<parameter=%03d>1</parameter>", i);
        buf_puts(text, "</function>");
    }
}

static void long_value(buf *text, size_t size) {
    cost_fill(text, size, "<function=f><parameter=a>[[\"", "</paramete",
              "\"]]</parameter></function>");
}

static void render(const buf *text) {
    static api__message messages[API__MAX_MESSAGES];
    size_t each = text->len / API__MAX_MESSAGES;
    for (size_t i = 0; i < API__MAX_MESSAGES; i++) {
        messages[i] = (api__message){
            .role = i % 2 ? API__ASSISTANT : API__USER, .text = text->data + i * each, .len = each};
    }
    const api__traits *traits = api__template_traits(fixture.ctx->template, false);
    json_t *list = api__talk_messages(traits, messages, API__MAX_MESSAGES, false);
    api__talk talk = {.messages = list, .generation = true};
    jinja_output out = {0};
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(api__template_render(fixture.ctx->template, &talk, &out, &e), 0, "%s", e.msg);
    cr_assert_eq(api__template_ids(fixture.tokenizer, &out, &ids, &e), 0, "%s", e.msg);
    json_decref(list);
    jinja_output_deinit(&out);
    token_ids_deinit(&ids);
}

static int on_data(void *ud, const char *json, size_t size) {
    static bench_chunk chunk;
    (void)ud;
    return bench_chunk_read(&chunk, json, size) < -1;
}

/* At most a quarter of the bytes the reader may hold back for the end of a line, byte by byte. */
static void feed_stream(const buf *text) {
    bench_sse sse = {{0}, false};
    for (size_t i = 0; i < text->len; i++)
        (void)bench_sse_feed(&sse, text->data + i, 1, on_data, NULL);
    bench_sse_reset(&sse);
    buf_deinit(&sse.held);
}

static void one_chunk(buf *text, size_t size) {
    cost_fill(text, size, "data: {\"choices\":[{\"depths\":[1", ",1", "]}]}\n\n");
}

static const cost_row writer_rows[] = {
    {"string: control characters", 1000, NULL, "\x01", write_string},
    {"string: line separators", 1000, NULL, "\u2028", write_string},
    {"string: bytes that are not UTF-8", 1000, NULL, "\xff\xe2\x82", write_string},
    {"characters from bytes", 1000, NULL, "\xf0\x9f\x98", whole_characters},
    {"stop strings that nearly match", 1000, NULL, "a", match_stops},
    {"call: lists and escapes", 1000, call_of_lists, NULL, scan_call},
    {"call: blanks before it", 1000, blanks_before_a_call, NULL, scan_call},
    {"tags: calls", 3000, NULL, "<function=f><parameter=a>[1]</parameter></function>", scan_tags},
    {"tags: calls cut off", 1000, NULL, "<tool_call><function=f><parameter=a>", scan_tags},
    {"tags: blanks", 1000, NULL, " \n<", scan_tags},
    {"tags: parameters", 3000, many_params, NULL, scan_tags},
    {"tags: one long value", 3000, long_value, NULL, scan_tags},
    {"template: 1000 messages", 3000, NULL, "ab ", render},
    {"template: 1000 messages of a control token", 3000, NULL, "<|user|>", render},
    {"stream: one chunk", 1000, one_chunk, NULL, feed_stream},
    {"stream: blank lines", 1000, NULL, "\n", feed_stream},
    {"stream: opening brackets", 1000, NULL, "data:{\"a\":[[[\n", feed_stream},
};

Test(costs_text, writing_matching_and_comparing_text_costs_its_size) {
    check_costs("text", writer_rows, ARRAY_LEN(writer_rows));
}
