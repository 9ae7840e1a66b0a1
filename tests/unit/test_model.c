/* test_model.c - model folders: good ones open, bad ones are refused by file and tensor. */
#include "model/model.h"
#include "tests/lib/files.h"
#include "tests/lib/golden.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(model, .fini = fail_on_leaks);

static void check_opens(const char *dir) {
    err e = {0};
    model_folder *model;
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    cr_assert_eq(model_params(model), plan_params(model_plan_of(model)), "%s", dir);
    model_tensor tensor;
    cr_assert(model_find_named(model, "recurrent.act.halt.weight", &tensor));
    cr_assert_eq(tensor.rank, 2);
    cr_assert_eq(tensor.shape[1], model_plan_of(model)->dim);
    cr_assert_not(model_find_named(model, "no.such.tensor", &tensor));
    model_part_size parts[MODEL_PARTS], sum = {0};
    model_parts(model, parts);
    for (int i = 0; i < MODEL_PARTS; i++)
        sum.params += parts[i].params, sum.bytes += parts[i].bytes;
    cr_assert_eq(sum.params, model_params(model));
    cr_assert_eq(sum.bytes, model_bytes(model));
    model_close(model);
}

Test(model, golden_folders_and_the_demo_open_and_hold_what_their_configs_say) {
    for (size_t i = 0; i < GOLDEN_CASES; i++) {
        golden_case golden = golden_open(golden_names[i]);
        check_opens(golden.dir);
        golden_close(&golden);
    }
    check_opens("models/demo");
}

/* Opens dir: must fail with this code and text. */
static void check_refused(const char *dir, err_code code, const char *says, const char *row) {
    model_folder *model = (model_folder *)&model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), -1, "%s: opened", row);
    cr_assert_null(model);
    cr_assert_eq(e.code, code, "%s: %s", row, e.msg);
    cr_assert(strstr(e.msg, says), "%s: \"%s\" has no \"%s\"", row, e.msg, says);
}

/* ---- one change to a good folder each; dir holds tiny in F32 ---- */

static void del(const char *dir, const char *name) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    cr_assert_eq(unlink(path), 0);
}

static void set_config(const char *dir, const char *key, const char *value) {
    char *text = file_get(dir, "config.json", NULL);
    json_t *root = json_loads(text, 0, NULL);
    free(text);
    json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, NULL));
    text = json_dumps(root, 0);
    file_put(dir, "config.json", text, strlen(text));
    free(text);
    json_decref(root);
}

static void put_float(const char *dir, const char *tensor, size_t at, float value) {
    st_file file = st_read(dir, "model.safetensors");
    memcpy(st_bytes(&file, tensor) + 4 * at, &value, sizeof value);
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}

