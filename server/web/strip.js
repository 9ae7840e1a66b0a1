// The launch strip: the last launches of the engine, one column each, one lane for each loop.
// A bar in a lane stands for the rows of this launch that ran this loop. Tokens of different
// depth that share a launch stand above each other in one column.
import { plural, short } from "./core.js";
import { colours, onScale } from "./depth.js";
import { DEEPEST } from "./ramp.js";
import { backoff, poller } from "./poll.js";

const BUSY_MS = 250;
const IDLE_MS = 2000;
const SUM_MS = 5000; // time span of the sums beside the lanes
const KEEP = 4096; // launches that the sums may need
const STEP = 5; // pixels of a column, with its gap
const GAP = 1;

const rowsOf = (launch) => launch.rows.reduce((sum, n) => sum + n, 0);
const loopsOf = (launch) => launch.rows.filter((n) => n > 0).length;

/** The launches of a reply that can be shown; others are dropped. */
export function readLaunches(reply) {
    const good = (o) => Number.isFinite(o?.id) && Number.isFinite(o.ms) && Number.isFinite(o.us) &&
        Array.isArray(o.rows) && o.rows.length <= 1024 && o.rows.every((n) => Number.isFinite(n) && n >= 0);
    return Array.isArray(reply?.launches) ? reply.launches.filter(good) : [];
}

/** Sums over the launches that ended in the last SUM_MS before the newest one. */
export function sumUp(launches, span = SUM_MS) {
    const newest = launches.at(-1)?.ms ?? 0;
    const recent = launches.filter((l) => l.ms > newest - span);
    const rows = [];
    for (const launch of recent) launch.rows.forEach((n, i) => (rows[i] = (rows[i] ?? 0) + n));
    const total = recent.reduce((sum, l) => sum + rowsOf(l), 0);
    const seconds = recent.length > 1 ? (newest - recent[0].ms) / 1000 : 0;
    return {
        rows,
        perSecond: seconds > 0 ? (recent.length - 1) / seconds : NaN,
        rowsEach: recent.length ? total / recent.length : NaN,
        mixed: recent.length ? recent.filter((l) => loopsOf(l) > 1).length / recent.length : NaN,
    };
}

/** One launch in words. */
export function launchWords(launch) {
    const parts = launch.rows.flatMap((n, i) => (n ? [`${n} at loop ${i + 1}`] : []));
    const prompt = launch.prompt > 0 ? `; ${launch.prompt} of them are prompt positions` : "";
    return `Launch ${launch.id.toLocaleString("en")}: ${plural(rowsOf(launch), "row")} in ${short(launch.us)} µs: ${parts.join(", ")}${prompt}.`;
}

/** Height of a bar, 0 to 1: by the square root, so one row stays visible beside a prompt of hundreds. */
const share = (rows, most) => Math.min(1, Math.sqrt(rows / most));

/** Whether a lane has a line and words: lanes that are thin have them at every fourth loop. */
const isTold = (lane, i) => lane >= 11 || i % 4 === 3;

