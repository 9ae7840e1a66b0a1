// What a service manager hears on NOTIFY_SOCKET, from the real server inside its sandbox.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { hold } from "./lib/raw.mjs";
import { Server, sleep, until, withServer } from "./lib/server.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-notify-"));
after(() => rmSync(dir, { recursive: true, force: true }));
// Node has no datagrams of AF_UNIX.
const skip = spawnSync("python3", ["-c", ""]).status === 0 ? false : "no python3 here";

// Prints each datagram as one line of JSON.
const receiver = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = sys.argv[1]
s.bind("\\0" + name[1:] if name[0] == "@" else name)
print("bound", flush=True)
while True:
    print(json.dumps(s.recv(4096).decode()), flush=True)
`;
let n = 0;
async function withManager(name, body) {
    const said = [];
    const child = spawn("python3", ["-c", receiver, name], { stdio: ["ignore", "pipe", "inherit"] });
    let bound = false, text = "";
    child.stdout.on("data", (d) => {
        text += d;
        const lines = text.split("\n");
        text = lines.pop();
        for (const line of lines) line === "bound" ? (bound = true) : said.push(JSON.parse(line));
    });
    const ended = new Promise((done) => child.on("close", done));
    try {
        await until("the manager listens", () => bound);
        await body(said);
    } finally {
        child.kill("SIGKILL");
        await ended;
    }
}
const fields = (message) => Object.fromEntries(message.split("\n").map((line) => line.split(/=(.*)/s).slice(0, 2)));

for (const name of [path.join(dir, "socket"), `@fathom-test-${process.pid}`]) {
    test(`loading, ready, draining and the end are told on ${name[0] === "@" ? "an abstract address" : "a socket file"}`, { skip }, async () => {
        await withManager(name, async (said) => {
            const s = await Server.start(["--fake-us-per-token", "20000"], { env: { NOTIFY_SOCKET: name } });
            await until("READY", () => said.some((m) => /^READY=1$/m.test(m)));
            assert.match(fields(said[0]).STATUS, /^loading .*models\/demo$/);
            assert.ok(Number(fields(said[0]).EXTEND_TIMEOUT_USEC) >= 10e6);
            assert.ok(!said[0].includes("READY"));
            const ready = fields(said.find((m) => m.includes("READY")));
            assert.equal(ready.STATUS, `serving demo on ${s.url}`);
            assert.equal((await s.get("/ready")).status, 200);
            const held = await hold(s.port); // the drain does not end before it was heard of
            const answer = s.post("/v1/completions", { prompt: "Lord", max_tokens: 30, ignore_eos: true });
            await until("both are in", async () => (await s.metrics())['fathom_http_requests_total{route="/completions"}'] === 2);
            s.signal("SIGTERM");
            await until("STOPPING", () => said.some((m) => /^STOPPING=1$/m.test(m)));
            assert.equal(fields(said.find((m) => m.includes("STOPPING"))).STATUS, "draining");
            held.destroy();
            assert.equal((await answer).status, 200, "what was running ends well");
            await s.stop();
            assert.ok(said.every((m) => !m.includes("WATCHDOG")), "nobody asked for signs of life");
        });
    });
}

test("signs of life come as often as asked, and stop when the engine stands still", { skip }, async () => {
    const name = path.join(dir, `dog-${n++}`);
    await withManager(name, async (said) => {
        const beats = () => said.filter((m) => m === "WATCHDOG=1").length;
        // The engine hangs in its first launch, and is found dead after two seconds.
        const s = await Server.start(["--hang-seconds", "2"], { env: { NOTIFY_SOCKET: name, WATCHDOG_USEC: "300000", FATHOM_FAULT: "stall:1" } });
        s.expected = /engine/;
        await until("ten beats", () => beats() >= 10);
        s.post("/v1/completions", { prompt: "Lord", max_tokens: 4 }).catch(() => {});
        const end = await s.ended;
        assert.notEqual(end.code, 0);
        await until("the end is told", () => said.some((m) => m.startsWith("STOPPING=1")));
        assert.match(said.find((m) => m.startsWith("STOPPING=1")), /STATUS=the engine does not answer/);
        const last = beats();
        await sleep(400);
        assert.equal(beats(), last);
    });
});

test("signs of life are for the process that is named", { skip }, async () => {
    const name = path.join(dir, `dog-${n++}`);
    await withManager(name, async (said) => {
        const s = await Server.start([], { env: { NOTIFY_SOCKET: name, WATCHDOG_USEC: "60000", WATCHDOG_PID: "1" } });
        await until("READY", () => said.some((m) => m.includes("READY=1")));
        await sleep(300);
        await s.stop();
        assert.ok(said.every((m) => !m.includes("WATCHDOG")));
    });
});

test("a model that cannot be loaded is told before the end", { skip }, async () => {
    const name = path.join(dir, `bad-${n++}`);
    await withManager(name, async (said) => {
        const s = await Server.start([], { model: dir, ready: false, env: { NOTIFY_SOCKET: name } });
        assert.equal((await s.ended).code, 2);
        await until("STOPPING", () => said.some((m) => m.startsWith("STOPPING=1\nSTATUS=the model could not be loaded")));
        assert.ok(said.every((m) => !m.includes("READY")));
    });
});

test("a manager that is not there, or goes away, costs one warning", { skip }, async () => {
    for (const bad of [path.join(dir, "nobody"), "relative", "@", "/", `/${"x".repeat(200)}`, "vsock:2:1"]) {
        await withServer([], { env: { NOTIFY_SOCKET: bad, WATCHDOG_USEC: "100000" } }, async (s) => {
            assert.equal(s.log.match(/NOTIFY_SOCKET/g).length, 1, bad);
            assert.equal((await s.get("/ready")).status, 200);
        });
    }
    await withServer([], { env: { NOTIFY_SOCKET: "" } }, async (s) => assert.ok(!s.log.includes("NOTIFY_SOCKET")));
    const name = path.join(dir, `gone-${n++}`);
    let s;
    await withManager(name, async (said) => {
        s = await Server.start([], { env: { NOTIFY_SOCKET: name, WATCHDOG_USEC: "100000" } });
        await until("beats", () => said.filter((m) => m === "WATCHDOG=1").length >= 2);
    });
    await until("the warning", () => /the service manager is not told more/.test(s.log));
    assert.equal((await s.get("/ready")).status, 200);
    await s.stop();
    assert.equal(s.log.match(/service manager/g).length, 1);
});

test("while a model loads for long, more time is asked for", { skip }, async () => {
    const name = path.join(dir, `slow-${n++}`);
    await withManager(name, async (said) => {
        const s = await Server.start([], { env: { NOTIFY_SOCKET: name, WATCHDOG_USEC: "900000", FATHOM_FAULT: "load:7000" }, ready: false });
        await until("READY", () => said.some((m) => m.includes("READY=1")));
        const before = said.slice(0, said.findIndex((m) => m.includes("READY=1")));
        assert.ok(before.some((m) => /^EXTEND_TIMEOUT_USEC=\d{8}$/.test(m)), said.join("; "));
        assert.ok(before.includes("WATCHDOG=1"), "the loop lives while the model loads");
        await s.stop();
    });
});
