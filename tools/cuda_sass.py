#!/usr/bin/env python3
"""Reads the machine code of CUDA kernels and holds it against rules. Needs no NVIDIA tool.

    make cuda-sass                                        builds the cubins and checks them
    tools/cuda_sass.py build/cuda/cubin/*.sm_90a.cubin    a table, then what breaks a rule; exit status 1 if something does
    tools/cuda_sass.py --loops mm_bf16 FILE.cubin         also each loop of the kernels of that name

The compiler may move a load from where the source has it to where its value is used. Then fewer
bytes are on their way than the source promises, and nothing but the machine code shows it.

Columns: instructions; KB of code; loads and stores of thread-local memory (spills); the most
16-byte loads on their way at once, in the worst loop that streams weights through the tensor cores
and anywhere in the kernel; loads of 1 to 4 bytes in innermost loops; rounds: how often a thread waits for memory when every loop turns once.

"On their way" follows registers: a load is on its way from its own instruction to the first one
that reads what it loads. Branches are taken as not taken, loops as turning twice."""

import argparse
import re
import struct
import subprocess
import sys
from dataclasses import dataclass, field

INSTRUCTION_BYTES = 16
LDG, LDL, STL, LD = 0x981, 0x983, 0x387, 0x980
HMMA, BRA, IMAD_WIDE = 0x23C, 0x947, (0x225, 0x825, 0x425, 0x625, 0xA25)
STORES = {0x986: "STG", 0x388: "STS", 0x988: "STS", 0x385: "ST", 0x985: "ST"}
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 8, 6: 16}  # of a load, by bits 73 to 75
ZERO_REGISTER = 255
BATCH = 6  # 16-byte loads from which a loop with tensor-core instructions counts as one that streams weights


@dataclass
class Rule:
    """What the machine code of the kernels that `name` matches must keep to."""

    name: str
    in_flight: int = 0  # least 16-byte loads on their way in every loop that streams weights; no such loop counts as 0
    narrow: int = 10**6  # most loads of 1 to 4 bytes in innermost loops
    kb: int = 32  # most code
    local: int = 0  # most accesses of thread-local memory
    rounds: int = 10**6


# The first rule whose name matches a kernel holds.
RULES = [
    Rule("^mm_bf16", in_flight=6, narrow=0),
    Rule("^(row_step|mla_prep|loop_mix|loop_row)<.*true>", narrow=0, kb=36),  # 16 bytes an access
    Rule("^attn_mma<1, ., [1-9]", narrow=2, kb=48),  # decode, published widths; two look up a slot
    Rule("^attn_mha", narrow=4, kb=40),
    Rule("^attn_gqa<.*false>", narrow=5, kb=40),
    Rule("^attn_(mma|gqa|simple)", kb=84),  # prompts, and widths nobody has published
    Rule("^flash_", kb=72),  # prompts only: milliseconds of attention
    Rule("^sample", kb=224),  # once a token, not once a loop
    Rule("", kb=52),
]


