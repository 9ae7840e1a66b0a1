/* tenant.c - whose turn it is: places, launches and pages are shared between tenants.
 *
 * A tenant has its share by weight of what those here now hold together. Beyond it, it gets
 * what others leave; within it, another gives way.
 *
 *   places    The tenant with the fewest running sequences (by weight) is let in first. Where
 *             all places are taken, one under its share takes the newest of the tenant furthest
 *             over its own.
 *   launches  Each tenant is charged the time of its launches, its part of those it is in with
 *             others, and the time the host samples for it. Who is ahead of the least served that
 *             could run, by more than half a launch of its own, sits out. So a tenant has its share
 *             of time, and tenants of like demand go together.
 *   pages     Who needs pages within its share has them from the tenant furthest over its own.
 *
 * What a tenant held a moment ago (CLAIM_STEPS to twice as many steps) stays claimed, so that a
 * client who sends one request after another does not throw out somebody for each. Sharing never
 * takes the first sequence of a tenant, which therefore ends, and then another is its first.
 *
 * With one tenant none of this runs. */
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>

enum {
    CLAIM_STEPS = 64,
    ALONE_EVERY = 24, /* recurrent launches: one goes without the others, to learn its price */
    MOST_DEAR = 8,
    MOST_LAG = 8, /* full launches that a tenant can be behind others: what it can make up for */
};

#define EACH_ACTIVE(s, t) for (sched_tenant *t = first_active(s); t; t = next_active(s, t))

static sched_tenant *at_link(const scheduler *s, list_link *r) {
    return r == &s->active ? NULL : OWNER_OF(r, sched_tenant, active);
}
static sched_tenant *first_active(const scheduler *s) {
    return at_link(s, s->active.next);
}
static sched_tenant *next_active(const scheduler *s, const sched_tenant *t) {
    return at_link(s, t->active.next);
}
static bool is_contended(const scheduler *s) { /* more than one is here */
    return s->active.next != s->active.prev;
}

