#!/usr/bin/env python3
"""What one recurrent step of mythos_1b should take on a device, by arithmetic. Nothing here is measured.

    bench/tools/cuda/expected.py                      a table for H100 and H200 at 1, 8, 32, 128 and 512 rows
    bench/tools/cuda/expected.py --kernels 1          the kernels of a step of one row
    bench/tools/cuda/expected.py --results FILE       beside what bench/tools/cuda/first_gpu.py measured

A kernel takes the longer of two things, plus its waits: its bytes at the rate that its loads in
flight allow, and its operations at the matrix rate. Its waits are loads of which each needs the one
before. Between two kernels lies an edge of the graph.

The constants are assumptions with their source beside them. When a device has answered, the
difference between this table and its answer says which assumption was wrong."""

import argparse
import json
from dataclasses import dataclass


@dataclass
class Device:
    name: str
    probe_gb_s: float  # a copy of 8.6 GB, bytes read and written
    tflop_s: float = 790  # a bfloat16 product of side 8,192 on random data
    sms: int = 132


DEVICES = [Device("H100", 3000), Device("H200", 4300)]

# Microseconds. A dependent read of the L2 cache and of memory (microbenchmarks of Hopper: 260 and
# 560 to 700 cycles at 1.7 GHz); under load a read takes longer.
L2_ROUND, DRAM_ROUND, LOADED_READ = 0.16, 0.42, 0.75
# From the end of a kernel to the beginning of the next in one graph: a full edge (about 1.3 with
# the kernel's own start, as published for batch-1 decoding on an H100), and with programmatic launch.
FULL_EDGE, OVERLAPPED_EDGE = 1.1, 0.5
REACHABLE = 0.93  # of the probe, by a kernel that keeps enough bytes on their way

DIM, HEADS, Q_LORA, KV_LORA, ROPE, NOPE, V = 2048, 16, 512, 256, 32, 64, 64
EXPERTS, TOP, SHARED_GROUPS, HIDDEN, LORA = 64, 4, 8, 2048, 8
LOOPS, CONTEXT = 16, 1024
GROUP_IN, GROUP_OUT = 2 * HIDDEN * DIM * 2, HIDDEN * DIM * 2  # bytes of one group's matrices


def live_groups(rows):
    """Groups that have a row: random picks, and the always-on groups."""
    return SHARED_GROUPS + EXPERTS * (1 - (1 - TOP / EXPERTS) ** rows)


@dataclass
class Kernel:
    name: str
    mb: float  # that must come from memory
    blocks: float  # of threads that have work
    in_flight_kb: float  # per multiprocessor, when all its places are taken
    l2_rounds: float = 0
    dram_rounds: float = 0
    gflop: float = 0
    us: float = 0  # a fixed time, where that says it best

    def time(self, d):
        if self.us:
            return self.us
        sms = min(d.sms, self.blocks)
        gb_s = min(REACHABLE * d.probe_gb_s, sms * self.in_flight_kb / LOADED_READ)
        work = max(self.mb * 1e3 / gb_s, self.gflop * 1e3 / (0.6 * d.tflop_s)) if self.mb else 0
        return work + self.l2_rounds * L2_ROUND + self.dram_rounds * DRAM_ROUND


def product(name, n, k, rows, after, groups=1):
    """A dense or per-head product by mm: bytes of its weights, blocks of threads of its grid."""
    ks = 1
    while ks < 8 and n / 16 * groups * ks < 4096 and k / (64 * ks) >= 2:
        ks *= 2
    blocks = max(1, n / 16 * ks / 8) * groups
    kb = (64 if rows > 8 else 96) if after else (16 if rows > 8 else 24)
    return Kernel(name, n * k * groups * 2e-6, blocks, kb, l2_rounds=3 if after else 6,
                  gflop=2e-9 * n * k * groups * rows)


def experts(rows, after):
    """From 64 rows on the always-on groups are products of cuBLAS, which run after the routed ones."""
    blas = rows >= 64
    groups, parts = live_groups(rows), TOP + SHARED_GROUPS
    if blas:
        groups, parts = groups - SHARED_GROUPS, TOP
    kb = (64 if rows > 8 else 96) if after else (16 if rows > 8 else 24)
    for name, size in (("expert gate|up", GROUP_IN), ("expert down", GROUP_OUT)):
        yield Kernel(name, groups * size * 1e-6, 1e9, kb, l2_rounds=6 if after else 12, gflop=size * 1e-9 * rows * parts)
    for name, size in (("shared gate|up", GROUP_IN), ("shared down", GROUP_OUT)):
        if blas:
            yield Kernel(name, SHARED_GROUPS * size * 1e-6, 1e9, 64, l2_rounds=8, gflop=size * 1e-9 * rows * SHARED_GROUPS)


