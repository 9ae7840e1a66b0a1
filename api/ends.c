/* ends.c - the tokens that end an answer: a union over the files beside the model.
 *
 * generation_config.json, the tokenizer's end token and the chat template's turn end all
 * count. config.json counts where the first two are silent: it is often a leftover of the
 * model that a training began with. Ids the model has no row for are warned of and dropped,
 * since no token of the model can be one. */
#include "api/api_internal.h"
#include "base/log.h"

int api__add_end(api_context *c, uint32_t id, err *e) {
    for (uint32_t i = 0; i < c->n_stop_ids; i++) {
        if (c->stop_ids[i] == id) return 0;
    }
    if (c->n_stop_ids == API__MAX_ENDS) {
        return err_set(e, ERR_BAD_FILE, "eos_token_id", "more than %d stop tokens", API__MAX_ENDS);
    }
    c->stop_ids[c->n_stop_ids++] = id;
    return 0;
}

/* One id as a file writes it: 1, or 0 if the model has no such token, or -1 if it is no
 * number at all. */
static int read_end(const api_context *c, const json_t *v, const char *file, uint32_t *id, err *e) {
    if (!json_is_number(v))
        return err_set(e, ERR_BAD_FILE, "eos_token_id", "%s: eos_token_id must be token ids", file);
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < 0 || n >= (json_int_t)c->config->vocab_size) {
        log_line(LOG_WARN,
                 "%s: eos_token_id %.15g is no token of the model, which has %u: left out", file,
                 json_number_value(v), c->config->vocab_size);
        return 0;
    }
    *id = (uint32_t)n;
    return 1;
}

int api__read_ends(api_context *c, const json_t *eos, const char *file, err *e) {
    if (eos == NULL || json_is_null(eos)) return 0;
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = 0;
        int rc = read_end(c, json_is_array(eos) ? json_array_get(eos, i) : eos, file, &id, e);
        if (rc > 0) rc = api__add_end(c, id, e);
        if (rc < 0) return -1;
    }
    return 0;
}

int api__add_config_ends(api_context *c, err *e) {
    const tokenizer *t = c->opts.tokenizer;
    bool silent = c->n_stop_ids == 0; /* the files before this one */
    for (uint32_t i = 0; i < c->config->n_eos; i++) {
        uint32_t id = c->config->eos_ids[i];
        if (t && !tokenizer_is_special(t, id)) {
            log_line(LOG_WARN, "config.json: eos_token_id %u is an ordinary word of the tokenizer",
                     id);
        }
        if (silent && api__add_end(c, id, e) != 0) return -1;
    }
    return 0;
}
