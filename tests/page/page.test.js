// The page in headless Chromium, with scripted answers: a request, its answer and what goes wrong.
import assert from "node:assert/strict";
import { test } from "node:test";
import { textEvent } from "./mock.js";
import { answers, ask, END, ended, finish, kind, openSettings, skip, text, tints, usage, withPage } from "./rig.js";
import { until } from "../http/lib/server.mjs";

const one = () => [textEvent("a", [1]), finish("stop"), END];

test("every token of the streamed answer is tinted by its depth", { skip }, async () => {
    const script = function* () {
        yield textEvent("In", [1]);
        yield 5;
        yield textEvent(" the", [4]) + ": ping\n\n" + textEvent(" be", [8]);
        yield textEvent("gin", [8]) + finish("stop") + usage(4) + END;
    };
    await withPage({ script }, {}, async (page) => {
        await ask(page, "hello", "completion");
        assert.deepEqual(await answers(page), ["In the begin"]);
        assert.deepEqual(await tints(page), ["var(--d1)", "var(--d4)", "var(--d8)", "var(--d8)"]);
        assert.equal(await page.locator(".f-tokens").innerText(), "4");
        assert.equal(await page.locator(".f-loops").innerText(), "21");
        assert.equal(await page.locator(".f-mean").innerText(), "5.25");
        assert.equal(await page.locator(".f-saved").innerText(), "34 %");
        assert.match(await page.locator("#views .legend").getAttribute("aria-label"), /1 at depth 1, 1 at depth 4, 2 at depth 8/);
        await page.hover("#views .tok >> nth=1");
        assert.equal(await text(page, "token-info"), 'Token 2, " the", ran 4 of the model’s 8 loops.');
        await page.check("#numbers");
        const shown = await page.locator("#views .tok").first().evaluate((e) => getComputedStyle(e, "::after").content);
        assert.equal(shown, '"1"');
    });
});

test("text that comes for several tokens shows all their depths", { skip }, async () => {
    await withPage({ script: () => [textEvent("a", [2]), textEvent(" longer", [1, 8, 3]), usage(4), END] }, {}, async (page) => {
        await ask(page, "hello", "completion");
        const span = page.locator("#views .tok").nth(1);
        assert.equal(await span.getAttribute("class"), "tok banded");
        assert.match(await span.evaluate((e) => getComputedStyle(e).backgroundImage), /^linear-gradient/);
        assert.equal(await page.locator(".f-mean").innerText(), "3.50");
    });
});

test("a stop text is no part of the answer, nor are the loops of its tokens; text held back for it gets its depth", { skip }, async () => {
    const end = (depths) => textEvent("", depths, { finish_reason: "stop", stop_reason: "." }) + usage(2) + END;
    let events = [textEvent(" Zoe", [3]), end([1])];
    await withPage({ script: () => events }, {}, async (page) => {
        const figures = async () => [await page.locator(".f-tokens").innerText(), await page.locator(".f-mean").innerText()];
        await ask(page, "x", "completion");
        assert.deepEqual(await tints(page), ["var(--d3)"]);
        assert.deepEqual(await figures(), ["1", "3.00"]);
        events = [textEvent(" a", [2]), textEvent(" Z", []), end([4, 1])]; // "oe." was the stop text
        await ask(page, "x");
        assert.deepEqual(await tints(page), ["var(--d2)", "var(--d4)"]);
        assert.deepEqual(await figures(), ["2", "3.00"]);
        await page.hover("#views .tok >> nth=1");
        assert.equal(await text(page, "token-info"), 'Token 2, " Z", ran 4 of the model’s 8 loops.');
    });
});

