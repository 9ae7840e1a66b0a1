/* pack.c - from a model's tensor to packed panels.
 *
 * bfloat16 stays bfloat16 (exact); float32 and float16 become float32. Padding columns
 * and padding k steps are zero. */
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/cpu/pack_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { K_STEPS = 2 * ENG__GROUP }; /* a block of a panel that stays in the nearest cache */

static uint32_t round_up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

static void read_down(const eng__pack *j, uint32_t row, uint32_t k0, uint32_t n, float *out) {
    for (uint32_t i = 0, step; i < n; i += step) {
        uint32_t s = (k0 + i) / j->hidden_padded, unit = (k0 + i) % j->hidden_padded;
        step = j->hidden_padded - unit < n - i ? j->hidden_padded - unit : n - i;
        uint32_t real = unit < j->hidden ? j->hidden - unit : 0;
        if (real > step) real = step;
        if (s >= j->n_src) real = 0;
        if (real) model_tensor_read(&j->src[s], (size_t)row * j->hidden + unit, real, out + i);
        memset(out + i + real, 0, (step - real) * sizeof *out);
    }
}

/* Values k0 .. k0 + n of output column c of panel p; padding is 0. */
static void read_column(const eng__pack *j, uint32_t p, uint32_t c, uint32_t k0, uint32_t n,
                        float *out) {
    uint32_t column = p * ENG__PANEL + c, k = j->m->k;
    uint32_t real = k0 < k ? k - k0 : 0;
    if (real > n) real = n;
    const model_tensor *t = j->src;
    if (j->kind == ENG__PACK_GATE_UP) {
        uint32_t per = j->hidden_padded / 16, unit = p % per * 16 + c % 16;
        t = &j->src[2 * (p / per) + c / 16];
        if (unit >= j->hidden) real = 0;
        if (real) model_tensor_read(t, (size_t)unit * k + k0, real, out);
    } else if (column >= j->m->n) {
        real = 0;
    } else if (j->kind == ENG__PACK_DOWN) {
        read_down(j, column, k0, n, out);
        return;
    } else if (j->kind == ENG__PACK_COLS) {
        for (uint32_t i = 0; i < real; i++) {
            model_tensor_read(t, (size_t)(j->row0 + k0 + i) * j->m->n + column, 1, out + i);
        }
    } else if (real) {
        uint32_t row = j->rope ? plan_rope_row(&j->g->plan, column) : j->row0 + column;
        model_tensor_read(t, (size_t)row * k + k0, real, out);
    }
    memset(out + real, 0, (n - real) * sizeof *out);
}

static void put_bf16(uint16_t *to, uint32_t c, const float *v, uint32_t n) {
    to += c < 16 ? 2 * c : 2 * (c - 16) + 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, v + i, sizeof bits);
        to[i * ENG__PANEL] = (uint16_t)(bits >> 16);
    }
}

/* One group of one column: codes are value + 128. */
static void put_i8(const eng__kernels *kern, uint8_t *group, uint32_t c, const float *v) {
    int8_t q[ENG__GROUP];
    int32_t sum;
    float scale;
    kern->quantize(v, ENG__GROUP, q, &scale, &sum);
    for (uint32_t i = 0; i < ENG__GROUP; i++) {
        group[(i / 4 * ENG__PANEL + c) * 4 + i % 4] = (uint8_t)(q[i] + 128);
    }
    memcpy(group + ENG__GROUP * ENG__PANEL + c * sizeof scale, &scale, sizeof scale);
}

static void pack_block(const eng__pack *j, uint32_t p, uint32_t k0, uint32_t n, uint8_t *panel) {
    float v[K_STEPS];
    for (uint32_t c = 0; c < ENG__PANEL; c++) {
        read_column(j, p, c, k0, n, v);
        if (j->m->type == ENG__BF16) {
            put_bf16((uint16_t *)(void *)panel + (size_t)k0 * ENG__PANEL, c, v, n);
        } else if (j->m->type == ENG__F32) {
            float *to = (float *)(void *)panel + (size_t)k0 * ENG__PANEL + c;
            for (uint32_t i = 0; i < n; i++)
                to[i * ENG__PANEL] = v[i];
        } else {
            for (uint32_t i = 0; i < n; i += ENG__GROUP) {
                put_i8(j->g->k, panel + (size_t)((k0 + i) / ENG__GROUP) * ENG__GROUP_BYTES, c,
                       v + i);
            }
        }
    }
}

static void pack_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const eng__pack *j = arg;
    uint32_t k = j->m->type == ENG__I8 ? round_up(j->m->k, ENG__GROUP) : j->m->k;
    (void)worker;
    for (uint32_t p = first; p < last; p++) {
        uint8_t *panel = j->g->image.data + (j->m->data - j->g->image.data) + p * j->m->panel_bytes;
        for (uint32_t k0 = 0; k0 < k; k0 += K_STEPS) {
            pack_block(j, p, k0, k - k0 < K_STEPS ? k - k0 : K_STEPS, panel);
        }
    }
}

