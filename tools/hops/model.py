"""The architecture of the hops model in PyTorch, written from the published formulas, with two meanings of the keys and
values of a halted position in deeper loops:

    exact   every position runs every loop; halting only weights the output, as published
    last    a halted position stops; deeper loops read what it wrote last

Tensors have the published names. This pass is the plain one; train.py has a faster one.
"""
import json
import math
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn as nn
import torch.nn.functional as F

import weights


@dataclass
class Config:
    vocab_size: int = 352  # the tokenizer's 341, rounded up
    dim: int = 128
    n_heads: int = 4
    n_kv_heads: int = 2
    max_seq_len: int = 512
    max_loop_iters: int = 8
    prelude_layers: int = 2
    coda_layers: int = 1
    attn_type: str = "mla"
    kv_lora_rank: int = 64
    q_lora_rank: int = 64
    qk_rope_head_dim: int = 16
    qk_nope_head_dim: int = 32
    v_head_dim: int = 32
    n_experts: int = 4
    n_shared_experts: int = 1
    n_experts_per_tok: int = 2
    expert_dim: int = 32
    act_threshold: float = 0.99
    rope_theta: float = 10000.0
    lora_rank: int = 4
    max_output_tokens: int = 64
    dropout: float = 0.0


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return unit(x) * self.weight


