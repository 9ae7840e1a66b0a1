"""Asks a hops model many more held-out questions in PyTorch, and tells how far its halting is from the threshold.

usage: check_model.py MODEL_DIR [ROUNDS]     (1,728 questions a round, default 2: worlds of 2 to 16 people, all layouts)
"""
import collections
import json
import sys

import torch

from model import open_folder
from tokenizer import Tokenizer
from world import Batch, Words

PEOPLE, ROWS, SEED = (2, 3, 4, 6, 8, 10, 12, 14, 16), 24, 4242


def ask(model, words, rounds):
    generator = torch.Generator().manual_seed(SEED)
    asked, right, deep = collections.Counter(), collections.Counter(), collections.Counter()
    for i in range(rounds):
        for people in PEOPLE:
            for steps in range(1, 9):
                lines = (i + people // 2 + steps) % 2 == 1
                policy = "last" if (i + steps) % 3 else "exact"
                gap = (1, 0, 2)[(i + people // 2 + 2 * steps) % 3]
                batch = Batch(words, ROWS, people, [steps], generator, 0.5, lines=lines, gap=gap)
                at = batch.answer[0]
                logits, depth = model(batch.ids[:, :at + 1], policy=policy)
                hits = int((logits[:, -1].argmax(-1) == batch.ids[:, at + 1]).sum())
                for key in ("all", f"people {people:2}", f"steps {steps}", f"policy {policy}",
                            f"a fact a line: {lines}", f"newlines before the question: {gap}"):
                    asked[key] += ROWS
                    right[key] += hits
                    deep[key] += int((depth[:, -1] == steps).sum())
    for key in sorted(asked):
        print(f"{key:32} {asked[key]:5} questions, right {100 * right[key] / asked[key]:6.2f} %, "
              f"as many loops as steps {100 * deep[key] / asked[key]:6.2f} %")


def margins(model, tokenizer, path):
    """At the exit a halting probability must be near 1, and before it the sum near 0."""
    seen = []
    model.recurrent.act.register_forward_hook(lambda module, given, out: seen.append(out[0].clone()))
    at_exit, before, lead, n = 1.0, 0.0, float("inf"), 0
    with open(path) as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    for prompt in prompts:
        seen.clear()
        logits, depth = model(torch.tensor([tokenizer.encode(prompt)]), policy="last")
        halting = torch.stack(seen)  # [loops, T]
        best = logits[0, -1].topk(2).values
        lead = min(lead, (best[0] - best[1]).item())
        for position, loops in enumerate(depth[0].tolist()):
            at_exit = min(at_exit, halting[loops - 1, position].item())
            before = max(before, halting[:loops - 1, position].sum().item())
            n += 1
    print(f"{n} positions of {path}: halting at the exit at least {at_exit:.4f}, before it at most {before:.4f} in all; "
          f"the answer leads by at least {lead:.2f}")


def main():
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = sys.argv[1]
    torch.set_num_threads(1)
    model, tokenizer = open_folder(folder), Tokenizer(f"{folder}/tokenizer.json")
    with torch.no_grad():
        ask(model, Words(tokenizer), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
        margins(model, tokenizer, f"{folder}/questions.jsonl")


if __name__ == "__main__":
    main()
