/* test_forced.c - forced tokens: no possible byte is overlooked; the masks behind them equal masks
 * made one by one; and answers of the demo model, held to schemas, are the same with drafts of
 * them, without drafts, and with a constraint that expects nothing. */
#include "api/grammar/forced_internal.h"
#include "base/size.h"
#include "scheduler/scheduler_internal.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/grammar.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"
#include "tests/property/schemas.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(forced_property, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { VOCAB = 2048, STOP = VOCAB - 1 };

typedef struct {
    tokenizer *tok;
    api__vocab *vocab;
} words;

static words open_words(void) {
    words all;
    err e = {0};
    cr_assert_eq(tokenizer_open(&all.tok, "models/demo", VOCAB, &e), 0, "%s", e.msg);
    cr_assert_eq(api__vocab_open(&all.vocab, all.tok, VOCAB, &e), 0);
    return all;
}

static void close_words(words *all) {
    api__vocab_close(all->vocab);
    tokenizer_close(all->tok);
}

/* ---- bytes ---- */

static bool is_blank(int byte) {
    return byte == ' ' || byte == '\n' || byte == '\t';
}

/* Goes on by an allowed byte, at random. False: there is none. */
static bool check_bytes(api__automaton *machine, api__readings *now, const char *schema,
                        uint32_t *n_few) {
    uint32_t blanks, level, n = 0;
    uint8_t can[256];
    bool in_gap = api__next_gap(machine, now->top[0], &blanks, &level) != API__NO_GAP;
    api__byte_set set;
    api__next_bytes(machine, now, &set);
    *n_few += !set.many;
    for (int byte = 0; byte < 256; byte++) {
        api__readings next;
        uint32_t used = machine->used;
        api__automaton_step(machine, now, (uint8_t)byte, &next);
        api__automaton_rewind(machine, used);
        if (next.n_tops == 0) continue;
        bool named = set.bits[byte / 64] >> byte % 64 & 1;
        bool after = now->top[0] == 0; /* the whole value was read */
        cr_assert(named || set.many || after || (in_gap && is_blank(byte)),
                  "'%c' may come and is not named, for %s", byte, schema);
        can[n++] = (uint8_t)byte;
    }
    if (n == 0) return false;
    api__readings next;
    api__automaton_step(machine, now, can[schemas_below(n)], &next);
    *now = next;
    return true;
}

Test(forced_property, every_byte_that_may_come_next_is_named_or_there_are_many) {
    api__stacks *scratch = malloc(sizeof *scratch);
    uint32_t n_schemas = 0, n_few = 0;
    for (schemas_state = 3; n_schemas < 200; schemas_state += 91) {
        json_t *schema = schemas_random_root();
        char *text = json_dumps(schema, 0);
        api__grammar *grammar = NULL;
        err e = {0};
        if (api__grammar_compile(&grammar, schema, false, "schema", &e) == 0) {
            api__automaton machine;
            api__readings now;
            cr_assert_eq(api__automaton_init(&machine, grammar, &e), 0);
            api__automaton_start(&machine, &now);
            for (int i = 0; i < 200 && check_bytes(&machine, &now, text, &n_few); i++)
                api__automaton_compact(&machine, &now, scratch);
            api__automaton_deinit(&machine);
            n_schemas++;
        }
        api__grammar_free(grammar);
        free(text);
        json_decref(schema);
    }
    cr_assert_gt(n_few, 2000, "%u", n_few);
    free(scratch);
}

/* ---- masks ---- */

typedef struct {
    api__workspace *work;
    api__constraint *constr;
} way;

static way begin(const words *all, const api__grammar *grammar) {
    const uint32_t stop = STOP;
    err e = {0};
    way out;
    cr_assert_eq(api__workspace_create(&out.work, grammar, all->vocab, &stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&out.constr, out.work, &e), 0);
    return out;
}

static void end(way *one) {
    api__constraint_destroy(one->constr);
    api__workspace_destroy(one->work);
}

static uint32_t any_of(const eng_mask *mask) {
    uint32_t can[VOCAB], n = 0;
    for (uint32_t id = 0; id < VOCAB; id++) {
        if (mask->words[id / 64] >> id % 64 & 1) can[n++] = id;
    }
    cr_assert_gt(n, 0, "nowhere to go");
    return can[schemas_below(n)];
}

/* Mostly follows the expected tokens. `other` makes a mask for each token. Returns the number of
 * tokens with a mask made beforehand. */