static void no_config(const char *dir) {
    del(dir, "config.json");
}
static void empty_config(const char *dir) {
    file_put(dir, "config.json", "", 0);
}
static void other_vocab(const char *dir) {
    set_config(dir, "vocab_size", "321");
}
static void more_experts(const char *dir) {
    set_config(dir, "n_experts", "9");
}
static void gqa_config(const char *dir) {
    set_config(dir, "attn_type", "\"gqa\"");
}
static void deeper_config(const char *dir) {
    set_config(dir, "max_loop_iters", "9");
}
static void huge_config(const char *dir) {
    char *text = malloc((2 << 20) + 1);
    memset(text, ' ', 2 << 20);
    file_put(dir, "config.json", text, 2 << 20);
    free(text);
}
static void no_weights(const char *dir) {
    del(dir, "model.safetensors");
}
static void bin_weights(const char *dir) {
    no_weights(dir);
    file_put(dir, "pytorch_model.bin", "PK", 2);
}
static void empty_weights(const char *dir) {
    file_put(dir, "model.safetensors", "", 0);
}
static void seven_bytes(const char *dir) {
    file_put(dir, "model.safetensors", "1234567", 7);
}
static void torch_zip(const char *dir) {
    file_put(dir, "model.safetensors", "PK\3\4aaaaaaaaaaaaaaaa", 20);
}
static void cut_weights(const char *dir) {
    size_t n;
    char *bytes = file_get(dir, "model.safetensors", &n);
    file_put(dir, "model.safetensors", bytes, n - 1);
    free(bytes);
}
static void longer_weights(const char *dir) {
    size_t n;
    char *bytes = file_get(dir, "model.safetensors", &n);
    file_put(dir, "model.safetensors", bytes, n + 1);
    free(bytes);
}
static void folder_weights(const char *dir) {
    char path[256];
    no_weights(dir);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    cr_assert_eq(mkdir(path, 0755), 0);
}
static void fifo_weights(const char *dir) {
    char path[256];
    no_weights(dir);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    cr_assert_eq(mkfifo(path, 0600), 0);
}
static void dangling_weights(const char *dir) {
    char path[256];
    no_weights(dir);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    cr_assert_eq(symlink("nowhere", path), 0);
}
static void no_tensor(const char *dir) {
    st_file file = st_read(dir, "model.safetensors");
    json_t *tensor = json_incref(st_tensor(&file, "coda.0.attn.wo.weight"));
    json_object_del(file.header, "coda.0.attn.wo.weight");
    json_object_set_new(file.header, "coda.0.attn.wo", tensor); /* its bytes need an owner */
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}
static void turned_shape(const char *dir) {
    st_file file = st_read(dir, "model.safetensors");
    st_set_shape(&file, "prelude.0.attn.q_down.weight", "[64, 48]");
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}
static void other_rank(const char *dir) {
    st_file file = st_read(dir, "model.safetensors");
    st_set_shape(&file, "recurrent.act.halt.weight", "[64]");
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}
static void no_rank(const char *dir) {
    st_file file = st_read(dir, "model.safetensors");
    st_set_shape(&file, "recurrent.injection.log_dt", "[]");
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}
static void int_dtype(const char *dir) {
    st_file file = st_read(dir, "model.safetensors");
    json_object_set_new(st_tensor(&file, "norm.weight"), "dtype", json_string("I32"));
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}
static void untied_wrong(const char *dir) {
    st_file file = st_read(dir, "model.safetensors");
    json_object_set_new(file.header, "head.weight",
                        json_pack("{s:s,s:[i,i],s:[I,I]}", "dtype", "U8", "shape", 0, 64,
                                  "data_offsets", (json_int_t)file.n_data,
                                  (json_int_t)file.n_data));
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}
static void nan_first(const char *dir) {
    put_float(dir, "embed.weight", 0, NAN);
}
static void nan_last(const char *dir) {
    put_float(dir, "embed.weight", 320 * 64 - 1, NAN);
}
static void infinite(const char *dir) {
    put_float(dir, "recurrent.injection.B", 5, -INFINITY);
}
static void nan_bias(const char *dir) {
    put_float(dir, "recurrent.act.halt.bias", 0, NAN);
}

