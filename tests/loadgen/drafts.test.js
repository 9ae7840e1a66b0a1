// `fathom bench` and what the server drafts: figures from /metrics, read before and after the run.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, demo } from "../http/lib/server.mjs";
import { small, stream, withMock } from "./load.js";
import { benchJson } from "./run.js";

const keys = (json) => Object.keys(json).filter((k) => k.startsWith("spec_decode"));
const load = ["--num-prompts", "3", "--max-concurrency", "2", ...small];

/** A page of metrics in vLLM's words, of two engines; the figures are of both. */
const page = (chains, tokens, accepted, places) => {
    const of = (name, value, more = "") =>
        ["0", "1"].map((engine) => `vllm:spec_decode_num_${name}{engine="${engine}",model_name="a \\"}b"${more}} ${value / 2}\n`).join("");
    return "# TYPE vllm:spec_decode_num_drafts_total counter\nother_total 5\n" +
        of("drafts_total", chains) + of("drafts_created", 1.7e9) + of("draft_tokens_total", tokens) +
        of("accepted_tokens_total", accepted) + `vllm:spec_decode_num_accepted_tokens_total_more 9\n` +
        places.map((n, i) => of("accepted_tokens_per_pos_total", n, `,position="${i}"`)).join("") +
        of("accepted_tokens_per_pos_total", 6, `,position="77"`) + of("accepted_tokens_per_pos_total", 6);
};

test("figures of drafts are what came between two readings, summed over labels, under vLLM's names", async () => {
    await withMock(
        () => stream(2),
        async (mock) => {
            const { json, out } = await benchJson(["--url", mock.url, "--num-warmups", "1", ...load]);
            assert.deepEqual(Object.fromEntries(keys(json).map((k) => [k, json[k]])), {
                spec_decode_acceptance_rate: 62.5,
                spec_decode_acceptance_length: 3.5,
                spec_decode_num_drafts: 8,
                spec_decode_draft_tokens: 32,
                spec_decode_accepted_tokens: 20,
                spec_decode_per_position_acceptance_rates: [1, 0.75, 0.5, 0, 0.25],
            });
            assert.match(out, /^-{15}Speculative Decoding-{15}$/m);
            for (const line of [
                "Acceptance rate \\(%\\): +62.50", "Acceptance length: +3.50", "Drafts: +8", "Draft tokens: +32",
                "Accepted tokens: +20", "Per-position acceptance \\(%\\):", "  Position 0: +100.00", "  Position 4: +25.00",
            ]) {
                assert.match(out, new RegExp(`^${line} *$`, "m"), line);
            }
            assert.doesNotMatch(out, /Position 5:/);
        },
        [page(100, 400, 220, [90, 80, 30, 20, 0, 4]), page(108, 432, 240, [98, 86, 34, 20, 2, 4])],
    );
});

for (const [what, pages] of [
    ["has no metrics", []],
    ["refuses them", [{ status: 401 }]],
    ["refuses the first reading", [{ status: 503 }, page(8, 32, 20, [8])]],
    ["refuses the second one", [page(8, 32, 20, [8]), { status: 503 }]],
    ["counts no drafts", ["requests_total 1\n", "requests_total 4\n"]],
    ["drafted nothing", [page(8, 32, 20, [8])]],
    ["was started anew", [page(8, 32, 20, [8]), page(2, 6, 4, [2])]],
    ["answers with something else", ["\u0000{[", "vllm:spec_decode_num_drafts_total{ 3\nvllm:spec_decode_num_draft_tokens_total nan"]],
]) {
    test(`nothing is said of drafts where the server ${what}`, async () => {
        await withMock(
            () => stream(2),
            async (mock) => {
                const { json, out, errors, code } = await benchJson(["--url", mock.url, ...load]);
                assert.equal(code, 0);
                assert.deepEqual(keys(json), []);
                assert.doesNotMatch(out, /Speculative/);
                assert.doesNotMatch(errors, /metrics/);
                assert.ok(mock.seen.gets.includes("/metrics"));
            },
            pages,
        );
    });
}

test("metrics are read before the first request of a run and after its last", async () => {
    const order = [];
    await withMock(
        function* () {
            order.push("request");
            yield* stream(2, 50);
            order.push("end");
        },
        async (mock) => {
            const push = mock.seen.gets.push;
            mock.seen.gets.push = function (url) {
                if (url === "/metrics") order.push("metrics");
                return push.call(this, url);
            };
            await benchJson(["--url", mock.url, ...load]);
            assert.equal(order.length, 8);
            assert.equal(order[0], "metrics");
            assert.equal(order.at(-1), "metrics");
        },
        [page(8, 32, 20, [8])],
    );
});

test("a server that speculates is asked, and one that does not has no such part", async () => {
    for (const [drafts, many] of [["4", true], ["off", false]]) {
        const s = await Server.start(["--speculate", drafts, ...(many ? ["--draft-loops", "1"] : [])], { device: "cpu", model: demo });
        const { json, out } = await benchJson(["--url", s.url, "--num-prompts", "4", "--max-concurrency", "1",
            "--input-len", "8", "--output-len", "24", "--ignore-eos"]);
        assert.equal(json.completed, 4);
        assert.equal(/^-+Speculative Decoding-+$/m.test(out), many);
        assert.equal(keys(json).length, many ? 6 : 0);
        if (many) {
            const all = await s.metrics();
            const [chains, tokens, right] = ["num_drafts", "draft_tokens", "accepted_tokens"].map((k) => json[`spec_decode_${k}`]);
            assert.ok(chains > 0 && chains <= all["vllm:spec_decode_num_drafts_total"]);
            assert.ok(tokens >= chains && tokens <= all["vllm:spec_decode_num_draft_tokens_total"]);
            assert.ok(right >= 0 && right <= all["vllm:spec_decode_num_accepted_tokens_total"]);
            assert.equal(json.spec_decode_acceptance_rate, (100 * right) / tokens);
            assert.equal(json.spec_decode_acceptance_length, 1 + right / chains);
            const rates = json.spec_decode_per_position_acceptance_rates;
            assert.ok(Math.abs(rates.reduce((a, b) => a + b, 0) * chains - right) < 1e-6, "every right draft has a place");
        }
        await s.stop();
    }
});
