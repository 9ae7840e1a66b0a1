// Which program is attacked. Imported before tests/http/lib/server.mjs, which prefers the
// sanitized build: here the release build is the rule, since many cases ask what a request costs.
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../..");
process.env.FATHOM_BIN ??= path.join(root, "build/release/fathom");
process.env.TSAN_OPTIONS ??= "exitcode=99:halt_on_error=0";
