/* Ranks: the columns of each, launches as bytes, agreement, lost ranks, and what a loop sends. */
#include "engine/cpu/cpu_internal.h"
#include "engine/ranks_internal.h"
#include "runtime/rank_plan.h"
#include "tests/lib/golden.h"
#include "tests/lib/rank_group.h"
#include "tests/lib/testlib.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

TestSuite(ranks, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- columns ---- */

Test(ranks, each_column_belongs_to_one_rank_and_cuts_lie_between_units) {
    static const uint32_t columns[] = {0, 1, 15, 16, 32, 33, 1000, 2048, 151936};
    static const uint32_t counts[] = {1, 2, 3, 4, 7, 64};
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        for (size_t k = 0; k < 2 * ARRAY_LEN(counts); k++) {
            uint32_t unit = k % 2 ? ENG_RANKS_OUT : ENG_RANKS_HIDDEN, n = counts[k / 2], at = 0;
            uint32_t least = UINT32_MAX, most = 0;
            for (uint32_t rank = 0; rank < n; rank++) {
                eng_share own = eng_share_columns(columns[i], unit, rank, n);
                cr_assert_eq(own.first, at, "%u columns, rank %u of %u", columns[i], rank, n);
                cr_assert(own.first % unit == 0 || own.first == columns[i]);
                uint32_t units = (own.last - own.first + unit - 1) / unit;
                least = units < least ? units : least;
                most = units > most ? units : most;
                at = own.last;
            }
            cr_assert_eq(at, columns[i]);
            cr_assert_leq(most - least, 1);
        }
    }
}

/* ---- launches as bytes ---- */

enum { ROWS = 5 };
static const uint32_t table_a[] = {4, 9, 2}, table_b[] = {7};

/* A launch, and its bytes. */
typedef struct {
    eng_row rows[ROWS];
    eng_edit edits[2];
    eng_draw draw;
    eng_launch launch;
    eng__wire wire;
} packed_launch;

static void pack_launch(packed_launch *out) {
    static const eng_sampling sampling = {
        .temperature = 0.5f, .top_p = 0.9f, .seed = 77, .top_k = 3};
    eng_row *rows = out->rows;
    eng_edit *edits = out->edits;
    err e = {0};
    out->draw = (eng_draw){.sampling = &sampling, .index = 12, .n_top = 4};
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = (eng_row){.row = 10 + i,
                            .pos = i < 3 ? 63 + i : i,
                            .token = 100 + i,
                            .loop = (uint16_t)i,
                            .min_loops = 1,
                            .max_loops = 8,
                            .threshold = 0.25f * (float)i,
                            .guard = i,
                            .home = i % 3,
                            .blocks = i < 3 ? table_a : table_b};
    }
    rows[3].flags = ENG_ROW_LOGITS | ENG_ROW_DRAFT;
    rows[4].flags = ENG_ROW_SAMPLE | ENG_ROW_DRAFT;
    rows[4].draw = &out->draw;
    edits[0] = (eng_edit){.block = 1, .slot = 2, .plane = 3, .n_planes = 4, .off = 5, .home = 2};
    edits[1] = (eng_edit){.block = 6, .slot = ENG_NO_SLOT, .guarded = true, .guard = 8};
    out->launch = (eng_launch){ENG_STAGE_CODA, rows, ROWS, edits, 2};
    out->wire = (eng__wire){0};
    cr_assert_eq(eng__wire_pack(&out->wire, &out->launch, &e), 0, "%s", e.msg);
}

Test(ranks, a_launch_comes_back_from_its_bytes) {
    packed_launch sent;
    eng_launch back;
    eng__wire_head head;
    err e = {0};
    pack_launch(&sent);
    memcpy(&head, sent.wire.data, sizeof head);
    cr_assert_eq(head.n_blocks, ARRAY_LEN(table_a) + ARRAY_LEN(table_b), "tables are shared");
    cr_assert_eq(eng__wire_unpack(&sent.wire, &back, &e), 0, "%s", e.msg);
    cr_assert_eq(back.stage, sent.launch.stage);
    cr_assert_eq(back.n_rows, sent.launch.n_rows);
    cr_assert_eq(back.n_edits, sent.launch.n_edits);
    cr_assert_eq(memcmp(back.edits, sent.edits, sizeof sent.edits), 0);
    for (uint32_t i = 0; i < ROWS; i++) {
        const eng_row *row = &back.rows[i], *want = &sent.rows[i];
        cr_assert_eq(memcmp(row->blocks, want->blocks, (row->pos / ENG_BLOCK + 1) * 4), 0);
        cr_assert_eq(row->draw != NULL, want->draw != NULL);
        eng_row plain = *row;
        plain.blocks = want->blocks;
        plain.draw = want->draw;
        cr_assert_eq(memcmp(&plain, want, offsetof(eng_row, draw)), 0, "row %u", i);
    }
    const eng_draw *drawn = back.rows[4].draw;
    cr_assert_eq(memcmp(drawn->sampling, sent.draw.sampling, sizeof *drawn->sampling), 0);
    cr_assert_eq(drawn->index, sent.draw.index);
    cr_assert_eq(drawn->n_top, sent.draw.n_top);
    eng__wire_deinit(&sent.wire);
}