test("the request says what the form says and nothing more", { skip }, async () => {
    await withPage({ script: one }, {}, async (page, mock) => {
        await ask(page, "first", "chat");
        await kind(page, "completion");
        await openSettings(page);
        await page.selectOption("#reasoning_effort", "high");
        for (const [id, value] of [["max_tokens", "7"], ["temperature", "0.3"], ["top_p", "0.9"], ["top_k", "40"], ["min_p", "0.1"],
            ["repetition_penalty", "1.1"], ["frequency_penalty", "-1"], ["presence_penalty", "0.5"], ["seed", "42"],
            ["min_loops", "2"], ["max_loops", "6"], ["threshold", "0.5"], ["stop", "\\n\nEND"]]) await page.fill(`#${id}`, value);
        await ask(page, "second");
        assert.deepEqual(mock.seen.paths.filter((p) => p.endsWith("completions")), ["/v1/chat/completions", "/v1/completions"]);
        const common = { model: "demo", stream: true, return_depth: true, stream_options: { include_usage: true, include_drafts: true } };
        const { seed, ...first } = mock.seen.bodies[0];
        assert.ok(Number.isInteger(seed) && seed >= 0, "a seed of the page's own, so that the answer can be made again");
        assert.deepEqual(first, { ...common, messages: [{ role: "user", content: "first" }], max_completion_tokens: 128 });
        assert.deepEqual(mock.seen.bodies[1], {
            ...common, prompt: "second", max_tokens: 7, temperature: 0.3, top_p: 0.9, top_k: 40, min_p: 0.1, repetition_penalty: 1.1,
            frequency_penalty: -1, presence_penalty: 0.5, seed: 42, reasoning_effort: "high", stop: ["\n", "END"],
            depth: { min_loops: 2, max_loops: 6, threshold: 0.5 },
        });
    });
});

test("Enter sends, Shift+Enter breaks the line, Escape leaves and the server sees it", { skip }, async () => {
    const script = function* () {
        for (let i = 0; ; i++) yield* [textEvent(` t${i}`, [1]), 20]; // until its reader leaves
    };
    await withPage({ script }, {}, async (page, mock) => {
        assert.equal(await page.evaluate(() => document.activeElement.id), "prompt", "the prompt has the focus from the start");
        await kind(page, "completion");
        await page.locator("#prompt").focus();
        await page.keyboard.type("go");
        await page.keyboard.press("Shift+Enter");
        await page.keyboard.type("on");
        await page.keyboard.press("Enter");
        await page.waitForFunction(() => document.querySelectorAll("#views .tok").length > 3);
        assert.equal(mock.seen.bodies[0].prompt, "go\non");
        assert.equal(await page.locator("#send").isDisabled(), true);
        await page.keyboard.press("Escape");
        await ended(page);
        assert.match(await page.locator("#status").textContent(), /^Stopped after \d+ tokens$/);
        assert.match(await page.locator("#views .end").innerText(), /^Stopped by you after \d+ tokens/);
        assert.equal(await page.locator("#send").isDisabled(), false);
        assert.equal(await page.locator("#views .error").isVisible(), false);
        await until("the server sees it", () => mock.seen.left === 1);
    });
});

test("an answer can be cleared while it comes, and the next one is followed from its beginning", { skip }, async () => {
    const script = function* (body) {
        for (let i = 0; body.prompt === "slow" || i < 400; i++) yield* [textEvent(` some${i}longword`, [1]), body.prompt === "slow" && i > 300 ? 20 : 0];
        yield finish("stop") + END;
    };
    await withPage({ script }, {}, async (page) => {
        await kind(page, "completion");
        await page.fill("#prompt", "slow");
        await page.click("#send");
        // Before the box has followed the text there is nothing to scroll back.
        await page.waitForFunction(() => document.querySelectorAll("#views .tok").length > 300 && document.querySelector("#views .text").scrollTop > 0);
        await page.locator("#views .text").evaluate((e) => (e.scrollTop = 0));
        await page.waitForSelector(".jump:not([hidden])");
        await page.click("#clear");
        await page.waitForFunction(() => document.querySelector("#views .text").textContent === "");
        assert.equal(await page.locator("#views .end").innerText(), "");
        assert.equal(await page.locator("#send").isDisabled(), false);
        await ask(page, "fast");
        await until("the end is in sight", () => page.locator("#views .text").evaluate((e) => e.scrollHeight - e.clientHeight - e.scrollTop < 5));
    });
});

