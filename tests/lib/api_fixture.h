/* api_fixture.h - an API context over the demo model, and hand-made events. */
#ifndef FATHOM_API_FIXTURE_H
#define FATHOM_API_FIXTURE_H

#include "api/api.h"

extern const api_dialect api_dialect_completion, api_dialect_chat, api_dialect_responses,
    api_dialect_messages;

typedef struct {
    model_folder *model;
    tokenizer *tokenizer;
    api_context *ctx;
} api_fixture;

/* Opens models/demo with the given options (NULL = defaults); fails the test otherwise.
 * without_tokenizer: a model that takes token ids only. */
void api_fixture_open(api_fixture *fixture, const api_opts *opts, bool without_tokenizer);
void api_fixture_close(api_fixture *fixture);

/* A suite: each test has the demo model open as `fixture` and is checked for leaks. */
#define API_SUITE(name)                                                                            \
    static api_fixture fixture;                                                                    \
    static void open_fixture(void) {                                                               \
        api_fixture_open(&fixture, NULL, false);                                                   \
    }                                                                                              \
    static void close_fixture(void) {                                                              \
        api_fixture_close(&fixture);                                                               \
        fail_on_leaks();                                                                           \
    }                                                                                              \
    TestSuite(name, .init = open_fixture, .fini = close_fixture)

/* Parses a request; fails the test if it is refused. */
api_request *api_must_parse(const api_fixture *fixture, const api_dialect *dialect,
                            const char *body);
/* The same, with the reply of the request. */
api_reply *api_must_reply(const api_fixture *fixture, const api_dialect *dialect, const char *body);

/* The whole answer of /tokenize or /detokenize, `want` bytes at a time. */
typedef int (*api_lister)(api_listing **, const api_context *, const char *, size_t, bool, err *);
int api_list(api_lister route, const api_context *ctx, const char *body, size_t n, size_t want,
             buf *out, err *e) WARN_UNUSED;

sched_event ev_token(uint32_t id, uint16_t depth, float logprob);
sched_event ev_end(sched_finish why, uint32_t n_prompt, uint32_t n_output);

/* Feeds one event and takes its whole output, `want` bytes at a time. Returns the bits without
 * API_MORE. */
unsigned api_feed_event(api_reply *reply, uint32_t i, const sched_event *ev, size_t want, buf *out,
                        err *e);
/* The same in one piece. */
unsigned api_event(api_reply *reply, uint32_t i, const sched_event *ev, buf *out, err *e);
/* Replaces every "created":N by "created":0, since stamps differ from run to run. Returns the
 * data of the buffer. */
char *api_stampless(buf *text);
/* Feeds the ids as tokens of sequence i, then an end; returns all bits. After API_CANCEL it feeds
 * only the end, as a server would. */
unsigned api_feed(api_reply *reply, uint32_t i, const uint32_t *ids, size_t n, sched_finish why,
                  buf *out);
/* The ids of a text, at most cap. Returns their number. */
size_t api_ids(const api_fixture *fixture, const char *text, uint32_t *ids, size_t cap);

#endif
