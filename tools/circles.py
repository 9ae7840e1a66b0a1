#!/usr/bin/env python3
"""Fails if C files call each other in a circle.

Reads the symbols of every object (nm): file A calls file B if A leaves a symbol undefined that B
defines. A circle is a set of files each of which reaches all the others.
"""
import argparse
import os
import subprocess
import sys


def symbols(path):
    """Defined and undefined names of one object."""
    defined, undefined = set(), set()
    for line in subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.splitlines():
        kind, name = line.split()[-2:]
        if kind == "U":
            undefined.add(name)
        elif kind.isupper():
            defined.add(name)
    return defined, undefined


def calls_between(paths):
    """{file: {files it calls}}"""
    objects = {os.path.basename(path)[:-2] + ".c": symbols(path) for path in paths}
    home = {name: file for file, (defined, _) in objects.items() for name in defined}
    return {file: {home[name] for name in undefined if name in home} - {file} for file, (_, undefined) in objects.items()}


def components(calls):
    """Tarjan's strongly connected components, each before its callers."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(file):
        index[file] = low[file] = len(index)
        stack.append(file)
        on_stack.add(file)
        for other in sorted(calls[file]):
            if other not in index:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in on_stack:
                low[file] = min(low[file], index[other])
        if low[file] == index[file]:
            group = set()
            while file not in group:
                group.add(stack.pop())
            on_stack.difference_update(group)
            found.append(group)

    for file in sorted(calls):
        if file not in index:
            visit(file)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Example:\n  tools/circles.py -v build/release/scheduler/*.o")
    parser.add_argument("objects", nargs="+", metavar="OBJECT", help="object files, of one folder")
    parser.add_argument("-v", action="store_true", help="print the calls, callers before the files they call")
    options = parser.parse_args()
    calls = calls_between(options.objects)
    groups = components(calls)
    if options.v:
        for file in [file for group in reversed(groups) for file in sorted(group)]:
            print(f"{file:18} {' '.join(sorted(calls[file]))}")
    circles = [group for group in groups if len(group) > 1]
    for group in circles:
        for file in sorted(group):
            print(f"{file}: calls {' '.join(sorted(calls[file] & group))}, which lead back to it")
    print(f"circles: {len(calls)} files, {sum(map(len, calls.values()))} calls between files, {len(circles)} circles")
    return bool(circles)


if __name__ == "__main__":
    sys.exit(main())