test("an empty prompt is said and sends nothing", { skip }, async () => {
    await withPage({ script: one }, {}, async (page, mock) => {
        await page.fill("#prompt", " ");
        await page.click("#send");
        assert.equal(await text(page, "prompt-hint"), "Write a prompt first.");
        assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
        await ask(page);
        assert.equal(await text(page, "prompt-hint"), "");
        assert.equal(mock.seen.bodies.length, 1);
    });
});

test("the reason of the end, the context used and the seed are visible, and the seed can be kept", { skip }, async () => {
    let end = finish("length") + usage(1, 133);
    await withPage({ script: () => [textEvent("a", [1]), end, END], card: { max_model_len: 1024 } }, {}, async (page, mock) => {
        await ask(page, "x", "completion");
        const shown = () => page.locator("#views .end").innerText();
        const { seed } = mock.seen.bodies[0];
        assert.match(await shown(), new RegExp(`^Cut at 1 token: the limit was reached · 133 of 1,024 tokens of context · seed ${seed}\\s+Keep`));
        await page.click("#views .end button");
        assert.equal(await page.inputValue("#seed"), String(seed));
        end = finish("stop", { stop_reason: "END" });
        await ask(page, "x");
        assert.equal(mock.seen.bodies[1].seed, seed);
        assert.match(await shown(), /^Ended at the stop text "END"/);
        end = finish("stop", { stop_reason: null });
        await ask(page, "x");
        assert.match(await shown(), /^Ended by the model/);
    });
});

test("the prompt stands before a completion, which can go on where it was cut", { skip }, async () => {
    let n = 0;
    const script = () => [[textEvent(" was", [2]), finish("length"), END], [textEvent(" good", [3]), finish("stop"), END]][n++];
    await withPage({ script }, {}, async (page, mock) => {
        await ask(page, "It", "completion");
        assert.equal(await page.locator("#views .text").textContent(), "It was");
        await page.getByRole("button", { name: "Continue" }).click();
        await page.waitForFunction(() => document.querySelector("#views .text").textContent === "It was good");
        await ended(page);
        assert.equal(mock.seen.bodies[1].prompt, "It was");
        assert.equal(await page.locator(".f-tokens").innerText(), "2");
        assert.equal(await page.getByRole("button", { name: "Continue" }).count(), 0, "the model ended it");
    });
});

test("the answer follows the stream until its reader scrolls up, and a button leads back", { skip }, async () => {
    let go;
    const read = new Promise((done) => (go = done));
    const script = async function* () {
        for (let i = 0; i < 300; i++) yield textEvent(` word${i}`, [1]);
        await read;
        for (let i = 0; i < 300; i++) yield textEvent(` more${i}`, [1]);
        yield finish("stop") + END;
    };
    await withPage({ script }, {}, async (page) => {
        const fromEnd = () => page.locator("#views .text").evaluate((e) => e.scrollHeight - e.clientHeight - e.scrollTop);
        await kind(page, "completion");
        await page.fill("#prompt", "x");
        await page.click("#send");
        await page.waitForFunction(() => document.querySelectorAll("#views .tok").length === 300);
        await until("the end is in sight", async () => (await fromEnd()) < 5);
        assert.equal(await page.locator(".jump").isVisible(), false);
        await page.locator("#views .text").evaluate((e) => (e.scrollTop = 0));
        await page.waitForSelector(".jump:not([hidden])");
        go();
        await ended(page);
        assert.equal(await page.locator("#views .text").evaluate((e) => e.scrollTop), 0, "the reader is not pulled away");
        await page.click(".jump");
        await until("the end is in sight again", async () => (await fromEnd()) < 5);
        assert.equal(await page.locator(".jump").isVisible(), false);
    });
});

