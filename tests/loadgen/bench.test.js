// `fathom bench` against scripted servers: what went in is known, so are the figures.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { dir, small, stream, withMock } from "./load.js";
import { CUT, DONE, startMock, tokenEvent, usageEvent } from "./mock.js";
import { bench, benchJson, fathom, root } from "./run.js";
import { sleep, until } from "../http/lib/server.mjs";

function percentile(values, p) {
    const v = [...values].sort((a, b) => a - b);
    const at = (p / 100) * (v.length - 1);
    const lo = Math.floor(at);
    return lo + 1 < v.length ? v[lo] + (at - lo) * (v[lo + 1] - v[lo]) : v[lo];
}
const near = (a, b, what) => assert.ok(Math.abs(a - b) <= 1e-6 + 1e-6 * Math.abs(b), `${what}: ${a} is not ${b}`);

// A busy machine stretches every wait, so nothing here says how long one takes at most. What was
// waited for cannot be shorter, the parts of a request add up to it, and the requests of one slot
// follow each other within the run: a figure that is too long breaks that sum.
test("known waits come out as TTFT, inter-token latency, TPOT and end-to-end latency", async () => {
    const [n, slots, first, gap] = [8, 4, 300, 200];
    await withMock(
        () => stream(5, first, gap),
        async (mock) => {
            const { json, code } = await benchJson([
                "--url", mock.url, "--num-prompts", String(n), "--max-concurrency", String(slots), ...small,
                "--percentile-metrics", "ttft,tpot,itl,e2el",
            ]);
            assert.equal(code, 0);
            assert.equal(json.completed, n);
            assert.equal(json.total_output_tokens, 5 * n);
            assert.equal(json.total_input_tokens, 7 * n);
            const sum = (v) => v.reduce((a, b) => a + b, 0);
            const early = 0.002; // node may fire a timer a millisecond early
            json.latencies.forEach((whole, i) => {
                assert.ok(json.ttfts[i] >= first / 1e3 - early, `TTFT of request ${i}: ${json.ttfts[i]} s`);
                assert.ok(whole >= (first + 4 * gap) / 1e3 - 5 * early, `E2EL of request ${i}: ${whole} s`);
                near(json.ttfts[i] + sum(json.itls[i]), whole, `TTFT and gaps of request ${i}`);
            });
            assert.ok(sum(json.latencies) <= slots * json.duration + 1e-6, "no more than the slots have time for");
            // A token that is read late shortens the gap after it, but hardly half of them by half.
            assert.ok(json.median_itl_ms >= gap / 2, `ITL ${json.median_itl_ms} ms`);
            near(json.mean_tpot_ms, json.mean_itl_ms, "TPOT, where all have as many tokens");
        },
    );
});

test("every figure follows from the detailed lists by the published definitions", async () => {
    await withMock(
        (_, n) => stream(1 + (n % 5), n % 7, 3),
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--num-prompts", "23", "--max-concurrency", "5", ...small,
                "--percentile-metrics", "ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue",
                "--metric-percentiles", "1,50,90,99,99.9",
            ]);
            const tpots = json.latencies
                .map((l, i) => (l - json.ttfts[i]) / (json.output_lens[i] - 1))
                .filter((_, i) => json.output_lens[i] > 1);
            const series = {
                ttft: json.ttfts,
                itl: json.itls.flat(),
                e2el: json.latencies,
                tpot: tpots,
                client_queue_time: json.queue_times,
                e2el_including_client_queue: json.latencies.map((l, i) => l + json.queue_times[i]),
            };
            for (const [name, v] of Object.entries(series)) {
                const mean = v.reduce((a, b) => a + b, 0) / v.length;
                near(json[`mean_${name}_ms`], 1e3 * mean, `mean ${name}`);
                const std = Math.sqrt(v.reduce((a, b) => a + (b - mean) ** 2, 0) / v.length);
                near(json[`std_${name}_ms`], 1e3 * std, `std ${name}`);
                near(json[`median_${name}_ms`], 1e3 * percentile(v, 50), `median ${name}`);
                for (const p of [1, 50, 90, 99, 99.9]) {
                    near(json[`p${p}_${name}_ms`], 1e3 * percentile(v, p), `p${p} ${name}`);
                }
            }
            assert.deepEqual(json.itls.map((g) => g.length), json.output_lens.map((n) => n - 1));
            near(json.request_throughput, 23 / json.duration, "request throughput");
            near(json.output_throughput, json.output_lens.reduce((a, b) => a + b) / json.duration, "output rate");
            assert.deepEqual(json.generated_texts.map((t) => t.split(" ").length - 1), json.output_lens);
        },
    );
});

