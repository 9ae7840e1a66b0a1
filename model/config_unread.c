/* config_unread.c - refuses unread keys of a config.json if they may change the arithmetic.
 *
 * Files carry many irrelevant keys: about training, libraries and publishers. A key matters only
 * if its name speaks of a layer's arithmetic: ignoring it would give other answers than the
 * published model. Names are matched word by word: "property" does not contain rope, and
 * grad_norm is about training. */
#include "model/model_internal.h"

#include <ctype.h>
#include <string.h>

/* "word" matches the whole word, "word*" its beginning, "*word" its end. */

/* Words about a layer's arithmetic, each with the value that has no effect. */
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

/* Words about training. A name with one of them is about training as a whole. */
static const char *const training[] = {
    "grad*",   "loss*",   "lr",         "learning", "optim*",  "adam*",      "decay*",   "warmup*",
    "sched*",  "label*",  "smoothing*", "dropout*", "init",    "initializ*", "train*",   "eval*",
    "check*",  "offload", "offloading", "parallel", "batch*",  "epoch*",     "seed*",    "log",
    "logging", "data*",   "recomput*",  "ema",      "wandb*",  "aux",        "balanc*",  "reward*",
    "teacher", "distill", "distil*",    "fsdp*",    "augment", "curric*",    "deepspeed"};

/* The next word of a name in lower case. A word ends before a character other than a letter or
 * digit, or before a capital after a small letter. False at the end. */
static bool next_word(const char **at, char word[32]) {
    const char *text = *at;
    size_t n = 0;
    while (*text && !isalnum((unsigned char)*text))
        text++;
    bool small = false;
    for (; isalnum((unsigned char)*text); text++) {
        bool capital = isupper((unsigned char)*text) != 0;
        if (capital && small) break;
        small = !capital;
        if (n < 31) word[n++] = (char)tolower((unsigned char)*text);
    }
    word[n] = 0;
    *at = text;
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

static bool says_nothing(const json_t *value, double neutral) {
    static const char *const words[] = {"", "default", "none", "null"};
    if (json_is_number(value))
        return json_number_value(value) == 0 || json_number_value(value) == neutral;
    if (json_is_array(value)) return json_array_size(value) == 0;
    if (json_is_object(value)) return json_object_size(value) == 0;
    if (!json_is_string(value)) return !json_is_true(value);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcasecmp(json_string_value(value), words[i]) == 0) return true;
    }
    return false;
}

static bool changes_arithmetic(const char *key, const json_t *value) {
    char word[32];
    for (const char *at = key; next_word(&at, word);) {
        for (size_t i = 0; i < ARRAY_LEN(arithmetic); i++) {
            if (matches(word, arithmetic[i].word) && !says_nothing(value, arithmetic[i].neutral))
                return !is_training(key);
        }
    }
    return false;
}

/* json_copy would drop keys when memory runs out. */
json_t *model__config_keys(json_t *root) {
    json_t *all = json_object(), *value;
    const char *key;
    json_object_foreach(root, key, value) {
        if (json_object_set(all, key, value) == 0) continue;
        json_decref(all);
        return NULL;
    }
    return all;
}

int model__config_refuse_unread(const model__config *config) {
    const char *key;
    json_t *value;
    json_object_foreach(config->unread, key, value) {
        if (!changes_arithmetic(key, value)) continue;
        return model__config_bad(config, key,
                                 "%.60s is set and not known to Fathom; its name speaks of a "
                                 "layer's arithmetic. Remove the key if it changes nothing",
                                 key);
    }
    return 0;
}
