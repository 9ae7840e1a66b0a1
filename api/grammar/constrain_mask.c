/* constrain_mask.c - from the automaton's state to a mask of allowed tokens.
 *
 * All readings advance together along a trie of tokens, exactly as they do when a token is taken,
 * so an allowed token always leaves a reading. Inside a string nearly every token is allowed:
 * tokens of whole plain characters are known beforehand and only the others are walked. Recent
 * states keep their masks. */
#include "api/grammar/vocab_internal.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum {
    CACHED_MASKS = 8,
    CACHED_FRAMES = 64,         /* larger states are not cached */
    FAR = API__MAX_TOKEN_BYTES, /* most characters or items that one token can add */
};

/* ---- one mask ---- */

static void set_bit(uint64_t *words, uint32_t id) {
    words[id / 64] |= (uint64_t)1 << id % 64;
}

static void clear_bit(uint64_t *words, uint32_t id) {
    words[id / 64] &= ~((uint64_t)1 << id % 64);
}

typedef struct {
    api__frame frames[CACHED_FRAMES];
    uint16_t top[API__MAX_READINGS];
    uint16_t n_frames;
    uint8_t n_tops;
    uint64_t used; /* tick of the last use; 0: empty */
    uint64_t *words;
} cached_mask;

struct api__workspace {
    const api__vocab *vocab;
    uint32_t *stop_ids;
    uint32_t n_stop_ids;

    /* Used by the thread that makes masks. */
    api__automaton making;
    uint64_t tick;
    uint64_t *words; /* [CACHED_MASKS][n_words] */
    cached_mask cache[CACHED_MASKS];
    api__readings level[API__MAX_TOKEN_BYTES];         /* readings at each depth of the walk */
    const api__readings *at[API__MAX_TOKEN_BYTES + 1]; /* readings before depth i */
    bool steady[API__MAX_TOKEN_BYTES + 1];             /* plain bytes do not change them */
    uint32_t mark[API__MAX_TOKEN_BYTES + 1];           /* frames in use before depth i */
    api__stacks key;

    /* Used by the thread that takes tokens. */
    api__automaton taking;
    api__stacks scratch;
};

struct api__constraint {
    api__workspace *work;
    uint64_t fuel; /* work of the last mask */
    uint64_t *words;
    eng_mask mask;
    bool done; /* the value is complete */
    api__stacks now;
};

static void allow(api__workspace *work, const api__endings *ends, uint32_t token, uint64_t *words) {
    if (ends == NULL) {
        set_bit(words, token);
        return;
    }
    for (uint32_t i = token; i <= ends->last[token]; i++)
        set_bit(words, ends->ids[i]);
    work->making.fuel += (ends->last[token] - token) / 16;
}

/* True if plain characters only add to the count of a string, or change nothing in a key that
 * differs from all declared ones. */
static bool only_counts(const api__workspace *work, uint16_t top) {
    const api__frame *frame = &work->making.pool[top];
    uint8_t kind = work->making.grammar->nodes[frame->node].kind;
    return kind == API__STRING || kind == API__TEXT || frame->first == frame->end;
}

/* True if even the count of one token's characters makes no difference. */
static bool is_steady(const api__workspace *work, uint16_t top, uint32_t room) {
    const api__frame *frame = &work->making.pool[top];
    const api__node *node = &work->making.grammar->nodes[frame->node];
    if (node->kind != API__STRING && node->kind != API__TEXT) return only_counts(work, top);
    return room > FAR && (frame->chars >= node->min || node->min - frame->chars > FAR);
}

/* A text must see the bytes that may complete API__CLOSER. */
static bool sees_plain(const api__workspace *work, uint16_t top) {
    const api__frame *frame = &work->making.pool[top];
    return work->making.grammar->nodes[frame->node].kind == API__TEXT && frame->matched > 0;
}

static bool all_steady(const api__workspace *work, const api__readings *readings) {
    uint32_t room;
    for (uint8_t i = 0; i < readings->n_tops; i++) {
        if (!api__automaton_in_string(&work->making, readings->top[i], &room) ||
            !is_steady(work, readings->top[i], room) || sees_plain(work, readings->top[i]))
            return false;
    }
    return true;
}

/* A character of one byte, and not the first of API__CLOSER. */
static bool is_plain_byte(uint8_t byte) {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\' && byte != '<';
}

