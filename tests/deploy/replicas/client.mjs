// A client: whole answers, streams with the time of every read, and probers that never stop asking.
import http from "node:http";
import https from "node:https";
import { sleep } from "../../http/lib/server.mjs";

// at: { port, ca }; with a certificate it speaks TLS. One connection each, unless an agent is given. Never rejects: what goes
// wrong stands in `error`.
export function ask(at, method, target, { body, headers = {}, agent = false, onRead } = {}) {
    return new Promise((done) => {
        const data = body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body);
        const r = { began: performance.now(), status: null, text: "", reads: [], error: null };
        const end = (error) => { r.error = error; r.ended = performance.now(); done(r); };
        const req = (at.ca ? https : http).request({ host: "127.0.0.1", servername: "localhost", port: at.port, ca: at.ca, path: target, method, agent,
            headers: { Host: `localhost:${at.port}`, "Content-Type": "application/json", "Content-Length": Buffer.byteLength(data), ...headers } });
        req.on("socket", (socket) => {
            if (onRead) socket.on("data", (d) => { const n = d.toString("latin1").split("data: {").length - 1; if (n) r.reads.push({ at: performance.now(), n }); });
        });
        req.on("response", (res) => {
            r.status = res.statusCode;
            res.setEncoding("utf8");
            res.on("data", (d) => { r.text += d; });
            res.on("end", () => end(null));
            res.on("error", (e) => end(e.code ?? e.message));
        });
        req.on("error", (e) => end(e.code ?? e.message));
        req.end(data);
    });
}

export const agentFor = (at) => new (at.ca ? https : http).Agent({ keepAlive: true, maxSockets: 1 });
export const completion = (tokens, more) => ({ model: "demo", prompt: "In the beginning", max_tokens: tokens, temperature: 0, ignore_eos: true, ...more });

export async function stream(at, tokens, { prompt = "In the beginning", headers = {} } = {}) {
    const r = await ask(at, "POST", "/v1/completions", { body: completion(tokens, { prompt, stream: true }), headers, onRead: true });
    const events = r.text.split("\n\n").filter((e) => e.startsWith("data: ")).map((e) => e.slice(6));
    r.whole = r.status === 200 && r.error === null && events.at(-1) === "[DONE]";
    r.pieces = events.filter((e) => e.startsWith("{")).map((e) => JSON.parse(e).choices?.[0]?.text ?? "");
    return r;
}

// How evenly the tokens of a stream came.
export function spacing(r) {
    const gaps = r.reads.slice(1).map((read, i) => read.at - r.reads[i].at);
    return { reads: r.reads.length, bunch: Math.max(...r.reads.map((read) => read.n)), gap: Math.max(...gaps) };
}

// Asks every 50 ms for one token until told to stop: over a new connection each time, or over one that is kept; for every other
// request as a part of a conversation.
export class Prober {
    answers = [];
    stopped = false;
    constructor(at, { kept, padding = 0 }) {
        this.agent = kept ? agentFor(at) : false;
        this.body = JSON.stringify(completion(1)) + " ".repeat(padding);
        this.over = this.#go(at);
    }
    async #go(at) {
        while (!this.stopped) {
            const n = this.answers.length, headers = n % 2 ? { "X-Session-Id": `probe-${n}` } : {};
            this.answers.push(await ask(at, "POST", "/v1/completions", { body: this.body, agent: this.agent, headers }));
            await sleep(50);
        }
        if (this.agent) this.agent.destroy();
    }
    async stop() {
        this.stopped = true;
        await this.over;
    }
    bad(since = 0) {
        return this.answers.filter((r) => r.began >= since && r.status !== 200);
    }
}
