// The page's files from disk, with the policy the server sends, and scripted answers: for
// what a real server cannot be made to do on demand.
import { readFileSync } from "node:fs";
import http from "node:http";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const header = readFileSync(join(root, "server/assets_internal.h"), "utf8");
const csp = [...header.slice(header.indexOf("SRV_ASSET_CSP")).matchAll(/"([^"]*)"/g)]
    .slice(0, 2)
    .map((m) => m[1])
    .join("");
const types = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css", svg: "image/svg+xml" };

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export const textEvent = (text, depths, more) =>
    `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: text }, text, depths, finish_reason: null, ...more }] })}\n\n`;

export const fakeMetrics = (o = {}) => {
    const { running = 0, waiting = 0, tokens = 0, cache = 0, exits = [], drafted = 0, right = 0 } = o;
    const l = '{model_name="demo",engine="0"}';
    return [
        "# TYPE vllm:num_requests_running gauge",
        `vllm:num_requests_running${l} ${running}`,
        `vllm:num_requests_waiting${l} ${waiting}`,
        `vllm:generation_tokens_total${l} ${tokens}`,
        `vllm:kv_cache_usage_perc${l} ${cache}`,
        `vllm:spec_decode_num_draft_tokens_total${l} ${drafted}`,
        `vllm:spec_decode_num_accepted_tokens_total${l} ${right}`,
        ...exits.map((v, i) => `fathom_exits_total{model_name="demo",engine="0",depth="${i}"} ${v}`),
        "",
    ].join("\n");
};

/**
 * script(body) yields waits in ms, functions to wait for, and strings; metrics() gives the text of /metrics, or a
 * status; launches(after) gives the reply of /launches, or a status.
 */
export async function startMock({ script, metrics = () => fakeMetrics(), launches = () => 404, card = {}, models }) {
    const seen = { bodies: [], headers: [], paths: [], left: 0 };
    const server = http.createServer(async (req, res) => {
        const path = req.url.split("?")[0];
        seen.paths.push(path);
        if (req.method === "POST") {
            let text = "";
            for await (const piece of req) text += piece;
            seen.bodies.push(JSON.parse(text));
            seen.headers.push(req.headers);
            res.on("close", () => {
                if (!res.writableFinished) seen.left++;
            });
            for await (const step of script(seen.bodies.at(-1), path)) {
                if (res.destroyed) return;
                if (typeof step === "number") await pause(step);
                else if (typeof step === "function") await step();
                else if (typeof step === "object") {
                    res.writeHead(step.status, { "Content-Type": "application/json" });
                    res.end(JSON.stringify(step.body));
                    return;
                } else if (step === "CUT") {
                    req.socket.destroy();
                    return;
                } else {
                    if (!res.headersSent) res.writeHead(200, { "Content-Type": "text/event-stream" });
                    res.write(step);
                }
            }
            res.end();
        } else if (path === "/v1/models") {
            if (models && !models(req)) {
                res.writeHead(401, { "Content-Type": "application/json" });
                res.end('{"error":{"message":"a key is needed"}}');
                return;
            }
            res.writeHead(200, { "Content-Type": "application/json" });
            res.end(JSON.stringify({ data: [{ id: "demo", max_loops: 8, trained_loops: 8, ...card }] }));
        } else if (path === "/metrics" || path === "/launches") {
            const reply = path === "/metrics" ? metrics(req) : launches(Number(new URL(req.url, "http://x").searchParams.get("after")), req);
            const status = typeof reply === "number" ? reply : 200;
            res.writeHead(status, { "Content-Type": path === "/metrics" ? "text/plain" : "application/json" });
            res.end(status !== 200 ? "{}" : typeof reply === "string" ? reply : JSON.stringify(reply));
        } else {
            try {
                const file = path === "/" ? "index.html" : path.slice(1);
                const data = readFileSync(join(root, "server/web", file));
                res.writeHead(200, {
                    "Content-Type": types[file.split(".").at(-1)],
                    "Content-Security-Policy": csp,
                    "Cache-Control": "no-cache",
                });
                res.end(data);
            } catch {
                res.writeHead(404);
                res.end();
            }
        }
    });
    await new Promise((ok) => server.listen(0, "127.0.0.1", ok));
    return {
        seen,
        url: `http://127.0.0.1:${server.address().port}/`,
        close: () => {
            server.closeAllConnections();
            return new Promise((done) => server.close(done));
        },
    };
}
