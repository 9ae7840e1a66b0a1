/* init.c - fathom init: writes a model folder of random weights. */
#include "base/json.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/init/agreement.h"

#include <stdio.h>
#include <string.h>

enum { CONFIG_MAX_BYTES = 1 << 20 };

static void show_progress(void *ud, uint64_t done, uint64_t all) {
    (void)all;
    progress_set(ud, done);
}

static int config_of(model_plan *plan, const char *variant, const char *file, err *e) {
    if ((variant != NULL) == (file != NULL)) {
        return err_set(e, ERR_USAGE, NULL, "give one of --variant and --config-json");
    }
    if (variant) return plan_variant(plan, variant, e);
    buf text = {0};
    int rc = opt_read_file(&text, "--config-json", file, CONFIG_MAX_BYTES, e);
    if (rc == 0) rc = plan_parse(plan, text.data, text.len, file, e);
    buf_deinit(&text);
    return rc;
}

/* "tiny, mythos_1b, … or ouro_2.6b" */
static void list_variants(char *out, size_t cap) {
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; plan_variant_name(i) && n < cap; i++) {
        const char *before = i == 0 ? "" : plan_variant_name(i + 1) ? ", " : " or ";
        int wrote = snprintf(out + n, cap - n, "%s%s", before, plan_variant_name(i));
        n += wrote > 0 ? (size_t)wrote : 0;
    }
}

/* Only some families' config.json can name the policy. */
static int set_policy(model_plan *plan, const char *policy, err *e) {
    buf text = {0};
    plan_write(&text, plan, "float32");
    bool written = text.data && strstr(text.data, "\"halted_kv\"");
    buf_deinit(&text);
    plan->halted_kv = strcmp(policy, "last") == 0 ? KV_LAST : KV_EXACT;
    if (written) return 0;
    return err_set(e, ERR_USAGE, "--halted-kv",
                   "--halted-kv: the config.json of %s models cannot name a policy; give the "
                   "option to the commands that run the model",
                   plan_family_name(plan));
}

/* Without an exit rule every token runs the same number of loops. */
static int check_depth(const model_plan *plan, double depth, err *e) {
    if (depth == 0 || (plan->exits & ~(1u << EXIT_FIXED)) != 0) return 0;
    return err_set(e, ERR_USAGE, "--mean-depth",
                   "--mean-depth: %s models run a fixed number of loops", plan_family_name(plan));
}

/* Where a settled state ends the loops, settling early would halt every token at once. */
static int check_agreement(const model_plan *plan, double depth, err *e) {
    bool settles = plan->exit != EXIT_ACT && plan->exit != EXIT_HAZARD;
    if (depth == 0 || !settles) return 0;
    return err_set(e, ERR_USAGE, "--agreement",
                   "--agreement: with --mean-depth a token of %s models leaves the loop when its "
                   "state has settled, and agreement lets it settle in loop 1; give one of the two",
                   plan_family_name(plan));
}

static int find_motion(model_init_opts *opts, const model_plan *plan, double wanted,
                       const char *out, err *e) {
    agreement_found found;
    uint64_t bytes = plan_params(plan) * model_dtype_bytes(opts->dtype);
    if (check_agreement(plan, (double)opts->mean_depth, e) != 0 ||
        model_init_check(out, bytes, e) != 0)
        return -1;
    fprintf(stderr, "fathom init: measuring smaller models for the agreement\n");
    if (agreement_find(&found, plan, opts, wanted, out, e) != 0) return -1;
    opts->motion = found.motion;
    fprintf(
        stderr,
        "fathom init: loop 1 and loop %u agree on %.1f %% of tokens in a model with %u channels "
        "(motion %.4g)\n",
        found.loops, 100 * found.agreement, found.dim, (double)found.motion);
    return 0;
}

static void print_result(const char *dir, const model_plan *plan, uint64_t bytes, const char *dtype,
                         bool json) {
    uint64_t params = plan_params(plan);
    if (!json) {
        printf("%s: %.3f M parameters, %.3f MB, %s\n", dir, (double)params / 1e6,
               (double)bytes / 1e6, dtype);
        return;
    }
    buf out = {0};
    buf_puts(&out, "{\"folder\":");
    buf_json_text(&out, dir);
    buf_printf(&out, ",\"family\":\"%s\",\"parameters\":%llu,\"bytes\":%llu,\"dtype\":\"%s\"}\n",
               plan_family_name(plan), (unsigned long long)params, (unsigned long long)bytes,
               dtype);
    fputs(out.data ? out.data : "", stdout);
    buf_deinit(&out);
}

