/* report.c - right answers by steps and by loops, as a table and as JSON. */
#include "base/json.h"
#include "cli/compare/compare_internal.h"
#include "cli/describe.h"

#include <stdio.h>

typedef unsigned long long ull;

/* ---- for people ---- */

static void print_head(const ask_session *ask) {
    buf plan = {0};
    describe_runtime(&plan, ask->rt);
    printf("%s\n%zu questions of %s, the likeliest token each time\n\n", plan.data ? plan.data : "",
           ask->asked.n, ask->opts->questions);
    buf_deinit(&plan);
    printf("right answers, %%%s\n%-7s %6s %6s", ask->n_steps > 1 ? ", by steps asked" : "",
           "policy", "loops", "all");
    for (size_t i = 0; ask->n_steps > 1 && i < ask->n_steps; i++) {
        if (ask->steps[i]) printf(" %6u", ask->steps[i]);
        else printf(" %6s", "none");
    }
    printf("  mean loops\n");
}

static void print_run(const ask_session *ask, const ask_run *run) {
    char loops[16] = "own";
    if (run->max_loops) (void)snprintf(loops, sizeof loops, "%u", run->max_loops);
    printf("%-7s %6s %6.1f", kv_policy_name(run->policy), loops, ask_percent(&run->all));
    for (size_t i = 0; ask->n_steps > 1 && i < ask->n_steps; i++)
        printf(" %6.1f", ask_percent(&run->by_step[i]));
    printf("  %10.2f\n", ask_loops(&run->all));
    if (run->max_loops || ask->n_steps < 2) return;
    printf("%21s", "its loops");
    for (size_t i = 0; i < ask->n_steps; i++)
        printf(" %6.2f", ask_loops(&run->by_step[i]));
    printf("\n");
}

void ask_print_text(const ask_session *ask) {
    print_head(ask);
    for (size_t i = 0; i < ask->n_runs; i++) {
        if (i > 0 && ask->runs[i].policy != ask->runs[i - 1].policy) printf("\n");
        print_run(ask, &ask->runs[i]);
    }
}

/* ---- as JSON ---- */

static void json_sum(const ask_sum *sum) {
    printf("\"asked\":%llu,\"right\":%llu,\"mean_loops\":%.4f", (ull)sum->asked, (ull)sum->right,
           ask_loops(sum));
}

static void json_run(const ask_session *ask, const ask_run *run) {
    printf("{\"policy\":\"%s\",\"max_loops\":", kv_policy_name(run->policy));
    if (run->max_loops) printf("%u,", run->max_loops);
    else printf("null,");
    json_sum(&run->all);
    printf(",\"by_steps\":[");
    for (size_t i = 0; i < ask->n_steps; i++) {
        printf("%s{\"steps\":", i ? "," : "");
        if (ask->steps[i]) printf("%u,", ask->steps[i]);
        else printf("null,");
        json_sum(&run->by_step[i]);
        printf("}");
    }
    printf("]}");
}

void ask_print_json(const ask_session *ask) {
    buf text = {0};
    buf_json_text(&text, ask->opts->questions);
    buf_puts(&text, ",");
    describe_runtime_json(&text, ask->rt);
    printf("{\"file\":%s,\"questions\":%zu,\"default_loops\":%u,\"runs\":[\n",
           text.data ? text.data : "\"\"", ask->asked.n, ask->default_loops);
    buf_deinit(&text);
    for (size_t i = 0; i < ask->n_runs; i++) {
        if (i) printf(",\n");
        json_run(ask, &ask->runs[i]);
    }
    printf("\n]}\n");
}
