/* test_api_drafts.c - drafted tokens in a stream: what a client is shown at each moment, and that
 * the answer is the same with and without them. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(api_drafts);

#define COMPLETION(more)                                                                           \
    "{\"model\":\"demo\",\"prompt\":\"In the\",\"max_tokens\":200,\"stream\":true,"                \
    "\"stream_options\":{\"include_drafts\":true}" more "}"
#define CHAT(more)                                                                                 \
    "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"max_tokens\":"    \
    "200,\"stream\":true,\"stream_options\":{\"include_drafts\":true}" more "}"

enum { MOST = 256 };

/* ---- a client ---- */

static const char *text_in(const buf *text) {
    return text->len ? text->data : "";
}

typedef struct {
    buf text, thought; /* all that was sent */
    buf draft;         /* of the last chunk */
    size_t chunks, drafts;
} client;

static void take(buf *to, const json_t *value) {
    if (json_is_string(value)) buf_append(to, json_string_value(value), json_string_length(value));
}

static void take_chunk(client *self, const char *data, size_t n) {
    json_t *root = json_loadb(data, n, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(root, "%.*s", (int)n, data);
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *delta = json_object_get(choice, "delta"), *draft;
    take(&self->text, json_object_get(choice, "text"));
    take(&self->text, json_object_get(delta, "content"));
    take(&self->thought, json_object_get(delta, "reasoning_content"));
    draft = json_object_get(choice, "draft");
    cr_assert(draft == NULL || json_string_length(draft) > 0, "%.*s", (int)n, data);
    buf_clear(&self->draft);
    take(&self->draft, draft);
    self->drafts += draft != NULL;
    self->chunks++;
    json_decref(root);
}

/* Takes all that was written, as a client that keeps up. */
static void take_all(client *self, buf *out) {
    const char *at = out->data ? out->data : "";
    for (const char *end; (end = strstr(at, "\n\n")) != NULL; at = end + 2) {
        cr_assert_eq(strncmp(at, "data: ", 6), 0, "%s", at);
        if (at[6] == '{') take_chunk(self, at + 6, (size_t)(end - at) - 6);
    }
    cr_assert_eq(*at, 0, "half a chunk: %s", at);
    buf_clear(out);
}

static void client_deinit(client *self) {
    buf_deinit(&self->text);
    buf_deinit(&self->thought);
    buf_deinit(&self->draft);
}

/* ---- a model of what the client must see ---- */

typedef struct {
    api_reply *reply;
    client seen;
    buf out;
    uint32_t prompt;    /* its tokens */
    uint32_t ids[MOST]; /* certain, then drafted */
    uint32_t certain, n;
} run;

static void begin(run *self, const api_dialect *dialect, const char *body) {
    sched_request wants;
    *self = (run){.reply = api_must_reply(&fixture, dialect, body)};
    api_reply_request(self->reply, 0, &wants);
    cr_assert(wants.tell_drafts);
    self->prompt = wants.n_prompt;
}

static unsigned feed(run *self, const sched_event *ev) {
    err e = {0};
    unsigned bits = api_event(self->reply, 0, ev, &self->out, &e);
    cr_assert_not(bits & API_FAILED, "%s", e.msg);
    take_all(&self->seen, &self->out);
    return bits;
}

static sched_event draft_event(const run *self, uint32_t id, uint32_t place) {
    return (sched_event){
        .kind = SCHED_DRAFT, .token = id, .pos = self->prompt + self->certain + place};
}

/* A draft behind `place` others. */
static void draft(run *self, uint32_t id, uint32_t place) {
    sched_event ev = draft_event(self, id, place);
    (void)feed(self, &ev);
    self->n = self->certain + place;
    self->ids[self->n++] = id;
}

static unsigned token(run *self, uint32_t id) {
    sched_event ev = ev_token(id, 2, -0.5f);
    ev.pos = self->prompt + self->certain;
    unsigned bits = feed(self, &ev);
    if (self->n == self->certain || self->ids[self->certain] != id) self->n = self->certain + 1;
    self->ids[self->certain++] = id;
    return bits;
}

static void end(run *self) {
    sched_event ev = ev_end(SCHED_STOP, self->prompt, self->certain);
    (void)feed(self, &ev);
    cr_assert_eq(self->seen.draft.len, 0, "the end shows '%s'", text_in(&self->seen.draft));
    api_reply_destroy(self->reply);
    buf_deinit(&self->out);
    client_deinit(&self->seen);
}

/* The text of the first n ids, up to the stop string. */
static void text_of(const run *self, uint32_t n, const char *stop, buf *out) {
    api_utf8 utf8 = {0};
    buf_clear(out);
    buf_puts(out, "");
    for (uint32_t i = 0; i < n; i++)
        api_utf8_token(&utf8, fixture.tokenizer, self->ids[i], out);
    const char *at = stop ? strstr(out->data, stop) : NULL;
    if (at) out->len = (size_t)(at - out->data);
}

/* What was sent, with the draft behind it, is the text of the certain tokens and the drafts. */
static void check(const run *self, const char *stop) {
    const client *seen = &self->seen;
    buf want = {0}, have = {0};
    if (self->certain == 0) return; /* a stream begins with its first token */
    text_of(self, self->n, stop, &want);
    buf_append(&have, seen->text.data, seen->text.len);
    buf_append(&have, seen->draft.data, seen->draft.len);
    if (self->n > self->certain || seen->draft.len > 0) {
        cr_assert(have.len == want.len && memcmp(have.data, want.data, want.len) == 0,
                  "shown '%.*s', expected '%.*s'", (int)have.len, have.data, (int)want.len,
                  want.data);
    }
    buf_deinit(&want);
    buf_deinit(&have);
}

static uint32_t draw(uint64_t *rng, uint32_t n) {
    *rng = *rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*rng >> 33) % n;
}

