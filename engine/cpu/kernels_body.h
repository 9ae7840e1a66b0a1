/* kernels_body.h - every kernel, written once over vectors of VL floats.
 *
 * The including file sets the instruction set and defines:
 *   VL, vec, ivec            floats in a vector; float vector; int32 vector of the same size
 *   v_load, v_store, v_set1  load, store, all lanes alike
 *   v_fma                    fused multiply-add, or the closest
 *   v_bf16_low, v_bf16_high  even and odd bfloat16 values of VL pairs, in float32
 *   v_widen                  VL bfloat16 values in order, in float32
 *   nvec, NVL, n_*           vectors of the narrow tile; NVL divides 8
 *   iv_load, iv_set1         the same for ivec
 *   v_dot4                   adds four u8 x s8 products per lane; the s8 are the same in all lanes
 *   TILE_ROWS                rows of a pass, so that accumulators fit the registers
 *   V_KEEP(v)                makes the compiler assume that v has changed
 *   KERNELS, KERNELS_NAME    name of the table
 *
 * A pass of a tile takes ROWS rows, COLS * VL columns from `col` on, and as many from 16 + col on,
 * like the column pairs of packed bfloat16. Few rows take the whole width of a panel in one pass:
 * the panel is read once, and there are enough running sums to hide the latency of an addition. */

#include "kernels_int8.h"

typedef vec pass_sums[TILE_ROWS * 2];

INLINE void sums_begin(const uint32_t ROWS, const uint32_t COLS, vec *sums, const float *acc,
                       size_t lda, bool add) {
#pragma GCC unroll 12
    for (uint32_t row = 0; row < ROWS; row++) {
#pragma GCC unroll 4
        for (uint32_t col = 0; col < COLS; col++) {
            vec *at = sums + 2 * (row * COLS + col);
            at[0] = add ? v_load(acc + row * lda + col * VL) : v_set1(0);
            at[1] = add ? v_load(acc + row * lda + col * VL + 16) : v_set1(0);
        }
    }
}

INLINE void sums_end(const uint32_t ROWS, const uint32_t COLS, const vec *sums, float *acc,
                     size_t lda) {
#pragma GCC unroll 12
    for (uint32_t row = 0; row < ROWS; row++) {
#pragma GCC unroll 4
        for (uint32_t col = 0; col < COLS; col++) {
            v_store(acc + row * lda + col * VL, sums[2 * (row * COLS + col)]);
            v_store(acc + row * lda + col * VL + 16, sums[2 * (row * COLS + col) + 1]);
        }
    }
}

/* One step of k: the value of each row, x[row * step + at], times the columns. */
INLINE void sums_step(const uint32_t ROWS, const uint32_t COLS, vec *sums, const vec *weights,
                      const float *x, size_t step, size_t at) {
#pragma GCC unroll 12
    for (uint32_t row = 0; row < ROWS; row++) {
        vec value = v_set1(x[row * step + at]);
#pragma GCC unroll 8
        for (uint32_t col = 0; col < 2 * COLS; col++)
            sums[2 * row * COLS + col] = v_fma(value, weights[col], sums[2 * row * COLS + col]);
    }
}

/* The input is x[k * next + row * step]. */
INLINE void pass_f32(const uint32_t ROWS, const uint32_t COLS, const float *weights, size_t ldw,
                     size_t k, const float *x, size_t step, size_t next, float *acc, size_t lda,
                     bool add) {
    pass_sums sums;
    sums_begin(ROWS, COLS, sums, acc, lda, add);
    for (size_t i = 0; i < k; i++, weights += ldw) {
        vec columns[2 * WHOLE];
#pragma GCC unroll 4
        for (uint32_t col = 0; col < COLS; col++) {
            columns[2 * col] = v_load(weights + col * VL);
            columns[2 * col + 1] = v_load(weights + col * VL + 16);
        }
        sums_step(ROWS, COLS, sums, columns, x, step, i * next);
    }
    sums_end(ROWS, COLS, sums, acc, lda);
}

/* The same for NVL columns. */
INLINE void pass_narrow(const uint32_t ROWS, const float *weights, size_t ldw, size_t k,
                        const float *x, size_t ldx, float *acc, size_t lda) {
    nvec sums[TILE_ROWS];
#pragma GCC unroll 12
    for (uint32_t row = 0; row < ROWS; row++)
        sums[row] = n_set1(0);
    for (size_t i = 0; i < k; i++, weights += ldw) {
        nvec w0 = n_load(weights);
#pragma GCC unroll 12
        for (uint32_t row = 0; row < ROWS; row++)
            sums[row] = n_fma(n_set1(x[row * ldx + i]), w0, sums[row]);
    }
#pragma GCC unroll 12
    for (uint32_t row = 0; row < ROWS; row++)
        n_store(acc + row * lda, sums[row]);
}

