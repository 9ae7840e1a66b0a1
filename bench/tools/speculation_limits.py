#!/usr/bin/env python3
"""Limits of speculation for one stream, from the costs of launches: bench/reports/speculation.md has the formulas.

    bench/tools/speculation_limits.py --loops 16 --costs 'prelude=A,B recurrent=A,B,C coda=A,B' [--experts 64,4] [--agreement 0.92,0.95]

--costs is the line "simulated costs:" of `fathom bench engine --simulate --simulate-from FILE`, in ns: A of a launch, B of a row, C of an expert.
--experts N,K: each row of the core needs K of N experts. --agreement: part of drafts that are right after loop 1, 2, ...; then it rises evenly
to 1 at the last loop. Without it, six values after loop 1. Prints speed-ups over the plain run, and the loops d before a draft that give most.
"""

import argparse
import math


def read_costs(text):
    stages = {}
    for word in text.split():
        name, numbers = word.split("=")
        stages[name] = ([float(number) for number in numbers.split(",")] + [0.0] * 4)[:4]
    return stages


class Model:
    def __init__(self, text, experts, loops):
        self.stages = read_costs(text)
        self.experts, self.per_row = experts
        self.loops = loops

    def launch(self, stage, rows):
        first, row, expert, _ = self.stages[stage]
        host = self.stages.get("host", [0.0])[0]
        needed = self.experts * (1 - (1 - self.per_row / self.experts) ** rows) if self.experts else 0
        return host + first + row * rows + (expert * needed if stage == "recurrent" else 0)

    def period(self, before, rows, heads):
        """A draft's way: a prelude, the loops before it, a coda."""
        return self.launch("prelude", 1) + before * self.launch("recurrent", rows) + self.launch("coda", heads)

    def plain(self):
        return self.period(self.loops, 1, 1)


def after(agreement, loop, loops):
    """Part of drafts after this loop that are right."""
    if loop >= loops:
        return 1.0
    if loop <= len(agreement):
        return agreement[loop - 1]
    return agreement[-1] + (1 - agreement[-1]) * (loop - len(agreement)) / (loops - len(agreement))


def wavefront(model, before, agreement):
    """A draft is judged by the final token. After a wrong one the rows grow from one again."""
    rows = math.ceil(model.loops / before)
    right = after(agreement, before, model.loops)
    refill = sum(model.period(before, row, min(row, 2)) for row in range(1, rows + 1))
    return right * model.period(before, rows, 2) + (1 - right) * refill


def redrafted(model, before, agreement):
    """A draft is judged by every later draft of its position, too."""
    rows = math.ceil(model.loops / before)
    wrong = sum(1 - after(agreement, before * time, model.loops) for time in range(1, rows))
    return model.period(before, rows, rows) * (1 + wrong)


def verified(model, before, drafts, agreement):
    """Drafts one after another, then the loops left of all of them in the same launches."""
    right = after(agreement, before, model.loops)
    drafting = drafts * model.period(before, 1, 1) + model.launch("prelude", 1) + before * model.launch("recurrent", 1)
    verifying = (model.loops - before) * model.launch("recurrent", drafts + 1) + model.launch("coda", drafts + 1)
    tokens = drafts + 1 if right == 1 else (1 - right ** (drafts + 1)) / (1 - right)
    return (drafting + verifying) / tokens


def best(model, form, agreement):
    return max((model.plain() / form(model, before, agreement), before) for before in range(1, model.loops))


def best_verified(model, agreement):
    return max((model.plain() / verified(model, before, drafts, agreement), before, drafts)
               for before in range(1, model.loops) for drafts in range(1, 33))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", required=True)
    parser.add_argument("--loops", type=int, required=True)
    parser.add_argument("--experts", default="0,0")
    parser.add_argument("--agreement")
    args = parser.parse_args()
    model = Model(args.costs, [float(number) for number in args.experts.split(",")], args.loops)
    print(f"plain: {model.plain() / 1e6:.3f} ms a token, {1e9 / model.plain():.1f} tokens/s; a loop of 1, 4, 16 rows: "
          + ", ".join(f"{model.launch('recurrent', rows) / 1e6:.3f}" for rows in (1, 4, 16)) + " ms")
    curves = [[float(number) for number in args.agreement.split(",")]] if args.agreement else [[x] for x in (0.7, 0.8, 0.9, 0.94, 0.98, 1)]
    print("| agreement | wavefront | with new drafts | draft, then verify |\n|---|---|---|---|")
    for agreement in curves:
        wave, new, batch = best(model, wavefront, agreement), best(model, redrafted, agreement), best_verified(model, agreement)
        print(f"| {', '.join(f'{x:.2f}' for x in agreement)} | {wave[0]:.2f} (d = {wave[1]}) | {new[0]:.2f} (d = {new[1]}) "
              f"| {batch[0]:.2f} (d = {batch[1]}, {batch[2]} drafts) |")


if __name__ == "__main__":
    main()
