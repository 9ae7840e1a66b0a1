/* cohort.c - rows for the next positions of sequences, and the next stage of a cohort after a
 * launch.
 *
 * Rows cannot deadlock: cohorts of a sequence take rows in position order and all at once, and the
 * first cohort of a sequence waits for no other row. It ends after at most max_loops launches and
 * one flush, and gives its rows back. */
#include "scheduler/scheduler_internal.h"

/* ---- rows ---- */

/* Returns the first row; *last is the last one. */
static uint32_t take_rows(scheduler *sched, uint32_t n, uint32_t first_pos, uint32_t *last) {
    uint32_t head = sched->free_row, row = head;
    for (uint32_t i = 0;; i++) {
        sched->rows[row] =
            (row_info){.pos = first_pos + i, .next = sched->rows[row].next, .state = ROW_LIVE};
        if (i + 1 == n) break;
        row = sched->rows[row].next;
    }
    sched->free_row = sched->rows[row].next;
    sched->rows[row].next = NONE;
    sched->n_free_rows -= n;
    *last = row;
    return head;
}

static void give_rows(scheduler *sched, uint32_t head) {
    while (head != NONE) {
        uint32_t next = sched->rows[head].next;
        sched->rows[head].state = ROW_FREE;
        sched->rows[head].next = sched->free_row;
        sched->free_row = head;
        sched->n_free_rows++;
        head = next;
    }
}

/* ---- starting and freeing ---- */

static bool before_loops(const cohort *coh) {
    return !coh->looping && coh->next_loop == 0;
}

/* Takes coh out of every sum of rows. */
static void count_out(scheduler *sched, cohort *coh) {
    if (before_loops(coh)) {
        sched->n_to_prelude -= coh->n_rows;
        return;
    }
    if (coh->looping) {
        sched->n_looping_live -= coh->n_live;
        *(coh->parked ? &sched->n_parked : &sched->n_looping_tail) -= coh->n_tail;
    }
    if (sched__waits_to_draft(coh)) sched->n_to_draft -= coh->drafting == DRAFT_WAITS;
    else if (!list_empty(&coh->stage_link) && !coh->awaits_mask) sched->n_to_coda -= coh->n_coda;
}

static void free_cohort(scheduler *sched, cohort *coh) {
    sequence *seq = coh->owner;
    count_out(sched, coh);
    list_remove(&coh->loop_link);
    list_remove(&coh->stage_link);
    while (sched__in_flight(coh))
        sched__unpick(sched__pick_at(coh->picks.next));
    *(coh->before ? &coh->before->after : &seq->first) = coh->after;
    *(coh->after ? &coh->after->before : &seq->last) = coh->before;
    give_rows(sched, coh->first_row);
    sched__tenant_of(sched, seq)->n_rows -= coh->n_rows;
    sched->home_rows[seq->prefix_key.home] -= coh->n_rows;
    *(coh->draft ? &sched->n_draft_rows : &sched->n_decode_rows) -= coh->decode;
    sched->n_found_rows -= coh->draft && coh->source != FROM_LOOPS;
    coh->owner = NULL;
    coh->after = sched->free_cohort;
    sched->free_cohort = coh;
}

void sched__free_if_over(scheduler *sched, cohort *coh) {
    bool over = !coh->looping && coh->coda_row == NONE && !sched__in_flight(coh);
    if (over && (!coh->timed || coh->collapsed)) free_cohort(sched, coh);
}

void sched__drop_cohorts(scheduler *sched, sequence *seq) {
    while (seq->last)
        free_cohort(sched, seq->last);
}

/* Whether the next cohort of seq is one timed position: collapse.c. */
static bool is_timed(const sequence *seq) {
    return seq->next_start >= seq->timed_from;
}

/* Whether the next cohort of seq begins behind the known tokens. */
static bool is_draft(const sequence *seq) {
    return seq->next_start >= seq->n_tokens;
}

/* Whether the next cohort of seq is a decode step. */
static bool is_decode(const sequence *seq) {
    return is_timed(seq) || is_draft(seq) ||
           (seq->next_start >= seq->req.n_prompt && seq->next_start + 1 == seq->n_tokens);
}

