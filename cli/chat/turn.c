/* turn.c - one answer: its request runs in this process, and its events are printed. */
#include "base/clock.h"
#include "cli/chat/chat_internal.h"
#include "cli/chat/faint.h"

#include <string.h>
#include <sys/random.h>

enum { SLICE_BYTES = 64 << 10 };

/* An answer in the making. */
typedef struct chat_turn {
    chat *talk;
    api_reply *reply;
    token_printer printer;
    faint drafted;
    buf stream; /* events not read yet */
    buf said, thought;
    char finish[24];
    bool cancel; /* a stop string or the user ends the answer */
    bool user_stopped, thinking, at_line_start;
    uint64_t n_drafted, n_right; /* drafted tokens, and how many of them were right */
    sched_event end;
    err error;
} chat_turn;

/* ---- printing ---- */

static void put(chat_turn *turn, const char *text, size_t n, uint32_t depth, bool dim) {
    if (n == 0) return;
    token_printer_put(&turn->printer, text, n, depth, dim);
    faint_follow(&turn->drafted, text, n);
    turn->at_line_start = text[n - 1] == '\n';
}

static void end_line(chat_turn *turn) {
    if (!turn->at_line_start) put(turn, "\n", 1, 0, false);
}

static void count(chat_turn *turn, const json_t *depths) {
    for (size_t i = 0; i < json_array_size(depths); i++)
        token_printer_count(&turn->printer,
                            (uint32_t)json_integer_value(json_array_get(depths, i)));
}

static uint32_t last_depth(const json_t *depths) {
    size_t n = json_array_size(depths);
    return n ? (uint32_t)json_integer_value(json_array_get(depths, n - 1)) : 0;
}

/* A filter prints the answers alone. */
static void take_thought(chat_turn *turn, const json_t *text, uint32_t depth) {
    size_t n = json_string_length(text);
    if (n == 0) return;
    buf_append(&turn->thought, json_string_value(text), n);
    turn->thinking = true;
    if (turn->talk->terminal) put(turn, json_string_value(text), n, depth, true);
}

static void take_text(chat_turn *turn, const char *text, size_t n, uint32_t depth) {
    if (n == 0) return;
    if (turn->thinking && turn->talk->terminal) end_line(turn);
    turn->thinking = false;
    buf_append(&turn->said, text, n);
    put(turn, text, n, depth, false);
}

static void take_ids(chat_turn *turn, const json_t *ids, const json_t *depths) {
    for (size_t i = 0; i < json_array_size(ids); i++) {
        char text[24];
        int n = snprintf(text, sizeof text, "%s%lld", i || turn->said.len ? " " : "",
                         (long long)json_integer_value(json_array_get(ids, i)));
        take_text(turn, text, (size_t)n, (uint32_t)json_integer_value(json_array_get(depths, i)));
    }
}

static void show_drafts(chat_turn *turn, const json_t *choice) {
    const json_t *text = json_object_get(choice, "draft"),
                 *ids = json_object_get(choice, "draft_token_ids");
    buf out = {0};
    for (size_t i = 0; i < json_array_size(ids); i++)
        buf_printf(&out, " %lld", (long long)json_integer_value(json_array_get(ids, i)));
    if (text) buf_append(&out, json_string_value(text), json_string_length(text));
    if (!out.failed) faint_show(&turn->drafted, out.data, out.len);
    buf_deinit(&out);
}

/* ---- events of the stream ---- */

static void take_choice(chat_turn *turn, const json_t *choice) {
    const json_t *depths = json_object_get(choice, "depths"),
                 *delta = json_object_get(choice, "delta"),
                 *text = json_object_get(delta ? delta : choice, delta ? "content" : "text");
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    uint32_t depth = last_depth(depths);
    count(turn, depths);
    faint_clear(&turn->drafted);
    take_thought(turn, json_object_get(delta, "reasoning_content"), depth);
    if (turn->talk->form == CHAT_IDS) take_ids(turn, json_object_get(choice, "token_ids"), depths);
    else if (json_is_string(text))
        take_text(turn, json_string_value(text), json_string_length(text), depth);
    show_drafts(turn, choice);
    if (finish) (void)snprintf(turn->finish, sizeof turn->finish, "%s", finish);
}

/* Reads the whole events at the start of the stream: "data: {…}" and an empty line. */
static void read_stream(chat_turn *turn) {
    static const char head[] = "data: ", end[] = "\n\n";
    static const json_limits limits = {64 << 20, 32, 1 << 20};
    size_t at = 0;
    while (turn->stream.data) {
        const char *start = turn->stream.data + at, *stop = strstr(start, end);
        if (stop == NULL) break;
        json_t *event = NULL;
        if (strncmp(start, head, strlen(head)) == 0 && start[strlen(head)] == '{' &&
            json_parse(&event, start + strlen(head), (size_t)(stop - start) - strlen(head), &limits,
                       "an event", &turn->error) == 0) {
            const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
            if (choice) take_choice(turn, choice);
        }
        json_decref(event);
        at = (size_t)(stop - turn->stream.data) + strlen(end);
    }
    buf_drop(&turn->stream, at);
}

void chat_on_event(void *ud, const sched_event *ev) {
    chat_turn *turn = ((chat *)ud)->turn;
    if (turn == NULL) return;
    if (ev->kind == SCHED_END) turn->end = *ev;
    /* An answer stopped by the user has not failed. */
    if (ev->kind == SCHED_END && turn->user_stopped) return;
    unsigned bits = api_reply_event(turn->reply, 0, ev, &turn->stream, &turn->error);
    if (bits & API_CANCEL) turn->cancel = true;
    while ((bits & API_MORE) && api_reply_more(turn->reply, &turn->stream, SLICE_BYTES))
        continue;
    read_stream(turn);
}

