"""Renders chat templates with Python's jinja2, set up as transformers does: a JSON object with
"template" and "vars" per line of stdin, {"text": ...} or {"error": ...} per line of stdout."""
import datetime
import json
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

    def said(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


now = datetime.datetime.fromtimestamp(int(sys.argv[1]))
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals.update(raise_exception=raise_exception, strftime_now=lambda form: now.strftime(form))
parsed = {}
for line in sys.stdin:
    job = json.loads(line)
    text = job["template"]
    try:
        if text not in parsed:
            parsed[text] = env.from_string(text)
        print(json.dumps({"text": parsed[text].render(**job["vars"])}))
    except Exception as why:
        print(json.dumps({"error": f"{type(why).__name__}: {why}"}))
