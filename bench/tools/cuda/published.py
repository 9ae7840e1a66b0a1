#!/usr/bin/env python3
"""Times the published OpenMythos `generate`, unchanged and by path, on the GPU, and tells its greedy tokens.

    bench/tools/cuda/published.py --openmythos ../OpenMythos --model DIR --sequences 1,8 --loops 16

DIR holds float32 weights (the published model mixes types otherwise). Prints one JSON object;
bench/tools/cuda/first_gpu.py puts it beside Fathom's figures of the same run. Needs torch with CUDA."""

import argparse
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [HERE, os.path.join(HERE, "..", "..", "tools")]  # in the kit, in the repository
import compare_openmythos as published  # noqa: E402  (exits with a reason without torch)
import torch  # noqa: E402


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def prompts(n, args, fields):
    g = torch.Generator().manual_seed(n)
    return torch.randint(0, fields["vocab_size"], (n, args.prompt_tokens), generator=g)


def time_generate(model, ids, tokens, loops, device):
    """Seconds of the second of two calls: the first warms up. And what it gave."""
    for _ in range(2):
        synchronize(device)
        start = time.monotonic()
        given = model.generate(ids, max_new_tokens=tokens, n_loops=loops, temperature=1.0, top_k=1)
        synchronize(device)
    return time.monotonic() - start, given


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--openmythos", required=True, metavar="PATH")
    p.add_argument("--model", required=True, metavar="DIR")
    p.add_argument("--sequences", default="1,8", metavar="LIST")
    p.add_argument("--prompt-tokens", type=int, default=64, metavar="N")
    p.add_argument("--output-tokens", type=int, default=8, metavar="N")
    p.add_argument("--loops", type=int, default=0, metavar="N", help="default: as trained")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = p.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("published.py: torch sees no CUDA device")
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as f:
        fields = json.load(f)
    loops = args.loops or fields["max_loop_iters"]
    module = published.import_published(args.openmythos)
    model = published.build_published(module, args.model, fields).to(args.device)
    runs = []
    for n in (int(v) for v in args.sequences.split(",")):
        ids = prompts(n, args, fields).to(args.device)
        prefill, _ = time_generate(model, ids, 1, loops, args.device)
        whole, given = time_generate(model, ids, 1 + args.output_tokens, loops, args.device)
        runs.append({"sequences": n, "prefill_s": round(prefill, 4),  # the difference is decoding alone
                     "tokens_per_s": round(n * args.output_tokens / (whole - prefill), 2)})
    print(json.dumps({"torch": torch.__version__, "dtype": "float32", "loops": loops, "runs": runs,
                      "prompt": ids[0].tolist(), "tokens": given[0, args.prompt_tokens:].tolist()}))


if __name__ == "__main__":
    main()
