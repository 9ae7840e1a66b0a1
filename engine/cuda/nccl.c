/* nccl.c - loads NCCL, and gathers with it. */
#include "engine/cuda/nccl.h"

#include <dlfcn.h>
#include <string.h>

#ifndef CU_NCCL_LIBRARY /* tests: NULL, the program itself */
#define CU_NCCL_LIBRARY "libnccl.so.2"
#endif

enum { NCCL_INT8 = 0 }; /* ncclInt8: a gather moves bytes and looks at none */

bool eng__nccl_load(cu_nccl *nccl) {
    const struct {
        void *to;
        const char *name;
    } wanted[] = {
        {&nccl->version, "ncclGetVersion"},
        {&nccl->make_id, "ncclGetUniqueId"},
        {&nccl->init, "ncclCommInitRank"},
        {&nccl->all_gather, "ncclAllGather"},
        {&nccl->send, "ncclSend"},
        {&nccl->receive, "ncclRecv"},
        {&nccl->group_start, "ncclGroupStart"},
        {&nccl->group_end, "ncclGroupEnd"},
        {&nccl->destroy, "ncclCommDestroy"},
        {&nccl->abort, "ncclCommAbort"},
        {&nccl->why, "ncclGetErrorString"},
    };
    void *library = dlopen(CU_NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    *nccl = (cu_nccl){0};
    if (library == NULL) return false;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *sym = dlsym(library, wanted[i].name);
        if (sym == NULL) return false;
        memcpy(wanted[i].to, &sym, sizeof sym); /* ISO C has no cast to a function pointer */
    }
    return true;
}

int eng__nccl_version(const cu_nccl *nccl) {
    int version = 0;
    return nccl->version(&version) == 0 ? version : 0;
}

int eng__nccl_make_id(const cu_nccl *nccl, cu_nccl_id *id, err *e) {
    int rc = nccl->make_id(id);
    if (rc == 0) return 0;
    return err_set(e, ERR_DEVICE, NULL, "NCCL makes no meeting place: %s", nccl->why(rc));
}

int eng__nccl_open(cu_nccl *nccl, const cu_nccl_id *id, uint32_t rank, uint32_t n, err *e) {
    int rc = nccl->init(&nccl->comm, (int)n, *id, (int)rank);
    if (rc == 0) return 0;
    nccl->comm = NULL;
    return err_set(e, ERR_DEVICE, NULL, "NCCL does not join rank %u of %u: %s", rank, n,
                   nccl->why(rc));
}

const char *eng__nccl_gather(const cu_nccl *nccl, void *parcels, size_t parcel_bytes, uint32_t rank,
                             cudaStream_t stream) {
    const void *own = (const char *)parcels + rank * parcel_bytes;
    int rc = nccl->all_gather(own, parcels, parcel_bytes, NCCL_INT8, nccl->comm, stream);
    return rc == 0 ? NULL : nccl->why(rc);
}

/* A send and a receive of one peer. The first refusal is in *rc. */
static void with_peer(const cu_nccl *nccl, const void *sent, size_t sent_bytes, void *came,
                      size_t came_bytes, uint32_t peer, cudaStream_t stream, int *rc) {
    if (*rc == 0 && sent_bytes)
        *rc = nccl->send(sent, sent_bytes, NCCL_INT8, (int)peer, nccl->comm, stream);
    if (*rc == 0 && came_bytes)
        *rc = nccl->receive(came, came_bytes, NCCL_INT8, (int)peer, nccl->comm, stream);
}

const char *eng__nccl_exchange(const cu_nccl *nccl, const void *sent, const size_t *sent_bytes,
                               void *came, const size_t *came_bytes, size_t parcel_bytes,
                               uint32_t rank, uint32_t n, cudaStream_t stream) {
    int rc = nccl->group_start();
    if (rc != 0) return nccl->why(rc);
    for (uint32_t peer = 0; peer < n; peer++) {
        if (peer == rank) continue;
        with_peer(nccl, (const char *)sent + peer * parcel_bytes, sent_bytes[peer],
                  (char *)came + peer * parcel_bytes, came_bytes[peer], peer, stream, &rc);
    }
    int ended = nccl->group_end(); /* always: a group left open would take in later calls */
    if (rc == 0) rc = ended;
    return rc == 0 ? NULL : nccl->why(rc);
}

void eng__nccl_close(cu_nccl *nccl, bool orderly) {
    if (nccl->comm == NULL) return;
    (void)(orderly ? nccl->destroy : nccl->abort)(nccl->comm);
    nccl->comm = NULL;
}
