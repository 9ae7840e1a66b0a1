// The soak: a mixed load of two tenants with a hostile share, for minutes or hours, and a verdict.
//   node tests/hostile/soak/soak.mjs [--minutes 30] [--out build/soak] [--seed N] [--hostile 0.1]
//                                    [--clients 8] [--kv-memory 2M] [--device cpu]
// FATHOM_BIN names the program (default build/release/fathom). Writes OUT/soak.jsonl (a sample
// every 5 s) and OUT/soak.md. Exit status 0: nothing was found.
globalThis.endsItsServers = true; // this is no test of node's runner
process.env.ASAN_OPTIONS ??= "exitcode=99:quarantine_size_mb=8:malloc_context_size=1";
const { appendFileSync, mkdirSync, writeFileSync } = await import("node:fs");
const { parseArgs } = await import("node:util");
const path = (await import("node:path")).default;
const { KEYS, PATIENCE_FACTOR, Tools, ledger, option, start } = await import("../lib/bench.mjs");
const { binary, root, sleep } = await import("../../http/lib/server.mjs");
const { pieces } = await import("../lib/pieces.mjs");
const { probe } = await import("../lib/probe.mjs");
const { random } = await import("../../http/lib/random.mjs");
const { spark, slopePerMinute, markdown } = await import("./summary.mjs");
const proc = await import("../lib/proc.mjs");

const { values: o } = parseArgs({ options: {
    minutes: { type: "string", default: "30" }, out: { type: "string", default: path.join(root, "build/soak") }, seed: { type: "string", default: String(Date.now() % 1000000) },
    hostile: { type: "string", default: "0.1" }, clients: { type: "string", default: "8" }, "kv-memory": { type: "string", default: "2M" }, device: { type: "string", default: "cpu" } } });
const minutes = Number(o.minutes), seed = Number(o.seed), share = Number(o.hostile);
mkdirSync(o.out, { recursive: true });
const record = path.join(o.out, "soak.jsonl");
writeFileSync(record, "");

const def = { keys: true, device: o.device, expectedLog: null,
    args: ["--kv-memory", o["kv-memory"], "--max-running", "32", "--max-queue", "200", "--body-seconds", "5", "--header-seconds", "5", "--stall-seconds", "5", "--log-level", "info",
        ...(option("--request-memory") ? ["--request-memory", "128M"] : [])] };
const server = await start(def);
const t = new Tools(server, def), pid = server.child.pid;
const faults = [], counts = { honest: 0, hostile: 0, answered: 0, refused: 0, probes: 0 };
const kinds = Object.fromEntries(Object.keys(pieces).map((k) => [k, 0]));
const note = (what) => { if (faults.length < 50) faults.push(`${((Date.now() - began) / 1000).toFixed(0)} s: ${what}`); };
// The log is looked at and let go of: an hour of it would be the client's memory.
const bad = /\balert\b|Sanitizer|runtime error/;
for (const stream of [server.child.stdout, server.child.stderr]) {
    stream.on("data", () => {
        const end = server.log.lastIndexOf("\n") + 1;
        for (const line of server.log.slice(0, end).split("\n")) if (bad.test(line)) note(`log: ${line.slice(0, 300)}`);
        server.log = server.log.slice(end);
    });
}

const began = Date.now(), end = began + minutes * 60000;
const goesOn = () => Date.now() < end && !server.exit;

// ---- the load ----

const words = ["And it came to pass", "The LORD said unto", "In the beginning", "Blessed are", "He went up", "For the"];
const schema = { type: "object", properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 120 }, tags: { type: "array", items: { enum: ["a", "b", "c"] }, maxItems: 3 } }, required: ["name", "age"], additionalProperties: false };
function honest(pick) {
    const prompt = words[pick(words.length)] + " and".repeat(pick(60)), max_tokens = 4 + pick(60), seed = pick(1000), temperature = pick(3) / 2, stream = pick(2) === 1;
    switch (pick(8)) {
        case 0: return ["/v1/chat/completions", { messages: [{ role: "user", content: prompt }], max_tokens, seed, temperature, stream, logprobs: pick(3) === 0 }];
        case 1: return ["/v1/responses", { input: prompt, max_output_tokens: max_tokens, temperature, stream }];
        case 2: return ["/v1/completions", { ...t.schema(schema, { max_tokens: 80, temperature, seed }), stream }];
        case 3: return ["/tokenize", { prompt: prompt.repeat(1 + pick(12)) }];
        case 4: return ["/v1/completions", { prompt: [prompt, words[pick(words.length)]], n: 1 + pick(3), max_tokens, seed, temperature, stream, logprobs: pick(6) }];
        case 5: return ["/v1/completions", { prompt: Array.from({ length: 1 + pick(400) }, (_, i) => 260 + ((i * 7 + pick(3)) % 1700)), max_tokens, temperature, seed, stream }];
        default: return ["/v1/completions", { prompt, max_tokens, seed, temperature, stream, stop: pick(2) ? ["."] : undefined, depth: { max_loops: 1 + pick(8) } }];
    }
}

async function client(i) {
    const pick = random(seed * 1000 + i * 7919 + 1);
    for (let k = 0; k < 20; k++) pick(2);
    while (goesOn()) {
        try {
            if (pick(1000) < share * 1000) {
                const name = Object.keys(pieces)[pick(Object.keys(pieces).length)];
                counts.hostile++;
                kinds[name]++;
                await pieces[name](t, pick);
            } else {
                const [at, body] = honest(pick);
                counts.honest++;
                const r = await server.post(at, body, t.key(pick(2) ? "alpha" : "beta"));
                if (r.status === 200 && !r.aborted) counts.answered++;
                else if ([429, 503].includes(r.status)) counts.refused++;
                else note(`an honest request at ${at} got ${r.status}${r.aborted ? ", cut" : ""}: ${r.text.slice(0, 200)}`);
            }
        } catch (error) {
            if (!server.exit && goesOn()) note(`${error.message}`);
        }
        await sleep(20 + pick(150));
    }
}

