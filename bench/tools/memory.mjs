// Resident memory under clients that make a server hold bytes: bodies without their last byte, and
// whole answers that nobody reads.
//   node bench/tools/memory.mjs [PROGRAM]        (default build/release/fathom)
// Limit: what the server holds at rest, and --request-memory above it. Prints a row per attack.
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
process.env.FATHOM_BIN = path.resolve(process.argv[2] ?? path.join(root, "build/release/fathom"));
const { Raw } = await import("../../tests/http/lib/raw.mjs");
const { Server, sleep, until } = await import("../../tests/http/lib/server.mjs");

const MB = 1 << 20;
const rss = (s, what = "VmRSS") => Number(new RegExp(`${what}:\\s+(\\d+)`).exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;
const head = (target, n) => `POST ${target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${n}\r\n\r\n`;
const held = async (s) => Object.entries(await s.metrics()).filter(([k]) => k.startsWith("fathom_request_memory_bytes{")).reduce((sum, [, v]) => sum + v, 0);

// n connections that do not read, each after it has sent what `send` sends.
async function each(port, n, send) {
    const many = [];
    for (let i = 0; i < n; i++) {
        const c = await Raw.open(port);
        c.socket.pause();
        send(c);
        many.push(c);
    }
    return many;
}

const attacks = {
    "200 bodies of 2 MB without their last byte": async (s) => {
        return each(s.port, 200, (c) => c.send(head("/v1/completions", 2 * MB)).send(Buffer.alloc(2 * MB - 1, " ")));
    },
    "100 × 40 answers of /tokenize, 120 KB each, never read": async (s) => {
        const body = JSON.stringify({ prompt: Array(64).fill("a b c d ".repeat(110)), return_token_strs: true });
        return each(s.port, 100, (c) => { for (let k = 0; k < 40; k++) c.send(head("/tokenize", body.length) + body); });
    },
    "16 chat answers of 16 × 900 tokens with 20 alternatives each, never read": async (s) => {
        const body = JSON.stringify({ model: "demo", messages: [{ role: "user", content: "Lord" }], n: 16, max_tokens: 900, logprobs: true, top_logprobs: 20, ignore_eos: true });
        return each(s.port, 16, (c) => c.send(head("/v1/chat/completions", body.length) + body));
    },
};

const ceilings = [128, 128, 24]; // MB; tokens are dear to make, so their row has less to fill
console.log(`| attack | --request-memory MB | at rest MB | most MB | above rest | of the ceiling | most in the ledger MB | ended | /health after ms |`);
console.log("|---|---|---|---|---|---|---|---|---|");
for (const [i, [what, attack]] of Object.entries(attacks).entries()) {
    const ceiling = ceilings[i];
    const s = await Server.start(["--request-memory", `${ceiling}M`, "--body-seconds", "3600", "--stall-seconds", "3600", "--kv-memory", "64M", "--max-queue", "200000", "--max-queue-tokens", "100000000"]);
    await s.post("/v1/completions", { model: "demo", prompt: "Lord", max_tokens: 8 });
    const rest = rss(s);
    let ledger = 0, going = true;
    const watch = (async () => { while (going) { ledger = Math.max(ledger, await held(s)); await sleep(50); } })();
    const many = await attack(s);
    let seen = -1, same = 0; // until nothing comes any more
    await until("it is at rest", async () => {
        const m = await s.metrics(), now = m["fathom_http_body_bytes_total"] + m["vllm:generation_tokens_total"];
        same = now === seen && m["vllm:num_requests_running"] === 0 ? same + 1 : 0;
        seen = now;
        await sleep(200);
        return same > 10;
    });
    going = false;
    await watch;
    const most = rss(s, "VmHWM"), ended = (await s.metrics())["fathom_request_memory_evictions_total"];
    const began = performance.now();
    if ((await s.get("/health")).status !== 200) throw new Error("not healthy");
    const health = performance.now() - began;
    for (const c of many) c.destroy();
    await until("nothing is held", async () => (await held(s)) < 100000);
    await s.stop();
    console.log(`| ${what} | ${ceiling} | ${rest.toFixed(0)} | ${most.toFixed(0)} | ${(most - rest).toFixed(0)} | ${((most - rest) / ceiling).toFixed(2)} | ${(ledger / MB).toFixed(0)} | ${ended} | ${health.toFixed(1)} |`);
}
process.exit(0);
