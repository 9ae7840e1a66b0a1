// The page's code that needs no document: server-sent events, metrics text, words for figures.
// The tests import this file under node.

/** Splits a byte stream of server-sent events, cut at any place, into data payloads. */
export class EventSplitter {
    #decoder = new TextDecoder();
    #rest = "";
    #data = [];

    /** @param {Uint8Array} bytes @returns {string[]} payloads completed by these bytes */
    push(bytes) {
        this.#rest += this.#decoder.decode(bytes, { stream: true });
        const out = [];
        let from = 0;
        for (;;) {
            const at = this.#rest.indexOf("\n", from);
            if (at < 0) break;
            const line = this.#rest.slice(from, at).replace(/\r$/, "");
            from = at + 1;
            if (line === "") {
                if (this.#data.length) out.push(this.#data.join("\n"));
                this.#data = [];
            } else if (line.startsWith("data:")) {
                this.#data.push(line.slice(line[5] === " " ? 6 : 5));
            } // comments and other fields are ignored
        }
        this.#rest = this.#rest.slice(from);
        return out;
    }
}

const numbersOf = (list) => (Array.isArray(list) ? list.filter((n) => Number.isFinite(n)) : []);

/** The answer of a model without a tokenizer, as text. */
export const spaced = (ids) => ids.map((id) => ` ${id}`).join("");

/** The contents of one chunk: text, depths of its tokens, what is drafted behind it, the end, usage or an error. */
export function readChunk(payload) {
    if (payload.startsWith("[DONE]")) return { done: true };
    const o = JSON.parse(payload);
    if (o.error) return { error: String(o.error.message ?? "the server reported an error") };
    const choice = o.choices?.[0];
    return {
        text: choice?.text ?? choice?.delta?.content ?? "",
        reasoning: choice?.delta?.reasoning_content ?? "",
        ids: numbersOf(choice?.token_ids),
        depths: numbersOf(choice?.depths),
        draft: typeof choice?.draft === "string" ? choice.draft : spaced(numbersOf(choice?.draft_token_ids)),
        finish: choice?.finish_reason ?? null,
        stopReason: choice?.stop_reason ?? null,
        usage: o.usage ?? null,
        counted: choice !== undefined,
    };
}

/** "ouro, 24 core layers, exit by hazard at 0.5, at most 4 loops", from the card in /v1/models. */
export function planWords(card) {
    if (!card.exit || !card.loops) return "";
    const layers = `${card.core_layers} core layer${card.core_layers === 1 ? "" : "s"}`;
    const leaves =
        card.exit.threshold === null
            ? "a fixed number of loops"
            : `exit by ${card.exit.rule} at ${Number(card.exit.threshold.toPrecision(3))}`;
    const { least, cap } = card.loops;
    const usual = card.loops.default ?? cap;
    const loops = least === cap ? `always ${cap} loops` : usual < cap ? `${usual} loops, or up to ${cap} if asked for` : `at most ${cap} loops`;
    return `${card.family}, ${layers}, ${leaves}, ${loops}`;
}

const UNITS = {
    act: "halting mass",
    hazard: "exit probability",
    "latent-diff": "relative change",
    cosine: "1 − cosine",
};

/** The threshold of the model's exit rule: default, largest value and unit. Null if the rule has none. */
export function thresholdRange(exit) {
    if (!exit) return { value: 0.99, most: 1, unit: UNITS.act };
    if (exit.threshold === null) return null;
    return { value: Number(exit.threshold.toPrecision(3)), most: exit.most ?? 1, unit: UNITS[exit.rule] ?? exit.rule };
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** Prometheus text to Map name -> [{labels, value}]. */
export function parseMetrics(text) {
    const out = new Map();
    for (const line of text.split("\n")) {
        if (line === "" || line[0] === "#") continue;
        const m = SAMPLE.exec(line);
        if (!m) continue;
        const labels = {};
        for (const [, key, value] of (m[2] ?? "").matchAll(LABEL)) labels[key] = value;
        const list = out.get(m[1]) ?? [];
        list.push({ labels, value: Number(m[3]) });
        out.set(m[1], list);
    }
    return out;
}

/** Sum of all series with this name; null if there are none. */
export function metricSum(metrics, name) {
    const list = metrics.get(name);
    return list ? list.reduce((sum, s) => sum + s.value, 0) : null;
}

/** Series with a label loop or depth, as an array indexed by that number. */
export function metricByDepth(metrics, name) {
    const out = [];
    for (const s of metrics.get(name) ?? []) {
        const at = Number(s.labels.depth ?? s.labels.loop);
        if (Number.isInteger(at) && at >= 0 && at < 1024) out[at] = (out[at] ?? 0) + s.value;
    }
    return Array.from(out, (v) => v ?? 0);
}

/** "1234", "12.3k": figures of nearly constant width. */
export function short(n) {
    if (!Number.isFinite(n)) return "–";
    if (n >= 1e6) return `${(n / 1e6).toFixed(1)}M`;
    if (n >= 1e4) return `${(n / 1e3).toFixed(1)}k`;
    return n >= 100 || Number.isInteger(n) ? Math.round(n).toString() : n.toFixed(1);
}

export const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** How an answer ended, in words for the person who reads it. */
export function finishWords(finish, stopReason, tokens) {
    if (finish === "length") return `Cut at ${plural(tokens, "token")}: the limit was reached`;
    if (finish === "stop") {
        return typeof stopReason === "string" ? `Ended at the stop text ${JSON.stringify(stopReason)}` : "Ended by the model";
    }
    return finish === "tool_calls" ? "Ended with a call of a tool" : "Ended";
}

/** The part of loops that leaving early saved, against running the default number for each token. */
export function saved(loops, tokens, usual) {
    return tokens > 0 && usual > 0 ? 1 - loops / (tokens * usual) : NaN;
}

/** Token ids written as "1 2 3", "1, 2, 3" or "[1, 2, 3]"; null if the text is something else. */
export function parseIds(text) {
    const words = text.replace(/^\s*\[|\]\s*$/g, "").split(/[\s,]+/).filter(Boolean);
    if (!words.length || !words.every((w) => /^\d{1,9}$/.test(w))) return null;
    return words.map(Number);
}

const isNumber = (v) => typeof v === "number" && Number.isFinite(v);

/** One example of the model's card, or null if it has no title or prompt. Wrong members are dropped. */
export function readExample(o) {
    if (typeof o?.title !== "string" || typeof o.prompt !== "string") return null;
    const example = { title: o.title, prompt: o.prompt, kind: ["completion", "chat", "compare"].includes(o.kind) ? o.kind : "completion" };
    for (const key of ["max_tokens", "temperature", "seed"]) if (isNumber(o[key])) example[key] = o[key];
    for (const key of ["answer", "note", "system"]) if (typeof o[key] === "string") example[key] = o[key];
    const stop = typeof o.stop === "string" ? [o.stop] : o.stop;
    if (Array.isArray(stop)) example.stop = stop.filter((s) => typeof s === "string");
    if (Array.isArray(o.loops)) example.loops = o.loops.filter((n) => n === null || (Number.isInteger(n) && n >= 1)).slice(0, 4);
    if (Number.isInteger(o.loops) && o.loops >= 1) example.max_loops = o.loops;
    return example;
}

/** Whether an answer says what the example expects; null without an expectation. */
export function isRight(text, answer) {
    const want = answer?.trim();
    if (!want) return null;
    const got = text.trim();
    return got.startsWith(want) && !/^[\p{L}\p{N}]/u.test(got.slice(want.length));
}
