#!/usr/bin/env python3
"""Checks the claims of bench/README.md: each row has a figure, a command, a source that exists and a commit of the history.

The commits that other pages of bench/ name have to be in the history, too. Commits are not checked where there is no
history, as in an unpacked archive, or only a part of one."""
import argparse
import os
import re
import subprocess
import sys

PAGE = "bench/README.md"
COLUMNS = ["claim", "figure", "machine", "commit", "command", "source"]
COMMIT = re.compile(r"(?<![\w./-])(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7}(?![\w-])")
# Commits of other projects, and two of Fathom that this history does not have.
ELSEWHERE = {
    "00c3d01": "jsonschemabench", "1d5fc00": "llguidance", "8c68c1f": "OpenMythos", "de3ff81": "llama.cpp",
    "4e63b86": "Fathom", "da1bb16": "Fathom",
}


def git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def has_history():
    shallow = git("rev-parse", "--is-shallow-repository")
    return shallow.returncode == 0 and shallow.stdout.strip() == "false" and \
        os.path.samefile(git("rev-parse", "--show-toplevel").stdout.strip(), ".")


def known(commit):
    return git("cat-file", "-e", commit + "^{commit}").returncode == 0


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def claim_rows(lines):
    """Line number and cells of each row of the tables of claims."""
    inside = False
    for number, line in enumerate(lines, 1):
        if not line.startswith("|"):
            inside = False
        elif cells(line) == COLUMNS:
            inside = True
        elif inside and not re.fullmatch(r"[|\- ]+", line):
            yield number, dict(zip(COLUMNS, cells(line)))


def row_faults(row, history):
    for column in ("figure", "commit", "command"):
        if not row.get(column):
            yield f"no {column}"
    for commit in re.findall(r"[0-9a-f]{7,40}", row.get("commit", "")):
        if history and not known(commit):
            yield f"the commit {commit} is not in the history"
    for program in re.findall(r"`((?:bench|tools|tests)/\S+?)[ `]", row.get("command", "")):
        if not os.path.exists(program):
            yield f"the program {program} is not there"
    sources = re.findall(r"\]\(([^)#]+)", row.get("source", ""))
    if not sources:
        yield "no link to a source"
    for source in sources:
        if not os.path.exists(os.path.join(os.path.dirname(PAGE), source)):
            yield f"the source {source} is not there"


def report_faults(path):
    for number, line in enumerate(read(path), 1):
        for commit in COMMIT.findall(line):
            if commit not in ELSEWHERE and not known(commit):
                yield f"{path}:{number}: the commit {commit} is not in the history"


def reports():
    """Every page below bench/ but the table of claims."""
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk("bench") for name in names
                  if name.endswith(".md") and os.path.join(folder, name) != PAGE)


def check():
    """The number of claims, and what is wrong with them."""
    history = has_history()
    rows = list(claim_rows(read(PAGE)))
    faults = [f"{PAGE}:{number}: {fault}" for number, row in rows for fault in row_faults(row, history)]
    if not rows:
        faults.append(f"{PAGE}: no table of claims")
    if history:
        faults += [fault for path in reports() for fault in report_faults(path)]
    return len(rows), faults


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example:\n  tools/claims.py")
    parser.parse_args(arguments)
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    count, faults = check()
    for line in faults:
        print(line)
    if not faults:
        print(f"claims: ok ({count} claims{'' if has_history() else '; no history, so commits were not checked'})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
