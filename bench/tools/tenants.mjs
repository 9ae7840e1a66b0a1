// What a key gets beside a greedy one: throughput and time to first token of a polite key, alone
// and beside a key that sends 16 choices for each of 64 prompts, 16 long answers to each of 8, with
// the best priority, and the next such request as soon as it may. Prints Markdown.
//
//   node bench/tools/tenants.mjs [--seconds 4] [--rounds 2] [--places 64] [--clients 1,8,32,64]
//
// The polite key has so many clients, each with one request at a time: a prompt of 64 tokens of its
// own and 32 tokens of answer. Alone and beside alternate, each on a server of its own. All times are
// processor time of the server, whose engine has one thread and always has work: about what a clock
// shows on a machine that does nothing else.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const binary = process.env.FATHOM_BIN ?? path.join(root, "build/fathom");
const option = (name, otherwise) => {
    const i = process.argv.indexOf(`--${name}`);
    return i < 0 ? otherwise : process.argv[i + 1];
};
const seconds = Number(option("seconds", 4)), rounds = Number(option("rounds", 2));
const places = Number(option("places", 64)), clients = option("clients", "1,8,32,64").split(",").map(Number);
const scratch = mkdtempSync(path.join(os.tmpdir(), "fathom-bench-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
writeFileSync(path.join(scratch, "keys"), "sk-polite-00001 polite\nsk-greedy-00001 greedy\n");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function start() {
    const args = ["serve", "--model", path.join(root, "models/demo"), "--port", "0", "--device", "cpu", "--threads", "1",
        "--api-key-file", path.join(scratch, "keys"), "--max-running", String(places), "--client-priority"];
    const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    return new Promise((done, failed) => {
        child.stderr.on("data", (d) => {
            if (log === null) return;
            log += d;
            const m = /ready on http:\/\/[^:]+:(\d+)/.exec(log);
            if (m) { log = null; done({ child, port: Number(m[1]) }); }
        });
        child.on("close", () => log !== null && failed(new Error(log)));
    });
}

let serial = 0;
// One streamed request. `see` is called with the number of events at each arrival of some.
function ask(s, key, body, see) {
    return new Promise((done) => {
        const data = JSON.stringify({ model: "demo", temperature: 0, ignore_eos: true, stream: true, ...body });
        const req = http.request({ host: "127.0.0.1", port: s.port, path: "/v1/completions", method: "POST", agent: false,
            headers: { "Content-Type": "application/json", "Content-Length": data.length, "X-Api-Key": key } }, (res) => {
            res.on("data", (d) => see?.(d.toString().split("data: {").length - 1));
            res.on("end", () => done(res.statusCode));
            res.on("error", () => done(0));
        });
        req.on("error", () => done(0));
        s.open.add(req);
        req.on("close", () => s.open.delete(req));
        req.end(data);
    });
}

// The most sequences, or the longest answers, that a request may have; sent as often as the server
// takes them.
async function greedy(s, prompts, max_tokens) {
    while (!s.over) {
        const prompt = Array.from({ length: prompts }, () => Array.from({ length: 32 }, () => 300 + serial++ % 700));
        const status = await ask(s, "sk-greedy-00001", { prompt, n: 16, max_tokens, temperature: 1, priority: -100, stream: false });
        if (![0, 200, 429].includes(status)) throw new Error(`the greedy key got ${status}`);
        if (status !== 200) await sleep(1000); // Retry-After
    }
}

function cpuMs(s) { // of the server so far
    const dir = `/proc/${s.child.pid}/task`;
    return readdirSync(dir).reduce((sum, task) => sum + Number(readFileSync(`${dir}/${task}/schedstat`, "utf8").split(" ")[0]), 0) / 1e6;
}

async function polite(s, n) {
    const firsts = [];
    let tokens = 0, counting = true;
    const client = async () => {
        while (counting) {
            const prompt = Array.from({ length: 64 }, () => 300 + (serial = serial * 7 + 1 & 0xffffff) % 700), began = cpuMs(s);
            let first = true;
            const status = await ask(s, "sk-polite-00001", { prompt, max_tokens: 32 }, (events) => {
                if (first && events) firsts.push(cpuMs(s) - began);
                first &&= events === 0;
                if (counting) tokens += events;
            });
            if (status !== 200 && counting) throw new Error(`the polite key got ${status}`);
        }
    };
    const all = Array.from({ length: n }, client);
    const began = cpuMs(s);
    while (cpuMs(s) - began < seconds * 1000) await sleep(20);
    const speed = tokens / (cpuMs(s) - began) * 1000;
    counting = false;
    await Promise.all(all);
    firsts.sort((a, b) => a - b);
    return { speed, p50: firsts[firsts.length >> 1], p99: firsts[Math.min(firsts.length - 1, Math.ceil(firsts.length * 0.99) - 1)] };
}

// Engine time that the server charged to each key so far.
async function engineTime(s) {
    const text = await (await fetch(`http://127.0.0.1:${s.port}/metrics`)).text();
    const of = (key) => Number(text.split("\n").find((l) => l.startsWith("fathom_key_engine_microseconds_total{") && l.includes(`key="${key}"`))?.split(" ").at(-1) ?? 0);
    return { polite: of("polite"), greedy: of("greedy") };
}

async function measure(n, neighbour) {
    const s = await start();
    s.open = new Set();
    s.over = false;
    const greeds = neighbour ? [greedy(s, 8, 500), greedy(s, 64, 60), greedy(s, 8, 500)] : [];
    if (neighbour) await sleep(1500); // it has every place by now
    const before = await engineTime(s);
    const result = await polite(s, n);
    const after = await engineTime(s), own = after.polite - before.polite;
    result.share = own / (own + after.greedy - before.greedy);
    s.over = true;
    for (const req of s.open) req.destroy();
    await Promise.all(greeds);
    const ended = new Promise((done) => s.child.on("close", done));
    s.child.kill("SIGTERM");
    await ended;
    return result;
}

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const commit = execFileSync("git", ["-C", root, "rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
const cpu = /model name\s*:\s*(.*)/.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "unknown";
console.log(`Commit ${commit}, ${new Date().toISOString().slice(0, 10)}, ${os.cpus().length} × ${cpu}, load average ${os.loadavg()[0].toFixed(1)} at the start.\n` +
    `Demo model on the CPU, one thread, ${places} places, ${rounds} rounds of ${seconds} s, medians of the rounds.\n`);
console.log("| polite clients | tokens/s alone | beside | ratio | TTFT p50 alone, ms | beside | ratio | TTFT p99 alone, ms | beside | ratio | engine time beside |\n|---|---|---|---|---|---|---|---|---|---|---|");
for (const n of clients) {
    const runs = { alone: [], beside: [] };
    for (let i = 0; i < rounds; i++) {
        runs.alone.push(await measure(n, false));
        runs.beside.push(await measure(n, true));
    }
    const cells = ["speed", "p50", "p99"].flatMap((what) => {
        const a = median(runs.alone.map((r) => r[what])), b = median(runs.beside.map((r) => r[what]));
        return [a.toFixed(1), b.toFixed(1), (b / a).toFixed(2)];
    });
    const share = median(runs.beside.map((r) => r.share));
    console.log(`| ${n} | ${cells.join(" | ")} | ${share.toFixed(2)} |`);
}
