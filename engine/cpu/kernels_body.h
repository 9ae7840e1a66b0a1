/* kernels_body.h - every kernel, written once over vectors of VL floats.
 *
 * The including file sets the instruction set and defines: VL; vec (float vector) and
 * ivec (int32 vector of the same bytes); v_load, v_store, v_set1, v_fma; v_bf16_low and
 * v_bf16_high (the even and odd bfloat16 values of VL pairs, widened);
 * v_widen (VL bfloat16 in order); nvec, NVL and n_* for the narrow tile (NVL divides 8); iv_load,
 * iv_set1 and v_dot4 (adds four u8 x s8 products per lane, the s8 the same in all); TILE_ROWS (rows
 * whose accumulators fit the registers); KERNELS (the table's name) and KERNELS_NAME.
 *
 * A pass of a tile takes R rows and C * VL columns from `col` on, and as many from 16 + col,
 * which is how packed bfloat16 pairs columns up. Few rows take a panel's whole width in one
 * pass: the panel is read once, and the running sums are enough to hide an addition's latency.
 * V_KEEP(v) makes the compiler take v as changed. */

#include "kernels_int8.h"

typedef vec pass_sums[TILE_ROWS * 2];

INLINE void sums_begin(const uint32_t R, const uint32_t C, vec *a, const float *acc, size_t lda,
                       bool add) {
#pragma GCC unroll 12
    for (uint32_t r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (uint32_t c = 0; c < C; c++) {
            vec *at = a + 2 * (r * C + c);
            at[0] = add ? v_load(acc + r * lda + c * VL) : v_set1(0);
            at[1] = add ? v_load(acc + r * lda + c * VL + 16) : v_set1(0);
        }
    }
}

INLINE void sums_end(const uint32_t R, const uint32_t C, const vec *a, float *acc, size_t lda) {
#pragma GCC unroll 12
    for (uint32_t r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (uint32_t c = 0; c < C; c++) {
            v_store(acc + r * lda + c * VL, a[2 * (r * C + c)]);
            v_store(acc + r * lda + c * VL + 16, a[2 * (r * C + c) + 1]);
        }
    }
}

/* One step of k: row r's value, x[r * step + at], times the columns in w. */
INLINE void sums_step(const uint32_t R, const uint32_t C, vec *a, const vec *w, const float *x,
                      size_t step, size_t at) {
#pragma GCC unroll 12
    for (uint32_t r = 0; r < R; r++) {
        vec b = v_set1(x[r * step + at]);
#pragma GCC unroll 8
        for (uint32_t c = 0; c < 2 * C; c++)
            a[2 * r * C + c] = v_fma(b, w[c], a[2 * r * C + c]);
    }
}

/* x[k * next + r * step] */
INLINE void pass_f32(const uint32_t R, const uint32_t C, const float *w, size_t ldw, size_t k,
                     const float *x, size_t step, size_t next, float *acc, size_t lda, bool add) {
    pass_sums a;
    sums_begin(R, C, a, acc, lda, add);
    for (size_t i = 0; i < k; i++, w += ldw) {
        vec columns[2 * WHOLE];
#pragma GCC unroll 4
        for (uint32_t c = 0; c < C; c++) {
            columns[2 * c] = v_load(w + c * VL);
            columns[2 * c + 1] = v_load(w + c * VL + 16);
        }
        sums_step(R, C, a, columns, x, step, i * next);
    }
    sums_end(R, C, a, acc, lda);
}

/* NVL columns only. */
INLINE void pass_narrow(const uint32_t R, const float *w, size_t ldw, size_t k, const float *x,
                        size_t ldx, float *acc, size_t lda) {
    nvec a[TILE_ROWS];
#pragma GCC unroll 12
    for (uint32_t r = 0; r < R; r++)
        a[r] = n_set1(0);
    for (size_t i = 0; i < k; i++, w += ldw) {
        nvec w0 = n_load(w);
#pragma GCC unroll 12
        for (uint32_t r = 0; r < R; r++)
            a[r] = n_fma(n_set1(x[r * ldx + i]), w0, a[r]);
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < R; r++)
        n_store(acc + r * lda, a[r]);
}

