#!/usr/bin/env python3
"""Gathers the kit for a bare GPU machine: programs, the libraries they need, data, MANIFEST.json.

    bench/tools/cuda/make_kit.py --objects build/gpu-kit-objects --kit build/gpu-kit --archive build/fathom-gpu-kit.tar.gz

Run by `make gpu-kit`, which builds the programs first. Ends with status 1 where a program needs a newer C library
than the GPU machine is sure to have, or where the kit is too large to be carried. Needs binutils."""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
PROGRAMS = ("fathom", "fathom-cuda.so", "fathom-cuda-selftest", "fathom-cuda-bench", "fathom-cuda-step")
SCRIPTS = ("bench/tools/cuda/first_gpu.py", "bench/tools/cuda/gpu_machine.py", "bench/tools/cuda/gpu_report.py", "bench/tools/cuda/gpu_runner.py",
           "bench/tools/cuda/published.py", "tools/compare_openmythos.py")
DATA = ("tests/golden/cases", "tests/golden/families", "models/demo")  # what the self-test reads, by these paths

# These belong to the system or to CUDA: a copy of another machine's would break what loads it.
NOT_TAKEN = re.compile(r"^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+|cuda|cublas|cublasLt|nvidia)[.-])")
NEWEST_GLIBC = (2, 36)
MOST_ARCHIVE, MOST_FOLDER = 40 << 20, 64 << 20


class Refused(Exception):
    """The kit would be of no use; the message says why."""


def run(*command):
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


# ---- what goes in ----

def copy(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)


def copy_programs(objects, kit):
    for name in PROGRAMS:
        source = os.path.join(objects, name)
        if not os.path.isfile(source):
            raise Refused(f"{source} is not built")
        copy(source, os.path.join(kit, name))
        run("strip", "--strip-unneeded", os.path.join(os.path.abspath(kit), name))


def copy_libraries(objects, kit):
    """All that the programs load here, and what that loads, but for the system's own."""
    for name in PROGRAMS:
        for line in run("ldd", os.path.join(os.path.abspath(objects), name)).splitlines():
            found = re.match(r"\s*(\S+) => (/\S+) \(", line)
            if found and not NOT_TAKEN.match(found[1]):
                copy(os.path.realpath(found[2]), os.path.join(kit, "lib", found[1]))


def copy_data(kit, openmythos):
    for path in SCRIPTS:
        copy(os.path.join(REPOSITORY, path), os.path.join(kit, os.path.basename(path)))
    for path in DATA:
        for folder, _, names in os.walk(os.path.join(REPOSITORY, path)):
            for name in names:
                source = os.path.join(folder, name)
                copy(source, os.path.join(kit, os.path.relpath(source, REPOSITORY)))
    if openmythos:
        source = os.path.join(openmythos, "open_mythos", "main.py")
        if not os.path.isfile(source):
            raise Refused(f"no open_mythos/main.py under {openmythos}")
        copy(source, os.path.join(kit, "OpenMythos", "open_mythos", "main.py"))


# ---- what it needs ----

def version(text):
    return tuple(int(n) for n in text.split("_")[1].split("."))


def needs(path):
    """Libraries by name, and the highest version of each kind of symbol."""
    text = run("objdump", "-p", os.path.abspath(path))
    highest = {}
    for symbol in re.findall(r"\b((?:GLIBC|GLIBCXX|CXXABI)_[0-9.]+)\b", text):
        kind = symbol.split("_")[0]
        if kind not in highest or version(symbol) > version(highest[kind]):
            highest[kind] = symbol
    return re.findall(r"^\s*NEEDED\s+(\S+)", text, re.M), highest


def is_elf(path):
    with open(path, "rb") as f:
        return f.read(4) == b"\x7fELF"


def all_files(kit):
    for folder, _, names in os.walk(kit):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), kit)


def describe(kit, path):
    full = os.path.join(kit, path)
    with open(full, "rb") as f:
        entry = {"path": path, "bytes": os.path.getsize(full), "sha256": hashlib.sha256(f.read()).hexdigest()}
    if is_elf(full):
        entry["needs"], entry["symbols"] = needs(full)
    return entry


