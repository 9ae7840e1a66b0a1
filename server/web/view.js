// One answer on the page: text with a colour for each token's depth, how it ended, its figures.
import { finishWords, isRight, plural, saved, short, spaced } from "./core.js";
import { ground, paint, sawDepth, scale } from "./depth.js";
import { follow } from "./follow.js";

export function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
}

export function button(text, className, act) {
    const element = make("button", className, text);
    element.type = "button";
    element.addEventListener("click", act);
    return element;
}

const FIGURES = [
    ["tokens", "Tokens", "Tokens of the answer"],
    ["loops", "Loops run", "Loops of all tokens together"],
    ["mean", "Mean depth", "Loops per token"],
    ["saved", "Loops saved", "Against running the model’s own number of loops for each token"],
    ["first", "First token", "Time from sending to the first token"],
    ["rate", "Tokens / s", "Counted from sending"],
];

export class AnswerView {
    /** waiting: the words of an empty answer. scroller: an outer box that scrolls, or undefined. */
    constructor({ label = "Answer", waiting = "The answer appears here.", scroller } = {}) {
        this.root = make("article", "view");
        this.root.setAttribute("aria-label", label);
        this.root.view = this;
        this.text = make("div", "text");
        this.text.tabIndex = 0;
        this.text.setAttribute("role", "group");
        this.text.setAttribute("aria-label", `${label}: each token is coloured by its depth`);
        this.text.dataset.waiting = waiting;
        this.error = make("p", "error");
        this.error.setAttribute("role", "alert");
        this.end = make("p", "end");
        this.draft = make("span", "draft"); // text behind the answer that is not certain yet
        this.draft.title = "Drafted: the model has begun it, and it is not certain yet";
        this.draft.setAttribute("aria-hidden", "true"); // it changes too often to be read aloud
        this.legend = make("div", "legend");
        this.legend.setAttribute("role", "img");
        this.figures = make("dl", "figures");
        this.acts = make("div", "acts");
        const following = scroller ?? follow(this.text);
        this.moved = following.moved;
        this.restart = following.restart;
        this.root.append(scroller ? this.text : following.box, this.error, this.end, this.legend, this.figures, this.acts);
        for (const [name, word, title] of FIGURES) {
            const box = make("div");
            box.title = title;
            this[`f_${name}`] = make("dd", `f-${name}`, "–");
            box.append(make("dt", "", word), this[`f_${name}`]);
            this.figures.append(box);
        }
        this.reset("");
    }

    /** Empties the answer. before: the prompt that is shown in front of it. */
    reset(before) {
        this.before = before;
        this.tokens = []; // {text, depths, reasoning}
        this.counts = []; // tokens of depth i + 1
        this.loops = 0;
        this.untold = 0; // pieces of text that came without depths
        this.bare = null; // the last piece, if it came without them
        this.run = null;
        this.request = null;
        this.reasoning = null;
        this.text.replaceChildren();
        if (before) this.text.append(make("span", "before", before));
        this.error.hidden = true;
        this.error.textContent = "";
        this.end.replaceChildren();
        this.acts.replaceChildren();
        this.draw();
    }

    /** Begins a run; more runs on one answer add up (a continued completion). */
    begin() {
        this.error.hidden = true;
        this.end.replaceChildren();
        this.acts.replaceChildren();
        this.run = { start: performance.now(), first: 0, last: 0, had: this.tokenCount };
        this.text.classList.add("streaming");
        this.root.setAttribute("aria-busy", "true");
        this.draw();
        this.restart();
    }

    get tokenCount() {
        return this.counts.reduce((sum, n) => sum + (n ?? 0), 0) + this.untold;
    }
    get answer() {
        return this.tokens.filter((t) => !t.reasoning).map((t) => t.text).join("");
    }
    get reasoningText() {
        return this.tokens.filter((t) => t.reasoning).map((t) => t.text).join("");
    }
    get ids() {
        return this.tokens.flatMap((t) => t.ids ?? []);
    }

    /** Adds one chunk of the stream. */
    add(chunk) {
        this.run.last = performance.now();
        this.run.first ||= this.run.last;
        if (typeof chunk.stopReason === "string" && !chunk.text && !chunk.reasoning) return this.#afterStop(chunk.depths);
        const text = chunk.text || spaced(chunk.ids);
        if (chunk.reasoning) this.show({ text: chunk.reasoning, depths: text ? [] : chunk.depths, reasoning: true });
        if (text || (chunk.depths.length && !chunk.reasoning)) this.show({ text, depths: chunk.depths, ids: chunk.ids });
        this.#showDraft(chunk.draft);
        // Text is shown at once; figures are redrawn at most 20 times a second.
        if (this.run.last - (this.drawn ?? 0) > 50) this.draw();
        this.moved();
    }

