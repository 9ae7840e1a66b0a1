/* tenant.c - places, launches and pages are shared between tenants.
 *
 * A tenant's share is its weight over the weights of all active tenants. Beyond its share it gets
 * what others leave. Within its share another tenant gives way.
 *
 *   places    The tenant with the fewest running sequences (by weight) is admitted first. Where
 *             all places are taken, a tenant under its share takes the newest place of the tenant
 *             furthest over its own.
 *   launches  Each tenant is charged for the time of its launches, for its part of launches with
 *             others, and for the time the host samples for it. A tenant ahead of the least served
 *             one that could run, by more than half a launch of its own, sits out. So each tenant
 *             has its share of time, and tenants of like demand run together.
 *   pages     A tenant within its share gets pages from the tenant furthest over its own. Shares
 *             are of the pages of all homes together; pages are taken at one home.
 *
 * What a tenant held a moment ago (CLAIM_STEPS to twice as many steps) stays claimed, so a client
 * that sends one request after another does not preempt a sequence for each. Sharing never takes
 * the first sequence of a tenant, which therefore ends, and then another is its first.
 *
 * With one tenant none of this runs. */
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>

enum {
    CLAIM_STEPS = 64,
    ALONE_EVERY = 24, /* recurrent launches: one runs a tenant alone, to learn its price */
    MOST_DEAR = 8,
    MOST_LAG = 8, /* full launches: a tenant may make up for this much lag */
};

#define EACH_ACTIVE(sched, tenant)                                                                 \
    for (sched_tenant *tenant = first_active(sched); tenant; tenant = next_active(sched, tenant))

static sched_tenant *at_link(const scheduler *sched, list_link *link) {
    return link == &sched->active ? NULL : OWNER_OF(link, sched_tenant, active_link);
}
static sched_tenant *first_active(const scheduler *sched) {
    return at_link(sched, sched->active.next);
}
static sched_tenant *next_active(const scheduler *sched, const sched_tenant *tenant) {
    return at_link(sched, tenant->active_link.next);
}
static bool is_contended(const scheduler *sched) { /* more than one is active */
    return sched->active.next != sched->active.prev;
}

int sched__tenants_init(scheduler *sched, err *e) {
    const sched_opts *opts = &sched->limits.opts;
    sched->tenants = array_new(opts->max_tenants, sizeof *sched->tenants);
    if (sched->tenants == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for tenants");
    }
    sched->n_tenants = opts->max_tenants;
    for (uint32_t i = 0; i < sched->n_tenants; i++) {
        sched_tenant *tenant = &sched->tenants[i];
        uint32_t weight = opts->weights ? opts->weights[i] : 1;
        *tenant = (sched_tenant){.weight = weight, .price_factor = 1};
        list_init(&tenant->waiting);
        list_init(&tenant->active_link);
        if (weight < 1 || weight > SCHED_MAX_WEIGHT) {
            return err_set(e, ERR_BAD_PARAM, "weight", "%u is not from 1 to %d", weight,
                           SCHED_MAX_WEIGHT);
        }
    }
    return 0;
}

/* A level of priority is worth SCHED_AGE_ARRIVALS arrivals. So a waiting request is passed only by
 * a bounded number of better ranked ones. */
int64_t sched__order(scheduler *sched, const sequence *seq) {
    int64_t level = seq->req.priority;
    if (level > SCHED_MAX_PRIORITY) level = SCHED_MAX_PRIORITY;
    if (level < -SCHED_MAX_PRIORITY) level = -SCHED_MAX_PRIORITY;
    return level * SCHED_AGE_ARRIVALS + (int64_t)sched__tenant_of(sched, seq)->arrivals++;
}

/* ---- shares and claims ---- */

static uint64_t sum_of_weights(const scheduler *sched) { /* of all active tenants */
    uint64_t sum = 0;
    EACH_ACTIVE(sched, tenant) sum += tenant->weight;
    return sum;
}

static uint64_t share(const sched_tenant *tenant, uint64_t all, uint64_t sum) {
    uint64_t n = all * tenant->weight / (sum ? sum : 1);
    return n < 1 ? 1 : n > all ? all : n;
}

static uint64_t all_pages(const scheduler *sched) { /* of all homes */
    return (uint64_t)sched->limits.n_pages * sched->n_homes;
}

static uint32_t pages_at(const scheduler *sched, const sched_tenant *tenant, uint32_t home) {
    const cache_part *part = &sched->caches[home].parts[tenant - sched->tenants];
    return part->n_pages - part->n_cached_pages;
}

