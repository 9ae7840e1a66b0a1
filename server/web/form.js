// The settings of a request: their fields, the request made of them, and the link that carries
// them. Only the class Form needs a document.

/** Name in the request, which is also the id of the input and the key in a link. */
export const FIELDS = [
    ["max_tokens", "number"], ["temperature", "number"], ["top_p", "number"], ["top_k", "number"],
    ["min_p", "number"], ["repetition_penalty", "number"], ["frequency_penalty", "number"],
    ["presence_penalty", "number"], ["seed", "number"], ["reasoning_effort", "text"], ["stop", "lines"],
    ["system", "text"], ["template", "text"], ["min_loops", "number"], ["max_loops", "number"], ["threshold", "number"],
];
const UNSENT = ["system", "template", "min_loops", "max_loops", "threshold"]; // not members of the body
const KINDS = ["compare", "completion", "chat"];
const DEPTH = ["min_loops", "max_loops", "threshold"];
const IN_LINK_MOST = 100000; // characters of a prompt; browsers take links of megabytes, people do not

const escapes = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };
/** Stop texts, one a line; \n stands for a line break. */
export const readLines = (text) =>
    text.split("\n").filter((s) => s !== "").map((s) => s.replace(/\\[nt\\]/g, (e) => escapes[e]));
export const writeLines = (list) =>
    list.map((s) => s.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t")).join("\n");

const readers = {
    number: (text) => (text.trim() === "" || !Number.isFinite(Number(text)) ? null : Number(text)),
    text: (text) => (text === "" ? null : text),
    lines: (text) => (readLines(text).length ? readLines(text) : null),
};
const writers = { number: String, text: String, lines: writeLines };

/**
 * The body of a request. settings: a value or null for each field; what is null is not sent, so
 * the model's defaults apply. input: {prompt} (text or token ids) or {messages}.
 * loops: the column's most loops; undefined where there are no columns, null for the model's own.
 */
export function requestBody(model, settings, input, loops) {
    const body = { model, ...input, stream: true, return_depth: true, stream_options: { include_usage: true, include_drafts: true } };
    for (const [name] of FIELDS) {
        if (UNSENT.includes(name) || !isSet(settings[name])) continue;
        body[name === "max_tokens" && input.messages ? "max_completion_tokens" : name] = settings[name];
    }
    if (Array.isArray(input.prompt)) body.return_token_ids = true;
    const depth = {};
    for (const name of DEPTH) if (isSet(settings[name])) depth[name] = settings[name];
    if (loops !== undefined) {
        delete depth.max_loops;
        delete body.reasoning_effort;
        if (loops !== null) depth.max_loops = loops;
        if (loops !== null && depth.min_loops > loops) depth.min_loops = loops;
    }
    if (Object.keys(depth).length) body.depth = depth;
    return body;
}
const isSet = (v) => v !== null && v !== undefined;

/** The command that sends the same request. The key is named, never written. */
export function curlOf(url, body, withKey) {
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const key = withKey ? ' -H "Authorization: Bearer $FATHOM_KEY"' : "";
    return `curl -N ${quoted(url)} -H 'Content-Type: application/json'${key} \\\n  -d ${quoted(JSON.stringify(body))}`;
}

/** "#p=...&kind=compare&loops=1,2,own&temperature=0". state: {kind, prompt, settings, loops}. */
export function writeLink(state) {
    const out = new URLSearchParams();
    out.set("p", state.prompt.slice(0, IN_LINK_MOST));
    out.set("kind", state.kind);
    if (state.kind === "compare") out.set("loops", state.loops.map((n) => n ?? "own").join(","));
    for (const [name, kind] of FIELDS) {
        if (isSet(state.settings[name])) out.set(name, writers[kind](state.settings[name]));
    }
    return `#${out}`;
}

/** The state in a link's fragment, or null if it carries no prompt. Unknown and wrong parts are dropped. */
export function readLink(fragment) {
    const from = new URLSearchParams(fragment.replace(/^#/, ""));
    if (!from.has("p")) return null;
    const state = { prompt: from.get("p").slice(0, IN_LINK_MOST), kind: from.get("kind"), settings: {}, loops: null };
    if (!KINDS.includes(state.kind)) state.kind = "completion";
    for (const [name, kind] of FIELDS) state.settings[name] = from.has(name) ? readers[kind](from.get(name)) : null;
    const loops = (from.get("loops") ?? "").split(",").filter(Boolean).slice(0, 4);
    if (loops.length) state.loops = loops.map((n) => (/^[1-9]\d{0,3}$/.test(n) ? Number(n) : null));
    return state;
}

const $ = (id) => document.getElementById(id);
const radio = (kind) => document.querySelector(`input[name=kind][value="${kind}"]`);

/** The form in the document. */
export class Form {
    get kind() {
        return document.querySelector("input[name=kind]:checked").value;
    }
    set kind(kind) {
        if (!radio(kind) || radio(kind).disabled) return;
        radio(kind).checked = true;
        this.show();
    }
    allow(kind, yes, why) {
        radio(kind).disabled = !yes;
        radio(kind).parentElement.title = yes ? "" : why;
        if (!yes && radio(kind).checked) this.kind = kind === "chat" ? "compare" : "completion";
    }
    settings() {
        return Object.fromEntries(FIELDS.map(([name, kind]) => [name, readers[kind]($(name).value)]));
    }
    /** Sets the named fields; every other one becomes empty if the rest is to be cleared. */
    fill(settings, clearRest) {
        for (const [name, kind] of FIELDS) {
            if (isSet(settings[name])) $(name).value = writers[kind](settings[name]);
            else if (clearRest) $(name).value = name === "max_tokens" ? $(name).defaultValue : "";
        }
        this.show();
    }
    /** The first field whose value is out of range, or null. */
    firstWrong() {
        return FIELDS.map(([name]) => $(name)).find((input) => !input.closest("[hidden]") && !input.checkValidity()) ?? null;
    }
    /** Shows what belongs to the kind, and the settings in words. */
    show() {
        const kind = this.kind;
        for (const part of document.querySelectorAll("[data-kinds]")) {
            part.hidden = !part.dataset.kinds.split(" ").includes(kind);
        }
        const s = this.settings();
        const words = [`${s.max_tokens ?? "default"} tokens at most`];
        if (s.temperature !== null) words.push(`temperature ${s.temperature}`);
        if (s.seed !== null) words.push(`seed ${s.seed}`);
        const more = FIELDS.filter(([name]) => !["max_tokens", "temperature", "seed"].includes(name) && isSet(s[name]));
        if (more.length) words.push(`${more.length} more setting${more.length === 1 ? "" : "s"}`);
        $("settings-words").textContent = words.join(" · ");
    }
    remember() {
        try {
            localStorage.setItem("fathom-form", JSON.stringify({ kind: this.kind, settings: this.settings() }));
        } catch {
            // Storage is off or full.
        }
    }
    /** Brings back what was remembered; the kind that was, or null. */
    recall() {
        try {
            const kept = JSON.parse(localStorage.getItem("fathom-form"));
            this.fill(kept.settings, false);
            return KINDS.includes(kept.kind) ? kept.kind : null;
        } catch {
            return null; // nothing is stored, or another version stored it
        }
    }
}