    /**
     * The end at a stop text brings the depths of what was held back for it: first of text that is shown
     * by now, then of the stop text itself, which belongs to the server's work and not to the answer.
     */
    #afterStop(depths) {
        const { bare } = this;
        if (!bare || !depths.length) return;
        this.untold--;
        this.bare = null;
        bare.token.depths = depths.slice(0, 1);
        this.#tell(bare.span, bare.token, this.tokens.indexOf(bare.token));
    }

    /** Shows one piece: of a stream, or of a kept answer. */
    show(token) {
        this.tokens.push(token);
        const { text, depths } = token;
        // The space before a word has no colour, so words stand apart and parts of a word touch.
        const lead = text.trim() === "" ? "" : /^\s*/.exec(text)[0];
        const span = make("span", "", text.slice(lead.length));
        this.bare = null;
        if (depths.length) this.#tell(span, token, this.tokens.length - 1);
        else if (text) {
            this.untold++;
            this.bare = { span, token };
        }
        if (text && this.draft.isConnected && this.draft.textContent.startsWith(text)) span.classList.add("firm");
        this.draft.remove();
        (token.reasoning ? this.#reasoningBox() : this.text).append(lead, span);
    }

    /** Replaces what is drafted behind the answer; "": nothing is. */
    #showDraft(text) {
        const { draft } = this;
        if (!text) return draft.remove();
        const box = this.tokens.at(-1)?.reasoning ? this.reasoning : this.text;
        if (!draft.isConnected) this.root.dispatchEvent(new Event("drafted", { bubbles: true }));
        draft.textContent = text;
        if (draft !== box.lastChild) box.append(draft);
    }

    /** Counts and colours the depths of a piece. */
    #tell(span, { depths }, at) {
        for (const depth of depths) {
            this.counts[depth - 1] = (this.counts[depth - 1] ?? 0) + 1;
            this.loops += depth;
            sawDepth(depth);
        }
        span.classList.add("tok");
        span.dataset.depths = depths.join(" ");
        span.dataset.at = String(at);
        span.classList.toggle("break", span.textContent.includes("\n") && span.textContent.trim() === "");
        paint(span, depths);
    }

    #reasoningBox() {
        if (!this.reasoning) {
            this.reasoning = make("details", "reasoning");
            this.reasoning.append(make("summary", "", "Reasoning"));
            this.text.append(this.reasoning);
        }
        return this.reasoning;
    }

    /** Ends a run. note: words that replace those of the finish reason. */
    finish(end, { note = "", seed = null, context = 0, expected, onKeep } = {}) {
        this.#stop();
        const right = end.finish ? isRight(this.answer, expected) : null;
        if (right !== null) this.end.append(make("b", "verdict", right ? "✓ right" : `✗ the answer is ${expected.trim()}`));
        this.end.append(make("span", "how", note || finishWords(end.finish, end.stopReason, this.tokenCount - this.run.had)));
        const used = end.usage?.total_tokens;
        if (used && context) this.end.append(` · ${used.toLocaleString("en")} of ${plural(context, "token")} of context`);
        if (seed !== null) {
            this.end.append(` · seed ${seed} `);
            if (onKeep) this.end.append(button("Keep", "tiny", onKeep));
        }
    }

    /** How the answer ended, in one or two lines. */
    get endLines() {
        return [...this.end.querySelectorAll(".verdict, .how")].map((e) => e.textContent);
    }

    fail(message) {
        this.#stop();
        this.error.textContent = message;
        this.error.hidden = false;
    }

    #stop() {
        this.draft.remove();
        this.text.classList.remove("streaming");
        this.root.removeAttribute("aria-busy");
        this.draw();
        this.moved();
    }

    /** What a picture of this answer needs. */
    figureWords() {
        return FIGURES.map(([name, word]) => [word, this[`f_${name}`].textContent]);
    }

    draw() {
        this.drawn = performance.now();
        const told = this.counts.reduce((sum, n) => sum + (n ?? 0), 0);
        const tokens = this.tokenCount;
        this.f_tokens.textContent = short(tokens);
        this.f_loops.textContent = told ? short(this.loops) : "–";
        this.f_mean.textContent = told ? (this.loops / told).toFixed(2) : "–";
        this.f_saved.textContent = told ? `${Math.round(100 * saved(this.loops, told, scale.trained))} %`.replace("-", "−") : "–";
        const run = this.run;
        if (run) {
            const seconds = (run.last - run.start) / 1000;
            const fresh = tokens - run.had;
            this.f_first.textContent = run.first ? `${short(Math.round(run.first - run.start))} ms` : "–";
            this.f_rate.textContent = fresh > 1 && seconds > 0 ? short(fresh / seconds) : "–";
        }
        drawBars(this.legend, this.counts, {
            height: 34,
            name: (n, depth) => `${plural(n, "token")} ran ${plural(depth, "loop")}`,
            said: (n, depth) => `${n} at depth ${depth}`,
            label: "Tokens by depth",
        });
    }
}

/** Bars by depth in the depth colours: values[i] belongs to depth i + 1. The scale has the model's number of loops. */
export function drawBars(box, values, { height, name, said, label }) {
    const count = Math.max(scale.trained, values.length);
    if (box.children.length !== count) {
        box.replaceChildren(...Array.from({ length: count }, (_, i) => {
            const cell = make("div");
            const bar = make("i");
            bar.style.backgroundColor = ground(i + 1);
            cell.append(bar, make("b", "", count <= 16 || i % 4 === 3 ? String(i + 1) : ""));
            return cell;
        }));
    }
    const top = Math.max(1, ...Array.from(values, (v) => v ?? 0)); // the list may have holes
    const words = [];
    for (let i = 0; i < count; i++) {
        const value = values[i] ?? 0;
        const cell = box.children[i];
        cell.firstChild.style.height = `${4 + Math.round((value / top) * height)}px`;
        cell.title = name(value, i + 1);
        if (value) words.push(said(value, i + 1));
    }
    box.setAttribute("aria-label", words.length ? `${label}: ${words.join(", ")}` : `${label}: none`);
}
