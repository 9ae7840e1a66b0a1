// Every template over every conversation, by Hugging Face's JavaScript port of Jinja.
import { createHash } from 'node:crypto';
import { mock } from 'node:test';
import { Template } from '@huggingface/jinja';
import { conversationsOf, variablesOf, variants } from './conversations.mjs';
import { templates } from './templates.mjs';

export const now = 1700000000; // what strftime_now is to tell: 14 November 2023

// { template, conversation, jobs: [{ variant, vars }] } for all of them.
export const cases = templates.flatMap((template) => Object.entries(conversationsOf(template)).map(([conversation, messages]) => (
  { template, conversation, jobs: Object.entries(variants).map(([variant, more]) => ({ variant, vars: variablesOf(template.tokens, messages, more) })) })));

// Gives every job `theirs`: { text } or { error }.
export function renderTheirs() {
  const parsed = new Map(templates.map((t) => [t, new Template(t.text)]));
  mock.timers.enable({ apis: ['Date'], now: now * 1000 });
  for (const { template, jobs } of cases) {
    for (const job of jobs) {
      try { job.theirs = { text: parsed.get(template).render(job.vars) }; } catch (e) { job.theirs = { error: e.message }; }
    }
  }
  mock.timers.reset();
}

// What all variants of a case came to, in a few letters.
export const digest = (outcomes) => createHash('sha256').update(JSON.stringify(outcomes.map((o) => o.text ?? null))).digest('hex').slice(0, 16);
