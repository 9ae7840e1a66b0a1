/* flags_internal.h - the command line of `fathom bench` before it is checked. */
#ifndef FATHOM_LOADGEN_FLAGS_INTERNAL_H
#define FATHOM_LOADGEN_FLAGS_INTERNAL_H

#include "loadgen/loadgen_internal.h"

#include "base/options.h"

#define BENCH_UNSET (-1.0)       /* a number that was not given and is not sent; */
#define BENCH_NO_PENALTY (-1e9)  /* the same for penalties, which may be -1, */
#define BENCH_NO_TOP_K INT64_MIN /* and for a whole number */
#define BENCH_NO_LOGPROBS (UINT64_C(1) << 20)

typedef struct {
    const char *tokenizer;
    const char *url, *host, *backend, *endpoint, *model, *served_name, *dataset, *dataset_path;
    const char *rate, *rates, *ramp, *extra_body, *percentiles, *metrics, *request_id_prefix;
    uint64_t port, n_prompts, input_len, output_len, prefix_len, vocab_size, seed, concurrency;
    uint64_t warmups, logprobs, hash_chunk, sonnet_input, sonnet_prefix, sonnet_output;
    uint64_t shared_prefix, shared_suffix, n_prefixes, shared_output, sharegpt_output;
    int64_t top_k, custom_output;
    double burstiness, ramp_start, ramp_end, range_ratio, cancel_rate, ready_s, timeout_s;
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    double probe_rate, trace_seconds, rate_seconds;
    bool self_timed;
    bool ignore_eos, return_depth, insecure, quiet, save, detailed, append, no_oversample;
    bool no_template, no_stream, trust; /* accepted without effect, and tokenizer_mode: */
    const char *tokenizer_mode;
    opt_list goodput, headers, metadata;
    const char *result_dir, *result_file, *label, *plot;
} bench_flags;

bench_flags bench_flags_default(void);
/* opt_parse for the options of `fathom bench`. */
int bench_flags_read(bench_flags *flags, opt_args *args);
/* vLLM's flags may have several values after one name, and opt_parse allows one, so the name is
 * repeated before each value. Free the result; NULL when out of memory. */
char **bench_repeat_flags(int *argc, char **argv);
/* Prints one line to stderr with the given flags that have no effect here, if there are any. */
void bench_say_ignored(const bench_flags *flags);

/* Runs the benchmark that flags and opts describe; opts come from flags. */
int bench_steps(const bench_flags *flags, bench_opts *opts, err *e) WARN_UNUSED;

#endif