static uint32_t walk(const words *all, const api__grammar *grammar, const char *schema) {
    way one = begin(all, grammar), other = begin(all, grammar);
    uint32_t n_met = 0;
    bool made = false;
    for (uint32_t n = 0; n < 120; n++) {
        const uint32_t *expected;
        if (!made) cr_assert_eq(api__constraint_make(one.constr), ERR_NONE);
        cr_assert_eq(api__constraint_make(other.constr), ERR_NONE);
        const eng_mask *got = api__constraint_mask(one.constr, 0),
                       *want = api__constraint_mask(other.constr, 0);
        cr_assert_arr_eq(got->words, want->words, want->n_words * sizeof *want->words,
                         "mask %u, made before its token: %d, for %s", n, made, schema);
        uint32_t left = api__constraint_expected(one.constr, &expected);
        bool follows = left > 0 && schemas_below(5) > 0;
        uint32_t token = follows ? expected[0] : any_of(got);
        made = left > 0 && token == expected[0];
        cr_assert(!follows || (got->words[token / 64] >> token % 64 & 1), "a token that is masked");
        n_met += made;
        if (token == STOP) break;
        cr_assert(api__constraint_take(one.constr, token));
        cr_assert(api__constraint_take(other.constr, token));
    }
    end(&one);
    end(&other);
    return n_met;
}

Test(forced_property, masks_behind_forced_tokens_are_those_made_when_they_have_come) {
    words all = open_words();
    uint32_t n_met = 0, n_schemas = 0;
    for (schemas_state = 7; n_schemas < 150; schemas_state += 57) {
        json_t *schema = schemas_random_root();
        char *text = json_dumps(schema, 0);
        api__grammar *grammar = NULL;
        if (api__grammar_compile(&grammar, schema, false, "schema", &(err){0}) == 0) {
            n_met += walk(&all, grammar, text);
            n_schemas++;
        }
        api__grammar_free(grammar);
        free(text);
        json_decref(schema);
    }
    cr_assert_gt(n_met, 1000, "%u tokens", n_met);
    close_words(&all);
}

/* ---- answers ---- */

enum { ANSWERS = 6, TOKENS = 48, PROMPT = 10 };

typedef struct {
    uint64_t id;
    uint32_t n, tokens[TOKENS];
    uint16_t depths[TOKENS];
    float logprobs[TOKENS];
    sched_event end;
    sequence *masked; /* its next mask is asked for and not made */
    way form;
} answer;

typedef struct {
    answer of[ANSWERS];
    bool late; /* masks are made some steps later */
} answers;

static void on_event(void *ud, const sched_event *ev) {
    answers *all = ud;
    for (uint32_t i = 0; i < ANSWERS; i++) {
        answer *ans = &all->of[i];
        if (ans->id != ev->id) continue;
        if (ev->kind == SCHED_END) ans->end = *ev;
        if (ev->kind != SCHED_TOKEN) continue;
        ans->tokens[ans->n] = ev->token;
        ans->depths[ans->n] = ev->depth;
        ans->logprobs[ans->n++] = ev->logprob;
    }
}

static void on_mask_wanted(void *ud, sequence *seq) {
    answers *all = ud;
    for (uint32_t i = 0; i < ANSWERS; i++) {
        if (seq->req.ud == all->of[i].form.constr) all->of[i].masked = seq;
    }
}

static void make_masks(answers *all) {
    for (uint32_t i = 0; i < ANSWERS; i++) {
        if (all->of[i].masked == NULL || schemas_below(3) == 0) continue;
        cr_assert(sched__make_mask(all->of[i].masked));
        all->of[i].masked = NULL;
    }
}

static const char *const forms[] = {
    "{\"type\":\"object\",\"properties\":{\"the_name_of_the_person\":{\"type\":\"string\","
    "\"maxLength\":"
    "6},\"years_of_age\":{\"type\":\"integer\"}},\"required\":[\"the_name_of_the_person\","
    "\"years_of_age\"]}",
    "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"kind\":{\"enum\":["
    "\"red\","
    "\"rose\",\"blue\"]},\"done\":{\"type\":\"boolean\"}},\"required\":[\"kind\"]}}",
    "{\"anyOf\":[{\"properties\":{\"sort\":{\"const\":\"first\"},\"value\":{}},\"required\":["
    "\"sort\","
    "\"value\"]},{\"properties\":{\"sort\":{\"const\":\"second\"},\"list\":{\"type\":\"array\"}},"
    "\"required\":[\"sort\",\"list\"]}]}",
};

typedef struct {
    uint32_t drafts;
    bool expects, late;
    const char *what;
} mode;

static sched_request request(uint32_t *prompt, uint32_t i) {
    sched_request req = {.prompt = prompt, .n_prompt = PROMPT, .max_tokens = TOKENS};
    static const uint32_t stop = STOP;
    for (uint32_t k = 0; k < PROMPT; k++)
        prompt[k] = (k * 37 + i * 11) % 1000;
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1, .seed = i};
    req.sampling.temperature = i % 2 ? 0.8f : 0;
    req.n_top = i % 3;
    req.stop_ids = &stop;
    req.n_stop_ids = 1;
    req.min_tokens = i;
    return req;
}

