/* The options of a command: from the command line, the environment and a file, in this order. */
#include "base/nearest.h"
#include "base/options.h"
#include "tests/lib/files.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *model, *kind, *ahead;
    bool quick;
    uint64_t port, bytes;
    int64_t top;
    double rate;
    opt_real limit;
    opt_list hosts;
    int rc;
    char said[2000];
} outcome;

static bool known(const char *command, const char *option) {
    if (option) return strcmp(option, "--elsewhere") == 0 || strcmp(option, "--port") == 0;
    return strcmp(command, "demo") == 0 || strcmp(command, "other") == 0;
}

/* Holds the texts that values borrow until the test ends. */
static opt_args kept;

static void end_of_test(void) {
    opt_args_deinit(&kept);
    fail_on_leaks();
}

TestSuite(options, .fini = end_of_test);

/* Parses "demo" and up to 8 words. */
static outcome parse(const char *const words[8]) {
    static char name[] = "demo", copies[8][200];
    char *argv[10] = {name};
    int argc = 1;
    outcome out = {.port = 8080, .kind = "red"};
    const opt_row rows[] = {
        {"--model", OPT_TEXT, &out.model, "DIR", "model", 0, 0, false},
        OPT_BARE("--model"),
        OPT_NO_ENVIRONMENT("--kind"),
        {"--kind", OPT_CHOICE, &out.kind, "red|green", "kind", 0, 0, false},
        {"--ahead", OPT_CHOICE, &out.ahead, "auto|off|N", "ahead", 1, 64, false},
        {"--quick", OPT_FLAG, &out.quick, NULL, "quick", 0, 0, false},
        OPT_GROUP("Numbers"),
        {"--port", OPT_UINT, &out.port, "N", "port", 0, 65535, false},
        {"--bytes", OPT_BYTES, &out.bytes, "BYTES", "bytes", 0, 1e15, false},
        {"--top", OPT_INT, &out.top, "N", "top", -1, 9, false},
        {"--rate", OPT_REAL, &out.rate, "R", "rate", 0, 10, false},
        {"--limit", OPT_GIVEN_REAL, &out.limit, "X", "limit", 0, 1, false},
        {"--cors-origin", OPT_TEXT_MANY, &out.hosts, "NAME", "hosts", 0, 0, false},
        OPT_OTHER_NAME("--origin", "--cors-origin"),
        OPT_OLD_NAME("--door", "--port"),
    };
    const opt_command command = {"demo", "a command", "fathom demo", rows, ARRAY_LEN(rows)};
    for (int i = 0; i < 8 && words[i]; i++) {
        snprintf(copies[i], sizeof copies[i], "%s", words[i]);
        argv[argc++] = copies[i];
    }
    opt_args_deinit(&kept);
    opt_args_init(&kept, argc, argv);
    kept.known = known;
    int handle = stderr_catch();
    out.rc = opt_parse(&command, &kept);
    stderr_release(handle, out.said, sizeof out.said);
    return out;
}
#define PARSE(...) parse((const char *const[8]){__VA_ARGS__})

static void refused(const outcome *out, const char *says) {
    cr_assert_eq(out->rc, -1, "accepted; expected: %s", says);
    cr_assert_not_null(strstr(out->said, says), "said '%s', expected '%s'", out->said, says);
}

/* ---- the command line ---- */

Test(options, every_type_takes_its_value_from_the_command_line) {
    outcome out = PARSE("--port", "1", "--bytes=2K", "--top=-1", "--rate=0.5", "--limit=0",
                        "--quick", "models/demo");
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_eq(out.port, 1);
    cr_assert_eq(out.bytes, 2048);
    cr_assert_eq(out.top, -1);
    cr_assert_eq(out.rate, 0.5);
    cr_assert(out.limit.given && out.limit.value == 0 && out.quick);
    cr_assert_str_eq(out.model, "models/demo");
}

