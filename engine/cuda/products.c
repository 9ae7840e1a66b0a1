/* products.c - the products of a stage, and the feed-forwards made of them.
 *
 * Below CU_BLAS_ROWS rows, or CU_BLAS_ROWS_DENSE if the core has no experts, every product is the
 * project's own kernel. From there on dense products are cuBLAS's, computed for all rows of the
 * capacity (rows beyond the launch are scratch). If a row's bits may not depend on the capacity
 * (kernels bf16-invariant), no product is cuBLAS's. */
#include "engine/cuda/cuda_internal.h"

bool eng__cuda_use_blas(const cu_backend *cuda, uint32_t rows) {
    return rows >= cuda->blas_rows;
}

bool eng__cuda_blas_shared(const cu_backend *cuda, uint32_t rows) {
    return eng__cuda_use_blas(cuda, rows) && cuda->groups_shared > 0;
}

uint32_t eng__cuda_max_blocks(const cu_backend *cuda) {
    return (uint32_t)cuda->sms * 2;
}

cudaError_t eng__cuda_blas(cu_backend *cuda, const char *name, const cu_mat *mat, const void *x,
                           uint32_t ldx, uint32_t x_step, void *y, uint32_t ldy, uint32_t y_step,
                           bool y_f32, uint32_t rows, uint32_t count) {
    const float one = 1.0f, zero = 0.0f;
    eng__cuda_unstamped(cuda, name);
    cublasStatus_t rc = cublasGemmStridedBatchedEx(
        cuda->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)mat->n, (int)rows, (int)mat->k, &one, mat->w,
        CUDA_R_16BF, (int)mat->ld, (long long)mat->group, x, CUDA_R_16BF, (int)ldx,
        (long long)x_step, &zero, y, y_f32 ? CUDA_R_32F : CUDA_R_16BF, (int)ldy, (long long)y_step,
        (int)count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (rc == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
    cuda->blas_product = name;
    cuda->blas_status = rc;
    return cudaErrorUnknown;
}

cu_mm_args eng__cuda_dense_args(cu_backend *cuda, const char *name, const cu_mat *mat,
                                const void *x) {
    return (cu_mm_args){.desc = cuda->desc,
                        .stamp = eng__cuda_stamp(cuda, name),
                        .map = CU_MAP_ROWS,
                        .w = mat->w,
                        .ldw = mat->ld,
                        .x = x,
                        .ldx = mat->ld,
                        .n = mat->n,
                        .n_all = mat->all,
                        .k = mat->k,
                        .keep_rows = mat->keep};
}

cudaError_t eng__cuda_product(cu_backend *cuda, const char *name, const cu_mat *mat,
                              cu_mm_store store, const void *x, void *y, uint32_t ldy,
                              uint32_t rows) {
    if (mat->n == 0) return cudaSuccess; /* a rank without columns */
    if (eng__cuda_use_blas(cuda, rows) && store == CU_STORE_F32) {
        return eng__cuda_blas(cuda, name, mat, x, mat->ld, 0, y, ldy, 0, true, rows, 1);
    }
    if (eng__cuda_use_blas(cuda, rows) && (store == CU_STORE_SILU || store == CU_STORE_RELU2)) {
        bool gated = store == CU_STORE_SILU;
        cudaError_t rc = eng__cuda_blas(cuda, name, mat, x, mat->ld, 0, cuda->work.wide, mat->n, 0,
                                        false, rows, 1);
        cu_stamp *stamp = eng__cuda_stamp(cuda, gated ? "silu_rows" : "relu2_rows");
        STEP(rc,
             gated ? cu_silu(cuda->stream, cuda->desc, cuda->work.wide, y, mat->n / 2, rows, stamp)
                   : cu_relu2(cuda->stream, cuda->desc, cuda->work.wide, y, mat->n, rows, stamp));
        return rc;
    }
    cu_mm_args args = eng__cuda_dense_args(cuda, name, mat, x);
    args.store = store;
    args.y = y;
    args.ldy = ldy;
    return cu_mm(cuda->stream, &args, rows, eng__cuda_max_blocks(cuda), cuda->f32);
}

cudaError_t eng__cuda_per_head(cu_backend *cuda, const char *name, const cu_mat *mat, const void *x,
                               uint32_t x_head, void *y, uint32_t ldy, uint32_t y_head,
                               uint32_t rows) {
    uint32_t heads = cuda->plan.n_heads;
    if (eng__cuda_use_blas(cuda, rows)) {
        return eng__cuda_blas(cuda, name, mat, x, heads * x_head, x_head, y, ldy, y_head, false,
                              rows, heads);
    }
    cu_mm_args args = {.desc = cuda->desc,
                       .stamp = eng__cuda_stamp(cuda, name),
                       .map = CU_MAP_HEADS,
                       .store = CU_STORE_ACT,
                       .w = mat->w,
                       .w_group = mat->group,
                       .ldw = mat->ld,
                       .x = x,
                       .ldx = heads * x_head,
                       .x_group = x_head,
                       .y = y,
                       .ldy = ldy,
                       .y_group = y_head,
                       .n = mat->n,
                       .k = mat->k,
                       .groups = heads,
                       .keep_rows = mat->keep};
    return cu_mm(cuda->stream, &args, rows, eng__cuda_max_blocks(cuda), cuda->f32);
}

/* ---- feed-forwards ---- */

/* Assigns rows to groups. */
static cudaError_t assign(cu_backend *cuda, cu_route_args *args, uint32_t rows) {
    if (rows <= CU_ASSIGN_ROWS && args->moe.n_experts <= CU_ASSIGN_EXPERTS) {
        args->stamp = eng__cuda_stamp(cuda, "moe_assign");
        return cu_moe_assign(cuda->stream, args, rows);
    }
    args->stamp = eng__cuda_stamp(cuda, "moe_route");
    cudaError_t rc = cu_moe_route(cuda->stream, args, rows);
    args->stamp = eng__cuda_stamp(cuda, "moe_group");
    STEP(rc, cu_moe_group(cuda->stream, args));
    return rc;
}

static cu_moe moe_of(const cu_backend *cuda, bool dense, bool last) {
    cu_moe moe = cuda->work.moe;
    moe.n_experts = cuda->plan.n_experts;
    moe.top_k = cuda->plan.n_experts_per_tok;
    moe.no_output = last ? CU_ROW_KV_ONLY : 0;
    moe.n_shared_groups = dense ? 0 : cuda->groups_shared;
    moe.parts_per_row = moe.top_k + (dense ? 1 : cuda->groups_shared);
    return moe;
}

/* All but where tokens come from and go to. */
static cu_mm_args expert_args(const cu_backend *cuda, const cu_mat *routed, const cu_mat *shared,
                              const cu_moe *moe) {
    return (cu_mm_args){.desc = cuda->desc,
                        .w = routed->w,
                        .w_shared = shared->w,
                        .w_group = routed->group,
                        .w_shared_group = shared->group,
                        .ldw = routed->ld,
                        .ldw_shared = shared->ld,
                        .n = routed->n,
                        .n_all = routed->all,
                        .k = routed->k,
                        .moe = *moe,
                        .keep_rows = shared->keep,
                        .pass_experts = cuda->pass_experts};
}

static cudaError_t expert_mm(cu_backend *cuda, const char *name, cu_mm_args *args, uint32_t rows) {
    args->stamp = eng__cuda_stamp(cuda, name);
    return cu_mm(cuda->stream, args, rows, eng__cuda_max_blocks(cuda), cuda->f32);
}

/* With ranks: this rank's columns of all parts -> the sum of all columns. The order of the sum is
 * the one of the kernel that follows without ranks: behind the last core layer the end of the loop
 * adds part by part to x, elsewhere row_step adds the sum of the parts. */
static cudaError_t join_parts(cu_backend *cuda, uint32_t n_parts, bool last, uint32_t rows) {
    uint32_t dim = cuda->plan.dim;
    cu_scratch *work = &cuda->work;
    cu_columns sum = eng__cuda_columns_floats(last ? work->x : work->delta, dim, rows);
    cu_join_args args = {.desc = cuda->desc,
                         .stamp = eng__cuda_stamp(cuda, "join_parts"),
                         .parts = work->parts,
                         .x = last ? work->x : NULL,
                         .n_parts = n_parts,
                         .first = eng__cuda_share(cuda, dim, sum.unit).first,
                         .ldx = dim};
    args.to = eng__cuda_own(cuda, &sum, &args.width);
    cudaError_t rc = cu_join_parts(cuda->stream, &args, rows);
    STEP(rc, eng__cuda_gather(cuda, "gather_down", &sum));
    return rc;
}

/* With sums: this rank's parts of all outputs -> parts [rows][1][dim]. */
static cudaError_t sum_parts(cu_backend *cuda, uint32_t n_parts, uint32_t rows) {
    cu_ranks_sum sum = {.parts = cuda->work.parts,
                        .to = cuda->work.parts,
                        .n_parts = n_parts,
                        .rows = rows,
                        .hidden = cuda->expert_ld};
    return eng__cuda_sum(cuda, &sum);
}

uint32_t eng__cuda_expert_lines(const cu_backend *cuda) {
    uint32_t groups = cuda->plan.n_experts_per_tok + cuda->groups_shared;
    return groups + (cuda->blas_rows < UINT32_MAX && cuda->groups_shared > 0);
}

cudaError_t eng__cuda_experts(cu_backend *cuda, const cu_layer *layer, uint32_t rows,
                              uint32_t *n_parts) {
    cu_scratch *work = &cuda->work;
    bool dense = eng__cuda_blas_shared(cuda, rows);
    bool last = layer == &cuda->core[cuda->plan.n_core - 1];
    cu_moe moe = moe_of(cuda, dense, last);
    cu_route_args route = {
        .desc = cuda->desc, .logits = work->router, .bias = layer->router_bias, .moe = moe};
    /* The always-on experts as one matrix have their hidden values behind those of the parts. */
    uint32_t n_lines = rows * moe.parts_per_row;
    cu_columns hidden = eng__cuda_columns_hidden(
        cuda, cuda->expert_ld, n_lines + (dense ? rows * cuda->groups_shared : 0));
    cu_mm_args in = expert_args(cuda, &layer->gate_up, &layer->shared_gate_up, &moe),
               out = expert_args(cuda, &layer->down, &layer->shared_down, &moe);
    in.map = CU_MAP_IN;
    in.store = CU_STORE_SILU;
    in.x = work->act;
    in.ldx = cuda->dim_ld;
    in.y = eng__cuda_own(cuda, &hidden, &in.ldy);
    out.map = CU_MAP_OUT;
    out.store = CU_STORE_F32;
    out.x = work->hidden;
    out.ldx = hidden.ld;
    out.y = work->parts;
    out.ldy = out.n;
    cu_mat wide = layer->shared_gate_up;
    wide.n *= cuda->groups_shared;
    size_t behind = n_lines * cu_act_bytes(cuda);
    cudaError_t rc = eng__cuda_product(cuda, "router", &layer->router, CU_STORE_F32, work->act,
                                       work->router, cuda->plan.n_experts, rows);
    STEP(rc, assign(cuda, &route, rows));
    STEP(rc, expert_mm(cuda, "expert_gate_up", &in, rows));
    if (dense)
        STEP(rc, eng__cuda_product(cuda, "shared_gate_up", &wide, CU_STORE_SILU, work->act,
                                   (uint8_t *)in.y + behind * in.ldy, wide.n / 2, rows));
    STEP(rc, eng__cuda_gather(cuda, "gather_gate_up", &hidden));
    STEP(rc, expert_mm(cuda, "expert_down", &out, rows));
    if (dense)
        STEP(rc, eng__cuda_product(cuda, "shared_down", &layer->shared_down, CU_STORE_F32,
                                   (uint8_t *)work->hidden + behind * hidden.ld,
                                   work->parts + (size_t)moe.top_k * out.ldy,
                                   moe.parts_per_row * out.ldy, rows));
    *n_parts = !cuda->ranks ? moe.parts_per_row : eng__cuda_sums(cuda) ? 1 : 0;
    if (eng__cuda_sums(cuda)) STEP(rc, sum_parts(cuda, moe.parts_per_row, rows));
    else if (cuda->ranks) STEP(rc, join_parts(cuda, moe.parts_per_row, last, rows));
    return rc;
}

/* hidden -> delta. */
static cudaError_t dense_down(cu_backend *cuda, const cu_layer *layer, uint32_t rows) {
    cu_scratch *work = &cuda->work;
    cu_columns delta = eng__cuda_columns_floats(work->delta, cuda->plan.dim, rows);
    uint32_t ld = cuda->plan.dim;
    bool sums = eng__cuda_sums(cuda);
    float *own = sums ? eng__cuda_parts_place(cuda, rows) : eng__cuda_own(cuda, &delta, &ld);
    cudaError_t rc =
        eng__cuda_product(cuda, "down", &layer->down, CU_STORE_F32, work->hidden, own, ld, rows);
    cu_ranks_sum sum = {
        .parts = own, .to = work->delta, .n_parts = 1, .rows = rows, .hidden = cuda->dense_ld};
    STEP(rc, sums ? eng__cuda_sum(cuda, &sum) : eng__cuda_gather(cuda, "gather_down", &delta));
    return rc;
}

cudaError_t eng__cuda_dense_ffn(cu_backend *cuda, const cu_layer *layer, ffn_kind ffn,
                                uint32_t rows) {
    bool gated = ffn == FFN_SWIGLU;
    cu_columns hidden = eng__cuda_columns_hidden(cuda, cuda->dense_ld, rows);
    uint32_t ld;
    void *own = eng__cuda_own(cuda, &hidden, &ld);
    cudaError_t rc =
        eng__cuda_product(cuda, gated ? "gate_up" : "up", &layer->gate_up,
                          gated ? CU_STORE_SILU : CU_STORE_RELU2, cuda->work.act, own, ld, rows);
    STEP(rc, eng__cuda_gather(cuda, "gather_gate_up", &hidden));
    STEP(rc, dense_down(cuda, layer, rows));
    return rc;
}
