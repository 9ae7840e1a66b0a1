// The page: wires the form, the answers and the view of the server together.
import { Conversation } from "./chat.js";
import { Columns, tailOf } from "./compare.js";
import { parseIds, plural, planWords, thresholdRange } from "./core.js";
import { colours, scale, setTrained, startTheme } from "./depth.js";
import { curlOf, Form, readLink, requestBody, writeLink } from "./form.js";
import { fetchCard } from "./model.js";
import { download, layOut, measurer, toCanvas, toSvg } from "./picture.js";
import { startPool } from "./pool.js";
import { stream } from "./stream.js";
import { startStrip, Strip } from "./strip.js";
import { AnswerView, button, make } from "./view.js";

const $ = (id) => document.getElementById(id);
const state = {
    model: null, // of model.js; null while there is none
    retry: true, // whether asking for the model again may help
    chosen: false, // whether the kind of the beginning was chosen: a server that comes back changes nothing
    abort: null, // of the answers that come now
    ended: null, // their end, as a promise
    finding: null,
};
const hasKeyboard = matchMedia("(pointer: fine)").matches;
const usualInfo = `Each token is coloured by its depth: the loops it ran. ${hasKeyboard ? "Point at" : "Tap"} a token to see its depth.`;
const form = new Form();
const columns = new Columns(() => form.remember());
const single = new AnswerView();
single.root.classList.add("card");
const chat = new Conversation({
    dress: (view) => dress(view),
    onEdit() {
        if (!state.abort) write(chat.dropLast());
    },
    onRegenerate() {
        if (state.abort) return;
        $("prompt").value = chat.dropLast(); // where it stays if it cannot be sent
        void ask($("prompt").value);
    },
});

const kept = (key) => {
    try {
        return sessionStorage.getItem(key) ?? "";
    } catch {
        return "";
    }
};
function headers() {
    const key = $("api-key").value.trim();
    return key ? { Authorization: `Bearer ${key}` } : {};
}
function hint(text) {
    $("prompt-hint").textContent = text;
}
function write(text) {
    $("prompt").value = text;
    $("prompt").focus();
}

// ---- the model ----

function showModel(model) {
    state.model = model;
    $("model-name").textContent = model.id;
    $("model-plan").textContent = planWords(model.card);
    setTrained(model.usual);
    columns.setLimits(model.least, model.cap, model.usual);
    form.allow("chat", model.chat, "This model has no chat template");
    $("template").closest("label").classList.toggle("gone", !model.chat);
    $("prompt").placeholder = model.tokenizer
        ? `Write a prompt.${hasKeyboard ? " Enter sends, Shift+Enter breaks the line, Esc stops." : ""}`
        : "Token ids, such as 1 2 3: this model has no tokenizer";
    limitFields(model);
    showExamples(model.examples);
    showKind();
}

/** Gives the fields the model's ranges. */
function limitFields(model) {
    for (const id of ["min_loops", "max_loops"]) {
        $(id).min = String(model.least);
        $(id).max = String(model.cap);
    }
    const threshold = thresholdRange(model.card.exit);
    $("depth-words").textContent =
        `The model runs up to ${plural(model.usual, "loop")} by itself; ${model.least} to ${model.cap} may be asked for.` +
        (threshold ? ` The exit threshold is a measure of ${threshold.unit}.` : "");
    $("threshold-box").hidden = threshold === null;
    if (threshold) {
        $("threshold").max = String(threshold.most);
        $("threshold").placeholder = String(threshold.value);
    }
    if (model.context > 1) {
        $("max_tokens").max = String(model.context - 1);
        if (Number($("max_tokens").value) > model.context - 1) $("max_tokens").value = String(model.context - 1);
    }
}

function showProblem(problem, retry) {
    $("model-name").textContent = problem;
    if (retry) return;
    $("settings").open = true; // where the key belongs
    hint(`The server: ${problem}. The field for it is under Settings.`);
}

async function findModel() {
    state.finding ??= fetchCard(headers()).then(({ card, problem, retry }) => {
        state.finding = null;
        state.retry = Boolean(retry);
        if (card) {
            showModel(card);
            if (!state.chosen) chooseKind(card);
        } else showProblem(problem, retry);
        $("health").classList.toggle("up", Boolean(card));
        return problem ?? "";
    });
    return state.finding;
}

/** The kind to begin with: the link's, the remembered, side by side if the model has such examples. */
function chooseKind(model) {
    state.chosen = true;
    const compares = model.examples.some((e) => e.kind === "compare");
    form.kind = begin.kind ?? (model.chat && !compares ? "chat" : "compare");
    showKind();
}

function showExamples(examples) {
    const box = $("examples");
    box.hidden = examples.length === 0;
    box.replaceChildren(...examples.map((example) => {
        const chip = button(example.title, "chip", () => void runExample(example));
        if (example.note) chip.title = example.note;
        return chip;
    }));
}

