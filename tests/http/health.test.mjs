// `fathom health`: what a container's health check learns of a server, with nothing but the program.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import net from "node:net";
import { test } from "node:test";
import { hold } from "./lib/raw.mjs";
import { Server, binary, until, withServer } from "./lib/server.mjs";

function health(...args) {
    return new Promise((done) => {
        const child = spawn(binary, ["health", ...args]);
        const r = { out: "", err: "" };
        child.stdout.on("data", (d) => { r.out += d; });
        child.stderr.on("data", (d) => { r.err += d; });
        child.on("close", (code, signal) => done({ ...r, code, signal }));
    });
}
const never = (r, words) => {
    assert.equal(r.code, 1, r.err);
    assert.match(r.err, words);
    assert.equal(r.out, "");
};

// A server of one connection that plays the script.
async function played(script, body) {
    const server = net.createServer((socket) => { socket.on("error", () => {}); script(socket); });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    try {
        return await body(`http://127.0.0.1:${server.address().port}`);
    } finally {
        server.close();
        server.unref();
    }
}

test("a server that is alive gives 0, under every spelling of its address", async () => {
    await withServer(["--admin-port", "0"], async (s) => {
        const admin = /metrics on (http:\/\/\S+)/.exec(s.log)[1];
        const port = s.port;
        for (const url of [s.url, `${s.url}/`, `${s.url}/health`, `127.0.0.1:${port}`, `HTTP://localhost:${port}`, `${s.url}/#top`, admin]) {
            const r = await health(url);
            assert.deepEqual([r.code, r.err], [0, ""], url);
            assert.match(r.out, /\/health: 200\n$/);
        }
        assert.equal((await health("--url", s.url)).code, 0);
        assert.match((await health(s.url, "--ready")).out, /\/ready: 200\n$/);
        assert.match((await health(`${s.url}/v1/models`)).out, /\/v1\/models: 200\n$/);
        never(await health(`${s.url}/nothing`), /\/nothing: 404/);
        await until("the server saw them", async () => (await s.metrics())['fathom_http_requests_total{route="/health"}'] >= 8);
    });
});

test("a server that loads is alive and not ready; one that ends is neither ready nor, later, there", async () => {
    const s = await Server.start(["--fake-us-per-token", "20000"], { ready: true });
    const held = await hold(s.port); // the drain does not end before it was asked about
    s.signal("SIGTERM");
    await until("it drains", () => /drain|shutting down|stopping/i.test(s.log));
    never(await health(s.url, "--ready"), /: 503/);
    held.destroy();
    await s.stop();
    never(await health(s.url), /Connection refused/);
});

test("a server that does not answer in time gives 1", async () => {
    const silent = (socket) => socket.resume();
    never(await played(silent, (url) => health(url, "--timeout", "0.3")), /no answer within 0\.3 s/);
    const slow = (socket) => { socket.resume(); const timer = setInterval(() => socket.write("H"), 50); socket.on("close", () => clearInterval(timer)); };
    never(await played(slow, (url) => health(url, "--timeout", "0.5")), /no answer within 0\.5 s/);
});

test("an answer that is none gives 1", async () => {
    const says = (text) => (socket) => socket.once("data", () => socket.end(text));
    for (const [text, words] of [
        ["", /ended without an answer/], ["SSH-2.0-OpenSSH\r\n", /not HTTP/], ["HTTP/1.1 200 OK", /not HTTP/], ["HTTP/1.1 2\r\n\r\n", /not HTTP/],
        ["HTTP/2 200 OK\r\n\r\n", /not HTTP/], ["x".repeat(100000), /not HTTP/], ["HTTP/1.1 503 No\r\n\r\n", /: 503/], ["HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", /: 301/],
    ]) never(await played(says(text), (url) => health(url)), words);
    assert.equal((await played(says("HTTP/1.0 200 fine\n\n"), (url) => health(url))).code, 0);
    never(await played((socket) => socket.resetAndDestroy(), (url) => health(url)), /reset|ended without an answer/);
});

test("a wrong URL is bad usage, and says why", async () => {
    for (const [url, words] of [
        ["https://127.0.0.1:8080", /asks for TLS/], ["http://", /names no host/], ["", /names no host/], ["http://:8080", /names no host/], ["http://[::1", /lacks a \]/],
        ["http://[]:80", /names no host/], ["http://a:0", /no valid port/], ["http://a:65536", /no valid port/], ["http://a:", /no valid port/], ["http://a:8x", /no valid port/],
        ["http://user@host", /names no host/], ["http://a/\r\nX: y", /blank or control/], [`http://a/${"x".repeat(2000)}`, /longer than 1000 bytes/], [`http://${"a".repeat(400)}`, /names no host/],
    ]) {
        const r = await health("--url", url);
        assert.equal(r.code, 2, url);
        assert.match(r.err, words);
    }
    assert.equal((await health("--timeout", "0")).code, 2);
    never(await health("http://nowhere.invalid"), /nowhere\.invalid/);
});
