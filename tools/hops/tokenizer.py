"""The tokenizer of the hops model: byte-level BPE in which each word of its language is one token.

usage: tokenizer.py OUT_DIR          writes OUT_DIR/tokenizer.json
"""
import collections
import json
import re
import sys
from functools import lru_cache

from names import NAMES

END = "<|endoftext|>"
# A word with the space before it, a number, punctuation, or white space.
PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def byte_letters():
    """A printable letter for each byte, as GPT-2 writes them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + extra)
            extra += 1
    return letters


# ---- learning ----

def learn_merges(words):
    """Joins the most frequent pair of neighbours over the list of words, until each word is one token."""
    letters = byte_letters()
    parts = {word: [letters[byte] for byte in word.encode()] for word in words}
    merges = []
    while any(len(pieces) > 1 for pieces in parts.values()):
        pairs = collections.Counter(pair for pieces in parts.values() for pair in zip(pieces, pieces[1:]))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, pieces in parts.items():
            joined = []
            for piece in pieces:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            parts[word] = joined
    return merges


def tokenizer_json():
    words = [" friend", " is", "'s", *NAMES, *(" " + name for name in NAMES)]
    merges = learn_merges(words)
    tokens = sorted(byte_letters().values(), key=ord) + [left + right for left, right in merges]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    end = {"id": len(vocab), "content": END, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
    bytes_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": bytes_level, "post_processor": None, "decoder": {**bytes_level, "add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": [f"{left} {right}" for left, right in merges]},
    }


def write(folder):
    with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(tokenizer_json(), file, ensure_ascii=False, indent=1)


# ---- using it ----

class Tokenizer:
    """Text to ids and back, by a tokenizer.json of this kind."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        self.ids = data["model"]["vocab"]
        self.special = {token["content"]: token["id"] for token in data["added_tokens"]}
        self.rank = {tuple(pair.split(" ")): i for i, pair in enumerate(data["model"]["merges"])}
        self.letter = byte_letters()
        self.byte = {letter: byte for byte, letter in self.letter.items()}
        self.token = {i: token for token, i in self.ids.items()}
        self.special_text = {i: text for text, i in self.special.items()}
        self.at_special = re.compile("(" + "|".join(map(re.escape, self.special)) + ")")

    @lru_cache(None)
    def word(self, text):
        pieces = [self.letter[byte] for byte in text.encode()]
        while len(pieces) > 1:
            ranked = [(self.rank.get(pair, len(self.rank)), i) for i, pair in enumerate(zip(pieces, pieces[1:]))]
            rank, i = min(ranked)
            if rank == len(self.rank):
                break
            pieces = pieces[:i] + [pieces[i] + pieces[i + 1]] + pieces[i + 2:]
        return [self.ids[piece] for piece in pieces]

    def encode(self, text):
        out = []
        for part in self.at_special.split(text):
            if part in self.special:
                out.append(self.special[part])
            else:
                for piece in PIECES.findall(part):
                    out += self.word(piece)
        return out

    def decode(self, ids):
        out = b""
        for i in ids:
            if i in self.special_text:
                out += self.special_text[i].encode()
            else:
                out += bytes(self.byte[letter] for letter in self.token[i])
        return out.decode("utf-8", "replace")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    write(sys.argv[1])