static const struct {
    const char *row;
    void (*change)(const char *dir);
    const char *says;
} broken[] = {
    {"no config", no_config, "config.json: No such file"},
    {"empty config", empty_config, "config.json: not valid JSON"},
    {"huge config", huge_config, "config.json: larger than the limit"},
    {"vocabulary is not the embedding", other_vocab,
     "tensor embed.weight has shape [320, 64], expected [321, 64]"},
    {"more experts than in the file", more_experts,
     "tensor recurrent.block.ffn.router.weight has shape [8, 64], expected [9, 64]"},
    {"other attention than in the file", gqa_config,
     "tensor prelude.0.attn.wq.weight is missing, expected [64, 64]"},
    {"more loops than LoRA rows", deeper_config,
     "tensor recurrent.lora.scale.weight has shape [8, 4], expected [9, 4]"},
    {"no weights", no_weights, "holds neither model.safetensors nor model.safetensors.index.json"},
    {"weights of PyTorch alone", bin_weights,
     "(tools/convert_bin.py makes them of pytorch_model.bin)"},
    {"empty weights", empty_weights, "too small for safetensors: 0 bytes"},
    {"seven bytes", seven_bytes, "too small for safetensors: 7 bytes"},
    {"a torch file by another name", torch_zip, "the header claims"},
    {"cut", cut_weights, "lie outside"},
    {"one byte more", longer_weights, "1 bytes after the last tensor"},
    {"a folder", folder_weights, "expected a regular file"},
    {"a FIFO", fifo_weights, "expected a regular file"},
    {"a dangling link", dangling_weights, "model.safetensors: No such file"},
    {"tensor missing", no_tensor, "tensor coda.0.attn.wo.weight is missing, expected [64, 64]"},
    {"shape transposed", turned_shape,
     "tensor prelude.0.attn.q_down.weight has shape [64, 48], expected [48, 64]"},
    {"rank", other_rank, "tensor recurrent.act.halt.weight has shape [64], expected [1, 64]"},
    {"rank 0", no_rank, "tensor recurrent.injection.log_dt has shape [], expected [1]"},
    {"dtype", int_dtype, "tensor norm.weight has dtype I32, expected F32, F16 or BF16"},
    {"head of another shape", untied_wrong,
     "tensor head.weight has shape [0, 64], expected [320, 64]"},
    {"NaN first", nan_first, "tensor embed.weight: value 0 is NaN"},
    {"NaN last", nan_last, "tensor embed.weight: value 20479 is NaN"},
    {"infinite", infinite, "tensor recurrent.injection.B: value 5 is infinite"},
    {"NaN bias", nan_bias, "tensor recurrent.act.halt.bias: value 0 is NaN"},
};

Test(model, every_broken_folder_is_refused_with_file_tensor_expected_and_found) {
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        tmp_dir dir = tmp_dir_create();
        weights_write(dir.path, "tiny", DTYPE_F32, 1, 0);
        broken[i].change(dir.path);
        check_refused(dir.path, ERR_BAD_FILE, broken[i].says, broken[i].row);
        tmp_dir_remove(&dir);
    }
}

Test(model, a_full_check_finds_the_one_bad_value_that_a_sample_misses) {
    tmp_dir dir = tmp_dir_create();
    weights_write(dir.path, "tiny", DTYPE_F32, 1, 0);
    put_float(dir.path, "embed.weight", 200, NAN); /* between two sampled places */
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
    cr_assert_eq(model_check(model, &e), -1);
    cr_assert_eq(e.code, ERR_BAD_FILE);
    cr_assert(strstr(e.msg, "tensor embed.weight: value 200 is NaN"), "%s", e.msg);
    model_close(model);
    put_float(dir.path, "embed.weight", 200, 0);
    err none = {0};
    cr_assert_eq(model_open(&model, dir.path, &none), 0, "%s", none.msg);
    cr_assert_eq(model_check(model, &none), 0, "%s", none.msg);
    model_close(model);
    tmp_dir_remove(&dir);
}

Test(model, a_folder_that_is_not_there_is_not_found_and_a_file_is_no_folder) {
    check_refused("/nowhere/at/all", ERR_NOT_FOUND, "/nowhere/at/all: No such file", "no folder");
    check_refused("", ERR_NOT_FOUND, "No such file", "empty name");
    check_refused("Makefile", ERR_BAD_FILE, "expected a model folder, found a file", "a file");
    check_refused("Makefile/x", ERR_BAD_FILE, "Not a directory", "under a file");
}

Test(model, unreadable_files_are_named, .init = NULL) {
    if (geteuid() == 0) cr_skip_test("root reads everything");
    tmp_dir dir = tmp_dir_create();
    char path[256];
    weights_write(dir.path, "tiny", DTYPE_F32, 1, 0);
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir.path);
    cr_assert_eq(chmod(path, 0), 0);
    check_refused(dir.path, ERR_BAD_FILE, "model.safetensors: Permission denied", "no permission");
    tmp_dir_remove(&dir);
}

