/* ask.c - asks the questions under each policy and limit of loops, and counts right answers. */
#include "base/progress.h"
#include "base/size.h"
#include "cli/compare/compare_internal.h"
#include "cli/numbers.h"
#include "engine/backend.h"

#include <stdlib.h>
#include <string.h>

enum { MORE_TOKENS = 4 }; /* tokens beyond the answer's: the model may spell it with more */

/* One question being answered. */
typedef struct {
    uint32_t *ids; /* [most] */
    uint32_t n, most;
    double loops; /* of the first n_answer tokens */
} reply;

typedef struct {
    const ask_session *ask;
    reply *replies; /* [n], by id - first */
    uint64_t first;
    size_t n_ended;
    bool failed;
} asking;

double ask_percent(const ask_sum *sum) {
    return sum->asked ? 100.0 * (double)sum->right / (double)sum->asked : 0;
}

double ask_loops(const ask_sum *sum) {
    return sum->answered ? sum->loops / (double)sum->answered : 0;
}

/* ---- one run ---- */

static void on_event(void *ud, const sched_event *ev) {
    asking *now = ud;
    size_t at = (size_t)(ev->id - now->first);
    reply *to = &now->replies[at];
    if (ev->kind == SCHED_END) {
        now->n_ended++;
        now->failed = now->failed || ev->finish == SCHED_FAILED;
    } else if (ev->kind == SCHED_TOKEN && to->n < to->most) {
        if (to->n < now->ask->asked.rows[at].n_answer) to->loops += ev->depth;
        to->ids[to->n++] = ev->token;
    }
}

