#!/usr/bin/env python3
"""Everything that needs a GPU, unattended: proves or disproves the engine within minutes, gate by gate.

Needs the kit that `make gpu-kit` makes, Python 3.9 and a driver; no compiler, headers, curl, git or network. Writes
results.json, anew after every step, and log.txt. A red self-test ends the run, so that device time is left for a
second try. Exit status: 0 if the self-test was green and no step failed, 1 if not, 2 for wrong use."""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request

import gpu_report as report
from gpu_machine import STATE, Machine, Programs, free_gb, python_with_torch
from gpu_runner import Results, Runner, read_json

HERE = os.path.dirname(os.path.abspath(__file__))
EPILOG = """steps, in this order (the limit of each in seconds):
{steps}

examples:
  python3 first_gpu.py --out results                                  everything, in one call
  python3 first_gpu.py --out results --only steps,ncu                 a second run, without the gate
  python3 first_gpu.py --out results --only steps --baseline ../old-kit
                                                    change and baseline in turn, compared
  python3 first_gpu.py --out results --dry                            what can be tried without a device"""

MOST_GROUPS = 6                 # of the self-test at once; the GPU is shared in time
SHIM_ONLY = ("failures",)       # faults that only the shim can cause
PROFILED = ("1", "32", "512")
NCU_LAUNCHES = "44"             # two steps and more
SANITIZED = {"memcheck": ["attention", "flash", "mm", "moe"], "racecheck": ["attention", "flash", "sample"],
             "synccheck": ["rows", "ahead", "mm"]}
# A run begins when every sequence has its first token, so the first round has too few prompts: of one round alone
# full and lockstep, whose sequences stay together, would look a third too fast.
ENGINE_ROUNDS = "4"
MODELS_GB = 10                  # mythos_1b in float32, ouro_1.4b in bfloat16, and some room
OURO, OURO_CONTEXT, OURO_ROWS = "ouro_1.4b", "256", "1,32,128"  # 128 rows keep 768 KB for each position


class Red(Exception):
    """A gate that stays shut; the message says which."""


