// The metrics page: valid, complete by name, label and bucket, and true.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { hold, portOf } from "./lib/raw.mjs";
import { Server, chunks, sleep, until, withServer } from "./lib/server.mjs";

const body = { model: "demo", prompt: "In the beginning", max_tokens: 12, temperature: 0, ignore_eos: true };
const has = (program) => spawnSync(program, ["--version"]).status === 0;

async function work(s) {
    for (let i = 0; i < 3; i++) await s.post("/v1/completions", { ...body, stream: i % 2 === 0, n: 2 });
    await s.post("/v1/completions", { ...body, prompt: "" });
    await s.get("/nowhere");
    await sleep(150); // past the life of a rendered page
}

test("promtool finds nothing to say against the page", { skip: has("promtool") ? false : "no promtool here" }, async () => {
    await withServer([], async (s) => {
        await work(s);
        const checked = spawnSync("promtool", ["check", "metrics"], { input: (await s.get("/metrics")).text, encoding: "utf8" });
        const complaints = (checked.stdout + checked.stderr).split("\n").filter((l) => l && !knownComplaint(l));
        assert.deepEqual(complaints, []);
    });
});
// vLLM's own names: a colon and a word promtool would not have chosen, kept to fit its dashboards.
function knownComplaint(line) {
    return /^vllm:/.test(line) && /(metric names should not contain .:.|iteration_tokens_total non-counter metrics should not have "_total" suffix)/.test(line);
}

test("vLLM's names, types, labels and buckets", async () => {
    const expected = {
        "vllm:num_requests_running": "gauge", "vllm:num_requests_waiting": "gauge", "vllm:num_requests_waiting_by_reason": "gauge",
        "vllm:kv_cache_usage_perc": "gauge", "vllm:cache_config_info": "gauge", "vllm:prefix_cache_queries_total": "counter",
        "vllm:prefix_cache_hits_total": "counter", "vllm:num_preemptions_total": "counter", "vllm:prompt_tokens_total": "counter",
        "vllm:prompt_tokens_cached_total": "counter", "vllm:generation_tokens_total": "counter", "vllm:request_success_total": "counter",
        "vllm:corrupted_requests_total": "counter", "vllm:time_to_first_token_seconds": "histogram", "vllm:inter_token_latency_seconds": "histogram",
        "vllm:request_time_per_output_token_seconds": "histogram", "vllm:e2e_request_latency_seconds": "histogram",
        "vllm:request_queue_time_seconds": "histogram", "vllm:request_inference_time_seconds": "histogram",
        "vllm:request_prefill_time_seconds": "histogram", "vllm:request_decode_time_seconds": "histogram",
        "vllm:request_prompt_tokens": "histogram", "vllm:request_generation_tokens": "histogram",
        "vllm:request_max_num_generation_tokens": "histogram", "vllm:request_params_max_tokens": "histogram",
        "vllm:request_params_n": "histogram", "vllm:iteration_tokens_total": "histogram",
        "vllm:spec_decode_num_drafts_total": "counter", "vllm:spec_decode_num_draft_tokens_total": "counter",
        "vllm:spec_decode_num_accepted_tokens_total": "counter", "vllm:spec_decode_num_accepted_tokens_per_pos_total": "counter",
    };
    const buckets = {
        "vllm:time_to_first_token_seconds": ".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560",
        "vllm:inter_token_latency_seconds": ".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80",
        "vllm:request_time_per_output_token_seconds": ".01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80",
        "vllm:e2e_request_latency_seconds": ".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680",
        "vllm:request_params_n": "1 2 5 10 20",
        "vllm:request_prompt_tokens": "1 2 5 10 20 50 100 200 500 1000",
        "vllm:iteration_tokens_total": "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384",
    };
    await withServer([], async (s) => {
        await work(s);
        const { text } = await s.get("/metrics");
        for (const [name, type] of Object.entries(expected)) {
            assert.ok(text.includes(`# TYPE ${name} ${type}\n`), `${name} ${type}`);
            assert.match(text, new RegExp(`^${name}(_bucket)?\\{model_name="demo",engine="0"`, "m"));
        }
        for (const [name, list] of Object.entries(buckets)) {
            const seen = [...text.matchAll(new RegExp(`^${name}_bucket\\{[^}]*le="([^"]+)"`, "gm"))].map((m) => m[1]);
            assert.deepEqual(seen, [...list.split(" ").map((v) => String(Number(v))), "+Inf"], name);
        }
    });
});

