"""Runs programs under limits of time and keeps what they said; for first_gpu.py. Standard library only.

A program that exceeds its limit is killed with all it has started, and what it printed until then stays. Results
are one JSON file that is replaced after every step, so that a run which is cut off loses the step it was in at most."""

import concurrent.futures
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

KILLED, NOT_STARTED = 124, 127  # exit statuses, as `timeout` and shells give them
LOGGED = 6000                   # bytes of each stream that go to the log


class Results:
    """results.json: `values` as a whole, written anew by save()."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "results.json")
        self.values = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "steps": {}}
        self.lock = threading.Lock()

    def save(self):
        with open(self.path + ".part", "w", encoding="utf-8") as f:
            json.dump(self.values, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        os.replace(self.path + ".part", self.path)

    def put(self, key, value):
        with self.lock:
            self.values[key] = value
            self.save()

    def put_step(self, name, value):
        with self.lock:
            self.values["steps"][name] = value
            self.save()


class Ended:
    """What a program left: its exit status, the seconds it took, and what it printed."""

    def __init__(self, rc, seconds, out, err):
        self.rc, self.seconds, self.out, self.err = rc, seconds, out, err

    def entry(self):
        entry = {"rc": self.rc, "s": round(self.seconds, 1)}
        if self.rc == KILLED:
            entry["failed"] = f"cut off after {self.seconds:.0f} s"
        elif self.rc:
            entry["failed"] = (self.err.strip() or self.out.strip())[-600:] or f"exit status {self.rc}"
        return entry


class Job:
    """A started program. Its output goes to files: a killed program leaves what it printed, and a
    process of its own that lives on keeps nobody waiting for the end of a pipe."""

    def __init__(self, runner, name, command, env, cwd):
        self.runner, self.name, self.command = runner, name, command
        self.began = time.monotonic()
        self.files = [tempfile.TemporaryFile() for _ in range(2)]
        self.process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=self.files[0],
                                        stderr=self.files[1], start_new_session=True)
        runner.live.add(self)
        if runner.ending:  # since it was decided to start this
            self.kill()

    def running(self):
        return self.process.poll() is None

    def said(self):
        """What it has printed on stderr so far. The program writes where this file stands, so that must not move."""
        return os.pread(self.files[1].fileno(), 1 << 16, 0).decode(errors="replace")

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()

    def stop(self, seconds=10):
        """Asks the program to end, then makes it."""
        if self.running():
            self.process.terminate()
        return self.wait(seconds)

    def wait(self, seconds):
        """Waits for the end, at most these seconds; then kills."""
        try:
            rc = self.process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            rc = KILLED
        self.kill()  # what it started and left behind, too
        self.runner.live.discard(self)
        ended = Ended(rc, time.monotonic() - self.began, *(self._read(f) for f in self.files))
        self.runner.write_log(self.name, self.command, ended)
        return ended

    @staticmethod
    def _read(file):
        with file:
            file.seek(0)
            return file.read().decode(errors="replace")


class Runner:
    """Starts programs in one folder, with one budget of seconds for all."""

    def __init__(self, folder, cwd, budget):
        self.cwd, self.budget = cwd, budget
        self.began = time.monotonic()
        self.live = set()
        self.ending = False
        self.lock = threading.Lock()
        self.log = open(os.path.join(folder, "log.txt"), "a", encoding="utf-8", buffering=1)

    def left(self):
        return self.budget - self.seconds()

    def seconds(self):
        return time.monotonic() - self.began

    def start(self, name, command, env):
        return Job(self, name, command, env, self.cwd)

    def run(self, name, limit, command, env):
        limit = min(limit, self.left())
        if limit < 1 or self.ending:
            return Ended(KILLED, 0, "", "no time left")
        try:
            return self.start(name, command, env).wait(limit)
        except OSError as why:
            ended = Ended(NOT_STARTED, 0, "", str(why))
            self.write_log(name, command, ended)
            return ended

    def run_all(self, jobs, calls):
        """The answers of these functions, `jobs` of them at a time."""
        with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
            return [f.result() for f in [pool.submit(call) for call in calls]]

    def write_log(self, name, command, ended):
        with self.lock:
            self.log.write(f"==== {name}: status {ended.rc}, {ended.seconds:.1f} s: {' '.join(command)}\n"
                           f"{ended.out[-LOGGED:]}\n{ended.err[-LOGGED:]}\n")

    def kill_all(self):
        """Starts nothing more, and kills whatever still runs."""
        self.ending = True
        for job in list(self.live):
            job.kill()

    def close(self):
        self.kill_all()
        self.live.clear()
        self.log.close()


# ---- JSON that was cut off ----

def _open_brackets(text):
    """The brackets still open at the end, or None inside a string."""
    stack, quoted, escaped = [], False, False
    for c in text:
        if quoted:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c in "[{":
            stack.append("]" if c == "[" else "}")
        elif c in "]}" and stack:
            stack.pop()
    return None if quoted else "".join(reversed(stack))


def read_json(text):
    """The value, and whether it is whole. Of a text that was cut off, the lines that are complete: our
    programs print a list item a line. None where nothing can be read."""
    try:
        return json.loads(text), True
    except ValueError:
        lines = text.splitlines()
    for n in range(len(lines), 0, -1):
        head = "\n".join(lines[:n]).rstrip().rstrip(",")
        closing = _open_brackets(head)
        if closing is None:
            continue
        try:
            return json.loads(head + closing), False
        except ValueError:
            continue
    return None, False