@dataclass
class Instruction:
    at: int
    word: int
    op: int = 0
    width: int = 0  # bytes per lane of a load from memory, else 0

    def __post_init__(self):
        self.op = self.word & 0xFFF
        if self.op in (LDG, LD):
            self.width = WIDTHS.get(self.word >> 73 & 7, 0)

    def field(self, bit):
        return self.word >> bit & 0xFF

    def target(self):
        """Where a branch goes."""
        offset = self.word >> 34 & (1 << 48) - 1
        offset = (offset - (1 << 48) if offset >> 47 else offset) << 8 | self.word >> 16 & 0xFF
        return self.at + INSTRUCTION_BYTES + offset * 4

    def loads(self):
        """The registers a load from memory fills."""
        to = self.field(16)
        return set() if to == ZERO_REGISTER else set(range(to, to + max(1, self.width // 4)))

    def reads(self):
        """The registers an instruction reads, at least."""
        a, b, c = self.field(24), self.field(32), self.field(64)
        form = self.op >> 9
        wide_a = wide_b = wide_c = 1
        if self.op == HMMA:
            wide_a, wide_b, wide_c = 4, 2, 4
        elif self.op in IMAD_WIDE:
            wide_c = 2
        elif self.op in STORES:
            wide_a, wide_b = 2, max(1, WIDTHS.get(self.word >> 73 & 7, 4) // 4)
        elif self.width:
            wide_a = 2  # an address
        found = set(range(a, a + wide_a)) | set(range(c, c + wide_c))
        if form == 1 or self.op in STORES:
            found |= set(range(b, b + wide_b))
        return found - {r for r in found if r >= ZERO_REGISTER}


@dataclass
class Kernel:
    name: str
    code: list
    loops: list = field(default_factory=list)  # (first, last) index, innermost and outer

    def __post_init__(self):
        for i, ins in enumerate(self.code):
            if ins.op != BRA or not self.code[0].at <= ins.target() < ins.at:
                continue
            self.loops.append(((ins.target() - self.code[0].at) // INSTRUCTION_BYTES, i))

    def body(self, loop):
        return self.code[loop[0] : loop[1] + 1]

    def inner_loops(self):
        return [l for l in self.loops
                if not any(o != l and l[0] <= o[0] and o[1] <= l[1] for o in self.loops)]

    def batch_loops(self):
        """Loops that load a batch of 16-byte pieces and multiply, the innermost of those that lie in each other."""
        found = [l for l in self.loops
                 if any(i.op == HMMA for i in self.body(l)) and sum(i.width == 16 for i in self.body(l)) >= BATCH]
        return [l for l in found if not any(o != l and l[0] <= o[0] and o[1] <= l[1] for o in found)]

    def count(self, *ops):
        return sum(i.op in ops for i in self.code)


def in_flight(code):
    """The most 16-byte loads on their way at once in straight-line code."""
    pending, most = [], 0
    for ins in code:
        reads = ins.reads()
        pending = [(regs, wide) for regs, wide in pending if not reads & regs]
        if ins.width:
            pending.append((ins.loads(), ins.width == 16))
            most = max(most, sum(wide for _, wide in pending))
    return most


def waits(code):
    """How often a thread waits for memory: all loads that are on their way when it does arrive together."""
    pending, rounds = [], 0
    for ins in code:
        if any(ins.reads() & regs for regs in pending):
            pending, rounds = [], rounds + 1
        if ins.width:
            pending.append(ins.loads())
    return rounds


def figures(kernel):
    tensor = [in_flight(kernel.body(l) * 2) for l in kernel.batch_loops()]
    narrow = set()
    for loop in kernel.inner_loops():
        narrow |= {i.at for i in kernel.body(loop) if 0 < i.width <= 4}
    return {
        "instructions": len(kernel.code),
        "kb": len(kernel.code) * INSTRUCTION_BYTES / 1024,
        "local": kernel.count(LDL, STL),
        "loop_in_flight": min(tensor, default=0),
        "in_flight": in_flight(kernel.code),
        "narrow": len(narrow),
        "rounds": waits(kernel.code),
    }


def faults(name, f):
    rule = next(r for r in RULES if re.search(r.name, name))
    if f["loop_in_flight"] < rule.in_flight:
        yield f"{f['loop_in_flight']} loads of 16 bytes on their way in a loop of products, {rule.in_flight} wanted"
    for what, most, unit in (("narrow", rule.narrow, "loads of 1 to 4 bytes in innermost loops"),
                             ("kb", rule.kb, "KB of code"), ("rounds", rule.rounds, "rounds of waiting"),
                             ("local", rule.local, "accesses of thread-local memory")):
        if f[what] > most:
            yield f"{f[what]:.0f} {unit}, {most} allowed"


def kernels_of(path):
    """The kernels of a cubin: an ELF file with one section of code for each."""
    with open(path, "rb") as f:
        data = f.read()
    if data[:4] != b"\x7fELF":
        sys.exit(f"cuda_sass.py: {path} is not a cubin")
    at, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    table = [struct.unpack_from("<IIQQQQ", data, at + i * size) for i in range(count)]
    for name, _, _, _, offset, length in table:
        start = table[names][4] + name
        section = data[start : data.index(b"\0", start)].decode()
        if not section.startswith(".text."):
            continue
        code = [Instruction(i, int.from_bytes(data[offset + i : offset + i + INSTRUCTION_BYTES], "little"))
                for i in range(0, length, INSTRUCTION_BYTES)]
        yield Kernel(section[len(".text.") :], code)


def plain_names(names):
    """Names as the source has them, without their arguments."""
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    plain = (n.replace("void ", "", 1).replace("(anonymous namespace)::", "") for n in out.splitlines())
    return [re.sub(r"\((?![^<]*>).*", "", n) for n in plain]


def show_loops(kernel):
    inner = kernel.inner_loops()
    for loop in sorted(kernel.loops):
        body = kernel.body(loop)
        wide, narrow = sum(i.width == 16 for i in body), sum(0 < i.width <= 4 for i in body)
        print(f"    {'inner' if loop in inner else 'outer'} loop at {body[0].at:#x}: {len(body)} instructions, "
              f"{sum(i.op == HMMA for i in body)} HMMA, {wide} loads of 16 bytes, {narrow} of 1 to 4, "
              f"{in_flight(body * 2)} on their way")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cubins", nargs="+", metavar="FILE.cubin")
    p.add_argument("--loops", metavar="NAME", help="also show each loop of the kernels whose name has NAME in it")
    args = p.parse_args()
    found = [k for path in args.cubins for k in kernels_of(path)]
    if not found:
        sys.exit("cuda_sass.py: no kernel in these files")
    broken = []
    print(f"{'kernel':36} {'instr':>6} {'KB':>6} {'local':>5} {'loop':>5} {'any':>4} {'narrow':>6} {'rounds':>6}")
    for name, kernel in sorted(zip(plain_names([k.name for k in found]), found), key=lambda x: x[0]):
        f = figures(kernel)
        print(f"{name:36} {f['instructions']:6} {f['kb']:6.1f} {f['local']:5} {f['loop_in_flight']:5} "
              f"{f['in_flight']:4} {f['narrow']:6} {f['rounds']:6}")
        broken += [f"{name}: {fault}" for fault in faults(name, f)]
        if args.loops and args.loops in name:
            show_loops(kernel)
    for line in broken:
        print(f"BROKEN {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