test("the console block has vLLM's title, labels and columns", async () => {
    await withMock(
        () => stream(3, 1100), // two rounds, so that the run has a peak
        async (mock) => {
            const { out } = await bench(["--url", mock.url, "--num-prompts", "3", "--max-concurrency", "2", ...small]);
            const lines = out.split("\n");
            assert.equal(lines[0], "============ Serving Benchmark Result ============");
            assert.match(out, /^Successful requests: {21}3 {9}$/m);
            assert.match(out, /^Maximum request concurrency: {13}2 {9}$/m);
            for (const label of [
                "Failed requests:", "Benchmark duration \\(s\\):", "Total input tokens:", "Total generated tokens:",
                "Request throughput \\(req/s\\):", "Output token throughput \\(tok/s\\):",
                "Peak output token throughput \\(tok/s\\):", "Peak concurrent requests:",
                "Total token throughput \\(tok/s\\):", "Mean TTFT \\(ms\\):", "Median TPOT \\(ms\\):", "P99 ITL \\(ms\\):",
            ]) {
                assert.match(out, new RegExp(`^${label} +[\\d.]+ *$`, "m"), label);
            }
            assert.match(out, /^-{15}Time to First Token-{16}$/m);
            assert.equal(lines.at(-2), "=".repeat(50));
        },
    );
});

test("a closed loop holds its concurrency and counts the wait for a slot apart", async () => {
    await withMock(
        () => stream(2, 300, 5),
        async (mock) => {
            const { json } = await benchJson(["--url", mock.url, "--num-prompts", "12", "--max-concurrency", "3", ...small]);
            assert.equal(mock.seen.peak, 3);
            assert.equal(json.max_concurrent_requests, 3);
            assert.equal(Math.min(...json.queue_times), 0);
            assert.ok(Math.max(...json.queue_times) > 0.8, "the last ones waited for three others");
            // Latencies are without that wait: with it they would be more than three slots have time for.
            const busy = json.latencies.reduce((a, b) => a + b);
            assert.ok(busy <= 3 * json.duration + 1e-6, `${busy} s in ${json.duration} s`);
        },
    );
});

test("an open loop follows the same schedule for the same seed, at the rate asked for", async () => {
    await withMock(
        () => stream(1),
        async (mock) => {
            const run = (seed) =>
                benchJson(["--url", mock.url, "--num-prompts", "100", "--request-rate", "200", "--seed", seed, ...small]);
            const [a, b, c] = [await run("5"), await run("5"), await run("6")];
            assert.deepEqual(a.json.start_times, b.json.start_times);
            assert.notDeepEqual(a.json.start_times, c.json.start_times);
            near(a.json.start_times.at(-1), 0.5, "the last of 100 at 200/s");
            const gaps = a.json.start_times.slice(1).map((t, i) => t - a.json.start_times[i]);
            assert.ok(gaps.every((g) => g >= 0));
            const mean = gaps.reduce((x, y) => x + y) / gaps.length;
            const cv = Math.sqrt(gaps.reduce((s, g) => s + (g - mean) ** 2, 0) / gaps.length) / mean;
            assert.ok(cv > 0.6 && cv < 1.5, `Poisson gaps vary as much as they last, not ${cv}`);
        },
    );
});

test("burstiness evens out or clusters the arrivals", async () => {
    await withMock(
        () => stream(1),
        async (mock) => {
            const cv = async (b) => {
                const { json } = await benchJson([
                    "--url", mock.url, "--num-prompts", "200", "--request-rate", "1000", "--burstiness", b, ...small,
                ]);
                const gaps = json.start_times.slice(1).map((t, i) => t - json.start_times[i]);
                const mean = gaps.reduce((x, y) => x + y) / gaps.length;
                return Math.sqrt(gaps.reduce((s, g) => s + (g - mean) ** 2, 0) / gaps.length) / mean;
            };
            const [even, bursts] = [await cv("50"), await cv("0.2")];
            assert.ok(even < 0.3, `even: ${even}`); // 1/sqrt(50) = 0.14
            assert.ok(bursts > 1.5, `bursts: ${bursts}`); // 1/sqrt(0.2) = 2.2
        },
    );
});

test("a ramp starts slowly and ends fast", async () => {
    await withMock(
        () => stream(1),
        async (mock) => {
            for (const how of ["linear", "exponential"]) {
                const { json } = await benchJson([
                    "--url", mock.url, "--num-prompts", "60", "--ramp-up-strategy", how, "--burstiness", "100",
                    "--ramp-up-start-rps", "50", "--ramp-up-end-rps", "1000", ...small,
                ]);
                const t = json.start_times;
                assert.ok(t[5] - t[0] > 4 * (t.at(-1) - t.at(-6)), `${how}: ${t[5] - t[0]} against ${t.at(-1) - t.at(-6)}`);
            }
        },
    );
});

