// A model's files change while they are served: in place, cut short, or by rename as they should.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync, truncateSync, utimesSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { demo, Server, sleep, until } from "./lib/server.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-replaced-"));
after(() => rmSync(dir, { recursive: true }));
let copies = 0;
function copyOfDemo() {
    const model = path.join(dir, `model-${copies++}`);
    cpSync(demo, model, { recursive: true });
    return { model, file: path.join(model, "model.safetensors") };
}
const ask = (s) => s.post("/v1/completions", { prompt: "In the beginning", max_tokens: 8, temperature: 0 });

test("a model replaced by rename is no change: the old one goes on", async () => {
    const { model, file } = copyOfDemo();
    const s = await Server.start([], { device: "cpu", model });
    const before = await ask(s);
    writeFileSync(`${file}.new`, "not a model");
    renameSync(`${file}.new`, file);
    await sleep(2500); // two looks at the files
    assert.equal((await s.get("/ready")).status, 200);
    assert.equal((await ask(s)).json.choices[0].text, before.json.choices[0].text);
    await s.stop();
});

test("a model file written to in place makes the server unready and is named once in the log", async () => {
    const { model, file } = copyOfDemo();
    const s = await Server.start([], { device: "cpu", model });
    s.expected = /changed in place/;
    const bytes = readFileSync(file);
    const fd = openSync(file, "r+");
    writeSync(fd, bytes, 0, 8, 0); // the same bytes: only the time tells
    utimesSync(file, 1, 1);
    await until("not ready", async () => (await s.get("/ready")).status === 503);
    const ready = await s.get("/ready");
    assert.match(ready.json.error.message, /a model file was changed in place/);
    assert.equal((await s.get("/health")).status, 200);
    assert.equal((await ask(s)).status, 200, "it goes on with what it holds");
    await sleep(2500);
    assert.equal(s.log.split("\n").filter((l) => l.includes(`${file}: changed in place while it was in use; replace models by rename`)).length, 1);
    await s.stop();
});

test("a file cut short under its map ends the process with a line that names it", async () => {
    const { model, file } = copyOfDemo();
    const s = await Server.start([], { device: "cpu", model });
    s.expected = /changed in place/;
    truncateSync(file, 0);
    await assert.rejects(async () => { for (;;) await ask(s); });
    assert.deepEqual(await s.ended, { code: 1, signal: null });
    assert.match(s.log, new RegExp(`fathom: ${file}: a part that was mapped is gone: the file was cut short`));
});

test("packed weights cut short under their map are named too", async () => {
    const { model } = copyOfDemo();
    const packed = path.join(model, "fathom-packed.bin");
    await (await Server.start(["--packed-cache"], { device: "cpu", model })).stop();
    const s = await Server.start(["--packed-cache"], { device: "cpu", model });
    truncateSync(packed, 0);
    await assert.rejects(async () => { for (;;) await ask(s); });
    assert.deepEqual(await s.ended, { code: 1, signal: null });
    assert.match(s.log, new RegExp(`fathom: ${packed}: a part that was mapped is gone`));
});
