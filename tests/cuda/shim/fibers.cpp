/* fibers.cpp - a thread block on one CPU thread: a stack per CUDA thread, changed at barriers and
 * warp operations. x86-64 System V. Compiled without sanitizers: a change of stacks is then cheap,
 * and sanitizers need not see it as long as nothing is thrown. */
#include "runtime.h"

#include <cstdio>
#include <map>
#include <vector>

#include <sys/mman.h>

dim3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char *shim_shared;

namespace {

enum { MAX_THREADS = 1024, STACK = 256 << 10, GIVE = 64, DEFAULT_SHARED = 48 << 10 };

struct fiber {
    void *sp;
    unsigned char *stack;
    bool done;
    const unsigned *turn; /* waits while *turn == seen; NULL: can run */
    unsigned seen;
    unsigned next; /* in the ring of turns */
    std::vector<std::pair<void *, const void *>> copies;
};
struct warp_state {
    unsigned arrived, turn;
    unsigned char give[2][32][GIVE];
};

fiber fibers[MAX_THREADS];
warp_state warps[MAX_THREADS / 32];
unsigned n_threads, current, target, alive, barrier_count, barrier_turn, order_kind;
uint64_t launched;
void *main_sp;
const std::function<void()> *body;
std::map<std::pair<int, const void *>, size_t> shared_limit; /* by device and kernel */

extern "C" void shim_switch(void **save, void *to);
__asm__(".text\n.globl shim_switch\n.type shim_switch,@function\nshim_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size shim_switch,.-shim_switch\n");

/* Leaves the running stack (its pointer goes to *save) for the stack of fiber `to`, or for main's
 * with UINT32_MAX; returns when another fiber switches back. */
void change(void **save, unsigned to) {
    target = to;
    shim_switch(save, to == UINT32_MAX ? main_sp : fibers[to].sp);
    if (target == UINT32_MAX) return;
    current = target;
    threadIdx = dim3(target);
}

bool ready(const fiber &fib) {
    return !fib.done && (fib.turn == nullptr || *fib.turn != fib.seen);
}

/* The next fiber able to run; n_threads if there is no such fiber. */
unsigned next_ready(unsigned id) {
    unsigned next = fibers[id].next;
    while (!ready(fibers[next]) && next != id)
        next = fibers[next].next;
    return ready(fibers[next]) ? next : n_threads;
}

void wait_for(const unsigned *turn, unsigned seen) {
    fiber &me = fibers[current];
    me.turn = turn;
    me.seen = seen;
    unsigned to = next_ready(current);
    if (to == n_threads) shim_die("threads wait for a barrier that others never reach");
    change(&me.sp, to);
    me.turn = nullptr;
}

/* A fiber lives for the whole process and runs the body of one block after another. */
void fiber_main() {
    current = target;
    threadIdx = dim3(target);
    for (;;) {
        (*body)();
        fiber &me = fibers[current];
        if (!me.copies.empty()) shim_die("a thread ends with copies not waited for");
        me.done = true;
        if (--alive && barrier_count) shim_die("a thread ends while others wait at a barrier");
        unsigned to = alive ? next_ready(current) : UINT32_MAX;
        if (to == n_threads) shim_die("threads wait for one that has ended");
        change(&me.sp, to);
    }
}

void prepare(unsigned id) {
    fiber &fib = fibers[id];
    fib.done = false;
    fib.turn = nullptr;
    if (fib.stack) return;
    void *mem = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED) shim_die("no memory for a stack");
    fib.stack = (unsigned char *)mem;
    void **top = (void **)(void *)(fib.stack + STACK - 64);
    *--top = nullptr; /* in place of a caller's return address: keeps the ABI's alignment */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    fib.sp = top;
}

/* The ring of turns. */
void arrange() {
    static unsigned last_n, last_kind, first;
    current = first;
    if (last_n == n_threads && last_kind == order_kind) return;
    last_n = n_threads;
    last_kind = order_kind;
    std::vector<unsigned> turn(n_threads);
    for (unsigned i = 0; i < n_threads; i++)
        turn[i] = order_kind == 1 ? n_threads - 1 - i : i;
    uint64_t seed = order_kind;
    for (unsigned i = n_threads - 1; order_kind > 1 && i > 0; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        std::swap(turn[i], turn[(seed >> 33) % (i + 1)]);
    }
    for (unsigned i = 0; i < n_threads; i++)
        fibers[turn[i]].next = turn[(i + 1) % n_threads];
    current = first = turn[0];
}

void run_block(size_t bytes) {
    for (unsigned i = 0; i < n_threads; i++)
        prepare(i);
    arrange();
    for (unsigned i = 0; i < (n_threads + 31) / 32; i++)
        warps[i].arrived = warps[i].turn = 0;
    alive = n_threads;
    barrier_count = 0;
    shim_shared = nullptr;
    if (bytes) {
        if (posix_memalign((void **)&shim_shared, 128, bytes)) shim_die("no memory");
        memset(shim_shared, 0xff, bytes);
    }
    change(&main_sp, current);
    free(shim_shared);
    shim_shared = nullptr;
}

} // namespace

void shim_die(const char *what) {
    fprintf(stderr, "shim: block %u,%u,%u thread %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, what);
    abort();
}

void shim_block_barrier() {
    unsigned turn = barrier_turn;
    if (alive != n_threads) shim_die("a barrier after some threads have ended");
    if (++barrier_count == n_threads) {
        barrier_count = 0;
        barrier_turn++;
        return;
    }
    wait_for(&barrier_turn, turn);
}

const unsigned char *shim_warp_gather(const void *give, size_t bytes, size_t *step) {
    warp_state &warp = warps[threadIdx.x / 32];
    unsigned turn = warp.turn;
    if (bytes > GIVE) shim_die("too much in one warp operation");
    memcpy(warp.give[turn & 1][threadIdx.x % 32], give, bytes);
    *step = GIVE;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.turn++;
    } else {
        wait_for(&warp.turn, turn);
    }
    return warp.give[turn & 1][0];
}

void shim_copy_later(void *to, const void *from) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) shim_die("an asynchronous copy is not aligned");
    fibers[current].copies.emplace_back(to, from);
}

void shim_copies_do() {
    for (auto &copy : fibers[current].copies)
        memcpy(copy.first, copy.second, 16);
    fibers[current].copies.clear();
}

void shim_set_shared(const void *kernel, size_t bytes) {
    shared_limit[{shim_device(), kernel}] = bytes;
}
extern "C" void shim_set_order(unsigned order) {
    order_kind = order;
}
extern "C" uint64_t shim_launched(void) {
    return launched;
}

cudaError_t shim_launch(const void *kernel, dim3 grid, dim3 block, size_t bytes,
                        cudaStream_t stream, std::function<void()> run) {
    MAY_FAIL(cudaErrorLaunchOutOfResources);
    auto limit = shared_limit.find({shim_device(), kernel});
    if (bytes > (limit == shared_limit.end() ? (size_t)DEFAULT_SHARED : limit->second))
        return shim_said(cudaErrorInvalidValue);
    if (block.y != 1 || block.z != 1 || block.x == 0 || block.x > MAX_THREADS || block.x % 32 ||
        grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
        shim_die("a launch the device would refuse");
    }
    return shim_enqueue(stream, [=] {
        if (shim_breaks()) return;
        n_threads = block.x;
        blockDim = block;
        gridDim = grid;
        body = &run;
        launched++;
        for (unsigned i = 0; i < grid.x * grid.y * grid.z; i++) {
            blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
            run_block(bytes);
        }
    });
}