class FirstRun:
    STEPS = {  # name: limit in seconds
        "probe": 15, "selftest": 180, "kernels": 45, "steps": 60, "clock": 45, "ncu": 120, "engine": 70, "published": 110,
        "ouro": 80, "http": 60, "sanitizers": 240}

    def __init__(self, args):
        self.args = args
        self.device = "cpu" if args.dry else args.device
        self.rows = args.rows.split(",")
        self.overlap = os.environ.get("FATHOM_CUDA_OVERLAP") != "0"
        self.inits = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.tiny = os.path.join(args.work, "tiny")
        self.model = args.model or os.path.join(args.work, args.variant)
        os.makedirs(args.work, exist_ok=True)
        os.makedirs(args.out, exist_ok=True)
        self.results = Results(args.out)
        self.runner = Runner(args.out, args.kit, args.budget)
        self.programs = Programs(args.programs.split(":") if args.programs else [args.kit])
        self.baseline = Programs([args.baseline]) if args.baseline else None
        self.machine = Machine(self.runner, self.programs)

    # ---- running and keeping ----

    def env(self, fathom=False, **more):
        env = self.machine.fathom_env() if fathom else dict(self.machine.env)
        if not self.overlap:
            env["FATHOM_CUDA_OVERLAP"] = "0"
        return dict(env, **more)

    def keep(self, name, entry):
        self.results.put_step(name, entry)
        print(report.step_line(name, entry), flush=True)
        return entry

    def skip(self, name, why):
        return self.keep(name, {"skipped": why})

    def run(self, name, limit, command, env, parse=None, instead=None, more=None):
        """Runs one program and keeps what it said. A dry run starts `instead`, which needs no device, or the
        program itself, which then says that there is none. `more` adds to the entry."""
        dry = self.args.dry
        ended = self.runner.run(name, min(limit, 20) if dry else limit, (instead or command) if dry else command, env)
        entry = ended.entry()
        if parse:
            self.parse(entry, ended, parse)
        if dry:
            entry["would_run"], entry["limit_s"] = " ".join(command), limit
            if instead:
                entry["ran_instead"] = " ".join(instead)
            elif "result" not in entry:  # it is no failure that there is no device
                entry["said"] = entry.pop("failed", "") or ended.out.strip()[-200:]
        if more:
            more(entry)
        return self.keep(name, entry)

    @staticmethod
    def parse(entry, ended, parse):
        try:
            value, whole = parse(ended)
        except (ValueError, KeyError, IndexError) as why:
            value, whole = None, False
            entry.setdefault("failed", f"its output was not understood: {why!r}")
        if value is not None:
            entry["result"] = value
            entry["partial"] = not whole
        elif not ended.rc:
            entry.setdefault("failed", "it printed no result")

    @staticmethod
    def json_of(ended):
        return read_json(ended.out) if ended.out.strip() else (None, False)

    def keep_gpu_state(self, name):
        """Clocks and power behind a timed step: whether the device was held back."""
        if not self.args.dry and self.device == "cuda":
            self.results.values.setdefault("gpu_after", {})[name] = self.machine.ask_gpu(STATE)

    # ---- models of random weights, made in the background ----

    def init_command(self, variant, folder):
        tail = [] if variant.startswith("ouro") else ["--dtype", "float32", "--mean-depth", "4" if "tiny" in variant else "6"]
        return [self.programs.find("fathom"), "init", "--variant", variant, "--out", folder, *tail]

    def begin_init(self, variant, folder):
        if self.args.model == folder or folder in self.inits or os.path.exists(os.path.join(folder, "config.json")):
            return
        for left in (folder, folder + ".part"):  # by a run that was cut off
            shutil.rmtree(left, ignore_errors=True)
        self.inits[folder] = self.pool.submit(self.runner.run, f"init.{variant}", 120, self.init_command(variant, folder + ".part"),
                                              self.env(fathom=True))

    def await_init(self, folder):
        init = self.inits.pop(folder, None)
        if init:
            ended = init.result()
            if not ended.rc:
                os.replace(folder + ".part", folder)
            self.keep(f"init.{os.path.basename(folder)}", ended.entry())
        return os.path.exists(os.path.join(folder, "config.json"))

    def begin_inits(self, steps):
        if self.args.dry:
            self.begin_init("tiny", self.tiny)
            return
        if {"steps", "clock", "ncu", "engine", "published", "http"} & set(steps):
            self.begin_init(self.args.variant, self.model)
        if "ouro" in steps:
            self.begin_init(self.args.ouro, os.path.join(self.args.work, self.args.ouro))

    def has_model(self, step, folder=None):
        """Waits for the model; a step without one is kept as skipped."""
        folder = self.tiny if self.args.dry else folder or self.model
        if self.await_init(folder):
            return True
        self.skip(step, f"there is no model in {folder}")
        return False

    # ---- the gate ----

    def groups(self):
        said = self.runner.run("groups", 10, [self.programs.find("fathom-cuda-selftest"), "--list"], self.env())
        known = [g for g in said.out.split() if g not in SHIM_ONLY]
        wanted = self.args.groups.split(",") if self.args.groups else known
        if not known:  # asked for a group, the program says why it has none
            return wanted or ["rows"]
        return [g for g in known if g in wanted]

    def check(self, names, prefix, limit, jobs, read=report.read_selftest, wrap=(), suffix=""):
        """Runs groups of the self-test, all within the limit; their entries by name."""
        until = time.monotonic() + limit
        env = self.env(FATHOM_CUDA_OVERLAP="0") if suffix else self.env()

        def one(group):
            command = [*wrap, self.programs.find("fathom-cuda-selftest"), group]
            entry = read(self.runner.run(f"{prefix}.{group}{suffix}", until - time.monotonic(), command, env))
            entry["overlap"] = self.overlap and not suffix
            return self.keep(f"{prefix}.{group}{suffix}", entry)
        return dict(zip(names, self.runner.run_all(jobs, [lambda g=g: one(g) for g in names])))

    def run_selftest(self):
        if self.args.dry:
            self.run("selftest", 180, [self.programs.find("fathom-cuda-selftest"), "rows"], self.env())
            return
        groups = self.groups()
        if not groups:
            self.shut_gate([], f"the self-test has no group of {self.args.groups}", sanitize=False)
        for names, limit, jobs in ((groups[:1], 60, 1), (groups[1:], 120, MOST_GROUPS)):
            entries = self.check(names, "selftest", limit, jobs)
            red = [g for g in names if not entries[g]["green"]]
            unable = [g for g in red if report.cannot_run(entries[g])]
            if unable:
                self.shut_gate(red, f"the self-test cannot run: {entries[unable[0]]['failed'][:200]}", sanitize=False)
            if red and not self.green_without_overlap(red, jobs):
                self.shut_gate(red, f"the self-test is red: {' '.join(red)}")
        self.results.put("self_test_green", True)

    def green_without_overlap(self, red, jobs):
        """Whether the groups turn green where no kernel starts before the one ahead of it has ended. Then the run
        goes on in that way."""
        if not self.overlap:
            return False
        entries = self.check(red, "selftest", 60, jobs, suffix=".no_overlap")
        green = all(entry["green"] for entry in entries.values())
        self.results.put("without_overlap", {g: entry["green"] for g, entry in entries.items()})
        if green:
            self.overlap = False
            self.results.values["overlap_why"] = f"red with overlapping kernels, green without: {' '.join(red)}"
            self.results.put("overlap", False)
        return green

    def shut_gate(self, red, why, sanitize=True):
        self.results.values["red"] = red
        self.results.put("self_test_green", False)
        if sanitize and self.machine.tools["compute-sanitizer"]:
            self.sanitize("memcheck", red[:4], 4, 90)
        raise Red(why)

    def sanitize(self, kind, names, jobs, limit):
        wrap = [self.machine.tools["compute-sanitizer"], "--tool", kind, "--error-exitcode", "9"]
        return self.check(names, kind, limit, jobs, report.read_sanitizer, wrap)

    # ---- what is timed ----

    def run_in_turn(self, name, limit, arguments, program):
        """The program of the kit, or with --baseline that and the other's, twice each in turn."""
        if self.baseline is None:
            self.run(name, limit, [self.programs.find(program), *arguments], self.env(), self.json_of)
        else:
            found = {"change": [], "baseline": []}
            for i, side in enumerate(("change", "baseline", "baseline", "change")):
                of = self.programs if side == "change" else self.baseline
                entry = self.run(f"{name}.{side}.{1 + i // 2}", limit, [of.find(program), *arguments], self.env(), self.json_of)
                found[side] += [entry["result"]] if "result" in entry else []
            self.results.values.setdefault("comparison", {})[name] = report.compare(found["change"], found["baseline"])
        self.keep_gpu_state(name)

    def run_kernels(self):
        """On the folder of weights if there is one: of a variant, the program would first make one."""
        model = self.model if self.await_init(self.model) else self.args.variant
        self.run_in_turn("kernels", self.STEPS["kernels"], [model, self.args.context], "fathom-cuda-bench")

    def run_steps(self):
        if self.has_model("steps"):
            self.run_in_turn("steps", self.STEPS["steps"], [self.model, self.args.context, self.args.rows], "fathom-cuda-step")

    def profiled(self):
        return [r for r in PROFILED if r in self.rows] or self.rows[:1]

    def run_clock(self):
        """The engine's own clock in its kernels; it writes a file when it closes."""
        if not self.has_model("clock"):
            return
        file = os.path.join(self.args.work, "clock.json")
        if os.path.exists(file):
            os.unlink(file)
        command = [self.programs.find("fathom-cuda-step"), self.model, self.args.context, ",".join(self.profiled())]

        def add_clock(entry):
            entry["clock"], _ = self.read_file(file)
            if entry["clock"] is None and not self.args.dry:
                entry.setdefault("failed", "the engine left no clock file")
        self.run("clock", self.STEPS["clock"], command, self.env(FATHOM_CUDA_CLOCK=file), self.json_of, more=add_clock)

    def run_ncu(self):
        """The first kernels behind the program's cudaProfilerStart: of a warm step, launched one by one."""
        ncu = self.machine.tools["ncu"]
        if ncu is None:
            self.skip("ncu", "ncu is not here")
            return
        if not self.has_model("ncu"):
            return

        def accept(entry):  # it ends the program early, whose status then says nothing
            if entry.get("result"):
                entry.pop("failed", None)
        for rows in self.profiled():
            command = [ncu, "--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base", "--profile-from-start", "off",
                       "--launch-count", NCU_LAUNCHES, "--kill", "on", "--metrics", ",".join(report.NCU_METRICS.values()),
                       self.programs.find("fathom-cuda-step"), self.model, self.args.context, rows]
            self.run(f"ncu.{rows}", self.STEPS["ncu"] // 3, command, self.env(), lambda ended: (report.read_ncu(ended.out), True), more=accept)

    def shown_device(self):
        """A dry run tells the command that a device would get."""
        return "cuda" if self.args.dry else self.device

    def engine_command(self, model, device, sequences, *more):
        return [self.programs.find("fathom"), "bench", "engine", "--model", model, "--device", device, "--max-concurrency", sequences,
                "--input-len", "64", "--output-len", "16", "--repeat", "1", "--rounds", ENGINE_ROUNDS, "--json", *more]

    def run_engine_bench(self, name, limit, model, sequences, *more):
        def parse(ended):
            value, whole = self.json_of(ended)
            for one in (value or {}).get("runs", []):
                one.pop("pool", None)  # a thousand pairs each, of no use here
            return (value, whole) if value is not None else (report.read_engine_progress(ended.err) or None, False)
        self.run(name, limit, self.engine_command(model, self.shown_device(), sequences, *more), self.env(fathom=True), parse,
                 instead=self.engine_command(self.tiny, "cpu", "1,2"))
        self.keep_gpu_state(name)

    def run_engine(self):
        if self.has_model("engine"):
            self.run_engine_bench("engine", self.STEPS["engine"], self.model, self.args.rows)

    def run_published(self):
        """The published PyTorch code on the same weights; its environment is the machine's own."""
        if not self.has_model("published"):
            return
        openmythos = self.args.openmythos or os.path.join(self.args.kit, "OpenMythos")
        python = python_with_torch(self.runner)
        if not os.path.exists(openmythos) or python is None:
            self.skip("published", "no Python here has torch" if python is None else "the kit was made without OPENMYTHOS=PATH")
            return

        def command(model, device, *more):
            return [python, os.path.join(HERE, "published.py"), "--openmythos", openmythos, "--model", model, "--device", device, *more]
        entry = self.run("published", self.STEPS["published"], command(self.model, self.shown_device()), dict(os.environ), self.json_of,
                         instead=command(self.tiny, "cpu", "--sequences", "1,2", "--prompt-tokens", "8", "--output-tokens", "4"))
        if "tokens" in entry.get("result", {}):
            self.compare_tokens(entry["result"])

    def compare_tokens(self, published):
        """Greedy tokens of the published code and of the engine in float32: the same, but for ties."""
        command = [self.programs.find("fathom"), "generate", "--model", self.tiny if self.args.dry else self.model,
                   "--device", self.device, *(["--kernels", "f32"] if self.device == "cuda" else []), "--kv-dtype", "f32",
                   "--halted-kv", "exact", "--max-loops", str(published["loops"]), "--ids", " ".join(map(str, published["prompt"])),
                   "--max-tokens", str(len(published["tokens"])), "--ignore-eos", "--json"]

        def judge(entry):
            entry["equal"] = entry.get("result", {}).get("ids") == published["tokens"]
        self.run("published.tokens", 40, command, self.env(fathom=True), self.json_of, more=judge)

    def run_ouro(self):
        model = os.path.join(self.args.work, self.args.ouro)
        if not self.has_model("ouro", model):
            return
        self.run("ouro.steps", 40, [self.programs.find("fathom-cuda-step"), model, OURO_CONTEXT, self.args.ouro_rows], self.env(), self.json_of)
        self.run_engine_bench("ouro.engine", 40, model, self.args.ouro_rows, "--modes", "full,depthwise")

    # ---- HTTP from end to end ----

    def run_http(self):
        if not self.has_model("http"):
            return
        small = self.args.dry or self.device == "cpu"
        model = self.tiny if self.args.dry else self.model
        serve = [self.programs.find("fathom"), "serve", "--model", model, "--device", self.device, "--port", "0",
                 "--max-running", "512", "--log-level", "info"]
        file = os.path.join(self.args.work, "http.json")
        try:
            server = self.runner.start("http.serve", serve, self.env(fathom=True))
        except OSError as why:
            self.keep("http", {"rc": 127, "failed": str(why)})
            return
        began = time.monotonic()
        url = self.await_ready(server, self.STEPS["http"] / 2)
        took = time.monotonic() - began
        if url:
            bench = [self.programs.find("fathom"), "bench", "--disable-tqdm", "--url", url,
                     "--num-prompts", "8" if small else "256", "--input-len", "16" if small else "128",
                     "--output-len", "8" if small else "64", "--ignore-eos", "--max-concurrency", "4" if small else "128",
                     "--save-result", "--result-dir", self.args.work, "--result-filename", os.path.basename(file)]
            self.run("http", self.STEPS["http"] - took, bench, self.env(fathom=True), lambda ended: self.read_file(file),
                     more=lambda entry: entry.update(ready_s=round(took, 1)))
        ended = server.stop()
        if not url:
            self.keep("http", {"rc": ended.rc, "s": ended.seconds, "failed": f"the server was not ready: {ended.err[-400:]}"})

    @staticmethod
    def read_file(path):
        if not os.path.exists(path):
            return None, False
        with open(path, encoding="utf-8") as f:
            return read_json(f.read())

    def await_ready(self, server, limit):
        """Waits for a server on a port of the system's choice; its URL, or None."""
        limit = time.monotonic() + min(limit, self.runner.left())
        while time.monotonic() < limit and server.running():
            listens = re.search(r"listening on (http://[^\s,]+)", server.said())
            try:
                if listens:
                    with urllib.request.urlopen(f"{listens[1]}/ready", timeout=2) as reply:
                        if reply.status == 200:
                            return listens[1]
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        return None

    # ---- last: nothing is timed any more ----

    def run_sanitizers(self):
        tool = self.machine.tools["compute-sanitizer"]
        if tool is None or self.args.dry:
            self.skip("sanitizers", f"would run {SANITIZED}" if tool else "compute-sanitizer is not here")
            return
        known = self.groups()
        self.runner.run_all(len(SANITIZED), [lambda k=k, g=g: self.sanitize(k, [n for n in g if n in known], len(g), self.STEPS["sanitizers"]) for k, g in SANITIZED.items()])

    # ---- all of it ----

    def run_probe(self):
        began = time.monotonic()
        manifest = os.path.join(self.args.kit, "MANIFEST.json")
        if os.path.exists(manifest):
            with open(manifest, encoding="utf-8") as f:
                made = json.load(f)
            self.results.values["kit"] = {k: made[k] for k in ("commit", "changed_since", "targets")}
        self.results.values["overlap"] = self.overlap
        self.results.put("machine", self.machine.describe())
        self.keep("probe", {"rc": 0, "s": round(time.monotonic() - began, 1)})

    def go(self, steps):
        """Every step in its order. One that fails is kept as such and the rest go on, but for the gate."""
        try:
            self.run_probe()
            self.begin_inits(steps)
            for step in steps:
                if step == "probe":
                    continue
                if self.runner.left() < 1:
                    self.skip(step, "no time left")
                    continue
                getattr(self, f"run_{step}")()
            ended = "all steps done"
        except Red as why:
            ended = str(why)
        except BaseException as why:
            self.finish(f"ended early: {why!r}")
            raise
        self.finish(ended)

    def finish(self, ended):
        self.runner.close()
        self.results.values["ended"] = ended
        self.results.put("seconds", round(self.runner.seconds(), 1))
        report.print_summary(self.results.values)


# ---- the command line ----

def default_kit():
    built = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(HERE))), "build", "gpu-kit")
    return HERE if os.path.exists(os.path.join(HERE, "MANIFEST.json")) else built