#define ROW_AT(field) sizeof(eng__wire_head) + offsetof(eng__wire_row, field)

Test(ranks, bytes_that_are_no_launch_are_refused) {
    static const struct {
        const char *what;
        size_t at; /* of the 32-bit word that changes */
        uint32_t value;
    } faults[] = {
        {"an unknown kind", offsetof(eng__wire_head, kind), 7},
        {"an unknown stage", offsetof(eng__wire_head, stage), 3},
        {"more rows than bytes", offsetof(eng__wire_head, n_rows), UINT32_MAX},
        {"more edits than bytes", offsetof(eng__wire_head, n_edits), UINT32_MAX},
        {"more draws than bytes", offsetof(eng__wire_head, n_draws), UINT32_MAX},
        {"more blocks than bytes", offsetof(eng__wire_head, n_blocks), UINT32_MAX},
        {"fewer blocks than the tables", offsetof(eng__wire_head, n_blocks), 0},
        {"other bytes than the lists have", offsetof(eng__wire_head, bytes), 8},
        {"a position beyond its table", ROW_AT(pos), 1 << 20},
        {"a table beyond the blocks", ROW_AT(table), 1 << 20},
        {"a draw beyond the draws", ROW_AT(draw), 3},
    };
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        packed_launch sent;
        eng_launch back;
        err e = {0};
        pack_launch(&sent);
        memcpy(sent.wire.data + faults[i].at, &faults[i].value, sizeof faults[i].value);
        cr_assert_neq(eng__wire_unpack(&sent.wire, &back, &e), 0, "%s is taken", faults[i].what);
        cr_assert_eq(e.code, ERR_DEVICE);
        eng__wire_deinit(&sent.wire);
    }
}

/* ---- carriers ---- */

typedef struct {
    eng_ranks *ranks;
    uint64_t value; /* of this rank */
    int rc;
    err error;
} caller;

static void *agree(void *arg) {
    caller *self = arg;
    const eng_fact facts[] = {{"the colour", 5}, {"the number", self->value}};
    self->rc = eng_ranks_agree(self->ranks, facts, ARRAY_LEN(facts), &self->error);
    eng_ranks_close(self->ranks);
    return NULL;
}

static void *least(void *arg) {
    caller *self = arg;
    self->rc = eng_ranks_least(self->ranks, &self->value, &self->error);
    /* after the others' answers, so that none is lost to them before */
    if (self->rc == 0) self->rc = eng_ranks_broadcast(self->ranks, &self->error.have, 8, NULL);
    eng_ranks_close(self->ranks);
    return NULL;
}

/* Runs fn on n threads, with values[rank]. */
static void on_all(caller *callers, uint32_t n, const uint64_t *values, void *(*fn)(void *)) {
    eng_ranks *ranks[RANK_GROUP_MOST];
    pthread_t threads[RANK_GROUP_MOST];
    rank_group_carriers(ranks, n);
    for (uint32_t rank = 0; rank < n; rank++) {
        callers[rank] = (caller){.ranks = ranks[rank], .value = values[rank]};
        cr_assert_eq(pthread_create(&threads[rank], NULL, fn, &callers[rank]), 0);
    }
    for (uint32_t rank = 0; rank < n; rank++)
        pthread_join(threads[rank], NULL);
}

Test(ranks, a_fact_that_differs_is_named_on_every_rank) {
    static const uint64_t values[] = {1, 1, 2};
    caller callers[3];
    on_all(callers, 3, values, agree);
    for (uint32_t rank = 0; rank < 3; rank++) {
        cr_assert_neq(callers[rank].rc, 0);
        cr_assert_eq(callers[rank].error.code, ERR_USAGE);
        cr_assert_not_null(
            strstr(callers[rank].error.msg, "rank 2 and rank 0 differ in the number"), "%s",
            callers[rank].error.msg);
    }
}

