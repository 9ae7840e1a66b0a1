"""What first_gpu.py reads out of the programs' output, and what it prints at the end. Standard library only."""

import csv
import re
import statistics

MOST_LINES = 60
NCU_METRICS = {"us": "gpu__time_duration.sum", "dram_read_bytes": "dram__bytes_read.sum",
               "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed", "l2_bytes": "lts__t_bytes.sum",
               "warps_active_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
               "instructions": "smsp__inst_executed.sum"}
MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6}


# ---- the self-test ----

# A threshold met within rounding is no broken kernel: the depth differs and every logit is near.
DEPTHS_ONLY = (re.compile(r": 0 of \d+ logits too far off, [12] depths differ$"),
               re.compile(r": [12] depths differ, logits are off by (\S+)$"))


def only_depths(line):
    if DEPTHS_ONLY[0].search(line):
        return True
    near = DEPTHS_ONLY[1].search(line)
    return bool(near) and float(near[1]) <= 1e-4


def read_selftest(ended):
    """An entry of a group of checks. Green: all hold, or only depths differ, which is reported."""
    entry = ended.entry()
    total = re.findall(r"^(\d+) checks, (\d+) failed$", ended.out, re.M)
    entry["checks"], entry["failed_checks"] = map(int, total[-1]) if total else (0, 0)
    fails = re.findall(r"^FAIL: .*", ended.out, re.M)
    if fails:
        entry["fails"] = fails[:10]
    told = re.findall(r"^ranks: (.*)", ended.out, re.M)  # times, and what could not run here
    if told:
        entry["told"] = told
    entry["depths_only"] = bool(fails) and len(fails) == entry["failed_checks"] and all(map(only_depths, fails))
    entry["green"] = entry["checks"] > 0 and (ended.rc == 0 or (ended.rc == 1 and entry["depths_only"]))
    if ended.out.startswith("skipped:"):
        entry["failed"] = ended.out.strip()
    return entry


def cannot_run(entry):
    """Whether the program never reached a check: no device, no library, no such program."""
    said = entry.get("failed", "")
    return entry["rc"] == 127 or said.startswith("skipped:") or "error while loading shared libraries" in said


def read_sanitizer(ended):
    entry = read_selftest(ended)
    lines = re.findall(r"^=+ ((?:ERROR|RACECHECK|LEAK) SUMMARY: .*)", ended.out + "\n" + ended.err, re.M)
    entry["summary"] = lines
    reports = re.findall(r"^=+ (?!.*SUMMARY)(?:ERROR:|Error:|Warning:|Invalid|Race|Barrier|Uninit|Misaligned|Program hit).*",
                         ended.out + "\n" + ended.err, re.M)
    if reports:
        entry["reports"] = reports[:20]
    entry["clean"] = ended.rc == 0 and entry["checks"] > 0
    return entry


# ---- profiles and progress ----