void sched__want_start(scheduler *sched, sequence *seq) {
    list_move_back(is_decode(seq) ? &sched->want_decode : &sched->want_prompt, &seq->start_link);
    seq->waited = 0;
}

static uint32_t next_cohort_rows(const scheduler *sched, const sequence *seq) {
    /* Chunks end at fixed positions, whatever the load. */
    uint32_t end = (seq->next_start / sched->chunk + 1) * sched->chunk;
    if (is_timed(seq) || is_draft(seq)) return 1;
    if (end > seq->n_tokens) end = seq->n_tokens;
    if (end > seq->timed_from) end = seq->timed_from;
    return end - seq->next_start;
}

static void forget_slots(const scheduler *sched, uint32_t row) {
    uint32_t *slots = sched__row_slots(sched, row);
    for (uint32_t i = 0; slots && i < sched->n_planes; i++)
        slots[i] = NONE;
}

static void start_cohort(scheduler *sched, sequence *seq) {
    cohort *coh = sched->free_cohort;
    sched->free_cohort = coh->after;
    uint32_t n = next_cohort_rows(sched, seq);
    *coh = (cohort){.owner = seq, .first = seq->next_start, .n_rows = n, .n_live = n, .n_coda = n};
    coh->timed = is_timed(seq);
    if (coh->timed) coh->began = seq->clock;
    coh->draft = is_draft(seq);
    coh->decode = coh->timed || (seq->next_start >= seq->req.n_prompt && n == 1);
    coh->list = coh->decode ? LIST_DECODE : LIST_PROMPT;
    *(coh->draft ? &sched->n_draft_rows : &sched->n_decode_rows) += coh->decode;
    sched__tenant_of(sched, seq)->n_rows += n;
    sched->home_rows[seq->prefix_key.home] += n;
    coh->first_row = coh->coda_row = take_rows(sched, n, seq->next_start, &coh->last_row);
    if (coh->decode) forget_slots(sched, coh->first_row);
    list_init(&coh->loop_link);
    list_init(&coh->stage_link);
    list_init(&coh->picks);
    coh->before = seq->last;
    *(seq->last ? &seq->last->after : &seq->first) = coh;
    seq->last = coh;
    seq->next_start += n;
    seq->waited = 0;
    list_insert_before(&sched->to_prelude, &coh->stage_link);
    sched->n_to_prelude += n;
    /* The clock at which the next timed position begins is known when this one has halted. */
    if (seq->next_start >= seq->n_tokens || coh->timed) list_remove(&seq->start_link);
}

/* ---- drafts ---- */

void sched__start_draft(scheduler *sched, sequence *seq) {
    start_cohort(sched, seq);
    seq->last->place = (uint16_t)(seq->n_drafts - 1);
}

void sched__keep_draft(scheduler *sched, cohort *coh) {
    coh->draft = false;
    sched->n_found_rows -= coh->source != FROM_LOOPS;
    sched->n_draft_rows--;
    sched->n_decode_rows++;
}

/* Its map entries stay and name slots of others. They are never read: a row reads an entry only
 * after a row of that position has set it anew. */
static void give_slots(scheduler *sched, const cohort *coh) {
    const sequence *seq = coh->owner;
    uint32_t id = seq->blocks[coh->first / ENG_BLOCK];
    uint32_t n_slots = plan_planes(sched->plan, seq->prefix_key.max_loops);
    const uint32_t *slots = sched__row_slots(sched, coh->first_row);
    kv_cache *cache = sched__cache_of(sched, seq);
    for (uint32_t i = 0; i < sched->n_planes; i++) {
        if (slots[i] != NONE) sched__give_slot(cache, id, slots[i]);
    }
    if (slots[plan_plane_loop(sched->plan, 0)] == NONE) return;
    cache->blocks[id].full_depth_slots -= n_slots;
    cache->full_depth_slots -= n_slots;
}

/* Of a launch being reserved. */
static void give_promises(const scheduler *sched, cohort *coh) {
    for (list_link *link = coh->picks.next; link != &coh->picks; link = link->next) {
        uint32_t n = sched__pick_at(link)->n_promised;
        if (n == 0) continue;
        sched__unpromise(sched__cache_of(sched, coh->owner),
                         coh->owner->blocks[coh->first / ENG_BLOCK], n);
    }
}

