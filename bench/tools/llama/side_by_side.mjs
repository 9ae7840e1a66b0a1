// side_by_side.mjs - llama.cpp on a dense model and Fathom on mythos_1b, each as a share of
// what Fathom's probes reach on this machine in the same minutes. Started by run.sh.
//
//   node bench/tools/llama/side_by_side.mjs FOLDER [rounds]
//
// A round: probes, llama.cpp, Fathom, probes again; medians over the rounds. Two shares: by
// the wall clock, and by processor time, which neighbours take less of.
import { execFileSync, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readSync, readdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";
import { cost as denseCost, promptFlop as densePromptFlop } from "./gguf.mjs";

const [folder, rounds = "5"] = process.argv.slice(2);
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../..");
const fathom = process.env.FATHOM_BIN ?? path.join(root, "build/release/fathom");
const mythos = process.env.MYTHOS ?? path.join(folder, "mythos_1b");
const BEFORE = 64, TOKENS = 16, PROMPT = 512, DEPTH = 6;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const median = (v) => [...v].sort((a, b) => a - b)[v.length >> 1];

// ---- what one token of mythos_1b reads and computes at a fixed depth ----

function mythosCost() {
    const fd = openSync(path.join(mythos, "model.safetensors"), "r"), length = Buffer.alloc(8);
    readSync(fd, length, 0, 8, 0);
    const text = Buffer.alloc(Number(length.readBigUInt64LE()));
    readSync(fd, text, 0, text.length, 8);
    closeSync(fd);
    const c = JSON.parse(readFileSync(path.join(mythos, "config.json"))), sum = { once: 0, loop: 0, head: 0 };
    for (const [name, t] of Object.entries(JSON.parse(text))) {
        if (name === "__metadata__" || t.shape.length < 2) continue;
        let n = t.shape.reduce((a, b) => a * b, 1);
        if (name.includes("routed_experts")) n *= c.n_experts_per_tok / c.n_experts; // one row: those it chose
        sum[name.startsWith("embed") ? "head" : name.startsWith("recurrent") ? "loop" : "once"] += n;
    }
    const body = sum.once + DEPTH * sum.loop, layers = c.prelude_layers + c.coda_layers + DEPTH;
    const slot = (c.kv_lora_rank + c.qk_rope_head_dim) * 4; // one layer or loop of one position, float32
    const perPair = 2 * c.n_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim);
    return {
        bytes: (weights, position) => (body + sum.head) * (weights === "int8" ? 1 + 4 / 128 : 2) + position * layers * slot,
        promptFlop: (n) => 2 * n * body + 2 * sum.head + layers * perPair * (n * (n + 1)) / 2,
        weights: body + sum.head,
    };
}

// ---- the three that are measured ----

function probe(threads) {
    const { runs } = JSON.parse(execFileSync(fathom, ["bench", "kernels", "--what", "probe", "--threads", threads, "--json"], { stdio: ["ignore", "pipe", "ignore"] }));
    const find = (what) => runs.find((r) => r.what === what && r.threads === Number(threads)); // fewer threads come first
    const per = (r) => ({ wall: 1e9 / r.seconds, cpu: 1e9 / r.cpu_seconds }); // bytes or operations a second
    return { read: per(find("read probe")), fma: per(find("fma probe")) };
}

class Llama {
    constructor(file, threads) {
        this.child = spawn(path.join(folder, "drive"), [path.join(folder, "lib"), file, threads], { stdio: ["pipe", "pipe", "ignore"] });
        this.lines = readline.createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
        this.threads = Number(threads);
    }
    async ask(command) {
        if (command) this.child.stdin.write(`${command}\n`);
        const { value, done } = await this.lines.next();
        if (done) throw new Error("llama.cpp's process ended");
        return JSON.parse(value);
    }
    async ready() { this.version = (await this.ask()).version; return this; }
    async span(command) { const r = await this.ask(command); return { wall: r.wall, cpu: r.cpu / this.threads }; }
    decode() { return this.span(`decode ${BEFORE} ${TOKENS}`); }
    prompt() { return this.span(`prompt ${PROMPT}`); }
    stop() { return new Promise((done) => { this.child.on("close", done); this.child.stdin.end(); }); }
}

