/* version.c - fathom version: what was built, and what it runs with here. */
#include "base/version.h"
#include "base/json.h"
#include "cli/cli.h"
#include "engine/backend.h"
#include "engine/kernel_bench.h"
#include "server/server.h"

#include <stdio.h>

static void each_library(version_sink put, void *ud) {
    server_libraries(put, ud);
    put(ud, "jansson", jansson_version_str());
    tokenizer_libraries(put, ud);
}

static void add_text(void *ud, const char *library, const char *version) {
    buf *out = ud;
    buf_printf(out, "%s%s %s", out->len ? ", " : "", library, version);
}

static void add_member(buf *out, const char *key, const char *value) {
    buf_puts(out, out->len > 1 && out->data[out->len - 1] != '{' ? "," : "");
    buf_json_text(out, key);
    buf_puts(out, ":");
    buf_json_text(out, value);
}

static void add_json(void *ud, const char *library, const char *version) {
    add_member(ud, library, version);
}

static void print_text(const char *cuda) {
    buf libraries = {0};
    each_library(add_text, &libraries);
    printf("%s\ncompiler   %s\nkernels    %s on this machine\nlibraries  %s\nCUDA       %s\n",
           version_line(), version_compiler(), eng_cpu_kernels(),
           libraries.failed ? "" : libraries.data, cuda);
    buf_deinit(&libraries);
}

static int print_json(const char *cuda) {
    buf out = {0};
    buf_puts(&out, "{");
    add_member(&out, "version", FATHOM_VERSION);
    add_member(&out, "commit", version_commit());
    add_member(&out, "compiler", version_compiler());
    add_member(&out, "kernels", eng_cpu_kernels());
    add_member(&out, "cuda", cuda);
    buf_puts(&out, ",\"libraries\":{");
    each_library(add_json, &out);
    buf_puts(&out, "}}\n");
    bool failed = out.failed;
    if (!failed) fputs(out.data, stdout);
    buf_deinit(&out);
    return failed ? EXIT_FAILED : 0;
}

int cmd_version(opt_args *args) {
    bool json = false;
    const opt_row options[] = {
        {"--json", OPT_FLAG, &json, NULL, "print one JSON object instead of lines", 0, 0, false},
    };
    const opt_command command = {"version",
                                 "tells the version, the commit, the compiler, the kernels for "
                                 "this machine and the libraries",
                                 "fathom version --json", options, ARRAY_LEN(options)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    char cuda[600];
    eng_cuda_describe(cuda, sizeof cuda);
    if (json) return print_json(cuda);
    print_text(cuda);
    return 0;
}
