/* commands.c - the commands of a conversation: "/depth 4". */
#include "base/nearest.h"
#include "cli/chat/chat_internal.h"
#include "cli/describe.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 16 }; /* letters of a command */

typedef int (*command_run)(chat *self, const char *text, err *e);

static int wrong(err *e, const char *rule) {
    return err_set(e, ERR_BAD_PARAM, NULL, "%s", rule);
}

static bool is_off(const char *text) {
    return strcmp(text, "auto") == 0 || strcmp(text, "off") == 0;
}

/* ---- settings ---- */

int chat_set(chat *self, const char *name, json_t *steal_value, err *e) {
    json_t *old = json_incref(json_object_get(self->settings, name));
    int rc = 0;
    if (steal_value) rc = json_object_set_new(self->settings, name, steal_value);
    else (void)json_object_del(self->settings, name);
    if (rc != 0) rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a setting");
    else rc = chat_check(self, e);
    if (rc != 0) {
        if (old) (void)json_object_set(self->settings, name, old);
        else (void)json_object_del(self->settings, name);
    }
    json_decref(old);
    return rc;
}

/* Sets a member of "depth". */
static int set_depth(chat *self, const char *name, json_t *steal_value, err *e) {
    json_t *now = json_object_get(self->settings, "depth");
    json_t *depth = now ? json_copy(now) : json_object();
    if (steal_value) (void)json_object_set_new(depth, name, steal_value);
    else (void)json_object_del(depth, name);
    if (json_object_size(depth) > 0) return chat_set(self, "depth", depth, e);
    json_decref(depth);
    return chat_set(self, "depth", NULL, e);
}

static int read_number(const char *text, double *out, err *e) {
    char *end;
    *out = strtod(text, &end);
    if (end != text && *end == 0 && isfinite(*out)) return 0;
    return err_set(e, ERR_BAD_PARAM, NULL, "expected a number, not '%.40s'", text);
}

/* Reads a whole number at *text, and moves *text behind it. */
static int read_whole(const char **text, long long *out, err *e) {
    char *end;
    errno = 0;
    *out = **text >= '0' && **text <= '9' ? strtoll(*text, &end, 10) : -1;
    if (*out < 0 || errno)
        return err_set(e, ERR_BAD_PARAM, NULL, "expected a whole number, not '%.40s'", *text);
    *text = end;
    return 0;
}

static int only_whole(const char *text, long long *out, err *e) {
    if (read_whole(&text, out, e) != 0) return -1;
    return *text ? wrong(e, "expected a whole number alone") : 0;
}

static int do_depth(chat *self, const char *text, err *e) {
    long long least, most;
    json_t *old = json_incref(json_object_get(self->settings, "depth"));
    json_t *depth = old ? json_copy(old) : json_object();
    int rc = 0;
    (void)json_object_del(depth, "min_loops");
    (void)json_object_del(depth, "max_loops");
    if (!is_off(text)) {
        rc = read_whole(&text, &least, e);
        most = least;
        if (rc == 0 && *text == '-') {
            text++;
            rc = read_whole(&text, &most, e);
        }
        if (rc == 0 && *text) rc = wrong(e, "write /depth 4, /depth 1-4 or /depth auto");
        if (rc == 0 && (json_object_set_new(depth, "min_loops", json_integer(least)) != 0 ||
                        json_object_set_new(depth, "max_loops", json_integer(most)) != 0))
            rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a setting");
    }
    if (rc == 0 && json_object_size(depth) > 0) rc = chat_set(self, "depth", json_incref(depth), e);
    else if (rc == 0) rc = chat_set(self, "depth", NULL, e);
    json_decref(depth);
    json_decref(old);
    return rc;
}

static int do_threshold(chat *self, const char *text, err *e) {
    double value;
    if (is_off(text)) return set_depth(self, "threshold", NULL, e);
    if (read_number(text, &value, e) != 0) return -1;
    return set_depth(self, "threshold", json_real(value), e);
}

static int do_effort(chat *self, const char *text, err *e) {
    return chat_set(self, "reasoning_effort", is_off(text) ? NULL : json_string(text), e);
}

static int do_temperature(chat *self, const char *text, err *e) {
    double value;
    if (is_off(text)) return chat_set(self, "temperature", NULL, e);
    if (read_number(text, &value, e) != 0) return -1;
    return chat_set(self, "temperature", json_real(value), e);
}