INLINE void pass_bf16(const uint32_t R, const uint32_t C, const uint16_t *w, size_t k,
                      const float *x, size_t ldx, float *acc, size_t lda, bool add) {
    pass_sums a;
    sums_begin(R, C, a, acc, lda, add);
    for (size_t i = 0; i < k; i++, w += ENG__PANEL) {
        __builtin_prefetch(w + 2048);
        vec columns[2 * WHOLE];
#pragma GCC unroll 4
        for (uint32_t c = 0; c < C; c++) {
            columns[2 * c] = v_bf16_low(w + 2 * c * VL);
            columns[2 * c + 1] = v_bf16_high(w + 2 * c * VL);
        }
        sums_step(R, C, a, columns, x, ldx, i);
    }
    sums_end(R, C, a, acc, lda);
}

#define ROWS_F32(R_, ...)                                                                          \
    APART rows_f32_##R_(const float *w, size_t ldw, size_t k, const float *x, size_t ldx,          \
                        float *acc, size_t lda, bool add) {                                        \
        PASS_ROWS(R_);                                                                             \
        pass_f32(R, C, w, ldw, k, x, ldx, 1, acc, lda, add);                                       \
    }
FOR_ROWS(ROWS_F32, )

static void tile_f32(const float *w, size_t ldw, size_t k, const float *x, size_t ldx,
                     uint32_t rows, float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_f32, w + col, ldw, k, x + r0 * ldx, ldx, acc + r0 * lda + col, lda,
                        add)
        }
    }
}

/* As tile_f32, but x[i * ldx + r]: the rows lie side by side. */
#define ROWS_ACROSS(R_, ...)                                                                       \
    APART rows_across_##R_(const float *w, size_t ldw, size_t k, const float *x, size_t ldx,       \
                           float *acc, size_t lda, bool add) {                                     \
        PASS_ROWS(R_);                                                                             \
        pass_f32(R, C, w, ldw, k, x, 1, ldx, acc, lda, add);                                       \
    }
FOR_ROWS(ROWS_ACROSS, )

static void tile_f32_across(const float *w, size_t ldw, size_t k, const float *x, size_t ldx,
                            uint32_t rows, float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_across, w + col, ldw, k, x + r0, ldx, acc + r0 * lda + col, lda,
                        add)
        }
    }
}

#define ROWS_NARROW(R_, ...)                                                                       \
    APART rows_narrow_##R_(const float *w, size_t ldw, size_t k, const float *x, size_t ldx,       \
                           float *acc, size_t lda) {                                               \
        enum { R = TILE_ROWS >= R_ ? R_ : 1 };                                                     \
        pass_narrow(R, w, ldw, k, x, ldx, acc, lda);                                               \
    }
FOR_ROWS(ROWS_NARROW, )

static void tile_f32_narrow(const float *w, size_t ldw, size_t k, const float *x, size_t ldx,
                            uint32_t rows, float *acc, size_t lda) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < ENG__NARROW; col += NVL) {
            PASS_SWITCH(n, rows_narrow, w + col, ldw, k, x + r0 * ldx, ldx, acc + r0 * lda + col,
                        lda)
        }
    }
}

#define ROWS_BF16(R_, ...)                                                                         \
    APART rows_bf16_##R_(const uint16_t *w, size_t k, const float *x, size_t ldx, float *acc,      \
                         size_t lda, bool add) {                                                   \
        PASS_ROWS(R_);                                                                             \
        pass_bf16(R, C, w, k, x, ldx, acc, lda, add);                                              \
    }
FOR_ROWS(ROWS_BF16, )

