/* nccl.cpp - NCCL of the shim: gathers, sends and receives between ranks that are threads of this
 * process, each with a device of its own. As NCCL does, it refuses two ranks on one device, and a
 * gather runs when its stream gets there, once every rank's stream has. A send ends when it has
 * been received, so the sends and receives of ranks that need each other stand in one group. */
#include "runtime.h"

#include <deque>
#include <map>

namespace {
enum { SUCCESS = 0, UNHANDLED_CUDA_ERROR = 1, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 };

struct unique_id {
    char bytes[128];
};

/* One rank's side of the gathers so far. */
struct side {
    bool here = false;
    int device = 0;
    const void *own = nullptr;
    uint64_t posted = 0, taken = 0;
};
/* Messages from one rank to another, in order. A deque: they stay where they are. */
struct message {
    const void *from;
    size_t bytes;
    bool taken;
};
struct mailbox {
    std::deque<message> sent;
    size_t taken = 0;
};
struct meeting {
    std::vector<side> sides;
    std::map<std::pair<int, int>, mailbox> boxes; /* by sender and receiver */
};
std::map<uint64_t, meeting> meetings;
uint64_t last_meeting;
void (*pause_rank)(void);

template <typename F> void wait_until(F holds) {
    while (!holds()) {
        if (pause_rank == nullptr) shim_die("a rank waits for others, and nobody lets them run");
        pause_rank();
    }
}

bool all_of(const meeting *at, bool (*holds)(const side &, uint64_t), uint64_t than) {
    for (auto &one : at->sides)
        if (!holds(one, than)) return false;
    return true;
}

uint64_t number_of(const unique_id &id) {
    uint64_t number;
    memcpy(&number, id.bytes, sizeof number);
    return number;
}
} // namespace

struct ncclComm {
    uint64_t number;
    int rank;
};

namespace {
struct peer_op {
    const void *from; /* a send, or NULL */
    void *to;
    size_t bytes;
    int peer;
};
struct peer_group {
    bool open = false;
    ncclComm *comm = nullptr;
    cudaStream_t stream = nullptr;
    std::vector<peer_op> ops;
};
thread_local peer_group group;

void run_group(meeting *at, int rank, const std::vector<peer_op> &ops) {
    std::vector<const message *> sent;
    for (auto &op : ops) {
        if (op.from == nullptr) continue;
        auto &box = at->boxes[{rank, op.peer}].sent;
        box.push_back({op.from, op.bytes, false});
        sent.push_back(&box.back());
    }
    for (auto &op : ops) {
        if (op.from) continue;
        mailbox *box = &at->boxes[{op.peer, rank}];
        wait_until([=] { return box->sent.size() > box->taken; });
        message *next = &box->sent[box->taken++];
        if (next->bytes != op.bytes) shim_die("a rank receives another size than was sent");
        memcpy(op.to, next->from, op.bytes);
        next->taken = true;
    }
    for (auto *message : sent)
        wait_until([=] { return message->taken; });
}
} // namespace

