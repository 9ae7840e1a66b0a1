// The view of the server: gauges, the launch strip, and when the page asks for them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeMetrics, textEvent } from "./mock.js";
import { answered, ask, END, finish, skip, text, withPage } from "./rig.js";
import { sleep, until } from "../http/lib/server.mjs";

const one = () => [textEvent("a", [1]), finish("stop"), END];
const launch = (id, rows, prompt = 0) => ({ id, ms: 1000 + id * 2, us: 240, rows, prompt });
/** A server with so many launches, all of the same rows. */
const launches = (last, rows) => (after) => ({
    last, loops: 8, launches: Array.from({ length: Math.min(256, last - after) }, (_, i) => launch(last - Math.min(256, last - after) + i + 1, rows)),
});
/** How many pixels of each lane have a colour of the ramp. */
const lanes = (page) => page.evaluate(() => {
    const canvas = document.getElementById("strip");
    const n = document.getElementById("sums").children.length;
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const lane = Math.round((canvas.height / devicePixelRatio - 6) / n) * devicePixelRatio;
    return Array.from({ length: n }, (_, i) => {
        const hex = style.getPropertyValue(`--d${i + 1}`).trim();
        const want = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
        const { data } = pen.getImageData(0, i * lane, canvas.width, lane);
        let found = 0;
        for (let at = 0; at < data.length; at += 4) if (want.every((v, k) => data[at + k] === v)) found++;
        return found;
    });
});

test("the gauges are the server's, and start over when the server did", { skip }, async () => {
    let at = { running: 3, waiting: 1, tokens: 1000, cache: 0.25, exits: [0, 10, 10] }, more = 0;
    // With tokens at every look the rate is never 0, whatever look is seen.
    const metrics = () => fakeMetrics((at = { ...at, tokens: at.tokens + more }));
    await withPage({ script: () => [], metrics }, {}, async (page) => {
        await page.waitForFunction(() => document.getElementById("p-running").textContent === "3");
        assert.equal(await text(page, "p-waiting"), "1");
        assert.equal(await text(page, "p-cache"), "25.0 %");
        more = 2000;
        at = { ...at, exits: [0, 10, 70] };
        await page.waitForFunction(() => document.getElementById("p-rate").textContent !== "0" &&
            document.getElementById("exits").getAttribute("aria-label") === "Tokens by depth: 60 at 2");
        more = 0;
        at = { ...at, tokens: 5, exits: [0, 1, 1], running: 0 };
        await page.waitForFunction(() => document.getElementById("p-rate").textContent === "0");
        assert.equal(await page.locator("#exits").getAttribute("aria-label"), "Tokens by depth: none");
    });
});

test("the strip draws the rows of each loop in their lane, and sums them up", { skip }, async () => {
    await withPage({ script: one, launches: launches(100, [5, 3, 0, 2]) }, {}, async (page) => {
        await page.waitForFunction(() => document.getElementById("l-rows").textContent === "10.0");
        assert.equal(await text(page, "l-mixed"), "100 %");
        assert.equal(await text(page, "l-rate"), "500");
        assert.equal(await page.locator("#sums").getAttribute("aria-label"), "Rows by loop: 500 at loop 1, 300 at loop 2, 200 at loop 4");
        const drawn = await lanes(page);
        assert.equal(drawn.length, 8);
        assert.ok(drawn[0] > 0 && drawn[1] > drawn[3] && drawn[3] > 0, drawn.join(" "));
        assert.deepEqual([2, 4, 5, 6, 7].map((i) => drawn[i]), [0, 0, 0, 0, 0]);
        const box = await page.locator("#launches").boundingBox();
        await page.mouse.move(box.x + box.width - 3, box.y + 20);
        assert.equal(await text(page, "launch-info"), "Launch 100: 10 rows in 240 µs: 5 at loop 1, 3 at loop 2, 2 at loop 4.");
        await page.mouse.move(0, 0);
        await page.focus("#launches");
        await page.keyboard.press("ArrowLeft");
        await page.keyboard.press("ArrowLeft");
        assert.match(await text(page, "launch-info"), /^Launch 99: /);
    });
});

test("one stream is a line that dives from loop to loop; a prompt does not flatten it", { skip }, async () => {
    const dive = [1, 2, 3, 1, 2, 1].map((loop, i) => launch(i + 2, [...Array(loop - 1).fill(0), 1]));
    const reply = { last: 7, loops: 8, launches: [launch(1, [400, 1], 400), ...dive] };
    await withPage({ script: one, launches: (after) => (after < 7 ? reply : { last: 7, loops: 8, launches: [] }) }, {}, async (page) => {
        await page.waitForFunction(() => document.getElementById("l-mixed").textContent === "14 %");
        const drawn = await lanes(page);
        assert.ok(drawn[1] >= 3 * drawn[2] * 0.9 && drawn[2] > 40, `a row of a single stream fills its lane: ${drawn.join(" ")}`);
    });
});