static const struct {
    const api_dialect *dialect;
    const char *body, *text, *stop;
} streams[] = {
    {&api_dialect_completion, COMPLETION(""), " beginning God created the heaven and the earth",
     NULL},
    {&api_dialect_chat, CHAT(""), " beginning God created the heaven and the earth", NULL},
    {&api_dialect_chat, CHAT(",\"logprobs\":true,\"return_depth\":true"),
     " caf\xc3\xa9 \xf0\x9f\x8c\x8a\xf0\x9f\x8c\x8a na\xc3\xafve \xe2\x82\xac", NULL},
    {&api_dialect_completion, COMPLETION(",\"stop\":\"the earth\""),
     " heaven the heaven and the earth was without form", "the earth"},
    {&api_dialect_completion, COMPLETION(",\"stop\":[\"waters.\",\"waters\"]"),
     " the wat water wate the waters of", "waters"},
};

/* Tokens come and are drafted in any order; one draft in `wrong` is wrong (0: none). */
static void stream(size_t row, uint32_t wrong, uint64_t seed) {
    uint32_t ids[MOST];
    uint32_t n = (uint32_t)api_ids(&fixture, streams[row].text, ids, MOST);
    run self;
    begin(&self, streams[row].dialect, streams[row].body);
    for (unsigned bits = 0; self.certain < n && !(bits & API_CANCEL);) {
        uint32_t ahead = self.n - self.certain, place = draw(&seed, ahead + 1);
        if (draw(&seed, 3) > 0 && self.certain + place < n) {
            bool lie = wrong && draw(&seed, wrong) == 0;
            draft(&self, lie ? draw(&seed, 2000) : ids[self.certain + place], place);
        } else {
            bits = token(&self, ids[self.certain]);
        }
        if (!(bits & API_CANCEL)) check(&self, streams[row].stop);
    }
    buf want = {0};
    text_of(&self, n < self.certain ? n : self.certain, streams[row].stop, &want);
    cr_assert_eq(self.seen.text.len, want.len);
    cr_assert_eq(memcmp(self.seen.text.data, want.data, want.len), 0);
    buf_deinit(&want);
    end(&self);
}

Test(api_drafts, the_text_sent_and_the_draft_are_the_text_of_certain_and_drafted_tokens) {
    for (size_t row = 0; row < ARRAY_LEN(streams); row++) {
        for (uint64_t seed = 1; seed <= 40; seed++)
            stream(row, (uint32_t)(seed % 4), seed * 977);
    }
}

