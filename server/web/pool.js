// The live view of the server: polls /metrics while the page is visible.
import { depthStep, metricByDepth, metricSum, parseMetrics, short } from "./core.js";

const $ = (id) => document.getElementById(id);
const IDLE_MS = 2000;
const BUSY_MS = 500;
const KEEP_MS = 120000; // time span of the rate line
const EXITS_MS = 60000; // time span of the depth figure

/** Number of entries up to the last one that is not 0. */
function deepest(values) {
    return values.findLastIndex((v) => v > 0) + 1;
}

/** values[i] belongs to depth i + 1. */
function drawBars(id, values, most, what) {
    const box = $(id);
    const n = Math.max(deepest(values), most);
    if (box.children.length !== n) {
        box.replaceChildren(
            ...Array.from({ length: n }, () => {
                const cell = document.createElement("div");
                cell.append(document.createElement("i"), document.createElement("b"));
                return cell;
            }),
        );
    }
    const top = Math.max(1, ...values);
    const said = [];
    for (let i = 0; i < n; i++) {
        const v = values[i] ?? 0;
        const cell = box.children[i];
        cell.firstChild.className = `d${depthStep(i + 1, most)}${v ? "" : " none"}`;
        cell.firstChild.style.height = `${v ? 4 + Math.round((v / top) * 60) : 2}px`;
        cell.lastChild.textContent = n <= 16 || i % 4 === 3 ? String(i + 1) : "";
        cell.title = `${short(v)} ${what} ${i + 1}`;
        if (v) said.push(`${short(v)} at ${i + 1}`);
    }
    box.setAttribute("aria-label", said.length ? said.join(", ") : "None");
}

function drawSpark(points, now) {
    const [area, line] = $("spark").children;
    if (points.length < 2) return;
    const top = Math.max(1, ...points.map((p) => p.rate));
    const at = (p) => {
        const x = 240 - ((now - p.t) / KEEP_MS) * 240;
        return `${x.toFixed(1)} ${(46 - (p.rate / top) * 42).toFixed(1)}`;
    };
    const path = points.map(at).join(" L");
    line.setAttribute("d", `M${path}`);
    const first = at(points[0]).split(" ")[0];
    area.setAttribute("d", `M${first} 48 L${path} L240 48 Z`);
}

/**
 * host.headers(): headers to send; host.busy(): poll faster; host.most(): deepest depth;
 * host.sawDepths(n): the server counts up to n; host.up(ok): whether it answers.
 */
export function startPool(host) {
    const history = []; // {t, tokens, rate, exits}
    let timer = 0;

    function show(metrics, now) {
        const tokens = metricSum(metrics, "vllm:generation_tokens_total");
        // Depths count from 1, so entry 0 is empty; loops count from 0.
        const exits = metricByDepth(metrics, "fathom_exits_total").slice(1);
        const rows = metricByDepth(metrics, "fathom_rows");
        const last = history.at(-1);
        // A counter that went back means that the server was restarted.
        if (last && tokens < last.tokens) history.length = 0;
        const before = history.at(-1);
        const rate = before ? ((tokens - before.tokens) * 1000) / (now - before.t) : 0;
        history.push({ t: now, tokens, rate, exits });
        while (history[0].t < now - KEEP_MS) history.shift();

        host.sawDepths(deepest(exits));
        const from = history.find((h) => h.t >= now - EXITS_MS);
        $("p-running").textContent = short(metricSum(metrics, "vllm:num_requests_running") ?? NaN);
        $("p-waiting").textContent = short(metricSum(metrics, "vllm:num_requests_waiting") ?? NaN);
        $("p-rate").textContent = short(rate);
        drawBars("rows", rows, host.most(), "rows whose next loop is");
        drawBars("exits", exits.map((v, i) => v - (from.exits[i] ?? 0)), host.most(), "tokens of depth");
        const used = metricSum(metrics, "vllm:kv_cache_usage_perc");
        const percent = used === null ? "–" : `${(used * 100).toFixed(1)} %`;
        $("cache").value = used ?? 0;
        $("cache").textContent = percent;
        $("p-cache").textContent = percent;
        drawSpark(history, now);
    }

    async function poll() {
        clearTimeout(timer);
        if (document.visibilityState === "hidden") return;
        let ok = false;
        let note = "";
        try {
            const answer = await fetch("metrics", { headers: host.headers(), cache: "no-store" });
            ok = true;
            if (answer.ok) show(parseMetrics(await answer.text()), performance.now());
            else note = answer.status === 401 ? "Metrics need the API key." : "This server shows no metrics.";
        } catch {
            note = "The server cannot be reached.";
        }
        host.up(ok);
        $("pool-note").textContent = note;
        $("pool-note").hidden = note === "";
        timer = setTimeout(poll, host.busy() ? BUSY_MS : IDLE_MS);
    }

    drawBars("rows", [], host.most(), "rows whose next loop is");
    drawBars("exits", [], host.most(), "tokens of depth");
    document.addEventListener("visibilitychange", poll);
    $("form").addEventListener("submit", () => setTimeout(poll, 100));
    void poll();
}
