// Questions that every client is asked, and servers to ask them of.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z as zod3 } from "zod";
import * as z from "zod/v4";

export const model = "demo";
export const verse = [{ role: "user", content: "Complete the verse: In the beginning" }];
export const greedy = { model, messages: verse, temperature: 0, limit: 24 };

export const weather = {
    name: "weather", description: "Weather of a city",
    parameters: {
        type: "object", properties: { city: { type: "string", maxLength: 8 }, days: { type: "integer", minimum: 1, maximum: 9 }, unit: { enum: ["C", "F"] } },
        required: ["city", "days"], additionalProperties: false,
    },
};
export const clock = { name: "clock", description: "The time of day", parameters: { type: "object", properties: { zone: { enum: ["UTC", "local"] } }, required: ["zone"], additionalProperties: false } };
export const tools = [weather, clock];

// Why a call does not fit its function, or nothing.
export function misfit({ id, name, args }) {
    if (typeof id !== "string" || id.length < 5) return `id ${id}`;
    if (name === "clock") return JSON.stringify(Object.keys(args)) === '["zone"]' && ["UTC", "local"].includes(args.zone) ? "" : `arguments ${JSON.stringify(args)}`;
    if (name !== "weather") return `name ${name}`;
    const { city, days, unit, ...more } = args;
    const good = typeof city === "string" && [...city].length <= 8 && Number.isInteger(days) && days >= 1 && days <= 9 && [undefined, "C", "F"].includes(unit) && !Object.keys(more).length;
    return good ? "" : `arguments ${JSON.stringify(args)}`;
}

// Optional and nested parts as the packages' helpers send them: anyOf with null, objects, enums. No
// list, since some helpers drop its limit, and the demo model never ends one by itself.
const person = (zod) => zod.object({
    kind: zod.enum(["prophet", "king", "judge"]),
    age: zod.number(),
    alive: zod.boolean(),
    tribe: zod.enum(["Judah", "Levi"]).nullable(),
    father: zod.object({ known: zod.boolean(), rank: zod.enum(["king", "shepherd"]) }),
});
export const schema = { name: "person", zod: person(z), zod3: person(zod3) };

const folder = mkdtempSync(join(tmpdir(), "fathom-clients-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
export const keyFile = join(folder, "keys");
writeFileSync(keyFile, "sk-right-key tester\n", { mode: 0o600 });

export function fileOf(name, text) {
    const file = join(folder, name);
    writeFileSync(file, text);
    return file;
}
