// What the tests of the page share: a page before scripted answers, and the steps of a visitor.
import assert from "node:assert/strict";
import { after, before } from "node:test";
import { openBrowser, skip } from "./browser.js";
import { startMock } from "./mock.js";
import { until } from "../http/lib/server.mjs";

export { skip };

export let browser;
before(async () => {
    if (!skip) browser = await openBrowser();
});
after(() => browser?.close());

/** A page before a mock. At its end it has raised no error, broken no rule of its policy, asked no other host. */
export async function withPage(mockOpts, pageOpts, use) {
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

export const usage = (n, total = n) => `data: {"choices":[],"usage":{"completion_tokens":${n},"total_tokens":${total}}}\n\n`;
export const finish = (reason, more) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, text: "", depths: [], finish_reason: reason, ...more }] })}\n\n`;
export const END = "data: [DONE]\n\n";

export const ended = (page) => page.waitForFunction(() => /^(Done|Failed|Stopped)/.test(document.getElementById("status").textContent));
/** Until nothing that the page asked for is on its way. */
export const answered = (page) => until("the answers to all requests of the page", () => page.asked.open === 0);
/** Until nothing on the page grows or changes its colour any more. */
export const still = (page) => page.waitForFunction(() => document.getAnimations().length === 0);
export const text = (page, id) => page.locator(`#${id}`).innerText();
export const kind = (page, value) => page.check(`input[value=${value}]`, { force: true });
export const openSettings = (page) => page.locator("#settings").evaluate((e) => (e.open = true));

export async function ask(page, prompt = "hello", how) {
    if (how) await kind(page, how);
    await page.fill("#prompt", prompt);
    await page.click("#send");
    await ended(page);
}

/** Texts of the shown answers, without the prompts before them. */
export const answers = (page) =>
    page.locator("#views .text").evaluateAll((all) => all.map((e) => {
        const copy = e.cloneNode(true);
        copy.querySelectorAll(".before").forEach((b) => b.remove());
        return copy.textContent;
    }));
/** Colours of the tokens that are shown. */
export const tints = (page) =>
    page.locator("#views .tok").evaluateAll((all) => all.map((e) => e.style.backgroundColor));
