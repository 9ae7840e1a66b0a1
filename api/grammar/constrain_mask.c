/* constrain_mask.c - from the automaton's state to a mask of allowed tokens, and to the masks
 * behind the tokens that are forced.
 *
 * Inside a string nearly every token is allowed: tokens of whole plain characters are known
 * beforehand, and only the others are walked (mask_walk.c). States that come again find their masks
 * in the vocabulary's cache (mask_cache.c). */
#include "api/grammar/forced_internal.h"
#include "api/grammar/regex_internal.h"
#include "api/grammar/walk_internal.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

/* ---- one mask ---- */

static void set_bit(uint64_t *words, uint32_t id) {
    words[id / 64] |= (uint64_t)1 << id % 64;
}

static void clear_bit(uint64_t *words, uint32_t id) {
    words[id / 64] &= ~((uint64_t)1 << id % 64);
}

struct api__workspace {
    const api__vocab *vocab;
    uint32_t *stop_ids;
    uint32_t n_stop_ids;

    /* Used by the thread that makes masks. */
    api__walker making;
    api__mask_key key;
    api__stacks ahead; /* behind a forced token */

    /* Used by the thread that takes tokens. */
    api__automaton taking;
    api__stacks scratch;
};

enum { MASKS = 1 + API__MOST_FORCED };

/* masks[at] is the mask of the next token. Forced tokens: forced[at] and those behind it; behind
 * forced[i] masks[i + 1] holds. No state is kept for them: take() reads their bytes. */
struct api__constraint {
    api__workspace *work;
    uint64_t fuel;   /* work of the last make */
    uint64_t *words; /* [MASKS][n_words] */
    eng_mask masks[MASKS];
    uint32_t forced[API__MOST_FORCED], n_forced, at;
    api__style style;
    bool done; /* the value is complete */
    api__stacks now;
};

/* Adds the irregular tokens, by their number of leading plain characters, in states where plain
 * characters only count. */
static bool walk_counted(api__workspace *work, const api__readings *now, uint64_t limit,
                         uint64_t *words) {
    api__readings at = *now, next;
    for (size_t chars = 0; chars < API__MAX_TOKEN_BYTES && at.n_tops > 0; chars++) {
        const api__endings *ends = &work->vocab->ends_after[chars];
        if (!api__walk(&work->making, ends, &at, limit, words)) return false;
        api__automaton_step(&work->making.machine, &at, 'a',
                            &next); /* stands for any plain character */
        at = next;
    }
    return true;
}

/* Takes out the tokens that complete API__CLOSER by their leading plain characters, if a text is
 * read. All texts begin at the same byte, so one of them speaks for all. */
static void forbid_closers(const api__workspace *work, const api__readings *now, uint64_t *words) {
    const api__vocab *vocab = work->vocab;
    for (uint8_t i = 0; i < now->n_tops; i++) {
        const api__frame *frame = &work->making.machine.pool[now->top[i]];
        uint32_t from, to;
        if (work->making.machine.grammar->nodes[frame->node].kind != API__TEXT) continue;
        const char *missing = &API__CLOSER[frame->matched];
        api__vocab_beginning(vocab, missing, strlen(missing), &from, &to);
        for (; from < to; from++)
            clear_bit(words, vocab->sorted[from]);
        for (uint32_t k = 0; k < vocab->n_closers; k++)
            clear_bit(words, vocab->closers[k]);
        return;
    }
}

/* Makes the mask of a state. *base: the row of plain_upto that it is like, or API__NO_BASE.
 * - If one reading is inside a string, all are, because JSON is read from left to right. A plain
 *   character then never splits a reading, so plain tokens can be checked for each reading alone.
 * - If plain characters only change a count, a token is allowed if its ending is. Thousands of
 *   words with a quote at the end then share one check, or one for each length.
 * - Both ways skip plain characters, so tokens that would complete API__CLOSER in a text are taken
 *   out again. A reading of the text's end may still allow them. */
static bool build_mask(api__workspace *work, const api__readings *now, uint64_t limit,
                       uint64_t *words, uint32_t *base) {
    const api__vocab *vocab = work->vocab;
    const api__automaton *machine = &work->making.machine;
    api__readings others = {.n_tops = 0};
    uint32_t room = 0, one;
    bool steady = true, counted = true;
    for (uint8_t i = 0; i < now->n_tops; i++) {
        if (!api__automaton_in_string(machine, now->top[i], &one)) {
            others.top[others.n_tops++] = now->top[i];
        } else {
            if (one > room) room = one;
            steady = steady && api__is_steady(machine, now->top[i], one);
            counted = counted && api__only_counts(machine, now->top[i]);
        }
    }
    *base = API__NO_BASE;
    if (room == 0) return api__walk(&work->making, &vocab->all, now, limit, words);
    if (room > vocab->max_chars) room = vocab->max_chars;
    *base = room;
    memcpy(words, vocab->plain_upto + room * vocab->n_words, vocab->n_words * sizeof *words);
    forbid_closers(work, now, words);
    if (others.n_tops > 0 && !api__walk(&work->making, &vocab->plain, &others, limit, words))
        return false;
    if (others.n_tops > 0 || (!steady && !counted))
        return api__walk(&work->making, &vocab->irregular, now, limit, words);
    bool made = steady ? api__walk(&work->making, &vocab->ends, now, limit, words)
                       : walk_counted(work, now, limit, words);
    forbid_closers(work, now, words);
    return made;
}

