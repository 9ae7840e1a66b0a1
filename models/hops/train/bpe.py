"""A small byte-level BPE encoder/decoder over a tokenizer.json."""
import json, re
from functools import lru_cache
from alphabet import byte_alphabet, PAT


class Bpe:
    def __init__(self, path):
        d = json.load(open(path))
        self.v = dict(d["model"]["vocab"])
        m = d["model"]["merges"]
        self.rank = {tuple(x.split(" ")) if isinstance(x, str) else tuple(x): i for i, x in enumerate(m)}
        self.special = {a["content"]: a["id"] for a in d["added_tokens"]}
        self.a = byte_alphabet()
        self.back = {c: b for b, c in self.a.items()}
        self.inv = {i: t for t, i in self.v.items()}
        self.inv_special = {i: t for t, i in self.special.items()}
        self.split = re.compile("(" + "|".join(re.escape(s) for s in self.special) + ")")

    @lru_cache(None)
    def word(self, w):
        p = [self.a[b] for b in w.encode()]
        while len(p) > 1:
            r = [(self.rank.get(x, 1 << 30), i) for i, x in enumerate(zip(p, p[1:]))]
            k, i = min(r)
            if k == 1 << 30:
                break
            p = p[:i] + [p[i] + p[i + 1]] + p[i + 2:]
        return [self.v[x] for x in p]

    def encode(self, s):
        out = []
        for part in self.split.split(s):
            if part in self.special:
                out.append(self.special[part])
            else:
                for w in PAT.findall(part):
                    out += self.word(w)
        return out

    def decode(self, ids):
        b = b""
        for i in ids:
            if i in self.inv_special:
                b += self.inv_special[i].encode()
            else:
                b += bytes(self.back[c] for c in self.inv[i])
        return b.decode("utf-8", "replace")
