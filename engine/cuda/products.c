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
                        .k = mat->k,
                        .keep_rows = mat->keep};
}

cudaError_t eng__cuda_product(cu_backend *cuda, const char *name, const cu_mat *mat,
                              cu_mm_store store, const void *x, void *y, uint32_t ldy,
                              uint32_t rows) {
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

cudaError_t eng__cuda_experts(cu_backend *cuda, const cu_layer *layer, uint32_t rows,
                              uint32_t *n_parts) {
    const model_plan *plan = &cuda->plan;
    cu_scratch *work = &cuda->work;
    bool dense = eng__cuda_blas_shared(cuda, rows);
    cu_moe moe = work->moe;
    moe.n_experts = plan->n_experts;
    moe.top_k = plan->n_experts_per_tok;
    moe.no_output = layer == &cuda->core[plan->n_core - 1] ? CU_ROW_KV_ONLY : 0;
    moe.n_shared_groups = dense ? 0 : cuda->groups_shared;
    moe.parts_per_row = moe.top_k + (dense ? 1 : cuda->groups_shared);
    *n_parts = moe.parts_per_row;
    cu_route_args route = {
        .desc = cuda->desc, .logits = work->router, .bias = layer->router_bias, .moe = moe};
    cu_mm_args in = {.desc = cuda->desc,
                     .map = CU_MAP_IN,
                     .store = CU_STORE_SILU,
                     .w = layer->gate_up.w,
                     .w_shared = layer->shared_gate_up.w,
                     .w_group = layer->gate_up.group,
                     .w_shared_group = layer->shared_gate_up.group,
                     .ldw = layer->gate_up.ld,
                     .ldw_shared = layer->shared_gate_up.ld,
                     .x = work->act,
                     .ldx = cuda->dim_ld,
                     .y = work->hidden,
                     .ldy = cuda->expert_ld,
                     .n = layer->gate_up.n,
                     .k = layer->gate_up.k,
                     .moe = moe,
                     .keep_rows = layer->shared_gate_up.keep,
                     .pass_experts = cuda->pass_experts};
    cu_mm_args out = {.desc = cuda->desc,
                      .map = CU_MAP_OUT,
                      .store = CU_STORE_F32,
                      .w = layer->down.w,
                      .w_shared = layer->shared_down.w,
                      .w_group = layer->down.group,
                      .w_shared_group = layer->shared_down.group,
                      .ldw = layer->down.ld,
                      .ldw_shared = layer->shared_down.ld,
                      .x = work->hidden,
                      .ldx = cuda->expert_ld,
                      .y = work->parts,
                      .ldy = plan->dim,
                      .n = plan->dim,
                      .k = layer->down.k,
                      .moe = moe,
                      .keep_rows = layer->shared_down.keep,
                      .pass_experts = cuda->pass_experts};
    cudaError_t rc = eng__cuda_product(cuda, "router", &layer->router, CU_STORE_F32, work->act,
                                       work->router, plan->n_experts, rows);
    STEP(rc, assign(cuda, &route, rows));
    in.stamp = eng__cuda_stamp(cuda, "expert_gate_up");
    STEP(rc, cu_mm(cuda->stream, &in, rows, eng__cuda_max_blocks(cuda), cuda->f32));
    out.stamp = eng__cuda_stamp(cuda, "expert_down");
    STEP(rc, cu_mm(cuda->stream, &out, rows, eng__cuda_max_blocks(cuda), cuda->f32));
    if (!dense) return rc;
    cu_mat wide = layer->shared_gate_up; /* all groups as one matrix */
    wide.n *= cuda->groups_shared;
    STEP(rc, eng__cuda_product(cuda, "shared_gate_up", &wide, CU_STORE_SILU, work->act,
                               work->hidden, layer->shared_down.ld, rows));
    STEP(rc, eng__cuda_product(cuda, "shared_down", &layer->shared_down, CU_STORE_F32, work->hidden,
                               work->parts + (size_t)moe.top_k * plan->dim,
                               moe.parts_per_row * plan->dim, rows));
    return rc;
}

cudaError_t eng__cuda_dense_ffn(cu_backend *cuda, const cu_layer *layer, ffn_kind ffn,
                                uint32_t rows) {
    bool gated = ffn == FFN_SWIGLU;
    cudaError_t rc = eng__cuda_product(cuda, gated ? "gate_up" : "up", &layer->gate_up,
                                       gated ? CU_STORE_SILU : CU_STORE_RELU2, cuda->work.act,
                                       cuda->work.hidden, layer->down.ld, rows);
    STEP(rc, eng__cuda_product(cuda, "down", &layer->down, CU_STORE_F32, cuda->work.hidden,
                               cuda->work.delta, cuda->plan.dim, rows));
    return rc;
}