/* ---- single steps ---- */

static uint32_t id_of(const char *text) {
    uint32_t id;
    cr_assert_eq(api_ids(&fixture, text, &id, 1), 1, "'%s' is no token", text);
    return id;
}

static void shows(const run *self, const char *text, const char *drafted) {
    cr_assert_str_eq(text_in(&self->seen.text), text);
    cr_assert_str_eq(text_in(&self->seen.draft), drafted);
}

Test(api_drafts, a_draft_is_replaced_confirmed_and_withdrawn) {
    uint32_t the = id_of(" the"), god = id_of(" God"), and = id_of(" and");
    run self;
    begin(&self, &api_dialect_chat, CHAT(""));
    draft(&self, the, 0); /* before the stream begins */
    cr_assert_eq(self.seen.chunks, 0);
    (void)token(&self, the);
    shows(&self, " the", "");
    draft(&self, god, 0);
    shows(&self, " the", " God");
    draft(&self, and, 1);
    shows(&self, " the", " God and");
    draft(&self, the, 1); /* replaces the last */
    shows(&self, " the", " God the");
    draft(&self, and, 0); /* replaces the first, and takes the later one away */
    shows(&self, " the", " and");
    draft(&self, god, 1);
    (void)token(&self, and);
    shows(&self, " the and", " God");
    (void)token(&self, the); /* another token */
    shows(&self, " the and the", "");
    end(&self);
}

Test(api_drafts, a_draft_for_another_place_than_the_next_is_ignored) {
    uint32_t the = id_of(" the");
    run self;
    begin(&self, &api_dialect_chat, CHAT(""));
    (void)token(&self, the);
    sched_event late = draft_event(&self, the, 0), early = draft_event(&self, the, 1);
    late.pos--;
    size_t chunks = self.seen.chunks;
    (void)feed(&self, &late);
    (void)feed(&self, &early);
    late.pos = 0;
    (void)feed(&self, &late);
    early.pos = UINT32_MAX;
    (void)feed(&self, &early);
    cr_assert_eq(self.seen.chunks, chunks);
    for (uint32_t i = 0; i < SCHED_MAX_DRAFTS; i++)
        draft(&self, the, i);
    early = draft_event(&self, the, SCHED_MAX_DRAFTS);
    chunks = self.seen.chunks;
    (void)feed(&self, &early);
    cr_assert_eq(self.seen.chunks, chunks);
    cr_assert_eq(self.seen.draft.len, SCHED_MAX_DRAFTS * strlen(" the"));
    end(&self);
}

Test(api_drafts, drafts_beyond_the_limit_of_tokens_are_not_shown) {
    uint32_t the = id_of(" the");
    run self;
    begin(&self, &api_dialect_completion,
          "{\"model\":\"demo\",\"prompt\":\"In\",\"max_tokens\":3,\"stream\":true,"
          "\"stream_options\":{\"include_drafts\":true}}");
    (void)token(&self, the);
    for (uint32_t i = 0; i < 4; i++)
        draft(&self, the, i);
    shows(&self, " the", " the the");
    (void)token(&self, the);
    shows(&self, " the the", " the");
    (void)token(&self, the);
    shows(&self, " the the the", "");
    end(&self);
}

/* Feeds an event as a server does, which asks for more only when a reader took what there was. */
static unsigned feed_only(run *self, uint32_t i, const sched_event *ev) {
    err e = {0};
    unsigned bits = api_reply_event(self->reply, i, ev, &self->out, &e);
    cr_assert_not(bits & API_FAILED, "%s", e.msg);
    return bits;
}

