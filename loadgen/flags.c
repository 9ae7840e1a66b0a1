/* flags.c - the command line of `fathom bench`. */
#include "base/size.h"
#include "loadgen/flags_internal.h"

#include <stdio.h>
#include <string.h>

bench_flags bench_flags_default(void) {
    return (bench_flags){
        .host = "127.0.0.1",
        .port = 8080,
        .backend = "openai",
        .dataset = "random",
        .n_prompts = 1000,
        .input_len = 1024,
        .output_len = 128,
        .vocab_size = 256,
        .hash_chunk = 16,
        .custom_output = -1,
        .sonnet_input = 550,
        .sonnet_prefix = 200,
        .sonnet_output = 150,
        .shared_prefix = 256,
        .shared_suffix = 256,
        .n_prefixes = 10,
        .shared_output = 128,
        .top_k = BENCH_NO_TOP_K,
        .presence_penalty = BENCH_NO_PENALTY,
        .frequency_penalty = BENCH_NO_PENALTY,
        .trace_seconds = 1,
        .rate = "inf",
        .burstiness = 1,
        .ramp_start = BENCH_UNSET,
        .ramp_end = BENCH_UNSET,
        .timeout_s = 3600,
        .temperature = BENCH_UNSET,
        .top_p = BENCH_UNSET,
        .min_p = BENCH_UNSET,
        .repetition_penalty = BENCH_UNSET,
        .logprobs = BENCH_NO_LOGPROBS,
        .metrics = "ttft,tpot,itl",
        .percentiles = "99",
        .result_dir = ".",
    };
}

char **bench_repeat_flags(int *argc, char **argv) {
    static const char *const many[] = {"--goodput", "--metadata", "--header"};
    char **out = array_new((size_t)*argc * 2 + 1, sizeof *out);
    if (out == NULL) return NULL;
    char *open = NULL;
    int n = 0;
    for (int i = 0; i < *argc; i++) {
        if (argv[i][0] == '-' && argv[i][1] == '-') {
            open = NULL;
            for (size_t k = 0; k < ARRAY_LEN(many); k++) {
                if (strcmp(argv[i], many[k]) == 0) open = argv[i];
            }
        } else if (open && out[n - 1] != open) {
            out[n++] = open;
        }
        out[n++] = argv[i];
    }
    *argc = n;
    return out;
}

