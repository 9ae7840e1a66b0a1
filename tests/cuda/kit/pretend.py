"""A kit of programs that only pretend, and runs of first_gpu.py with it."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SCRIPTS = os.path.join(REPOSITORY, "bench", "tools", "cuda")
sys.path.insert(0, SCRIPTS)
PATIENCE = 300  # seconds until what never comes is given up; judges no speed

SELFTEST = """
[ "$1" = --list ] && { printf 'rows\\nahead\\nmm\\nfailures\\n'; exit 0; }
check() { echo "FAIL: $1 is wrong"; echo "10 checks, 1 failed"; exit 1; }
"""
GREEN = 'echo "10 checks, 0 failed"\n'
KERNELS = """
echo '{"device":"none","overlap":"'"${FATHOM_CUDA_OVERLAP:-}"'","libraries":"'"$LD_LIBRARY_PATH"'",'
echo '"kernels":['
echo '{"kernel":"mm","rows":1,"us":10.0},'
echo '{"kernel":"mm","rows":8,"us":20.0}'
echo ']}'
"""
STEPS = """
[ -z "${FATHOM_CUDA_CLOCK:-}" ] || echo '{"kernels":[{"kernel":"begin","us":1.5}]}' >"$FATHOM_CUDA_CLOCK"
echo '{"context":1024,"steps":['
echo '{"rows":1,"graph_us":200.0,"tokens_per_s_all_loops":300}'
echo ']}'
"""
FATHOM = """
for last; do [ "${before:-}" = --out ] && out=$last; before=$last; done
case "$1 $2" in
"init --variant") mkdir -p "$out"; echo '{}' >"$out/config.json" ;;
"bench engine") echo '1 sequences, run 1 of 1, full exact: 12.5 tokens/s' >&2
    echo '{"runs":[{"mode":"full","policy":"exact","sequences":1,"tokens_per_s":12.5}]}' ;;
*) echo "no $1 here" >&2; exit 1 ;;
esac
"""
SANITIZER = 'echo "========= Invalid __global__ read of size 4 bytes"; echo "========= ERROR SUMMARY: 3 errors"; exit 9\n'


class PretendedRun(unittest.TestCase):
    """One folder with a kit, a PATH with pretended tools, and what a run left in it."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = holder.name
        self.out = self.path("out")
        for name, text in (("selftest", SELFTEST + GREEN), ("bench", KERNELS), ("step", STEPS)):
            self.program(f"kit/fathom-cuda-{name}", text)
        self.program("kit/fathom", FATHOM)
        self.program("bin/nvidia-smi", "echo 'Pretended GPU, 1.0'\n")

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def program(self, name, text):
        """A shell script; it notes that it was called, so that a test can tell the order."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(f'#!/bin/sh\necho "{name} $*" >>"{self.path("calls")}"\n{text}')
        os.chmod(path, 0o755)

    def command(self, *arguments):
        return [sys.executable, "-B", os.path.join(SCRIPTS, "first_gpu.py"), "--kit", self.path("kit"), "--out", self.out,
                "--work", self.path("work"), *arguments]

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if k != "FATHOM_CUDA_OVERLAP"}
        return dict(env, PATH=self.path("bin") + ":" + os.environ["PATH"], **more)

    def run_script(self, *arguments, status=0, **env):
        done = subprocess.run(self.command(*arguments), env=self.environment(**env), capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.printed = done.stdout
        return self.results()

    def results(self):
        with open(os.path.join(self.out, "results.json"), encoding="utf-8") as f:
            return json.load(f)

    def calls(self, program):
        with open(self.path("calls"), encoding="utf-8") as f:
            return [line.strip() for line in f if line.startswith(program)]
