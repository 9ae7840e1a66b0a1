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

/* What follows the plain characters that irregular tokens begin with: a node's token is a place in
 * ids, and the tokens with that ending stand from there to last of it. */
typedef struct {
    trie t;
    uint32_t *ids, *last;
} endings;

struct api__vocab {
    uint32_t n_tokens; /* of the model's vocabulary */
    size_t n_words;
    trie all, plain, irregular; /* plain: of whole characters that stand for themselves in a
                                   string; irregular: the others */
    endings ends;               /* of all irregular ones */
    endings ends_after[API__MAX_TOKEN_BYTES]; /* of those with so many plain characters first */
    uint64_t *plain_upto; /* [max_chars + 1][n_words] plain tokens of so many characters */
    uint8_t *chars;       /* [n_tokens] of plain ones; 0: not plain */
    uint32_t max_chars;
    const tokenizer *tokenizer;
};

/* ---- building ---- */

static void set_bit(uint64_t *words, uint32_t id) {
    words[id / 64] |= (uint64_t)1 << id % 64;
}

/* The bytes that a text begins with which may stand in a JSON string as they are: whole
 * characters, no quote, no backslash, no control. */
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
    const entry *a = x, *b = y;
    int order = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    if (order == 0) order = (a->len > b->len) - (a->len < b->len);
    return order ? order : a->id < b->id ? -1 : 1;
}

static size_t common(const char *a, size_t na, const char *b, size_t nb) {
    size_t i = 0;
    while (i < na && i < nb && a[i] == b[i])
        i++;
    return i;
}

/* Entries are sorted. Of equal texts the first is in the trie, by its id, or by its place. */
static int trie_build(trie *t, const entry *list, size_t n, bool by_place) {
    size_t n_nodes = 0;
    entry last = {"", 0, 0};
    for (size_t i = 0; i < n; last = list[i++])
        n_nodes += list[i].len - common(last.text, last.len, list[i].text, list[i].len);
    if (n_nodes >= NO_TOKEN) return -1;
    t->nodes = array_new(n_nodes, sizeof *t->nodes);
    if (t->nodes == NULL) return -1;
    uint32_t open[API__MAX_TOKEN_BYTES]; /* nodes of the current text, by depth */
    size_t depth = 0;
    last = (entry){"", 0, 0};
    for (size_t i = 0; i < n; last = list[i++]) {
        const entry *one = &list[i];
        size_t shared = common(last.text, last.len, one->text, one->len);
        if (shared == one->len && shared == last.len) continue;
        while (depth > shared)
            t->nodes[open[--depth]].next = t->n;
        for (; depth < one->len; depth++) {
            open[depth] = t->n;
            t->nodes[t->n++] = (trie_node){
                .token = NO_TOKEN, .byte = (uint8_t)one->text[depth], .depth = (uint8_t)depth};
        }
        t->nodes[open[depth - 1]].token = by_place ? (uint32_t)i : one->id;
    }
    while (depth > 0)
        t->nodes[open[--depth]].next = t->n;
    return 0;
}

/* Every token that text may hold, by bytes. */
static size_t list_tokens(api__vocab *v, entry *list) {
    size_t n = 0, len;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        const char *text = tokenizer_bytes(v->tokenizer, id, &len);
        if (text == NULL || len == 0 || len > API__MAX_TOKEN_BYTES ||
            tokenizer_is_special(v->tokenizer, id)) {
            continue;
        }
        list[n++] = (entry){text, (uint32_t)len, id};
        uint32_t chars = plain_bytes(text, len) == len ? (uint32_t)utf8_count(text, len) : 0;
        v->chars[id] = (uint8_t)chars;
        if (chars > v->max_chars) v->max_chars = chars;
    }
    qsort(list, n, sizeof *list, by_text);
    return n;
}