test("a stalled server shows in the latency of requests that were due meanwhile", async () => {
    // One at a time, 50 ms each, asked for every 10 ms: a generator that waits its turn would
    // see 50 ms for all; counted from the schedule the last one waits for all before it.
    let free = 0;
    await withMock(
        () => {
            const now = performance.now();
            free = Math.max(free, now) + 50;
            return stream(1, free - now);
        },
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--num-prompts", "20", "--request-rate", "100", "--burstiness", "1000", ...small,
            ]);
            const longest = Math.max(...json.ttfts); // the last one, if they came in order
            assert.ok(longest > 0.7, `a request took ${longest} s at most`);
            assert.equal(Math.max(...json.queue_times), 0);
        },
    );
});

test("pings, CRLF, glued and split events lose no token", async () => {
    const five = Array.from({ length: 5 }, (_, i) => tokenEvent(` é${i}`, [i + 1]));
    const tail = usageEvent(7, 5, 15) + DONE;
    const bytes = Buffer.from(": ping\n\n" + five.join(": ping\n\n") + tail);
    const shapes = {
        "a ping alone in a chunk": [": ping\n\n", ...five.slice(0, 2), ": ping\n\n", ...five.slice(2), tail],
        "a ping glued before each event": five.map((e) => `: ping\n\n${e}`).concat(tail),
        "a ping whose blank line comes with the event": five.map((e) => `: ping\n${e}`).concat(tail),
        "all in one chunk": [five.join("") + tail],
        "CRLF": [...five, tail].map((e) => e.replaceAll("\n", "\r\n")),
        "event and id fields": five.map((e) => `event: x\nid: 3\n${e}`).concat(tail),
        "no space after the colon": [...five, tail].map((e) => e.replaceAll("data: ", "data:")),
        "one byte at a time": [...bytes].map((b) => Buffer.of(b)),
        "cut in the middle of every event": [0, 1, 2, 3, 4, 5, 6, 7].map((i) =>
            bytes.subarray(Math.floor((i * bytes.length) / 8), Math.floor(((i + 1) * bytes.length) / 8))),
    };
    const names = Object.keys(shapes);
    await withMock(
        (_, n) => shapes[names[n]],
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--num-prompts", String(names.length), "--max-concurrency", "1", ...small,
            ]);
            assert.deepEqual(json.errors, names.map(() => ""));
            names.forEach((name, i) => {
                assert.equal(json.output_lens[i], 5, name);
                assert.equal(json.itls[i].length, 4, name);
                assert.equal(json.generated_texts[i], " \u00e90 \u00e91 \u00e92 \u00e93 \u00e94", name);
            });
            assert.deepEqual(json.depth_histogram, [0, ...Array(5).fill(names.length)]);
        },
    );
});

test("whatever goes wrong with a request is a failure with its cause, and the others count", async () => {
    const rows = [
        ["HTTP 503: the queue is full", [{ status: 503, text: '{"error":{"message":"the queue is full"}}' }]],
        ["HTTP 500: plain words", [{ status: 500, text: "plain words" }]],
        ["error in the stream: engine lost", [tokenEvent("a"), 'data: {"error":{"message":"engine lost"}}\n\n', CUT]],
        ["the stream was cut", [tokenEvent("a"), 5, CUT]],
        ["", [5, CUT]],
        ["the answer held no token", [usageEvent(1, 0), DONE]],
        ["the answer held no token", []],
        ["malformed event", [tokenEvent("a"), "data: {\"choices\":[{]\n\n", DONE]],
        ["malformed event", [tokenEvent("a"), "data: oops\n\n", DONE]],
        ["malformed event", [tokenEvent("a") + 'data: {"choices":[]} trailing\n\n', DONE]],
    ];
    await withMock(
        (_, n) => (n < rows.length ? rows[n][1] : stream(2)),
        async (mock) => {
            const { json, code, errors, out } = await benchJson([
                "--url", mock.url, "--num-prompts", String(rows.length + 3), "--max-concurrency", "1", ...small,
            ]);
            assert.equal(code, 0);
            assert.equal(json.completed, 3);
            assert.equal(json.failed, rows.length);
            assert.match(out, /^Failed requests: +10 /m);
            rows.forEach(([want], i) => {
                assert.ok(json.errors[i] !== "", `row ${i} failed`);
                assert.ok(json.errors[i].startsWith(want), `row ${i}: ${json.errors[i]}`);
                assert.ok(errors.includes(json.errors[i]), "and is named on stderr");
            });
        },
    );
});

