import { whole } from "../../lib/json.mjs";
import { prices } from "../../lib/price.mjs";

export const title = "whole JSON of absurd fields costs what its length costs";
export const device = "fake";

export async function attack(server, t) {
    await prices(t, whole, t.scale(2 << 20, 200 << 10) - 1000, ["/v1/completions", "/v1/chat/completions"]);
}
