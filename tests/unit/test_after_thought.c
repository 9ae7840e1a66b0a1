/* test_after_thought.c - a constraint leaves the reasoning free and holds for the content after it,
 * whatever tokens the close mark comes in. */
#include "api/dialect_internal.h"
#include "api/grammar/vocab_internal.h"
#include "base/hash.h"
#include "tests/lib/chat.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(after_thought, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { END, OPEN, CLOSE }; /* control tokens of the vocabulary */
static const char *const specials[] = {"<end>", "[T]", "[/T]", NULL};
static const char *const others[] = {"<think>", "</think>",     "</",        "think",      "k>\n\n",
                                     ">{",      "\n\n",         "a</think>", "a</think>{", ">\n1",
                                     "</t",     "\n\n\n\n\n\n", NULL};
static const api__marks think = {"<think>", "</think>"}, control = {"[T]", "[/T]"},
                        spelled = {"<reasoning>", "</reasoning>"};

typedef struct {
    tokenizer *tok;
    api__vocab *vocab;
    api__grammar *grammar;
    api__workspace *work;
    api__constraint *content;
    api__after_thought *after;
    uint32_t stops[1];
    api_request req;
} rig_state;

/* An answer that may reason, and then must be {"a":INTEGER}. */
static void rig_open(rig_state *rig, const api__marks *marks, bool first) {
    static const char schema[] =
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}";
    err e = {0};
    json_setup();
    *rig = (rig_state){.tok = chat_tokenizer(specials, others), .stops = {END}};
    rig->req = (api_request){.marks = marks,
                             .thinks_first = first,
                             .show_thought = true,
                             .stop_ids = rig->stops,
                             .n_stop_ids = 1,
                             .open_id = marks == &control ? OPEN : UINT32_MAX,
                             .close_id = marks == &control ? CLOSE : UINT32_MAX};
    json_t *root = json_loads(schema, 0, NULL);
    cr_assert_eq(api__vocab_open(&rig->vocab, rig->tok, tokenizer_size(rig->tok) + 3, &e), 0);
    cr_assert_eq(api__grammar_compile(&rig->grammar, root, false, "schema", &e), 0);
    cr_assert_eq(api__workspace_create(&rig->work, rig->grammar, rig->vocab, rig->stops, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&rig->content, rig->work, &e), 0);
    cr_assert_eq(api__after_thought_create(&rig->after, &rig->req, rig->vocab, rig->content, &e),
                 0);
    json_decref(root);
}

static void rig_close(rig_state *rig) {
    api__after_thought_destroy(rig->after);
    api__constraint_destroy(rig->content);
    api__workspace_destroy(rig->work);
    api__grammar_free(rig->grammar);
    api__vocab_close(rig->vocab);
    tokenizer_close(rig->tok);
}

static bool masked_in(const rig_state *rig, uint32_t id) {
    cr_assert_eq(api__after_thought_calls.make(rig->after), ERR_NONE);
    const eng_mask *mask = api__after_thought_calls.mask(rig->after, 0);
    return mask->words[id / 64] >> id % 64 & 1;
}

static uint32_t id_of(const rig_state *rig, const char *text) {
    uint32_t id = 0;
    cr_assert(tokenizer_find(rig->tok, text, &id), "%s", text);
    return id;
}

static bool allowed(const rig_state *rig, const char *text) {
    return masked_in(rig, id_of(rig, text));
}

static bool taken(const rig_state *rig, const char *text) {
    return api__after_thought_calls.take(rig->after, id_of(rig, text));
}

/* Takes each token; the mask must have allowed it. */
static void write(const rig_state *rig, const char *const *tokens) {
    for (; *tokens; tokens++) {
        cr_expect(allowed(rig, *tokens), "%s", *tokens);
        cr_expect(taken(rig, *tokens), "%s", *tokens);
    }
}
#define WRITE(rig, ...) write(rig, (const char *const[]){__VA_ARGS__, NULL})

/* Only the grammar's text may come, and it may. */
static void expect_content(const rig_state *rig, const char *row) {
    cr_expect(!allowed(rig, "x"), "%s", row);
    cr_expect(!allowed(rig, "<end>"), "%s", row);
    cr_expect(!allowed(rig, "</think>"), "%s", row);
    WRITE(rig, "{", "\"", "a", "\"", ":", "1", "}");
    cr_expect(!allowed(rig, "x") && !allowed(rig, "\n"), "%s", row);
    cr_expect(allowed(rig, "<end>"), "%s", row);
}

Test(after_thought, every_token_but_the_end_tokens_may_come_in_the_reasoning) {
    rig_state rig;
    rig_open(&rig, &think, true);
    for (uint32_t id = 0; id < rig.vocab->n_tokens; id++)
        cr_expect_eq(masked_in(&rig, id), id != END, "%u", id);
    for (uint32_t id = rig.vocab->n_tokens; id < rig.vocab->n_words * 64; id++)
        cr_expect(!masked_in(&rig, id), "beyond the vocabulary: %u", id);
    cr_expect(!taken(&rig, "<end>"));
    WRITE(&rig, "x", "[T]", "{", "<think>", "<", "/", "t", "x");
    cr_expect(!allowed(&rig, "<end>"));
    rig_close(&rig);
}

