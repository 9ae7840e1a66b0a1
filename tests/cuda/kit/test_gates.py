"""What lets a run go on, and what ends it."""

import os
import subprocess

from pretend import GREEN, KERNELS, SANITIZER, SELFTEST, PretendedRun

RED_MM = SELFTEST + '[ "$1" = mm ] && check mm\n' + GREEN


class Gates(PretendedRun):
    def test_all_steps_run_in_their_order(self):
        self.program("bin/ncu", 'echo \'"ID","Kernel Name","gpu__time_duration.sum"\'; echo \'"","","ns"\'; echo \'"0","mm<8>(args)","2,500"\'\n')
        results = self.run_script(status=1)  # for HTTP: the pretended program serves nothing
        order = [s for s in results["steps"] if not s.startswith(("selftest.", "init."))]
        self.assertEqual(order, ["probe", "kernels", "steps", "clock", "ncu.1", "ncu.32", "ncu.512", "engine", "published", "ouro.steps",
                                 "ouro.engine", "http", "sanitizers"])
        self.assertTrue(results["self_test_green"])
        self.assertEqual(results["machine"]["gpu"], "Pretended GPU, 1.0")
        self.assertEqual(results["steps"]["clock"]["clock"], {"kernels": [{"kernel": "begin", "us": 1.5}]})
        self.assertEqual(results["steps"]["ncu.32"]["result"], [{"kernel": "mm<8>", "launches": 1, "us": 2.5}])
        self.assertIn("no serve here", results["steps"]["http"]["failed"])
        self.assertNotIn("selftest.failures", results["steps"])
        self.assertLessEqual(len(self.printed.split("Pretended GPU")[1].splitlines()), 60)

    def test_a_red_group_ends_the_run_behind_memcheck(self):
        self.program("kit/fathom-cuda-selftest", RED_MM)
        self.program("bin/compute-sanitizer", SANITIZER)
        results = self.run_script(status=1)
        self.assertEqual(results["red"], ["mm"])
        self.assertFalse(results["self_test_green"])
        self.assertEqual(results["without_overlap"], {"mm": False})
        self.assertEqual(results["steps"]["selftest.mm"]["fails"], ["FAIL: mm is wrong"])
        memcheck = results["steps"]["memcheck.mm"]
        self.assertEqual((memcheck["clean"], memcheck["summary"]), (False, ["ERROR SUMMARY: 3 errors"]))
        self.assertNotIn("memcheck.rows", results["steps"])
        self.assertNotIn("kernels", results["steps"])
        self.assertEqual(results["ended"], "the self-test is red: mm")

    def test_a_first_group_that_is_red_leaves_the_others_out(self):
        self.program("kit/fathom-cuda-selftest", SELFTEST + '[ "$1" = rows ] && check rows\n' + GREEN)
        results = self.run_script(status=1)
        self.assertEqual(results["red"], ["rows"])
        self.assertNotIn("selftest.mm", results["steps"])

    def test_red_only_where_kernels_overlap_goes_on_without_overlap(self):
        self.program("kit/fathom-cuda-selftest", SELFTEST + '[ "$1" = mm ] && [ "${FATHOM_CUDA_OVERLAP:-1}" != 0 ] && check mm\n' + GREEN)
        results = self.run_script("--only", "selftest,kernels")
        self.assertFalse(results["overlap"])
        self.assertIn("mm", results["overlap_why"])
        self.assertTrue(results["self_test_green"])
        self.assertTrue(results["steps"]["selftest.mm"]["overlap"])
        self.assertFalse(results["steps"]["selftest.mm"]["green"])
        self.assertTrue(results["steps"]["selftest.mm.no_overlap"]["green"])
        self.assertEqual(results["steps"]["kernels"]["result"]["overlap"], "0")

    def test_red_with_overlap_already_off_is_not_tried_again(self):
        self.program("kit/fathom-cuda-selftest", RED_MM)
        results = self.run_script(status=1, FATHOM_CUDA_OVERLAP="0")
        self.assertFalse(results["overlap"])
        self.assertNotIn("selftest.mm.no_overlap", results["steps"])

    def test_depths_that_differ_alone_are_told_and_let_pass(self):
        line = "tests/golden/cases/mla exact f32 seed 0 rows 5: 0 of 34 logits too far off, 1 depths differ"
        self.program("kit/fathom-cuda-selftest", SELFTEST + f'[ "$1" = mm ] && {{ echo "FAIL: {line}"; echo "9 checks, 1 failed"; exit 1; }}\n' + GREEN)
        results = self.run_script("--only", "selftest")
        self.assertTrue(results["self_test_green"])
        self.assertTrue(results["steps"]["selftest.mm"]["depths_only"])
        self.assertEqual(results["steps"]["selftest.mm"]["fails"], ["FAIL: " + line])

    def test_what_ranks_could_not_show_here_is_told_and_stays_green(self):
        line = "skipped NCCL with one rank: libnccl.so.2 is not here"
        self.program("kit/fathom-cuda-selftest", SELFTEST + f'[ "$1" = mm ] && echo "ranks: {line}"\n' + GREEN)
        results = self.run_script("--only", "selftest")
        self.assertTrue(results["self_test_green"])
        self.assertEqual(results["steps"]["selftest.mm"]["told"], [line])
        self.assertNotIn("told", results["steps"]["selftest.rows"])

    def test_a_group_without_a_single_check_is_red(self):
        self.program("kit/fathom-cuda-selftest", SELFTEST + '[ "$1" = mm ] && { echo "0 checks, 0 failed"; exit 0; }\n' + GREEN)
        self.assertEqual(self.run_script(status=1)["red"], ["mm"])

    def test_no_device_ends_the_run_at_once(self):
        self.program("kit/fathom-cuda-selftest", '[ "$1" = --list ] || echo "skipped: no CUDA device"\n')
        self.program("bin/compute-sanitizer", SANITIZER)
        results = self.run_script(status=1)
        self.assertIn("cannot run: skipped: no CUDA device", results["ended"])
        self.assertFalse(any(s.startswith("memcheck") or s.endswith("no_overlap") for s in results["steps"]))

    def test_a_step_that_fails_is_kept_and_the_next_runs(self):
        self.program("kit/fathom-cuda-bench", "echo 'out of luck' >&2; exit 3\n")
        results = self.run_script("--only", "kernels,steps", status=1)
        self.assertEqual((results["steps"]["kernels"]["rc"], results["steps"]["kernels"]["failed"]), (3, "out of luck"))
        self.assertEqual(results["steps"]["steps"]["result"]["steps"][0]["graph_us"], 200)

    def test_only_runs_only_that(self):
        results = self.run_script("--only", "kernels")
        self.assertEqual(list(results["steps"]), ["probe", "kernels"])
        self.assertEqual(self.calls("kit/fathom-cuda-selftest") + self.calls("kit/fathom "), [])

    def test_sanitizers_say_which_group_is_clean(self):
        self.program("bin/compute-sanitizer", 'tool=$2; shift 4; "$@"; [ $tool = memcheck ] || exit 0\n'
                     '[ "$2" = mm ] || { echo "========= ERROR SUMMARY: 0 errors"; exit 0; }\n' + SANITIZER)
        steps = self.run_script("--only", "sanitizers", status=1)["steps"]
        self.assertEqual([s for s in sorted(steps) if s != "probe"], ["memcheck.mm", "synccheck.ahead", "synccheck.mm", "synccheck.rows"])
        self.assertEqual([steps[s]["clean"] for s in ("memcheck.mm", "synccheck.mm")], [False, True])
        self.assertEqual(steps["memcheck.mm"]["reports"], ["========= Invalid __global__ read of size 4 bytes"])

    def test_a_kit_that_lost_its_modes_runs(self):
        os.chmod(self.path("kit/fathom-cuda-bench"), 0o644)
        self.assertEqual(self.run_script("--only", "kernels")["steps"]["kernels"]["rc"], 0)

    def test_an_unknown_step_is_refused(self):
        done = subprocess.run(self.command("--only", "kernel"), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no step 'kernel'; there are probe, selftest", done.stderr)

    def test_an_unknown_group_leaves_the_gate_shut(self):
        self.assertIn("no group of nothing", self.run_script("--groups", "nothing", status=1)["ended"])

    def test_a_baseline_runs_in_turn_and_is_compared(self):
        self.program("old/fathom-cuda-bench", KERNELS.replace("10.0", "40.0"))
        results = self.run_script("--only", "kernels", "--baseline", self.path("old"))
        self.assertEqual([s for s in results["steps"] if s != "probe"],
                         ["kernels.change.1", "kernels.baseline.1", "kernels.baseline.2", "kernels.change.2"])
        self.assertEqual(results["comparison"]["kernels"][0],
                         {"kernel": "mm", "rows": 1, "time": "us", "change": 10, "baseline": 40, "ratio": 0.25})

    def test_what_is_in_the_library_path_stays(self):
        results = self.run_script("--only", "kernels", LD_LIBRARY_PATH="/where/the/driver/is")
        self.assertTrue(results["steps"]["kernels"]["result"]["libraries"].endswith("/where/the/driver/is"))

    def test_dry_says_what_it_would_run(self):
        self.program("kit/fathom-cuda-bench", "echo 'fathom-cuda-bench: no CUDA device' >&2; exit 2\n")
        results = self.run_script("--dry", status=1)  # for HTTP, which needs no device and has no server here
        kernels = results["steps"]["kernels"]
        self.assertTrue(kernels["would_run"].endswith("fathom-cuda-bench mythos_1b 1024"))
        self.assertEqual((kernels["said"], kernels["limit_s"]), ("fathom-cuda-bench: no CUDA device", 45))
        self.assertIn("--device cpu", results["steps"]["engine"]["ran_instead"])
