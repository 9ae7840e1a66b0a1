/* test_api_examples.c - examples.json: a good file is shown in the model's card, a wrong one is
 * warned of and left out. */
#include "api/api_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/files.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(api_examples);

/* Opens the model with this examples.json (NULL: without one). Returns the examples of its card;
 * NULL if the card has none. `said` gets the log. */
static json_t *shown(const char *text, size_t n, char *said, size_t said_bytes) {
    tmp_dir dir = tmp_dir_create();
    if (text) file_put(dir.path, "examples.json", text, n);
    api_opts opts = {.model_dir = dir.path, .model = fixture.model, .tokenizer = fixture.tokenizer};
    api_context *ctx = NULL;
    err e = {0};
    int kept = stderr_catch();
    int rc = api_context_open(&ctx, &opts, &e);
    stderr_release(kept, said, said_bytes);
    cr_assert_eq(rc, 0, "%s", e.msg);
    buf card = {0};
    api_models(ctx, &card);
    json_t *root = json_loadb(card.data, card.len, 0, NULL);
    cr_assert_not_null(root, "%s", card.data);
    const json_t *model = json_array_get(json_object_get(root, "data"), 0);
    json_t *examples = json_object_get(json_object_get(model, "meta"), "examples");
    json_incref(examples);
    json_decref(root);
    buf_deinit(&card);
    api_context_close(ctx);
    tmp_dir_remove(&dir);
    return examples;
}

static void expect_shown(const char *text, const char *want) {
    char said[2000];
    json_t *examples = shown(text, strlen(text), said, sizeof said);
    cr_expect_str_eq(said, "", "%s", said);
    cr_assert_not_null(examples, "%s", text);
    char *dumped = json_dumps(examples, JSON_COMPACT);
    cr_expect_str_eq(dumped, want);
    free(dumped);
    json_decref(examples);
}

Test(api_examples, a_good_file_is_shown_without_members_that_are_unknown) {
    expect_shown("[{\"title\":\"One\",\"prompt\":\"Say\\n\\u00e9\"}]",
                 "[{\"title\":\"One\",\"prompt\":\"Say\\n\u00e9\"}]");
    expect_shown(
        "[{\"note\":\"n\",\"prompt\":\"p\",\"title\":\"t\",\"color\":\"red\",\"kind\":\"compare\","
        "\"loops\":[1,2,null],\"stop\":[\".\",\"\\n\"],\"max_tokens\":4,\"temperature\":0,"
        "\"seed\":-7,\"answer\":\" Zoe\"}]",
        "[{\"title\":\"t\",\"prompt\":\"p\",\"kind\":\"compare\",\"max_tokens\":4,"
        "\"temperature\":0,\"seed\":-7,\"stop\":[\".\",\"\\n\"],\"loops\":[1,2,null],"
        "\"answer\":\" Zoe\",\"note\":\"n\"}]");
    expect_shown("[{\"title\":\"t\",\"prompt\":\"p\",\"kind\":\"chat\",\"loops\":3,\"stop\":\".\","
                 "\"temperature\":0.5}]",
                 "[{\"title\":\"t\",\"prompt\":\"p\",\"kind\":\"chat\",\"temperature\":0.5,"
                 "\"stop\":\".\",\"loops\":3}]");
}

Test(api_examples, without_a_file_or_with_an_empty_list_the_card_has_none) {
    char said[2000];
    cr_expect_null(shown(NULL, 0, said, sizeof said));
    cr_expect_str_eq(said, "");
    cr_expect_null(shown("[]", 2, said, sizeof said));
    cr_expect_str_eq(said, "");
}

/* ---- wrong files ---- */

static const struct {
    const char *text, *says;
} wrong[] = {
    {"", "not valid JSON"},
    {"nonsense", "not valid JSON"},
    {"{\"title\":\"t\",\"prompt\":\"p\"}", "must be a list of at most 32 examples"},
    {"[7]", "example 1: title must be"},
    {"[{\"prompt\":\"p\"}]", "example 1: title must be a text of 1 to 200 bytes"},
    {"[{\"title\":\"t\"}]", "example 1: prompt must be a text of 1 to 8192 bytes"},
    {"[{\"title\":\"\",\"prompt\":\"p\"}]", "title must be"},
    {"[{\"title\":\"t\",\"prompt\":null}]", "prompt must be"},
    {"[{\"title\":\"t\",\"prompt\":\"a\\u0000b\"}]", "a string holds U+0000"},
    {"[{\"title\":\"t\",\"title\":\"t\",\"prompt\":\"p\"}]", "a key appears twice"},
    {"[{\"title\":\"t\",\"prompt\":\"p\"},{\"title\":\"t\",\"prompt\":\"p\",\"kind\":\"poem\"}]",
     "example 2: kind must be completion, chat or compare"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"max_tokens\":0}]", "max_tokens must be an integer"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"max_tokens\":1.5}]", "max_tokens must be an integer"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"temperature\":2.1}]", "temperature must be a number"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"temperature\":-1}]", "temperature must be a number"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"seed\":\"x\"}]", "seed must be an integer"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"stop\":7}]", "stop must be a text"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"stop\":[\"\"]}]", "stop must be a text"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"loops\":0}]", "loops must be a number of loops"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"loops\":257}]", "loops must be a number of loops"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"loops\":[]}]", "loops must be a number of loops"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"loops\":[1,\"2\"]}]", "loops must be a number of loops"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"loops\":[1,1,1,1,1,1,1,1,1]}]", "list of 1 to 8"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"answer\":{}}]", "answer must be a text"},
    {"[{\"title\":\"t\",\"prompt\":\"p\",\"note\":[[[[[[[[[[]]]]]]]]]]}]", "nested"},
};

Test(api_examples, a_wrong_file_is_warned_of_and_left_out) {
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char said[2000];
        cr_expect_null(shown(wrong[i].text, strlen(wrong[i].text), said, sizeof said), "row %zu",
                       i);
        cr_expect_not_null(strstr(said, "examples.json: "), "row %zu: %s", i, said);
        cr_expect_not_null(strstr(said, wrong[i].says), "row %zu: %s", i, said);
    }
}

Test(api_examples, a_file_with_too_much_in_it_is_left_out) {
    static const struct {
        size_t n_examples, prompt_bytes;
        const char *says; /* NULL: it fits */
    } sizes[] = {
        {32, 10, NULL},     {33, 10, "at most 32 examples"},
        {1, 8192, NULL},    {1, 8193, "prompt must be a text of 1 to 8192 bytes"},
        {9, 8000, "65536"}, /* the file's limit */
    };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        buf text = {0};
        char said[2000];
        for (size_t k = 0; k < sizes[i].n_examples; k++) {
            buf_puts(&text,
                     k ? ",{\"title\":\"t\",\"prompt\":\"" : "[{\"title\":\"t\",\"prompt\":\"");
            for (size_t n = 0; n < sizes[i].prompt_bytes; n++)
                buf_puts(&text, "x");
            buf_puts(&text, "\"}");
        }
        buf_puts(&text, "]");
        json_t *examples = shown(text.data, text.len, said, sizeof said);
        cr_expect_eq(examples == NULL, sizes[i].says != NULL, "row %zu: %s", i, said);
        if (sizes[i].says) cr_expect_not_null(strstr(said, sizes[i].says), "row %zu: %s", i, said);
        json_decref(examples);
        buf_deinit(&text);
    }
}
