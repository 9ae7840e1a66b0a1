// Drafted text on the page: faint while it is not certain, firm when it is, gone when it was wrong.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeMetrics, textEvent } from "./mock.js";
import { answers, END, ended, finish, kind, skip, usage, withPage } from "./rig.js";

/** A chunk with a draft behind its text; the text may be empty. */
const drafted = (text, depths, draft) => textEvent(text, depths, draft ? { draft } : {});

/** An answer whose steps a test lets go one by one. */
function steps(events) {
    const gates = events.map(gate);
    const script = async function* () {
        for (const [i, event] of events.entries()) {
            yield () => gates[i].promise;
            yield event;
        }
    };
    return { script, go: (i) => gates[i].resolve() };
}
function gate() {
    let resolve;
    const promise = new Promise((done) => (resolve = done));
    return { promise, resolve };
}

const shown = (page) =>
    page.evaluate(() => {
        const box = document.querySelector("#views .text");
        return {
            certain: [...box.querySelectorAll(".tok")].map((e) => e.textContent),
            firm: [...box.querySelectorAll(".firm")].map((e) => e.textContent),
            draft: [...box.querySelectorAll(".draft")].map((e) => e.textContent),
        };
    });

/** Lets the events go one after the other. seen[i]: what the page shows after event i. */
async function follow(page, go, seen, how = "completion") {
    await kind(page, how);
    await page.fill("#prompt", "hello");
    await page.click("#send");
    for (const [i, want] of seen.entries()) {
        go(i);
        await page.waitForFunction(([certain, draft]) => {
            const box = document.querySelector("#views .text");
            return box.querySelectorAll(".tok").length === certain && (box.querySelector(".draft")?.textContent ?? "") === draft;
        }, [want.certain.length, want.draft[0] ?? ""]);
        assert.deepEqual(await shown(page), want, `after event ${i}`);
    }
}

const events = [
    drafted(" In", [1], ""),
    drafted("", [], " the"),
    drafted("", [], " the end"),
    drafted(" the", [4], " end of"),
    drafted(" beginning", [8], ""), // both drafts were wrong
    drafted("", [], " God"),
    drafted(" God", [2], "") + finish("stop") + usage(4) + END,
];
const seen = [
    { certain: ["In"], firm: [], draft: [] },
    { certain: ["In"], firm: [], draft: [" the"] },
    { certain: ["In"], firm: [], draft: [" the end"] },
    { certain: ["In", "the"], firm: ["the"], draft: [" end of"] },
    { certain: ["In", "the", "beginning"], firm: ["the"], draft: [] },
    { certain: ["In", "the", "beginning"], firm: ["the"], draft: [" God"] },
    { certain: ["In", "the", "beginning", "God"], firm: ["the", "God"], draft: [] },
];

test("drafted text stands behind the answer, firms up when it was right, and goes when it was wrong", { skip }, async () => {
    for (const how of ["completion", "chat"]) {
        const { script, go } = steps(events);
        await withPage({ script, card: { meta: { chat_template: "x" } } }, {}, async (page, mock) => {
            assert.equal(await page.locator("#draft-key").isVisible(), false, "no key to what was never shown");
            await follow(page, go, seen, how);
            await ended(page);
            assert.equal(mock.seen.bodies[0].stream_options.include_drafts, true);
            assert.deepEqual(await answers(page), [" In the beginning God"]);
            assert.equal(await page.locator("#views .f-tokens").innerText(), "4", "drafts are no tokens of the answer");
            assert.match(await page.locator("#draft-key").innerText(), /is drafted: the model has begun it, and it is not certain yet/);
        });
    }
});

test("drafted text is faint, has a tooltip, and is not read aloud; nothing moves for those who want no motion", { skip }, async () => {
    const { script, go } = steps(events);
    await withPage({ script }, {}, async (page) => {
        await page.emulateMedia({ reducedMotion: "reduce" });
        await follow(page, go, seen.slice(0, 4));
        const draft = page.locator("#views .draft");
        const look = (e) => [getComputedStyle(e).color, getComputedStyle(document.querySelector("#views .text")).color];
        const [faint, ink] = await draft.evaluate(look);
        assert.notEqual(faint, ink);
        assert.match(await draft.getAttribute("title"), /not certain yet/);
        assert.equal(await draft.getAttribute("aria-hidden"), "true");
        assert.equal(await page.locator("#views .firm").evaluate((e) => getComputedStyle(e).animationName), "none");
        await page.emulateMedia({ reducedMotion: "no-preference" });
        assert.equal(await page.locator("#views .firm").evaluate((e) => getComputedStyle(e).animationName), "firm");
    });
});

test("a stop or a failure leaves no drafted text behind", { skip }, async () => {
    const { script, go } = steps([...events.slice(0, 3), "CUT"]);
    await withPage({ script }, {}, async (page) => {
        await follow(page, go, seen.slice(0, 3));
        go(3);
        await ended(page);
        assert.deepEqual(await shown(page), seen[0]);
        assert.match(await page.locator("#views .error").innerText(), /The connection was lost after 1 token\./);
    });
    const left = steps(events);
    await withPage({ script: left.script }, {}, async (page) => {
        await follow(page, left.go, seen.slice(0, 3));
        await page.keyboard.press("Escape");
        await ended(page);
        assert.deepEqual(await shown(page), seen[0]);
    });
});

test("a draft of the reasoning stands in the reasoning", { skip }, async () => {
    const thought = (text, draft) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { reasoning_content: text }, draft, depths: text ? [2] : [], finish_reason: null }] })}\n\n`;
    const { script, go } = steps([thought(" hm", " so"), drafted(" Yes", [1], " or no"), finish("stop") + usage(2) + END]);
    await withPage({ script, card: { meta: { chat_template: "x" } } }, {}, async (page) => {
        await kind(page, "chat");
        await page.fill("#prompt", "hello");
        await page.click("#send");
        go(0);
        await page.waitForSelector("#views .reasoning .draft", { state: "attached" });
        assert.equal(await page.locator("#views .reasoning .draft").textContent(), " so");
        go(1);
        await page.waitForSelector("#views .text > .draft", { state: "attached" });
        assert.equal(await page.locator("#views .text > .draft").textContent(), " or no");
        assert.equal(await page.locator("#views .draft").count(), 1);
        go(2);
        await ended(page);
        assert.equal(await page.locator("#views .draft").count(), 0);
    });
});

test("the view of the server tells how many drafts of the last minute were right, once there were any", { skip }, async () => {
    let now = { drafted: 0 };
    await withPage({ script: () => [], metrics: () => fakeMetrics(now) }, {}, async (page) => {
        const figure = page.locator("#p-drafts");
        await page.waitForFunction(() => document.getElementById("p-running").textContent === "0");
        assert.equal(await figure.isVisible(), false);
        now = { drafted: 40, right: 30 };
        await page.waitForFunction(() => document.getElementById("p-drafts").textContent === "75 %");
        assert.equal(await figure.isVisible(), true);
        now = { drafted: 90, right: 90 }; // more since: 90 of 90 from the beginning
        await page.waitForFunction(() => document.getElementById("p-drafts").textContent === "100 %");
    });
});