/* Advances the readings by the node's byte. False: no reading is left. */
static bool enter(api__workspace *work, const api__trie_node *node) {
    uint32_t depth = node->depth;
    if (work->steady[depth] && is_plain_byte(node->byte)) {
        work->at[depth + 1] = work->at[depth];
        work->steady[depth + 1] = true;
        work->mark[depth + 1] = work->mark[depth];
        work->making.fuel++;
        return true;
    }
    api__automaton_rewind(&work->making, work->mark[depth]);
    api__automaton_step(&work->making, work->at[depth], node->byte, &work->level[depth]);
    if (work->level[depth].n_tops == 0) return false;
    work->at[depth + 1] = &work->level[depth];
    work->steady[depth + 1] = all_steady(work, &work->level[depth]);
    work->mark[depth + 1] = work->making.used;
    return true;
}

/* Adds every token of the trie allowed by the readings. False: out of fuel. */
static bool walk_nodes(api__workspace *work, const api__trie *tree, const api__endings *ends,
                       const api__readings *start, uint64_t limit, uint64_t *words) {
    uint32_t base = work->making.used;
    work->at[0] = start;
    work->steady[0] = all_steady(work, start);
    work->mark[0] = base;
    for (uint32_t i = 0; i < tree->n_nodes && work->making.fuel <= limit;) {
        const api__trie_node *node = &tree->nodes[i];
        if (!enter(work, node)) {
            i = node->next;
            continue;
        }
        if (node->token != API__NO_TOKEN) allow(work, ends, node->token, words);
        i++;
    }
    api__automaton_rewind(&work->making, base);
    return work->making.fuel <= limit;
}

static bool walk(api__workspace *work, const api__trie *tree, const api__readings *start,
                 uint64_t limit, uint64_t *words) {
    return walk_nodes(work, tree, NULL, start, limit, words);
}

/* Adds the irregular tokens, by their number of leading plain characters, in states where plain
 * characters only count. */
static bool walk_counted(api__workspace *work, const api__readings *now, uint64_t limit,
                         uint64_t *words) {
    api__readings at = *now, next;
    for (size_t chars = 0; chars < API__MAX_TOKEN_BYTES && at.n_tops > 0; chars++) {
        const api__endings *ends = &work->vocab->ends_after[chars];
        if (!walk_nodes(work, &ends->tree, ends, &at, limit, words)) return false;
        api__automaton_step(&work->making, &at, 'a', &next); /* stands for any plain character */
        at = next;
    }
    return true;
}

/* Takes out the tokens that complete API__CLOSER by their leading plain characters, if a text is
 * read. All texts begin at the same byte, so one of them speaks for all. */
static void forbid_closers(const api__workspace *work, const api__readings *now, uint64_t *words) {
    const api__vocab *vocab = work->vocab;
    for (uint8_t i = 0; i < now->n_tops; i++) {
        const api__frame *frame = &work->making.pool[now->top[i]];
        uint32_t from, to;
        if (work->making.grammar->nodes[frame->node].kind != API__TEXT) continue;
        const char *missing = &API__CLOSER[frame->matched];
        api__vocab_beginning(vocab, missing, strlen(missing), &from, &to);
        for (; from < to; from++)
            clear_bit(words, vocab->sorted[from]);
        for (uint32_t k = 0; k < vocab->n_closers; k++)
            clear_bit(words, vocab->closers[k]);
        return;
    }
}

/* Makes the mask of a state.
 * - If one reading is inside a string, all are, because JSON is read from left to right. A plain
 *   character then never splits a reading, so plain tokens can be checked for each reading alone.
 * - If plain characters only change a count, a token is allowed if its ending is. Thousands of
 *   words with a quote at the end then share one check, or one for each length.
 * - Both ways skip plain characters, so tokens that would complete API__CLOSER in a text are taken
 *   out again. A reading of the text's end may still allow them. */
