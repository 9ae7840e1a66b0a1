// Colours, themes, phones, keyboards and assistive technology.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { textEvent } from "./mock.js";
import { ask, END, ended, finish, kind, openSettings, skip, still, text, usage, withPage } from "./rig.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const words = () => [...Array(8).keys()].map((d) => textEvent(` w${d}`, [d + 1], d === 3 ? { draft: " w4" } : {})).concat(finish("length"), usage(8, 20), END);
const mixed = (after) => ({
    last: 200, loops: 8,
    launches: Array.from({ length: Math.max(0, 200 - after) }, (_, i) => ({ id: after + i + 1, ms: i * 3, us: 200, rows: [9, 7, 5, 4, 3, 2, 1, 1], prompt: i % 7 ? 0 : 4 })),
});
const examples = [{ title: "three steps", kind: "compare", prompt: "Ann's friend is", answer: " Kim" }, { title: "verse", prompt: "And God said" }];

async function violations(page) {
    // The policy of the page forbids foreign scripts, so axe comes through the debugger.
    await page.evaluate(axe);
    const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations", "passes"] }));
    assert.ok(found.passes.length > 25, "the rules were applied");
    return found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join(", ")}`);
}

test("axe finds nothing in light, dark and on a phone, in every kind, with settings open and the strip full", { skip }, async () => {
    const options = { script: words, launches: mixed, card: { max_model_len: 512, meta: { chat_template: "x", examples } } };
    for (const view of [{}, { dark: true }, { width: 390, height: 844 }, { width: 390, height: 844, dark: true }]) {
        await withPage(options, view, async (page) => {
            for (const how of ["compare", "completion", "chat"]) {
                await ask(page, "Ann's friend is", how);
                await page.check("#numbers");
                await openSettings(page);
                await still(page); // the bars have grown, and tokens that were drafted have their colours
                assert.ok(await page.locator("#draft-key").isVisible(), "the key to drafted text is looked at, too");
                assert.deepEqual(await violations(page), [], `${how} ${JSON.stringify(view)}`);
            }
        });
    }
});

const ratio = `(() => {
    const lum = (c) => {
        const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(c)) return c;
        }
        return "rgb(255,255,255)";
    };
    return [...document.querySelectorAll("body *")].flatMap((e) => {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.checkVisibility() || e.disabled || e.closest("noscript,.visually-hidden,option,meter,script")) return [];
        const a = lum(getComputedStyle(e).color), b = lum(ground(e));
        return [[(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 90)]];
    });
})()`;

test("all text keeps a contrast of 4.5 at every depth, light and dark", { skip }, async () => {
    for (const dark of [false, true]) {
        await withPage({ script: words, launches: mixed }, { dark }, async (page) => {
            await openSettings(page);
            await ask(page, "x", "completion");
            await page.mouse.move(0, 0);
            await still(page);
            const found = await page.evaluate(ratio);
            assert.ok(found.length > 60);
            assert.deepEqual(found.filter(([r]) => r < 4.5), [], dark ? "dark" : "light");
        });
    }
});

test("the theme follows the system until light or dark is chosen, which is remembered", { skip }, async () => {
    await withPage({ script: words }, { dark: true }, async (page) => {
        const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const deep = () => page.evaluate(() => document.documentElement.style.getPropertyValue("--d8"));
        const [night, nightDeep] = [await ground(), await deep()];
        assert.equal(await page.inputValue("#theme"), "system");
        await page.selectOption("#theme", "light");
        const day = await ground();
        assert.notEqual(day, night);
        assert.notEqual(await deep(), nightDeep, "the ramp follows");
        await page.reload();
        assert.equal(await ground(), day);
        assert.equal(await page.inputValue("#theme"), "light");
        await page.selectOption("#theme", "system");
        assert.equal(await ground(), night);
        await page.emulateMedia({ colorScheme: "light" });
        assert.equal(await ground(), day);
        // The page is told of it by an event, which may come after this.
        await page.waitForFunction((night) => document.documentElement.style.getPropertyValue("--d8") !== night, nightDeep);
    });
});

test("it fits a phone: columns stacked, no sideways scrolling, targets for fingers, a tap tells the depth", { skip }, async () => {
    const script = () => [textEvent("a" + "b".repeat(500), [3]), finish("stop"), usage(1), END];
    await withPage({ script, launches: mixed, card: { meta: { chat_template: null, examples } } }, { width: 360, height: 740 }, async (page) => {
        await openSettings(page);
        await ask(page, "x", "compare");
        const wide = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(await wide(), 0);
        const left = await page.locator(".columns > .view").evaluateAll((all) => all.map((e) => e.getBoundingClientRect().left));
        assert.equal(new Set(left).size, 1, "one below the other");
        for (const id of ["send", "stop-answer", "copy-link", "theme", "temperature", "max_tokens", "clear"]) {
            const box = await page.locator(`#${id}`).boundingBox();
            assert.ok(box.height >= 32 && box.x >= 0 && box.x + box.width <= 360, `${id} ${JSON.stringify(box)}`);
        }
        const finger = await page.context().newCDPSession(page);
        await finger.send("Emulation.setTouchEmulationEnabled", { enabled: true });
        await page.locator("#views .tok").first().scrollIntoViewIfNeeded();
        const token = await page.locator("#views .tok").first().boundingBox();
        const at = { x: token.x + 8, y: token.y + 8 };
        await finger.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: [at] });
        await finger.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
        await page.waitForFunction(() => /^Token/.test(document.getElementById("token-info").textContent));
        assert.match(await text(page, "token-info"), /ran 3 of the model’s 8 loops/);
        await kind(page, "completion");
        assert.equal(await wide(), 0);
    });
});

