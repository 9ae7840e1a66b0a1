// A server whose every answer is scripted, so that the load generator's figures are known
// beforehand. `script(body, n)` gives the steps of request n: a number waits that many ms, a
// string or Buffer is one HTTP chunk, {status, text} refuses, CUT drops the connection.
import http from "node:http";

export const CUT = Symbol("cut");

export const tokenEvent = (text, depths) =>
    `data: ${JSON.stringify({
        id: "cmpl-1",
        object: "text_completion",
        created: 1,
        model: "mock",
        choices: [{ index: 0, text, logprobs: null, finish_reason: null, ...(depths ? { depths } : {}) }],
    })}\n\n`;

export const usageEvent = (prompt, completion, loops) =>
    `data: ${JSON.stringify({
        id: "cmpl-1",
        object: "text_completion",
        choices: [],
        usage: {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            ...(loops ? { completion_tokens_details: { loops } } : {}),
        },
    })}\n\n`;

export const DONE = "data: [DONE]\n\n";

/** Waits, but no longer than the client stays. */
const pause = (ms, res) =>
    new Promise((done) => {
        const timer = setTimeout(done, ms);
        res.once("close", () => {
            clearTimeout(timer);
            done();
        });
    });

/** `pages`: what /metrics answers, one after another; an entry {status} refuses. */
export async function startMock(port, script, pages = []) {
    const seen = { bodies: [], headers: [], arrivals: [], running: 0, peak: 0, left: 0, gets: [], pages: 0, connections: 0 };
    const sockets = new Set();

    async function answer(req, res) {
        let text = "";
        for await (const piece of req) text += piece;
        const body = JSON.parse(text);
        const n = seen.bodies.push(body) - 1;
        seen.headers.push(req.headers);
        seen.arrivals.push(performance.now());
        seen.running++;
        seen.peak = Math.max(seen.peak, seen.running);
        let gone = false;
        res.on("close", () => {
            seen.running--;
            gone = true;
            if (!res.writableFinished) seen.left++;
        });
        for (const step of script(body, n)) {
            if (gone) return;
            if (typeof step === "number") await pause(step, res);
            else if (step === CUT) {
                req.socket.destroy();
                return;
            } else if (step.status) {
                res.writeHead(step.status, { "Content-Type": "application/json" });
                res.end(step.text);
                return;
            } else {
                if (!res.headersSent) res.writeHead(200, { "Content-Type": "text/event-stream" });
                res.write(step);
                await new Promise(setImmediate); // its own chunk, its own packet
            }
        }
        if (!res.headersSent) res.writeHead(200, { "Content-Type": "text/event-stream" });
        res.end();
    }

    const server = http.createServer((req, res) => {
        if (req.method === "POST") {
            answer(req, res).catch((e) => res.destroy(e));
            return;
        }
        seen.gets.push(req.url);
        if (req.url === "/metrics" && pages.length) {
            const page = pages[Math.min(seen.pages++, pages.length - 1)];
            res.writeHead(page.status ?? 200, { "Content-Type": "text/plain" });
            res.end(page.status ? "no" : page);
            return;
        }
        const ok = req.url === "/health" || req.url === "/v1/models";
        res.writeHead(ok ? 200 : 404, { "Content-Type": "application/json" });
        res.end(JSON.stringify({ object: "list", data: [{ id: "mock", root: "mock" }] }));
    });
    server.keepAliveTimeout = 60000;
    server.on("connection", (s) => {
        s.setNoDelay(true);
        sockets.add(s);
        seen.connections++;
        s.on("close", () => sockets.delete(s));
    });
    await new Promise((ok, bad) => server.once("error", bad).listen(port, "127.0.0.1", ok));
    return {
        seen,
        url: `http://127.0.0.1:${server.address().port}`,
        close: () => {
            for (const s of sockets) s.destroy();
            return new Promise((done) => server.close(done));
        },
    };
}