void sched__undo_last(scheduler *sched, sequence *seq) {
    cohort *coh = seq->last;
    uint32_t free_pages = sched__cache_of(sched, seq)->n_free_pages;
    seq->next_start = coh->first;
    give_promises(sched, coh);
    if (coh->first / ENG_BLOCK < seq->n_blocks) give_slots(sched, coh);
    if (sched__cache_of(sched, seq)->n_free_pages > free_pages) sched->epoch++;
    free_cohort(sched, coh);
}

static sequence *first_of(const list_link *list) {
    return list_empty(list) ? NULL : OWNER_OF(list->next, sequence, start_link);
}

static sequence *longest_waiting(const scheduler *sched) {
    sequence *longest = first_of(&sched->want_decode);
    const list_link *list = &sched->want_prompt;
    for (list_link *link = list->next; link != list; link = link->next) {
        sequence *seq = OWNER_OF(link, sequence, start_link);
        if (longest == NULL || seq->waited > longest->waited) longest = seq;
    }
    return longest;
}

static void count_refused_in(list_link *list) {
    for (list_link *link = list->next; link != list; link = link->next)
        OWNER_OF(link, sequence, start_link)->waited++;
}

static void count_refused(scheduler *sched) {
    count_refused_in(&sched->want_decode);
    count_refused_in(&sched->want_prompt);
}

/* One row per running sequence, at most a quarter of the pool. Under policy collapse, all the rows
 * that the running sequences may need: their number is limited, so a chunk still fits. */
static uint32_t decode_share(const scheduler *sched) {
    if (sched->rules.collapses) return sched->n_running * (sched->limits.opts.ceiling_loops + 1);
    return sched->n_running < sched->n_rows / 4 ? sched->n_running : sched->n_rows / 4;
}

/* Rows kept free for decoding: one per running sequence, at most a quarter of the pool, never so
 * many that the next chunk cannot start; minus the rows decoding already holds. */
static uint32_t kept_for_decoding(const scheduler *sched, uint32_t chunk) {
    uint32_t keep = decode_share(sched);
    if (keep > sched->n_rows - chunk) keep = sched->n_rows - chunk;
    return keep > sched->n_decode_rows ? keep - sched->n_decode_rows : 0;
}

/* Serves the sequences refused for wait_bound rounds, the longest first. False: the next one must
 * wait for rows, and until then only decoding gets rows, out of the rows kept for it. */
static bool start_overdue(scheduler *sched) {
    for (;;) {
        sequence *seq = longest_waiting(sched);
        if (seq == NULL || seq->waited < sched->limits.opts.wait_bound) return true;
        uint32_t n = next_cohort_rows(sched, seq);
        uint32_t kept = is_decode(seq) ? 0 : kept_for_decoding(sched, n);
        if (n + kept <= sched->n_free_rows) {
            start_cohort(sched, seq);
            continue;
        }
        while (kept-- > 0 && sched->n_free_rows > 0 && !list_empty(&sched->want_decode))
            start_cohort(sched, first_of(&sched->want_decode));
        return false;
    }
}

static bool starts_before(const scheduler *sched, const sequence *seq, const sequence *other) {
    const sched_tenant *x = sched__tenant_of(sched, seq), *y = sched__tenant_of(sched, other);
    if (x != y) return x->served < y->served;
    return sched->home_rows[seq->prefix_key.home] < sched->home_rows[other->prefix_key.home];
}

/* Prompts in turn, the tenant least served first, and of a tenant the home with the fewest rows, so
 * that homes run their chunks together. */
static sequence *next_prompt(const scheduler *sched) {
    const list_link *list = &sched->want_prompt;
    sequence *best = first_of(list);
    if (sched->n_tenants == 1 && sched->n_homes == 1) return best;
    for (list_link *link = list->next; link != list; link = link->next) {
        sequence *seq = OWNER_OF(link, sequence, start_link);
        if (starts_before(sched, seq, best)) best = seq;
    }
    return best;
}

/* A tenant with half of a large pool leaves rows for the first chunk of another. */
static uint32_t kept_for_others(const scheduler *sched, const sequence *seq) {
    bool most = sched->n_tenants > 1 && sched__tenant_of(sched, seq)->n_rows >= sched->n_rows / 2;
    return most && sched->n_rows >= 4 * sched->chunk ? sched->chunk : 0;
}