test("every control has a name, and the page can be worked by keyboard alone", { skip }, async () => {
    await withPage({ script: words, card: { meta: { chat_template: "x", examples } } }, {}, async (page, mock) => {
        const nameless = await page.evaluate(() =>
            [...document.querySelectorAll("input,select,textarea,button,meter")]
                .filter((e) => !e.labels?.length && !e.getAttribute("aria-label") && !e.textContent.trim())
                .map((e) => e.id));
        assert.deepEqual(nameless, []);
        await page.focus(".skip");
        const order = [];
        for (let i = 0; i < 12; i++) {
            await page.keyboard.press("Tab");
            const at = await page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.className);
            order.push(at);
            if (at === "prompt") await page.keyboard.type("typed");
            if (at === "send") break;
        }
        assert.deepEqual(order, ["theme", "kind", "chip", "chip", "prompt", "send"]);
        await page.keyboard.press("Enter");
        await ended(page);
        assert.equal(mock.seen.bodies[0].prompt, "typed");
        await page.focus("#views .text >> nth=0");
        await page.keyboard.press("ArrowRight");
        await page.keyboard.press("ArrowRight");
        assert.match(await text(page, "token-info"), /^Token 2, " w1", ran 2 of/);
        assert.equal(await page.locator("#status").getAttribute("role"), "status");
        assert.equal(await page.locator("#views .error").first().getAttribute("role"), "alert");
    });
});

test("what is read aloud of an answer is its beginning and its end, not each token", { skip }, async () => {
    await withPage({ script: words }, {}, async (page) => {
        await page.evaluate(() => {
            window.said = [];
            for (const e of document.querySelectorAll("[aria-live=polite],[role=status],[role=alert]")) {
                new MutationObserver(() => e.textContent && window.said.push(`${e.id || e.className}: ${e.textContent}`)).observe(e, { childList: true, characterData: true, subtree: true });
            }
        });
        await ask(page, "x", "compare");
        const said = await page.evaluate(() => window.said.filter((s) => !s.startsWith("token-info: Each")));
        assert.deepEqual(said, ["status: Answering", `status: ${Array(3).fill("Done: 8 tokens, length").join("; ")}`]);
    });
});

test("motion stops for those who asked for none", { skip }, async () => {
    await withPage({ script: words }, {}, async (page) => {
        const moving = () => page.evaluate(() => getComputedStyle(document.querySelector(".legend i")).transitionDuration);
        assert.notEqual(await moving(), "0s");
        await page.emulateMedia({ reducedMotion: "reduce" });
        assert.equal(await moving(), "0s");
    });
});
