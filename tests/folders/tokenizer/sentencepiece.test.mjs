// SentencePiece-style files as shipped, Llama 2's and Gemma 3's: ids and texts equal to those of
// Hugging Face's own library, the Rust one (Gemma's with FATHOM_EVERY_TOKENIZER=1). And variants of the first with what else such a file
// may say: normalizers, Metaspace, unknown tokens, added tokens in normalized text.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { before, describe, test } from 'node:test';
import { Tokenizer } from 'tokenizers';
import * as lib from './lib.mjs';

const require = createRequire(import.meta.url);
const folderOf = (name) => dirname(require.resolve(`@lenml/tokenizer-${name}/models/tokenizer.json`));
const read = (name) => JSON.parse(readFileSync(join(folderOf(name), 'tokenizer.json'), 'utf8'));
const open = (json) => Tokenizer.fromString(JSON.stringify(json));
const idsOf = async (t, text) => (await t.encode(text, null, { addSpecialTokens: false })).getIds();
// Special tokens that nobody looks for: how the library reads text that only spells them.
const plain = (json) => open({ ...json, added_tokens: json.added_tokens.filter((t) => !t.special) });
const show = (v) => JSON.stringify(v).slice(0, 200);

const edges = [
  ' ', '  ', '   ', ' a', '  a', 'a ', 'a  ', ' a b ', '\n', '\n\n', '\n\n\n\n', ' \n', '\n a', '\t', '\t\t\ta', '\r\n\r\n', '▁', '▁▁', ' ▁ ', '▁a', 'a▁', 'a▁▁b ▁c', '▁ ▁',
  '\0', 'x\0y', '\u0001\u0002\u001f\u007f', '\u00a0', '\u3000', '\ufeff', '\ufffd', '<0x0A>', '<0x41>a', '<unk>', '<s>', '</s>', 'a<s>b', '<s> a', 'a </s>', '<s><s> </s></s>', '<s', '<<s>>', 's>',
  '<bos>', '<eos>a', '<start_of_turn>user\nhi <end_of_turn>\n<start_of_turn>model\n', '<table><tr></tr>', '<unused7>', '[multimodal]', '<mask>', '<image_soft_token>',
  'ｱｲｳ', '👩‍👩‍👧‍👦', '\u{20000}\u{2a6d6}', '\u{e0061}', '\u{10ffff}', 'ａｂｃ', 'à', 'a\u0300', 'zz\u{1f600}zz', '\ue000', 'ˈfɑðəm', '𒀀𓀀',
];
const long = ['a', ' ', '▁', '\n', '<', 'é', '你', '👍', '\u{20000}', 'ab', ' a', '<s>', '\0'].map((s) => s.repeat(100000 / s.length));
const corpus = (seed, n) => {
  const next = lib.random(seed);
  return [...lib.languages, ...lib.symbols, ...lib.code(), ...lib.runs, ...edges, ...Array.from({ length: n }, () => lib.randomText(next))];
};

// Gemma's large file takes half a minute more than ../published already spends on it.
const files = [['llama2', 2000], ...(process.env.FATHOM_EVERY_TOKENIZER ? [['gemma3', 1000]] : [])];
for (const [name, n] of files) {
  describe(`${name} as shipped`, () => {
    let json, reference, size;
    before(() => {
      json = read(name);
      reference = open(json);
      size = reference.getVocabSize();
    });
    const dir = folderOf(name);
    async function compare(texts, theirs, ...flags) {
      const ours = lib.run(dir, texts.map(lib.escapeNul), ...flags);
      for (const [i, text] of texts.entries()) assert.deepEqual(ours[i], await idsOf(theirs, text), show(text));
      return ours;
    }
    async function compareTexts(lists) {
      const ours = lib.run(dir, lists, '--ids-to-text');
      for (const [i, ids] of lists.entries()) assert.equal(ours[i], await reference.decode(ids, false), show(ids));
    }

    test('ids of every text, and the text of those ids', async () => compareTexts(await compare(corpus(31, n), reference, '--special')));
    test('ids of text that spells special tokens and means none', () => compare([...edges, ...lib.symbols], plain(json)));
    test('runs of 100,000 characters', () => compare(long, reference, '--special'));
    test('the text of random ids, with broken bytes and special tokens', () => {
      const next = lib.random(32), bytes = (reference.tokenToId('<0x00>'));
      return compareTexts(Array.from({ length: 3000 }, () => Array.from({ length: next(12) }, () => (next(3) === 0 ? bytes + next(256) : next(9) === 0 ? next(3) : next(size)))));
    });
    test('a long text is decoded in stretches as it is whole', async () => {
      const next = lib.random(33), bytes = reference.tokenToId('<0x00>');
      const ids = Array.from({ length: 3000 }, () => (next(2) ? bytes + next(128) : next(size)));
      await compareTexts([ids, ids.slice(1), Array(500).fill(bytes + 0xe2), [...Buffer.from('é'.repeat(300))].map((b) => bytes + b)]);
    });
    test('bytes that are not UTF-8 are their byte tokens between what is', async () => {
      const bytes = reference.tokenToId('<0x00>');
      const ours = lib.run(dir, [[0xff], [97, 0xc3], [0xf0, 0x9f, 0x98]]);
      const space = json.normalizer.type === 'Sequence' ? [reference.tokenToId('▁')] : []; // what llama2 puts before a text
      assert.deepEqual(ours, [[...space, bytes + 0xff], [...(await idsOf(reference, 'a')), bytes + 0xc3], [...space, ...[0xf0, 0x9f, 0x98].map((b) => bytes + b)]]);
    });
  });
}

