/* constrain_mask.c - from the automaton's state to the tokens that may come.
 *
 * Tokens stand in a trie laid out in preorder, each node knowing where its subtree ends:
 * one pass over an array, leaping over what a refused byte begins. All readings go along in
 * that one pass, step for step as a token that is taken makes them go: so what the mask allows
 * leaves a reading. Inside a string nearly every token is allowed, so those made of whole plain
 * characters are known beforehand and only the others are walked; and a state seen lately has
 * its mask still. */
#include "api/grammar/constrain_internal.h"
#include "base/size.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define NO_TOKEN UINT32_MAX

enum {
    CACHED_MASKS = 8,
    CACHED_FRAMES = 64,         /* larger states are not kept */
    FAR = API__MAX_TOKEN_BYTES, /* characters or items that no token can take at once */
};

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
    trie all, plain, irregular; /* plain: of whole characters that stand for themselves in a
                                   string; irregular: the others */
    uint64_t *plain_upto;       /* [max_chars + 1][n_words] plain tokens of so many characters */
    uint8_t *chars;             /* [n_tokens] of plain ones; 0: not plain */
    uint32_t max_chars;
    const tokenizer *tokenizer;
};

/* ---- building ---- */

static void set_bit(uint64_t *words, uint32_t id) {
    words[id / 64] |= (uint64_t)1 << id % 64;
}

/* Characters of a text that may stand in a JSON string as it is; 0 if it may not. */
static uint32_t plain_chars(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((uint8_t)text[i] < 0x20 || text[i] == '"' || text[i] == '\\') return 0;
    }
    return utf8_valid(text, n) ? (uint32_t)utf8_count(text, n) : 0;
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
        if (text == NULL || len == 0 || len > API__MAX_TOKEN_BYTES ||
            tokenizer_is_special(v->tokenizer, id)) {
            continue;
        }
        ids[n++] = id;
        uint32_t chars = plain_chars(text, len);
        v->chars[id] = (uint8_t)chars;
        if (chars > v->max_chars) v->max_chars = chars;
    }
    qsort_r(ids, n, sizeof *ids, by_bytes, (void *)(uintptr_t)v->tokenizer);
    return n;
}

/* Those that are plain first, then the others; both stay in order. */
static size_t part_plain(const api__vocab *v, const uint32_t *ids, size_t n, uint32_t *out) {
    size_t n_plain = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        if (v->chars[ids[i]] > 0) out[n_plain++] = ids[i];
    }
    for (size_t i = 0; i < n; i++) {
        if (v->chars[ids[i]] == 0) out[n_plain + at++] = ids[i];
    }
    return n_plain;
}

/* One set of plain tokens for every room that a string may have. */
static int list_plain(api__vocab *v) {
    size_t words;
    if (!size_mul(v->n_words, v->max_chars + 1u, &words)) return -1;
    v->plain_upto = array_new(words, sizeof *v->plain_upto);
    if (v->plain_upto == NULL) return -1;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        if (v->chars[id] > 0) set_bit(v->plain_upto + v->chars[id] * v->n_words, id);
    }
    for (size_t i = v->n_words; i < words; i++)
        v->plain_upto[i] |= v->plain_upto[i - v->n_words];
    return 0;
}

int api__vocab_open(api__vocab **out, const tokenizer *t, uint32_t vocab_size, err *e) {
    *out = NULL;
    api__vocab *v = calloc(1, sizeof *v);
    uint32_t *ids = array_new(vocab_size, sizeof *ids),
             *parted = array_new(vocab_size, sizeof *ids);
    if (v == NULL || ids == NULL || parted == NULL) goto fail;
    v->tokenizer = t;
    v->n_tokens = vocab_size;
    v->n_words = ((size_t)vocab_size + 63) / 64;
    v->chars = array_new(vocab_size, sizeof *v->chars);
    if (v->chars == NULL) goto fail;
    size_t n = list_tokens(v, ids), n_plain = part_plain(v, ids, n, parted);
    if (list_plain(v) != 0 || trie_build(&v->all, t, ids, n) != 0) goto fail;
    if (trie_build(&v->plain, t, parted, n_plain) != 0) goto fail;
    if (trie_build(&v->irregular, t, parted + n_plain, n - n_plain) != 0) goto fail;
    free(ids);
    free(parted);
    *out = v;
    return 0;
fail:
    free(ids);
    free(parted);
    api__vocab_close(v);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the vocabulary's trie");
}

void api__vocab_close(api__vocab *v) {
    if (v == NULL) return;
    free(v->all.nodes);
    free(v->plain.nodes);
    free(v->irregular.nodes);
    free(v->plain_upto);
    free(v->chars);
    free(v);
}

/* ---- one mask ---- */

typedef struct {
    api__frame frames[CACHED_FRAMES];
    uint16_t top[API__MAX_THREADS];
    uint16_t n_frames;
    uint8_t n;
    uint64_t used; /* when it was last asked for; 0: empty */
    uint64_t *words;
} cached_mask;

