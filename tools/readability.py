#!/usr/bin/env python3
"""How the C tree reads, in four numbers a folder.

  1-letter   share of identifier tokens that are one character (code without comments and strings), per cent
  relative   who, which, that, those, what, where, none ... per 100 words of comments
  persons    who, nobody, everybody, whose ... per 1000 words of comments
  of it      "of it", "of which", "of those", "of whom" per 1000 words of comments

Licence texts and comments of five words or fewer are left out. Admired C trees, measured the same way: one-letter
h2o 4, libuv 8, valkey 12, jansson 19, calm 24; relative 0.6 to 1.3; persons 0.0 to 0.2; of it 0.0 to 0.2."""
import argparse
import collections
import os
import re
import sys

KEYWORDS = set("auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return short signed sizeof static struct switch typedef union "
               "unsigned void volatile while bool true false NULL define include ifndef ifdef endif elif pragma once undef defined".split())
RELATIVE = set("who whose whom whoever what which those that where none nobody somebody anybody everybody".split())
PERSONS = set("who whoever nobody somebody anybody everybody whose whom".split())
TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
IDENTIFIER = re.compile(r"\b[A-Za-z_]\w*\b")
OF_IT = re.compile(r" of (?:it|which|whom|those)\b")
FIGURES = ("1-letter", "relative", "persons", "of it")

LIMITS = (20.0, 2.0, 0.3, 0.3)

# Folders that do not reach the limits yet, each with figures that it may not exceed. The goal is an empty table:
# lower the figures when a folder improves, and remove its row when it reaches the limits.
NOT_YET = {
}


def is_prose(comment):
    return len(comment.split()) > 5 and "opyright" not in comment and "WARRANT" not in comment.upper()


def bare(word):
    return word.lower().strip(".,;:()\"'")


def comments(text):
    """The comments of a file as prose on one line, each with the line it starts on."""
    for match in TOKEN.finditer(text):
        if match.group(0).startswith("/"):
            prose = re.sub(r"[/*\s]+", " ", match.group(0)).strip()
            if is_prose(prose):
                yield text.count("\n", 0, match.start()) + 1, prose


def identifiers(text):
    return [name for name in IDENTIFIER.findall(TOKEN.sub(" ", text)) if name not in KEYWORDS]


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def measure(files):
    """The four figures of these files together."""
    names, words, of_it = collections.Counter(), [], 0
    for path in files:
        text = read(path)
        names.update(identifiers(text))
        for _, prose in comments(text):
            words += prose.split()
            of_it += len(OF_IT.findall(prose))
    n_names, n_words = max(1, sum(names.values())), max(1, len(words))
    return (100 * sum(count for name, count in names.items() if len(name) == 1) / n_names,
            100 * sum(bare(word) in RELATIVE for word in words) / n_words,
            1000 * sum(bare(word) in PERSONS for word in words) / n_words,
            1000 * of_it / n_words)


def folders(tops):
    """Every folder at or below these with C or CUDA files in it, and the files; built and installed ones left out."""
    for top in tops:
        for folder, below, names in os.walk(top):
            below[:] = sorted(name for name in below if name not in ("build", "node_modules") and not name.startswith("."))
            files = [os.path.join(folder, name) for name in sorted(names) if name.endswith((".c", ".h", ".cu", ".cuh"))]
            if files:
                yield os.path.normpath(folder), files


def table(tops):
    print(f"{'folder':24} {'files':>5} {'1-letter %':>10} {'relative/100':>12} {'persons/1000':>12} {'of it/1000':>10}")
    for folder, files in folders(tops):
        letters, relative, persons, of_it = measure(files)
        print(f"{folder:24} {len(files):5} {letters:10.1f} {relative:12.1f} {persons:12.1f} {of_it:10.1f}")


def where(tops):
    """Prints each counted word with its place, and the one-letter names of each file."""
    for _, files in folders(tops):
        for path in files:
            text = read(path)
            for line, prose in comments(text):
                found = [word for word in prose.split() if bare(word) in RELATIVE] + OF_IT.findall(prose)
                if found:
                    print(f"{path}:{line}: {', '.join(bare(word).strip() for word in found)}: {prose}")
            letters = collections.Counter(name for name in identifiers(text) if len(name) == 1)
            if letters:
                print(f"{path}: " + ", ".join(f"{name} {count}" for name, count in letters.most_common()))


def faults(folder, figures, limits, not_yet):
    """A sentence for each figure above its limit, or above the folder's row in the table where that is higher."""
    allowed = [max(pair) for pair in zip(limits, not_yet.get(folder, limits))]
    return [f"{folder}: {name} is {figure:.1f}, at most {most:.1f}"
            for name, figure, most in zip(FIGURES, figures, allowed) if round(figure, 1) > most]


def check(tops, limits=LIMITS, not_yet=None):
    """Exit status: 1 if a folder exceeds a limit."""
    not_yet = NOT_YET if not_yet is None else not_yet
    bad, seen = [], set()
    for folder, files in folders(tops):
        figures = measure(files)
        bad += faults(folder, figures, limits, not_yet)
        seen.add(folder)
        if folder in not_yet and not faults(folder, figures, limits, {}):
            print(f"{folder}: reaches the limits: remove it from NOT_YET in tools/readability.py")
    for folder in sorted(set(not_yet) - seen):
        print(f"{folder}: not found: remove it from NOT_YET in tools/readability.py")
    for line in bad:
        print(line)
    if bad:
        print("places: tools/readability.py --where FOLDER")
        return 1
    print(f"readability: ok ({len(seen)} folders, {len(seen & set(not_yet))} not yet at the limits)")
    return 0


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example:\n  tools/readability.py scheduler engine/cpu")
    parser.add_argument("folders", nargs="*", metavar="DIR", help="folders to measure (default: the repository)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true",
                      help="fail if a folder exceeds a limit: %s %%%% one-letter, %s relative, %s persons, %s of it" % LIMITS)
    mode.add_argument("--where", action="store_true", help="list each counted word and its place")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        if not os.path.isdir(folder):
            parser.error(f"{folder}: not a folder")
    if not options.folders:
        os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    tops = options.folders or ["."]
    if options.check:
        return check(tops)
    (where if options.where else table)(tops)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
