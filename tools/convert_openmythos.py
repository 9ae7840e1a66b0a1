#!/usr/bin/python3
"""Turns an OpenMythos checkpoint (torch.save) into the folder Fathom loads.

    tools/convert_openmythos.py step_0010000.pt my-model --dtype bfloat16
    build/fathom inspect --model my-model

Reads {"model": state_dict, "cfg": ...} as OpenMythos' training script saves it, a bare
state dict (then --config names a config.json), and names with the prefixes that DDP, FSDP,
torch.compile and activation checkpointing add. Needs torch and nothing else; Debian 12 has
it as python3-torch. A tokenizer.json that stands beside the model is Fathom's tokenizer.

Nothing that the checkpoint's pickle names is run. What stands beside the model is passed over; in
the model or its configuration, whatever is no tensor and no plain value is refused. A tensor that
the architecture has no place for is left out and named."""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch_checkpoint as ckpt  # noqa: E402
from torch_checkpoint import Refused  # noqa: E402

WRAPPERS = {"module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"}
KEYS = """vocab_size dim n_heads n_kv_heads max_seq_len max_loop_iters prelude_layers coda_layers
attn_type kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim n_experts
n_shared_experts n_experts_per_tok expert_dim act_threshold rope_theta lora_rank
max_output_tokens""".split()
ATTENTION = {"gqa": "attn.wq attn.wk attn.wv attn.wo",
             "mla": "attn.q_down attn.q_norm attn.q_up_nope attn.q_up_rope attn.kv_down attn.kv_norm attn.kv_up attn.wo"}
LOOP = """norm.weight injection.log_A injection.log_dt injection.B act.halt.weight act.halt.bias
lora.down.weight lora.B lora.scale.weight""".split()


def leave_out(name, why):
    print(f"convert_openmythos: left out: {name} ({why})", file=sys.stderr)


def fields_of(value):
    return value if isinstance(value, dict) else vars(value) if isinstance(value, ckpt.Config) else {}


def find_config(checkpoint):
    """The first entry that holds the model's fields; else the first of a likely name."""
    names = [k for k in ("cfg", "config", "model_config", "model_args", "args", "hparams") if k in checkpoint]
    best = next((k for k in names if "vocab_size" in fields_of(checkpoint[k])), names[0] if names else None)
    if best is None or checkpoint[best] is None:
        return None
    ckpt.refuse_strangers(checkpoint[best], best)
    if not fields_of(checkpoint[best]):
        raise Refused(f"the checkpoint's {best} is a {type(checkpoint[best]).__name__}, expected fields")
    return fields_of(checkpoint[best])


def find_parts(checkpoint):
    """The tensors and the fields of the configuration (None if there is none)."""
    if not isinstance(checkpoint, dict):
        ckpt.refuse_strangers(checkpoint, "content")
        raise Refused(f"the checkpoint is a {type(checkpoint).__name__}, expected a dictionary")
    for key in ("model", "model_state_dict", "state_dict"):
        if ckpt.is_state_dict(checkpoint.get(key)):
            return ckpt.tensors_of(checkpoint[key], key, leave_out), find_config(checkpoint)
        ckpt.refuse_strangers(checkpoint.get(key), key)
    if ckpt.is_state_dict(checkpoint):
        return ckpt.tensors_of(checkpoint, "model", leave_out), None
    raise Refused("no state dict in the checkpoint; its keys are: " + ", ".join(map(str, checkpoint))[:300])


def plain_names(state):
    """Without the names that wrappers put in, anywhere in the path."""
    out = {}
    for name, tensor in state.items():
        plain = ".".join(p for p in name.split(".") if p not in WRAPPERS)
        if plain in out:
            raise Refused(f"two tensors are called {plain} once wrapper names are removed")
        out[plain] = tensor
    if not any(n == "embed.weight" for n in out) and all(n.startswith("model.") for n in out):
        out = {n[len("model."):]: t for n, t in out.items()}
    if "embed.weight" not in out:
        raise Refused("no tensor embed.weight: not an OpenMythos model; it has " + ", ".join(list(out)[:5]))
    return out


