"""A compact PyTorch recurrent-depth transformer: the architecture of the bundled models, written from its
formulas, with the two meanings of a halted position's key/value at deeper loops:

  exact : every position runs every loop; halting only weights the output (the published reference).
  last  : a halted position stops; deeper loops of later positions read the latent of its last executed loop.

Tensor names are the published state_dict names, so weights move both ways.
"""
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab_size: int = 2048
    dim: int = 256
    n_heads: int = 4
    n_kv_heads: int = 2
    max_seq_len: int = 1024
    max_loop_iters: int = 8
    prelude_layers: int = 1
    coda_layers: int = 1
    attn_type: str = "mla"
    kv_lora_rank: int = 64
    q_lora_rank: int = 96
    qk_rope_head_dim: int = 16
    qk_nope_head_dim: int = 32
    v_head_dim: int = 32
    n_experts: int = 8
    n_shared_experts: int = 1
    n_experts_per_tok: int = 2
    expert_dim: int = 128
    act_threshold: float = 0.99
    rope_theta: float = 10000.0
    lora_rank: int = 8
    max_output_tokens: int = 1024
    dropout: float = 0.0


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(dim, n, theta):
    f = theta ** (-torch.arange(0, dim, 2).float() / dim)
    a = torch.outer(torch.arange(n).float(), f)
    return a.cos(), a.sin()


def rope(x, cos, sin):
    """x: (B, T, H, dim), adjacent pairs rotated; cos/sin: (T, dim/2)."""
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = cos[None, :, None], sin[None, :, None]
    return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)


