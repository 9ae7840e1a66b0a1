"""What is left of a run, a step or a program that is cut off; and what is read out of its output."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from pretend import FATHOM, GREEN, PATIENCE, REPOSITORY, SELFTEST, PretendedRun
import gpu_report
import gpu_runner
import make_kit

HALF = """
echo '{"device":"none","kernels":['
echo '{"kernel":"mm","rows":1,"us":10.0},'
printf '{"kernel":"mm","ro'
"""


def alive(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return f.read().rsplit(")", 1)[1].split()[0] != "Z"


class Limits(PretendedRun):
    def start(self, *arguments):
        run = subprocess.Popen(self.command(*arguments), env=self.environment(), stdout=subprocess.PIPE, text=True)
        self.addCleanup(run.wait)
        self.addCleanup(run.kill)
        self.addCleanup(run.stdout.close)
        return run

    def await_file(self, path):
        for _ in range(PATIENCE * 50):
            if os.path.exists(path) and os.path.getsize(path):
                return
            time.sleep(0.02)
        self.fail(f"{path} never came")

    def run_cut(self, *arguments):
        """The results of a run whose budget ends while a program sleeps that has made the file `sleeps`. A busy machine spends a small
        budget on the probe, or before the program has printed; then the run has a larger one."""
        for budget in (2, 4, 8, 16, 32, 64):
            shutil.rmtree(self.out, ignore_errors=True)
            done = subprocess.run(self.command("--budget", str(budget), *arguments), env=self.environment(), capture_output=True, text=True,
                                  timeout=PATIENCE, check=False)
            if os.path.exists(self.path("sleeps")):
                self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
                return self.results()
        self.fail("the program never slept: " + done.stdout + done.stderr)

    def sleeps(self):
        """What a pretended program does last."""
        return f': >"{self.path("sleeps")}"; sleep 100\n'

    def assert_gone(self, pid):
        for _ in range(PATIENCE * 50):
            try:
                if not alive(pid):
                    return
            except (FileNotFoundError, ProcessLookupError):  # before it is opened, or before it is read
                return
            time.sleep(0.02)
        self.fail(f"process {pid} lives on")

    def test_results_are_valid_json_during_every_step(self):
        look = f'python3 -c "import json; print(len(json.load(open(\'{self.out}/results.json\'))[\'steps\']))" >>"{self.path("seen")}" 2>&1\n'
        self.program("kit/fathom-cuda-selftest", SELFTEST + look + GREEN)
        for name in ("bench", "step"):
            with open(self.path(f"kit/fathom-cuda-{name}"), encoding="utf-8") as f:
                text = f.read()
            self.program(f"kit/fathom-cuda-{name}", look + text)
        self.run_script("--only", "selftest,kernels,steps,clock")
        with open(self.path("seen"), encoding="utf-8") as f:
            seen = [int(n) for n in f.read().split()]
        self.assertEqual((seen[0], len(seen)), (1, 6))
        self.assertEqual(seen, sorted(seen))
        self.assertEqual(seen[3:], [5, 6, 7])  # making the model is kept as a step, too

    def test_a_step_cut_by_its_limit_keeps_its_lines(self):
        self.program("kit/fathom-cuda-bench", HALF + self.sleeps())
        results = self.run_cut("--only", "kernels,steps")
        kernels = results["steps"]["kernels"]
        self.assertEqual(kernels["result"], {"device": "none", "kernels": [{"kernel": "mm", "rows": 1, "us": 10.0}]})
        self.assertEqual((kernels["partial"], kernels["rc"]), (True, 124))
        self.assertIn("cut off after", kernels["failed"])
        self.assertEqual(results["steps"]["steps"], {"skipped": "no time left"})

    def test_a_benchmark_cut_by_its_limit_keeps_the_runs_it_told_of(self):
        self.program("kit/fathom", FATHOM.replace("tokens/s' >&2", "tokens/s' >&2; " + self.sleeps()))
        results = self.run_cut("--only", "engine")
        self.assertEqual(results["steps"]["engine"]["result"],
                         [{"sequences": 1, "mode": "full", "policy": "exact", "tokens_per_s": 12.5}])
        self.assertTrue(results["steps"]["engine"]["partial"])

    def test_a_killed_program_takes_its_children_with_it(self):
        self.program("kit/fathom-cuda-bench", f'sleep 100 & echo $! >"{self.path("child")}"; {self.sleeps()}')
        self.run_cut("--only", "kernels")
        with open(self.path("child"), encoding="utf-8") as f:
            self.assert_gone(int(f.read()))

    def test_a_run_killed_outright_leaves_valid_results(self):
        self.program("kit/fathom-cuda-step", f'echo $$ >"{self.path("step")}"; exec sleep 100\n')
        run = self.start("--only", "kernels,steps")
        self.await_file(self.path("step"))
        run.kill()
        run.wait()
        with open(self.path("step"), encoding="utf-8") as f:
            os.kill(int(f.read()), signal.SIGKILL)
        self.assertEqual(len(self.results()["steps"]["kernels"]["result"]["kernels"]), 2)

    def test_a_run_told_to_end_leaves_no_process_and_a_summary(self):
        self.program("kit/fathom", f'echo $$ >"{self.path("init")}"; exec sleep 100\n')
        self.program("kit/fathom-cuda-selftest", f'[ "$1" = --list ] && exit; echo $$ >"{self.path("group")}"; exec sleep 100\n')
        run = self.start("--only", "selftest,steps")
        for name in ("init", "group"):
            self.await_file(self.path(name))
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=PATIENCE)
        self.assertEqual(run.returncode, 128 + signal.SIGTERM)
        self.assertIn("ended early", said)
        self.assertIn("ended early", self.results()["ended"])
        for name in ("init", "group"):
            with open(self.path(name), encoding="utf-8") as f:
                self.assert_gone(int(f.read()))

    @unittest.skipUnless(os.path.exists(os.path.join(REPOSITORY, "build", "fathom")), "build/fathom is not built")
    def test_the_real_server_answers_over_http_and_ends(self):
        results = self.run_script("--only", "engine,http", "--device", "cpu", "--variant", "tiny", "--rows", "1,2",
                                  "--programs", os.path.join(REPOSITORY, "build"))
        self.assertEqual(results["steps"]["http"]["result"]["completed"], 8)
        self.assertEqual(len(results["steps"]["engine"]["result"]["runs"]), 10)


class Reading(unittest.TestCase):
    def test_json_cut_at_any_byte_gives_its_complete_lines(self):
        whole = '{"a":"x]{","list":[\n{"n":1,"s":"\\""},\n{"n":2}\n],\n"more":[\n{"m":[1,2]}\n]}\n'
        self.assertEqual(gpu_runner.read_json(whole), (json.loads(whole), True))
        for n in range(len(whole) - 1):
            value, complete = gpu_runner.read_json(whole[:n])
            self.assertEqual(complete, whole[:n].strip() == whole.strip())
            lines = whole[:n].count("\n")
            if not complete and lines >= 2:
                self.assertEqual(value["list"][0], {"n": 1, "s": '"'}, whole[:n])
            if not complete and lines >= 3:
                self.assertEqual(len(value["list"]), 2, whole[:n])

    def test_no_json_gives_nothing(self):
        self.assertEqual(gpu_runner.read_json("no device\n"), (None, False))

    def test_ncu_units_and_medians(self):
        text = ('==PROF== noise\n"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum"\n"","","us","byte"\n'
                '"0","mm(args)","1.5","1,000"\n"1","mm(args)","2.5","3,000"\n"2","begin(args)","1","0"\n')
        self.assertEqual(gpu_report.read_ncu(text), [{"kernel": "mm", "launches": 2, "us": 2.0, "dram_read_bytes": 2000.0},
                                                     {"kernel": "begin", "launches": 1, "us": 1.0, "dram_read_bytes": 0.0}])

    def test_depths_only_is_strict(self):
        self.assertTrue(gpu_report.only_depths("FAIL: ouro, 4 loops, threshold 0.5, whole: 1 depths differ, logits are off by 2e-06"))
        for line in ("FAIL: x: 1 of 34 logits too far off, 1 depths differ", "FAIL: x: 0 of 34 logits too far off, 9 depths differ",
                     "FAIL: ouro: 1 depths differ, logits are off by 0.2", "FAIL: ouro: 1 depths differ, logits are off by nan",
                     "FAIL: mm is wrong"):
            self.assertFalse(gpu_report.only_depths(line), line)

    def test_a_summary_has_sixty_lines_at_most(self):
        values = {"steps": {f"step{n}": {"rc": 0, "s": 1} for n in range(200)}, "ended": "all steps done"}
        with tempfile.TemporaryFile("w+") as f:
            with contextlib.redirect_stdout(f):
                gpu_report.print_summary(values)
            f.seek(0)
            lines = f.read().splitlines()
        self.assertEqual(len(lines), 60)
        self.assertIn("all steps done", lines[-1])

    def test_a_kit_that_cannot_be_used_is_refused(self):
        def faults(glibc, folder=1, archive=1):
            return list(make_kit.faults({"files": [{"path": "fathom", "symbols": {"GLIBC": glibc}}]}, folder, archive))
        self.assertEqual(faults("GLIBC_2.36"), [])
        self.assertIn("fathom needs GLIBC_2.38", faults("GLIBC_2.38")[0])
        self.assertIn("archive", faults("GLIBC_2.2.5", archive=(40 << 20) + 1)[0])
        self.assertIn("folder", faults("GLIBC_2.2.5", folder=64 << 20)[0])

    def test_libraries_of_the_system_and_of_cuda_are_not_taken(self):
        for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "libcublas.so.13", "libcublasLt.so.13", "libcuda.so.1"):
            self.assertTrue(make_kit.NOT_TAKEN.match(name), name)
        for name in ("libcurl.so.4", "libcom_err.so.2", "libmicrohttpd.so.12", "libuv.so.1", "libcrypto.so.3"):
            self.assertFalse(make_kit.NOT_TAKEN.match(name), name)