static uint64_t pages_used(const scheduler *sched, const sched_tenant *tenant) {
    uint64_t n = 0;
    for (uint32_t home = 0; home < sched->n_homes; home++)
        n += pages_at(sched, tenant, home);
    return n;
}

static uint64_t larger(uint64_t x, uint64_t y) {
    return x > y ? x : y;
}

/* The part of a claim not held now. Beyond its share a tenant claims nothing. */
static uint64_t unmet(const uint64_t claim[2], uint64_t held, uint64_t most) {
    uint64_t n = larger(claim[0], claim[1]);
    if (n > most) n = most;
    return n > held ? n - held : 0;
}

void sched__roll_claims(scheduler *sched) {
    EACH_ACTIVE(sched, tenant) {
        tenant->claim_places[0] = larger(tenant->claim_places[0], tenant->n_running);
        tenant->claim_pages[0] = larger(tenant->claim_pages[0], pages_used(sched, tenant));
    }
    if (sched->stats.steps / CLAIM_STEPS == sched->window) return;
    sched->window = sched->stats.steps / CLAIM_STEPS;
    sched->epoch++; /* room may have come free */
    for (sched_tenant *tenant = first_active(sched), *next; tenant; tenant = next) {
        next = next_active(sched, tenant);
        tenant->claim_places[1] = tenant->claim_places[0];
        tenant->claim_pages[1] = tenant->claim_pages[0];
        tenant->claim_places[0] = tenant->n_running;
        tenant->claim_pages[0] = pages_used(sched, tenant);
        uint64_t claims = tenant->claim_places[0] + tenant->claim_places[1];
        if (tenant->n_running + tenant->n_waiting + claims == 0) list_remove(&tenant->active_link);
    }
}

/* ---- places ---- */

static bool is_before(const sched_tenant *x, const sched_tenant *y) {
    uint64_t left = (uint64_t)x->n_running * y->weight;
    uint64_t right = (uint64_t)y->n_running * x->weight;
    return left != right ? left < right : x->served < y->served;
}

sched_tenant *sched__next_tenant(const scheduler *sched) {
    sched_tenant *best = NULL;
    EACH_ACTIVE(sched, tenant) {
        if (tenant->refused || tenant->n_waiting == 0) continue;
        if (best == NULL || is_before(tenant, best)) best = tenant;
    }
    return best;
}

/* x holds more places by its weight than y. */
static bool holds_more(const sched_tenant *x, const sched_tenant *y) {
    return (uint64_t)x->n_running * y->weight > (uint64_t)y->n_running * x->weight;
}

bool sched__may_place(const scheduler *sched, const sched_tenant *tenant, sched_tenant **from) {
    *from = NULL;
    uint32_t all = sched->limits.opts.max_running, left = all - sched->n_running;
    uint64_t sum = sum_of_weights(sched), claimed = 0;
    bool within = tenant->n_running < share(tenant, all, sum);
    EACH_ACTIVE(sched, other) {
        uint64_t most = share(other, all, sum);
        if (other != tenant) claimed += unmet(other->claim_places, other->n_running, most);
        if (other->n_running < 2 || other->n_running <= most) continue;
        if (*from == NULL || holds_more(other, *from)) *from = other;
    }
    if (left > 0) {
        *from = NULL;
        return within || left > claimed;
    }
    if (!within) *from = NULL;
    return *from != NULL;
}

/* ---- pages ---- */

static bool pages_within(const scheduler *sched, const sched_tenant *tenant, uint64_t wanted,
                         uint64_t sum) {
    return pages_used(sched, tenant) + wanted <= share(tenant, all_pages(sched), sum);
}

uint64_t sched__claimed_pages(const scheduler *sched, const sched_tenant *tenant, uint64_t wanted) {
    uint64_t sum = sum_of_weights(sched), claimed = 0;
    if (pages_within(sched, tenant, wanted, sum)) return 0;
    EACH_ACTIVE(sched, other) {
        uint64_t most = share(other, all_pages(sched), sum);
        if (other != tenant) claimed += unmet(other->claim_pages, pages_used(sched, other), most);
    }
    return (claimed + sched->n_homes - 1) / sched->n_homes; /* they may be wanted at any home */
}

/* Counts the sequences of each tenant at a home that may give way: of `sharing`, all but the first
 * in rank of the tenant; otherwise, all but its first at this home. */
static void count_may_give(const scheduler *sched, uint32_t home, bool sharing) {
    EACH_ACTIVE(sched, tenant) tenant->n_seen = tenant->may_give = 0;
    for (const list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        sched_tenant *tenant = sched__tenant_of(sched, seq);
        bool here = seq->prefix_key.home == home;
        if (here && tenant->n_seen > 0) tenant->may_give++;
        if (here || sharing) tenant->n_seen++;
    }
}

