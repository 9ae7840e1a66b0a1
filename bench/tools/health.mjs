#!/usr/bin/env node
// How long GET /health takes on a new connection while the server is full: of idle connections, of
// work, of request bodies that never end. Main port and admin port, 200 requests in each state.
//   node bench/tools/health.mjs [build/fathom]
// Needs ulimit -n above 2 * CONNECTIONS. No packages.
import { execFileSync, spawn } from "node:child_process";
import net from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const fathom = path.resolve(process.argv[2] ?? path.join(root, "build/fathom"));
const CONNECTIONS = 4000, REQUESTS = 200, BODY = 1 << 20;
const help = execFileSync(fathom, ["serve", "--help"], { encoding: "utf8" });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function start(...args) {
    const child = spawn(fathom, ["serve", "--model", path.join(root, "models/demo"), "--device", "fake", "--port", "0", "--admin-port", "0",
        "--header-seconds", "3600", "--body-seconds", "3600", "--idle-seconds", "3600", ...args], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    child.stderr.on("data", (d) => { log += d; });
    while (!/ready on/.test(log)) {
        if (child.exitCode !== null) throw new Error(log);
        await sleep(10);
    }
    const port = (what) => Number(new RegExp(`${what} http://[^:]+:(\\d+)`).exec(log)[1]);
    return { child, main: port("listening on"), admin: port("metrics on") };
}

const open = (port, bytes) => new Promise((done, failed) => {
    const c = net.connect({ port, host: "127.0.0.1" }, () => {
        if (bytes) c.write(bytes);
        done(c);
    });
    c.on("error", failed);
    c.once("connect", () => { c.off("error", failed); c.on("error", () => {}); });
    c.resume();
});
async function openMany(n, port, bytes) {
    const all = [];
    while (all.length < n) all.push(...await Promise.all(Array.from({ length: Math.min(50, n - all.length) }, () => open(port, bytes))));
    await sleep(1500); // longer than what a newcomer may take
    return all;
}

// Milliseconds from the start of the connection to the whole answer; null: not a 200 within 5 s.
const ask = (port, target) => new Promise((done) => {
    const from = performance.now();
    let text = "";
    const c = net.connect({ port, host: "127.0.0.1" }, () => c.write(`GET ${target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`));
    const end = (ms) => { clearTimeout(timer); c.destroy(); done(ms); };
    const timer = setTimeout(end, 5000, null);
    c.on("data", (d) => { text += d; });
    c.on("error", () => end(null));
    c.on("close", () => end(text.startsWith("HTTP/1.1 200") ? performance.now() - from : null));
});

async function measure(state, port, which) {
    const times = [];
    let lost = 0;
    for (let i = 0; i < REQUESTS && lost < 3; i++) {
        const ms = await ask(port, "/health");
        if (ms === null) lost++;
        else times.push(ms);
    }
    times.sort((a, b) => a - b);
    const at = (q) => (times.length ? times[Math.min(times.length - 1, Math.floor(q * times.length))].toFixed(2) : "-");
    console.log(`| ${state} | ${which} | ${times.length} | ${at(0.5)} | ${at(0.99)} | ${at(1)} |`);
}

async function state(name, args, fill) {
    const s = await start(...args);
    const held = fill ? await fill(s) : [];
    await measure(name, s.main, "main");
    await measure(name, s.admin, "admin");
    for (const c of held) c.destroy();
    s.child.kill("SIGKILL");
}

const post = (body, length = body.length) => `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n${body}`;
const long = (prompt) => post(JSON.stringify({ model: "demo", prompt, max_tokens: 900, ignore_eos: true, stream: true }));
const limit = ["--max-connections", String(CONNECTIONS)];

console.log(`| state | port | answered of ${REQUESTS} | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|`);
await state("at rest", limit);
await state(`${CONNECTIONS} allowed, ${CONNECTIONS + 500} idle that said nothing`, limit, (s) => openMany(CONNECTIONS + 500, s.main));
await state(`${CONNECTIONS} allowed, ${CONNECTIONS + 500} idle after a request`, limit, (s) => openMany(CONNECTIONS + 500, s.main, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
await state("queue full: 256 run, 1024 wait", [...limit, "--fake-us-per-token", "20000"], (s) => openMany(1280, s.main, long("In the beginning")));
await state("every connection busy (64 allowed)", ["--max-connections", "64", "--fake-us-per-token", "500000"], (s) => openMany(64, s.main, long("Lord")));
if (help.includes("--request-memory")) {
    await state("request memory full: 400 bodies of 1 MB that never end", [...limit, "--request-memory", "128M"],
        (s) => openMany(400, s.main, post("x".repeat(BODY - 1), BODY)));
} else {
    console.log("| request memory full | – | no --request-memory in this build | – | – | – |");
}