def read_ncu(text):
    """A row for each kernel of the raw CSV page, medians over its launches."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        raise ValueError("ncu printed no table")
    rows = list(csv.DictReader(line for line in lines[first:] if line.startswith('"')))
    units, rows = rows[0], rows[1:]
    kernels = {}
    for row in rows:
        kernels.setdefault(re.sub(r"\(.*", "", row["Kernel Name"]), []).append(row)
    return [dict({"kernel": name, "launches": len(of)}, **ncu_medians(of, units)) for name, of in kernels.items()]


def ncu_medians(rows, units):
    values = {}
    for key, metric in NCU_METRICS.items():
        found = [float(row[metric].replace(",", "")) for row in rows if row.get(metric)]
        if found:
            scale = MICROSECONDS.get(units.get(metric, ""), 1e-3) if key == "us" else 1
            values[key] = round(statistics.median(found) * scale, 2)
    return values


def read_engine_progress(text):
    """The lines `fathom bench engine` prints after every run: all there is where it was cut off."""
    found = re.findall(r"^(\d+) sequences, run \d+ of \d+, (\w+) (\w+): ([\d.]+) tokens/s", text, re.M)
    return [{"sequences": int(n), "mode": mode, "policy": policy, "tokens_per_s": float(s)} for n, mode, policy, s in found]


# ---- change against baseline ----

def items(value):
    """The dictionaries of all lists in a result, in order."""
    if isinstance(value, dict):
        for v in value.values():
            yield from items(v)
    elif isinstance(value, list):
        for v in value:
            if isinstance(v, dict):
                yield v
            yield from items(v)


def identity(item):
    return tuple((k, v) for k, v in item.items() if k in ("kernel", "name", "stage", "own", "rows", "context", "mode", "chunk"))


def times(results):
    found = {}
    for result in results:
        for item in items(result):
            for key, value in item.items():
                if (key == "us" or key.endswith("_us")) and isinstance(value, (int, float)):
                    found.setdefault((identity(item), key), []).append(value)
    return found


def compare(changed, baseline):
    """Medians of every time that both have; ratio: below 1 the change is faster."""
    new, old = times(changed), times(baseline)
    rows = []
    for at, values in new.items():
        if at in old and statistics.median(old[at]) > 0:
            a, b = statistics.median(values), statistics.median(old[at])
            rows.append(dict(at[0], time=at[1], change=a, baseline=b, ratio=round(a / b, 4)))
    return rows


# ---- the summary ----

def figures(entry):
    """The one line of figures that a step's own lists give, where they are those of steps or modes."""
    result = entry.get("result")
    for item in items(result):
        if "rows" in item and "graph_us" in item:
            share = f", {item['share_of_probe']:.0%} of the read probe" if "share_of_probe" in item else ""
            yield f"    rows {item['rows']:>4}: {item['graph_us']:>9.1f} us a step, {item.get('tokens_per_s_all_loops', 0):>8.0f} tokens/s{share}"
        elif item.get("mode") == "full" and "tokens_per_s" in item:
            yield f"    {item['sequences']:>4} sequences, full, {item.get('policy', '')}: {item['tokens_per_s']:>8.0f} tokens/s"


def word(entry):
    if not entry.get("green", "failed" not in entry):
        return "FAIL"
    return "skip" if "skipped" in entry else "dry" if "would_run" in entry else "ok"


def failed_steps(steps):
    """Names of what failed, but for groups that turned green where kernels do not overlap."""
    return [name for name, entry in steps.items()
            if word(entry) == "FAIL" and not steps.get(f"{name}.no_overlap", {}).get("green")]


def step_line(name, entry):
    said = entry.get("failed") or entry.get("skipped") or entry.get("said") or ""
    if entry.get("checks"):
        said = f"{entry['checks']} checks, {entry['failed_checks']} failed{', depths only' if entry['depths_only'] else ''} {said}"
    return f"{name:28} {word(entry):4} {entry.get('s', 0):6.1f} s  {' '.join(said.split())[:80]}"


def summary(values):
    machine = values.get("machine", {})
    yield f"{machine.get('gpu') or 'no GPU'}; {machine.get('os', '')}, glibc {machine.get('glibc', '')}; cuBLAS {machine.get('cublas') or 'not found'}"
    if values.get("overlap") is False:
        yield f"overlap is off: {values['overlap_why']}"
    for name, entry in values["steps"].items():
        yield step_line(name, entry)
        yield from figures(entry)
    for step, rows in values.get("comparison", {}).items():
        ratios = [row["ratio"] for row in rows]
        if ratios:
            yield f"{step}: change/baseline median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} times"
    yield f"{values.get('ended', 'not ended')}; {values.get('seconds', 0)} s"


def print_summary(values):
    lines = list(summary(values))
    if len(lines) > MOST_LINES:
        left_out = len(lines) - MOST_LINES + 1
        lines = lines[:MOST_LINES - 2] + [f"... {left_out} lines left out: results.json has all"] + lines[-1:]
    print("\n".join(lines), flush=True)