/* Among tenants with a sequence at this home that may give way. */
static sched_tenant *most_pages(const scheduler *sched, uint32_t home, uint64_t sum, bool sharing) {
    sched_tenant *best = NULL;
    uint64_t of_best = 0;
    count_may_give(sched, home, sharing);
    EACH_ACTIVE(sched, tenant) {
        uint64_t used = pages_at(sched, tenant, home);
        if (tenant->may_give == 0) continue;
        if (sharing && pages_used(sched, tenant) <= share(tenant, all_pages(sched), sum)) continue;
        if (best && used * best->weight <= of_best * tenant->weight) continue;
        best = tenant;
        of_best = used;
    }
    return best;
}

sched_tenant *sched__gives_pages(const scheduler *sched, const sched_tenant *tenant, uint32_t home,
                                 uint64_t wanted) {
    uint64_t sum = sum_of_weights(sched);
    if (!pages_within(sched, tenant, wanted, sum)) return NULL;
    return most_pages(sched, home, sum, true);
}

sched_tenant *sched__most_pages(const scheduler *sched, uint32_t home) {
    return sched->n_tenants > 1 ? most_pages(sched, home, 0, false) : NULL;
}

/* ---- launches ---- */

/* Time, by weight, of a launch of n_rows rows of this tenant alone. Its rows may be dearer than
 * others (long contexts) or cheaper (prompts): price_factor says so, learnt from recurrent launches
 * of this tenant alone. */
static double price(const scheduler *sched, const sched_tenant *tenant, eng_stage stage,
                    uint32_t n_rows) {
    const cost_fit *fit = &sched->cost.stage[stage];
    double ns = fit->weight > 0 ? sched__fit_ns(fit, n_rows) * tenant->price_factor : n_rows;
    return (ns > 1 ? ns : 1) / tenant->weight;
}

static void learn_price(const scheduler *sched, sched_tenant *tenant, const flight *done,
                        uint64_t ns) {
    if (done->stage != ENG_STAGE_RECURRENT) return;
    tenant->since_alone = 0;
    double usual = sched__fit_ns(&sched->cost.stage[done->stage], done->n_rows);
    if (usual <= 0) return;
    double factor = (double)ns / usual;
    if (factor > MOST_DEAR) factor = MOST_DEAR; /* one pause of the machine says little */
    if (factor < 1.0 / MOST_DEAR) factor = 1.0 / MOST_DEAR;
    tenant->price_factor += (factor - tenant->price_factor) / 4;
}

/* A returning tenant has no credit for its absence except two launches of the least served active
 * tenant: about its lag while it was active, since launches are long beside its own work. Its
 * earlier use stays charged, so coming and going gains nothing. */
void sched__activate(scheduler *sched, sched_tenant *tenant) {
    if (tenant->n_running + tenant->n_waiting > 0) return;
    double least = 0;
    bool first = true;
    EACH_ACTIVE(sched, other) {
        if (other->n_running + other->n_waiting == 0) continue;
        uint32_t n_rows = other->n_rows < sched->max_rows ? other->n_rows : sched->max_rows;
        double from = other->served - 2 * price(sched, other, ENG_STAGE_RECURRENT, n_rows);
        if (first || from < least) least = from;
        first = false;
    }
    if (!first && tenant->served < least) tenant->served = least;
    if (list_empty(&tenant->active_link)) {
        list_insert_before(&sched->active, &tenant->active_link);
    }
}

static void pay(sched_tenant *tenant, double ns) {
    tenant->charged_ns += ns;
    tenant->served += ns / tenant->weight;
}

/* A launch of one tenant's rows is paid by this tenant; a shared launch, in the ratio of the prices
 * of each part alone. */
void sched__charge(scheduler *sched, const flight *done, uint64_t ns) {
    uint32_t n_here = 0;
    double sum = 0;
    for (uint32_t i = 0; i < done->n_rows; i++) {
        const cohort *coh = done->origins[i].pick->cohort;
        if (coh && !done->origins[i].left_out) sched__tenant_of(sched, coh->owner)->in_launch++;
    }
    EACH_ACTIVE(sched, tenant) {
        if (tenant->in_launch == 0) continue;
        n_here++;
        sum += price(sched, tenant, done->stage, tenant->in_launch) * tenant->weight;
    }
    EACH_ACTIVE(sched, tenant) {
        uint32_t n = tenant->in_launch;
        tenant->in_launch = 0;
        if (n == 0) continue;
        tenant->rows += n;
        pay(tenant, (double)ns * price(sched, tenant, done->stage, n) * tenant->weight / sum);
        tenant->since_alone += done->stage == ENG_STAGE_RECURRENT;
        if (n_here == 1 && n == done->n_rows) learn_price(sched, tenant, done, ns);
    }
}