export class Strip {
    /** elements: {box, canvas, sums, info, note, figures: {perSecond, rowsEach, mixed}} */
    constructor(elements) {
        Object.assign(this, elements);
        this.launches = [];
        this.loops = 8;
        this.last = 0;
        this.picked = -1; // id of the launch that is told in words
        onScale(() => this.draw());
        new ResizeObserver(() => this.draw()).observe(this.box);
        this.box.addEventListener("pointermove", (e) => this.#pickAt(e.offsetX));
        this.box.addEventListener("pointerdown", (e) => this.#pickAt(e.offsetX));
        this.box.addEventListener("pointerleave", () => this.#pick(null));
        this.box.addEventListener("blur", () => this.#pick(null));
        this.box.addEventListener("keydown", (e) => this.#key(e));
    }

    /** Takes a reply of the server: true if it had new launches. */
    take(reply) {
        if (reply.last < this.last) this.launches = []; // the server was restarted
        this.last = Number.isFinite(reply.last) ? reply.last : 0;
        if (reply.loops >= 1 && reply.loops <= 1024) this.loops = reply.loops;
        const fresh = readLaunches(reply);
        this.launches.push(...fresh);
        this.launches.splice(0, this.launches.length - KEEP);
        if (fresh.length) this.draw();
        return fresh.length > 0;
    }

    get lanes() {
        const deepest = this.shown.reduce((most, l) => Math.max(most, l.rows.findLastIndex((n) => n > 0) + 1), this.loops);
        return Math.min(deepest, DEEPEST);
    }
    get shown() {
        return this.launches.slice(-Math.max(1, Math.floor(this.box.clientWidth / STEP)));
    }

    draw() {
        const width = this.box.clientWidth;
        if (!width) return;
        const shown = this.shown;
        const lanes = this.lanes;
        const lane = Math.max(3, Math.min(22, Math.round(176 / lanes)));
        const paints = colours();
        const pen = this.#pen(width, lanes * lane + 6); // below the lanes: marks of prompts
        const style = getComputedStyle(this.box);
        const look = { pen, lane, lanes, paints, line: style.getPropertyValue("--line"), edge: style.getPropertyValue("--edge") };
        pen.fillStyle = look.line;
        for (let i = 0; i < lanes; i++) if (isTold(lane, i)) pen.fillRect(0, (i + 1) * lane - 1, width, 1);
        // A prompt's hundreds of rows would flatten all others, so they reach the lane's top at most.
        const plain = shown.filter((l) => !(l.prompt > 0));
        look.most = (plain.length ? plain : shown).reduce((top, l) => Math.max(top, ...l.rows), 1);
        shown.forEach((launch, at) => this.#drawLaunch(look, launch, width - (shown.length - at) * STEP));
        this.#drawSums(lanes, lane, paints);
    }

    #pen(width, height) {
        const pixels = devicePixelRatio || 1;
        Object.assign(this.canvas, { width: Math.round(width * pixels), height: Math.round(height * pixels) });
        this.canvas.style.height = `${height}px`;
        const pen = this.canvas.getContext("2d");
        pen.scale(pixels, pixels);
        return pen;
    }

    #drawLaunch({ pen, lane, lanes, paints, line, edge, most }, launch, x) {
        launch.rows.slice(0, lanes).forEach((rows, i) => {
            if (!rows) return;
            const tall = Math.max(2, Math.round(share(rows, most) * (lane - 2)));
            pen.fillStyle = paints[Math.min(i, paints.length - 1)].ground;
            pen.fillRect(x, (i + 1) * lane - 1 - tall, STEP - GAP, tall);
            pen.strokeStyle = line; // the palest colour needs an edge
            if (i === 0) pen.strokeRect(x + 0.5, (i + 1) * lane - 0.5 - tall, STEP - GAP - 1, tall - 1);
        });
        pen.fillStyle = pen.strokeStyle = edge;
        if (launch.prompt > 0) pen.fillRect(x, lanes * lane + 2, STEP - GAP, 3);
        if (launch.id === this.picked) pen.strokeRect(x - 1, 0.5, STEP + 1, lanes * lane);
    }

    #drawSums(lanes, lane, paints) {
        const sum = sumUp(this.launches);
        const top = Math.max(1, ...Array.from(sum.rows, (n) => n ?? 0));
        if (this.sums.children.length !== lanes) {
            this.sums.replaceChildren(...Array.from({ length: lanes }, (_, i) => {
                const row = document.createElement("div");
                const [loop, bar, count] = ["b", "i", "span"].map((tag) => document.createElement(tag));
                row.append(loop, bar, count);
                return row;
            }));
        }
        const words = [];
        for (let i = 0; i < lanes; i++) {
            const rows = sum.rows[i] ?? 0;
            const [loop, bar, count] = this.sums.children[i].children;
            this.sums.children[i].style.height = `${lane}px`;
            const told = isTold(lane, i); // an empty word keeps its place beside the bars
            loop.textContent = told ? String(i + 1) : "";
            bar.style.width = `${(rows / top) * 55}%`;
            bar.style.backgroundColor = paints[Math.min(i, paints.length - 1)].ground;
            count.textContent = told && rows ? short(rows) : "";
            this.sums.children[i].classList.toggle("quiet-lane", !told);
            if (rows) words.push(`${short(rows)} at loop ${i + 1}`);
        }
        this.sums.setAttribute("aria-label", `Rows by loop: ${words.join(", ") || "none"}`);
        this.figures.perSecond.textContent = short(Math.round(sum.perSecond));
        this.figures.rowsEach.textContent = Number.isFinite(sum.rowsEach) ? sum.rowsEach.toFixed(1) : "–";
        this.figures.mixed.textContent = Number.isFinite(sum.mixed) ? `${Math.round(100 * sum.mixed)} %` : "–";
    }

    #pickAt(x) {
        const shown = this.shown;
        const back = Math.floor((this.box.clientWidth - x) / STEP);
        this.#pick(shown[shown.length - 1 - back] ?? null);
    }

    /** Tells a launch in words. Keys have it read aloud; under a moving pointer that would be a flood. */
    #pick(launch, aloud = false) {
        this.info.setAttribute("aria-live", aloud ? "polite" : "off");
        this.picked = launch?.id ?? -1;
        this.info.textContent = launch ? launchWords(launch) : this.info.dataset.usual;
        this.draw();
    }

    #key(e) {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
        if (!step) return;
        e.preventDefault();
        const shown = this.shown;
        const at = shown.findIndex((l) => l.id === this.picked);
        const next = at < 0 ? shown.length - 1 : Math.min(shown.length - 1, Math.max(0, at + step));
        this.#pick(shown[next] ?? null, true);
    }

    /** Hides the strip and says why. */
    hide(why) {
        this.note.textContent = why;
        this.note.hidden = why === "";
        this.box.closest(".strip").hidden = why !== "";
    }
}

/** Keeps a strip up to date. host: headers(), busy(). */
export function startStrip(strip, host) {
    const later = backoff();
    async function look() {
        try {
            const answer = await fetch(`launches?after=${strip.last}`, { headers: host.headers(), cache: "no-store" });
            if (answer.status === 401) {
                strip.hide("The picture of the launches needs an API key that may read it.");
                return null;
            }
            if (answer.status === 404) {
                strip.hide("This server does not tell its launches.");
                return null;
            }
            if (!answer.ok) return later.next();
            const moved = strip.take(await answer.json());
            strip.hide("");
            later.reset();
            return moved || host.busy() ? BUSY_MS : IDLE_MS;
        } catch {
            return later.next();
        }
    }
    const poll = poller(look);
    poll.wake();
    return poll;
}
