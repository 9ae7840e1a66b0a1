/* constrain_vocab.c - sorts a tokenizer's tokens into tries.
 *
 * The children of a node stand side by side, so a walk that refuses most of them reads little
 * memory. Their own children follow in the same order. */
#include "api/grammar/vocab_internal.h"
#include "base/size.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MASK_BYTES = 32 << 20 }; /* masks kept for states that come again */

/* Length of the leading part allowed unescaped in a JSON string: whole characters without quote,
 * backslash or control characters. */
static size_t plain_bytes(const char *text, size_t n) {
    size_t at = 0;
    while (at < n && (uint8_t)text[at] >= 0x20 && text[at] != '"' && text[at] != '\\')
        at++;
    return utf8_prefix(text, at);
}

typedef struct {
    const char *text;
    uint32_t len, id;
} entry;

static int by_text(const void *x, const void *y) {
    const entry *left = x, *right = y;
    int order = memcmp(left->text, right->text, left->len < right->len ? left->len : right->len);
    if (order == 0) order = (left->len > right->len) - (left->len < right->len);
    return order ? order : left->id < right->id ? -1 : 1;
}

static size_t common(const char *left, size_t na, const char *right, size_t nb) {
    size_t i = 0;
    while (i < na && i < nb && left[i] == right[i])
        i++;
    return i;
}

/* The number of entries, from the first one on, with its byte at `depth`. */
static size_t alike(const entry *list, size_t n, size_t depth) {
    size_t i = 0;
    while (i < n && list[i].text[depth] == list[0].text[depth])
        i++;
    return i;
}

/* Adds the nodes below one node. list: n sorted entries that begin with the node's text and are
 * longer than its `depth` bytes, a part of the whole list `base`. */
static uint16_t add_children(api__trie *tree, const entry *list, size_t n, size_t depth,
                             const entry *base) {
    uint32_t first = tree->n_nodes;
    for (size_t i = 0; i < n; i += alike(&list[i], n - i, depth)) {
        const entry *one = &list[i]; /* of equal texts the first */
        api__trie_node node = {.token = API__NO_TOKEN, .byte = (uint8_t)one->text[depth]};
        if (one->len == depth + 1) node.token = (uint32_t)(one - base);
        tree->nodes[tree->n_nodes++] = node;
    }
    uint16_t n_children = (uint16_t)(tree->n_nodes - first);
    for (uint16_t k = 0; k < n_children; k++) {
        size_t shared = alike(list, n, depth), whole = 0;
        while (whole < shared && list[whole].len == depth + 1)
            whole++;
        tree->nodes[first + k].child = tree->n_nodes;
        if (whole < shared)
            tree->nodes[first + k].n_children =
                add_children(tree, list + whole, shared - whole, depth + 1, base);
        list += shared;
        n -= shared;
    }
    return n_children;
}

static int trie_build(api__trie *tree, const entry *list, size_t n) {
    size_t n_nodes = 0;
    entry last = {"", 0, 0};
    for (size_t i = 0; i < n; last = list[i++])
        n_nodes += list[i].len - common(last.text, last.len, list[i].text, list[i].len);
    if (n_nodes >= API__NO_TOKEN) return -1;
    tree->nodes = array_new(n_nodes, sizeof *tree->nodes);
    if (tree->nodes == NULL) return -1;
    tree->n_roots = add_children(tree, list, n, 0, list);
    return 0;
}

/* The most items of one array that a token begins: one, and one after each comma of the array. A
 * comma is not followed by another. The comma after the last item counts, too. */
static uint32_t items_of(const char *text, size_t n) {
    uint32_t items = 1;
    for (size_t i = 0; i < n; i++)
        items += text[i] == ',' && (i + 1 == n || text[i + 1] != ',');
    return items;
}

/* Lists all tokens that a text may contain, sorted by bytes. */
static size_t list_tokens(api__vocab *vocab, entry *list) {
    size_t n = 0, len;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const char *text = tokenizer_bytes(vocab->tokenizer, id, &len);
        if (text == NULL || len == 0 || len > API__MAX_TOKEN_BYTES ||
            tokenizer_is_special(vocab->tokenizer, id)) {
            continue;
        }
        list[n++] = (entry){text, (uint32_t)len, id};
        uint32_t chars = plain_bytes(text, len) == len ? (uint32_t)utf8_count(text, len) : 0;
        vocab->chars[id] = (uint8_t)chars;
        if (chars > vocab->max_chars) vocab->max_chars = chars;
        uint32_t items = items_of(text, len);
        if (items > vocab->max_items) vocab->max_items = items;
    }
    qsort(list, n, sizeof *list, by_text);
    return n;
}

static size_t pick(const api__vocab *vocab, const entry *list, size_t n, bool plain, entry *out) {
    size_t picked = 0;
    for (size_t i = 0; i < n; i++) {
        if ((vocab->chars[list[i].id] > 0) == plain) out[picked++] = list[i];
    }
    return picked;
}

/* Makes one set of plain tokens for each number of characters left in a string. */
static int list_plain(api__vocab *vocab) {
    size_t words;
    if (!size_mul(vocab->n_words, vocab->max_chars + 1u, &words)) return -1;
    vocab->plain_upto = array_new(words, sizeof *vocab->plain_upto);
    if (vocab->plain_upto == NULL) return -1;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        if (vocab->chars[id] > 0)
            vocab->plain_upto[vocab->chars[id] * vocab->n_words + id / 64] |= (uint64_t)1
                                                                              << id % 64;
    }
    for (size_t i = vocab->n_words; i < words; i++)
        vocab->plain_upto[i] |= vocab->plain_upto[i - vocab->n_words];
    return 0;
}

