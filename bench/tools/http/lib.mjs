// A server without a model's arithmetic and the load generator, for the measurements beside this file.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../..");
export const binary = process.env.FATHOM_BIN ?? path.join(root, "build/release/fathom");
const model = path.join(root, "models/demo");
const scratch = mkdtempSync(path.join(os.tmpdir(), "fathom-bench-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const fixed = (x, n = 2) => Number(x).toFixed(n);

export class Server {
    constructor(args, program = binary) {
        this.began = Date.now();
        this.child = spawn(program, ["serve", "--model", model, "--port", "0", "--device", "fake", "--log-level", "info", ...args], { stdio: ["ignore", "ignore", "pipe"] });
        this.log = "";
        this.ready = new Promise((done, failed) => {
            this.child.stderr.on("data", (d) => {
                if (this.port) return; // the log is read on, not kept
                this.log += d;
                const m = /ready on http:\/\/[^:]+:(\d+)/.exec(this.log);
                if (m) { this.port = Number(m[1]); done(this); }
            });
            this.child.on("close", () => failed(new Error(this.log)));
        });
        this.url = () => `http://127.0.0.1:${this.port}`;
    }
    // CPU of each thread in ms, the loop first.
    cpu() {
        const dir = `/proc/${this.child.pid}/task`;
        const times = readdirSync(dir).map((t) => {
            const f = readFileSync(`${dir}/${t}/stat`, "utf8").split(") ")[1].split(" ");
            return { id: Number(t), ms: (Number(f[11]) + Number(f[12])) * 10 };
        });
        const loop = times.find((t) => t.id === this.child.pid).ms;
        return { loop, all: times.reduce((a, t) => a + t.ms, 0) };
    }
    rss() { return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${this.child.pid}/status`, "utf8"))[1]) / 1024; }
    async metrics() {
        const out = {};
        for (const line of (await (await fetch(`${this.url()}/metrics`)).text()).split("\n")) {
            const m = /^([^#\s{]+)\{model_name="[^"]*",engine="0",?([^}]*)\} (\S+)$/.exec(line);
            if (m) out[m[1] + (m[2] ? `{${m[2]}}` : "")] = Number(m[3]);
        }
        return out;
    }
    stop() {
        return new Promise((done) => {
            this.child.removeAllListeners("close");
            this.child.on("close", done);
            this.child.kill("SIGTERM");
        });
    }
}

// How late a thread that only sleeps 50 ms wakes, while the rest is measured: the machine's
// own share of every latency.
export function sleeper() {
    const code = `const a = new Int32Array(new SharedArrayBuffer(4)), late = [];
        process.on("SIGTERM", () => {});
        const end = Date.now() + Number(process.argv[1]);
        while (Date.now() < end) { const t = process.hrtime.bigint(); Atomics.wait(a, 0, 0, 50); late.push(Number(process.hrtime.bigint() - t) / 1e6 - 50); }
        late.sort((x, y) => x - y);
        console.log(late[Math.floor(late.length * 0.99)] - late[Math.floor(late.length / 2)]);`;
    const child = spawn(process.execPath, ["-e", code, "6000"], { stdio: ["ignore", "pipe", "ignore"] });
    return new Promise((done) => {
        let text = "";
        child.stdout.on("data", (d) => { text += d; });
        child.on("close", () => done(Number(text)));
    });
}

export async function bench(s, args) {
    const file = "result.json";
    await new Promise((done, failed) => {
        const b = spawn(binary, ["bench", "--url", s.url(), "--disable-tqdm", "--save-result", "--result-dir", scratch, "--result-filename", file,
            "--ignore-eos", "--temperature", "0", "--input-len", "16", "--metric-percentiles", "50,99,99.9", ...args.map(String)], { stdio: "ignore" });
        b.on("close", (code) => (code === 0 ? done() : failed(new Error(`fathom bench ended with ${code}`))));
    });
    return JSON.parse(readFileSync(path.join(scratch, file)));
}

export const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];

// Gaps in ms, sorted, before and after the moment when every stream had its first token.
export function split_gaps(r) {
    const firsts = r.ttfts.map((t, i) => r.start_times[i] + t), all_in = Math.max(...firsts);
    const settled = [], first = [];
    r.itls.forEach((gaps, i) => {
        let at = firsts[i];
        for (const gap of gaps) {
            (at >= all_in ? settled : first).push(gap * 1000);
            at += gap;
        }
    });
    for (const gaps of [settled, first]) gaps.sort((a, b) => a - b);
    return { settled, first };
}
