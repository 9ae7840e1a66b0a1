// The colours of depth: light at the surface, dark in the deep (the other way round on a dark
// page). Lightness alone orders them, so they also read without colour vision. The steps are
// equal in OKLab, a space in which equal distances look equal. This file needs no document.

const LIGHT = ["#e4f5ec", "#abdccf", "#62b9c8", "#2f8cc0", "#2b5fae", "#2f3b8c", "#26164f"];
const DARK = ["#23484a", "#1f6470", "#1f829a", "#3f9fc4", "#7fbbe6", "#bcd3f7", "#eeeaff"];

// A model of more loops than this has a scale that follows the answers: more neighbours than
// these cannot be told apart.
const DISTINCT = 12;
const LADDER = [8, 12, 16, 24, 32, 48, 64, 96, 128];
export const DEEPEST = LADDER.at(-1); // deeper tokens share its colour

const toLinear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const fromLinear = (v) => (v <= 0.0031308 ? v * 12.92 : 1.055 * v ** (1 / 2.4) - 0.055);

/** Linear red, green and blue of "#rrggbb". */
export function linear(hex) {
    return [1, 3, 5].map((at) => toLinear(parseInt(hex.slice(at, at + 2), 16) / 255));
}

export function toLab(hex) {
    const [r, g, b] = linear(hex);
    const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
    const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
    const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
    return [
        0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
    ];
}

function fromLab([L, A, B]) {
    const l = (L + 0.3963377774 * A + 0.2158037573 * B) ** 3;
    const m = (L - 0.1055613458 * A - 0.0638541728 * B) ** 3;
    const s = (L - 0.0894841775 * A - 1.291485548 * B) ** 3;
    const rgb = [
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
    const byte = (v) => Math.round(255 * fromLinear(Math.min(1, Math.max(0, v))));
    return `#${rgb.map((v) => byte(v).toString(16).padStart(2, "0")).join("")}`;
}

const apart = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1], p[2] - q[2]);

/** count colours with equal steps between them along the anchors. */
function spread(anchors, count) {
    const points = anchors.map(toLab);
    const along = [0];
    for (let i = 1; i < points.length; i++) along.push(along[i - 1] + apart(points[i - 1], points[i]));
    return Array.from({ length: count }, (_, n) => {
        const want = count > 1 ? (n / (count - 1)) * along.at(-1) : along.at(-1) * 0.6;
        const i = Math.max(1, along.findIndex((a) => a >= want - 1e-9));
        const part = (want - along[i - 1]) / (along[i] - along[i - 1]);
        return fromLab(points[i - 1].map((v, k) => v + part * (points[i][k] - v)));
    });
}

export function contrast(one, other) {
    const [a, b] = [one, other].map((hex) => {
        const [r, g, blue] = linear(hex);
        return 0.2126 * r + 0.7152 * g + 0.0722 * blue + 0.05;
    });
    return Math.max(a, b) / Math.min(a, b);
}

/** Text on a colour: the page's ink or white where they read well, else black, which then does. */
function inkOn(hex) {
    return ["#14262f", "#ffffff", "#000000"].find((ink) => contrast(ink, hex) >= 4.6) ?? "#000000";
}

/** Colours for depth 1, 2, ... most: [{ground, ink}]. */
export function ramp(most, dark) {
    return spread(dark ? DARK : LIGHT, Math.max(1, most)).map((ground) => ({ ground, ink: inkOn(ground) }));
}

/**
 * The depth at which the scale ends. Up to 12 loops it is the model's own number, so a colour
 * means the same depth in every answer, column and launch. A deeper model gets the shortest
 * scale that holds the depths seen on this page. Other people's requests never change it.
 */
export function scaleEnd(trained, deepestSeen) {
    if (trained <= DISTINCT) return Math.max(1, trained);
    const end = LADDER.find((n) => n >= deepestSeen) ?? DEEPEST;
    return Math.min(end, trained, DEEPEST);
}
