/* test_tokenizer_files.c - unused or contradictory entries of real tokenizer.json files: read as
 * the reference reads them, with a warning. */
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "text/tokenizer.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(tokenizer_files, .fini = fail_on_leaks, .timeout = HANGS_S);

/* Parts of a byte-level file; the vocabulary has the bytes as ids 0 to 255. */
typedef struct {
    const char *added, *vocab, *merges, *model, *post; /* NULL: nothing */
    uint32_t rows;                                     /* 0: 400 */
} parts;

static char said[2000]; /* warnings of the last file */

static int parse(tokenizer **tok, const parts *file, err *e) {
    buf json = {0};
    buf_printf(&json, "{\"added_tokens\":[%s],\"decoder\":{\"type\":\"ByteLevel\"},",
               file->added ? file->added : "");
    if (file->post) buf_printf(&json, "\"post_processor\":%s,", file->post);
    buf_puts(&json, "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                    "\"use_regex\":false},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    put_byte_vocabulary(&json, 0);
    buf_printf(&json, "%s%s},\"merges\":[%s]%s%s}}", file->vocab ? "," : "",
               file->vocab ? file->vocab : "", file->merges ? file->merges : "",
               file->model ? "," : "", file->model ? file->model : "");
    int kept = stderr_catch();
    int rc = tokenizer_parse(tok, json.data, json.len, file->rows ? file->rows : 400,
                             "tokenizer.json", e);
    stderr_release(kept, said, sizeof said);
    buf_deinit(&json);
    return rc;
}

static tokenizer *open_file(parts file) {
    tokenizer *tok = NULL;
    err e = {0};
    cr_assert_eq(parse(&tok, &file, &e), 0, "%s", e.msg);
    return tok;
}

static void expect(const tokenizer *tok, const char *text, bool special, const char *want) {
    buf got = {0};
    put_pieces(&got, tok, text, strlen(text), special);
    cr_expect_str_eq(got.data ? got.data : "", want, "'%s'", text);
    buf_deinit(&got);
}

static void expect_said(const char *words) {
    cr_expect(strstr(said, words), "'%s' is not in '%s'", words, said);
}

/* ---- tokens past the model's rows ---- */

Test(tokenizer_files, an_added_token_past_the_rows_is_no_token_and_its_spelling_is_text) {
    tokenizer *tok =
        open_file((parts){.rows = 300,
                          .added = "{\"id\":299,\"content\":\"<in>\",\"special\":true},"
                                   "{\"id\":300,\"content\":\"<out>\",\"special\":true},"
                                   "{\"id\":5000000000,\"content\":\"<far>\",\"special\":false}"});
    uint32_t id;
    size_t n;
    expect_said("added_tokens with an id past the model's 300 rows: 2");
    cr_expect_null(strstr(strchr(said, '\n'), "past"), "said once: %s", said);
    expect(tok, "a<in>b<out><far>", true, "a|<in>|b|<|o|u|t|>|<|f|a|r|>");
    cr_expect(tokenizer_find(tok, "<in>", &id) && id == 299);
    cr_expect_not(tokenizer_find(tok, "<out>", &id));
    cr_expect_not(tokenizer_find(tok, "<far>", &id));
    cr_expect_not(tokenizer_is_control(tok, 300));
    tokenizer_mark_control(tok, "<out>", 5);
    cr_expect_not(tokenizer_is_control(tok, 300));
    cr_expect_null(tokenizer_bytes(tok, 300, &n));
    cr_expect_eq(tokenizer_size(tok), 300);
    tokenizer_close(tok);
}

Test(tokenizer_files, an_added_token_past_the_rows_may_also_stand_in_the_vocabulary) {
    tokenizer *tok =
        open_file((parts){.rows = 300,
                          .vocab = "\"<out>\":300,\"ab\":256",
                          .added = "{\"id\":300,\"content\":\"<out>\",\"special\":true}",
                          .model = "\"ignore_merges\":true"});
    expect(tok, "<out>", true, "<|o|u|t|>");
    expect(tok, "ab", true, "ab");
    tokenizer_close(tok);
    tokenizer *none = NULL;
    err e = {0};
    parts file = {.rows = 300, .vocab = "\"<out>\":300"};
    cr_assert_eq(parse(&none, &file, &e), -1, "an ordinary token past the rows");
    cr_expect(strstr(e.msg, "'<out>' has id 300, past the model's 300"), "%s", e.msg);
}

Test(tokenizer_files, a_merge_does_not_lead_to_a_special_token_or_past_the_rows) {
    tokenizer *tok =
        open_file((parts){.rows = 300,
                          .vocab = "\"ab\":256,\"cd\":300,\"abx\":257",
                          .merges = "\"a b\",\"c d\",[\"ab\",\"x\"]",
                          .added = "{\"id\":256,\"content\":\"ab\",\"special\":true},"
                                   "{\"id\":300,\"content\":\"cd\",\"special\":false}"});
    expect_said("merges left out because they make special tokens of plain text: 2");
    expect(tok, "abxcd", false, "a|b|x|c|d");
    expect(tok, "abxcd", true, "ab|x|c|d");
    tokenizer_close(tok);
}

/* ---- contradictory entries ---- */

Test(tokenizer_files, the_last_entry_of_a_spelling_counts) {
    tokenizer *tok = open_file((parts){.added = "{\"id\":300,\"content\":\"<x>\",\"special\":true},"
                                                "{\"id\":300,\"content\":\"<x>\",\"special\":false,"
                                                "\"normalized\":true}"});
    expect_said("spellings listed twice in added_tokens: 1");
    cr_expect_not(tokenizer_is_special(tok, 300));
    expect(tok, "a<x>", false, "a|<x>");
    tokenizer_close(tok);
}

Test(tokenizer_files, the_vocabularys_id_goes_before_that_of_added_tokens) {
    tokenizer *tok = open_file((parts){
        .vocab = "\"<x>\":256", .added = "{\"id\":300,\"content\":\"<x>\",\"special\":true}"});
    uint32_t id;
    expect_said("added_tokens with another id in the vocabulary: 1");
    cr_expect(tokenizer_find(tok, "<x>", &id) && id == 256);
    cr_expect(tokenizer_is_special(tok, 256));
    cr_expect_eq(tokenizer_size(tok), 257);
    tokenizer_close(tok);
}

Test(tokenizer_files, an_unknown_token_that_the_vocabulary_lacks_is_none) {
    tokenizer *tok = open_file((parts){.model = "\"unk_token\":\"<unk>\""});
    expect_said("unk_token is not in the vocabulary");
    expect(tok, "ab", false, "a|b");
    tokenizer_close(tok);
}

Test(tokenizer_files, byte_fallback_changes_nothing_where_every_byte_has_a_token) {
    tokenizer *tok = open_file(
        (parts){.model = "\"byte_fallback\":true,\"fuse_unk\":true", .vocab = "\"<0x61>\":256"});
    cr_expect_str_eq(said, "");
    expect(tok, "a\u00e9", false, "a|\xc3|\xa9");
    tokenizer_close(tok);
}

/* ---- flags of added tokens ---- */

Test(tokenizer_files, a_single_word_is_found_between_what_is_no_word) {
    tokenizer *tok = open_file((parts){
        .added = "{\"id\":300,\"content\":\"the\",\"special\":false,\"single_word\":true}"});
    expect(tok, "the the, (the) the", false, "the| |the|,| |(|the|)| |the");
    expect(tok, "then bathe", false, "t|h|e|n| |b|a|t|h|e");
    expect(tok, "the1", false, "t|h|e|1");
    expect(tok, "_the", false, "_|t|h|e");
    expect(tok, "the-the", false, "the|-|the");
    expect(tok, "the\u0301", false, "t|h|e|\xcc|\x81");
    expect(tok, "\u00e9the", false, "\xc3|\xa9|t|h|e");
    expect(tok, "\u24b6the", false, "\xe2|\x92|\xb6|t|h|e");
    expect(tok, "\u20acthe", false, "\xe2|\x82|\xac|the");
    expect(tok, "\U00020000the", false, "\xf0|\xa0|\x80|\x80|t|h|e");
    expect(tok, "thethe", false, "t|h|e|t|h|e");
    tokenizer_close(tok);
}

Test(tokenizer_files, blanks_that_go_along_with_a_token_may_hold_another) {
    tokenizer *tok = open_file(
        (parts){.added = "{\"id\":300,\"content\":\"<r>\",\"special\":false,\"rstrip\":true},"
                         "{\"id\":301,\"content\":\"  \",\"special\":false}"});
    expect(tok, "<r>   a", false, "<r>|  | |a"); /* as the reference */
    expect(tok, "<r> a", false, "<r>|a");
    tokenizer_close(tok);
}

/* ---- post-processors ---- */

#define SPECIALS                                                                                   \
    "{\"id\":300,\"content\":\"<s>\",\"special\":true},"                                           \
    "{\"id\":301,\"content\":\"</s>\",\"special\":true}"
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TOKEN(name) "{\"SpecialToken\":{\"id\":\"" name "\",\"type_id\":0}}"
#define TEMPLATE(parts, ids)                                                                       \
    "{\"type\":\"TemplateProcessing\",\"single\":[" parts "],\"special_tokens\":{" ids "}}"

Test(tokenizer_files, the_token_that_a_post_processor_puts_first_is_told_and_never_added) {
    static const struct {
        const char *post;
        int64_t bos; /* -1: none */
        const char *says;
    } rows[] = {
        {"null", -1, ""},
        {TEMPLATE(TOKEN("<s>") "," TEXT, ""), 300, ""},
        {TEMPLATE(TOKEN("<s>") "," TEXT "," TOKEN("</s>"), ""), 300, ""},
        {TEMPLATE(TEXT "," TOKEN("</s>"), ""), -1, ""},
        {TEMPLATE(TOKEN("B") "," TEXT, "\"B\":{\"id\":\"B\",\"ids\":[301],\"tokens\":[\"</s>\"]}"),
         301, ""},
        {TEMPLATE(TOKEN("<s>") "," TOKEN("</s>") "," TEXT, ""), 300, "'</s>' before every text"},
        {TEMPLATE(TOKEN("<none>") "," TEXT, ""), -1, "'<none>' before every text"},
        {TEMPLATE(TOKEN("B") "," TEXT, "\"B\":{\"ids\":[400]}"), -1, "'B' before every text"},
        {TEMPLATE(TOKEN("B") "," TEXT, "\"B\":{\"ids\":[-1]}"), -1, "'B' before every text"},
        {"{\"type\":\"ByteLevel\",\"trim_offsets\":false}", -1, ""},
        {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE(
             TOKEN("<s>") "," TEXT, "") "]}",
         300, ""},
        {"{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",301],\"cls\":[\"<s>\",300]}", 300, ""},
        {"{\"type\":\"BertProcessing\",\"sep\":3,\"cls\":[\"<s>\"]}", -1, ""},
        {"{\"type\":\"Bespoke\"}", -1, "post_processor Bespoke is not supported"},
        {"{\"type\":3}", -1, ""},
        {"[]", -1, ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tokenizer *tok = open_file((parts){.added = SPECIALS, .post = rows[i].post});
        uint32_t id = 0;
        bool has = tokenizer_bos(tok, &id);
        cr_expect_eq(has ? (int64_t)id : -1, rows[i].bos, "row %zu: %u", i, id);
        expect_said(rows[i].says);
        if (rows[i].says[0] == 0) cr_expect_str_eq(said, "", "row %zu", i);
        expect(tok, "ab", true, "a|b");
        tokenizer_close(tok);
    }
}