async function runExample(example) {
    await halt();
    form.kind = example.kind;
    form.fill({ ...example, loops: undefined }, true);
    if (example.loops?.length) columns.setLoops(example.loops);
    showKind();
    $("prompt").value = example.prompt;
    await ask(example.prompt);
    if (example.note) hint(example.note);
}

/** What an example says that the answer to this prompt is, with the loops that the example allows. */
function expectedOf(prompt, body) {
    const fits = (e) => e.prompt === prompt && (!e.max_loops || e.max_loops === body.depth?.max_loops);
    return state.model.examples.find(fits)?.answer;
}

// ---- what is shown for a kind ----

function showKind() {
    const kind = form.kind;
    form.show();
    const shown = { compare: columns.root, completion: single.root, chat: chat.root }[kind];
    if ($("views").firstChild !== shown) $("views").replaceChildren(shown);
    $("answers-title").textContent = { compare: "Side by side", completion: "Answer", chat: "Conversation" }[kind];
    // A conversation grows above its prompt. The answers move, so that the form keeps its focus.
    if (kind === "chat") $("main").insertBefore($("answers"), $("ask"));
    else $("ask").after($("answers"));
    if (kind === "chat") chat.moved();
    unpick();
}

/** The views of the kind that is shown, with their titles. */
function views() {
    if (form.kind === "compare") return columns.columns.map((c) => ({ title: c.title.textContent, view: c.view }));
    if (form.kind === "completion") return [{ title: "", view: single }];
    return chat.turns.slice(-1).map(({ view }) => ({ title: "", view }));
}

// ---- asking ----

/** Whether the form can be sent; if not, its fault is shown. */
function ready(prompt) {
    if (prompt.trim() === "") {
        hint("Write a prompt first.");
        $("prompt").focus();
        return false;
    }
    const wrong = form.firstWrong();
    if (wrong) {
        $("settings").open = true;
        wrong.focus();
        hint(`${wrong.labels[0].firstChild.textContent.trim()}: ${wrong.validationMessage}`);
        return false;
    }
    if (state.model && !state.model.tokenizer && parseIds(prompt) === null) {
        hint("This model has no tokenizer: write token ids, such as 1 2 3.");
        $("prompt").focus();
        return false;
    }
    hint("");
    return true;
}

const promptInput = (text) => ({ prompt: state.model.tokenizer ? text : parseIds(text) });

/** The runs of a request: [{view, body, path}], with empty views. */
function plan(prompt, settings) {
    const id = state.model.id;
    if (form.kind === "chat") {
        const messages = chat.messages(settings.system, prompt);
        const view = chat.begin(prompt);
        $("prompt").value = "";
        return [{ view, path: "v1/chat/completions", body: requestBody(id, settings, { messages }) }];
    }
    if (form.kind === "completion") {
        single.reset(prompt);
        return [{ view: single, path: "v1/completions", body: requestBody(id, settings, promptInput(prompt)) }];
    }
    const chatted = settings.template === "chat" && state.model.chat;
    const input = chatted ? { messages: [{ role: "user", content: prompt }] } : promptInput(prompt);
    return columns.columns.map(({ view, loops }) => {
        view.reset(chatted ? "" : tailOf(prompt));
        return { view, path: chatted ? "v1/chat/completions" : "v1/completions", body: requestBody(id, settings, input, loops) };
    });
}

function busy(on) {
    $("send").disabled = on;
    $("stop-answer").disabled = !on;
    columns.lock(on);
}

/** Sends the prompt as the form says. */
async function ask(prompt) {
    if (state.abort || !ready(prompt)) return;
    form.remember();
    await send(() => {
        const settings = form.settings();
        // A seed of the page's own can be told, and kept for the same answer again.
        settings.seed ??= Math.floor(Math.random() * 2 ** 31);
        return plan(prompt, settings).map((run) => ({ ...run, prompt, expected: expectedOf(prompt, run.body) }));
    });
}

/** Continues the completion where it was cut. */
async function goOn() {
    if (state.abort) return;
    const { body } = single.request;
    const first = Array.isArray(body.prompt) ? parseIds(single.before) : single.before;
    const prompt = Array.isArray(first) ? [...first, ...single.ids] : first + single.answer;
    await send(() => [{ view: single, path: "v1/completions", body: { ...body, prompt }, prompt: single.before }]);
}

/** Stops what comes now, and waits until it has. */
async function halt() {
    state.abort?.abort();
    await state.ended;
}

function send(makeRuns) {
    state.ended = sendAll(makeRuns);
    return state.ended;
}

