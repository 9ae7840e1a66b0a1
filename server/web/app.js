// The page: sends a prompt, streams the answer and colours each token by its depth. pool.js
// shows the state of the server; core.js holds all code that needs no document.
import { depthStep, EventSplitter, planWords, readChunk, requestBody, short, thresholdScale } from "./core.js";
import { startPool } from "./pool.js";

const $ = (id) => document.getElementById(id);
const state = {
    model: null,
    most: 16, // end of the depth scale: the default most loops, or the depth of a deeper token
    knowsMost: false,
    abort: null,
    tokens: [], // depth of each token of the shown answer
};

// ---- theme ----

const dark = matchMedia("(prefers-color-scheme: dark)");
function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : dark.matches;
}
function showTheme() {
    $("theme").setAttribute("aria-pressed", String(isDark()));
}
$("theme").addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
        localStorage.setItem("fathom-theme", next);
    } catch {
        // Without storage the choice lasts as long as the page.
    }
    showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

// ---- the form ----

const kept = ["kind", "effort", "max-tokens", "temperature", "seed"];
function recall() {
    try {
        $("api-key").value = sessionStorage.getItem("fathom-key") ?? "";
        const saved = JSON.parse(localStorage.getItem("fathom-form") ?? "{}");
        for (const id of kept) {
            if (id === "kind") {
                const radio = document.querySelector(`input[name=kind][value="${saved.kind}"]`);
                if (radio) radio.checked = true;
            } else if (typeof saved[id] === "string") $(id).value = saved[id];
        }
    } catch {
        // Nothing is stored, or another version stored it.
    }
}
function remember() {
    try {
        sessionStorage.setItem("fathom-key", $("api-key").value);
        const saved = { kind: kindNow() };
        for (const id of kept) if (id !== "kind") saved[id] = $(id).value;
        localStorage.setItem("fathom-form", JSON.stringify(saved));
    } catch {
        // Storage is off or full.
    }
}
function kindNow() {
    return document.querySelector("input[name=kind]:checked").value;
}
function headers() {
    const key = $("api-key").value.trim();
    return key ? { Authorization: `Bearer ${key}` } : {};
}

function showSliders() {
    $("depth-sliders").hidden = !$("by-hand").checked;
    $("min-out").textContent = $("min-loops").value;
    $("max-out").textContent = $("max-loops").value;
    const threshold = Number($("threshold").value);
    $("thr-out").textContent = Number($("threshold").max) >= 1 ? threshold.toFixed(2) : threshold.toPrecision(2);
}
$("by-hand").addEventListener("change", showSliders);
$("threshold").addEventListener("input", showSliders);
// The two ends push each other, so the range is never empty.
$("min-loops").addEventListener("input", () => {
    if (Number($("max-loops").value) < Number($("min-loops").value)) {
        $("max-loops").value = $("min-loops").value;
    }
    showSliders();
});
$("max-loops").addEventListener("input", () => {
    if (Number($("min-loops").value) > Number($("max-loops").value)) {
        $("min-loops").value = $("max-loops").value;
    }
    showSliders();
});

function formNow() {
    const seed = $("seed").value.trim();
    return {
        model: state.model,
        kind: kindNow(),
        prompt: $("prompt").value,
        effort: $("effort").value,
        maxTokens: Math.max(1, Math.trunc(Number($("max-tokens").value)) || 128),
        temperature: $("temperature").value === "" ? 1 : Number($("temperature").value),
        seed: seed === "" ? NaN : Number(seed),
        depth: $("by-hand").checked
            ? {
                  min: Number($("min-loops").value),
                  max: Number($("max-loops").value),
                  threshold: $("threshold-box").hidden ? NaN : Number($("threshold").value),
              }
            : null,
    };
}

// ---- the model ----

function setMost(most, sure) {
    if (!(most >= 1) || (state.knowsMost && !sure && most <= state.most)) return;
    state.most = most;
    state.knowsMost ||= sure;
    for (const span of $("answer").children) tint(span);
    drawLegend();
}

/** A model without a chat template can only continue text. */
function allowChat(yes) {
    const [chat, completion] = document.querySelectorAll("input[name=kind]");
    chat.disabled = !yes;
    chat.parentElement.title = yes ? "" : "This model has no chat template";
    if (!yes) completion.checked = true;
}