static bool build_mask(api__workspace *work, const api__readings *now, uint64_t limit,
                       uint64_t *words) {
    const api__vocab *vocab = work->vocab;
    api__readings others = {.n_tops = 0};
    uint32_t room = 0, one;
    bool steady = true, counted = true;
    for (uint8_t i = 0; i < now->n_tops; i++) {
        if (!api__automaton_in_string(&work->making, now->top[i], &one)) {
            others.top[others.n_tops++] = now->top[i];
        } else {
            if (one > room) room = one;
            steady = steady && is_steady(work, now->top[i], one);
            counted = counted && only_counts(work, now->top[i]);
        }
    }
    if (room == 0) return walk(work, &vocab->all, now, limit, words);
    if (room > vocab->max_chars) room = vocab->max_chars;
    memcpy(words, vocab->plain_upto + room * vocab->n_words, vocab->n_words * sizeof *words);
    forbid_closers(work, now, words);
    if (others.n_tops > 0 && !walk(work, &vocab->plain, &others, limit, words)) return false;
    if (others.n_tops > 0 || (!steady && !counted))
        return walk(work, &vocab->irregular, now, limit, words);
    bool made = steady ? walk_nodes(work, &vocab->ends.tree, &vocab->ends, now, limit, words)
                       : walk_counted(work, now, limit, words);
    forbid_closers(work, now, words);
    return made;
}

/* Makes counts equal if no token can bring them to a limit, so that such states share a mask. */
static uint32_t far_count(uint32_t n, uint32_t first, uint32_t min, uint32_t max) {
    if (n < first) return n;
    if (n < min) return min - n > FAR ? first : n;
    return max != UINT32_MAX && max - n > FAR ? max - FAR - 1 : n;
}

static void make_key(api__workspace *work, const api__stacks *now, cached_mask *key) {
    key->n_frames = now->n_frames;
    key->n_tops = now->n_tops;
    memcpy(key->frames, now->frames, now->n_frames * sizeof *key->frames);
    memcpy(key->top, now->top, now->n_tops * sizeof *key->top);
    for (uint16_t i = 0; i < key->n_frames; i++) {
        api__frame *frame = &key->frames[i];
        const api__node *node = &work->making.grammar->nodes[frame->node];
        if (node->kind == API__STRING || node->kind == API__TEXT)
            frame->chars = far_count(frame->chars, 0, node->min, node->max);
        if (node->kind == API__ARRAY)
            frame->items = far_count(frame->items, node->n_parts, node->min, node->max);
    }
}

static bool same_key(const cached_mask *left, const cached_mask *right) {
    return left->n_tops == right->n_tops && left->n_frames == right->n_frames &&
           memcmp(left->top, right->top, left->n_tops * sizeof *left->top) == 0 &&
           memcmp(left->frames, right->frames, left->n_frames * sizeof *left->frames) == 0;
}

/* Finds the mask of a state in the cache or makes it. False: out of fuel. */
static bool find_mask(api__workspace *work, const api__stacks *now, uint64_t *words) {
    const size_t bytes = work->vocab->n_words * sizeof *words;
    const uint64_t limit = work->making.fuel + API__MASK_FUEL;
    api__readings readings;
    cached_mask key, *oldest = &work->cache[0];
    bool keep = now->n_frames <= CACHED_FRAMES;
    if (keep) make_key(work, now, &key);
    for (size_t i = 0; keep && i < CACHED_MASKS; i++) {
        cached_mask *mask = &work->cache[i];
        if (mask->used && same_key(mask, &key)) {
            mask->used = ++work->tick;
            memcpy(words, mask->words, bytes);
            return true;
        }
        if (mask->used < oldest->used) oldest = mask;
    }
    memset(words, 0, bytes);
    api__automaton_load(&work->making, now, &readings);
    if (!build_mask(work, &readings, limit, words)) return false;
    if (!keep) return true;
    key.used = ++work->tick;
    key.words = oldest->words;
    *oldest = key;
    memcpy(oldest->words, words, bytes);
    return true;
}

/* ---- one sequence ---- */

err_code api__constraint_make(void *ud) {
    api__constraint *constr = ud;
    api__workspace *work = constr->work;
    uint64_t before = work->making.fuel;
    bool made = find_mask(work, &constr->now, constr->words);
    constr->fuel = work->making.fuel - before;
    if (!made) return ERR_COSTLY;
    for (uint32_t i = 0; constr->done && i < work->n_stop_ids; i++)
        set_bit(constr->words, work->stop_ids[i]);
    return ERR_NONE;
}

const eng_mask *api__constraint_mask(void *ud) {
    const api__constraint *constr = ud;
    return &constr->mask;
}

