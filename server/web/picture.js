// A picture of the shown answers: laid out once, written as SVG or drawn for a PNG.
const PAD = 28;
const SIZE = 17; // of the answer's text
const LINE = 32;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
const MOST_TOKENS = 3000;

const font = (size, weight) => `${weight} ${size}px ${FONT}`;

/** Places pieces of text in lines. pieces: {text, ...}; returns {boxes: [{x, y, width, text, piece}], height}. */
export function flow(pieces, width, measure) {
    const boxes = [];
    let x = 0;
    let y = 0;
    const newline = () => {
        x = 0;
        y += LINE;
    };
    for (const piece of pieces) {
        for (const part of piece.text.split(/(\n|\s+)/)) {
            if (part === "") continue;
            if (part.includes("\n")) {
                for (const c of part) if (c === "\n") newline();
                continue;
            }
            let rest = part;
            if (x > 0 && x + measure(rest) > width && measure(rest) <= width) newline();
            if (/^\s+$/.test(rest) && x === 0) continue;
            while (rest) {
                let n = rest.length;
                while (n > 1 && x + measure(rest.slice(0, n)) > width) n--;
                const text = rest.slice(0, n);
                boxes.push({ x, y, width: measure(text), text, piece });
                x += measure(text);
                rest = rest.slice(n);
                if (rest) newline();
            }
        }
    }
    return { boxes, height: y + LINE };
}

/**
 * Lays out the picture. what: {model, prompt, columns: [{title, before, tokens, end, figures}]};
 * look: {paper, ink, soft, colours: [{ground, ink}]}. Returns {width, height, paper, shapes}.
 */
export function layOut(what, look, measureText) {
    const count = what.columns.length;
    const inner = count > 1 ? 330 : 720;
    const width = PAD + count * (inner + PAD);
    const page = { look, shapes: [], measure: (text) => measureText(text, font(SIZE, 400)) };
    let top = PAD + 20;
    write(page, "Fathom", PAD, top, 19, 650, look.ink);
    write(page, what.model, PAD + 96, top, 15, 400, look.soft);
    top += 18;
    if (what.prompt) {
        const lines = flow([{ text: what.prompt }], width - 2 * PAD, page.measure);
        for (const box of lines.boxes) write(page, box.text, PAD + box.x, top + box.y + 24, SIZE, 400, look.soft, box.width);
        top += lines.height + 10;
    }
    const ends = what.columns.map((column, at) => addColumn(page, column, PAD + at * (inner + PAD), top + 24, inner));
    top = Math.max(...ends) + 4;
    addScale(page, top, width);
    return { width, height: top + 24 + PAD, paper: look.paper, shapes: page.shapes };
}

function write(page, text, x, y, size, weight, fill, fit) {
    page.shapes.push({ kind: "text", text, x, y, size, weight, fill, fit });
}
function fill(page, x, y, width, height, colour) {
    page.shapes.push({ kind: "rect", x, y, width, height, radius: 4, fill: colour });
}

function piecesOf(column, look) {
    const pieces = column.before ? [{ text: column.before, fill: look.soft }] : [];
    for (const token of column.tokens.slice(0, MOST_TOKENS)) {
        const colour = token.depths.length ? look.colours[Math.min(Math.max(...token.depths), look.colours.length) - 1] : null;
        pieces.push({ text: token.text, fill: colour?.ink ?? look.ink, ground: colour?.ground });
    }
    if (column.tokens.length > MOST_TOKENS) pieces.push({ text: " …", fill: look.soft });
    return pieces;
}