Test(after_thought, the_grammar_holds_after_the_close_mark_whatever_tokens_the_mark_comes_in) {
    static const char *const rows[][12] = {
        {"</think>"},
        {"x", "</think>"},
        {"<", "/", "t", "h", "i", "n", "k", ">"},
        {"</", "think", ">"},
        {"</", "t", "h", "i", "n", "k>\n\n"},
        {"<", "</think>"},
        {"</", "<", "</", "think", ">", "\n\n"},
        {"a</think>", "\n", "\n\n"},
        {"</t", "h", "</t", "h", "i", "n", "k", ">"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        rig_state rig;
        rig_open(&rig, &think, true);
        write(&rig, rows[i]);
        expect_content(&rig, rows[i][0]);
        rig_close(&rig);
    }
}

Test(after_thought, a_token_that_ends_the_close_mark_and_goes_on_with_other_text_is_refused) {
    rig_state rig;
    rig_open(&rig, &think, true);
    WRITE(&rig, ">{", ">\n1"); /* no mark is open yet */
    WRITE(&rig, "</", "think");
    cr_expect(!allowed(&rig, ">{") && !taken(&rig, ">{"));
    cr_expect(!allowed(&rig, ">\n1") && !taken(&rig, ">\n1"));
    WRITE(&rig, "x");
    cr_expect(allowed(&rig, ">{"));
    cr_expect(!taken(&rig, "a</think>{"), "the whole mark");
    WRITE(&rig, "</", "think", ">");
    expect_content(&rig, "after refusals");
    rig_close(&rig);
}

Test(after_thought, a_control_token_ends_the_reasoning) {
    rig_state rig;
    rig_open(&rig, &control, true);
    WRITE(&rig, "x", "[/T]");
    expect_content(&rig, "control token");
    rig_close(&rig);
    rig_open(&rig, &control, false);
    WRITE(&rig, "[T]", "x", "[/T]", "\n");
    expect_content(&rig, "both");
    rig_close(&rig);
}

Test(after_thought, an_answer_may_begin_with_the_open_mark_or_with_the_content) {
    rig_state rig;
    rig_open(&rig, &think, false);
    cr_expect(!allowed(&rig, "x") && !allowed(&rig, "\n") && !allowed(&rig, "</think>"));
    cr_expect(allowed(&rig, "{"));
    WRITE(&rig, "<think>", "x", "</think>");
    expect_content(&rig, "opened");
    rig_close(&rig);
    rig_open(&rig, &think, false);
    WRITE(&rig, "{");
    cr_expect(!allowed(&rig, "<think>") && !taken(&rig, "<think>"));
    WRITE(&rig, "\"", "a", "\"", ":", "1", "}", "<end>");
    rig_close(&rig);
    rig_open(&rig, &spelled, false);
    cr_expect(!allowed(&rig, "<"), "the mark is no token, so it is not offered");
    expect_content(&rig, "spelled");
    rig_close(&rig);
}

Test(after_thought, only_so_many_newlines_may_come_before_the_content) {
    rig_state rig;
    rig_open(&rig, &think, true);
    WRITE(&rig, "</think>");
    for (int i = 0; i < API__MAX_BLANKS / 6; i++)
        WRITE(&rig, "\n\n\n\n\n\n");
    cr_expect(!allowed(&rig, "\n") && !taken(&rig, "\n"));
    expect_content(&rig, "newlines");
    rig_close(&rig);
}

/* Random tokens, each allowed by the mask. The text must be reasoning, the mark, and content. */
Test(after_thought, a_random_walk_through_the_masks_writes_a_mark_and_then_what_the_schema_says) {
    int reasoned = 0, plain = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        rig_state rig;
        buf text = {0};
        api__answer answer = {0};
        api__thinker thinker = {0};
        uint64_t draw = seed;
        rig_open(&rig, &think, seed % 2);
        for (bool ended = false; !ended && text.len < 4000;) {
            uint32_t id;
            size_t n;
            draw = hash_mix(draw + HASH_STEP);
            /* One draw in eight is the close mark, so that it comes. */
            id = draw % 8 ? (uint32_t)(draw >> 8) % rig.vocab->n_tokens : id_of(&rig, "</think>");
            if (!masked_in(&rig, id) || !api__after_thought_calls.take(rig.after, id)) continue;
            const char *bytes = tokenizer_bytes(rig.tok, id, &n);
            if (bytes && !tokenizer_is_special(rig.tok, id)) buf_append(&text, bytes, n);
            ended = id == END;
        }
        size_t content = api__read_thought(&thinker, &rig.req, &answer, text.data, text.len, true);
        reasoned += answer.thought.len > 0;
        plain += content == 0;
        json_t *value = json_loads(text.data + content, 0, NULL);
        cr_expect(json_is_integer(json_object_get(value, "a")), "seed %llu: %s",
                  (unsigned long long)seed, text.data);
        json_decref(value);
        api__answer_deinit(&answer);
        buf_deinit(&text);
        rig_close(&rig);
    }
    cr_expect_gt(reasoned, 20);
    cr_expect_gt(plain, 20);
}