test("the figures are those of the work that was done", async () => {
    await withServer([], async (s) => {
        await work(s);
        const m = await s.metrics();
        assert.equal(m["vllm:generation_tokens_total"], 72);
        assert.equal(m['vllm:request_success_total{finished_reason="length"}'], 6);
        assert.equal(m["vllm:request_params_n_count"], 3);
        assert.equal(m["vllm:request_params_n_sum"], 6);
        assert.equal(m["vllm:request_generation_tokens_sum"], 72);
        assert.equal(m["vllm:request_params_max_tokens_sum"], 72);
        assert.equal(m["vllm:time_to_first_token_seconds_count"], 3);
        assert.equal(m["vllm:inter_token_latency_seconds_count"], 72 - 6);
        assert.equal(m["vllm:e2e_request_latency_seconds_count"], 3);
        assert.ok(m["vllm:iteration_tokens_total_sum"] >= 72);
        assert.equal(m["fathom_token_depth_count"], 72);
        const exits = Object.entries(m).filter(([k]) => k.startsWith("fathom_exits_total")).map(([, v]) => v);
        assert.ok(exits.reduce((a, b) => a + b) >= 72);
        assert.ok(exits.filter((v) => v > 0).length > 1, "tokens left at several depths");
        for (const stage of ["prelude", "recurrent", "coda"]) assert.ok(m[`fathom_launches_total{stage="${stage}"}`] > 0);
        assert.equal(m['fathom_http_requests_total{route="/completions"}'], 4);
        assert.equal(m['fathom_http_responses_total{class="2xx"}'] > 3, true);
        assert.equal(m['fathom_http_responses_total{class="4xx"}'], 2);
        assert.equal(m['fathom_cache_pages{state="used"}'], 0);
    });
});

test("the figures of a request are there when its answer is, and n choices count their prompt once", async () => {
    await withServer(["--fake-us-per-token", "100"], async (s) => {
        const ask = { model: "demo", prompt: [300, 301, 302, 303, 304], n: 4, max_tokens: 3, temperature: 0, ignore_eos: true };
        for (let i = 1; i <= 25; i++) {
            const r = await s.post("/v1/completions", { ...ask, stream: i % 2 === 0, stream_options: i % 2 ? undefined : { include_usage: true } });
            const m = await s.metrics(); // at once: no page or snapshot from before the end may answer
            const usage = i % 2 ? r.json.usage : chunks(r.text).at(-1).usage;
            assert.equal(usage.prompt_tokens, 5);
            assert.equal(m["vllm:prompt_tokens_total"], 5 * i, `round ${i}`);
            assert.equal(m["vllm:request_prompt_tokens_count"], i);
            assert.equal(m["vllm:request_prompt_tokens_sum"], 5 * i);
            assert.equal(m["vllm:generation_tokens_total"], 12 * i);
            assert.equal(m['vllm:request_success_total{finished_reason="length"}'], 4 * i);
            assert.equal(m["vllm:e2e_request_latency_seconds_count"], i);
            assert.equal(m["vllm:num_requests_running"], 0);
            assert.equal(m['fathom_cache_pages{state="used"}'], 0);
            assert.equal(m['fathom_http_requests_total{route="/completions"}'], i);
        }
    });
});

