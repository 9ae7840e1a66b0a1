#!/usr/bin/python3
"""Turns a Hugging Face folder whose weights are pytorch_model.bin into one with model.safetensors.

    tools/convert_bin.py parcae-140m my-parcae
    build/fathom inspect --model my-parcae

Names, shapes, values and dtypes stay as they are; config.json and the tokenizer's files are copied. Tables
that follow from config.json (freqs_cis) are left out. A model without a model_type gets the one that its class has (ParcaeConfig: parcae). Of several tensors
that are one in memory (a tied head) the first in order of names is kept, and --keep-tied keeps all.
Nothing that the file's pickle names is run. Needs torch (Debian 12: python3-torch)."""

import argparse
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch_checkpoint as ckpt  # noqa: E402
from torch_checkpoint import Refused  # noqa: E402

COPIED = """tokenizer.json tokenizer_config.json special_tokens_map.json generation_config.json chat_template.jinja
tokenizer.model merges.txt vocab.json added_tokens.json chat_template.fathom.json""".split()
TABLES = ("freqs_cis",)  # buffers of the published classes


def leave_out(name, why):
    print(f"convert_bin: left out: {name} ({why})", file=sys.stderr)


def weight_files(folder):
    """pytorch_model.bin, or the files that its index names."""
    one, index = (os.path.join(folder, n) for n in ("pytorch_model.bin", "pytorch_model.bin.index.json"))
    if os.path.exists(one):
        return [one]
    if not os.path.exists(index):
        raise Refused(f"{folder}: holds neither pytorch_model.bin nor its index")
    with open(index, encoding="utf-8") as f:
        names = sorted(set(json.load(f)["weight_map"].values()))
    for name in names:
        if os.path.basename(name) != name:
            raise Refused(f"{index}: names the file {name}, expected a plain file name in the folder")
    return [os.path.join(folder, n) for n in names]


def read_weights(folder):
    out = {}
    for path in weight_files(folder):
        state = ckpt.read_checkpoint(path)
        if not ckpt.is_state_dict(state):
            raise Refused(f"{path}: expected a dictionary of tensors")
        for name, tensor in ckpt.tensors_of(state, "model", leave_out).items():
            if name in out:
                raise Refused(f"tensor {name} is in two files")
            out[name] = tensor
    return dict(sorted(out.items()))


def without_twins(tensors):
    """Tensors that are the same memory are one tensor; the embedding goes before the head."""
    seen, out = {}, {}
    for name in sorted(tensors, key=lambda n: ("head" in n, n)):
        t = tensors[name]
        key = (t.data_ptr(), t.dtype, tuple(t.shape), t.stride())
        if t.numel() and key in seen:
            leave_out(name, f"it is {seen[key]}")
            continue
        seen[key] = name
        out[name] = t
    return dict(sorted(out.items()))


def read_config(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    if not isinstance(config, dict):
        raise Refused(f"{folder}/config.json: expected an object")
    name = config.get("_class_name")
    if "model_type" not in config and isinstance(name, str) and name.endswith("Config"):
        config = {"model_type": name[:-len("Config")].lower(), **config}
    return config


def convert(args):
    config, tensors = read_config(args.folder), read_weights(args.folder)
    if not args.keep_tied:
        tensors = without_twins(tensors)
    for name in [n for n in tensors if n.rsplit(".", 1)[-1] in TABLES]:
        tensors.pop(name)
        leave_out(name, "config.json tells it")
    for name in [n for n, t in tensors.items() if t.dtype not in ckpt.NAMES]:
        leave_out(name, f"its dtype is {tensors.pop(name).dtype}")
    if not tensors:
        raise Refused(f"{args.folder}: no tensor of float32, float16 or bfloat16")
    n = ckpt.write_folder(args.out, config, tensors, None)
    for name in COPIED:
        if os.path.isfile(os.path.join(args.folder, name)):
            shutil.copyfile(os.path.join(args.folder, name), os.path.join(args.out, name))
    print(f"{args.out}: {len(tensors)} tensors, {n / 1e6:.3f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="with config.json and pytorch_model.bin")
    parser.add_argument("out", metavar="OUT", help="folder to write; no model in it is overwritten")
    parser.add_argument("--keep-tied", action="store_true", help="write a tensor that is another one's memory too")
    args = parser.parse_args()
    try:
        convert(args)
    except (Refused, OSError, ValueError, KeyError) as why:
        sys.exit(f"convert_bin: {why}")


if __name__ == "__main__":
    main()
