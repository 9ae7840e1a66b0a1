/* The metrics page, from figures of the scheduler. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(srv_metrics, .fini = fail_on_leaks);

#define LABELS "model_name=\"demo\",engine=\"0\""

Test(srv_metrics, each_figure_of_speculation_has_its_own_line) {
    static const char *const lines[] = {
        "\nvllm:spec_decode_num_drafts_total{" LABELS "} 1\n",
        "\nvllm:spec_decode_num_draft_tokens_total{" LABELS "} 2\n",
        "\nvllm:spec_decode_num_accepted_tokens_total{" LABELS "} 3\n",
        "\nvllm:spec_decode_num_accepted_tokens_per_pos_total{" LABELS ",position=\"0\"} 10\n",
        "\nvllm:spec_decode_num_accepted_tokens_per_pos_total{" LABELS ",position=\"1\"} 11\n",
        "\nvllm:spec_decode_num_accepted_tokens_per_pos_total{" LABELS ",position=\"15\"} 25\n",
        "\nfathom_withdrawn_drafts_total{" LABELS "} 4\n",
        "\nfathom_withdrawn_rows_total{" LABELS "} 5\n",
        "\nfathom_draft_heads_total{" LABELS "} 6\n",
        "\nfathom_text_drafts_total{" LABELS "} 9\n",
        "\nfathom_text_drafts_accepted_total{" LABELS "} 26\n",
        "\nfathom_forced_drafts_total{" LABELS "} 31\n",
        "\nfathom_forced_drafts_accepted_total{" LABELS "} 28\n",
        "\nfathom_draft_loops{" LABELS "} 7\n",
        "\nfathom_draft_limit{" LABELS "} 8\n",
    };
    sched_stats st = {.draft_chains = 1,
                      .draft_tokens = 2,
                      .drafts_accepted = 3,
                      .drafts_withdrawn = 4,
                      .withdrawn_rows = 5,
                      .draft_heads = 6,
                      .text_drafts = 9,
                      .text_drafts_accepted = 26,
                      .forced_drafts = 31,
                      .forced_drafts_accepted = 28,
                      .draft_loops_now = 7,
                      .drafts_now = 8};
    for (uint32_t i = 0; i < SCHED_DRAFT_PLACES; i++)
        st.accepted_by_place[i] = 10 + i;
    buf out = {0};
    srv_metrics_speculation(&st, LABELS, &out);
    cr_assert_not(out.failed);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        cr_assert_not_null(strstr(out.data, lines[i]), "no line%s in:\n%s", lines[i], out.data);
    cr_assert_null(strstr(out.data, "position=\"16\""));
    buf_deinit(&out);
}