test("what goes wrong is said in words, the text so far stays, and the next request clears the words", { skip }, async () => {
    const rows = [
        ["refused", [{ status: 400, body: { error: { message: "prompt is too long" } } }], "prompt is too long", ""],
        ["not JSON", [{ status: 502, body: "bad gateway" }], "HTTP 502 Bad Gateway", ""],
        ["error event", [textEvent("so", [1]), 'data: {"error":{"message":"engine lost"}}\n\n'], "engine lost", "so"],
        ["cut", [textEvent("so", [1]), () => shown("so"), "CUT"], "The connection was lost after 1 token.", "so"],
        ["never", ["CUT"], "The server cannot be reached.", ""],
        ["no end", [textEvent("so", [1])], "The stream ended before the answer was complete.", "so"],
    ];
    let n = 0, shown; // the latter waits for the text on the page
    await withPage({ script: () => (rows[n] ? rows[n][1] : one()) }, {}, async (page) => {
        shown = (so) => page.waitForFunction((t) => document.querySelector("#views .tok")?.textContent === t, so);
        for (n = 0; n < rows.length; n++) {
            const [what, , message, left] = rows[n];
            await ask(page, "x", "completion");
            assert.equal(await page.locator("#views .error").innerText(), message, what);
            assert.deepEqual(await answers(page), [left], what);
            assert.equal(await page.locator("#send").isDisabled(), false, what);
        }
        await ask(page, "x");
        assert.equal(await page.locator("#views .error").isVisible(), false);
        await page.hover("#views .tok");
        assert.match(await text(page, "token-info"), /^Token 1/);
        await ask(page, "x");
        assert.match(await text(page, "token-info"), /^Each token/, "nothing is said of the answer before");
        await page.hover("#views .tok");
        await page.click("#clear");
        assert.match(await text(page, "token-info"), /^Each token/, "nothing is said of a token that is gone");
    });
});

test("what the model writes is shown, never run", { skip }, async () => {
    const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
    await withPage({ script: () => [textEvent(evil, [1]), END], card: { id: "<b>demo</b>" } }, {}, async (page) => {
        for (const how of ["completion", "chat", "compare"]) {
            await ask(page, evil, how);
            assert.ok((await answers(page)).every((a) => a === evil));
        }
        assert.equal(await page.locator("#views img, #views script").count(), 0);
        assert.equal(await text(page, "model-name"), "<b>demo</b>");
        assert.equal(await page.title(), "Fathom");
    });
});

test("one deep request changes neither the scale nor what was saved; its answer shows the deeper tokens", { skip }, async () => {
    let depths = [2];
    await withPage({ script: () => [textEvent("a", depths), finish("stop"), END] }, {}, async (page) => {
        const saved = () => page.locator(".f-saved").innerText();
        await ask(page, "x", "completion");
        const before = await page.evaluate(() => document.documentElement.style.getPropertyValue("--d2"));
        assert.equal(await saved(), "75 %");
        depths = [16];
        await ask(page, "x");
        assert.equal(await page.locator("#views .legend > div").count(), 16, "its own legend is longer");
        assert.equal(await saved(), "−100 %");
        assert.equal(await page.locator("#views .tok").getAttribute("class"), "tok beyond");
        await page.hover("#views .tok");
        assert.match(await text(page, "token-info"), /ran 16 of the model’s 8 loops, more than it was trained with/);
        depths = [2];
        await ask(page, "x");
        assert.equal(await page.locator("#views .legend > div").count(), 8);
        assert.equal(await saved(), "75 %");
        assert.equal(await page.evaluate(() => document.documentElement.style.getPropertyValue("--d2")), before);
    });
});

test("a model without a chat template has no chat; its training sets the ranges and the scale", { skip }, async () => {
    const card = { max_loops: 32, trained_loops: 16, max_model_len: 512, meta: { chat_template: null } };
    await withPage({ script: one, card }, {}, async (page, mock) => {
        assert.equal(await page.locator("input[value=chat]").isDisabled(), true);
        assert.equal(await page.locator("input[value=compare]").isChecked(), true);
        assert.equal(await page.locator("#max_loops").getAttribute("max"), "32");
        assert.equal(await page.locator("#max_tokens").getAttribute("max"), "511", "the context bounds the answer");
        assert.equal(await text(page, "depth-words") || await page.locator("#depth-words").textContent(),
            "The model runs up to 16 loops by itself; 1 to 32 may be asked for. The exit threshold is a measure of halting mass.");
        assert.equal(await page.locator("#views .legend").first().locator("> div").count(), 16);
        await kind(page, "completion");
        await openSettings(page);
        await page.fill("#max_tokens", "512");
        await page.fill("#prompt", "x");
        await page.click("#send");
        assert.match(await text(page, "prompt-hint"), /^Max tokens: .*511/);
        assert.equal(mock.seen.bodies.length, 0);
    });
});

