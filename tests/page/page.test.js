// The page in headless Chromium, with scripted answers. Each test ends by asserting that the
// page raised no error, broke no rule of its content policy and asked no other host.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openBrowser, skip } from "./browser.js";
import { fakeMetrics, startMock, textEvent } from "./mock.js";
import { until } from "../http/lib/server.mjs";

let browser;
before(async () => {
    if (!skip) browser = await openBrowser();
});
after(() => browser?.close());

async function withPage(mockOpts, pageOpts, use) {
    const mock = await startMock(mockOpts);
    let page;
    try {
        page = await browser.page(mock.url, pageOpts);
        await use(page, mock);
        assert.deepEqual(page.bad, []);
    } finally {
        await page?.close();
        await mock.close();
    }
}
const ended = (page) => page.waitForFunction(() => /^(Done|Failed|Stopped)/.test(document.getElementById("status").textContent));
const text = (page, id) => page.locator(`#${id}`).innerText();
const usage = (n) => `data: {"choices":[],"usage":{"completion_tokens":${n}}}\n\n`;
const END = "data: [DONE]\n\n";

async function ask(page, prompt = "hello") {
    await page.fill("#prompt", prompt);
    await page.click("#send");
    await ended(page);
}

test("every token of the streamed answer is tinted by its depth", { skip }, async () => {
    const script = function* () {
        yield textEvent("In", [1]);
        yield 5;
        yield textEvent(" the", [4]) + ": ping\n\n" + textEvent(" be", [8]);
        yield textEvent("gin", [8]) + usage(4) + END;
    };
    await withPage({ script }, {}, async (page) => {
        await ask(page);
        assert.equal(await page.locator("#answer").textContent(), "In the begin");
        const classes = await page.locator("#answer .tok").evaluateAll((s) => s.map((e) => e.className));
        assert.deepEqual(classes, ["tok d0", "tok d4", "tok d9", "tok d9"]);
        assert.equal(await text(page, "f-tokens"), "4");
        assert.equal(await text(page, "f-depth"), "5.25");
        assert.equal(await text(page, "f-saved"), "34 %");
        assert.match(await page.locator("#legend").getAttribute("aria-label"), /1 at depth 1, 1 at depth 4, 2 at depth 8/);
        await page.hover("#answer .tok >> nth=1");
        assert.equal(await text(page, "token-info"), 'Token 2: " the" ran 4 of at most 8 loops.');
        await page.check("#numbers");
        const shown = await page.locator("#answer .tok").first().evaluate((e) => getComputedStyle(e, "::after").content);
        assert.notEqual(shown, "none");
    });
});

test("text that comes for several tokens shows all their depths", { skip }, async () => {
    await withPage({ script: () => [textEvent("a", [2]), textEvent(" longer", [1, 8, 3]), usage(4), END] }, {}, async (page) => {
        await ask(page);
        const span = page.locator("#answer .tok").nth(1);
        assert.equal(await span.getAttribute("class"), "tok d9 banded");
        assert.match(await span.evaluate((e) => getComputedStyle(e).backgroundImage), /^linear-gradient/);
        assert.equal(await text(page, "f-depth"), "3.50");
    });
});

test("the request says what the form says and nothing more", { skip }, async () => {
    await withPage({ script: () => [textEvent("a", [1]), END] }, {}, async (page, mock) => {
        await ask(page, "first");
        await page.check("input[value=completion]", { force: true });
        await page.selectOption("#effort", "high");
        await page.fill("#max-tokens", "7");
        await page.fill("#seed", "42");
        await page.check("#by-hand");
        await page.locator("#max-loops").fill("5");
        await page.locator("#min-loops").fill("6"); // pushes the other end along
        await page.locator("#threshold").fill("0.5");
        await ask(page, "second");
        assert.deepEqual(mock.seen.paths.filter((p) => p.endsWith("completions")), ["/v1/chat/completions", "/v1/completions"]);
        const common = { model: "demo", stream: true, return_depth: true, stream_options: { include_usage: true }, temperature: 0.7 };
        assert.deepEqual(mock.seen.bodies[0], { ...common, messages: [{ role: "user", content: "first" }], max_completion_tokens: 128 });
        assert.deepEqual(mock.seen.bodies[1], {
            ...common, prompt: "second", max_tokens: 7, seed: 42, reasoning_effort: "high",
            depth: { min_loops: 6, max_loops: 6, threshold: 0.5 },
        });
    });
});

test("Ctrl+Enter sends, Escape leaves and the server sees it", { skip }, async () => {
    const script = function* () {
        for (let i = 0; i < 1000; i++) yield* [textEvent(` t${i}`, [1]), 20];
    };
    await withPage({ script }, {}, async (page, mock) => {
        await page.fill("#prompt", "go");
        await page.keyboard.press("Control+Enter");
        await page.waitForFunction(() => document.querySelectorAll("#answer .tok").length > 3);
        assert.equal(await page.locator("#send").isDisabled(), true);
        await page.keyboard.press("Escape");
        await ended(page);
        assert.match(await page.locator("#status").textContent(), /^Stopped after \d+ tokens$/);
        assert.equal(await page.locator("#send").isDisabled(), false);
        assert.equal(await page.locator("#error").isVisible(), false);
        await until("the server sees it", () => mock.seen.left === 1);
    });
});

