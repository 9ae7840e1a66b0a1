/* kernels_int8.h - the int8 tile, its probe, and the division of all tiles into passes.
 *
 * Included by kernels_body.h, and by a code path that differs only in v_dot4. The including file
 * defines the names listed in kernels_body.h. */

#define INLINE static inline __attribute__((always_inline))

/* COLS of a pass: the whole width if sums and columns fit the registers. */
#define WHOLE (16u / (uint32_t)VL)
#define PASS_COLUMNS(rows) ((rows)*WHOLE < TILE_ROWS ? WHOLE : 1u)

/* Each pass is a function of its own. Inside a loop over columns, or beside other passes, the
 * compiler would keep addresses in registers needed by the inner loop. */
#define APART static __attribute__((noinline, unused)) void
#define PASS_ROWS(R_) enum { ROWS = TILE_ROWS >= R_ ? R_ : 1, COLS = PASS_COLUMNS(ROWS) }
#define PASS_WIDTH(rows) (PASS_COLUMNS(rows) * (uint32_t)VL)
#define FOR_ROWS(CASE, ...)                                                                        \
    CASE(1, __VA_ARGS__)                                                                           \
    CASE(2, __VA_ARGS__)                                                                           \
    CASE(3, __VA_ARGS__)                                                                           \
    CASE(4, __VA_ARGS__)                                                                           \
    CASE(5, __VA_ARGS__)                                                                           \
    CASE(6, __VA_ARGS__)                                                                           \
    CASE(7, __VA_ARGS__)                                                                           \
    CASE(8, __VA_ARGS__)                                                                           \
    CASE(9, __VA_ARGS__)                                                                           \
    CASE(10, __VA_ARGS__)                                                                          \
    CASE(11, __VA_ARGS__)                                                                          \
    CASE(12, __VA_ARGS__)
#define PASS_CASE(R_, name, ...)                                                                   \
    case R_:                                                                                       \
        if (TILE_ROWS >= R_) name##_##R_(__VA_ARGS__);                                             \
        break;
#define PASS_SWITCH(rows, ...)                                                                     \
    switch (rows) {                                                                                \
        FOR_ROWS(PASS_CASE, __VA_ARGS__)                                                           \
    default: break;                                                                                \
    }

INLINE float v_sum(vec values) {
    float lane[VL], sum = 0;
    v_store(lane, values);
    for (int i = 0; i < VL; i++)
        sum += lane[i];
    return sum;
}

/* ---- int8: exact integer sums within a group, then one scaled addition ---- */

INLINE void pass_i8(const uint32_t ROWS, const uint32_t COLS, const uint8_t *weights,
                    uint32_t groups, const int8_t *codes, size_t ld_codes, const float *scale,
                    const int32_t *sum, size_t ld_scale, float *acc, size_t lda, bool add) {
    for (uint32_t group = 0; group < groups;
         group++, weights += ENG__GROUP_BYTES, codes += ENG__GROUP) {
        ivec sums[TILE_ROWS * 2];
#pragma GCC unroll 12
        for (uint32_t row = 0; row < ROWS; row++) { /* codes are value + 128 */
#pragma GCC unroll 8
            for (uint32_t col = 0; col < 2 * COLS; col++)
                sums[2 * row * COLS + col] = iv_set1(-128 * sum[row * ld_scale + group]);
        }
        for (size_t i = 0; i < ENG__GROUP; i += 4) {
            const uint8_t *group_codes = weights + i * ENG__PANEL;
            __builtin_prefetch(group_codes + 4096);
            __builtin_prefetch(group_codes + 4096 + 64);
#pragma GCC unroll 4
            for (uint32_t col = 0; col < COLS; col++) {
                ivec w0 = iv_load(group_codes + 4 * col * VL),
                     w1 = iv_load(group_codes + 4 * col * VL + 64);
#pragma GCC unroll 12
                for (uint32_t row = 0; row < ROWS; row++) {
                    int32_t four;
                    memcpy(&four, codes + row * ld_codes + i, sizeof four);
                    ivec *at = sums + 2 * (row * COLS + col);
                    at[0] = v_dot4(at[0], w0, four);
                    at[1] = v_dot4(at[1], w1, four);
                }
            }
        }
        const float *scales = (const float *)(const void *)(weights + ENG__GROUP * ENG__PANEL);
#pragma GCC unroll 12
        for (uint32_t row = 0; row < ROWS; row++) {
            vec sx = v_set1(scale[row * ld_scale + group]);
#pragma GCC unroll 8
            for (uint32_t col = 0; col < 2 * COLS; col++) {
                uint32_t column = col / 2 * VL + col % 2 * 16;
                float *to = acc + row * lda + column;
                vec old = add || group ? v_load(to) : v_set1(0);
                vec total = __builtin_convertvector(sums[2 * row * COLS + col], vec);
                v_store(to, v_fma(total, v_load(scales + column) * sx, old));
            }
        }
    }
}

#define ROWS_I8(R_, ...)                                                                           \
    APART rows_i8_##R_(const uint8_t *weights, uint32_t groups, const int8_t *codes,               \
                       size_t ld_codes, const float *scale, const int32_t *sum, size_t ld_scale,   \
                       float *acc, size_t lda, bool add) {                                         \
        PASS_ROWS(R_);                                                                             \
        pass_i8(ROWS, COLS, weights, groups, codes, ld_codes, scale, sum, ld_scale, acc, lda,      \
                add);                                                                              \
    }
FOR_ROWS(ROWS_I8, )

static void tile_i8(const uint8_t *weights, uint32_t groups, const int8_t *codes, size_t ld_codes,
                    const float *scale, const int32_t *sum, size_t ld_scale, uint32_t rows,
                    float *acc, size_t lda, bool add) {
    for (uint32_t r0 = 0; r0 < rows; r0 += TILE_ROWS) {
        uint32_t n = rows - r0 < TILE_ROWS ? rows - r0 : TILE_ROWS;
        for (uint32_t col = 0; col < 16; col += PASS_WIDTH(n)) {
            PASS_SWITCH(n, rows_i8, weights + 4 * col, groups, codes + r0 * ld_codes, ld_codes,
                        scale + r0 * ld_scale, sum + r0 * ld_scale, ld_scale, acc + r0 * lda + col,
                        lda, add)
        }
    }
}

static float dot_probe(size_t n) {
    ivec sums[2 * TILE_ROWS], bytes = iv_set1(0x01020304);
#pragma GCC unroll 24
    for (int i = 0; i < 2 * TILE_ROWS; i++)
        sums[i] = iv_set1(i);
    for (size_t k = 0; k < n; k++) {
        V_KEEP(bytes);
#pragma GCC unroll 24
        for (int i = 0; i < 2 * TILE_ROWS; i++)
            sums[i] = v_dot4(sums[i], bytes, 0x7f010203);
    }
    ivec sum = iv_set1(0);
    for (int i = 0; i < 2 * TILE_ROWS; i++)
        sum = sum + sums[i];
    return v_sum(__builtin_convertvector(sum, vec));
}