/* Makes counts equal if no token, adding `far` at most, can bring them to a limit, so that such
 * states share a mask. */
static uint32_t far_count(uint32_t n, uint32_t first, uint32_t min, uint32_t max, uint32_t far) {
    if (n < first) return n;
    if (n < min) return min - n > far ? first : n;
    return max != UINT32_MAX && max - n > far ? max - far - 1 : n;
}

/* A pattern looks as far as its nearest end and, below the least length, at the exact count. */
static uint32_t far_chars(const api__node *node, uint32_t chars) {
    if (node->dfa && chars < node->min) return chars;
    uint32_t far = API__FAR + (node->dfa ? node->dfa->farthest : 0);
    return far_count(chars, 0, node->min, node->max, far);
}

/* Makes the key of a state. False: the state is too large for one. */
static bool make_key(const api__workspace *work, const api__stacks *now, api__mask_key *key) {
    const api__grammar *grammar = work->making.machine.grammar;
    const uint16_t sizes[4] = {now->n_frames, now->n_tops};
    if (now->n_frames > API__KEPT_FRAMES) return false;
    uint8_t *at = key->bytes;
    memcpy(at, &grammar->number, sizeof grammar->number);
    memcpy(at + 8, sizes, sizeof sizes);
    at += 16;
    for (uint16_t i = 0; i < now->n_frames; i++, at += sizeof(api__frame)) {
        api__frame frame = now->frames[i];
        const api__node *node = &grammar->nodes[frame.node];
        if (node->kind == API__STRING || node->kind == API__TEXT)
            frame.chars = far_chars(node, frame.chars);
        if (node->kind == API__ARRAY)
            frame.items =
                far_count(frame.items, node->n_parts, node->min, node->max, work->vocab->max_items);
        memcpy(at, &frame, sizeof frame);
    }
    memcpy(at, now->top, now->n_tops * sizeof *now->top);
    at += now->n_tops * sizeof *now->top;
    for (; (at - key->bytes) % 4; at++)
        *at = 0;
    key->n_bytes = (uint32_t)(at - key->bytes);
    return true;
}

/* Finds the mask of a state or makes it. done: the value is complete. False: out of fuel. */
static bool find_mask(api__workspace *work, const api__stacks *now, bool done, uint64_t limit,
                      uint64_t *words) {
    api__readings readings;
    uint32_t base;
    bool keep = make_key(work, now, &work->key);
    if (!keep || !api__masks_find(work->vocab->masks, &work->key, words)) {
        memset(words, 0, work->vocab->n_words * sizeof *words);
        api__walker_load(&work->making, now, &readings);
        if (!build_mask(work, &readings, limit, words, &base)) return false;
        if (keep) api__masks_keep(work->vocab->masks, &work->key, base, words);
    }
    for (uint32_t i = 0; done && i < work->n_stop_ids; i++)
        set_bit(words, work->stop_ids[i]);
    return true;
}

/* ---- the masks behind forced tokens ---- */

/* Goes on by a token. A long token with many readings may fill the pool, so it is compacted on the
 * way. False: no reading is left. style: learns from it, or NULL. */
static bool read_token(const api__workspace *work, api__automaton *machine, api__stacks *scratch,
                       uint32_t token, api__readings *now, api__style *style) {
    size_t n;
    const char *bytes = tokenizer_bytes(work->vocab->tokenizer, token, &n);
    api__readings next;
    for (size_t i = 0; i < n && now->n_tops > 0; i++) {
        if (style) api__style_learn(style, machine, now, (uint8_t)bytes[i]);
        api__automaton_step(machine, now, (uint8_t)bytes[i], &next);
        *now = next;
        if (machine->used > API__POOL / 2) api__automaton_compact(machine, now, scratch);
    }
    return now->n_tops > 0;
}

/* Makes the mask behind one more forced token. False: the others are left out, because the mask
 * before does not allow it (the pool of frames is small) or would take too much work. */
static bool add_forced(api__constraint *constr, uint32_t token, uint64_t limit) {
    api__workspace *work = constr->work;
    api__automaton *machine = &work->making.machine;
    api__readings now;
    uint64_t *words = constr->words + (constr->n_forced + 1) * work->vocab->n_words;
    if (!eng_mask_allows(&constr->masks[constr->n_forced], token)) return false;
    api__automaton_load(machine, &work->ahead, &now);
    if (!read_token(work, machine, &work->ahead, token, &now, NULL)) return false;
    api__automaton_save(machine, &now, &work->ahead);
    bool done = api__automaton_done(machine, &now);
    if (!find_mask(work, &work->ahead, done, limit, words)) return false;
    constr->forced[constr->n_forced++] = token;
    return true;
}