INLINE void pass_bf16(const uint32_t ROWS, const uint32_t COLS, const uint16_t *weights, size_t k,
                      const float *x, size_t ldx, float *acc, size_t lda, bool add) {
    pass_sums sums;
    sums_begin(ROWS, COLS, sums, acc, lda, add);
    for (size_t i = 0; i < k; i++, weights += ENG__PANEL) {
        __builtin_prefetch(weights + 2048);
        vec columns[2 * WHOLE];
#pragma GCC unroll 4
        for (uint32_t col = 0; col < COLS; col++) {
            columns[2 * col] = v_bf16_low(weights + 2 * col * VL);
            columns[2 * col + 1] = v_bf16_high(weights + 2 * col * VL);
        }
        sums_step(ROWS, COLS, sums, columns, x, ldx, i);
    }
    sums_end(ROWS, COLS, sums, acc, lda);
}

#define ROWS_F32(R_, ...)                                                                          \
    APART rows_f32_##R_(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,    \
                        float *acc, size_t lda, bool add) {                                        \
        PASS_ROWS(R_);                                                                             \
        pass_f32(ROWS, COLS, weights, ldw, k, x, ldx, 1, acc, lda, add);                           \
    }
FOR_ROWS(ROWS_F32, )

static void tile_f32(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,
                     uint32_t rows, float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_f32, weights + col, ldw, k, x + r0 * ldx, ldx, acc + r0 * lda + col,
                        lda, add)
        }
    }
}

/* As tile_f32, with rows side by side: x[i * ldx + row]. */
#define ROWS_ACROSS(R_, ...)                                                                       \
    APART rows_across_##R_(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx, \
                           float *acc, size_t lda, bool add) {                                     \
        PASS_ROWS(R_);                                                                             \
        pass_f32(ROWS, COLS, weights, ldw, k, x, 1, ldx, acc, lda, add);                           \
    }
FOR_ROWS(ROWS_ACROSS, )

static void tile_f32_across(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,
                            uint32_t rows, float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_across, weights + col, ldw, k, x + r0, ldx, acc + r0 * lda + col,
                        lda, add)
        }
    }
}

#define ROWS_NARROW(R_, ...)                                                                       \
    APART rows_narrow_##R_(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx, \
                           float *acc, size_t lda) {                                               \
        enum { ROWS = TILE_ROWS >= R_ ? R_ : 1 };                                                  \
        pass_narrow(ROWS, weights, ldw, k, x, ldx, acc, lda);                                      \
    }
FOR_ROWS(ROWS_NARROW, )

static void tile_f32_narrow(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,
                            uint32_t rows, float *acc, size_t lda) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < ENG__NARROW; col += NVL) {
            PASS_SWITCH(n, rows_narrow, weights + col, ldw, k, x + r0 * ldx, ldx,
                        acc + r0 * lda + col, lda)
        }
    }
}

#define ROWS_BF16(R_, ...)                                                                         \
    APART rows_bf16_##R_(const uint16_t *weights, size_t k, const float *x, size_t ldx,            \
                         float *acc, size_t lda, bool add) {                                       \
        PASS_ROWS(R_);                                                                             \
        pass_bf16(ROWS, COLS, weights, k, x, ldx, acc, lda, add);                                  \
    }
FOR_ROWS(ROWS_BF16, )

static void tile_bf16(const uint16_t *weights, size_t k, const float *x, size_t ldx, uint32_t rows,
                      float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_bf16, weights + 2 * col, k, x + r0 * ldx, ldx, acc + r0 * lda + col,
                        lda, add)
        }
    }
}