static void tile_bf16(const uint16_t *w, size_t k, const float *x, size_t ldx, uint32_t rows,
                      float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_bf16, w + 2 * col, k, x + r0 * ldx, ldx, acc + r0 * lda + col, lda,
                        add)
        }
    }
}

static void quantize(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum) {
    float padded[ENG__GROUP];
    if (n < ENG__GROUP) {
        memcpy(padded, x, n * sizeof *x);
        memset(padded + n, 0, (ENG__GROUP - n) * sizeof *x);
        x = padded;
    }
    vec top = v_set1(0), odd = v_set1(0);
    for (size_t i = 0; i < ENG__GROUP; i += VL) {
        vec v = v_load(x + i), size = (vec)((ivec)v & 0x7fffffff);
        ivec more = size > top;
        top = (vec)(((ivec)size & more) | ((ivec)top & ~more));
        odd = odd + v * v_set1(0); /* NaN if any value is not finite: it must not get lost */
    }
    float lane[VL], largest = 0;
    v_store(lane, top);
    for (int i = 0; i < VL; i++)
        largest = lane[i] > largest ? lane[i] : largest;
    vec inverse = v_set1(largest > 0 ? 127.0f / largest : 0), magic = v_set1(12582912.0f);
    int32_t code[ENG__GROUP], total = 0;
    for (size_t i = 0; i < ENG__GROUP; i += VL) {
        ivec c = (ivec)v_fma(v_load(x + i), inverse, magic) - (ivec)magic;
        memcpy(code + i, &c, sizeof c);
    }
    for (int i = 0; i < ENG__GROUP; i++)
        q[i] = (int8_t)code[i];
    for (int i = 0; i < ENG__GROUP; i++)
        total += q[i];
    *scale = largest / 127.0f + v_sum(odd);
    *sum = total;
}

static float dot(const float *a, const float *b, size_t n) {
    vec s0 = v_set1(0), s1 = v_set1(0);
    size_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
        s1 = v_fma(v_load(a + i + VL), v_load(b + i + VL), s1);
    }
    float sum = v_sum(s0 + s1);
    for (; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void rms(const float *x, const float *w, float *y, size_t n, float eps) {
    float s = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    vec vs = v_set1(s);
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_load(x + i) * vs * v_load(w + i));
    for (; i < n; i++)
        y[i] = x[i] * s * w[i];
}

/* exp for x <= 88.3: 2^round(x / ln 2) times a polynomial; relative error below 2e-7.
 * Below -87.3 the result is 0; NaN stays NaN. */
INLINE vec v_exp(vec x) {
    const vec magic = v_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec low = v_set1(-87.3f);
    ivec dead = x < low;
    vec xc = (vec)(((ivec)low & dead) | ((ivec)x & ~dead));
    vec shifted = v_fma(xc, v_set1(1.44269504088896f), magic);
    vec n = shifted - magic;
    vec r = v_fma(n, v_set1(-0.693359375f), xc);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vec p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p * r, r, r) + v_set1(1.0f);
    ivec bits = ((ivec)shifted - (ivec)magic) << 23;
    vec y = (vec)((ivec)p + bits);
    return (vec)((ivec)y & ~dead);
}

INLINE vec v_silu(vec g) {
    /* exp's argument is held below 88 so that its result stays finite */
    vec top = v_set1(88.0f), neg = v_set1(0) - g;
    ivec big = neg > top;
    neg = (vec)(((ivec)top & big) | ((ivec)neg & ~big));
    return g / (v_set1(1.0f) + v_exp(neg));
}

static void silu_mul(const float *g, const float *u, float *y, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_silu(v_load(g + i)) * v_load(u + i));
    if (i == n) return;
    float gt[VL] = {0}, ut[VL] = {0}, yt[VL];
    for (size_t j = i; j < n; j++)
        gt[j - i] = g[j], ut[j - i] = u[j];
    v_store(yt, v_silu(v_load(gt)) * v_load(ut));
    for (size_t j = i; j < n; j++)
        y[j] = yt[j - i];
}

