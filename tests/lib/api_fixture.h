/* api_fixture.h - a context over the demo model, and events made by hand. */
#ifndef FATHOM_API_FIXTURE_H
#define FATHOM_API_FIXTURE_H

#include "api/api.h"

typedef struct {
    model_folder *model;
    tokenizer *tokenizer;
    api_context *c;
} api_fixture;

/* Opens models/demo with the given options (NULL = defaults); fails the test otherwise.
 * without_tokenizer: a model that takes token ids only. */
void api_fixture_open(api_fixture *f, const api_opts *opts, bool without_tokenizer);
void api_fixture_close(api_fixture *f);

/* A suite whose every test has the demo model opened as `f`, and is checked for leaks. */
#define API_SUITE(name)                                                                            \
    static api_fixture f;                                                                          \
    static void open_fixture(void) {                                                               \
        api_fixture_open(&f, NULL, false);                                                         \
    }                                                                                              \
    static void close_fixture(void) {                                                              \
        api_fixture_close(&f);                                                                     \
        fail_on_leaks();                                                                           \
    }                                                                                              \
    TestSuite(name, .init = open_fixture, .fini = close_fixture)

/* A request that must parse. */
api_request *api_must_parse(const api_fixture *f, api_kind kind, const char *body);
/* Its reply. */
api_reply *api_must_reply(const api_fixture *f, api_kind kind, const char *body);

/* The whole answer of /tokenize or /detokenize, `want` bytes at a time. */
typedef int (*api_lister)(api_listing **, const api_context *, const char *, size_t, err *);
int api_list(api_lister route, const api_context *c, const char *body, size_t n, size_t want,
             buf *out, err *e) WARN_UNUSED;

sched_event ev_token(uint32_t id, uint16_t depth, float logprob);
sched_event ev_end(sched_finish why, uint32_t n_prompt, uint32_t n_output);

/* Feeds one event and takes all it brings, `want` bytes at a time; the bits without API_MORE. */
unsigned api_feed_event(api_reply *r, uint32_t i, const sched_event *ev, size_t want, buf *out,
                        err *e);
/* The same in one piece. */
unsigned api_event(api_reply *r, uint32_t i, const sched_event *ev, buf *out, err *e);
/* Every "created":N becomes "created":0, for stamps differ from run to run; gives b->data. */
char *api_stampless(buf *b);
/* Feeds the ids as tokens of sequence i, then an end; returns all bits that came. Feeds
 * nothing more after API_CANCEL but the end, as a server would. */
unsigned api_feed(api_reply *r, uint32_t i, const uint32_t *ids, size_t n, sched_finish why,
                  buf *out);
/* The ids of a text, as many as fit; returns how many. */
size_t api_ids(const api_fixture *f, const char *text, uint32_t *ids, size_t cap);

#endif
