"""Writes checkpoints of one golden model in every form the converter reads, and some that
it must refuse, and folders of pytorch_model.bin: make_checkpoints.py GOLDEN_DIR OURO_DIR OUT_DIR, or
make_checkpoints.py check-parcae FOLDER, which says whether a converted folder holds what it must."""

import argparse
import collections
import dataclasses
import datetime
import json
import os
import pathlib
import random
import struct
import sys
import types

import torch

try:
    import numpy
except ImportError:  # torch runs without it
    numpy = None

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    out = collections.OrderedDict()
    for name, t in json.loads(data[8:8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        raw = bytearray(data[8 + n + begin:8 + n + end])
        out[name] = torch.frombuffer(raw, dtype=DTYPES[t["dtype"]]).clone().reshape(t["shape"])
    return out


def foreign(module, name, cls=None):
    """A class pickled by name, from a module the converter lacks."""
    cls = cls or type(name, (), {})
    cls.__module__, cls.__qualname__ = module, name
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    setattr(sys.modules[module], name, cls)
    return cls


def config_class(fields):
    """A dataclass as OpenMythos' own."""
    cls = dataclasses.make_dataclass("MythosConfig", [(k, type(v), v) for k, v in fields.items()])
    return foreign("open_mythos.main", "MythosConfig", cls)(**fields)


def beside(np):
    """What people keep beside a model; each of these names a class or a function in its pickle."""
    scheduler = foreign("torch.optim.lr_scheduler", "CosineAnnealingLR")()
    scheduler.last_epoch = 7
    out = {"args": argparse.Namespace(lr=1e-3, out=pathlib.PurePosixPath("/runs/7")), "out": pathlib.PurePosixPath("/runs"),
           "when": datetime.datetime(2026, 1, 2), "took": datetime.timedelta(hours=3), "rng": random.Random(1).getstate(),
           "torch_rng": torch.get_rng_state(), "seen": {3, 5}, "frozen": frozenset((1, "a")), "scheduler": scheduler,
           "paths": {pathlib.PurePosixPath("/a"): 1}, "bytes": bytearray(b"ab"), "count": collections.Counter("abc")}
    if np:
        out.update(best=np.float64(2.5), steps=np.int64(7), np_rng=np.random.RandomState(1).get_state(),
                   history=np.arange(6.0).reshape(2, 3), kind=np.dtype("float32"), flag=np.bool_(True))
    return out


class Evil:
    def __reduce__(self):
        return (os.system, ("touch " + os.path.join(sys.argv[3], "ran"),))


def numpy_value(v):
    return numpy.int32(v) if type(v) is int else numpy.float64(v) if type(v) is float else v


PARCAE = {"_class_name": "ParcaeConfig", "n_embd": 8, "vocab_size": 16, "tie_embeddings": True, "mean_recurrence": 8}


def parcae_state():
    """The names of a published pytorch_model.bin, few and small; three dtypes; a head that is the embedding."""
    torch.manual_seed(3)
    stages = [f"transformer.{s}.{i}." for s in ("prelude", "core_block", "coda") for i in range(2)]
    state = collections.OrderedDict((s + "attn.c_q.weight", torch.randn(8, 8)) for s in stages)
    state["transformer.wte.weight"] = torch.randn(16, 8)
    state["transformer.adapter.A_log"] = torch.randn(8).to(torch.bfloat16)
    state["transformer.ln_f.weight"] = torch.randn(8).to(torch.float16)
    state["value_embeds.1.weight"] = torch.randn(8, 16).t()  # not contiguous
    state["freqs_cis"] = torch.randn(1, 4, 1, 4, 2)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    state["steps"] = torch.tensor(5)
    return state


def hub_folder(out, config, parts):
    """A folder as the hub has it, from before safetensors: one pytorch_model.bin, or parts and an index."""
    os.makedirs(out)
    names = ["pytorch_model.bin"] if len(parts) == 1 else [f"pytorch_model-{i}.bin" for i in range(len(parts))]
    for name, state in zip(names, parts):
        torch.save(state, os.path.join(out, name))
    if len(parts) > 1:
        with open(os.path.join(out, "pytorch_model.bin.index.json"), "w", encoding="utf-8") as f:
            json.dump({"weight_map": {n: name for name, state in zip(names, parts) for n in state}}, f)
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    with open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as f:
        f.write("{}\n")


def check_parcae(folder):
    """Exits with a message unless the folder's tensors are those of parcae_state, one by one."""
    found, state = read_safetensors(os.path.join(folder, "model.safetensors")), parcae_state()
    wanted = {n: t for n, t in state.items() if n not in ("freqs_cis", "lm_head.weight", "steps")}
    if set(found) != set(wanted):
        sys.exit(f"tensors differ: {set(found) ^ set(wanted)}")
    for name, t in wanted.items():
        if found[name].dtype != t.dtype or not torch.equal(found[name], t):
            sys.exit(f"{name} differs")


def published_parcae(golden, out):
    """The golden case as its authors publish: a pickle with the tied head and the table, no model_type."""
    with open(os.path.join(golden, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    assert "model_type" not in config and config["_class_name"] == "ParcaeConfig"
    state = dict(read_safetensors(os.path.join(golden, "model.safetensors")))
    state["lm_head.weight"] = state["transformer.wte.weight"]
    state["freqs_cis"] = torch.randn(1, config["block_size"], 1, config["n_embd"] // config["num_attention_heads"] // 2, 2)
    hub_folder(out, config, [state])


def wrapped(state, how):
    return collections.OrderedDict((how(n), t) for n, t in state.items())


def untie(folder, out):
    """A copy of a folder whose head is a tensor of its own."""
    state = read_safetensors(os.path.join(folder, "model.safetensors"))
    torch.manual_seed(5)
    state["head.weight"] = state["embed.weight"] / 2 + 0.05 * torch.randn_like(state["embed.weight"])
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    sys.path.insert(0, "tools")
    import torch_checkpoint
    torch_checkpoint.write_folder(out, config, state, torch.float32)


def main(golden, ouro, parcae, out):
    with open(os.path.join(golden, "config.json"), encoding="utf-8") as f:
        fields = json.load(f)
    for key in ("architectures", "model_type", "torch_dtype"):
        fields.pop(key)
    state = read_safetensors(os.path.join(golden, "model.safetensors"))
    # As the published module saves itself: the tied head again, and rope tables.
    full = collections.OrderedDict(state)
    full["head.weight"] = full["embed.weight"]
    full["freqs_cis"] = torch.polar(torch.ones(4, 8), torch.ones(4, 8))
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}},
                 "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [0]}]}
    cfg = config_class(fields)
    save = lambda name, obj, **kw: torch.save(obj, os.path.join(out, name), **kw)
    save("training.pt", {"step": 7, "model": full, "optimizer": optimizer, "cfg": cfg, "vocab_size": 320})
    save("dict_cfg.pt", {"model": full, "cfg": fields})
    save("bare.pt", full)
    save("ddp.pt", {"model": wrapped(full, lambda n: "module." + n), "cfg": cfg})
    save("fsdp.pt", {"cfg": cfg, "model": wrapped(
        full, lambda n: "_orig_mod._fsdp_wrapped_module." + n.replace("block.", "_fsdp_wrapped_module.block.", 1))})
    save("legacy.pt", {"model": full, "cfg": cfg}, _use_new_zipfile_serialization=False)
    save("parameters.pt", {"model": wrapped(full, lambda n: n), "cfg": fields})
    save("beside.pt", {"model": full, "cfg": cfg, **beside(numpy)})
    save("namespace.pt", {"model": full, "args": argparse.Namespace(**fields, data=pathlib.PurePosixPath("/d"))})
    more = collections.OrderedDict(full)
    more["recurrent.steps"] = torch.tensor(9)
    more["prelude.7.attn_norm.weight"] = torch.zeros(4)
    more["extra_head.weight"] = torch.zeros(2, 2)
    more["coda.0._extra_state"] = None
    save("more.pt", {"model": more, "cfg": cfg})
    if numpy:
        save("numpy_cfg.pt", {"model": full, "cfg": {k: numpy_value(v) for k, v in fields.items()}})
    stranger = foreign("elsewhere.things", "Thing")()
    save("evil_beside.pt", {"model": full, "cfg": fields, "callback": Evil()})
    save("stranger_cfg.pt", {"model": full, "cfg": dict(fields, extra=[{"deep": stranger}])})
    save("stranger_class.pt", {"model": full, "cfg": dict(fields, kind=type(stranger))})
    save("stranger_model.pt", {"model": collections.OrderedDict(full, layer=stranger), "cfg": fields})
    save("list_cfg.pt", {"model": full, "cfg": dict(fields, dim=[64])})
    save("evil.pt", {"model": full, "cfg": Evil()})
    save("no_cfg.pt", {"model": full})
    save("no_model.pt", {"step": 7})
    save("other.pt", {"model": {"lm.weight": torch.zeros(2)}, "cfg": fields})
    save("twice.pt", {"model": {"embed.weight": torch.zeros(2), "module.embed.weight": torch.zeros(2)}, "cfg": fields})
    short = dict(fields)
    del short["rope_theta"]
    save("short_cfg.pt", {"model": full, "cfg": short})
    hub_folder(os.path.join(out, "parcae_bin"), PARCAE, [parcae_state()])
    published_parcae(parcae, os.path.join(out, "parcae_golden"))
    with open(os.path.join(ouro, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    items = list(read_safetensors(os.path.join(ouro, "model.safetensors")).items())
    hub_folder(os.path.join(out, "ouro_bin"), config, [dict(items)])
    hub_folder(os.path.join(out, "ouro_parts"), config, [dict(items[::2]), dict(items[1::2])])
    hub_folder(os.path.join(out, "evil_bin"), config, [dict(items, extra=Evil())])
    with open(os.path.join(out, "text.pt"), "w", encoding="utf-8") as f:
        f.write("no checkpoint\n")


if sys.argv[1] == "check-parcae":
    check_parcae(sys.argv[2])
elif sys.argv[1] == "untied":
    untie(sys.argv[2], sys.argv[3])
else:
    main(*sys.argv[1:])