Test(model, extra_tensors_are_warned_of_once_and_rope_tables_silently_ignored) {
    tmp_dir dir = tmp_dir_create();
    weights_write(dir.path, "tiny", DTYPE_F32, 1, 0);
    st_file file = st_read(dir.path, "model.safetensors");
    static const char *const extra[] = {"freqs_cis", "freqs_cis_mla", "optimizer.step", "other"};
    for (size_t i = 0; i < ARRAY_LEN(extra); i++) {
        json_object_set_new(file.header, extra[i],
                            json_pack("{s:s,s:[i,i],s:[I,I]}", "dtype", i < 2 ? "C64" : "I64",
                                      "shape", 0, 3, "data_offsets", (json_int_t)file.n_data,
                                      (json_int_t)file.n_data));
    }
    st_write(&file, dir.path, "model.safetensors");
    st_free(&file);
    int kept = dup(2), log = open(dir.path, O_TMPFILE | O_RDWR, 0600);
    dup2(log, 2);
    check_opens(dir.path);
    dup2(kept, 2);
    char text[1024] = {0};
    cr_assert_gt(pread(log, text, sizeof text - 1, 0), 0);
    cr_assert(strstr(text, "2 tensors are not used"), "%s", text);
    cr_assert_null(strchr(strchr(text, '\n') + 1, '\n'));
    close(kept);
    close(log);
    tmp_dir_remove(&dir);
}

Test(model, an_untied_head_is_a_tensor_of_its_own_and_counts) {
    tmp_dir dir = tmp_dir_create();
    weights_write(dir.path, "tiny", DTYPE_F32, 1, 0);
    st_file file = st_read(dir.path, "model.safetensors");
    size_t head = 320 * 64 * 4;
    file.data = realloc(file.data, file.n_data + head);
    memset(file.data + file.n_data, 0, head);
    json_object_set_new(file.header, "head.weight",
                        json_pack("{s:s,s:[i,i],s:[I,I]}", "dtype", "F32", "shape", 320, 64,
                                  "data_offsets", (json_int_t)file.n_data,
                                  (json_int_t)(file.n_data + head)));
    file.n_data += head;
    st_write(&file, dir.path, "model.safetensors");
    st_free(&file);
    model_folder *model;
    model_tensor tensor;
    err e = {0};
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
    cr_assert(model_find_named(model, "head.weight", &tensor));
    cr_assert_eq(model_params(model), plan_params(model_plan_of(model)) + 320 * 64);
    model_close(model);
    tmp_dir_remove(&dir);
}

/* ---- shards ---- */

static void write_shards(const char *dir) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_variant(&plan, "tiny", &e), 0);
    model_init_opts opts = {.seed = 1, .dtype = DTYPE_F32, .shard_bytes = 200000};
    cr_assert_eq(model_init_write(dir, &plan, &opts, &e), 0, "%s", e.msg);
}

static const char index_name[] = "model.safetensors.index.json";

/* Changes weight_map: `file` (NULL: a number) replaces the first shard. */
static void rename_first_shard(const char *dir, const char *file) {
    char *text = file_get(dir, index_name, NULL);
    json_t *root = json_loads(text, 0, NULL), *map = json_object_get(root, "weight_map"), *value;
    const char *key;
    free(text);
    json_object_foreach(map, key, value) {
        if (strncmp(json_string_value(value), "model-00001", 11) == 0) {
            json_object_set_new(map, key, file ? json_string(file) : json_integer(3));
        }
    }
    text = json_dumps(root, 0);
    file_put(dir, index_name, text, strlen(text));
    free(text);
    json_decref(root);
}

static void first_shard_path(const char *dir, char out[256]) {
    for (int n = 1; n < 100; n++) {
        (void)snprintf(out, 256, "%s/model-00001-of-%05d.safetensors", dir, n);
        if (access(out, F_OK) == 0) return;
    }
    cr_assert(false, "no first shard in %s", dir);
}