async function sendAll(makeRuns) {
    state.abort = new AbortController();
    unpick();
    busy(true);
    pool.wake();
    launches.wake();
    let outcomes = [];
    try {
        const problem = state.model ? "" : await findModel();
        if (problem) {
            if (state.retry) hint(`The model: ${problem}.`);
            $("status").textContent = `Failed: ${problem}`;
            return;
        }
        $("status").textContent = "Answering";
        outcomes = await Promise.all(makeRuns().map(answerOne));
        const failed = outcomes.find((o) => o.failed);
        $("status").textContent = failed ? `Failed: ${failed.failed}` : outcomes.map((o) => o.words).join("; ");
    } finally {
        state.abort = null;
        busy(false);
        chat.dressLast();
        chat.keep();
    }
}

/** One run to its end. Returns {words} or {failed}. */
async function answerOne({ view, path, body, prompt, expected }) {
    view.request = { path, body };
    view.begin();
    // At temperature 0 a seed changes nothing.
    const seed = body.temperature === 0 ? null : body.seed;
    const extra = { seed, context: state.model.context, expected, onKeep: () => form.fill({ seed }, false) };
    try {
        const end = await stream(path, body, { headers: headers(), signal: state.abort.signal, onChunk: (chunk) => view.add(chunk) });
        view.ended = end.finish ?? "ended";
        view.finish(end, extra);
        dressed(view, prompt);
        return { words: `Done: ${plural(view.tokenCount, "token")}, ${end.finish ?? "ended"}` };
    } catch (e) {
        const tokens = plural(view.tokenCount, "token");
        view.ended = e.name === "AbortError" ? "stopped" : "failed";
        dressed(view, prompt);
        if (e.name === "AbortError") {
            view.finish({}, { ...extra, note: `Stopped by you after ${tokens}` });
            dressed(view, prompt);
            return { words: `Stopped after ${tokens}` };
        }
        view.fail(e.message);
        return { failed: e.message };
    }
}

function dressed(view, prompt) {
    view.acts.replaceChildren();
    if (view === single) {
        view.acts.append(button("Regenerate", "tiny", () => void ask(prompt)));
        if (view.ended === "length" || view.ended === "stopped") view.acts.append(button("Continue", "tiny", () => void goOn()));
    }
    if (!chat.turns.some((t) => t.view === view)) dress(view);
}

// ---- copying, links, pictures ----

/** Copies text; where the browser forbids that, shows it for copying by hand. */
async function copy(text, button) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const box = make("textarea", "visually-hidden", text);
        document.body.append(box);
        box.select();
        const done = document.execCommand("copy"); // without a secure context there is no clipboard
        box.remove();
        button.focus();
        if (!done) return hint("The browser does not allow copying.");
    }
    const said = button.textContent;
    if (said === "Copied") return;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = said), 1200);
}

/** The buttons that every answer has. */
function dress(view) {
    view.acts.querySelectorAll(".copy").forEach((b) => b.remove());
    const add = (word, text) => view.acts.append(button(word, "tiny copy", (e) => void copy(text(), e.target)));
    add("Copy text", () => view.answer);
    if (!view.request) return; // of an earlier visit
    const { path, body } = view.request;
    add("Copy JSON", () => JSON.stringify({ request: body, answer: view.answer, ended: view.ended, tokens: view.tokens }, null, 1));
    add("Copy curl", () => curlOf(new URL(path, location.href).href, body, Boolean(headers().Authorization)));
}

$("copy-link").addEventListener("click", (e) => {
    const fragment = writeLink({ kind: form.kind, prompt: $("prompt").value || views()[0]?.view.before || "", settings: form.settings(), loops: columns.loops });
    void copy(location.href.split("#")[0] + fragment, e.target);
});

function picture() {
    const style = getComputedStyle(document.documentElement);
    const look = { colours: colours(), ...Object.fromEntries(
        [["paper", "card"], ["ink", "ink"], ["soft", "soft"]].map(([name, from]) => [name, style.getPropertyValue(`--${from}`).trim()])) };
    const shown = views();
    const prompt = form.kind === "compare" ? $("prompt").value : form.kind === "chat" ? (chat.turns.at(-1)?.question ?? "") : "";
    return layOut({
        model: state.model?.id ?? "",
        prompt,
        columns: shown.map(({ title, view }) => ({
            title, before: view.before, tokens: view.tokens, end: view.endLines, figures: view.figureWords(),
        })),
    }, look, measurer());
}
$("save-svg").addEventListener("click", () => {
    if (views().length) download(new Blob([toSvg(picture())], { type: "image/svg+xml" }), "fathom.svg");
});
$("save-png").addEventListener("click", () => {
    if (views().length) toCanvas(picture()).toBlob((blob) => download(blob, "fathom.png"));
});

// ---- events ----

