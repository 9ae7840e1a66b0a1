// What the HTTP side costs by itself: `fathom serve --device fake`, whose engine answers at
// once, driven by `fathom bench` and by plain sockets on the same machine. Prints Markdown.
//
//   node bench/tools/http/alone.mjs [throughput] [paced] [idle] [cancel] [start]
//
// Figures share the machine with the client. CPU per token is the steadiest of them; times
// say something only beside others of the same run.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import net from "node:net";
import os from "node:os";
import { Server, bench, fixed, quantile, root, sleep, sleeper, split_gaps } from "./lib.mjs";

const parts = {
    async throughput() {
        console.log("\n### Tokens per second, engine without arithmetic\n\n256 streams of 256 tokens each, 1,024 requests, greedy.\n");
        console.log("| run | tok/s | server loop µs/token | server engine µs/token | failed |\n|---|---|---|---|---|");
        for (let i = 1; i <= 5; i++) {
            const s = await new Server(["--max-running", "256"]).ready;
            const before = s.cpu();
            const r = await bench(s, ["--num-prompts", 1024, "--max-concurrency", 256, "--output-len", 256]);
            const after = s.cpu(), n = r.total_output_tokens;
            const loop = (after.loop - before.loop) * 1000 / n, engine = (after.all - before.all) * 1000 / n - loop;
            console.log(`| ${i} | ${Math.round(r.output_throughput)} | ${fixed(loop)} | ${fixed(engine)} | ${r.failed} |`);
            await s.stop();
        }
    },

    // Two kinds of gap are kept apart. While the streams come in, launches of prompt rows take
    // periods of the engine too; only what follows the last stream's first token is steady.
    async paced() {
        console.log("\n### Added latency, an engine that gives every stream 20 tokens a second\n\nAll streams get their token in one burst. The engine's own period is 50 ms and steady, so what exceeds the\nmedian gap was added between engine and client, the client's own delay included. \"Settled\": gaps that began\nafter the last stream's first token; before it, prompts (16 tokens a stream) share the engine's periods.\n");
        console.log("| streams | settled gaps | p50 ms | p99 − p50 | p99.9 − p50 | over 75 ms | a bare sleep's p99 − p50 then | gaps before | of those over 75 ms | longest ms | server CPU, % of a core | RSS MB | failed |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for (const n of [100, 256, 1000, 2000]) {
            const s = await new Server(["--max-running", n, "--max-queue", "0", "--max-rows", Math.max(512, n), "--fake-us-per-token", "50000"].map(String)).ready;
            const before = s.cpu(), began = Date.now(), late = sleeper();
            const r = await bench(s, ["--num-prompts", n, "--max-concurrency", n, "--output-len", 120, "--save-detailed"]);
            const share = (s.cpu().all - before.all) / (Date.now() - began) * 100;
            const { settled, first } = split_gaps(r), p50 = quantile(settled, 0.5);
            const over = (gaps) => gaps.filter((x) => x > 75).length;
            console.log(`| ${n} | ${settled.length} | ${fixed(p50, 1)} | ${fixed(quantile(settled, 0.99) - p50)} | ${fixed(quantile(settled, 0.999) - p50)} | ${over(settled)} | ${fixed(await late)} | ${first.length} | ${over(first)} | ${fixed(first.at(-1) ?? 0, 0)} | ${fixed(share, 0)} | ${fixed(s.rss(), 0)} | ${r.failed} |`);
            await s.stop();
        }
    },

    async idle() {
        const n = 10000;
        console.log(`\n### ${n} idle keep-alive connections\n`);
        const s = await new Server(["--idle-seconds", "300"]).ready;
        const before = s.rss(), began = Date.now();
        const sockets = [];
        let answered = 0, failed = 0;
        for (let at = 0; at < n; at += 500) {
            await Promise.all(Array.from({ length: 500 }, () => new Promise((done) => {
                const c = net.connect(s.port, "127.0.0.1", () => c.write("GET /health HTTP/1.1\r\nHost: x\r\n\r\n"));
                c.once("data", () => { answered++; done(); });
                c.on("error", () => { failed++; done(); });
                sockets.push(c);
            })));
        }
        const took = Date.now() - began, held = s.rss() - before, cpu = s.cpu().all;
        await sleep(10000);
        const share = (s.cpu().all - cpu) / 10000 * 100;
        const r = await fetch(`${s.url()}/health`);
        console.log("| connected and answered | failed | seconds | RSS, MB more | KB each | CPU while idle, % of a core | /health then |\n|---|---|---|---|---|---|---|");
        console.log(`| ${answered} | ${failed} | ${fixed(took / 1000)} | ${fixed(held, 1)} | ${fixed(held * 1024 / n, 1)} | ${fixed(share)} | ${r.status} |`);
        for (const c of sockets) c.destroy();
        await s.stop();
    },

    async cancel() {
        const tries = 200;
        console.log(`\n### From a client's leaving to its pages being free, ${tries} tries each\n\n"server" is measured by the server from the hang-up to the scheduler's END; "seen" by polling /metrics from outside\nafter closing the socket (the page lives 20 ms, the scheduler's snapshot 20 ms). Prefill: 1,000 tokens, the demo\nmodel on the CPU, left after 60 ms; the others on the fake device at 2 ms a token.\n`);
        console.log("| phase | streaming | server mean ms | server max ≤ ms | seen mean ms | seen max ms |\n|---|---|---|---|---|---|");
        for (const phase of ["queued", "prefill", "decode"]) {
            for (const stream of [true, false]) {
                const s = await new Server(["--max-running", phase === "queued" ? "1" : "64", "--fake-us-per-token", "2000", "--no-prefix-cache", "--device", phase === "prefill" ? "cpu" : "fake"]).ready;
                const post = (prompt) => {
                    const body = JSON.stringify({ model: "demo", prompt: Array(prompt).fill(300), max_tokens: phase === "decode" ? 90 : 20, ignore_eos: true, temperature: 0, stream });
                    return `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
                };
                const open = (text) => new Promise((done) => {
                    const c = net.connect(s.port, "127.0.0.1", () => { c.write(text); done(c); });
                    c.on("error", () => {});
                    c.on("data", () => {});
                });
                let seen = 0, worst = 0;
                for (let i = 0; i < tries; i++) {
                    const blocker = phase === "queued" ? await open(post(4).replace('"max_tokens":20', '"max_tokens":90')) : null;
                    if (blocker) await sleep(5);
                    const c = await open(post(phase === "prefill" ? 1000 : 4));
                    await sleep(phase === "prefill" ? 60 : 60 + i % 20); // past every page rendered before
                    const began = performance.now();
                    c.resetAndDestroy?.() ?? c.destroy();
                    blocker?.destroy();
                    for (;;) {
                        const m = await s.metrics();
                        if (m["vllm:num_requests_running"] === 0 && m["vllm:num_requests_waiting"] === 0 && m['fathom_cache_pages{state="used"}'] === 0) break;
                    }
                    const took = performance.now() - began;
                    seen += took;
                    worst = Math.max(worst, took);
                }
                const m = await s.metrics();
                const count = m["fathom_cancel_seconds_count"];
                const bound = Object.entries(m).filter(([k, v]) => k.startsWith("fathom_cancel_seconds_bucket") && v === count).map(([k]) => Number(/le="([^"]+)"/.exec(k)[1])).sort((a, b) => a - b)[0];
                console.log(`| ${phase} | ${stream ? "yes" : "no"} | ${fixed(m["fathom_cancel_seconds_sum"] / count * 1000, 3)} | ${bound * 1000} | ${fixed(seen / tries, 1)} | ${fixed(worst, 1)} |`);
                await s.stop();
            }
        }
    },

    async start() {
        console.log("\n### Start and stop\n");
        const s = await new Server(["--device", "cpu"]).ready;
        const ready = Date.now() - s.began;
        const r = await fetch(`${s.url()}/v1/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "demo", prompt: "Lord", max_tokens: 1, stream: true }) });
        await r.body.getReader().read();
        const first = Date.now() - s.began, peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;
        const began = Date.now();
        await s.stop();
        console.log(`Demo model on the CPU: ready after ${ready} ms, first token after ${first} ms, peak memory ${fixed(peak, 0)} MB; SIGTERM to exit ${Date.now() - began} ms.`);
    },
};

const wanted = process.argv.slice(2).filter((a) => a in parts);
const commit = execFileSync("git", ["-C", root, "rev-parse", "--short", "HEAD"], { encoding: "utf8" }).trim();
const cpu = /model name\s*:\s*(.*)/.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "unknown";
console.log(`Commit ${commit}, ${new Date().toISOString().slice(0, 10)}, ${os.cpus().length} × ${cpu}, load average ${os.loadavg()[0].toFixed(1)} at the start.`);
for (const name of wanted.length ? wanted : Object.keys(parts)) await parts[name]();