/* Decoding first, then prompts in turn; prompts leave a row for each decoding sequence. A sequence
 * refused for wait_bound rounds is served before any other gets a row not kept for decoding. Every
 * row held comes back, and decoding holds no more than the rows kept for it meanwhile, so the wait
 * is bounded too. */
void sched__start_cohorts(scheduler *sched) {
    if (!start_overdue(sched)) {
        count_refused(sched);
        return;
    }
    while (sched->n_free_rows > 0 && !list_empty(&sched->want_decode))
        start_cohort(sched, first_of(&sched->want_decode));
    uint32_t keep =
        sched->rules.collapses ? kept_for_decoding(sched, sched->chunk) : decode_share(sched);
    for (sequence *seq; (seq = next_prompt(sched)) != NULL;) {
        uint32_t n = next_cohort_rows(sched, seq), kept = keep + kept_for_others(sched, seq);
        bool all_free = sched->n_free_rows == sched->n_rows;
        if (n > sched->n_free_rows || (n + kept > sched->n_free_rows && !all_free)) break;
        start_cohort(sched, seq);
    }
    count_refused(sched);
}

/* ---- after a launch ---- */

/* Every earlier cohort is in the coda, or through it. One that waits to draft and has halted in the
 * same launch is not yet: it is settled later. */
static bool coda_reaches(const cohort *coh) {
    const cohort *earlier = coh->before;
    if (earlier == NULL || earlier->coda_row == NONE) return true;
    return earlier->n_live == 0 && !list_empty(&earlier->stage_link) &&
           !sched__waits_to_draft(earlier);
}

/* Queues coh for the coda if all its rows halted and its turn has come, then the cohorts behind it
 * if they only waited for it. */
static void queue_coda(scheduler *sched, cohort *coh) {
    for (; coh; coh = coh->after) {
        if (coh->n_live > 0) return;
        if (coh->coda_row == NONE || !list_empty(&coh->stage_link)) continue;
        if (!coda_reaches(coh)) return;
        coh->awaits_mask = sched__lacks_mask(coh);
        list_insert_before(coh->awaits_mask ? &sched->to_mask : &sched->to_coda, &coh->stage_link);
        if (!coh->awaits_mask) sched->n_to_coda += coh->n_coda;
    }
}

/* Leaves the loop, or moves to the list of tails. */
static void change_list(scheduler *sched, cohort *coh) {
    if (!coh->looping) return;
    if (coh->n_live + coh->n_tail == 0) {
        list_remove(&coh->loop_link);
        coh->looping = false;
    } else if (coh->decode && coh->n_live == 0 && coh->list == LIST_DECODE) {
        coh->list = LIST_TAIL;
        list_move_back(&sched->looping[LIST_TAIL], &coh->loop_link);
    }
}

/* Positions before the first cohort in flight need nothing more from their sequence. */
static void offer_blocks(scheduler *sched, sequence *seq) {
    if (!sched->limits.opts.prefix_cache) return;
    uint32_t n_done = seq->first ? seq->first->first : seq->next_start;
    sched->epoch += sched__offer_prefix(sched__cache_of(sched, seq), seq, n_done);
}

/* Tokens known beforehand need no coda in between. */
static void want_next_timed(scheduler *sched, const cohort *coh) {
    sequence *seq = coh->owner;
    bool begins = coh->timed && coh == seq->last && coh->n_live == 0;
    if (begins && seq->next_start < seq->n_tokens && list_empty(&seq->start_link))
        sched__want_start(sched, seq);
}

void sched__settle_cohort(scheduler *sched, cohort *coh) {
    sequence *seq = coh->owner;
    change_list(sched, coh);
    if (coh->n_live == 0 && coh->raised_on_a_guess) sched__guess_failed(sched, coh);
    if (coh->n_live > 0 && !sched__loop_is_out(coh)) sched__raise_frontier(sched, coh);
    sched__offer_draft(sched, coh);
    if (sched__may_park(sched, coh)) sched__park(sched, coh);
    queue_coda(sched, coh);
    want_next_timed(sched, coh);
    sched__free_if_over(sched, coh);
    offer_blocks(sched, seq);
}