test("gateways read blocks of tokens that fit at the usual depth, and nothing while the model loads", async () => {
    const loading = await Server.start(["--kv-memory", "8M"], { ready: false, env: { FATHOM_FAULT: "load:3600000" } });
    assert.ok(!(await loading.get("/metrics")).text.includes("vllm:cache_config_info"));
    await loading.stop();
    const s = await Server.start(["--kv-memory", "8M"]);
    await s.idle();
    const labels = Object.fromEntries([.../^vllm:cache_config_info\{(.*)\} 1$/m.exec((await s.get("/metrics")).text)[1]
        .matchAll(/(\w+)="([^"]*)"/g)].map((m) => [m[1], m[2]]));
    const [, slots, bytes, positions] = /cache (\d+) slots of (\d+) bytes .*: (\d+) positions at full depth/.exec(s.log).map(Number);
    assert.equal(labels.block_size, "32");
    assert.equal(Number(labels.num_gpu_blocks), Math.floor(positions / 32));
    assert.equal(Number(labels.pages), Math.floor(slots / Number(labels.page_slots)));
    assert.equal(Number(labels.slot_bytes), bytes);
    await s.stop();
});

test("loops to run are those of waiting and running sequences, and 0 once they are done", async () => {
    const prompt = [300, 301, 302, 303, 304], tokens = 60, loops = 3;
    const each = (prompt.length + tokens - 1) * loops; // the last token is not run
    const ask = { model: "demo", prompt, max_tokens: tokens, temperature: 0, ignore_eos: true, depth: { min_loops: loops, max_loops: loops } };
    await withServer(["--fake-us-per-token", "20000", "--max-running", "1"], async (s) => {
        const toRun = async () => (await s.metrics())["fathom_loops_to_run"];
        assert.equal(await toRun(), 0);
        const longest = (prompt.length + 900 - 1) * loops;
        const held = await hold(s.port, { ...ask, max_tokens: 900 }); // has the only place until it was looked at
        const answers = [1, 2].map(() => s.post("/v1/completions", ask));
        const first = await until("all are in", async () => {
            const m = await s.metrics();
            return m["vllm:num_requests_waiting"] === 2 && m["fathom_loops_to_run"];
        });
        assert.ok(first > 2 * each && first <= 2 * each + longest, `${first} of ${2 * each + longest}`);
        await until("the first runs down", async () => {
            const now = await toRun();
            assert.ok(now <= first, `${now} after ${first}`);
            return now < first;
        });
        held.destroy();
        let last = first;
        await until("they run down", async () => {
            const m = await s.metrics(), now = m["fathom_loops_to_run"];
            assert.ok(now <= last, `${now} after ${last}`);
            assert.ok(now > 0 || m["vllm:num_requests_running"] + m["vllm:num_requests_waiting"] === 0, "work is left");
            last = now;
            return now <= each;
        });
        assert.deepEqual((await Promise.all(answers)).map((r) => r.json.usage.completion_tokens), [tokens, tokens]);
        assert.equal(await toRun(), 0);
    });
});

test("drafted tokens are right or dropped, and a server with --speculate off drafts none", async () => {
    const figures = async (s) => {
        const ask = { ...body, max_tokens: 60 };
        await s.post("/v1/completions", ask);
        await s.idle();
        const m = await s.metrics();
        const of = (name) => m[`vllm:spec_decode_num_${name}_total`];
        return { drafted: of("draft_tokens"), right: of("accepted_tokens"), dropped: m["fathom_withdrawn_drafts_total"],
            places: Object.entries(m).filter(([k]) => k.startsWith("vllm:spec_decode_num_accepted_tokens_per_pos_total{")).map(([, v]) => v) };
    };
    await withServer(["--speculate", "4"], async (s) => {
        const { drafted, right, dropped, places } = await figures(s);
        assert.equal(places.length, 16);
        assert.equal(places.reduce((a, b) => a + b), right);
        assert.ok(right > 0);
        assert.equal(right + dropped, drafted);
    });
    await withServer(["--speculate", "off"], async (s) => {
        const { drafted, right, dropped } = await figures(s);
        assert.deepEqual([drafted, right, dropped], [0, 0, 0]);
    });
});

test("an odd served name is escaped as a label", async () => {
    await withServer(["--served-name", 'a"b\\c'], async (s) => {
        const { text } = await s.get("/metrics");
        assert.match(text, /model_name="a\\"b\\\\c",engine="0"/);
    });
});

test("a real Prometheus scrapes it", { skip: has("prometheus") ? false : "no prometheus here" }, async () => {
    await withServer([], async (s) => {
        await work(s);
        const dir = mkdtempSync(path.join(tmpdir(), "fathom-prom-"));
        writeFileSync(path.join(dir, "p.yml"), `global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: fathom\n    static_configs: [{targets: ['127.0.0.1:${s.port}']}]\n`);
        const prometheus = spawn("prometheus", [`--config.file=${dir}/p.yml`, `--storage.tsdb.path=${dir}/data`, "--web.listen-address=127.0.0.1:0"], { stdio: "ignore" });
        try {
            const port = await portOf(prometheus);
            const ask = async (q) => {
                try {
                    const r = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(q)}`);
                    return (await r.json()).data?.result ?? [];
                } catch { return []; }
            };
            const up = await until("a scrape", async () => {
                const r = await ask("up");
                return r.length && r[0].value[1] === "1" && r;
            });
            assert.equal(up[0].metric.job, "fathom");
            assert.equal((await ask("vllm:generation_tokens_total"))[0].value[1], "72");
            assert.ok(Number((await ask("histogram_quantile(0.99, vllm:e2e_request_latency_seconds_bucket)"))[0].value[1]) > 0);
            assert.ok((await ask("fathom_rows")).length >= 8);
        } finally {
            prometheus.kill("SIGTERM");
            await new Promise((done) => prometheus.on("close", done));
            rmSync(dir, { recursive: true, force: true });
        }
    });
});
