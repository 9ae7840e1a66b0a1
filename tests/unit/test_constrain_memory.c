/* test_constrain_memory.c - tokenizer, sampler, schema and constraint when memory runs out:
 * every allocation fails once, and once for good. The answer is ERR_NO_MEMORY, never a
 * smaller vocabulary or a looser grammar. */
#include "api/dialect_internal.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(constrain_memory, .fini = fail_on_leaks, .timeout = HANGS_S);

/* Does its work once. *right: a success gave the same result as with all the memory. */
typedef int attempt(void *ud, bool *right, err *e);

static void sweep(attempt *what, void *ud, const char *name) {
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (long n = 0;; n++) {
            err e = {0};
            bool right = false;
            cr_assert_lt(n, 20000, "%s", name);
            oom_after(n, for_ever);
            int rc = what(ud, &right, &e);
            bool reached = oom_stop();
            if (rc == 0) cr_assert(right, "%s: allocation %ld failed unnoticed", name, n);
            else cr_assert_eq(e.code, ERR_NO_MEMORY, "%s, allocation %ld: %s", name, n, e.msg);
            if (!reached) {
                cr_assert_eq(rc, 0, "%s: %s", name, e.msg);
                break;
            }
        }
    }
}

static size_t n_ids; /* with all the memory */

static int parse_tokenizer(void *ud, bool *right, err *e) {
    const buf *text = ud;
    tokenizer *tok = NULL;
    token_ids ids = {0};
    int rc = tokenizer_parse(&tok, text->data, text->len, 2048, "tokenizer.json", e);
    if (rc != 0) cr_assert_null(tok);
    static const char words[] =
        "In the beginning <|end|> was a word of some lengthandmoreletterstomergethanfitthestack";
    if (rc == 0) rc = tokenizer_encode(tok, words, strlen(words), true, 1000, &ids, e);
    *right = rc == 0 && (n_ids == 0 || ids.n == n_ids);
    if (rc == 0) n_ids = ids.n;
    token_ids_deinit(&ids);
    tokenizer_close(tok);
    return rc;
}

/* A file small enough for thousands of tries: the bytes, two merges, one special token. */
static void small_file(buf *out) {
    json_t *vocab = json_object(), *file;
    for (int byte = 0, next = 256; byte < 256; byte++) {
        bool visible =
            (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        int cp = visible ? byte : next++;
        char key[3] = {(char)cp, 0, 0};
        if (cp >= 0x80) {
            key[0] = (char)(0xc0 | cp >> 6);
            key[1] = (char)(0x80 | (cp & 63));
        }
        json_object_set_new(vocab, key, json_integer(byte));
    }
    json_object_set_new(vocab, "th", json_integer(256));
    json_object_set_new(vocab, "the", json_integer(257));
    file = json_pack("{s:[{s:i, s:s, s:b}], s:{s:s, s:b, s:b}, s:{s:s}, s:{s:s, s:o, s:[s,s]}}",
                     "added_tokens", "id", 300, "content", "<|end|>", "special", 1, "pre_tokenizer",
                     "type", "ByteLevel", "add_prefix_space", 1, "use_regex", 1, "decoder", "type",
                     "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges", "t h", "th e");
    char *text = json_dumps(file, JSON_COMPACT);
    buf_puts(out, text);
    free(text);
    json_decref(file);
}

Test(constrain_memory, a_tokenizer_opens_whole_or_not_at_all) {
    buf text = {0};
    json_setup();
    small_file(&text);
    bool right;
    err e = {0};
    cr_assert_eq(parse_tokenizer(&text, &right, &e), 0, "%s", e.msg);
    cr_assert_gt(n_ids, 20);
    sweep(parse_tokenizer, &text, "tokenizer");
    buf_deinit(&text);
}

/* SentencePiece's way: normalizers of every kind, an added token in normalized text, a decoder. */
static const char sp_file[] =
    "{\"added_tokens\":[{\"id\":30,\"content\":\"<|end|>\",\"special\":true},{\"id\":31,"
    "\"content\":\"In The\",\"normalized\":true}],\"normalizer\":{\"type\":\"Sequence\","
    "\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"},{\"type\":\"Prepend\","
    "\"prepend\":"
    "\"_\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"letters\"},\"content\":\"letter\"},{"
    "\"type\":\"Replace\",\"pattern\":{\"Regex\":\"g+\"},\"content\":\"g\"}]},\"pre_tokenizer\":{"
    "\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":false},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
    "\"String\":\"_\"},\"content\":\" "
    "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":"
    "\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\","
    "\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"_\":1,\"t\":2,\"h\":3,"
    "\"e\":4,\"th\":5,\"the\":6,\"_the\":7,\"<0x0A>\":8,\"m\":9,\"o\":10,\"r\":11,\"om\":12,\"to\":"
    "13,"
    "\"er\":14},\"merges\":[\"t h\",\"th e\",\"_ the\",\"o m\",\"t o\",\"e r\"]}}";