// ---- what is watched ----

let gaps = [];
async function watchStream() { // a third key's stream, all the time: its gaps are what others feel
    while (goesOn()) {
        const s = t.stream({ prompt: "And it came", max_tokens: 200, temperature: 0, ignore_eos: true }, { headers: t.line("gamma") });
        await s.done;
        gaps.push(...s.walls);
        if (!s.answer.whole && goesOn()) note(`the watched stream was cut: status ${s.answer.status} ${s.answer.body.slice(0, 200)}`);
        await sleep(500);
    }
}
const third = t.key("gamma").headers;
let first = await probe(server, third);
async function watchProbe() {
    while (goesOn()) {
        for (let i = 0; i < 30 && goesOn(); i++) await sleep(1000);
        try {
            if (await probe(server, third) !== first) note("the probe's answers differ");
            counts.probes++;
        } catch (error) { if (!server.exit) note(`the probe: ${error.message}`); }
    }
}

const samples = [];
async function sample() {
    const m = await server.metrics(), sorted = gaps.sort((a, b) => a - b);
    const s = { s: (Date.now() - began) / 1000, rss: proc.rssMB(pid), descriptors: proc.descriptors(pid), free: m['fathom_cache_pages{state="free"}'] + m['fathom_cache_pages{state="cached"}'], used: m['fathom_cache_pages{state="used"}'],
        running: m["vllm:num_requests_running"], waiting: m["vllm:num_requests_waiting"], connections: m.fathom_http_connections, buffered: m.fathom_http_buffered_bytes ?? 0, ledger: ledger(m), turn: m.fathom_loop_turn_max_seconds * 1000,
        gap99: sorted[Math.floor(sorted.length * 0.99)] ?? 0, cpu: proc.cpu(pid), tokens: m["vllm:generation_tokens_total"], preemptions: m["vllm:num_preemptions_total"] };
    gaps = [];
    samples.push(s);
    appendFileSync(record, `${JSON.stringify(s)}\n`);
    return s;
}
async function watchProcess() {
    for (let i = 1; goesOn(); i++) {
        for (let k = 0; k < 50 && goesOn(); k++) await sleep(100);
        try {
            const s = await sample();
            if (i % 6 === 0) console.log(`${(s.s / 60).toFixed(1)} min: ${s.rss.toFixed(1)} MB, ${s.descriptors} descriptors, ${s.connections} connections, ledger ${s.ledger}, longest turn ${s.turn.toFixed(1)} ms, p99 gap ${s.gap99.toFixed(0)} ms; ${counts.honest} honest (${counts.refused} refused), ${counts.hostile} hostile, ${counts.probes} probes; ${faults.length} faults`);
        } catch (error) { if (!server.exit) note(`metrics: ${error.message}`); }
    }
}

console.log(`soak: ${binary}, ${minutes} min, seed ${seed}, ${(share * 100).toFixed(0)} % hostile, ${o.clients} clients, pid ${pid}`);
const before = await sample();
await Promise.all([...Array.from({ length: Number(o.clients) }, (_, i) => client(i)), watchStream(), watchProbe(), watchProcess()]);

// ---- the verdict ----

const seconds = (Date.now() - began) / 1000;
let after = null;
if (server.exit) {
    note(`the server ended with ${JSON.stringify(server.exit)}`);
} else {
    for (let i = 0; i < 60 * PATIENCE_FACTOR ** 0.5; i++) {
        await sleep(500);
        after = await sample();
        if (after.used === 0 && after.running === 0 && after.descriptors <= before.descriptors + 1 && after.ledger <= before.ledger && after.buffered === 0) break;
    }
    if (await probe(server, third).catch(String) !== first) note("the probe's answers differ at the end");
    for (const [what, wrong] of [["pages", after.free !== before.free], ["descriptors", after.descriptors > before.descriptors + 1], ["the ledger", after.ledger > before.ledger], ["buffered bytes", after.buffered !== 0]]) {
        if (wrong) note(`${what} did not come back: ${JSON.stringify(before)} before, ${JSON.stringify(after)} after`);
    }
    server.signal("SIGTERM");
    const over = await Promise.race([server.ended, sleep(60000)]);
    if (over?.code !== 0) note(`SIGTERM: ${JSON.stringify(over ?? "it did not end")}`);
    if (!over) server.child.kill("SIGKILL");
}
const half = samples.filter((s) => s.s > seconds / 2 && s.s < seconds);
const slope = slopePerMinute(half.map((s) => [s.s / 60, s.rss])) * 10, level = half.length ? half.reduce((n, s) => n + s.rss, 0) / half.length : 0;
// 1 % in ten minutes, where the growth is more than the samples differ among themselves.
const grown = (slope / 10) * (seconds / 120), noise = binary.includes("san-") ? 12 : 2;
if (slope > 0.01 * level && grown > noise) note(`resident memory grew ${grown.toFixed(1)} MB in the second half, ${slope.toFixed(2)} MB per ten minutes (${(0.01 * level).toFixed(2)} allowed)`);
const text = markdown({ binary: path.relative(root, binary), command: `node ${path.relative(root, process.argv[1])} ${process.argv.slice(2).join(" ")}`, seconds, seed, share, counts, kinds, before, after, slope, level, samples, faults, spark });
writeFileSync(path.join(o.out, "soak.md"), text);
console.log(text);
process.exit(faults.length ? 1 : 0);
