// node replicas.mjs FOLDER haproxy nginx: FOLDER has fathom.crt, fathom.key, fathom.pem. See run.sh.
globalThis.endsItsServers = true; // this is no test of node's runner
const { readFileSync } = await import("node:fs");
const path = (await import("node:path")).default;
const { Server, demo, sleep, until } = await import("../../http/lib/server.mjs");
const { Prober, agentFor, ask, spacing, stream } = await import("./client.mjs");
const { haproxy, nginx, stop, stopAll } = await import("./proxies.mjs");

const [tmp, ...installed] = process.argv.slice(2);
const has = (name) => installed.includes(name);
const began = performance.now();
const servers = new Set();
let failed = false;
function check(what, fine, found = "") {
    console.log(`${fine ? "ok  " : "FAIL"} ${what}${found ? `: ${found}` : ""}`);
    failed ||= !fine;
}

async function start(args, device) {
    const s = await Server.start(args, { device });
    servers.add(s);
    return s;
}
async function end(...all) {
    for (const s of all) {
        if (!s.exit) s.signal("SIGTERM");
        await s.ended;
        s.clean();
        servers.delete(s);
    }
}
// Without arithmetic, 10 ms a token.
const pair = (...args) => Promise.all([1, 2].map(() => start(["--fake-us-per-token", "10000", ...args], "fake")));
const direct = (s) => ({ port: s.port, ca: null });
const figure = async (s, name) => (await s.metrics())[name] ?? 0;

// ---- what reaches a client ----

const STREAMS = 16, TOKENS = 60;
const prompts = [...Array(STREAMS)].map((_, i) => `In the beginning ${i}`);
const manyStreams = (at) => Promise.all(prompts.map((prompt) => stream(at, TOKENS, { prompt })));

async function sameTokens(name, at, expected) {
    const got = await manyStreams(at);
    const same = got.filter((r, i) => r.whole && JSON.stringify(r.pieces) === JSON.stringify(expected[i].pieces)).length;
    check(`${name}: ${STREAMS} streams at once have the tokens of a direct stream, in order`, same === STREAMS, `${same} of ${STREAMS}`);
    return `${same}/${STREAMS}`;
}

// One direct stream and one through the proxy at the same time, so that a busy machine delays both. What a proxy holds back
// it holds back each time; what a busy machine holds back differs, so one try of many has to be even.
async function oneByOne(name, at, s, tries = 30) {
    let seen;
    for (let i = 0; i < tries; i++) {
        const [one, other] = (await Promise.all([stream(direct(s), 100), stream(at, 100)])).map(spacing);
        seen = { one, other, even: other.reads >= one.reads / 2 && other.gap <= 4 * one.gap };
        if (seen.even) break;
    }
    const { one, other } = seen;
    return { ...seen, text: `${other.reads} (${one.reads}) | ${other.bunch} | ${other.gap.toFixed(0)} (${one.gap.toFixed(0)})` };
}

async function whatArrives(rows) {
    const [one, two] = await pair();
    const expected = await manyStreams(direct(one));
    check(`a direct stream is whole`, expected.every((r) => r.whole && r.pieces.length === TOKENS));
    const proxies = [
        ...(has("haproxy") ? [await haproxy(tmp, [one, two]), await haproxy(tmp, [one, two], { tls: true })] : []),
        ...(has("nginx") ? [await nginx(tmp, [one, two])] : [])];
    for (const proxy of proxies) {
        const same = await sameTokens(proxy.name, proxy.at, expected);
        const { even, text } = await oneByOne(proxy.name, proxy.at, one);
        check(`${proxy.name} hands tokens on one by one; reads of 100 tokens (direct) | largest bunch | largest gap in ms (direct)`, even, text);
        rows.set(proxy.name, { same, text });
        await stop(proxy);
    }
    if (has("haproxy")) { // what the option is for; it judges nothing
        const lacking = await haproxy(tmp, [one, two], { lacking: ["option http-no-delay"] });
        const { text } = await oneByOne("", lacking.at, one, 1);
        console.log(`     HAProxy without http-no-delay: ${text}`);
        rows.set("HAProxy without `http-no-delay`", { text });
        await stop(lacking);
    }
    await end(one, two);
}

// ---- a replica ends ----