uint64_t api__constraint_fuel(const api__constraint *constr) {
    return constr->fuel;
}

static void set_state(api__constraint *constr, api__automaton *machine, const api__readings *now) {
    api__automaton_save(machine, now, &constr->now);
    constr->done = api__automaton_done(machine, now);
}

static bool is_stop(const api__workspace *work, uint32_t token) {
    for (uint32_t i = 0; i < work->n_stop_ids; i++) {
        if (work->stop_ids[i] == token) return true;
    }
    return false;
}

/* Takes a token. A long token with many readings may fill the pool, so it is compacted on the
 * way. */
bool api__constraint_take(void *ud, uint32_t token) {
    api__constraint *constr = ud;
    api__workspace *work = constr->work;
    size_t n;
    const char *bytes = tokenizer_bytes(work->vocab->tokenizer, token, &n);
    if (constr->done && is_stop(work, token)) return true; /* an end token adds no text */
    if (bytes == NULL || n == 0 || tokenizer_is_special(work->vocab->tokenizer, token))
        return false;
    api__readings now, next;
    api__automaton_load(&work->taking, &constr->now, &now);
    for (size_t i = 0; i < n && now.n_tops > 0; i++) {
        api__automaton_step(&work->taking, &now, (uint8_t)bytes[i], &next);
        now = next;
        if (work->taking.used > API__POOL / 2)
            api__automaton_compact(&work->taking, &now, &work->scratch);
    }
    if (now.n_tops > 0) set_state(constr, &work->taking, &now);
    return now.n_tops > 0;
}

const sched_constraint api__constraint_calls = {api__constraint_make, api__constraint_mask,
                                                api__constraint_take};

int api__workspace_create(api__workspace **out, const api__grammar *grammar,
                          const api__vocab *vocab, const uint32_t *stop_ids, uint32_t n_stop_ids,
                          err *e) {
    *out = NULL;
    api__workspace *work = calloc(1, sizeof *work);
    if (work == NULL || api__automaton_init(&work->making, grammar, e) != 0 ||
        api__automaton_init(&work->taking, grammar, e) != 0)
        goto fail;
    work->vocab = vocab;
    work->words = array_new(vocab->n_words * CACHED_MASKS, sizeof *work->words);
    work->stop_ids = array_new(n_stop_ids, sizeof *work->stop_ids);
    if (work->words == NULL || work->stop_ids == NULL) goto fail;
    for (size_t i = 0; i < CACHED_MASKS; i++)
        work->cache[i].words = work->words + i * vocab->n_words;
    for (uint32_t i = 0; i < n_stop_ids; i++) {
        if (stop_ids[i] < vocab->n_tokens) work->stop_ids[work->n_stop_ids++] = stop_ids[i];
    }
    *out = work;
    return 0;
fail:
    api__workspace_destroy(work);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
}

void api__workspace_destroy(api__workspace *work) {
    if (work == NULL) return;
    api__automaton_deinit(&work->making);
    api__automaton_deinit(&work->taking);
    free(work->words);
    free(work->stop_ids);
    free(work);
}

int api__constraint_create(api__constraint **out, api__workspace *work, err *e) {
    /* A request may create many constraints on the loop thread, so their memory is not touched
     * here. */
    api__constraint *constr = *out = malloc(sizeof *constr);
    uint64_t *words = array_new_aligned(work->vocab->n_words, sizeof *words);
    if (constr == NULL || words == NULL) {
        free(constr);
        free(words);
        *out = NULL;
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
    }
    constr->work = work;
    constr->fuel = 0;
    constr->words = words;
    constr->mask = (eng_mask){words, work->vocab->n_words};
    api__readings now;
    api__automaton_start(&work->taking, &now);
    set_state(constr, &work->taking, &now);
    return 0;
}

void api__constraint_destroy(api__constraint *constr) {
    if (constr == NULL) return;
    free(constr->words);
    free(constr);
}

size_t api__constraint_bytes(const api__constraint *constr) {
    return sizeof *constr + constr->work->vocab->n_words * sizeof *constr->words;
}

size_t api__workspace_bytes(const api__workspace *work) {
    return sizeof *work + 2 * api__automaton_bytes() +
           CACHED_MASKS * work->vocab->n_words * sizeof *work->words;
}