int sched__tenants_init(scheduler *s, err *e) {
    const sched_opts *o = &s->limits.opts;
    s->tenants = array_new(o->max_tenants, sizeof *s->tenants);
    if (s->tenants == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for tenants");
    s->n_tenants = o->max_tenants;
    for (uint32_t i = 0; i < s->n_tenants; i++) {
        uint32_t weight = o->weights ? o->weights[i] : 1;
        s->tenants[i] = (sched_tenant){.weight = weight, .dear = 1};
        list_init(&s->tenants[i].waiting);
        list_init(&s->tenants[i].active);
        if (weight < 1 || weight > SCHED_MAX_WEIGHT) {
            return err_set(e, ERR_BAD_PARAM, "weight", "%u is not from 1 to %d", weight,
                           SCHED_MAX_WEIGHT);
        }
    }
    return 0;
}

/* A level of priority is worth SCHED_AGE_ARRIVALS arrivals, so however many better ranked
 * requests come, those after that many stand behind who waits. */
int64_t sched__order(scheduler *s, const seq *q) {
    int64_t level = q->req.priority;
    if (level > SCHED_MAX_PRIORITY) level = SCHED_MAX_PRIORITY;
    if (level < -SCHED_MAX_PRIORITY) level = -SCHED_MAX_PRIORITY;
    int64_t age = s->fault == FAULT_NO_AGE ? INT64_C(1) << 40 : SCHED_AGE_ARRIVALS;
    return level * age + (int64_t)sched__tenant_of(s, q)->arrivals++;
}

/* ---- shares and claims ---- */

static uint64_t weights(const scheduler *s) { /* of all who are here */
    uint64_t sum = 0;
    EACH_ACTIVE(s, t) sum += t->weight;
    return sum;
}

static uint32_t share(const sched_tenant *t, uint32_t all, uint64_t sum) {
    uint64_t n = (uint64_t)all * t->weight / (sum ? sum : 1);
    return n < 1 ? 1 : n > all ? all : (uint32_t)n;
}

static uint32_t pages_used(const scheduler *s, const sched_tenant *t) {
    const cache_part *p = &s->cache.parts[t - s->tenants];
    return p->n_pages - p->n_cached_pages;
}

static uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* Of a claim, what is not held now; beyond its share a tenant claims nothing. */
static uint32_t unmet(const uint32_t claim[2], uint32_t held, uint32_t most) {
    uint32_t n = larger(claim[0], claim[1]);
    if (n > most) n = most;
    return n > held ? n - held : 0;
}

void sched__roll_claims(scheduler *s) {
    EACH_ACTIVE(s, t) {
        t->claim_places[0] = larger(t->claim_places[0], t->n_running);
        t->claim_pages[0] = larger(t->claim_pages[0], pages_used(s, t));
    }
    if (s->stats.steps / CLAIM_STEPS == s->window) return;
    s->window = s->stats.steps / CLAIM_STEPS;
    s->changes++; /* who lacked room may find it now */
    for (sched_tenant *t = first_active(s), *next; t; t = next) {
        next = next_active(s, t);
        t->claim_places[1] = t->claim_places[0];
        t->claim_pages[1] = t->claim_pages[0];
        t->claim_places[0] = t->n_running;
        t->claim_pages[0] = pages_used(s, t);
        uint32_t claims = t->claim_places[0] + t->claim_places[1];
        if (t->n_running + t->n_waiting + claims == 0) list_remove(&t->active);
    }
}

/* ---- places ---- */

static bool is_before(const scheduler *s, const sched_tenant *a, const sched_tenant *b) {
    if (s->fault == FAULT_BY_ARRIVAL) {
        return OWNER_OF(a->waiting.next, seq, rank)->arrival <
               OWNER_OF(b->waiting.next, seq, rank)->arrival;
    }
    uint64_t left = (uint64_t)a->n_running * b->weight, right = (uint64_t)b->n_running * a->weight;
    return left != right ? left < right : a->served < b->served;
}

sched_tenant *sched__next_tenant(const scheduler *s) {
    sched_tenant *best = NULL;
    EACH_ACTIVE(s, t) {
        if (t->passed || t->n_waiting == 0) continue;
        if (best == NULL || is_before(s, t, best)) best = t;
    }
    return best;
}

bool sched__may_place(const scheduler *s, const sched_tenant *t, sched_tenant **from) {
    *from = NULL;
    uint32_t all = s->limits.opts.max_running, left = all - s->n_running, claimed = 0;
    if (s->fault == FAULT_BY_ARRIVAL) return left > 0;
    uint64_t sum = weights(s);
    bool within = t->n_running < share(t, all, sum);
    EACH_ACTIVE(s, o) {
        uint32_t most = share(o, all, sum);
        if (o != t) claimed += unmet(o->claim_places, o->n_running, most);
        if (o->n_running < 2 || o->n_running <= most) continue;
        if (*from == NULL ||
            (uint64_t)o->n_running * (*from)->weight > (uint64_t)(*from)->n_running * o->weight) {
            *from = o;
        }
    }
    if (left > 0) {
        *from = NULL;
        return within || left > claimed;
    }
    if (!within) *from = NULL;
    return *from != NULL;
}

/* ---- pages ---- */

static bool pages_within(const scheduler *s, const sched_tenant *t, uint64_t wanted, uint64_t sum) {
    return pages_used(s, t) + wanted <= share(t, s->cache.n_pages, sum);
}

uint64_t sched__claimed_pages(const scheduler *s, const sched_tenant *t, uint64_t wanted) {
    uint64_t sum = weights(s), claimed = 0;
    if (pages_within(s, t, wanted, sum)) return 0;
    EACH_ACTIVE(s, o) {
        uint32_t most = share(o, s->cache.n_pages, sum);
        if (o != t) claimed += unmet(o->claim_pages, pages_used(s, o), most);
    }
    return claimed;
}

/* Of those with more than one running sequence. */
static sched_tenant *most_pages(const scheduler *s, uint64_t sum, bool beyond_share) {
    sched_tenant *best = NULL;
    uint64_t of_best = 0;
    EACH_ACTIVE(s, t) {
        uint64_t used = pages_used(s, t);
        if (t->n_running < 2) continue;
        if (beyond_share && used <= share(t, s->cache.n_pages, sum)) continue;
        if (best == NULL || used * best->weight > of_best * t->weight) best = t, of_best = used;
    }
    return best;
}

sched_tenant *sched__gives_pages(const scheduler *s, const sched_tenant *t, uint64_t wanted) {
    uint64_t sum = weights(s);
    if (s->fault == FAULT_BY_ARRIVAL || !pages_within(s, t, wanted, sum)) return NULL;
    return most_pages(s, sum, true);
}

sched_tenant *sched__most_pages(const scheduler *s) {
    return s->n_tenants > 1 ? most_pages(s, 0, false) : NULL;
}

/* ---- launches ---- */

/* What a launch with so many rows of t alone takes, by weight. Its rows may be dearer than others
 * (long contexts) or cheaper (prompts): t->dear says so, from recurrent launches it had alone. */
static double price(const scheduler *s, const sched_tenant *t, eng_stage stage, uint32_t rows) {
    const cost_fit *f = &s->cost[stage];
    double ns = f->n > 0 ? sched__cost_ns(f, rows) * t->dear : rows;
    return (ns > 1 ? ns : 1) / t->weight;
}

static void learn_price(const scheduler *s, sched_tenant *t, const flight *f, uint64_t ns) {
    if (f->stage != ENG_STAGE_RECURRENT) return;
    t->since_alone = 0;
    double usual = sched__cost_ns(&s->cost[f->stage], f->n_rows);
    if (usual <= 0) return;
    double dear = (double)ns / usual;
    if (dear > MOST_DEAR) dear = MOST_DEAR; /* one pause of the machine says little */
    if (dear < 1.0 / MOST_DEAR) dear = 1.0 / MOST_DEAR;
    t->dear += (dear - t->dear) / 4;
}

/* Who was away has no credit for it but two launches of the least served of those here: about what
 * it was behind them while it was here, since launches are long beside its own. What it used then
 * stays charged, so coming and going gains nothing. */
void sched__activate(scheduler *s, sched_tenant *t) {
    if (t->n_running + t->n_waiting > 0) return;
    double least = 0;
    bool first = true;
    EACH_ACTIVE(s, o) {
        if (o->n_running + o->n_waiting == 0) continue;
        uint32_t rows = o->n_rows < s->max_rows ? o->n_rows : s->max_rows;
        double from = o->served - 2 * price(s, o, ENG_STAGE_RECURRENT, rows);
        if (first || from < least) least = from;
        first = false;
    }
    if (!first && t->served < least) t->served = least;
    if (list_empty(&t->active)) list_insert_before(&s->active, &t->active);
}

static void pay(sched_tenant *t, double ns) {
    t->charged_ns += ns;
    t->served += ns / t->weight;
}

/* A launch of one tenant's rows is paid by that; one of several, in the ratio of what each would
 * have paid alone. */
void sched__charge(scheduler *s, const flight *f, uint64_t ns) {
    uint32_t here = 0;
    double sum = 0;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        const cohort *c = f->picks[f->who[i].pick];
        if (c && !f->who[i].left_out) sched__tenant_of(s, c->owner)->in_launch++;
    }
    EACH_ACTIVE(s, t) {
        if (t->in_launch == 0) continue;
        here++;
        sum += price(s, t, f->stage, t->in_launch) * t->weight;
    }
    EACH_ACTIVE(s, t) {
        uint32_t n = t->in_launch;
        t->in_launch = 0;
        if (n == 0) continue;
        t->rows += n;
        pay(t, (double)ns * price(s, t, f->stage, n) * t->weight / sum);
        t->since_alone += f->stage == ENG_STAGE_RECURRENT;
        if (here == 1 && n == f->n_rows) learn_price(s, t, f, ns);
    }
}

