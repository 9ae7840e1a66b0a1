/* serve.c - `fathom serve`: its options. */
#include "cli/cli.h"
#include "server/server.h"

#include <stdio.h>

int cmd_serve(opt_args *args) {
    server_opts opts = server_opts_default();
    const opt_row options[] = {
        ENGINE_OPTIONS_ON(&opts.run, "auto|cpu|cuda|fake",
                          "; fake computes nothing and serves load tests"),
        POLICY_OPTIONS(&opts.run),
        SPECULATION_OPTIONS(&opts.run),
        {"--host", OPT_TEXT, &opts.host, "ADDR", "address to listen on (default 127.0.0.1)", 0, 0,
         false},
        {"--port", OPT_UINT, &opts.port, "N", "port to listen on; 0: any free port (default 8080)",
         0, 65535, false},
        {"--served-name", OPT_TEXT, &opts.served_name, "NAME",
         "name of the model in answers (default: the folder's name)", 0, 0, false},
        {"--chat-template", OPT_TEXT, &opts.chat_template, "FILE|NAME",
         "chat template to use instead of the folder's: a Jinja file, a description as in "
         "chat_template.fathom.json, or one of turns, chatml, llama3, plain",
         0, 0, false},
        {"--api-key-file", OPT_TEXT, &opts.api_key_file, "FILE",
         "file of API keys, one key a line: KEY [NAME] [weight=N] [priority=A..B] (default: no key "
         "is asked for)",
         0, 0, false},
        {"--log-level", OPT_CHOICE, &opts.log_level, "alert|warn|info|debug",
         "least important kind of log line that is written (default info)", 0, 0, false},
        {"--log-format", OPT_CHOICE, &opts.log_format, "auto|text|json",
         "form of the log: text; json: an object a line; auto: text, with coloured levels on a "
         "terminal and with systemd's <N> levels in its journal (default auto)",
         0, 0, false},
        OPT_GROUP("HTTP"),
        {"--admin-port", OPT_UINT, &opts.admin_port, "N",
         "second port for /health, /ready, /metrics and /launches, which answers even when the "
         "main port is "
         "full; 0: any free port (default: no second port)",
         0, 65535, false},
        {"--admin-host", OPT_TEXT, &opts.admin_host, "ADDR",
         "address of the admin port (default 127.0.0.1)", 0, 0, false},
        {"--metrics-key", OPT_FLAG, &opts.metrics_key, NULL,
         "ask for an API key at /metrics and /launches too", 0, 0, false},
        {"--allowed-host", OPT_TEXT_MANY, &opts.allowed_hosts, "NAME",
         "host name by which clients may call this server, or * for any name; may be given several "
         "times (default: local names if only this machine can connect, else any name)",
         0, 0, false},
        {"--cors-origin", OPT_TEXT_MANY, &opts.cors, "ORIGIN",
         "origin whose web pages may call this server, as in https://example.org, or * for any; "
         "may be given several times (default: only this server's own page)",
         0, 0, false},
        {"--header-seconds", OPT_REAL, &opts.header_s, "S",
         "close a connection whose headers are not complete after S seconds (default 10)", 0.1,
         3600, false},
        {"--body-seconds", OPT_REAL, &opts.body_s, "S",
         "after S seconds, close a connection whose request body arrives at less than 1 KB/s "
         "(default 10)",
         0.1, 3600, false},
        {"--idle-seconds", OPT_REAL, &opts.idle_s, "S",
         "close idle connections after S seconds (default 125)", 0.1, 3600, false},
        {"--stall-seconds", OPT_REAL, &opts.stall_s, "S",
         "close a stream whose client reads nothing for S seconds (default 20)", 0.1, 3600, false},
        {"--keep-alive-seconds", OPT_REAL, &opts.ping_s, "S",
         "send a comment on a stream that was silent for S seconds; 0: never (default 20)", 0, 3600,
         false},
        OPT_GROUP("Requests"),
        {"--default-max-tokens", OPT_UINT, &opts.max_tokens, "N",
         "most tokens of a chat answer whose request names no limit (default: the model's)", 1, 1e9,
         false},
        {"--refuse-long", OPT_FLAG, &opts.refuse_long, NULL,
         "refuse a token limit above the room that a prompt leaves in the context (default: cut "
         "the limit, and the answer ends with \"length\")",
         0, 0, false},
        {"--max-n", OPT_UINT, &opts.max_n, "N",
         "most choices of one prompt, the field n (default 16)", 1, 128, false},
        {"--max-prompts", OPT_UINT, &opts.max_prompts, "N",
         "most prompts of one request (default 64)", 1, 4096, false},
        {"--warn-unknown", OPT_FLAG, &opts.warn_unknown, NULL,
         "name fields without effect in a list \"warnings\" of each answer (default: in the log "
         "only, each field once)",
         0, 0, false},
        {"--control-ids", OPT_FLAG, &opts.control_ids, NULL,
         "allow special tokens in prompts of token ids (default: such a prompt gets status 400)", 0,
         0, false},
        {"--special-tokens", OPT_FLAG, &opts.special_tokens, NULL,
         "read the name of a special token in a text prompt as that token (default: it is plain "
         "text)",
         0, 0, false},
        {"--client-priority", OPT_FLAG, &opts.client_priority, NULL,
         "honour the field priority of a request; it ranks the requests of one API key (default: "
         "ignore it)",
         0, 0, false},
        OPT_GROUP("Limits"),
        {"--max-queue", OPT_UINT, &opts.max_queue, "N",
         "most sequences that wait in the queue; further requests get status 503 (default 2048)", 0,
         1e6, false},
        {"--max-queue-tokens", OPT_UINT, &opts.max_queue_tokens, "N",
         "most prompt tokens that wait in the queue; further requests get status 503 (default "
         "1048576)",
         1, 1e12, false},
        {"--max-wait-seconds", OPT_REAL, &opts.max_wait_s, "S",
         "answer 503 to a request that has no first token after S seconds; 0: wait without end "
         "(default 600)",
         0, 86400, false},
        {"--max-requests-per-key", OPT_UINT, &opts.max_per_key, "N",
         "most requests of one API key at a time; further ones get status 429 (default: no limit)",
         0, 1e6, false},
        {"--max-sequences-per-key", OPT_UINT, &opts.max_seqs_per_key, "N",
         "most sequences (prompts times n) of one API key at a time; further ones get status 429 "
         "(default: as many as stay free for the other keys)",
         0, 1e6, false},
        {"--max-tokens-per-key", OPT_UINT, &opts.max_tokens_per_key, "N",
         "most tokens of one API key at a time, prompts plus max_tokens; further requests get "
         "status 429 (default: no limit)",
         0, 1e12, false},
        {"--max-connections", OPT_UINT, &opts.max_connections, "N",
         "most open connections; from nine tenths on, a new connection closes the longest idle one "
         "(default 16384)",
         1, 1e6, false},
        {"--max-connections-per-ip", OPT_UINT, &opts.max_per_ip, "N",
         "most open connections of one IP address; 0: no limit (default: a quarter of "
         "--max-connections; no limit for this machine)",
         0, 1e6, false},
        {"--max-body", OPT_BYTES, &opts.max_body, "BYTES",
         "bytes of the longest request body (default 2M)", 1024, 1e9, false},
        {"--request-memory", OPT_BYTES, &opts.request_memory, "BYTES",
         "most bytes that all requests hold together; beyond it the request that holds most for "
         "longest is ended (default: 256M, or a quarter of the memory of a smaller machine or "
         "container)",
         SERVER_LEAST_REQUEST_MEMORY, 1e12, false},
        GROUP_BATCHING,
        RUNNING_OPTION(&opts.run),
        {"--no-prefix-cache", OPT_FLAG, &opts.no_prefix_cache, NULL,
         "do not share cached prompts between requests", 0, 0, false},
        {"--share-cache", OPT_FLAG, &opts.share_cache, NULL,
         "share cached prompts between API keys; cached_tokens then shows what prompts other keys "
         "have sent",
         0, 0, false},
        OPT_GROUP("Routing"),
        {"--kv-events-endpoint", OPT_TEXT, &opts.kv_endpoint, "ENDPOINT",
         "publish over ZeroMQ which prompts the prefix cache holds, in vLLM's format, as in "
         "tcp://*:5557; an address of this machine is bound, another one is connected to. Who can "
         "reach it reads prompts as token ids (default: nothing is published)",
         0, 0, false},
        {"--kv-events-topic", OPT_TEXT, &opts.kv_topic, "TEXT",
         "topic of the KV events (default: kv@ADDRESS:PORT@MODEL)", 0, 0, false},
        GROUP_DEPTH,
        {"--depth-cap", OPT_FLAG, &opts.depth_cap, NULL,
         "run fewer loops per token while the queue is long (default: never)", 0, 0, false},
        GROUP_ENGINE,
        {"--fake-us-per-token", OPT_UINT, &opts.run.fake_us, "N",
         "with --device fake: microseconds that each token takes (default 0)", 0, 1e6, false},
        OPT_GROUP("Process"),
        {"--lame-duck-seconds", OPT_REAL, &opts.lame_duck_s, "S",
         "after SIGTERM, let /ready fail but serve new requests for S more seconds, so that a "
         "balancer in front learns of the end before any request is refused (default 0)",
         0, 86400, false},
        {"--drain-seconds", OPT_REAL, &opts.drain_s, "S",
         "after SIGTERM and --lame-duck-seconds, refuse new requests and let running ones go on "
         "for up to S seconds (default 30)",
         0, 86400, false},
        {"--hang-seconds", OPT_REAL, &opts.hang_s, "S",
         "end the process when the engine has given no sign of life for S seconds and for 20 of "
         "its usual steps; pauses of the whole process do not count (default 30)",
         0.1, 3600, false},
        {"--no-sandbox", OPT_FLAG, &opts.no_sandbox, NULL,
         "do not ask the kernel to refuse system calls that a server never makes", 0, 0, false},
    };
    const opt_command command = {
        .command = "serve",
        .summary = "serves a model over the OpenAI HTTP API",
        .example = "fathom serve demo --port 8080",
        .options = options,
        .n_options = ARRAY_LEN(options),
    };
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    if (opts.served_name && opts.served_name[0] == 0) {
        fprintf(stderr, "fathom serve: --served-name takes a name, not an empty text\n");
        return EXIT_USAGE;
    }
    err e = {0};
    model_place place;
    if (find_model(&place, opts.run.model, &e) != 0) return opt_fail(&e);
    opts.run.model = place.dir;
    if (place.why[0]) opts.model_why = place.why;
    if (!opts.served_name && place.name[0]) opts.served_name = place.name;
    server_set_log(&opts); /* a follower logs alike */
    join_ranks(&opts.run);
    return server_run(&opts);
}