Test(api_drafts, drafts_that_come_together_make_one_chunk_that_shows_the_last_state) {
    enum { TOGETHER = 15, WRONG = 7 };
    uint32_t the = id_of(" the"), god = id_of(" God");
    run self;
    begin(&self, &api_dialect_chat, CHAT(""));
    (void)token(&self, the);
    size_t chunks = self.seen.chunks;
    for (uint32_t i = 0; i < TOGETHER; i++) {
        sched_event ev = draft_event(&self, the, i);
        cr_assert(feed_only(&self, 0, &ev) & API_MORE);
        cr_assert_eq(self.out.len, 0);
    }
    sched_event other = draft_event(&self, god, WRONG); /* takes those behind it away */
    (void)feed_only(&self, 0, &other);
    cr_assert_not(api_reply_more(self.reply, &self.out, API__SLICE));
    take_all(&self.seen, &self.out);
    cr_assert_eq(self.seen.chunks, chunks + 1);
    shows(&self, " the", " the the the the the the the God");
    cr_assert_not(api_reply_more(self.reply, &self.out, API__SLICE));
    cr_assert_eq(self.out.len, 0, "nothing is told twice");
    /* A token that comes with drafts has them in its own chunk. */
    other = draft_event(&self, god, 2);
    (void)feed_only(&self, 0, &other);
    sched_event certain = ev_token(the, 2, -0.5f);
    (void)feed_only(&self, 0, &certain);
    self.certain++;
    take_all(&self.seen, &self.out);
    cr_assert_eq(self.seen.chunks, chunks + 2);
    shows(&self, " the the", " the God");
    (void)api_reply_more(self.reply, &self.out, API__SLICE);
    cr_assert_eq(self.out.len, 0);
    end(&self);
}

Test(api_drafts, each_choice_has_a_chunk_of_its_own_for_drafts_that_come_together) {
    enum { CHOICES = 3 };
    uint32_t the = id_of(" the");
    run self;
    begin(&self, &api_dialect_completion, COMPLETION(",\"n\":3"));
    sched_event first = ev_token(the, 2, -0.5f);
    for (uint32_t i = 0; i < CHOICES; i++)
        cr_assert_not(feed_only(&self, i, &first) & API_MORE);
    take_all(&self.seen, &self.out);
    self.certain = 1;
    for (uint32_t n = 0; n < 8 * CHOICES; n++) {
        sched_event ev = draft_event(&self, the, n / CHOICES);
        (void)feed_only(&self, n % CHOICES, &ev);
    }
    /* A token of one choice does not bring out the drafts of the others. */
    (void)feed_only(&self, 1, &first);
    take_all(&self.seen, &self.out);
    cr_assert_eq(self.seen.chunks, CHOICES + 1);
    (void)api_reply_more(self.reply, &self.out, API__SLICE);
    take_all(&self.seen, &self.out);
    cr_assert_eq(self.seen.chunks, CHOICES + 3);
    cr_assert_eq(self.seen.drafts, CHOICES);
    sched_event last = ev_end(SCHED_STOP, self.prompt, 2);
    unsigned bits = 0;
    for (uint32_t i = 0; i < CHOICES; i++)
        bits |= feed_only(&self, i, &last);
    cr_assert_eq(bits, API_DONE);
    take_all(&self.seen, &self.out);
    api_reply_destroy(self.reply);
    buf_deinit(&self.out);
    client_deinit(&self.seen);
}

Test(api_drafts, a_reader_that_is_behind_gets_the_answer_and_later_the_last_drafts) {
    uint32_t the = id_of(" the"), god = id_of(" God");
    run self;
    begin(&self, &api_dialect_completion, COMPLETION(""));
    sched_event right = ev_token(the, 1, 0);
    do { /* nothing is taken */
        (void)feed_only(&self, 0, &right);
        self.certain++;
        sched_event ev = draft_event(&self, the, 0);
        (void)feed_only(&self, 0, &ev);
    } while (self.out.len < API__SLICE);
    size_t before = self.out.len;
    sched_event ev = draft_event(&self, god, 1);
    cr_assert(feed_only(&self, 0, &ev) & API_MORE);
    cr_assert_eq(self.out.len, before, "drafts wait for the reader");
    cr_assert(feed_only(&self, 0, &right) & API_MORE);
    cr_assert_gt(self.out.len, before);
    cr_assert_null(strstr(self.out.data + before, "\"draft\""));
    buf_clear(&self.out); /* all is taken */
    cr_assert_not(api_reply_more(self.reply, &self.out, API__SLICE));
    cr_assert_not_null(strstr(self.out.data, "\"draft\":\" God\""));
    api_reply_destroy(self.reply);
    buf_deinit(&self.out);
    client_deinit(&self.seen);
}

