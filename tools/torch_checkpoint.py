"""Reads what torch.save wrote without running any of it, and writes safetensors.

A pickle names classes and functions, and reading it calls them. Here tensors and containers are
read; a handful of classes that hold fields become Config; everything else becomes a stand-in: an
object that remembers its name and does nothing. Optimizer states, dates, paths and random
generators beside a model are therefore no obstacle, and refuse_strangers() refuses a stand-in
where it would matter."""

import ctypes
import inspect
import json
import os
import pickle
import struct
import sys
import time
import zipfile

try:
    import torch
except ImportError:
    sys.exit(f"{os.path.basename(sys.argv[0])}: torch is missing (Debian 12: apt-get install python3-torch)")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class Refused(Exception):
    pass


# ---- reading ----

class Config:
    """Stands in for a class of the checkpoint that holds fields: its fields, none of its code."""

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


class StandIn:
    """Stands in for anything else. Takes what a pickle may do to an object, and does nothing."""

    named = ""       # "module.class"
    harmless = False  # of a kind that people keep beside a model

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass

    add = append


HARMLESS = {"datetime", "pathlib", "pathlib._local", "decimal", "fractions", "uuid", "random", "numpy", "zoneinfo",
            "enum", "ipaddress", "time", "re"}
NUMPY = ("numpy.", "numpy.core.", "numpy._core.", "numpy.random.")
CODES = {"b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f2": "e",
         "f4": "f", "f8": "d"}


class NumpyType:
    """numpy.dtype: its code, "f8", and the order of its bytes."""

    def __init__(self, code="", *rest):
        self.code, self.order = code, "<"

    def __setstate__(self, state):
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def numpy_scalar(kind=None, data=b""):
    """numpy.core.multiarray.scalar: a number as a number, anything else as a stand-in."""
    code = CODES.get(getattr(kind, "code", None))
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize("<" + code):
        return stand_in("numpy", "scalar")()
    return struct.unpack(kind.order + code, data)[0]


def stand_in(module, name):
    harmless = module.split(".")[0] in HARMLESS or (module, name) == ("collections", "deque")
    return type("StandIn", (StandIn,), {"named": f"{module}.{name}", "harmless": harmless})


def rebuild_object(cls, base=object, state=None):
    """copyreg._reconstructor, which older pickles make objects with."""
    return cls() if isinstance(cls, type) and issubclass(cls, (Config, StandIn)) else stand_in("copyreg", "_reconstructor")()


class Reader(pickle.Unpickler):
    """An unpickler that knows tensors, containers and classes of fields."""

    PLAIN = {("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"),
             ("torch", "Size"), ("torch", "device"), ("torch.nn.parameter", "Parameter"), ("_codecs", "encode"),
             ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "dict"), ("builtins", "list"),
             ("builtins", "tuple"), ("builtins", "complex"), ("builtins", "int"), ("builtins", "float"),
             ("builtins", "bytearray"), ("builtins", "slice"), ("builtins", "range")}
    FIELDS = {("argparse", "Namespace"), ("types", "SimpleNamespace")}

    def find_class(self, module, name):
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # protocols below 3
        if name.endswith("Config") or (module, name) in self.FIELDS:
            return Config
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        is_storage = name.endswith("Storage") and module in ("torch", "torch.storage")
        is_rebuild = name.startswith("_rebuild_") and module == "torch._utils" and hasattr(torch._utils, name)
        if is_storage or is_rebuild or (module, name) in self.PLAIN:
            return super().find_class(module, name)
        if (module, name) == ("copyreg", "_reconstructor"):
            return rebuild_object
        if (module, name) == ("numpy", "dtype"):
            return NumpyType
        if name == "scalar" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return numpy_scalar
        return stand_in(module, name)


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
        kwargs["weights_only"] = False  # Reader runs nothing, and knows classes of fields
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


def refuse_strangers(value, where):
    """Refuses a value that holds, however deep, something that was not read."""
    todo, seen = [value], set()
    while todo:
        v = todo.pop()
        if id(v) in seen:
            continue
        seen.add(id(v))
        stranger = v if isinstance(v, type) and issubclass(v, StandIn) else type(v)
        if issubclass(stranger, StandIn) and not stranger.harmless:
            raise Refused(f"the checkpoint's {where} holds a {stranger.named}; only tensors and plain values are read")
        if isinstance(v, dict):
            todo += list(v.keys()) + list(v.values())
        elif isinstance(v, (list, tuple, set, frozenset)):
            todo += list(v)
        elif isinstance(v, Config):
            todo += list(vars(v).values())


def is_state_dict(value):
    return isinstance(value, dict) and any(isinstance(v, torch.Tensor) for v in value.values())


def tensors_of(state, where, leave_out):
    """The tensors of a state dict; leave_out is told of what is none."""
    refuse_strangers(state, where)
    out = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            out[str(name)] = value.detach()
        else:
            leave_out(str(name), "no tensor")
    return out


# ---- writing ----

class Progress:
    """How much of the work is done, on stderr: a line that is redrawn on a terminal, else one every 10 s.
    Nothing in the first second."""

    def __init__(self, what, total, out=sys.stderr, now=time.monotonic):
        self.what, self.total, self.out, self.now = what, total, out, now
        self.done, self.drawn = 0, False
        self.redraws = out.isatty()
        self.started = now()
        self.next = self.started + (1 if self.redraws else 10)

    def add(self, n):
        self.done += n
        now = self.now()
        if now < self.next:
            return
        self.next = now + (0.2 if self.redraws else 10)
        left = (self.total - self.done) * (now - self.started) / max(self.done, 1)
        text = (f"{self.what}: {100 * self.done / max(self.total, 1):.0f} % of {self.total / 1e9:.1f} GB, "
                + (f"{max(left, 1):.0f} s left" if left < 60 else f"{left / 60:.0f} min left"))
        self.out.write(f"\r\x1b[K{text}" if self.redraws else text + "\n")
        self.out.flush()
        self.drawn = True

    def stop(self):
        if self.drawn and self.redraws:
            self.out.write("\r\x1b[K")


def write_bytes(f, tensor):
    """The values as they lie in memory, without numpy and without a copy."""
    n = tensor.numel() * tensor.element_size()
    if n:
        f.write(memoryview((ctypes.c_char * n).from_address(tensor.data_ptr())))


def write_safetensors(path, tensors, dtype):
    """Writes all as dtype, or each as it is where dtype is None."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        kind = dtype or tensor.dtype
        end = at + tensor.numel() * torch.empty(0, dtype=kind).element_size()
        header[name] = {"dtype": NAMES[kind], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        progress = Progress("writing " + os.path.basename(path), at)
        try:
            for tensor in tensors.values():
                kind = dtype or tensor.dtype
                write_bytes(f, tensor.to(kind).contiguous())
                progress.add(tensor.numel() * torch.empty(0, dtype=kind).element_size())
        finally:
            progress.stop()
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".part", path)
    return at


def write_folder(out, config, tensors, dtype):
    """config.json and model.safetensors in a folder that has neither. Returns the bytes of weights."""
    os.makedirs(out, exist_ok=True)
    weights, settings = (os.path.join(out, n) for n in ("model.safetensors", "config.json"))
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
    return n