static int endings_build(api__endings *out, entry *list, size_t n) {
    qsort(list, n, sizeof *list, by_text);
    out->ids = array_new(n, sizeof *out->ids);
    out->last = array_new(n, sizeof *out->last);
    if (out->ids == NULL || out->last == NULL) return -1;
    for (size_t i = n; i-- > 0;) {
        bool same = i + 1 < n && list[i].len == list[i + 1].len &&
                    memcmp(list[i].text, list[i + 1].text, list[i].len) == 0;
        out->ids[i] = list[i].id;
        out->last[i] = same ? out->last[i + 1] : (uint32_t)i;
    }
    return trie_build(&out->tree, list, n);
}

static void endings_free(api__endings *e) {
    free(e->tree.nodes);
    free(e->ids);
    free(e->last);
}

/* list: the irregular tokens, cut here to their endings; some: room for as many. */
static int list_endings(api__vocab *vocab, entry *list, size_t n, entry *some) {
    for (size_t chars = 0; chars < API__MAX_TOKEN_BYTES; chars++) {
        size_t n_some = 0;
        for (size_t i = 0; i < n; i++) {
            uint32_t skip = (uint32_t)plain_bytes(list[i].text, list[i].len);
            if (utf8_count(list[i].text, skip) != chars) continue;
            some[n_some++] = (entry){list[i].text + skip, list[i].len - skip, list[i].id};
        }
        if (n_some && endings_build(&vocab->ends_after[chars], some, n_some) != 0) return -1;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t skip = (uint32_t)plain_bytes(list[i].text, list[i].len);
        list[i].text += skip;
        list[i].len -= skip;
    }
    return endings_build(&vocab->ends, list, n);
}

/* Keeps the order of the tokens, and the tokens that no text may contain. */
static int list_sorted(api__vocab *vocab, const entry *list, size_t n) {
    vocab->sorted = array_new(n + 1, sizeof *vocab->sorted);
    vocab->closers = array_new(n + 1, sizeof *vocab->closers);
    if (vocab->sorted == NULL || vocab->closers == NULL) return -1;
    for (size_t i = 0; i < n; i++) {
        size_t plain = plain_bytes(list[i].text, list[i].len);
        vocab->sorted[vocab->n_sorted++] = list[i].id;
        if (memmem(list[i].text, plain, API__CLOSER, sizeof API__CLOSER - 1))
            vocab->closers[vocab->n_closers++] = list[i].id;
    }
    uint32_t *fewer = realloc(vocab->closers, (vocab->n_closers + 1) * sizeof *fewer);
    if (fewer) vocab->closers = fewer;
    return 0;
}

/* The first sorted token with n first bytes not less than those of the text (over: greater). */
static uint32_t first_from(const api__vocab *vocab, const char *text, size_t n, bool over) {
    uint32_t low = 0, high = vocab->n_sorted;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        size_t len;
        const char *own = tokenizer_bytes(vocab->tokenizer, vocab->sorted[mid], &len);
        int order = memcmp(own, text, len < n ? len : n);
        if (order == 0 && len < n) order = -1;
        if (order < 0 || (over && order == 0)) low = mid + 1;
        else high = mid;
    }
    return low;
}

void api__vocab_beginning(const api__vocab *vocab, const char *text, size_t n, uint32_t *from,
                          uint32_t *to) {
    *from = first_from(vocab, text, n, false);
    *to = first_from(vocab, text, n, true);
}

static int build(api__vocab *vocab, entry *list, entry *some) {
    vocab->chars = array_new(vocab->n_tokens, sizeof *vocab->chars);
    if (vocab->chars == NULL || list == NULL || some == NULL) return -1;
    size_t n = list_tokens(vocab, list), n_some = pick(vocab, list, n, true, some);
    if (list_sorted(vocab, list, n) != 0) return -1;
    if (list_plain(vocab) != 0 || endings_build(&vocab->all, list, n) != 0) return -1;
    if (endings_build(&vocab->plain, some, n_some) != 0) return -1;
    n_some = pick(vocab, list, n, false, some);
    if (endings_build(&vocab->irregular, some, n_some) != 0) return -1;
    if (api__masks_open(&vocab->masks, vocab->n_words, vocab->plain_upto, MAX_MASK_BYTES) != 0)
        return -1;
    return list_endings(vocab, some, n_some, list);
}

int api__vocab_open(api__vocab **out, const tokenizer *tok, uint32_t vocab_size, err *e) {
    api__vocab *vocab = *out = calloc(1, sizeof *vocab);
    entry *list = array_new(vocab_size, sizeof *list), *some = array_new(vocab_size, sizeof *some);
    int rc = -1;
    if (vocab) {
        vocab->tokenizer = tok;
        vocab->n_tokens = vocab_size;
        vocab->n_words = ((size_t)vocab_size + 63) / 64;
        rc = build(vocab, list, some);
    }
    free(list);
    free(some);
    if (rc == 0) return 0;
    api__vocab_close(vocab);
    *out = NULL;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the vocabulary's trie");
}

void api__vocab_close(api__vocab *vocab) {
    if (vocab == NULL) return;
    endings_free(&vocab->all);
    endings_free(&vocab->plain);
    endings_free(&vocab->irregular);
    endings_free(&vocab->ends);
    for (size_t i = 0; i < API__MAX_TOKEN_BYTES; i++)
        endings_free(&vocab->ends_after[i]);
    free(vocab->plain_upto);
    free(vocab->chars);
    free(vocab->closers);
    free(vocab->sorted);
    api__masks_close(vocab->masks);
    free(vocab);
}