static void quantize(const float *x, size_t n, int8_t *codes, float *scale, int32_t *sum) {
    float padded[ENG__GROUP];
    if (n < ENG__GROUP) {
        memcpy(padded, x, n * sizeof *x);
        memset(padded + n, 0, (ENG__GROUP - n) * sizeof *x);
        x = padded;
    }
    vec top = v_set1(0), odd = v_set1(0);
    for (size_t i = 0; i < ENG__GROUP; i += VL) {
        vec values = v_load(x + i), size = (vec)((ivec)values & 0x7fffffff);
        ivec more = size > top;
        top = (vec)(((ivec)size & more) | ((ivec)top & ~more));
        odd = odd + values * v_set1(0); /* NaN if any value is not finite, so it is not lost */
    }
    float lane[VL], largest = 0;
    v_store(lane, top);
    for (int i = 0; i < VL; i++)
        largest = lane[i] > largest ? lane[i] : largest;
    vec inverse = v_set1(largest > 0 ? 127.0f / largest : 0), magic = v_set1(12582912.0f);
    int32_t code[ENG__GROUP], total = 0;
    for (size_t i = 0; i < ENG__GROUP; i += VL) {
        ivec rounded = (ivec)v_fma(v_load(x + i), inverse, magic) - (ivec)magic;
        memcpy(code + i, &rounded, sizeof rounded);
    }
    for (int i = 0; i < ENG__GROUP; i++)
        codes[i] = (int8_t)code[i];
    for (int i = 0; i < ENG__GROUP; i++)
        total += codes[i];
    *scale = largest / 127.0f + v_sum(odd);
    *sum = total;
}

static float dot(const float *left, const float *right, size_t n) {
    vec s0 = v_set1(0), s1 = v_set1(0);
    size_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        s0 = v_fma(v_load(left + i), v_load(right + i), s0);
        s1 = v_fma(v_load(left + i + VL), v_load(right + i + VL), s1);
    }
    float sum = v_sum(s0 + s1);
    for (; i < n; i++)
        sum += left[i] * right[i];
    return sum;
}

static void rms(const float *x, const float *weights, float *y, size_t n, float eps) {
    float scale = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    vec vs = v_set1(scale);
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_load(x + i) * vs * v_load(weights + i));
    for (; i < n; i++)
        y[i] = x[i] * scale * weights[i];
}

/* exp for x <= 88.3: 2^round(x / ln 2) times a polynomial; relative error below 2e-7.
 * Below -87.3 the result is 0; NaN stays NaN. */
INLINE vec v_exp(vec x) {
    const vec magic = v_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec low = v_set1(-87.3f);
    ivec dead = x < low;
    vec xc = (vec)(((ivec)low & dead) | ((ivec)x & ~dead));
    vec shifted = v_fma(xc, v_set1(1.44269504088896f), magic);
    vec whole = shifted - magic;
    vec rest = v_fma(whole, v_set1(-0.693359375f), xc);
    rest = v_fma(whole, v_set1(2.12194440e-4f), rest);
    vec poly = v_set1(1.9875691500e-4f);
    poly = v_fma(poly, rest, v_set1(1.3981999507e-3f));
    poly = v_fma(poly, rest, v_set1(8.3334519073e-3f));
    poly = v_fma(poly, rest, v_set1(4.1665795894e-2f));
    poly = v_fma(poly, rest, v_set1(1.6666665459e-1f));
    poly = v_fma(poly, rest, v_set1(5.0000001201e-1f));
    poly = v_fma(poly * rest, rest, rest) + v_set1(1.0f);
    ivec bits = ((ivec)shifted - (ivec)magic) << 23;
    vec result = (vec)((ivec)poly + bits);
    return (vec)((ivec)result & ~dead);
}

INLINE vec v_silu(vec gate) {
    /* the argument of exp stays below 88, so the result is finite */
    vec top = v_set1(88.0f), neg = v_set1(0) - gate;
    ivec big = neg > top;
    neg = (vec)(((ivec)top & big) | ((ivec)neg & ~big));
    return gate / (v_set1(1.0f) + v_exp(neg));
}

static void silu_mul(const float *gate, const float *up, float *y, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_silu(v_load(gate + i)) * v_load(up + i));
    if (i == n) return;
    float gt[VL] = {0}, ut[VL] = {0}, yt[VL];
    for (size_t j = i; j < n; j++)
        gt[j - i] = gate[j], ut[j - i] = up[j];
    v_store(yt, v_silu(v_load(gt)) * v_load(ut));
    for (size_t j = i; j < n; j++)
        y[j] = yt[j - i];
}

