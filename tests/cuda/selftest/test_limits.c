/* test_limits.c - small models with as much shared memory in attention as the largest supported
 * one. The backend must find kernels able to start on a device with 99 or 163 KB for a thread
 * block. */
#include "tests/cuda/selftest/cases.h"
#include "tests/lib/files.h"

/* Half of the positions must be as the CPU engine's: with bfloat16 one other choice of expert or
 * depth changes all later positions. */
static void near_the_cpu_engine(const model_folder *model, const char *what) {
    const model_plan *plan = model_plan_of(model);
    err e = {0};
    rng rnd = {31};
    drive_spec spec = random_spec(plan, 2, 30, 3, &rnd);
    spec.max_rows = 12;
    eng_backend_opts opts = drive_opts(&spec, "bf16", DTYPE_BF16),
                     plain = drive_opts(&spec, NULL, DTYPE_F32);
    eng_backend *gpu = open_backend(model, &opts), *cpu = NULL;
    drive_result got = {0}, want = {0};
    check(eng_cpu_open(&cpu, model, &plain, &e) == 0, "cpu: %s", e.msg);
    if (gpu && cpu && drive(gpu, &spec, &got) && drive(cpu, &spec, &want)) {
        uint32_t near = 0, n = 0;
        for (uint32_t seq = 0; seq < spec.n_seqs; seq++) {
            for (uint32_t i = 0; i < spec.len[seq]; i++, n++) {
                size_t at = (size_t)i * plan->vocab_size;
                near += worst(got.logits[seq] + at, want.logits[seq] + at, plan->vocab_size) < 0.05;
            }
        }
        check(near >= n / 2, "%s: only %u of %u positions are near", what, near, n);
    }
    drive_result_deinit(&got);
    drive_result_deinit(&want);
    eng_backend_close(gpu);
    eng_backend_close(cpu);
}

static void a_model_of(model_plan *plan, const char *what) {
    err e = {0};
    model_folder *model = NULL;
    model_init_opts init = {.seed = 9, .dtype = DTYPE_BF16, .mean_depth = 2};
    plan_derive(plan);
    tmp_dir dir = tmp_dir_create();
    if (check(model_init_write(dir.path, plan, &init, &e) == 0 &&
                  model_open(&model, dir.path, &e) == 0,
              "%s: %s", what, e.msg)) {
        near_the_cpu_engine(model, what);
    }
    model_close(model);
    tmp_dir_remove(&dir);
}

void test_limits(void) {
    model_plan plan;
    err e = {0};
    if (!check(plan_variant(&plan, "tiny", &e) == 0, "%s", e.msg)) return;
    plan.kv_lora_rank = 512; /* mythos_10b and 50b: tiles of two rows take 115 KB */
    plan.qk_rope_head_dim = 64;
    plan.qk_nope_head_dim = plan.v_head_dim = 128;
    a_model_of(&plan, "latents of 512");
    if (!check(plan_variant(&plan, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    plan.n_heads = plan.n_kv_heads = 2; /* ouro_1.4b: a head of 128 values with keys of its own */
    plan.head_dim = 128;
    a_model_of(&plan, "heads of 128");
}