void sched__charge_host(scheduler *sched, const sequence *seq, uint64_t ns) {
    if (sched->n_tenants == 1 || sched->host_is_free) return;
    pay(sched__tenant_of(sched, seq), (double)ns);
}

static void count_ready(scheduler *sched) {
    EACH_ACTIVE(sched, tenant) {
        tenant->ready = tenant->n_live = tenant->n_looping = 0;
        tenant->may_run = tenant->sits_out = false;
    }
    for (int i = 0; i < N_LISTS; i++) {
        const list_link *list = &sched->looping[i];
        for (const list_link *link = list->next; link != list; link = link->next) {
            const cohort *coh = OWNER_OF((uintptr_t)link, cohort, loop_link);
            readiness ready = sched__readiness(coh);
            sched_tenant *tenant = sched__tenant_of(sched, coh->owner);
            if (ready != MUST_WAIT) tenant->ready += coh->n_live + coh->n_tail;
            tenant->n_live += coh->n_live;
            tenant->n_looping += coh->n_live + coh->n_tail;
            tenant->may_run |= ready == MAY_RUN;
        }
    }
}

/* Raises `served` of tenants lagging too far behind the most served one. Returns the least. */
static double bound_lag(scheduler *sched) {
    double most = 0, least = -1;
    EACH_ACTIVE(sched, tenant) {
        if (tenant->may_run && tenant->served > most) most = tenant->served;
    }
    EACH_ACTIVE(sched, tenant) {
        if (!tenant->may_run) continue;
        double floor = most - MOST_LAG * price(sched, tenant, ENG_STAGE_RECURRENT, sched->max_rows);
        if (tenant->served < floor) tenant->served = floor;
        if (least < 0 || tenant->served < least) least = tenant->served;
    }
    return least;
}

/* The least served tenant with an old price, or NULL. */
static const sched_tenant *due_alone(const scheduler *sched) {
    const sched_tenant *alone = NULL;
    EACH_ACTIVE(sched, tenant) {
        bool old = tenant->may_run && tenant->since_alone >= ALONE_EVERY;
        if (old && (alone == NULL || tenant->served < alone->served)) alone = tenant;
    }
    return alone;
}

void sched__seat_tenants(scheduler *sched) {
    count_ready(sched);
    sched->live_sitting_out = sched->rows_sitting_out = 0;
    if (!is_contended(sched)) return;
    double least = bound_lag(sched);
    const sched_tenant *alone = due_alone(sched);
    EACH_ACTIVE(sched, tenant) {
        uint32_t n_rows = tenant->ready < sched->max_rows ? tenant->ready : sched->max_rows;
        double ahead = tenant->served - least;
        double half = price(sched, tenant, ENG_STAGE_RECURRENT, n_rows) / 2;
        tenant->sits_out = alone ? tenant != alone : tenant->may_run && ahead > half;
        if (!tenant->sits_out) continue;
        sched->live_sitting_out += tenant->n_live;
        sched->rows_sitting_out += tenant->n_looping;
    }
}

/* Whether list holds rows of a tenant without rows to run. */
static bool waits_for_flush(const scheduler *sched, const list_link *list) {
    for (const list_link *link = list->next; link != list; link = link->next) {
        const cohort *coh = OWNER_OF((uintptr_t)link, cohort, stage_link);
        if (!sched__tenant_of(sched, coh->owner)->may_run) return true;
    }
    return false;
}

bool sched__flush_is_waited_for(scheduler *sched) {
    if (!is_contended(sched)) return false;
    EACH_ACTIVE(sched, tenant) tenant->may_run = false;
    for (int i = 0; i < N_LISTS; i++) {
        const list_link *list = &sched->looping[i];
        for (const list_link *link = list->next; link != list; link = link->next) {
            const cohort *coh = OWNER_OF((uintptr_t)link, cohort, loop_link);
            sched_tenant *tenant = sched__tenant_of(sched, coh->owner);
            if (coh->n_live > 0 && !tenant->sits_out) tenant->may_run = true;
        }
    }
    return waits_for_flush(sched, &sched->to_coda) || waits_for_flush(sched, &sched->to_prelude);
}
