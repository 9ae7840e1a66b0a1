// The conversation: its turns on the page, what of it is sent, and what this tab keeps.
import { follow } from "./follow.js";
import { AnswerView, button, make } from "./view.js";

const KEEP = "fathom-conversation";
const KEEP_MOST = 500000; // characters of JSON; the oldest turns go first

export class Conversation {
    /** host: {onEdit(), onRegenerate(), dress(view)} */
    constructor(host) {
        this.host = host;
        this.turns = []; // {question, view}
        this.root = make("div", "conversation card");
        this.list = make("div", "turns");
        this.list.tabIndex = 0;
        this.list.setAttribute("role", "group");
        this.list.setAttribute("aria-label", "Conversation");
        Object.assign(this, follow(this.list)); // box, moved, restart
        this.root.append(this.box);
    }

    #append(question) {
        const turn = make("div", "turn");
        const said = make("div", "said", question);
        const view = new AnswerView({ label: "Answer", waiting: "", scroller: this });
        turn.append(said, view.root);
        this.list.append(turn);
        this.turns.push({ question, view, root: turn });
        this.restart();
        return view;
    }

    /** A new turn; its view is empty. */
    begin(question) {
        this.#clearActs();
        return this.#append(question);
    }

    #clearActs() {
        this.turns.at(-1)?.view.acts.replaceChildren();
    }

    /** Buttons for the newest turn. Call it when a turn ended. */
    dressLast() {
        const last = this.turns.at(-1);
        if (!last) return;
        last.view.acts.replaceChildren();
        this.host.dress(last.view);
        last.view.acts.append(
            button("Regenerate", "tiny", () => this.host.onRegenerate()),
            button("Edit question", "tiny", () => this.host.onEdit()),
        );
    }

    /** Takes the newest turn away; its question. */
    dropLast() {
        const last = this.turns.pop();
        last?.root.remove();
        this.dressLast();
        this.keep();
        return last?.question ?? "";
    }

    clear() {
        this.turns = [];
        this.list.replaceChildren();
        this.keep();
    }

    /** The messages of a request that asks the question after all turns so far. */
    messages(system, question) {
        const out = system ? [{ role: "system", content: system }] : [];
        for (const { question: asked, view } of this.turns) {
            // A turn without an answer (an error, an early stop) would break the alternation of roles.
            if (view.answer) out.push({ role: "user", content: asked }, { role: "assistant", content: view.answer });
        }
        out.push({ role: "user", content: question });
        return out;
    }

    keep() {
        let kept = this.turns.filter((t) => t.view.tokens.length).map(({ question, view }) => ({
            question,
            tokens: view.tokens.map((t) => [t.text, t.depths, ...(t.reasoning ? [1] : [])]),
            end: view.endLines.join(" · "),
        }));
        try {
            let text = JSON.stringify(kept);
            while (text.length > KEEP_MOST && kept.length) {
                kept = kept.slice(1);
                text = JSON.stringify(kept);
            }
            sessionStorage.setItem(KEEP, text);
        } catch {
            // Storage is off or full: the conversation lasts as long as the page.
        }
    }

    /** Brings back the conversation of this tab. */
    recall() {
        try {
            for (const turn of JSON.parse(sessionStorage.getItem(KEEP)) ?? []) {
                const view = this.#append(String(turn.question));
                for (const [text, depths, reasoning] of turn.tokens) {
                    view.show({ text: String(text), depths: depths.filter(Number.isInteger), reasoning: Boolean(reasoning) });
                }
                view.end.append(make("span", "how", String(turn.end)));
                view.draw();
            }
        } catch {
            // Nothing is kept, or another version kept it.
        }
        this.dressLast();
    }
}
