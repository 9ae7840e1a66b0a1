/* config_unread.c - keys of a config.json that no reader asked for.
 *
 * Files carry many keys that change nothing here: of training, of libraries, of the people who
 * published them. Only a name that speaks of what a layer computes counts, since computing
 * without it would give other answers than the model's authors publish. Names are looked at
 * word by word: "property" is no rope, and grad_norm is training's. */
#include "model/model_internal.h"

#include <ctype.h>
#include <string.h>

/* "word" is all of a word, "word*" its beginning, "*word" its end. */

/* What layers compute, and the number that changes nothing. */
static const struct {
    const char *word;
    double neutral;
} arithmetic[] = {
    {"softcap*", 0}, {"soft", 0},        {"scale*", 1},  {"scaling*", 1},    {"scalar*", 1},
    {"*scale", 1},   {"multiplier*", 1}, {"factor*", 1}, {"clip*", 0},       {"alibi*", 0},
    {"sliding*", 0}, {"window*", 0},     {"bias*", 0},   {"*bias", 0},       {"rope*", 0},
    {"rotary*", 1},  {"norm*", 0},       {"*norm", 0},   {"quant*", 0},      {"compress*", 0},
    {"expert*", 0},  {"softmax*", 0},    {"act", 0},     {"activation*", 0}, {"yarn*", 0},
};

/* What only training does; one such word makes the whole name training's. */
static const char *const training[] = {
    "grad*",   "loss*",   "lr",         "learning", "optim*",  "adam*",      "decay*",   "warmup*",
    "sched*",  "label*",  "smoothing*", "dropout*", "init",    "initializ*", "train*",   "eval*",
    "check*",  "offload", "offloading", "parallel", "batch*",  "epoch*",     "seed*",    "log",
    "logging", "data*",   "recomput*",  "ema",      "wandb*",  "aux",        "balanc*",  "reward*",
    "teacher", "distill", "distil*",    "fsdp*",    "augment", "curric*",    "deepspeed"};

/* The next word of a name, in small letters: up to a letter that is no letter or digit, or before
 * a capital after a small one. False at the end. */
static bool next_word(const char **at, char word[32]) {
    const char *s = *at;
    size_t n = 0;
    while (*s && !isalnum((unsigned char)*s))
        s++;
    bool small = false;
    for (; isalnum((unsigned char)*s); s++) {
        bool capital = isupper((unsigned char)*s) != 0;
        if (capital && small) break;
        small = !capital;
        if (n < 31) word[n++] = (char)tolower((unsigned char)*s);
    }
    word[n] = 0;
    *at = s;
    return n > 0;
}

static bool matches(const char *word, const char *pattern) {
    size_t n = strlen(pattern), len = strlen(word);
    if (pattern[0] == '*') return len >= n - 1 && strcmp(word + len - (n - 1), pattern + 1) == 0;
    if (pattern[n - 1] == '*') return strncmp(word, pattern, n - 1) == 0;
    return strcmp(word, pattern) == 0;
}

static bool is_training(const char *key) {
    char word[32];
    for (const char *at = key; next_word(&at, word);) {
        for (size_t i = 0; i < ARRAY_LEN(training); i++) {
            if (matches(word, training[i])) return true;
        }
    }
    return false;
}

static bool says_nothing(const json_t *v, double neutral) {
    static const char *const words[] = {"", "default", "none", "null"};
    if (json_is_number(v)) return json_number_value(v) == 0 || json_number_value(v) == neutral;
    if (json_is_array(v)) return json_array_size(v) == 0;
    if (json_is_object(v)) return json_object_size(v) == 0;
    if (!json_is_string(v)) return !json_is_true(v);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcasecmp(json_string_value(v), words[i]) == 0) return true;
    }
    return false;
}

static bool changes_arithmetic(const char *key, const json_t *v) {
    char word[32];
    for (const char *at = key; next_word(&at, word);) {
        for (size_t i = 0; i < ARRAY_LEN(arithmetic); i++) {
            if (matches(word, arithmetic[i].word) && !says_nothing(v, arithmetic[i].neutral))
                return !is_training(key);
        }
    }
    return false;
}

/* json_copy would leave keys out when memory ends. */
json_t *model__config_keys(json_t *root) {
    json_t *all = json_object(), *v;
    const char *key;
    json_object_foreach(root, key, v) {
        if (json_object_set(all, key, v) == 0) continue;
        json_decref(all);
        return NULL;
    }
    return all;
}

int model__config_refuse_unread(const model__config *c) {
    const char *key;
    json_t *v;
    json_object_foreach(c->unread, key, v) {
        if (!changes_arithmetic(key, v)) continue;
        return model__config_bad(c, key,
                                 "%.60s is set and not known to Fathom; its name speaks of a "
                                 "layer's arithmetic. Remove the key if it changes nothing",
                                 key);
    }
    return 0;
}
