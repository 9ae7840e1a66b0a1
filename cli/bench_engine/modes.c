/* modes.c - the modes to run, each with drafts and without. */
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdlib.h>
#include <string.h>

enum { N_MODES = 6, MOST_DRAFTS = 8, ITEM = 40 };

static const be_mode all_modes[N_MODES] = {
    {"full", "exact", SCHED_FULL, KV_EXACT, 0, 0, false},
    {"lockstep", "exact", SCHED_LOCKSTEP, KV_EXACT, 0, 0, false},
    {"lockstep", "last", SCHED_LOCKSTEP, KV_LAST, 0, 0, false},
    {"depthwise", "exact", SCHED_DEPTHWISE, KV_EXACT, 0, 0, false},
    {"depthwise", "last", SCHED_DEPTHWISE, KV_LAST, 0, 0, false},
    {"depthwise", "collapse", SCHED_DEPTHWISE, KV_COLLAPSE, 0, 0, false},
};

const char *be_mode_name(char out[BE_NAME], const be_mode *mode) {
    char drafts[16] = "";
    if (mode->drafts == SCHED_DRAFTS_AUTO) (void)snprintf(drafts, sizeof drafts, " auto");
    else if (mode->drafts) (void)snprintf(drafts, sizeof drafts, " %u", mode->drafts);
    (void)snprintf(out, BE_NAME, "%s %s%s", mode->mode, mode->policy, drafts);
    return out;
}

static bool listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        if (*at == ',') at++;
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0)) return true;
    }
    return false;
}

static bool wanted(const char *list, const be_mode *mode) {
    char both[ITEM];
    (void)snprintf(both, sizeof both, "%s/%s", mode->mode, mode->policy);
    if (mode->batching == SCHED_FULL || listed(list, both)) return true;
    return mode->halted_kv != KV_COLLAPSE && (list == NULL || listed(list, mode->mode));
}

/* "off", "auto" or a number up to SCHED_MAX_DRAFTS. */
static bool read_drafts(const char *item, size_t len, uint32_t *out) {
    char text[8], *end;
    if (len == 0 || len >= sizeof text) return false;
    memcpy(text, item, len);
    text[len] = 0;
    if (strcmp(text, "off") == 0) *out = 0;
    else if (strcmp(text, "auto") == 0) *out = SCHED_DRAFTS_AUTO;
    else {
        unsigned long n = strtoul(text, &end, 10);
        if (text[0] < '1' || text[0] > '9' || *end || n > SCHED_MAX_DRAFTS) return false;
        *out = (uint32_t)n;
    }
    return true;
}

static int parse_drafts(const char *list, uint32_t out[MOST_DRAFTS], size_t *n, err *e) {
    *n = 0;
    for (const char *at = list; at; at = strchr(at, ',')) {
        if (*at == ',') at++;
        if (*n < MOST_DRAFTS && read_drafts(at, strcspn(at, ","), &out[*n])) {
            (*n)++;
            continue;
        }
        return err_set(e, ERR_USAGE, "--speculate",
                       "--speculate '%s': give up to %d of off, auto and numbers from 1 to %d",
                       list, MOST_DRAFTS, SCHED_MAX_DRAFTS);
    }
    return 0;
}

int be_modes_parse(be_mode out[BE_MOST_MODES], size_t *n, const char *modes, const char *speculate,
                   uint32_t draft_loops, err *e) {
    uint32_t drafts[MOST_DRAFTS];
    size_t n_drafts;
    bool one = modes == NULL || listed(modes, "full");
    *n = 0;
    if (parse_drafts(speculate ? speculate : "off", drafts, &n_drafts, e) != 0) return -1;
    for (size_t i = 0; i < N_MODES; i++) {
        const be_mode *mode = &all_modes[i];
        bool never = mode->batching != SCHED_DEPTHWISE || mode->halted_kv == KV_COLLAPSE;
        if (!wanted(modes, mode)) continue;
        one = one || i > 0;
        for (size_t k = 0; k < (never ? 1 : n_drafts); k++) {
            be_mode *to = &out[(*n)++];
            *to = *mode;
            to->tells_drafts = speculate != NULL;
            if (never || drafts[k] == 0) continue;
            to->drafts = drafts[k];
            to->draft_loops = draft_loops;
        }
    }
    if (one) return 0;
    return err_set(e, ERR_USAGE, "--modes", "'%s' names none of full, lockstep, depthwise", modes);
}