Test(ranks, the_least_value_of_all_ranks_decides) {
    static const uint64_t values[] = {9, 4, 6, 4};
    caller callers[4];
    on_all(callers, 4, values, least);
    for (uint32_t rank = 0; rank < 4; rank++)
        cr_assert_eq(callers[rank].value, 4);
}

/* ---- a model over ranks ---- */

static model_folder *open_model(const char *dir) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    return model;
}

static const eng_backend_opts small = {
    .threads = 1, .n_rows = DRIVER_SEQS * DRIVER_POS, .max_loops = 4, .cache_bytes = 8 << 20};

static rank_group *start(uint32_t n, const model_folder *model, rank_group_open_fn open) {
    rank_group *group;
    err e = {0};
    cr_assert_not_null(rank_group_start(&group, n, model, &small, 1, open, &e), "%s", e.msg);
    return group;
}

/* Bytes of the weights held by each of n ranks; returns their sum. */
static uint64_t weights_of(const model_folder *model, uint32_t n, uint64_t *most) {
    rank_group *group = start(n, model, eng_cpu_open);
    uint64_t sum = 0;
    *most = 0;
    for (uint32_t rank = 0; rank < n; rank++) {
        uint64_t bytes = rank_group_weights(group, rank);
        sum += bytes;
        *most = bytes > *most ? bytes : *most;
    }
    rank_group_close(group);
    return sum;
}

Test(ranks, divided_weights_are_held_once_and_the_rest_by_every_rank) {
    static const char *const dirs[] = {"tests/golden/cases/mla", "tests/golden/families/ouro",
                                       "tests/golden/families/nanbeige"};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        model_folder *model = open_model(dirs[i]);
        uint64_t most, alone = weights_of(model, 1, &most), two = weights_of(model, 2, &most);
        uint64_t everywhere = two - alone, divided = alone - everywhere;
        cr_assert_lt(most, alone, "%s", dirs[i]);
        cr_assert_lt(everywhere, alone, "%s", dirs[i]);
        for (uint32_t n = 3; n <= 5; n++) {
            cr_assert_eq(weights_of(model, n, &most), divided + n * everywhere, "%s, %u ranks",
                         dirs[i], n);
        }
        model_close(model);
    }
}

Test(ranks, every_rank_uses_the_kernels_of_rank_0) {
    const eng_backend_opts opts[] = {
        {.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20, .kernels = "portable"},
        {.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20}};
    model_folder *model = open_model("tests/golden/cases/mla");
    rank_group *group;
    err e = {0};
    const eng_backend *backend = rank_group_start(&group, 2, model, opts, 2, eng_cpu_open, &e);
    cr_assert_not_null(backend, "%s", e.msg); /* both have compared the names */
    cr_assert_str_eq(backend->info.kernels, "portable");
    rank_group_close(group);
    model_close(model);
}

/* A driver whose backend runs over the group. */
static void drive(driver *drv, const model_folder *model, eng_backend *backend) {
    memset(drv, 0, sizeof *drv);
    drv->backend = backend;
    drv->plan = model_plan_of(model);
    drv->n_loops = 4;
    drv->policy = KV_EXACT;
}

static uint32_t round_up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

/* Columns that rank 0 of n receives of one row in one loop: the hidden values of the chosen and the
 * shared experts, then the outputs. */
static uint64_t columns_received(const model_plan *plan, uint32_t n) {
    uint32_t hidden = round_up(plan->expert_dim, 16);
    uint32_t shared =
        plan->n_shared_experts * round_up(plan->expert_dim * plan->n_experts_per_tok, 16);
    eng_share own_hidden = eng_share_columns(hidden, ENG_RANKS_HIDDEN, 0, n);
    eng_share own_shared = eng_share_columns(shared, ENG_RANKS_HIDDEN, 0, n);
    eng_share own_out = eng_share_columns(plan->dim, ENG_RANKS_OUT, 0, n);
    return (uint64_t)plan->n_experts_per_tok * (hidden - own_hidden.last) +
           (shared - own_shared.last) + (plan->dim - own_out.last);
}

/* Messages that rank 0 receives in one loop: a rank without columns sends none. */
static uint64_t senders(const model_plan *plan, uint32_t n) {
    uint64_t messages = 0;
    for (uint32_t rank = 1; rank < n; rank++) {
        uint32_t hidden = plan->n_shared_experts * plan->expert_dim * plan->n_experts_per_tok;
        eng_share experts = eng_share_columns(plan->expert_dim, ENG_RANKS_HIDDEN, rank, n);
        eng_share shared = eng_share_columns(hidden, ENG_RANKS_HIDDEN, rank, n);
        eng_share out = eng_share_columns(plan->dim, ENG_RANKS_OUT, rank, n);
        messages += experts.last > experts.first || shared.last > shared.first;
        messages += out.last > out.first;
    }
    return messages;
}

