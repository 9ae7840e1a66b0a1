// One case of tests/hostile/cases: a server, what it answers and holds before, the attack, the
// same again afterwards. The README says what a case may export.
import "./binary.mjs";
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Raw, exchange, parse, post } from "../../http/lib/raw.mjs";
import { Server, binary, chunks, demo, events, sleep, until } from "../../http/lib/server.mjs";
import { Monitor } from "./monitor.mjs";
import { temporary } from "./models.mjs";
import * as proc from "./proc.mjs";
import { probe } from "./probe.mjs";
import { Stream } from "./stream.mjs";

export const PATIENCE_FACTOR = binary.includes("san-") ? 25 : 1; // sanitizers compute so much longer
export const SCALE = Number(process.env.HOSTILE_SCALE ?? 0.25); // 1: full size
const SETTLES = 20000 * Math.min(PATIENCE_FACTOR, 6);
const HEALTH_COMPUTED = 50; // ms the loop may compute before it answers /health
const HEALTH_BLOCKED = 1500; // ms it may neither compute nor wait for a processor

export const KEYS = { alpha: "sk-hostile-alpha-01", beta: "sk-hostile-beta-002", gamma: "sk-hostile-gamma-03" };
let help;
export const option = (name) => (help ??= execFileSync(binary, ["serve", "--help"]).toString()).includes(`${name} `);
export const ledger = (m) => Object.entries(m).filter(([k]) => /request_memory|ledger/.test(k) && /bytes/.test(k) && !/total|limit|max|peak|ceiling/.test(k)).reduce((sum, [, v]) => sum + v, 0);

// What every attack gets beside the server.
export class Tools {
    constructor(server, def) {
        Object.assign(this, { server, def, pid: server.child.pid, option, Raw, parse, post, exchange, chunks, events, sleep, until, assert, proc, probe, slow: PATIENCE_FACTOR, KEYS });
        this.headers = def.keys ? { "X-Api-Key": KEYS.alpha } : {};
    }
    scale(full, least = 1) { return Math.max(least, Math.round(full * SCALE)); }
    key(name) { return { headers: { "X-Api-Key": KEYS[name] } }; }
    line(name) { return `X-Api-Key: ${KEYS[name]}\r\n`; }
    cpu() { return proc.cpu(this.pid); }
    stream(body, { path: at = "/v1/completions", headers = "" } = {}) { return new Stream(this.server, at, body, headers); }
    open(options) { return Raw.open(this.server.port, options); }
    opens(n) { return Promise.all(Array.from({ length: n }, () => this.open())); }
    complete(body, options) { return this.server.post("/v1/completions", body, options).catch((error) => ({ status: 0, text: String(error) })); }
    schema(schema, more = {}) {
        return { prompt: "And", max_tokens: 40, temperature: 0, response_format: { type: "json_schema", json_schema: { name: "x", schema } }, ...more };
    }
    // fn(i) for i < n, `width` at a time.
    async many(n, width, fn) {
        let next = 0;
        await Promise.all(Array.from({ length: Math.min(width, n) }, async () => { while (next < n && !this.server.exit) await fn(next++); }));
    }
    alive(when = "") { assert.ok(!this.server.exit, `the server ended ${when}`); }
    // A request is answered in some way, and a failure of the engine is none.
    answered(r, statuses = [200, 400, 413, 422, 429, 500, 503]) {
        this.alive();
        assert.ok(statuses.includes(r.status), `status ${r.status}: ${r.text?.slice(0, 300)}`);
        const code = r.json?.error?.code;
        assert.notEqual(code, "numeric", `the request was taken for a sick engine: ${r.text?.slice(0, 200)}`);
    }
    // Processor time of the server while fn runs, in ms.
    async cost(fn) {
        const start = this.cpu();
        await fn();
        return this.cpu() - start;
    }
}