$("form").addEventListener("submit", (e) => {
    e.preventDefault();
    void ask($("prompt").value);
});
$("stop-answer").addEventListener("click", () => state.abort?.abort());
// On a phone Enter breaks the line: its keyboard has no Shift+Enter.
document.addEventListener("keydown", (e) => {
    const sends = e.key === "Enter" && !e.isComposing && (e.ctrlKey || e.metaKey || (e.target === $("prompt") && !e.shiftKey && hasKeyboard));
    if (sends) {
        e.preventDefault();
        void ask($("prompt").value);
    } else if (e.key === "Escape") state.abort?.abort();
});
for (const radio of document.querySelectorAll("input[name=kind]")) {
    radio.addEventListener("change", () => {
        showKind();
        form.remember();
    });
}
$("settings").addEventListener("input", () => form.show());
$("defaults").addEventListener("click", () => {
    form.fill({}, true);
    form.remember();
});
$("numbers").addEventListener("change", () => $("answers").classList.toggle("numbered", $("numbers").checked));
$("clear").addEventListener("click", async () => {
    await halt();
    hint("");
    if (form.kind === "chat") chat.clear();
    for (const { view } of views()) view.reset("");
    unpick();
    $("prompt").focus();
});

// ---- the depth of one token ----

let picked = null;
function unpick() {
    picked?.classList.remove("picked");
    picked = null;
    $("token-info").textContent = usualInfo;
}
/** Tells the depth of a token. Keys have it read aloud; under a moving pointer that would be a flood. */
function pick(token, aloud) {
    picked?.classList.remove("picked");
    picked = token;
    token.classList.add("picked");
    $("token-info").setAttribute("aria-live", aloud ? "polite" : "off");
    const view = token.closest(".view").view;
    const { text, depths } = view.tokens[Number(token.dataset.at)];
    const beyond = Math.max(...depths) > scale.trained ? ", more than it was trained with" : "";
    $("token-info").textContent =
        `Token ${Number(token.dataset.at) + 1}, ${JSON.stringify(text)}, ran ${depths.join(", ")} of the model’s ${plural(scale.trained, "loop")}${beyond}.`;
}
for (const event of ["pointerover", "click"]) {
    $("views").addEventListener(event, (e) => {
        const token = e.target.closest(".tok");
        if (token) pick(token, event === "click");
    });
}
$("views").addEventListener("keydown", (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    const text = e.target.closest(".text");
    if (!step || !text) return;
    const all = [...text.querySelectorAll(".tok")];
    const at = all.indexOf(picked);
    const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step))];
    if (!next) return;
    e.preventDefault();
    pick(next, true);
    next.scrollIntoView({ block: "nearest" });
});

// The key to drafted text, once some was seen.
$("views").addEventListener("drafted", () => ($("draft-key").hidden = false));

// ---- the beginning ----

/** Fills the form from the link; it never sends by itself. Returns the link's kind or null. */
function openLink() {
    const link = readLink(location.hash);
    if (!link) return null;
    form.fill(link.settings, true);
    $("prompt").value = link.prompt;
    if (link.loops) columns.setLoops(link.loops);
    hint("This prompt came with the link. Send it when you have read it.");
    return link.kind;
}
addEventListener("hashchange", () => {
    const kind = openLink();
    if (kind) {
        form.kind = kind;
        showKind();
    }
});

startTheme($("theme"));
$("api-key").value = kept("fathom-key");
$("launch-info").dataset.usual = "A column is one launch: all its rows are computed together, each at its own loop. A mark below says that it holds positions of a prompt.";
$("launch-info").textContent = $("launch-info").dataset.usual;
chat.recall();
const remembered = form.recall();
const begin = { kind: openLink() ?? remembered };
if (begin.kind) form.kind = begin.kind;
showKind();
if (hasKeyboard) $("prompt").focus();
void findModel();

const host = {
    headers,
    busy: () => state.abort !== null,
    up(ok) {
        if (!ok) {
            state.model = null;
            state.retry = true;
            $("health").classList.remove("up");
            if (!state.abort) $("model-name").textContent = "not reachable";
        } else if (!state.model && state.retry) void findModel();
    },
};
const strip = new Strip({
    box: $("launches"), canvas: $("strip"), sums: $("sums"), info: $("launch-info"), note: $("strip-note"),
    figures: { perSecond: $("l-rate"), rowsEach: $("l-rows"), mixed: $("l-mixed") },
});
const pool = startPool(host);
const launches = startStrip(strip, { headers, busy: () => state.abort !== null || pool.running() });
$("api-key").addEventListener("change", () => {
    try {
        sessionStorage.setItem("fathom-key", $("api-key").value);
    } catch {
        // The key lasts as long as the page.
    }
    hint("");
    void findModel();
    pool.wake();
    launches.wake();
});