enum { POSITIONS = 5 };

/* Counts of rank 0 for one loop of a chunk. */
static eng_ranks_counts counts_of_a_loop(const model_folder *model, uint32_t n, bool homes) {
    static driver drv;
    eng_backend_opts opts = small;
    rank_group *group;
    err e = {0};
    opts.homes = homes;
    eng_backend *backend = rank_group_start(&group, n, model, &opts, 1, eng_cpu_open, &e);
    cr_assert_not_null(backend, "%s", e.msg);
    drive(&drv, model, backend);
    driver_start(&drv, 1, POSITIONS);
    drv.seq[0].home = homes ? n - 1 : 0;
    driver_add_prelude(&drv, 0, 0, POSITIONS);
    driver_launch(&drv, ENG_STAGE_PRELUDE);
    eng_ranks_counts before = eng_ranks_read(rank_group_ranks(group));
    driver_add_loop(&drv, 0, 0, 0, POSITIONS);
    driver_launch(&drv, ENG_STAGE_RECURRENT);
    eng_ranks_counts after = eng_ranks_read(rank_group_ranks(group));
    free(drv.seq[0].logits);
    rank_group_close(group);
    return (eng_ranks_counts){.gathers = after.gathers - before.gathers,
                              .messages = after.messages - before.messages,
                              .bytes = after.bytes - before.bytes,
                              .launches = after.launches - before.launches};
}

Test(ranks, a_loop_receives_the_columns_of_the_others_in_two_gathers) {
    model_folder *model = open_model("tests/golden/cases/mla");
    const model_plan *plan = model_plan_of(model);
    for (uint32_t n = 2; n <= 4; n++) {
        eng_ranks_counts loop = counts_of_a_loop(model, n, false);
        cr_assert_eq(loop.gathers, 2 * plan->n_core);
        cr_assert_eq(loop.messages, senders(plan, n));
        cr_assert_eq(loop.bytes, POSITIONS * columns_received(plan, n) * sizeof(float), "%u ranks",
                     n);
        cr_assert_eq(loop.launches, 1);
    }
    model_close(model);
}

Test(ranks, rows_at_home_on_another_rank_are_received_once_more_in_a_third_gather) {
    enum { PADDING = 16 }; /* of a row of the stream */
    model_folder *model = open_model("tests/golden/cases/mla");
    const model_plan *plan = model_plan_of(model);
    for (uint32_t n = 2; n <= 4; n++) {
        eng_ranks_counts loop = counts_of_a_loop(model, n, true);
        uint64_t row = columns_received(plan, n) + plan->dim + PADDING;
        cr_assert_eq(loop.gathers, 3 * plan->n_core);
        cr_assert_eq(loop.messages, senders(plan, n) + 1);
        cr_assert_eq(loop.bytes, POSITIONS * row * sizeof(float), "%u ranks", n);
    }
    model_close(model);
}

/* Two ranks have equal parts of these experts and outputs, so each receives the mean of both. */
Test(ranks, a_plan_expects_the_bytes_that_ranks_receive) {
    model_folder *model = open_model("tests/golden/cases/mla");
    const model_plan *plan = model_plan_of(model);
    rank_plan rp;
    rank_plan_make(&rp, plan, rank_device_find("cpu"), 2, 64, 4);
    rank_cost planned = rank_plan_loop(&rp, RANK_COLUMNS, POSITIONS);
    eng_ranks_counts loop = counts_of_a_loop(model, 2, false);
    cr_expect_eq(planned.exchanges, loop.gathers);
    cr_expect_eq((uint64_t)planned.received, loop.bytes);
    model_close(model);
}

/* ---- ranks that fail ---- */

/* A backend that goes wrong on rank 1 at its second launch. */
typedef enum { OTHER_RESULTS, FAILED_LAUNCH } fault;
typedef struct {
    eng_backend base;
    eng_backend *inner;
    fault kind;
    bool at_fault; /* this rank is the one */
    uint32_t launches;
} faulty;

static int faulty_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    faulty *self = (faulty *)backend;
    if (++self->launches == 2 && self->at_fault && self->kind == FAILED_LAUNCH)
        return err_set(e, ERR_DEVICE, NULL, "a planted failure");
    return self->inner->ops->launch(self->inner, launch, e);
}