// 8 streams of 300 tokens, of 3 s, and two probers that have been answered; and how many streams run on each replica. Where this took
// more than half of a stream's time, all begins anew: the streams could end before a replica does.
async function underWay(proxy, both, padding) {
    for (let i = 0; i < 40; i++) {
        const began = performance.now();
        const streams = [...Array(8)].map(() => stream(proxy.at, 300));
        let ended = false;
        for (const s of streams) s.then(() => { ended = true; });
        const runs = await until("8 streams run", async () => {
            const n = await Promise.all(both.map((s) => figure(s, "vllm:num_requests_running")));
            return ended || (n[0] + n[1] === 8 && n);
        });
        const probers = [false, true].map((kept) => new Prober(proxy.at, { kept, padding }));
        await until("probers are answered", () => probers.every((p) => p.answers.length >= 2));
        if (!ended && performance.now() - began < 1500) return { streams, runs, probers };
        await Promise.all([...streams, ...probers.map((p) => p.stop())]);
    }
    throw new Error("8 streams and two probers never took less than 1.5 s to begin");
}

// `signal` for the replica that has more of the streams.
async function replicaEnds(make, signal, { lameDuck = 0, padding = 0 } = {}) {
    const both = await pair("--lame-duck-seconds", String(lameDuck));
    const proxy = await make(tmp, both);
    const { streams, runs, probers } = await underWay(proxy, both, padding);
    const at = runs[0] >= runs[1] ? 0 : 1, victim = both[at];
    const told = performance.now();
    victim.signal(signal);
    let refused = 0; // by the victim, as its figures tell while it still answers
    const watch = async () => {
        for (; victim.exit === null; await sleep(20)) refused = Math.max(refused, await figure(victim, 'fathom_http_refused_total{why="draining"}').catch(() => 0));
    };
    const [, gone] = await Promise.all([signal === "SIGTERM" ? watch() : null, victim.ended.then(() => performance.now())]);
    const results = await Promise.all(streams);
    await until("ten more probes of each", () => probers.every((p) => p.answers.filter((r) => r.began > gone).length >= 10));
    await Promise.all(probers.map((p) => p.stop()));
    await stop(proxy);
    const exit = victim.exit;
    servers.delete(victim);
    await end(both[1 - at]);
    return { proxy, probers, exit, refused, gone, seconds: (gone - told) / 1000, ran: runs[at], whole: results.filter((r) => r.whole && r.pieces.length === 300).length };
}
const counted = (probers, since) => probers.map((p) => `${p.bad(since).length}/${p.answers.length}`).join(", ");
const why = (probers, since) => [...new Set(probers.flatMap((p) => p.bad(since)).map((r) => r.status ?? r.error))].join(" ");

// A request that is at the replica when it dies is lost like a stream; one that comes later must not be.
async function killed(name, make) {
    const r = await replicaEnds(make, "SIGKILL");
    check(`${name}, kill -9: the streams of the dead replica are cut, and no others`, r.whole === 8 - r.ran, `${r.ran} ran there, ${r.whole} of 8 are whole`);
    const bad = r.probers.flatMap((p) => p.bad(r.gone));
    check(`${name}, kill -9: every later request is served, on new and on kept connections`, bad.length === 0, `${counted(r.probers, r.gone)} ${why(r.probers, r.gone)}`);
    return `${8 - r.whole} of 8 cut; ${counted(r.probers, r.gone)}`;
}

async function drained(name, make, options) {
    const r = await replicaEnds(make, "SIGTERM", options);
    check(`${name}, SIGTERM: all streams are whole, exit 0`, r.whole === 8 && r.exit.code === 0, `${r.whole} of 8, exit ${r.exit.code} after ${r.seconds.toFixed(1)} s`);
    const bad = r.probers.flatMap((p) => p.bad());
    check(`${name}, SIGTERM: every request is served, on new and on kept connections`, bad.length === 0, `${counted(r.probers)} ${why(r.probers)}; ${r.refused} refused by the replica`);
    return { ...r, text: `${r.whole}/8, ${r.seconds.toFixed(1)} s; ${counted(r.probers)}` };
}

async function endings(rows) {
    const makes = [...(has("haproxy") ? [["HAProxy", haproxy]] : []), ...(has("nginx") ? [["nginx, TLS", nginx]] : [])];
    for (const [name, make] of makes) {
        const row = rows.get(name);
        row.killed = await killed(name, make);
        const r = await drained(name, make);
        check(`${name}: the drained replica refused requests, which the other one served`, r.refused > 0, String(r.refused));
        row.drained = r.text;
    }
    if (!has("haproxy")) return;
    // Bodies above HAProxy's buffer cannot be repeated: no 503 may come at all. HAProxy notices within 2.5 s.
    const r = await drained("HAProxy, lame duck of 5 s, bodies of 40 KB", haproxy, { lameDuck: 5, padding: 40000 });
    check("no request came after the lame duck", r.refused === 0, String(r.refused));
    rows.set("HAProxy, lame duck of 5 s, bodies of 40 KB", { drained: r.text });
}