test("what goes wrong is said in words, and the text so far stays", { skip }, async () => {
    const rows = [
        ["refused", [{ status: 400, body: { error: { message: "prompt is too long" } } }], "prompt is too long", ""],
        ["not JSON", [{ status: 502, body: "bad gateway" }], "HTTP 502 Bad Gateway", ""],
        ["error event", [textEvent("so", [1]), 'data: {"error":{"message":"engine lost"}}\n\n'], "engine lost", "so"],
        ["cut", [textEvent("so", [1]), () => shown("so"), "CUT"], "The server cannot be reached.", "so"],
        ["no end", [textEvent("so", [1])], "the stream ended before it was complete", "so"],
    ];
    let n = 0, shown; // the latter waits for the text on the page
    await withPage({ script: () => rows[n][1] }, {}, async (page) => {
        shown = (so) => page.waitForFunction((t) => document.getElementById("answer").textContent === t, so);
        for (n = 0; n < rows.length; n++) {
            const [what, , message, left] = rows[n];
            await ask(page);
            assert.equal(await text(page, "error"), message, what);
            assert.equal(await page.locator("#answer").textContent(), left, what);
            assert.equal(await page.locator("#send").isDisabled(), false, what);
        }
    });
});

test("what the model writes is shown, never run", { skip }, async () => {
    const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
    await withPage({ script: () => [textEvent(evil, [1]), END], card: { id: "<b>demo</b>" } }, {}, async (page) => {
        await ask(page);
        assert.equal(await page.locator("#answer").textContent(), evil);
        assert.equal(await page.locator("#answer img, #answer script").count(), 0);
        assert.equal(await text(page, "model-name"), "<b>demo</b>");
        assert.equal(await page.title(), "Fathom");
    });
});

test("the pool shows the server's gauges, and starts over when the server did", { skip }, async () => {
    let at = { running: 3, waiting: 1, tokens: 1000, cache: 0.25, rows: [0, 4, 2], exits: [0, 10, 10] };
    await withPage({ script: () => [], metrics: () => fakeMetrics(at) }, {}, async (page) => {
        await page.waitForFunction(() => document.getElementById("p-running").textContent === "3");
        assert.equal(await text(page, "p-waiting"), "1");
        assert.equal(await text(page, "p-cache"), "25.0 %");
        assert.equal(await page.locator("#rows").getAttribute("aria-label"), "4 at 2, 2 at 3");
        at = { ...at, tokens: 3000, exits: [0, 10, 70] };
        await page.waitForFunction(() => document.getElementById("p-rate").textContent !== "0" &&
            document.getElementById("exits").getAttribute("aria-label") === "60 at 2"); // until the next look
        at = { ...at, tokens: 5, exits: [0, 1, 1], running: 0, rows: [] };
        await page.waitForFunction(() => document.getElementById("p-rate").textContent === "0");
        assert.equal(await page.locator("#exits").getAttribute("aria-label"), "None");
    });
});

test("a model without a chat template offers completion alone; its training sets the scale", { skip }, async () => {
    const card = { max_loops: 32, trained_loops: 16, meta: { chat_template: null } };
    await withPage({ script: () => [], card }, {}, async (page) => {
        assert.equal(await page.locator("input[value=chat]").isDisabled(), true);
        assert.equal(await page.locator("input[value=completion]").isChecked(), true);
        await page.check("#by-hand");
        assert.equal(await page.locator("#max-loops").getAttribute("max"), "32");
        assert.equal(await text(page, "max-out"), "16");
        assert.equal(await page.locator("#legend > div").count(), 16);
    });
});

const ouro = {
    max_loops: 4, trained_loops: 4, family: "ouro", core_layers: 24,
    exit: { rule: "hazard", threshold: 0.5, above: 0, most: 1 }, loops: { default: 4, cap: 4 },
};

test("the scale and the sliders follow the family's cap, and the exit rule is named", { skip }, async () => {
    const script = () => [textEvent("a", [4]), textEvent("b", [1]), END];
    await withPage({ script, card: ouro }, {}, async (page, mock) => {
        assert.equal(await text(page, "model-plan"), "ouro, 24 core layers, exit by hazard at 0.5, at most 4 loops");
        assert.equal(await page.locator("#legend > div").count(), 4);
        await page.check("#by-hand");
        assert.equal(await page.locator("#max-loops").getAttribute("max"), "4");
        assert.equal(await text(page, "thr-out"), "0.50");
        assert.equal(await text(page, "thr-unit"), "exit probability");
        await ask(page);
        assert.deepEqual(mock.seen.bodies[0].depth, { min_loops: 1, max_loops: 4, threshold: 0.5 });
        const tints = await page.locator("#answer .tok").evaluateAll((all) => all.map((e) => e.className));
        assert.deepEqual(tints, ["tok d9", "tok d0"]);
    });
});

