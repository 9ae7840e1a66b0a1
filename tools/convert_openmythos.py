#!/usr/bin/python3
"""Turns an OpenMythos checkpoint (torch.save) into the folder Fathom loads.

    tools/convert_openmythos.py step_0010000.pt my-model --dtype bfloat16
    build/fathom inspect --model my-model

Reads {"model": state_dict, "cfg": ...} as OpenMythos' training script saves it, a bare
state dict (then --config names a config.json), and names with the prefixes that DDP, FSDP,
torch.compile and activation checkpointing add. Needs torch and nothing else; Debian 12 has
it as python3-torch. A tokenizer.json that stands beside the model is Fathom's tokenizer.

Only tensors and plain values are read from the checkpoint: whatever else its pickle names
is refused, not run."""

import argparse
import ctypes
import inspect
import json
import os
import pickle
import struct
import sys
import zipfile

try:
    import torch
except ImportError:
    sys.exit("convert_openmythos: torch is missing (Debian 12: apt-get install python3-torch)")

WRAPPERS = {"module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
KEYS = """vocab_size dim n_heads n_kv_heads max_seq_len max_loop_iters prelude_layers coda_layers
attn_type kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim n_experts
n_shared_experts n_experts_per_tok expert_dim act_threshold rope_theta lora_rank
max_output_tokens""".split()


class Refused(Exception):
    pass


class Config:
    """Stands in for the checkpoint's own configuration class: fields, no code."""

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


class Reader(pickle.Unpickler):
    """An unpickler that knows tensors, containers and configuration classes."""

    PLAIN = {("collections", "OrderedDict"), ("collections", "defaultdict"), ("torch", "Size"),
             ("torch", "device"), ("torch.nn.parameter", "Parameter"), ("_codecs", "encode"),
             ("builtins", "set"), ("builtins", "dict"), ("builtins", "list"),
             ("builtins", "complex"), ("builtins", "int"), ("builtins", "float")}

    def find_class(self, module, name):
        if name.endswith("Config"):
            return Config
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        is_storage = name.endswith("Storage") and module in ("torch", "torch.storage")
        is_rebuild = name.startswith("_rebuild_") and module == "torch._utils"
        if is_storage or is_rebuild or (module, name) in self.PLAIN:
            return super().find_class(module, name)
        if (module, name) == ("copyreg", "_reconstructor"):
            return _reconstruct
        raise Refused(f"the checkpoint names {module}.{name}; only tensors and plain values are read")


def _reconstruct(cls, base, state):
    if cls is not Config:
        raise Refused(f"the checkpoint rebuilds a {cls.__name__}; only tensors and plain values are read")
    return Config()


class safe_pickle:
    """What torch.load asks of a pickle module."""

    Unpickler = Reader
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file, **kwargs):
        return Reader(file, **kwargs).load()

    @staticmethod
    def loads(data, **kwargs):
        raise Refused("the checkpoint holds a nested pickle")


def read_checkpoint(path):
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as z:
            if any(n.endswith("/constants.pkl") for n in z.namelist()):
                raise Refused(f"{path}: a TorchScript program, expected a checkpoint (torch.save)")
    kwargs = {"map_location": "cpu", "pickle_module": safe_pickle}
    if "weights_only" in inspect.signature(torch.load).parameters:
        kwargs["weights_only"] = False  # Reader is stricter, and knows configuration classes
    plain = torch.serialization.pickle
    torch.serialization.pickle = safe_pickle  # torch 1.13 forgets the argument
    try:
        return torch.load(path, **kwargs)
    except (OSError, Refused) as why:
        raise Refused(str(why))
    except Exception as why:  # torch raises many kinds for a file that is none of its own
        raise Refused(f"{path}: not a torch checkpoint ({type(why).__name__}: {str(why)[:200]})")
    finally:
        torch.serialization.pickle = plain


def is_state_dict(value):
    return isinstance(value, dict) and value and all(isinstance(v, torch.Tensor) for v in value.values())