test("launches are asked for after the last one known, often while something runs, and anew after a restart", { skip }, async () => {
    let last = 300;
    const asked = [];
    const reply = (after) => {
        asked.push(after);
        return launches(last, [1, 1])(after > last ? 0 : after);
    };
    await withPage({ script: one, launches: reply }, {}, async (page) => {
        await until("a second look", () => asked.length >= 2);
        assert.deepEqual(asked.slice(0, 2), [0, 300]);
        last = 20;
        await ask(page, "x", "completion");
        await page.waitForFunction(() => /20 at loop 1/.test(document.getElementById("sums").getAttribute("aria-label")));
    });
});

test("a server that does not tell its launches, or only to a key, gets no strip but a word", { skip }, async () => {
    for (const [status, words] of [[404, /does not tell its launches/], [401, /needs an API key/]]) {
        let asked = 0;
        await withPage({ script: one, launches: () => (asked++, status) }, {}, async (page) => {
            await page.waitForSelector("#strip-note:not([hidden])");
            assert.match(await text(page, "strip-note"), words);
            assert.equal(await page.locator("#strip").isVisible(), false);
            await sleep(2500);
            assert.equal(asked, 1, "it is not asked again and again");
        });
    }
});

test("a model of 32 loops has 32 thin lanes, every fourth with a number, and their bars stand in line", { skip }, async () => {
    const deep = (after) => ({ last: 9, loops: 32, launches: after < 9 ? [launch(9, Array(32).fill(4))] : [] });
    await withPage({ script: one, launches: deep, card: { max_loops: 32, trained_loops: 32 } }, {}, async (page) => {
        await page.waitForFunction(() => document.getElementById("l-rows").textContent === "128.0");
        const rows = await page.locator("#sums > div").evaluateAll((all) => all.map((e) => [e.children[0].textContent, e.children[1].getBoundingClientRect()]));
        assert.deepEqual(rows.map(([n]) => n).filter(Boolean), ["4", "8", "12", "16", "20", "24", "28", "32"]);
        assert.equal(new Set(rows.map(([, box]) => `${box.left} ${box.width} ${box.height}`)).size, 1);
        assert.ok(rows.every(([, box], i) => i === 0 || box.top > rows[i - 1][1].top));
    });
});

test("nonsense from /launches draws nothing and breaks nothing", { skip }, async () => {
    const odd = { last: "x", loops: -3, launches: [null, 7, {}, { id: 1, ms: 1, us: 1, rows: ["a"] }, { id: 2, ms: 2, us: 2, rows: [-1] }, launch(3, [2])] };
    await withPage({ script: one, launches: () => odd }, {}, async (page) => {
        await page.waitForFunction(() => document.getElementById("l-rows").textContent === "2.0");
    });
});

test("a missing key and a wrong key are told apart, and an idle tab with a wrong one asks no more", { skip }, async () => {
    const good = (req) => req.headers.authorization === "Bearer sk-1";
    const options = { script: one, models: good, metrics: (req) => (good(req) ? fakeMetrics() : 401), launches: (after, req) => (good(req) ? launches(0, [])(after) : 401) };
    await withPage(options, {}, async (page, mock) => {
        assert.equal(await text(page, "model-name"), "needs an API key");
        assert.equal(await page.locator("#health").getAttribute("class"), "dot");
        assert.equal(await page.locator("#api-key").isVisible(), true, "the field for it is open");
        await page.fill("#api-key", "sk-0");
        await page.locator("#api-key").blur();
        await page.waitForFunction(() => document.getElementById("model-name").textContent === "the API key is not accepted");
        await page.fill("#prompt", "x");
        await page.click("#send");
        await page.waitForFunction(() => document.getElementById("status").textContent === "Failed: the API key is not accepted");
        assert.match(await text(page, "prompt-hint"), /not accepted/);
        await answered(page);
        const asked = mock.seen.paths.length;
        await sleep(4500);
        assert.equal(mock.seen.paths.length, asked, "nothing was asked in the meantime");
        await page.fill("#api-key", "sk-1");
        await page.locator("#api-key").blur();
        await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
        assert.equal(await text(page, "prompt-hint"), "", "the old fault is gone");
        assert.equal(await page.locator("#health").getAttribute("class"), "dot up");
        await page.waitForSelector("#strip");
        await ask(page, "x");
        assert.equal(mock.seen.headers.at(-1).authorization, "Bearer sk-1");
        assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes("sk-1")), false, "it stays in this tab");
    });
});
