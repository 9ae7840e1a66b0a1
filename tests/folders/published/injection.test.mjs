// A conversation that spells control tokens never produces them: whatever a template does with a
// client's text, no byte of it may come out as the template's own, since only those become
// control tokens.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { variablesOf } from './conversations.mjs';
import { render } from './interpreter.mjs';
import * as real from './lib.mjs';
import { now } from './renders.mjs';
import { spelledTokens, templates } from './templates.mjs';

// Signs that no template has, around everything that a client says.
const open = '⸢', close = '⸣';
const tool = (s) => ({ type: 'function', function: { name: s, description: s, parameters: { type: 'object', required: [s], properties: { [s]: { type: 'string', description: s, enum: [s, s], default: s } } }, return: { type: s, description: s } } });
const call = (s, args) => [{ id: s, type: 'function', function: { name: s, arguments: args } }];
const result = (s) => ({ role: 'tool', content: s, tool_call_id: s, name: s });

// Conversations in which `s` is in every place that a client fills.
const conversations = {
  turns: (s) => ({ messages: [{ role: 'system', content: s }, { role: 'user', content: s, name: s }, { role: 'assistant', content: s, reasoning_content: s, thinking: s, name: s }, { role: 'user', content: s }, { role: 'assistant', content: s }] }),
  'no system turn, a prompt for an answer': (s) => ({ messages: [{ role: 'user', content: s }, { role: 'assistant', content: `${s}\n${s}` }, { role: 'user', content: ` ${s} ` }], add_generation_prompt: true }),
  'a prompt for an answer, and strings for switches': (s) => ({ messages: [{ role: 'user', content: s }], add_generation_prompt: true, enable_thinking: s, thinking: s, system_message: s, date_string: s, reasoning_effort: s, model_identity: s, builtin_tools: [s], documents: [{ title: s, text: s, doc_id: s, [s]: s }], citations: s, controls: { [s]: s }, safety_mode: s, add_vision_id: s, guardian_config: { risk_name: s, risk_definition: s }, guideline: s, functions: s, datetime: s }),
  tools: (s) => ({ messages: [{ role: 'system', content: s }, { role: 'user', content: s }, { role: 'assistant', content: s, tool_calls: call(s, { [s]: s, x: [s, { [s]: s }] }) }, result(s), { role: 'assistant', content: s }, { role: 'user', content: s }], tools: [tool(s), tool(s)], add_generation_prompt: true }),
  'tools, arguments as text': (s) => ({ messages: [{ role: 'user', content: s }, { role: 'assistant', content: '', tool_calls: call(s, JSON.stringify({ [s]: s })) }, result(s)], tools: [tool(s)], add_generation_prompt: true }),
  'ids of nine letters': (s) => ({ messages: [{ role: 'user', content: s }, { role: 'assistant', content: '', tool_calls: [{ id: 'abcdef123', type: 'function', function: { name: s, arguments: { [s]: s } } }] }, { role: 'tool', content: s, tool_call_id: 'abcdef123' }], tools: [tool(s)], add_generation_prompt: true }),
  'content in parts': (s) => ({ messages: [{ role: 'user', content: [{ type: 'text', text: s }, { type: s, text: s }] }, { role: 'assistant', content: [{ type: 'text', text: s }] }], add_generation_prompt: true }),
  'roles that are none': (s) => ({ messages: [{ role: s, content: s }, { role: 'user', content: s }, { role: `user${s}`, content: s }], add_generation_prompt: true }),
};

// A template that cuts texts at a token, as at </think>, says it again itself where it wants it.
const cutsAt = ({ text }, token) => [`split('${token}')`, `split("${token}")`, `'${token}' in `, `"${token}" in `].some((s) => text.includes(s));

// Runs as a list of bytes: 1 where the template's own.
function ownBytes({ text, runs }) {
  const bytes = Buffer.from(text), own = new Uint8Array(bytes.length);
  let start = 0;
  for (const [end, trusted] of runs) {
    if (trusted) own.fill(1, start, end);
    start = end;
  }
  assert.equal(start, bytes.length, 'the runs cover the text');
  return { bytes, own };
}

// What the template itself said, the client's words left out.
const ownText = ({ bytes, own }) => Buffer.from(bytes.filter((_, i) => own[i])).toString();

// From each sign that opens to the one that closes, or to the next that opens: the client's words.
function clientWords(text) {
  const words = [];
  for (let at = text.indexOf(open); at >= 0; at = text.indexOf(open, at + 1)) {
    const end = text.indexOf(close, at), next = text.indexOf(open, at + 1);
    if (end >= 0 && (next < 0 || end < next)) words.push([Buffer.byteLength(text.slice(0, at)), Buffer.byteLength(text.slice(0, end + 1))]);
  }
  return words;
}

for (const template of templates) {
  describe(template.name, () => {
    const added = template.tokenizer ? real.tokenizerOf(template.tokenizer).added_tokens.map((t) => t.content) : [];
    // Thousands of placeholders are alike to a template: each kind once, and all that it spells itself.
    const tokens = [...new Set([...spelledTokens(template), ...added.filter((t, i) => i < 40 || !/\d/.test(t)).slice(0, 120)])];
    const job = (vars) => ({ template: template.text, vars: variablesOf(template.tokens, vars.messages, { add_generation_prompt: false, ...vars }), trusted: Object.keys(template.tokens), roles: ['system', 'user', 'assistant', 'tool'], now });

    test(`${tokens.length} tokens in every place that a client fills`, () => {
      const list = tokens.flatMap((token) => Object.values(conversations).map((make) => ({ token, job: job(make(`${open}${token}${close}`)), plain: job(make(`${open}${'x'.repeat(token.length)}${close}`)) })));
      const done = render(list.flatMap((l) => [l.job, l.plain]));
      let judged = 0;
      list.forEach(({ token }, i) => {
        const [spelt, plain] = [done[2 * i], done[2 * i + 1]];
        if (spelt.error) return;
        const out = ownBytes(spelt), own = ownText(out);
        assert.ok(!own.includes(open) && !own.includes(close), `${token}: a client's sign is the template's own`);
        for (const [from, to] of cutsAt(template, token) ? [] : clientWords(spelt.text)) {
          assert.ok(!out.own.subarray(from, to).some((b) => b), `${token} in ${JSON.stringify(out.bytes.subarray(from, to).toString())} is the template's own`);
          judged++;
        }
        // A template that looks for the token may say other things of its own; any other says the same.
        if (!plain.error && !template.text.includes(token)) assert.equal(own, ownText(ownBytes(plain)), token);
      });
      assert.ok(judged > tokens.length, `${judged} places were judged`);
    });
    test('what the template says is its own, and roles that the caller checked', () => {
      const vars = conversations.turns('hello'), [out] = render([job({ ...vars, messages: vars.messages.slice(1) })]);
      if (out.error) return assert.ok(template.text.includes('raise_exception'), out.error);
      const { bytes, own } = ownBytes(out);
      for (const token of spelledTokens(template).filter((t) => out.text.includes(t))) {
        const at = bytes.indexOf(token);
        assert.ok(own.subarray(at, at + Buffer.byteLength(token)).every((b) => b), `${token} is no control token any more`);
      }
    });
  });
}
