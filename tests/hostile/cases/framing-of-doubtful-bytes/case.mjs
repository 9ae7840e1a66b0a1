export const title = "bytes that two readers could take differently are refused, and never make a second request";
export const device = "fake";
export const args = ["--header-seconds", "2", "--body-seconds", "2"];

const body = "{\"prompt\":\"a\",\"max_tokens\":1}";
const json = "Host: localhost\r\nContent-Type: application/json\r\n";
const hidden = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
// [what, bytes, may it be answered with 2xx]
const rows = [
    ["NUL in a header value", `GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n`, false],
    ["NUL in the Host", `GET /health HTTP/1.1\r\nHost: localhost\0.evil.example\r\n\r\n`, false],
    ["NUL in Authorization", `GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\0b\r\n\r\n`, false],
    ["a folded header", `GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n b: c\r\n\r\n`, true],
    ["a folded Content-Length", `POST /v1/completions HTTP/1.1\r\n${json}Content-Length:\r\n ${body.length}\r\n\r\n${body}`, true],
    ["a folded Transfer-Encoding", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n${hidden}`, true],
    ["LF alone after a chunk's length", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\n${body}\r\n0\r\n\r\n`, true],
    ["LF alone after a chunk", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\n0\r\n\r\n`, true],
    ["LF alone in all chunk lines", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\n${body}\n0\n\n`, true],
    ["CR alone in a header", `GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: a\rX-B: c\r\n\r\n`, true],
    ["a length beside a coding", `POST /v1/completions HTTP/1.1\r\n${json}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`, false],
    ["two lengths", `POST /v1/completions HTTP/1.1\r\n${json}Content-Length: 4\r\nContent-Length: ${body.length}\r\n\r\n${body}${hidden}`, false],
    ["a length with a plus", `POST /v1/completions HTTP/1.1\r\n${json}Content-Length: +4\r\n\r\n{}{}`, false],
    ["a coding of another name", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`, false],
    ["a chunk of negative length", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding: chunked\r\n\r\n-1\r\n${body}\r\n0\r\n\r\n`, false],
    ["a chunk of 2^64", `POST /v1/completions HTTP/1.1\r\n${json}Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n${body}\r\n0\r\n\r\n`, false],
    ["a target with %00", `GET /health%00 HTTP/1.1\r\nHost: localhost\r\n\r\n`, false],
    ["a target with ../", `GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n`, false],
    ["a target with %2e%2e", `GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n`, false],
    ["an absolute target", `GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n`, false],
    ["an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false],
    ["a TLS hello", Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, ...Array(400).fill(7)]), false],
    ["a compressed body", `POST /v1/completions HTTP/1.1\r\n${json}Content-Encoding: gzip\r\nContent-Length: 20\r\n\r\n${"\x1f\x8b\x08" + "\0".repeat(17)}`, false],
    ["CONNECT", "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", false],
    ["a header of 40 KB", `GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ${"a".repeat(40000)}\r\n\r\n`, false],
    ["500 headers", `GET /health HTTP/1.1\r\nHost: localhost\r\n${"X-A: b\r\n".repeat(2000)}\r\n`, false],
];

export async function attack(server, t) {
    const wrong = [];
    // Before its release 1.0 the library takes these before the server can see them; the server says so.
    const told = /libmicrohttpd \S+ takes folded headers, NUL/.test(server.log);
    await t.many(rows.length, 6, async (i) => {
        const [what, bytes, strict] = rows[i], may = strict || (told && /^NUL/.test(what));
        const c = await t.open();
        c.send(Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes, "latin1"));
        await c.until((b) => t.parse(b)?.whole);
        await t.sleep(30);
        const first = t.parse(c.received), rest = first ? t.parse(Buffer.from(first.rest, "latin1")) : null;
        if (first && first.status < 300 && !may) wrong.push(`${what}: ${first.status}`);
        if (first && first.status >= 500 && first.status !== 501 && first.status !== 505) wrong.push(`${what}: ${first.status}`);
        if (rest && rest.status < 300 && !may) wrong.push(`${what}: a second request was answered with ${rest.status}`);
        if (!first && !c.closed) wrong.push(`${what}: neither answered nor closed`);
        t.record(`${what}: ${first ? first.status : c.closed ? "closed" : "open"}`);
        c.destroy();
    });
    t.assert.deepEqual(wrong, []);
}
