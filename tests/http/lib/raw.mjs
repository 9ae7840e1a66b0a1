// Bytes in, bytes out: for requests that no HTTP library would send.
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import net from "node:net";
import { PATIENCE, sleep, until, valuesOf } from "./server.mjs";

export class Raw {
    received = Buffer.alloc(0);
    closed = false; // the peer's FIN or RST was seen
    reset = false;

    static open(port, { allowHalfOpen = false } = {}) {
        const r = new Raw();
        r.socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen });
        r.socket.setNoDelay(true);
        r.socket.on("data", (d) => { r.received = Buffer.concat([r.received, d]); });
        r.socket.on("end", () => { r.closed = true; });
        r.socket.on("close", () => { r.closed = true; });
        r.socket.on("error", () => { r.closed = true; r.reset = true; });
        return new Promise((done) => r.socket.on("connect", () => done(r)));
    }

    send(bytes) {
        if (!this.closed) this.socket.write(bytes);
        return this;
    }

    // One byte at a time. Gives back how many went out before the peer closed.
    async trickle(bytes, ms) {
        let sent = 0;
        for (const b of Buffer.from(bytes)) {
            if (this.closed) break;
            this.socket.write(Buffer.from([b]));
            sent++;
            await sleep(ms);
        }
        return sent;
    }

    // Waits for the peer to close, or for what enough(received) likes.
    async until(enough, ms = PATIENCE) {
        const end = Date.now() + ms;
        while (!this.closed && Date.now() < end && !(enough && enough(this.received))) await sleep(2);
        return this.received;
    }

    destroy() { this.socket.destroy(); }
    rst() { this.socket.resetAndDestroy(); }
}

// A stream of a paced server that runs until it is destroyed: whatever needs a running request takes its time.
export async function hold(port, body = {}, headers = "") {
    const c = await Raw.open(port);
    c.send(post("/v1/completions", JSON.stringify({ prompt: "Lord", max_tokens: 900, temperature: 0, ignore_eos: true, stream: true, ...body }), headers));
    await c.until((b) => b.includes("data: "));
    return c;
}

// One completion between two pages of metrics, all sent at once over one connection: what the server did meanwhile,
// however late we are ourselves. { status, text, json, before, after }
export async function metered(port, body, headers = "") {
    const c = await Raw.open(port), page = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const answers = (b) => {
        const all = [];
        for (let r = parse(b); r?.whole && all.length < 3; r = parse(Buffer.from(r.rest, "latin1"))) all.push(r);
        return all;
    };
    c.send(page + post("/v1/completions", JSON.stringify(body), headers) + page);
    await c.until((b) => answers(b).length === 3);
    c.destroy();
    const [before, answer, after] = answers(c.received);
    return { status: answer.status, text: answer.body, json: JSON.parse(answer.body), before: valuesOf(before.body), after: valuesOf(after.body) };
}

// The TCP port that a child took for itself (it was told 0), where no log says which; null once it ended.
export async function portOf(child) {
    const taken = await until("a port that it listens on", () => {
        if (child.exitCode !== null || child.signalCode !== null) return { port: null };
        const proc = `/proc/${child.pid}`;
        try {
            const links = readdirSync(`${proc}/fd`).map((fd) => readlinkSync(`${proc}/fd/${fd}`));
            for (const line of readFileSync(`${proc}/net/tcp`, "utf8").split("\n").slice(1)) {
                const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
                if (state === "0A" && links.includes(`socket:[${inode}]`)) return { port: parseInt(local.split(":")[1], 16) };
            }
        } catch { /* a descriptor was closed meanwhile, or the process ended: look again */ }
        return null;
    });
    return taken.port;
}

// A port that was free a moment ago: another program may have it by now. Better let the program take port 0.
export function freePort() {
    return new Promise((done) => {
        const probe = net.createServer().listen(0, "127.0.0.1", () => {
            const { port } = probe.address();
            probe.close(() => done(port));
        });
    });
}

// Takes one response off the front of the bytes: { status, headers, body, rest, whole }.
export function parse(bytes) {
    const text = bytes.toString("latin1");
    const end = text.indexOf("\r\n\r\n");
    if (end < 0) return null;
    const [first, ...lines] = text.slice(0, end).split("\r\n");
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1] ?? 0);
    const headers = {};
    for (const l of lines) {
        const at = l.indexOf(":");
        headers[l.slice(0, at).toLowerCase()] = l.slice(at + 1).trim();
    }
    let rest = text.slice(end + 4);
    if (status < 200 || status === 204) return { status, headers, body: "", rest, whole: true };
    if (headers["transfer-encoding"] === "chunked") {
        let body = "";
        for (;;) {
            const m = /^([0-9a-fA-F]+)\r\n/.exec(rest);
            if (!m) return { status, headers, body, rest, whole: false };
            const n = parseInt(m[1], 16);
            if (rest.length < m[0].length + n + 2) return { status, headers, body, rest, whole: false };
            body += rest.slice(m[0].length, m[0].length + n);
            rest = rest.slice(m[0].length + n + 2);
            if (n === 0) return { status, headers, body: Buffer.from(body, "latin1").toString(), rest, whole: true };
        }
    }
    const n = headers["content-length"] === undefined ? rest.length : Number(headers["content-length"]);
    const whole = rest.length >= n;
    return { status, headers, body: Buffer.from(rest.slice(0, n), "latin1").toString(), rest: rest.slice(n), whole };
}

// Sends bytes on a fresh connection and gives back the first response that is not 1xx. With
// `closes` (true, or a function of the response) it waits for the server to close the connection.
export async function exchange(port, bytes, { closes = false, end = false } = {}) {
    const c = await Raw.open(port, { allowHalfOpen: end });
    c.send(bytes);
    if (end) c.socket.end();
    await c.until((b) => {
        let r = parse(b);
        while (r && r.status >= 100 && r.status < 200) r = parse(Buffer.from(r.rest, "latin1"));
        return r && r.whole;
    });
    let r = parse(c.received);
    const before = [];
    while (r && r.status >= 100 && r.status < 200) {
        before.push(r.status);
        r = parse(Buffer.from(r.rest, "latin1"));
    }
    if (typeof closes === "function" ? closes(r) : closes) await c.until(null);
    const closed = c.closed;
    c.destroy();
    return { ...(r ?? { status: 0, headers: {}, body: "" }), before, closed, bytes: c.received };
}

export function post(target, body, headers = "") {
    return `POST ${target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n${headers}\r\n${body}`;
}
