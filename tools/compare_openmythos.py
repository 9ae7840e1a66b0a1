#!/usr/bin/python3
"""The published PyTorch model and Fathom on the same weights, side by side.

    tools/compare_openmythos.py --openmythos ../OpenMythos --model /tmp/tiny --sequences 1,8,32

Runs `generate` of OpenMythos, imported from the folder given and unchanged (greedy: its
top_k is 1), and `fathom serve` over HTTP on the same folder, prompts, loops, dtype and
threads. The two alternate, which goes first too; every figure is a ratio of one pair of
runs, the median of all pairs is printed. Fathom's time includes HTTP; neither includes
loading. On a machine that others use, `--clock cpu --threads 1` compares the processor time
of the two processes, which a neighbour changes far less than the time on the wall.
Greedy tokens must be equal: where they are not, the published model's own logits
say whether it was a tie in rounding, and the exit status is 1 unless all were.

Needs torch (Debian 12: python3-torch). Weights must be F32: published `generate` mixes
float32 into bfloat16 and stops there."""

import argparse
import concurrent.futures
import importlib.util
import json
import mmap
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

try:
    import torch
except ImportError:
    sys.exit("compare_openmythos: torch is missing (Debian 12: apt-get install python3-torch)")

TIE = 1e-4  # of the largest logit: two sums in another order differ by less


# ---- the published model ----

def refuse(why):
    sys.exit(f"compare_openmythos: {why}")


def import_published(path):
    """main.py alone: the package would pull in tokenizers that generate does not need."""
    for tail in ("open_mythos/main.py", "main.py", ""):
        file = os.path.join(path, tail) if tail else path
        if os.path.isfile(file):
            spec = importlib.util.spec_from_file_location("openmythos_published", file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module
    refuse(f"no open_mythos/main.py under {path}")


def read_config(folder):
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            fields = json.load(f)
    except (OSError, ValueError) as why:
        refuse(f"{folder}/config.json: {why}")
    if fields.get("model_type", "openmythos") != "openmythos" or "max_loop_iters" not in fields:
        refuse(f"{folder} is no OpenMythos model: model_type is {fields.get('model_type')!r}")
    if not os.path.isfile(os.path.join(folder, "model.safetensors")):
        refuse(f"{folder} holds no model.safetensors (shards are not read here: fathom init writes one file by default)")
    return fields


def read_weights(folder):
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        n = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + n])
        header.pop("__metadata__", None)
        for name, t in header.items():
            if t["dtype"] != "F32":
                refuse(f"tensor {name} is {t['dtype']}; the published model runs in F32 only")
            begin, end = t["data_offsets"]
            raw = torch.frombuffer(data, dtype=torch.float32, count=(end - begin) // 4, offset=8 + n + begin)
            yield name, raw.clone().reshape(t["shape"])  # anonymous memory, as torch would have it
            del raw


def build_published(module, folder, fields):
    """The model with the folder's weights; its random start is skipped."""
    for layer in (torch.nn.Linear, torch.nn.Embedding):
        layer.reset_parameters = lambda self: None
    torch.nn.init.normal_ = lambda tensor, *args, **kwargs: tensor
    known = module.MythosConfig.__dataclass_fields__
    model = module.OpenMythos(module.MythosConfig(**{k: v for k, v in fields.items() if k in known}))
    slots = dict(model.named_parameters())
    slots.update(model.named_buffers())
    missing, head = {n for n in slots if not n.startswith(("freqs_cis", "head."))}, None
    for name, tensor in read_weights(folder):
        if name == "head.weight":
            head = tensor
        elif name in slots and slots[name].shape == tensor.shape:
            slots[name].data = tensor
        elif not name.startswith("freqs_cis"):
            refuse(f"the published model has no {name} of shape {list(tensor.shape)}")
        missing.discard(name)
    if missing:
        refuse(f"the folder lacks {sorted(missing)[0]}, which the published model has")
    # Published models tie the head to the embedding; a folder with a head of its own unties it.
    model.head.weight = model.embed.weight if head is None else torch.nn.Parameter(head)
    return model.eval()


def run_published(model, prompts, args):
    ids = torch.tensor(prompts)
    clock = time.process_time if args.clock == "cpu" else time.monotonic
    start = clock()
    out = model.generate(ids, max_new_tokens=args.output_tokens, n_loops=args.loops, temperature=1.0, top_k=1)
    return clock() - start, out[:, len(prompts[0]):].tolist()


def is_tie(model, prompt, theirs, ours, at, loops):
    """Whether the published logits of the two tokens are equal but for rounding."""
    ids = torch.tensor([prompt + theirs[:at]])
    with torch.no_grad():
        logits = model(ids, n_loops=loops)[0, -1]
    gap = abs(logits[theirs[at]] - logits[ours[at]]).item() / logits.abs().max().item()
    return gap < TIE, gap


# ---- fathom ----

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Fathom:
    def __init__(self, args):
        self.port = args.port or free_port()
        self.args = args
        self.process = subprocess.Popen(
            [args.fathom, "serve", "--model", args.model, "--port", str(self.port), "--device", "cpu",
             "--threads", str(args.threads), "--halted-kv", "exact", "--max-loops", str(args.loops),
             "--served-name", "compared", "--log-level", "warn"], stdout=subprocess.DEVNULL)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5).read()
                return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    refuse("fathom serve ended")
                time.sleep(0.2)

    def complete(self, prompt):
        body = {"model": "compared", "prompt": prompt, "max_tokens": self.args.output_tokens, "temperature": 0, "ignore_eos": True,
                "return_token_ids": True, "depth": {"max_loops": self.args.loops}}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=3600) as reply:
                return json.load(reply)["choices"][0]["token_ids"]
        except urllib.error.HTTPError as why:
            refuse(f"{why}: {why.read().decode()[:300]}")

    def now(self):
        if self.args.clock == "wall":
            return time.monotonic()
        total, tasks = 0, f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def run(self, prompts):
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            start = self.now()
            tokens = list(pool.map(self.complete, prompts))
            return self.now() - start, tokens

    def close(self):
        self.process.terminate()
        self.process.wait()