Test(api_drafts, a_stream_that_the_server_ends_while_a_draft_waits_is_told_why) {
    uint32_t the = id_of(" the");
    err why = {0};
    run self;
    begin(&self, &api_dialect_completion, COMPLETION(""));
    (void)token(&self, the);
    sched_event ev = draft_event(&self, the, 0);
    cr_assert(feed_only(&self, 0, &ev) & API_MORE);
    (void)err_set(&why, ERR_STOPPING, NULL, "the server is ending");
    cr_assert_eq(api_reply_fail(self.reply, &why, &self.out), API_FAILED);
    cr_assert_not_null(strstr(self.out.data, "the server is ending"));
    cr_assert_null(strstr(self.out.data, "\"draft\""));
    api_reply_destroy(self.reply);
    buf_deinit(&self.out);
    client_deinit(&self.seen);
}

Test(api_drafts, a_wrong_draft_is_taken_back_though_its_token_prints_nothing) {
    uint32_t the = id_of(" the"), half[8];
    cr_assert_geq(api_ids(&fixture, "\xf0\x9f\x8c\x8a", half, ARRAY_LEN(half)), 2);
    run self;
    begin(&self, &api_dialect_chat, CHAT(""));
    (void)token(&self, the);
    draft(&self, the, 0);
    shows(&self, " the", " the");
    (void)token(&self, half[0]);
    shows(&self, " the", "");
    end(&self);
}

/* ---- without a tokenizer ---- */

static void shows_ids(buf *out, const char *drafted) {
    cr_assert_not_null(out->data, "no chunk");
    const char *at = strstr(out->data, ",\"draft_token_ids\":");
    cr_assert_eq(at != NULL, drafted != NULL, "%s", out->data);
    if (drafted) cr_assert_eq(strncmp(at + 19, drafted, strlen(drafted)), 0, "%s", at);
    cr_assert_null(strstr(out->data, "\"draft\""));
    buf_clear(out);
}

