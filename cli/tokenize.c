/* tokenize.c - fathom tokenize: text to token ids and back, for many lines in one process. */
#include "api/api.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *model, *text, *chat, *chat_template;
    bool special, to_text, json;
} options;

static const json_limits line_limits = {
    .max_bytes = 64 << 20, .max_depth = 2, .max_structural = 16 << 20};

/* The model's vocab_size, or no bound for a folder without a config.json. */
static int find_vocab_size(const char *dir, uint32_t *vocab_size, err *e) {
    char path[4096];
    *vocab_size = UINT32_MAX;
    int len = snprintf(path, sizeof path, "%s/config.json", dir);
    if (len < 0 || (size_t)len >= sizeof path)
        return err_set(e, ERR_USAGE, "--model", "--model: the path is too long");
    if (access(path, F_OK) != 0) return 0;
    buf text = {0};
    model_plan config;
    int rc = file_read(&text, path, 1 << 20, e);
    if (rc == 0) rc = plan_parse(&config, text.data, text.len, path, e);
    if (rc == 0) *vocab_size = config.vocab_size;
    buf_deinit(&text);
    return rc;
}

static int print_ids(const tokenizer *tok, const char *text, size_t n, bool special, err *e) {
    token_ids ids = {0};
    buf line = {0};
    int rc = tokenizer_encode(tok, text, n, special, SIZE_MAX, &ids, e);
    buf_puts(&line, "[");
    for (size_t i = 0; rc == 0 && i < ids.n; i++)
        buf_printf(&line, i ? ",%u" : "%u", ids.data[i]);
    buf_puts(&line, "]\n");
    if (rc == 0 && line.failed)
        rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the output");
    if (rc == 0) (void)fwrite(line.data, 1, line.len, stdout);
    buf_deinit(&line);
    token_ids_deinit(&ids);
    return rc;
}

/* Calls put() for each number of a JSON list; a number outside 0 to max is an error. */
static int each_number(const json_t *list, json_int_t max, const char *name, err *e,
                       void (*put)(void *ud, uint32_t value), void *ud) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        json_int_t n = json_integer_value(item);
        if (!json_is_integer(item) || n < 0 || n > max) {
            return err_set(e, ERR_BAD_PARAM, NULL, "element %zu is not a %s", i, name);
        }
        put(ud, (uint32_t)n);
    }
    return 0;
}

static void put_byte(void *ud, uint32_t value) {
    char byte = (char)value;
    buf_append(ud, &byte, 1);
}

static void put_token(void *ud, uint32_t id) {
    buf_append(ud, &id, sizeof id);
}

static int print_text(const tokenizer *tok, const json_t *list, err *e) {
    buf ids = {0}, text = {0}, line = {0};
    int rc = json_is_array(list) ? each_number(list, UINT32_MAX, "token id", e, put_token, &ids)
                                 : err_set(e, ERR_BAD_PARAM, NULL, "expected a list of token ids");
    if (rc == 0 && ids.failed) rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (rc == 0) {
        const void *data = ids.data; /* as malloc aligned it */
        rc = tokenizer_decode(tok, data, ids.len / sizeof(uint32_t), false, &text, e);
    }
    buf_json_string(&line, text.data ? text.data : "", text.len);
    buf_puts(&line, "\n");
    if (rc == 0 && line.failed) rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (rc == 0) (void)fwrite(line.data, 1, line.len, stdout);
    buf_deinit(&ids);
    buf_deinit(&text);
    buf_deinit(&line);
    return rc;
}

static int one_line(const tokenizer *tok, const options *opts, const char *line, size_t n, err *e) {
    /* The parser accepts a list but not a bare string, so the line is put into a list. */
    buf list = {0}, bytes = {0};
    json_t *root = NULL;
    buf_puts(&list, "[");
    buf_append(&list, line, n);
    buf_puts(&list, "]");
    int rc = list.failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a line")
                         : json_parse_nul(&root, list.data, list.len, &line_limits, "line", e);
    const json_t *item = json_array_get(root, 0);
    if (rc != 0) goto end;
    if (opts->to_text) {
        rc = print_text(tok, item, e);
    } else if (json_is_string(item)) {
        rc = print_ids(tok, json_string_value(item), json_string_length(item), opts->special, e);
    } else if (json_is_array(item)) {
        rc = each_number(item, 255, "byte", e, put_byte, &bytes);
        if (rc == 0) rc = print_ids(tok, bytes.data ? bytes.data : "", bytes.len, opts->special, e);
    } else {
        rc = err_set(e, ERR_BAD_PARAM, NULL, "expected a JSON string or a list of byte values");
    }
end:
    json_decref(root);
    buf_deinit(&list);
    buf_deinit(&bytes);
    return rc;
}

/* Reports each invalid line and goes on. Returns the number of invalid lines. */
static size_t every_line(const tokenizer *tok, const options *opts) {
    char *line = NULL;
    size_t cap = 0, number = 0, wrong = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) >= 0) {
        err why = {0};
        number++;
        if (one_line(tok, opts, line, (size_t)n, &why) == 0) continue;
        wrong++;
        (void)fflush(stdout); /* keeps the order if stdout and stderr are one file */
        fprintf(stderr, "fathom: line %zu: %s\n", number, why.msg);
    }
    free(line);
    return wrong;
}

/* ---- conversations ---- */

static void put_list(buf *out, const char *key, const token_ids *ids, const tokenizer *tok,
                     bool control_only) {
    const char *comma = "";
    buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < ids->n; i++) {
        if (control_only && !tokenizer_is_control(tok, ids->data[i])) continue;
        buf_printf(out, "%s%zu", comma, control_only ? i : ids->data[i]);
        comma = ",";
    }
    buf_puts(out, "]");
}