# ---- the comparison ----

def compare_tokens(model, prompts, theirs, ours, args):
    """Sequences equal, and those that part at a tie of rounding."""
    equal, ties = 0, 0
    for prompt, a, b in zip(prompts, theirs, ours):
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
        if at is None and len(a) == len(b):
            equal += 1
            continue
        tie, gap = is_tie(model, prompt, a, b, at, args.loops) if at is not None else (False, 0)
        ties += tie
        if not tie:
            print(f"tokens differ at {at}: published {a}, fathom {b}, logit gap {gap:.2e}", file=sys.stderr)
    return equal, ties


def compare_at(model, fathom, n, vocab, args):
    rng = random.Random(args.seed * 1000 + n)
    pairs, equal, ties = [], 0, 0
    for i in range(args.repeat):
        prompts = [[rng.randrange(vocab) for _ in range(args.prompt_tokens)] for _ in range(n)]
        if i % 2 == 0:
            slow, theirs = run_published(model, prompts, args)
            fast, ours = fathom.run(prompts)
        else:
            fast, ours = fathom.run(prompts)
            slow, theirs = run_published(model, prompts, args)
        pairs.append((slow, fast))
        a, b = compare_tokens(model, prompts, theirs, ours, args)
        equal, ties = equal + a, ties + b
    tokens = n * args.output_tokens
    return {"sequences": n, "ratio": statistics.median(s / f for s, f in pairs),
            "ratio_min": min(s / f for s, f in pairs), "ratio_max": max(s / f for s, f in pairs),
            "published_tokens_per_s": tokens / statistics.median(s for s, _ in pairs),
            "fathom_tokens_per_s": tokens / statistics.median(f for _, f in pairs),
            "compared": n * args.repeat, "equal": equal, "ties": ties}


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--openmythos", required=True, metavar="PATH", help="checkout of OpenMythos")
    p.add_argument("--model", required=True, metavar="DIR", help="folder with one model.safetensors in F32")
    p.add_argument("--fathom", default="build/fathom", metavar="FILE")
    p.add_argument("--sequences", default="1,8,32", metavar="LIST")
    p.add_argument("--prompt-tokens", type=int, default=16, metavar="N")
    p.add_argument("--output-tokens", type=int, default=16, metavar="N")
    p.add_argument("--loops", type=int, default=0, metavar="N", help="default: as trained")
    p.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    p.add_argument("--repeat", type=int, default=5, metavar="N")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--port", type=int, default=0, metavar="N", help="default: a free one")
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def main():
    args = parse_args()
    fields = read_config(args.model)
    args.loops = args.loops or fields["max_loop_iters"]
    torch.set_num_threads(args.threads)
    model = build_published(import_published(args.openmythos), args.model, fields)
    fathom = Fathom(args)
    rows = []
    try:
        warm = [[1] * args.prompt_tokens]
        run_published(model, warm, args)
        fathom.run(warm)
        if not args.json:
            print(f"{args.model}: F32, {args.loops} loops, {args.threads} threads, {args.prompt_tokens} prompt and "
                  f"{args.output_tokens} output tokens, greedy, {args.repeat} pairs, {args.clock} clock, torch {torch.__version__}")
            print("sequences  ratio   (min - max)      published tok/s  fathom tok/s  equal tokens")
        for n in map(int, args.sequences.split(",")):
            r = compare_at(model, fathom, n, fields["vocab_size"], args)
            rows.append(r)
            if not args.json:
                note = f", {r['ties']} part at a tie of rounding" if r["ties"] else ""
                print(f"{n:9d} {r['ratio']:6.1f}x  ({r['ratio_min']:.1f} - {r['ratio_max']:.1f})"
                      f"{r['published_tokens_per_s']:18.2f} {r['fathom_tokens_per_s']:13.2f}  "
                      f"{r['equal']} of {r['compared']}{note}", flush=True)
    finally:
        fathom.close()
    if args.json:
        print(json.dumps({"model": args.model, "dtype": "F32", "loops": args.loops, "threads": args.threads,
                          "clock": args.clock, "prompt_tokens": args.prompt_tokens,
                          "output_tokens": args.output_tokens, "torch": torch.__version__, "runs": rows}))
    sys.exit(0 if all(r["equal"] + r["ties"] == r["compared"] for r in rows) else 1)


if __name__ == "__main__":
    main()
