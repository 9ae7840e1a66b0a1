/* nccl.h - gathers between devices by NCCL, NVIDIA's library of collectives. libnccl.so.2 is loaded
 * when a backend with ranks opens: neither the build nor a run on one device needs it. */
#ifndef FATHOM_ENGINE_CUDA_NCCL_H
#define FATHOM_ENGINE_CUDA_NCCL_H

#include "base/err.h"

#include <cuda_runtime_api.h>

/* Made by rank 0 and given to all: ncclUniqueId. */
typedef struct {
    char bytes[128];
} cu_nccl_id;

/* The functions called here, as the library's manual has them, and this rank's communicator. */
typedef struct cu_nccl {
    int (*version)(int *version);
    int (*make_id)(cu_nccl_id *id);
    int (*init)(void **comm, int ranks, cu_nccl_id id, int rank);
    int (*all_gather)(const void *own, void *all, size_t count, int type, void *comm,
                      cudaStream_t stream);
    int (*send)(const void *from, size_t count, int type, int to, void *comm, cudaStream_t stream);
    int (*receive)(void *to, size_t count, int type, int from, void *comm, cudaStream_t stream);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*destroy)(void *comm);
    int (*abort)(void *comm);
    const char *(*why)(int rc);
    void *comm;
} cu_nccl;

/* False if the library is not there or lacks a function. It is never unloaded, as it keeps threads.
 */
bool eng__nccl_load(cu_nccl *nccl);
/* The library's version as 10000 * major + 100 * minor + patch, 0 if it does not tell. */
int eng__nccl_version(const cu_nccl *nccl);
int eng__nccl_make_id(const cu_nccl *nccl, cu_nccl_id *id, err *e) WARN_UNUSED;
/* Joins the ranks on the current device; returns when all of them have come. */
int eng__nccl_open(cu_nccl *nccl, const cu_nccl_id *id, uint32_t rank, uint32_t n,
                   err *e) WARN_UNUSED;
/* Queues a gather: parcel r of `parcels` comes from rank r. NULL, or why it was refused. */
const char *eng__nccl_gather(const cu_nccl *nccl, void *parcels, size_t parcel_bytes, uint32_t rank,
                             cudaStream_t stream);
/* Queues an exchange between all ranks but this one: parcel r of `sent`, of sent_bytes[r] bytes,
 * goes to rank r, and parcel r of `came` comes from there. Nothing goes where bytes are 0. NULL, or
 * why it was refused. */
const char *eng__nccl_exchange(const cu_nccl *nccl, const void *sent, const size_t *sent_bytes,
                               void *came, const size_t *came_bytes, size_t parcel_bytes,
                               uint32_t rank, uint32_t n, cudaStream_t stream);
/* Without `orderly` it waits for no other rank, and breaks off gathers on their way. Does nothing
 * without a communicator. */
void eng__nccl_close(cu_nccl *nccl, bool orderly);

#endif