Test(api_drafts, a_model_without_a_tokenizer_shows_the_ids_that_may_follow) {
    api_fixture_close(&fixture);
    api_fixture_open(&fixture, NULL, true);
    run self;
    begin(&self, &api_dialect_completion,
          "{\"model\":\"demo\",\"prompt\":[1,2],\"max_tokens\":4,\"stream\":true,"
          "\"stop_token_ids\":[9],\"stream_options\":{\"include_drafts\":true}}");
    err e = {0};
    const struct {
        uint32_t id;
        bool certain;
        uint32_t place; /* of a draft */
        const char *shown;
    } rows[] = {
        {7, true, 0, NULL},      {5, false, 0, "[5],"},
        {6, false, 1, "[5,6],"}, {9, false, 2, "[5,6],"}, /* ends the answer */
        {5, true, 0, "[6],"},    {8, false, 0, "[8],"},
        {4, false, 1, "[8,4],"}, {3, false, 2, "[8,4],"}, /* beyond max_tokens */
        {2, true, 0, NULL},      {9, false, 0, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        sched_event ev = draft_event(&self, rows[i].id, rows[i].place);
        if (rows[i].certain) ev = ev_token(rows[i].id, 2, -0.5f);
        (void)api_event(self.reply, 0, &ev, &self.out, &e);
        self.certain += rows[i].certain;
        shows_ids(&self.out, rows[i].shown);
    }
    api_reply_destroy(self.reply);
    buf_deinit(&self.out);
    client_deinit(&self.seen);
}

/* ---- reasoning ---- */

static const api__marks think = {"<think>", "</think>"};

/* Each draft goes on with the reasoning, or after it with the content. hidden: no reasoning is
 * shown. */
static void thinking(bool hidden) {
    static const char text[] = "<think>the heaven and the earth</think>and God said",
                      thought[] = "the heaven and the earth", content[] = "and God said";
    uint32_t ids[MOST];
    uint32_t n = (uint32_t)api_ids(&fixture, text, ids, MOST);
    run self;
    begin(&self, &api_dialect_chat, CHAT(""));
    self.reply->req->marks = &think;
    self.reply->req->show_thought = !hidden;
    self.reply->req->open_id = self.reply->req->close_id = UINT32_MAX;
    size_t longest = 0; /* draft of the reasoning */
    while (self.certain < n) {
        for (uint32_t i = 0; i < 8 && self.certain + i < n; i++) {
            const client *seen = &self.seen;
            if (self.certain + i >= self.n) draft(&self, ids[self.certain + i], i);
            bool inside = seen->text.len == 0;
            const buf *sent = inside ? &seen->thought : &seen->text;
            const char *whole = inside ? thought : content;
            size_t both = sent->len + seen->draft.len;
            cr_assert_leq(both, strlen(whole));
            cr_assert_eq(strncmp(whole + sent->len, text_in(&seen->draft), seen->draft.len), 0,
                         "'%s' does not go on with '%s'", whole, seen->draft.data);
            if (inside && seen->draft.len > longest) longest = seen->draft.len;
        }
        (void)token(&self, ids[self.certain]);
    }
    cr_assert_eq(longest == 0, hidden);
    cr_assert_str_eq(self.seen.text.data, content);
    end(&self);
}

Test(api_drafts, a_draft_of_reasoning_ends_at_its_mark_and_hidden_reasoning_is_not_drafted) {
    thinking(false);
    thinking(true);
}

/* ---- who gets them ---- */

Test(api_drafts, drafts_are_told_only_to_streams_that_ask_and_whose_text_is_no_call) {
    static const struct {
        const api_dialect *dialect;
        const char *body;
        bool told;
    } rows[] = {
        {&api_dialect_completion, COMPLETION(""), true},
        {&api_dialect_chat, CHAT(""), true},
        {&api_dialect_chat,
         "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"stream\":"
         "true}",
         false},
        {&api_dialect_completion,
         "{\"model\":\"demo\",\"prompt\":\"In\",\"stream\":true,\"stream_options\":{\"include_"
         "drafts\":false}}",
         false},
        {&api_dialect_completion, "{\"model\":\"demo\",\"prompt\":\"In\"}", false},
        {&api_dialect_chat,
         CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"), false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api_reply *reply = api_must_reply(&fixture, rows[i].dialect, rows[i].body);
        sched_request wants;
        api_reply_request(reply, 0, &wants);
        cr_expect_eq(wants.tell_drafts, rows[i].told, "row %zu", i);
        api_reply_destroy(reply);
    }
}

Test(api_drafts, a_draft_that_nobody_asked_for_changes_nothing) {
    api_reply *reply =
        api_must_reply(&fixture, &api_dialect_completion,
                       "{\"model\":\"demo\",\"prompt\":\"In\",\"max_tokens\":9,\"stream\":true}");
    buf out = {0};
    err e = {0};
    sched_event ev = {.kind = SCHED_DRAFT, .token = 5, .pos = 1};
    cr_assert_eq(api_event(reply, 0, &ev, &out, &e), 0);
    cr_assert_eq(out.len, 0);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_drafts, a_wrong_wish_for_drafts_is_refused_by_name) {
    static const struct {
        const api_dialect *dialect;
        const char *body, *says;
    } rows[] = {
        {&api_dialect_completion,
         "{\"prompt\":\"x\",\"stream\":true,\"stream_options\":{\"include_drafts\":1}}",
         "stream_options.include_drafts"},
        {&api_dialect_completion, "{\"prompt\":\"x\",\"stream_options\":{\"include_drafts\":true}}",
         "requires stream: true"},
        {&api_dialect_responses,
         "{\"input\":\"x\",\"stream\":true,\"stream_options\":{\"include_drafts\":true}}",
         "is for completions and chat only"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api_request *req = NULL;
        err e = {0};
        cr_assert_neq(
            api_parse(&req, fixture.ctx, rows[i].dialect, rows[i].body, strlen(rows[i].body), &e),
            0, "row %zu", i);
        cr_assert_not_null(strstr(e.msg, rows[i].says), "row %zu: %s", i, e.msg);
    }
}