/** One answer from the given corner on; the y of its end. */
function addColumn(page, column, left, y, inner) {
    const { look } = page;
    if (column.title) {
        write(page, column.title, left, y, SIZE, 650, look.ink);
        y += 14;
    }
    const lines = flow(piecesOf(column, look), inner, page.measure);
    for (const box of lines.boxes) {
        if (!box.text.trim()) continue;
        if (box.piece.ground) fill(page, left + box.x - 1, y + box.y + 3, box.width + 2, 26, box.piece.ground);
        write(page, box.text, left + box.x, y + box.y + 22, SIZE, 400, box.piece.fill, box.width);
    }
    y += lines.height + 20;
    for (const line of column.end) {
        write(page, cut(page, line, inner), left, y, 13, 400, look.soft);
        y += 20;
    }
    y += 12;
    column.figures.forEach(([name, value], i) => {
        const x = left + (i % 3) * Math.min(inner / 3, 140);
        const down = y + Math.floor(i / 3) * 48;
        write(page, name, x, down, 12, 400, look.soft);
        write(page, value, x, down + 20, 18, 600, look.ink);
    });
    return y + Math.ceil(column.figures.length / 3) * 48;
}

/** A line that fits; measured at the size of the answer, so with room to spare. */
function cut(page, line, width) {
    if (page.measure(line) <= width * (SIZE / 13)) return line;
    while (line && page.measure(`${line}…`) > width * (SIZE / 13)) line = line.slice(0, -1);
    return `${line}…`;
}

function addScale(page, y, width) {
    const { colours, soft } = page.look;
    write(page, "Loops", PAD, y + 17, 12, 400, soft);
    const cell = Math.min(34, (width - 3 * PAD - 40) / colours.length);
    colours.forEach(({ ground, ink }, i) => {
        fill(page, PAD + 44 + i * cell, y, cell - 2, 24, ground);
        if (cell >= 20) write(page, String(i + 1), PAD + 44 + i * cell + cell / 2 - 5, y + 17, 13, 400, ink);
    });
}

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
/** Text for XML: escaped, without the characters that XML cannot hold. */
export const escapeXml = (text) =>
    text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
        .replace(/[&<>"]/g, (c) => escapes[c]);

export function toSvg({ width, height, paper, shapes }) {
    const round = (n) => Number(n.toFixed(1));
    const parts = shapes.map((s) =>
        s.kind === "rect"
            ? `<rect x="${round(s.x)}" y="${round(s.y)}" width="${round(s.width)}" height="${round(s.height)}" rx="${s.radius}" fill="${s.fill}"/>`
            : `<text x="${round(s.x)}" y="${round(s.y)}" font-size="${s.size}" font-weight="${s.weight}" fill="${s.fill}"` +
              `${s.fit ? ` textLength="${round(s.fit)}" lengthAdjust="spacingAndGlyphs"` : ""}>${escapeXml(s.text)}</text>`);
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${Math.ceil(height)}" viewBox="0 0 ${width} ${Math.ceil(height)}" ` +
        `font-family="${escapeXml(FONT)}" xml:space="preserve"><rect width="100%" height="100%" fill="${paper}"/>${parts.join("")}</svg>`;
}

/** Draws the picture at twice its size; the canvas. */
export function toCanvas({ width, height, paper, shapes }) {
    const canvas = document.createElement("canvas");
    const zoom = Math.min(2, 8000 / height);
    Object.assign(canvas, { width: Math.ceil(width * zoom), height: Math.ceil(height * zoom) });
    const pen = canvas.getContext("2d");
    pen.scale(zoom, zoom);
    pen.fillStyle = paper;
    pen.fillRect(0, 0, width, height);
    for (const s of shapes) {
        pen.fillStyle = s.fill;
        if (s.kind === "rect") {
            pen.beginPath();
            pen.roundRect(s.x, s.y, s.width, s.height, s.radius);
            pen.fill();
        } else {
            pen.font = font(s.size, s.weight);
            pen.fillText(s.text, s.x, s.y);
        }
    }
    return canvas;
}

/** Gives the reader a file. */
export function download(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export function measurer() {
    const pen = document.createElement("canvas").getContext("2d");
    return (text, how) => {
        if (pen.font !== how) pen.font = how;
        return pen.measureText(text).width;
    };
}