def write_manifest(kit, targets):
    commit = run("git", "rev-parse", "HEAD").strip()
    changed = bool(run("git", "status", "--porcelain", "--untracked-files=no").strip())
    manifest = {"commit": commit, "changed_since": changed, "targets": targets.split(),
                "files": [describe(kit, path) for path in sorted(all_files(kit))]}
    with open(os.path.join(kit, "MANIFEST.json"), "w", encoding="utf-8") as f:
        json.dump(manifest, f, indent=1)
    return manifest


def write_archive(kit, archive, seconds):
    """The same files give the same bytes."""
    def plain(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = seconds
        return entry

    with open(archive, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(all_files(kit)):
            tar.add(os.path.join(kit, path), f"gpu-kit/{path}", filter=plain)


# ---- what is said of it ----

def show(manifest, folder_bytes, archive, archive_bytes):
    print(f"{'program':22} {'MB':>6}  symbols, needed libraries")
    for entry in manifest["files"]:
        if entry["path"] in PROGRAMS:
            needed = [n for n in entry["needs"] if not n.startswith("ld-linux")]
            print(f"{entry['path']:22} {entry['bytes'] / 1e6:6.2f}  {' '.join(entry['symbols'].values())}: {' '.join(needed)}")
    libraries = [e for e in manifest["files"] if e["path"].startswith("lib/")]
    highest = max((e["symbols"].get("GLIBC", "GLIBC_0") for e in libraries), key=version, default="GLIBC_0")
    print(f"{f'lib/ ({len(libraries)} libraries)':22} {sum(e['bytes'] for e in libraries) / 1e6:6.2f}  {highest}")
    print(f"{'the folder':22} {folder_bytes / 1e6:6.2f}  {len(manifest['files']) + 1} files, targets {' '.join(manifest['targets'])}, "
          f"commit {manifest['commit'][:7]}{' and changes' if manifest['changed_since'] else ''}")
    print(f"{'the archive':22} {archive_bytes / 1e6:6.2f}  {archive}")


def faults(manifest, folder_bytes, archive_bytes):
    for entry in manifest["files"]:
        glibc = entry.get("symbols", {}).get("GLIBC")
        if glibc and version(glibc) > NEWEST_GLIBC:
            yield f"{entry['path']} needs {glibc}; the kit may need GLIBC_{NEWEST_GLIBC[0]}.{NEWEST_GLIBC[1]} at most: build it on an older system"
    if archive_bytes > MOST_ARCHIVE:
        yield f"the archive has {archive_bytes} bytes; at most {MOST_ARCHIVE} can be carried"
    if folder_bytes >= MOST_FOLDER:
        yield f"the folder has {folder_bytes} bytes; less than {MOST_FOLDER} can be carried"


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--objects", required=True, metavar="DIR", help="where the programs were built")
    p.add_argument("--kit", required=True, metavar="DIR", help="folder to write; what is in it goes first")
    p.add_argument("--archive", required=True, metavar="FILE")
    p.add_argument("--targets", default="90a", help="what the programs were built for")
    p.add_argument("--openmythos", metavar="PATH", help="a checkout whose published main.py is taken along")
    args = p.parse_args()
    try:
        shutil.rmtree(args.kit, ignore_errors=True)
        copy_programs(args.objects, args.kit)
        copy_libraries(args.objects, args.kit)
        copy_data(args.kit, args.openmythos)
        manifest = write_manifest(args.kit, args.targets)
        write_archive(args.kit, args.archive, int(run("git", "log", "-1", "--format=%ct")))
    except (Refused, OSError) as why:
        sys.exit(f"gpu-kit: {why}")
    folder_bytes = sum(os.path.getsize(os.path.join(args.kit, path)) for path in all_files(args.kit))
    archive_bytes = os.path.getsize(args.archive)
    show(manifest, folder_bytes, args.archive, archive_bytes)
    found = list(faults(manifest, folder_bytes, archive_bytes))
    sys.exit("\n".join(f"gpu-kit: {fault}" for fault in found) if found else 0)


if __name__ == "__main__":
    main()