static int submit_all(asking *now, scheduler *sched, const ask_run *run, err *e) {
    const questions *asked = &now->ask->asked;
    uint32_t context = model_plan_of(now->ask->rt->model)->max_seq_len;
    for (size_t i = 0; i < asked->n; i++) {
        const question *row = &asked->rows[i];
        uint32_t room = context - row->n_ids, most = row->n_answer + MORE_TOKENS;
        reply *to = &now->replies[i];
        to->most = most < room ? most : room;
        to->ids = array_new(to->most, sizeof *to->ids);
        if (to->ids == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for answers");
        sched_request request = {.prompt = row->ids,
                                 .n_prompt = row->n_ids,
                                 .max_tokens = to->most,
                                 .stop_ids = asked->stop_ids,
                                 .n_stop_ids = asked->n_stop_ids,
                                 .depth = {.max_loops = (uint16_t)run->max_loops}};
        request.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        uint64_t id;
        if (sched_submit(sched, &request, &id, e) != 0) return -1;
        if (i == 0) now->first = id;
    }
    return 0;
}

static int answer_all(asking *now, scheduler *sched, err *e) {
    progress bar;
    int rc = 0;
    progress_start(&bar, "asking", "questions", now->ask->asked.n);
    for (bool idle = false; !idle && rc == 0;) {
        rc = sched_step(sched, &idle, e);
        progress_set(&bar, now->n_ended);
    }
    progress_stop(&bar);
    if (rc != 0 || !now->failed) return rc;
    return err_set(e, ERR_NUMERIC, NULL, "the model produced a value that is not a number");
}

static void add(ask_sum *sum, bool right, double loops) {
    sum->asked++;
    sum->right += right;
    sum->answered += loops > 0;
    sum->loops += loops;
}

static int judge_all(const asking *now, ask_run *run, err *e) {
    const ask_session *ask = now->ask;
    for (size_t i = 0; i < ask->asked.n; i++) {
        const question *row = &ask->asked.rows[i];
        const reply *got = &now->replies[i];
        answer_state state;
        if (question_judge_tokens(row, ask->rt->tokenizer, got->ids, got->n, true, &state, e) != 0)
            return -1;
        uint32_t n = got->n < row->n_answer ? got->n : row->n_answer;
        double loops = n ? got->loops / n : 0;
        size_t step = 0;
        while (ask->steps[step] != row->steps)
            step++;
        add(&run->all, state == ANSWER_RIGHT, loops);
        add(&run->by_step[step], state == ANSWER_RIGHT, loops);
    }
    return 0;
}

static int ask_once(const ask_session *ask, ask_run *run, err *e) {
    asking now = {.ask = ask, .first = 1};
    sched_opts limits = ask->rt->sched;
    limits.halted_kv = run->policy;
    limits.batching = SCHED_DEPTHWISE;
    limits.max_queue = (uint32_t)ask->asked.n;
    limits.max_queue_tokens = UINT64_MAX;
    limits.prefix_cache = false;
    scheduler *sched = NULL;
    now.replies = array_new(ask->asked.n, sizeof *now.replies);
    int rc = now.replies ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for answers");
    if (rc == 0) rc = sched_create(&sched, ask->rt->backend, &limits, on_event, &now, e);
    if (rc == 0) rc = submit_all(&now, sched, run, e);
    if (rc == 0) rc = answer_all(&now, sched, e);
    if (rc == 0) rc = judge_all(&now, run, e);
    sched_destroy(sched);
    for (size_t i = 0; now.replies && i < ask->asked.n; i++)
        free(now.replies[i].ids);
    free(now.replies);
    return rc;
}

/* ---- what to ask ---- */

static int by_number(const void *x, const void *y) {
    uint32_t left = *(const uint32_t *)x, right = *(const uint32_t *)y;
    return (left > right) - (left < right);
}

static int find_steps(ask_session *ask, err *e) {
    for (size_t i = 0; i < ask->asked.n; i++) {
        const question *row = &ask->asked.rows[i];
        size_t at = 0;
        if (row->answer == NULL)
            return err_set(e, ERR_USAGE, "--questions",
                           "--questions: line %u of %s has no \"answer\"", row->line,
                           ask->opts->questions);
        while (at < ask->n_steps && ask->steps[at] != row->steps)
            at++;
        if (at < ask->n_steps) continue;
        if (ask->n_steps == ASK_MAX_STEPS)
            return err_set(e, ERR_USAGE, "--questions",
                           "--questions: %s has more than %d different numbers of steps",
                           ask->opts->questions, ASK_MAX_STEPS);
        ask->steps[ask->n_steps++] = row->steps;
    }
    qsort(ask->steps, ask->n_steps, sizeof *ask->steps, by_number);
    return 0;
}

/* Without --at-loops: every number of loops, or powers of two if there are many. */
static int find_loops(const ask_session *ask, uint32_t loops[ASK_MAX_LOOPS], size_t *n, err *e) {
    const model_plan *plan = model_plan_of(ask->rt->model);
    const char *given = ask->opts->loops;
    *n = 0;
    if (given) {
        if (numbers_read("--at-loops", given, ask->rt->sched.ceiling_loops, loops, ASK_MAX_LOOPS, n,
                         e) != 0)
            return -1;
        qsort(loops, *n, sizeof *loops, by_number);
        for (size_t i = 0; i < *n; i++) {
            if (plan_check_loops(plan, loops[i], "--at-loops", e) != 0) return -1;
        }
        return 0;
    }
    bool many = ask->default_loops > 16;
    for (uint32_t at = 1; at <= ask->default_loops; at = many ? 2 * at : at + 1) {
        if (at >= plan_loops_least(plan)) loops[(*n)++] = at;
    }
    return 0;
}

static int plan_runs(ask_session *ask, err *e) {
    static const kv_policy policies[] = {KV_EXACT, KV_LAST};
    uint32_t loops[ASK_MAX_LOOPS], usual = ask->rt->sched.default_max_loops;
    size_t n;
    ask->default_loops = usual ? usual : model_plan_of(ask->rt->model)->loops_default;
    if (find_steps(ask, e) != 0 || find_loops(ask, loops, &n, e) != 0) return -1;
    ask->runs = array_new(ARRAY_LEN(policies) * (n + 1), sizeof *ask->runs);
    if (ask->runs == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the results");
    for (size_t policy = 0; policy < ARRAY_LEN(policies); policy++) {
        for (size_t i = 0; i <= n; i++) {
            ask->runs[ask->n_runs++] =
                (ask_run){.policy = policies[policy], .max_loops = i < n ? loops[i] : 0};
        }
    }
    return 0;
}

static int run_all(ask_session *ask, err *e) {
    for (size_t i = 0; i < ask->n_runs; i++) {
        ask_run *run = &ask->runs[i];
        char limit[40] = "the model's own depth";
        if (run->max_loops)
            (void)snprintf(limit, sizeof limit, "at most %u loop%s", run->max_loops,
                           run->max_loops == 1 ? "" : "s");
        if (ask_once(ask, run, e) != 0) return -1;
        fprintf(stderr, "fathom compare: run %zu of %zu, policy %s, %s: %llu of %llu right\n",
                i + 1, ask->n_runs, kv_policy_name(run->policy), limit,
                (unsigned long long)run->all.right, (unsigned long long)run->all.asked);
    }
    return 0;
}

int ask_compare(const runtime *rt, const ask_opts *opts, err *e) {
    ask_session ask = {.rt = rt, .opts = opts};
    int rc = questions_read(&ask.asked, rt, "--questions", opts->questions, e);
    if (rc == 0) rc = plan_runs(&ask, e);
    if (rc == 0) rc = run_all(&ask, e);
    if (rc == 0) (opts->json ? ask_print_json : ask_print_text)(&ask);
    if (rc == 0 && opts->plot) rc = ask_draw(&ask, e);
    free(ask.runs);
    questions_deinit(&ask.asked);
    return rc;
}
