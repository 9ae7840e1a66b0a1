// Takes the pictures of docs/: `node screenshots.mjs [FOLDER]`. FATHOM_BIN names the program.
// They show the real program with the bundled models, under the load that a caption tells.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

globalThis.endsItsServers = true;
const { root, withServer } = await import("../http/lib/server.mjs");
const { openBrowser, skip } = await import("./browser.js");

const folder = resolve(process.argv[2] ?? join(root, "docs"));
const hops = join(root, "models/hops");
const questions = readFileSync(join(hops, "questions.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));

const ended = (page) => page.waitForFunction(() => /^(Done|Failed|Stopped)/.test(document.getElementById("status").textContent));
const settled = (page) => page.waitForTimeout(600); // bars have grown, the next figures are there

async function shoot(page, name, clip, running = 0) {
    await page.mouse.move(0, 0);
    await settled(page);
    // Between two answers of all clients the gauge finds none at work, which a picture should not tell.
    const atWork = (n) => Number(document.getElementById("p-running").textContent) >= n;
    await page.waitForFunction(atWork, running, { timeout: 20000 }).catch(() => console.log(`${name}: fewer than ${running} at work`));
    const target = clip ? page.locator(clip) : page;
    await target.screenshot({ path: join(folder, `page-${name}.png`), fullPage: !clip });
    console.log(`page-${name}.png`);
}

/** Runs body while so many clients ask questions of 1 to 8 steps, one after the other. */
async function underLoad(server, clients, ask, body) {
    let on = true;
    const all = Promise.all(Array.from({ length: clients }, async (_, i) => {
        for (let n = i * 7; on; n++) await ask(n);
    }));
    try {
        await body();
    } finally {
        on = false;
        await all;
    }
}

async function columns(browser, server) {
    for (const [name, view, chip] of [["light", {}, "3 steps at"], ["dark", { dark: true }, "8 steps at"], ["phone", { width: 390, height: 844 }, "3 steps at"]]) {
        const page = await browser.page(`${server.url}/`, view);
        for (let i = 0; i < 2; i++) { // the first request warms browser and server
            await page.locator("#examples button", { hasText: chip }).click();
            await page.waitForTimeout(300);
            await ended(page);
        }
        if (name === "light") {
            await shoot(page, "columns", "#answers");
            const [file] = await Promise.all([page.waitForEvent("download"), page.click("#save-png")]);
            await file.saveAs(join(folder, "page-saved.png"));
        }
        // Other clients keep the strip alive.
        await underLoad(server, 12, question(server), async () => {
            await page.waitForTimeout(2500);
            await shoot(page, name);
        });
        await page.close();
    }
}

/** Asks the question of this number; its prompt is not taken from a cache. */
const question = (server) => (n) =>
    server.post("/v1/completions", { prompt: questions[n % questions.length].prompt, max_tokens: 8, temperature: 0, cache_salt: String(n) });
/** The same, and has the model write on: facts and questions of its own, of 1 to 8 loops. */
const story = (server) => (n) =>
    server.post("/v1/completions", { prompt: questions[n % questions.length].prompt, max_tokens: 200, temperature: 1, seed: n, ignore_eos: true });

/** Any text, by token ids: of a model of random weights. */
const ids = (server) => (n) => {
    const prompt = Array.from({ length: 24 }, (_, i) => (n * 37 + i * 11) % 2000);
    return server.post("/v1/completions", { prompt, max_tokens: 48 + (n % 32), temperature: 1, seed: n, ignore_eos: true });
};

async function strip(browser, server, clients, ask, name = `strip-${clients}`) {
    const page = await browser.page(`${server.url}/`);
    await underLoad(server, clients, ask(server), async () => {
        await page.waitForTimeout(8000);
        await shoot(page, name, ".server", Math.ceil(clients * 0.8));
    });
    await page.close();
}

/** Weights of this size are dear to read, so the scheduler mixes depths in nearly every launch. */
async function largeModel(browser) {
    const out = mkdtempSync(join(tmpdir(), "fathom-large-"));
    try {
        const config = join(root, "bench/tools/configs/depthwise-b.json");
        const model = join(out, "random-111m");
        execFileSync(process.env.FATHOM_BIN ?? join(root, "build/fathom"), ["init", "--config-json", config, "--out", model, "--mean-depth", "4"]);
        await withServer(["--no-tokenizer"], { device: "cpu", model }, (server) => strip(browser, server, 32, ids, "strip-large"));
    } finally {
        rmSync(out, { recursive: true, force: true });
    }
}

async function verses(browser, server) {
    const page = await browser.page(`${server.url}/`, { dark: true });
    await page.locator("#examples button", { hasText: "A proverb" }).click();
    await ended(page);
    await shoot(page, "verse");
    await page.locator("#examples button", { hasText: "A verse" }).click();
    await page.waitForSelector(".turn");
    await ended(page);
    await page.fill("#prompt", "He maketh me to lie down");
    await page.locator("#prompt").press("Enter");
    await page.waitForTimeout(100);
    await ended(page);
    await shoot(page, "chat");
    await page.close();
}

if (skip) throw new Error(skip);
mkdirSync(folder, { recursive: true });
const browser = await openBrowser();
try {
    await withServer([], { device: "cpu", model: hops }, async (server) => {
        await columns(browser, server);
        await strip(browser, server, 1, story);
        await strip(browser, server, 32, question);
    });
    await largeModel(browser);
    await withServer([], { device: "cpu" }, (server) => verses(browser, server));
} finally {
    await browser.close();
}
