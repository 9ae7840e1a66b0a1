// Columns, examples, links and pictures, with scripted answers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { textEvent } from "./mock.js";
import { answers, ask, END, ended, finish, kind, openSettings, skip, text, usage, withPage } from "./rig.js";
import { until } from "../http/lib/server.mjs";

const PROMPT = "Ann's friend is Kim. Kim's friend is Bob. Bob's friend is Zoe.\nAnn's friend's friend's friend is";
const names = ["", " Kim", " Bob", " Zoe"];
/** The hops model in short: names whom it has reached after the loops that it may run. */
const hops = (body) => {
    const loops = Math.min(3, body.depth?.max_loops ?? 3);
    return [textEvent(names[loops], [loops]), finish("stop"), usage(1, 40), END];
};
const example = {
    title: "three steps", kind: "compare", prompt: PROMPT, max_tokens: 8, temperature: 0, stop: ["\n"], loops: [1, 2, null], answer: " Zoe",
    note: "Each loop looks up one friend.",
};
const bare = { chat_template: null };

test("one prompt is answered at 1 loop, at 2 loops and at the model's own depth, all at once", { skip }, async () => {
    let open = 0, most = 0, go;
    const all = new Promise((done) => (go = done));
    const script = async function* (body) {
        most = Math.max(most, ++open);
        if (open === 3) go();
        await all; // no column ends before all have begun
        yield* hops(body);
    };
    await withPage({ script, card: { meta: bare, max_model_len: 64 } }, {}, async (page, mock) => {
        await page.locator("#max_tokens").evaluate((e) => (e.value = "8"));
        await ask(page, PROMPT);
        assert.equal(most, 3);
        assert.deepEqual(mock.seen.bodies.map((b) => b.depth).sort((a, b) => (a?.max_loops ?? 9) - (b?.max_loops ?? 9)),
            [{ max_loops: 1 }, { max_loops: 2 }, undefined]);
        assert.equal(new Set(mock.seen.bodies.map((b) => b.seed)).size, 1, "the columns share a seed");
        assert.deepEqual(await answers(page), [" Kim", " Bob", " Zoe"]);
        assert.deepEqual(await page.locator(".columns h3").allInnerTexts(), ["1 loop", "2 loops", "Own depth"]);
        assert.deepEqual(await page.locator(".columns .before").allInnerTexts(), Array(3).fill("Ann's friend's friend's friend is"));
        assert.deepEqual(await page.locator(".f-mean").allInnerTexts(), ["1.00", "2.00", "3.00"]);
        assert.match(await page.locator(".columns .end").first().innerText(), /^Ended by the model · 40 of 64 tokens of context/);
    });
});

test("a column's loops can be edited, columns added and taken away", { skip }, async () => {
    await withPage({ script: hops, card: { meta: bare } }, {}, async (page, mock) => {
        await page.locator(".at-most input").first().fill("3");
        await page.locator(".at-most input").first().press("Tab");
        assert.equal(await page.locator(".columns h3").first().innerText(), "3 loops");
        await page.getByRole("button", { name: "Add a column" }).click();
        assert.deepEqual(await page.locator(".columns h3").allInnerTexts(), ["3 loops", "2 loops", "Own depth", "6 loops"]);
        assert.equal(await page.locator(".add").isVisible(), false, "four are the most");
        await page.locator(".remove").nth(1).click();
        await page.locator(".at-most input").nth(1).fill("99");
        await page.locator(".at-most input").nth(1).press("Tab");
        assert.equal(await page.locator(".at-most input").nth(1).inputValue(), "8", "the model's cap");
        await ask(page, "x");
        assert.deepEqual(mock.seen.bodies.map((b) => b.depth?.max_loops).sort(), [3, 6, 8]);
    });
});

test("a fault in one column leaves the others their answers", { skip }, async () => {
    const script = (body) => (body.depth?.max_loops === 2 ? [{ status: 400, body: { error: { message: "no" } } }] : hops(body));
    await withPage({ script, card: { meta: bare } }, {}, async (page) => {
        await ask(page, PROMPT);
        assert.deepEqual(await answers(page), [" Kim", "", " Zoe"]);
        assert.equal(await page.locator(".columns .error").nth(1).innerText(), "no");
        assert.equal(await text(page, "status"), "Failed: no");
    });
});

test("a chip of the model's examples fills the form and runs it; its answer is checked", { skip }, async () => {
    const card = { meta: { ...bare, examples: [example, { prompt: "no title" }, 7, { title: "plain", prompt: "Go", kind: "completion", max_tokens: "many" }] } };
    await withPage({ script: hops, card }, {}, async (page, mock) => {
        assert.deepEqual(await page.locator("#examples button").allInnerTexts(), ["three steps", "plain"], "what is no example is left out");
        assert.equal(await page.locator("input[value=compare]").isChecked(), true, "a model with such examples begins side by side");
        await page.click("#examples button >> nth=0");
        await ended(page);
        assert.equal(await page.inputValue("#prompt"), PROMPT);
        const { seed, depth, ...body } = mock.seen.bodies[0];
        assert.deepEqual(body, {
            model: "demo", prompt: PROMPT, stream: true, return_depth: true, stream_options: { include_usage: true, include_drafts: true },
            max_tokens: 8, temperature: 0, stop: ["\n"],
        });
        assert.ok(Number.isInteger(seed) && depth.max_loops === 1);
        const ends = await page.locator(".columns .end b").allInnerTexts();
        assert.deepEqual(ends, ["✗ the answer is Zoe", "✗ the answer is Zoe", "✓ right"]);
        await until("the note", async () => (await text(page, "prompt-hint")) === example.note);
        await page.click("#examples button >> nth=1");
        await page.waitForSelector("#views > .view");
        await ended(page);
        assert.equal(mock.seen.bodies.at(-1).prompt, "Go");
        assert.equal(mock.seen.bodies.at(-1).max_tokens, 128, "an example without a setting has the default");
        assert.equal(mock.seen.bodies.at(-1).temperature, undefined);
    });
});

