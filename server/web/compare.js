// The columns: one prompt at several depths, side by side.
import { plural } from "./core.js";
import { AnswerView, button, make } from "./view.js";

const MOST_COLUMNS = 4;
const TAIL = 160; // characters of a long prompt that stand before each answer

/** The last line of a prompt, which an answer continues. */
export function tailOf(prompt) {
    const line = prompt.slice(prompt.lastIndexOf("\n", prompt.length - 2) + 1);
    return line.length > TAIL ? `…${line.slice(-TAIL)}` : line;
}

export class Columns {
    /** onChange is called when the reader edits the columns. */
    constructor(onChange) {
        this.onChange = onChange;
        this.least = 1;
        this.cap = 16;
        this.columns = [];
        this.root = make("div", "compare");
        this.row = make("div", "columns");
        this.more = button("Add a column", "quiet add", () => this.#add());
        this.root.append(this.row, this.more);
    }

    get loops() {
        return this.columns.map((c) => c.loops);
    }

    /** The model's limits; the columns begin as 1 loop, 2 loops and its own depth, as far as it can. */
    setLimits(least, cap, usual) {
        Object.assign(this, { least, cap });
        for (const { input } of this.columns) this.#limit(input);
        if (!this.columns.length) this.setLoops([...[1, 2].filter((n) => n >= least && n < usual), null]);
    }

    #limit(input) {
        input.min = String(this.least);
        input.max = String(this.cap);
    }

    setLoops(loops) {
        this.columns = [];
        this.row.replaceChildren();
        for (const n of loops) this.#append(n);
        this.#arrange();
    }

    #append(loops) {
        const view = new AnswerView({ label: "Answer", waiting: "The answer appears here." });
        const head = make("div", "head");
        const title = make("h3", "");
        const label = make("label", "at-most", "At most ");
        const input = make("input");
        input.type = "number";
        input.inputMode = "numeric";
        input.placeholder = "own";
        input.value = loops === null ? "" : String(loops);
        this.#limit(input);
        label.append(input, " loops");
        const column = { loops, view, input, title, label };
        const remove = button("×", "tiny remove", () => this.#remove(column));
        remove.setAttribute("aria-label", "Remove this column");
        column.remove = remove;
        head.append(title, label, remove);
        view.root.prepend(head);
        view.root.classList.add("card");
        input.addEventListener("change", () => {
            const n = Math.trunc(Number(input.value));
            column.loops = input.value.trim() === "" || !(n >= 1) ? null : Math.min(Math.max(n, this.least), this.cap);
            input.value = column.loops === null ? "" : String(column.loops);
            this.#name(column);
            this.onChange();
        });
        this.columns.push(column);
        this.row.append(view.root);
        this.#name(column);
    }

    #name(column) {
        column.title.textContent = column.loops === null ? "Own depth" : plural(column.loops, "loop");
        const words = column.loops === null ? "at the model’s own depth" : `at ${plural(column.loops, "loop")} at most`;
        column.view.root.setAttribute("aria-label", `Answer ${words}`);
        column.view.text.setAttribute("aria-label", `Answer ${words}: each token is coloured by its depth`);
        column.view.text.dataset.waiting = `The answer ${words} appears here.`;
    }

    #add() {
        const twice = 2 * Math.max(1, ...this.loops.filter((n) => n !== null));
        const others = Array.from({ length: this.cap - this.least + 1 }, (_, i) => this.least + i);
        this.#append([twice, ...others].find((n) => n <= this.cap && !this.loops.includes(n)) ?? null);
        this.#arrange();
        this.onChange();
    }

    #remove(column) {
        this.columns = this.columns.filter((c) => c !== column);
        column.view.root.remove();
        this.#arrange();
        this.columns[0].input.focus();
        this.onChange();
    }

    /** A running comparison keeps its columns. */
    lock(on) {
        this.locked = on;
        for (const { input } of this.columns) input.disabled = on;
        this.#arrange();
    }

    #arrange() {
        this.row.dataset.count = String(this.columns.length);
        this.more.hidden = this.locked || this.columns.length >= MOST_COLUMNS;
        for (const { remove } of this.columns) remove.hidden = this.locked || this.columns.length < 2;
    }
}