static size_t pick(const api__vocab *v, const entry *list, size_t n, bool plain, entry *out) {
    size_t picked = 0;
    for (size_t i = 0; i < n; i++) {
        if ((v->chars[list[i].id] > 0) == plain) out[picked++] = list[i];
    }
    return picked;
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

static int endings_build(endings *out, entry *list, size_t n) {
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
    return trie_build(&out->t, list, n, true);
}

static void endings_free(endings *e) {
    free(e->t.nodes);
    free(e->ids);
    free(e->last);
}

/* list: the irregular tokens, which are cut to their endings; some: as much room. */
static int list_endings(api__vocab *v, entry *list, size_t n, entry *some) {
    for (size_t chars = 0; chars < API__MAX_TOKEN_BYTES; chars++) {
        size_t n_some = 0;
        for (size_t i = 0; i < n; i++) {
            uint32_t skip = (uint32_t)plain_bytes(list[i].text, list[i].len);
            if (utf8_count(list[i].text, skip) != chars) continue;
            some[n_some++] = (entry){list[i].text + skip, list[i].len - skip, list[i].id};
        }
        if (n_some && endings_build(&v->ends_after[chars], some, n_some) != 0) return -1;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t skip = (uint32_t)plain_bytes(list[i].text, list[i].len);
        list[i].text += skip;
        list[i].len -= skip;
    }
    return endings_build(&v->ends, list, n);
}

static int build(api__vocab *v, entry *list, entry *some) {
    v->chars = array_new(v->n_tokens, sizeof *v->chars);
    if (v->chars == NULL || list == NULL || some == NULL) return -1;
    size_t n = list_tokens(v, list), n_some = pick(v, list, n, true, some);
    if (list_plain(v) != 0 || trie_build(&v->all, list, n, false) != 0) return -1;
    if (trie_build(&v->plain, some, n_some, false) != 0) return -1;
    n_some = pick(v, list, n, false, some);
    if (trie_build(&v->irregular, some, n_some, false) != 0) return -1;
    return list_endings(v, some, n_some, list);
}

int api__vocab_open(api__vocab **out, const tokenizer *t, uint32_t vocab_size, err *e) {
    api__vocab *v = *out = calloc(1, sizeof *v);
    entry *list = array_new(vocab_size, sizeof *list), *some = array_new(vocab_size, sizeof *some);
    int rc = -1;
    if (v) {
        v->tokenizer = t;
        v->n_tokens = vocab_size;
        v->n_words = ((size_t)vocab_size + 63) / 64;
        rc = build(v, list, some);
    }
    free(list);
    free(some);
    if (rc == 0) return 0;
    api__vocab_close(v);
    *out = NULL;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the vocabulary's trie");
}

void api__vocab_close(api__vocab *v) {
    if (v == NULL) return;
    free(v->all.nodes);
    free(v->plain.nodes);
    free(v->irregular.nodes);
    endings_free(&v->ends);
    for (size_t i = 0; i < API__MAX_TOKEN_BYTES; i++)
        endings_free(&v->ends_after[i]);
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
    api__threads level[API__MAX_TOKEN_BYTES];         /* of the walk, by depth */
    const api__threads *at[API__MAX_TOKEN_BYTES + 1]; /* of depth - 1: its readings */
    bool steady[API__MAX_TOKEN_BYTES + 1];            /* and whether plain bytes keep them */
    uint32_t mark[API__MAX_TOKEN_BYTES + 1];          /* and pool in use then */
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

static void allow(api__workspace *w, const endings *ends, uint32_t token, uint64_t *words) {
    if (ends == NULL) {
        set_bit(words, token);
        return;
    }
    for (uint32_t i = token; i <= ends->last[token]; i++)
        set_bit(words, ends->ids[i]);
    w->a.fuel += (ends->last[token] - token) / 16;
}

/* Plain characters do no more to what may follow than to be counted; of a key: than nothing, since
 * it is unlike all that are declared. */
static bool only_counts(const api__workspace *w, uint16_t top) {
    const api__frame *f = &w->a.pool[top];
    return w->a.g->nodes[f->node].kind == API__STRING || f->a == f->b;
}

/* And those of one token not even that. */
static bool is_steady(const api__workspace *w, uint16_t top, uint32_t room) {
    const api__frame *f = &w->a.pool[top];
    const api__node *node = &w->a.g->nodes[f->node];
    if (node->kind != API__STRING) return only_counts(w, top);
    return room > FAR && (f->n >= node->min || node->min - f->n > FAR);
}

static bool all_steady(const api__workspace *w, const api__threads *t) {
    uint32_t room;
    for (uint8_t i = 0; i < t->n; i++) {
        if (!api__automaton_in_string(&w->a, t->top[i], &room) || !is_steady(w, t->top[i], room))
            return false;
    }
    return true;
}

static bool is_plain_byte(uint8_t c) { /* a character by itself */
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* What is left of the readings after the node's byte; false: nothing. */
static bool enter(api__workspace *w, const trie_node *node) {
    uint32_t d = node->depth;
    if (w->steady[d] && is_plain_byte(node->byte)) {
        w->at[d + 1] = w->at[d];
        w->steady[d + 1] = true;
        w->mark[d + 1] = w->mark[d];
        w->a.fuel++;
        return true;
    }
    api__automaton_rewind(&w->a, w->mark[d]);
    api__automaton_step(&w->a, w->at[d], node->byte, &w->level[d]);
    if (w->level[d].n == 0) return false;
    w->at[d + 1] = &w->level[d];
    w->steady[d + 1] = all_steady(w, &w->level[d]);
    w->mark[d + 1] = w->a.used;
    return true;
}

/* Adds every token of the trie that the readings let pass, byte by byte. False: no fuel left. */
static bool walk_nodes(api__workspace *w, const trie *t, const endings *ends,
                       const api__threads *start, uint64_t limit, uint64_t *words) {
    uint32_t base = w->a.used;
    w->at[0] = start;
    w->steady[0] = all_steady(w, start);
    w->mark[0] = base;
    for (uint32_t i = 0; i < t->n && w->a.fuel <= limit;) {
        const trie_node *node = &t->nodes[i];
        if (!enter(w, node)) {
            i = node->next;
            continue;
        }
        if (node->token != NO_TOKEN) allow(w, ends, node->token, words);
        i++;
    }
    api__automaton_rewind(&w->a, base);
    return w->a.fuel <= limit;
}

static bool walk(api__workspace *w, const trie *t, const api__threads *start, uint64_t limit,
                 uint64_t *words) {
    return walk_nodes(w, t, NULL, start, limit, words);
}

/* The irregular tokens, where plain characters do no more than count: by how many come first. */
static bool walk_counted(api__workspace *w, const api__threads *now, uint64_t limit,
                         uint64_t *words) {
    api__threads at = *now, next;
    for (size_t chars = 0; chars < API__MAX_TOKEN_BYTES && at.n > 0; chars++) {
        const endings *ends = &w->v->ends_after[chars];
        if (!walk_nodes(w, &ends->t, ends, &at, limit, words)) return false;
        api__automaton_step(&w->a, &at, 'a', &next); /* any plain character */
        at = next;
    }
    return true;
}

/* The mask of a state, from scratch. Where one reading is inside a string all of them are, as
 * JSON is read from left to right, and then a plain character makes none of them two: they can
 * be asked one by one about plain tokens. And where plain characters change nothing but a count, a
 * token may come if its ending may: thousands of words that end in a quote are one question, or
 * one for each length. */
static bool build_mask(api__workspace *w, const api__threads *now, uint64_t limit,
                       uint64_t *words) {
    const api__vocab *v = w->v;
    api__threads others = {.n = 0};
    uint32_t room = 0, one;
    bool steady = true, counted = true;
    for (uint8_t i = 0; i < now->n; i++) {
        if (!api__automaton_in_string(&w->a, now->top[i], &one)) {
            others.top[others.n++] = now->top[i];
        } else {
            if (one > room) room = one;
            steady = steady && is_steady(w, now->top[i], one);
            counted = counted && only_counts(w, now->top[i]);
        }
    }
    if (room == 0) return walk(w, &v->all, now, limit, words);
    if (room > v->max_chars) room = v->max_chars;
    memcpy(words, v->plain_upto + room * v->n_words, v->n_words * sizeof *words);
    if (others.n > 0 && !walk(w, &v->plain, &others, limit, words)) return false;
    if (steady && others.n == 0) return walk_nodes(w, &v->ends.t, &v->ends, now, limit, words);
    if (counted && others.n == 0) return walk_counted(w, now, limit, words);
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
    /* A request may want many of them, on the loop: their pages, of states and words, are left to
     * whoever first needs them. */
    api__constraint *c = *out = malloc(sizeof *c);
    uint64_t *words = array_new_aligned(w->v->n_words, sizeof *words);
    if (c == NULL || words == NULL) {
        free(c);
        free(words);
        *out = NULL;
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
    }
    c->w = w;
    c->fuel = 0;
    c->words = words;
    c->mask = (eng_mask){words, w->v->n_words};
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
    return sizeof *c + c->w->v->n_words * sizeof *c->words;
}

size_t api__workspace_bytes(const api__workspace *w) {
    return sizeof *w + 2 * api__automaton_bytes() + CACHED_MASKS * w->v->n_words * sizeof *w->words;
}