def step(rows, after):
    """The kernels of a recurrent step, before and after the work on loads, merging and edges."""
    kv = rows * CONTEXT * (KV_LORA + ROPE) * 2e-6
    slots = 528
    attention_blocks = min(slots, rows * 16)
    yield Kernel("begin", 0, 1, 0, us=1.5 if after else 1.1 + 6)  # before: behind the copy engine's copy
    yield Kernel("row_step loop", 0, 1, 0, l2_rounds=3 if after else 12, dram_rounds=3 if after else 23)
    yield product("q_down|kv_down", Q_LORA + KV_LORA + ROPE, DIM, rows, after)
    yield Kernel("mla_prep", 0, 1, 0, l2_rounds=4 if after else 8, dram_rounds=3 if after else 11)
    yield product("q_up", HEADS * (NOPE + ROPE), Q_LORA, rows, after)
    if not after or rows >= 64:
        yield Kernel("mla_query", 0, 1, 0, l2_rounds=20)
    yield product("absorb", KV_LORA, NOPE, rows, after, HEADS)
    join = 8 if after else 0  # the last block reads the parts of the others: 8 of 16 KB at 1,024 positions
    yield Kernel("attention", kv, attention_blocks, 38 if after else 20,
                 l2_rounds=(6 if after else 16) + join, dram_rounds=3 if after else 7)
    if not after:
        yield Kernel("attention_merge", 0, 1, 0, l2_rounds=24)
    yield product("value_up", V, KV_LORA, rows, after, HEADS)
    yield product("wo", DIM, HEADS * V, rows, after)
    yield Kernel("row_step ffn", 0, 1, 0, l2_rounds=4 if after else 16, dram_rounds=2 if after else 8)
    yield product("router", EXPERTS, DIM, rows, after)
    yield Kernel("routing", 0, 1, 0, us=3.2 if after else 6.6)
    yield from experts(rows, after)
    if after:
        yield Kernel("loop_mix", 0, 1, 0, l2_rounds=2, dram_rounds=2)
        yield Kernel("loop_leave", 0, 1, 0, l2_rounds=3, dram_rounds=2)
    else:
        yield Kernel("loop_end", 0, 1, 0, l2_rounds=24, dram_rounds=55)


def step_us(rows, d, after):
    kernels = list(step(rows, after))
    return sum(k.time(d) for k in kernels) + len(kernels) * (OVERLAPPED_EDGE if after else FULL_EDGE)


def floor_us(rows, d):
    """All bytes of a step at the probe's rate, or its operations at the matrix rate."""
    kernels = list(step(rows, True))
    return max(sum(k.mb for k in kernels) * 1e3 / d.probe_gb_s, sum(k.gflop for k in kernels) * 1e3 / d.tflop_s)


def measured(path):
    """Microseconds of a step by rows, from results.json of first_gpu.py."""
    with open(path, encoding="utf-8") as f:
        steps = json.load(f)["steps"]["steps"]["result"]["steps"]
    return {s["rows"]: s["graph_us"] for s in steps}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kernels", type=int, metavar="ROWS", help="show each kernel of a step of so many rows")
    p.add_argument("--results", metavar="FILE", help="results.json of bench/tools/cuda/first_gpu.py")
    args = p.parse_args()
    if args.kernels:
        h100, h200 = DEVICES
        for after in (False, True):
            print(f"\n| {'after' if after else 'before'} | MB | {h100.name} us | {h200.name} us |\n|---|---|---|---|")
            for k in step(args.kernels, after):
                print(f"| {k.name} | {k.mb:.1f} | {k.time(h100):.1f} | {k.time(h200):.1f} |")
        print()
    seen = measured(args.results) if args.results else {}
    print("| rows | device | floor us | before us | share | after us | share | loops of a row per s / 16 |"
          + (" measured us |" if seen else ""))
    print("|---|---|---|---|---|---|---|---|" + ("---|" if seen else ""))
    for rows in (1, 8, 32, 128, 512):
        for d in DEVICES:
            floor, old, new = floor_us(rows, d), step_us(rows, d, False), step_us(rows, d, True)
            line = (f"| {rows} | {d.name} | {floor:.0f} | {old:.0f} | {floor / old:.0%} | {new:.0f} | {floor / new:.0%} "
                    f"| {rows / new / LOOPS * 1e6:,.0f} |")
            print(line + (f" {seen.get(rows, 0):.0f} |" if seen else ""))


if __name__ == "__main__":
    main()