static int faulty_wait(eng_backend *backend, eng_result *result, err *e) {
    faulty *self = (faulty *)backend;
    int rc = self->inner->ops->wait(self->inner, result, e);
    if (self->launches == 2 && self->at_fault && self->kind == OTHER_RESULTS) result->check ^= 1;
    return rc;
}

static void faulty_close(eng_backend *backend) {
    faulty *self = (faulty *)backend;
    eng_backend_close(self->inner);
    free(self);
}

static const eng_backend_ops faulty_ops = {faulty_launch, faulty_wait, faulty_close};

static int open_faulty(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                       fault kind, err *e) {
    eng_backend *inner;
    if (eng_cpu_open(&inner, model, opts, e) != 0) return -1;
    faulty *self = calloc(1, sizeof *self);
    if (self == NULL) abort();
    *self = (faulty){*inner, inner, kind, opts->ranks->rank == 1, 0};
    self->base.ops = &faulty_ops;
    *out = &self->base;
    return 0;
}

static int open_other_results(eng_backend **out, const model_folder *model,
                              const eng_backend_opts *opts, err *e) {
    return open_faulty(out, model, opts, OTHER_RESULTS, e);
}

static int open_failed_launch(eng_backend **out, const model_folder *model,
                              const eng_backend_opts *opts, err *e) {
    return open_faulty(out, model, opts, FAILED_LAUNCH, e);
}

Test(ranks, a_rank_that_fails_or_differs_ends_all_with_the_device_error) {
    static const struct {
        rank_group_open_fn open;
        const char *says; /* rank 1 */
    } rows[] = {
        {open_other_results, "rank 1 computed other results than rank 0"},
        {open_failed_launch, "a planted failure"},
    };
    model_folder *model = open_model("tests/golden/cases/gqa");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t blocks[] = {0}, n = 0;
        rank_group *group;
        eng_result result;
        err e = {0};
        eng_backend *backend = rank_group_start(&group, 3, model, &small, 1, rows[i].open, &e);
        cr_assert_not_null(backend, "%s", e.msg);
        eng_row row = {.row = 0, .blocks = blocks};
        eng_edit edit = {.n_planes = (uint16_t)backend->info.n_planes};
        eng_launch launch = {ENG_STAGE_PRELUDE, &row, 1, &edit, 1};
        while (eng_run(backend, &launch, &result, &e) == 0)
            cr_assert_lt(n++, 4, "no launch fails");
        cr_assert_eq(e.code, ERR_DEVICE, "%s", e.msg);
        const err *other = rank_group_error(group, 1);
        cr_assert_eq(other->code, ERR_DEVICE);
        cr_assert_not_null(strstr(other->msg, rows[i].says), "%s", other->msg);
        cr_assert_eq(rank_group_error(group, 2)->code, ERR_DEVICE);
        rank_group_close(group);
    }
    model_close(model);
}

Test(ranks, ranks_with_other_options_are_refused_by_name) {
    static const struct {
        eng_backend_opts opts;
        const char *says;
    } rows[] = {
        {{.threads = 1, .max_loops = 3, .cache_bytes = 8 << 20}, "(--max-loops)"},
        {{.threads = 1, .max_loops = 4, .cache_bytes = 9 << 20}, "(--kv-memory)"},
        {{.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20, .weights = ENG_WEIGHTS_INT8},
         "(--weights)"},
        {{.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20, .cache_dtype = DTYPE_BF16},
         "(--kv-dtype)"},
        {{.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20, .prompt_chunk = 64}, "(--chunk)"},
        {{.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20, .max_launch = 9}, "(--max-rows)"},
        {{.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20, .n_rows = 300, .max_launch = 256},
         "(--max-running)"},
    };
    model_folder *model = open_model("tests/golden/cases/mla");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_backend_opts opts[] = {{.threads = 1, .max_loops = 4, .cache_bytes = 8 << 20},
                                   rows[i].opts};
        rank_group *group;
        err e = {0};
        cr_assert_null(rank_group_start(&group, 2, model, opts, 2, eng_cpu_open, &e));
        cr_assert_eq(e.code, ERR_USAGE);
        cr_assert_not_null(strstr(e.msg, rows[i].says), "%s: %s", rows[i].says, e.msg);
        cr_assert_not_null(strstr(rank_group_error(group, 1)->msg, rows[i].says));
        rank_group_close(group);
    }
    model_close(model);
}
