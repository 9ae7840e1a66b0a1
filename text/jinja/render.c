/* render.c - one rendering: bounds, failures and output. */
#include "base/cancel.h"
#include "base/hash.h"
#include "base/size.h"
#include "text/jinja/jinja_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STEPS = 10 * 1000 * 1000,
    OUTPUT_BYTES = 64 << 20,
    MEMORY_BYTES = 256 << 20,
    BYTES_PER_STEP = 256, /* bytes copied or searched that cost one step */
    STEPS_PER_CANCEL_CHECK = 64
};

static void fail(jvm *vm, err_code code, const char *fmt, va_list args) {
    char text[300];
    if (vm->failed) return;
    vm->failed = true;
    (void)vsnprintf(text, sizeof text, fmt, args);
    err_set(vm->error, code, NULL, "chat template, line %u: %s", (unsigned)vm->line, text);
}

jval jinja__fail(jvm *vm, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail(vm, ERR_BAD_PARAM, fmt, args);
    va_end(args);
    return jinja__undefined(NULL);
}

jval jinja__costly(jvm *vm, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail(vm, ERR_COSTLY, fmt, args);
    va_end(args);
    return jinja__undefined(NULL);
}

void *jinja__alloc(jvm *vm, size_t n, size_t each) {
    size_t bytes;
    if (vm->failed) return NULL;
    void *out = arena_array(&vm->memory, n, each);
    if (out) return out;
    if (!size_mul(n, each, &bytes) || bytes + 16 > vm->memory.max - vm->memory.used) {
        jinja__costly(vm, "it takes more than %zu bytes of memory", vm->memory.max);
    } else {
        vm->failed = true;
        err_set(vm->error, ERR_NO_MEMORY, NULL, "out of memory");
    }
    return NULL;
}

bool jinja__work(jvm *vm, size_t amount) {
    uint64_t before = vm->steps / STEPS_PER_CANCEL_CHECK;
    vm->steps += 1 + amount / BYTES_PER_STEP;
    if (vm->failed) return false;
    if (vm->steps > vm->max_steps) {
        jinja__costly(vm, "it takes more than %llu steps", (unsigned long long)vm->max_steps);
    } else if (vm->steps / STEPS_PER_CANCEL_CHECK != before &&
               cancel_check("rendering the chat template", vm->error) != 0) {
        vm->failed = true;
    }
    return !vm->failed;
}

bool jinja__enter(jvm *vm) {
    if (!jinja__work(vm, 0)) return false;
    if (vm->depth >= JINJA__MAX_DEPTH) {
        jinja__costly(vm, "it is nested more than %d deep", JINJA__MAX_DEPTH);
        return false;
    }
    vm->depth++;
    return true;
}

void jinja__leave(jvm *vm) {
    vm->depth--;
}

static int copy_output(jvm *vm, jinja_output *out) {
    const jwriter *writer = vm->out;
    out->runs = array_new(writer->n_runs ? writer->n_runs : 1, sizeof *out->runs);
    if (out->runs) {
        if (writer->n_runs) memcpy(out->runs, writer->runs, writer->n_runs * sizeof *out->runs);
        out->n_runs = writer->n_runs;
        buf_append(&out->text, writer->bytes, writer->used);
    }
    if (out->runs && !out->text.failed) return 0;
    jinja_output_deinit(out);
    return err_set(vm->error, ERR_NO_MEMORY, NULL, "out of memory");
}

int jinja_render(const jinja *tmpl, const jinja_input *input, jinja_output *out, err *e) {
    *out = (jinja_output){0};
    jvm vm = {.tmpl = tmpl, .input = input, .error = e, .line = 1};
    vm.max_steps = input->max_steps ? input->max_steps : STEPS;
    vm.max_output = input->max_output ? input->max_output : OUTPUT_BYTES;
    arena_init(&vm.memory, input->max_memory ? input->max_memory : MEMORY_BYTES);
    vm.hash_key[0] = (uint64_t)(uintptr_t)&vm;
    vm.hash_key[1] = hash_mix((uint64_t)(uintptr_t)input->vars ^ (uint64_t)input->now);
    vm.globals = jinja__alloc(&vm, tmpl->n_names, sizeof *vm.globals);
    vm.known = jinja__alloc(&vm, tmpl->n_names, sizeof *vm.known);
    vm.out = jinja__new_writer(&vm, 0);
    if (!vm.failed) (void)jinja__run(&vm, &tmpl->body);
    int rc = vm.failed ? -1 : copy_output(&vm, out);
    arena_deinit(&vm.memory);
    return rc;
}

void jinja_output_deinit(jinja_output *out) {
    buf_deinit(&out->text);
    free(out->runs);
    *out = (jinja_output){0};
}
