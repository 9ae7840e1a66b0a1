// The depth scale of this page: writes the ramp into style variables, and colours elements.
// An element names its depth's variable, so a new theme or scale repaints without touching it.
import { DEEPEST, ramp, scaleEnd } from "./ramp.js";

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const watchers = new Set();

export const scale = {
    trained: 8, // the model's default number of loops
    seen: 1, // the deepest token shown on this page
    end: 0, // the depth of the last colour
};

export const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

/** Calls redraw after a change of the theme or the scale. */
export function onScale(redraw) {
    watchers.add(redraw);
}

function write() {
    scale.end = scaleEnd(scale.trained, scale.seen);
    const colours = ramp(scale.end, isDark());
    for (let depth = 1; depth <= DEEPEST; depth++) {
        const { ground, ink } = colours[Math.min(depth, scale.end) - 1];
        root.style.setProperty(`--d${depth}`, ground);
        root.style.setProperty(`--t${depth}`, ink);
    }
    for (const redraw of watchers) redraw();
}

export function setTrained(loops) {
    if (loops === scale.trained && scale.end) return;
    scale.trained = loops;
    write();
}

/** Tells that a token of this depth is shown. */
export function sawDepth(depth) {
    if (depth <= scale.seen) return;
    scale.seen = depth;
    if (scaleEnd(scale.trained, depth) !== scale.end) write();
}

const index = (depth) => Math.min(Math.max(1, depth), DEEPEST);
export const ground = (depth) => `var(--d${index(depth)})`;
export const ink = (depth) => `var(--t${index(depth)})`;

/** The colours themselves, for a canvas or a picture. */
export const colours = () => ramp(scale.end, isDark());

/** Text of several tokens has the deepest token's colour, and below it a band with all their colours. */
export function paint(span, depths) {
    const deepest = Math.max(...depths);
    span.style.backgroundColor = ground(deepest);
    span.style.color = ink(deepest);
    span.classList.toggle("beyond", deepest > scale.trained);
    if (new Set(depths).size < 2) return;
    const part = 100 / depths.length;
    const bands = depths.map((d, i) => `${ground(d)} ${i * part}% ${(i + 1) * part}%`);
    span.style.backgroundImage = `linear-gradient(90deg, ${bands.join(", ")})`;
    span.classList.add("banded");
}

// ---- the theme ----

export function startTheme(select) {
    select.value = root.dataset.theme ?? "system";
    select.addEventListener("change", () => {
        if (select.value === "system") delete root.dataset.theme;
        else root.dataset.theme = select.value;
        try {
            if (select.value === "system") localStorage.removeItem("fathom-theme");
            else localStorage.setItem("fathom-theme", select.value);
        } catch {
            // Without storage the choice lasts as long as the page.
        }
        write();
    });
    system.addEventListener("change", write);
    write();
}