Test(options, a_choice_with_a_range_takes_its_words_and_whole_numbers) {
    static const char *const taken[] = {"auto", "off", "1", "64"};
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        outcome out = PARSE("--ahead", taken[i]);
        cr_assert_eq(out.rc, 0, "%s", out.said);
        cr_assert_str_eq(out.ahead, taken[i]);
    }
}

Test(options, counts_take_thousands_and_bytes_take_powers_of_two) {
    outcome out = PARSE("--port=2k", "--bytes=1g");
    cr_assert_eq(out.port, 2000);
    cr_assert_eq(out.bytes, 1u << 30);
    out = PARSE("--port=2K", "--bytes=3MiB");
    cr_assert_eq(out.port, 2048);
    cr_assert_eq(out.bytes, 3u << 20);
}

Test(options, other_and_old_names_set_the_option) {
    outcome out = PARSE("--door", "7", "--origin", "a", "--cors-origin", "b");
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_eq(out.port, 7);
    cr_assert_eq(out.hosts.n, 2);
}

Test(options, after_two_dashes_every_word_is_an_argument) {
    outcome out = PARSE("--", "--port");
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_str_eq(out.model, "--port");
}

Test(options, a_wrong_command_line_is_refused_with_the_reason) {
    static const struct {
        const char *words[8], *says;
    } rows[] = {
        {{"--prot", "1"}, "unknown option '--prot'; did you mean '--port'?"},
        {{"--nonsense"}, "unknown option '--nonsense' (see"},
        {{"a", "b"}, "unexpected argument 'b': --model is given already"},
        {{"--model", "a", "b"}, "unexpected argument 'b': --model is given already"},
        {{"a", "--model", "b"}, "--model is given twice: by its name, and without it"},
        {{"--port"}, "--port needs a value"},
        {{"--port", "x"}, "--port takes a whole number, not 'x'"},
        {{"--port", "-1"}, "--port takes a whole number, not '-1'"},
        {{"--port", "65536"}, "--port must be 0 to 65535, not 65536"},
        {{"--port", "1e3"}, "--port takes a whole number"},
        {{"--port", "99999999999999999999"}, "--port takes a whole number"},
        {{"--port", "18446744073709551615G"}, "--port takes a whole number"},
        {{"--bytes", "1KX"}, "--bytes takes bytes, as in 512M or 4G, not '1KX'"},
        {{"--top", "10"}, "--top must be -1 to 9, not 10"},
        {{"--rate", "nan"}, "--rate takes a number, not 'nan'"},
        {{"--rate", "11"}, "--rate must be 0 to 10, not 11"},
        {{"--limit", ""}, "--limit takes a number, not ''"},
        {{"--kind", "gren"}, "must be one of red|green, not 'gren'; did you mean 'green'?"},
        {{"--ahead", "0"}, "--ahead must be 1 to 64, not 0"},
        {{"--ahead", "65"}, "--ahead must be 1 to 64, not 65"},
        {{"--ahead", "99999999999999999999"}, "--ahead must be 1 to 64"},
        {{"--ahead", "3x"}, "--ahead takes auto|off|N, not '3x'"},
        {{"--ahead", "-1"}, "--ahead must be one of auto|off|N, not '-1'"},
        {{"--ahead", "N"}, "--ahead must be one of auto|off|N, not 'N'"},
        {{"--ahead", "atuo"}, "not 'atuo'; did you mean 'auto'?"},
        {{"--quick=maybe"}, "--quick takes true or false, not 'maybe'"},
        {{"--config", "/nothing"}, "--config: /nothing: No such file"},
        {{"--help=zebra"}, "no option is about 'zebra'"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        outcome out = parse(rows[i].words);
        refused(&out, rows[i].says);
    }
}

/* ---- the environment ---- */

Test(options, a_variable_sets_what_the_command_line_leaves_out) {
    setenv("FATHOM_PORT", "9", 1);
    setenv("FATHOM_RATE", "2", 1);
    setenv("FATHOM_QUICK", "yes", 1);
    setenv("FATHOM_CORS_ORIGIN", "a,b,,c", 1);
    setenv("FATHOM_TOP", "", 1);
    setenv("FATHOM_KIND", "purple", 1);
    setenv("FATHOM_DOOR", "x", 1);
    outcome out = PARSE("--rate", "3");
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_eq(out.port, 9);
    cr_assert_eq(out.rate, 3);
    cr_assert(out.quick);
    cr_assert_eq(out.hosts.n, 3);
    cr_assert_str_eq(out.hosts.items[2], "c");
    cr_assert_str_eq(out.kind, "red");
    out = PARSE("--quick=false", "--cors-origin", "z");
    cr_assert_eq(out.quick, false);
    cr_assert_eq(out.hosts.n, 1);
}

Test(options, a_wrong_variable_is_named_in_the_error) {
    setenv("FATHOM_PORT", "http", 1);
    outcome out = PARSE(NULL);
    refused(&out, "FATHOM_PORT takes a whole number, not 'http'");
}

Test(options, a_port_that_kubernetes_set_for_a_service_is_ignored) {
    setenv("FATHOM_PORT", "tcp://10.0.0.1:8080", 1);
    outcome out = PARSE(NULL);
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_eq(out.port, 8080);
    cr_assert_not_null(strstr(out.said, "FATHOM_PORT=tcp://10.0.0.1:8080 was set by Kubernetes"));
}

/* ---- the file ---- */

static outcome with_file(const char *text, const char *first, const char *second) {
    tmp_dir dir = tmp_dir_create();
    char path[100];
    snprintf(path, sizeof path, "%s/conf", dir.path);
    file_put(dir.path, "conf", text, strlen(text));
    outcome out = PARSE("--config", path, first, second);
    tmp_dir_remove(&dir);
    return out;
}

Test(options, a_file_sets_what_command_line_and_environment_leave_out) {
    setenv("FATHOM_RATE", "2", 1);
    outcome out = with_file("port: 1\nrate: 1\ntop: 5\nquick: true\nelsewhere: 3\n"
                            "[other]\nnonsense = 3\n"
                            "[demo]\nport = 2\ncors_origin = x\ncors-origin = y\n",
                            "--top", "6");
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_eq(out.port, 2);
    cr_assert_eq(out.rate, 2);
    cr_assert_eq(out.top, 6);
    cr_assert(out.quick);
    cr_assert_eq(out.hosts.n, 2);
    cr_assert_str_eq(out.hosts.items[1], "y");
}

Test(options, a_list_in_a_file_may_stand_in_brackets) {
    outcome out = with_file("cors-origin: [ a b, 'c,]' ,\"d\"]\norigin: '[e'", NULL, NULL);
    cr_assert_eq(out.rc, 0, "%s", out.said);
    cr_assert_eq(out.hosts.n, 4);
    cr_assert_str_eq(out.hosts.items[0], "a b");
    cr_assert_str_eq(out.hosts.items[1], "c,]");
    cr_assert_str_eq(out.hosts.items[2], "d");
    cr_assert_str_eq(out.hosts.items[3], "[e");
    out = with_file("cors-origin: []\nmodel: [x]", NULL, NULL);
    cr_assert_eq(out.hosts.n, 0);
    cr_assert_str_eq(out.model, "[x]");
}

Test(options, a_file_named_by_the_environment_is_read) {
    tmp_dir dir = tmp_dir_create();
    char path[100];
    snprintf(path, sizeof path, "%s/conf", dir.path);
    file_put(dir.path, "conf", "port = 3", 8);
    setenv("FATHOM_CONFIG", path, 1);
    outcome out = PARSE(NULL);
    tmp_dir_remove(&dir);
    cr_assert_eq(out.port, 3, "%s", out.said);
    setenv("FATHOM_CONFIG", "/nothing", 1);
    out = PARSE(NULL);
    refused(&out, "FATHOM_CONFIG: /nothing: No such file");
}

Test(options, a_wrong_file_is_refused_with_the_line) {
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"prot: 1", "conf:1: unknown option 'prot'; did you mean 'port'?"},
        {"\n[demo]\nelsewhere: 1", "conf:3: unknown option 'elsewhere'"},
        {"[dmeo]\nport: 1", "conf:2: there is no command 'dmeo'"},
        {"# x\nport: x", "conf:2: port takes a whole number, not 'x'"},
        {"port: 1\nport: 2", "conf:2: 'port' is given in line 1 already"},
        {"port: 1\ndoor: 2", "conf:2: 'door' is given in line 1 already"},
        {"quick: 2", "conf:1: quick takes true or false, not '2'"},
        {"other: 2", "the options of a command stand after a line [other]"},
        {"port:", "conf:1: the name has no value"},
        {"cors-origin: [a", "conf:1: cors-origin: expected [a, b, c], not '[a'"},
        {"cors-origin: [a] b", "expected [a, b, c]"},
        {"cors-origin: [a,,b]", "expected [a, b, c]"},
        {"cors-origin: ['a' b]", "expected [a, b, c]"},
        {"cors-origin: ['a]", "cors-origin: the closing ' is missing"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        outcome out = with_file(rows[i].text, NULL, NULL);
        refused(&out, rows[i].says);
    }
}