int bench_flags_read(bench_flags *flags, opt_args *args) {
    const opt_row options[] = {
        {"--url", OPT_TEXT, &flags->url, "URL",
         "address of the server, as http://127.0.0.1:8080 (default: from --host and --port)", 0, 0,
         false},
        OPT_OTHER_NAME("--base-url", "--url"),
        {"--host", OPT_TEXT, &flags->host, "NAME",
         "host name or address of the server (default 127.0.0.1)", 0, 0, false},
        {"--port", OPT_UINT, &flags->port, "N", "port of the server (default 8080)", 1, 65535,
         false},
        {"--backend", OPT_CHOICE, &flags->backend, "openai|vllm|openai-chat",
         "API to call; openai and vllm: completions; openai-chat: chat completions (default "
         "openai)",
         0, 0, false},
        OPT_OTHER_NAME("--endpoint-type", "--backend"),
        {"--endpoint", OPT_TEXT, &flags->endpoint, "PATH",
         "path to send requests to (default: /v1/completions or /v1/chat/completions)", 0, 0,
         false},
        {"--model", OPT_TEXT, &flags->model, "NAME",
         "name of the model (default: the first that /v1/models lists)", 0, 0, false},
        OPT_NO_ENVIRONMENT("--model"), /* FATHOM_MODEL names a folder */
        {"--served-model-name", OPT_TEXT, &flags->served_name, "NAME",
         "name of the model in requests, if it differs from --model (default: --model)", 0, 0,
         false},
        {"--header", OPT_TEXT_MANY, &flags->headers, "K=V",
         "header to send with every request; may be given several times", 0, 0, false},
        {"--insecure", OPT_FLAG, &flags->insecure, NULL, "accept any TLS certificate of the server",
         0, 0, false},
        {"--dataset-name", OPT_CHOICE, &flags->dataset,
         "random|custom|sharegpt|sonnet|prefix_repetition|timed_trace",
         "data set that the prompts are taken from (default random)", 0, 0, false},
        {"--dataset-path", OPT_TEXT, &flags->dataset_path, "FILE",
         "file of the data set; custom: one JSON object {prompt, output_tokens} a line; sharegpt: "
         "a JSON list of conversations; sonnet: lines of verse; timed_trace: a Mooncake trace",
         0, 0, false},
        {"--no-oversample", OPT_FLAG, &flags->no_oversample, NULL,
         "custom, sharegpt: send each prompt of the file once, even if --num-prompts is larger "
         "(default: begin again)",
         0, 0, false},
        {"--custom-output-len", OPT_INT, &flags->custom_output, "N",
         "custom: most output tokens; -1: the line's output_tokens, or --output-len without one "
         "(default -1)",
         -1, 1 << 24, false},
        {"--sharegpt-output-len", OPT_UINT, &flags->sharegpt_output, "N",
         "sharegpt: most output tokens; 0: as many as the answer in the file has (default 0)", 0,
         1 << 20, false},
        {"--sonnet-input-len", OPT_UINT, &flags->sonnet_input, "N",
         "sonnet: approximate tokens of a prompt (default 550)", 1, 1 << 20, false},
        {"--sonnet-prefix-len", OPT_UINT, &flags->sonnet_prefix, "N",
         "sonnet: approximate tokens at the start of a prompt that all prompts share; counted in "
         "--sonnet-input-len (default 200)",
         0, 1 << 20, false},
        {"--sonnet-output-len", OPT_UINT, &flags->sonnet_output, "N",
         "sonnet: most output tokens (default 150)", 1, 1 << 20, false},
        {"--prefix-repetition-prefix-len", OPT_UINT, &flags->shared_prefix, "N",
         "prefix_repetition: tokens of a prefix, shared by several prompts (default 256)", 1,
         1 << 20, false},
        {"--prefix-repetition-suffix-len", OPT_UINT, &flags->shared_suffix, "N",
         "prefix_repetition: tokens after the prefix, different in each prompt (default 256)", 1,
         1 << 20, false},
        {"--prefix-repetition-num-prefixes", OPT_UINT, &flags->n_prefixes, "N",
         "prefix_repetition: number of prefixes, at most --num-prompts (default 10)", 1, 1 << 20,
         false},
        {"--prefix-repetition-output-len", OPT_UINT, &flags->shared_output, "N",
         "prefix_repetition: most output tokens (default 128)", 1, 1 << 20, false},
        {"--tokenizer", OPT_TEXT, &flags->tokenizer, "DIR",
         "model folder whose tokenizer makes random prompts and counts the tokens of texts "
         "(default: four bytes count as one token)",
         0, 0, false},
        {"--tokenizer-mode", OPT_TEXT, &flags->tokenizer_mode, "MODE",
         "accepted; changes nothing here", 0, 0, false},
        {"--trust-remote-code", OPT_FLAG, &flags->trust, NULL,
         "accepted for vLLM's command lines; changes nothing here, since no code of a model is run",
         0, 0, false},
        {"--skip-chat-template", OPT_FLAG, &flags->no_template, NULL,
         "accepted for vLLM's command lines; changes nothing here, since prompts are sent as they "
         "are",
         0, 0, false},
        {"--no-stream", OPT_FLAG, &flags->no_stream, NULL,
         "accepted for vLLM's command lines; changes nothing here, since data sets are files", 0, 0,
         false},
        {"--self-timed", OPT_FLAG, &flags->self_timed, NULL,
         "timed_trace: send requests at the times of the trace, instead of --request-rate", 0, 0,
         false},
        {"--timed-trace-sec-multiplier", OPT_REAL, &flags->trace_seconds, "S",
         "timed_trace: seconds per unit of the trace's timestamps (default 1)", 1e-9, 1e6, false},
        {"--timed-trace-chunk-hash-size", OPT_UINT, &flags->hash_chunk, "N",
         "timed_trace: tokens that each hash id stands for (default 16)", 1, 1 << 20, false},
        {"--num-prompts", OPT_UINT, &flags->n_prompts, "N", "requests (default 1000)", 1, 10000000,
         false},
        {"--input-len", OPT_UINT, &flags->input_len, "N",
         "random: tokens of a prompt; for chat without --tokenizer: words (default 1024)", 1,
         1 << 20, false},
        OPT_OTHER_NAME("--random-input-len", "--input-len"),
        {"--output-len", OPT_UINT, &flags->output_len, "N",
         "most output tokens of a request (default 128)", 1, 1 << 20, false},
        OPT_OTHER_NAME("--random-output-len", "--output-len"),
        {"--random-range-ratio", OPT_REAL, &flags->range_ratio, "R",
         "random: lengths vary evenly by up to this share, up and down (default 0)", 0, 0.999,
         false},
        {"--random-prefix-len", OPT_UINT, &flags->prefix_len, "N",
         "random: tokens at the start of every prompt that all prompts share (default 0)", 0,
         1 << 20, false},
        {"--vocab-size", OPT_UINT, &flags->vocab_size, "N",
         "random: prompts hold token ids below N, without --tokenizer (default 256)", 1, 1 << 24,
         false},
        {"--request-rate", OPT_TEXT, &flags->rate, "R",
         "requests per second; inf: all at once (default inf)", 0, 0, false},
        {"--rates", OPT_TEXT, &flags->rates, "R,R",
         "a run for each of these request rates, one after another, instead of --request-rate: "
         "prints a table of them, saves all in one file, and --plot draws their curve (default: "
         "one "
         "run)",
         0, 0, false},
        {"--rate-seconds", OPT_REAL, &flags->rate_seconds, "S",
         "with --rates: as many requests of each rate as take S seconds to send (default: as "
         "--num-prompts says)",
         1e-3, 1e6, false},
        {"--burstiness", OPT_REAL, &flags->burstiness, "B",
         "shape of the gamma distribution of the gaps between requests; 1: Poisson arrivals, less: "
         "bursts (default 1)",
         1e-3, 1e6, false},
        {"--ramp-up-strategy", OPT_CHOICE, &flags->ramp, "linear|exponential",
         "how the request rate changes from --ramp-up-start-rps to --ramp-up-end-rps over the run",
         0, 0, false},
        {"--ramp-up-start-rps", OPT_REAL, &flags->ramp_start, "R",
         "requests per second at the start of the ramp (no default)", 1e-6, 1e9, false},
        {"--ramp-up-end-rps", OPT_REAL, &flags->ramp_end, "R",
         "requests per second at the end of the ramp (no default)", 1e-6, 1e9, false},
        {"--max-concurrency", OPT_UINT, &flags->concurrency, "N",
         "most requests in flight: a closed loop (default: no limit)", 1, 1000000, false},
        {"--cancel-rate", OPT_REAL, &flags->cancel_rate, "P",
         "share of requests that the client cuts off in mid-stream (default 0)", 0, 1, false},
        {"--probe-request-rate", OPT_REAL, &flags->probe_rate, "R",
         "one-token requests per second beside the load, reported separately (default 0)", 0, 1e5,
         false},
        {"--num-warmups", OPT_UINT, &flags->warmups, "N",
         "requests to send before the measured ones (default 0)", 0, 100000, false},
        {"--ready-check-timeout-sec", OPT_REAL, &flags->ready_s, "S",
         "wait up to S seconds until GET /health answers 200; 0: do not ask (default 0)", 0, 86400,
         false},
        {"--timeout-sec", OPT_REAL, &flags->timeout_s, "S",
         "give up a request after S seconds (default 3600)", 0.001, 86400, false},
        {"--ignore-eos", OPT_FLAG, &flags->ignore_eos, NULL,
         "ask the server not to end at a stop token, so that every answer has its most output "
         "tokens",
         0, 0, false},
        {"--return-depth", OPT_FLAG, &flags->return_depth, NULL,
         "ask for the depth of each token and print a histogram", 0, 0, false},
        {"--logprobs", OPT_UINT, &flags->logprobs, "N",
         "ask for the log-probabilities of the N likeliest tokens (default: do not ask)", 0, 20,
         false},
        {"--temperature", OPT_REAL, &flags->temperature, "T",
         "sampling temperature; 0: always the likeliest token (default: the server's)", 0, 2,
         false},
        {"--top-p", OPT_REAL, &flags->top_p, "P",
         "sampling parameter top_p (default: the server's)", 0, 1, false},
        {"--min-p", OPT_REAL, &flags->min_p, "P",
         "sampling parameter min_p (default: the server's)", 0, 1, false},
        {"--top-k", OPT_INT, &flags->top_k, "N",
         "sampling parameter top_k; 0 or -1: off (default: the server's)", -1, 1 << 24, false},
        {"--presence-penalty", OPT_REAL, &flags->presence_penalty, "X",
         "sampling parameter presence_penalty (default: the server's)", -2, 2, false},
        {"--frequency-penalty", OPT_REAL, &flags->frequency_penalty, "X",
         "sampling parameter frequency_penalty (default: the server's)", -2, 2, false},
        {"--repetition-penalty", OPT_REAL, &flags->repetition_penalty, "R",
         "sampling parameter repetition_penalty (default: the server's)", 0.01, 10, false},
        {"--extra-body", OPT_TEXT, &flags->extra_body, "JSON",
         "fields to add to every request body, as {\"depth\":{\"max_loops\":4}}", 0, 0, false},
        {"--request-id-prefix", OPT_TEXT, &flags->request_id_prefix, "TEXT",
         "send the header X-Request-Id: TEXT0, TEXT1, … (default: send none)", 0, 0, false},
        {"--seed", OPT_UINT, &flags->seed, "N",
         "seed of prompts, arrival times and cancels (default 0)", 0, 1e18, false},
        {"--percentile-metrics", OPT_TEXT, &flags->metrics, "LIST",
         "figures to report, with commas, of ttft, tpot, itl, e2el, client_queue_time, "
         "e2el_including_client_queue "
         "(default ttft,tpot,itl)",
         0, 0, false},
        {"--metric-percentiles", OPT_TEXT, &flags->percentiles, "LIST",
         "percentiles to report, with commas (default 99)", 0, 0, false},
        {"--goodput", OPT_TEXT_MANY, &flags->goodput, "M:MS",
         "report how many requests per second stay within all of these, in milliseconds: ttft:MS "
         "tpot:MS e2el:MS",
         0, 0, false},
        {"--save-result", OPT_FLAG, &flags->save, NULL, "write the figures into a file as JSON", 0,
         0, false},
        {"--save-detailed", OPT_FLAG, &flags->detailed, NULL,
         "add latencies and text of every request to the file", 0, 0, false},
        {"--append-result", OPT_FLAG, &flags->append, NULL,
         "add the figures to the file as one line of JSON", 0, 0, false},
        {"--result-dir", OPT_TEXT, &flags->result_dir, "DIR",
         "folder of the result file (default .)", 0, 0, false},
        {"--result-filename", OPT_TEXT, &flags->result_file, "FILE",
         "name of the result file (default: LABEL-RATEqps[-concurrencyN]-MODEL-TIME.json)", 0, 0,
         false},
        {"--label", OPT_TEXT, &flags->label, "TEXT",
         "name of the run in the result file (default: the backend)", 0, 0, false},
        {"--metadata", OPT_TEXT_MANY, &flags->metadata, "K=V",
         "entry to add to the result file; may be given several times", 0, 0, false},
        {"--plot", OPT_TEXT, &flags->plot, "FILE",
         "also draw the figures into FILE, which ends in .svg or .png (needs gnuplot)", 0, 0,
         false},
        {"--disable-tqdm", OPT_FLAG, &flags->quiet, NULL, "do not print progress to stderr", 0, 0,
         false},
    };
    const opt_command command = {
        "bench",
        "puts load on a server over HTTP, with the flags and figures of `vllm bench "
        "serve`\n\nWithout --max-concurrency, a request's latency counts from the time it was "
        "scheduled for.\nTo measure without HTTP: 'fathom bench engine', 'fathom bench kernels'.",
        "fathom bench --url http://127.0.0.1:8080 --num-prompts 64 --input-len 32 --output-len 32 "
        "--max-concurrency 8 --return-depth",
        options,
        ARRAY_LEN(options),
    };
    return opt_parse(&command, args);
}

void bench_say_ignored(const bench_flags *flags) {
    const struct {
        bool given;
        const char *name;
    } ignored[] = {{flags->trust, "--trust-remote-code"},
                   {flags->tokenizer_mode != NULL, "--tokenizer-mode"},
                   {flags->no_template, "--skip-chat-template"},
                   {flags->no_stream, "--no-stream"}};
    const char *before = "fathom bench: flags that change nothing here: ";
    for (size_t i = 0; i < ARRAY_LEN(ignored); i++) {
        if (!ignored[i].given) continue;
        fprintf(stderr, "%s%s", before, ignored[i].name);
        before = ", ";
    }
    if (before[0] == ',') fprintf(stderr, "\n");
}