test("the exit status is 1 when every request failed, and nobody listening is such a case", async () => {
    await withMock(
        () => [{ status: 500, text: "no" }],
        async (mock) => assert.equal((await bench(["--url", mock.url, "--num-prompts", "2", ...small])).code, 1),
    );
    const { code, errors } = await bench(["--url", "http://127.0.0.1:1", "--model", "m", "--num-prompts", "2", ...small]);
    assert.equal(code, 1);
    assert.match(errors, /2x Couldn't connect to server/);
});

test("a share of the clients leaves in mid-stream, and the server sees them go", async () => {
    // A client leaves after four tokens at most. One that is late must not find its answer complete.
    await withMock(
        () => stream(5, 1, 20, undefined, 2000),
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--num-prompts", "40", "--max-concurrency", "20", "--cancel-rate", "0.5", ...small,
            ]);
            assert.ok(json.cancelled > 8 && json.cancelled < 32, `${json.cancelled} of 40`);
            assert.equal(json.completed + json.cancelled, 40);
            assert.equal(json.failed, 0);
            await until("the server sees them go", () => mock.seen.left >= json.cancelled);
            assert.equal(mock.seen.left, json.cancelled);
            assert.equal(json.total_output_tokens, json.completed * 5, "their tokens are not in the figures");
        },
    );
});

test("the mean depth is the chunks' own, or usage's loops where they tell no depth", async () => {
    const told = [tokenEvent("a", [2]), tokenEvent("bc", [4, 6]), usageEvent(3, 3, 9), DONE];
    const untold = [tokenEvent("a"), tokenEvent("b"), tokenEvent("c"), usageEvent(3, 3, 9), DONE];
    for (const [body, mean, histogram] of [[told, 4, [0, 0, 4, 0, 4, 0, 4]], [untold, 3, []]]) {
        await withMock(
            () => body,
            async (mock) => {
                const { json } = await benchJson(["--url", mock.url, "--num-prompts", "4", "--return-depth", ...small]);
                assert.deepEqual(json.depth_histogram, histogram);
                assert.equal(json.mean_depth, mean);
                assert.equal(json.total_output_loops, 4 * 3 * mean);
                assert.ok(mock.seen.bodies.every((b) => b.return_depth === true));
            },
        );
    }
    await withMock(
        () => stream(2),
        async (mock) => {
            const { json, out } = await benchJson(["--url", mock.url, "--num-prompts", "1", ...small]);
            assert.equal(json.mean_depth, null);
            assert.ok(!out.includes("Mean depth"));
            assert.equal(mock.seen.bodies[0].return_depth, undefined);
        },
    );
});

test("goodput counts the requests that keep every promise", async () => {
    // Two gaps of 700 ms break a promise however late their first token is read: one of 600 ms before
    // it, or one of 300 ms for each token after it.
    await withMock(
        (_, n) => stream(3, n % 4 === 0 ? 1000 : 5, n % 4 === 1 ? 700 : 5),
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--num-prompts", "16", "--max-concurrency", "16", ...small,
                "--goodput", "ttft:600", "tpot:300",
            ]);
            assert.equal(json.completed, 16);
            const keeps = (i) => json.ttfts[i] <= 0.6 && (json.latencies[i] - json.ttfts[i]) / 2 <= 0.3;
            const good = json.ttfts.filter((_, i) => keeps(i)).length;
            near(json.request_goodput * json.duration, good, "those that keep both");
            assert.ok(good <= 8, `${good}: half of sixteen break a promise on purpose`);
        },
    );
});

test("the requests are what the flags describe", async () => {
    await withMock(
        () => stream(1),
        async (mock) => {
            const { json } = await benchJson([
                "--url", `${mock.url}/`, "--num-prompts", "6", "--input-len", "10", "--output-len", "20",
                "--random-range-ratio", "0.5", "--random-prefix-len", "3", "--vocab-size", "50", "--ignore-eos",
                "--temperature", "0.5", "--top-k", "7", "--repetition-penalty", "1.0", "--logprobs", "2",
                "--extra-body", '{"depth":{"max_loops":4},"top_k":9}', "--header", "X-A=1", "X-B=2=3",
                "--request-id-prefix", "run-", "--max-concurrency", "1",
            ], { env: { OPENAI_API_KEY: "sk-test" } });
            assert.equal(json.completed, 6);
            const lens = new Set();
            for (const [i, b] of mock.seen.bodies.entries()) {
                assert.equal(b.model, "mock");
                assert.deepEqual(b.prompt.slice(0, 3), mock.seen.bodies[0].prompt.slice(0, 3));
                assert.ok(b.prompt.every((t) => Number.isInteger(t) && t >= 0 && t < 50));
                assert.ok(b.prompt.length >= 8 && b.prompt.length <= 18);
                assert.ok(b.max_tokens >= 10 && b.max_tokens <= 30);
                lens.add(b.prompt.length);
                assert.equal(b.stream, true);
                assert.deepEqual(b.stream_options, { include_usage: true });
                assert.equal(b.ignore_eos, true);
                assert.equal(b.temperature, 0.5);
                assert.equal(b.top_k, 9, "the extra body has the last word");
                assert.equal(b.repetition_penalty, 1);
                assert.equal(b.logprobs, 2);
                assert.deepEqual(b.depth, { max_loops: 4 });
                const h = mock.seen.headers[i];
                assert.equal(h["x-a"], "1");
                assert.equal(h["x-b"], "2=3");
                assert.equal(h["x-request-id"], `run-${i}`);
                assert.equal(h.authorization, "Bearer sk-test");
            }
            assert.ok(lens.size > 1);
        },
    );
});