/** Gives the threshold's slider the range and unit of the model's exit rule. */
function setThreshold(exit) {
    const scale = thresholdScale(exit);
    $("threshold-box").hidden = scale === null;
    if (scale === null) return;
    for (const key of ["min", "max", "step", "value"]) $("threshold")[key] = String(scale[key]);
    $("thr-unit").textContent = scale.unit;
}

async function findModel() {
    try {
        const answer = await fetch("v1/models", { headers: headers() });
        if (!answer.ok) throw new Error(answer.status === 401 ? "needs an API key" : `HTTP ${answer.status}`);
        const card = (await answer.json()).data[0];
        state.model = card.id;
        $("model-name").textContent = card.id;
        $("model-plan").textContent = planWords(card);
        const usual = card.loops?.default ?? card.trained_loops ?? card.max_loops ?? state.most;
        const cap = card.loops?.cap ?? card.max_loops ?? usual;
        for (const id of ["min-loops", "max-loops"]) {
            $(id).min = String(card.loops?.least ?? 1);
            $(id).max = String(cap);
        }
        $("max-loops").value = String(usual);
        setThreshold(card.exit);
        showSliders();
        setMost(usual, true);
        allowChat(card.meta?.chat_template !== null);
        return true;
    } catch (e) {
        $("model-name").textContent = e instanceof TypeError ? "not reachable" : e.message;
        return false;
    }
}

// ---- the answer ----

function tint(span) {
    const depths = span.dataset.depths ? span.dataset.depths.split(" ").map(Number) : [];
    if (depths.length === 0) return;
    const steps = depths.map((d) => depthStep(d, state.most));
    span.className = `tok d${Math.max(...steps)}`;
    // Text of several tokens has the colour of the deepest token, and below it a strip with
    // the colours of all.
    if (new Set(steps).size > 1) {
        const part = 100 / steps.length;
        const bands = steps.map((s, i) => `var(--d${s}) ${i * part}% ${(i + 1) * part}%`);
        span.style.backgroundImage = `linear-gradient(90deg, ${bands.join(", ")})`;
        span.classList.add("banded");
    } else span.style.backgroundImage = "";
}

function addToken(text, depths) {
    // The space before a word has no colour, so words stand apart and parts of a word touch.
    const lead = text.trim() === "" ? "" : /^\s*/.exec(text)[0];
    const span = document.createElement("span");
    span.textContent = text.slice(lead.length);
    if (depths.length) {
        span.dataset.text = text;
        span.dataset.depths = depths.join(" ");
        span.dataset.at = String(state.tokens.length + 1);
        const deepest = Math.max(...depths);
        if (deepest > state.most) setMost(deepest, false);
        tint(span);
    }
    $("answer").append(lead, span);
    state.tokens.push(...depths);
}

$("answer").addEventListener("pointerover", (e) => {
    const span = e.target.closest(".tok");
    if (!span) return;
    const depths = span.dataset.depths.split(" ");
    $("token-info").textContent =
        `Token ${span.dataset.at}: ${JSON.stringify(span.dataset.text)} ran ` +
        `${depths.join(", ")} of at most ${state.most} loops.`;
});
$("numbers").addEventListener("change", () => {
    $("answer").classList.toggle("numbered", $("numbers").checked);
});

function drawLegend() {
    const counts = new Array(state.most).fill(0);
    for (const d of state.tokens) counts[d - 1] = (counts[d - 1] ?? 0) + 1;
    const top = Math.max(1, ...counts);
    const box = $("legend");
    if (box.children.length !== counts.length) {
        box.replaceChildren(
            ...counts.map((_, i) => {
                const cell = document.createElement("div");
                const bar = document.createElement("i");
                const label = document.createElement("b");
                label.textContent = String(i + 1);
                cell.append(bar, label);
                return cell;
            }),
        );
    }
    counts.forEach((n, i) => {
        const cell = box.children[i];
        cell.firstChild.className = `d${depthStep(i + 1, state.most)}`;
        cell.firstChild.style.height = `${4 + Math.round((n / top) * 40)}px`;
        cell.title = `${n} tokens ran ${i + 1} loops`;
    });
    const said = counts.flatMap((n, i) => (n ? [`${n} at depth ${i + 1}`] : []));
    box.setAttribute("aria-label", said.length ? `Tokens by depth: ${said.join(", ")}` : "Depth scale");
}