def unit(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rope_table(dim, length, theta):
    frequency = theta ** (-torch.arange(0, dim, 2).float() / dim)
    angle = torch.outer(torch.arange(length).float(), frequency)
    return angle.cos(), angle.sin()


def rope(x, cos, sin):
    """Rotates neighbours of x [B, T, heads, dim]; cos and sin: [T, dim / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class MLA(nn.Module):
    """Attention whose keys and values come from one short latent vector per position."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.q_down = nn.Linear(c.dim, c.q_lora_rank, bias=False)
        self.q_norm = RMSNorm(c.q_lora_rank)
        self.q_up_nope = nn.Linear(c.q_lora_rank, c.n_heads * c.qk_nope_head_dim, bias=False)
        self.q_up_rope = nn.Linear(c.q_lora_rank, c.n_heads * c.qk_rope_head_dim, bias=False)
        self.kv_down = nn.Linear(c.dim, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_norm = RMSNorm(c.kv_lora_rank)
        self.kv_up = nn.Linear(c.kv_lora_rank, c.n_heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.wo = nn.Linear(c.n_heads * c.v_head_dim, c.dim, bias=False)

    def latent(self, x, table):
        rank = self.config.kv_lora_rank
        down = self.kv_down(x)
        return torch.cat((self.kv_norm(down[..., :rank]), rope(down[..., None, rank:], *table).squeeze(2)), -1)

    def queries(self, x, table):
        """-> [B, T, heads, nope], [B, T, heads, rope]"""
        heads = (*x.shape[:2], self.config.n_heads, -1)
        low = self.q_norm(self.q_down(x))
        return self.q_up_nope(low).view(heads), rope(self.q_up_rope(low).view(heads), *table)

    def forward(self, x, table, latent, mask):
        c = self.config
        q_nope, q_rope = self.queries(x, table)
        up = self.kv_up(latent[..., :c.kv_lora_rank]).view(*latent.shape[:2], c.n_heads, -1)
        keys, values = up[..., :c.qk_nope_head_dim], up[..., c.qk_nope_head_dim:]
        scores = (torch.einsum("bthd,bshd->bhts", q_nope, keys)
                  + torch.einsum("bthd,bsd->bhts", q_rope, latent[..., c.kv_lora_rank:]))
        scores = scores / math.sqrt(c.qk_nope_head_dim + c.qk_rope_head_dim) + mask
        return self.wo(torch.einsum("bhts,bshd->bthd", scores.softmax(-1), values).flatten(2))


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
        self.load = None  # rows of each expert, counted by train.py

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        logits = self.router(rows)
        chosen = (logits + self.router_bias).topk(self.k, -1)[1]
        share = logits.softmax(-1).gather(-1, chosen)
        share = share / share.sum(-1, keepdim=True)
        out = torch.zeros_like(rows)
        for i, expert in enumerate(self.routed_experts):
            row, place = (chosen == i).nonzero(as_tuple=True)
            if row.numel():
                out = out.index_add(0, row, expert(rows[row]) * share[row, place, None])
        for expert in self.shared_experts:
            out = out + expert(rows)
        return out.view_as(x)


class Block(nn.Module):
    def __init__(self, c, moe):
        super().__init__()
        self.attn_norm, self.ffn_norm = RMSNorm(c.dim), RMSNorm(c.dim)
        self.attn = MLA(c)
        self.ffn = MoE(c) if moe else Expert(c.dim, c.dim * 4 // 3)

    def forward(self, x, table, mask, kept=None):
        """kept(latent) -> the latents that are read; None: those just computed."""
        normed = self.attn_norm(x)
        latent = self.attn.latent(normed, table)
        if kept:
            latent = kept(latent)
        x = x + self.attn(normed, table, latent, mask)
        return x + self.ffn(self.ffn_norm(x)), latent


class Injection(nn.Module):
    """The state of the next loop: what remains of the last one, the input again, and the block's output."""

    def __init__(self, dim):
        super().__init__()
        self.log_A = nn.Parameter(torch.zeros(dim))
        self.log_dt = nn.Parameter(torch.zeros(1))
        self.B = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, state, given, out):
        remains = torch.exp(-torch.exp((self.log_dt + self.log_A).clamp(-20, 20)))
        return remains * state + self.B * given + out


class Halt(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.halt = nn.Linear(dim, 1)

    def forward(self, state):
        return self.halt(state).sigmoid().squeeze(-1)


class Lora(nn.Module):
    def __init__(self, dim, rank, loops):
        super().__init__()
        self.down = nn.Linear(dim, rank, bias=False)
        self.B = nn.Parameter(torch.randn(rank, dim) * 0.02)
        self.scale = nn.Embedding(loops, rank)

    def forward(self, x, loop):
        return (self.down(x) * self.scale.weight[min(loop, self.scale.num_embeddings - 1)]) @ self.B


class Recurrent(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.block = Block(c, True)
        self.injection = Injection(c.dim)
        self.act = Halt(c.dim)
        self.lora = Lora(c.dim, c.lora_rank, c.max_loop_iters)
        self.norm = RMSNorm(c.dim)

    def loop_embedding(self, loop, like):
        width = self.config.dim // 8
        frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=like.dtype) / width)
        out = torch.zeros(self.config.dim, dtype=like.dtype)
        out[:width] = torch.cat(((loop * frequency).sin(), (loop * frequency).cos()))[:width]
        return out

    def forward(self, given, table, mask, loops, policy):
        """-> the weighted state [B, T, dim], the loops run [B, T]"""
        state, latent, out = given, None, torch.zeros_like(given)
        running = torch.ones(given.shape[:2], dtype=torch.bool)
        total = torch.zeros(given.shape[:2])
        depth = torch.zeros(given.shape[:2], dtype=torch.long)
        for loop in range(loops):
            kept = None
            if policy == "last" and latent is not None:
                kept = lambda new, old=latent, live=running: torch.where(live[..., None], new, old)
            x = self.norm(state + self.loop_embedding(loop, state) + given)
            y, latent = self.block(x, table, mask, kept)
            state = self.injection(state, given, y + self.lora(y, loop))
            halting = self.act(state)
            stops = total + halting >= self.config.act_threshold
            weight = torch.where(stops, (1 - total).clamp(min=0), halting) * running
            out = out + weight[..., None] * state
            depth = depth + running.long()
            total = total + halting * running
            running = running & ~stops
            if policy == "last" and not running.any():
                break
        return out, depth


class Hops(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(c.vocab_size, c.dim)
        self.prelude = nn.ModuleList(Block(c, False) for _ in range(c.prelude_layers))
        self.recurrent = Recurrent(c)
        self.coda = nn.ModuleList(Block(c, False) for _ in range(c.coda_layers))
        self.norm = RMSNorm(c.dim)
        self.head = nn.Linear(c.dim, c.vocab_size, bias=False)
        self.head.weight = self.embed.weight
        self.table = rope_table(c.qk_rope_head_dim, c.max_seq_len, c.rope_theta)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def frame(self, length):
        """The table of rotations and the causal mask for texts of this length."""
        return tuple(part[:length] for part in self.table), torch.full((length, length), float("-inf")).triu(1)

    def forward(self, ids, loops=None, policy="exact"):
        """-> logits [B, T, vocabulary], the loops that each position ran [B, T]"""
        table, mask = self.frame(ids.shape[1])
        x = self.embed(ids)
        for block in self.prelude:
            x, _ = block(x, table, mask)
        x, depth = self.recurrent(x, table, mask, loops or self.config.max_loop_iters, policy)
        for block in self.coda:
            x, _ = block(x, table, mask)
        return self.head(self.norm(x)), depth


def save_folder(folder, model, dtype="bfloat16"):
    """Writes config.json and model.safetensors. The head is the embedding, so it is left out."""
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()
               if name != "head.weight"}
    weights.save(f"{folder}/model.safetensors", tensors, {"format": "pt"})
    config = {"architectures": ["OpenMythos"], "model_type": "openmythos", "torch_dtype": dtype, "halted_kv": "last",
              **asdict(model.config)}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file, indent=1)


def open_folder(folder):
    """The model of a folder, computed in float32."""
    with open(f"{folder}/config.json") as file:
        config = json.load(file)
    model = Hops(Config(**{field.name: config[field.name] for field in fields(Config)})).eval()
    tensors = {name: tensor.float() for name, tensor in weights.load(f"{folder}/model.safetensors").items()}
    model.load_state_dict({**tensors, "head.weight": tensors["embed.weight"]})
    return model
