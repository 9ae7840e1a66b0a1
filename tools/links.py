#!/usr/bin/env python3
"""Finds links and names of files that lead nowhere.

Checked are, in every file of the repository:
  - links and pictures of Markdown pages, with the heading that an anchor names
  - paths from the top folder, such as tools/links.py, in pages, comments and scripts
  - names of pages, such as design.md: beside the file that names it, in docs/ or in the top folder
  - pictures of docs/: each is shown by a page

A word in capitals is a placeholder (FILE.md, DIR/config.json) and is not checked, nor is anything below build/."""
import argparse
import fnmatch
import os
import re
import subprocess
import sys

TEXT = (".c", ".h", ".cu", ".cuh", ".py", ".sh", ".js", ".mjs", ".mk", ".md", ".yaml", ".yml", ".conf", ".cfg", ".def", ".service", ".in")
TEXT_NAMES = ("Makefile", "Dockerfile", "Dockerfile.cuda", "rules", "control")
ENDINGS = "c|h|cu|cuh|py|sh|js|mjs|mk|md|json|jsonl|txt|svg|png|yaml|yml|conf|cfg|def|patch|dict|jinja"
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(<?([^()\s<>]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]^]+\]:\s+<?(\S+?)>?\s*$", re.M)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.M)
PAGE = re.compile(r"(?<![\w./*{}$<>-])((?:\.\./)*[A-Za-z0-9][\w-]*\.md)\b(?!\.)")
# Files that programs write or read elsewhere, and that only look like files of the repository.
NOT_HERE = ("results.md", "soak.md", "bench-http.md", "SKILL.md", "AGENTS.md", "CLAUDE.md")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def repository_files():
    """Every file of the repository; without git, every file but those that were built or installed."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if listed.returncode == 0 and listed.stdout:
        return sorted(name for name in set(listed.stdout.splitlines()) if os.path.isfile(name))
    found = []
    for folder, below, names in os.walk("."):
        below[:] = [name for name in below if name not in ("build", "node_modules", "__pycache__", ".git")]
        found += [os.path.normpath(os.path.join(folder, name)) for name in names]
    return sorted(found)


def slug(heading):
    """The anchor that hosting sites give a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[`*]", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text):
    """Every anchor of a page: of headings, repeated ones numbered, and of HTML ids."""
    found, seen = set(re.findall(r"(?:id|name)=\"([^\"]+)\"", text)), {}
    for heading in HEADING.findall(FENCE.sub("", text)):
        name = slug(heading)
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def blanked(pattern, text):
    """The text with every match replaced by blanks, so that line numbers stay."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)


def placeholder(path):
    """Whether a part of the path stands for many names."""
    parts = path.split("/")
    last = parts[-1].split(".")[0]
    return any(re.fullmatch(r"[A-Z][A-Z_0-9]*", part) for part in parts[:-1]) or \
        (re.fullmatch(r"[A-Z_]{3,}", last) and last not in ("README", "LOG", "CHANGELOG", "CONTRIBUTING", "SECURITY", "LICENSE")) or \
        any(mark in path for mark in "{}$<>…%")


class Checker:
    def __init__(self, files):
        self.files = set(files)
        self.folders = {""}
        for name in files:
            while name:
                name = os.path.dirname(name)
                self.folders.add(name)
        self.top = sorted({name.split("/")[0] for name in files if "/" in name} - {"build"})
        self.path = re.compile(r"(?<![\w./*{}$<>@~-])((?:%s)/[\w./*-]+\.(?:%s))(?![\w/*])" % ("|".join(map(re.escape, self.top)), ENDINGS))
        self.pages = {}
        self.linked = set()
        self.faults = []

    def exists(self, path):
        path = os.path.normpath(path) if path else ""
        path = "" if path == "." else path
        if "*" in path:
            return any(fnmatch.fnmatchcase(name, path) for name in self.files)
        return path in self.files or path in self.folders

    def anchors_of(self, path):
        if path not in self.pages:
            with open(path, encoding="utf-8", errors="replace") as file:
                self.pages[path] = anchors(file.read())
        return self.pages[path]

    def fault(self, name, text, at, says):
        self.faults.append(f"{name}:{text.count(chr(10), 0, at) + 1}: {says}")

    def check_link(self, name, text, at, target):
        if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("//"):
            return
        path, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        path = "" if path == "." else path
        self.linked.add(path)
        if not self.exists(path):
            self.fault(name, text, at, f"the link to {target} leads nowhere")
        elif anchor and path.endswith(".md") and anchor not in self.anchors_of(path):
            self.fault(name, text, at, f"{path} has no heading #{anchor}")

    def check_page(self, name, text):
        prose = blanked(CODE, blanked(FENCE, text))
        for pattern in (LINK, DEFINITION):
            for match in pattern.finditer(prose):
                self.check_link(name, text, match.start(), match.group(1))

    def check_names(self, name, text):
        folder = os.path.dirname(name)
        if name.endswith(".md"):
            text = blanked(LINK, text)
        for match in self.path.finditer(text):
            path = match.group(1)
            here = (path, os.path.join(folder, path), os.path.join("docs", path))
            if not placeholder(path) and not any(self.exists(where) for where in here):
                self.fault(name, text, match.start(), f"{path} is not there")
        for match in PAGE.finditer(text):
            page = match.group(1)
            if page in NOT_HERE or placeholder(page):
                continue
            if not any(self.exists(os.path.join(where, page)) for where in (folder, "docs", "")):
                self.fault(name, text, match.start(), f"no page {page} beside this file, in docs/ or in the top folder")

    def check_pictures(self):
        """After all pages."""
        for path in sorted(self.files - self.linked):
            if path.startswith("docs/") and path.endswith((".png", ".svg", ".gif")):
                self.faults.append(f"{path}: no page shows this picture")

    def check(self, name):
        with open(name, encoding="utf-8", errors="replace") as file:
            text = file.read()
        if name.endswith(".md"):
            self.check_page(name, text)
        self.check_names(name, text)


def readable(name):
    if name == "tests/house/test_links.py":  # full of names that lead nowhere
        return False
    return (name.endswith(TEXT) or os.path.basename(name) in TEXT_NAMES) and "/cases/" not in name and "/results/" not in name


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example:\n  tools/links.py README.md docs/models.md")
    parser.add_argument("files", nargs="*", metavar="FILE", help="files to check, from the top folder (default: all)")
    options = parser.parse_args(arguments)
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    files = repository_files()
    checker = Checker(files)
    for name in options.files:
        if name not in checker.files:
            parser.error(f"{name}: not a file of the repository")
    chosen = options.files or [name for name in files if readable(name)]
    for name in chosen:
        checker.check(name)
    if not options.files:
        checker.check_pictures()
    for line in checker.faults:
        print(line)
    if not checker.faults:
        print(f"links: ok ({len(chosen)} files)")
    return 1 if checker.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
