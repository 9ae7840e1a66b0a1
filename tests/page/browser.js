// One headless Chromium for a test file. `skip` says why there is none.
import { chromium } from "playwright-core";
import { openChromium, skip } from "../http/lib/chromium.mjs";

export { skip };

export async function openBrowser() {
    const browser = await openChromium(chromium);
    return {
        /** A page that records what must not happen: errors, refused content, other hosts. */
        async page(url, { width = 1200, height = 900, dark = false } = {}) {
            const page = await browser.newPage();
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
        close: () => browser.close(),
    };
}
