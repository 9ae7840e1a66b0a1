/* ranks_run.c - a workload on several ranks, threads of this process, and on one. */
#include "tests/cuda/selftest/ranks_run.h"
#include "base/clock.h"

#include <string.h>

drive_spec ranks_spec(const model_plan *plan, const ranks_case *row) {
    rng rnd = {row->seed + 3};
    drive_spec spec = random_spec(plan, 3, 24, row->seed, &rnd);
    spec.n_loops = plan->loops_default < 4 ? plan->loops_default : 4;
    spec.min_loops = 0;
    spec.max_rows = row->max_rows;
    spec.policy = row->policy;
    spec.flights = row->flights;
    spec.poison = row->poison;
    return spec;
}

static uint64_t mat_bytes(const cu_backend *cuda, const cu_mat *mat, uint32_t count) {
    return (uint64_t)cu_round(mat->n, CU_MM_ROWS) * mat->ld * count * cu_act_bytes(cuda);
}

static uint64_t layers_bytes(const cu_backend *cuda, const cu_layer *layers, uint32_t n,
                             bool experts) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t count = experts ? cuda->plan.n_experts : 1;
        bytes += mat_bytes(cuda, &layers[i].gate_up, count);
        bytes += mat_bytes(cuda, &layers[i].down, count);
        if (!experts) continue;
        bytes += mat_bytes(cuda, &layers[i].shared_gate_up, cuda->groups_shared);
        bytes += mat_bytes(cuda, &layers[i].shared_down, 1);
    }
    return bytes;
}

static rank_holds what_it_holds(const eng_backend *eng) {
    const cu_backend *cuda = (const cu_backend *)eng;
    const model_plan *plan = &cuda->plan;
    uint64_t bytes = layers_bytes(cuda, cuda->prelude, plan->n_prelude, false) +
                     layers_bytes(cuda, cuda->core, plan->n_core, plan->core_ffn == FFN_MOE) +
                     layers_bytes(cuda, cuda->coda, plan->n_coda, false);
    model_tensor head;
    if (model_find(cuda->model, (tensor_place){.role = TENSOR_HEAD}, &head))
        bytes += mat_bytes(cuda, &cuda->head, 1);
    return (rank_holds){eng->info.weight_bytes, bytes, cuda->graphs};
}

void ranks_run_one(eng_ranks *ranks, void *arg) {
    ranks_run *run = arg;
    uint32_t rank = ranks ? ranks->rank : 0;
    eng_backend_opts opts = drive_opts(run->spec, run->kernels, run->cache);
    eng_backend *eng = NULL;
    err e = {0};
    opts.ranks = ranks;
    if (!check(eng__cuda_open_device(&eng, run->model, &opts, run->apart ? (int)rank : 0, &e) == 0,
               "rank %u: %s", rank, e.msg))
        return;
    run->holds[rank] = what_it_holds(eng);
    uint64_t start = clock_ns();
    run->ok[rank] = drive(eng, run->spec, &run->results[rank]);
    if (rank == 0) run->ns = clock_ns() - start;
    if (ranks) run->counts[rank] = eng_ranks_read(ranks);
    eng_backend_close(eng);
}

void ranks_run_deinit(ranks_run *run) {
    for (uint32_t i = 0; i < RANKS_HERE; i++)
        drive_result_deinit(&run->results[i]);
}

void ranks_same_answers(const ranks_run *one, const ranks_run *many, uint32_t n, const char *what) {
    const drive_spec *spec = one->spec;
    size_t vocab = model_plan_of(one->model)->vocab_size;
    for (uint32_t rank = 0; rank < n; rank++) {
        const drive_result *want = &one->results[0], *got = &many->results[rank];
        if (!one->ok[0] || !many->ok[rank]) continue;
        check(memcmp(want->depth, got->depth, sizeof want->depth) == 0,
              "%s, rank %u of %u: other depths", what, rank, n);
        for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
            size_t bytes = spec->len[seq] * vocab * sizeof(float);
            check(memcmp(want->logits[seq], got->logits[seq], bytes) == 0,
                  "%s, rank %u of %u: other logits of sequence %u", what, rank, n, seq);
        }
    }
}

void ranks_divide_weights(const rank_holds *one, const rank_holds *many, uint32_t n,
                          const char *what) {
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < n; rank++) {
        sum += many[rank].divided;
        check(many[rank].weights - many[rank].divided == one->weights - one->divided,
              "%s, rank %u of %u: %llu bytes of what is not divided, must be %llu", what, rank, n,
              (unsigned long long)(many[rank].weights - many[rank].divided),
              (unsigned long long)(one->weights - one->divided));
        check(many[rank].divided < one->divided, "%s: rank %u holds all weights", what, rank);
    }
    check(sum == one->divided, "%s: %u ranks hold %llu bytes of matrices, must be %llu", what, n,
          (unsigned long long)sum, (unsigned long long)one->divided);
}

typedef struct {
    const golden_case *golden;
    const drive_spec *spec;
    const precision *held;
    const model_folder *model;
} golden_run;

static void run_golden(eng_ranks *ranks, void *arg) {
    const golden_run *run = arg;
    eng_backend_opts opts = drive_opts(run->spec, run->held->kernels, run->held->cache);
    opts.ranks = ranks;
    eng_backend *eng = open_backend(run->model, &opts);
    drive_result result = {0};
    if (eng && drive(eng, run->spec, &result))
        compare_golden(run->golden, run->spec, &result, run->held);
    drive_result_deinit(&result);
    eng_backend_close(eng);
}

void ranks_published(uint32_t ranks, const precision *held) {
    golden_case golden = golden_open("mla");
    err e = {0};
    model_folder *model = NULL;
    if (check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) {
        drive_spec spec = golden_spec(&golden, model_plan_of(model), KV_EXACT, 96, 0);
        golden_run run = {&golden, &spec, held, model};
        ranks_here(ranks, run_golden, &run);
    }
    model_close(model);
    golden_close(&golden);
}