static int decode_back(void *ud, bool *right, err *e) {
    static const char words[] = "In The beginning <|end|> the e\u0301\u0323 letters to "
                                "moremoremoremoremoremoremoremoremoremoremoremoremoremoremore\n";
    const buf *file = ud;
    tokenizer *tok = NULL;
    token_ids ids = {0};
    buf text = {0};
    int rc = tokenizer_parse(&tok, file->data, file->len, 2048, "tokenizer.json", e);
    if (rc != 0) cr_assert_null(tok);
    if (rc == 0) rc = tokenizer_encode(tok, words, strlen(words), true, 1000, &ids, e);
    if (rc == 0) rc = tokenizer_decode(tok, ids.data, ids.n, false, &text, e);
    *right = rc == 0 && ids.n > 60 && text.len > 100 && memcmp(text.data, "in the", 6) == 0;
    buf_deinit(&text);
    token_ids_deinit(&ids);
    tokenizer_close(tok);
    return rc;
}

Test(constrain_memory, text_is_encoded_and_decoded_whole_or_not_at_all) {
    buf file = {0};
    bool right = false;
    err e = {0};
    json_setup();
    buf_puts(&file, sp_file);
    cr_assert_eq(decode_back(&file, &right, &e), 0, "%s", e.msg);
    cr_assert(right);
    sweep(decode_back, &file, "decoding");
    buf_deinit(&file);
}

static int create_sampler(void *ud, bool *right, err *e) {
    (void)ud;
    eng_sampler *sampler = NULL;
    int rc = eng_sampler_create(&sampler, 100, e);
    *right = rc == 0 && sampler;
    if (rc != 0) cr_assert_null(sampler);
    eng_sampler_destroy(sampler);
    return rc;
}

Test(constrain_memory, a_sampler_is_whole_or_not_at_all) {
    sweep(create_sampler, NULL, "sampler");
}

typedef struct {
    const json_t *schema, *tools; /* tools: calls as JSON or, with tags, as tags */
    bool tags;
    const api__vocab *vocab;
    const char *text; /* the grammar must take it */
} job;

static bool takes(const api__grammar *grammar, const char *text) {
    api__automaton machine;
    api__readings now, next;
    err e = {0};
    if (api__automaton_init(&machine, grammar, &e) != 0)
        return true; /* reports its error; not tested here */
    api__automaton_start(&machine, &now);
    for (const char *at = text; *at; at++) {
        api__automaton_step(&machine, &now, (uint8_t)*at, &next);
        now = next;
    }
    bool done = api__automaton_done(&machine, &now);
    api__automaton_deinit(&machine);
    return done;
}

static int compile_and_constrain(void *ud, bool *right, err *e) {
    const job *task = ud;
    const uint32_t stop = 2047;
    api__grammar *grammar = NULL;
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    int rc = task->tags    ? api__grammar_compile_tags(&grammar, task->tools, NULL, "tools", e)
             : task->tools ? api__grammar_compile_tools(&grammar, task->tools, NULL, "tools", e)
                           : api__grammar_compile(&grammar, task->schema, false, "schema", e);
    if (rc != 0) cr_assert_null(grammar);
    if (rc == 0) rc = api__workspace_create(&work, grammar, task->vocab, &stop, 1, e);
    if (rc == 0) rc = api__constraint_create(&constr, work, e);
    *right = rc == 0 && takes(grammar, task->text);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    return rc;
}