test("the chat backend sends messages and reads deltas", async () => {
    const delta = (d) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: d, depths: [3] }] })}\n\n`;
    await withMock(
        () => [delta({ role: "assistant", content: "Hel" }), delta({ content: "lo" }), usageEvent(12, 2, 6), DONE],
        async (mock) => {
            const { json } = await benchJson(["--url", mock.url, "--backend", "openai-chat", "--num-prompts", "2", ...small]);
            assert.deepEqual(json.generated_texts, ["Hello", "Hello"]);
            assert.equal(json.total_input_tokens, 24);
            const b = mock.seen.bodies[0];
            assert.equal(b.messages[0].role, "user");
            assert.equal(b.messages[0].content.split(" ").length, 4);
            assert.equal(b.max_completion_tokens, 5);
        },
    );
});

test("flags of vLLM's that change nothing here are taken and named in one line; the others do what they say", async () => {
    await withMock(
        () => stream(1),
        async (mock) => {
            const r = await bench(["--url", mock.url, "--endpoint-type", "vllm", "--model", "some/weights", "--served-model-name", "served", "--trust-remote-code",
                "--tokenizer-mode", "auto", "--no-stream", "--skip-chat-template", "--presence-penalty", "-1", "--frequency-penalty", "0.5", "--top-k", "-1",
                "--num-prompts", "1", ...small]);
            assert.equal(r.code, 0, r.errors);
            assert.deepEqual(r.errors.split("\n").filter((l) => l.includes("change nothing")),
                ["fathom bench: flags that change nothing here: --trust-remote-code, --tokenizer-mode, --skip-chat-template, --no-stream"]);
            const [b] = mock.seen.bodies;
            assert.deepEqual([b.model, b.presence_penalty, b.frequency_penalty, b.top_k, b.stream], ["served", -1, 0.5, -1, true]);
            mock.seen.bodies.length = 0;
            const plain = await bench(["--url", mock.url, "--model", "m", "--top-k", "0", "--num-prompts", "1", ...small]);
            assert.ok(!plain.errors.includes("change nothing"));
            assert.equal(mock.seen.bodies[0].top_k, -1, "0 is off too");
            assert.ok(!("presence_penalty" in mock.seen.bodies[0]) && !("frequency_penalty" in mock.seen.bodies[0]));
            mock.seen.bodies.length = 0;
            await bench(["--url", mock.url, "--model", "m", "--num-prompts", "1", ...small]);
            assert.ok(!("top_k" in mock.seen.bodies[0]), "what was not asked for is not sent");
        },
    );
});

test("a trace is replayed at its own times, with its lengths and shared prefixes", async () => {
    const path = join(dir, "trace.jsonl");
    const rows = [
        { timestamp: 5000, input_length: 10, output_length: 3, hash_ids: [1, 2] },
        { timestamp: 5100, input_length: 12, output_length: 2, hash_ids: [1, 3] },
        { timestamp: 5400, input_length: 20, output_length: 4, hash_ids: [1, 2, 9] },
    ];
    writeFileSync(path, rows.map((r) => JSON.stringify(r)).join("\n"));
    await withMock(
        (body) => stream(body.max_tokens),
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--dataset-name", "timed_trace", "--dataset-path", path, "--self-timed",
                "--timed-trace-sec-multiplier", "0.001", "--timed-trace-chunk-hash-size", "4", "--num-prompts", "10",
            ]);
            assert.equal(json.completed, 3);
            [0, 0.1, 0.4].forEach((t, i) => near(json.start_times[i], t, `start ${i}`));
            // Two that are sent late go out together, and may overtake each other.
            const bodies = [...mock.seen.bodies].sort((a, b) => a.prompt.length - b.prompt.length), p = bodies.map((b) => b.prompt);
            assert.deepEqual(p.map((x) => x.length), [10, 12, 20]);
            assert.deepEqual(bodies.map((b) => b.max_tokens), [3, 2, 4]);
            assert.deepEqual(p[0].slice(0, 4), p[1].slice(0, 4), "hash 1");
            assert.deepEqual(p[0].slice(0, 8), p[2].slice(0, 8), "hashes 1 and 2");
            assert.notDeepEqual(p[0].slice(4, 8), p[1].slice(4, 8), "hash 2 is not 3");
            assert.notDeepEqual(p[0].slice(8), p[1].slice(8, 10), "what no hash covers is a request's own");
        },
    );
    for (const [bad, want] of [
        [{ ...rows[0], timestamp: "now" }, /'timestamp'/],
        [{ ...rows[0], input_length: 0 }, /'input_length'/],
        [{ ...rows[0], output_length: 1e12 }, /'output_length'/],
    ]) {
        writeFileSync(path, JSON.stringify(bad));
        const r = await bench(["--url", "http://127.0.0.1:1", "--model", "m", "--dataset-name", "timed_trace", "--dataset-path", path]);
        assert.equal(r.code, 2);
        assert.match(r.errors, want);
        assert.match(r.errors, /line 1/);
    }
});

test("probes run beside the load, past its limit, and are reported apart", async () => {
    await withMock(
        (body) => stream(body.max_tokens, body.max_tokens === 1 ? 10 : 300, 40),
        async (mock) => {
            const { json, out } = await benchJson([
                "--url", mock.url, "--num-prompts", "4", "--max-concurrency", "1", "--probe-request-rate", "50", ...small,
            ]);
            assert.equal(json.completed, 4);
            assert.equal(json.total_output_tokens, 20);
            assert.ok(json.ttfts.every((s) => s >= 0.298), "no probe is among them");
            // Fifty a second by the schedule, which a late generator makes up for.
            const asked = mock.seen.bodies.filter((b) => b.max_tokens === 1).length;
            assert.ok(asked > 50 && asked <= 50 * json.duration + 2, `${asked} in ${json.duration} s`);
            // Those on their way when the load ends are not waited for.
            assert.ok(json.probe_completed > asked / 2 && json.probe_completed <= asked, `${json.probe_completed} of ${asked}`);
            assert.equal(json.probe_failed, 0);
            assert.ok(json.median_probe_ms >= 8, String(json.median_probe_ms));
            assert.ok(json.p99_probe_ms >= json.median_probe_ms);
            assert.ok(mock.seen.peak > 1);
            assert.match(out, /^Successful probes: +\d+ /m);
        },
    );
});

test("with a tokenizer random prompts hold no special token and chats the length asked for", async () => {
    const demo = join(root, "models/demo");
    const tokens = (text) => JSON.parse(spawnSync(fathom, ["tokenize", "--model", demo, "--text", text], { encoding: "utf8" }).stdout);
    await withMock(
        () => stream(1),
        async (mock) => {
            await bench(["--url", mock.url, "--tokenizer", demo, "--num-prompts", "200", "--input-len", "30", "--output-len", "1"]);
            const ids = mock.seen.bodies.flatMap((b) => b.prompt);
            assert.equal(ids.length, 6000);
            assert.ok(Math.max(...ids) > 1500, "the whole vocabulary is used");
            assert.ok(ids.every((t) => t < 2044), "and no special token");
            mock.seen.bodies.length = 0;
            await bench(["--url", mock.url, "--backend", "openai-chat", "--tokenizer", demo, "--num-prompts", "4", "--input-len", "30", "--output-len", "1"]);
            for (const b of mock.seen.bodies) assert.equal(tokens(b.messages[0].content).length, 30, b.messages[0].content);
        },
    );
});

test("warm-ups are asked first and not counted; the ready check waits for the server", async () => {
    await withMock(
        () => stream(2),
        async (mock) => {
            const { json } = await benchJson([
                "--url", mock.url, "--num-prompts", "4", "--num-warmups", "3", "--ready-check-timeout-sec", "5", ...small,
            ]);
            assert.equal(json.completed, 4);
            assert.equal(mock.seen.bodies.length, 7);
            assert.deepEqual(mock.seen.gets, ["/health", "/v1/models", "/metrics"]);
            const first = JSON.stringify(mock.seen.bodies[0].prompt);
            assert.ok(mock.seen.bodies.slice(3).every((b) => JSON.stringify(b.prompt) !== first));
        },
    );
    const reserved = await startMock(0, () => []); // a port that was free a moment ago
    await reserved.close();
    let mock;
    // Another program may have the port for a while.
    const start = () => startMock(Number(new URL(reserved.url).port), () => stream(1)).catch((e) => assert.equal(e.code, "EADDRINUSE"));
    const wait = sleep(500).then(() => until("the port is free", async () => (mock = await start())));
    try {
        const r = await bench(["--url", reserved.url, "--num-prompts", "1", "--ready-check-timeout-sec", "120", ...small]);
        assert.equal(r.code, 0, r.errors);
    } finally {
        await wait;
        await mock.close();
    }
});

test("keep-alive connections are used again", async () => {
    await withMock(
        () => stream(1),
        async (mock) => {
            const args = ["--model", "mock", "--num-prompts", "50", "--max-concurrency", "5"];
            await bench(["--url", mock.url, ...args, ...small]);
            assert.equal(mock.seen.bodies.length, 50);
            assert.equal(mock.seen.connections - mock.seen.gets.length, 5); // a GET has its own
        },
    );
});

test("results are kept under vLLM's name, appended as lines, with metadata", async () => {
    await withMock(
        () => stream(2),
        async (mock) => {
            const to = mkdtempSync(join(dir, "named-"));
            await bench(["--url", mock.url, "--num-prompts", "2", "--max-concurrency", "2", "--request-rate", "100",
                "--save-result", "--result-dir", to, ...small]);
            const [name] = readdirSync(to);
            assert.match(name, /^openai-100qps-concurrency2-mock-\d{8}-\d{6}\.json$/);
            const one = JSON.parse(readFileSync(join(to, name), "utf8"));
            assert.equal(one.request_rate, 100);
            assert.equal(one.ttfts, undefined, "details only when asked for");
            for (const i of [1, 2]) {
                await bench(["--url", mock.url, "--num-prompts", "1", "--append-result", "--result-dir", to,
                    "--result-filename", "all.json", "--metadata", "commit=abc", `try=${i}`, ...small]);
            }
            const lines = readFileSync(join(to, "all.json"), "utf8").trim().split("\n").map((l) => JSON.parse(l));
            assert.deepEqual(lines.map((l) => [l.commit, l.try, l.request_rate]), [["abc", "1", "inf"], ["abc", "2", "inf"]]);
        },
    );
});

test("an interrupt ends the run with the figures so far and status 1", async () => {
    await withMock(
        (_, n) => (n < 2 ? stream(2) : stream(5, 10, 60000)),
        async (mock) => {
            // Two at a time: the fourth is asked only when the first two are complete.
            const r = await bench(["--url", mock.url, "--num-prompts", "4", "--max-concurrency", "2", ...small], {
                onStart: (child) => {
                    const look = setInterval(() => {
                        if (mock.seen.bodies.length < 4) return;
                        clearInterval(look);
                        child.kill("SIGINT");
                    }, 10);
                },
            });
            assert.equal(r.code, 1);
            assert.match(r.out, /^Successful requests: +2 /m);
            assert.match(r.out, /^Abandoned requests: +2 /m);
        },
    );
});

test("a request that outlasts --timeout-sec is a failure", async () => {
    await withMock(
        (_, n) => stream(2, 5, n === 0 ? 60000 : 5),
        async (mock) => {
            const { json } = await benchJson(["--url", mock.url, "--num-prompts", "2", "--timeout-sec", "10", ...small]);
            assert.equal(json.completed, 1);
            assert.match(json.errors.join(""), /Timeout was reached/);
        },
    );
});

test("a run of less than two seconds has no busiest second", async () => {
    await withMock(
        () => stream(3),
        async (mock) => {
            const { json, out } = await benchJson(["--url", mock.url, "--num-prompts", "3", ...small]);
            if (json.duration >= 2) return; // a machine that busy
            assert.equal(json.max_output_tokens_per_s, null);
            assert.doesNotMatch(out, /Peak output/);
        },
    );
});

test("chunks without text, with the role or the reason of the end, are no tokens", async () => {
    const chunk = (choice) => `data: ${JSON.stringify({ choices: [{ index: 0, ...choice }] })}\n\n`;
    function* chat() {
        yield chunk({ delta: { role: "assistant", content: "" } });
        yield 300;
        yield chunk({ delta: { content: "a" } });
        yield chunk({ delta: { content: "b" } });
        yield chunk({ delta: {}, finish_reason: "stop" });
        yield DONE;
    }
    function* empty() {
        yield chunk({ text: "", finish_reason: "stop" });
        yield DONE;
    }
    const run = (script, backend) =>
        withMock(script, async (mock) => (await benchJson(["--url", mock.url, "--num-prompts", "2", "--backend", backend, ...small])).json);
    const json = await run(chat, "openai-chat");
    assert.deepEqual(json.output_lens, [2, 2]);
    assert.deepEqual(json.itls.map((gaps) => gaps.length), [1, 1]);
    assert.equal(json.client_chunks, 4);
    for (const ttft of json.ttfts) assert.ok(ttft > 0.298, `the first token, not the role: ${ttft}`);
    const nothing = await run(empty, "openai");
    assert.equal(nothing.completed, 2);
    assert.deepEqual(nothing.output_lens, [0, 0]);
    for (const latency of nothing.latencies) assert.ok(latency > 0);
});

test("only a benchmark that runs needs libcurl, and says how to get it", async () => {
    assert.doesNotMatch(spawnSync("ldd", [fathom], { encoding: "utf8" }).stdout, /curl|ssl|krb5/);
    const none = mkdtempSync(join(tmpdir(), "fathom-no-curl-"));
    try {
        for (const name of ["libcurl.so.4", "libcurl-gnutls.so.4"]) writeFileSync(join(none, name), "");
        const env = { LD_LIBRARY_PATH: none };
        const r = await bench(["--num-prompts", "1", ...small], { env });
        assert.equal(r.code, 1);
        assert.match(r.errors, /fathom bench needs libcurl \(Debian: apt install libcurl4\): .*file too short/);
        assert.equal((await bench(["--help"], { env })).code, 0);
        assert.equal((await bench(["--nonsense"], { env })).code, 2);
    } finally {
        rmSync(none, { recursive: true, force: true });
    }
});

test("bad usage is named and ends with status 2", async () => {
    const rows = [
        [["--nonsense"], /unknown option '--nonsense'/],
        [["--num-prompts", "0"], /--num-prompts/],
        [["--num-prompts", "many"], /--num-prompts/],
        [["--request-rate", "0"], /--request-rate/],
        [["--request-rate", "fast"], /--request-rate/],
        [["--rates", "1,,2"], /--rates/],
        [["--rates", "0"], /--rates/],
        [["--rates", "1,inf"], /--rates/],
        [["--rates", "1", "--request-rate", "2"], /--rates/],
        [["--rates", Array(33).fill("1").join()], /up to 32 numbers/],
        [["--rate-seconds", "2"], /--rate-seconds goes with --rates/],
        [["--burstiness", "0"], /--burstiness/],
        [["--ramp-up-strategy", "linear"], /--ramp-up-start-rps/],
        [["--ramp-up-strategy", "linear", "--ramp-up-start-rps", "1", "--ramp-up-end-rps", "2", "--request-rate", "3"], /--request-rate/],
        [["--goodput", "ttft"], /--goodput/],
        [["--goodput", "itl:5"], /--goodput/],
        [["--metric-percentiles", "99,101"], /--metric-percentiles/],
        [["--percentile-metrics", "ttft,speed"], /'speed'/],
        [["--extra-body", "[1]"], /--extra-body/],
        [["--extra-body", "{"], /--extra-body/],
        [["--header", "nothing"], /--header/],
        [["--metadata", "nothing"], /--metadata/],
        [["--dataset-name", "custom"], /--dataset-path/],
        [["--dataset-name", "timed_trace", "--dataset-path", "x", "--backend", "openai-chat"], /timed_trace/],
        [["--self-timed"], /--self-timed/],
        [["--tokenizer", "/nonexistent"], /tokenizer|nonexistent/],
        [["--cancel-rate", "1.5"], /--cancel-rate/],
        [["--backend", "grpc"], /--backend/],
        [["--endpoint-type", "tgi"], /--backend must be one of openai\|vllm/],
        [["--top-k", "-2"], /--top-k must be -1 to/],
        [["--top-k", "1.5"], /--top-k takes a whole number/],
        [["--presence-penalty", "3"], /--presence-penalty must be -2 to 2/],
        [["--custom-output-len", "0"], /--custom-output-len takes -1 or a number from 1/],
        [["--dataset-name", "sharegpt"], /--dataset-path/],
        [["--dataset-name", "sharegpt", "--dataset-path", "/nonexistent"], /nonexistent/],
        [["--dataset-name", "sonnet"], /--dataset-path/],
        [["--dataset-name", "sonnet", "--dataset-path", "x", "--sonnet-prefix-len", "550"], /--sonnet-prefix-len must be below/],
        [["--dataset-name", "prefix_repetition", "--num-prompts", "3"], /--prefix-repetition-num-prefixes is 10/],
    ];
    for (const [args, want] of rows) {
        const r = await bench(["--url", "http://127.0.0.1:1", "--model", "m", ...args]);
        assert.equal(r.code, 2, args.join(" "));
        assert.match(r.errors, want);
    }
    const help = spawnSync(fathom, ["bench", "--help"], { encoding: "utf8" });
    assert.equal(help.status, 0);
    assert.match(help.stdout, /--max-concurrency N/);
});