/* On a terminal a counter that runs, in a log one line; neither for the first second. */
static void say_progress(eng__pack *j) {
    uint64_t now = clock_ns();
    if (now - j->started_ns < 1000000000u || now - j->said_ns < 500000000u) return;
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\rpacking weights: %3.0f%%",
                100.0 * (double)j->at / (double)j->g->image.bytes);
    } else if (j->said_ns == 0) {
        log_line(LOG_INFO, "packing %.2f GB of weights", (double)j->g->image.bytes / 1e9);
    }
    j->said_ns = now;
}

static eng__wtype type_of(const eng__pack *j, uint32_t k) {
    if (j->g->opts.weights == ENG_WEIGHTS_INT8 && !j->keep && k >= ENG__GROUP / 2) return ENG__I8;
    for (uint32_t i = 0; i < j->n_src; i++) {
        if (j->src[i].dtype != DTYPE_BF16) return ENG__F32;
    }
    return ENG__BF16;
}

/* Tells the kernel about the whole pages of a tensor in the model's read-only file map:
 * wanted at once before it is packed, given back after. Given-back pages come again from
 * the file if anyone reads them (the embedding does). */
static void advise(const model_tensor *t, int advice) {
    uintptr_t page = 4096, first = ((uintptr_t)t->data + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
    if (end > first && end - first >= (1u << 20)) (void)madvise((void *)first, end - first, advice);
}

static void advise_sources(const eng__pack *j, int advice) {
    if (j->kind == ENG__PACK_COLS || j->row0) return; /* read again for the next head */
    for (uint32_t i = 0; i < j->n_src; i++)
        advise(&j->src[i], advice);
}

static bool finite_at(const eng__mat *m, size_t at) {
    float v;
    if (m->type == ENG__BF16) {
        uint16_t half;
        memcpy(&half, m->data + at, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&v, &bits, sizeof v);
    } else {
        memcpy(&v, m->data + at, sizeof v);
    }
    return isfinite(v);
}

/* Looks at some values, of int8 at some scales, spread over a packed matrix. */
static bool sample_is_finite(const eng__mat *m) {
    enum { PLACES = 16, COLUMNS = ENG__PANEL };
    bool codes = m->type == ENG__I8;
    size_t item = m->type == ENG__BF16 ? 2 : 4, all = m->panels * m->panel_bytes;
    size_t unit = codes ? ENG__GROUP_BYTES : item * COLUMNS, units = all / unit;
    size_t skip = codes ? ENG__GROUP * ENG__PANEL : 0;
    for (size_t i = 0; i < PLACES; i++) {
        size_t at = (units - 1) * i / (PLACES - 1) * unit + skip;
        for (size_t c = 0; units && c < COLUMNS; c++) {
            if (!finite_at(m, at + c * item)) return false;
        }
    }
    return true;
}

/* Gives m its place in the image and, when that exists, fills it. */
int eng__pack_run(eng__pack *j, uint32_t n, uint32_t k, err *e) {
    eng__mat *m = j->m;
    size_t bytes;
    m->n = n;
    m->k = k;
    m->panels = (n + ENG__PANEL - 1) / ENG__PANEL;
    m->type = type_of(j, k);
    m->panel_bytes = m->type == ENG__I8
                         ? (size_t)round_up(k, ENG__GROUP) / ENG__GROUP * ENG__GROUP_BYTES
                         : (size_t)k * ENG__PANEL * (m->type == ENG__F32 ? 4 : 2);
    if (!size_mul(m->panels, m->panel_bytes, &bytes)) goto too_large;
    if (!j->fill && j->g->opts.packed_cache) {
        uint32_t facts[] = {n, k, m->type, j->kind, j->row0, j->n_src, j->rope};
        j->g->image.key = eng__hash(j->g->image.key, facts, sizeof facts);
        for (uint32_t i = 0; i < j->n_src; i++) {
            j->g->image.key = eng__hash_tensor(j->g->image.key, &j->src[i]);
        }
    }
    if (j->fill) {
        m->data = j->g->image.data + j->at;
        if (j->packed) {
            if (!sample_is_finite(m)) j->not_finite = true;
        } else {
#ifdef MADV_POPULATE_READ
            advise_sources(j, MADV_POPULATE_READ);
#endif
            eng__pool_run(j->g->pool, pack_work, j, m->panels, 1);
            advise_sources(j, MADV_DONTNEED);
            say_progress(j);
        }
    }
    if (!size_add(j->at, bytes, &j->at)) goto too_large;
    return 0;
too_large:
    return err_set(e, ERR_NO_MEMORY, NULL, "the model's weights exceed the address space");
}
