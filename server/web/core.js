// The page's code that needs no document: server-sent events, metrics text, the request
// body, the depth scale. The tests import this file under node.

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

/** The contents of one chunk: text, depths of its tokens, the end, usage or an error. */
export function readChunk(payload) {
    if (payload.startsWith("[DONE]")) return { done: true };
    const o = JSON.parse(payload);
    if (o.error) return { error: String(o.error.message ?? "the server reported an error") };
    const choice = o.choices?.[0];
    const depths = choice?.depths ?? [];
    return {
        text: choice?.text ?? choice?.delta?.content ?? "",
        depths: Array.isArray(depths) ? depths.filter((d) => Number.isFinite(d)) : [],
        finish: choice?.finish_reason ?? null,
        usage: o.usage ?? null,
        counted: choice !== undefined,
    };
}

/** The request body for the form. Empty fields are not sent, so the model's defaults apply. */
export function requestBody(f) {
    const body = {
        model: f.model,
        stream: true,
        return_depth: true,
        stream_options: { include_usage: true },
        temperature: f.temperature,
    };
    if (f.kind === "chat") {
        body.messages = [{ role: "user", content: f.prompt }];
        body.max_completion_tokens = f.maxTokens;
    } else {
        body.prompt = f.prompt;
        body.max_tokens = f.maxTokens;
    }
    if (f.effort) body.reasoning_effort = f.effort;
    if (Number.isInteger(f.seed)) body.seed = f.seed;
    if (f.depth) {
        body.depth = { min_loops: f.depth.min, max_loops: f.depth.max };
        if (Number.isFinite(f.depth.threshold)) body.depth.threshold = f.depth.threshold;
    }
    return body;
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
    return `${card.family}, ${layers}, ${leaves}, ${least === cap ? "always" : "at most"} ${cap} loops`;
}

const UNITS = {
    act: "halting mass",
    hazard: "exit probability",
    "latent-diff": "relative change",
    cosine: "1 − cosine",
};

/** The slider for the threshold of the model's exit rule; null if the rule has none. */
export function thresholdScale(exit) {
    if (!exit) return { min: 0.05, max: 1, step: 0.01, value: 0.99, unit: UNITS.act };
    if (exit.threshold === null) return null;
    const unit = UNITS[exit.rule] ?? exit.rule;
    if (exit.most <= 1) return { min: 0.05, max: 1, step: 0.01, value: exit.threshold, unit };
    /* At 0 every loop runs; the slider then reaches ten times what models are published with. */
    const usual = exit.threshold || (exit.rule === "cosine" ? 0.001 : 0.03);
    const max = Math.min(exit.most, 10 * usual);
    const min = exit.all_loops_at === 0 ? 0 : max / 100;
    return { min, max, step: max / 100, value: exit.threshold, unit };
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

/** The colour step, 0 to 9, of a depth on a scale of 1 to most. */
export function depthStep(depth, most) {
    if (!(most > 1)) return 9;
    const at = (Math.min(Math.max(depth, 1), most) - 1) / (most - 1);
    return Math.round(at * 9);
}

/** "1234", "12.3k": figures of nearly constant width. */
export function short(n) {
    if (!Number.isFinite(n)) return "–";
    if (n >= 1e6) return `${(n / 1e6).toFixed(1)}M`;
    if (n >= 1e4) return `${(n / 1e3).toFixed(1)}k`;
    return n >= 100 || Number.isInteger(n) ? Math.round(n).toString() : n.toFixed(1);
}
