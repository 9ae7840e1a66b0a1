"""Reads and writes safetensors: the length of a JSON header in 8 bytes, the header, the tensors' bytes."""
import json
import struct

import numpy
import torch

NAME = {torch.float32: "F32", torch.bfloat16: "BF16"}
DTYPE = {name: dtype for dtype, name in NAME.items()}


def save(path, tensors, metadata):
    header, blobs, end = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        # numpy has no bfloat16.
        blob = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy().tobytes()
        header[name] = {"dtype": NAME[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [end, end + len(blob)]}
        end += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)


def load(path):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        raw = numpy.frombuffer(data[begin:end], dtype=numpy.uint8).copy()
        dtype = DTYPE[entry["dtype"]]
        flat = torch.from_numpy(raw.view(numpy.int16 if dtype == torch.bfloat16 else numpy.float32)).view(dtype)
        tensors[name] = flat.view(entry["shape"])
    return tensors
