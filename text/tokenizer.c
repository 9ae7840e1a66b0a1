/* tokenizer.c - encoding: added tokens are cut out first, then invalid bytes; the valid UTF-8
 * between them goes through pre-tokenizers and merges. Also the queries about single tokens. */
#include "base/file.h"
#include "base/size.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- encoding ---- */

/* A byte that is not UTF-8 is cut out and becomes its token, if it has one. The texts before and
 * after it are split as separate texts. */
static int encode_plain(text__encoder *enc, const char *text, size_t n) {
    while (n > 0) {
        size_t good = utf8_prefix(text, n);
        if (good > 0 && text__encode_split(enc, 0, text, good) != 0) return -1;
        text += good;
        n -= good;
        if (n == 0) break;
        uint32_t id = enc->tok->byte_id[(unsigned char)*text];
        if (id == TEXT__NO_ID) id = enc->tok->unk;
        if (id != TEXT__NO_ID && text__put_id(enc, id) != 0) return -1;
        text++;
        n--;
    }
    return 0;
}

size_t text__first_run(const text__encoder *enc, size_t at) {
    size_t low = 0, high = enc->n_runs;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (enc->runs[middle].end > at) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* All n bytes of `text`, a part of the encoder's text, are trusted. */
static bool is_trusted(const text__encoder *enc, const char *text, size_t n) {
    size_t from = (size_t)(text - enc->text);
    for (size_t i = text__first_run(enc, from); i < enc->n_runs && enc->runs[i].trusted; i++) {
        if (enc->runs[i].end >= from + n) return true;
    }
    return false;
}

static int encode_from(text__encoder *enc, int k, const char *text, size_t n);

static int encode_normal(text__encoder *enc, const char *text, size_t n) {
    text__normal normal;
    if (text__normalize(enc, text, n, &normal) != 0) return -1;
    text__encoder raw = *enc; /* with the text before normalizing */
    enc->text = normal.text.data;
    enc->runs = normal.runs;
    enc->n_runs = normal.n_runs;
    if (text == enc->text_start) enc->text_start = enc->text;
    int rc = encode_from(enc, TEXT__TRIE_NORMALIZED, enc->text, normal.text.len);
    enc->text = raw.text;
    enc->runs = raw.runs;
    enc->n_runs = raw.n_runs;
    enc->text_start = raw.text_start;
    text__normal_deinit(&normal);
    return rc;
}

/* Encodes a stretch of text between the added tokens of one trie. */
static int encode_rest(text__encoder *enc, int kind, const char *text, size_t n) {
    if (kind == TEXT__TRIE_NORMALIZED) return encode_plain(enc, text, n);
    return enc->tok->n_normalizer ? encode_normal(enc, text, n)
                                  : encode_from(enc, TEXT__TRIE_NORMALIZED, text, n);
}

/* Cuts the added tokens of one trie out of the text and encodes the rest. As in the reference, the
 * leftmost token counts, and the longest at one place. The spelling of a control token in a
 * client's text is skipped as a whole: no shorter token inside it is found. */
static int encode_from(text__encoder *enc, int kind, const char *text, size_t n) {
    const text__trie *trie = &enc->tok->tries[kind];
    if (trie->n_nodes == 0) return encode_rest(enc, kind, text, n);
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        uint32_t at = trie->first[(unsigned char)text[i]]
                          ? text__trie_match(trie, text + i, n - i, &len)
                          : TEXT__NO_ID;
        if (at == TEXT__NO_ID) {
            i++;
            continue;
        }
        const text__added *added = &enc->tok->added[at];
        size_t start = i, end = i + len;
        i = end; /* not after the stripped blanks: another token may begin among them */
        if (enc->tok->tokens[added->id].control && !is_trusted(enc, text + start, len)) continue;
        if (added->single_word &&
            (text__word_before(text, start) || text__word_after(text + end, n - end))) {
            continue;
        }
        if (added->lstrip) start = text__spaces_before(text, done, start);
        if (added->rstrip) end += text__spaces_after(text + end, n - end);
        if (start > done && encode_rest(enc, kind, text + done, start - done) != 0) return -1;
        if (text__put_id(enc, added->id) != 0) return -1;
        done = end;
    }
    return done < n ? encode_rest(enc, kind, text + done, n - done) : 0;
}

void text__encoder_deinit(text__encoder *enc) {
    free(enc->symbols);
    free(enc->heap);
    text__search_deinit(&enc->search);
}

int tokenizer_encode(const tokenizer *tok, const char *text, size_t n, bool parse_special,
                     size_t max_ids, token_ids *out, err *e) {
    text_run whole = {n, parse_special};
    return tokenizer_encode_runs(tok, text, n, &whole, 1, max_ids, out, e);
}

int tokenizer_encode_runs(const tokenizer *tok, const char *text, size_t n, const text_run *runs,
                          size_t n_runs, size_t max_ids, token_ids *out, err *e) {
    text__encoder enc = {.tok = tok,
                         .out = out,
                         .search = {.n_bytes = n},
                         .text = text,
                         .text_start = text,
                         .runs = runs,
                         .n_runs = n_runs,
                         .e = e};
    if (!size_add(out->n, max_ids, &enc.max_ids)) enc.max_ids = SIZE_MAX;
    int rc = encode_from(&enc, TEXT__TRIE_RAW, text, n);
    text__encoder_deinit(&enc);
    return rc;
}