/* PANEL queries side by side: s[i][q] is query q's score at position i. See the table. */
static void softmax_across(float *s, uint32_t n, uint32_t lanes, const int32_t *seen, float *top,
                           float *sum, float *keep) {
    const vec none = v_set1(-INFINITY);
    for (uint32_t q = 0; q < lanes; q += VL) {
        ivec limit = iv_load(seen + q), first = iv_set1(0);
        vec most = v_load(top + q), total = v_set1(0);
        for (uint32_t i = 0; i < n; i++, first += 1) {
            vec v = v_load(s + i * ENG__PANEL + q);
            ivec sees = first < limit;
            v = (vec)(((ivec)v & sees) | ((ivec)none & ~sees));
            v_store(s + i * ENG__PANEL + q, v);
            ivec more = v > most;
            most = (vec)(((ivec)v & more) | ((ivec)most & ~more));
        }
        ivec blind = most == none; /* nothing seen so far: any finite value serves */
        vec base = (vec)((ivec)most & ~blind);
        for (uint32_t i = 0; i < n; i++) {
            vec p = v_exp(v_load(s + i * ENG__PANEL + q) - base);
            v_store(s + i * ENG__PANEL + q, p);
            total = total + p;
        }
        vec kept = v_exp(v_load(top + q) - base);
        v_store(keep + q, kept);
        v_store(sum + q, v_fma(v_load(sum + q), kept, total));
        v_store(top + q, most);
    }
}

static void scale_add(float *y, float a, const float *x, float b, size_t n) {
    vec va = v_set1(a), vb = v_set1(b);
    size_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_fma(v_load(x + i), vb, v_load(y + i) * va));
    for (; i < n; i++)
        y[i] = y[i] * a + x[i] * b;
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

/* ---- probes: what this code path could reach at most ---- */

static float fma_probe(size_t n) {
    vec a[2 * TILE_ROWS], x = v_set1(0.5f), y = v_set1(1e-3f);
#pragma GCC unroll 24
    for (int i = 0; i < 2 * TILE_ROWS; i++)
        a[i] = v_set1((float)i);
    for (size_t k = 0; k < n; k++) {
        V_KEEP(x);
        V_KEEP(y);
#pragma GCC unroll 24
        for (int i = 0; i < 2 * TILE_ROWS; i++)
            a[i] = v_fma(x, y, a[i]);
    }
    vec sum = v_set1(0);
    for (int i = 0; i < 2 * TILE_ROWS; i++)
        sum = sum + a[i];
    return v_sum(sum);
}

static inline __attribute__((always_inline)) float read_ahead(const float *p, size_t n,
                                                              size_t ahead, bool far) {
    enum { STREAMS = 8 };
    vec a[STREAMS];
#pragma GCC unroll 8
    for (int i = 0; i < STREAMS; i++)
        a[i] = v_set1(0);
    for (size_t k = 0; k + STREAMS * VL <= n; k += STREAMS * VL) {
#pragma GCC unroll 8
        for (size_t i = 0; i < STREAMS * VL; i += 16) {
            if (far) __builtin_prefetch(p + k + ahead + i, 0, 2);
            else __builtin_prefetch(p + k + ahead + i);
        }
#pragma GCC unroll 8
        for (int i = 0; i < STREAMS; i++)
            a[i] = a[i] + v_load(p + k + (size_t)i * VL);
    }
    vec sum = v_set1(0);
    for (int i = 0; i < STREAMS; i++)
        sum = sum + a[i];
    return v_sum(sum);
}

/* Ways of asking for lines ahead: which one is fastest depends on how many threads read. */
static float read_probe(const float *p, size_t n, uint32_t way) {
    switch (way) {
    case 0: return read_ahead(p, n, 1024, false);
    case 1: return read_ahead(p, n, 4096, false);
    case 2: return read_ahead(p, n, 512, true);
    default: return read_ahead(p, n, 2048, true);
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