static int read_calls(void *ud, bool *right, err *e) {
    static api__param params[] = {{"a", API__TYPE_OBJECT}, {"b", API__TYPE_STRING}};
    static api__tool tool = {"f", params, ARRAY_LEN(params)};
    const api_request req = {.tools = &tool, .n_tools = 1};
    const char *text = ud;
    api__answer answer = {0};
    api__notation_tags.read(&req, &answer, text, strlen(text), true);
    bool failed = answer.said.failed || answer.args.failed;
    *right = !failed && answer.n_calls == 5 && answer.said.len == 3 &&
             memcmp(answer.args.data, "{\"a\":{\"k\":[1]},\"b\":\"x\"}{}", 25) == 0;
    api__answer_deinit(&answer);
    return failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory") : 0;
}

Test(constrain_memory, an_answers_calls_are_read_or_its_memory_ran_out) {
    static char text[] =
        "So: <function=f><parameter=a>{\"k\":[1]}</parameter><parameter=b>x</parameter></function>"
        "<function=f></function><function=f></function><function=f></function>"
        "<function=f></function>";
    json_setup();
    sweep(read_calls, text, "calls");
}

static int open_vocab(void *ud, bool *right, err *e) {
    api__vocab *vocab = NULL;
    int rc = api__vocab_open(&vocab, ud, 2048, e);
    *right = rc == 0 && vocab;
    if (rc != 0) cr_assert_null(vocab);
    api__vocab_close(vocab);
    return rc;
}

Test(constrain_memory, a_grammar_is_never_looser_for_want_of_memory) {
    tokenizer *tok = NULL;
    api__vocab *vocab = NULL;
    err e = {0};
    json_setup();
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 2048, &e), 0);
    cr_assert_eq(api__vocab_open(&vocab, tok, 2048, &e), 0);
    sweep(open_vocab, tok, "vocabulary");
    json_t *schema = json_loads(
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"boolean\",\"null\",\"string\"]},"
        "\"b\":{\"enum\":[1,\"x\"]},"
        "\"c\":{\"anyOf\":[{\"$ref\":\"#\"},{\"const\":[2]}]}},\"required\":[\"a\",\"b\",\"c\","
        "\"d\"],"
        "\"additionalProperties\":{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"}]}}",
        0, NULL);
    json_t *tools = json_loads(
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"function\","
        "\"function\":"
        "{\"name\":\"g\",\"parameters\":{\"type\":\"object\",\"properties\":{\"x\":{}}}}}]",
        0, NULL);
    json_t *patterns = json_loads(
        "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^[a-c]+$\","
        "\"minLength\":2},\"b\":{\"enum\":[\"xy\",\"z\"],\"pattern\":\"y\"}}},"
        "{\"patternProperties\":{\"^n\":{\"type\":\"number\",\"minimum\":0.5}}}],"
        "\"propertyNames\":{\"maxLength\":4},\"required\":[\"a\"]}",
        0, NULL);
    job jobs[] = {
        {patterns, NULL, false, vocab, "{\"a\":\"abc\",\"b\":\"xy\",\"n1\":0.75}"},
        {schema, NULL, false, vocab, "{\"a\":true,\"b\":\"x\",\"c\":[2],\"d\":[1]}"},
        {NULL, NULL, false, vocab, "{\"k\":null}"},
        {NULL, tools, false, vocab, "{\"name\":\"f\",\"arguments\":{}}"},
        {NULL, tools, false, vocab, "{\"name\":\"g\",\"arguments\":{\"x\":1}}"},
        {NULL, tools, true, vocab,
         "<tool_call>\n<function=g>\n<parameter=x>\na\n</parameter>\n</function>\n</tool_call>"},
    };
    for (size_t i = 0; i < ARRAY_LEN(jobs); i++)
        sweep(compile_and_constrain, &jobs[i], jobs[i].text);
    json_decref(schema);
    json_decref(patterns);
    json_decref(tools);
    api__vocab_close(vocab);
    tokenizer_close(tok);
}