static void climbing(const char *dir) {
    rename_first_shard(dir, "../x.safetensors");
}
static void absolute(const char *dir) {
    rename_first_shard(dir, "/etc/passwd");
}
static void dots(const char *dir) {
    rename_first_shard(dir, "..");
}
static void no_name(const char *dir) {
    rename_first_shard(dir, "");
}
static void not_a_name(const char *dir) {
    rename_first_shard(dir, NULL);
}
static void absent(const char *dir) {
    rename_first_shard(dir, "model-x.safetensors");
}
static void wrong_shard(const char *dir) {
    char path[256], *name;
    first_shard_path(dir, path);
    name = strrchr(path, '/') + 1;
    name[10] = '2'; /* model-00002-of-... */
    rename_first_shard(dir, name);
}
static void empty_map(const char *dir) {
    file_put(dir, index_name, "{\"weight_map\":{}}", 17);
}
static void no_map(const char *dir) {
    file_put(dir, index_name, "{}", 2);
}
static void bad_index(const char *dir) {
    file_put(dir, index_name, "{", 1);
}
static void linked_out(const char *dir) {
    char path[256], other[256];
    first_shard_path(dir, path);
    (void)snprintf(other, sizeof other, "%s-outside", dir);
    cr_assert_eq(rename(path, other), 0);
    cr_assert_eq(symlink(other, path), 0);
}
static void twice(const char *dir) {
    char path[256];
    first_shard_path(dir, path);
    const char *name = strrchr(path, '/') + 1;
    size_t n;
    char *bytes = file_get(dir, name, &n);
    file_put(dir, "copy.safetensors", bytes, n);
    free(bytes);
    char *text = file_get(dir, index_name, NULL);
    json_t *root = json_loads(text, 0, NULL), *map = json_object_get(root, "weight_map");
    free(text);
    json_object_set_new(map, "embed.weight", json_string("copy.safetensors"));
    text = json_dumps(root, 0);
    file_put(dir, index_name, text, strlen(text));
    free(text);
    json_decref(root);
}

static const struct {
    const char *row;
    void (*change)(const char *dir);
    const char *says;
} broken_index[] = {
    {"a path upwards", climbing, "names the file \"../x.safetensors\", expected a plain file name"},
    {"an absolute path", absolute, "names the file \"/etc/passwd\""},
    {"..", dots, "names the file \"..\""},
    {"no name", no_name, "names the file \"\""},
    {"a number", not_a_name, "is no file name"},
    {"a shard that is not there", absent, "model-x.safetensors: No such file"},
    {"a tensor in another shard", wrong_shard, "where weight_map says it is"},
    {"an empty map", empty_map, "weight_map is missing or empty"},
    {"no map", no_map, "weight_map is missing or empty"},
    {"no JSON", bad_index, "not valid JSON"},
    {"a link out of the folder", linked_out, "leads out of the model folder"},
    {"a tensor in two shards", twice, "is in both"},
};

Test(model, shards_open_like_one_file_and_every_broken_index_is_refused) {
    tmp_dir dir = tmp_dir_create();
    write_shards(dir.path);
    check_opens(dir.path);
    tmp_dir_remove(&dir);
    for (size_t i = 0; i < ARRAY_LEN(broken_index); i++) {
        dir = tmp_dir_create();
        write_shards(dir.path);
        broken_index[i].change(dir.path);
        check_refused(dir.path, ERR_BAD_FILE, broken_index[i].says, broken_index[i].row);
        char outside[128];
        (void)snprintf(outside, sizeof outside, "%s-outside", dir.path);
        (void)unlink(outside);
        tmp_dir_remove(&dir);
    }
}