class MLA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        H = c.n_heads
        self.q_down = nn.Linear(c.dim, c.q_lora_rank, bias=False)
        self.q_norm = RMSNorm(c.q_lora_rank)
        self.q_up_nope = nn.Linear(c.q_lora_rank, H * c.qk_nope_head_dim, bias=False)
        self.q_up_rope = nn.Linear(c.q_lora_rank, H * c.qk_rope_head_dim, bias=False)
        self.kv_down = nn.Linear(c.dim, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_norm = RMSNorm(c.kv_lora_rank)
        self.kv_up = nn.Linear(c.kv_lora_rank, H * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.wo = nn.Linear(H * c.v_head_dim, c.dim, bias=False)

    def latent(self, x, cs):
        r = self.c.kv_lora_rank
        kv = self.kv_down(x)
        return torch.cat((self.kv_norm(kv[..., :r]), rope(kv[..., None, r:], *cs).squeeze(2)), -1)

    def attend(self, x, cs, lat, mask):
        c, (B, T, _) = self.c, x.shape
        H, r = c.n_heads, c.kv_lora_rank
        cq = self.q_norm(self.q_down(x))
        qn = self.q_up_nope(cq).view(B, T, H, -1)
        qr = rope(self.q_up_rope(cq).view(B, T, H, -1), *cs)
        kv = self.kv_up(lat[..., :r]).view(B, lat.shape[1], H, -1)
        kn, v = kv[..., : c.qk_nope_head_dim], kv[..., c.qk_nope_head_dim:]
        s = torch.einsum("bthd,bshd->bhts", qn, kn) + torch.einsum("bthd,bsd->bhts", qr, lat[..., r:])
        s = s / math.sqrt(c.qk_nope_head_dim + c.qk_rope_head_dim) + mask
        o = torch.einsum("bhts,bshd->bthd", s.softmax(-1), v).reshape(B, T, -1)
        return self.wo(o)


class GQA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, d = c, c.dim // c.n_heads
        self.wq = nn.Linear(c.dim, c.n_heads * d, bias=False)
        self.wk = nn.Linear(c.dim, c.n_kv_heads * d, bias=False)
        self.wv = nn.Linear(c.dim, c.n_kv_heads * d, bias=False)
        self.wo = nn.Linear(c.n_heads * d, c.dim, bias=False)

    def latent(self, x, cs):
        B, T, _ = x.shape
        k = rope(self.wk(x).view(B, T, self.c.n_kv_heads, -1), *cs)
        return torch.cat((k.flatten(2), self.wv(x)), -1)

    def attend(self, x, cs, lat, mask):
        c, (B, T, _) = self.c, x.shape
        q = rope(self.wq(x).view(B, T, c.n_heads, -1), *cs)
        k, v = (t.reshape(B, lat.shape[1], c.n_kv_heads, -1).repeat_interleave(c.n_heads // c.n_kv_heads, 2)
                for t in lat.chunk(2, -1))
        s = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1]) + mask
        return self.wo(torch.einsum("bhts,bshd->bthd", s.softmax(-1), v).reshape(B, T, -1))


class Expert(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.k = c.n_experts_per_tok
        self.router = nn.Linear(c.dim, c.n_experts, bias=False)
        self.register_buffer("router_bias", torch.zeros(c.n_experts))
        self.routed_experts = nn.ModuleList(Expert(c.dim, c.expert_dim) for _ in range(c.n_experts))
        self.shared_experts = nn.ModuleList(
            Expert(c.dim, c.expert_dim * c.n_experts_per_tok) for _ in range(c.n_shared_experts))
        self.load = None

    def forward(self, x):
        f = x.reshape(-1, x.shape[-1])
        logits = self.router(f)
        _, idx = (logits + self.router_bias).topk(self.k, -1)
        w = logits.softmax(-1).gather(-1, idx)
        w = w / w.sum(-1, keepdim=True)
        if self.training:
            n = torch.bincount(idx.flatten(), minlength=logits.shape[-1]).float()
            self.load = n if self.load is None else self.load + n
        out = torch.zeros_like(f)
        for e, expert in enumerate(self.routed_experts):
            tok, slot = (idx == e).nonzero(as_tuple=True)
            if tok.numel():
                out = out.index_add(0, tok, expert(f[tok]) * w[tok, slot, None])
        for s in self.shared_experts:
            out = out + s(f)
        return out.view_as(x)


class Block(nn.Module):
    def __init__(self, c, moe):
        super().__init__()
        self.attn_norm, self.ffn_norm = RMSNorm(c.dim), RMSNorm(c.dim)
        self.attn = MLA(c) if c.attn_type == "mla" else GQA(c)
        self.ffn = MoE(c) if moe else Expert(c.dim, c.dim * 4 // 3)

    def forward(self, x, cs, mask, kv_of=None):
        """kv_of(latent) -> the latents attended to (identity unless a caller freezes halted positions)."""
        n = self.attn_norm(x)
        lat = self.attn.latent(n, cs)
        if kv_of:
            lat = kv_of(lat)
        x = x + self.attn.attend(n, cs, lat, mask)
        return x + self.ffn(self.ffn_norm(x)), lat


class Injection(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.log_A = nn.Parameter(torch.zeros(dim))
        self.log_dt = nn.Parameter(torch.zeros(1))
        self.B = nn.Parameter(torch.full((dim,), 0.1))

    def A(self):
        return torch.exp(-torch.exp((self.log_dt + self.log_A).clamp(-20, 20)))

    def forward(self, h, e, out):
        return self.A() * h + self.B * e + out


class Halt(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.halt = nn.Linear(dim, 1)

    def forward(self, h):
        return self.halt(h).sigmoid().squeeze(-1)


class Lora(nn.Module):
    def __init__(self, dim, rank, loops):
        super().__init__()
        self.down = nn.Linear(dim, rank, bias=False)
        self.B = nn.Parameter(torch.randn(rank, dim) * 0.02)
        self.scale = nn.Embedding(loops, rank)

    def forward(self, x, t):
        return (self.down(x) * self.scale.weight[min(t, self.scale.num_embeddings - 1)]) @ self.B


class Recurrent(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.block = Block(c, True)
        self.injection = Injection(c.dim)
        self.act = Halt(c.dim)
        self.lora = Lora(c.dim, c.lora_rank, c.max_loop_iters)
        self.norm = RMSNorm(c.dim)

    def loop_embedding(self, t, like):
        n = self.c.dim // 8
        f = 10000.0 ** (-torch.arange(0, n, 2, dtype=like.dtype) / n)
        out = torch.zeros(self.c.dim, dtype=like.dtype)
        out[:n] = torch.cat(((t * f).sin(), (t * f).cos()))[:n]
        return out

    def forward(self, h, e, cs, mask, loops, policy, forced=None):
        """-> (weighted state (B,T,D), executed loops (B,T), expected-ponder term (B,T)).

        forced: (B,T) depths that replace the learned halting (p = 1/depth at every loop), for training."""
        B, T, _ = h.shape
        run = torch.ones(B, T, dtype=torch.bool)
        cum = torch.zeros(B, T)
        out = torch.zeros_like(h)
        depth = torch.zeros(B, T, dtype=torch.long)
        rem_loss = torch.zeros(B, T)
        kv = None
        for t in range(loops):
            x = self.norm(h + self.loop_embedding(t, h) + e)
            freeze = None
            if policy == "last" and kv is not None:
                old, live = kv, run
                freeze = lambda new: torch.where(live[..., None], new, old)
            y, kv = self.block(x, cs, mask, freeze)
            y = y + self.lora(y, t)
            h = self.injection(h, e, y)
            p = self.act(h) if forced is None else 1.0 / forced
            left = (1 - cum).clamp(min=0)
            stop = cum + p >= self.c.act_threshold
            w = torch.where(stop, left, p) * run
            out = out + w[..., None] * h
            depth = depth + run.long()
            ends = run & (stop | (t == loops - 1))
            rem_loss = rem_loss + torch.where(ends, left, torch.zeros_like(left))
            cum = cum + p * run
            run = run & ~stop
            if policy == "last" and not run.any():
                break
        return out, depth, depth.float() + rem_loss


class Rdt(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.dim)
        self.prelude = nn.ModuleList(Block(c, False) for _ in range(c.prelude_layers))
        self.recurrent = Recurrent(c)
        self.coda = nn.ModuleList(Block(c, False) for _ in range(c.coda_layers))
        self.norm = RMSNorm(c.dim)
        self.head = nn.Linear(c.dim, c.vocab_size, bias=False)
        self.head.weight = self.embed.weight
        self.cs = rope_table(c.qk_rope_head_dim if c.attn_type == "mla" else c.dim // c.n_heads, c.max_seq_len, c.rope_theta)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=0.02)

    def forward(self, ids, loops=None, policy="exact", forced=None):
        T = ids.shape[1]
        cs = tuple(a[:T] for a in self.cs)
        mask = torch.full((T, T), float("-inf")).triu(1)
        x = self.embed(ids)
        for b in self.prelude:
            x, _ = b(x, cs, mask)
        x, depth, ponder = self.recurrent(x, x, cs, mask, loops or self.c.max_loop_iters, policy, forced)
        for b in self.coda:
            x, _ = b(x, cs, mask)
        return self.head(self.norm(x)), depth, ponder