test("a model without a tokenizer takes token ids and shows those of its answer", { skip }, async () => {
    const script = () => [textEvent("", [3], { token_ids: [17] }), textEvent("", [2], { token_ids: [4] }), finish("length"), END];
    const card = { meta: { chat_template: null, tokenizer: false } };
    await withPage({ script, card }, {}, async (page, mock) => {
        await kind(page, "completion");
        assert.match(await page.locator("#prompt").getAttribute("placeholder"), /^Token ids, such as 1 2 3/);
        await page.fill("#prompt", "hello");
        await page.click("#send");
        assert.match(await text(page, "prompt-hint"), /no tokenizer: write token ids/);
        await ask(page, "1, 2 3");
        assert.deepEqual(mock.seen.bodies[0].prompt, [1, 2, 3]);
        assert.equal(mock.seen.bodies[0].return_token_ids, true);
        assert.deepEqual(await answers(page), [" 17 4"]);
        await page.getByRole("button", { name: "Continue" }).click();
        await page.waitForFunction(() => document.querySelectorAll("#views .tok").length === 4);
        assert.deepEqual(mock.seen.bodies[1].prompt, [1, 2, 3, 17, 4]);
    });
});

const ouro = {
    max_loops: 4, trained_loops: 4, family: "ouro", core_layers: 24,
    exit: { rule: "hazard", threshold: 0.5, above: 0, most: 1 }, loops: { default: 4, least: 1, cap: 4 },
};

test("the exit rule is named and its threshold has its range; a rule without one has no field", { skip }, async () => {
    await withPage({ script: one, card: ouro }, {}, async (page) => {
        assert.equal(await text(page, "model-plan"), "ouro, 24 core layers, exit by hazard at 0.5, at most 4 loops");
        await kind(page, "completion");
        await openSettings(page);
        assert.match(await text(page, "depth-words"), /The exit threshold is a measure of exit probability\.$/);
        assert.equal(await page.locator("#threshold").getAttribute("placeholder"), "0.5");
    });
    const exit = { rule: "fixed", threshold: null, above: null, most: null };
    await withPage({ script: one, card: { ...ouro, exit } }, {}, async (page) => {
        assert.match(await text(page, "model-plan"), /24 core layers, a fixed number of loops/);
        await openSettings(page);
        assert.equal(await page.locator("#threshold").isVisible(), false);
    });
});

test("a long answer costs the page each token once, however the stream is cut", { skip }, async () => {
    const script = function* () {
        for (let i = 0; i < 5000; i++) yield textEvent(` w${i}`, [1 + (i % 8)]);
        yield usage(5000) + END;
    };
    await withPage({ script }, {}, async (page) => {
        await kind(page, "completion");
        // A page that draws the answer anew with every event adds and removes millions of nodes.
        await page.evaluate(() => {
            window.drawn = { added: 0, removed: 0 };
            new MutationObserver((list) => {
                for (const m of list) {
                    window.drawn.added += m.addedNodes.length;
                    window.drawn.removed += m.removedNodes.length;
                }
            }).observe(document.querySelector("#views .text"), { childList: true, subtree: true });
        });
        await ask(page);
        assert.equal(await page.locator("#views .tok").count(), 5000);
        const { added, removed } = await page.evaluate(() => window.drawn);
        assert.ok(added >= 5000 && added <= 11000 && removed < 100, `${added} nodes added, ${removed} removed`);
    });
});
