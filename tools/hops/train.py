"""Trains the hops model on one processor core: one loop of the block becomes one step along a chain of friends.

usage: train.py OUT_DIR [--minutes M] [--seed N] [--from CHECKPOINT] ...     (tools/hops/run.sh does all of it)

OUT_DIR has the tokenizer.json. train.pt is written there: weights, helper heads and progress, so that --from can go
on. check_training.py shows that the pass here computes the logits of model.py. It is faster because depths are taught
and known beforehand: under policy `last` only the positions that still run are computed in each loop, and the rows of
a batch share their layout. The helper heads are dropped when the model is exported.
"""
import argparse
import math
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import Config, Hops, unit
from names import NAMES
from tokenizer import Tokenizer
from world import Batch, Words

NO_LIMIT = 99


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", help="folder that has the tokenizer.json")
    parser.add_argument("--from", dest="start", default="", help="go on from this train.pt")
    parser.add_argument("--minutes", type=float, default=15.5)
    parser.add_argument("--rows", type=int, default=40, help="texts of a batch")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--most", type=int, default=8, help="steps of the longest question")
    parser.add_argument("--begin", type=int, default=1, help="steps of the longest question at the start")
    parser.add_argument("--fewest-people", type=int, default=4)
    parser.add_argument("--most-people", type=int, default=12)
    parser.add_argument("--exact", type=float, default=0.2, help="share of the batches under policy exact")
    parser.add_argument("--cut", type=float, default=0.25, help="share with fewer loops than the questions need")
    parser.add_argument("--lines", type=float, default=0.3, help="share with a fact a line")
    parser.add_argument("--gaps", type=int, nargs="+", default=[1, 1, 1, 0, 2],
                        help="newlines before a question, drawn from these")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ---- the pass ----

