// What a page may do to a server on its visitor's machine: a page of another site gives it no work,
// and a page that points its own name here (DNS rebinding) reads nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { exchange } from "./lib/raw.mjs";
import { assertError } from "./lib/rows.mjs";
import { Server, withServer } from "./lib/server.mjs";

const body = JSON.stringify({ model: "demo", prompt: "Lord", max_tokens: 2, temperature: 0, ignore_eos: true });
const lines = (headers) => Object.entries(headers).filter(([, v]) => v !== undefined).map(([k, v]) => `${k}: ${v}\r\n`).join("");
const get = (port, target, headers) => exchange(port, `GET ${target} HTTP/1.1\r\n${lines(headers)}\r\n`);
const json = { "Content-Type": "application/json" };
const ask = (port, headers, target = "/v1/completions") =>
    exchange(port, `POST ${target} HTTP/1.1\r\n${lines({ Host: `localhost:${port}`, "Content-Length": body.length, ...headers })}\r\n${body}`);
const own = { hosts: [] };

test("on loopback a Host must be a local name: any other gets 403 on every path, and the option is named", async () => {
    await withServer([], own, async (s) => {
        for (const Host of ["localhost", `localhost:${s.port}`, `LOCALHOST.:${s.port}`, "app.localhost", "127.0.0.1", "127.8.9.1:1", "[::1]:8080"]) {
            assert.equal((await get(s.port, "/v1/models", { Host })).status, 200, Host);
        }
        for (const Host of ["evil.com", `evil.com:${s.port}`, "localhost.evil.com", "127.0.0.1.evil.com", "127.1", "10.0.0.1", "[::1", "user@localhost", "localhost:80:80",
            "local%68ost", "[::1%25lo]", "x".repeat(3000), "", "*"]) {
            for (const target of ["/health", "/ready", "/metrics", "/", "/v1/models", "/openapi.json", "/nothing"]) {
                const r = await get(s.port, target, { Host });
                assertError(r, 403, { type: "permission_error", code: "unknown_host" });
                assert.match(JSON.parse(r.body).error.message, /--allowed-host/);
            }
            const work = await ask(s.port, { Host, ...json });
            assertError(work, 403, { code: "unknown_host" });
            const preflight = await exchange(s.port, `OPTIONS /v1/completions HTTP/1.1\r\n${lines({ Host, Origin: `http://${Host}`, "Access-Control-Request-Method": "POST" })}\r\n`);
            assert.equal(preflight.status, 403);
        }
        const old = await exchange(s.port, "GET /health HTTP/1.0\r\n\r\n", { closes: true });
        assert.equal(old.status, 200, "HTTP/1.0 has no Host; browsers do not speak it");
        assert.ok((await s.metrics())['fathom_http_refused_total{why="foreign"}'] >= 100);
    });
});

test("a rebound page that is its own origin is refused as well", async () => {
    await withServer([], own, async (s) => {
        const r = await ask(s.port, { Host: `evil.com:${s.port}`, Origin: `http://evil.com:${s.port}`, "Sec-Fetch-Site": "same-origin", ...json });
        assertError(r, 403, { code: "unknown_host" });
        assert.equal(r.headers["access-control-allow-origin"], undefined);
    });
    await withServer(["--cors-origin", "*"], own, async (s) => {
        const r = await get(s.port, "/v1/models", { Host: "evil.com", Origin: "http://evil.com" });
        assertError(r, 403, { code: "unknown_host" });
        assert.equal(r.headers["access-control-allow-origin"], undefined);
    });
});

test("--allowed-host adds names, * any; bound to all addresses any Host will do unless names are given", async () => {
    await withServer(["--allowed-host", "fathom.example.org", "--allowed-host", "10.0.0.7"], own, async (s) => {
        for (const Host of ["Fathom.Example.org", "fathom.example.org:443", "10.0.0.7:80", "localhost"]) assert.equal((await get(s.port, "/v1/models", { Host })).status, 200);
        for (const Host of ["www.fathom.example.org", "10.0.0.8"]) assertError(await get(s.port, "/v1/models", { Host }), 403);
    });
    await withServer(["--allowed-host", "*"], own, async (s) => {
        assert.equal((await get(s.port, "/v1/models", { Host: "anything at all" })).status, 200);
    });
    await withServer(["--host", "0.0.0.0"], own, async (s) => {
        for (const Host of ["10.1.2.3:8080", "fathom.example.org"]) assert.equal((await get(s.port, "/health", { Host })).status, 200);
    });
    await withServer(["--host", "0.0.0.0", "--allowed-host", "fathom.example.org"], own, async (s) => {
        assert.equal((await get(s.port, "/health", { Host: "fathom.example.org" })).status, 200);
        assert.equal((await get(s.port, "/health", { Host: "localhost:8080" })).status, 200);
        assertError(await get(s.port, "/health", { Host: "evil.com" }), 403);
    });
    const bad = await Server.start(["--allowed-host", "http://a.example"], { ready: false });
    assert.equal((await bad.ended).code, 2);
    assert.match(bad.log, /--allowed-host/);
});

test("a POST from another site's page gets 403, whatever route and type, and does no work", async () => {
    await withServer([], own, async (s) => {
        const others = ["http://evil.com", "https://evil.com", "null", "", "file://", "chrome-extension://abcdef", "http://localhost:3000", `http://127.0.0.1:${s.port}`,
            `http://localhost:${s.port}.evil.com`, `http://localhost:${s.port}@evil.com`];
        for (const Origin of others) {
            for (const target of ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize"]) {
                for (const type of [json, { "Content-Type": "text/plain" }, {}]) {
                    const r = await ask(s.port, { Origin, ...type }, target);
                    assertError(r, 403, { type: "permission_error", code: "origin_not_allowed" });
                    assert.match(JSON.parse(r.body).error.message, /--cors-origin/);
                    assert.equal(r.headers["access-control-allow-origin"], undefined);
                }
            }
        }
        assertError(await ask(s.port, { "Sec-Fetch-Site": "cross-site", ...json }), 403, { code: "origin_not_allowed" });
        assert.equal((await s.metrics())["vllm:prompt_tokens_total"], 0);
    });
});

test("the page we serve, programs and allowed origins are let in", async () => {
    await withServer(["--cors-origin", "https://app.example", "--cors-origin", "chrome-extension://abcdef"], own, async (s) => {
        const local = `http://localhost:${s.port}`;
        for (const headers of [{}, { Origin: local }, { Origin: local.toUpperCase() }, { Origin: local, "Sec-Fetch-Site": "same-origin" }, { "Sec-Fetch-Site": "none" },
            { Origin: "https://app.example" }, { Origin: "https://app.example", "Sec-Fetch-Site": "cross-site" }, { Origin: "chrome-extension://abcdef" }]) {
            assert.equal((await ask(s.port, { ...headers, ...json })).status, 200, JSON.stringify(headers));
        }
        assert.equal((await ask(s.port, { Host: `[::1]:${s.port}`, Origin: `http://[::1]:${s.port}`, ...json })).status, 200);
        const proxied = await ask(s.port, { Host: "127.0.0.1:8080", Origin: "https://fathom.example.org", "Sec-Fetch-Site": "same-origin", ...json });
        assert.equal(proxied.status, 200, "a proxy may put its own Host; the browser says that the page is ours");
        const preflight = await exchange(s.port, `OPTIONS /v1/completions HTTP/1.1\r\n${lines({ Host: "localhost", Origin: "https://app.example", "Access-Control-Request-Method": "POST" })}\r\n`);
        assert.equal(preflight.status, 204);
        assert.equal(preflight.headers["access-control-allow-origin"], "https://app.example");
    });
});

test("beside an Origin the Content-Type must be there", async () => {
    await withServer(["--cors-origin", "*"], own, async (s) => {
        for (const Origin of [`http://localhost:${s.port}`, "https://anywhere.example", "null"]) {
            assertError(await ask(s.port, { Origin }), 415);
            assertError(await ask(s.port, { Origin, "Content-Type": "text/plain" }), 415);
            assertError(await ask(s.port, { Origin, "Content-Type": "application/x-www-form-urlencoded" }), 415);
            assert.equal((await ask(s.port, { Origin, ...json })).status, 200);
        }
        assert.equal((await ask(s.port, {})).status, 200, "a program need not say it");
    });
});

test("what a page may read of another site stays as it was: GETs without CORS headers", async () => {
    await withServer([], own, async (s) => {
        for (const target of ["/metrics", "/v1/models", "/"]) {
            const r = await get(s.port, target, { Host: "localhost", Origin: "http://evil.com", "Sec-Fetch-Site": "cross-site" });
            assert.equal(r.status, 200);
            assert.equal(r.headers["access-control-allow-origin"], undefined);
        }
    });
});