def default_work():
    """In memory where there is room for the models: containers often have 64 MB of it."""
    memory = "/dev/shm"
    room = os.access(memory, os.W_OK) and free_gb(memory) >= MODELS_GB
    return os.path.join(memory if room else tempfile.gettempdir(), f"fathom-gpu-{os.getuid()}")


def parse_arguments():
    steps = "\n".join(f"  {name:12} {limit:4}" for name, limit in FirstRun.STEPS.items())
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG.format(steps=steps))
    p.add_argument("--out", default="gpu-results", metavar="DIR", help="where results.json and log.txt go (default gpu-results)")
    p.add_argument("--kit", default=default_kit(), metavar="DIR", help="the folder of `make gpu-kit` (default: this script's, or build/gpu-kit)")
    p.add_argument("--only", metavar="STEP[,STEP]", help="these steps alone, after the probe")
    p.add_argument("--budget", type=int, default=560, metavar="SECONDS", help="of the whole run (default 560)")
    p.add_argument("--dry", action="store_true", help="without a device: runs what can run, says what would")
    p.add_argument("--baseline", metavar="KIT", help="another kit, whose `kernels` and `steps` run in turn with this one's")
    p.add_argument("--programs", metavar="DIR[:DIR]", help="where programs are sought (default: the kit)")
    p.add_argument("--variant", default="mythos_1b", metavar="NAME", help="of kernels and random weights (default mythos_1b)")
    p.add_argument("--model", metavar="DIR", help="float32 weights instead of random ones")
    p.add_argument("--context", default="1024", metavar="N", help="positions before each row (default 1024)")
    p.add_argument("--rows", default="1,8,32,128,512", metavar="N[,N]", help="sequences at once (default 1,8,32,128,512)")
    p.add_argument("--ouro", default=OURO, metavar="NAME", help=f"the Ouro variant (default {OURO})")
    p.add_argument("--ouro-rows", default=OURO_ROWS, metavar="N[,N]", help=f"of Ouro (default {OURO_ROWS})")
    p.add_argument("--groups", metavar="NAME[,NAME]", help="of the self-test (default: all)")
    p.add_argument("--openmythos", metavar="PATH", help="the published code (default: in the kit)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="of `fathom` (cpu: to try this script)")
    p.add_argument("--work", default=default_work(), metavar="DIR", help="models of random weights (default in /dev/shm, or where that has less than 10 GB in the folder for temporary files)")
    args = p.parse_args()
    wanted = args.only.split(",") if args.only else list(FirstRun.STEPS)
    unknown = [s for s in wanted if s not in FirstRun.STEPS]
    if unknown:
        p.error(f"no step {unknown[0]!r}; there are {', '.join(FirstRun.STEPS)}")
    for name in ("out", "kit", "work", "model", "openmythos", "baseline"):
        if getattr(args, name):
            setattr(args, name, os.path.abspath(getattr(args, name)))
    for folder in (args.kit, args.baseline):
        if folder and not os.path.isdir(folder):
            p.error(f"no folder {folder}: make one with `make gpu-kit`")
    return args, [s for s in FirstRun.STEPS if s in wanted]


def main():
    args, steps = parse_arguments()
    run = FirstRun(args)

    def on_signal(number, _):
        run.runner.kill_all()
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    run.go(steps)
    values = run.results.values
    sys.exit(1 if values.get("self_test_green") is False or report.failed_steps(values["steps"]) else 0)


if __name__ == "__main__":
    main()
