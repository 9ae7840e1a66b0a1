// One headless Chromium for a test file. `skip` says why there is none.
import { chromium } from "playwright-core";
import { openChromium, skip } from "../http/lib/chromium.mjs";

export { skip };

export async function openBrowser() {
    const browser = await openChromium(chromium);
    return {
        /** A page that records what must not happen, errors, refused content, other hosts, and what it asks for. */
        async page(url, { width = 1200, height = 900, dark = false } = {}) {
            const page = await browser.newPage();
            const bad = [];
            page.on("pageerror", (e) => bad.push(`error: ${e.message}`));
            page.on("console", (m) => {
                // A refused request is logged by the browser itself; the tests ask for some.
                if (m.type() === "error" && !m.text().startsWith("Failed to load resource")) bad.push(m.text());
            });
            const asked = { open: 0, refused: 0 }; // requests on their way; answers with status 401
            page.on("request", (r) => {
                asked.open++;
                if (!r.url().startsWith(url)) bad.push(`asked ${r.url()}`);
            });
            for (const end of ["requestfinished", "requestfailed"]) page.on(end, () => asked.open--);
            page.on("response", (r) => (asked.refused += r.status() === 401));
            await page.setViewportSize({ width, height });
            await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
            // Pages remember by their origin, and a server of an earlier test may have had this port.
            const debug = await page.context().newCDPSession(page);
            await debug.send("Storage.clearDataForOrigin", { origin: new URL(url).origin, storageTypes: "all" });
            await debug.detach();
            await page.goto(url);
            await page.waitForFunction(() => document.getElementById("model-name").textContent !== "connecting…");
            Object.assign(page, { bad, asked });
            return page;
        },
        close: () => browser.close(),
    };
}
