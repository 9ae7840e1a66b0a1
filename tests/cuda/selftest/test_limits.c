/* test_limits.c - small models with as much shared memory in attention as the largest supported
 * one. The backend must find kernels able to start on a device with 99 or 163 KB for a thread
 * block. */
#include "tests/cuda/selftest/cases.h"
#include "tests/lib/files.h"

/* Half of the positions must be as the CPU engine's: with bfloat16 one other choice of expert or
 * depth changes all later positions. */
static void near_the_cpu_engine(const model_folder *m, const char *what) {
    const model_plan *p = model_plan_of(m);
    err e = {0};
    rng r = {31};
    drive_spec spec = random_spec(p, 2, 30, 3, &r);
    spec.max_rows = 12;
    eng_backend_opts o = drive_opts(&spec, "bf16", DTYPE_BF16),
                     q = drive_opts(&spec, NULL, DTYPE_F32);
    eng_backend *gpu = open_backend(m, &o), *cpu = NULL;
    drive_result a = {0}, b = {0};
    check(eng_cpu_open(&cpu, m, &q, &e) == 0, "cpu: %s", e.msg);
    if (gpu && cpu && drive(gpu, &spec, &a) && drive(cpu, &spec, &b)) {
        uint32_t near = 0, n = 0;
        for (uint32_t s = 0; s < spec.n_seqs; s++) {
            for (uint32_t i = 0; i < spec.len[s]; i++, n++) {
                size_t at = (size_t)i * p->vocab_size;
                near += worst(a.logits[s] + at, b.logits[s] + at, p->vocab_size) < 0.05;
            }
        }
        check(near >= n / 2, "%s: only %u of %u positions are near", what, near, n);
    }
    drive_result_deinit(&a);
    drive_result_deinit(&b);
    eng_backend_close(gpu);
    eng_backend_close(cpu);
}

static void a_model_of(model_plan *p, const char *what) {
    err e = {0};
    model_folder *m = NULL;
    model_init_opts init = {.seed = 9, .dtype = DTYPE_BF16, .mean_depth = 2};
    plan_derive(p);
    tmp_dir dir = tmp_dir_create();
    if (check(model_init_write(dir.path, p, &init, &e) == 0 && model_open(&m, dir.path, &e) == 0,
              "%s: %s", what, e.msg)) {
        near_the_cpu_engine(m, what);
    }
    model_close(m);
    tmp_dir_remove(&dir);
}

void test_limits(void) {
    model_plan p;
    err e = {0};
    if (!check(plan_variant(&p, "tiny", &e) == 0, "%s", e.msg)) return;
    p.kv_lora_rank = 512; /* mythos_10b and 50b: tiles of two rows take 115 KB */
    p.qk_rope_head_dim = 64;
    p.qk_nope_head_dim = p.v_head_dim = 128;
    a_model_of(&p, "latents of 512");
    if (!check(plan_variant(&p, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    p.n_heads = p.n_kv_heads = 2; /* ouro_1.4b: a head of 128 values with keys of its own */
    p.head_dim = 128;
    a_model_of(&p, "heads of 128");
}