/* PANEL queries side by side: score[i][lane] is the score of a query at position i. */
static void softmax_across(float *score, uint32_t n, uint32_t lanes, const int32_t *seen,
                           float *top, float *sum, float *keep) {
    const vec none = v_set1(-INFINITY);
    for (uint32_t lane = 0; lane < lanes; lane += VL) {
        ivec limit = iv_load(seen + lane), first = iv_set1(0);
        vec most = v_load(top + lane), total = v_set1(0);
        for (uint32_t i = 0; i < n; i++, first += 1) {
            vec value = v_load(score + i * ENG__PANEL + lane);
            ivec sees = first < limit;
            value = (vec)(((ivec)value & sees) | ((ivec)none & ~sees));
            v_store(score + i * ENG__PANEL + lane, value);
            ivec more = value > most;
            most = (vec)(((ivec)value & more) | ((ivec)most & ~more));
        }
        ivec blind = most == none; /* no position seen yet: any finite value works */
        vec base = (vec)((ivec)most & ~blind);
        for (uint32_t i = 0; i < n; i++) {
            vec weight = v_exp(v_load(score + i * ENG__PANEL + lane) - base);
            v_store(score + i * ENG__PANEL + lane, weight);
            total = total + weight;
        }
        vec kept = v_exp(v_load(top + lane) - base);
        v_store(keep + lane, kept);
        v_store(sum + lane, v_fma(v_load(sum + lane), kept, total));
        v_store(top + lane, most);
    }
}

static void scale_add(float *y, float keep, const float *x, float take, size_t n) {
    vec va = v_set1(keep), vb = v_set1(take);
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_fma(v_load(x + i), vb, v_load(y + i) * va));
    for (; i < n; i++)
        y[i] = y[i] * keep + x[i] * take;
}

static void widen(const uint16_t *from, float *y, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_widen(from + i));
    for (; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(y + i, &bits, sizeof bits);
    }
}

static void narrow(const float *x, uint16_t *to, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
        to[i] = (uint16_t)(nan ? (bits >> 16) | 0x40u : rounded >> 16);
    }
}

/* ---- probes: the most this code path can reach ---- */

static float fma_probe(size_t n) {
    vec sums[2 * TILE_ROWS], x = v_set1(0.5f), y = v_set1(1e-3f);
#pragma GCC unroll 24
    for (int i = 0; i < 2 * TILE_ROWS; i++)
        sums[i] = v_set1((float)i);
    for (size_t k = 0; k < n; k++) {
        V_KEEP(x);
        V_KEEP(y);
#pragma GCC unroll 24
        for (int i = 0; i < 2 * TILE_ROWS; i++)
            sums[i] = v_fma(x, y, sums[i]);
    }
    vec sum = v_set1(0);
    for (int i = 0; i < 2 * TILE_ROWS; i++)
        sum = sum + sums[i];
    return v_sum(sum);
}

static inline __attribute__((always_inline)) float read_ahead(const float *from, size_t n,
                                                              size_t ahead, bool far) {
    enum { STREAMS = 8 };
    vec sums[STREAMS];
#pragma GCC unroll 8
    for (int i = 0; i < STREAMS; i++)
        sums[i] = v_set1(0);
    for (size_t k = 0; k + STREAMS * VL <= n; k += STREAMS * VL) {
#pragma GCC unroll 8
        for (size_t i = 0; i < STREAMS * VL; i += 16) {
            if (far) __builtin_prefetch(from + k + ahead + i, 0, 2);
            else __builtin_prefetch(from + k + ahead + i);
        }
#pragma GCC unroll 8
        for (int i = 0; i < STREAMS; i++)
            sums[i] = sums[i] + v_load(from + k + (size_t)i * VL);
    }
    vec sum = v_set1(0);
    for (int i = 0; i < STREAMS; i++)
        sum = sum + sums[i];
    return v_sum(sum);
}

/* Ways of prefetching. The fastest depends on the number of threads. */
static float read_probe(const float *from, size_t n, uint32_t way) {
    switch (way) {
    case 0: return read_ahead(from, n, 1024, false);
    case 1: return read_ahead(from, n, 4096, false);
    case 2: return read_ahead(from, n, 512, true);
    default: return read_ahead(from, n, 2048, true);
    }
}

const eng__kernels KERNELS = {
    .name = KERNELS_NAME,
    .tile_f32 = tile_f32,
    .tile_bf16 = tile_bf16,
    .rms = rms,
    .silu_mul = silu_mul,
    .softmax_across = softmax_across,
    .tile_f32_across = tile_f32_across,
    .tile_f32_narrow = tile_f32_narrow,
    .dot = dot,
    .scale_add = scale_add,
    .widen = widen,
    .narrow = narrow,
    .tile_i8 = tile_i8,
    .quantize = quantize,
    .fma_probe = fma_probe,
    .dot_probe = dot_probe,
    .read_probe = read_probe,
    .fma_probe_flops = 2 * 2 * TILE_ROWS * VL,
};