/* ---- running ---- */

static const api_dialect *dialect_of(const chat *self) {
    const char *path = self->form == CHAT_MESSAGES ? "/v1/chat/completions" : "/v1/completions";
    size_t n;
    const api_endpoint *endpoints = api_endpoints(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(endpoints[i].path, path) == 0) return endpoints[i].dialect;
    }
    return NULL;
}

static int parse(const chat *self, uint64_t seed, api_request **out, err *e) {
    buf body = {0};
    int rc = chat_body(self, seed, &body, e);
    if (rc == 0) rc = api_parse(out, self->api, dialect_of(self), body.data, body.len, e);
    buf_deinit(&body);
    return rc;
}

static int run(chat_turn *turn, err *e) {
    chat *self = turn->talk;
    sched_request request;
    sched_stats before, after;
    uint64_t id;
    sched_get_stats(self->sched, &before);
    api_reply_request(turn->reply, 0, &request);
    int rc = sched_submit(self->sched, &request, &id, e);
    for (bool idle = false; rc == 0 && !idle;) {
        rc = sched_step(self->sched, &idle, e);
        if (rc == 0 && chat_interrupted() && !turn->user_stopped) {
            chat_forget_interrupt();
            turn->user_stopped = turn->cancel = true;
        }
        if (turn->cancel) sched_cancel(self->sched, id);
        turn->cancel = false;
    }
    sched_get_stats(self->sched, &after);
    turn->n_drafted = after.draft_tokens - before.draft_tokens;
    turn->n_right = after.drafts_accepted - before.drafts_accepted;
    return rc;
}

static const char *finish_of(const chat_turn *turn) {
    uint32_t used = turn->end.n_prompt + turn->end.n_output;
    if (turn->user_stopped) return "stopped";
    if (strcmp(turn->finish, "length") == 0 &&
        used >= model_plan_of(turn->talk->rt->model)->max_seq_len)
        return "the context is full";
    return turn->finish;
}

/* A dim line with the cost of the answer. */
static void print_figures(const chat_turn *turn, uint64_t seed) {
    const sched_event *end = &turn->end;
    double seconds = (double)end->decode_ns / 1e9;
    buf out = {0};
    buf_printf(&out, "%u token%s, %s, ", end->n_output, end->n_output == 1 ? "" : "s",
               finish_of(turn));
    token_printer_depth(&turn->printer, &out);
    if (end->n_output > 1 && seconds > 0)
        buf_printf(&out, ", %.0f tokens/s", (end->n_output - 1) / seconds);
    if (turn->n_drafted)
        buf_printf(&out, ", %llu of %llu drafts right", (unsigned long long)turn->n_right,
                   (unsigned long long)turn->n_drafted);
    buf_printf(&out, ", seed %llu", (unsigned long long)seed);
    bool dim = turn->talk->dim;
    fprintf(stderr, "%s%s%s\n", dim ? "\x1b[2m" : "", out.data ? out.data : "",
            dim ? "\x1b[0m" : "");
    buf_deinit(&out);
}

/* The most loops of a request, as the settings say; 0: they say nothing. */
static uint64_t most_loops(const chat *self) {
    const json_t *depth = json_object_get(self->settings, "depth");
    json_int_t most = json_integer_value(json_object_get(depth, "max_loops"));
    return most > 0 ? (uint64_t)most : 0;
}

static int finish(chat_turn *turn, uint64_t seed, err *e) {
    if (turn->error.code != ERR_NONE)
        return err_set(e, turn->error.code, NULL, "%s", turn->error.msg);
    end_line(turn);
    if (turn->said.len == 0 && !turn->talk->terminal)
        put(turn, "\n", 1, 0, false); /* a line for each question */
    fflush(stdout);
    print_figures(turn, seed);
    return chat_say(turn->talk, "assistant", &turn->said, &turn->thought, e);
}

int chat_answer(chat *self, uint64_t seed, err *e) {
    chat_turn turn = {.talk = self, .at_line_start = true};
    api_request *request = NULL;
    size_t asked = chat_last_question(self);
    if (asked == SIZE_MAX) return err_set(e, ERR_BAD_PARAM, NULL, "nothing has been asked");
    token_printer_init(&turn.printer, stdout, self->rt, most_loops(self));
    turn.printer.tint = self->tint;
    faint_begin(&turn.drafted, self->drafts ? stdout : NULL);
    int rc = parse(self, seed, &request, e);
    if (rc == 0) {
        rc = api_reply_create(&turn.reply, self->api, request, NULL, e);
        self->turn = &turn;
        if (rc == 0) rc = run(&turn, e);
        self->turn = NULL;
        faint_clear(&turn.drafted); /* an answer that was stopped */
        if (rc == 0) rc = finish(&turn, seed, e);
        api_reply_destroy(turn.reply);
    }
    if (rc != 0) chat_cut(self, asked);
    buf_deinit(&turn.stream);
    buf_deinit(&turn.said);
    buf_deinit(&turn.thought);
    return rc;
}

int chat_check(const chat *self, err *e) {
    api_request *request = NULL;
    chat probe = *self;
    probe.messages =
        json_pack("[{s:s, s:s}]", "role", "user", "content", self->form == CHAT_IDS ? "1" : "x");
    if (probe.messages == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    int rc = parse(&probe, 0, &request, e);
    api_request_destroy(request);
    json_decref(probe.messages);
    return rc;
}

uint64_t chat_next_seed(const chat *self) {
    uint32_t seed;
    if (self->own_seed) return self->seed;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = (uint32_t)clock_ns();
    return seed;
}
