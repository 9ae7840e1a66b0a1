// The conversation, with scripted answers.
import assert from "node:assert/strict";
import { test } from "node:test";
import { textEvent } from "./mock.js";
import { answers, ask, END, ended, finish, kind, openSettings, skip, usage, withPage } from "./rig.js";

const said = (...words) => words.map((w) => textEvent(w, [2]));
const script = (body) => [...said("reply", ` ${body.messages?.length ?? 0}`), finish("stop"), usage(2, 10), END];

test("a conversation is sent whole, with the system prompt, in the order it was had", { skip }, async () => {
    await withPage({ script }, {}, async (page, mock) => {
        await kind(page, "chat");
        await openSettings(page);
        await page.fill("#system", "Be brief.");
        await ask(page, "one");
        assert.equal(await page.inputValue("#prompt"), "", "the question moved into the conversation");
        await ask(page, "two");
        assert.deepEqual(mock.seen.bodies[1].messages, [
            { role: "system", content: "Be brief." }, { role: "user", content: "one" }, { role: "assistant", content: "reply 2" },
            { role: "user", content: "two" },
        ]);
        assert.deepEqual(await page.locator(".said").allInnerTexts(), ["one", "two"]);
        assert.deepEqual(await answers(page), ["reply 2", "reply 4"]);
    });
});

test("the newest answer can be made again, and its question edited", { skip }, async () => {
    await withPage({ script }, {}, async (page, mock) => {
        await ask(page, "one", "chat");
        await ask(page, "two");
        await page.getByRole("button", { name: "Regenerate" }).click();
        await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
        await ended(page);
        assert.deepEqual(mock.seen.bodies[2].messages, mock.seen.bodies[1].messages);
        assert.notEqual(mock.seen.bodies[2].seed, mock.seen.bodies[1].seed, "another seed, so another answer");
        await page.getByRole("button", { name: "Edit question" }).click();
        assert.equal(await page.inputValue("#prompt"), "two");
        assert.deepEqual(await page.locator(".said").allInnerTexts(), ["one"]);
        await ask(page, "three");
        assert.deepEqual(mock.seen.bodies[3].messages.map((m) => m.content), ["one", "reply 1", "three"]);
        await ask(page, "x", "completion");
        await kind(page, "chat");
        assert.equal(await page.getByRole("button", { name: "Regenerate" }).count(), 1, "each button once");
    });
});

test("the conversation outlives a reload of its tab, with its tints, and can be cleared", { skip }, async () => {
    await withPage({ script }, {}, async (page, mock) => {
        await ask(page, "one", "chat");
        await page.reload();
        await page.waitForFunction(() => document.getElementById("model-name").textContent === "demo");
        assert.deepEqual(await answers(page), ["reply 1"]);
        assert.equal(await page.locator("#views .tok").first().evaluate((e) => e.style.backgroundColor), "var(--d2)");
        await ask(page, "two");
        assert.deepEqual(mock.seen.bodies[1].messages.map((m) => m.content), ["one", "reply 1", "two"]);
        await page.click("#clear");
        await ask(page, "three");
        assert.deepEqual(mock.seen.bodies[2].messages.map((m) => m.content), ["three"]);
        assert.equal(await page.evaluate(() => localStorage.getItem("fathom-conversation")), null, "it stays in this tab");
    });
});

test("a long conversation is kept up to a bound, its oldest turns go first", { skip }, async () => {
    const long = "word ".repeat(30000);
    await withPage({ script: () => [textEvent(long, [1]), finish("stop"), END] }, {}, async (page) => {
        for (const question of ["a", "b", "c", "d"]) await ask(page, question, "chat");
        const kept = await page.evaluate(() => JSON.parse(sessionStorage.getItem("fathom-conversation")));
        assert.deepEqual(kept.map((t) => t.question), ["b", "c", "d"]);
    });
});

test("a turn without an answer is not sent again, and does not break the roles", { skip }, async () => {
    let fails = true;
    await withPage({ script: (body) => (fails ? [{ status: 429, body: { error: { message: "too many" } } }] : script(body)) }, {}, async (page, mock) => {
        await ask(page, "one", "chat");
        assert.equal(await page.locator("#views .error").innerText(), "too many");
        fails = false;
        await ask(page, "two");
        assert.deepEqual(mock.seen.bodies[1].messages, [{ role: "user", content: "two" }]);
    });
});

test("reasoning stands folded above the answer and is not sent back as content", { skip }, async () => {
    const thought = (t) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { reasoning_content: t }, depths: [4], finish_reason: null }] })}\n\n`;
    await withPage({ script: () => [thought("Let me"), thought(" see"), textEvent("Yes", [1]), finish("stop"), END] }, {}, async (page, mock) => {
        await ask(page, "one", "chat");
        assert.equal(await page.locator(".reasoning").evaluate((e) => e.open), false);
        assert.equal(await page.locator(".reasoning .tok").count(), 2);
        assert.equal(await page.locator(".f-loops").innerText(), "9", "its loops count");
        await ask(page, "two");
        assert.equal(mock.seen.bodies[1].messages[1].content, "Yes");
    });
});
