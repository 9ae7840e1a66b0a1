// GET /launches: the composition of the last recurrent launches, as true as the answers' depths.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { withServer } from "./lib/server.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-launches-"));
after(() => rmSync(dir, { recursive: true }));

const sum = (list) => list.reduce((x, y) => x + y, 0);
const launches = async (s, query = "") => {
    const r = await s.get(`/launches${query}`);
    assert.equal(r.status, 200, r.text);
    return r.json;
};
const ask = (s, prompt, more) => s.post("/v1/completions", { prompt, temperature: 0, ignore_eos: true, return_depth: true, ...more });

test("before the first request the list is empty, and tells the default loops", async () => {
    await withServer([], async (s) => {
        assert.deepEqual(await launches(s), { last: 0, loops: 8, launches: [] });
    });
});

// Drafts would add rows, some of them beside those of the prompt.
test("one answer's launches hold one row for each loop of each token, and the rows of its prompt", async () => {
    await withServer(["--halted-kv", "last", "--no-prefix-cache", "--speculate", "off"], { device: "cpu" }, async (s) => {
        const answer = (await ask(s, "In the beginning", { max_tokens: 12 })).json;
        const { last, launches: list } = await launches(s);
        assert.ok(last > 0 && last <= 256, "all launches are remembered");
        assert.deepEqual(list.map((one) => one.id), Array.from({ length: last }, (_, i) => i + 1));
        const decoded = answer.choices[0].depths.slice(1); // the first depth is that of the prompt's last token
        for (let loop = 1; loop <= 8; loop++) {
            const rows = sum(list.filter((one) => one.prompt === 0).map((one) => one.rows[loop - 1] ?? 0));
            assert.equal(rows, decoded.filter((depth) => depth >= loop).length, `rows of loop ${loop}`);
        }
        assert.equal(Math.max(...list.map((one) => one.prompt)), answer.usage.prompt_tokens, "the prompt's first loop is one launch");
        for (const one of list) {
            assert.ok(one.rows.length === 0 || one.rows.at(-1) > 0, "zeros at the end are left out");
            assert.ok(one.prompt <= sum(one.rows));
            assert.ok(Number.isInteger(one.us) && one.us >= 0);
        }
        for (let i = 1; i < list.length; i++) assert.ok(list[i].ms >= list[i - 1].ms, "the clock does not go back");
    });
});

test("a launch runs rows of several loops, and the counters agree with the list", async () => {
    await withServer([], async (s) => {
        const list = [];
        let last = 0;
        for (let round = 0; round < 8; round++) { // of fewer than 256 launches, even if none were shared
            const depths = Array.from({ length: 16 }, (_, i) => 1 + i % 8);
            const asks = depths.map((loops, i) => ask(s, `Psalm ${round}${i}`, { max_tokens: 3, depth: { min_loops: loops, max_loops: loops } }));
            for (const r of await Promise.all(asks)) assert.equal(r.status, 200, r.text);
            const more = await launches(s, `?after=${last}`);
            last = more.last;
            list.push(...more.launches);
        }
        assert.deepEqual(list.map((one) => one.id), Array.from({ length: last }, (_, i) => i + 1));
        assert.ok(list.some((one) => one.rows.filter((n) => n > 0).length >= 2), "a launch runs two loops at once");
        const metrics = await s.metrics();
        assert.equal(metrics['fathom_launches_total{stage="recurrent"}'], last);
        assert.equal(metrics['fathom_launch_rows_total{stage="recurrent"}'], sum(list.flatMap((one) => one.rows)));
        for (let loop = 1; loop <= 8; loop++) {
            assert.equal(metrics[`fathom_loop_rows_total{loop="${loop}"}`], sum(list.map((one) => one.rows[loop - 1] ?? 0)), `loop ${loop}`);
        }
        assert.ok(metrics['fathom_loop_rows_total{loop="1"}'] > metrics['fathom_loop_rows_total{loop="8"}']);
    });
});

test("after=N leaves out the launches up to N; the server remembers 256", async () => {
    await withServer(["--speculate", "off"], async (s) => {
        await ask(s, "Lord", { max_tokens: 200, depth: { min_loops: 3, max_loops: 3 } });
        const all = await launches(s);
        assert.ok(all.last > 256);
        assert.equal(all.launches.length, 256);
        assert.equal(all.launches[0].id, all.last - 255);
        const some = await launches(s, `?after=${all.last - 3}`);
        assert.deepEqual(some.launches, all.launches.slice(-3));
        assert.deepEqual((await launches(s, `?after=${all.last}`)).launches, []);
        assert.deepEqual((await launches(s, `?after=${all.last + 1000}`)).launches, []);
        assert.deepEqual((await launches(s, "?after=0")).launches, all.launches);
        await ask(s, "Lord", { max_tokens: 4 });
        const later = await launches(s, `?after=${all.last}`);
        assert.equal(later.launches[0].id, all.last + 1);
        assert.equal(later.launches.at(-1).id, later.last);
    });
});

test("an after that is no launch's id is refused", async () => {
    await withServer([], async (s) => {
        for (const bad of ["", "-1", "+1", "1.5", "x", "1x", "0x10", "1e3", "%20", "99999999999999999999"]) {
            const r = await s.get(`/launches?after=${bad}`);
            assert.equal(r.status, 400, bad);
            assert.match(r.json.error.message, /after must be a whole number/);
        }
        assert.equal((await s.get("/launches?after")).status, 200, "without a value nothing was asked");
        assert.equal((await s.get("/launches?other=1")).status, 200);
        assert.equal((await s.post("/launches", {})).status, 405);
        assert.equal((await s.get("/v1/launches")).status, 404, "as /metrics, it is no part of the API under /v1");
    });
});

test("the launches are as open as the metrics, on both ports", async () => {
    const keys = path.join(dir, "keys");
    writeFileSync(keys, "sk-alpha-000001 alpha\n");
    await withServer(["--api-key-file", keys], async (s) => {
        assert.equal((await s.get("/launches")).status, 200);
    });
    await withServer(["--api-key-file", keys, "--metrics-key", "--admin-port", "0"], async (s) => {
        assert.equal((await s.get("/launches")).status, 401);
        assert.equal((await s.get("/launches", { headers: { "X-Api-Key": "sk-alpha-000001" } })).status, 200);
        s.port = Number(/metrics on http:\/\/[^\s:]+:(\d+)/.exec(s.log)[1]);
        assert.equal((await s.get("/launches")).status, 401);
        assert.equal((await s.get("/launches", { headers: { "X-Api-Key": "sk-alpha-000001" } })).status, 200);
    });
});
