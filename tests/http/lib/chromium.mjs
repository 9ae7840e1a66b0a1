// One headless Chromium for a test file, driven by the playwright that the file's package has.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PATIENCE } from "./server.mjs";

const executablePath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser"].find((p) => p && existsSync(p));
export const skip = executablePath ? false : "needs chromium (Debian: chromium)"; // why there is none

export async function openChromium(chromium) {
    const profile = mkdtempSync(join(tmpdir(), "fathom-page-"));
    const browser = await chromium.launchPersistentContext(profile, {
        executablePath,
        headless: true,
        args: [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
        ],
    });
    browser.setDefaultTimeout(PATIENCE); // gives up what never comes; a busy machine may be slow
    return {
        newPage: () => browser.newPage(),
        async close() {
            await browser.close();
            rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
        },
    };
}
