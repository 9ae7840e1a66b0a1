/* constrain_mask.c - from the automaton's state to the tokens that may come.
 *
 * Tokens stand in a trie laid out in preorder, each node knowing where its subtree ends:
 * one pass over an array, leaping over what a refused byte begins. Inside a string nearly
 * every token is allowed, so those made of whole plain characters are known beforehand and
 * only the others are walked; and a state seen lately has its mask still. */
#include "api/grammar/constrain_internal.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

#define NO_TOKEN UINT32_MAX

enum { CACHED_MASKS = 8 };

typedef struct {
    uint32_t token; /* that ends here, or NO_TOKEN */
    uint32_t next;  /* index after this subtree */
    uint8_t byte, depth;
} trie_node;

typedef struct {
    trie_node *nodes;
    uint32_t n;
} trie;

struct api__vocab {
    uint32_t n_tokens; /* of the model's vocabulary */
    size_t n_words;
    trie all, irregular; /* irregular: all but the plain ones */
    uint64_t
        *plain;     /* [n_words] tokens of whole characters that stand for themselves in a string */
    uint8_t *chars; /* [n_tokens] their characters */
    uint32_t max_chars;
    const tokenizer *tokenizer;
};

/* ---- building ---- */

static void set_bit(uint64_t *words, uint32_t id) {
    words[id / 64] |= (uint64_t)1 << id % 64;
}

/* Characters of a text that may stand in a JSON string as it is; 0 if it may not. */
static uint32_t plain_chars(const char *text, size_t n) {
    static const uint8_t more[] = {0, 0, 0, 0, 0, 0, 0, 0,
                                   0, 0, 0, 0, 1, 1, 2, 3}; /* by the high half */
    uint32_t chars = 0;
    for (size_t i = 0; i < n; chars++) {
        uint8_t c = (uint8_t)text[i++];
        if (c < 0x20 || c == '"' || c == '\\') return 0;
        if (c < 0x80) continue;
        /* The edges of UTF-8 are left to the automaton: such tokens are few. */
        if (c < 0xc2 || c == 0xe0 || c == 0xed || c == 0xf0 || c >= 0xf4) return 0;
        for (uint8_t k = more[c >> 4]; k > 0; k--, i++) {
            if (i == n || ((uint8_t)text[i] & 0xc0) != 0x80) return 0;
        }
    }
    return chars;
}

static int by_bytes(const void *a, const void *b, void *with) {
    size_t na, nb;
    const char *x = tokenizer_bytes(with, *(const uint32_t *)a, &na);
    const char *y = tokenizer_bytes(with, *(const uint32_t *)b, &nb);
    int order = memcmp(x, y, na < nb ? na : nb);
    if (order == 0) order = (na > nb) - (na < nb);
    return order ? order : *(const uint32_t *)a < *(const uint32_t *)b ? -1 : 1;
}

static size_t common(const char *a, size_t na, const char *b, size_t nb) {
    size_t i = 0;
    while (i < na && i < nb && a[i] == b[i])
        i++;
    return i;
}

/* ids are sorted by bytes. Of tokens with equal bytes the first is in the trie. */
static int trie_build(trie *t, const tokenizer *tok, const uint32_t *ids, size_t n) {
    size_t n_nodes = 0, na = 0, nb;
    const char *a = "", *b;
    for (size_t i = 0; i < n; i++, a = b, na = nb) {
        b = tokenizer_bytes(tok, ids[i], &nb);
        n_nodes += nb - common(a, na, b, nb);
    }
    if (n_nodes >= NO_TOKEN) return -1;
    t->nodes = array_new(n_nodes, sizeof *t->nodes);
    if (t->nodes == NULL) return -1;
    uint32_t open[API__MAX_TOKEN_BYTES]; /* nodes of the current token, by depth */
    size_t depth = 0;
    a = "";
    na = 0;
    for (size_t i = 0; i < n; i++, a = b, na = nb) {
        b = tokenizer_bytes(tok, ids[i], &nb);
        size_t shared = common(a, na, b, nb);
        if (shared == nb && shared == na) continue;
        while (depth > shared)
            t->nodes[open[--depth]].next = t->n;
        for (; depth < nb; depth++) {
            open[depth] = t->n;
            t->nodes[t->n++] =
                (trie_node){.token = NO_TOKEN, .byte = (uint8_t)b[depth], .depth = (uint8_t)depth};
        }
        t->nodes[open[depth - 1]].token = ids[i];
    }
    while (depth > 0)
        t->nodes[open[--depth]].next = t->n;
    return 0;
}