static int do_max_tokens(chat *self, const char *text, err *e) {
    long long value;
    if (is_off(text)) return chat_set(self, "max_tokens", NULL, e);
    if (only_whole(text, &value, e) != 0) return -1;
    if (value == 0) return wrong(e, "an answer has at least 1 token");
    return chat_set(self, "max_tokens", json_integer(value), e);
}

static int do_seed(chat *self, const char *text, err *e) {
    long long value = 0;
    self->own_seed = !is_off(text);
    if (!self->own_seed) return 0;
    self->own_seed = only_whole(text, &value, e) == 0;
    self->seed = (uint64_t)value;
    return self->own_seed ? 0 : -1;
}

static int do_system(chat *self, const char *text, err *e) {
    if (self->form == CHAT_IDS) return wrong(e, "this model takes token ids, and no system text");
    return chat_set_system(self, strcmp(text, "off") == 0 ? "" : text, e);
}

/* A temperature below this is greedy: engine/sampler.h. */
static bool is_greedy(const chat *self) {
    eng_sampling sampling;
    const json_t *own = json_object_get(self->settings, "temperature");
    (void)api_sampling(self->api, &sampling);
    return (own ? json_number_value(own) : (double)sampling.temperature) < 1e-5;
}

/* Prints a setting in force, and whether it is the model's. */
static void show(const char *command, const json_t *own, const char *usual) {
    char *text = own ? json_dumps(own, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    printf("  %-14s %s\n", command, text ? text : usual);
    free(text);
}

static int do_show(chat *self, const char *text, err *e) {
    const model_plan *plan = model_plan_of(self->rt->model);
    const json_t *depth = json_object_get(self->settings, "depth"),
                 *least = json_object_get(depth, "min_loops"),
                 *most = json_object_get(depth, "max_loops");
    eng_sampling sampling;
    char line[96];
    buf model = {0};
    (void)text, (void)e;
    (void)api_sampling(self->api, &sampling);
    describe_runtime(&model, self->rt);
    printf("  %-14s %s: %s, %u loops trained, context %u\n", "model", api_model_name(self->api),
           model.data ? model.data : "", plan->loops_default, plan->max_seq_len);
    buf_deinit(&model);
    (void)snprintf(line, sizeof line, "%lld to %lld loops", (long long)json_integer_value(least),
                   (long long)json_integer_value(most));
    printf("  %-14s %s\n", "/depth", most ? line : "auto: as the exit rule says");
    show("/threshold", json_object_get(depth, "threshold"), "auto: the model's");
    show("/effort", json_object_get(self->settings, "reasoning_effort"), "auto: no limit");
    (void)snprintf(line, sizeof line, "auto: %g", (double)sampling.temperature);
    show("/temperature", json_object_get(self->settings, "temperature"), line);
    (void)snprintf(line, sizeof line, "auto: %llu", (unsigned long long)self->max_tokens);
    show("/max-tokens", json_object_get(self->settings, "max_tokens"), line);
    (void)snprintf(line, sizeof line, "%llu for every answer", (unsigned long long)self->seed);
    printf("  %-14s %s\n", "/seed", self->own_seed ? line : "off: another one for each answer");
    printf("  %-14s %zu\n", "messages", json_array_size(self->messages));
    return 0;
}

/* ---- the conversation ---- */

static int do_again(chat *self, const char *text, err *e) {
    size_t asked = chat_last_question(self);
    (void)text;
    if (asked == SIZE_MAX) return wrong(e, "there is no answer to make again");
    if (is_greedy(self))
        fprintf(stderr, "At temperature 0 another seed changes nothing; /temperature 1 does.\n");
    json_t *question = json_incref(json_array_get(self->messages, asked));
    json_t *answer = json_incref(json_array_get(self->messages, asked + 1));
    bool own = self->own_seed;
    self->own_seed = false; /* another seed */
    chat_cut(self, asked + 1);
    int rc = chat_answer(self, chat_next_seed(self), e);
    self->own_seed = own;
    if (rc != 0) { /* the old answer stays */
        (void)json_array_append(self->messages, question);
        if (answer) (void)json_array_append(self->messages, answer);
    }
    json_decref(question);
    json_decref(answer);
    return rc;
}

static int do_undo(chat *self, const char *text, err *e) {
    size_t asked = chat_last_question(self);
    (void)text;
    if (asked == SIZE_MAX) return wrong(e, "nothing has been said yet");
    chat_cut(self, asked);
    return 0;
}

static int do_clear(chat *self, const char *text, err *e) {
    const json_t *first = json_array_get(self->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    (void)text, (void)e;
    chat_cut(self, role && strcmp(role, "system") == 0 ? 1 : 0);
    return 0;
}

static int do_history(chat *self, const char *text, err *e) {
    token_printer printer;
    (void)text, (void)e;
    token_printer_init(&printer, stdout, self->rt, 0);
    for (size_t i = 0; i < json_array_size(self->messages); i++) {
        const json_t *message = json_array_get(self->messages, i),
                     *content = json_object_get(message, "content");
        printf("%s: ", json_string_value(json_object_get(message, "role")));
        token_printer_put(&printer, json_string_value(content), json_string_length(content), 0,
                          false);
        printf("\n");
    }
    return 0;
}

static int do_save(chat *self, const char *text, err *e) {
    return chat_save(self, text, e);
}

static int do_load(chat *self, const char *text, err *e) {
    return chat_load(self, text, e);
}

static int do_help(chat *self, const char *text, err *e);

/* ---- the table ---- */

static const struct {
    const char *name, *takes; /* NULL: nothing */
    command_run run;          /* NULL: ends the conversation */
    const char *help;
} commands[] = {
    {"help", NULL, do_help, "this list"},
    {"depth", "N|A-B|auto", do_depth, "loops of each token: N, or A to B as the exit rule says"},
    {"threshold", "X|auto", do_threshold, "threshold of the exit rule"},
    {"effort", "low|…|auto", do_effort,
     "limit of loops: none, minimal, low, medium, high, xhigh, max"},
    {"temperature", "X|auto", do_temperature, "0: always the likeliest token"},
    {"max-tokens", "N|auto", do_max_tokens, "most tokens of an answer"},
    {"seed", "N|off", do_seed, "the same seed gives the same answer"},
    {"system", "TEXT|off", do_system, "what the model is told before the conversation"},
    {"again", NULL, do_again, "another answer, with another seed"},
    {"undo", NULL, do_undo, "forget the last question and its answer"},
    {"history", NULL, do_history, "what has been said"},
    {"clear", NULL, do_clear, "forget all but the system text"},
    {"save", "FILE", do_save, "write the messages as JSON"},
    {"load", "FILE", do_load, "go on with the messages of a file"},
    {"show", NULL, do_show, "the settings"},
    {"exit", NULL, NULL, "end, as Ctrl+D does"},
};

const char *const *chat_command_words(void) {
    static char text[ARRAY_LEN(commands)][LONGEST + 2];
    static const char *words[ARRAY_LEN(commands) + 1];
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        (void)snprintf(text[i], sizeof text[i], "/%s", commands[i].name);
        words[i] = text[i];
    }
    return words;
}

static int do_help(chat *self, const char *text, err *e) {
    (void)self, (void)text, (void)e;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const char *takes = commands[i].takes ? commands[i].takes : "";
        printf("  /%s %-*s %s\n", commands[i].name, (int)(24 - strlen(commands[i].name)), takes,
               commands[i].help);
    }
    printf(
        "A line that ends in a backslash goes on in the next. Lines between two lines of \"\"\" "
        "are one entry.\nCtrl+C stops an answer. A question that begins with / is written //.\n");
    return 0;
}

static int unknown(const char *name, err *e) {
    nearest near;
    nearest_start(&near, name);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        nearest_offer(&near, commands[i].name);
    if (near.best) {
        return err_set(e, ERR_BAD_PARAM, NULL, "no command /%.40s; did you mean /%s?", name,
                       near.best);
    }
    return err_set(e, ERR_BAD_PARAM, NULL, "no command /%.40s; /help lists them", name);
}

bool chat_command(chat *self, const char *line, err *e) {
    char name[32];
    size_t n = strcspn(line + 1, " \t\n");
    const char *text = line + 1 + n;
    text += strspn(text, " \t\n");
    (void)snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1),
                   line + 1);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) != 0) continue;
        if (commands[i].run == NULL) return false;
        if (commands[i].takes && text[0] == 0)
            (void)err_set(e, ERR_BAD_PARAM, NULL, "write /%s %s", name, commands[i].takes);
        else if (commands[i].takes == NULL && text[0])
            (void)err_set(e, ERR_BAD_PARAM, NULL, "/%s takes nothing behind it", name);
        else (void)commands[i].run(self, text, e);
        return true;
    }
    (void)unknown(name, e);
    return true;
}
