/* server.h - the HTTP server: one model, served until it is told to stop. */
#ifndef FATHOM_SERVER_H
#define FATHOM_SERVER_H

#include "base/log.h"
#include "base/options.h"
#include "base/version.h"
#include "runtime/runtime.h"

enum {
    SERVER_UNSET = 0x7fffffff,              /* value of an option that was not given */
    SERVER_LEAST_REQUEST_MEMORY = 16 << 20, /* bytes */
};

typedef struct {
    runtime_opts run;
    const char *host, *admin_host, *served_name, *chat_template, *api_key_file, *log_level,
        *log_format, *kv_endpoint, *kv_topic;
    const char *model_why; /* logged: the way the model was found; NULL: it was given as a path */
    opt_list cors, allowed_hosts;
    uint64_t port, admin_port, max_queue, max_queue_tokens, max_body, request_memory,
        max_connections, max_per_ip, max_per_key, max_seqs_per_key, max_tokens_per_key;
    uint64_t max_tokens, max_n, max_prompts, ceiling_loops;
    double lame_duck_s, drain_s, max_wait_s, header_s, body_s, idle_s, stall_s, ping_s, hang_s;
    bool client_priority, share_cache;
    bool metrics_key, no_prefix_cache, depth_cap, control_ids, special_tokens, no_sandbox,
        refuse_long, warn_unknown;
} server_opts;

server_opts server_opts_default(void);
/* Tells the libraries of the HTTP side. */
void server_libraries(version_sink put, void *ud);
/* Sets level and format of the log. */
void server_set_log(const server_opts *opts);
/* Serves on the calling thread until a signal ends it. Borrows the texts in opts. Prints a failure
 * and returns the exit status of the process. */
int server_run(const server_opts *opts);

#endif