void sched__charge_host(scheduler *s, const seq *q, uint64_t ns) {
    if (s->n_tenants == 1 || s->free_host) return;
    pay(sched__tenant_of(s, q), (double)ns);
}

static void count_ready(scheduler *s) {
    EACH_ACTIVE(s, t) {
        t->ready = t->n_live = t->n_looping = 0;
        t->may_run = t->held = false;
    }
    for (int i = 0; i < N_LISTS; i++) {
        for (const list_link *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
            const cohort *c = OWNER_OF((uintptr_t)r, cohort, loop);
            readiness may = sched__readiness(s, c);
            sched_tenant *t = sched__tenant_of(s, c->owner);
            if (may != MUST_WAIT) t->ready += c->n_live + c->n_tail;
            t->n_live += c->n_live;
            t->n_looping += c->n_live + c->n_tail;
            t->may_run |= may == MAY_RUN;
        }
    }
}

void sched__hold_tenants(scheduler *s) {
    count_ready(s);
    s->held_live = s->held_looping = 0;
    if (!is_contended(s) || s->fault == FAULT_BY_ARRIVAL) return;
    double most = 0, least = -1;
    EACH_ACTIVE(s, t) if (t->may_run && t->served > most) most = t->served;
    EACH_ACTIVE(s, t) {
        if (!t->may_run) continue;
        double floor = most - MOST_LAG * price(s, t, ENG_STAGE_RECURRENT, s->max_rows);
        if (t->served < floor) t->served = floor;
        if (least < 0 || t->served < least) least = t->served;
    }
    const sched_tenant *alone = NULL; /* the least served of those whose price is old */
    EACH_ACTIVE(s, t) {
        bool old = t->may_run && t->since_alone >= ALONE_EVERY;
        if (old && (alone == NULL || t->served < alone->served)) alone = t;
    }
    EACH_ACTIVE(s, t) {
        uint32_t rows = t->ready < s->max_rows ? t->ready : s->max_rows;
        double ahead = t->served - least;
        t->held = t->may_run && ahead > price(s, t, ENG_STAGE_RECURRENT, rows) / 2;
        if (alone) t->held = t != alone;
        if (t->held) s->held_live += t->n_live, s->held_looping += t->n_looping;
    }
}

bool sched__flush_is_waited_for(scheduler *s) {
    if (!is_contended(s)) return false;
    EACH_ACTIVE(s, t) t->may_run = false;
    for (int i = 0; i < N_LISTS; i++) {
        for (const list_link *r = s->looping[i].next; r != &s->looping[i]; r = r->next) {
            const cohort *c = OWNER_OF((uintptr_t)r, cohort, loop);
            sched_tenant *t = sched__tenant_of(s, c->owner);
            if (c->n_live > 0 && !t->held) t->may_run = true;
        }
    }
    const list_link *const lists[] = {&s->to_coda, &s->to_prelude};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (const list_link *r = lists[i]->next; r != lists[i]; r = r->next) {
            const cohort *c = OWNER_OF((uintptr_t)r, cohort, stage);
            if (!sched__tenant_of(s, c->owner)->may_run) return true;
        }
    }
    return false;
}