/* ---- queries ---- */

size_t tokenizer_fewest(const tokenizer *tok, size_t n) {
    return tok->longest ? n / tok->longest + (n % tok->longest > 0) : 0;
}

const char *tokenizer_bytes(const tokenizer *tok, uint32_t id, size_t *n) {
    bool there = id < tok->n_ids && tok->tokens[id].len > 0;
    *n = there ? tok->tokens[id].len : 0;
    return there ? tok->text + tok->tokens[id].at : NULL;
}

bool tokenizer_is_special(const tokenizer *tok, uint32_t id) {
    return id < tok->n_ids && tok->tokens[id].special;
}

bool tokenizer_is_control(const tokenizer *tok, uint32_t id) {
    return id < tok->n_ids && tok->tokens[id].control;
}

/* Removes the merges that give the token: a client's text must not become it that way either. */
static void remove_merges(tokenizer *tok, uint32_t id) {
    for (size_t i = 0; i < tok->merges.cap; i++) {
        map_entry *entry = &tok->merges.entries[i];
        if (entry->key != MAP_NONE && entry->value != MAP_NONE && (uint32_t)entry->value == id)
            entry->value = MAP_NONE;
    }
    for (uint32_t i = 0; i < tok->n_ids; i++)
        atomic_store_explicit(&tok->whole[i], TEXT__WHOLE_UNKNOWN, memory_order_relaxed);
}

void tokenizer_mark_control(tokenizer *tok, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < ARRAY_LEN(tok->tries); k++) {
            size_t len = 0;
            uint32_t at = tok->tries[k].first[(unsigned char)text[i]]
                              ? text__trie_match(&tok->tries[k], text + i, n - i, &len)
                              : TEXT__NO_ID;
            if (at == TEXT__NO_ID || tok->added[at].plain) continue;
            text__token *token = &tok->tokens[tok->added[at].id];
            if (!token->control && !token->unreachable) remove_merges(tok, tok->added[at].id);
            token->control = true;
        }
    }
}

bool tokenizer_find(const tokenizer *tok, const char *token, uint32_t *id) {
    size_t n = strlen(token), len = 0;
    *id = TEXT__NO_ID;
    if (n == 0) return false;
    for (size_t k = ARRAY_LEN(tok->tries); k-- > 0 && *id == TEXT__NO_ID;) {
        uint32_t at = text__trie_match(&tok->tries[k], token, n, &len);
        if (at != TEXT__NO_ID && len == n) *id = tok->added[at].id;
    }
    if (*id == TEXT__NO_ID) *id = text__token_lookup(tok, token, n);
    return *id != TEXT__NO_ID;
}

bool tokenizer_bos(const tokenizer *tok, uint32_t *id) {
    *id = tok->bos;
    return tok->bos != TEXT__NO_ID;
}

uint32_t tokenizer_size(const tokenizer *tok) {
    return tok->n_ids;
}

void token_ids_deinit(token_ids *ids) {
    free(ids->data);
    *ids = (token_ids){0};
}

/* ---- opening ---- */

/* SentencePiece's own file has no order of merges, so Fathom cannot read it. */
static int not_found(const char *dir, const char *path, err *e) {
    char other[4096];
    int len = snprintf(other, sizeof other, "%s/tokenizer.model", dir);
    if (len < 0 || (size_t)len >= sizeof other || access(other, F_OK) != 0)
        return err_set(e, ERR_NOT_FOUND, NULL, "%s: the file does not exist", path);
    return err_set(
        e, ERR_UNSUPPORTED, NULL,
        "%s: the file does not exist, and tokenizer.model cannot be read in its place; to "
        "make it, run in the folder: python3 -c \"from transformers import AutoTokenizer; "
        "AutoTokenizer.from_pretrained('.').save_pretrained('.')\"",
        path);
}

int tokenizer_open(tokenizer **out, const char *dir, uint32_t vocab_size, err *e) {
    *out = NULL;
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (len < 0 || (size_t)len >= sizeof path)
        return err_set(e, ERR_BAD_FILE, NULL, "the model's path is too long");
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return not_found(dir, path, e);
    buf text = {0};
    int rc = file_read(&text, path, 64 << 20, e);
    if (rc == 0) rc = tokenizer_parse(out, text.data, text.len, vocab_size, path, e);
    buf_deinit(&text);
    return rc;
}

void tokenizer_close(tokenizer *tok) {
    if (tok == NULL) return;
    for (uint32_t i = 0; i < tok->n_steps; i++)
        text__pattern_deinit(&tok->steps[i].pattern);
    for (size_t k = 0; k < ARRAY_LEN(tok->tries); k++) {
        map_deinit(&tok->tries[k].edges);
        free(tok->tries[k].end);
    }
    map_deinit(&tok->merges);
    map_deinit(&tok->joints);
    text__decoder_free(tok);
    text__normalizer_free(tok);
    free(tok->added);
    free(tok->slots);
    free(tok->text);
    free(tok->tokens);
    free(tok->whole);
    free(tok);
}
