// A server under test: started on a free port, its log kept, stopped and checked at the end.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import assert from "node:assert/strict";
import { after } from "node:test";

// A test that fails leaves its server behind; the file's end does not wait for it.
const running = new Set();
// (A program that is no test says so, and ends its servers itself.)
if (!globalThis.endsItsServers) after(() => running.forEach((s) => s.shared || s.child.kill("SIGKILL")));

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../..");
const sanitized = path.join(root, "build/san-address-undefined/fathom");
const release = path.join(root, "build/release/fathom");
export const binary = process.env.FATHOM_BIN ?? (existsSync(sanitized) ? sanitized : release);
export const slow = binary.includes("san-"); // sanitizers cost about ten times
export const demo = path.join(root, "models/demo");

// After this many ms a state that never comes is given up. It judges no speed: a busy machine
// may be late by any amount that people would wait for.
export const PATIENCE = 120000;
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(what, test) {
    const end = Date.now() + PATIENCE;
    for (;;) {
        const value = await test();
        if (value) return value;
        if (Date.now() > end) assert.fail(`never came: ${what}`);
        await sleep(10);
    }
}

// The values of a page of metrics, by name and labels.
export function valuesOf(page) {
    const values = {};
    for (const line of page.split("\n")) {
        const m = /^([^\s{]+)(\{[^}]*\})? (\S+)$/.exec(line);
        if (m && !line.startsWith("#")) values[m[1] + (m[2] ?? "").replace(/model_name="[^"]*",engine="0",?/, "").replace("{}", "")] = Number(m[3]);
    }
    return values;
}

export class Server {
    log = "";
    shared = false; // a table's server, which the table itself ends
    exit = null; // { code, signal } once it ended

    // hosts: raw requests give the Host "x", which is no name of this machine.
    static async start(args = [], { env = {}, device = "fake", model = demo, ready = true, hosts = ["x"] } = {}) {
        const s = new Server();
        const all = ["serve", "--model", model, "--port", "0", "--device", device, "--threads", "1", ...hosts.flatMap((h) => ["--allowed-host", h]), ...args];
        s.child = spawn(binary, all, {
            cwd: root,
            stdio: ["ignore", "pipe", "pipe"],
            env: { ASAN_OPTIONS: "abort_on_error=0:exitcode=99", ...process.env, ...env },
        });
        running.add(s);
        s.child.on("close", () => running.delete(s));
        for (const stream of [s.child.stdout, s.child.stderr]) {
            stream.on("data", (d) => {
                s.log += d;
            });
        }
        s.ended = new Promise((done) => {
            s.child.on("close", (code, signal) => {
                s.exit = { code, signal };
                done(s.exit);
            });
        });
        await until("the listening line", () => s.exit || /listening on http:\/\/\S+/.test(s.log));
        const at = /listening on (http:\/\/[^\s,]+:(\d+))/.exec(s.log);
        if (!at) return s; // it ended instead: the test looks at exit and log
        s.url = at[1];
        s.port = Number(at[2]);
        if (ready) await until("readiness", async () => s.exit || (await s.get("/ready")).status === 200);
        return s;
    }

    // One request over its own connection, unless an agent is given.
    request(method, target, { body, headers = {}, agent = false } = {}) {
        return new Promise((done, failed) => {
            const data = body === undefined ? undefined : typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
            const req = http.request(
                { host: "127.0.0.1", port: this.port, path: target, method, agent,
                  headers: data === undefined ? headers : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(data), ...headers } },
                (res) => {
                    const parts = [];
                    res.on("data", (d) => parts.push(d));
                    res.on("aborted", () => done({ status: res.statusCode, headers: res.headers, text: Buffer.concat(parts).toString(), aborted: true }));
                    res.on("end", () => {
                        const text = Buffer.concat(parts).toString();
                        let json;
                        try { json = JSON.parse(text); } catch { /* not JSON */ }
                        done({ status: res.statusCode, headers: res.headers, text, json });
                    });
                });
            req.on("error", failed);
            req.end(data);
        });
    }

    get(target, options) { return this.request("GET", target, options); }
    post(target, body, options) { return this.request("POST", target, { body, ...options }); }

    async metrics() { return valuesOf((await this.get("/metrics")).text); }

    // Running and waiting sequences, past the 20 ms for which a page of metrics is kept.
    async idle() {
        await until("an idle engine", async () => {
            const m = await this.metrics();
            return m["vllm:num_requests_running"] === 0 && m["vllm:num_requests_waiting"] === 0 &&
                   m['fathom_cache_pages{state="used"}'] === 0;
        });
    }

    // Waits until the engine is idle, then says whether clients' leaving is why: so many of them
    // left, and the tokens they asked for were not computed to the end.
    async cancelled({ clients, below }) {
        await until("the server sees them leave", async () => (await this.metrics())["fathom_http_client_left_total"] === clients);
        await this.idle();
        const tokens = (await this.metrics())["vllm:generation_tokens_total"];
        assert.ok(tokens < below, `${tokens} tokens were computed, of ${below} asked for`);
    }

    signal(name) {
        this.signalled = true;
        this.child.kill(name);
    }

    // A server that was told to end is only waited for: a second signal would cut it short.
    async stop(signal = "SIGTERM", code = 0) {
        if (!this.exit && !this.signalled) this.signal(signal);
        const timer = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE);
        const end = await this.ended;
        clearTimeout(timer);
        this.clean();
        assert.deepEqual(end, { code, signal: null }, `exit of the server; its log:\n${this.log.slice(-4000)}`);
        return end;
    }

    // Every test ends by asking the log for what must never be there.
    clean() {
        const bad = this.log.split("\n").filter((l) => /\balert\b|Sanitizer|runtime error/.test(l) && !this.expected?.test(l));
        assert.deepEqual(bad, [], "the log holds an alert or a sanitizer's report");
    }
}

// Runs body with a server and always ends it.
export async function withServer(args, options, body) {
    if (typeof options === "function") [options, body] = [{}, options];
    await serving(await Server.start(args, options), body);
}

// Ends a started server after body(s), and tells its log where that fails.
export async function serving(s, body) {
    try {
        await body(s);
    } catch (error) {
        if (!s.exit) s.child.kill("SIGKILL");
        error.message += `\nserver log:\n${s.log.slice(-3000)}`;
        throw error;
    }
    await s.stop();
}

// Splits an event stream into its data payloads.
export function events(text) {
    return text.split("\n\n").filter((e) => e.startsWith("data: ")).map((e) => e.slice(6));
}
export function chunks(text) {
    return events(text).filter((e) => e !== "[DONE]").map((e) => JSON.parse(e));
}
export const textOf = (text) => chunks(text).map((c) => c.choices[0]?.text ?? c.choices[0]?.delta?.content ?? "").join("");