struct api__workspace {
    const api__vocab *v;
    uint32_t *stop_ids;
    uint32_t n_stop_ids;

    /* Whoever makes masks. */
    api__automaton a;
    uint64_t tick;
    uint64_t *words; /* [CACHED_MASKS][n_words] */
    cached_mask cache[CACHED_MASKS];
    api__threads level[API__MAX_TOKEN_BYTES]; /* of the walk, by depth */
    uint32_t mark[API__MAX_TOKEN_BYTES];      /* pool in use there */
    api__stacks key;

    /* Whoever takes tokens. */
    api__automaton taking;
    api__stacks scratch;
};

struct api__constraint {
    api__workspace *w;
    uint64_t fuel; /* that the last mask took */
    uint64_t *words;
    eng_mask mask;
    bool done; /* the value is whole */
    api__stacks now;
};

/* Adds every token of the trie that the readings let pass, byte by byte. False: no fuel left. */
static bool walk(api__workspace *w, const trie *t, const api__threads *start, uint64_t limit,
                 uint64_t *words) {
    uint32_t base = w->a.used;
    for (uint32_t i = 0; i < t->n;) {
        const trie_node *node = &t->nodes[i];
        api__automaton_rewind(&w->a, node->depth ? w->mark[node->depth - 1] : base);
        api__automaton_step(&w->a, node->depth ? &w->level[node->depth - 1] : start, node->byte,
                            &w->level[node->depth]);
        w->mark[node->depth] = w->a.used;
        if (w->a.fuel > limit) return false;
        if (w->level[node->depth].n == 0) {
            i = node->next;
            continue;
        }
        if (node->token != NO_TOKEN) set_bit(words, node->token);
        i++;
    }
    api__automaton_rewind(&w->a, base);
    return true;
}

/* The mask of a state, from scratch. Where one reading is inside a string all of them are, as
 * JSON is read from left to right, and then a plain character makes none of them two: they can
 * be asked one by one about plain tokens. */
static bool build_mask(api__workspace *w, const api__threads *now, uint64_t limit,
                       uint64_t *words) {
    const api__vocab *v = w->v;
    api__threads others = {.n = 0};
    uint32_t room = 0, one;
    for (uint8_t i = 0; i < now->n; i++) {
        if (!api__automaton_in_string(&w->a, now->top[i], &one)) {
            others.top[others.n++] = now->top[i];
        } else if (one > room) {
            room = one;
        }
    }
    if (room == 0) return walk(w, &v->all, now, limit, words);
    if (room > v->max_chars) room = v->max_chars;
    memcpy(words, v->plain_upto + room * v->n_words, v->n_words * sizeof *words);
    if (others.n > 0 && !walk(w, &v->plain, &others, limit, words)) return false;
    return walk(w, &v->irregular, now, limit, words);
}

/* What no token can reach is all the same: states that differ only there have one mask. */
static uint32_t far_count(uint32_t n, uint32_t first, uint32_t min, uint32_t max) {
    if (n < first) return n;
    if (n < min) return min - n > FAR ? first : n;
    return max != UINT32_MAX && max - n > FAR ? max - FAR - 1 : n;
}

static void make_key(api__workspace *w, const api__stacks *now, cached_mask *key) {
    key->n_frames = now->n_frames;
    key->n = now->n;
    memcpy(key->frames, now->frames, now->n_frames * sizeof *key->frames);
    memcpy(key->top, now->top, now->n * sizeof *key->top);
    for (uint16_t i = 0; i < key->n_frames; i++) {
        api__frame *f = &key->frames[i];
        const api__node *node = &w->a.g->nodes[f->node];
        if (node->kind == API__STRING) f->n = far_count(f->n, 0, node->min, node->max);
        if (node->kind == API__ARRAY) f->n = far_count(f->n, node->n, node->min, node->max);
    }
}

static bool same_key(const cached_mask *a, const cached_mask *b) {
    return a->n == b->n && a->n_frames == b->n_frames &&
           memcmp(a->top, b->top, a->n * sizeof *a->top) == 0 &&
           memcmp(a->frames, b->frames, a->n_frames * sizeof *a->frames) == 0;
}

/* The mask of a state, from the cache if it was asked for lately; false: no fuel. */
static bool find_mask(api__workspace *w, const api__stacks *now, uint64_t *words) {
    const size_t bytes = w->v->n_words * sizeof *words;
    const uint64_t limit = w->a.fuel + API__MASK_FUEL;
    api__threads t;
    cached_mask key, *oldest = &w->cache[0];
    bool keep = now->n_frames <= CACHED_FRAMES;
    if (keep) make_key(w, now, &key);
    for (size_t i = 0; keep && i < CACHED_MASKS; i++) {
        cached_mask *m = &w->cache[i];
        if (m->used && same_key(m, &key)) {
            m->used = ++w->tick;
            memcpy(words, m->words, bytes);
            return true;
        }
        if (m->used < oldest->used) oldest = m;
    }
    memset(words, 0, bytes);
    api__automaton_load(&w->a, now, &t);
    if (!build_mask(w, &t, limit, words)) return false;
    if (!keep) return true;
    key.used = ++w->tick;
    key.words = oldest->words;
    *oldest = key;
    memcpy(oldest->words, words, bytes);
    return true;
}

