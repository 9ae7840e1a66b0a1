// Chat templates of published models: those that tokenizer_config.json files carry, those that
// GGUF files carry (of which a package has a table), and those of that package's own tests.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import vm from 'node:vm';
import * as real from './lib.mjs';

const package_ = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'node_modules', '@huggingface', 'ollama-utils', 'src');
const source = (file) => readFileSync(join(package_, file), 'utf8');

// The table is a literal of TypeScript that is one of JavaScript too.
function table() {
  const text = source('chat-template-automap.ts');
  return vm.runInNewContext(text.slice(text.indexOf('= [') + 2).replace(/;\s*$/, ''));
}
// String literals that hold a loop over messages.
function literals(text) {
  return [...text.matchAll(/"(?:[^"\\\n]|\\.)*"/g)].map(([s]) => vm.runInNewContext(s)).filter((s) => /\{%-? *for \w+ in /.test(s) && !s.includes('{{ range'));
}

const spelling = (token) => token?.content ?? token ?? null;
// What the model's own files give a template beside the conversation.
const tokensOf = (config) => Object.fromEntries(['bos_token', 'eos_token', 'unk_token', 'pad_token'].map((k) => [k, spelling(config[k])]).filter(([, v]) => v));

// name, text, the tokenizer's package where there is one, and the special tokens as variables.
export const templates = (() => {
  const seen = new Map();
  const add = (name, text, tokenizer, tokens) => {
    if (seen.has(text)) return;
    const again = [...seen.values()].filter((t) => t.name.replace(/ \d+$/, '') === name).length;
    seen.set(text, { name: again ? `${name} ${again + 1}` : name, text, tokenizer, tokens });
  };
  for (const name of real.names) {
    const config = real.configOf(name), list = config.chat_template;
    for (const t of typeof list === 'string' ? [{ name: '', template: list }] : list ?? []) add(`${name} ${t.name}`.trim(), t.template, name, tokensOf(config));
  }
  const tokens = { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>', pad_token: '<pad>' };
  for (const { model, gguf } of table()) add(model.replace('library/', ''), gguf, null, tokens);
  for (const text of literals(source('chat-template.spec.ts'))) add('a test of ollama-utils', text, null, tokens);
  return [...seen.values()];
})();

// What a template spells that looks like a control token.
export function spelledTokens({ text, tokens }) {
  const found = text.match(/<[|｜][^<>'"{}\s]+?[|｜]>|<\/?[a-z]+(?:_[a-z]+)*>|<<\/?[A-Z]+>>|\[\/?[A-Z]+(?:_[A-Z]+)*\]|\[gMASK\]|<\/?s>/g) ?? [];
  return [...new Set([...found, ...Object.values(tokens)])];
}
