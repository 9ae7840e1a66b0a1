// The page as the real server serves it, with the demo model behind.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openBrowser, skip } from "./browser.js";
import { until, withServer } from "../http/lib/server.mjs";

let browser;
before(async () => {
    if (!skip) browser = await openBrowser();
});
after(() => browser?.close());

const shots = process.env.PAGE_SHOTS; // a folder: pictures for people to look at
const ended = (page) =>
    page.waitForFunction(() => /^(Done|Failed|Stopped)/.test(document.getElementById("status").textContent));

test("the demo model answers on the page, each token tinted, and the pool moves", { skip }, async () => {
    await withServer([], { device: "cpu" }, async (server) => {
        for (const [name, view] of [["light", {}], ["dark", { dark: true }], ["phone", { width: 390, height: 844 }]]) {
            const page = await browser.page(`${server.url}/`, view);
            assert.equal(await page.locator("#model-name").textContent(), "demo");
            assert.equal(await page.locator("#legend > div").count(), 8, "the demo was trained with 8 loops");
            await page.fill("#prompt", "And God said");
            await page.check("input[value=completion]", { force: true });
            await page.fill("#max-tokens", "48");
            await page.fill("#seed", "3");
            await page.keyboard.press("Control+Enter");
            await ended(page);
            assert.match(await page.locator("#status").textContent(), /^Done: \d+ tokens, (length|stop)$/);
            const depths = await page.locator("#answer .tok").evaluateAll((s) => s.map((e) => e.dataset.depths).join(" ").split(" ").map(Number));
            assert.equal(depths.length, Number(await page.locator("#f-tokens").textContent()));
            assert.ok(depths.every((d) => d >= 1 && d <= 8) && new Set(depths).size > 1, depths.join(" "));
            await page.waitForFunction(() => document.getElementById("exits").getAttribute("aria-label") !== "None");
            if (shots) await page.screenshot({ path: `${shots}/page-${name}.png`, fullPage: true });
            assert.deepEqual(page.bad, []);
            await page.close();
        }
    });
});

test("depth set by hand is obeyed, and a range the model cannot do is refused in words", { skip }, async () => {
    await withServer(["--refuse-long"], { device: "cpu" }, async (server) => {
        const page = await browser.page(`${server.url}/`);
        await page.check("#by-hand");
        await page.locator("#max-loops").fill("2");
        await page.fill("#max-tokens", "16");
        await page.fill("#prompt", "In the beginning");
        await page.click("#send");
        await ended(page);
        const depths = await page.locator("#answer .tok").evaluateAll((s) => s.flatMap((e) => e.dataset.depths.split(" ").map(Number)));
        assert.ok(depths.length > 0 && depths.every((d) => d <= 2), depths.join(" "));
        await page.fill("#max-tokens", "99999");
        await page.click("#send");
        await ended(page);
        assert.match(await page.locator("#error").textContent(), /context/);
        assert.deepEqual(page.bad, []);
        await page.close();
    });
});

test("Escape frees the server; a server that goes away is said and found again", { skip }, async () => {
    await withServer(["--fake-us-per-token", "20000"], async (server) => {
        const page = await browser.page(`${server.url}/`);
        await page.fill("#max-tokens", "800");
        await page.fill("#prompt", "x");
        await page.keyboard.press("Control+Enter");
        await page.waitForFunction(() => document.querySelectorAll("#answer .tok").length > 2);
        assert.equal((await server.metrics())["vllm:num_requests_running"], 1);
        await page.keyboard.press("Escape");
        await server.cancelled({ clients: 1, below: 800 });
        await server.stop();
        await until("the page says so", async () => /cannot be reached/.test(await page.locator("#pool-note").textContent()));
        assert.equal(await page.locator("#health").getAttribute("class"), "dot");
        await page.close();
    });
});

test("behind keys the page opens, says what it needs and works with one", { skip }, async () => {
    const { mkdtempSync, rmSync, writeFileSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const dir = mkdtempSync(`${tmpdir()}/fathom-keys-`);
    writeFileSync(`${dir}/keys`, "sk-page-key page\n", { mode: 0o600 });
    try {
        await withServer(["--api-key-file", `${dir}/keys`, "--metrics-key"], async (server) => {
            const page = await browser.page(`${server.url}/`);
            assert.equal(await page.locator("#model-name").textContent(), "needs an API key");
            await page.click(".key summary");
            await page.fill("#api-key", "sk-page-key");
            await page.locator("#api-key").blur();
            await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
            await page.fill("#prompt", "x");
            await page.fill("#max-tokens", "4");
            await page.click("#send");
            await ended(page);
            assert.equal(await page.locator("#answer .tok").count(), 4);
            assert.deepEqual(page.bad, []);
            await page.close();
        });
    } finally {
        rmSync(dir, { recursive: true, force: true });
    }
});
