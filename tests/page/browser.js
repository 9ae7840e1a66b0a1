// One headless Chromium for a test file. `skip` says why there is none.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const path = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find((p) => p && existsSync(p));
export const skip = path ? false : "needs chromium (Debian: chromium)";

export async function openBrowser() {
    const profile = mkdtempSync(join(tmpdir(), "fathom-page-"));
    const browser = await chromium.launchPersistentContext(profile, {
        executablePath: path,
        headless: true,
        args: [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
        ],
    });
    return {
        /** A page that records what must not happen: errors, refused content, other hosts. */
        async page(url, { width = 1200, height = 900, dark = false } = {}) {
            const page = await browser.newPage();
            page.setDefaultTimeout(120000); // gives up what never comes; a busy machine may be slow
            const bad = [];
            page.on("pageerror", (e) => bad.push(`error: ${e.message}`));
            page.on("console", (m) => {
                // A refused request is logged by the browser itself; the tests ask for some.
                if (m.type() === "error" && !m.text().startsWith("Failed to load resource")) bad.push(m.text());
            });
            page.on("request", (r) => {
                if (!r.url().startsWith(url)) bad.push(`asked ${r.url()}`);
            });
            await page.setViewportSize({ width, height });
            await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
            await page.goto(url);
            await page.evaluate(() => localStorage.clear());
            await page.waitForFunction(() => document.getElementById("model-name").textContent !== "connecting…");
            page.bad = bad;
            return page;
        },
        async close() {
            await browser.close();
            rmSync(profile, { recursive: true, force: true });
        },
    };
}