// ---- affinity ----

const CONVERSATIONS = 16, TURNS = 5, AT_ONCE = 4;
const text = readFileSync(path.join(demo, "held_out.txt"), "utf8");
const piece = (i, n) => text.slice((i * 977) % (text.length - n)).slice(0, n);

// Runs the conversations, each with a beginning of its own, and gives the share of prompt tokens found in a prefix cache.
async function conversations(run, at, replicas, { named }) {
    const before = await figures(replicas);
    const turns = [...Array(CONVERSATIONS)].map((_, i) => [{ role: "user", content: `${run}-${i} ${piece(i + 31 * run, 400)}` }]);
    const agents = [...Array(AT_ONCE)].map(() => agentFor(at));
    let bad = 0;
    const turn = async (i, t, agent) => {
        const headers = named ? { "X-Session-Id": `${run}-${i}` } : {};
        const r = await ask(at, "POST", "/v1/chat/completions", { body: { model: "demo", messages: turns[i], max_tokens: 8, temperature: 0 }, headers, agent });
        if (r.status !== 200) { bad++; return; }
        turns[i].push({ role: "assistant", content: JSON.parse(r.text).choices[0].message.content ?? "" }, { role: "user", content: piece(i + 7 * t + 3, 60) });
    };
    for (let t = 0; t < TURNS; t++) {
        const order = [...Array(CONVERSATIONS).keys()].map((i) => (i * 5 + t * 3) % CONVERSATIONS);
        await Promise.all(agents.map(async (agent) => { while (order.length) await turn(order.shift(), t, agent); }));
    }
    agents.forEach((agent) => agent.destroy());
    const after = await figures(replicas);
    check(`conversations ${run}: all turns are answered`, bad === 0);
    return (after.hits - before.hits) / (after.queries - before.queries);
}
async function figures(replicas) {
    const all = await Promise.all(replicas.map((s) => s.metrics()));
    const sum = (name) => all.reduce((n, m) => n + m[name], 0);
    return { hits: sum("vllm:prefix_cache_hits_total"), queries: sum("vllm:prefix_cache_queries_total") };
}

async function affinity(rows) {
    const both = await Promise.all([1, 2].map(() => start([], "cpu")));
    const alone = await conversations(1, direct(both[0]), both, { named: true });
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    rows.set("one replica", { hits: percent(alone) });
    let run = 1;
    for (const [make, name] of [...(has("haproxy") ? [[haproxy, "HAProxy"]] : []), ...(has("nginx") ? [[nginx, "nginx, TLS"]] : [])]) {
        const proxy = await make(tmp, both);
        const named = await conversations(++run, proxy.at, both, { named: true });
        check(`${name}: conversations with X-Session-Id find at least 90 % of the prefixes that one replica finds`, named >= 0.9 * alone,
            `${percent(named)} of ${percent(alone)}`);
        const without = await conversations(++run, proxy.at, both, { named: false });
        console.log(`     ${name}, without the header: ${percent(without)}`);
        rows.get(name).hits = `${percent(named)}; without the header ${percent(without)}`;
        await stop(proxy);
    }
    await end(...both);
}

// ---- all of it ----

try {
    const rows = new Map();
    await whatArrives(rows);
    await endings(rows);
    await affinity(rows);
    console.log("\n| proxy | streams as direct | reads of 100 tokens (direct) | largest bunch | largest gap, ms (direct) | kill -9: streams; later probes bad | " +
        "SIGTERM: streams whole, exit after; probes bad | prompt tokens found |\n|---|---|---|---|---|---|---|---|");
    for (const [name, row] of rows)
        console.log(`| ${name} | ${row.same ?? ""} | ${row.text ?? " | | "} | ${row.killed ?? ""} | ${row.drained ?? ""} | ${row.hits ?? ""} |`);
} catch (error) {
    console.log(`FAIL ${error.stack}`);
    failed = true;
} finally {
    await stopAll();
    for (const s of servers) if (!s.exit) s.child.kill("SIGKILL");
    await Promise.all([...servers].map((s) => s.ended));
}
const left = ["haproxy", "nginx"].filter((name) => !has(name));
if (left.length) console.log(`not run, for want of a Debian package: ${left.join(" ")}`);
console.log(`replicas: ran ${installed.join(" ")} in ${((performance.now() - began) / 1000).toFixed(0)} s`);
process.exitCode = failed ? 1 : 0;
