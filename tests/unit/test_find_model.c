/* A model is found by its path, its name, or its name in the Hugging Face cache. */
#include "runtime/find_model.h"
#include "tests/lib/files.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static tmp_dir root;

/* Each test has a home of its own, and stands in an empty folder. */
static void set_up(void) {
    char work[100];
    root = tmp_dir_create();
    snprintf(work, sizeof work, "%s/work", root.path);
    cr_assert_eq(mkdir(work, 0755), 0);
    cr_assert_eq(chdir(work), 0);
    setenv("HOME", root.path, 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
}

static void tear_down(void) {
    cr_assert_eq(chdir("/"), 0);
    tmp_dir_remove(&root);
    fail_on_leaks();
}

TestSuite(find_model, .init = set_up, .fini = tear_down);

/* Makes the folder, with all above it, below the root; with the file, unless it is NULL. */
static const char *make(const char *dir, const char *file, const char *text) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", root.path, dir);
    for (char *at = path + strlen(root.path) + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        (void)mkdir(path, 0755);
        *at = '/';
    }
    (void)mkdir(path, 0755);
    if (file) file_put(path, file, text, strlen(text));
    return path;
}
#define MODEL(dir) make(dir, "config.json", "{}")
#define OWN ".local/share/fathom/models"

static void finds(const char *asked, const char *dir) {
    model_place place;
    err e = {0};
    char expected[400];
    cr_assert_eq(find_model(&place, asked, &e), 0, "%s: %s", asked ? asked : "nothing", e.msg);
    snprintf(expected, sizeof expected, "%s/%s", root.path, dir);
    cr_assert_str_eq(place.dir, dir[0] == '=' ? dir + 1 : expected);
    /* A path is not told; anything else is, with the folder. */
    if (asked && strcmp(place.dir, asked) == 0) cr_assert_str_eq(place.why, "");
    else cr_assert_not_null(strstr(place.why, place.dir), "%s", place.why);
}

static void refuses(const char *asked, const char *says) {
    model_place place;
    err e = {0};
    cr_assert_eq(find_model(&place, asked, &e), -1, "found %s", place.dir);
    cr_assert_not_null(strstr(e.msg, says), "said '%s', expected '%s'", e.msg, says);
}

Test(find_model, a_path_is_taken_as_it_is) {
    MODEL("work/here");
    finds("here", "=here");
    finds("/no/such/folder", "=/no/such/folder");
    finds("./here", "=./here");
    finds("../x", "=../x");
    finds(".", "=.");
    finds("..", "=..");
    finds("a/b/c", "=a/b/c");
    make("work", "file", "x");
    finds("file", "=file"); /* opening it tells that it is no folder */
    MODEL("work/a/b");
    finds("a/b", "=a/b");
}

Test(find_model, a_name_is_found_in_the_first_place_that_has_it) {
    MODEL(OWN "/mine");
    finds("mine", OWN "/mine");
    MODEL("work/models/mine");
    finds("mine", "=models/mine");
    setenv("XDG_DATA_HOME", make("data", NULL, NULL), 1);
    MODEL("data/fathom/models/other");
    finds("other", "data/fathom/models/other");
}

Test(find_model, a_folder_without_a_model_does_not_hide_the_name) {
    make("work/mine", "notes.txt", "x");
    MODEL(OWN "/mine");
    finds("mine", OWN "/mine");
}

Test(find_model, a_folder_with_a_tokenizer_only_is_found_too) {
    make(OWN "/words", "tokenizer.json", "{}");
    finds("words", OWN "/words");
}

Test(find_model, an_unknown_name_tells_the_nearest_and_the_places) {
    MODEL(OWN "/maple");
    MODEL(OWN "/birch");
    refuses("mapel", "no model 'mapel'; did you mean 'maple'? (found: birch, maple");
    refuses("oak", "searched: models, ");
    refuses("oak", OWN);
    refuses("", "the name of the model is empty");
}

Test(find_model, without_a_name_the_newest_of_the_users_own_is_taken) {
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    MODEL(OWN "/new");
    cr_assert_eq(utimensat(AT_FDCWD, MODEL(OWN "/old"), old, 0), 0);
    make(OWN "/empty", NULL, NULL);
    MODEL("work/models/demo");
    finds(NULL, OWN "/new");
}

Test(find_model, without_a_model_of_the_users_own_the_demo_is_taken) {
    refuses(NULL, "no model is given, and there is no model 'demo' (found: none");
    MODEL("work/models/hops");
    finds(NULL, "=models/hops");
    MODEL("work/models/demo");
    finds(NULL, "=models/demo");
}

Test(find_model, the_hugging_face_cache_is_read) {
    static const char ref[] = ".cache/huggingface/hub/models--org--net/refs";
    make(ref, "main", "0123abcd\n");
    refuses("org/net", "does not hold it ('hf download org/net' would get it)");
    MODEL(".cache/huggingface/hub/models--org--net/snapshots/0123abcd");
    finds("org/net", ".cache/huggingface/hub/models--org--net/snapshots/0123abcd");
    model_place place;
    cr_assert_eq(find_model(&place, "org/net", NULL), 0);
    cr_assert_str_eq(place.name, "org/net");
    MODEL("hf/hub/models--org--net/snapshots/ff");
    make("hf/hub/models--org--net/refs", "main", "ff");
    char dir[200];
    snprintf(dir, sizeof dir, "%s/hf", root.path);
    setenv("HF_HOME", dir, 1);
    finds("org/net", "hf/hub/models--org--net/snapshots/ff");
    snprintf(dir, sizeof dir, "%s/.cache/huggingface/hub", root.path);
    setenv("HF_HUB_CACHE", dir, 1);
    finds("org/net", ".cache/huggingface/hub/models--org--net/snapshots/0123abcd");
}

Test(find_model, nothing_in_the_cache_leads_out_of_it) {
    MODEL("secret");
    static const char *const refs[] = {"../../../../secret", "/etc", "..", "", "zz", "0123 ../x"};
    for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) {
        make("hf/hub/models--org--net/refs", "main", refs[i]);
        char dir[200];
        snprintf(dir, sizeof dir, "%s/hf", root.path);
        setenv("HF_HOME", dir, 1);
        refuses("org/net", "does not hold it");
    }
    finds("org/..", "=org/..");
}

typedef struct {
    char text[400];
} names;

static void add(void *ud, const char *name, const char *dir) {
    names *self = ud;
    (void)dir;
    size_t n = strlen(self->text);
    snprintf(self->text + n, sizeof self->text - n, "%s ", name);
}

Test(find_model, all_names_are_listed_by_place) {
    MODEL(OWN "/b");
    MODEL(OWN "/a");
    MODEL(OWN "/.hidden");
    make(OWN "/empty", NULL, NULL);
    MODEL("work/models/c");
    names found = {{0}};
    find_models(add, &found);
    cr_assert_eq(strncmp(found.text, "c a b ", 6), 0, "%s", found.text);
}
