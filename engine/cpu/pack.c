/* pack.c - packs the tensors of a model into panels.
 *
 * As stored, bfloat16 stays bfloat16 (exact); float32 and float16 become float32. Padding columns
 * and padding k steps are zero. */
#include "base/hash.h"
#include "base/size.h"
#include "engine/cpu/pack_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { K_STEPS = 2 * ENG__GROUP }; /* k steps of a panel that fit the nearest cache */

static uint32_t round_up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

static void read_down(const eng__pack *pack, uint32_t row, uint32_t k0, uint32_t n, float *out) {
    for (uint32_t i = 0, step; i < n; i += step) {
        uint32_t source = (k0 + i) / pack->hidden_padded, unit = (k0 + i) % pack->hidden_padded;
        step = pack->hidden_padded - unit < n - i ? pack->hidden_padded - unit : n - i;
        uint32_t real = unit < pack->hidden ? pack->hidden - unit : 0;
        if (real > step) real = step;
        if (source >= pack->n_src) real = 0;
        if (real)
            model_tensor_read(&pack->src[source], (size_t)row * pack->hidden + unit, real, out + i);
        memset(out + i + real, 0, (step - real) * sizeof *out);
    }
}

/* Values k0 .. k0 + n of column `col` of a panel; padding is 0. */
static void read_column(const eng__pack *pack, uint32_t panel_idx, uint32_t col, uint32_t k0,
                        uint32_t n, float *out) {
    uint32_t column = panel_idx * ENG__PANEL + col, n_in = pack->mat->n_in;
    uint32_t real = k0 < n_in ? n_in - k0 : 0;
    if (real > n) real = n;
    const model_tensor *tensor = pack->src;
    if (pack->kind == ENG__PACK_GATE_UP) {
        uint32_t per = pack->hidden_padded / 16, unit = panel_idx % per * 16 + col % 16;
        tensor = &pack->src[2 * (panel_idx / per) + col / 16];
        if (unit >= pack->hidden) real = 0;
        if (real) model_tensor_read(tensor, (size_t)unit * n_in + k0, real, out);
    } else if (column >= pack->mat->n_out) {
        real = 0;
    } else if (pack->kind == ENG__PACK_DOWN) {
        read_down(pack, column, k0, n, out);
        return;
    } else if (pack->kind == ENG__PACK_COLS) {
        for (uint32_t i = 0; i < real; i++) {
            model_tensor_read(tensor, (size_t)(pack->row0 + k0 + i) * pack->mat->n_out + column, 1,
                              out + i);
        }
    } else if (real) {
        uint32_t row = pack->rope ? plan_rope_row(&pack->cpu->plan, column) : pack->row0 + column;
        size_t width = tensor->n_values / tensor->shape[0];
        model_tensor_read(tensor, row * width + pack->col0 + k0, real, out);
    }
    memset(out + real, 0, (n - real) * sizeof *out);
}

static void put_bf16(uint16_t *to, uint32_t col, const float *values, uint32_t n) {
    to += col < 16 ? 2 * col : 2 * (col - 16) + 1;
    for (uint32_t i = 0; i < n; i++)
        to[i * ENG__PANEL] = rm_bf16_narrow(values[i]);
}

/* One group of one column: codes are value + 128. */
static void put_i8(const eng__kernels *kern, uint8_t *group, uint32_t col, const float *values) {
    int8_t codes[ENG__GROUP];
    int32_t sum;
    float scale;
    kern->quantize(values, ENG__GROUP, codes, &scale, &sum);
    for (uint32_t i = 0; i < ENG__GROUP; i++) {
        group[(i / 4 * ENG__PANEL + col) * 4 + i % 4] = (uint8_t)(codes[i] + 128);
    }
    memcpy(group + ENG__GROUP * ENG__PANEL + col * sizeof scale, &scale, sizeof scale);
}

static void pack_block(const eng__pack *pack, uint32_t panel_idx, uint32_t k0, uint32_t n,
                       uint8_t *panel) {
    float values[K_STEPS];
    for (uint32_t col = 0; col < ENG__PANEL; col++) {
        read_column(pack, panel_idx, col, k0, n, values);
        if (pack->mat->type == ENG__BF16) {
            put_bf16((uint16_t *)(void *)panel + (size_t)k0 * ENG__PANEL, col, values, n);
        } else if (pack->mat->type == ENG__F32) {
            float *to = (float *)(void *)panel + (size_t)k0 * ENG__PANEL + col;
            for (uint32_t i = 0; i < n; i++)
                to[i * ENG__PANEL] = values[i];
        } else {
            for (uint32_t i = 0; i < n; i += ENG__GROUP) {
                put_i8(pack->cpu->kern, panel + (size_t)((k0 + i) / ENG__GROUP) * ENG__GROUP_BYTES,
                       col, values + i);
            }
        }
    }
}

static void pack_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__pack *pack = arg;
    uint32_t n_in =
        pack->mat->type == ENG__I8 ? round_up(pack->mat->n_in, ENG__GROUP) : pack->mat->n_in;
    (void)worker;
    for (uint32_t item = first; item < last; item++) {
        uint32_t panel_idx = pack->mat->own.first + item;
        uint8_t *panel = pack->cpu->image.data + (pack->mat->data - pack->cpu->image.data) +
                         item * pack->mat->panel_bytes;
        for (uint32_t k0 = 0; k0 < n_in; k0 += K_STEPS) {
            pack_block(pack, panel_idx, k0, eng__min(n_in - k0, K_STEPS), panel);
        }
        progress_add(&pack->bar, pack->mat->panel_bytes);
    }
}

