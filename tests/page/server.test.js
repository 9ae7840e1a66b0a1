// The page as the real server serves it, with the demo model and the hops model behind.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { answered, answers, ask, browser, ended, kind, openSettings, skip, text } from "./rig.js";
import { Server, root, serving, sleep, until, withServer } from "../http/lib/server.mjs";

const hops = join(root, "models/hops");
const questions = readFileSync(join(hops, "questions.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
const depthsOf = (page) =>
    page.locator("#views .tok").evaluateAll((s) => s.flatMap((e) => e.dataset.depths.split(" ").map(Number)));

test("the demo model answers on the page, each token tinted, and the view of the server moves", { skip }, async () => {
    await withServer([], { device: "cpu" }, async (server) => {
        const page = await browser.page(`${server.url}/`);
        assert.equal(await page.locator("#model-name").textContent(), "demo");
        await kind(page, "completion");
        await openSettings(page);
        await page.fill("#max_tokens", "48");
        await page.fill("#seed", "3");
        await page.fill("#prompt", "And God said");
        await page.keyboard.press("Enter");
        await ended(page);
        assert.match(await page.locator("#status").textContent(), /^Done: \d+ tokens, (length|stop)$/);
        const depths = await depthsOf(page);
        assert.equal(depths.length, Number(await page.locator(".f-tokens").textContent()));
        assert.ok(depths.every((d) => d >= 1 && d <= 8) && new Set(depths).size > 1, depths.join(" "));
        assert.equal(await page.locator("#views .legend > div").count(), 8, "the demo was trained with 8 loops");
        await page.waitForFunction(() => document.getElementById("exits").getAttribute("aria-label") !== "Tokens by depth: none");
        await until("the launches", async () => /at loop 1/.test(await page.locator("#sums").getAttribute("aria-label")));
        const first = await answers(page);
        await page.getByRole("button", { name: "Regenerate" }).click();
        await ended(page);
        assert.deepEqual(await answers(page), first, "a kept seed makes the same answer again");
        assert.deepEqual(page.bad, []);
        await page.close();
    });
});

test("the hops model reaches one friend a loop: three columns, three names, the last one right", { skip }, async () => {
    const question = questions.find((q) => q.hops === 4);
    await withServer([], { device: "cpu", model: hops }, async (server) => {
        const page = await browser.page(`${server.url}/`);
        assert.equal(await page.locator("input[value=compare]").isChecked(), true);
        await ask(page, question.prompt);
        const said = (await answers(page)).map((a) => /^ (\w+)/.exec(a)?.[1]);
        assert.equal(new Set(said).size, 3, `three names: ${said}`);
        assert.equal(said[2], question.answer.trim());
        const deepest = await page.locator(".columns .text").evaluateAll((all) =>
            all.map((t) => Math.max(...[...t.querySelectorAll(".tok")].flatMap((e) => e.dataset.depths.split(" ").map(Number)))));
        assert.deepEqual(deepest, [1, 2, 4], "each answer leaves after as many loops as it may or needs");
        assert.deepEqual(page.bad, []);
        await page.close();
    });
});

test("every example of the bundled models runs from its chip, and those with an answer are right at the model's own depth", { skip }, async () => {
    for (const model of ["hops", "demo"]) {
        await withServer([], { device: "cpu", model: join(root, "models", model) }, async (server) => {
            const card = JSON.parse((await server.get("/v1/models")).text).data[0];
            const page = await browser.page(`${server.url}/`);
            assert.ok(card.meta.examples?.length, `${model} has examples`);
            for (const [i, example] of card.meta.examples.entries()) {
                await page.click(`#examples button >> nth=${i}`);
                await page.waitForFunction(() => document.getElementById("send").disabled === false);
                await ended(page);
                assert.match(await page.locator("#status").textContent(), /^Done: /, example.title);
                if (example.answer) assert.equal(await page.locator("#views .end b").last().innerText(), "✓ right", example.title);
            }
            assert.deepEqual(page.bad, []);
            await page.close();
        });
    }
});

test("a conversation of two turns with the demo model's template", { skip }, async () => {
    await withServer([], { device: "cpu" }, async (server) => {
        const page = await browser.page(`${server.url}/`);
        await openSettings(page);
        await page.fill("#max_tokens", "12");
        await page.fill("#temperature", "0"); // an answer that is drawn may be empty
        await ask(page, "Who is my neighbour?", "chat");
        await ask(page, "And who is he?");
        assert.equal((await answers(page)).filter(Boolean).length, 2);
        const used = /(\d+) of 1,024 tokens of context/;
        const [first, second] = (await page.locator("#views .end").allInnerTexts()).map((t) => Number(used.exec(t)[1]));
        assert.ok(second > first + 4, `the second request holds the first turn: ${first}, ${second}`);
        assert.deepEqual(page.bad, []);
        await page.close();
    });
});

test("loops set by hand are obeyed, and a range the model cannot do is refused in words", { skip }, async () => {
    await withServer([], { device: "cpu" }, async (server) => {
        const page = await browser.page(`${server.url}/`);
        await kind(page, "completion");
        await openSettings(page);
        await page.fill("#max_loops", "2");
        await page.fill("#max_tokens", "16");
        await ask(page, "In the beginning");
        const depths = await depthsOf(page);
        assert.ok(depths.length > 0 && depths.every((d) => d <= 2), depths.join(" "));
        await page.fill("#min_loops", "3");
        await page.fill("#prompt", "In the beginning");
        await page.click("#send");
        await page.waitForSelector("#views .error:not([hidden])");
        assert.match(await page.locator("#views .error").innerText(), /min_loops/);
        await page.fill("#max_loops", "17");
        await page.click("#send");
        assert.match(await text(page, "prompt-hint"), /^At most loops: .*16/, "the page knows the model's range");
        assert.deepEqual(page.bad, []);
        await page.close();
    });
});

test("Escape frees the server; a server that goes away is said and found again", { skip }, async () => {
    const args = ["--fake-us-per-token", "100000"]; // 80 s for the answer, which must not end before it is left
    let port, page;
    await withServer(args, {}, async (server) => {
        port = server.port;
        page = await browser.page(`${server.url}/`);
        await openSettings(page);
        await page.fill("#max_tokens", "800");
        await kind(page, "completion");
        await page.fill("#prompt", "x");
        await page.locator("#prompt").press("Enter");
        await page.waitForFunction(() => document.querySelectorAll("#views .tok").length > 2);
        await page.waitForFunction(() => document.getElementById("p-running").textContent === "1");
        await page.keyboard.press("Escape");
        await server.cancelled({ clients: 1, below: 800 });
        await server.stop();
        await until("the page says so", async () => /cannot be reached/.test(await page.locator("#pool-note").textContent()));
        assert.equal(await page.locator("#health").getAttribute("class"), "dot");
        assert.equal(await text(page, "p-running"), "–", "nothing is told of a server that is gone");
    });
    // Another program may have the port for a while.
    const again = await until("the port is free", async () => {
        const server = await Server.start([...args, "--port", String(port)]);
        if (server.url) return server;
        assert.match(server.log, /in use/i);
    });
    await serving(again, async () => {
        await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
        assert.equal(await page.locator("#health").getAttribute("class"), "dot up");
        await page.fill("#max_tokens", "4");
        await ask(page, "x");
        assert.equal(await page.locator("#views .error").isVisible(), false);
        await page.close();
    });
});

test("behind keys the page opens, says what it needs and works with one; an idle tab adds nothing to the log", { skip }, async () => {
    const { mkdtempSync, rmSync, writeFileSync } = await import("node:fs");
    const { tmpdir } = await import("node:os");
    const dir = mkdtempSync(`${tmpdir()}/fathom-keys-`);
    writeFileSync(`${dir}/keys`, "sk-page-key page\n", { mode: 0o600 });
    try {
        await withServer(["--api-key-file", `${dir}/keys`, "--metrics-key"], async (server) => {
            const page = await browser.page(`${server.url}/`);
            assert.equal(await page.locator("#model-name").textContent(), "needs an API key");
            await openSettings(page);
            await page.fill("#api-key", "sk-wrong");
            await page.locator("#api-key").blur();
            await page.waitForFunction(() => document.getElementById("model-name").textContent === "the API key is not accepted");
            await answered(page);
            await until("a line for each refusal", () => server.log.split(" status=401 ").length - 1 === page.asked.refused);
            const lines = server.log.split("\n").length;
            await sleep(4500);
            assert.equal(server.log.split("\n").length, lines, server.log.slice(-500));
            await page.fill("#api-key", "sk-page-key");
            await page.locator("#api-key").blur();
            await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
            await page.fill("#max_tokens", "4");
            await ask(page, "x", "completion");
            assert.equal(await page.locator("#views .tok").count(), 4);
            await page.waitForSelector("#strip");
            assert.deepEqual(page.bad, []);
            await page.close();
        });
    } finally {
        rmSync(dir, { recursive: true, force: true });
    }
});