def find_parts(checkpoint):
    """The state dict and the configuration (None if there is none)."""
    if is_state_dict(checkpoint):
        return checkpoint, None
    if not isinstance(checkpoint, dict):
        raise Refused(f"the checkpoint is a {type(checkpoint).__name__}, expected a dictionary")
    cfg = next((checkpoint[k] for k in ("cfg", "config") if k in checkpoint), None)
    for key in ("model", "model_state_dict", "state_dict"):
        if is_state_dict(checkpoint.get(key)):
            return checkpoint[key], cfg
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


def wanted_tensors(state):
    """Sorted; without rope tables and without a head that is the embedding."""
    out = {n: t.detach() for n, t in state.items() if not n.startswith("freqs_cis")}
    head = out.get("head.weight")
    if head is not None and head.shape == out["embed.weight"].shape:
        embed = out["embed.weight"]
        if head.data_ptr() == embed.data_ptr() or torch.equal(head, embed):
            del out["head.weight"]
    for name, tensor in out.items():
        if not tensor.is_floating_point():
            raise Refused(f"tensor {name} has dtype {tensor.dtype}, expected a float")
    return dict(sorted(out.items()))


def make_config(cfg, path, dtype, halted_kv):
    if path:
        with open(path, encoding="utf-8") as f:
            fields = json.load(f)
    elif cfg is None:
        raise Refused("the checkpoint holds no configuration: name a config.json with --config")
    else:
        fields = cfg if isinstance(cfg, dict) else vars(cfg)
    missing = [k for k in KEYS if k not in fields and k != "max_output_tokens"]
    if missing:
        raise Refused("the configuration lacks " + ", ".join(missing))
    out = {"architectures": ["OpenMythos"], "model_type": "openmythos",
           "torch_dtype": str(dtype).split(".")[-1]}
    policy = halted_kv or fields.get("halted_kv")
    if policy:
        out["halted_kv"] = policy
    out.update({k: fields[k] for k in KEYS if k in fields})
    out.setdefault("max_output_tokens", 4096)
    return out


def write_bytes(f, tensor):
    """The values as they lie in memory, without numpy and without a copy."""
    n = tensor.numel() * tensor.element_size()
    if n:
        f.write(memoryview((ctypes.c_char * n).from_address(tensor.data_ptr())))


def write_safetensors(path, tensors, dtype):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    size = torch.empty(0, dtype=dtype).element_size()
    for name, tensor in tensors.items():
        end = at + tensor.numel() * size
        header[name] = {"dtype": NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            write_bytes(f, tensor.to(dtype).contiguous())
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".part", path)
    return at


def convert(args):
    state, cfg = find_parts(read_checkpoint(args.checkpoint))
    tensors = wanted_tensors(plain_names(state))
    dtype = DTYPES[args.dtype] if args.dtype else tensors["embed.weight"].dtype
    if dtype not in NAMES:
        raise Refused(f"weights are {dtype}: choose --dtype float32, bfloat16 or float16")
    config = make_config(cfg, args.config, dtype, args.halted_kv)
    os.makedirs(args.out, exist_ok=True)
    weights, settings = (os.path.join(args.out, n) for n in ("model.safetensors", "config.json"))
    for path in (weights, settings):
        if os.path.lexists(path):
            raise Refused(f"{path} exists already; nothing is overwritten")
    try:
        n = write_safetensors(weights, tensors, dtype)
    except OSError:
        if os.path.exists(weights + ".part"):
            os.remove(weights + ".part")
        raise
    with open(settings, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    print(f"{args.out}: {len(tensors)} tensors, {n / 1e6:.3f} MB, {NAMES[dtype]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT.pt")
    parser.add_argument("out", metavar="OUT", help="folder to write; nothing is overwritten")
    parser.add_argument("--config", metavar="FILE", help="config.json, for a checkpoint without one (or instead of its own)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the weights written (default: as they are)")
    parser.add_argument("--halted-kv", choices=("exact", "last"), help="policy the model was trained for (default: exact)")
    args = parser.parse_args()
    try:
        convert(args)
    except (Refused, OSError) as why:
        sys.exit(f"convert_openmythos: {why}")


if __name__ == "__main__":
    main()