static eng__wtype type_of(const eng__pack *pack, uint32_t n_in) {
    if (pack->cpu->opts.weights == ENG_WEIGHTS_INT8 && !pack->keep && n_in >= ENG__GROUP / 2)
        return ENG__I8;
    if (pack->cpu->opts.weights == ENG_WEIGHTS_BF16) return ENG__BF16;
    for (uint32_t i = 0; i < pack->n_src; i++) {
        if (pack->src[i].dtype != DTYPE_BF16) return ENG__F32;
    }
    return ENG__BF16;
}

/* Advises the kernel about the whole pages of some rows of a tensor in the model's read-only file
 * map: needed before packing, not needed after. A released page is read from the file again when
 * touched (the embedding is). */
static void advise(const model_tensor *tensor, eng_share rows, int advice) {
    size_t row_bytes = tensor->bytes / tensor->shape[0];
    uintptr_t page = 4096, data = (uintptr_t)tensor->data;
    uintptr_t first = (data + rows.first * row_bytes + page - 1) & ~(page - 1);
    uintptr_t end = (data + rows.last * row_bytes) & ~(page - 1);
    if (end > first && end - first >= (1u << 20)) (void)madvise((void *)first, end - first, advice);
}

/* The rows of a source with columns of this rank's panels. */
static eng_share own_rows(const eng__pack *pack, uint32_t source) {
    uint32_t n = (uint32_t)pack->src[source].shape[0];
    eng_share own = pack->mat->own;
    if (!pack->divide) return (eng_share){0, n};
    uint32_t per_panel = ENG__PANEL, before = 0;
    if (pack->kind == ENG__PACK_GATE_UP) {
        per_panel = 16;
        before = source / 2 * (pack->hidden_padded / 16);
    }
    own.first = own.first > before ? (own.first - before) * per_panel : 0;
    own.last = own.last > before ? (own.last - before) * per_panel : 0;
    return (eng_share){eng__min(own.first, n), eng__min(own.last, n)};
}

static void advise_sources(const eng__pack *pack, int advice) {
    if (pack->kind == ENG__PACK_COLS || pack->row0) return; /* read again for the next head */
    for (uint32_t i = 0; i < pack->n_src; i++)
        advise(&pack->src[i], own_rows(pack, i), advice);
}

static bool finite_at(const eng__mat *mat, size_t at) {
    float value;
    if (mat->type == ENG__BF16) {
        uint16_t half;
        memcpy(&half, mat->data + at, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&value, &bits, sizeof value);
    } else {
        memcpy(&value, mat->data + at, sizeof value);
    }
    return isfinite(value);
}

/* Checks samples of a packed matrix: values, or scales if it is int8. */
static bool sample_is_finite(const eng__mat *mat) {
    enum { PLACES = 16, COLUMNS = ENG__PANEL };
    bool codes = mat->type == ENG__I8;
    size_t item = mat->type == ENG__BF16 ? 2 : 4;
    size_t all = (mat->own.last - mat->own.first) * mat->panel_bytes;
    size_t unit = codes ? ENG__GROUP_BYTES : item * COLUMNS, units = all / unit;
    size_t skip = codes ? ENG__GROUP * ENG__PANEL : 0;
    for (size_t i = 0; i < PLACES; i++) {
        size_t at = (units - 1) * i / (PLACES - 1) * unit + skip;
        for (size_t col = 0; units && col < COLUMNS; col++) {
            if (!finite_at(mat, at + col * item)) return false;
        }
    }
    return true;
}

int eng__pack_run(eng__pack *pack, uint32_t n_out, uint32_t n_in, err *e) {
    eng__mat *mat = pack->mat;
    size_t bytes;
    mat->n_out = n_out;
    mat->n_in = n_in;
    mat->panels = (n_out + ENG__PANEL - 1) / ENG__PANEL;
    mat->type = type_of(pack, n_in);
    mat->panel_bytes = mat->type == ENG__I8
                           ? (size_t)round_up(n_in, ENG__GROUP) / ENG__GROUP * ENG__GROUP_BYTES
                           : (size_t)n_in * ENG__PANEL * (mat->type == ENG__F32 ? 4 : 2);
    mat->own = eng_share_own(pack->divide ? pack->cpu->opts.ranks : NULL, mat->panels);
    if (!size_mul(mat->own.last - mat->own.first, mat->panel_bytes, &bytes)) goto too_large;
    if (!pack->fill && mat->type == ENG__F32) pack->f32_bytes += bytes;
    if (!pack->fill && pack->cpu->opts.packed_cache) {
        uint32_t facts[] = {n_out,      n_in,        mat->type,  pack->kind,     pack->row0,
                            pack->col0, pack->n_src, pack->rope, mat->own.first, mat->own.last};
        pack->cpu->image.key = hash_seeded(pack->cpu->image.key, facts, sizeof facts);
        for (uint32_t i = 0; i < pack->n_src; i++) {
            pack->cpu->image.key = model_tensor_hash(pack->cpu->image.key, &pack->src[i]);
        }
    }
    if (pack->fill) {
        mat->data = pack->cpu->image.data + pack->at;
        if (pack->packed) {
            if (!sample_is_finite(mat)) pack->not_finite = true;
        } else {
#ifdef MADV_POPULATE_READ
            advise_sources(pack, MADV_POPULATE_READ);
#endif
            eng__pool_run(pack->cpu->pool, pack_work, pack, mat->own.last - mat->own.first, 1);
            advise_sources(pack, MADV_DONTNEED);
        }
    }
    if (!size_add(pack->at, bytes, &pack->at)) goto too_large;
    return 0;
too_large:
    return err_set(e, ERR_NO_MEMORY, NULL, "the model's weights exceed the address space");
}
