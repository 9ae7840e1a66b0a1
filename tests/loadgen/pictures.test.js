// `fathom bench` draws pictures, and runs several rates.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { dir, small, stream, withMock } from "./load.js";
import { DONE, tokenEvent } from "./mock.js";
import { bench, benchJson } from "./run.js";

test("--plot draws its four panels", { skip: spawnSync("gnuplot", ["--version"]).error && "needs gnuplot (Debian: gnuplot-nox)" }, async () => {
    await withMock(
        () => stream(4, 1050, 2, (i) => [i + 1]),
        async (mock) => {
            let seconds;
            for (const name of ["p.svg", "p.png"]) {
                const r = await benchJson(["--url", mock.url, "--num-prompts", "4", "--plot", join(dir, name), ...small]);
                assert.equal(r.code, 0, r.errors);
                assert.ok(existsSync(join(dir, name)));
                if (name === "p.svg") seconds = r.json.duration;
            }
            const svg = readFileSync(join(dir, "p.svg"), "utf8");
            for (const title of [ // a busy machine may take long enough for a rate
                /Time to first token: p50 \d{4,} ms, p99 \d{4,} ms/, /Inter-token latency: p50 /, /Output tokens per second/,
                ...(seconds < 2 ? [/too short for a rate over time/] : []), /Depth of tokens: mean 2.50 loops/, />p99</,
                />demo at http:|>mock at http:/, /UTC, 4 of 4 requests in [\d.]+ s, all sent at once/,
            ]) {
                assert.match(svg, title);
            }
            assert.equal(readFileSync(join(dir, "p.png")).subarray(1, 4).toString(), "PNG");
        },
    );
});

test("--plot says that several tokens came in one read, and that there is no depth", { skip: spawnSync("gnuplot", ["--version"]).error && "needs gnuplot (Debian: gnuplot-nox)" }, async () => {
    function* burst() {
        yield tokenEvent("a") + tokenEvent("b") + tokenEvent("c");
        yield 2000; // a reader that is late has read the others, too
        yield tokenEvent("d");
        yield DONE;
    }
    await withMock(burst, async (mock) => {
        const file = join(dir, "burst.svg");
        const r = await bench(["--url", mock.url, "--num-prompts", "3", "--plot", file, ...small]);
        assert.equal(r.code, 0, r.errors);
        const svg = readFileSync(file, "utf8");
        assert.match(svg, /67 % came in one read with the token before/);
        assert.match(svg, /Inter-token latency: p50 in one read, p99 /);
        assert.match(svg, /the server reported no depth/);
    });
});

test("a picture that cannot be drawn is refused before the first request", async () => {
    await withMock(
        () => stream(2),
        async (mock) => {
            const refused = async (file, env, why) => {
                const r = await bench(["--url", mock.url, "--num-prompts", "1", "--plot", file, ...small], { env });
                assert.equal(r.code, 2, r.errors);
                assert.match(r.errors, why);
                assert.equal(r.out, "");
            };
            await refused(join(dir, "x.svg"), { PATH: "/nonexistent" }, /--plot needs gnuplot.*apt install gnuplot-nox/);
            await refused(join(dir, "x.pdf"), {}, /--plot takes a file that ends in \.svg or \.png/);
            await refused(join(dir, "none", "x.svg"), {}, /the folder .*none: No such file/);
            assert.equal(mock.seen.bodies.length, 0);
            assert.deepEqual(mock.seen.gets, []);
        },
    );
});

test("--rates runs each rate, prints a table, and saves and draws all of them", async () => {
    await withMock(
        () => stream(3, 20, 1),
        async (mock) => {
            const plot = spawnSync("gnuplot", ["--version"]).error ? [] : ["--plot", join(dir, "rates.svg")];
            const { json, out, code, errors } = await benchJson([
                "--url", mock.url, "--rates", "20,40.5,80", "--rate-seconds", "0.5", "--num-warmups", "1", ...plot, ...small,
            ]);
            assert.equal(code, 0, errors);
            assert.deepEqual(json.runs.map((r) => [r.request_rate, r.num_prompts, r.completed]), [[20, 10, 10], [40.5, 21, 21], [80, 40, 40]]);
            assert.equal(mock.seen.bodies.length, 1 + 10 + 21 + 40); // warm once
            assert.equal(out.match(/Serving Benchmark Result/g).length, 3);
            const rows = out.slice(out.lastIndexOf("===\n")).trim().split("\n").slice(-3).map((row) => row.trim().split(/\s+/));
            assert.deepEqual(rows.map((row) => row.slice(0, 3)), [["20", "10", "0"], ["40.5", "21", "0"], ["80", "40", "0"]]);
            json.runs.forEach((run, i) => {
                assert.ok(Math.abs(run.request_throughput - Number(rows[i][3])) < 0.01);
                assert.ok(Math.abs(run.median_ttft_ms - Number(rows[i][5])) < 0.01);
            });
            if (!plot.length) return;
            const svg = readFileSync(join(dir, "rates.svg"), "utf8");
            for (const text of [/3 request rates/, /requests completed per second/, /end to end, p99/, /first token, p50/]) assert.match(svg, text);
        },
    );
});

test("--rates ends at a rate where every request fails, and still tells of those before", async () => {
    await withMock(
        (_, n) => (n < 4 ? stream(2) : [{ status: 503, text: "no" }]),
        async (mock) => {
            const r = await benchJson(["--url", mock.url, "--rates", "100,200,400", "--num-prompts", "4", ...small]);
            assert.equal(r.code, 1);
            assert.match(r.errors, /every request failed/);
            assert.deepEqual(r.json.runs.map((run) => [run.completed, run.failed]), [[4, 0], [0, 4]]);
            assert.match(r.out, /^ +100 +4 +0 /m);
            assert.match(r.out, /^ +200 +0 +4 /m);
            assert.equal(mock.seen.bodies.length, 8);
        },
    );
});
