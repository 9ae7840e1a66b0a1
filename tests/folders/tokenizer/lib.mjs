// What the tokenizer tests share: turning published rank tables into tokenizer.json files,
// running the program on many lines, and the texts.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
export const program = join(root, 'build', 'fathom');

// ---- a rank table as tokenizer.json ----

// The printable stand-ins of the 256 bytes.
const alphabet = (() => {
  const out = [];
  let next = 256;
  for (let b = 0; b < 256; b++) {
    const visible = (b >= 33 && b <= 126) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    out.push(String.fromCharCode(visible ? b : next++));
  }
  return out;
})();
export const spell = (latin1) => Array.from(latin1, (c) => alphabet[c.charCodeAt(0)]).join('');

// Tokens as Latin-1 strings, one character per byte.
export function readRanks(name) {
  const encoding = require(`tiktoken/encoders/${name}.json`);
  const ranks = new Map();
  for (const line of encoding.bpe_ranks.split('\n')) {
    const [, first, ...words] = line.split(' ');
    words.forEach((w, i) => ranks.set(Buffer.from(w, 'base64').toString('latin1'), Number(first) + i));
  }
  return { name, encoding, ranks };
}

// The two tokens that become this one: what merging with lower ranks alone makes of it.
function mergeOf(ranks, token, rank) {
  const parts = Array.from(token);
  while (parts.length > 2) {
    let best = -1, lowest = rank;
    for (let i = 0; i + 1 < parts.length; i++) {
      const r = ranks.get(parts[i] + parts[i + 1]);
      if (r !== undefined && r < lowest) [lowest, best] = [r, i];
    }
    if (best < 0) return null; // never reached by merging
    parts.splice(best, 2, parts[best] + parts[best + 1]);
  }
  return parts;
}

export function toTokenizerJson({ encoding, ranks }, { pairs = false } = {}) {
  const vocab = {}, merges = [];
  const sorted = [...ranks].sort((a, b) => a[1] - b[1]);
  for (const [token, rank] of sorted) {
    vocab[spell(token)] = rank;
    const parts = token.length > 1 ? mergeOf(ranks, token, rank) : null;
    if (parts) merges.push(pairs ? parts.map(spell) : parts.map(spell).join(' '));
  }
  const special = Object.entries(encoding.special_tokens).map(([content, id]) => ({
    id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true,
  }));
  return {
    version: '1.0', truncation: null, padding: null, added_tokens: special, normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: encoding.pat_str }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null,
      fuse_unk: false, byte_fallback: false, ignore_merges: true, vocab, merges,
    },
  };
}

// ---- a vocabulary in the form of SmolLM2's and Ouro's ----

const special17 = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<think>', '</think>', '<file_sep>', '<filename>', '<gh_stars>',
  '<issue_start>', '<issue_comment>', '<issue_closed>', '<jupyter_start>', '<jupyter_text>', '<jupyter_code>', '<jupyter_output>',
  '<jupyter_script>', '<empty_output>'];

// Bytes that get no token: all that UTF-8 never has, lead bytes of far planes and of one script
// (U+07C0 to U+07FF), and some control characters.
export const missing21 = [0xc0, 0xc1, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, 0xf1, 0xf2, 0xf3, 0xdf, 0x01, 0x05, 0x16, 0x1d];

// GPT-2's ranks without the tokens that need a missing byte, behind 17 special tokens; digits
// stand alone. Ids stay below `size`.
export function smolJson(table, { size = 49152, pairs = false, ignoreMerges = false } = {}) {
  const gone = new Set(missing21.map((b) => String.fromCharCode(b)));
  const kept = [...table.ranks].sort((a, b) => a[1] - b[1]).filter(([t]) => !Array.from(t).some((c) => gone.has(c)));
  const ranks = new Map(kept.slice(0, size - special17.length).map(([t], i) => [t, i + special17.length]));
  const json = toTokenizerJson({ encoding: { special_tokens: Object.fromEntries(special17.map((t, i) => [t, i])), pat_str: '' }, ranks }, { pairs });
  json.model.vocab = { ...Object.fromEntries(special17.map((t, i) => [t, i])), ...json.model.vocab };
  json.model.ignore_merges = ignoreMerges;
  json.pre_tokenizer = {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Digits', individual_digits: true },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    ],
  };
  return json;
}

export function folderWith(json) {
  const dir = mkdtempSync(join(tmpdir(), 'fathom-tokenizer-'));
  writeFileSync(join(dir, 'tokenizer.json'), typeof json === 'string' ? json : JSON.stringify(json));
  return { dir, remove: () => rmSync(dir, { recursive: true }) };
}

// ---- the program ----

// One answer per line; a line is a string or, for bytes, an array of numbers. The program may use
// two minutes of processor time, whatever else the machine does.
export function run(dir, lines, ...flags) {
  const input = lines.map((l) => JSON.stringify(l) + '\n').join('');
  const out = execFileSync('sh', ['-c', 'ulimit -t 120; exec "$0" "$@"', program, 'tokenize', '--model', dir, ...flags], { input, maxBuffer: 1 << 30 });
  return out.toString().split('\n').slice(0, -1).map((l) => JSON.parse(l));
}

// ---- texts ----

