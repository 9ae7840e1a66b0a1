// Depth over HTTP on a model whose family caps the loops: an Ouro of random weights, on the fake
// device where only the surface counts and on the CPU where depths do.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server, binary, events, withServer } from "./lib/server.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-depth-"));
const model = path.join(dir, "ouro");
before(() => execFileSync(binary, ["init", "--variant", "ouro_tiny", "--out", model, "--dtype", "float32", "--mean-depth", "2.5"]));
after(() => rmSync(dir, { recursive: true }));

const ask = { prompt: [1, 2, 3], max_tokens: 24, temperature: 0, ignore_eos: true, return_depth: true };
const post = (s, more) => s.post("/v1/completions", { ...ask, ...more });
const depths = async (s, more) => {
    const r = await post(s, more);
    assert.equal(r.status, 200, r.text);
    assert.equal(r.json.choices[0].depths.length, ask.max_tokens);
    return r.json.choices[0].depths;
};

test("/v1/models and /metrics name family, core layers, exit rule, loops and policy", async () => {
    await withServer(["--halted-kv", "last"], { model }, async (s) => {
        const card = (await s.get("/v1/models")).json.data[0];
        assert.equal(card.family, "ouro");
        assert.equal(card.core_layers, 3);
        assert.deepEqual(card.exit, { rule: "hazard", threshold: 0.5, above: 0, most: 1, all_loops_at: 1 });
        assert.deepEqual(card.loops, { default: 4, least: 1, cap: 4 });
        assert.equal(card.halted_kv, "last");
        assert.deepEqual([card.max_loops, card.trained_loops], [4, 4]);
        const page = (await s.get("/metrics")).text;
        assert.match(page, /^fathom_model_info\{[^}]*family="ouro",exit_rule="hazard",core_layers="3",halted_kv="last"\} 1$/m);
        assert.match(page, /^fathom_ceiling_loops\{[^}]*\} 4$/m);
        assert.equal(page.match(/^fathom_rows\{/gm).length, 4);
        assert.match(s.log, /ouro, .*3 core layers, 4 loops by default, at most 4, exit by hazard/);
    });
});

test("loops above the cap and thresholds outside the rule's range are 400s that name the range", async () => {
    const rows = [
        [{ max_loops: 5 }, "depth.max_loops", /is 5; ouro models run 1 to 4 loops/],
        [{ max_loops: 0 }, "depth.max_loops", /is 0; ouro models run 1 to 4 loops/],
        [{ min_loops: 9 }, "depth.min_loops", /is 9; ouro models run 1 to 4 loops/],
        [{ threshold: 1.5 }, "depth.threshold", /exit rule hazard it must be above 0 and at most 1/],
        [{ threshold: 0 }, "depth.threshold", /exit rule hazard/],
    ];
    await withServer([], { model }, async (s) => {
        for (const [depth, param, message] of rows) {
            for (const stream of [false, true]) {
                const r = await post(s, { depth, stream });
                assert.equal(r.status, 400, JSON.stringify(depth));
                assert.equal(r.json.error.param, param);
                assert.match(r.json.error.message, message);
            }
        }
    });
});

test("another exit rule brings its own range, and the rule fixed takes no threshold", async () => {
    await withServer(["--exit-rule", "latent-diff", "--exit-threshold", "0.5"], { model }, async (s) => {
        assert.deepEqual((await s.get("/v1/models")).json.data[0].exit, { rule: "latent-diff", threshold: 0.5, above: 0, most: 1e6, all_loops_at: 0 });
        assert.equal((await post(s, { depth: { threshold: 1000 } })).status, 200);
        assert.deepEqual(new Set(await depths(s, { depth: { threshold: 0 } })), new Set([4]));
        assert.match((await post(s, { depth: { threshold: 2e6 } })).json.error.message, /exit rule latent-diff it must be at least 0 \(0: every loop runs\) and at most 1e6/);
    });
    await withServer(["--exit-rule", "fixed"], { model }, async (s) => {
        assert.deepEqual((await s.get("/v1/models")).json.data[0].exit, { rule: "fixed", threshold: null, above: null, most: null, all_loops_at: null });
        const r = await post(s, { depth: { threshold: 0.5 } });
        assert.equal(r.status, 400);
        assert.equal(r.json.error.param, "depth.threshold");
        assert.match(r.json.error.message, /fixed number of loops and has no threshold/);
        assert.deepEqual(new Set(await depths(s)), new Set([4]));
        assert.deepEqual(new Set(await depths(s, { depth: { max_loops: 2 } })), new Set([2]));
    });
});

test("tokens leave by the hazard gate, within what a request asks for", async () => {
    await withServer([], { model, device: "cpu" }, async (s) => {
        const free = await depths(s);
        assert.ok(new Set(free).size > 1 && Math.max(...free) <= 4, String(free));
        assert.deepEqual(new Set(await depths(s, { depth: { threshold: 1 } })), new Set([4]));
        assert.deepEqual(new Set(await depths(s, { depth: { min_loops: 3, max_loops: 3 } })), new Set([3]));
        for (const [effort, most] of [["minimal", 1], ["low", 2], ["medium", 3], ["high", 4]]) {
            assert.ok(Math.max(...await depths(s, { reasoning_effort: effort })) <= most, effort);
        }
        const sent = events((await post(s, { stream: true })).text).filter((e) => e.startsWith("{"));
        const streamed = sent.flatMap((e) => JSON.parse(e).choices.flatMap((c) => c.depths ?? []));
        assert.deepEqual(streamed, free);
    });
});

test("options that the family cannot follow end the server with 2 and the reason", async () => {
    const rows = [
        [["--max-loops", "9"], /--max-loops is 9; ouro models run 1 to 4 loops/],
        [["--prompt-min-loops", "5"], /--prompt-min-loops is 5; ouro models run 1 to 4 loops/],
        [["--exit-rule", "act"], /--exit-rule act: ouro models cannot leave the loop by this rule; they can by: hazard, latent-diff, cosine, fixed/],
        [["--exit-threshold", "2"], /--exit-threshold is 2; for the exit rule hazard it must be above 0 and at most 1/],
        [["--act-threshold", "2"], /--exit-threshold is 2; for the exit rule hazard/],
        [["--initial-state", "zero"], /ouro models start from the token's embedding/],
    ];
    for (const [args, reason] of rows) {
        for (const device of ["fake", "cpu"]) {
            const s = await Server.start(args, { model, device, ready: false });
            assert.deepEqual(await s.ended, { code: 2, signal: null }, s.log);
            assert.match(s.log, reason);
        }
    }
});