/* Names that go on differently mostly have different tokens from their beginnings on, so a token
 * that could be longer is left out there. Before a value it is right more often than not. */
static void look_ahead(api__constraint *constr) {
    api__workspace *work = constr->work;
    api__automaton *machine = &work->making.machine;
    const uint64_t limit = machine->fuel + API__AHEAD_FUEL;
    api__readings now;
    api__forced found;
    api__automaton_load(machine, &constr->now, &now);
    api__forced_find(&found, work->vocab, machine, &now, &constr->style, limit);
    if (found.n == 0) return;
    work->ahead = constr->now;
    for (uint32_t i = 0; i < found.n; i++) {
        bool last = found.open && i + 1 == found.n;
        if (last && api__forced_may_grow(work->vocab, &constr->masks[i], found.tokens[i])) return;
        if (!add_forced(constr, found.tokens[i], limit)) return;
    }
}

/* ---- one sequence ---- */

err_code api__constraint_make(void *ud) {
    api__constraint *constr = ud;
    api__workspace *work = constr->work;
    uint64_t before = work->making.machine.fuel;
    constr->n_forced = constr->at = 0;
    bool made = find_mask(work, &constr->now, constr->done, before + API__MASK_FUEL, constr->words);
    if (made) look_ahead(constr);
    constr->fuel = work->making.machine.fuel - before;
    return made ? ERR_NONE : ERR_COSTLY;
}

const eng_mask *api__constraint_mask(void *ud, uint32_t n) {
    const api__constraint *constr = ud;
    return &constr->masks[constr->at + n];
}

uint32_t api__constraint_expected(void *ud, const uint32_t **tokens) {
    const api__constraint *constr = ud;
    *tokens = constr->forced + constr->at;
    return constr->n_forced - constr->at;
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

bool api__constraint_take(void *ud, uint32_t token) {
    api__constraint *constr = ud;
    api__workspace *work = constr->work;
    size_t n;
    const char *bytes = tokenizer_bytes(work->vocab->tokenizer, token, &n);
    if (constr->done && is_stop(work, token)) return true; /* an end token adds no text */
    if (bytes == NULL || n == 0 || tokenizer_is_special(work->vocab->tokenizer, token))
        return false;
    api__readings now;
    api__style style = constr->style;
    api__automaton_load(&work->taking, &constr->now, &now);
    if (!read_token(work, &work->taking, &work->scratch, token, &now, &style)) return false;
    set_state(constr, &work->taking, &now);
    constr->style = style;
    if (constr->at < constr->n_forced && constr->forced[constr->at] == token) constr->at++;
    else constr->at = constr->n_forced = 0;
    return true;
}

const sched_constraint api__constraint_calls = {api__constraint_make, api__constraint_mask,
                                                api__constraint_take, api__constraint_expected};

int api__workspace_create(api__workspace **out, const api__grammar *grammar,
                          const api__vocab *vocab, const uint32_t *stop_ids, uint32_t n_stop_ids,
                          err *e) {
    *out = NULL;
    api__workspace *work = calloc(1, sizeof *work);
    if (work == NULL || api__walker_init(&work->making, grammar, e) != 0 ||
        api__automaton_init(&work->taking, grammar, e) != 0)
        goto fail;
    work->vocab = vocab;
    work->stop_ids = array_new(n_stop_ids, sizeof *work->stop_ids);
    if (work->stop_ids == NULL) goto fail;
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
    api__walker_deinit(&work->making);
    api__automaton_deinit(&work->taking);
    free(work->stop_ids);
    free(work);
}

int api__constraint_create(api__constraint **out, api__workspace *work, err *e) {
    /* A request may create many constraints on the loop thread, so their memory is not touched
     * here. */
    api__constraint *constr = *out = malloc(sizeof *constr);
    const size_t n_words = work->vocab->n_words;
    uint64_t *words = array_new_aligned(n_words * MASKS, sizeof *words);
    if (constr == NULL || words == NULL) {
        free(constr);
        free(words);
        *out = NULL;
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
    }
    constr->work = work;
    constr->fuel = 0;
    constr->words = words;
    for (size_t i = 0; i < MASKS; i++)
        constr->masks[i] = (eng_mask){words + i * n_words, n_words};
    constr->n_forced = constr->at = 0;
    api__style_begin(&constr->style);
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
    return sizeof *constr + MASKS * constr->work->vocab->n_words * sizeof *constr->words;
}

size_t api__workspace_bytes(const api__workspace *work) {
    return sizeof *work + 2 * api__automaton_bytes();
}
