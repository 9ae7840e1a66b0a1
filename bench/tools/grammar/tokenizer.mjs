// Writes tokenizer.json folders of published vocabularies for bench/tools/grammar/run.sh: o200k_base
// whole, and its first 10,000 entries with an end token.
//   node bench/tools/grammar/tokenizer.mjs OUT
import { mkdirSync, writeFileSync } from 'node:fs';
import { readRanks, toTokenizerJson } from '../../../tests/folders/tokenizer/lib.mjs';

const out = process.argv[2];
const whole = readRanks('o200k_base');
const few = 9999;
const part = {
  encoding: { ...whole.encoding, special_tokens: { '<|endoftext|>': few } },
  ranks: new Map([...whole.ranks].filter(([, rank]) => rank < few)),
};
whole.encoding = { ...whole.encoding, special_tokens: { '<|endoftext|>': whole.encoding.special_tokens['<|endoftext|>'] } };
for (const [name, table] of [['o200k', whole], ['o200k-10k', part]]) {
  mkdirSync(`${out}/${name}`, { recursive: true });
  writeFileSync(`${out}/${name}/tokenizer.json`, JSON.stringify(toTokenizerJson(table, { pairs: true })));
}