// The server with nothing running: pages, descriptors, bytes held.
async function measure(s, headers) {
    const m = {};
    for (const line of (await s.get("/metrics", { headers })).text.split("\n")) {
        const [, name, labels = "", value] = /^([^\s{#]+)(\{[^}]*\})? (\S+)$/.exec(line) ?? [];
        if (name) m[name + labels.replace(/model_name="[^"]*",engine="0",?/, "").replace("{}", "")] = Number(value);
    }
    const pages = m['fathom_cache_pages{state="free"}'] + m['fathom_cache_pages{state="cached"}'];
    return { pages, used: m['fathom_cache_pages{state="used"}'], running: m["vllm:num_requests_running"], waiting: m["vllm:num_requests_waiting"],
        buffered: m["fathom_http_buffered_bytes"] ?? 0, inFlight: m["fathom_http_requests_in_flight"], descriptors: proc.descriptors(s.child.pid), ledger: ledger(m), metrics: m };
}

const quiet = (now) => now.used === 0 && now.running === 0 && now.waiting === 0 && now.buffered === 0 && now.inFlight === 1;
const brief = ({ metrics, ...rest }) => JSON.stringify(rest);

// Waits until nothing of the attack is left; the last measurement names what is. Without a
// measurement from before it waits until nothing runs.
export async function settled(s, before, headers = {}, patience = SETTLES) {
    const end = Date.now() + patience;
    let now;
    do {
        now = await measure(s, headers);
        // One descriptor more may be the connection that asks.
        if (quiet(now) && !before) return now;
        if (quiet(now) && now.pages === before.pages && now.descriptors <= before.descriptors + 1 && now.ledger <= before.ledger) return now;
        await sleep(100);
    } while (Date.now() < end && !s.exit);
    assert.fail(s.exit ? "the server ended" : `something is left: before ${before && brief(before)}, now ${brief(now)}`);
}

export async function start(def) {
    const args = typeof def.args === "function" ? def.args(option) : [...(def.args ?? [])];
    if (def.keys) {
        const file = path.join(temporary(), "keys");
        writeFileSync(file, Object.entries(KEYS).map(([name, key]) => `${key} ${name}\n`).join(""));
        args.push("--api-key-file", file);
    }
    if (def.admin && option("--admin-port")) args.push("--admin-port", "0");
    const s = await Server.start(args, { device: def.device ?? "cpu", env: def.env ?? {}, model: def.model ?? demo });
    const admin = /health, readiness and metrics on http:\/\/[^\s:]+:(\d+)/.exec(s.log);
    if (admin) s.adminPort = Number(admin[1]);
    s.expected = def.expectedLog;
    return s;
}

function judgeHealth(report, def) {
    const bound = (def.health?.computed ?? HEALTH_COMPUTED) * PATIENCE_FACTOR, blocked = (def.health?.blocked ?? HEALTH_BLOCKED) * PATIENCE_FACTOR;
    assert.deepEqual(report.failed, [], "/health did not say 200 during the attack");
    assert.ok(report.worst.computed <= bound, `the loop computed ${report.worst.computed.toFixed(0)} ms before it answered /health (${bound} allowed)`);
    assert.ok(report.worst.blocked <= blocked, `/health waited ${report.worst.blocked.toFixed(0)} ms for a loop that did not compute (${blocked} allowed)`);
}

// A case whole: throws what it found wrong.
export async function run(def, record = () => {}) {
    const s = await start(def), pid = s.child.pid;
    const tools = new Tools(s, def);
    tools.record = record;
    try {
        const first = await probe(s, tools.headers);
        const before = { ...await settled(s, null, tools.headers), rssMB: proc.rssMB(pid) };
        tools.before = before;
        const port = s.adminPort ?? s.port;
        const monitor = def.health === false ? null : new Monitor(pid, port, { fresh: def.health?.fresh });
        let wrong = null, report = null;
        try {
            await def.attack(s, tools);
        } catch (error) { wrong = error; }
        if (monitor) report = await Promise.race([monitor.stop(), s.ended]);
        if (s.exit) throw new Error(`the attack ended the server with ${JSON.stringify(s.exit)}${wrong ? ` (the case saw: ${wrong.message})` : ""}`);
        if (wrong) throw wrong;
        if (report?.worst) {
            record(`health: ${report.asked} asked, worst ${report.worst.computed.toFixed(1)} ms computed, ${report.worst.wall.toFixed(0)} ms by the clock; ${before.rssMB.toFixed(0)} MB before, ${report.peakMB.toFixed(0)} MB at most`);
            judgeHealth(report, def);
        }
        tools.peakMB = report?.peakMB;
        const after = await settled(s, before, tools.headers, def.settle ? def.settle * 1000 * PATIENCE_FACTOR : undefined);
        assert.equal((await s.get("/health")).status, 200);
        assert.equal(s.child.pid, pid);
        assert.equal(await probe(s, tools.headers), first, "the probe's answers differ after the attack");
        if (def.rssMB && PATIENCE_FACTOR === 1) {
            const most = before.rssMB + (typeof def.rssMB === "function" ? def.rssMB(option) : def.rssMB);
            assert.ok(report.peakMB <= most, `${report.peakMB.toFixed(0)} MB resident at the worst; ${before.rssMB.toFixed(0)} before, ${most.toFixed(0)} allowed`);
        }
        await def.check?.(s, { ...tools, before, after });
    } catch (error) {
        if (!s.exit) s.child.kill("SIGKILL");
        error.message += `\nserver log:\n${s.log.split("\n").filter((l) => !/ info /.test(l)).slice(-8).join("\n")}`;
        throw error;
    }
    await s.stop();
}
