// Writes text/unicode_ranges.h: what the patterns of a tokenizer need to know of Unicode 16, and
// where Unicode 14, 15 and 15.1 differ from it. `npm ci && npm run generate` here.
import { readdirSync } from 'node:fs';
import values from 'unicode-match-property-value-ecmascript/data/mappings.js';

const versions = ['14.0.0', '15.0.0', '15.1.0', '16.0.0'], newest = versions.at(-1);
const END = 0x110000;
const folder = (version, kind) => `node_modules/@unicode/unicode-${version}/${kind}`;
const load = async (version, kind, name, what = 'ranges') => (await import(`./${folder(version, kind)}/${name}/${what}.mjs`)).default;
const list = (version, kind) => readdirSync(folder(version, kind)).filter((n) => !n.startsWith('index'));
const pairs = async (version, kind, name) => (await load(version, kind, name)).map((r) => [r.begin, r.end - 1]);

// ---- categories and scripts of every code point ----

const categories = ['Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'Mn', 'Mc', 'Me', 'Nd', 'Nl', 'No', 'Pc', 'Pd', 'Ps', 'Pe', 'Pi', 'Pf', 'Po',
  'Sm', 'Sc', 'Sk', 'So', 'Zs', 'Zl', 'Zp', 'Cc', 'Cf', 'Cs', 'Co', 'Cn'];
const longOf = new Map(), shortOf = new Map(); // of categories and their groups
for (const [alias, long] of values.get('General_Category')) {
  if (alias.length <= 2 && alias !== 'LC') longOf.set(alias, long), shortOf.set(long, alias);
}
const UNKNOWN = 'Unknown';
const scripts = [...list(newest, 'Script').filter((s) => s !== UNKNOWN).sort(), UNKNOWN];

async function codePoints(version) {
  const gc = new Uint8Array(END).fill(categories.indexOf('Cn')), script = new Uint8Array(END).fill(scripts.indexOf(UNKNOWN));
  for (const [k, short] of categories.entries()) for (const [a, b] of await pairs(version, 'General_Category', longOf.get(short))) gc.fill(k, a, b + 1);
  for (const name of list(version, 'Script')) for (const [a, b] of await pairs(version, 'Script', name)) script.fill(scripts.indexOf(name), a, b + 1);
  return { gc, script };
}
const tables = await Promise.all(versions.map(codePoints)), [oldest, now] = [tables[0], tables.at(-1)];

const starts = (table) => {
  const out = [];
  for (let c = 0; c < END; c++) if (c === 0 || table[c] !== table[c - 1]) out.push((c << 8) | table[c]);
  return out;
};

// Between the oldest version and the newest every code point has one of their two values.
const earlier = [];
for (let c = 0; c < END; c++) {
  for (const t of tables) {
    for (const k of ['gc', 'script']) if (t[k][c] !== oldest[k][c] && t[k][c] !== now[k][c]) throw new Error(`U+${c.toString(16)}: three values of ${k}`);
  }
  const gc = oldest.gc[c], script = oldest.script[c], last = earlier.at(-1);
  if (gc === now.gc[c] && script === now.script[c]) continue;
  if (last && last.hi === c - 1 && last.gc === gc && last.script === script) last.hi = c;
  else earlier.push({ lo: c, hi: c, gc, script });
}

// ---- properties: whole categories or a script, and where the truth differs from them ----

const properties = [], ranges = [], names = new Map(); // name as looked up -> index of its property
const fold = (name) => name.replace(/[ _-]/g, '').toLowerCase();
const mask = (...wanted) => categories.reduce((m, c, i) => (wanted.some((w) => c.startsWith(w)) ? m | (1 << i) : m), 0) >>> 0;
function add(property, ...aliases) {
  properties.push(property);
  for (const a of aliases) {
    if (names.has(fold(a))) throw new Error(`${a} twice`);
    names.set(fold(a), properties.length - 1);
  }
}
function addSet(member, ...aliases) {
  let m = 0;
  for (let k = 0; k < categories.length; k++) {
    let inside = 0, all = 0;
    for (let c = 0; c < END; c++) if (now.gc[c] === k) all++, inside += member[c];
    if (2 * inside > all) m |= 1 << k;
  }
  const first = ranges.length;
  let open = -1;
  for (let c = 0; c <= END; c++) {
    const differs = c < END && member[c] !== ((m >>> now.gc[c]) & 1);
    if (differs && open < 0) open = c;
    if (!differs && open >= 0) ranges.push([open, c - 1]), (open = -1);
  }
  add({ mask: m >>> 0, script: -1, first, n: ranges.length - first }, ...aliases);
}

