#!/usr/bin/env python3
"""Runs a command and takes the processor from single threads of it, again and again, each for a
moment: do tests depend on the order in which threads and processes go on?

  tools/starve.py [--loops N] [--longest MS] [--seed S] COMMAND...

  tools/starve.py tests/cli/chat/run.sh
  cd tests/http && FATHOM_BIN=... ../../tools/starve.py node --test

N busy loops run beside the command (default: 3 for each two processors). A starved thread has the
policy SCHED_IDLE, which gets the processor only when none of the loops wants it. No process is
stopped by a signal, so tests that stop servers themselves mean the same as without this.
"""
import argparse
import os
import random
import subprocess
import sys
import time


def descendants(root):
    """Processes of the command, by /proc."""
    children = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                parent = int(stat.read().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(name))
    found, open_ends = [], [root]
    while open_ends:
        at = open_ends.pop()
        found.append(at)
        open_ends += children.get(at, [])
    return found


def threads(pid):
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def set_policy(tid, policy):
    try:
        os.sched_setscheduler(tid, policy, os.sched_param(0))
    except OSError:  # the thread has ended
        pass


def starve_some(command, chance, longest_ms):
    """One process for a moment: a thread of it, or all."""
    tids = threads(chance.choice(descendants(command.pid)))
    if tids and chance.random() < 0.6:
        tids = [chance.choice(tids)]
    for tid in tids:
        set_policy(tid, os.SCHED_IDLE)
    time.sleep(longest_ms / 1000 * chance.random() ** 3)
    for tid in tids:
        set_policy(tid, os.SCHED_OTHER)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=max(2, os.cpu_count() * 3 // 2), metavar="N")
    parser.add_argument("--longest", type=int, default=600, metavar="MS")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000, metavar="S")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args()
    if not options.command:
        parser.error("no command to run")
    chance = random.Random(options.seed)
    loops = [subprocess.Popen([sys.executable, "-c", "import os\np = os.getppid()\nwhile os.getppid() == p:\n for _ in range(100000): pass"])
             for _ in range(options.loops)]
    try:
        command = subprocess.Popen(options.command)
        while command.poll() is None:
            starve_some(command, chance, options.longest)
    finally:
        for loop in loops:
            loop.kill()
    print(f"exit status {command.returncode}, seed {options.seed}", file=sys.stderr)
    return command.returncode


if __name__ == "__main__":
    sys.exit(main())