/* ---- one sequence ---- */

err_code api__constraint_make(void *ud) {
    api__constraint *c = ud;
    api__workspace *w = c->w;
    uint64_t before = w->a.fuel;
    bool made = find_mask(w, &c->now, c->words);
    c->fuel = w->a.fuel - before;
    if (!made) return ERR_COSTLY;
    for (uint32_t i = 0; c->done && i < w->n_stop_ids; i++)
        set_bit(c->words, w->stop_ids[i]);
    return ERR_NONE;
}

const eng_mask *api__constraint_mask(void *ud) {
    const api__constraint *c = ud;
    return &c->mask;
}

uint64_t api__constraint_fuel(const api__constraint *c) {
    return c->fuel;
}

static void set_state(api__constraint *c, api__automaton *a, const api__threads *now) {
    api__automaton_save(a, now, &c->now);
    c->done = api__automaton_done(a, now);
}

static bool is_stop(const api__workspace *w, uint32_t token) {
    for (uint32_t i = 0; i < w->n_stop_ids; i++) {
        if (w->stop_ids[i] == token) return true;
    }
    return false;
}

/* A long token in many readings may fill the pool on its way. */
bool api__constraint_take(void *ud, uint32_t token) {
    api__constraint *c = ud;
    api__workspace *w = c->w;
    size_t n;
    const char *bytes = tokenizer_bytes(w->v->tokenizer, token, &n);
    if (c->done && is_stop(w, token)) return true; /* the end, which adds no text */
    if (bytes == NULL || n == 0 || tokenizer_is_special(w->v->tokenizer, token)) return false;
    api__threads now, next;
    api__automaton_load(&w->taking, &c->now, &now);
    for (size_t i = 0; i < n && now.n > 0; i++) {
        api__automaton_step(&w->taking, &now, (uint8_t)bytes[i], &next);
        now = next;
        if (w->taking.used > API__POOL / 2) api__automaton_compact(&w->taking, &now, &w->scratch);
    }
    if (now.n > 0) set_state(c, &w->taking, &now);
    return now.n > 0;
}

const sched_constraint api__constraint_calls = {api__constraint_make, api__constraint_mask,
                                                api__constraint_take};

int api__workspace_create(api__workspace **out, const api__grammar *g, const api__vocab *v,
                          const uint32_t *stop_ids, uint32_t n_stop_ids, err *e) {
    *out = NULL;
    api__workspace *w = calloc(1, sizeof *w);
    if (w == NULL || api__automaton_init(&w->a, g, e) != 0 ||
        api__automaton_init(&w->taking, g, e) != 0)
        goto fail;
    w->v = v;
    w->words = array_new(v->n_words * CACHED_MASKS, sizeof *w->words);
    w->stop_ids = array_new(n_stop_ids, sizeof *w->stop_ids);
    if (w->words == NULL || w->stop_ids == NULL) goto fail;
    for (size_t i = 0; i < CACHED_MASKS; i++)
        w->cache[i].words = w->words + i * v->n_words;
    for (uint32_t i = 0; i < n_stop_ids; i++) {
        if (stop_ids[i] < v->n_tokens) w->stop_ids[w->n_stop_ids++] = stop_ids[i];
    }
    *out = w;
    return 0;
fail:
    api__workspace_destroy(w);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
}

void api__workspace_destroy(api__workspace *w) {
    if (w == NULL) return;
    api__automaton_deinit(&w->a);
    api__automaton_deinit(&w->taking);
    free(w->words);
    free(w->stop_ids);
    free(w);
}

int api__constraint_create(api__constraint **out, api__workspace *w, err *e) {
    api__constraint *c = *out = calloc(1, sizeof *c);
    if (c) c->words = array_new(w->v->n_words, sizeof *c->words);
    if (c == NULL || c->words == NULL) {
        api__constraint_destroy(c);
        *out = NULL;
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
    }
    c->w = w;
    c->mask = (eng_mask){c->words, w->v->n_words};
    api__threads now;
    api__automaton_start(&w->taking, &now);
    set_state(c, &w->taking, &now);
    return 0;
}

void api__constraint_destroy(api__constraint *c) {
    if (c == NULL) return;
    free(c->words);
    free(c);
}

size_t api__constraint_bytes(const api__constraint *c) {
    return sizeof *c;
}

size_t api__workspace_bytes(const api__workspace *w) {
    return sizeof *w + API__POOL * sizeof(api__frame) +
           (1 + CACHED_MASKS) * w->v->n_words * sizeof *w->words;
}