test("a rule without a threshold has no slider for one, and none is sent", { skip }, async () => {
    const exit = { rule: "fixed", threshold: null, above: null, most: null };
    await withPage({ script: () => [textEvent("a", [4]), END], card: { ...ouro, exit } }, {}, async (page, mock) => {
        assert.match(await text(page, "model-plan"), /24 core layers, a fixed number of loops/);
        await page.check("#by-hand");
        assert.equal(await page.locator("#threshold").isVisible(), false);
        await ask(page);
        assert.deepEqual(mock.seen.bodies[0].depth, { min_loops: 1, max_loops: 4 });
    });
});

test("an API key goes with every request and stays in this tab", { skip }, async () => {
    await withPage({ script: () => [textEvent("a", [1]), END], models: (req) => req.headers.authorization === "Bearer sk-1" }, {}, async (page, mock) => {
        assert.equal(await text(page, "model-name"), "needs an API key");
        await page.click(".key summary");
        await page.fill("#api-key", "sk-1");
        await page.locator("#api-key").blur();
        await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
        await ask(page);
        assert.equal(mock.seen.headers[0].authorization, "Bearer sk-1");
        assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes("sk-1")), false);
    });
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
    const script = () => [...Array(8).keys()].map((d) => textEvent(` w${d}`, [d + 1])).concat(usage(8), END);
    for (const dark of [false, true]) {
        await withPage({ script }, { dark }, async (page) => {
            await page.check("#by-hand");
            await ask(page);
            await page.mouse.move(0, 0);
            await page.waitForTimeout(300);
            const found = await page.evaluate(ratio);
            assert.ok(found.length > 40);
            assert.deepEqual(found.filter(([r]) => r < 4.5), [], dark ? "dark" : "light");
        });
    }
});

test("dark mode follows the system, the button overrides it and is remembered", { skip }, async () => {
    await withPage({ script: () => [] }, { dark: true }, async (page) => {
        const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const night = await ground();
        assert.equal(await page.locator("#theme").getAttribute("aria-pressed"), "true");
        await page.click("#theme");
        const day = await ground();
        assert.notEqual(day, night);
        await page.reload();
        assert.equal(await ground(), day);
        await page.emulateMedia({ colorScheme: "light" });
        assert.equal(await ground(), day);
    });
});

test("it fits a phone, without sideways scrolling and with fingers' targets", { skip }, async () => {
    const script = () => [textEvent("a" + "b".repeat(500), [3]), usage(1), END];
    await withPage({ script }, { width: 360, height: 740 }, async (page) => {
        await page.check("#by-hand");
        await ask(page);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(wide, 0);
        for (const id of ["send", "stop", "theme", "effort", "max-tokens"]) {
            const box = await page.locator(`#${id}`).boundingBox();
            assert.ok(box.height >= 36 && box.x >= 0 && box.x + box.width <= 360, id);
        }
    });
});

test("every control has a name, and the page can be worked by keyboard alone", { skip }, async () => {
    await withPage({ script: () => [textEvent("a", [1]), END] }, {}, async (page, mock) => {
        const nameless = await page.evaluate(() =>
            [...document.querySelectorAll("input,select,textarea,button,meter")]
                .filter((e) => !e.labels?.length && !e.getAttribute("aria-label") && !e.textContent.trim())
                .map((e) => e.id));
        assert.deepEqual(nameless, []);
        await page.evaluate(() => document.activeElement.blur());
        const order = [];
        for (let i = 0; i < 12; i++) {
            await page.keyboard.press("Tab");
            const at = await page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.className);
            order.push(at);
            if (at === "prompt") await page.keyboard.type("typed");
            if (at === "send") break;
        }
        assert.deepEqual(order, ["skip", "theme", "kind", "prompt", "effort", "max-tokens", "temperature", "seed", "by-hand", "send"]);
        await page.keyboard.press("Enter");
        await ended(page);
        assert.equal(mock.seen.bodies[0].messages[0].content, "typed");
        for (const [id, role] of [["status", "status"], ["error", "alert"], ["answer", "log"]]) {
            assert.equal(await page.locator(`#${id}`).getAttribute("role"), role);
        }
    });
});

test("a long answer costs the page each token once, however the stream is cut", { skip }, async () => {
    const script = function* () {
        for (let i = 0; i < 5000; i++) yield textEvent(` w${i}`, [1 + (i % 8)]);
        yield usage(5000) + END;
    };
    await withPage({ script }, {}, async (page) => {
        // A page that draws the answer anew with every event adds and removes millions of nodes.
        await page.evaluate(() => {
            window.drawn = { added: 0, removed: 0 };
            new MutationObserver((list) => {
                for (const m of list) {
                    window.drawn.added += m.addedNodes.length;
                    window.drawn.removed += m.removedNodes.length;
                }
            }).observe(document.getElementById("answer"), { childList: true, subtree: true });
        });
        await ask(page);
        assert.equal(await page.locator("#answer .tok").count(), 5000);
        const { added, removed } = await page.evaluate(() => window.drawn);
        assert.ok(added >= 5000 && added <= 11000 && removed < 100, `${added} nodes added, ${removed} removed`);
    });
});