test("a link carries prompt and settings, fills the form of another tab and sends nothing", { skip }, async () => {
    await withPage({ script: hops, card: { meta: bare } }, {}, async (page, mock) => {
        await openSettings(page);
        await page.fill("#prompt", `a & b #=%\n${"é😀"}`);
        await page.fill("#temperature", "0.5");
        await page.fill("#stop", "\\n\nx\\\\n");
        await page.locator(".at-most input").first().fill("4");
        await page.locator(".at-most input").first().press("Tab");
        await page.fill("#api-key", "sk-secret");
        await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: { writeText: async (t) => (window.copied = t) } }));
        await page.click("#copy-link");
        await page.waitForFunction(() => window.copied);
        const link = await page.evaluate(() => window.copied);
        assert.ok(link.startsWith(`${mock.url}#p=`) && !link.includes("secret"));
        await page.goto("about:blank");
        await page.goto(link);
        await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
        assert.equal(await page.inputValue("#prompt"), `a & b #=%\n${"é😀"}`);
        assert.equal(await page.inputValue("#temperature"), "0.5");
        assert.equal(await page.inputValue("#stop"), "\\n\nx\\\\n");
        assert.deepEqual(await page.locator(".columns h3").allInnerTexts(), ["4 loops", "2 loops", "Own depth"]);
        assert.match(await text(page, "prompt-hint"), /^This prompt came with the link/);
        await page.waitForTimeout(300);
        assert.equal(mock.seen.bodies.length, 0);
        await page.evaluate(() => (location.hash = "#p=other&kind=completion&temperature=hot&loops=x"));
        await page.waitForFunction(() => document.getElementById("prompt").value === "other");
        assert.equal(await page.inputValue("#temperature"), "", "what is no number is left out");
        assert.equal(await page.locator("input[value=completion]").isChecked(), true);
    });
});

async function downloaded(page, click) {
    const [file] = await Promise.all([page.waitForEvent("download"), click()]);
    return { name: file.suggestedFilename(), data: readFileSync(await file.path()) };
}

test("the answers can be saved as SVG and PNG, with their tints, figures and text as it is", { skip }, async () => {
    const evil = ' <b onload="x">&\u0001';
    const script = (body) => [...hops(body).slice(0, 1), textEvent(evil, [5]), textEvent("\nnew line", [2]), finish("stop"), END];
    await withPage({ script, card: { meta: bare } }, {}, async (page) => {
        await ask(page, PROMPT);
        const svg = await downloaded(page, () => page.click("#save-svg"));
        assert.equal(svg.name, "fathom.svg");
        const look = await page.evaluate((source) => {
            const doc = new DOMParser().parseFromString(source, "image/svg+xml");
            return {
                bad: doc.querySelectorAll("parsererror, script, foreignObject, [onload]").length,
                words: [...doc.querySelectorAll("text")].map((t) => t.textContent),
                fills: [...new Set([...doc.querySelectorAll("rect")].map((r) => r.getAttribute("fill")))].length,
            };
        }, svg.data.toString());
        assert.equal(look.bad, 0);
        for (const word of ["Fathom", "demo", "1 loop", "Own depth", "Zoe", "<b", 'onload="x">&\ufffd', "Loops saved"]) assert.ok(look.words.includes(word), word);
        assert.ok(look.fills >= 8, "the scale's colours");
        const png = await downloaded(page, () => page.click("#save-png"));
        assert.equal(png.name, "fathom.png");
        assert.equal(png.data.subarray(1, 4).toString(), "PNG");
        assert.ok(png.data.readUInt32BE(16) > 2000, "drawn at twice its size");
    });
});

test("an answer can be copied as text, as JSON with its depths, and as the command that asks for it", { skip }, async () => {
    await withPage({ script: hops, card: { meta: bare } }, {}, async (page, mock) => {
        await kind(page, "completion");
        await ask(page, "it's");
        await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: { writeText: async (t) => (window.copied = t) } }));
        const copied = async (name) => {
            await page.getByRole("button", { name }).click();
            return page.evaluate(() => window.copied);
        };
        assert.equal(await copied("Copy text"), " Zoe");
        const json = JSON.parse(await copied("Copy JSON"));
        assert.deepEqual([json.answer, json.ended, json.tokens[0].depths], [" Zoe", "stop", [3]]);
        assert.deepEqual(json.request, mock.seen.bodies[0]);
        const curl = await copied("Copy curl");
        assert.ok(curl.startsWith(`curl -N '${mock.url}v1/completions'`) && curl.includes("it'\\''s"));
    });
});