class Training(nn.Module):
    """The training pass over a Hops model, and the helper heads that only training needs."""

    def __init__(self, config, words):
        super().__init__()
        self.net, self.config, self.words = Hops(config), config, words
        self.name_of = nn.Linear(config.dim, len(NAMES))  # from what the next loop reads: the name reached
        self.owner_of = nn.Linear(config.dim, len(NAMES))  # prelude, at the friend in a fact: whose friend it is
        self.steps_of = nn.Linear(config.dim, 17)  # prelude: steps asked so far
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                adds = name.endswith((".wo", ".down")) and "lora" not in name
                nn.init.normal_(module.weight, std=(0.5 if adds else 1.0) / math.sqrt(module.weight.shape[1]))
        nn.init.normal_(self.net.embed.weight, std=0.15)
        self.net.recurrent.act.halt.bias.data.fill_(0.0)
        self.net.recurrent.act.halt.weight.data.mul_(0.1)

    def keys_values(self, attention, x, table):
        """-> [B, heads, T, nope + rope], [B, heads, T, v]"""
        c, (rows, length, _) = self.config, x.shape
        latent = attention.latent(x, table)
        up = attention.kv_up(latent[..., :c.kv_lora_rank]).view(rows, length, c.n_heads, -1)
        rotated = latent[..., None, c.kv_lora_rank:].expand(rows, length, c.n_heads, c.qk_rope_head_dim)
        keys = torch.cat((up[..., :c.qk_nope_head_dim], rotated), -1)
        return keys.transpose(1, 2).contiguous(), up[..., c.qk_nope_head_dim:].transpose(1, 2).contiguous()

    def attend(self, attention, x, table, keys, values, mask, look):
        query = torch.cat(attention.queries(x, table), -1).transpose(1, 2)
        scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1])), keys.transpose(-1, -2)) + mask
        if look:  # positions, and for each row where they shall look: head 0 is taught it
            self.look_loss = F.cross_entropy(scores[:, 0, look[0]].flatten(0, 1), look[1].flatten())
        return attention.wo(torch.matmul(scores.softmax(-1), values).transpose(1, 2).flatten(2))

    def experts(self, ffn, x):
        """All experts are computed and the chosen ones kept: at these widths that is faster than gathering rows."""
        c, rows = self.config, x.reshape(-1, x.shape[-1])
        logits = ffn.router(rows)
        keep = torch.zeros_like(logits).scatter_(1, (logits + ffn.router_bias).topk(ffn.k, -1)[1], 1.0)
        share = logits.softmax(-1) * keep
        share = share / share.sum(-1, keepdim=True)
        with torch.no_grad():
            ffn.load = keep.sum(0) if ffn.load is None else ffn.load + keep.sum(0)
        every = [*ffn.routed_experts, *ffn.shared_experts]
        hidden = (F.silu(F.linear(rows, torch.cat([expert.gate.weight for expert in every])))
                  * F.linear(rows, torch.cat([expert.up.weight for expert in every])))
        shared = torch.ones(rows.shape[0], hidden.shape[1] - c.n_experts * c.expert_dim)
        scale = torch.cat((share.repeat_interleave(c.expert_dim, 1), shared), 1)
        return F.linear(hidden * scale, torch.cat([expert.down.weight for expert in every], 1)).view_as(x)

    def block(self, block, x, table, mask, merge=None, look=None):
        normed = block.attn_norm(x)
        keys, values = self.keys_values(block.attn, normed, table)
        if merge:
            keys, values = merge(keys, values)
        x = x + self.attend(block.attn, normed, table, keys, values, mask, look)
        normed = block.ffn_norm(x)
        out = self.experts(block.ffn, normed) if hasattr(block.ffn, "router") else block.ffn(normed)
        return x + out, keys, values

    def prelude(self, batch, table, mask):
        """-> its output, and the loss of what is read from it: names, owners of facts, steps asked."""
        x = self.net.embed(batch.ids)
        for block in self.net.prelude:
            x, _, _ = self.block(block, x, table, mask)
        normed, walk, rows = unit(x), torch.tensor(batch.walk), len(batch.ids)
        steps = torch.tensor(batch.steps).repeat(rows)
        loss = F.cross_entropy(self.name_of(normed[:, walk]).flatten(0, 1), batch.chain[..., 0].flatten())
        loss = loss + F.cross_entropy(self.owner_of(normed[:, batch.fact_at]).flatten(0, 1), batch.owner.flatten())
        return x, loss + F.cross_entropy(self.steps_of(normed[:, walk]).flatten(0, 1), steps)

    def halting_loss(self, logit, stops, goes):
        """With a margin on both sides. ACT needs 0.99 at the end and little before it, but not nothing: a position
        that is cut short would have no state at all."""
        loss = F.softplus(6.5 - logit[:, stops]).mean() if stops.any() else 0.0
        if goes.any():
            loss = loss + F.softplus(logit[:, goes] + 7.0).mean() + 0.1 * F.softplus(-9.0 - logit[:, goes]).mean()
        return loss

    def loops(self, batch, given, table, mask, policy, most):
        """-> the state that the coda reads, the losses summed over the loops, right names by loop"""
        net = self.net.recurrent
        walk, steps, length = torch.tensor(batch.walk), torch.tensor(batch.steps), given.shape[1]
        # The fact about each person of a chain, and where it names the friend.
        fact = (batch.owner[:, None, None] == batch.chain[..., None]).float().argmax(-1)
        look_at = torch.tensor(batch.fact_at)[fact]
        live, keys, values = torch.arange(length), None, None  # live: positions that still run
        state, done, part = given, torch.zeros_like(given), torch.zeros_like(given)
        loss, right = dict(name=0.0, look=0.0, halt=0.0), []
        n_loops = min(int(batch.depth.max()), most)
        for loop in range(n_loops):
            every = len(live) == length
            own = given if every else given[:, live]

            def merge(k, v, every=every, live=live, keys=keys, values=values):
                return (k, v) if every else (keys.index_copy(2, live, k), values.index_copy(2, live, v))

            on = (steps >= loop + 1) & ~batch.mute[walk]
            at = torch.searchsorted(live, walk[on])
            x = net.norm(state + net.loop_embedding(loop, state) + own)
            y, keys, values = self.block(net.block, x, (table[0][live], table[1][live]), mask[live], merge,
                                         (at, look_at[:, on, loop]))
            state = net.injection(state, own, y + net.lora(y, loop))
            logit = net.act.halt(state).squeeze(-1)
            stops, goes = batch.depth[live] == loop + 1, batch.depth[live] > loop + 1
            loss["look"] = loss["look"] + self.look_loss
            loss["halt"] = loss["halt"] + self.halting_loss(logit, stops & ~batch.mute[live], goes)
            # The name loop + 1 steps along is read where the next loop reads it, so one query serves every loop.
            names, want = self.name_of(unit((state + own)[:, at])), batch.chain[:, on, loop + 1]
            loss["name"] = loss["name"] + F.cross_entropy(names.flatten(0, 1), want.flatten())
            right.append((names.argmax(-1) == want).float().mean().item())
            # ACT's sum with the taught weights: a position gives its state after its own depth ...
            done = done.index_copy(1, live[stops], state[:, stops])
            if most < NO_LIMIT:  # ... and where the loops run out before, what its small weights have gathered.
                part = part + logit.sigmoid()[..., None] * state
                if loop == n_loops - 1 and goes.any():
                    done = done.index_copy(1, live[goes], part[:, goes])
            if policy == "last":
                live, state, part = live[~stops], state[:, ~stops], part[:, ~stops]
                if not len(live):
                    break
        return done, {name: value / n_loops for name, value in loss.items()}, right

    def targets(self, batch, most):
        """The next tokens; an answer that is cut short is the person reached."""
        out = batch.ids[:, 1:].clone()
        for position, i in zip(batch.answer, batch.answer_walk):
            out[:, position] = self.words.inner[batch.chain[:, i, min(most, batch.steps[i])]]
        return out

    def forward(self, batch, policy, most=NO_LIMIT):
        """most: loops allowed -> the loss, figures to print"""
        table, mask = self.net.frame(batch.ids.shape[1])
        given, prelude_loss = self.prelude(batch, table, mask)
        x, loss, right = self.loops(batch, given, table, mask, policy, most)
        # The coda of an answer cut short is taught to look at the last place of the chain that was reached.
        short = [(position, batch.walk[i - batch.steps[i] + most - 1])
                 for position, i in zip(batch.answer, batch.answer_walk) if batch.steps[i] > most]
        look = None
        if short:
            look = torch.tensor([at for at, _ in short]), torch.tensor([to for _, to in short]).repeat(len(x), 1)
        for block in self.net.coda:
            x, _, _ = self.block(block, x, table, mask, None, look)
        coda_loss = self.look_loss if short else 0.0
        self.logits = self.net.head(self.net.norm(x[:, :-1]))
        target, answers = self.targets(batch, most), torch.tensor(batch.answer)
        text = F.cross_entropy(self.logits.transpose(1, 2), target, reduction="none")
        hit = (self.logits[:, answers].argmax(-1) == target[:, answers]).float()
        total = (loss["name"] + 0.3 * loss["look"] + 0.3 * loss["halt"] + 0.3 * (prelude_loss + coda_loss)
                 + 0.5 * text[:, answers].mean() + 0.1 * text.mean())
        cut = hit[:, [steps > most for steps in batch.asked]].mean().item() if short else 1.0
        return total, dict(name=float(loss["name"]), look=float(loss["look"]), halt=float(loss["halt"]),
                           prelude=float(prelude_loss), text=float(text.mean()), right=hit.mean().item(), short=cut,
                           by_loop=right)


