// What the page knows of the model: the card in /v1/models, or why there is none.
import { readExample } from "./core.js";

const EXAMPLES_MOST = 24;

/** Asks for the card. Returns {card} or {problem, retry}: retry says whether asking again may help. */
export async function fetchCard(headers) {
    try {
        const answer = await fetch("v1/models", { headers, cache: "no-store" });
        if (answer.status === 401) {
            return { problem: headers.Authorization ? "the API key is not accepted" : "needs an API key", retry: false };
        }
        if (answer.status === 503) return { problem: "loading…", retry: true };
        if (!answer.ok) return { problem: `HTTP ${answer.status}`, retry: true };
        const card = (await answer.json()).data?.[0];
        return card ? { card: readCard(card) } : { problem: "loading…", retry: true };
    } catch {
        return { problem: "not reachable", retry: true };
    }
}

/** The members of a card that the page needs, with defaults for those that an older server lacks. */
export function readCard(card) {
    const usual = card.loops?.default ?? card.trained_loops ?? card.max_loops ?? 8;
    return {
        card,
        id: String(card.id),
        usual,
        least: card.loops?.least ?? 1,
        cap: card.loops?.cap ?? card.max_loops ?? usual,
        context: card.max_model_len ?? 0,
        chat: card.meta?.chat_template !== null && card.meta?.tokenizer !== false,
        tokenizer: card.meta?.tokenizer !== false,
        examples: (Array.isArray(card.meta?.examples) ? card.meta.examples : []).map(readExample).filter(Boolean).slice(0, EXAMPLES_MOST),
    };
}
