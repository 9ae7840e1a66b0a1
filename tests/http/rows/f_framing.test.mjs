// Table F: HTTP framing. Raw bytes, because no client library would send them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Raw, exchange, parse, post } from "../lib/raw.mjs";
import { Table, assertError } from "../lib/rows.mjs";
import { sleep, until } from "../lib/server.mjs";

const t = new Table("F", ["--max-body", "65536"]);
// For rows that end by a deadline. The others keep the long ones, which a busy machine does not miss.
const hasty = ["--header-seconds", "1.5", "--body-seconds", "1.5", "--max-body", "65536"];
const cutByDeadline = async (s) => (await s.metrics())['fathom_http_cut_total{why="deadline"}'];
const ask = JSON.stringify({ model: "demo", prompt: "Lord", max_tokens: 2, temperature: 0 });

// From 1.0 on the library refuses by itself what it lets through before, which a server says at start.
const strict = (s) => !/libmicrohttpd \S+ takes folded headers/.test(s.log);

// A case that is answered by our screen: status, JSON body, and the connection closes. `early`: a strict
// library is first, and only the status is in our hands.
function refused(id, what, bytes, status, { open = false, type = "invalid_request_error", early = false } = {}) {
    t.row(id, what, async (s) => {
        const r = await exchange(s.port, bytes, { closes: !open });
        if (early && strict(s)) {
            assert.equal(r.status, status);
            assert.ok(r.closed);
            return;
        }
        assertError(r, status, { type });
        if (!open) assert.ok(r.closed, "the connection is closed after the answer");
    });
}
// A case that the library refuses before any callback: the body has the form of all others.
function byLibrary(id, what, bytes, statuses) {
    t.row(id, what, async (s) => {
        const r = await exchange(s.port, bytes, { closes: true });
        assertError(r, statuses, { type: "invalid_request_error" });
        assert.ok(r.closed);
    });
}
// A case that never becomes a request: closed by the sweep.
function cutOff(id, what, bytes) {
    t.row(id, what, async (s) => {
        const c = await Raw.open(s.port);
        c.send(bytes);
        await c.until(null);
        assert.ok(c.closed, "closed at the deadline");
        if (strict(s)) assert.ok([0, 400].includes(parse(c.received)?.status ?? 0)); // refused as soon as it is seen
        else assert.equal(await cutByDeadline(s), 1);
        c.destroy();
    }, { args: hasty });
}
const get = (target, headers = "Host: x\r\n", version = "HTTP/1.1", method = "GET") => `${method} ${target} ${version}\r\n${headers}\r\n`;
const upload = (headers, body = "") => `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}\r\n${body}`;