extern "C" {

void shim_pause_by(void (*pause)(void)) {
    pause_rank = pause;
}

int ncclGetVersion(int *version) {
    *version = 22809;
    return SUCCESS;
}
const char *ncclGetErrorString(int rc) {
    return rc == INVALID_USAGE ? "invalid usage" : "unhandled cuda error";
}

int ncclGetUniqueId(unique_id *id) {
    memset(id, 0, sizeof *id);
    last_meeting++;
    memcpy(id->bytes, &last_meeting, sizeof last_meeting);
    return SUCCESS;
}

int ncclCommInitRank(ncclComm **comm, int ranks, unique_id id, int rank) {
    if (shim_failing(cudaErrorUnknown) != cudaSuccess) return UNHANDLED_CUDA_ERROR;
    if (ranks < 1 || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    meeting *at = &meetings[number_of(id)];
    at->sides.resize((size_t)ranks);
    at->sides[(size_t)rank].here = true;
    at->sides[(size_t)rank].device = shim_device();
    wait_until([=] {
        return all_of(
            at, [](const side &one, uint64_t) { return one.here; }, 0);
    });
    for (int i = 0; i < ranks; i++)
        if (i != rank && at->sides[(size_t)i].device == shim_device()) return INVALID_USAGE;
    *comm = new ncclComm{number_of(id), rank};
    return SUCCESS;
}

int ncclAllGather(const void *own, void *all, size_t count, int type, ncclComm *comm,
                  cudaStream_t stream) {
    if (shim_failing(cudaErrorUnknown) != cudaSuccess) return UNHANDLED_CUDA_ERROR;
    meeting *at = &meetings[comm->number];
    size_t rank = (size_t)comm->rank;
    if (type != 0 || at->sides[rank].device != shim_device()) return INVALID_ARGUMENT;
    cudaError_t rc = shim_enqueue(stream, [=] {
        side *mine = &at->sides[rank];
        mine->own = own;
        uint64_t turn = ++mine->posted;
        wait_until([=] {
            return all_of(
                at, [](const side &one, uint64_t than) { return one.posted >= than; }, turn);
        });
        for (size_t i = 0; i < at->sides.size(); i++) {
            char *to = (char *)all + i * count;
            if (to != at->sides[i].own) memcpy(to, at->sides[i].own, count);
        }
        mine->taken = turn;
        wait_until([=] {
            return all_of(
                at, [](const side &one, uint64_t than) { return one.taken >= than; }, turn);
        });
    });
    return rc == cudaSuccess ? SUCCESS : UNHANDLED_CUDA_ERROR;
}

/* A call between the start and the end of a group. */
int peer_call(peer_op op, int type, ncclComm *comm, cudaStream_t stream) {
    meeting *at = &meetings[comm->number];
    if (type != 0 || op.peer < 0 || (size_t)op.peer >= at->sides.size() || op.peer == comm->rank)
        return INVALID_ARGUMENT;
    if (shim_failing(cudaErrorUnknown) != cudaSuccess) return UNHANDLED_CUDA_ERROR;
    if (!group.open) return INVALID_USAGE; /* NCCL allows it; Fathom has no use for it */
    if (!group.ops.empty() && (group.comm != comm || group.stream != stream)) return INVALID_USAGE;
    group.comm = comm;
    group.stream = stream;
    group.ops.push_back(op);
    return SUCCESS;
}

int ncclSend(const void *from, size_t count, int type, int to, ncclComm *comm,
             cudaStream_t stream) {
    return peer_call({from, nullptr, count, to}, type, comm, stream);
}
int ncclRecv(void *to, size_t count, int type, int from, ncclComm *comm, cudaStream_t stream) {
    return peer_call({nullptr, to, count, from}, type, comm, stream);
}

int ncclGroupStart(void) {
    if (shim_failing(cudaErrorUnknown) != cudaSuccess) return UNHANDLED_CUDA_ERROR;
    group = peer_group();
    group.open = true;
    return SUCCESS;
}

int ncclGroupEnd(void) {
    peer_group ended = group;
    group = peer_group();
    if (!ended.open) return INVALID_USAGE;
    if (shim_failing(cudaErrorUnknown) != cudaSuccess) return UNHANDLED_CUDA_ERROR;
    if (ended.ops.empty()) return SUCCESS;
    meeting *at = &meetings[ended.comm->number];
    cudaError_t rc =
        shim_enqueue(ended.stream, [=] { run_group(at, ended.comm->rank, ended.ops); });
    return rc == cudaSuccess ? SUCCESS : UNHANDLED_CUDA_ERROR;
}

int ncclCommDestroy(ncclComm *comm) {
    delete comm;
    return SUCCESS;
}
int ncclCommAbort(ncclComm *comm) {
    return ncclCommDestroy(comm);
}
}
