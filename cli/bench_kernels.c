/* bench_kernels.c - fathom bench kernels: measures the CPU kernels beside the limits of the
 * machine. */
#include "base/json.h"
#include "cli/describe.h"
#include "engine/kernel_bench.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    bool json;
    uint32_t n_rows;
} row_printer;

static void print_row(void *ud, const eng_kernel_time *kernel) {
    row_printer *printer = ud;
    if (printer->json) {
        printf("%s\n  {\"what\":\"%s\",\"dtype\":\"%s\",\"threads\":%u,\"rows\":%u,\"context\":%u,"
               "\"seconds\":%.6g,\"cpu_seconds\":%.6g,\"gb_per_s\":%.5g,\"gflop_per_s\":%.5g,"
               "\"percent\":%.4g,\"percent_"
               "cpu\":%.4g,"
               "\"bound\":\"%s\"}",
               printer->n_rows ? "," : "", kernel->what, kernel->dtype, kernel->threads,
               kernel->rows, kernel->context, kernel->seconds, kernel->cpu_seconds,
               kernel->gbytes / kernel->seconds, kernel->gflop / kernel->seconds, kernel->percent,
               kernel->percent_cpu, kernel->bound ? kernel->bound : "");
    } else {
        printf("%-18s %-5s %7u %5u %8u %9.1f %9.1f %9.1f", kernel->what, kernel->dtype,
               kernel->threads, kernel->rows, kernel->context, kernel->seconds * 1e6,
               kernel->gbytes / kernel->seconds, kernel->gflop / kernel->seconds);
        if (kernel->bound)
            printf("  %5.1f  %5.1f %s", kernel->percent, kernel->percent_cpu, kernel->bound);
        printf("\n");
    }
    printer->n_rows++;
    fflush(stdout);
}

int cmd_bench_kernels(opt_args *args) {
    const char *model = NULL, *kernels = "auto", *cache = "f32", *weights = "auto", *only = NULL;
    uint64_t threads = 0, rows = 0;
    row_printer printer = {0};
    const opt_row options[] = {
        {"--model", OPT_TEXT, &model, "MODEL",
         "also measure the stages of this model: a folder or a name (default: no model)", 0, 0,
         false},
        OPT_BARE("--model"),
        {"--threads", OPT_UINT, &threads, "N",
         "compute threads (default: one per core, or as many as the container's CPU quota pays "
         "for)",
         1, 512, false},
        {"--kernels", OPT_CHOICE, &kernels, "auto|avx512|avx2|portable",
         "compute kernels (default: the fastest measured)", 0, 0, false},
        {"--kv-dtype", OPT_CHOICE, &cache, "f32|bf16",
         "number format of the key/value cache (default f32)", 0, 0, false},
        {"--weights", OPT_CHOICE, &weights, "auto|bf16|int8",
         "format of large matrices in memory (default auto: as stored)", 0, 0, false},
        {"--what", OPT_TEXT, &only, "NAME",
         "measure one of: probe, gemm, attention, feed-forward, recurrent step, recurrent prompt, "
         "coda and head, forms (the two ways to compute a prompt's attention), sampler (a choice "
         "of "
         "a token; context is the vocabulary) (default: all but forms and sampler)",
         0, 0, false},
        {"--rows", OPT_UINT, &rows, "N",
         "measure one number of rows only: 1, 8, 32 or 128; with --what forms: 128, 256 or 512 "
         "(default: all)",
         1, 512, false},
        {"--json", OPT_FLAG, &printer.json, NULL, "print JSON instead of a table", 0, 0, false},
    };
    const opt_command command = {"bench kernels",
                                 "measures the CPU kernels beside the limits of the machine",
                                 "fathom bench kernels demo", options, ARRAY_LEN(options)};
    int rc = opt_parse(&command, args);
    if (rc != 0) return rc > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    model_folder *folder = NULL;
    model_place place;
    if (model && take_model(&model, &place, &e) != 0) return opt_fail(&e);
    if (model && model_open(&folder, model, &e) != 0) return opt_fail(&e);
    eng_backend_opts opts = {.threads = (uint32_t)threads,
                             .kernels = kernels,
                             .cache_dtype = strcmp(cache, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
                             .weights = eng_weights_named(weights)};
    const model_plan *plan = folder ? model_plan_of(folder) : NULL;
    const char *chosen = "";
    if (printer.json) printf("{\"runs\":[");
    else
        printf("%-18s %-5s %7s %5s %8s %9s %9s %9s %6s %6s\n", "what", "dtype", "threads", "rows",
               "context", "us", "GB/s", "GFLOP/s", "%", "% cpu");
    if (only && strcmp(only, "sampler") == 0) rc = eng_sampler_bench(print_row, &printer, &e);
    else rc = eng_cpu_bench(folder, &opts, only, (uint32_t)rows, &chosen, print_row, &printer, &e);
    if (printer.json) {
        buf name = {0};
        buf_json_string(&name, model ? model : "", model ? strlen(model) : 0);
        if (folder) buf_puts(&name, ",");
        if (folder) describe_plan_json(&name, plan, plan->exit, plan->exit_threshold);
        printf("\n],\"kernels\":\"%s\",\"model\":%s}\n", chosen, name.data ? name.data : "\"\"");
        buf_deinit(&name);
    } else {
        buf words = {0};
        if (folder) describe_plan(&words, plan, plan->exit, plan->exit_threshold);
        if (chosen[0]) printf("kernels: %s\n", chosen);
        printf("%s%s", words.data ? words.data : "", folder ? "\n" : "");
        buf_deinit(&words);
    }
    model_close(folder);
    return rc == 0 ? 0 : opt_fail(&e);
}