/* {"text", "ids", "control": indexes of control tokens, "runs": author of each piece of the
 * text} */
static void put_json(buf *out, const tokenizer *tok, const jinja_output *text,
                     const token_ids *ids) {
    buf_puts(out, "{\"text\":");
    buf_json_string(out, text->text.data ? text->text.data : "", text->text.len);
    put_list(out, "ids", ids, tok, false);
    put_list(out, "control", ids, tok, true);
    buf_puts(out, ",\"runs\":[");
    for (size_t i = 0; i < text->n_runs; i++) {
        buf_printf(out, "%s{\"end\":%zu,\"trusted\":%s}", i ? "," : "", text->runs[i].end,
                   text->runs[i].trusted ? "true" : "false");
    }
    buf_puts(out, "]}\n");
}

/* The text, then a line for each token. */
static void put_lines(buf *out, const tokenizer *tok, const jinja_output *text,
                      const token_ids *ids) {
    buf_append(out, text->text.data ? text->text.data : "", text->text.len);
    buf_puts(out, "\n\n");
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(tok, ids->data[i], &n);
        buf_printf(out, "%8u  ", ids->data[i]);
        buf_json_string(out, bytes ? bytes : "", n);
        buf_puts(out, tokenizer_is_control(tok, ids->data[i]) ? "  control\n" : "\n");
    }
}

static int print_chat(tokenizer *tok, const options *opts, err *e) {
    api_chat *chat = NULL;
    buf body = {0}, out = {0};
    jinja_output text = {0};
    token_ids ids = {0};
    int rc = strcmp(opts->chat, "-") == 0
                 ? opt_read_stdin(&body, "--chat", line_limits.max_bytes, e)
                 : opt_read_file(&body, "--chat", opts->chat, line_limits.max_bytes, e);
    if (rc == 0) rc = api_chat_open(&chat, opts->model, opts->chat_template, tok, e);
    if (rc == 0) rc = api_chat_render(chat, body.data ? body.data : "", body.len, &text, &ids, e);
    if (rc == 0 && opts->json) put_json(&out, tok, &text, &ids);
    else if (rc == 0) put_lines(&out, tok, &text, &ids);
    if (rc == 0 && out.failed) rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (rc == 0) (void)fwrite(out.data, 1, out.len, stdout);
    api_chat_close(chat);
    jinja_output_deinit(&text);
    token_ids_deinit(&ids);
    buf_deinit(&body);
    buf_deinit(&out);
    return rc;
}

static int check_options(const options *opts, err *e) {
    if (opts->text && opts->to_text) {
        return err_set(
            e, ERR_USAGE, "--text",
            "--ids-to-text reads token ids from stdin and cannot be combined with --text");
    }
    if (opts->chat && (opts->text || opts->to_text || opts->special)) {
        return err_set(e, ERR_USAGE, "--chat",
                       "--chat cannot be combined with --text, --ids-to-text or --special");
    }
    if (opts->chat || (!opts->chat_template && !opts->json)) return 0;
    return err_set(e, ERR_USAGE, "--chat", "--chat-template and --json need --chat");
}

int cmd_tokenize(opt_args *args) {
    options opts = {0};
    const opt_row table[] = {
        MODEL_OPTION(&opts.model),
        {"--text", OPT_TEXT, &opts.text, "TEXT",
         "text to turn into token ids (default: each line of stdin, a JSON string or a list of "
         "bytes)",
         0, 0, false},
        {"--special", OPT_FLAG, &opts.special, NULL,
         "read the name of a special token in a text as that token", 0, 0, false},
        {"--chat", OPT_TEXT, &opts.chat, "FILE",
         "print text and token ids of a conversation in FILE: a JSON list of messages, or an "
         "object with messages, tools, chat_template_kwargs; -: read stdin",
         0, 0, false},
        {"--chat-template", OPT_TEXT, &opts.chat_template, "FILE|NAME",
         "with --chat: chat template to use instead of the folder's, as for serve", 0, 0, false},
        {"--json", OPT_FLAG, &opts.json, NULL,
         "with --chat: print one JSON object with text, ids, control and runs", 0, 0, false},
        {"--ids-to-text", OPT_FLAG, &opts.to_text, NULL,
         "read a JSON list of token ids from each line of stdin and print its text as a JSON "
         "string",
         0, 0, false},
    };
    const opt_command command = {"tokenize", "turns text into token ids, or token ids into text",
                                 "fathom tokenize demo --text 'In the beginning'", table,
                                 ARRAY_LEN(table)};
    int rc = opt_parse(&command, args);
    if (rc != 0) return rc > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    tokenizer *tok = NULL;
    uint32_t vocab_size = 0;
    if (check_options(&opts, &e) != 0) return opt_fail(&e);
    model_place place;
    if (take_model(&opts.model, &place, &e) != 0) return opt_fail(&e);
    rc = find_vocab_size(opts.model, &vocab_size, &e);
    if (rc == 0) rc = tokenizer_open(&tok, opts.model, vocab_size, &e);
    size_t wrong = 0;
    if (rc == 0 && opts.chat) rc = print_chat(tok, &opts, &e);
    else if (rc == 0 && opts.text)
        rc = print_ids(tok, opts.text, strlen(opts.text), opts.special, &e);
    else if (rc == 0) wrong = every_line(tok, &opts);
    tokenizer_close(tok);
    if (fflush(stdout) != 0 && rc == 0)
        rc = err_set(&e, ERR_IO, NULL, "stdout: %s", strerror(errno));
    if (rc != 0) return opt_fail(&e);
    return wrong ? EXIT_FAILED : 0;
}
