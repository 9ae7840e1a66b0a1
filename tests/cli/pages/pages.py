"""Runs what the pages print: each block of shell commands, and each example of a table of commands.

Left out are blocks after the comment <!-- not run: REASON -->, and those with a command of NEEDS_MORE. Commands run in a folder
with links to this repository's, with its program first in PATH, and with small models under the names that the pages use. A server
of models/hops runs beside them, and 8080 stands for its port. A line that starts a server has to make it ready; it is then stopped.

usage: tests/cli/pages/run.sh [PAGE...]"""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PROGRAM = os.path.abspath(os.environ.get("FATHOM_BIN") or os.path.join(REPOSITORY, "build", "release", "fathom"))
PAGES = ("README.md", "docs/commands.md", "docs/models.md", "docs/operations.md", "docs/troubleshooting.md", "docs/benchmarks.md")
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
LEFT_OUT = re.compile(r"<!-- not run: (.+) -->\s*\Z")
# Commands that need the network, privileges, or a service of the machine.
NEEDS_MORE = re.compile(r"\b(git clone|apt|apt-get|docker|helm|kubectl|systemctl|hf|npm|pip|make)\s")
STAND_IN = {"Ouro-1.4B": "ouro_tiny", "huginn-0125": "huginn_tiny", "my-model": "tiny"}
LIMIT_S = 900


def blocks(text):
    """Line number, commands and the reason to leave them out, if there is one."""
    for match in BLOCK.finditer(text):
        reason = LEFT_OUT.search(text[:match.start()]) or NEEDS_MORE.search(match.group(1))
        yield text.count("\n", 0, match.start()) + 2, match.group(1), reason and reason.group(1)
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and re.fullmatch(r"`fathom [^`]+`", cells[-1]):
            yield number, cells[-1].strip("`").replace("\\|", "|") + "\n", None


class Pages:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="fathom-pages-")
        for name in ("models", "bench", "tools", "docs", "README.md"):
            os.symlink(os.path.join(REPOSITORY, name), os.path.join(self.folder, name))
        os.makedirs(os.path.join(self.folder, "bin"))
        os.makedirs(os.path.join(self.folder, "build"))
        for link in ("bin/fathom", "build/fathom"):
            os.symlink(PROGRAM, os.path.join(self.folder, link))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("FATHOM")}
        self.env.update(PATH=os.path.join(self.folder, "bin") + ":" + os.environ["PATH"], HOME=self.folder, TMPDIR=self.folder)
        for name, variant in STAND_IN.items():
            subprocess.run(["fathom", "init", "--variant", variant, "--out", name], cwd=self.folder, env=self.env, check=True, capture_output=True)
        self.server, self.port = self.serve(["--model", "models/hops"])
        self.failed = 0

    def serve(self, arguments):
        """Starts `fathom serve` on a free port, and waits until it is ready."""
        # Appended to: what is read here must not move the place where the server writes.
        handle, path = tempfile.mkstemp(dir=self.folder)
        log = open(handle, encoding="utf-8", errors="replace")
        with open(path, "a", encoding="utf-8") as end_of_log:
            server = subprocess.Popen(["fathom", "serve", *arguments, "--port", "0"], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                                      stderr=end_of_log)
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and server.poll() is None:
            log.seek(0)
            ready = re.search(r"ready on http://127\.0\.0\.1:(\d+)", log.read())
            if ready:
                return server, ready.group(1)
            time.sleep(0.05)
        server.kill()
        log.seek(0)
        raise AssertionError("not ready: " + log.read())

    def stop(self, server):
        server.send_signal(signal.SIGTERM)
        if server.wait(LIMIT_S):
            raise AssertionError(f"serve ended with status {server.returncode}")

    def run(self, commands):
        lines = [line for line in commands.splitlines() if line.strip()]
        if all(line.startswith("fathom serve") for line in lines):
            for line in lines:
                words = shlex.split(line, comments=True)[2:]
                if "--port" in words:
                    del words[words.index("--port"):words.index("--port") + 2]
                self.stop(self.serve(words)[0])
            return
        commands = commands.replace(":8080", ":" + self.port).replace("port 8080", "port " + self.port).replace(" /tmp/", f" {self.folder}/")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, env={**self.env, "FATHOM_PORT": self.port}, timeout=LIMIT_S,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"status {done.returncode}: {done.stderr.strip()[-600:]}")
        if "curl" in commands and '"error"' in done.stdout:
            raise AssertionError(done.stdout[-600:])

    def page(self, name):
        with open(os.path.join(REPOSITORY, name), encoding="utf-8") as file:
            text = file.read()
        ran = left_out = 0
        for number, commands, reason in blocks(text):
            if reason:
                left_out += 1
                continue
            try:
                self.run(commands)
                ran += 1
            except (AssertionError, subprocess.SubprocessError) as fault:
                self.failed += 1
                print(f"{name}:{number}: {commands.strip().splitlines()[0]}: {fault}")
        print(f"{name}: {ran} ran, {left_out} left out")

    def end(self):
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.folder)


def main(arguments):
    pages = Pages()
    try:
        for name in arguments or PAGES:
            pages.page(name)
    finally:
        pages.end()
    return 1 if pages.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
