"""Write the tokenizer.json of the hops model: a byte-level BPE in which every word of its language is one token.

usage: make_tokenizer.py OUT_DIR

The 256 byte letters come first, then merges in the order they were found: repeatedly the most frequent neighbouring
pair over the list of words, until each word is one token. Any other text falls back to bytes.
"""
import collections, json, sys

from alphabet import byte_alphabet
from world import NAMES

SPECIALS = ["<|endoftext|>"]


def learn(words, alpha):
    parts = {w: [alpha[b] for b in w.encode()] for w in words}
    merges = []
    while any(len(p) > 1 for p in parts.values()):
        pairs = collections.Counter(q for p in parts.values() for q in zip(p, p[1:]))
        best = max(pairs, key=lambda q: (pairs[q], q))
        merges.append(best)
        for w, p in parts.items():
            out = []
            for x in p:
                if out and (out[-1], x) == best:
                    out[-1] = out[-1] + x
                else:
                    out.append(x)
            parts[w] = out
    return merges


def main():
    alpha = byte_alphabet()
    words = [" friend", " is", "'s"] + NAMES + [" " + n for n in NAMES]
    merges = learn(words, alpha)
    toks = sorted(alpha.values(), key=ord) + [a + b for a, b in merges]
    toks = list(dict.fromkeys(toks))
    vocab = {t: i for i, t in enumerate(toks)}
    added = [{"id": len(vocab) + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, s in enumerate(SPECIALS)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
               "pre_tokenizer": level, "post_processor": None, "decoder": {**level, "add_prefix_space": True},
               "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                         "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                         "merges": [f"{a} {b}" for a, b in merges]}},
              open(f"{sys.argv[1]}/tokenizer.json", "w"), ensure_ascii=False, indent=1)
    print("vocabulary", len(vocab) + len(SPECIALS), "merges", len(merges))


main()