class Fathom {
    constructor(weights, threads) {
        this.threads = Number(threads);
        this.child = spawn(fathom, ["serve", "--model", mythos, "--device", "cpu", "--port", "0", "--threads", threads, "--weights", weights === "int8" ? "int8" : "auto", "--no-prefix-cache", "--log-level", "info"], { stdio: ["ignore", "ignore", "pipe"] });
    }
    ready() {
        let log = "";
        return new Promise((done, failed) => {
            this.child.stderr.on("data", (d) => {
                log = (log + d).slice(-4096);
                const m = /ready on (http:\/\/\S+:\d+)/.exec(log);
                if (m && !this.url) { this.url = m[1]; done(this); }
            });
            this.child.on("close", () => failed(new Error(log)));
        });
    }
    cpu() { // seconds, of every thread
        const dir = `/proc/${this.child.pid}/task`;
        return readdirSync(dir).reduce((sum, t) => sum + Number(readFileSync(`${dir}/${t}/schedstat`, "utf8").split(" ")[0]), 0) / 1e9;
    }
    now() { return { wall: performance.now() / 1000, cpu: this.cpu() }; }
    // From `from` (the request's start, or the first token) to the last token.
    async span(n_prompt, n_tokens, fromFirst) {
        const body = { prompt: Array.from({ length: n_prompt }, (_, i) => (i * 7919) % 32000), max_tokens: n_tokens, stream: true, ignore_eos: true, temperature: 0, depth: { min_loops: DEPTH, max_loops: DEPTH } };
        let from = this.now(), to = from, seen = 0, text = "";
        const r = await fetch(`${this.url}/v1/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
        if (r.status !== 200) throw new Error(await r.text());
        for await (const chunk of r.body) {
            text += Buffer.from(chunk).toString();
            const events = text.split("\n\n");
            text = events.pop();
            for (const e of events) {
                if (!e.startsWith("data: {") || JSON.parse(e.slice(6)).choices.length === 0) continue;
                to = this.now();
                if (seen++ === 0 && fromFirst) from = to;
            }
        }
        if (seen < n_tokens) throw new Error(`${seen} chunks for ${n_tokens} tokens`);
        return { wall: to.wall - from.wall, cpu: (to.cpu - from.cpu) / this.threads };
    }
    decode() { return this.span(BEFORE, TOKENS + 1, true); }
    prompt() { return this.span(PROMPT, 1, false); }
    stop() { return new Promise((done) => { this.child.removeAllListeners("close"); this.child.on("close", done); this.child.kill("SIGTERM"); }); }
}

// ---- rounds ----

const share = (need, took, limit) => ({ wall: need / took.wall / limit.wall * 100, cpu: need / took.cpu / limit.cpu * 100 });
const middle = (list) => ({ wall: median(list.map((x) => x.wall)), cpu: median(list.map((x) => x.cpu)) });
const mean = (a, b) => ({ wall: (a.wall + b.wall) / 2, cpu: (a.cpu + b.cpu) / 2 });

async function compare(type, threads) {
    const m = mythosCost(), position = BEFORE + TOKENS / 2, weights = type === "q8_0" ? "int8" : "bf16";
    const engines = [
        { name: "llama.cpp", model: `dense, ${type}`, bytes: denseCost(type, position).bytes, flop: densePromptFlop(PROMPT), run: await new Llama(path.join(folder, `${type}.gguf`), threads).ready() },
        { name: "Fathom", model: `mythos_1b, ${weights}`, bytes: m.bytes(weights, position), flop: m.promptFlop(PROMPT), run: await new Fathom(weights, threads).ready() },
    ];
    for (const e of engines) { e.reads = []; e.fmas = []; await e.run.prompt(); await e.run.decode(); }
    const probes = [];
    for (let i = 0; i < Number(rounds); i++) {
        for (const kind of ["decode", "prompt"]) {
            const before = probe(threads), took = [];
            for (const e of engines) took.push(await e.run[kind]());
            const after = probe(threads);
            probes.push(before, after);
            engines.forEach((e, k) => {
                if (kind === "decode") e.reads.push(share(e.bytes * TOKENS, took[k], mean(before.read, after.read)));
                else e.fmas.push(share(e.flop, took[k], mean(before.fma, after.fma)));
            });
        }
    }
    for (const e of engines) {
        const read = middle(e.reads), fma = middle(e.fmas), f = (x) => x.toFixed(0);
        console.log(`| ${threads} | ${e.name} | ${e.model} | ${(e.bytes / 1e9).toFixed(2)} | ${f(read.wall)} | ${f(read.cpu)} | ${(e.flop / 1e9).toFixed(0)} | ${f(fma.wall)} | ${f(fma.cpu)} |`);
        await e.run.stop();
    }
    const read = middle(probes.map((p) => p.read)), fma = middle(probes.map((p) => p.fma)), g = (x) => (x / 1e9).toFixed(1);
    return `${type}, ${threads} threads: read probe ${g(read.wall)} GB/s, ${g(read.cpu)} by processor time; FMA probe ${g(fma.wall)} GFLOP/s, ${g(fma.cpu)} by processor time`;
}

const commit = execFileSync("git", ["-C", root, "rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
const cpu = /model name\s*:\s*(.*)/.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "unknown";
console.log(`Commit ${commit}, ${new Date().toISOString().slice(0, 10)}, ${os.cpus().length} × ${cpu}, load average ${os.loadavg()[0].toFixed(1)} at the start; ${rounds} rounds.\n`);
console.log("| threads | engine | model | decode: GB a token | % of the read probe, wall | by CPU time | prompt of 512: GFLOP | % of the FMA probe, wall | by CPU time |\n|---|---|---|---|---|---|---|---|---|");
const notes = [];
for (const type of (process.env.TYPES ?? "bf16,q8_0").split(",")) {
    for (const threads of (process.env.THREADS ?? "1,2").split(",")) notes.push(await compare(type, threads));
}
console.log(`\n${notes.join("\n")}\nLoad average ${os.loadavg()[0].toFixed(1)} at the end.`);
