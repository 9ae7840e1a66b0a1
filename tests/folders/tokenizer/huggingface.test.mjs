// Ids equal to Hugging Face's own reading of the same tokenizer.json: the demo model's, and
// variants of it that use what else a byte-level file may say.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { Tokenizer } from '@huggingface/tokenizers';
import * as lib from './lib.mjs';

const demo = join(lib.root, 'models', 'demo');
const read = (name) => JSON.parse(readFileSync(join(demo, name), 'utf8'));
const reference = (json) => {
  const t = new Tokenizer(json, {});
  return (text) => [...t.encode(text, { add_special_tokens: false }).ids];
};
const texts = [...lib.languages, ...lib.symbols.filter((s) => !s.includes('<|')), ...lib.code().map((t) => t.replaceAll('<|', '< |')),
  ...lib.runs.map((r) => r.slice(0, 300))];
const randomTexts = (seed, n) => {
  const next = lib.random(seed);
  return Array.from({ length: n }, () => lib.randomText(next, { nul: false }));
};

function compare(json, list, ...flags) {
  const folder = lib.folderWith(json), theirs = reference(json);
  try {
    const ours = lib.run(folder.dir, list, ...flags);
    list.forEach((text, i) => assert.deepEqual(ours[i], theirs(text), JSON.stringify(text).slice(0, 200)));
  } finally {
    folder.remove();
  }
}

describe('the demo model', () => {
  test('every text of the corpus', () => compare(read('tokenizer.json'), texts));
  test('5,000 random texts', () => compare(read('tokenizer.json'), randomTexts(1, 5000)));
  test('its held-out verses', () =>
    compare(read('tokenizer.json'), readFileSync(join(demo, 'held_out.txt'), 'utf8').split('\n')));
  test('special tokens when asked for', () =>
    compare(read('tokenizer.json'), ['<|user|>hello<|end|><|assistant|>', 'a<|end|>b <|end|> <|endoftext|>\n', '<|end', '<<|end|>>'], '--special'));
  test('spelt special tokens are plain text otherwise', () => {
    const specials = new Set(read('tokenizer.json').added_tokens.map((t) => t.id));
    const spelt = ['<|user|>hello<|end|><|assistant|>', 'a<|end|>b', '<|endoftext|>'];
    const ids = lib.run(demo, spelt);
    for (const list of ids) assert.ok(list.every((id) => !specials.has(id)), String(list));
    assert.deepEqual(lib.run(demo, ids, '--ids-to-text'), spelt);
  });
  test('the prompts of expected.json', () => {
    const rows = read('expected.json').greedy;
    assert.ok(rows.length > 0);
    assert.deepEqual(lib.run(demo, rows.map((r) => r.prompt), '--special'), rows.map((r) => r.prompt_ids));
    // The greedy ids of the file spell its text.
    assert.deepEqual(lib.run(demo, rows.map((r) => r.exact.ids), '--ids-to-text'), rows.map((r) => r.exact.text));
  });
});

describe('variants of the file', () => {
  const split = (pattern, behavior, invert = false) => ({ type: 'Split', pattern, behavior, invert });
  const bytes = (extra) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false, ...extra });
  const sequence = (...pretokenizers) => ({ pre_tokenizer: { type: 'Sequence', pretokenizers } });
  const llama3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const variants = {
    'no regex at all': { pre_tokenizer: bytes() },
    'a space before every text': { pre_tokenizer: bytes({ use_regex: true, add_prefix_space: true }) },
    "Llama 3's pattern": sequence(split({ Regex: llama3 }, 'Isolated'), bytes()),
    'what the pattern matches is removed': sequence(split({ Regex: '\\s+' }, 'Removed'), bytes()),
    'what the pattern leaves is removed': sequence(split({ Regex: '\\p{L}+' }, 'Removed', true), bytes()),
    'a split by a plain string': sequence(split({ String: '.' }, 'Isolated'), bytes({ use_regex: true })),
    'digits one by one': sequence({ type: 'Digits', individual_digits: true }, bytes({ use_regex: true })),
    'digits together': sequence({ type: 'Digits', individual_digits: false }, bytes({ use_regex: true })),
    'three splits in a row': sequence(split({ Regex: '\\p{N}{1,3}' }, 'Isolated'), split({ Regex: '[一-龥぀-ゟ゠-ヿ]+' }, 'Isolated'),
      split({ Regex: llama3 }, 'Isolated'), bytes()),
  };
  for (const [name, change] of Object.entries(variants)) {
    test(name, () => compare({ ...read('tokenizer.json'), ...change }, [...texts, ...randomTexts(name.length, 1000)]));
  }
  test('merges as pairs', () => {
    const json = read('tokenizer.json');
    json.model.merges = json.model.merges.map((m) => (Array.isArray(m) ? m : m.split(' ')));
    compare(json, texts);
  });
  test('added tokens that are not special, and strip spaces', () => {
    const json = read('tokenizer.json');
    json.added_tokens[1] = { ...json.added_tokens[1], special: false };
    json.added_tokens[2] = { ...json.added_tokens[2], special: false, rstrip: true };
    json.added_tokens[3] = { ...json.added_tokens[3], special: false, lstrip: true };
    const list = ['a <|user|> b', 'a <|assistant|>  \n b', 'a \t <|end|> b', '<|user|><|assistant|> <|end|>', '<|assistant|>   ', '   <|end|>'];
    compare(json, list);
  });
});
