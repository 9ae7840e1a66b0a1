#!/usr/bin/env python3
"""What int8 weights change: KL divergence, top-1 agreement, perplexity and mean depth.

Runs `fathom score` twice on the same token ids, as stored and with --weights int8, and
compares the logits position by position. Standard library only.
usage: bench/tools/int8_quality.py [--fathom build/fathom] [--model models/demo]
                             [--text models/demo/held_out.txt] [--first 6000] [--window 128]
"""
import argparse
import array
import json
import math
import subprocess
import sys
import tempfile


def run(args, *more, stdin=None):
    return subprocess.run([*args, *more], check=True, stdout=subprocess.PIPE, text=True, input=stdin).stdout


def score(o, windows, weights, folder):
    ids, logits = f"{folder}/ids.json", f"{folder}/{weights}.f32"
    with open(ids, "w") as f:
        json.dump(windows, f)
    lines = run([o.fathom, "score"], "--model", o.model, "--device", "cpu", "--ids", ids, "--logits", logits,
                "--weights", weights)
    depths = [json.loads(line).get("depth") for line in lines.splitlines() if line.startswith("{")]
    values = array.array("f")
    with open(logits, "rb") as f:
        values.frombytes(f.read())
    return values, [d for d in depths if d]


def log_softmax(row):
    top = max(row)
    total = math.log(math.fsum(math.exp(v - top) for v in row)) + top
    return [v - total for v in row]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--fathom", default="build/fathom")
    p.add_argument("--model", default="models/demo")
    p.add_argument("--text", default="models/demo/held_out.txt")
    p.add_argument("--first", type=int, default=6000, help="tokens")
    p.add_argument("--window", type=int, default=128, help="tokens scored as one sequence")
    o = p.parse_args()
    with open(o.text, encoding="utf-8") as f:
        text = f.read()
    ids = json.loads(run([o.fathom, "tokenize"], "--model", o.model, stdin=json.dumps(text[:o.first * 8]) + "\n"))
    ids = ids[:o.first]
    windows = [ids[i:i + o.window] for i in range(0, len(ids), o.window)]
    with tempfile.TemporaryDirectory() as folder:
        exact, exact_depths = score(o, windows, "auto", folder)
        int8, int8_depths = score(o, windows, "int8", folder)
    vocab = len(exact) // len(ids)
    kl = same = nll_exact = nll_int8 = predicted = 0
    worst = 0.0
    position = 0
    for window in windows:
        for i in range(len(window)):
            at = position * vocab
            a, b = log_softmax(exact[at:at + vocab]), log_softmax(int8[at:at + vocab])
            here = math.fsum(math.exp(x) * (x - y) for x, y in zip(a, b))
            kl += here
            worst = max(worst, here)
            same += a.index(max(a)) == b.index(max(b))
            if i + 1 < len(window):
                nll_exact -= a[window[i + 1]]
                nll_int8 -= b[window[i + 1]]
                predicted += 1
            position += 1
    json.dump({
        "model": o.model, "positions": position, "window": o.window,
        "mean_kl": kl / position, "worst_kl": worst, "top1_agreement": same / position,
        "perplexity_as_stored": math.exp(nll_exact / predicted),
        "perplexity_int8": math.exp(nll_int8 / predicted),
        "mean_depth_as_stored": sum(exact_depths) / max(1, len(exact_depths)),
        "mean_depth_int8": sum(int8_depths) / max(1, len(int8_depths)),
    }, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