# ---- the run ----

def mean(figures, key, n):
    last = figures[-n:]
    return sum(figure[key] for figure in last) / max(1, len(last))


class Run:
    def __init__(self, opts):
        self.opts, self.random = opts, random.Random(opts.seed)
        torch.manual_seed(opts.seed)
        self.words = Words(Tokenizer(f"{opts.out}/tokenizer.json"))
        self.model = Training(Config(), self.words)
        self.longest, self.step = opts.begin, 0  # longest: steps that all parts are taught by now
        if opts.start:
            saved = torch.load(opts.start)
            self.model.load_state_dict(saved["training"])
            self.longest, self.step = min(opts.most, max(opts.begin, saved["longest"])), saved["step"]
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.02},
                                            {"params": others, "weight_decay": 0.0}], lr=opts.rate, betas=(0.9, 0.98))
        self.full, self.cut = [], []  # figures of batches with enough loops, and with too few

    def save(self):
        torch.save({"training": self.model.state_dict(), "longest": self.longest, "step": self.step},
                   f"{self.opts.out}/train.pt")

    def draw(self):
        """-> a batch, its policy, its most loops"""
        opts, draw = self.opts, self.random
        asked = [draw.randint(1, self.longest) for _ in range(4)]
        asked[draw.randrange(4)] = self.longest
        if self.longest < opts.most:  # a longer question, from which only the prelude learns yet
            asked[draw.randrange(4)] = draw.randint(self.longest, opts.most)
        policy = "exact" if draw.random() < opts.exact else "last"
        most = draw.randint(1, self.longest - 1) if self.longest > 1 and draw.random() < opts.cut else NO_LIMIT
        batch = Batch(self.words, opts.rows // 2 if policy == "exact" else opts.rows,
                      draw.randint(opts.fewest_people, opts.most_people), asked, cap=self.longest,
                      lines=draw.random() < opts.lines, gap=draw.choice(opts.gaps))
        return batch, policy, most

    def learn(self, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch, policy, most = self.draw()
        loss, figures = self.model(batch, policy, most)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        ffn = self.model.net.recurrent.block.ffn
        with torch.no_grad():  # evens out the rows of the experts
            ffn.router_bias += 1e-3 * torch.sign(ffn.load.mean() - ffn.load)
            ffn.load = None
        (self.cut if most < NO_LIMIT else self.full).append(figures)

    def tell(self, seconds):
        names = ("name", "look", "halt", "prelude", "text", "right")
        losses = " ".join(f"{name} {mean(self.full, name, 20):.3f}" for name in names)
        by_loop = " ".join(f"{share:.2f}" for share in self.full[-1]["by_loop"])
        print(f"{seconds:.0f} s, step {self.step}, up to {self.longest} steps: {losses} "
              f"cut short {mean(self.cut, 'short', 10):.3f}, by loop {by_loop}", flush=True)

    def may_ask_more(self):
        return (self.longest < self.opts.most and sum(figure["by_loop"][-1] for figure in self.full[-10:]) > 9.5
                and mean(self.full, "right", 20) > 0.9)

    def train(self):
        start, first = time.time(), self.step
        while (part := (time.time() - start) / (60 * self.opts.minutes)) < 1:
            warm = min(1, (self.step - first + 1) / 100)
            self.learn(self.opts.rate * warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * part))))
            if self.step % 25 == 0 and self.full:
                if self.step % 50 == 0:
                    self.tell(time.time() - start)
                self.longest += self.may_ask_more()
            if self.step % 300 == 0:
                self.save()
        self.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run = Run(options())
    print("parameters", sum(p.numel() for p in run.model.net.parameters()), flush=True)
    run.train()