Test(model, a_tensor_beyond_4_gib_is_read_where_it_is) {
    tmp_dir dir = tmp_dir_create();
    weights_write(dir.path, "tiny", DTYPE_F32, 1, 0);
    model_folder *model;
    model_tensor tensor;
    float before[64], after[64];
    err e = {0};
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
    cr_assert(model_find_named(model, "norm.weight", &tensor));
    model_tensor_read(&tensor, 0, 64, before);
    model_close(model);
    /* A sparse tensor of 5 GiB goes before all others. */
    const json_int_t gap = (json_int_t)5 << 30;
    st_file file = st_read(dir.path, "model.safetensors");
    const char *key;
    json_t *value;
    json_object_foreach(file.header, key, value) {
        json_t *at = json_object_get(value, "data_offsets");
        for (size_t i = 0; at && i < 2; i++) {
            json_array_set_new(at, i,
                               json_integer(json_integer_value(json_array_get(at, i)) + gap));
        }
    }
    json_object_set_new(
        file.header, "freqs_cis",
        json_pack("{s:s,s:[I],s:[i,I]}", "dtype", "U8", "shape", gap, "data_offsets", 0, gap));
    size_t n_data = file.n_data;
    file.n_data = 0;
    st_write(&file, dir.path, "model.safetensors");
    char path[256];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir.path);
    int fd = open(path, O_WRONLY);
    off_t head = lseek(fd, 0, SEEK_END);
    bool sparse = pwrite(fd, file.data, n_data, head + gap) == (ssize_t)n_data;
    close(fd);
    st_free(&file);
    if (sparse) { /* a file system of small files may refuse */
        cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
        cr_assert(model_find_named(model, "norm.weight", &tensor));
        model_tensor_read(&tensor, 0, 64, after);
        cr_assert_eq(memcmp(before, after, sizeof before), 0);
        model_close(model);
    }
    tmp_dir_remove(&dir);
}

/* ---- memory and formats ---- */

Test(model, opening_survives_every_failed_allocation, .timeout = HANGS_S) {
    json_setup();
    tmp_dir dir = tmp_dir_create();
    write_shards(dir.path);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n += n < 400 ? 1 : 37) { /* jansson makes thousands, all alike */
            model_folder *model;
            err e = {0};
            oom_after(n, sticky);
            int rc = model_open(&model, dir.path, &e);
            if (!oom_stop()) {
                cr_assert_eq(rc, 0, "%s", e.msg);
                model_close(model);
                cr_assert_gt(n, 400);
                break;
            }
            cr_assert_eq(rc, -1, "allocation %ld", n);
            cr_assert_null(model);
            cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
        }
    }
    tmp_dir_remove(&dir);
}

Test(model, half_formats_widen_exactly_whatever_the_alignment) {
    static const struct {
        model_dtype dtype;
        uint16_t bits;
        float value;
    } rows[] = {
        {DTYPE_BF16, 0x3f80, 1.0f},        {DTYPE_BF16, 0xc040, -3.0f},
        {DTYPE_BF16, 0x0001, 0x1p-133f},   {DTYPE_F16, 0x3c00, 1.0f},
        {DTYPE_F16, 0xc200, -3.0f},        {DTYPE_F16, 0x0001, 0x1p-24f},
        {DTYPE_F16, 0x03ff, 0x1.ff8p-15f}, {DTYPE_F16, 0x0400, 0x1p-14f},
        {DTYPE_F16, 0x7bff, 65504.0f},     {DTYPE_F16, 0x8000, -0.0f},
        {DTYPE_F16, 0x7c00, INFINITY},     {DTYPE_F16, 0xfc00, -INFINITY},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned char bytes[3];
        memcpy(bytes + 1, &rows[i].bits, 2);
        model_tensor tensor = {.data = bytes + 1,
                               .dtype = rows[i].dtype,
                               .rank = 1,
                               .shape = {1},
                               .n_values = 1,
                               .bytes = 2};
        float value;
        model_tensor_read(&tensor, 0, 1, &value);
        cr_assert_eq(memcmp(&value, &rows[i].value, 4), 0, "row %zu: %a", i, (double)value);
    }
    model_tensor nan = {
        .data = "\x01\x7c", .dtype = DTYPE_F16, .rank = 1, .shape = {1}, .n_values = 1, .bytes = 2};
    float value;
    model_tensor_read(&nan, 0, 1, &value);
    cr_assert(isnan(value));
}