export const languages = [
  "The quick brown foxes weren't jumping; they'd already left. IT'S LATE, WE'LL GO. She'S here.",
  'Der Igel läuft über die Straße, während Äpfel, Öl und Übermut im Korb liegen; 3,14 € pro Stück.',
  'Le cœur déçu mais l’âme plutôt naïve, où êtes-vous ? « Ça va », dit-elle à 8 h 30.',
  'El pingüino comió ñoquis mañana; ¿por qué no? ¡Qué día!',
  'Γειά σου κόσμε, τι κάνεις σήμερα; Όλα καλά.',
  'Привет, мир! Сегодня 25 градусов, но завтра будет ещё теплее.',
  'שלום עולם, מה שלומך היום? הכול בסדר.',
  'مرحبا بالعالم، كيف حالك اليوم؟ كل شيء على ما يرام ١٢٣٤٥.',
  'नमस्ते दुनिया, आज मौसम अच्छा है। क्या तुम ठीक हो?',
  'สวัสดีชาวโลก วันนี้อากาศดีมาก',
  '你好，世界！今天天气很好，我们去公园散步吧。一二三４５６',
  'こんにちは世界。カタカナとひらがなと漢字が混ざっています。ｶﾞｷﾞ',
  '안녕하세요 세계, 오늘은 날씨가 좋네요.',
  'Xin chào thế giới, hôm nay trời đẹp quá; tiếng Việt có nhiều dấu.',
  'Merhaba dünya, İstanbul’da ığdır ışıl ışıl; KAPI Iı İi.',
  'Բարեւ աշխարհ։ გამარჯობა მსოფლიო. ሰላም ዓለም።',
  'ſtrange long ſ: it\u2019ſ and it\u0027ſ, the \u212aelvin sign K, ǅ ǈ ǋ titlecase, ª º modifiers ʰʲˣ',
];

export const symbols = [
  '👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☺︎ 🧑🏿‍🚀',
  'e\u0301 vs é, a\u0308\u0323, ' + 'z\u0351\u0352\u0353\u0354'.repeat(5),
  '\u200d'.repeat(50) + 'x' + '\u200f\u202e\u2066mirrored\u2069',
  '∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → γ; ½ + ¼ = ¾; x² + y³ ≤ ∞',
  '𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒮𝒸𝓇𝒾𝓅𝓉 𐍈 𒀀 𓀀 ㍿ ﷽',
  '\u00a0nbsp\u2003em\u3000wide\u1680ogham\u2028ls\u2029ps\u205fmm',
  'tab\there\r\nwindows\rmac\n\n\nmany\n \n  \n\t\n end  ',
  '   leading, and   inner    spaces     grow      ',
  '"quotes" \'single\' `back` ~!@#$%^&*()_+-=[]{}|;:,.<>/?\\',
  '1 12 123 1234 12345 1234567890 3.14159 1e-10 0xdeadbeef ١٢٣ Ⅻ ①②③',
  "we'll'nt I'm'd y'all've 'tis 'Twas ''''s",
  '<|endoftext|> <|end|> <|user|> <|endofprompt|> <|fim_prefix|>',
  '', ' ', '\n', 'a', '\u{10ffff}\ue000\ufdd0\uffff',
];

export const code = () =>
  ['Makefile', 'text/bpe.c', 'engine/backend.h', 'tests/folders/tokenizer/lib.mjs', 'models/demo/README.md', 'models/demo/config.json']
    .map((f) => readFileSync(join(root, f), 'utf8'));

export const runs = [
  ...['a', ' ', '\n', 'A', '0', '!', '=', 'é', '你', '\t', '\u0301', '👍'].flatMap((c) => [c.repeat(700), c.repeat(701) + 'x']),
  'ab'.repeat(500), ' a'.repeat(500), '\r\n'.repeat(300), 'the '.repeat(300), "'s".repeat(200), ' \n'.repeat(300),
  'aA'.repeat(400), 'Aa'.repeat(400), '\n '.repeat(200) + 'end', ' '.repeat(500) + '\n',
];

// A small generator of repeatable random numbers.
export function random(seed) {
  let a = seed >>> 0;
  return (n) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

// Strings of characters from many classes, in short runs. Nothing assigned after Unicode 14,
// where tables of different age would differ for a good reason.
const classes = [
  'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', '0123456789', '     ', '\n\r\t \n', ".,;:!?'\"-_/\\()[]{}",
  "'s't're've'm'll'd'S'T'RE", 'äöüßéèñçøåſ', 'ÄÖÜÉÈÑÇØÅİ', 'абвгдежз', 'АБВГДЕЖЗ', '你好世界天気', 'ひらがなカタカナ', '한국어안녕',
  'مرحبا١٢٣', 'नमस्ते', '\u0301\u0308\u0323', '½²³Ⅻⅷ①', '\u00a0\u2003\u3000\u2028', '😀👍🏽🚀❤', '∀∃∈∞≤€£¥', 'ǅǈʰʲªº', '\u0000\u0001\u007f\u200b\u200d',
].map((s) => Array.from(s));

export function randomText(next, { nul = true } = {}) {
  let out = '';
  for (let n = 1 + next(12); n > 0; n--) {
    const from = classes[next(classes.length)];
    for (let k = 1 + next(next(8) === 0 ? 30 : 4); k > 0; k--) out += from[next(from.length)];
  }
  return nul ? out : out.replaceAll('\0', '');
}

export const escapeNul = (text) => (text.includes('\0') ? [...Buffer.from(text)] : text);

// Valid stretches as strings, other bytes as numbers.
export function splitValid(bytes) {
  const out = [], strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let start = 0;
  const flush = (end) => end > start && out.push(strict.decode(Uint8Array.from(bytes.slice(start, end))));
  for (let i = 0; i < bytes.length; ) {
    const lead = bytes[i];
    const len = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    try {
      strict.decode(Uint8Array.from(bytes.slice(i, i + len)));
      i += len;
    } catch {
      flush(i);
      out.push(lead);
      start = ++i;
    }
  }
  flush(bytes.length);
  return out;
}
