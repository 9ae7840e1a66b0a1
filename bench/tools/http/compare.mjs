// Two builds of fathom in turn, in one run: what the HTTP side costs, and the latency that it adds.
//
//   node bench/tools/http/compare.mjs OLD NEW [ROUNDS [PART...]]
//
// For example: build/old/fathom build/release/fathom 5 requests. Parts: streams, requests, paced1000, paced2000.
//
// The load generator is the same for both (FATHOM_BIN, else build/release/fathom). Each figure is given for
// each round and as the median. Processor time is the figure to trust on a machine that others use too.
import net from "node:net";
import { Server, bench, fixed, quantile, sleeper, split_gaps } from "./lib.mjs";

const [old, fresh, rounds = "3", ...wanted] = process.argv.slice(2);
if (!fresh) {
    console.error("usage: node bench/tools/http/compare.mjs OLD NEW [ROUNDS [PART...]]");
    process.exit(2);
}
const programs = { old, new: fresh };
const found = {}; // by figure, then by program: one value for each round

function note(figure, which, value) {
    found[figure] ??= { old: [], new: [] };
    found[figure][which].push(value);
}
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

// 256 streams of 256 tokens: processor time for each token.
async function streams(which) {
    const s = await new Server(["--max-running", "256"], programs[which]).ready;
    const before = s.cpu();
    const r = await bench(s, ["--num-prompts", 1024, "--max-concurrency", 256, "--output-len", 256]);
    const after = s.cpu(), n = r.total_output_tokens;
    note("256 streams: event loop, us a token", which, (after.loop - before.loop) * 1000 / n);
    note("256 streams: tokens a second", which, r.output_throughput);
    await s.stop();
}

// Whole answers of one token, one after another on 32 connections: processor time for each request.
async function requests(which) {
    const s = await new Server([], programs[which]).ready;
    const body = JSON.stringify({ model: "demo", prompt: [300, 301], max_tokens: 1, temperature: 0 });
    const text = `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const each = 600, connections = 32, before = s.cpu();
    await Promise.all(Array.from({ length: connections }, () => new Promise((done, failed) => {
        let left = each;
        const c = net.connect(s.port, "127.0.0.1", () => c.write(text));
        c.on("data", (d) => {
            if (!d.includes('"usage"')) return;
            if (--left === 0) { c.destroy(); done(); } else c.write(text);
        });
        c.on("error", failed);
    })));
    note("requests of one token: event loop, us each", which, (s.cpu().loop - before.loop) * 1000 / (each * connections));
    await s.stop();
}

// Every stream gets a token each 50 ms, all in one burst: what exceeds the median gap was added on the way.
async function paced(which, n) {
    const s = await new Server(["--max-running", n, "--max-queue", "0", "--max-rows", Math.max(512, n), "--fake-us-per-token", "50000"].map(String), programs[which]).ready;
    const before = s.cpu(), late = sleeper();
    const r = await bench(s, ["--num-prompts", n, "--max-concurrency", n, "--output-len", 60, "--save-detailed"]);
    const { settled } = split_gaps(r), p50 = quantile(settled, 0.5);
    note(`${n} streams: p99 - p50 of gaps, ms`, which, quantile(settled, 0.99) - p50);
    note(`${n} streams: event loop, us a token`, which, (s.cpu().loop - before.loop) * 1000 / r.total_output_tokens);
    note(`${n} streams: p99 - p50 of a bare sleep, ms`, which, await late);
    await s.stop();
}

const parts = { streams, requests, paced1000: (which) => paced(which, 1000), paced2000: (which) => paced(which, 2000) };
for (let round = 0; round < Number(rounds); round++) {
    const order = round % 2 ? ["new", "old"] : ["old", "new"];
    for (const part of wanted.length ? wanted : Object.keys(parts)) {
        for (const which of order) await parts[part](which);
    }
}
console.log("| figure | old, median | new, median | new / old | old, each round | new, each round |\n|---|---|---|---|---|---|");
for (const [figure, by] of Object.entries(found)) {
    const [a, b] = [median(by.old), median(by.new)];
    console.log(`| ${figure} | ${fixed(a)} | ${fixed(b)} | ${fixed(b / a)} | ${by.old.map((v) => fixed(v)).join(", ")} | ${by.new.map((v) => fixed(v)).join(", ")} |`);
}
