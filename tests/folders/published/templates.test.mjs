// Chat templates of published models over many conversations: what the server's interpreter
// makes of them is what Hugging Face's port of Jinja makes. Where that port is not what Python's
// jinja2 is in transformers, differences.json says so with the reason (decide.mjs writes it), and
// Python is right.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { conversations, thousand, variablesOf, variants } from './conversations.mjs';
import { render } from './interpreter.mjs';
import { here } from './lib.mjs';
import { cases, digest, now, renderTheirs } from './renders.mjs';
import { templates } from './templates.mjs';

const differences = JSON.parse(readFileSync(join(here, 'differences.json'), 'utf8'));
// The digest of Python's outcomes where the port is known to differ.
const listed = (template, conversation) => Object.values(differences).map((list) => list[template]?.[conversation]).find((d) => d);
const same = (ours, theirs) => ours.text === theirs.text;

// The first byte that differs, with what is around it.
function shown({ ours, theirs }) {
  if (ours.text === undefined || theirs.text === undefined) return `ours: ${JSON.stringify(ours).slice(0, 400)}\ntheirs: ${JSON.stringify(theirs).slice(0, 400)}`;
  let at = 0;
  while (ours.text[at] === theirs.text[at]) at++;
  const near = (text) => JSON.stringify(text.slice(Math.max(0, at - 60), at + 60));
  return `at ${at}\nours: ${near(ours.text)}\ntheirs: ${near(theirs.text)}`;
}

test('there are at least forty templates, twelve conversations, tools and none', () => {
  assert.ok(templates.length >= 40, String(templates.length));
  assert.ok(Object.keys(conversations).length >= 12);
  assert.ok(Object.values(variants).some((v) => v.tools) && Object.values(variants).some((v) => !v.tools));
});

describe('every template over every conversation', () => {
  before(() => {
    renderTheirs();
    const jobs = cases.flatMap((c) => c.jobs.map((job) => [job, { template: c.template.text, vars: job.vars, trusted: Object.keys(c.template.tokens), roles: [], now }]));
    render(jobs.map(([, job]) => job)).forEach((ours, i) => { jobs[i][0].ours = ours; });
  });
  for (const template of templates) {
    test(template.name, () => {
      const wrong = [];
      for (const { conversation, jobs } of cases.filter((c) => c.template === template)) {
        const different = jobs.find((job) => !same(job.ours, job.theirs)), python = listed(template.name, conversation);
        if (python && !different) wrong.push(`${conversation}: differences.json lists it, and nothing differs`);
        else if (python && digest(jobs.map((j) => j.ours)) !== python) wrong.push(`${conversation}: neither as the port nor as Python\n${shown(different)}`);
        else if (!python && different) wrong.push(`${conversation}, ${different.variant}: ${shown(different)}`);
      }
      assert.equal(wrong.length, 0, `${wrong.length} conversations differ:\n${wrong.slice(0, 5).join('\n')}`);
    });
  }
  test('what raise_exception says is what the client is told', () => {
    let told = 0;
    // Where the port sees other turns than Python, it may refuse for another reason.
    const others = Object.entries(differences).flatMap(([reason, list]) => (reason.startsWith('selectattr') ? Object.keys(list) : []));
    for (const { template, jobs } of cases.filter((c) => !others.includes(c.template.name))) {
      for (const { ours, theirs } of jobs) {
        if (!theirs.error || !ours.error || !template.text.includes(theirs.error)) continue;
        assert.ok(ours.error.includes(theirs.error), `${template.name}: ${ours.error} without ${theirs.error}`);
        told++;
      }
    }
    assert.ok(told > 100, String(told));
  });
  test('no listed difference is of a template or conversation that is gone', () => {
    for (const list of Object.values(differences)) {
      for (const [name, of] of Object.entries(list)) {
        for (const conversation of Object.keys(of)) assert.ok(cases.some((c) => c.template.name === name && c.conversation === conversation), `${name}, ${conversation}`);
      }
    }
  });
});

// 20 ms of processor time is the aim on a quiet machine; ten times that fails.
test('a conversation of 1,000 messages is rendered in little time', () => {
  const tries = 5, jobs = templates.flatMap((t) => Array.from({ length: tries }, () => ({ template: t.text, vars: variablesOf(t.tokens, thousand), trusted: Object.keys(t.tokens), roles: [], now })));
  const done = render(jobs), times = [];
  templates.forEach((t, i) => {
    const of = done.slice(i * tries, (i + 1) * tries);
    if (of[0].error) return; // a template that takes no system turn, or no conversation so long
    times.push([of.map((d) => d.us).sort((a, b) => a - b)[tries >> 1] / 1000, t.name]);
  });
  times.sort((a, b) => b[0] - a[0]);
  console.log(`1,000 messages, ${times.length} templates: median ${times[times.length >> 1][0].toFixed(2)} ms, slowest ${times.slice(0, 5).map(([ms, name]) => `${name} ${ms.toFixed(2)} ms`).join(', ')}`);
  assert.ok(times.length > templates.length * 0.7, `${times.length} render it`);
  assert.ok(times[0][0] < 200, `${times[0][1]}: ${times[0][0]} ms`);
});