/* Every token that text may hold, by bytes. */
static size_t list_tokens(api__vocab *v, uint32_t *ids) {
    size_t n = 0, len;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        const char *text = tokenizer_bytes(v->tokenizer, id, &len);
        if (text == NULL || len > API__MAX_TOKEN_BYTES || tokenizer_is_special(v->tokenizer, id)) {
            continue;
        }
        ids[n++] = id;
        uint32_t chars = plain_chars(text, len);
        if (chars == 0) continue;
        set_bit(v->plain, id);
        v->chars[id] = (uint8_t)chars;
        if (chars > v->max_chars) v->max_chars = chars;
    }
    qsort_r(ids, n, sizeof *ids, by_bytes, (void *)(uintptr_t)v->tokenizer);
    return n;
}

static size_t keep_irregular(const api__vocab *v, uint32_t *ids, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (v->chars[ids[i]] == 0) ids[kept++] = ids[i];
    }
    return kept;
}

int api__vocab_open(api__vocab **out, const tokenizer *t, uint32_t vocab_size, err *e) {
    *out = NULL;
    api__vocab *v = calloc(1, sizeof *v);
    uint32_t *ids = array_new(vocab_size, sizeof *ids);
    if (v == NULL || ids == NULL) goto fail;
    v->tokenizer = t;
    v->n_tokens = vocab_size;
    v->n_words = ((size_t)vocab_size + 63) / 64;
    v->plain = array_new(v->n_words, sizeof *v->plain);
    v->chars = array_new(vocab_size, sizeof *v->chars);
    if (v->plain == NULL || v->chars == NULL) goto fail;
    size_t n = list_tokens(v, ids);
    if (trie_build(&v->all, t, ids, n) != 0) goto fail;
    if (trie_build(&v->irregular, t, ids, keep_irregular(v, ids, n)) != 0) goto fail;
    free(ids);
    *out = v;
    return 0;
fail:
    free(ids);
    api__vocab_close(v);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the vocabulary's trie");
}

void api__vocab_close(api__vocab *v) {
    if (v == NULL) return;
    free(v->all.nodes);
    free(v->irregular.nodes);
    free(v->plain);
    free(v->chars);
    free(v);
}

/* ---- one sequence ---- */

typedef struct {
    api__frame stack[API__MAX_STACK];
    uint32_t depth;
    uint64_t used; /* when it was last asked for; 0: empty */
    uint64_t *words;
} cached_mask;

struct api__workspace {
    const api__vocab *v;
    api__automaton a;
    uint32_t *stop_ids;
    uint32_t n_stop_ids;
    uint64_t tick;
    uint64_t *words; /* [n_words] the answer, then those of the cache */
    eng_mask mask;
    cached_mask cache[CACHED_MASKS];
    api__threads level[API__MAX_TOKEN_BYTES]; /* of the walk, by depth */
    uint32_t mark[API__MAX_TOKEN_BYTES];      /* pool in use there */
    api__stacks scratch;
};

struct api__constraint {
    api__workspace *w;
    size_t n_seen; /* output tokens the state has taken in */
    api__stacks now;
};

/* Adds every token of the trie that the stack `top` lets pass, byte by byte. */
static void walk(api__workspace *w, const trie *t, uint16_t top, uint64_t *words) {
    const api__threads start = {.top = {top}, .n = 1};
    uint32_t base = w->a.used;
    for (uint32_t i = 0; i < t->n;) {
        const trie_node *node = &t->nodes[i];
        w->a.used = node->depth ? w->mark[node->depth - 1] : base;
        api__automaton_step(&w->a, node->depth ? &w->level[node->depth - 1] : &start, node->byte,
                            &w->level[node->depth]);
        w->mark[node->depth] = w->a.used;
        if (w->level[node->depth].n == 0) {
            i = node->next;
            continue;
        }
        if (node->token != NO_TOKEN) set_bit(words, node->token);
        i++;
    }
    w->a.used = base;
}

static void mask_of_stack(api__workspace *w, uint16_t top, uint64_t *words) {
    const api__vocab *v = w->v;
    uint32_t room;
    if (!api__automaton_in_string(&w->a, top, &room)) {
        walk(w, &v->all, top, words);
        return;
    }
    if (room >= v->max_chars) {
        for (size_t i = 0; i < v->n_words; i++)
            words[i] |= v->plain[i];
    } else {
        for (uint32_t id = 0; id < v->n_tokens; id++) {
            if (v->chars[id] > 0 && v->chars[id] <= room) set_bit(words, id);
        }
    }
    walk(w, &v->irregular, top, words);
}

