"""Shows that the training pass computes what model.py computes, under both policies, and cut short.

usage: check_training.py OUT_DIR [CHECKPOINT]      (OUT_DIR has the tokenizer.json; default: weights drawn at random)
"""
import sys

import torch
import torch.nn as nn

from model import Config
from tokenizer import Tokenizer
from train import Training
from world import Batch, Words

LARGEST = 2e-4  # difference allowed, in parts of the largest logit


class Taught(nn.Module):
    """Halting as it is taught: 1 at each position's own depth, and 0 before."""

    def __init__(self, depth):
        super().__init__()
        self.depth, self.loop = depth, 0

    def forward(self, state):
        self.loop += 1
        return (self.depth == self.loop).float().expand(state.shape[0], -1)


def difference(mine, plain):
    return ((mine - plain[:, :-1]).abs().max() / plain.abs().max()).item()


def check(training, batch, policy, cut):
    recurrent = training.net.recurrent
    training(batch, policy)
    halt, recurrent.act = recurrent.act, Taught(batch.depth)
    plain, depth = training.net(batch.ids, loops=int(batch.depth.max()), policy=policy)
    recurrent.act = halt
    found = {"own depth": difference(training.logits, plain)}
    assert bool((depth == batch.depth).all()), "depths differ"
    if cut:  # the small weights before the end are those of the trained halting
        training(batch, policy, 3)
        found["cut at 3 loops"] = difference(training.logits, training.net(batch.ids, loops=3, policy=policy)[0])
    for name, part in found.items():
        print(f"policy {policy}, {name}: logits differ by {part:.1e} of the largest")
        if part > LARGEST:
            sys.exit("FAIL: the training pass computes something else")


def main():
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    torch.manual_seed(1)
    torch.set_num_threads(1)
    words = Words(Tokenizer(f"{sys.argv[1]}/tokenizer.json"))
    training = Training(Config(), words).eval()
    cut = len(sys.argv) > 2
    if cut:
        training.load_state_dict(torch.load(sys.argv[2])["training"])
    with torch.no_grad():
        for policy in ("last", "exact"):
            check(training, Batch(words, 3, 9, [4, 6]), policy, cut)


if __name__ == "__main__":
    main()