refused("F1", "HTTP/1.1 without Host", get("/health", ""), 400, { early: true });
refused("F2", "two Hosts", get("/health", "Host: x\r\nHost: y\r\n"), 400);
byLibrary("F3", "an HTTP/0.9 line", "GET /health\r\n\r\n", 400);
t.row("F4", "HTTP/2.0, and the h2 preface", async (s) => {
    assertError(await exchange(s.port, get("/health", "Host: x\r\n", "HTTP/2.0")), 505);
    const r = await exchange(s.port, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", { closes: true });
    assertError(r, 505);
    assert.ok(r.closed);
});
refused("F5", "HTTP/1.2", get("/health", "Host: x\r\n", "HTTP/1.2"), 505, { type: null });
cutOff("F6", "a TLS hello on the plain port", Buffer.from([0x16, 3, 1, 0, 0xa5, 1, 0, 0, 0xa1, 3, 3, ...Array(64).fill(7)]));
cutOff("F7", "NULs, then CRLF", Buffer.from("\0\0\0\0\r\n"));
t.row("F8", "lone CR line ends", async (s) => {
    const r = await exchange(s.port, "GET /health HTTP/1.1\rHost: x\r\r");
    assert.ok(r.status === 400 || (r.status === 0 && r.closed), `status ${r.status}`);
}, { args: hasty });
t.row("F9", "empty method; space in the target", async (s) => {
    const empty = await exchange(s.port, " /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert.ok(empty.status === 400 || (empty.status === 0 && empty.closed), `status ${empty.status}`);
    const space = await exchange(s.port, get("/hea lth"));
    assert.ok([400, 505].includes(space.status), `status ${space.status}`);
}, { args: hasty });
for (const [id, method] of [["F10a", "BREW"], ["F10b", "get"]]) {
    t.row(id, `method ${method}`, async (s) => {
        const r = await exchange(s.port, get("/health", "Host: x\r\n", "HTTP/1.1", method));
        assertError(r, 405);
        assert.equal(r.headers.allow, "GET, HEAD");
    });
}
t.row("F11", "absolute-form target", async (s) => {
    for (const target of ["http://x/health", "HTTP://x:80/health/", "https://x//health"]) {
        assert.equal((await exchange(s.port, get(target))).status, 200, target);
    }
    assertError(await exchange(s.port, get("http://x/nowhere")), 404);
    assertError(await exchange(s.port, get("http://y/health")), 403, { code: "unknown_host" }); // not the Host "x"
    assert.equal((await exchange(s.port, get("http://x/health", "Host: y\r\n"))).status, 200, "the target's host counts");
});
refused("F12a", "OPTIONS *", get("*", "Host: x\r\n", "HTTP/1.1", "OPTIONS"), 400);
refused("F12b", "CONNECT", get("x:80", "Host: x\r\n", "HTTP/1.1", "CONNECT"), 400);
refused("F12c", "TRACE", get("/health", "Host: x\r\n", "HTTP/1.1", "TRACE"), 405, { open: true });
refused("F13", "%00 in the target", get("/health%00x"), 400);
t.row("F14", "a raw NUL in the target", async (s) => {
    const r = await exchange(s.port, "GET /health\0/../x HTTP/1.1\r\nHost: x\r\n\r\n");
    assert.ok([0, 200, 400].includes(r.status), `status ${r.status}`);
    const other = await exchange(s.port, "GET /v1/models/de\0mo HTTP/1.1\r\nHost: x\r\n\r\n");
    assert.ok([0, 400, 404].includes(other.status), `status ${other.status}`);
}, { args: hasty, differs: "the library hands over the text before the NUL; matched exactly, no file behind it, so what is before the NUL is all that is asked for" });
for (const [id, target, status] of [["F15a", "/../etc/passwd", 400], ["F15b", "/%2e%2e/etc/passwd", 404], ["F15c", "/v1\\models", 400]]) {
    refused(id, `target ${target}`, get(target), status, { open: true, type: null });
}
t.row("F15d", "repeated and trailing slashes", async (s) => {
    for (const target of ["//v1/models", "/v1//models/", "/v1/models/?x=1", "//health"]) {
        assert.equal((await exchange(s.port, get(target))).status, 200, target);
    }
});
refused("F16", "a bad percent escape", get("/health%zz"), 400);
t.row("F17", "a target of any length: 404, or 414 or 431 with a body", async (s) => {
    for (const n of [5000, 7900, 16384, 20000, ...Array.from({ length: 60 }, (_, i) => 21500 + 60 * i), 40000]) {
        const r = await exchange(s.port, get("/" + "a".repeat(n)), { closes: (answer) => answer?.status !== 404 });
        assertError(r, n <= 20000 ? 404 : n === 40000 ? 414 : [404, 414, 431]);
        if (r.status !== 404) assert.ok(r.closed);
    }
});
t.row("F17b", "16 KB of header fields are taken, whether few or many", async (s) => {
    for (const n of [1, 16, 80]) {
        const fields = Array.from({ length: n }, (_, i) => `X-${i}: ${"a".repeat(Math.floor(16384 / n) - 10)}\r\n`).join("");
        assert.equal((await exchange(s.port, get("/health", `Host: x\r\n${fields}`))).status, 200, `${n} fields`);
        assert.equal((await exchange(s.port, upload(`${fields}Content-Length: ${ask.length}\r\n`, ask))).status, 200, `${n} fields`);
    }
});
t.row("F17c", "header fields of any size: an answer or 431 with a body", async (s) => {
    for (let n = 21000; n < 25500; n += 75) {
        const stream = JSON.stringify({ ...JSON.parse(ask), stream: true });
        const r = await exchange(s.port, upload(`X-Big: ${"a".repeat(n)}\r\nContent-Length: ${stream.length}\r\n`, stream));
        if (r.status === 200) assert.match(r.body, /\[DONE\]/);
        else assertError(r, 431);
    }
});
byLibrary("F18", "one header of 40 KB", get("/health", `Host: x\r\nX-Big: ${"a".repeat(40000)}\r\n`), 431);
byLibrary("F19", "500 headers", get("/health", "Host: x\r\n" + Array.from({ length: 500 }, (_, i) => `X-${i}: ${i}\r\n`).join("")), 431);
t.row("F20", "lone LF line ends", async (s) => {
    assert.equal((await exchange(s.port, "GET /health HTTP/1.1\nHost: x\n\n")).status, strict(s) ? 400 : 200);
}, { differs: "before 1.0 tolerated, as RFC 9112 2.2 allows a recipient to; the library does it below our callbacks" });
t.row("F21", "a folded header", async (s) => {
    assert.equal((await exchange(s.port, get("/health", "Host: x\r\nX-A: b\r\n c\r\n"))).status, strict(s) ? 400 : 200);
}, { differs: "before 1.0 unfolded below our callbacks and invisible after; the framing headers that matter are counted and parsed strictly, so folding cannot change a request's length" });
refused("F22", "the first header begins with a space", get("/health", " Host: x\r\n"), 400, { early: true });
refused("F23a", "Host with a space before the colon", get("/health", "Host : x\r\n"), 400, { early: true });
refused("F23b", "Transfer-Encoding with a space before the colon", upload("Transfer-Encoding : chunked\r\nContent-Length: 2\r\n", "{}"), 400, { early: true });
byLibrary("F24", "a header without a colon", get("/health", "Host: x\r\nnonsense\r\n"), 400);
t.row("F25", "a NUL inside a header value", async (s) => {
    const r = await exchange(s.port, Buffer.from("GET /health HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n"));
    assert.equal(r.status, strict(s) ? 400 : 200);
    const key = await exchange(s.port, Buffer.from(upload("Content-Length: 2\0 3\r\n", "{}")));
    assert.ok([0, 400].includes(key.status), `status ${key.status}`);
}, { args: hasty, differs: "before 1.0 the library ends the value at the NUL; a length with one is still refused" });
for (const [id, v] of [["F26a", "-1"], ["F26b", "+5"], ["F26c", "0x5"], ["F26d", ""], ["F26e", "5, 5"]]) {
    refused(id, `Content-Length: '${v}'`, upload(`Content-Length: ${v}\r\n`, "{}"), 400);
}
refused("F27a", "Content-Length twice, equal", upload("Content-Length: 2\r\nContent-Length: 2\r\n", "{}"), 400);
refused("F27b", "Content-Length twice, unequal", upload("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"), 400);
byLibrary("F28a", "Content-Length 2^64", upload("Content-Length: 18446744073709551616\r\n"), 413);
refused("F28b", "Content-Length 2^63", upload("Content-Length: 9223372036854775808\r\n"), 413);
t.row("F29", "Content-Length far above the limit: 413 after the body, and the connection goes on", async (s) => {
    for (const n of [65537, 655360, 20000000]) {
        const c = await Raw.open(s.port);
        c.send(upload(`Content-Length: ${n}\r\n`, "x".repeat(n)) + get("/health"));
        await c.until((b) => { const r = parse(b); return r?.whole && parse(Buffer.from(r.rest, "latin1"))?.whole; });
        const r = parse(c.received);
        assertError(r, 413);
        assert.equal(parse(Buffer.from(r.rest, "latin1")).status, 200);
        c.destroy();
    }
});
t.row("F29b", "a body over the limit that stops: 413 at the deadline of the body", async (s) => {
    const r = await exchange(s.port, upload("Content-Length: 20000000\r\n", "x".repeat(100000)), { closes: true });
    assertError(r, 413);
    assert.ok(r.closed);
}, { args: hasty });
t.row("F29c", "a body too long to be dropped: 413 at once, and what still comes resets nothing", async (s) => {
    const c = await Raw.open(s.port, { allowHalfOpen: true });
    c.send(upload(`Content-Length: ${2 ** 40}\r\n`));
    await c.until((b) => parse(b)?.whole);
    for (let i = 0; i < 100; i++) {
        c.socket.write("x".repeat(100000));
        await sleep(2);
    }
    await until("the bytes are taken", () => c.socket.writableLength === 0);
    assert.ok(!c.reset, "no reset");
    assertError(parse(c.received), 413);
    c.destroy();
});
refused("F30", "Content-Length with Transfer-Encoding", upload("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400, { early: true });
for (const [id, v] of [["F31a", "gzip, chunked"], ["F31b", "identity"], ["F31c", "xchunked"]]) {
    refused(id, `Transfer-Encoding: ${v}`, upload(`Transfer-Encoding: ${v}\r\n`, "0\r\n\r\n"), 400, { early: true });
}
refused("F32", "Transfer-Encoding twice", upload("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400);
refused("F33", "Transfer-Encoding on HTTP/1.0", "POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
for (const [id, size] of [["F34a", "zz"], ["F34b", "0x5"], ["F34c", "-1"], ["F34d", "2\r\n{}xx"]]) {
    t.row(id, `chunk size ${JSON.stringify(size)}`, async (s) => {
        const r = await exchange(s.port, upload("Transfer-Encoding: chunked\r\n", `${size}\r\n{}\r\n0\r\n\r\n`), { closes: true });
        assert.ok([0, 400].includes(r.status), `status ${r.status}`);
        assert.ok(r.closed);
        if (r.status) assertError(r, 400);
    }, { differs: "by the library: a plain close in mid-upload, at times" });
}
t.row("F34e", "lone line feeds between chunks", async (s) => {
    for (const chunks of [`${ask.length.toString(16)}\n${ask}\r\n0\r\n\r\n`, `${ask.length.toString(16)}\r\n${ask}\n0\r\n\r\n`]) {
        const r = await exchange(s.port, upload("Transfer-Encoding: chunked\r\n", chunks), { closes: strict(s) });
        assert.ok((strict(s) ? [0, 400] : [200]).includes(r.status), `status ${r.status}`);
    }
}, { differs: "before 1.0 the library takes them below our callbacks, as it does in the head" });
t.row("F35", "chunk size overflow", async (s) => {
    const r = await exchange(s.port, upload("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n"), { closes: true });
    assertError(r, [400, 413]);
    assert.ok(r.closed);
});
const cpuOf = (s) => {
    const f = readFileSync(`/proc/${s.child.pid}/stat`, "utf8").split(") ")[1].split(" ");
    return (Number(f[11]) + Number(f[12])) * 10; // ms, at 100 ticks a second
};
t.row("F36", "a chunk extension of 40 KB neither ends nor spins past the body's deadline", async (s) => {
    const c = await Raw.open(s.port);
    c.send(upload("Transfer-Encoding: chunked\r\n", "2;" + "a".repeat(40000)));
    const before = cpuOf(s);
    await c.until(null);
    assert.ok(c.closed, "ended by the deadline");
    const spent = cpuOf(s) - before;
    assert.ok(spent < 900, `${spent} ms of processor time in the 1.5 s that the deadline leaves`);
    c.destroy();
}, { args: hasty });
t.row("F37", "one-byte chunks without end", async (s) => {
    const c = await Raw.open(s.port);
    c.send(upload("Transfer-Encoding: chunked\r\n"));
    const piece = "1\r\n \r\n".repeat(2000);
    for (let i = 0; i < 60 && !c.closed; i++) {
        c.send(piece);
        await sleep(5);
    }
    if (!c.closed) c.send("0\r\n\r\n");
    await c.until((b) => parse(b)?.whole);
    assert.ok(c.closed || parse(c.received)?.status === 413);
    c.destroy();
});
t.row("F37b", "a body whose framing outweighs it five to one is a 413", async (s) => {
    const r = await exchange(s.port, upload("Transfer-Encoding: chunked\r\n", "1\r\n \r\n".repeat(20000) + "0\r\n\r\n"));
    assertError(r, 413);
});
t.row("F38", "a trailer of 40 KB", async (s) => {
    const r = await exchange(s.port, upload("Transfer-Encoding: chunked\r\n", `2\r\n{}\r\n0\r\nX-T: ${"a".repeat(40000)}\r\n\r\n`), { closes: true });
    assertError(r, [413, 431]);
    assert.ok(r.closed);
});
t.row("F39", "a chunked body over the limit: drained and 413, however far", async (s) => {
    const chunk = "1000\r\n" + "x".repeat(4096) + "\r\n";
    for (const n of [32, 2000]) {
        assertError(await exchange(s.port, upload("Transfer-Encoding: chunked\r\n", chunk.repeat(n) + "0\r\n\r\n")), 413);
    }
});
t.row("F40", "a body cut short, then FIN: no work for the engine", async (s) => {
    const before = (await s.metrics())["vllm:prompt_tokens_total"];
    const r = await exchange(s.port, upload(`Content-Length: ${ask.length + 10}\r\n`, ask), { closes: true, end: true });
    assert.ok(r.closed);
    assert.equal(r.status, 0);
    await sleep(150);
    assert.equal((await s.metrics())["vllm:prompt_tokens_total"], before);
});
refused("F41", "a POST without length or chunking", upload(""), 411);
t.row("F42a", "Expect: 100-continue", async (s) => {
    const c = await Raw.open(s.port);
    c.send(upload(`Expect: 100-continue\r\nContent-Length: ${ask.length}\r\n`));
    await c.until((b) => b.includes("100 Continue"));
    c.send(ask);
    const bytes = await c.until((b) => b.includes("HTTP/1.1 200") && b.includes("usage"));
    assert.match(bytes.toString(), /HTTP\/1\.1 100 Continue[\s\S]*HTTP\/1\.1 200 OK/);
    c.destroy();
});
refused("F42b", "another Expect", upload("Expect: banana\r\nContent-Length: 2\r\n", "{}"), 417);
t.row("F42c", "Expect: 100-continue with a body too long: 413 in its place", async (s) => {
    const r = await exchange(s.port, upload("Expect: 100-continue\r\nContent-Length: 9999999\r\n"));
    assertError(r, 413);
    assert.deepEqual(r.before, []);
});
t.row("F43", "Upgrade is ignored", async (s) => {
    for (const to of ["h2c", "websocket"]) {
        assert.equal((await exchange(s.port, get("/health", `Host: x\r\nConnection: Upgrade\r\nUpgrade: ${to}\r\n`))).status, 200);
    }
});
t.row("F44", "a body on a GET is drained and ignored", async (s) => {
    assert.equal((await exchange(s.port, get("/health", "Host: x\r\nContent-Length: 5\r\n") + "hello")).status, 200);
});
t.row("F45", "three pipelined requests, three answers in order", async (s) => {
    const c = await Raw.open(s.port);
    c.send(get("/health") + post("/v1/completions", ask) + get("/v1/models"));
    const bytes = await c.until((b) => b.toString().split("HTTP/1.1 200").length === 4 && b.includes('"owned_by"'));
    const a = parse(bytes), b = parse(Buffer.from(a.rest, "latin1")), d = parse(Buffer.from(b.rest, "latin1"));
    assert.match(a.body, /"ok"/);
    assert.match(b.body, /text_completion/);
    assert.match(d.body, /"list"/);
    c.destroy();
});
for (const [id, type, status] of [["F46a", "text/plain", 415], ["F46b", "application/json; charset=utf-16", 415], ["F46c", "application/json; charset=UTF-8", 200], ["F46d", "application/x-www-form-urlencoded", 415]]) {
    t.row(id, `Content-Type: ${type}`, async (s) => {
        const r = await s.request("POST", "/v1/completions", { body: ask, headers: { "Content-Type": type } });
        if (status === 200) assert.equal(r.status, 200);
        else assertError(r, 415, { type: "invalid_request_error" });
    });
}
t.row("F47", "Content-Encoding", async (s) => {
    assertError(await s.request("POST", "/v1/completions", { body: ask, headers: { "Content-Encoding": "gzip" } }), 415);
});
t.row("F48", "a byte at a time, and a leading CRLF", async (s) => {
    const c = await Raw.open(s.port);
    c.socket.write("\r\n");
    await c.trickle(post("/v1/completions", ask), 1);
    await c.until((b) => parse(b)?.whole);
    assert.equal(parse(c.received).status, 200);
    c.destroy();
});
t.row("F49", "keys", async () => {}, { skip: "limits.test.mjs, on a server that has keys" });
t.row("F50", "X-Request-Id with control bytes or over 64 characters", async (s) => {
    for (const id of ["a\x01b", "x".repeat(65), "a b"]) {
        const r = await exchange(s.port, get("/health", `Host: x\r\nX-Request-Id: ${id}\r\n`));
        assert.ok([200, 400].includes(r.status));
        assert.ok(!r.bytes.includes(id), "never echoed");
    }
});
t.row("F51", "an unknown path names the nearest; the right path by the wrong method names the right one", async (s) => {
    assertError(await s.get("/nowhere"), 404, { type: "not_found_error" });
    const near = await s.post("/v1/chat/completion", ask);
    assertError(near, 404);
    assert.match(near.json.error.message, /nearest paths are \/v1\/chat\/completions, \/v1\/completions, /);
    const long = await s.get("/" + "v1/models".repeat(400));
    assertError(long, 404);
    const r = await s.get("/v1/completions");
    assertError(r, 405);
    assert.equal(r.headers.allow, "POST");
    assert.match(r.json.error.message, /the method POST only/);
    const put = await s.request("PUT", "/v1/models");
    assertError(put, 405);
    assert.equal(put.headers.allow, "GET, HEAD");
    assert.match(put.json.error.message, /the methods GET and HEAD only/);
});
t.done(51);