def places(config):
    """The name of every tensor that a model of this configuration has."""
    attention = ATTENTION.get(config["attn_type"], "").split()
    layer = ["attn_norm.weight", "ffn_norm.weight"] + [n + ".weight" for n in attention]
    out = {"embed.weight", "norm.weight", "head.weight"} | {"recurrent." + n for n in LOOP}
    for stage in ("prelude", "coda"):
        for i in range(int(config[stage + "_layers"])):
            out |= {f"{stage}.{i}.{n}" for n in layer + ["ffn.gate.weight", "ffn.up.weight", "ffn.down.weight"]}
    out |= {"recurrent.block." + n for n in layer + ["ffn.router.weight", "ffn.router_bias"]}
    for kind, count in (("routed_experts", "n_experts"), ("shared_experts", "n_shared_experts")):
        for i in range(int(config[count])):
            out |= {f"recurrent.block.ffn.{kind}.{i}.{part}.weight" for part in ("gate", "up", "down")}
    return out


def wanted_tensors(state, config):
    """Those with a place, sorted; without a head that is the embedding."""
    known, out = places(config), {}
    for name, tensor in sorted(state.items()):
        if name in known:
            out[name] = tensor
        elif not name.startswith("freqs_cis"):  # every model has rope tables, and no one needs them
            leave_out(name, "the architecture has no place for it")
    head = out.get("head.weight")
    if head is not None and head.shape == out["embed.weight"].shape:
        embed = out["embed.weight"]
        if head.data_ptr() == embed.data_ptr() or ckpt.torch.equal(head, embed):
            del out["head.weight"]
    for name, tensor in out.items():
        if not tensor.is_floating_point():
            raise Refused(f"tensor {name} has dtype {tensor.dtype}, expected a float")
    return out


def make_config(fields, path, halted_kv):
    if path:
        with open(path, encoding="utf-8") as f:
            fields = json.load(f)
    elif fields is None:
        raise Refused("the checkpoint holds no configuration: name a config.json with --config")
    missing = [k for k in KEYS if k not in fields and k != "max_output_tokens"]
    if missing:
        raise Refused("the configuration lacks " + ", ".join(missing))
    odd = next((k for k in KEYS if k in fields and not isinstance(fields[k], (int, float, str))), None)
    if odd:
        raise Refused(f"the configuration's {odd} is a {type(fields[odd]).__name__}, expected a number or a word")
    out = {"architectures": ["OpenMythos"], "model_type": "openmythos", "torch_dtype": ""}
    policy = halted_kv or fields.get("halted_kv")
    if policy:
        out["halted_kv"] = policy
    out.update({k: fields[k] for k in KEYS if k in fields})
    out.setdefault("max_output_tokens", 4096)
    return out


def convert(args):
    state, fields = find_parts(ckpt.read_checkpoint(args.checkpoint))
    state = plain_names(state)
    config = make_config(fields, args.config, args.halted_kv)
    tensors = wanted_tensors(state, config)
    dtype = ckpt.DTYPES[args.dtype] if args.dtype else tensors["embed.weight"].dtype
    if dtype not in ckpt.NAMES:
        raise Refused(f"weights are {dtype}: choose --dtype float32, bfloat16 or float16")
    config["torch_dtype"] = str(dtype).split(".")[-1]
    n = ckpt.write_folder(args.out, config, tensors, dtype)
    print(f"{args.out}: {len(tensors)} tensors, {n / 1e6:.3f} MB, {ckpt.NAMES[dtype]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT.pt")
    parser.add_argument("out", metavar="OUT", help="folder to write; nothing is overwritten")
    parser.add_argument("--config", metavar="FILE", help="config.json, for a checkpoint without one (or instead of its own)")
    parser.add_argument("--dtype", choices=sorted(ckpt.DTYPES), help="of the weights written (default: as they are)")
    parser.add_argument("--halted-kv", choices=("exact", "last"), help="policy the model was trained for (default: exact)")
    args = parser.parse_args()
    try:
        convert(args)
    except (Refused, OSError) as why:
        sys.exit(f"convert_openmythos: {why}")


if __name__ == "__main__":
    main()