for (const short of [...categories, 'L', 'M', 'N', 'P', 'S', 'Z', 'C']) {
  const more = { M: ['Combining_Mark'], P: ['punct'] }[short] ?? [];
  add({ mask: mask(short), script: -1, first: 0, n: 0 }, short, longOf.get(short), ...more);
}
add({ mask: mask('Lu', 'Ll', 'Lt'), script: -1, first: 0, n: 0 }, 'LC', 'Cased_Letter');
const aliasesOf = new Map(scripts.map((s) => [s, [s]]));
for (const [alias, long] of values.get('Script')) if (aliasesOf.has(long) && !aliasesOf.get(long).some((a) => fold(a) === fold(alias))) aliasesOf.get(long).push(alias);
for (const [k, s] of scripts.entries()) add({ mask: 0, script: k, first: 0, n: 0 }, ...aliasesOf.get(s));

const binary = {
  ASCII_Hex_Digit: 'AHex', Alphabetic: 'Alpha', Bidi_Control: 'Bidi_C', Case_Ignorable: 'CI', Cased: '', Changes_When_Casefolded: 'CWCF',
  Changes_When_Casemapped: 'CWCM', Changes_When_Lowercased: 'CWL', Changes_When_Titlecased: 'CWT', Changes_When_Uppercased: 'CWU',
  Dash: '', Default_Ignorable_Code_Point: 'DI', Deprecated: 'Dep', Diacritic: 'Dia', Emoji: '', Emoji_Component: 'EComp',
  Emoji_Modifier: 'EMod', Emoji_Modifier_Base: 'EBase', Emoji_Presentation: 'EPres', Extended_Pictographic: 'ExtPict', Extender: 'Ext',
  Grapheme_Base: 'Gr_Base', Grapheme_Extend: 'Gr_Ext', Grapheme_Link: 'Gr_Link', Hex_Digit: 'Hex', Hyphen: '', IDS_Binary_Operator: 'IDSB',
  IDS_Trinary_Operator: 'IDST', IDS_Unary_Operator: 'IDSU', ID_Compat_Math_Continue: '', ID_Compat_Math_Start: '', ID_Continue: 'IDC', ID_Start: 'IDS',
  Ideographic: 'Ideo', Join_Control: 'Join_C', Logical_Order_Exception: 'LOE', Lowercase: 'Lower', Math: '', Modifier_Combining_Mark: 'MCM',
  Noncharacter_Code_Point: 'NChar', Other_Alphabetic: 'OAlpha', Other_Default_Ignorable_Code_Point: 'ODI', Other_Grapheme_Extend: 'OGr_Ext',
  Other_ID_Continue: 'OIDC', Other_ID_Start: 'OIDS', Other_Lowercase: 'OLower', Other_Math: 'OMath', Other_Uppercase: 'OUpper',
  Pattern_Syntax: 'Pat_Syn', Pattern_White_Space: 'Pat_WS', Prepended_Concatenation_Mark: 'PCM', Quotation_Mark: 'QMark', Radical: '',
  Regional_Indicator: 'RI', Sentence_Terminal: 'STerm', Soft_Dotted: 'SD', Terminal_Punctuation: 'Term', Unified_Ideograph: 'UIdeo', Uppercase: 'Upper',
  Variation_Selector: 'VS', White_Space: 'WSpace', XID_Continue: 'XIDC', XID_Start: 'XIDS',
};
const members = async (name) => {
  const out = new Uint8Array(END);
  for (const [a, b] of await pairs(newest, 'Binary_Property', name)) out.fill(1, a, b + 1);
  return out;
};
const alphabetic = await members('Alphabetic'), space = await members('White_Space');
for (const [name, alias] of Object.entries(binary)) addSet(await members(name), name, ...(alias ? [alias] : []), ...(name === 'White_Space' ? ['Space'] : []));
const where = (f) => Uint8Array.from({ length: END }, (_, c) => (f(c, categories[now.gc[c]]) ? 1 : 0));
addSet(where(() => true), 'Any');
addSet(where((c, gc) => gc !== 'Cn'), 'Assigned');
// What POSIX brackets mean to Oniguruma.
const graph = (c, gc) => !space[c] && !['Cc', 'Cn', 'Cs'].includes(gc);
addSet(where((c, gc) => alphabetic[c] || gc === 'Nd'), 'Alnum');
addSet(where((c, gc) => c === 9 || gc === 'Zs'), 'Blank');
names.set('cntrl', names.get('cc')), names.set('digit', names.get('nd'));
addSet(where(graph), 'Graph');
addSet(where((c, gc) => graph(c, gc) || gc === 'Zs'), 'Print');
addSet(where((c, gc) => gc[0] === 'P' || gc[0] === 'S'), 'Posix_Punct');
names.set('xdigit', names.get('ahex'));
addSet(where((c) => c < 0x80), 'ASCII');
addSet(where((c, gc) => alphabetic[c] || gc[0] === 'M' || gc === 'Nd' || gc === 'Pc'), 'Word');
for (const block of list(newest, 'Block')) {
  const first = ranges.length;
  ranges.push(...(await pairs(newest, 'Block', block)));
  add({ mask: 0, script: -1, first, n: ranges.length - first }, `In_${block}`);
}
const blocks = new Uint8Array(END);
for (const block of list(newest, 'Block')) for (const [a, b] of await pairs(newest, 'Block', block)) blocks.fill(1, a, b + 1);
addSet(where((c) => !blocks[c]), 'In_No_Block');