function drawFigures(run) {
    const n = run.tokens;
    $("f-tokens").textContent = short(n);
    $("f-ttft").textContent = run.first ? `${short(run.first - run.start)} ms` : "–";
    // Counted from sending, since a short answer may arrive in one piece.
    const seconds = (run.last - run.start) / 1000;
    $("f-rate").textContent = n > 0 && seconds > 0 ? short(n / seconds) : "–";
    const sum = state.tokens.reduce((a, b) => a + b, 0);
    const mean = sum / state.tokens.length;
    $("f-depth").textContent = state.tokens.length ? mean.toFixed(2) : "–";
    $("f-saved").textContent = state.tokens.length
        ? `${Math.round(100 * (1 - mean / state.most))} %`
        : "–";
}

function fail(message) {
    $("error").textContent = message;
    $("error").hidden = false;
    $("status").textContent = `Failed: ${message}`;
}

async function errorOf(answer) {
    const text = await answer.text();
    try {
        return JSON.parse(text).error.message;
    } catch {
        return `HTTP ${answer.status} ${answer.statusText}`.trim();
    }
}

/** Reads the stream to its end; throws if it was cut or carried an error. */
async function readAnswer(answer, run) {
    const reader = answer.body.getReader();
    const split = new EventSplitter();
    let done = false;
    let drawn = 0;
    for (;;) {
        const { value, done: closed } = await reader.read();
        if (closed) break;
        for (const payload of split.push(value)) {
            const chunk = readChunk(payload);
            if (chunk.error) throw new Error(chunk.error);
            if (chunk.done) done = true;
            if (chunk.usage) run.usage = chunk.usage;
            if (!chunk.counted) continue;
            run.last = performance.now();
            run.first ||= run.last;
            if (chunk.text || chunk.depths.length) addToken(chunk.text, chunk.depths);
            run.tokens += chunk.depths.length || (chunk.text ? 1 : 0);
            if (chunk.finish) run.finish = chunk.finish;
        }
        // Text is shown at once; figures are redrawn at most 20 times a second.
        if (performance.now() - drawn > 50) {
            drawn = performance.now();
            drawFigures(run);
            drawLegend();
        }
    }
    if (!done) throw new Error("the stream ended before it was complete");
}

function clear() {
    state.tokens = [];
    $("answer").replaceChildren();
    $("error").hidden = true;
    drawLegend();
}

function busy(on) {
    $("send").disabled = on;
    $("stop").disabled = !on;
    $("answer").classList.toggle("streaming", on);
    $("answer").setAttribute("aria-busy", String(on));
}

async function ask() {
    if (state.abort) return;
    if ($("prompt").value === "") {
        $("prompt").focus();
        return;
    }
    remember();
    state.abort = new AbortController();
    clear();
    busy(true);
    $("status").textContent = "Answering";
    const run = { start: performance.now(), first: 0, last: 0, tokens: 0, usage: null, finish: null };
    try {
        if (!state.model && !(await findModel())) throw new Error(`Model: ${$("model-name").textContent}`);
        const form = formNow();
        const path = form.kind === "chat" ? "v1/chat/completions" : "v1/completions";
        run.start = performance.now();
        const answer = await fetch(path, {
            method: "POST",
            headers: { "Content-Type": "application/json", ...headers() },
            body: JSON.stringify(requestBody(form)),
            signal: state.abort.signal,
        });
        if (!answer.ok) throw new Error(await errorOf(answer));
        await readAnswer(answer, run);
        if (run.usage) run.tokens = run.usage.completion_tokens;
        $("status").textContent = `Done: ${run.tokens} tokens, ${run.finish ?? "ended"}`;
    } catch (e) {
        if (e.name === "AbortError") $("status").textContent = `Stopped after ${run.tokens} tokens`;
        else fail(e instanceof TypeError ? "The server cannot be reached." : e.message);
    } finally {
        state.abort = null;
        busy(false);
        drawFigures(run);
        drawLegend();
    }
}

$("form").addEventListener("submit", (e) => {
    e.preventDefault();
    void ask();
});
$("stop").addEventListener("click", () => state.abort?.abort());
document.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
        e.preventDefault();
        void ask();
    } else if (e.key === "Escape") state.abort?.abort();
});
$("api-key").addEventListener("change", () => {
    remember();
    void findModel();
});

recall();
showSliders();
drawLegend();
void findModel();
startPool({
    headers,
    busy: () => state.abort !== null,
    most: () => state.most,
    sawDepths: (n) => setMost(n, false),
    up: (ok) => {
        $("health").classList.toggle("up", ok);
        if (ok && !state.model) void findModel();
    },
});
