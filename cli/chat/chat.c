/* chat.c - `fathom chat`: a conversation with a model in the terminal. */
#include "base/log.h"
#include "base/terminal.h"
#include "cli/chat/chat_internal.h"
#include "cli/describe.h"
#include "engine/backend.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { USUAL_TOKENS = 512 };
#define UNSET UINT64_MAX

typedef struct {
    runtime_opts run;
    const char *chat_template, *system;
    uint64_t max_tokens, seed;
    opt_real temperature;
    bool no_history, no_drafts;
} options;

/* ---- opening ---- */

static int open_api(chat *self, const options *opts, err *e) {
    const runtime *rt = self->rt;
    const model_plan *plan = model_plan_of(rt->model);
    const sched_opts *run = &rt->sched;
    api_opts settings = {
        .model_dir = model_dir(rt->model),
        .chat_template = opts->chat_template,
        .model = rt->model,
        .tokenizer = rt->tokenizer,
        .no_tokenizer = rt->no_tokenizer[0] ? rt->no_tokenizer : NULL,
        .max_context = plan->max_seq_len,
        .max_n = 1,
        .max_prompts = 1,
        .ceiling_loops = run->ceiling_loops,
        .own_run = true,
        .default_loops = run->default_max_loops ? run->default_max_loops : plan->loops_default,
        .halted_kv = run->halted_kv,
        .exit = rt->backend->info.exit,
        .threshold = runtime_threshold(rt),
        .max_body_bytes = 64 << 20,
        .control_ids = true,
    };
    return api_context_open(&self->api, &settings, e);
}

/* A quarter of the context, so that later questions have room too. */
static uint64_t usual_tokens(const model_plan *plan) {
    uint64_t part = plan->max_seq_len / 4;
    return part > USUAL_TOKENS ? USUAL_TOKENS : part ? part : 1;
}

static void say_form(chat *self) {
    const char *why = NULL;
    if (api_chat_template(self->api, &why)) {
        self->form = CHAT_MESSAGES;
    } else if (self->rt->tokenizer) {
        self->form = CHAT_TEXT;
        fprintf(stderr,
                "This model has no chat template%s%s%s: it continues your text. Each entry is a "
                "further line of the text; /clear begins anew.\n",
                why ? " that can be used (" : "", why ? why : "", why ? ")" : "");
    } else {
        self->form = CHAT_IDS;
        fprintf(stderr, "This model has no tokenizer: write token ids, as in 1 2 3.\n");
    }
    if (!self->terminal) return;
    buf line = {0};
    describe_runtime(&line, self->rt);
    fprintf(stderr, "%s: %s. /help lists the commands.\n", api_model_name(self->api),
            line.data ? line.data : "");
    buf_clear(&line);
    token_printer printer;
    token_printer_init(&printer, stdout, self->rt, 0);
    printer.tint = self->tint;
    token_printer_legend(&printer, &line);
    if (line.data) fputs(line.data, stderr);
    buf_deinit(&line);
}