/* The mask of one stack, from the cache if it was asked for lately. */
static const uint64_t *find_mask(api__workspace *w, uint16_t top) {
    api__frame stack[API__MAX_STACK];
    uint32_t depth = api__automaton_stack(&w->a, top, stack);
    cached_mask *oldest = &w->cache[0];
    for (size_t i = 0; i < CACHED_MASKS; i++) {
        cached_mask *m = &w->cache[i];
        if (m->used && m->depth == depth && memcmp(m->stack, stack, depth * sizeof *stack) == 0) {
            m->used = ++w->tick;
            return m->words;
        }
        if (m->used < oldest->used) oldest = m;
    }
    memcpy(oldest->stack, stack, depth * sizeof *stack);
    oldest->depth = depth;
    oldest->used = ++w->tick;
    memset(oldest->words, 0, w->v->n_words * sizeof *oldest->words);
    mask_of_stack(w, top, oldest->words);
    return oldest->words;
}

/* One token of the output. A long token in many readings may fill the pool on its way. */
static void take(api__workspace *w, api__threads *now, uint32_t token) {
    size_t n;
    const char *bytes = tokenizer_bytes(w->v->tokenizer, token, &n);
    if (tokenizer_is_special(w->v->tokenizer, token)) return; /* the end, which adds no text */
    for (size_t i = 0; i < n; i++) {
        api__threads next;
        api__automaton_step(&w->a, now, (uint8_t)bytes[i], &next);
        *now = next;
        if (w->a.used > API__POOL / 2) api__automaton_compact(&w->a, now, &w->scratch);
    }
}

const eng_mask *api__constraint_mask(void *ud, const uint32_t *output, size_t n_output) {
    api__constraint *c = ud;
    api__workspace *w = c->w;
    api__threads now;
    if (n_output < c->n_seen || n_output == 0) { /* begun, or begun again */
        api__automaton_start(&w->a, &now);
        c->n_seen = 0;
    } else {
        api__automaton_load(&w->a, &c->now, &now);
    }
    while (c->n_seen < n_output)
        take(w, &now, output[c->n_seen++]);
    api__automaton_save(&w->a, &now, &c->now);
    api__automaton_load(&w->a, &c->now, &now);
    memset(w->words, 0, w->v->n_words * sizeof *w->words);
    for (uint8_t i = 0; i < now.n; i++) {
        if (now.top[i] == 0) continue;
        const uint64_t *words = find_mask(w, now.top[i]);
        for (size_t k = 0; k < w->v->n_words; k++)
            w->words[k] |= words[k];
    }
    bool done = api__automaton_done(&w->a, &now);
    for (uint32_t i = 0; done && i < w->n_stop_ids; i++)
        set_bit(w->words, w->stop_ids[i]);
    return &w->mask;
}

int api__workspace_create(api__workspace **out, const api__grammar *g, const api__vocab *v,
                          const uint32_t *stop_ids, uint32_t n_stop_ids, err *e) {
    *out = NULL;
    api__workspace *w = calloc(1, sizeof *w);
    if (w == NULL || api__automaton_init(&w->a, g, e) != 0) goto fail;
    w->v = v;
    w->words = array_new(v->n_words * (1 + CACHED_MASKS), sizeof *w->words);
    w->stop_ids = array_new(n_stop_ids, sizeof *w->stop_ids);
    if (w->words == NULL || w->stop_ids == NULL) goto fail;
    for (size_t i = 0; i < CACHED_MASKS; i++)
        w->cache[i].words = w->words + (i + 1) * v->n_words;
    for (uint32_t i = 0; i < n_stop_ids; i++) {
        if (stop_ids[i] < v->n_tokens) w->stop_ids[w->n_stop_ids++] = stop_ids[i];
    }
    w->mask = (eng_mask){w->words, v->n_words};
    *out = w;
    return 0;
fail:
    api__workspace_destroy(w);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
}

void api__workspace_destroy(api__workspace *w) {
    if (w == NULL) return;
    api__automaton_deinit(&w->a);
    free(w->words);
    free(w->stop_ids);
    free(w);
}

int api__constraint_create(api__constraint **out, api__workspace *w, err *e) {
    api__constraint *c = *out = calloc(1, sizeof *c);
    if (c == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
    c->w = w;
    (void)api__constraint_mask(c, NULL,
                               0); /* the first mask is made here, off the engine's thread */
    return 0;
}

void api__constraint_destroy(api__constraint *c) {
    free(c);
}