int cmd_init(opt_args *args) {
    char names[512];
    list_variants(names, sizeof names);
    const char *variant = NULL, *file = NULL, *out = NULL, *dtype = "bfloat16", *policy = NULL;
    uint64_t seed = 0, shard_bytes = 0;
    double depth = 0, agreement = 0;
    bool json = false;
    const opt_row options[] = {
        {"--variant", OPT_TEXT, &variant, "NAME", names, 0, 0, false},
        OPT_OLD_NAME("--config", "--config-json"),
        {"--config-json", OPT_TEXT, &file, "FILE", "config.json to follow, instead of --variant", 0,
         0, false},
        {"--out", OPT_TEXT, &out, "DIR",
         "folder to write; it is made if absent, and no file in it is overwritten", 0, 0, true},
        {"--seed", OPT_UINT, &seed, "N",
         "seed of the weights; the same seed gives the same bytes (default 0)", 0, 9.2e18, false},
        {"--dtype", OPT_CHOICE, &dtype, "bfloat16|float32|float16",
         "number format of the weights (default bfloat16)", 0, 0, false},
        {"--mean-depth", OPT_REAL, &depth, "X",
         "mean loops per token that the random weights give (default: 3/8 of the model's loops, "
         "plus one); all families but openmythos: also writes an exit threshold into config.json, "
         "and without this option every loop runs",
         0, PLAN_MAX_LOOPS, false},
        {"--agreement", OPT_REAL, &agreement, "P",
         "part of tokens, up to 1, that loop 1 and the last loop name alike, drawn with the same "
         "random numbers at temperature 1, as drafts are: later loops then change little, and "
         "logits are as peaked as a trained model's. Found in about a minute on smaller models, in "
         "a folder DIR.fathom-trial that is removed again; 'fathom compare --made-up' measures "
         "it (default: usual weights, which hardly agree)",
         0.01, 1, false},
        {"--halted-kv", OPT_CHOICE, &policy, "exact|last",
         "policy that config.json names; openmythos models only (default exact)", 0, 0, false},
        {"--shard-bytes", OPT_BYTES, &shard_bytes, "BYTES",
         "split the weights into files of about this many bytes (default: one file)", 0, 9.2e18,
         false},
        {"--json", OPT_FLAG, &json, NULL,
         "print one JSON object with folder, family, parameters, bytes and dtype", 0, 0, false},
    };
    const opt_command command = {
        "init", "writes a model folder of random weights",
        "fathom init --variant tiny --out /tmp/tiny --dtype float32 --mean-depth 4", options,
        ARRAY_LEN(options)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    model_plan plan;
    if (config_of(&plan, variant, file, &e) != 0) return opt_fail(&e);
    if (policy && set_policy(&plan, policy, &e) != 0) return opt_fail(&e);
    if (check_depth(&plan, depth, &e) != 0) return opt_fail(&e);
    progress bar;
    model_init_opts opts = {
        .seed = seed,
        .dtype = strcmp(dtype, "float32") == 0   ? DTYPE_F32
                 : strcmp(dtype, "float16") == 0 ? DTYPE_F16
                                                 : DTYPE_BF16,
        .mean_depth = (float)depth,
        .shard_bytes = shard_bytes,
        .progress = show_progress,
        .ud = &bar,
    };
    if (agreement > 0 && find_motion(&opts, &plan, agreement, out, &e) != 0) return opt_fail(&e);
    uint64_t params = plan_params(&plan), bytes = params * model_dtype_bytes(opts.dtype);
    progress_start(&bar, "writing weights", NULL, bytes);
    int rc = model_init_write(out, &plan, &opts, &e);
    progress_stop(&bar);
    if (rc != 0) return opt_fail(&e);
    print_result(out, &plan, bytes, dtype, json);
    return 0;
}
