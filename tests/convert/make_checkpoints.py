"""Writes checkpoints of one golden model in every form the converter reads, and some that
it must refuse: make_checkpoints.py GOLDEN_DIR OUT_DIR"""

import collections
import dataclasses
import json
import os
import struct
import sys
import types

import torch

DTYPES = {"F32": torch.float32}


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


def config_class(fields):
    """A dataclass as OpenMythos' own: pickled by name, from a module the converter lacks."""
    module = types.ModuleType("open_mythos.main")
    cls = dataclasses.make_dataclass("MythosConfig", [(k, type(v), v) for k, v in fields.items()])
    cls.__module__ = "open_mythos.main"
    cls.__qualname__ = "MythosConfig"
    module.MythosConfig = cls
    sys.modules["open_mythos"] = types.ModuleType("open_mythos")
    sys.modules["open_mythos.main"] = module
    return cls(**fields)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch " + os.path.join(sys.argv[2], "ran"),))


def wrapped(state, how):
    return collections.OrderedDict((how(n), t) for n, t in state.items())


def main(golden, out):
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
    save("evil.pt", {"model": full, "cfg": Evil()})
    save("no_cfg.pt", {"model": full})
    save("no_model.pt", {"step": 7})
    save("other.pt", {"model": {"lm.weight": torch.zeros(2)}, "cfg": fields})
    save("twice.pt", {"model": {"embed.weight": torch.zeros(2), "module.embed.weight": torch.zeros(2)}, "cfg": fields})
    short = dict(fields)
    del short["rope_theta"]
    save("short_cfg.pt", {"model": full, "cfg": short})
    with open(os.path.join(out, "text.pt"), "w", encoding="utf-8") as f:
        f.write("no checkpoint\n")


main(sys.argv[1], sys.argv[2])