/* Settings from the command line. */
static int set_all(chat *self, const options *opts, err *e) {
    self->max_tokens =
        opts->max_tokens ? opts->max_tokens : usual_tokens(model_plan_of(self->rt->model));
    if (opts->run.min_loops) {
        json_t *depth = json_pack("{s:I}", "min_loops", (json_int_t)opts->run.min_loops);
        if (depth == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a setting");
        if (chat_set(self, "depth", depth, e) != 0) return -1;
    }
    if (opts->temperature.given &&
        chat_set(self, "temperature", json_real(opts->temperature.value), e) != 0)
        return -1;
    self->own_seed = opts->seed != UNSET;
    if (self->own_seed) self->seed = opts->seed;
    return opts->system ? chat_set_system(self, opts->system, e) : 0;
}

static int open_chat(chat *self, const options *opts, err *e) {
    self->terminal = isatty(STDIN_FILENO);
    self->tint = self->terminal && terminal_has_colours(STDOUT_FILENO);
    self->drafts = self->tint && !opts->no_drafts;
    self->dim = terminal_has_colours(STDERR_FILENO);
    const chat_input_opts input = {
        .terminal = self->terminal,
        .no_history = opts->no_history,
        .commands = chat_command_words(),
    };
    self->messages = json_array();
    self->settings = json_object();
    if (self->messages == NULL || self->settings == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the conversation");
    if (open_api(self, opts, e) != 0) return -1;
    if (sched_create(&self->sched, self->rt->backend, &self->rt->sched, chat_on_event, self, e) !=
            0 ||
        chat_input_open(&self->input, &input, e) != 0)
        return -1;
    say_form(self);
    return set_all(self, opts, e);
}

static void close_chat(chat *self) {
    chat_input_close(self->input);
    sched_destroy(self->sched);
    api_context_close(self->api);
    json_decref(self->messages);
    json_decref(self->settings);
    buf_deinit(&self->file);
}

/* ---- the loop ---- */

/* Prints a failure and its remedy. False: no further answer is possible. */
static bool tell(chat *self, const err *e) {
    fprintf(stderr, "fathom chat: %s\n", e->msg[0] ? e->msg : err_text(e->code));
    if (e->code == ERR_TOO_LONG && self->terminal)
        fprintf(stderr, "/undo or /clear makes room in the context.\n");
    self->failed = true;
    self->broken = e->code == ERR_DEVICE;
    return !self->broken;
}

static bool is_blank(const buf *entry) {
    return entry->len == 0 || entry->data[strspn(entry->data, " \t\n")] == 0;
}

/* False: the conversation ends. */
static bool take_entry(chat *self, buf *entry) {
    err e = {0};
    bool more = true;
    if (is_blank(entry)) return true;
    if (entry->data[0] == '/' && entry->data[1] != '/') {
        while (strchr(" \t\n", entry->data[entry->len - 1])) /* the Tab key adds a blank */
            entry->data[--entry->len] = 0;
        more = chat_command(self, entry->data, &e);
    } else {
        if (entry->data[0] == '/') buf_drop(entry, 1);
        if (chat_say(self, "user", entry, NULL, &e) == 0)
            (void)chat_answer(self, chat_next_seed(self), &e);
    }
    fflush(stdout);
    return e.code == ERR_NONE ? more : tell(self, &e);
}

/* Ctrl+C twice without an entry between ends. */
static void talk(chat *self) {
    buf entry = {0};
    bool asked = false;
    for (bool more = true; more;) {
        chat_forget_interrupt();
        switch (chat_input_read(self->input, &entry)) {
        case CHAT_ENTRY:
            more = take_entry(self, &entry);
            asked = false;
            break;
        case CHAT_TOO_LONG:
            fprintf(stderr, "fathom chat: an entry may have up to %d MB\n", CHAT_ENTRY_BYTES >> 20);
            self->failed = true;
            break;
        case CHAT_INTERRUPT:
            fprintf(stderr, "\n");
            if (asked) more = false;
            else fprintf(stderr, "Ctrl+C again, Ctrl+D or /exit ends.\n");
            asked = true;
            break;
        case CHAT_END:
            if (self->terminal) fprintf(stderr, "\n");
            more = false;
            break;
        }
    }
    buf_deinit(&entry);
}

int cmd_chat(opt_args *args) {
    options opts = {.seed = UNSET};
    const opt_row table[] = {
        ENGINE_OPTIONS(&opts.run),
        POLICY_OPTIONS(&opts.run),
        SPECULATION_OPTIONS(&opts.run),
        {"--system", OPT_TEXT, &opts.system, "TEXT",
         "what the model is told before the conversation", 0, 0, false},
        {"--chat-template", OPT_TEXT, &opts.chat_template, "FILE|NAME",
         "chat template to use instead of the folder's", 0, 0, false},
        {"--max-tokens", OPT_UINT, &opts.max_tokens, "N",
         "most tokens of an answer (default: 512, or a quarter of a smaller context)", 1, 1e6,
         false},
        {"--temperature", OPT_GIVEN_REAL, &opts.temperature, "T",
         "sampling temperature; 0: always the likeliest token (default: that of the model's "
         "generation_config.json, or 1)",
         0, 2, false},
        {"--seed", OPT_UINT, &opts.seed, "N",
         "seed of every answer (default: another one for each)", 0, 9.2e18, false},
        {"--no-drafts", OPT_FLAG, &opts.no_drafts, NULL,
         "on a terminal with colours: do not show guessed tokens faint behind the answer", 0, 0,
         false},
        {"--no-history", OPT_FLAG, &opts.no_history, NULL,
         "neither read nor keep the lines of other conversations", 0, 0, false},
        GROUP_DEPTH,
        {"--min-loops", OPT_UINT, &opts.run.min_loops, "N",
         "fewest loops that a token runs (default 1)", 1, PLAN_MAX_LOOPS, false},
        OPT_GROUP(""),
    };
    const opt_command command = {
        "chat", "talks with a model in the terminal, or reads entries from a pipe, one a line",
        "fathom chat --model models/demo --temperature 0.9", table, ARRAY_LEN(table)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    opts.run.max_running = 1;
    err e = {0};
    runtime rt;
    model_place place;
    log_set_level(LOG_WARN);
    if (take_model(&opts.run.model, &place, &e) != 0) return opt_fail(&e);
    if (runtime_open(&rt, &opts.run, &e) != 0) return opt_fail(&e);
    chat self = {.rt = &rt};
    int rc = open_chat(&self, &opts, &e);
    if (rc == 0) {
        if (self.terminal) chat_watch_interrupts();
        talk(&self);
    }
    close_chat(&self);
    runtime_close(&rt);
    if (rc != 0) return opt_fail(&e);
    return self.broken || (self.failed && !self.terminal) ? EXIT_FAILED : 0;
}
