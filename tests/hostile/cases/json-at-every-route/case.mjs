import { broken } from "../../lib/json.mjs";
import { prices } from "../../lib/price.mjs";

export const title = "broken JSON costs the same at every route that takes a body";
export const device = "fake";

export async function attack(server, t) {
    const some = Object.fromEntries(["empty objects without an end", "a key twice at the end", "unclosed objects", "many short strings"].map((k) => [k, broken[k]]));
    await prices(t, some, t.scale(1 << 20, 100 << 10), ["/tokenize", "/detokenize", "/v1/responses", "/v1/chat/completions"]);
}