static void run(eng_backend *backend, const words *all, kv_policy policy, const mode *how,
                answers *out, sched_stats *stats) {
    sched_constraint silent = api__constraint_calls;
    uint32_t prompts[ANSWERS][PROMPT];
    api__grammar *grammars[ANSWERS];
    sched_opts opts = rig_opts(policy);
    scheduler *sched;
    err e = {0};
    silent.expected = NULL;
    opts.drafts = how->drafts;
    opts.max_running = 3;
    *out = (answers){.late = how->late};
    cr_assert_eq(sched_create(&sched, backend, &opts, on_event, out, &e), 0, "%s", e.msg);
    if (how->late) sched->hand_mask = on_mask_wanted;
    for (uint32_t i = 0; i < ANSWERS; i++) {
        sched_request req = request(prompts[i], i);
        grammars[i] = grammar_compile(forms[i % ARRAY_LEN(forms)], false, &e);
        cr_assert(grammars[i], "%s", e.msg);
        out->of[i].form = begin(all, grammars[i]);
        req.constraint = how->expects ? &api__constraint_calls : &silent;
        req.ud = out->of[i].form.constr;
        out->of[i].id = UINT64_MAX;
        cr_assert_eq(sched_submit(sched, &req, &out->of[i].id, &e), 0, "%s", e.msg);
    }
    for (bool goes_on = true; goes_on; goes_on = rig_step_of(sched)) {
        make_masks(out);
        sched->draft_now.saves_ns = 1e12; /* on a slow machine drafts may not pay */
    }
    sched_get_stats(sched, stats);
    sched_destroy(sched);
    for (uint32_t i = 0; i < ANSWERS; i++) {
        end(&out->of[i].form);
        api__grammar_free(grammars[i]);
    }
}

static void expect_equal(const answers *got, const answers *want, const char *what) {
    for (uint32_t i = 0; i < ANSWERS; i++) {
        const answer *one = &got->of[i], *other = &want->of[i];
        cr_assert_eq(one->n, other->n, "%s: answer %u has %u tokens, not %u", what, i, one->n,
                     other->n);
        cr_assert_arr_eq(one->tokens, other->tokens, one->n * sizeof *one->tokens, "%s: answer %u",
                         what, i);
        cr_assert_arr_eq(one->depths, other->depths, one->n * sizeof *one->depths, "%s: answer %u",
                         what, i);
        cr_assert_arr_eq(one->logprobs, other->logprobs, one->n * sizeof *one->logprobs,
                         "%s: log-probabilities of answer %u", what, i);
        cr_assert(one->end.finish == other->end.finish && one->end.why == other->end.why,
                  "%s: another end of answer %u", what, i);
    }
}

Test(forced_property, answers_held_to_schemas_are_the_same_with_drafts_of_what_is_forced) {
    static const mode modes[] = {
        {.expects = true, .what = "masks ahead without drafts"},
        {.expects = true, .late = true, .what = "late masks without drafts"},
        {.drafts = 8, .expects = true, .what = "8 drafts"},
        {.drafts = 8, .expects = true, .late = true, .what = "8 drafts, late masks"},
        {.drafts = SCHED_DRAFTS_AUTO, .expects = true, .what = "as many drafts as pay"},
        {.drafts = 8, .what = "drafts, and nothing is expected"},
    };
    static answers want, got;
    static sched_stats stats;
    model_folder *model;
    err e = {0};
    words all = open_words();
    cr_assert_eq(model_open(&model, "models/demo", &e), 0, "%s", e.msg);
    eng_backend *backend = golden_backend(model, 8, 256, 64);
    for (int policy = 0; policy < 2; policy++) {
        const mode plain = {.what = "plain"};
        schemas_state = 1;
        run(backend, &all, policy ? KV_LAST : KV_EXACT, &plain, &want, &stats);
        cr_assert_eq(stats.draft_tokens, 0);
        for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
            run(backend, &all, policy ? KV_LAST : KV_EXACT, &modes[i], &got, &stats);
            expect_equal(&got, &want, modes[i].what);
            bool forced = modes[i].expects && modes[i].drafts > 0;
            cr_expect_eq(stats.forced_drafts > 0, forced, "%s", modes[i].what);
            if (forced) cr_expect_gt(stats.forced_drafts_accepted, 0, "%s", modes[i].what);
        }
    }
    eng_backend_close(backend);
    model_close(model);
    close_words(&all);
}