/* ---- the table ---- */

static void collect(void *ud, const opt_command *command) {
    buf *out = ud;
    const opt_row *row;
    const char *group;
    for (size_t i = 0; (row = opt_next(command, i, &group)) != NULL; i++)
        buf_printf(out, "%s/%s ", group, row->name);
}

Test(options, a_table_is_shown_by_groups_without_marks) {
    bool flag = false;
    const opt_row rows[] = {
        OPT_GROUP("B"),
        {"--b1", OPT_FLAG, &flag, NULL, "", 0, 0, false},
        OPT_GROUP("A"),
        {"--a", OPT_FLAG, &flag, NULL, "", 0, 0, false},
        OPT_GROUP("B"),
        {"--b2", OPT_FLAG, &flag, NULL, "", 0, 0, false},
        OPT_GROUP(""),
        {"--own", OPT_FLAG, &flag, NULL, "", 0, 0, false},
        OPT_OLD_NAME("--old", "--own"),
    };
    const opt_command command = {"demo", "", "", rows, ARRAY_LEN(rows)};
    buf text = {0};
    opt_args args = {.show = collect, .ud = &text};
    cr_assert_eq(opt_parse(&command, &args), 1);
    cr_assert_str_eq(text.data, "/--own B/--b1 B/--b2 A/--a ");
    buf_clear(&text);
    cr_assert(opt_variable(&text, &command, opt_find(&command, "--old", 5)));
    cr_assert_str_eq(text.data, "FATHOM_OWN");
    buf_deinit(&text);
}

/* ---- the nearest name ---- */

Test(options, the_nearest_name_has_few_mistakes) {
    static const struct {
        const char *word, *meant;
    } rows[] = {
        {"serve", "serve"},
        {"sevre", "serve"},
        {"serv", "serve"},
        {"srve", "serve"},
        {"srv", NULL},
        {"Serve", "serve"},
        {"bench_engine", "bench engine"},
        {"bench engines", "bench engine"},
        {"genrtae", "generate"},
        {"gnrt", NULL},
        {"s", NULL},
        {"", NULL},
        {"-", NULL},
        {"ggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg", NULL},
    };
    static const char *const names[] = {"serve", "generate", "bench engine"};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        nearest found;
        nearest_start(&found, rows[i].word);
        for (size_t k = 0; k < ARRAY_LEN(names); k++)
            nearest_offer(&found, names[k]);
        if (rows[i].meant == NULL) cr_assert_null(found.best, "'%s': %s", rows[i].word, found.best);
        else cr_assert(found.best && strcmp(found.best, rows[i].meant) == 0, "'%s'", rows[i].word);
    }
}
