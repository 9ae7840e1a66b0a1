/* fuzz_folder.c - any two files as a model folder: config.json up to the first NUL byte, then
 * model.safetensors. An accepted folder has every tensor of its plan, readable to its last
 * value. */
#include "base/log.h"
#include "model/model_internal.h"
#include "tests/fuzz/cost.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64] = "/dev/shm/fathom_fuzz_XXXXXX";
static char config_path[96], weights_path[96];

static void remove_folder(void) {
    (void)unlink(config_path);
    (void)unlink(weights_path);
    (void)rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    log_set_level(LOG_ALERT);
    if (mkdtemp(folder) == NULL) exit(2);
    (void)snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    (void)snprintf(weights_path, sizeof weights_path, "%s/model.safetensors", folder);
    (void)atexit(remove_folder);
    return 0;
}

static void put(const char *path, const uint8_t *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || (n > 0 && write(fd, data, n) != (ssize_t)n)) exit(2);
    close(fd);
}

static int check(void *ud, const model__want *want) {
    const model_folder *model = ud;
    model_tensor tensor;
    if (!model_find(model, want->place, &tensor)) {
        if (!want->optional) abort();
        return 0;
    }
    if (tensor.n_values != want->shape[0] * want->shape[1]) abort();
    float first, last;
    model_tensor_read(&tensor, 0, 1, &first);
    model_tensor_read(&tensor, tensor.n_values - 1, 1, &last);
    if (!isfinite(first) || !isfinite(last)) abort();
    return 0;
}

static void one_input(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    model_folder *model;
    err e = {0};
    put(config_path, data, n);
    put(weights_path, nul ? nul + 1 : data, nul ? size - n - 1 : 0);
    if (model_open(&model, folder, &e) != 0) {
        if (e.code == ERR_NONE || e.msg[0] == 0) abort();
        return;
    }
    (void)model__wants(model_plan_of(model), check, model);
    model_close(model);
}

FUZZ_TARGET(one_input, 1500, 8000)
