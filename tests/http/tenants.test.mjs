// Two keys beside each other: whose turn it is, what each may hold, and what one learns of the other.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Raw, post } from "./lib/raw.mjs";
import { assertError } from "./lib/rows.mjs";
import { Server, until, withServer } from "./lib/server.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-tenants-"));
process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
const keyFile = path.join(dir, "keys");
writeFileSync(keyFile, "sk-greedy-00001 greedy\nsk-polite-00001 polite weight=1 priority=-5..5\nsk-batch-000001 batch priority=3..9\n");
const as = (who) => ({ headers: { "X-Api-Key": `sk-${who}-${who === "batch" ? "000001" : "00001"}` } });
const body = { model: "demo", prompt: "Lord", max_tokens: 4, temperature: 0, ignore_eos: true };
const start = (args, run) => withServer(["--api-key-file", keyFile, ...args], run);

// A stream of the greedy key that goes on until it is destroyed.
async function hold(s, extra = {}) {
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true, ...extra }), "X-Api-Key: sk-greedy-00001\r\n"));
    return c;
}
const waiting = (s, n) => until(`${n} waiting`, async () => (await s.metrics())["vllm:num_requests_waiting"] >= n);

test("the prefix of one key is not found by another, unless keys share the cache", async () => {
    const prompt = Array.from({ length: 200 }, (_, i) => 300 + i);
    const cached = async (s, who, more = {}) => {
        const r = await s.post("/v1/completions", { ...body, prompt, ...more }, as(who));
        assert.equal(r.status, 200, r.text);
        return r.json.usage.prompt_tokens_details.cached_tokens;
    };
    await start([], async (s) => {
        assert.equal(await cached(s, "greedy"), 0);
        assert.ok(await cached(s, "greedy") > 0);
        assert.equal(await cached(s, "polite"), 0, "cached_tokens tells of another key's prompt");
        assert.ok(await cached(s, "polite") > 0);
        assert.equal(await cached(s, "greedy", { cache_salt: "x" }), 0);
        assert.equal(await cached(s, "polite", { cache_salt: "x" }), 0, "a salt is of one key too");
    });
    await start(["--share-cache"], async (s) => {
        assert.equal(await cached(s, "greedy"), 0);
        assert.ok(await cached(s, "polite") > 0);
    });
});

test("priority is taken and ignored; with --client-priority it has the key's range", async () => {
    const status = async (s, who, priority) => s.post("/v1/completions", { ...body, priority }, as(who));
    await start([], async (s) => {
        for (const p of [-2147483648, -6, 0, 6, 2147483647]) assert.equal((await status(s, "polite", p)).status, 200);
    });
    await start(["--client-priority"], async (s) => {
        for (const p of [-5, 0, 5]) assert.equal((await status(s, "polite", p)).status, 200);
        for (const p of [-6, 6]) {
            const r = await status(s, "polite", p);
            assertError(r, 400, { param: "priority" });
            assert.match(r.json.error.message, /from -5 to 5/);
        }
        assert.equal((await status(s, "greedy", -2147483648)).status, 200, "a key without a range");
        assert.equal((await s.post("/v1/completions", body, as("batch"))).status, 200, "0 need not be in the range of who names none");
    });
});

// Two of one key wait while its place is taken; says which of them ends first.
async function race(s, first, second) {
    const held = await hold(s);
    await held.until((b) => b.includes("data: "));
    const order = [];
    const ask = (name, priority) => s.post("/v1/completions", { ...body, priority }, as("greedy")).then((r) => order.push(r.status === 200 ? name : r.text));
    const a = ask("first", first);
    await waiting(s, 1);
    const b = ask("second", second);
    await waiting(s, 2);
    held.destroy();
    await Promise.all([a, b]);
    return order;
}

test("a better priority passes only with --client-priority", async () => {
    const args = ["--max-running", "1", "--fake-us-per-token", "20000"];
    await start(args, async (s) => assert.deepEqual(await race(s, 5, -5), ["first", "second"]));
    await start([...args, "--client-priority"], async (s) => assert.deepEqual(await race(s, 5, -5), ["second", "first"]));
});

test("sequences and tokens of a key are counted, whatever requests they come in", async () => {
    await start(["--max-sequences-per-key", "6", "--max-tokens-per-key", "3000", "--fake-us-per-token", "20000"], async (s) => {
        const many = await s.post("/v1/completions", { ...body, n: 4, prompt: ["a", "b"] }, as("greedy"));
        assertError(many, 429, { type: "rate_limit_error", code: "rate_limit_exceeded" });
        assert.match(many.json.error.message, /8 more; it may have 6/);
        const held = await hold(s, { n: 3, max_tokens: 900 });
        await held.until((b) => b.includes("data: "));
        const more = await s.post("/v1/completions", { ...body, max_tokens: 600 }, as("greedy"));
        assertError(more, 429);
        assert.match(more.json.error.message, /tokens/);
        assert.ok(more.headers["retry-after"]);
        assert.equal((await s.post("/v1/completions", body, as("greedy"))).status, 200);
        assert.equal((await s.post("/v1/completions", body, as("polite"))).status, 200);
        held.destroy();
        await until("room again", async () => (await s.post("/v1/completions", { ...body, max_tokens: 600 }, as("greedy"))).status === 200);
        await s.idle();
    });
});

test("a greedy key hears 429 while another is served, and no 503", async () => {
    await start(["--max-running", "4", "--max-queue", "60", "--fake-us-per-token", "20000"], async (s) => {
        const held = [];
        let refused = 0;
        for (let i = 0; i < 12; i++) {
            const c = await hold(s, { n: 8, prompt: `q${i}` });
            held.push(c);
            if (await Promise.race([c.until((b) => b.includes("HTTP/1.1 429")).then(() => true), waiting(s, 8 * (i + 1 - refused) - 4).then(() => false)])) refused++;
        }
        assert.ok(refused >= 6, `${refused} of 12 requests of 8 were refused`);
        const answers = await Promise.all(Array.from({ length: 12 }, () => s.post("/v1/completions", body, as("polite"))));
        assert.deepEqual(answers.map((r) => r.status), Array(12).fill(200));
        await until("all 48 tokens are counted", async () => (await s.metrics())['fathom_key_generation_tokens_total{key="polite"}'] === 48);
        const m = await s.metrics();
        assert.equal(m['fathom_key_refused_total{key="greedy"}'], refused);
        assert.equal(m['fathom_key_refused_total{key="polite"}'], 0);
        assert.ok(m['fathom_key_sequences{key="greedy",state="running"}'] >= 1);
        assert.equal(m['fathom_key_sequences{key="batch",state="running"}'], undefined, "a key that was never used");
        for (const c of held) c.destroy();
        await s.idle();
    });
});

test("a request of 16 choices for 64 prompts is let in", async () => {
    await start([], async (s) => {
        const r = await s.post("/v1/completions", { ...body, n: 16, prompt: Array(64).fill("a"), max_tokens: 1, temperature: 1 }, as("greedy"));
        assert.equal(r.status, 200, r.text.slice(0, 300));
        assert.equal(r.json.choices.length, 1024);
    });
});

test("a line of the key file that says something unknown ends the start, and shows no key", async () => {
    const bad = path.join(dir, "bad");
    writeFileSync(bad, "sk-secret-00001 alice weight=two\n");
    const s = await Server.start(["--api-key-file", bad], { ready: false });
    assert.equal((await s.ended).code, 2);
    assert.match(s.log, /bad:1: weight takes a whole number from 1 to 1000/);
    assert.ok(!s.log.includes("secret"));
});
