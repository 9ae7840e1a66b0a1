#!/usr/bin/env python3
"""Answers held to a schema with long keys: tokens a second and launches a token, of several programs and modes in turn.

  schemas.py MODEL NAME=PROGRAM:MODE...      MODE: off or auto, for --speculate
      --streams 1,8  --repeat 3  --port 21300  --threads 2  --answers 8  --max-loops N  --variant NAME  --same-keys

MODEL is a folder; if it is absent, one of random weights is made (111 M with experts, or the variant), with a vocabulary of bytes: forced
text has a single spelling then, as it almost has for a trained model. Blanks are banned, or a random model would strew them. Each server answers the same requests,
some greedy and some sampled, over HTTP. Texts must be the same everywhere. Each request has the properties in another order; with --same-keys all
have one order, so streams that begin together write the same keys at a time. Figures: bench/reports/speculation.md."""
import argparse, concurrent.futures, json, os, re, statistics, subprocess, sys, tempfile, time, urllib.request

WORDS = ("customer_full_name shipping_address_line payment_reference_number preferred_contact_channel "
         "total_amount_before_tax is_recurring_customer").split()
VALUES = [{"type": "string", "maxLength": 8}, {"type": "string", "maxLength": 8}, {"type": "integer", "minimum": 0, "maximum": 9999},
          {"enum": ["email", "phone", "post"]}, {"type": "integer", "minimum": 0, "maximum": 9999}, {"type": "boolean"}]

def schema(turn):
    """An object whose properties are turned by this many."""
    at = turn % len(WORDS)
    names = WORDS[at:] + WORDS[:at]
    return {"type": "object", "properties": dict(zip(names, VALUES[at:] + VALUES[:at])), "required": names, "additionalProperties": False}


def byte_names():
    """The 256 bytes as byte-level vocabularies spell them."""
    plain = [byte for byte in range(256) if 32 < byte < 127 or (byte > 160 and byte != 173)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def shape(program, variant, folder):
    if not variant:
        return os.path.join(os.path.dirname(__file__), "configs/depthwise-b.json"), ["--mean-depth", "16"]
    subprocess.run([program, "init", "--variant", variant, "--out", f"{folder}/variant"], check=True)
    return f"{folder}/variant/config.json", []


def make(model, program, variant):
    with tempfile.TemporaryDirectory() as folder:
        path, depth = shape(program, variant, folder)
        with open(path) as file:
            config = json.load(file)
        config = {name: 257 if name in ("vocab_size", "padded_vocab_size") else value for name, value in config.items()}
        with open(f"{folder}/config.json", "w") as file:
            json.dump(config, file)
        subprocess.run([program, "init", "--config-json", f"{folder}/config.json", *depth, "--agreement", "0.94", "--out", model], check=True)
    end = {"id": 256, "content": "<|end|>", "special": True}
    with open(f"{model}/tokenizer.json", "w") as file:
        json.dump({"added_tokens": [end], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                   "decoder": {"type": "ByteLevel"},
                   "model": {"type": "BPE", "merges": [], "vocab": {name: id for id, name in enumerate(byte_names())}}}, file)
    with open(f"{model}/tokenizer_config.json", "w") as file:
        json.dump({"eos_token": "<|end|>"}, file)


def post(port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
        text = page.read().decode()
    def of(name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))
    stages = {stage: of(rf'fathom_launches_total{{[^}}]*stage="{stage}"[^}}]*}}') for stage in ("prelude", "recurrent", "coda")}
    return {**stages, "drafts": of("vllm:spec_decode_num_draft_tokens_total"), "right": of("vllm:spec_decode_num_accepted_tokens_total"),
            "text": of("fathom_text_drafts_total"), "text_right": of("fathom_text_drafts_accepted_total"), "forced": of("fathom_forced_drafts_total"), "forced_right": of("fathom_forced_drafts_accepted_total")}


def cpu_seconds(process):
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(port, i, same_keys):
    answer = post(port, {"prompt": f"Order {i}, as JSON: ", "max_tokens": 400, "temperature": 0.8 * (i % 2), "seed": i, "guided_json": schema(0 if same_keys else i),
                        "logit_bias": {str(ord(blank)): -100 for blank in " \n\t"}})
    return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]


def measure(options, program, mode, streams):
    command = [program, "serve", "--model", options.model, "--port", str(options.port), "--threads", str(options.threads),
               "--speculate", mode, "--log-level", "alert"]
    if options.max_loops:
        command += ["--max-loops", str(options.max_loops)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                ask(options.port, 1000, options.same_keys)
                break
            except OSError:
                if server.poll() is not None:
                    sys.exit("schemas.py: a server ended")
                time.sleep(0.1)
        before, began, cpu = metrics(options.port), time.monotonic(), cpu_seconds(server)
        with concurrent.futures.ThreadPoolExecutor(streams) as pool:
            answers = list(pool.map(lambda i: ask(options.port, i, options.same_keys), range(options.answers * streams)))
        seconds, cpu, after = time.monotonic() - began, cpu_seconds(server) - cpu, metrics(options.port)
    finally:
        server.terminate()
        server.wait()
    tokens = sum(n for _, n in answers)
    return [text for text, _ in answers], {"tokens": tokens, "rate": tokens / seconds, "cpu_rate": tokens / cpu, **{name: after[name] - before[name] for name in after}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("ways", nargs="+")
    for name, kind, default in (("streams", str, "1,8"), ("repeat", int, 3), ("port", int, 21300), ("threads", int, 2), ("answers", int, 8),
                                ("max-loops", int, 0), ("variant", str, "")):
        parser.add_argument("--" + name, type=kind, default=default)
    parser.add_argument("--same-keys", action="store_true")
    options = parser.parse_args()
    ways = [(name, *way.rsplit(":", 1)) for name, way in (item.split("=", 1) for item in options.ways)]
    if not os.path.exists(options.model):
        make(options.model, ways[0][1], options.variant)
    print("| streams | way | tokens/s | tokens a processor second | launches a token: recurrent, coda | drafts right "
          "| of the text | forced |\n|---|---|---|---|---|---|---|---|")
    for streams in map(int, options.streams.split(",")):
        texts, runs = {}, {name: [] for name, _, _ in ways}
        for _ in range(options.repeat):
            for name, program, mode in ways:
                texts[name], run = measure(options, program, mode, streams)
                runs[name].append(run)
                if texts[name] != texts[ways[0][0]]:
                    sys.exit(f"schemas.py: {name} answers otherwise than {ways[0][0]}")
        for name, _, _ in ways:
            run = sorted(runs[name], key=lambda one: one["cpu_rate"])[len(runs[name]) // 2]
            rate = statistics.median(one["rate"] for one in runs[name])
            print(f"| {streams} | {name} | {rate:.1f} | {run['cpu_rate']:.1f} | {run['recurrent'] / run['tokens']:.2f}, "
                  f"{run['coda'] / run['tokens']:.2f} | {run['right']:.0f} of {run['drafts']:.0f} | {run['text_right']:.0f} of {run['text']:.0f} "
                  f"| {run['forced_right']:.0f} of {run['forced']:.0f} |", flush=True)


main()