describe("variants of llama2's file", () => {
  const json = read('llama2'), low = '▁';
  const meta = (scheme, split) => ({ type: 'Metaspace', replacement: low, prepend_scheme: scheme, split });
  const replace = (pattern, content) => ({ type: 'Replace', pattern, content });
  const sequence = (...normalizers) => ({ normalizer: { type: 'Sequence', normalizers } });
  const token = (content, id, flags) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: true, special: false, ...flags });
  const adding = (...tokens) => ({ added_tokens: [...json.added_tokens, ...tokens] });
  const model = (change) => ({ model: { ...json.model, ...change } });
  const without = (change, ...keys) => {
    const vocab = Object.fromEntries(Object.entries(json.model.vocab).filter(([k]) => !keys.some((x) => k.includes(x))));
    const merges = json.model.merges.filter((m) => !keys.some((x) => m.includes(x)));
    return model({ vocab, merges, ...change });
  };
  const texts = corpus(41, 250).map((t) => t.slice(0, 2000));
  const more = ['Hello hello HELLO', ' Foo bar', 'foo  bar', 'foo bar baz', 'xfoo foox', 'Éa éA', 'a e\u0301 \u1112\u1161\u11ab ﬁ ﬀ', 'q qq qqq ñ ññ é', 'a<s>hello</s> hello', 'hello<s>hello', '  hello  <s>  hello  '];

  const variants = {
    'Metaspace, always': { normalizer: null, pre_tokenizer: meta('always', true) },
    'Metaspace, first': { normalizer: null, pre_tokenizer: meta('first', true) },
    'Metaspace, first, one piece': { normalizer: null, pre_tokenizer: meta('first', false), decoder: { type: 'Metaspace', replacement: low, prepend_scheme: 'first' } },
    'Metaspace, never': { normalizer: null, pre_tokenizer: meta('never', false), decoder: { type: 'Metaspace', replacement: low, prepend_scheme: 'never' } },
    'Metaspace as it was once said': { normalizer: null, pre_tokenizer: { type: 'Metaspace', replacement: low, add_prefix_space: true } },
    'Digits before Metaspace': { normalizer: null, pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, meta('first', true)] } },
    'a Split that keeps spaces with the word before': { normalizer: null, pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false } },
    'whole words first': model({ ignore_merges: true }),
    'no byte tokens, unknown ones apart': model({ byte_fallback: false, fuse_unk: false }),
    'no byte tokens, unknown ones together': model({ byte_fallback: false }),
    'no byte tokens, nothing unknown': model({ byte_fallback: false, unk_token: null }),
    'some bytes without a token': without({}, '<0xE4>', '<0xF0>', '<0x00>'),
    'some bytes without a token, unknown ones apart': without({ fuse_unk: false }, '<0xE4>', '<0xF0>', '<0x00>'),
    'letters without a token': without({}, 'q', 'é'),
    'no decoder step but the bytes': { decoder: { type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }] } },
    'steps on tokens and on the whole text': { decoder: { type: 'Sequence', decoders: [{ type: 'Strip', content: low, start: 2, stop: 0 }, replace({ String: 'l' }, 'L'), { type: 'Fuse' }, { type: 'Strip', content: 'a', start: 2, stop: 0 }] } },
    NFC: sequence({ type: 'NFC' }, replace({ String: ' ' }, low)),
    NFD: sequence({ type: 'NFD' }, replace({ String: ' ' }, low)),
    NFKC: sequence({ type: 'NFKC' }, replace({ String: ' ' }, low)),
    NFKD: sequence({ type: 'NFKD' }, replace({ String: ' ' }, low)),
    'lower case without accents': sequence({ type: 'NFD' }, { type: 'StripAccents' }, { type: 'Lowercase' }, { type: 'Prepend', prepend: low }, replace({ String: ' ' }, low)),
    'blanks stripped': sequence({ type: 'Strip', strip_left: true, strip_right: true }, { type: 'Prepend', prepend: low }, replace({ String: ' ' }, low)),
    'blanks stripped on the left': sequence({ type: 'Strip', strip_left: true, strip_right: false }, replace({ String: ' ' }, low)),
    'patterns replaced': sequence(replace({ Regex: ' {2,}' }, low), replace({ Regex: '[0-9]+' }, '#'), replace({ String: 'ab' }, ''), replace({ String: ' ' }, low)),
    'sequences in sequences': sequence({ type: 'Sequence', normalizers: [{ type: 'Sequence', normalizers: [{ type: 'Lowercase' }] }] }, replace({ String: ' ' }, low)),
    'added tokens in normalized text': { ...sequence({ type: 'Lowercase' }, replace({ String: ' ' }, low)), ...adding(token('Foo Bar', 32000), token('HELLO', 32001, { rstrip: true })) },
    'added tokens that the normalizer puts a space before': adding(token('foo bar', 32000), token('<x>', 32001, { special: true, normalized: false })),
    'added tokens that are single words': { ...sequence({ type: 'Lowercase' }), ...adding(token('Foo', 32000, { single_word: true }), token('hello', 32001, { single_word: true, normalized: false, lstrip: true })) },
  };
  for (const [name, change] of Object.entries(variants)) {
    test(name, async () => {
      const changed = { ...json, ...change }, folder = lib.folderWith(changed), reference = open(changed);
      try {
        const list = [...texts, ...more];
        const ours = lib.run(folder.dir, list.map(lib.escapeNul), '--special');
        for (const [i, text] of list.entries()) assert.deepEqual(ours[i], await idsOf(reference, text), show(text));
        const back = lib.run(folder.dir, ours, '--ids-to-text');
        for (const [i, ids] of ours.entries()) assert.equal(back[i], await reference.decode(ids, false), show(ids));
      } finally {
        folder.remove();
      }
    });
  }

  // The library's normal forms are Unicode 9's; what came later is left out.
  const later = /[\p{Unassigned}]/u;
  const old = [[0x20, 0x860], [0x900, 0x9fc], [0xa01, 0xaf9], [0xb01, 0xb54], [0xe01, 0xeb9], [0xf00, 0xfff], [0x1000, 0x1714], [0x1720, 0x180e], [0x1e00, 0x2bff], [0x3000, 0x32fe], [0xa640, 0xa7b7], [0xac00, 0xd7a3], [0xf900, 0xfb4f], [0xfb50, 0xffef], [0x1d000, 0x1d7ff], [0x2f800, 0x2fa1d]];
  for (const type of ['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents']) {
    test(`${type} of every character, before and behind marks`, async () => {
      const changed = { ...json, normalizer: { type } }, folder = lib.folderWith(changed), reference = open(changed);
      const list = old.flatMap(([a, b]) => Array.from({ length: b - a + 1 }, (_, i) => String.fromCodePoint(a + i)))
        .filter((c) => !later.test(c) && c !== '\u07fd' && !/[\u{1cf2}-\u{1cf9}\u{1df6}-\u{1dfa}]/u.test(c))
        .map((c) => `e\u0301${c}\u0301\u0323\u1161`);
      const lines = [];
      for (let i = 0; i < list.length; i += 16) lines.push(list.slice(i, i + 16).join(' '));
      const next = lib.random(51), marks = Array.from('e a한가éﬁ㌀ｶﾞİÅệ\ufb2a\u0301\u0323\u0307\u05b0\u3099\u0345\u1161\u11a8\u1100\u0344\u0f71\u0f72\u{1d15e}');
      for (let k = 0; k < 1000; k++) lines.push(Array.from({ length: 1 + next(40) }, () => marks[next(marks.length)]).join(''));
      lines.push('\u0301\u0323'.repeat(3000), 'a' + '\u0323\u0301\u0345'.repeat(2000));
      try {
        const ours = lib.run(folder.dir, lines);
        for (const [i, text] of lines.entries()) assert.deepEqual(ours[i], await idsOf(reference, text), show(text));
      } finally {
        folder.remove();
      }
    });
  }
});