// ---- case folding: C and F; of what folds to several characters, whatever folds so ----

const single = new Map(await load(newest, 'Case_Folding', 'C', 'code-points')), several = new Map();
for (const [c, to] of await load(newest, 'Case_Folding', 'F', 'code-points')) {
  const key = [...to].map((x) => (typeof x === 'string' ? x.codePointAt(0) : x));
  const k = key.join();
  several.set(k, { key, from: [...(several.get(k)?.from ?? []), c] });
}
const runs = [];
for (const [c, to] of [...single].sort((a, b) => a[0] - b[0])) {
  const last = runs.at(-1);
  if (last && to - c === last.to - last.lo && (c - last.hi === last.step || (last.lo === last.hi && c - last.hi <= 2))) (last.step = c - last.hi), (last.hi = c);
  else runs.push({ lo: c, hi: c, step: 1, to });
}
// The order in which the reference tries them: two before three, U+0130 after all of two.
const order = ({ key, from }) => [key.length, from.includes(0x130) ? 1 : 0, ...key];
const multi = [...several.values()].sort((a, b) => {
  const [x, y] = [order(a), order(b)], i = x.findIndex((v, k) => v !== y[k]);
  return x[i] - y[i];
});

// ---- the file ----

const hex = (n) => '0x' + n.toString(16);
function rows(items) {
  let out = '', line = '   ';
  for (const item of items) {
    if (line.length + item.length > 98) (out += line + '\n'), (line = '   ');
    line += ' ' + item;
  }
  return out + line + '\n';
}
const array = (type, name, items) => `static const ${type} ${name}[] = {\n${rows(items)}};\n`;
process.stdout.write(`/* unicode_ranges.h - Unicode ${newest} for text/unicode.c. Written by
 * tools/unicode/generate.mjs from the packages @unicode/unicode-*; not by hand. */
#ifndef FATHOM_TEXT_UNICODE_RANGES_H
#define FATHOM_TEXT_UNICODE_RANGES_H

#include <stdint.h>

/* clang-format off */

enum { ${categories.map((c) => 'GC_' + c).join(', ').replace(/(.{80,95}?,) /g, '$1\n       ')}, N_GC };

/* Their names, and the name of the script at each index. */
${array('char *const', 'gc_names', categories.map((c) => `"${c}",`))}
${array('char *const', 'script_names', scripts.map((s) => `"${s}",`))}
enum { N_SCRIPTS = ${scripts.length} };

/* The first code point of each stretch of one category, and the category in the low 8 bits. */
${array('uint32_t', 'gc_starts', starts(now.gc).map((v) => hex(v >>> 0) + ','))}
/* The same for scripts. */
${array('uint32_t', 'script_starts', starts(now.script).map((v) => hex(v >>> 0) + ','))}
/* Code points of another category or script in Unicode ${versions[0]}; newer versions have either one. */
typedef struct {
    uint32_t lo, hi;
    uint8_t gc, script;
} unicode_earlier;
${array('unicode_earlier', 'earlier', earlier.map((e) => `{${hex(e.lo)},${hex(e.hi)},GC_${categories[e.gc]},${e.script}},`))}
/* Code points from lo to hi. */
typedef struct {
    uint32_t lo, hi;
} unicode_range;
${array('unicode_range', 'property_ranges', ranges.map(([a, b]) => `{${hex(a)},${hex(b)}},`))}
/* A property holds for the categories in the mask, or for the script. In its \`count\` ranges from
 * \`first\` on it is the other way round. */
typedef struct {
    uint32_t mask;
    int16_t script; /* -1: none */
    uint16_t first, count;
} unicode_property;
${array('unicode_property', 'properties', properties.map((p) => `{${hex(p.mask)},${p.script},${p.first},${p.n}},`))}
/* Sorted; lower case without blanks, hyphens and underscores. */
typedef struct {
    const char *name;
    uint16_t property;
} unicode_name;
${array('unicode_name', 'property_names', [...names].sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(([n, k]) => `{"${n}",${k}},`))}
/* Every step-th code point from lo to hi folds, all by the same distance: lo folds to \`to\`. */
typedef struct {
    uint32_t lo, hi, step, to;
} unicode_fold;
${array('unicode_fold', 'folds', runs.map((r) => `{${hex(r.lo)},${hex(r.hi)},${r.step},${hex(r.to)}},`))}
/* Two or three code points; one or two others fold to this sequence. */
typedef struct {
    uint32_t to[3], from[2];
} unicode_multi_fold;
${array('unicode_multi_fold', 'multi_folds', multi.map((m) => `{{${[0, 1, 2].map((i) => hex(m.key[i] ?? 0)).join()}},{${[0, 1].map((i) => hex(m.from[i] ?? 0)).join()}}},`))}
/* clang-format on */

#endif
`);
if ([...several.values()].some((m) => m.from.length > 2 || m.key.length > 3)) throw new Error('a fold too wide for the table');
