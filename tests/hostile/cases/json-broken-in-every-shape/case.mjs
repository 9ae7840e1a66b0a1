import { broken } from "../../lib/json.mjs";
import { prices } from "../../lib/price.mjs";

export const title = "broken JSON costs what its length costs, whatever is broken";
export const device = "fake";

export async function attack(server, t) {
    await prices(t, broken, t.scale(2 << 20, 200 << 10) - 1000, ["/v1/completions"]);
}
